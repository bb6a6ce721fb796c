//! Which members a device was shown already, so that lazy loading does not show them again: in RAM, bounded.
//!
//! A member counts as shown only once the device brings back the token of the response that showed it (or a later
//! one): a response that was lost shows nothing. What is forgotten is shown once more.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard},
};

use crate::store::{Nid, Seq};

/// Members remembered over all devices; about 6 MiB.
const ENTRIES_MAX: usize = 100_000;

/// Members shown, by device.
#[derive(Debug, Default)]
pub(super) struct Shown {
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    devices: HashMap<(Nid, String), Device>,
    entries: usize,
    clock: u64,
}

#[derive(Debug, Default)]
struct Device {
    used: u64,
    /// (room, member) -> (member event, position of the token that came with it).
    members: HashMap<(Nid, Nid), (Nid, Seq)>,
}

/// A member that a response shows: (room, user, member event).
pub(super) type Member = (Nid, Nid, Nid);

impl Shown {
    /// What a device that brings back the token of `since` has been shown.
    pub(super) fn known(&self, user: Nid, device: &str, since: Option<Seq>) -> HashMap<(Nid, Nid), Nid> {
        let Some(since) = since else { return HashMap::new() };
        let mut table = self.table();
        table.clock += 1;
        let now = table.clock;
        let Some(known) = table.devices.get_mut(&(user, device.to_owned())) else {
            return HashMap::new();
        };
        known.used = now;
        // What came with later tokens, which the device does not bring back, may be lost.
        let before = known.members.len();
        known.members.retain(|_, (_, at)| *at <= since);
        let gone = before - known.members.len();
        let shown = known.members.iter().map(|(key, (event, _))| (*key, *event)).collect();
        table.entries -= gone;
        shown
    }

    /// A response whose token is at `until` shows these members.
    pub(super) fn show(&self, user: Nid, device: &str, until: Seq, members: Vec<Member>) {
        if members.is_empty() {
            return;
        }
        let mut table = self.table();
        table.clock += 1;
        let now = table.clock;
        let known = table.devices.entry((user, device.to_owned())).or_default();
        known.used = now;
        let before = known.members.len();
        for (room, member, event) in members {
            // One that the device brought back before stays as it is.
            let entry = known.members.entry((room, member)).or_insert((event, until));
            if entry.0 != event {
                *entry = (event, until);
            }
        }
        let added = known.members.len() - before;
        table.entries += added;
        while table.entries > ENTRIES_MAX && table.devices.len() > 1 {
            table.forget_oldest();
        }
        if table.entries > ENTRIES_MAX {
            *table = Table::default();
        }
    }

    /// The device starts anew.
    pub(super) fn forget(&self, user: Nid, device: &str) {
        let mut table = self.table();
        if let Some(device) = table.devices.remove(&(user, device.to_owned())) {
            table.entries -= device.members.len();
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Table {
    fn forget_oldest(&mut self) {
        let oldest = self.devices.iter().min_by_key(|(_, device)| device.used).map(|(key, _)| key.clone());
        if let Some(device) = oldest.and_then(|key| self.devices.remove(&key)) {
            self.entries -= device.members.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_counts_as_shown_when_the_token_comes_back() {
        let shown = Shown::default();
        let (user, room, member) = (Nid(1), Nid(2), Nid(3));
        shown.show(user, "D", Seq(10), vec![(room, member, Nid(100))]);
        assert_eq!(shown.known(user, "D", Some(Seq(10))).get(&(room, member)), Some(&Nid(100)));
        assert!(shown.known(user, "E", Some(Seq(10))).is_empty());
        // Another event of the same member is shown anew, and again if that response is lost.
        shown.show(user, "D", Seq(12), vec![(room, member, Nid(101))]);
        assert!(shown.known(user, "D", Some(Seq(11))).is_empty());
        assert!(shown.known(user, "D", Some(Seq(13))).is_empty());
        shown.forget(user, "D");
        assert!(shown.known(user, "D", Some(Seq(12))).is_empty());
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let shown = Shown::default();
        for device in 0..30 {
            let members = (0..10_000).map(|member| (Nid(1), Nid(member), Nid(1))).collect();
            shown.show(Nid(device), "D", Seq(1), members);
        }
        let table = shown.table();
        assert!(table.entries <= ENTRIES_MAX);
        assert_eq!(table.entries, table.devices.values().map(|device| device.members.len()).sum::<usize>());
    }
}
