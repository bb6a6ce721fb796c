//! Table of events that stick (MSC4354): they are told to clients whatever else is left out. Owner: `room::project`.
//!
//! `sticky`: (room, position) -> the event, and until when it sticks, in milliseconds since the Unix epoch.

use crate::store::{Nid, ReadTx, Seq, StoreError, WriteTx};

/// See the module.
pub const SCHEMA: &str = "
CREATE TABLE sticky(room INTEGER NOT NULL, seq INTEGER NOT NULL, nid INTEGER NOT NULL, until INTEGER NOT NULL,
  PRIMARY KEY(room, seq)) WITHOUT ROWID;
CREATE INDEX sticky_seq ON sticky(seq);
";

/// Events that stick in one room at once; beyond, the oldest come loose. A call of some hundred people has one or two each.
const ROOM_MAX: u32 = 1_000;

/// An event sticks until `until`; what no longer does at `now` goes.
pub fn put(
    tx: &mut WriteTx<'_>,
    room: Nid,
    seq: Seq,
    nid: Nid,
    until: i64,
    now: i64,
) -> Result<(), StoreError> {
    tx.execute("DELETE FROM sticky WHERE room = ?1 AND until <= ?2", (room, now))?;
    tx.execute(
        "DELETE FROM sticky WHERE room = ?1 AND seq <= (SELECT seq FROM sticky WHERE room = ?1
         ORDER BY seq DESC LIMIT 1 OFFSET ?2)",
        (room, ROOM_MAX - 1),
    )?;
    tx.execute(
        "INSERT OR REPLACE INTO sticky(room, seq, nid, until) VALUES(?1, ?2, ?3, ?4)",
        (room, seq, nid, until),
    )
    .map(drop)
}

/// An event came loose before its time: it was redacted.
pub fn remove(tx: &mut WriteTx<'_>, room: Nid, seq: Seq) -> Result<(), StoreError> {
    tx.execute("DELETE FROM sticky WHERE room = ?1 AND seq = ?2", (room, seq)).map(drop)
}

/// Until when an event sticks.
pub fn until(tx: &ReadTx<'_>, room: Nid, seq: Seq) -> Result<Option<i64>, StoreError> {
    tx.row("SELECT until FROM sticky WHERE room = ?1 AND seq = ?2", (room, seq), |row| row.get(0))
}

/// Events of a room in (after, upto] that stick at `now`, oldest first: (position, event).
pub fn in_room(
    tx: &ReadTx<'_>,
    room: Nid,
    after: Seq,
    upto: Seq,
    now: i64,
) -> Result<Vec<(Seq, Nid)>, StoreError> {
    tx.rows(
        "SELECT seq, nid FROM sticky WHERE room = ?1 AND seq > ?2 AND seq <= ?3 AND until > ?4 ORDER BY seq",
        (room, after, upto, now),
        |row| Ok((row.get(0)?, row.get(1)?)),
    )
}

/// Events of all rooms in (after, upto] that stick at `now`, oldest first: (room, position, event).
pub fn everywhere(
    tx: &ReadTx<'_>,
    after: Seq,
    upto: Seq,
    now: i64,
    limit: u32,
) -> Result<Vec<(Nid, Seq, Nid)>, StoreError> {
    tx.rows(
        "SELECT room, seq, nid FROM sticky WHERE seq > ?1 AND seq <= ?2 AND until > ?3 ORDER BY seq LIMIT ?4",
        (after, upto, now, limit),
        |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
    )
}
