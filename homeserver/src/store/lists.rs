//! Owns the cache of whole lists of state: a snapshot is a short chain of differences on top of one, and every look-up in
//! it ends there. Decoding the list of a room with 20 000 members for each look-up made such rooms slow to open.
//!
//! A snapshot never changes and its number is never given out twice, so nothing in here can be wrong.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

/// Pairs of a list, sorted by their first number.
pub(super) type List = Arc<[(i64, i64)]>;

/// Bytes of lists kept: a dozen rooms of 20 000 members. Whatever is smaller than [`PAIRS_MIN`] is not worth its place.
const BYTES_MAX: usize = 4 << 20;
/// The shortest list kept; it also bounds how many there are (some five hundred).
pub(super) const PAIRS_MIN: usize = 512;

/// See the module.
#[derive(Default)]
pub(super) struct Lists(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    lists: HashMap<i64, (List, u64)>,
    bytes: usize,
    /// Counts uses: who has the least was used the longest ago.
    uses: u64,
}

impl Lists {
    /// The list of a snapshot, if it is here.
    pub(super) fn get(&self, sid: i64) -> Option<List> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.uses += 1;
        let now = kept.uses;
        let (list, used) = kept.lists.get_mut(&sid)?;
        *used = now;
        Some(Arc::clone(list))
    }

    /// Keeps the list of a snapshot, if it is long enough and fits.
    pub(super) fn keep(&self, sid: i64, pairs: Vec<(i64, i64)>) {
        let bytes = size_of_val(&*pairs);
        if pairs.len() < PAIRS_MIN || bytes > BYTES_MAX {
            return;
        }
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.uses += 1;
        let now = kept.uses;
        if kept.lists.insert(sid, (pairs.into(), now)).is_none() {
            kept.bytes += bytes;
        }
        while kept.bytes > BYTES_MAX
            && let Some(oldest) = kept.lists.iter().min_by_key(|(_, (_, used))| *used).map(|(sid, _)| *sid)
            && let Some((gone, _)) = kept.lists.remove(&oldest)
        {
            kept.bytes -= size_of_val(&*gone);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_used_the_longest_goes_first() {
        let lists = Lists::default();
        let list = || vec![(1, 2); 65_536];
        lists.keep(0, vec![(1, 2); PAIRS_MIN - 1]);
        assert!(lists.get(0).is_none(), "too short");
        for sid in 1..=4 {
            lists.keep(sid, list());
        }
        assert!(lists.get(1).is_some());
        lists.keep(5, list());
        let there: Vec<i64> = (1..=5).filter(|sid| lists.get(*sid).is_some()).collect();
        assert_eq!(there, [1, 3, 4, 5]);
        lists.keep(3, list());
        assert_eq!(lists.0.lock().unwrap().bytes, BYTES_MAX);
    }
}
