//! Walks through a room's messages by age or place: retention, purges, lists of media.

use crate::store::{Nid, ReadTx, Seq, StoreError};

/// Messages of a room that are older than `before` but not older than `from` (both `origin_server_ts`) and still in the
/// timeline, oldest first. The ends of the graph are not among them: the next event builds on them.
pub fn aged(
    tx: &ReadTx<'_>,
    room: Nid,
    from: i64,
    before: i64,
    limit: u32,
) -> Result<Vec<(Nid, i64)>, StoreError> {
    tx.rows(
        "SELECT nid, ts FROM event WHERE room = ?1 AND ts >= ?2 AND ts < ?3 AND skey IS NULL AND seq IS NOT NULL \
         AND nid NOT IN (SELECT nid FROM fwd_extremity WHERE room = ?1) ORDER BY ts LIMIT ?4",
        (room, from, before, limit),
        |row| Ok((row.get(0)?, row.get(1)?)),
    )
}

/// Up to where a walk through a room's old messages goes.
#[derive(Clone, Copy, Debug)]
pub enum History {
    /// Before this place of the timeline: (depth, position).
    Place(i64, Seq),
    /// Before this time.
    Time(i64),
}

/// Before every place of a timeline.
pub const HISTORY_START: (i64, Seq) = (i64::MIN, Seq(i64::MIN));

/// Messages of a room's timeline after the place `from`, oldest first, but for the ends of the graph: (place, event).
#[allow(clippy::type_complexity, reason = "a row as it stands")]
pub fn history(
    tx: &ReadTx<'_>,
    room: Nid,
    from: (i64, Seq),
    until: History,
    limit: u32,
) -> Result<Vec<((i64, Seq), Nid)>, StoreError> {
    let (depth, seq, time) = match until {
        History::Place(depth, seq) => (depth, seq, i64::MAX),
        History::Time(time) => (i64::MAX, Seq(i64::MAX), time),
    };
    tx.rows(
        "SELECT t.depth, t.seq, t.nid FROM timeline t JOIN event e ON e.nid = t.nid
         WHERE t.room = ?1 AND (t.depth, t.seq) > (?2, ?3) AND (t.depth, t.seq) < (?4, ?5) AND e.ts < ?6 AND e.skey IS NULL
         AND t.nid NOT IN (SELECT nid FROM fwd_extremity WHERE room = ?1) ORDER BY t.depth, t.seq LIMIT ?7",
        (room, from.0, from.1, depth, seq, time, limit),
        |row| Ok(((row.get(0)?, row.get(1)?), row.get(2)?)),
    )
}

/// Events of a room by (time, number), after that of `after`: to walk through all of them.
pub fn of_room(
    tx: &ReadTx<'_>,
    room: Nid,
    after: (i64, Nid),
    limit: u32,
) -> Result<Vec<(i64, Nid)>, StoreError> {
    tx.rows(
        "SELECT ts, nid FROM event WHERE room = ?1 AND (ts, nid) > (?2, ?3) ORDER BY ts, nid LIMIT ?4",
        (room, after.0, after.1, limit),
        |row| Ok((row.get(0)?, row.get(1)?)),
    )
}
