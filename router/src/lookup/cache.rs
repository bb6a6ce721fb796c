//! Owns the cache: places of nodes that were found or that told us, for the next packet to them.
use super::{Place, Position};
use crate::id::NodeId;
use crate::lookup::record::TTL_MAX;
use crate::time::Instant;
use std::collections::BTreeMap;

/// By place, so that an address finds its node too.
#[derive(Default)]
pub(super) struct Cache {
    entries: BTreeMap<Place, Entry>,
}

struct Entry {
    node: NodeId,
    position: Position,
    learned_at: Instant,
    used_at: Instant,
}

impl Cache {
    /// Keeps a position unless a newer one is known. O(log entries); O(entries) when full.
    pub(super) fn put(&mut self, node: NodeId, position: Position, now: Instant) {
        let place = node.hash();
        if let Some(entry) = self.entries.get_mut(&place) {
            if position.seq >= entry.position.seq {
                entry.position = position;
                entry.learned_at = now;
            }
            return;
        }
        if self.entries.len() >= CACHE_MAX {
            let oldest = self.entries.iter().min_by_key(|(_, entry)| entry.used_at).map(|(place, _)| *place);
            oldest.map(|place| self.entries.remove(&place));
        }
        self.entries.insert(place, Entry { node, position, learned_at: now, used_at: now });
    }

    /// The node whose place begins with those bytes, and where it is.
    pub(super) fn get(&mut self, prefix: &[u8], now: Instant) -> Option<(NodeId, Position)> {
        let mut from = [0; 32];
        from[..prefix.len()].copy_from_slice(prefix);
        let (place, entry) = self.entries.range_mut(from..).next()?;
        if !place.starts_with(prefix) {
            return None;
        }
        if now.since(entry.learned_at) >= TTL_MAX {
            let place = *place;
            self.entries.remove(&place);
            return None;
        }
        entry.used_at = now;
        Some((entry.node, entry.position.clone()))
    }
}

/// Positions kept, about 400 bytes each; the longest unused goes first.
pub(super) const CACHE_MAX: usize = 2048;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Duration;

    fn node(seed: u32) -> NodeId {
        let mut bytes = [0; 32];
        bytes[..4].copy_from_slice(&seed.to_le_bytes());
        NodeId::from_bytes(bytes)
    }

    #[test]
    fn found_by_key_and_by_address_until_it_is_old() {
        let mut cache = Cache::default();
        let position = Position { seq: 3, ..Position::default() };
        cache.put(node(1), position.clone(), Instant::ZERO);
        cache.put(node(1), Position::default(), Instant::ZERO);
        let place = node(1).hash();
        assert_eq!(cache.get(&place, Instant::ZERO), Some((node(1), position.clone())));
        assert_eq!(cache.get(&place[..15], Instant::ZERO), Some((node(1), position)));
        assert_eq!(cache.get(&node(2).hash(), Instant::ZERO), None);
        assert_eq!(cache.get(&place, Instant::ZERO + TTL_MAX), None);
    }

    #[test]
    fn the_longest_unused_goes_first() {
        let mut cache = Cache::default();
        for seed in 0..CACHE_MAX as u32 {
            cache.put(node(seed), Position::default(), Instant::ZERO);
        }
        let later = Instant::ZERO + Duration::from_secs(1);
        for seed in 1..CACHE_MAX as u32 {
            assert!(cache.get(&node(seed).hash(), later).is_some());
        }
        cache.put(node(99_999), Position::default(), later);
        assert_eq!(cache.entries.len(), CACHE_MAX);
        assert!(cache.get(&node(0).hash(), later).is_none());
    }
}
