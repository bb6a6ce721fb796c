//! Owns what a closure may do inside a transaction: read, write, intern, number, touch.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    sync::{Arc, atomic::Ordering},
};

use rusqlite::{Connection, OptionalExtension, Params, Row};

use super::{
    Kind, Nid, Seq, Shared, StoreError, ids::skey_text, lists::Lists, schema::events::EventRow, slow::Slice,
};

/// Texts that a group interned, for the cache after its commit.
pub(super) type Pending = RefCell<Vec<(Kind, Arc<str>, Nid)>>;

/// One snapshot of the database.
pub struct ReadTx<'a> {
    conn: &'a Connection,
    shared: &'a Shared,
    /// Position published before the snapshot began: everything up to it is in the snapshot.
    position: Seq,
    /// What this group interned, told to the cache after the commit. `None` in a read, which fills the cache itself.
    pending: Option<&'a Pending>,
    /// Entries of state snapshots that were looked up. Snapshots never change, so this cannot be wrong.
    pub(super) entries: RefCell<HashMap<(i64, Nid), Option<Nid>>>,
    /// Of a slow read: the slice of time that it is in.
    slice: RefCell<Option<Slice>>,
    /// The snapshot's epoch, for the cache of events.
    epoch: Cell<u64>,
}

impl<'a> ReadTx<'a> {
    pub(super) fn new(conn: &'a Connection, shared: &'a Shared) -> Self {
        Self::in_slices(conn, shared, None)
    }

    pub(super) fn in_slices(conn: &'a Connection, shared: &'a Shared, slice: Option<Slice>) -> Self {
        let position = Seq(shared.position.load(Ordering::Acquire) as i64);
        let (slice, epoch) = (RefCell::new(slice), Cell::new(shared.events.epoch()));
        Self { conn, shared, position, pending: None, entries: RefCell::default(), slice, epoch }
    }

    /// In a slow read ([`super::Store::read_slowly`]): lets others through and renews the snapshot, if it is time for
    /// that. Does nothing in other reads.
    pub fn breathe(&self) -> Result<(), StoreError> {
        if let Some(slice) = self.slice.borrow_mut().as_mut()
            && slice.is_over()
        {
            self.conn.prepare_cached("ROLLBACK")?.execute([])?;
            std::thread::yield_now();
            self.epoch.set(self.shared.events.epoch());
            self.conn.prepare_cached("BEGIN")?.execute([])?;
            slice.renew();
        }
        Ok(())
    }

    /// The connection, for typed statements in `store/schema`.
    pub fn conn(&self) -> &'a Connection {
        self.conn
    }

    /// Everything up to this position is in the snapshot (later things may be, too).
    pub fn position(&self) -> Seq {
        self.position
    }

    /// An event from the cache, as this snapshot sees it. The writer sees none: it may have changed it a moment ago.
    pub(super) fn cached_event(&self, nid: Nid) -> Option<Arc<EventRow>> {
        if self.pending.is_some() { None } else { self.shared.events.get(nid, self.epoch.get()) }
    }

    /// Keeps an event of this snapshot in the cache.
    pub(super) fn cache_event(&self, row: &Arc<EventRow>) {
        if self.pending.is_none() {
            self.shared.events.fill(row.clone(), self.epoch.get());
        }
    }

    /// Whole lists of state that were decoded lately.
    pub(super) fn lists(&self) -> &'a Lists {
        &self.shared.lists
    }

    /// The secret that keys state hashes.
    pub(crate) fn secret(&self) -> &[u8; 32] {
        &self.shared.secret
    }

    /// Number of a text, if it was ever mentioned.
    pub fn lookup(&self, kind: Kind, text: &str) -> Result<Option<Nid>, StoreError> {
        if let Some(nid) = self.shared.ids.nid(kind, text) {
            return Ok(Some(nid));
        }
        let nid: Option<Nid> =
            self.row("SELECT nid FROM intern WHERE kind = ?1 AND text = ?2", (kind as u8, text), |row| {
                row.get(0)
            })?;
        if let (Some(nid), None) = (nid, self.pending) {
            self.shared.ids.insert(kind, text.into(), nid);
        }
        Ok(nid)
    }

    /// Number of a (type, state key) pair, if it was ever mentioned.
    pub fn lookup_skey(&self, event_type: &str, state_key: &str) -> Result<Option<Nid>, StoreError> {
        self.lookup(Kind::Skey, &skey_text(event_type, state_key))
    }

    /// The text behind a number.
    pub fn text(&self, nid: Nid) -> Result<Arc<str>, StoreError> {
        if let Some(text) = self.shared.ids.text(nid) {
            return Ok(text);
        }
        let found: Option<(u8, String)> =
            self.row("SELECT kind, text FROM intern WHERE nid = ?1", [nid], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })?;
        let Some((kind, text)) = found else {
            return Err(StoreError::Corrupt("a number without its text"));
        };
        let text: Arc<str> = text.into();
        if let (None, Some(kind)) = (self.pending, kind_of(kind)) {
            self.shared.ids.insert(kind, text.clone(), nid);
        }
        Ok(text)
    }

    /// The first row of a query, if any. The statement is prepared once and kept.
    pub fn row<T>(
        &self,
        sql: &str,
        params: impl Params,
        read: impl FnOnce(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Option<T>, StoreError> {
        Ok(self.conn.prepare_cached(sql)?.query_row(params, read).optional()?)
    }

    /// All rows of a query.
    pub fn rows<T>(
        &self,
        sql: &str,
        params: impl Params,
        read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>, StoreError> {
        let mut statement = self.conn.prepare_cached(sql)?;
        let rows = statement.query_map(params, read)?.collect::<Result<Vec<_>, _>>()?;
        Ok(rows)
    }
}

fn kind_of(kind: u8) -> Option<Kind> {
    Some(match kind {
        1 => Kind::User,
        2 => Kind::Server,
        3 => Kind::Room,
        4 => Kind::Type,
        5 => Kind::Skey,
        6 => Kind::Device,
        7 => Kind::Name,
        _ => return None,
    })
}

/// Whom a commit concerns. Published with the new position after it, never before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Touched {
    /// Something only this local user sees: to-device messages, account data, own membership, device lists.
    User(Nid),
    /// Something that everyone in this room sees.
    Room(Nid),
    /// The outbox has a new row: the federation sender wakes.
    Outbox,
}

/// One operation's part of the writer's transaction. Reads see what was written before in the same group.
pub struct WriteTx<'a> {
    read: ReadTx<'a>,
    group: &'a mut Group,
    pending: &'a Pending,
}

impl<'a> std::ops::Deref for WriteTx<'a> {
    type Target = ReadTx<'a>;

    fn deref(&self) -> &Self::Target {
        &self.read
    }
}

impl<'a> WriteTx<'a> {
    pub(super) fn new(
        conn: &'a Connection,
        shared: &'a Shared,
        group: &'a mut Group,
        pending: &'a Pending,
    ) -> Self {
        let read = ReadTx { pending: Some(pending), ..ReadTx::new(conn, shared) };
        Self { read, group, pending }
    }

    /// Runs one writing statement; gives the number of rows it changed. Every write goes through here, so that a test
    /// can cut the power between any two.
    pub fn execute(&mut self, sql: &str, params: impl Params) -> Result<usize, StoreError> {
        if let Some(fault) = &self.read.shared.fault
            && fault.strikes()
        {
            self.group.cut = true;
            return Err(StoreError::Fault);
        }
        if let Some(error) = self.read.shared.fault.as_ref().and_then(|fault| fault.error()) {
            return Err(error.into());
        }
        Ok(self.read.conn.prepare_cached(sql)?.execute(params)?)
    }

    /// Number of a text, given out now if it was never mentioned.
    pub fn intern(&mut self, kind: Kind, text: &str) -> Result<Nid, StoreError> {
        if let Some(nid) = self.read.lookup(kind, text)? {
            return Ok(nid);
        }
        let nid = Nid(self.next(Counter::Nid)?);
        self.execute("INSERT INTO intern(nid, kind, text) VALUES(?1, ?2, ?3)", (nid, kind as u8, text))?;
        self.pending.borrow_mut().push((kind, text.into(), nid));
        Ok(nid)
    }

    /// Number of a (type, state key) pair, given out now if it was never mentioned.
    pub fn intern_skey(&mut self, event_type: &str, state_key: &str) -> Result<Nid, StoreError> {
        self.intern(Kind::Skey, &skey_text(event_type, state_key))
    }

    /// The next place in the commit order. Never given out twice, not even after a crash or a rollback.
    pub fn next_seq(&mut self) -> Result<Seq, StoreError> {
        self.next(Counter::Seq).map(Seq)
    }

    /// The next number of `counter`.
    pub(crate) fn next(&mut self, counter: Counter) -> Result<i64, StoreError> {
        let entry = &mut self.group.counters.0[counter as usize];
        if entry.next >= entry.limit {
            entry.limit = entry.next + COUNTER_BLOCK;
            let limit = entry.limit;
            self.execute("UPDATE counter SET next = ?2 WHERE name = ?1", (counter.name(), limit))?;
        }
        let entry = &mut self.group.counters.0[counter as usize];
        let value = entry.next;
        entry.next += 1;
        Ok(value)
    }

    /// Leaves out the next `distance` numbers of every counter.
    pub(super) fn jump(&mut self, distance: i64) -> Result<(), StoreError> {
        for counter in Counter::ALL {
            let entry = &mut self.group.counters.0[counter as usize];
            entry.next = entry.limit.max(entry.next).saturating_add(distance);
            entry.limit = entry.next;
            let next = entry.next;
            self.execute("UPDATE counter SET next = ?2 WHERE name = ?1", (counter.name(), next))?;
        }
        Ok(())
    }

    /// Notes that an event was stored, changed or removed: the cache forgets it after the commit.
    pub(super) fn event_changed(&mut self, nid: Nid) {
        self.group.events.push(nid);
    }

    /// Says whom this operation concerns; they are woken after the commit.
    pub fn touch(&mut self, touched: Touched) {
        if !self.group.touched.contains(&touched) {
            self.group.touched.push(touched);
        }
    }
}

/// What a group gathers beside the rows.
pub(super) struct Group {
    pub(super) counters: Counters,
    pub(super) touched: Vec<Touched>,
    /// Events stored, changed or removed.
    pub(super) events: Vec<Nid>,
    /// A [`super::Fault`] struck.
    pub(super) cut: bool,
}

/// The numbers that are stored counters.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Counter {
    Seq = 0,
    Nid = 1,
    Event = 2,
    State = 3,
    Back = 4,
}

impl Counter {
    const ALL: [Self; 5] = [Self::Seq, Self::Nid, Self::Event, Self::State, Self::Back];

    fn name(self) -> &'static str {
        match self {
            Self::Seq => "seq",
            Self::Nid => "nid",
            Self::Event => "event",
            Self::State => "state",
            Self::Back => "back",
        }
    }
}

/// Numbers reserved durably at a time: a crash skips at most so many, and a counter costs one write in so many.
const COUNTER_BLOCK: i64 = 1024;

/// The counters in RAM. `limit` is what the file says: numbers below it may have been used.
#[derive(Clone, Copy, Debug)]
pub(super) struct Counters(pub(super) [Count; 5]);

#[derive(Clone, Copy, Debug)]
pub(super) struct Count {
    pub(super) next: i64,
    pub(super) limit: i64,
}

impl Counters {
    pub(super) fn load(conn: &Connection) -> Result<Self, StoreError> {
        let mut counts = [Count { next: 1, limit: 1 }; 5];
        for counter in Counter::ALL {
            conn.execute("INSERT OR IGNORE INTO counter(name, next) VALUES(?1, 1)", [counter.name()])?;
            let next =
                conn.query_row("SELECT next FROM counter WHERE name = ?1", [counter.name()], |row| {
                    row.get(0)
                })?;
            counts[counter as usize] = Count { next, limit: next };
        }
        Ok(Self(counts))
    }

    /// The highest position given out.
    pub(super) fn position(&self) -> Seq {
        Seq(self.0[Counter::Seq as usize].next - 1)
    }

    /// After a rollback: the file's limits are those of `before`, but no number is used again.
    pub(super) fn rolled_back(&mut self, before: &Self) {
        for (count, before) in self.0.iter_mut().zip(before.0) {
            count.limit = before.limit;
        }
    }
}
