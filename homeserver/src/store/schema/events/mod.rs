//! Owns the tables of events: what they are, where they stand, what points at what.
//!
//! | table | key -> value | written by | read by |
//! |---|---|---|---|
//! | `eid` | key of an event id ([`Key`]) -> its number, whether it is here or only mentioned | append | everywhere |
//! | `mention` | number -> key of an event that is only mentioned | append | everywhere |
//! | `event` | number -> the event, as what clients may see and the rest | append, redaction | everywhere |
//! | `timeline` | (room, depth, seq) -> number | append | messages, context, backfill |
//! | `stream` | commit order of all that a sync shows | append, other areas | sync |
//! | `edge` | (prev, child) | append | gaps, backfill |
//! | `fwd_extremity`, `missing_prev` | ends of the known graph | append | worker, backfill |
//! | `relation` | (parent, rel_type, child) | append | aggregation |
//! | `redaction` | (target, redaction), also before the target is here | append | append |
//! | `txn_id` | a client's transaction -> the event it made | append | send, sync |

use std::sync::Arc;

use ruma::{EventId, OwnedEventId};

use crate::store::{
    Nid, ReadTx, Seq, StoreError, WriteTx,
    codec::{put_list, take_list},
    tx::Counter,
};

pub use self::{
    key::Key,
    relations::{around, children, put_redaction, put_relation, redactions, relations, remove_relation},
    txn::{TxnOf, put_txn, txn},
    walk::{HISTORY_START, History, aged, history, of_room},
};
use super::{chain, search};

mod key;
mod relations;
mod txn;
mod walk;

/// See the module.
pub const SCHEMA: &str = "
CREATE TABLE eid(nid INTEGER PRIMARY KEY, hash BLOB NOT NULL UNIQUE);
CREATE TABLE event(
  nid INTEGER PRIMARY KEY, room INTEGER NOT NULL, type INTEGER NOT NULL, skey INTEGER, sender INTEGER NOT NULL,
  ts INTEGER NOT NULL, depth INTEGER NOT NULL, seq INTEGER, flags INTEGER NOT NULL,
  state_before INTEGER, state_after INTEGER, redacted_by INTEGER, prev BLOB NOT NULL, auth BLOB NOT NULL,
  client BLOB NOT NULL, rest BLOB NOT NULL);
CREATE INDEX event_room ON event(room, ts);
CREATE TABLE timeline(room INTEGER, depth INTEGER, seq INTEGER, nid INTEGER NOT NULL,
  PRIMARY KEY(room, depth, seq)) WITHOUT ROWID;
CREATE TABLE stream(seq INTEGER PRIMARY KEY, kind INTEGER NOT NULL, room INTEGER, user INTEGER, ref INTEGER,
  msgs INTEGER NOT NULL DEFAULT 0);
CREATE INDEX stream_room ON stream(room, seq) WHERE room IS NOT NULL;
CREATE INDEX stream_user ON stream(user, seq) WHERE user IS NOT NULL;
CREATE TABLE edge(prev INTEGER, child INTEGER, PRIMARY KEY(prev, child)) WITHOUT ROWID;
CREATE TABLE fwd_extremity(room INTEGER, nid INTEGER, PRIMARY KEY(room, nid)) WITHOUT ROWID;
CREATE TABLE missing_prev(room INTEGER, prev INTEGER, child INTEGER, PRIMARY KEY(room, prev, child)) WITHOUT ROWID;
CREATE TABLE relation(parent INTEGER, rel INTEGER, child INTEGER, sender INTEGER NOT NULL,
  PRIMARY KEY(parent, rel, child)) WITHOUT ROWID;
CREATE TABLE redaction(target INTEGER, nid INTEGER, power INTEGER NOT NULL, PRIMARY KEY(target, nid)) WITHOUT ROWID;
CREATE TABLE txn_id(user INTEGER, device INTEGER, txn TEXT, event INTEGER NOT NULL, ts INTEGER NOT NULL,
  PRIMARY KEY(user, device, txn)) WITHOUT ROWID;
CREATE INDEX txn_event ON txn_id(event);
";

/// What a message writes, made less: an event's hash and transaction are in its row, so that `eid` is one tree instead of
/// two and transactions need no index by event.
pub const COMPACT: &str = "
CREATE TABLE event_new(
  nid INTEGER PRIMARY KEY, room INTEGER NOT NULL, type INTEGER NOT NULL, skey INTEGER, sender INTEGER NOT NULL,
  ts INTEGER NOT NULL, depth INTEGER NOT NULL, seq INTEGER, flags INTEGER NOT NULL,
  state_before INTEGER, state_after INTEGER, redacted_by INTEGER, device INTEGER, txn TEXT, hash BLOB NOT NULL,
  prev BLOB NOT NULL, auth BLOB NOT NULL, client BLOB NOT NULL, rest BLOB NOT NULL);
INSERT INTO event_new SELECT event.nid, room, type, skey, sender, event.ts, depth, seq, flags, state_before, state_after,
  redacted_by, txn_id.device, substr(txn, instr(txn, ' ') + 1), eid.hash, prev, auth, client, rest
  FROM event JOIN eid ON eid.nid = event.nid LEFT JOIN txn_id ON txn_id.event = event.nid GROUP BY event.nid;
CREATE TABLE mention(nid INTEGER PRIMARY KEY, hash BLOB NOT NULL);
INSERT INTO mention SELECT nid, hash FROM eid WHERE nid NOT IN (SELECT nid FROM event);
CREATE TABLE eid_new(hash BLOB PRIMARY KEY, nid INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO eid_new SELECT hash, nid FROM eid;
CREATE TABLE txn_new(user INTEGER, device INTEGER, room INTEGER, txn TEXT, event INTEGER NOT NULL, ts INTEGER NOT NULL,
  PRIMARY KEY(user, device, room, txn)) WITHOUT ROWID;
INSERT OR IGNORE INTO txn_new SELECT user, device, event.room, substr(txn, instr(txn, ' ') + 1), event, txn_id.ts
  FROM txn_id JOIN event ON event.nid = txn_id.event;
DROP TABLE txn_id;
ALTER TABLE txn_new RENAME TO txn_id;
DROP TABLE eid;
ALTER TABLE eid_new RENAME TO eid;
DROP TABLE event;
ALTER TABLE event_new RENAME TO event;
CREATE INDEX event_room ON event(room, ts);
";

/// The event failed the rules at its own place; it is kept so that nothing that builds on it is believed.
pub const REJECTED: i64 = 1;
/// Allowed at its own place, not by the state now: kept, shown to nobody.
pub const SOFT_FAILED: i64 = 2;
/// Here because something referred to it (state, auth chain, an invite), not because it has a place in the timeline.
pub const OUTLIER: i64 = 4;
/// Stored pruned.
pub const REDACTED: i64 = 8;
/// Came with a partial state; authorised again when that is whole.
pub const PARTIAL: i64 = 16;
/// The PDU has no `room_id`: the create event whose hash is the room's id.
pub const NO_ROOM_ID: i64 = 32;
/// `rest` holds neither `prev_events` nor `auth_events`: they are made of the numbers. (Rows from before hold them.)
pub const NO_LISTS: i64 = 64;
/// Its time is over by the room's retention: stored pruned, in no timeline, shown to nobody.
pub const EXPIRED: i64 = 128;

/// Sticks, or stuck (MSC4354): `sticky` says until when.
pub const STICKY: i64 = 256;

/// What a row of `stream` tells. Other areas add their own.
pub mod stream_kind {
    /// `ref` is an event with a place in the room's timeline.
    pub const EVENT: i64 = 1;
    /// `user`'s own membership of `room` changed in the resolved state (also invites and knocks without the room);
    /// `ref` is the membership event.
    pub const MEMBERSHIP: i64 = 2;
    /// A redaction whose target came later: `ref` is the redaction.
    pub const REDACTION: i64 = 3;
    /// A room that was joined with a part of its state is whole.
    pub const WHOLE: i64 = 4;
    /// Receipts (hs: `room/receipt.rs`).
    pub const RECEIPT: i64 = 10;
    /// Account data of a user.
    pub const ACCOUNT_DATA: i64 = 11;
    /// A to-device message waits.
    pub const TO_DEVICE: i64 = 12;
    /// A user's devices or keys changed.
    pub const DEVICE_LIST: i64 = 13;
    /// One-time key counts changed.
    pub const ONE_TIME_KEYS: i64 = 14;
    /// Typing (never stored; for symmetry).
    pub const TYPING: i64 = 15;
}

/// A row of `event`.
#[derive(Clone, Debug)]
pub struct EventRow {
    /// Its number.
    pub nid: Nid,
    /// The room's number.
    pub room: Nid,
    /// The type's number ([`crate::store::Kind::Type`]).
    pub kind: Nid,
    /// The (type, state key) pair, for state events.
    pub skey: Option<Nid>,
    /// The sender's number.
    pub sender: Nid,
    /// `origin_server_ts`.
    pub ts: i64,
    /// Its depth in our timeline (as claimed, for an outlier).
    pub depth: i64,
    /// Position in the stream, or a negative number if backfilled; none if not in the timeline.
    pub seq: Option<Seq>,
    /// [`REJECTED`] and friends.
    pub flags: i64,
    /// The room's state before and after it, where known.
    pub state_before: Option<i64>,
    /// See [`EventRow::state_before`].
    pub state_after: Option<i64>,
    /// The redaction that pruned it.
    pub redacted_by: Option<Nid>,
    /// The device of ours that sent it, and its transaction id.
    pub sent: Option<(Nid, String)>,
    /// Its id.
    pub key: Key,
    /// Numbers of its `prev_events`.
    pub prev: Vec<Nid>,
    /// Numbers of its `auth_events`.
    pub auth: Vec<Nid>,
    /// Canonical JSON object of what clients may see (no `event_id`, no `room_id`).
    pub client: Vec<u8>,
    /// JSON object of everything else in the PDU, without the lists of events ([`NO_LISTS`]).
    pub rest: Vec<u8>,
}

macro_rules! columns {
    () => {
        "nid, room, type, skey, sender, ts, depth, seq, flags, state_before, state_after, redacted_by, device, \
         txn, hash, prev, auth, client, rest"
    };
}

fn read_event(row: &rusqlite::Row<'_>) -> rusqlite::Result<EventRow> {
    let nids = |index: usize| -> rusqlite::Result<Vec<Nid>> {
        let list = take_list(row.get_ref(index)?.as_blob()?).map_err(|error| {
            rusqlite::Error::FromSqlConversionFailure(index, rusqlite::types::Type::Blob, Box::new(error))
        })?;
        Ok(list.into_iter().map(Nid).collect())
    };
    Ok(EventRow {
        nid: row.get(0)?,
        room: row.get(1)?,
        kind: row.get(2)?,
        skey: row.get(3)?,
        sender: row.get(4)?,
        ts: row.get(5)?,
        depth: row.get(6)?,
        seq: row.get(7)?,
        flags: row.get(8)?,
        state_before: row.get(9)?,
        state_after: row.get(10)?,
        redacted_by: row.get(11)?,
        sent: row.get::<_, Option<Nid>>(12)?.zip(row.get(13)?),
        key: row.get(14)?,
        prev: nids(15)?,
        auth: nids(16)?,
        client: row.get(17)?,
        rest: row.get(18)?,
    })
}

/// Number of an event id, if it was ever mentioned.
pub fn nid(tx: &ReadTx<'_>, id: &EventId) -> Result<Option<Nid>, StoreError> {
    tx.row("SELECT nid FROM eid WHERE hash = ?1", [Key::of(id)], |row| row.get(0))
}

/// Number of an event id, given out now if it was never mentioned.
pub fn intern(tx: &mut WriteTx<'_>, id: &EventId) -> Result<Nid, StoreError> {
    if let Some(nid) = nid(tx, id)? {
        return Ok(nid);
    }
    let (nid, key) = number(tx, id)?;
    tx.execute("INSERT INTO mention(nid, hash) VALUES(?1, ?2)", (nid, key))?;
    Ok(nid)
}

/// [`intern`] for an event that is stored ([`put`]) in the same operation: its number and its key.
pub fn intern_stored(tx: &mut WriteTx<'_>, id: &EventId) -> Result<(Nid, Key), StoreError> {
    match nid(tx, id)? {
        Some(nid) => Ok((nid, Key::of(id))),
        None => number(tx, id),
    }
}

fn number(tx: &mut WriteTx<'_>, id: &EventId) -> Result<(Nid, Key), StoreError> {
    let key = Key::of(id);
    let nid = Nid(tx.next(Counter::Event)?);
    tx.execute("INSERT INTO eid(hash, nid) VALUES(?1, ?2)", (&key, nid))?;
    Ok((nid, key))
}

/// The event id of a number.
pub fn id(tx: &ReadTx<'_>, nid: Nid) -> Result<OwnedEventId, StoreError> {
    if let Some(event) = tx.cached_event(nid) {
        return event.key.id();
    }
    let of_stored = tx.row("SELECT hash FROM event WHERE nid = ?1", [nid], |row| row.get::<_, Key>(0))?;
    let key = match of_stored {
        Some(key) => Some(key),
        None => tx.row("SELECT hash FROM mention WHERE nid = ?1", [nid], |row| row.get(0))?,
    };
    key.ok_or(StoreError::Corrupt("event number without id"))?.id()
}

/// The event with this number, if it is here.
pub fn event(tx: &ReadTx<'_>, nid: Nid) -> Result<Option<EventRow>, StoreError> {
    Ok(shared_event(tx, nid)?.map(Arc::unwrap_or_clone))
}

/// [`event`] for whoever only looks at it.
pub fn shared_event(tx: &ReadTx<'_>, nid: Nid) -> Result<Option<Arc<EventRow>>, StoreError> {
    if let Some(row) = tx.cached_event(nid) {
        return Ok(Some(row));
    }
    let row = tx.row(concat!("SELECT ", columns!(), " FROM event WHERE nid = ?1"), [nid], read_event)?;
    let row = row.map(Arc::new);
    if let Some(row) = &row {
        tx.cache_event(row);
    }
    Ok(row)
}

/// The event with this id, if it is here.
pub fn event_by_id(tx: &ReadTx<'_>, id: &EventId) -> Result<Option<EventRow>, StoreError> {
    match nid(tx, id)? {
        Some(nid) => event(tx, nid),
        None => Ok(None),
    }
}

/// Numbers of its auth events, if it is here.
pub fn auth(tx: &ReadTx<'_>, nid: Nid) -> Result<Option<Vec<Nid>>, StoreError> {
    let blob: Option<Vec<u8>> = tx.row("SELECT auth FROM event WHERE nid = ?1", [nid], |row| row.get(0))?;
    Ok(match blob {
        Some(blob) => Some(take_list(&blob)?.into_iter().map(Nid).collect()),
        None => None,
    })
}

/// Depth and flags of an event, if it is here.
pub fn standing(tx: &ReadTx<'_>, nid: Nid) -> Result<Option<(i64, i64)>, StoreError> {
    tx.row("SELECT depth, flags FROM event WHERE nid = ?1", [nid], |row| Ok((row.get(0)?, row.get(1)?)))
}

/// Whether an event is here with a place in the graph.
pub fn is_placed(tx: &ReadTx<'_>, nid: Nid) -> Result<bool, StoreError> {
    Ok(standing(tx, nid)?.is_some_and(|(_, flags)| flags & OUTLIER == 0))
}

/// Places of the timeline from (depth, seq) on, in the order of the direction: smaller ones backwards, equal or greater
/// ones forwards.
pub fn places(
    tx: &ReadTx<'_>,
    room: Nid,
    from: (i64, Seq),
    seqs: (Seq, Seq),
    backwards: bool,
    limit: u32,
) -> Result<Vec<(i64, Seq, Nid)>, StoreError> {
    let sql = if backwards {
        "SELECT depth, seq, nid FROM timeline WHERE room = ?1 AND (depth, seq) < (?2, ?3) \
         AND seq BETWEEN ?4 AND ?5 ORDER BY depth DESC, seq DESC LIMIT ?6"
    } else {
        "SELECT depth, seq, nid FROM timeline WHERE room = ?1 AND (depth, seq) >= (?2, ?3) \
         AND seq BETWEEN ?4 AND ?5 ORDER BY depth, seq LIMIT ?6"
    };
    tx.rows(sql, (room, from.0, from.1, seqs.0, seqs.1, limit), |row| {
        Ok((row.get(0)?, row.get(1)?, row.get(2)?))
    })
}

/// Number of children of `parent` in the way `rel`, and whether one is by `sender`.
pub fn relation_count(
    tx: &ReadTx<'_>,
    parent: Nid,
    rel: Nid,
    sender: Nid,
) -> Result<(i64, bool), StoreError> {
    let found = tx.row(
        "SELECT count(*), coalesce(max(sender = ?3), 0) FROM relation WHERE parent = ?1 AND rel = ?2",
        (parent, rel, sender),
        |row| Ok((row.get(0)?, row.get(1)?)),
    )?;
    Ok(found.unwrap_or_default())
}

/// Stores an event, or (an outlier that gets its place) stores it anew.
pub fn put(tx: &mut WriteTx<'_>, event: &EventRow) -> Result<(), StoreError> {
    tx.execute("DELETE FROM mention WHERE nid = ?1", [event.nid])?;
    let prev = put_list(event.prev.iter().map(|nid| nid.0));
    let auth = put_list(event.auth.iter().map(|nid| nid.0));
    tx.execute(
        concat!(
            "INSERT OR REPLACE INTO event(",
            columns!(),
            ") VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19)"
        ),
        rusqlite::params![
            event.nid,
            event.room,
            event.kind,
            event.skey,
            event.sender,
            event.ts,
            event.depth,
            event.seq,
            event.flags,
            event.state_before,
            event.state_after,
            event.redacted_by,
            event.sent.as_ref().map(|(device, _)| device),
            event.sent.as_ref().map(|(_, txn)| txn),
            event.key,
            prev,
            auth,
            event.client,
            event.rest
        ],
    )?;
    tx.event_changed(event.nid);
    chain::cover(tx, event)
}

/// Replaces an event's two objects by their pruned form.
pub fn prune(tx: &mut WriteTx<'_>, nid: Nid, by: Nid, client: &[u8], rest: &[u8]) -> Result<(), StoreError> {
    tx.execute(
        "UPDATE event SET client = ?3, rest = ?4, redacted_by = ?2, flags = flags | ?5 WHERE nid = ?1",
        (nid, by, client, rest, REDACTED),
    )?;
    tx.event_changed(nid);
    Ok(())
}

/// Takes an event's content and place away; the graph keeps it. `client` and `rest` are its pruned form.
pub fn expire(tx: &mut WriteTx<'_>, event: &EventRow, client: &[u8], rest: &[u8]) -> Result<(), StoreError> {
    tx.execute(
        "UPDATE event SET client = ?2, rest = ?3, seq = NULL, device = NULL, txn = NULL, flags = flags | ?4 \
         WHERE nid = ?1",
        (event.nid, client, rest, EXPIRED),
    )?;
    unplace(tx, event)?;
    search::remove(tx, event.nid)?;
    // Nobody pages back beyond it: what lies there is older still.
    tx.execute("DELETE FROM missing_prev WHERE room = ?1 AND child = ?2", (event.room, event.nid))?;
    tx.event_changed(event.nid);
    Ok(())
}

/// Takes an event's place in timeline and stream away.
pub fn withdraw(tx: &mut WriteTx<'_>, event: &EventRow) -> Result<(), StoreError> {
    unplace(tx, event)?;
    search::remove(tx, event.nid)
}

fn unplace(tx: &mut WriteTx<'_>, event: &EventRow) -> Result<(), StoreError> {
    let Some(seq) = event.seq else { return Ok(()) };
    tx.execute(
        "DELETE FROM timeline WHERE room = ?1 AND depth = ?2 AND seq = ?3",
        (event.room, event.depth, seq),
    )?;
    tx.execute("DELETE FROM stream WHERE seq = ?1 AND ref = ?2", (seq, event.nid))?;
    Ok(())
}

/// Removes an event with all that hangs on it. For rooms that go as a whole: what built on it is not looked after.
pub fn remove(tx: &mut WriteTx<'_>, nid: Nid) -> Result<(), StoreError> {
    let Some(event) = event(tx, nid)? else { return Ok(()) };
    unplace(tx, &event)?;
    search::remove(tx, nid)?;
    tx.execute("DELETE FROM edge WHERE prev = ?1", [nid])?;
    for prev in &event.prev {
        tx.execute("DELETE FROM edge WHERE prev = ?1 AND child = ?2", (prev, nid))?;
    }
    for mentioned in event.prev.iter().chain(&event.auth) {
        tx.execute("DELETE FROM eid WHERE hash = (SELECT hash FROM mention WHERE nid = ?1)", [mentioned])?;
        tx.execute("DELETE FROM mention WHERE nid = ?1", [mentioned])?;
    }
    tx.execute("DELETE FROM relation WHERE parent = ?1", [nid])?;
    tx.execute("DELETE FROM redaction WHERE target = ?1", [nid])?;
    tx.execute("DELETE FROM chain WHERE nid = ?1", [nid])?;
    tx.execute("DELETE FROM chain_link WHERE chain = ?1", [nid])?;
    if let Some((device, txn)) = &event.sent {
        tx.execute(
            "DELETE FROM txn_id WHERE user = ?1 AND device = ?2 AND room = ?3 AND txn = ?4",
            (event.sender, device, event.room, txn),
        )?;
    }
    tx.execute("DELETE FROM eid WHERE hash = ?1", [&event.key])?;
    tx.execute("DELETE FROM event WHERE nid = ?1", [nid])?;
    tx.event_changed(nid);
    Ok(())
}

/// Gives an event its place in the room's timeline.
pub fn put_timeline(
    tx: &mut WriteTx<'_>,
    room: Nid,
    depth: i64,
    seq: Seq,
    nid: Nid,
) -> Result<(), StoreError> {
    tx.execute(
        "INSERT INTO timeline(room, depth, seq, nid) VALUES(?1, ?2, ?3, ?4)",
        (room, depth, seq, nid),
    )?;
    Ok(())
}

/// Adds a row to the commit order. `msgs` is the room's cumulative count of messages up to here.
pub fn put_stream(
    tx: &mut WriteTx<'_>,
    seq: Seq,
    kind: i64,
    room: Option<Nid>,
    user: Option<Nid>,
    reference: Option<Nid>,
    msgs: i64,
) -> Result<(), StoreError> {
    tx.execute(
        "INSERT INTO stream(seq, kind, room, user, ref, msgs) VALUES(?1, ?2, ?3, ?4, ?5, ?6)",
        (seq, kind, room, user, reference, msgs),
    )?;
    Ok(())
}

/// Adds a row to the commit order at the next position, which it gives.
pub fn push_stream(
    tx: &mut WriteTx<'_>,
    kind: i64,
    room: Option<Nid>,
    user: Option<Nid>,
    reference: Option<Nid>,
) -> Result<Seq, StoreError> {
    let seq = tx.next_seq()?;
    put_stream(tx, seq, kind, room, user, reference, 0)?;
    Ok(seq)
}

/// A falling negative number: the `seq` of something backfilled.
pub fn next_back_seq(tx: &mut WriteTx<'_>) -> Result<Seq, StoreError> {
    Ok(Seq(-tx.next(Counter::Back)?))
}

/// Notes that `child` has `prev` among its previous events.
pub fn put_edge(tx: &mut WriteTx<'_>, prev: Nid, child: Nid) -> Result<(), StoreError> {
    tx.execute("INSERT OR IGNORE INTO edge(prev, child) VALUES(?1, ?2)", (prev, child))?;
    Ok(())
}

/// Least depth of the timeline events that name `nid` as previous.
pub fn child_depth(tx: &ReadTx<'_>, nid: Nid) -> Result<Option<i64>, StoreError> {
    let depth: Option<Option<i64>> = tx.row(
        "SELECT min(event.depth) FROM edge JOIN event ON event.nid = edge.child \
         WHERE edge.prev = ?1 AND event.seq IS NOT NULL",
        [nid],
        |row| row.get(0),
    )?;
    Ok(depth.flatten())
}

/// The ends of the room's graph: what the next event builds on.
pub fn forward(tx: &ReadTx<'_>, room: Nid) -> Result<Vec<Nid>, StoreError> {
    tx.rows("SELECT nid FROM fwd_extremity WHERE room = ?1", [room], |row| row.get(0))
}

/// Makes `nid` an end of the graph.
pub fn put_forward(tx: &mut WriteTx<'_>, room: Nid, nid: Nid) -> Result<(), StoreError> {
    tx.execute("INSERT OR IGNORE INTO fwd_extremity(room, nid) VALUES(?1, ?2)", (room, nid))?;
    Ok(())
}

/// `nid` is no longer an end of the graph.
pub fn remove_forward(tx: &mut WriteTx<'_>, room: Nid, nid: Nid) -> Result<usize, StoreError> {
    tx.execute("DELETE FROM fwd_extremity WHERE room = ?1 AND nid = ?2", (room, nid))
}

/// Forgets all ends of the room's graph.
pub fn clear_forward(tx: &mut WriteTx<'_>, room: Nid) -> Result<(), StoreError> {
    tx.execute("DELETE FROM fwd_extremity WHERE room = ?1", [room])?;
    Ok(())
}

/// Notes that `child`, which is in the timeline, builds on `prev`, which is not.
pub fn put_missing(tx: &mut WriteTx<'_>, room: Nid, prev: Nid, child: Nid) -> Result<(), StoreError> {
    tx.execute(
        "INSERT OR IGNORE INTO missing_prev(room, prev, child) VALUES(?1, ?2, ?3)",
        (room, prev, child),
    )?;
    Ok(())
}

/// `prev` is in the timeline now.
pub fn remove_missing(tx: &mut WriteTx<'_>, room: Nid, prev: Nid) -> Result<(), StoreError> {
    tx.execute("DELETE FROM missing_prev WHERE room = ?1 AND prev = ?2", (room, prev))?;
    Ok(())
}

/// Where our knowledge of the room's past ends: (missing event, depth of its child), deepest child first.
pub fn backward(tx: &ReadTx<'_>, room: Nid, limit: u32) -> Result<Vec<(Nid, i64)>, StoreError> {
    tx.rows(
        "SELECT missing_prev.prev, max(event.depth) AS child FROM missing_prev \
         JOIN event ON event.nid = missing_prev.child \
         WHERE missing_prev.room = ?1 GROUP BY missing_prev.prev ORDER BY child DESC LIMIT ?2",
        (room, limit),
        |row| Ok((row.get(0)?, row.get(1)?)),
    )
}

/// Whether an event of the timeline between two depths builds on something that is not here.
pub fn gap_between(tx: &ReadTx<'_>, room: Nid, oldest: i64, newest: i64) -> Result<bool, StoreError> {
    let found = tx.row(
        "SELECT 1 FROM missing_prev JOIN event ON event.nid = missing_prev.child \
         WHERE missing_prev.room = ?1 AND event.depth BETWEEN ?2 AND ?3 LIMIT 1",
        (room, oldest, newest),
        |_| Ok(()),
    )?;
    Ok(found.is_some())
}
