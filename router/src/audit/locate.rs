//! Owns the sender's suspicion of links: which of those on its ways swallow packets.
//!
//! A link is guilty with probability p, 0.05 at first. A way that does not answer raises p of each of its links by Bayes'
//! rule to p / (1 - prod(1 - p)), one that answers multiplies it by 0.2; p returns to 0.05 with a half-life of 10 minutes.
//! A dropper may pass on all but the packets to one node, so what is known of a link for one destination is never less
//! than 0.02, and failures are kept apart for each destination besides.
use crate::id::Sid;
use crate::time::{Duration, Instant};
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
        self.links.get(&(*from, *to)).map_or(PRIOR, |guilt| guilt.now(now))
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
    fn the_table_is_bounded() {
        let mut blame = Blame::default();
        for n in 0..3 * LINKS_MAX as u32 {
            let name = |n: u32| Sid::from_bytes([n.to_be_bytes(), [0; 4]].concat().try_into().unwrap());
            blame.failed(&[name(n), name(n + 1)], Instant::ZERO);
            assert!(blame.len() <= LINKS_MAX);
        }
    }
}
