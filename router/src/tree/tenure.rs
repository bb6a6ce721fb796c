//! Owns how often a node lets its root change: fresh keys have no history, so changes to them cost tokens.
use crate::config::TREES_MAX;
use crate::id::NodeId;
use crate::time::{Duration, Instant};

/// One tree's bucket of tokens and the roots it knows from experience.
#[derive(Clone, Debug)]
pub struct Tenure {
    started: Instant,
    tokens: f64,
    filled: Instant,
    charged: Option<Instant>,
    /// Root, total time followed before `since`, last time followed.
    roots: Vec<(NodeId, Duration, Instant)>,
    current: NodeId,
    since: Instant,
    without_token: bool,
}

impl Tenure {
    /// A node that is its own root, and followed those roots for so long before, the latest last.
    pub fn new(me: NodeId, before: &[(NodeId, Duration)], now: Instant) -> Self {
        let latest = before.iter().skip(before.len().saturating_sub(ROOTS_MAX));
        Self {
            started: now,
            tokens: TOKENS_MAX,
            filled: now,
            charged: None,
            roots: latest.map(|&(root, followed)| (root, followed, now)).collect(),
            current: me,
            since: now,
            without_token: false,
        }
    }

    /// The root is now another one (or the same). `me`: being one's own root is free.
    pub fn follow(&mut self, root: NodeId, me: NodeId, now: Instant) {
        if root == self.current {
            return;
        }
        let total = self.followed(&self.current, now);
        let old = self.current;
        self.roots.retain(|(root, ..)| *root != old);
        if self.roots.len() == ROOTS_MAX {
            let oldest = (0..ROOTS_MAX).min_by_key(|&i| self.roots[i].2);
            self.roots.swap_remove(oldest.expect("the list is full"));
        }
        self.roots.push((old, total, now));
        self.fill(now);
        let free = root == me
            || now - self.started < STARTING
            || self.followed(&root, now) >= TENURED
            || self.charged.is_some_and(|charged| now - charged < SAME_CHANGE);
        if !free {
            self.without_token = self.tokens < 1.0;
            if self.tokens >= 1.0 {
                self.tokens -= 1.0;
            }
            self.charged = Some(now);
        } else if root == me || self.followed(&root, now) >= TENURED {
            self.without_token = false;
        }
        self.current = root;
        self.since = now;
    }

    /// How long that root has been followed in total.
    pub fn followed(&self, root: &NodeId, now: Instant) -> Duration {
        let before =
            self.roots.iter().find(|(known, ..)| known == root).map_or(Duration::ZERO, |known| known.1);
        if *root == self.current { before + (now - self.since) } else { before }
    }

    /// What is worth keeping over a restart: roots followed for longer than a moment, the latest last.
    pub fn times(&self, now: Instant) -> Vec<(NodeId, Duration)> {
        let mut roots = self.roots.clone();
        roots.retain(|(root, ..)| *root != self.current);
        roots.sort_by_key(|&(.., last)| last);
        roots.push((self.current, Duration::ZERO, now));
        let times = roots.iter().map(|(root, ..)| (*root, self.followed(root, now)));
        let mut times: Vec<_> = times.filter(|&(_, followed)| followed >= KNOWN).collect();
        times.drain(..times.len().saturating_sub(ROOTS_MAX));
        times
    }

    /// Which of the visible roots are candidates; all of them unless tokens have run out. A root sees itself, too, but
    /// only tenure counts for it: whoever has just lost its root must not stay alone for want of a token.
    pub fn allowed(&mut self, visible: &[NodeId], me: NodeId, now: Instant) -> Allowed {
        self.fill(now);
        if self.tokens >= 1.0 || now - self.started < STARTING {
            return Allowed::All;
        }
        let long = |least: Duration| {
            visible.iter().copied().filter(|root| self.followed(root, now) >= least).collect::<Vec<_>>()
        };
        let mut roots = long(TENURED);
        if roots.is_empty() {
            roots = long(KNOWN);
            roots.retain(|root| *root != me);
        }
        if !self.without_token
            && self.current != me
            && visible.contains(&self.current)
            && !roots.contains(&self.current)
        {
            roots.push(self.current);
        }
        if roots.is_empty() { Allowed::All } else { Allowed::Only(roots) }
    }

    fn fill(&mut self, now: Instant) {
        let gained = (now - self.filled).as_secs_f64() / TOKEN_EVERY.as_secs_f64();
        self.tokens = (self.tokens + gained).min(TOKENS_MAX);
        self.filled = now;
    }
}

/// How long which roots were followed, by tree, the latest last: what survives a restart, so that fresh keys do not look
/// as good as the network's own roots to whoever was away for a minute.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct RootTimes {
    trees: Vec<Vec<(NodeId, Duration)>>,
}

impl RootTimes {
    /// Adds a root to those of a tree, as the latest. What is beyond any bound is left out.
    pub fn push(&mut self, tree: usize, root: NodeId, followed: Duration) {
        if tree >= TREES_MAX {
            return;
        }
        if self.trees.len() <= tree {
            self.trees.resize(tree + 1, Vec::new());
        }
        let roots = &mut self.trees[tree];
        roots.retain(|(known, _)| *known != root);
        if roots.len() == ROOTS_MAX {
            roots.remove(0);
        }
        roots.push((root, followed));
    }

    /// The roots of a tree, the latest last.
    pub fn of_tree(&self, tree: usize) -> &[(NodeId, Duration)] {
        self.trees.get(tree).map_or(&[], Vec::as_slice)
    }

    /// All of them with their trees, each tree's latest last.
    pub fn iter(&self) -> impl Iterator<Item = (usize, NodeId, Duration)> {
        let trees = self.trees.iter().enumerate();
        trees.flat_map(|(tree, roots)| roots.iter().map(move |&(root, followed)| (tree, root, followed)))
    }

    /// Is there a root here that has tenure, and had none there? Only that is worth a write to the disk.
    pub fn tells_more_than(&self, stored: &Self) -> bool {
        self.iter().any(|(tree, root, followed)| {
            let known = |&(known, before): &(NodeId, Duration)| known == root && before >= TENURED;
            followed >= TENURED && !stored.of_tree(tree).iter().any(known)
        })
    }
}

/// What [`Tenure::allowed`] says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Allowed {
    /// The normal rule holds.
    All,
    /// Only chains to these.
    Only(Vec<NodeId>),
}

impl Allowed {
    /// May a chain to that root be taken?
    pub fn has(&self, root: &NodeId) -> bool {
        match self {
            Self::All => true,
            Self::Only(roots) => roots.contains(root),
        }
    }
}

/// Three changes to fresh roots in a row: a start, a merge, a crash.
const TOKENS_MAX: f64 = 3.0;
/// One back per two minutes.
const TOKEN_EVERY: Duration = Duration::from_secs(120);
/// A root followed for that long in total is no longer fresh.
const TENURED: Duration = Duration::from_secs(300);
/// If none is, one followed for that long will do.
const KNOWN: Duration = Duration::from_secs(20);
/// While a network starts, everything is fresh.
const STARTING: Duration = Duration::from_secs(60);
/// Changes so close together have one cause: a large net that has lost its root settles within 3 s, over several others.
const SAME_CHANGE: Duration = Duration::from_secs(3);
/// Roots whose times are kept.
const ROOTS_MAX: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u8) -> NodeId {
        NodeId::from_bytes([n; 32])
    }

    fn at(secs: u64) -> Instant {
        Instant::from_micros(secs * 1_000_000)
    }

    #[test]
    fn fresh_roots_use_up_the_tokens_and_then_the_old_one_stays() {
        let mut tenure = Tenure::new(id(0), &[], at(0));
        tenure.follow(id(1), id(0), at(1));
        // At 400 s root 1 has tenure. Fresh keys come every 5 s.
        let mut taken = 0;
        let mut now = 400;
        for fresh in 2..20 {
            if tenure.allowed(&[id(1), id(fresh)], id(0), at(now)).has(&id(fresh)) {
                taken += 1;
                tenure.follow(id(fresh), id(0), at(now));
            }
            now += 5;
        }
        assert_eq!(taken, 3);
        let allowed = tenure.allowed(&[id(1), id(50)], id(0), at(now));
        assert_eq!(allowed, Allowed::Only(vec![id(1)]));
        assert!(tenure.allowed(&[id(50)], id(0), at(now)).has(&id(50)), "nothing else is there");
        assert!(tenure.allowed(&[id(1), id(50)], id(0), at(now + 130)).has(&id(50)), "a token came back");
    }

    #[test]
    fn the_first_minute_and_changes_of_one_cause_are_free() {
        let mut tenure = Tenure::new(id(0), &[], at(0));
        for n in 1..30 {
            tenure.follow(id(n), id(0), at(u64::from(n)));
        }
        assert_eq!(tenure.allowed(&[id(99)], id(0), at(59)), Allowed::All);
        assert!((tenure.tokens - 3.0).abs() < 1e-9);
        tenure.follow(id(100), id(0), Instant::from_micros(100_000_000));
        tenure.follow(id(101), id(0), Instant::from_micros(100_400_000));
        assert!(tenure.tokens >= 2.0);
        assert!(tenure.roots.len() <= ROOTS_MAX);
    }

    #[test]
    fn a_long_standing_root_does_not_follow_every_fresh_key() {
        let mut tenure = Tenure::new(id(0), &[], at(0));
        let mut taken = 0;
        for fresh in 1..20u8 {
            let now = 400 + 10 * u64::from(fresh);
            if tenure.allowed(&[id(0), id(fresh)], id(0), at(now)).has(&id(fresh)) {
                taken += 1;
                tenure.follow(id(fresh), id(0), at(now));
                tenure.follow(id(0), id(0), at(now + 5));
            }
        }
        assert!((3..=5).contains(&taken), "{taken}");
    }

    #[test]
    fn who_lost_its_root_without_a_token_left_takes_what_there_is() {
        let mut tenure = Tenure::new(id(0), &[], at(0));
        for (n, secs) in [(1, 100), (2, 105), (3, 110)] {
            tenure.follow(id(n), id(0), at(secs));
        }
        tenure.follow(id(0), id(0), at(115));
        for secs in [115, 120, 140, 200] {
            assert_eq!(tenure.clone().allowed(&[id(0), id(9)], id(0), at(secs)), Allowed::All);
        }
    }

    #[test]
    fn a_root_taken_without_a_token_does_not_hold() {
        let mut tenure = Tenure::new(id(0), &[], at(0));
        tenure.follow(id(1), id(0), at(1));
        for (n, secs) in [(2, 400), (3, 405), (4, 410), (5, 415)] {
            tenure.follow(id(n), id(0), at(secs));
        }
        assert!(tenure.without_token);
        assert_eq!(tenure.allowed(&[id(1), id(5)], id(0), at(416)), Allowed::Only(vec![id(1)]));
    }

    #[test]
    fn times_survive_a_restart() {
        let mut tenure = Tenure::new(id(0), &[], at(0));
        tenure.follow(id(1), id(0), at(5));
        tenure.follow(id(2), id(0), at(405));
        tenure.follow(id(3), id(0), at(410));
        let times = tenure.times(at(500));
        assert_eq!(times, [(id(1), Duration::from_secs(400)), (id(3), Duration::from_secs(90))]);

        let mut again = Tenure::new(id(0), &times, at(0));
        let mut strange = Tenure::new(id(0), &[], at(0));
        for fresh in 10..20u8 {
            let now = at(100 + u64::from(fresh));
            again.follow(id(fresh), id(0), now);
            strange.follow(id(fresh), id(0), now);
        }
        let visible = [id(1), id(99)];
        assert_eq!(again.allowed(&visible, id(0), at(121)), Allowed::Only(vec![id(1)]));
        assert_eq!(strange.allowed(&visible, id(0), at(121)), Allowed::All);
    }

    #[test]
    fn what_is_stored_is_bounded() {
        let mut times = RootTimes::default();
        for n in 0..100 {
            times.push(1, id(n), Duration::from_secs(400));
            times.push(usize::MAX, id(n), Duration::MAX);
        }
        assert_eq!(times.of_tree(1).len(), ROOTS_MAX);
        assert_eq!(times.of_tree(1).last(), Some(&(id(99), Duration::from_secs(400))));
        assert_eq!(Tenure::new(id(0), times.of_tree(1), at(0)).roots.len(), ROOTS_MAX);
        assert!(times.tells_more_than(&RootTimes::default()) && !times.tells_more_than(&times));
    }
}
