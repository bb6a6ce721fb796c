//! Owns the audit of one peer: does it pass on what it is given? Probes go through it to its other peers; whoever of these
//! is there and does not get them speaks against it.
use super::claim::Claims;
use super::{Ask, View, jitter};
use crate::crypto::{Entropy, random};
use crate::id::{NodeId, Port};
use crate::time::{Duration, Instant};
use crate::wire::codec::{Writer, port_bytes};
use crate::wire::control::PeerEntry;
use bytes::Bytes;
use std::collections::{BTreeSet, VecDeque};

/// The audit of one peer.
#[derive(Debug)]
pub(super) struct Watch {
    port: Port,
    since: Instant,
    /// The verdict.
    pub(super) suspect: bool,
    /// It tells of nobody else.
    pub(super) mute: bool,
    pub(super) claims: Claims,
    /// Its other peers, those in use first.
    witnesses: Vec<Witness>,
    turn: usize,
    /// Handshakes with witnesses that cost nothing.
    free_meets: usize,
    /// Bytes that may be spent.
    budget: f64,
    filled: Instant,
    /// Bytes sent to the peer, when that was looked at.
    sent: u64,
    /// Probes that are owed at once, after one that was not answered.
    hurried: u32,
    hurried_at: Option<Instant>,
    doubted_at: Option<Instant>,
    next: Instant,
    under_way: Vec<UnderWay>,
    outcomes: VecDeque<Outcome>,
    /// How bad it was: one for each bad round, halved every ten minutes.
    level: f64,
    level_at: Instant,
}

/// A peer of the peer, through whose session it is audited.
#[derive(Clone, Debug)]
struct Witness {
    node: NodeId,
    /// The audited peer's port for it.
    port: Port,
    /// Ports of its own: what seems to lie beyond.
    beyond: Vec<u8>,
    /// No new attempt to meet it before.
    meet_after: Instant,
    meets: u32,
}

/// A probe whose answer is not due yet, or about whose receiver something is asked elsewhere.
#[derive(Debug)]
struct UnderWay {
    token: [u8; 8],
    to: NodeId,
    sent_at: Instant,
    due: Instant,
    checking: bool,
}

#[derive(Clone, Copy, Debug)]
struct Outcome {
    by: NodeId,
    answered: bool,
    /// The witness was heard by another way after it did not get the probe.
    sure: bool,
}

impl Watch {
    pub(super) fn new(port: Port, first: Instant, now: Instant) -> Self {
        Self {
            port,
            since: now,
            suspect: false,
            mute: false,
            claims: Claims::default(),
            witnesses: Vec::new(),
            turn: 0,
            free_meets: WITNESSES_WANTED,
            budget: BUDGET_FIRST,
            filled: now,
            sent: 0,
            hurried: 0,
            hurried_at: None,
            doubted_at: None,
            next: first,
            under_way: Vec::new(),
            outcomes: VecDeque::new(),
            level: 0.0,
            level_at: now,
        }
    }

    /// The peer has told who its other peers are.
    pub(super) fn on_told(&mut self, told: &[PeerEntry]) {
        let here = |witness: &Witness| told.iter().any(|e| e.node == witness.node && e.port == witness.port);
        self.witnesses.retain(here);
        let witnesses = &self.witnesses;
        self.under_way.retain(|probe| witnesses.iter().any(|witness| witness.node == probe.to));
        for entry in told {
            if !self.witnesses.iter().any(|witness| witness.node == entry.node) {
                self.witnesses.push(Witness {
                    node: entry.node,
                    port: entry.port,
                    beyond: Vec::new(),
                    meet_after: Instant::ZERO,
                    meets: 0,
                });
            }
        }
    }

    pub(super) fn on_answer(&mut self, token: &[u8; 8], from: &NodeId, beyond: &[u8], now: Instant) -> bool {
        if let Some(witness) = self.witnesses.iter_mut().find(|witness| witness.node == *from) {
            witness.beyond = beyond.iter().copied().take(BEYOND_BYTES_MAX).collect();
        }
        if self.claims.on_answer(token, from, now) {
            // What it has found is told with the next timeout.
            self.next = self.next.min(now);
            return true;
        }
        let answered = |probe: &UnderWay| probe.token == *token && probe.to == *from;
        let Some(at) = self.under_way.iter().position(answered) else { return false };
        self.under_way.swap_remove(at);
        self.claims.on_heard(from, now);
        self.judge(Outcome { by: *from, answered: true, sure: true }, now);
        true
    }

    /// Something speaks against the peer: the next probes go out at once.
    pub(super) fn hurry(&mut self, now: Instant) {
        if self.hurried == 0 && self.hurried_at.is_none_or(|last| now - last >= HURRY_REST) {
            self.hurried = HURRIED;
            self.hurried_at = Some(now);
            self.next = self.next.min(now + HURRY);
        }
    }

    /// A packet given to the peer went unanswered, as its sender says: one probe through each witness. A miss brings more.
    pub(super) fn doubt(&mut self, now: Instant) {
        let rested = self.doubted_at.is_none_or(|last| now - last >= HURRY_REST);
        if rested && self.hurried == 0 && !self.suspect {
            self.hurried = WITNESSES_WANTED as u32;
            self.doubted_at = Some(now);
            self.next = self.next.min(now + HURRY);
        }
    }

    /// A place of the peer matters now.
    pub(super) fn look(&mut self, now: Instant) {
        self.next = self.next.min(now);
    }

    pub(super) fn deadline(&self) -> Instant {
        let due = self.under_way.iter().map(|probe| probe.due);
        let released = self.suspect.then(|| self.level_at + released_after(self.level));
        due.chain(released).chain(self.claims.deadline()).fold(self.next, Instant::min)
    }

    /// Does what is due.
    pub(super) fn handle_timeout(
        &mut self,
        view: &dyn View,
        entropy: &mut dyn Entropy,
        now: Instant,
        asks: &mut VecDeque<Ask>,
    ) {
        self.fill(view, now);
        self.conclude(view, asks, now);
        self.claims.want(&view.claims(self.port), now);
        self.prove(view, entropy, now, asks);
        if self.suspect && now >= self.level_at + released_after(self.level) {
            self.suspect = false;
            (self.level, self.level_at) = (RELEASED, now);
        }
        self.mute = self.is_mute(now);
        if self.next <= now {
            let spent = self.probe(view, entropy, now, asks);
            let wait = if self.hurried > 0 {
                self.hurried -= 1;
                HURRY
            } else if !spent {
                EVERY_LEAST
            } else {
                let short = (PROBE_BYTES - self.budget).max(0.0);
                EVERY_LEAST.max(Duration::from_secs_f64(short / BYTES_PER_SECOND)).min(EVERY_MOST)
            };
            self.next = now + wait + jitter(wait / 4, entropy);
        }
    }

    /// A peer that tells of nobody leads nowhere: nothing is sent through it.
    fn is_mute(&self, now: Instant) -> bool {
        self.witnesses.is_empty() && now - self.since >= MUTE_AFTER
    }

    fn fill(&mut self, view: &dyn View, now: Instant) {
        let sent = view.sent(self.port);
        let through = sent.saturating_sub(self.sent) as f64 * SHARE;
        // Everybody looks for everybody at the start; the first probes are for that.
        let through = if now - self.since < START { 0.0 } else { through };
        self.sent = sent;
        let idle = (now - self.filled).as_secs_f64() * BYTES_PER_SECOND;
        self.filled = now;
        self.budget = (self.budget + idle + through).min(BUDGET_MAX);
    }

    /// Looks at probes whose answers are due.
    fn conclude(&mut self, view: &dyn View, asks: &mut VecDeque<Ask>, now: Instant) {
        let (due, waiting) =
            std::mem::take(&mut self.under_way).into_iter().partition(|probe| probe.due <= now);
        self.under_way = waiting;
        let due: Vec<UnderWay> = due;
        for mut probe in due {
            let heard = view.session(&probe.to);
            let sure = heard.is_some_and(|heard| heard > probe.sent_at);
            if !sure && !probe.checking && heard.is_some() {
                // Is it there at all?
                asks.push_back(Ask::Check { to: probe.to, avoid: self.port });
                probe.checking = true;
                probe.due = now + CHECK_WAIT;
                self.under_way.push(probe);
                self.hurry(now);
                continue;
            }
            let likely = heard.is_some_and(|heard| probe.sent_at - heard <= THERE);
            if sure || likely {
                self.judge(Outcome { by: probe.to, answered: false, sure }, now);
                self.hurry(now);
            } else if let Some(witness) = self.witnesses.iter_mut().find(|witness| witness.node == probe.to) {
                // It has forgotten us, or is gone: met anew before it is asked again.
                (witness.meets, witness.meet_after) = (witness.meets.max(1), now);
                witness.beyond.clear();
            }
        }
    }

    fn judge(&mut self, outcome: Outcome, now: Instant) {
        self.outcomes.push_back(outcome);
        if self.outcomes.len() < ROUND {
            return;
        }
        while self.outcomes.len() > ROUNDS {
            self.outcomes.pop_front();
        }
        let missed =
            |latest: usize| self.outcomes.iter().rev().take(latest).filter(|outcome| !outcome.answered);
        let missed = if missed(ROUND).count() * 2 > ROUND {
            missed(ROUND)
        } else if missed(ROUNDS).count() >= MISSED_MOST {
            missed(ROUNDS)
        } else {
            return;
        };
        let by: BTreeSet<NodeId> = missed.clone().map(|outcome| outcome.by).collect();
        let all_sure = missed.clone().all(|outcome| outcome.sure);
        if by.len() >= WITNESSES_LEAST || all_sure && by.len() >= self.witnesses.len().min(WITNESSES_SURE) {
            self.condemn(now);
        }
    }

    fn condemn(&mut self, now: Instant) {
        let halved = 0.5f64.powf((now - self.level_at).as_secs_f64() / HALF_LIFE.as_secs_f64());
        self.level = (self.level * halved + 1.0).min(LEVEL_MAX);
        self.level_at = now;
        self.suspect = true;
        self.outcomes.clear();
    }

    /// Asks a claimed parent through the peer.
    fn prove(&mut self, view: &dyn View, entropy: &mut dyn Entropy, now: Instant, asks: &mut VecDeque<Ask>) {
        while let Some(claim) = self.claims.due(now) {
            let parent = claim.parent;
            if let Some((_, due)) = claim.asked
                && due > now
            {
                claim.next = due;
                continue;
            }
            let missed = claim.asked.is_some();
            let met = std::mem::take(&mut claim.met);
            let void = claim.is_void();
            let Some(at) = self.witnesses.iter().position(|witness| witness.node == parent) else {
                // It has not said yet, or it cannot.
                self.claims.on_miss(&parent, now + TELLING);
                continue;
            };
            let stranger = view.session(&parent).is_none();
            if missed || stranger || void && !met {
                if missed || met {
                    self.claims.on_miss(&parent, now);
                    if void {
                        // Later.
                        continue;
                    }
                }
                // A parent that has forgotten the session answers to a new one.
                self.claims.on_meet(&parent, now + MEET_WAIT);
                self.meet(at, true, now, asks);
                continue;
            }
            let token = random(entropy);
            claim.asked = Some((token, now + ANSWER_WAIT));
            claim.next = now + ANSWER_WAIT;
            let ports = self.ports(at, entropy);
            asks.push_back(Ask::Probe { to: parent, ports, token, pad: 0 });
        }
    }

    /// The next probe, or what has to come before it. False: there was nothing to do.
    fn probe(
        &mut self,
        view: &dyn View,
        entropy: &mut dyn Entropy,
        now: Instant,
        asks: &mut VecDeque<Ask>,
    ) -> bool {
        // Who is talked to already costs no handshake.
        let fresh = |node: &NodeId| view.session(node).is_some_and(|heard| heard + SESSION_FRESH > now);
        self.witnesses.sort_by_key(|witness| !fresh(&witness.node));
        let known = self.witnesses.iter().filter(|witness| fresh(&witness.node)).count();
        if known < WITNESSES_WANTED.min(self.witnesses.len())
            && (self.hurried > 0 || self.free_meets > 0 || self.budget >= MEET_BYTES)
            && let Some(at) = (known..self.witnesses.len()).find(|&at| self.witnesses[at].meet_after <= now)
        {
            self.meet(at, self.witnesses[at].meets < MEETS_THROUGH, now, asks);
            if self.hurried == 0 {
                // The first few are on the house, later ones are paid for like probes.
                match self.free_meets.checked_sub(1) {
                    Some(left) => self.free_meets = left,
                    None => self.budget -= MEET_BYTES,
                }
                self.hurried = 1;
            }
            return true;
        }
        if known == 0 || self.hurried == 0 && self.budget < PROBE_BYTES {
            return known != 0;
        }
        let at = self.turn % known.min(WITNESSES_WANTED);
        self.turn += 1;
        let (to, token) = (self.witnesses[at].node, random(entropy));
        // As long as what passes, as far as that can be paid for.
        let pad = view.size(self.port).saturating_sub(PROBE_BODY);
        let pad = if self.budget > PROBE_BYTES + pad as f64 { pad.min(PAD_MAX) } else { 0 };
        if self.hurried == 0 {
            self.budget -= PROBE_BYTES + pad as f64;
        }
        let ports = self.ports(at, entropy);
        let due = now + ANSWER_WAIT;
        self.under_way.push(UnderWay { token, to, sent_at: now, due, checking: false });
        asks.push_back(Ask::Probe { to, ports, token, pad });
        true
    }

    fn meet(&mut self, at: usize, through: bool, now: Instant, asks: &mut VecDeque<Ask>) {
        let witness = &mut self.witnesses[at];
        witness.meets += 1;
        let wait = if through { MEET_WAIT } else { MEET_REST * (1 << witness.meets.min(6)) };
        witness.meet_after = now + wait;
        let ports = through.then(|| Bytes::from(self.way(at)));
        asks.push_back(Ask::Meet { to: self.witnesses[at].node, ports });
    }

    /// The ports to a witness.
    fn way(&self, at: usize) -> Vec<u8> {
        let mut ports = Vec::with_capacity(16);
        ports.put_port(self.port);
        ports.put_port(self.witnesses[at].port);
        ports
    }

    /// And on: real ports of the witness, if it has told any, then such as most nodes have.
    fn ports(&self, at: usize, entropy: &mut dyn Entropy) -> Bytes {
        let mut ports = self.way(at);
        let [pick, more, a, b] = random(entropy);
        let witness = &self.witnesses[at];
        let real: Vec<&[u8]> = split(&witness.beyond);
        match real.get(usize::from(pick) % real.len().max(1)) {
            Some(real) => ports.extend_from_slice(real),
            None => ports.push(1 + pick % 6),
        }
        for junk in [a, b].iter().take(usize::from(more % 3)) {
            let (bytes, len) = port_bytes(Port(1 + u16::from(junk % 8)));
            ports.extend_from_slice(&bytes[..len]);
        }
        ports.into()
    }
}

/// Cuts a list into its ports; what is none is left out.
fn split(ports: &[u8]) -> Vec<&[u8]> {
    let whole = ports.split_inclusive(|byte| byte & 0x80 == 0);
    whole
        .filter(|port| port.len() <= 3 && port.last().is_some_and(|last| last & 0x80 == 0 && *last != 0))
        .collect()
}

/// When a level has come down to a half.
fn released_after(level: f64) -> Duration {
    HALF_LIFE.mul_f64((2.0 * level).log2().max(0.0))
}

/// Answers due that make a round.
const ROUND: usize = 8;
/// Outcomes that are remembered: who drops less than half of all flows is found by many.
const ROUNDS: usize = 4 * ROUND;
/// So many missed of these are too many: three eighths, what a dropper of a fifth of all flows comes to (probes and answers are
/// two flows). Over two datagram links that lose 5 % of all frames each 18 % are missed: so many in one round of 100.
const MISSED_MOST: usize = 12;
/// So many witnesses must have missed their probes,
const WITNESSES_LEAST: usize = 3;
/// or so many of which each was heard by another way after the miss; of a peer that has only one other, that one.
const WITNESSES_SURE: usize = 2;
/// Witnesses that are met, and take turns: so each session is used within the ten minutes after which it would end.
const WITNESSES_WANTED: usize = 4;
/// A probe and its answer over two links each, as cables carry them: four segments with acknowledgements, and a sign of
/// life that comes sooner for them.
const PROBE_BYTES: f64 = 900.0;
/// A handshake with a witness, likewise.
const MEET_BYTES: f64 = 2000.0;
/// 6 bytes a minute, whatever passes: 12 a link, since both its ends audit. Where nothing passes there is nothing to drop.
const BYTES_PER_SECOND: f64 = 0.1;
/// And a hundredth of what is sent through the peer.
const SHARE: f64 = 0.01;
/// A round at once, when much was sent through the peer.
const BUDGET_MAX: f64 = ROUND as f64 * PROBE_BYTES;
/// A new peer gets four probes: who drops half of all flows from the start passes them all once in 256 times, and a miss brings more
/// at once.
const BUDGET_FIRST: f64 = 4.0 * PROBE_BYTES;
/// A probe without padding is as long as that.
const PROBE_BODY: usize = 65;
/// What goes through a new peer for so long is paid by [`BUDGET_FIRST`].
const START: Duration = Duration::from_secs(60);
/// A probe is no longer than a packet that passes everywhere.
const PAD_MAX: usize = 1200;
/// Eight probes a minute at most.
const EVERY_LEAST: Duration = Duration::from_millis(7500);
/// What was sent through the peer is looked at that often.
const EVERY_MOST: Duration = Duration::from_secs(30);
/// A session that was silent for so long may have ended at the witness, which keeps it a little longer: met anew first.
const SESSION_FRESH: Duration = Duration::from_secs(170 * 60);
/// Two rounds, unpaid, when a probe was missed,
const HURRIED: u32 = 2 * ROUND as u32;
/// that soon one after the other,
const HURRY: Duration = Duration::from_millis(1500);
/// and that often.
const HURRY_REST: Duration = Duration::from_secs(120);
/// An answer is due.
const ANSWER_WAIT: Duration = Duration::from_secs(2);
/// So is one by another way.
const CHECK_WAIT: Duration = Duration::from_secs(3);
/// A witness heard so short before a probe was there to get it.
const THERE: Duration = Duration::from_secs(120);
/// A handshake through the peer takes no longer.
const MEET_WAIT: Duration = Duration::from_secs(4);
/// Handshakes that are tried through the peer before the witness is looked for elsewhere;
const MEETS_THROUGH: u32 = 1;
/// which is tried again after twice as long each time.
const MEET_REST: Duration = Duration::from_secs(10);
/// A claimed parent that the peer has not told of may still be on its way to us.
const TELLING: Duration = Duration::from_secs(3);
/// A peer that tells of nobody for so long has nobody else, or does not want to be audited.
const MUTE_AFTER: Duration = Duration::from_secs(90);
/// Suspicion halves in that time.
const HALF_LIFE: Duration = Duration::from_secs(10 * 60);
/// Bad rounds that add up.
const LEVEL_MAX: f64 = 2.0;
/// What is left when a peer gets another chance.
const RELEASED: f64 = 0.5;
/// Bytes of ports that a witness tells of its own.
const BEYOND_BYTES_MAX: usize = 6;

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;
    use std::collections::BTreeMap;

    struct Counting(u64);

    impl Entropy for Counting {
        fn fill(&mut self, out: &mut [u8]) {
            for byte in out {
                self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                *byte = (self.0 >> 33) as u8;
            }
        }
    }

    /// A peer with `n` other peers, all of whom there are sessions with.
    struct Case {
        watch: Watch,
        heard: RefCell<BTreeMap<NodeId, Instant>>,
        entropy: Counting,
        now: Instant,
        probes: usize,
        bytes: u64,
    }

    impl View for Case {
        fn sent(&self, _: Port) -> u64 {
            self.bytes
        }
        fn size(&self, _: Port) -> usize {
            0
        }
        fn session(&self, node: &NodeId) -> Option<Instant> {
            self.heard.borrow().get(node).copied()
        }
        fn claims(&self, _: Port) -> Vec<NodeId> {
            Vec::new()
        }
        fn is_parent(&self, _: Port) -> bool {
            false
        }
    }

    fn node(n: usize) -> NodeId {
        NodeId::from_bytes([n as u8; 32])
    }

    impl Case {
        fn new(witnesses: usize) -> Self {
            let now = Instant::from_micros(1_000_000_000);
            let mut watch = Watch::new(Port(1), now, now);
            let told: Vec<PeerEntry> = (1..=witnesses)
                .map(|n| PeerEntry { port: Port(n as u16), node: node(n), half: [0; 64] })
                .collect();
            watch.on_told(&told);
            let heard = RefCell::new((1..=witnesses).map(|n| (node(n), now)).collect());
            Self { watch, heard, entropy: Counting(7), now, probes: 0, bytes: 0 }
        }

        /// Lets time pass. `passes`: the peer passes that probe on; `there`: the witness is there for others.
        fn run(
            &mut self,
            time: Duration,
            passes: impl Fn(usize, &NodeId) -> bool,
            there: impl Fn(&NodeId) -> bool,
        ) {
            let until = self.now + time;
            while self.watch.deadline() <= until {
                self.now = self.now.max(self.watch.deadline());
                let mut watch = std::mem::replace(&mut self.watch, Watch::new(Port(1), self.now, self.now));
                let mut asks = VecDeque::new();
                let mut entropy = Counting(self.entropy.0 + 1);
                watch.handle_timeout(self, &mut entropy, self.now, &mut asks);
                self.entropy = entropy;
                self.watch = watch;
                for ask in asks {
                    match ask {
                        Ask::Probe { to, token, .. } => {
                            self.probes += 1;
                            if passes(self.probes, &to) && there(&to) {
                                self.heard.borrow_mut().insert(to, self.now);
                                self.watch.on_answer(&token, &to, &[3], self.now);
                            }
                        }
                        Ask::Check { to, .. } if there(&to) => {
                            self.heard.borrow_mut().insert(to, self.now + Duration::from_millis(50));
                        }
                        Ask::Meet { to, .. } if there(&to) => {
                            self.heard.borrow_mut().insert(to, self.now);
                        }
                        _ => {}
                    }
                }
            }
            self.now = until;
        }
    }

    impl Case {
        /// So many minutes in which much is sent through the peer.
        fn busy(
            &mut self,
            minutes: usize,
            passes: impl Fn(usize, &NodeId) -> bool,
            there: impl Fn(&NodeId) -> bool,
        ) {
            for _ in 0..minutes {
                self.bytes += 1 << 20;
                self.run(MINUTE, &passes, &there);
            }
        }
    }

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn a_peer_that_passes_nothing_on_is_suspect_within_a_round() {
        let mut case = Case::new(4);
        case.run(MINUTE, |_, _| false, |_| true);
        assert!(case.watch.suspect);
        case.run(9 * MINUTE, |_, _| true, |_| true);
        assert!(case.watch.suspect, "half-life 10 minutes");
        case.run(13 * MINUTE, |_, _| true, |_| true);
        assert!(!case.watch.suspect, "it has mended its ways");
        case.bytes += 1 << 20;
        case.run(10 * MINUTE, |_, _| false, |_| true);
        assert!(case.watch.suspect, "it is still audited");
    }

    #[test]
    fn a_peer_that_drops_most_is_suspect_and_one_that_drops_little_is_not() {
        let mut case = Case::new(6);
        case.busy(30, |n, _| n % 3 == 0, |_| true);
        assert!(case.watch.suspect);
        let mut case = Case::new(6);
        case.busy(60, |n, _| n % 4 != 0, |_| true);
        assert!(!case.watch.suspect);
        // Two of five are too many, however they are spread.
        let mut case = Case::new(6);
        case.busy(30, |n, _| n % 5 > 1, |_| true);
        assert!(case.watch.suspect);
    }

    #[test]
    fn a_witness_that_sleeps_condemns_nobody() {
        let mut case = Case::new(5);
        case.busy(60, |_, _| true, |witness| *witness != node(1));
        assert!(!case.watch.suspect);
        // Nor do all of them, if they are not there for others either.
        let mut case = Case::new(5);
        case.run(3 * MINUTE, |_, _| true, |_| true);
        case.now += 5 * MINUTE;
        case.busy(60, |_, _| true, |_| false);
        assert!(!case.watch.suspect);
    }

    #[test]
    fn a_peer_with_few_others_is_judged_by_all_of_them() {
        let mut case = Case::new(2);
        case.run(3 * MINUTE, |_, _| false, |_| true);
        assert!(case.watch.suspect);
        let mut case = Case::new(2);
        case.run(3 * MINUTE, |_, witness| *witness == node(1), |_| true);
        assert!(!case.watch.suspect, "one link that is broken");
        let mut case = Case::new(0);
        case.run(MINUTE, |_, _| false, |_| true);
        assert!(!case.watch.mute);
        case.run(MINUTE, |_, _| false, |_| true);
        assert!(case.watch.mute, "who tells of nobody leads nowhere");
    }

    #[test]
    fn audits_stay_within_their_budget() {
        let mut case = Case::new(4);
        case.run(5 * MINUTE, |_, _| true, |_| true);
        let before = case.probes;
        assert_eq!(before, 4, "what a new peer gets");
        case.run(60 * MINUTE, |_, _| true, |_| true);
        let idle = (case.probes - before) as f64 * PROBE_BYTES / 60.0;
        assert!((0.0..=15.0).contains(&idle), "{idle} bytes a minute");
        let before = case.probes;
        case.bytes += 1 << 24;
        case.run(2 * MINUTE, |_, _| true, |_| true);
        assert!((8..=17).contains(&(case.probes - before)), "{}", case.probes - before);
    }

    #[test]
    fn a_probe_seems_to_go_on() {
        let case = Case::new(1);
        let mut entropy = Counting(3);
        for _ in 0..50 {
            let ports = case.watch.ports(0, &mut entropy);
            assert!(crate::wire::data::decode_ports(&ports).unwrap().len() >= 3);
        }
        assert_eq!(split(&[3, 0x81, 0x02, 0x80]), [&[3][..], &[0x81, 0x02]]);
    }
}
