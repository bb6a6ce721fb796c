//! Owns the table of sessions: found by node or slot, bounded, and who has to go when it is full.
use super::state::Session;
use crate::id::NodeId;
use crate::time::Instant;
use std::collections::HashMap;

/// Sessions in slots; a slot's number is used again only after its session has gone.
#[derive(Default)]
pub(super) struct Table {
    slots: Vec<Option<Entry>>,
    free: Vec<usize>,
    by_node: HashMap<NodeId, usize>,
    by_address: HashMap<[u8; 16], usize>,
}

struct Entry {
    session: Box<Session>,
    /// When the session's timer is set for; never later than its deadline.
    armed: Option<Instant>,
}

impl Table {
    pub(super) fn find(&self, node: &NodeId) -> Option<usize> {
        self.by_node.get(node).copied()
    }

    pub(super) fn find_address(&self, address: &[u8; 16]) -> Option<usize> {
        self.by_address.get(address).copied()
    }

    /// The session in a slot that is known to be taken.
    pub(super) fn get(&self, slot: usize) -> &Session {
        &self.entry(slot).session
    }

    pub(super) fn get_mut(&mut self, slot: usize) -> &mut Session {
        &mut self.entry_mut(slot).session
    }

    /// All slots that are taken, in order.
    pub(super) fn slots(&self) -> impl Iterator<Item = usize> + use<> {
        let taken: Vec<usize> = (0..self.slots.len()).filter(|&slot| self.slots[slot].is_some()).collect();
        taken.into_iter()
    }

    pub(super) fn insert(&mut self, session: Session) -> usize {
        let (node, address) = (session.node, session.address);
        let entry = Some(Entry { session: Box::new(session), armed: None });
        let slot = match self.free.pop() {
            Some(slot) => {
                self.slots[slot] = entry;
                slot
            }
            None => {
                self.slots.push(entry);
                self.slots.len() - 1
            }
        };
        self.by_node.insert(node, slot);
        self.by_address.insert(address, slot);
        slot
    }

    /// Takes a session out; gives the timer that it had.
    pub(super) fn remove(&mut self, slot: usize) -> Option<Instant> {
        let entry = self.slots[slot].take()?;
        self.by_node.remove(&entry.session.node);
        self.by_address.remove(&entry.session.address);
        self.free.push(slot);
        entry.armed
    }

    /// Who has to go before another session is made; `None` if there is room. First what strangers have begun and not
    /// finished, if that is more than its share; then, in a full table, the longest unused among those that only the
    /// other side wanted; then the longest unused of all. O(sessions).
    pub(super) fn victim(&self) -> Option<usize> {
        let entries = || {
            let taken = self.slots.iter().enumerate();
            taken.filter_map(|(slot, entry)| Some((slot, &entry.as_ref()?.session)))
        };
        let half_open = || entries().filter(|(_, session)| session.is_half_open());
        if half_open().count() >= HALF_OPEN_MAX {
            return half_open().min_by_key(|(_, session)| session.used_at).map(|(slot, _)| slot);
        }
        if self.by_node.len() < SESSIONS_MAX {
            return None;
        }
        entries().min_by_key(|(_, session)| (session.wanted, session.used_at)).map(|(slot, _)| slot)
    }

    /// Sets the timer of a slot if that is earlier than what is set: then gives what it replaces.
    pub(super) fn arm(&mut self, slot: usize, at: Instant) -> Option<Option<Instant>> {
        let armed = &mut self.entry_mut(slot).armed;
        if armed.is_some_and(|set| set <= at) {
            return None;
        }
        Some(armed.replace(at))
    }

    /// The slot's timer has fired.
    pub(super) fn disarm(&mut self, slot: usize) {
        self.entry_mut(slot).armed = None;
    }

    fn entry(&self, slot: usize) -> &Entry {
        self.slots[slot].as_ref().expect("indexes and timers lead only to taken slots")
    }

    fn entry_mut(&mut self, slot: usize) -> &mut Entry {
        self.slots[slot].as_mut().expect("indexes and timers lead only to taken slots")
    }
}

/// Sessions at once. One takes about 4 KiB, so all take 16 MiB.
pub(super) const SESSIONS_MAX: usize = 4096;
/// Sessions that strangers have begun and not finished: more than arrive in the time that an initiator tries.
pub(crate) const HALF_OPEN_MAX: usize = 512;
