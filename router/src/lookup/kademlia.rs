//! Owns the contacts: nodes that can be asked about places, more of them the nearer they are to this node's own.
//!
//! Peers are always in. Others are correspondents, publishers whose records we checked, and nodes that answered a
//! question of ours with their own signed record: so no contact stands here that did not show its key.
use super::{Place, Position};
use crate::id::NodeId;
use crate::time::Instant;

/// All contacts of one node.
pub(super) struct Contacts {
    me: Place,
    /// As many as there are contacts in: few are.
    buckets: Vec<Vec<Contact>>,
}

/// A node that can be asked.
#[derive(Clone, Debug)]
pub(super) struct Contact {
    pub(super) node: NodeId,
    pub(super) place: Place,
    pub(super) position: Position,
    /// A direct neighbour: its position comes from the trees and is always fresh.
    pub(super) peer: bool,
    /// Questions since its last answer.
    failed: u32,
    heard_at: Instant,
}

impl Contacts {
    pub(super) fn new(me: Place) -> Self {
        Self { me, buckets: Vec::new() }
    }

    /// Takes a node in, or notes where it is now. True if it is new here. Full buckets keep who answers.
    pub(super) fn learn(&mut self, node: NodeId, position: Position, peer: bool, now: Instant) -> bool {
        let place = node.hash();
        let Some(bucket) = self.bucket(&place) else { return false };
        if let Some(known) = bucket.iter_mut().find(|contact| contact.node == node) {
            if peer || (!known.peer && position.seq >= known.position.seq) {
                known.position = position;
            }
            known.peer |= peer;
            known.failed = 0;
            known.heard_at = now;
            return false;
        }
        let contact = Contact { node, place, position, peer, failed: 0, heard_at: now };
        if bucket.iter().filter(|contact| !contact.peer).count() >= BUCKET && !peer {
            let worst = (0..bucket.len())
                .filter(|&at| !bucket[at].peer && bucket[at].failed > 0)
                .max_by_key(|&at| (bucket[at].failed, std::cmp::Reverse(bucket[at].heard_at)));
            let Some(worst) = worst else { return false };
            bucket[worst] = contact;
        } else {
            bucket.push(contact);
        }
        true
    }

    /// The node is no longer a peer. It stays as an ordinary contact.
    pub(super) fn part(&mut self, node: &NodeId) {
        if let Some(contact) = self.get_mut(node) {
            contact.peer = false;
            contact.failed = 1;
        }
    }

    /// The node left a question unanswered; too often, and it is forgotten.
    pub(super) fn fail(&mut self, node: &NodeId) {
        let Some(bucket) = self.bucket(&node.hash()) else { return };
        if let Some(at) = bucket.iter().position(|contact| contact.node == *node) {
            bucket[at].failed += 1;
            if bucket[at].failed >= FAILED_MAX && !bucket[at].peer {
                bucket.remove(at);
            }
        }
    }

    /// The node has answered.
    pub(super) fn hear(&mut self, node: &NodeId, now: Instant) {
        if let Some(contact) = self.get_mut(node) {
            contact.failed = 0;
            contact.heard_at = now;
        }
    }

    pub(super) fn get(&self, node: &NodeId) -> Option<&Contact> {
        let bucket = self.buckets.get(self.bucket_index(&node.hash())?)?;
        bucket.iter().find(|contact| contact.node == *node)
    }

    /// The `count` contacts nearest to a place that can be reached, nearest first. O(contacts).
    pub(super) fn nearest(&self, place: &Place, count: usize) -> Vec<&Contact> {
        let mut all: Vec<&Contact> = self
            .buckets
            .iter()
            .flatten()
            .filter(|contact| contact.peer || !contact.position.locator.is_empty())
            .collect();
        if all.len() > count && count > 0 {
            all.select_nth_unstable_by_key(count - 1, |contact| distance(place, &contact.place));
        }
        all.truncate(count);
        all.sort_unstable_by_key(|contact| distance(place, &contact.place));
        all
    }

    /// The `count` peers nearest to a place, nearest first. O(contacts).
    pub(super) fn nearest_peers(&self, place: &Place, count: usize) -> Vec<&Contact> {
        let mut peers: Vec<&Contact> = self.buckets.iter().flatten().filter(|contact| contact.peer).collect();
        peers.sort_unstable_by_key(|contact| distance(place, &contact.place));
        peers.truncate(count);
        peers
    }

    /// The contact whose place begins with those bytes.
    pub(super) fn by_prefix(&self, prefix: &[u8]) -> Option<&Contact> {
        self.buckets.iter().flatten().find(|contact| contact.place.starts_with(prefix))
    }

    /// How many are known whose places share exactly so many leading bits with ours.
    pub(super) fn in_region(&self, bits: usize) -> usize {
        self.buckets.get(bits).map_or(0, Vec::len)
    }

    pub(super) fn len(&self) -> usize {
        self.buckets.iter().map(Vec::len).sum()
    }

    fn get_mut(&mut self, node: &NodeId) -> Option<&mut Contact> {
        self.bucket(&node.hash())?.iter_mut().find(|contact| contact.node == *node)
    }

    fn bucket(&mut self, place: &Place) -> Option<&mut Vec<Contact>> {
        let index = self.bucket_index(place)?;
        if self.buckets.len() <= index {
            self.buckets.resize_with(index + 1, Vec::new);
        }
        self.buckets.get_mut(index)
    }

    /// By the number of leading bits that the place shares with ours; none for our own.
    fn bucket_index(&self, place: &Place) -> Option<usize> {
        let distance = distance(&self.me, place);
        let at = distance.iter().position(|&byte| byte != 0)?;
        Some(at * 8 + distance[at].leading_zeros() as usize)
    }
}

/// How far two places are apart: compares as a number.
pub(super) fn distance(a: &Place, b: &Place) -> Place {
    let mut out = [0; 32];
    for ((out, a), b) in out.iter_mut().zip(a).zip(b) {
        *out = a ^ b;
    }
    out
}

/// Contacts in a bucket, peers not counted. Buckets beyond the depth of the network stay empty, so all hold some
/// 8 x log2(nodes).
pub(super) const BUCKET: usize = 8;
/// Questions in a row that a contact may leave unanswered.
const FAILED_MAX: u32 = 3;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::SecretKey;
    use crate::lookup::{Coords, Locator};

    fn node(seed: u16) -> NodeId {
        let mut bytes = [0; 32];
        bytes[..2].copy_from_slice(&seed.to_le_bytes());
        SecretKey::from_seed(bytes).id()
    }

    fn position(seq: u64) -> Position {
        let coords = Coords { root: node(0).sid(), hops: Vec::new() };
        Position { seq, locator: Locator::of([(0, &coords)]) }
    }

    #[test]
    fn buckets_are_bounded_and_peers_always_in() {
        let mut contacts = Contacts::new(node(0).hash());
        for seed in 1..400 {
            contacts.learn(node(seed), position(1), false, Instant::ZERO);
        }
        let strangers = contacts.len();
        assert!(contacts.buckets.iter().all(|bucket| bucket.len() <= BUCKET));
        assert!(!contacts.learn(node(0), position(1), true, Instant::ZERO), "not ourselves");
        for seed in 400..500 {
            assert!(contacts.learn(node(seed), position(1), true, Instant::ZERO));
        }
        assert_eq!(contacts.len(), strangers + 100);
        contacts.part(&node(450));
        contacts.fail(&node(450));
        contacts.fail(&node(450));
        assert!(contacts.get(&node(450)).is_none());
    }

    #[test]
    fn nearest_is_by_xor() {
        let mut contacts = Contacts::new(node(0).hash());
        for seed in 1..100 {
            contacts.learn(node(seed), position(1), true, Instant::ZERO);
        }
        let place = node(1000).hash();
        let mut expected: Vec<NodeId> = (1..100).map(node).collect();
        expected.sort_by_key(|node| distance(&place, &node.hash()));
        let nearest: Vec<NodeId> = contacts.nearest(&place, 8).iter().map(|contact| contact.node).collect();
        assert_eq!(nearest, expected[..8]);
        assert_eq!(contacts.by_prefix(&node(5).hash()[..15]).unwrap().node, node(5));
    }

    #[test]
    fn an_older_position_changes_nothing() {
        let mut contacts = Contacts::new(node(0).hash());
        contacts.learn(node(1), position(5), false, Instant::ZERO);
        contacts.learn(node(1), Position { seq: 4, ..Position::default() }, false, Instant::ZERO);
        assert_eq!(contacts.get(&node(1)).unwrap().position, position(5));
    }
}
