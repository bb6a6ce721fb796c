//! Owns the ways to one correspondent: which there are, which of them a packet takes, and what happens when none answers.
//!
//! ```text
//!   view ── paths ──> fresh ── PONG ──> live ── no answer, notice ──> failed ── PONG ──> live
//! ```
//! Packets of a flow stay on one way. If it fails they take the next live one; if there is none the trees, all together
//! and then each alone; and the ways are looked for anew.
use super::feedback::Echo;
use super::gauge::Gauge;
use super::view::{Neighbours, Path, View};
use crate::audit::locate::{Blame, Search, Step};
use crate::config::{H_MAX, MTU_MIN};
use crate::id::{Port, Sid};
use crate::time::{Duration, Instant};
use crate::wire::body::sealed::{ROUTE_BACK, ROUTE_TREES};
use crate::wire::data::split_port;
use crate::wire::{Record, Reply};
use bytes::Bytes;

/// What ways need from their node, for the length of one call.
pub struct Env<'a> {
    /// The node's peers.
    pub neighbours: &'a Neighbours,
    /// Changes whenever these do.
    pub epoch: u64,
    /// What is suspected of links.
    pub blame: &'a mut Blame,
    /// Trees that the other end's place has coordinates in.
    pub trees: u8,
    /// Now.
    pub now: Instant,
}

/// All ways to one node.
#[derive(Debug)]
pub struct Routes {
    me: Sid,
    there: Sid,
    view: Option<Box<View>>,
    ways: Vec<Way>,
    /// Number 0.
    trees: Gauge,
    flows: [Flow; FLOWS],
    asks: Vec<Ask>,
    /// Which trees packets use that no way takes: all, or one alone.
    rung: u8,
    next_id: u8,
    /// Failures on the way to this node only.
    blame: Blame,
    epoch: u64,
    rebuild: bool,
    /// Packets of the application sent.
    used: u64,
    used_at: Instant,
    refreshed_at: Option<Instant>,
    search_after: Instant,
    searches: u32,
    moved_at: Instant,
    /// Where did the latest failure happen?
    search: Option<Box<Search>>,
    todo: Vec<Todo>,
}

#[derive(Debug)]
struct Way {
    id: u8,
    path: Path,
    /// Largest payload it is known to take.
    mtu: usize,
    state: State,
    gauge: Gauge,
    asked_at: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Made from what hops said; nothing has come back by it yet.
    Fresh,
    Live,
    /// Did not answer so many times; asked again at that time.
    Failed {
        times: u32,
        again: Instant,
    },
}

#[derive(Clone, Copy, Debug, Default)]
struct Flow {
    way: u8,
    known: bool,
}

/// A question under way.
#[derive(Debug)]
struct Ask {
    token: [u8; 8],
    way: u8,
    sent_at: Instant,
    sent_then: u32,
}

/// What a packet takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pick {
    /// A way: its number and ports.
    Way(u8, Bytes),
    /// Trees, one bit each.
    Trees(u8),
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Todo {
    /// Send a packet along these ports that ends at a hop, and tell [`Routes::on_probe`] its tail.
    Probe(Bytes),
    /// Ask by that way (0: by the trees) whether it works.
    Ask(u8),
    /// Send a packet by these trees whose hops write themselves down.
    Record(u8),
    /// Streams go another way than before.
    Moved,
    /// What the ways take has changed.
    Mtu,
}

/// A way, for people to read.
#[derive(Clone, Debug, PartialEq)]
pub struct RouteInfo {
    /// Its number in sealed headers; 0 is the trees.
    pub id: u8,
    /// Who is on it, the destination last; empty if unknown.
    pub hops: Vec<Sid>,
    /// How many hops it has; `None` by the trees.
    pub length: Option<usize>,
    /// Milliseconds one way, as announced.
    pub cost: u32,
    /// Largest payload.
    pub mtu: usize,
    /// Smoothed round-trip time, once measured.
    pub rtt: Option<Duration>,
    /// Share of packets that do not arrive.
    pub loss: f32,
    /// Highest queue level met lately, 0..=255.
    pub load: u8,
    /// `fresh`, `live`, `failed` or `trees`.
    pub state: &'static str,
    /// Packets of streams take it now.
    pub used: bool,
    /// Packets sent by it, low 32 bits.
    pub sent: u32,
}

impl Routes {
    /// None known.
    pub fn new(me: Sid, there: Sid) -> Self {
        Self {
            me,
            there,
            view: None,
            ways: Vec::new(),
            trees: Gauge::default(),
            flows: [Flow::default(); FLOWS],
            asks: Vec::new(),
            rung: 0,
            next_id: 0,
            blame: Blame::default(),
            epoch: 0,
            rebuild: false,
            used: 0,
            used_at: Instant::ZERO,
            refreshed_at: None,
            search_after: Instant::ZERO,
            searches: 0,
            moved_at: Instant::ZERO,
            search: None,
            todo: Vec::new(),
        }
    }

    // What is learned.

    /// A packet that is proved to come from the other end came by this way (ports that lead back).
    pub fn on_way(&mut self, way: &[u8], rtt: Option<Duration>, now: Instant) {
        // It is worth something only while nothing better is known.
        if self.ways.iter().any(|known| known.state == State::Live || known.path.ports == way)
            || way.is_empty()
        {
            return;
        }
        let path = Path { ports: Bytes::copy_from_slice(way), nodes: Vec::new(), cost: 0, frame_max: 0 };
        let mut known = self.make(path, now);
        known.state = State::Live;
        if let Some(rtt) = rtt {
            known.gauge.begin(rtt);
        }
        self.ways.push(known);
        self.limit();
    }

    /// A reply to a record of ours came by this way.
    pub fn on_reply(&mut self, way: &[u8], reply: &Reply<'_>, now: Instant) {
        let view = self.view.get_or_insert_with(|| Box::new(View::new(self.me, self.there)));
        self.rebuild |= view.learn_reply(way, reply, now);
    }

    /// A record of theirs came by this way.
    pub fn on_record(&mut self, way: &[u8], record: &Record<'_>, now: Instant) {
        let view = self.view.get_or_insert_with(|| Box::new(View::new(self.me, self.there)));
        self.rebuild |= view.learn_record(way, record, now);
    }

    /// The other end says what came by a way.
    pub fn on_echo(&mut self, echo: &Echo, env: &mut Env<'_>) {
        let Some(gauge) = self.gauge(echo.route) else { return };
        if gauge.on_echo(echo, env.now) {
            self.works(echo.route, env);
        }
    }

    /// A question was answered. Gives the round trip.
    pub fn on_pong(&mut self, token: &[u8; 8], env: &mut Env<'_>) -> Option<Duration> {
        let at = self.asks.iter().position(|ask| ask.token == *token)?;
        let ask = self.asks.swap_remove(at);
        let rtt = env.now - ask.sent_at;
        self.gauge(ask.way)?.on_pong(rtt, ask.sent_then, env.now);
        self.works(ask.way, env);
        self.review(env.now);
        Some(rtt)
    }

    /// A packet of ours, named by its tail, did not arrive: it is believed of the latest packets of each way. True if it was
    /// one that went by a way (not by the trees).
    pub fn on_lost(&mut self, tail: &[u8; 8], env: &mut Env<'_>) -> bool {
        let Some(at) = self.ways.iter().position(|way| way.gauge.tails().holds(tail)) else { return false };
        let id = self.ways[at].id;
        self.fail(id, false, env);
        true
    }

    /// A packet of ours was too large for its way; `payload` would have passed. True if it was one of ours.
    pub fn on_too_large(&mut self, tail: &[u8; 8], payload: usize) -> bool {
        let Some(way) = self.ways.iter_mut().find(|way| way.gauge.tails().holds(tail)) else {
            return self.trees.tails().holds(tail);
        };
        if payload < way.mtu {
            way.mtu = payload.max(MTU_MIN);
            self.todo.push(Todo::Mtu);
        }
        true
    }

    /// Did a packet with that tail go by one of the ways, or by the trees?
    pub fn sent_recently(&self, tail: &[u8; 8]) -> bool {
        self.trees.tails().holds(tail) || self.ways.iter().any(|way| way.gauge.tails().holds(tail))
    }

    /// The other end has moved: ways to where it was may have ended. They are asked at once if packets go by them, and
    /// otherwise before any does; others are looked for with the next packet.
    pub fn on_moved(&mut self, now: Instant) {
        self.refreshed_at = None;
        if now < self.is_active_until() {
            let live = self.ways.iter().filter(|way| way.state == State::Live && way.path.nodes.len() != 1);
            self.todo.extend(live.map(|way| Todo::Ask(way.id)));
        } else {
            self.doubt();
        }
    }

    /// What was live is no longer known to be.
    fn doubt(&mut self) {
        for way in self.ways.iter_mut().filter(|way| way.state == State::Live && way.path.nodes.len() != 1) {
            way.state = State::Fresh;
        }
    }

    /// After a long silence nothing is known of the ways: the best are asked while the first packets go by the trees.
    fn wake(&mut self, now: Instant) {
        if now - self.used_at <= STALE || self.ways.is_empty() {
            return;
        }
        self.used_at = now;
        self.doubt();
        let mut fresh: Vec<&Way> = self.ways.iter().filter(|way| way.state == State::Fresh).collect();
        fresh.sort_by(|a, b| a.score().total_cmp(&b.score()));
        self.todo.extend(fresh.iter().take(WOKEN).map(|way| Todo::Ask(way.id)));
        if self.refreshed_at.is_some_and(|at| at + REFRESH <= now) {
            self.refreshed_at = None;
        }
    }

    /// Is that the tail of a probe under way?
    pub fn is_probe(&self, tail: &[u8; 8]) -> bool {
        self.search.as_ref().is_some_and(|search| search.holds(tail))
    }

    /// A hop has answered a probe.
    pub fn on_probed(&mut self, env: &mut Env<'_>) {
        if let Some(search) = &mut self.search {
            search.on_answer(env.blame, env.now);
            self.probe(env);
        }
    }

    /// A probe goes out.
    pub fn on_probe(&mut self, tail: [u8; 8], now: Instant) {
        if let Some(search) = &mut self.search {
            search.on_sent(tail, now);
        }
    }

    fn probe(&mut self, env: &mut Env<'_>) {
        let Some(search) = &mut self.search else { return };
        match search.step(env.blame, env.now) {
            Step::Wait => {}
            Step::Probe(ports) => self.todo.push(Todo::Probe(ports)),
            Step::Found(from, to) => {
                self.search = None;
                env.blame.convict(from, to, env.now);
                self.blame.convict(from, to, env.now);
                self.rebuild |= self.view.is_some();
            }
        }
    }

    // What is sent.

    /// The way of a packet of that flow.
    pub fn pick(&mut self, flow: usize, len: usize, env: &mut Env<'_>) -> Pick {
        self.sync(env);
        self.wake(env.now);
        let flow = flow % FLOWS;
        let Flow { way: current, known } = self.flows[flow];
        if current != 0
            && let Some(way) = self.ways.iter().find(|way| way.id == current)
            && way.state == State::Live
            && way.mtu >= len
        {
            return Pick::Way(way.id, way.path.ports.clone());
        }
        let best = self.best(len);
        let next = best.map_or(0, |at| self.ways[at].id);
        // A packet that is too large for its flow's way does not move the flow.
        let outsized = self.ways.iter().any(|way| way.id == current && way.state == State::Live);
        if !outsized {
            self.flows[flow] = Flow { way: next, known: true };
            if known && flow == 0 && current != next {
                self.todo.push(Todo::Moved);
            }
        }
        match best {
            Some(at) => Pick::Way(next, self.ways[at].path.ports.clone()),
            None => Pick::Trees(self.mask(env.trees)),
        }
    }

    /// The number of packets that went by a way before.
    pub fn sent(&self, id: u8) -> u32 {
        if id == 0 { self.trees.sent() } else { self.way(id).map_or(0, |way| way.gauge.sent()) }
    }

    /// A packet goes out by that way.
    pub fn on_sent(&mut self, id: u8, tail: [u8; 8], asks: bool, now: Instant) {
        if asks {
            self.used += 1;
            self.used_at = now;
        }
        if let Some(gauge) = self.gauge(id) {
            gauge.on_sent(tail, asks, now);
        }
    }

    /// A question goes out by that way.
    pub fn on_ask(&mut self, token: [u8; 8], id: u8, now: Instant) {
        let sent_then = self.sent(id);
        if self.asks.len() >= ASKS_MAX {
            self.asks.remove(0);
        }
        self.asks.push(Ask { token, way: id, sent_at: now, sent_then });
        if let Some(way) = self.ways.iter_mut().find(|way| way.id == id) {
            way.asked_at = now;
        }
    }

    /// The ports of a way.
    pub fn ports(&self, id: u8) -> Option<Bytes> {
        self.way(id).map(|way| way.path.ports.clone())
    }

    /// The trees for packets that no way takes.
    pub fn mask(&self, trees: u8) -> u8 {
        match self.rung {
            0 => u8::MAX,
            rung => {
                let mut left = trees;
                for _ in 1..rung {
                    left &= left.wrapping_sub(1);
                }
                if left == 0 { u8::MAX } else { left & left.wrapping_neg() }
            }
        }
    }

    /// Largest payloads that all live ways take, and the broadest of them; `None` without any.
    pub fn mtus(&self) -> Option<(usize, usize)> {
        let live = || self.ways.iter().filter(|way| way.state == State::Live).map(|way| way.mtu);
        Some((live().min()?, live().max()?))
    }

    /// Do packets of streams take a live way now?
    pub fn rides(&self) -> bool {
        self.way(self.flows[0].way).is_some_and(|way| way.state == State::Live)
    }

    /// Smoothed round trip of the way that streams take, if measured.
    pub fn rtt(&self) -> Option<Duration> {
        match self.flows[0].way {
            0 => self.trees.srtt(),
            id => self.way(id)?.gauge.srtt(),
        }
    }

    // What time brings.

    /// Is there something to do?
    pub fn has_todo(&self) -> bool {
        !self.todo.is_empty()
    }

    /// The next thing to do. O(1).
    pub fn poll(&mut self) -> Option<Todo> {
        self.todo.pop()
    }

    /// When [`Self::handle_timeout`] is wanted.
    pub fn deadline(&self) -> Option<Instant> {
        let guess = self.guess();
        let asked = |id: u8| self.asks.iter().any(|ask| ask.way == id);
        let due = |id: u8, gauge: &Gauge| {
            let ask = if asked(id) { None } else { gauge.ask_at(guess) };
            [ask, gauge.fail_at(guess)].into_iter().flatten().min()
        };
        let active = self.is_active_until();
        let ways = self.ways.iter().flat_map(|way| {
            let again = match way.state {
                State::Failed { again, .. } => Some(again),
                State::Live if self.carries(way.id) => Some(way.asked_at + ASK_USED),
                State::Live => Some(way.asked_at + ASK_SPARE),
                State::Fresh => None,
            };
            [due(way.id, &way.gauge), again.filter(|&at| at < active)]
        });
        let asks = self.asks.iter().map(|ask| Some(ask.sent_at + self.ask_patience(ask)));
        let refresh = self.refreshed_at.map(|at| at + REFRESH).filter(|&at| at < active);
        let now_if = |wanted: bool| wanted.then_some(Instant::ZERO);
        ways.chain(asks)
            .chain([self.search.as_ref().map(|search| search.deadline())])
            .chain([due(0, &self.trees), refresh, now_if(self.rebuild || !self.todo.is_empty())])
            .flatten()
            .min()
    }

    /// Does all that is due.
    pub fn handle_timeout(&mut self, env: &mut Env<'_>) {
        self.sync(env);
        if std::mem::take(&mut self.rebuild) {
            self.build(env);
        }
        self.on_asks_late(env);
        if self.search.as_ref().is_some_and(|search| search.deadline() <= env.now) {
            self.probe(env);
        }
        let (now, guess) = (env.now, self.guess());
        let ids: Vec<u8> = std::iter::once(0).chain(self.ways.iter().map(|way| way.id)).collect();
        for id in ids {
            let Some(gauge) = self.gauge(id) else { continue };
            let (ask, fail) = (gauge.ask_at(guess), gauge.fail_at(guess));
            if fail.is_some_and(|at| at <= now) {
                self.fail(id, true, env);
            } else if ask.is_some_and(|at| at <= now) && !self.asks.iter().any(|ask| ask.way == id) {
                self.todo.push(Todo::Ask(id));
            }
        }
        if now < self.is_active_until() {
            for at in 0..self.ways.len() {
                let (id, asked_at) = (self.ways[at].id, self.ways[at].asked_at);
                let due = match self.ways[at].state {
                    State::Failed { again, .. } => again <= now,
                    State::Live if self.carries(id) => asked_at + ASK_USED <= now,
                    State::Live => asked_at + ASK_SPARE <= now,
                    State::Fresh => false,
                };
                if due && !self.asks.iter().any(|ask| ask.way == id) {
                    if let State::Failed { times, .. } = self.ways[at].state {
                        self.ways[at].state = State::Failed { times, again: now + backoff(times) };
                    }
                    self.todo.push(Todo::Ask(id));
                }
            }
            if self.refreshed_at.is_some_and(|at| at + REFRESH <= now) {
                self.search(env);
            }
        }
    }

    /// The application has sent a packet: from the second one on it is worth while to look for ways.
    pub fn wish(&mut self, env: &mut Env<'_>) {
        if self.used >= 2 && self.refreshed_at.is_none() && !env.neighbours.contains_key(&self.there) {
            self.search(env);
        }
    }

    /// Ways as people want to see them, the trees first.
    pub fn infos(&self) -> Vec<RouteInfo> {
        let info = |id, path: Option<&Path>, mtu, state, gauge: &Gauge| RouteInfo {
            id,
            hops: path.map(|path| path.nodes.clone()).unwrap_or_default(),
            length: path.map(|path| count(&path.ports)),
            cost: path.map_or(0, |path| path.cost),
            mtu,
            rtt: gauge.srtt(),
            loss: gauge.loss(),
            load: gauge.load(),
            state,
            used: self.flows[0].way == id,
            sent: gauge.sent(),
        };
        let trees = info(0, None, MTU_MIN, "trees", &self.trees);
        let ways = self.ways.iter().map(|way| {
            let state = match way.state {
                State::Fresh => "fresh",
                State::Live => "live",
                State::Failed { .. } => "failed",
            };
            info(way.id, Some(&way.path), way.mtu, state, &way.gauge)
        });
        std::iter::once(trees).chain(ways).collect()
    }

    // Inside.

    fn way(&self, id: u8) -> Option<&Way> {
        self.ways.iter().find(|way| way.id == id)
    }

    fn gauge(&mut self, id: u8) -> Option<&mut Gauge> {
        match id {
            0 => Some(&mut self.trees),
            id => self.ways.iter_mut().find(|way| way.id == id).map(|way| &mut way.gauge),
        }
    }

    fn carries(&self, id: u8) -> bool {
        self.flows.iter().any(|flow| flow.known && flow.way == id)
    }

    /// Until when ways are watched: while packets go.
    fn is_active_until(&self) -> Instant {
        self.used_at + ACTIVE
    }

    /// The round trip of a way that was not measured: that of another.
    fn guess(&self) -> Duration {
        let known = self.ways.iter().filter_map(|way| way.gauge.srtt()).max();
        known.or_else(|| self.trees.srtt()).unwrap_or(RTT_GUESS)
    }

    fn ask_patience(&self, ask: &Ask) -> Duration {
        let guess = self.guess();
        match self.way(ask.way) {
            None => self.trees.patience(guess),
            // Nothing was measured of it but what its hops said.
            Some(way) if way.gauge.srtt().is_none() => {
                way.gauge.patience(guess.max(Duration::from_millis(2 * u64::from(way.path.cost))))
            }
            Some(way) => way.gauge.patience(guess),
        }
    }

    /// Follows changes of the node's links: what began with one that is gone is over.
    fn sync(&mut self, env: &Env<'_>) {
        if self.epoch == env.epoch {
            return;
        }
        self.epoch = env.epoch;
        let alive = |way: &Way| {
            let first = split_port(&way.path.ports).ok().flatten().map(|(port, _)| port);
            env.neighbours.values().any(|&(port, _)| Some(port) == first)
        };
        self.ways.retain(alive);
        if env.neighbours.contains_key(&self.there) || self.view.is_some() {
            self.build(env);
        }
    }

    fn make(&mut self, path: Path, now: Instant) -> Way {
        loop {
            self.next_id = self.next_id.wrapping_add(1);
            if !matches!(self.next_id, ROUTE_TREES | ROUTE_BACK) && self.way(self.next_id).is_none() {
                break;
            }
        }
        let around = H_MAX.max(AROUND + 3 * count(&path.ports));
        let mtu = path.frame_max.saturating_sub(around).max(MTU_MIN);
        Way { id: self.next_id, path, mtu, state: State::Fresh, gauge: Gauge::default(), asked_at: now }
    }

    /// Makes ways from what is known now. Those that are still good, or carry something, stay.
    fn build(&mut self, env: &Env<'_>) {
        let now = env.now;
        let mtu = self.mtus();
        let paths = match env.neighbours.get(&self.there) {
            Some(&(port, span)) => {
                let mut ports = Vec::with_capacity(3);
                crate::wire::Writer::put_port(&mut ports, port);
                let nodes = vec![self.there];
                vec![Path { ports: ports.into(), nodes, cost: span.cost.into(), frame_max: span.frame_max() }]
            }
            None => {
                let Some(view) = &self.view else { return };
                let dear = |from: &Sid, to: &Sid, _: u8| {
                    Blame::dear(env.blame.of(from, to, now).max(self.blame.of(from, to, now)))
                };
                view.paths(env.neighbours, WAYS_WANTED, dear, now)
            }
        };
        let mut wanted = Vec::with_capacity(paths.len());
        for path in paths {
            if let Some(way) = self.ways.iter_mut().find(|way| way.path.ports == path.ports) {
                let around = H_MAX.max(AROUND + 3 * count(&path.ports));
                let size = path.frame_max.saturating_sub(around).max(MTU_MIN);
                if way.path.nodes.is_empty() {
                    way.mtu = size;
                }
                way.path = path;
                wanted.push(way.id);
                continue;
            }
            let direct = path.nodes.len() == 1;
            let mut way = self.make(path, now);
            if direct {
                // The link's own pings watch over it.
                way.state = State::Live;
                way.gauge.begin(Duration::from_millis(2 * u64::from(way.path.cost)));
            } else {
                self.todo.push(Todo::Ask(way.id));
            }
            wanted.push(way.id);
            self.ways.push(way);
        }
        let carrying: Vec<u8> = self.flows.iter().filter(|flow| flow.known).map(|flow| flow.way).collect();
        let fresh = self.ways.iter().any(|way| wanted.contains(&way.id) && way.state == State::Live);
        self.ways.retain(|way| {
            // What carries something does so until there is something better.
            wanted.contains(&way.id) || way.state == State::Live && (carrying.contains(&way.id) || !fresh)
        });
        self.limit();
        self.review(now);
        if self.mtus() != mtu {
            self.todo.push(Todo::Mtu);
        }
    }

    /// At most [`WAYS_MAX`]: the worst goes.
    fn limit(&mut self) {
        while self.ways.len() > WAYS_MAX {
            let rank = |way: &Way| (way.state == State::Live, self.carries(way.id), way.id);
            let Some(worst) = (0..self.ways.len()).min_by_key(|&at| rank(&self.ways[at])) else { return };
            self.ways.swap_remove(worst);
        }
    }

    /// The best live way for a packet of that length; if there is none and the trees do not answer, one not tried yet.
    fn best(&self, len: usize) -> Option<usize> {
        let of = |state: State| {
            let fitting = (0..self.ways.len()).filter(move |&at| {
                self.ways[at].state == state && (self.ways[at].mtu >= len || len <= MTU_MIN)
            });
            fitting.min_by(|&a, &b| self.ways[a].score().total_cmp(&self.ways[b].score()))
        };
        let live = of(State::Live).map(|best| {
            // A new flow keeps out of what is crowded.
            let lighter =
                (0..self.ways.len()).filter(|&at| self.ways[at].is_lighter_than(&self.ways[best], len));
            lighter.min_by(|&a, &b| self.ways[a].score().total_cmp(&self.ways[b].score())).unwrap_or(best)
        });
        live.or_else(|| if self.rung > 0 { of(State::Fresh) } else { None })
    }

    /// A sign of life came by that way.
    fn works(&mut self, id: u8, env: &mut Env<'_>) {
        let now = env.now;
        if id == 0 {
            return;
        }
        let mtu = self.mtus();
        let Some(way) = self.ways.iter_mut().find(|way| way.id == id) else { return };
        let was = std::mem::replace(&mut way.state, State::Live);
        if was != State::Live {
            let nodes = chain(self.me, &way.path.nodes);
            env.blame.answered(&nodes, now);
            self.blame.answered(&nodes, now);
            self.searches = 0;
            self.rung = 0;
            self.review(now);
            if self.mtus() != mtu {
                self.todo.push(Todo::Mtu);
            }
        }
    }

    /// Nothing comes back by that way.
    fn fail(&mut self, id: u8, silent: bool, env: &mut Env<'_>) {
        let now = env.now;
        self.asks.retain(|ask| ask.way != id);
        if id == 0 {
            self.trees.forgive();
            // All together, then each alone.
            self.rung = (self.rung + 1) % (1 + env.trees.count_ones().max(1) as u8);
            self.search(env);
            return;
        }
        let mtu = self.mtus();
        let Some(way) = self.ways.iter_mut().find(|way| way.id == id) else { return };
        way.gauge.forgive();
        let was = way.state;
        let times = if let State::Failed { times, .. } = was { times + 1 } else { 1 };
        way.state = State::Failed { times, again: now + backoff(times) };
        if silent && !way.path.nodes.is_empty() {
            let nodes = chain(self.me, &way.path.nodes);
            env.blame.failed(&nodes, now);
            self.blame.failed(&nodes, now);
            if self.search.is_none() && was != State::Fresh {
                let (ports, patience) = (way.path.ports.clone(), way.gauge.patience(RTT_GUESS));
                self.search = Search::new(nodes, &ports, patience).map(Box::new);
            }
        }
        let carried = self.carries(id);
        for flow in 0..FLOWS {
            if self.flows[flow].known && self.flows[flow].way == id {
                let next = self.best(0).map_or(0, |at| self.ways[at].id);
                self.flows[flow].way = next;
                if flow == 0 {
                    self.todo.push(Todo::Moved);
                }
            }
        }
        self.rebuild |= self.view.is_some();
        if carried {
            // The others are asked at once: one of them is needed now.
            let others =
                self.ways.iter().filter(|way| way.id != id && way.state != State::Live).map(|way| way.id);
            self.todo.extend(others.map(Todo::Ask).collect::<Vec<_>>());
            if !self.ways.iter().any(|way| way.state == State::Live) {
                self.search(env);
            }
        }
        if self.mtus() != mtu {
            self.todo.push(Todo::Mtu);
        }
    }

    fn on_asks_late(&mut self, env: &mut Env<'_>) {
        let now = env.now;
        let mut late = Vec::new();
        let patience: Vec<Duration> = self.asks.iter().map(|ask| self.ask_patience(ask)).collect();
        let mut at = 0;
        self.asks.retain(|ask| {
            let over = ask.sent_at + patience[at] <= now;
            at += 1;
            if over {
                late.push(ask.way);
            }
            !over
        });
        late.sort_unstable();
        late.dedup();
        for id in late.into_iter().filter(|&id| id != 0) {
            self.fail(id, true, env);
        }
    }

    /// Looks for ways: by all trees together, and by each alone.
    fn search(&mut self, env: &Env<'_>) {
        if env.now < self.search_after || env.neighbours.contains_key(&self.there) {
            return;
        }
        self.search_after = env.now + SEARCH_GAP * (1 << self.searches.min(4));
        self.searches += 1;
        self.refreshed_at = Some(env.now);
        self.todo.push(Todo::Record(u8::MAX));
        let mut left = env.trees;
        while left != 0 {
            self.todo.push(Todo::Record(left & left.wrapping_neg()));
            left &= left - 1;
        }
    }

    /// Moves flows: to a way that is better by a quarter; and one of them away from a crowded way to one that carries less
    /// than half, at most every [`MOVE_GAP`].
    fn review(&mut self, now: Instant) {
        for flow in 0..FLOWS {
            if !self.flows[flow].known {
                continue;
            }
            let id = self.flows[flow].way;
            let Some(best) = self.best(0) else { continue };
            let current = self.way(id).filter(|way| way.state == State::Live);
            let best = &self.ways[best];
            let (moves, crowded) = match current {
                None => (true, false),
                Some(way) if way.id == best.id => (false, false),
                Some(way) => {
                    let rested = now - self.moved_at >= MOVE_GAP;
                    let crowded = rested && best.is_lighter_than(way, 0);
                    // What has just been found is taken if it is better at all; later moves must be worth it.
                    let found = self.refreshed_at.is_some_and(|at| now - at <= FOUND);
                    let better = if found { BETTER_FOUND } else { BETTER };
                    (
                        crowded
                            || best.score() * better < way.score()
                                && best.gauge.load() <= way.gauge.load().max(LOAD_HIGH),
                        crowded,
                    )
                }
            };
            if moves {
                let id = best.id;
                self.flows[flow].way = id;
                if crowded {
                    self.moved_at = now;
                }
                if flow == 0 {
                    self.todo.push(Todo::Moved);
                }
            }
        }
    }
}

impl Way {
    /// Less is better: milliseconds there and back, dearer with loss; a little for each hop.
    fn score(&self) -> f32 {
        let announced = 2.0 * self.path.cost.max(1) as f32;
        let millis = self.gauge.srtt().map_or(announced, |srtt| srtt.as_secs_f32() * 1000.0);
        (millis + HOP_MILLIS * count(&self.path.ports) as f32) * (1.0 + LOSS_WEIGHT * self.gauge.loss())
    }

    /// Is it a way out of a crowded one?
    fn is_lighter_than(&self, crowded: &Self, len: usize) -> bool {
        self.state == State::Live
            && (self.mtu >= len || len <= MTU_MIN)
            && crowded.gauge.load() >= LOAD_HIGH
            && self.gauge.load() < crowded.gauge.load() / 2
            && self.score() < crowded.score() * DETOUR
    }
}

fn chain(me: Sid, nodes: &[Sid]) -> Vec<Sid> {
    std::iter::once(me).chain(nodes.iter().copied()).collect()
}

/// How many ports a list has.
fn count(mut ports: &[u8]) -> usize {
    let mut count = 0;
    while let Ok(Some((Port(_), rest))) = split_port(ports) {
        count += 1;
        ports = rest;
    }
    count
}

fn backoff(times: u32) -> Duration {
    FAILED_FIRST * (1 << (times - 1).min(6))
}

/// Flows of one session that are told apart: streams are one, packets of the TUN are spread over the rest.
pub const FLOWS: usize = 16;
/// Diverse paths that are kept ready.
const WAYS_WANTED: usize = 4;
/// Ways in all: those, and what they are replacing.
const WAYS_MAX: usize = 6;
/// Questions under way: one for each way and its fresh paths, and the records of two searches.
const ASKS_MAX: usize = 24;
/// Ways are looked for anew while they are used.
const REFRESH: Duration = Duration::from_secs(120);
/// No two searches within that time, and twice as long after each in vain, up to 16 times.
const SEARCH_GAP: Duration = Duration::from_secs(2);
/// A way that carries packets is measured so often.
const ASK_USED: Duration = Duration::from_secs(5);
/// One that is kept ready.
const ASK_SPARE: Duration = Duration::from_secs(20);
/// Nothing is measured without packets of the application for so long.
const ACTIVE: Duration = Duration::from_secs(10);
/// Ways that carried nothing for so long are not trusted: a node that moved tells only whom it talks to.
const STALE: Duration = Duration::from_secs(60);
/// So many of them are asked when packets go again.
const WOKEN: usize = 2;
/// A failed way is asked again after that, then after twice as long each time, up to 64 times.
const FAILED_FIRST: Duration = Duration::from_secs(1);
/// Before anything was measured.
const RTT_GUESS: Duration = Duration::from_millis(100);
/// A flow moves for a gain of a quarter.
const BETTER: f32 = 1.25;
/// Just after a search for less: it has to move once anyway.
const BETTER_FOUND: f32 = 1.05;
/// A search's results have come and are measured by then.
const FOUND: Duration = Duration::from_secs(3);
/// A crowded way: its queues are half full.
const LOAD_HIGH: u8 = 128;
/// A way round a crowd may take so many times as long.
const DETOUR: f32 = 3.0;
/// No flow leaves a crowded way within that time after another did.
const MOVE_GAP: Duration = Duration::from_secs(5);
/// Of two ways equally quick the one with fewer hops.
const HOP_MILLIS: f32 = 0.2;
const LOSS_WEIGHT: f32 = 4.0;
/// Header of DATA_S without its lists, seal and header of the session.
const AROUND: usize = 64;
