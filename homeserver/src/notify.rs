//! Owns wake-ups: after a commit, who must look again. Waiters are told positions, never data.
//!
//! A waiter registers first, then reads, then waits, so that nothing can fall between: [`Notify::watch`], [`Watch::follow`]
//! the rooms, read the store, and if there was nothing to show, [`Watch::changed`].

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicI64, Ordering},
    },
};

use tokio::sync::watch;

use crate::store::{Nid, Seq, Touched};

/// Who waits for what. Clones share it.
#[derive(Clone)]
pub struct Notify {
    inner: Arc<Inner>,
}

struct Inner {
    table: Mutex<Table>,
    outbox: watch::Sender<Seq>,
    position: watch::Sender<Seq>,
}

#[derive(Default)]
struct Table {
    next: u64,
    users: HashMap<Nid, HashSet<u64>>,
    rooms: HashMap<Nid, HashSet<u64>>,
    waiters: HashMap<u64, Arc<Waiter>>,
}

struct Waiter {
    wake: tokio::sync::Notify,
    /// Position of the last wake-up.
    position: AtomicI64,
}

impl Default for Notify {
    fn default() -> Self {
        Self::new()
    }
}

impl Notify {
    /// Nobody waits yet.
    pub fn new() -> Self {
        let (outbox, _) = watch::channel(Seq(0));
        let (position, _) = watch::channel(Seq(0));
        Self { inner: Arc::new(Inner { table: Mutex::new(Table::default()), outbox, position }) }
    }

    /// Registers a waiter for what touches the local user `user`. Ends when the watch is dropped.
    pub fn watch(&self, user: Nid) -> Watch {
        let waiter = Arc::new(Waiter { wake: tokio::sync::Notify::new(), position: AtomicI64::new(0) });
        let mut table = self.table();
        table.next += 1;
        let id = table.next;
        table.waiters.insert(id, waiter.clone());
        table.users.entry(user).or_default().insert(id);
        drop(table);
        Watch { notify: self.clone(), id, user, rooms: HashSet::new(), waiter }
    }

    /// Position of the last commit that put something in the outbox.
    pub fn outbox(&self) -> watch::Receiver<Seq> {
        self.inner.outbox.subscribe()
    }

    /// Position of the last commit, whoever it concerned.
    pub fn position(&self) -> watch::Receiver<Seq> {
        self.inner.position.subscribe()
    }

    /// Wakes for something that is not stored (typing, presence). `position` comes from `WriteTx::next_seq`, so that it
    /// has its place in the one order.
    pub fn touch_ephemeral(&self, touched: Touched, position: Seq) {
        self.publish(position, &[touched]);
    }

    /// Called by the store after each commit.
    pub(crate) fn publish(&self, position: Seq, touched: &[Touched]) {
        self.inner.position.send_replace(position);
        if touched.is_empty() {
            return;
        }
        let mut outbox = false;
        let table = self.table();
        for touched in touched {
            let waiters = match touched {
                Touched::User(user) => table.users.get(user),
                Touched::Room(room) => table.rooms.get(room),
                Touched::Outbox => {
                    outbox = true;
                    None
                }
            };
            for waiter in waiters.into_iter().flatten().filter_map(|id| table.waiters.get(id)) {
                waiter.position.fetch_max(position.0, Ordering::AcqRel);
                waiter.wake.notify_one();
            }
        }
        drop(table);
        if outbox {
            self.inner.outbox.send_replace(position);
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.inner.table.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// One waiter. Wake-ups that come between registering and waiting are kept.
pub struct Watch {
    notify: Notify,
    id: u64,
    user: Nid,
    rooms: HashSet<Nid>,
    waiter: Arc<Waiter>,
}

impl Watch {
    /// Also wakes for what touches these rooms. Rooms that are followed already cost a look-up only.
    pub fn follow(&mut self, rooms: impl IntoIterator<Item = Nid>) {
        let new: Vec<Nid> = rooms.into_iter().filter(|room| self.rooms.insert(*room)).collect();
        if new.is_empty() {
            return;
        }
        let mut table = self.notify.table();
        for room in new {
            table.rooms.entry(room).or_default().insert(self.id);
        }
    }

    /// Waits until something that is watched was committed since the last call (or since registering); gives its
    /// position. Cancel safe.
    pub async fn changed(&mut self) -> Seq {
        self.waiter.wake.notified().await;
        Seq(self.waiter.position.load(Ordering::Acquire))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut table = self.notify.table();
        table.waiters.remove(&self.id);
        remove(&mut table.users, self.user, self.id);
        for room in &self.rooms {
            remove(&mut table.rooms, *room, self.id);
        }
    }
}

fn remove(map: &mut HashMap<Nid, HashSet<u64>>, key: Nid, id: u64) {
    if let Some(set) = map.get_mut(&key) {
        set.remove(&id);
        if set.is_empty() {
            map.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn wakes_that_come_before_the_wait_are_kept() {
        let notify = Notify::new();
        let mut watch = notify.watch(Nid(1));
        watch.follow([Nid(7)]);
        notify.publish(Seq(3), &[Touched::Room(Nid(7))]);
        notify.publish(Seq(4), &[Touched::Room(Nid(8))]);
        assert_eq!(watch.changed().await, Seq(3));
        let mut outbox = notify.outbox();
        notify.publish(Seq(5), &[Touched::User(Nid(1)), Touched::Outbox]);
        assert_eq!(watch.changed().await, Seq(5));
        outbox.changed().await.unwrap();
        drop(watch);
        assert!(notify.table().rooms.is_empty() && notify.table().users.is_empty());
    }
}
