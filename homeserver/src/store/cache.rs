//! Owns the cache of events that were read lately, capped by bytes.
//!
//! It never shows a reader what its snapshot does not hold, nor what was changed since: every commit has an epoch, an entry
//! knows the epoch of the snapshot it was read from, and a change of an event takes its entry away and is remembered until
//! no snapshot from before it can still bring the old one back.

use std::{
    collections::HashMap,
    sync::{Arc, RwLock},
};

use quick_cache::{Weighter, sync::Cache};

use super::{Nid, schema::events::EventRow};

/// Bytes of events kept, if nothing else is said.
pub const EVENT_CACHE_BYTES: u64 = 32 * 1024 * 1024;
/// What an entry weighs besides its blobs: the row, its lists, the cache's own bookkeeping.
const ENTRY_BYTES: usize = 320;
/// Weight that the cache's first tables are sized by.
const TYPICAL_BYTES: u64 = 2_048;
/// Changes remembered one by one; past this all snapshots from before now may not fill the cache any more.
const CHANGES_MAX: usize = 4_096;

/// See the module.
pub(crate) struct EventCache {
    entries: Cache<Nid, (Arc<EventRow>, u64), Weigh>,
    changes: RwLock<Changes>,
}

#[derive(Default)]
struct Changes {
    /// Number of commits so far.
    epoch: u64,
    /// Events changed lately, with the epoch from which they are as they are.
    lately: HashMap<Nid, u64>,
    /// Snapshots before this epoch do not fill the cache.
    floor: u64,
}

#[derive(Clone)]
struct Weigh;

impl Weighter<Nid, (Arc<EventRow>, u64)> for Weigh {
    fn weight(&self, _: &Nid, (row, _): &(Arc<EventRow>, u64)) -> u64 {
        let lists = (row.prev.len() + row.auth.len()) * size_of::<Nid>();
        (ENTRY_BYTES + lists + row.client.len() + row.rest.len()) as u64
    }
}

impl EventCache {
    /// A cache of at most so many bytes; 0 keeps nothing.
    pub(crate) fn new(bytes: u64) -> Self {
        let items = usize::try_from(bytes / TYPICAL_BYTES).unwrap_or(usize::MAX).clamp(1, 65_536);
        Self { entries: Cache::with_weighter(items, bytes, Weigh), changes: RwLock::default() }
    }

    /// The epoch of a snapshot that begins after this call.
    pub(crate) fn epoch(&self) -> u64 {
        self.changes.read().unwrap_or_else(|poisoned| poisoned.into_inner()).epoch
    }

    /// The event as a snapshot of `epoch` sees it, if it is here.
    pub(crate) fn get(&self, nid: Nid, epoch: u64) -> Option<Arc<EventRow>> {
        self.entries.get(&nid).filter(|(_, since)| *since <= epoch).map(|(row, _)| row)
    }

    /// Keeps what a snapshot of `epoch` holds, unless it was changed since.
    pub(crate) fn fill(&self, row: Arc<EventRow>, epoch: u64) {
        // Held while inserting: no change can come between the question and the entry.
        let changes = self.changes.read().unwrap_or_else(|poisoned| poisoned.into_inner());
        if epoch >= changes.floor && changes.lately.get(&row.nid).is_none_or(|since| *since <= epoch) {
            self.entries.insert(row.nid, (row, epoch));
        }
    }

    /// After a commit: these events are new, changed or gone. Call it before anyone is told of the commit.
    pub(crate) fn committed(&self, changed: &[Nid]) {
        let mut changes = self.changes.write().unwrap_or_else(|poisoned| poisoned.into_inner());
        changes.epoch += 1;
        let epoch = changes.epoch;
        if changes.lately.len() + changed.len() > CHANGES_MAX {
            changes.lately.clear();
            changes.floor = epoch;
        }
        for nid in changed {
            changes.lately.insert(*nid, epoch);
            self.entries.remove(nid);
        }
    }

    /// Bytes that its entries weigh.
    pub(crate) fn bytes(&self) -> u64 {
        self.entries.weight()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(nid: i64, text: &str) -> Arc<EventRow> {
        Arc::new(EventRow {
            nid: Nid(nid),
            room: Nid(1),
            kind: Nid(1),
            skey: None,
            sender: Nid(1),
            ts: 0,
            depth: 0,
            seq: None,
            flags: 0,
            state_before: None,
            state_after: None,
            redacted_by: None,
            sent: None,
            key: crate::store::schema::events::Key::Hash([0; 32]),
            prev: Vec::new(),
            auth: Vec::new(),
            client: text.as_bytes().to_vec(),
            rest: Vec::new(),
        })
    }

    #[test]
    fn a_snapshot_from_before_a_change_neither_sees_the_new_nor_brings_back_the_old() {
        let cache = EventCache::new(1 << 20);
        let old = cache.epoch();
        cache.fill(row(1, "old"), old);
        assert_eq!(cache.get(Nid(1), old).unwrap().client, b"old");
        cache.committed(&[Nid(1)]);
        assert!(cache.get(Nid(1), old).is_none());
        cache.fill(row(1, "old"), old);
        let new = cache.epoch();
        assert!(cache.get(Nid(1), new).is_none(), "the old one must not come back");
        cache.fill(row(1, "new"), new);
        assert_eq!(cache.get(Nid(1), new).unwrap().client, b"new");
        assert!(cache.get(Nid(1), old).is_none(), "an older snapshot asks the database");
        // What did not change may come from an older snapshot.
        cache.fill(row(2, "same"), old);
        assert_eq!(cache.get(Nid(2), new).unwrap().client, b"same");
        // A great many changes: older snapshots are shut out as a whole.
        let many: Vec<Nid> = (10..10 + CHANGES_MAX as i64 + 1).map(Nid).collect();
        cache.committed(&many);
        cache.fill(row(3, "late"), new);
        assert!(cache.get(Nid(3), cache.epoch()).is_none());
    }

    #[test]
    fn bytes_are_capped() {
        let cache = EventCache::new(100_000);
        let text = "x".repeat(1_000);
        for nid in 0..1_000 {
            cache.fill(row(nid, &text), 0);
        }
        assert!(cache.bytes() <= 100_000, "{}", cache.bytes());
        assert!((0..1_000).filter(|nid| cache.get(Nid(*nid), 0).is_some()).count() > 20);
        let none = EventCache::new(0);
        none.fill(row(1, "x"), 0);
        assert!(none.get(Nid(1), 0).is_none());
    }
}
