//! Owns what is decided on one cable: whom to dial, whom to let in, which link gives way, when to send a beacon.
//!
//! Of two nodes that hear each other the one with the lesser tag dials; the other does so only where that has not
//! happened after [`DEFER`]. A node wants up to [`LINKS_WANTED`] links on a cable. One that is full still takes a node
//! that has fewer than two links or another root, and then lets go of its most redundant link: so nobody is shut out,
//! and parts of a network that meet on a cable join.

use std::collections::HashMap;
use std::net::{Ipv6Addr, SocketAddrV6};
use std::time::Duration;

use super::beacon::{Beacon, Tag};
use crate::id::{LinkId, NodeId};
use crate::time::Instant;

/// Links on one cable: enough for a dense mesh, few enough that a hundred devices on it do not make 5 000 links.
pub(crate) const LINKS_WANTED: usize = 8;
/// Links over the wish while those who need one come in.
const LINKS_NEEDED_MAX: usize = 2 * LINKS_WANTED;
/// Links over the wish for those whose beacon was not heard yet.
const LINKS_UNKNOWN_MAX: usize = LINKS_WANTED + 4;
/// With fewer links than this a node can be cut off by one loss.
const LINKS_SAFE: u8 = 2;
/// The oldest links never give way: a crowd of strangers that all claim to be in need cannot push every neighbour out.
const LINKS_KEPT: usize = 3;
/// Neighbours that are remembered; on a fuller cable those heard longest ago are forgotten.
const NEIGHBOURS_MAX: usize = 256;
/// Connections in the making.
const DIALS_MAX: usize = 8;
/// Who should have dialled by now has not.
const DEFER: Duration = Duration::from_secs(3);
/// A neighbour that has not been heard for this long is gone: three beacons and a bit.
const STALE: Duration = Duration::from_secs(200);
/// A full node waits up to this long for others to take in the one in need.
const NEED_PATIENCE: Duration = Duration::from_millis(1000);
/// A link that came up this recently does not give way yet: beacons tell the number of links with some delay.
const SETTLE: Duration = Duration::from_secs(3);
/// Between two links that give way.
const EXCESS_PAUSE: Duration = Duration::from_secs(1);
/// Between two answers to one neighbour.
const ANSWER_PAUSE: Duration = Duration::from_millis(300);
const RETRY_FIRST: Duration = Duration::from_millis(250);
const RETRY_MAX: Duration = Duration::from_secs(60);
/// Pauses between beacons after a start, then [`BEACON_MAX`]: a neighbour is found at once where both are there, and
/// within a minute where a cable joined two switches and no host noticed.
const BEACONS_MS: [u64; 9] = [100, 200, 400, 800, 1500, 3000, 6000, 12_000, 30_000];
const BEACON_MAX: Duration = Duration::from_secs(60);
/// Beacons that ask for an answer at once: those of the first second and a half.
const SOLICIT_BEACONS: usize = 5;
/// Between two restarts of the quick beacons because no link is left.
const RESTART_PAUSE: Duration = Duration::from_secs(10);

/// One cable (or Wi-Fi), as one interface sees it.
#[derive(Debug)]
pub(crate) struct Cable {
    own: Tag,
    neighbours: HashMap<Tag, Neighbour>,
    links: HashMap<LinkId, CableLink>,
    beacons_sent: usize,
    next_beacon: Instant,
    restarted: Instant,
    excess_after: Instant,
}

#[derive(Debug)]
struct Neighbour {
    address: SocketAddrV6,
    links: u8,
    same_root: bool,
    heard: Instant,
    /// When it was first heard without a link to it: the one who should dial has time from then on.
    unlinked: Instant,
    dialing: bool,
    retry: Instant,
    failures: u32,
    answered: Option<Instant>,
    /// Part of [`NEED_PATIENCE`], drawn once.
    patience: Duration,
}

#[derive(Debug)]
struct CableLink {
    ip: Ipv6Addr,
    /// Whom we dialled; unknown where we were called.
    tag: Option<Tag>,
    since: Instant,
    node: Option<NodeId>,
}

/// What comes of a beacon.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Heard {
    /// It is to be answered.
    pub(crate) answer: bool,
    /// Links to a place where the sender no longer is.
    pub(crate) dead: Vec<LinkId>,
}

/// What the node is like now, for decisions and beacons.
#[derive(Clone, Debug, Default)]
pub(crate) struct Standing {
    /// Neighbours with a link, on all cables.
    pub(crate) links: u8,
    /// Their parents: links to them do not give way.
    pub(crate) parents: Vec<NodeId>,
}

impl Cable {
    pub(crate) fn new(own: Tag, now: Instant) -> Self {
        Self {
            own,
            neighbours: HashMap::new(),
            links: HashMap::new(),
            beacons_sent: 0,
            next_beacon: now,
            restarted: now,
            excess_after: now,
        }
    }

    /// The cable was plugged in again, or the address changed: tell everybody.
    pub(crate) fn restart(&mut self, now: Instant) {
        self.beacons_sent = 0;
        self.next_beacon = now;
        self.restarted = now;
    }

    /// A beacon is due: whether it asks for answers.
    pub(crate) fn poll_beacon(&mut self, now: Instant, random: f64) -> Option<bool> {
        if now < self.next_beacon {
            return None;
        }
        let solicit = self.beacons_sent < SOLICIT_BEACONS;
        let pause = BEACONS_MS.get(self.beacons_sent).map_or(BEACON_MAX, |ms| Duration::from_millis(*ms));
        self.next_beacon = now + pause.mul_f64(0.9 + random / 5.0);
        self.beacons_sent += 1;
        Some(solicit)
    }

    /// A beacon came in from a listener's address.
    pub(crate) fn on_beacon(
        &mut self,
        now: Instant,
        address: SocketAddrV6,
        beacon: &Beacon,
        same_root: bool,
        random: f64,
    ) -> Heard {
        let mut heard = Heard::default();
        let known = self.neighbours.contains_key(&beacon.tag);
        if beacon.tag == self.own || !known && !self.forget_one(now) {
            return heard;
        }
        let neighbour = self.neighbours.entry(beacon.tag).or_insert_with(|| Neighbour {
            address,
            links: 0,
            same_root,
            heard: now,
            unlinked: now,
            dialing: false,
            retry: now,
            failures: 0,
            answered: None,
            patience: NEED_PATIENCE.mul_f64(random),
        });
        if neighbour.address != address {
            // It has moved: what was tried at the old place says nothing about the new one.
            let old = std::mem::replace(&mut neighbour.address, address);
            (neighbour.failures, neighbour.retry, neighbour.unlinked) = (0, now, now);
            if old.ip() != address.ip() {
                let there = |l: &CableLink| l.ip == *old.ip() && l.tag.is_none_or(|tag| tag == beacon.tag);
                heard.dead = self.links.iter().filter(|(_, l)| there(l)).map(|(id, _)| *id).collect();
            }
        }
        (neighbour.links, neighbour.same_root, neighbour.heard) = (beacon.links, same_root, now);
        if beacon.solicit {
            // It has just started or come back: whatever was wrong may be right now.
            neighbour.retry = neighbour.retry.min(now + RETRY_FIRST);
        }
        let wants = beacon.solicit || !known;
        heard.answer = wants && neighbour.answered.is_none_or(|last| now >= last + ANSWER_PAUSE);
        if heard.answer {
            neighbour.answered = Some(now);
        }
        heard
    }

    /// Makes room for one more neighbour by forgetting one that is neither linked nor being dialled.
    fn forget_one(&mut self, now: Instant) -> bool {
        if self.neighbours.len() < NEIGHBOURS_MAX {
            return true;
        }
        let linked = |tag: &Tag| self.links.values().any(|l| l.tag.as_ref() == Some(tag));
        let oldest = self
            .neighbours
            .iter()
            .filter(|(tag, n)| !n.dialing && !linked(tag))
            .min_by_key(|(_, n)| n.heard)
            // A crowd cannot push out those who were there a moment ago.
            .filter(|(_, n)| now >= n.heard + ANSWER_PAUSE)
            .map(|(tag, _)| *tag);
        oldest.is_some_and(|tag| self.neighbours.remove(&tag).is_some())
    }

    /// A neighbour to dial now. The caller reports how it went.
    pub(crate) fn poll_dial(&mut self, now: Instant, standing: &Standing) -> Option<(Tag, SocketAddrV6)> {
        let dialing = self.neighbours.values().filter(|n| n.dialing).count();
        let linked = self.links.len() + dialing;
        if dialing >= DIALS_MAX || linked >= LINKS_NEEDED_MAX {
            return None;
        }
        let own_links = usize::from(standing.links).max(linked);
        let wanted = |tag: &Tag, n: &Neighbour| {
            let mine = self.own < *tag;
            let due = n.retry.max(if mine { n.unlinked } else { n.unlinked + DEFER });
            if n.dialing || now < due || now >= n.heard + STALE || self.is_linked(tag, n) {
                return false;
            }
            let needy = n.links < LINKS_SAFE || !n.same_root;
            if linked >= LINKS_WANTED {
                return needy && now >= n.unlinked + n.patience;
            }
            // One that is full lets in only those in need.
            usize::from(n.links) < LINKS_WANTED || own_links < usize::from(LINKS_SAFE) || !n.same_root
        };
        let best = self.neighbours.iter().filter(|(tag, n)| wanted(tag, n)).min_by_key(|(_, n)| n.links);
        let tag = *best?.0;
        let neighbour = self.neighbours.get_mut(&tag)?;
        neighbour.dialing = true;
        Some((tag, neighbour.address))
    }

    fn is_linked(&self, tag: &Tag, neighbour: &Neighbour) -> bool {
        self.links.values().any(|link| match &link.tag {
            Some(linked) => linked == tag && link.ip == *neighbour.address.ip(),
            // Whoever called from that address was the one who had to.
            None => link.ip == *neighbour.address.ip() && *tag < self.own,
        })
    }

    /// A dial came to nothing.
    pub(crate) fn on_dial_failed(&mut self, tag: &Tag, now: Instant) {
        if let Some(neighbour) = self.neighbours.get_mut(tag) {
            neighbour.dialing = false;
            neighbour.back_off(now);
        }
    }

    /// Whether a call from that address is taken.
    pub(crate) fn admits(&self, ip: Ipv6Addr) -> bool {
        let links = self.links.len();
        if links < LINKS_WANTED {
            return true;
        }
        let mut callers = self.neighbours.values().filter(|n| *n.address.ip() == ip).peekable();
        match callers.peek() {
            None => links < LINKS_UNKNOWN_MAX,
            Some(_) => links < LINKS_NEEDED_MAX && callers.any(|n| n.links < LINKS_SAFE || !n.same_root),
        }
    }

    /// A connection exists: one we dialled, with its tag, or one that called.
    pub(crate) fn on_link(&mut self, link: LinkId, ip: Ipv6Addr, tag: Option<Tag>, now: Instant) {
        if let Some(neighbour) = tag.and_then(|tag| self.neighbours.get_mut(&tag)) {
            neighbour.dialing = false;
        }
        self.links.insert(link, CableLink { ip, tag, since: now, node: None });
    }

    /// A link proved its key. A second link to a key, where one of them is a stand-in of ours for a dial that was the
    /// other's to make, is one too many: it is returned to be closed.
    pub(crate) fn on_link_up(&mut self, link: LinkId, node: NodeId) -> Option<LinkId> {
        self.links.get_mut(&link)?.node = Some(node);
        let mut same = self.links.iter().filter(|(_, l)| l.node == Some(node));
        let (one, two) = (same.next()?, same.next()?);
        let stand_in = |l: &CableLink| l.tag.is_some_and(|tag| tag < self.own);
        [one, two].into_iter().find(|(_, l)| stand_in(l)).map(|(id, _)| *id)
    }

    /// A link is over; `good`: it had been up.
    pub(crate) fn on_link_ended(&mut self, link: LinkId, good: bool, now: Instant) {
        let Some(ended) = self.links.remove(&link) else { return };
        for (tag, neighbour) in &mut self.neighbours {
            let same = match &ended.tag {
                Some(ended) => ended == tag,
                None => ended.ip == *neighbour.address.ip(),
            };
            if same {
                neighbour.unlinked = now;
                if good {
                    neighbour.failures = 0;
                }
                neighbour.back_off(now);
            }
        }
        if self.links.is_empty() && now >= self.restarted + RESTART_PAUSE {
            self.restart(now);
        }
    }

    /// A link that gives way, where there are too many.
    pub(crate) fn poll_excess(&mut self, now: Instant, standing: &Standing) -> Option<LinkId> {
        if self.links.len() <= LINKS_WANTED || now < self.excess_after {
            return None;
        }
        let mut by_age: Vec<(&LinkId, &CableLink)> = self.links.iter().collect();
        by_age.sort_unstable_by_key(|(id, link)| (link.since, **id));
        let redundant = by_age
            .iter()
            .skip(LINKS_KEPT)
            .filter(|(_, l)| {
                now >= l.since + SETTLE && l.node.is_some_and(|n| !standing.parents.contains(&n))
            })
            .filter_map(|(id, link)| {
                let neighbour = self.neighbour_of(link)?;
                let safe = neighbour.links > LINKS_SAFE && neighbour.same_root;
                safe.then_some((neighbour.links, **id))
            })
            .max();
        self.excess_after = now + EXCESS_PAUSE;
        redundant.map(|(_, id)| id)
    }

    fn neighbour_of(&self, link: &CableLink) -> Option<&Neighbour> {
        match &link.tag {
            Some(tag) => self.neighbours.get(tag),
            None => self.neighbours.values().find(|n| *n.address.ip() == link.ip),
        }
    }

    /// Forgets those that were not heard for long.
    pub(crate) fn expire(&mut self, now: Instant) {
        let links = &self.links;
        self.neighbours.retain(|tag, n| {
            now < n.heard + STALE || n.dialing || links.values().any(|l| l.tag.as_ref() == Some(tag))
        });
    }

    /// All links, to be closed with the cable.
    pub(crate) fn links(&self) -> impl Iterator<Item = LinkId> + '_ {
        self.links.keys().copied()
    }

    /// When to look again.
    pub(crate) fn poll_timeout(&self, now: Instant) -> Instant {
        let mut next = self.next_beacon;
        if self.links.len() > LINKS_WANTED {
            next = next.min(self.excess_after.max(now + EXCESS_PAUSE));
        }
        for (tag, neighbour) in &self.neighbours {
            if !neighbour.dialing && now < neighbour.heard + STALE && !self.is_linked(tag, neighbour) {
                let defer = if self.own < *tag { neighbour.patience } else { DEFER };
                let due = neighbour.retry.max(neighbour.unlinked + defer);
                // Those that are due already wait for room, or for another beacon.
                next = next.min(if due > now { due } else { now + NEED_PATIENCE });
            }
        }
        next
    }
}

impl Neighbour {
    fn back_off(&mut self, now: Instant) {
        self.retry = now + RETRY_FIRST.saturating_mul(1 << self.failures.min(10)).min(RETRY_MAX);
        self.failures += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Instant = Instant::from_micros(1_000_000_000);

    fn at(n: u8) -> SocketAddrV6 {
        SocketAddrV6::new(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, n.into()), 1000, 0, 1)
    }

    fn beacon(tag: u8, links: u8) -> Beacon {
        Beacon { solicit: true, tag: [tag; 16], port: 1000, links, root_mark: [0; 8] }
    }

    fn node(n: u8) -> NodeId {
        NodeId::from_bytes([n; 32])
    }

    fn standing(links: u8) -> Standing {
        Standing { links, parents: Vec::new() }
    }

    /// A cable of the node with tag 100 and `n` full neighbours, all linked and settled.
    fn full(n: u8) -> Cable {
        let mut cable = Cable::new([100; 16], NOW);
        for i in 0..n {
            cable.on_beacon(NOW, at(i), &beacon(i, 8), true, 0.5);
            cable.on_link(LinkId(i.into()), *at(i).ip(), None, NOW);
            cable.on_link_up(LinkId(i.into()), node(i));
        }
        cable
    }

    #[test]
    fn the_lesser_tag_dials_at_once_the_greater_later() {
        let mut cable = Cable::new([100; 16], NOW);
        assert!(cable.on_beacon(NOW, at(1), &beacon(200, 0), true, 0.5).answer);
        assert!(!cable.on_beacon(NOW, at(9), &beacon(100, 0), true, 0.5).answer, "its own beacon");
        assert_eq!(cable.poll_dial(NOW, &standing(0)), Some(([200; 16], at(1))));
        assert_eq!(cable.poll_dial(NOW, &standing(0)), None, "already dialling");
        cable.on_dial_failed(&[200; 16], NOW);
        assert_eq!(cable.poll_dial(NOW, &standing(0)), None, "a pause after a failure");
        assert!(cable.poll_dial(NOW + RETRY_FIRST, &standing(0)).is_some());

        let mut cable = Cable::new([100; 16], NOW);
        cable.on_beacon(NOW, at(1), &beacon(50, 0), true, 0.5);
        assert_eq!(cable.poll_dial(NOW, &standing(0)), None);
        assert!(cable.poll_timeout(NOW + Duration::from_secs(1)) <= NOW + DEFER);
        assert_eq!(cable.poll_dial(NOW + DEFER, &standing(0)), Some(([50; 16], at(1))));
        // The other called after all: the stand-in closes.
        cable.on_link(LinkId(1), *at(1).ip(), Some([50; 16]), NOW);
        cable.on_link(LinkId(2), *at(1).ip(), None, NOW);
        assert_eq!(cable.on_link_up(LinkId(1), node(1)), None);
        assert_eq!(cable.on_link_up(LinkId(2), node(1)), Some(LinkId(1)));
    }

    #[test]
    fn beacons_are_quick_at_first_and_slow_when_nothing_happens() {
        let mut cable = Cable::new([1; 16], NOW);
        let (mut now, mut times) = (NOW, Vec::new());
        while now < NOW + Duration::from_secs(3600) {
            if let Some(solicit) = cable.poll_beacon(now, 0.5) {
                times.push((now - NOW, solicit));
            }
            now = cable.poll_timeout(now);
        }
        assert!(times.iter().filter(|(t, _)| *t < Duration::from_secs(2)).count() >= 5);
        assert!(times.len() < 75, "{} beacons in an hour", times.len());
        assert!(times[0].1 && !times.last().unwrap().1);
        cable.restart(now);
        assert_eq!(cable.poll_beacon(now, 0.5), Some(true));
    }

    #[test]
    fn a_full_node_takes_the_one_in_need_and_lets_a_redundant_link_go() {
        let mut cable = full(9 - 1);
        let later = NOW + Duration::from_secs(10);
        // One with links enough is neither dialled nor let in.
        cable.on_beacon(later, at(50), &beacon(150, 5), true, 0.5);
        assert_eq!(cable.poll_dial(later + DEFER, &standing(8)), None);
        assert!(!cable.admits(*at(50).ip()));
        // The tenth, without any link, is both.
        cable.on_beacon(later, at(60), &beacon(160, 0), true, 0.5);
        assert_eq!(cable.poll_dial(later, &standing(8)), None, "others may take it in first");
        assert_eq!(cable.poll_dial(later + NEED_PATIENCE, &standing(8)), Some(([160; 16], at(60))));
        assert!(cable.admits(*at(60).ip()));
        cable.on_link(LinkId(60), *at(60).ip(), Some([160; 16]), later);
        cable.on_link_up(LinkId(60), node(60));
        let gone = cable.poll_excess(later + SETTLE, &standing(9)).expect("nine links are one too many");
        assert!((LINKS_KEPT as u64..8).contains(&gone.0), "{gone:?}");
        cable.on_link_ended(gone, true, later);
        assert_eq!(cable.poll_excess(later + SETTLE * 2, &standing(8)), None);
        // It is not dialled again at once: it is full, and so are we.
        assert_eq!(cable.poll_dial(later + DEFER * 2, &standing(8)), None);
    }

    #[test]
    fn another_root_is_let_in_and_parents_never_give_way() {
        let mut cable = full(8);
        cable.on_beacon(NOW, at(70), &beacon(170, 8), false, 0.0);
        assert_eq!(cable.poll_dial(NOW, &standing(8)), Some(([170; 16], at(70))));
        cable.on_link(LinkId(70), *at(70).ip(), Some([170; 16]), NOW);
        cable.on_link_up(LinkId(70), node(70));
        let parents = (0..8).map(node).collect();
        let later = NOW + Duration::from_secs(60);
        assert_eq!(cable.poll_excess(later, &Standing { links: 9, parents }), None);
        // The newcomer itself, once it has the same root and links enough.
        cable.on_beacon(later, at(70), &beacon(170, 9), true, 0.0);
        let parents = (0..8).map(node).collect();
        assert_eq!(cable.poll_excess(later + SETTLE, &Standing { links: 9, parents }), Some(LinkId(70)));
    }

    #[test]
    fn a_crowd_stays_within_bounds() {
        let mut cable = full(8);
        for i in 0..2000u16 {
            let mut crowd = beacon(0, 0);
            crowd.tag[..2].copy_from_slice(&i.to_be_bytes());
            crowd.tag[15] = 77;
            let now = NOW + Duration::from_millis(i.into());
            cable.on_beacon(now, at(200), &crowd, true, 0.0);
            if let Some((tag, address)) = cable.poll_dial(now, &standing(8)) {
                cable.on_link(LinkId(1000 + u64::from(i)), *address.ip(), Some(tag), now);
            }
        }
        assert!(cable.neighbours.len() <= NEIGHBOURS_MAX);
        assert!(cable.links.len() <= LINKS_NEEDED_MAX);
        let mut now = NOW + Duration::from_secs(20);
        for _ in 0..100 {
            now += EXCESS_PAUSE;
            if let Some(link) = cable.poll_excess(now, &standing(16)) {
                cable.on_link_ended(link, true, now);
            }
        }
        assert!((0..LINKS_KEPT as u64).all(|i| cable.links.contains_key(&LinkId(i))), "the oldest stay");
        cable.expire(now + STALE);
        assert!(cable.neighbours.len() <= LINKS_NEEDED_MAX);
    }

    #[test]
    fn one_that_moves_is_dialled_at_its_new_place() {
        let mut cable = Cable::new([100; 16], NOW);
        cable.on_beacon(NOW, at(1), &beacon(200, 0), true, 0.5);
        cable.on_link(LinkId(1), *at(1).ip(), Some([200; 16]), NOW);
        cable.on_beacon(NOW, at(5), &beacon(50, 0), true, 0.5);
        cable.on_link(LinkId(2), *at(5).ip(), None, NOW);
        let later = NOW + Duration::from_secs(10);
        assert_eq!(cable.on_beacon(later, at(2), &beacon(200, 1), true, 0.5).dead, [LinkId(1)]);
        assert_eq!(cable.poll_dial(later, &standing(2)), Some(([200; 16], at(2))));
        assert_eq!(cable.on_beacon(later, at(6), &beacon(50, 1), true, 0.5).dead, [LinkId(2)]);
    }

    #[test]
    fn one_that_restarts_is_dialled_again_at_once() {
        let mut cable = Cable::new([100; 16], NOW);
        cable.on_beacon(NOW, at(1), &beacon(200, 0), true, 0.5);
        let (tag, address) = cable.poll_dial(NOW, &standing(0)).unwrap();
        cable.on_link(LinkId(1), *address.ip(), Some(tag), NOW);
        cable.on_link_up(LinkId(1), node(1));
        let later = NOW + Duration::from_secs(500);
        cable.on_link_ended(LinkId(1), true, later);
        assert_eq!(cable.poll_beacon(later, 0.5), Some(true), "nobody left: ask who is there");
        cable.on_beacon(later, at(1), &beacon(201, 0), true, 0.5);
        assert_eq!(cable.poll_dial(later, &standing(0)), Some(([201; 16], at(1))));
    }
}
