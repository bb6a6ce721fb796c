//! Owns the sender's suspicion of links: which of those on its ways swallow packets.
//!
//! A link is guilty with probability p, 0.05 at first. A way that does not answer raises p of each of its links by Bayes'
//! rule to p / (1 - prod(1 - p)), one that answers multiplies it by 0.2; p returns to 0.05 with a half-life of 10 minutes.
//! A dropper may pass on all but the packets to one node, so what is known of a link for one destination is never less
//! than 0.02, and failures are kept apart for each destination besides.
//!
//! Where a way breaks is found by halves ([`Search`]): packets that end at a hop in its middle. They look like any packet,
//! but for an index that belongs to no session, so the hop answers with a notice that names them.
use crate::id::{Port, Sid};
use crate::time::{Duration, Instant};
use crate::wire::data::{encode_ports, split_port};
use bytes::Bytes;
use std::collections::HashMap;

/// Suspicion of links, by their two ends.
#[derive(Debug, Default)]
pub struct Blame {
    links: HashMap<(Sid, Sid), Guilt>,
}

#[derive(Clone, Copy, Debug)]
struct Guilt {
    p: f32,
    at: Instant,
}

impl Blame {
    /// How likely the link swallows packets.
    pub fn of(&self, from: &Sid, to: &Sid, now: Instant) -> f32 {
        let link = self.links.get(&(*from, *to)).map_or(PRIOR, |guilt| guilt.now(now));
        let node = self.links.get(&(*from, *from)).map_or(0.0, |guilt| guilt.now(now));
        link.max(node)
    }

    /// A search has found that packets reach `from` and, sent on to `to`, end: the link is guilty, and whatever else `from`
    /// should pass on may end there too.
    pub fn convict(&mut self, from: Sid, to: Sid, now: Instant) {
        self.set(&[from, to], CONVICTED, now);
        self.set(&[from, from], SUSPECTED, now);
    }

    /// A packet over these nodes was not answered; `nodes` begins with this one.
    pub fn failed(&mut self, nodes: &[Sid], now: Instant) {
        let innocent: f32 = nodes.windows(2).map(|link| 1.0 - self.of(&link[0], &link[1], now)).product();
        for link in nodes.windows(2) {
            let p = self.of(&link[0], &link[1], now);
            self.set(link, (p / (1.0 - innocent).max(p)).min(CEILING), now);
        }
    }

    /// A packet over these nodes was answered; `nodes` begins with this one.
    pub fn answered(&mut self, nodes: &[Sid], now: Instant) {
        for link in nodes.windows(2) {
            let p = self.of(&link[0], &link[1], now);
            self.set(link, (p * ANSWERED).max(FLOOR), now);
        }
    }

    /// How many times dearer the suspicion makes a link.
    pub fn dear(p: f32) -> f32 {
        1.0 + DEAR * -(1.0 - p.min(CEILING)).ln()
    }

    /// Links under observation.
    pub fn len(&self) -> usize {
        self.links.len()
    }

    /// Is nothing known of any?
    pub fn is_empty(&self) -> bool {
        self.links.is_empty()
    }

    fn set(&mut self, link: &[Sid], p: f32, now: Instant) {
        let key = (link[0], link[1]);
        if self.links.len() >= LINKS_MAX && !self.links.contains_key(&key) {
            self.forget(now);
        }
        self.links.insert(key, Guilt { p, at: now });
    }

    /// Makes room: what is near the prior goes, and if that is not enough all that is more likely innocent.
    fn forget(&mut self, now: Instant) {
        self.links.retain(|_, guilt| (guilt.now(now) - PRIOR).abs() > 0.01);
        if self.links.len() >= LINKS_MAX {
            self.links.retain(|_, guilt| guilt.now(now) > 0.5);
        }
        if self.links.len() >= LINKS_MAX {
            self.links.clear();
        }
    }
}

impl Guilt {
    fn now(&self, now: Instant) -> f32 {
        let halves = (now - self.at).as_secs_f32() / HALF_LIFE.as_secs_f32();
        PRIOR + (self.p - PRIOR) * (-halves).exp2()
    }
}

/// Finds by halves where a way breaks.
#[derive(Debug)]
pub struct Search {
    /// This node, then who is on the way.
    nodes: Vec<Sid>,
    ports: Vec<Port>,
    /// The last hop that is known to be reached, and the first that is known not to be.
    reached: usize,
    lost: usize,
    probe: Option<Probe>,
    tries: u32,
    patience: Duration,
}

#[derive(Debug)]
struct Probe {
    tail: [u8; 8],
    hop: usize,
    sent_at: Instant,
}

/// What a search wants next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// A probe along these ports; [`Search::on_sent`] is told its tail.
    Probe(Bytes),
    /// Wait.
    Wait,
    /// It ends behind the first of these.
    Found(Sid, Sid),
}

impl Search {
    /// Along a way of which the destination is not reached. `nodes` begins with this one. `None` if nothing is to be found.
    pub fn new(nodes: Vec<Sid>, ports: &[u8], patience: Duration) -> Option<Self> {
        let ports = decode(ports)?;
        if nodes.len() != ports.len() + 1 || nodes.len() < 3 {
            return None;
        }
        let lost = ports.len();
        Some(Self { nodes, ports, reached: 0, lost, probe: None, tries: 0, patience })
    }

    /// The next step.
    pub fn step(&mut self, blame: &mut Blame, now: Instant) -> Step {
        if let Some(probe) = &self.probe {
            if now < probe.sent_at + self.patience {
                return Step::Wait;
            }
            let hop = probe.hop;
            self.probe = None;
            if self.tries >= PROBES {
                self.tries = 0;
                self.lost = hop;
                blame.failed(&self.nodes[..=hop], now);
            }
        }
        if self.lost - self.reached <= 1 {
            return Step::Found(self.nodes[self.reached], self.nodes[self.lost]);
        }
        Step::Probe(encode_ports(&self.ports[..self.middle()]).into())
    }

    /// The probe went out.
    pub fn on_sent(&mut self, tail: [u8; 8], now: Instant) {
        self.tries += 1;
        self.probe = Some(Probe { tail, hop: self.middle(), sent_at: now });
    }

    /// Does that tail belong to the probe?
    pub fn holds(&self, tail: &[u8; 8]) -> bool {
        self.probe.as_ref().is_some_and(|probe| probe.tail == *tail)
    }

    /// The probe was answered.
    pub fn on_answer(&mut self, blame: &mut Blame, now: Instant) {
        if let Some(probe) = self.probe.take() {
            self.tries = 0;
            self.reached = probe.hop;
            blame.answered(&self.nodes[..=probe.hop], now);
        }
    }

    /// When [`Self::step`] is wanted.
    pub fn deadline(&self) -> Instant {
        self.probe.as_ref().map_or(Instant::ZERO, |probe| probe.sent_at + self.patience)
    }

    fn middle(&self) -> usize {
        (self.reached + self.lost) / 2
    }
}

fn decode(mut ports: &[u8]) -> Option<Vec<Port>> {
    let mut list = Vec::with_capacity(ports.len());
    while let Some((port, rest)) = split_port(ports).ok()? {
        list.push(port);
        ports = rest;
    }
    Some(list)
}

/// What a link is suspected of before anything is known.
pub const PRIOR: f32 = 0.05;
/// No answer makes a link more innocent than that.
const FLOOR: f32 = 0.02;
/// No silence makes it more guilty: it can redeem itself.
const CEILING: f32 = 0.99;
/// What an answer leaves of the suspicion.
const ANSWERED: f32 = 0.2;
/// How much dearer suspicion makes a link: cost x (1 + 20 x -ln(1 - p)).
const DEAR: f32 = 20.0;
/// What a search leaves a link with.
const CONVICTED: f32 = 0.9;
/// And the other links of the node before it.
const SUSPECTED: f32 = 0.5;
/// Probes to a hop before it counts as not reached: a link may lose one.
const PROBES: u32 = 2;
const HALF_LIFE: Duration = Duration::from_secs(600);
/// Links under observation: 4 096 of about 50 bytes, some 40 ways of 100 hops.
const LINKS_MAX: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(names: &[u8]) -> Vec<Sid> {
        names.iter().map(|&n| Sid::from_bytes([n; 8])).collect()
    }

    fn of(blame: &Blame, from: u8, to: u8, now: Instant) -> f32 {
        blame.of(&Sid::from_bytes([from; 8]), &Sid::from_bytes([to; 8]), now)
    }

    #[test]
    fn silence_and_answers_point_at_the_link() {
        let mut blame = Blame::default();
        let now = Instant::ZERO;
        blame.failed(&nodes(&[0, 1, 2, 3]), now);
        let shared = of(&blame, 1, 2, now);
        assert!((0.3..0.4).contains(&shared), "{shared}: one of three");
        blame.answered(&nodes(&[0, 1]), now);
        blame.failed(&nodes(&[0, 1, 2]), now);
        assert!(of(&blame, 1, 2, now) > 0.8);
        assert!(of(&blame, 0, 1, now) < 0.2);
        let later = now + HALF_LIFE;
        assert!((of(&blame, 1, 2, later) - PRIOR) * 2.0 - (of(&blame, 1, 2, now) - PRIOR) < 0.01);
        for _ in 0..20 {
            blame.answered(&nodes(&[0, 1]), now);
        }
        assert!(of(&blame, 0, 1, now) >= FLOOR);
        assert!(Blame::dear(0.9) > 40.0 && Blame::dear(PRIOR) < 2.1);
    }

    #[test]
    fn a_search_finds_the_link_in_the_logarithm_of_the_way() {
        let now = Instant::ZERO;
        let patience = Duration::from_millis(150);
        for hops in 2..40u8 {
            for broken in 0..hops {
                let names: Vec<u8> = (0..=hops).collect();
                let ports: Vec<u8> = (1..=hops).collect();
                let (mut blame, mut probes, mut time) = (Blame::default(), 0, now);
                let mut search = Search::new(nodes(&names), &ports, patience).unwrap();
                let found = loop {
                    match search.step(&mut blame, time) {
                        Step::Probe(list) => {
                            probes += 1;
                            search.on_sent([probes; 8], time);
                            assert!(search.holds(&[probes; 8]));
                            if list.len() <= usize::from(broken) {
                                search.on_answer(&mut blame, time);
                            }
                        }
                        Step::Wait => time = search.deadline(),
                        Step::Found(from, to) => break (from.as_bytes()[0], to.as_bytes()[0]),
                    }
                };
                assert_eq!(found, (broken, broken + 1));
                assert!(probes <= 12, "{probes}");
                blame.convict(Sid::from_bytes([broken; 8]), Sid::from_bytes([broken + 1; 8]), time);
                assert!(of(&blame, broken, broken + 1, time) > 0.89);
                assert!(of(&blame, broken, 200, time) > 0.49, "another link of the same node");
            }
        }
        assert!(Search::new(nodes(&[0, 1]), &[1], patience).is_none());
    }

    #[test]
    fn the_table_is_bounded() {
        let mut blame = Blame::default();
        for n in 0..3 * LINKS_MAX as u32 {
            let name = |n: u32| Sid::from_bytes([n.to_be_bytes(), [0; 4]].concat().try_into().unwrap());
            blame.failed(&[name(n), name(n + 1)], Instant::ZERO);
            assert!(blame.len() <= LINKS_MAX);
        }
    }
}
