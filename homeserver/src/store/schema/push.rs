//! Tables of what notifies whom: changed rules, and counts kept as sums. Owner: `push`; read by `sync`.
//!
//! The rules that everybody has are judged once for an event and counted once for the room; users for whom the outcome
//! differs have a row of their own. What is unread is then the difference of two sums, and no member's row is touched
//! when an event comes.
//!
//! | table | key | value |
//! |---|---|---|
//! | `push_rules` | local user | the ruleset, if it was ever changed, and when |
//! | `notify` | room, thread (0: the main timeline), position | notifying events of that thread up to here, by the unchanged rules |
//! | `notify_head` | room, thread | position of the last of them |
//! | `notify_user` | local user, room, position | thread; by how much the user's count differs by this event; highlight |
//! | `notify_gone` | room, thread, position | that event of `notify` was redacted: it counts for nobody any more |
//! | `read_pos` | local user, room, thread (0: all, -1: the main timeline) | position up to which the user has read |

use crate::store::{Nid, ReadTx, Seq, StoreError, WriteTx};

/// See the module.
pub const SCHEMA: &str = "
CREATE TABLE push_rules(user INTEGER PRIMARY KEY, seq INTEGER NOT NULL, json TEXT NOT NULL);
CREATE TABLE notify(
  room INTEGER NOT NULL, thread INTEGER NOT NULL, seq INTEGER NOT NULL, total INTEGER NOT NULL,
  PRIMARY KEY(room, thread, seq)) WITHOUT ROWID;
CREATE TABLE notify_head(
  room INTEGER NOT NULL, thread INTEGER NOT NULL, seq INTEGER NOT NULL, PRIMARY KEY(room, thread)) WITHOUT ROWID;
CREATE INDEX notify_head_seq ON notify_head(room, seq);
CREATE TABLE notify_user(
  user INTEGER NOT NULL, room INTEGER NOT NULL, seq INTEGER NOT NULL, thread INTEGER NOT NULL, delta INTEGER NOT NULL,
  highlight INTEGER NOT NULL, PRIMARY KEY(user, room, seq)) WITHOUT ROWID;
CREATE TABLE read_pos(
  user INTEGER NOT NULL, room INTEGER NOT NULL, thread INTEGER NOT NULL, seq INTEGER NOT NULL,
  PRIMARY KEY(user, room, thread)) WITHOUT ROWID;
";

/// What was redacted before it was read.
pub const SCHEMA_GONE: &str = "
CREATE TABLE notify_gone(room INTEGER NOT NULL, thread INTEGER NOT NULL, seq INTEGER NOT NULL,
  PRIMARY KEY(room, thread, seq)) WITHOUT ROWID;
CREATE INDEX notify_user_seq ON notify_user(room, seq);
";

/// Thread of `notify`: the main timeline. Thread of `read_pos`: everything.
pub const ALL: Nid = Nid(0);
/// Thread of `read_pos`: the main timeline alone.
pub const MAIN: Nid = Nid(-1);

/// A user's changed rules and when they changed.
pub fn rules(tx: &ReadTx<'_>, user: Nid) -> Result<Option<(Seq, String)>, StoreError> {
    tx.row("SELECT seq, json FROM push_rules WHERE user = ?1", [user], |row| Ok((row.get(0)?, row.get(1)?)))
}

/// Keeps a user's rules.
pub fn put_rules(tx: &mut WriteTx<'_>, user: Nid, seq: Seq, json: &str) -> Result<(), StoreError> {
    tx.execute(
        "INSERT INTO push_rules(user, seq, json) VALUES(?1, ?2, ?3)
         ON CONFLICT(user) DO UPDATE SET seq = excluded.seq, json = excluded.json",
        (user, seq, json),
    )
    .map(drop)
}

/// Local members of a room who changed their rules: (user, rules).
pub fn members_with_rules(tx: &ReadTx<'_>, room: Nid) -> Result<Vec<(Nid, String)>, StoreError> {
    tx.rows(
        "SELECT push_rules.user, push_rules.json FROM push_rules
         JOIN user_room ON user_room.user = push_rules.user AND user_room.room = ?1 AND user_room.membership = 1",
        [room],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )
}

/// Counts an event that notifies by the unchanged rules.
pub fn add_notify(tx: &mut WriteTx<'_>, room: Nid, thread: Nid, seq: Seq) -> Result<(), StoreError> {
    let total = total(tx, room, thread, Seq(i64::MAX))?;
    tx.execute(
        "INSERT INTO notify(room, thread, seq, total) VALUES(?1, ?2, ?3, ?4)",
        (room, thread, seq, total + 1),
    )?;
    tx.execute(
        "INSERT INTO notify_head(room, thread, seq) VALUES(?1, ?2, ?3)
         ON CONFLICT(room, thread) DO UPDATE SET seq = excluded.seq",
        (room, thread, seq),
    )
    .map(drop)
}

/// Notifying events of a thread up to and with `seq`, by the unchanged rules.
pub fn total(tx: &ReadTx<'_>, room: Nid, thread: Nid, seq: Seq) -> Result<i64, StoreError> {
    Ok(tx
        .row(
            "SELECT total FROM notify WHERE room = ?1 AND thread = ?2 AND seq <= ?3 ORDER BY seq DESC LIMIT 1",
            (room, thread, seq),
            |row| row.get(0),
        )?
        .unwrap_or(0))
}

/// An event counts for nobody any more.
pub fn uncount(tx: &mut WriteTx<'_>, room: Nid, thread: Nid, seq: Seq) -> Result<(), StoreError> {
    tx.execute(
        "INSERT OR IGNORE INTO notify_gone(room, thread, seq)
         SELECT room, thread, seq FROM notify WHERE room = ?1 AND thread = ?2 AND seq = ?3",
        (room, thread, seq),
    )?;
    tx.execute("DELETE FROM notify_user WHERE room = ?1 AND seq = ?2", (room, seq)).map(drop)
}

/// Events of a thread after `after` that count for nobody any more.
pub fn uncounted(tx: &ReadTx<'_>, room: Nid, thread: Nid, after: Seq) -> Result<i64, StoreError> {
    let count = tx.row(
        "SELECT count(*) FROM notify_gone WHERE room = ?1 AND thread = ?2 AND seq > ?3",
        (room, thread, after),
        |row| row.get(0),
    )?;
    Ok(count.unwrap_or(0))
}

/// Threads (not the main timeline) with notifying events after `after`, the latest `limit` of them.
pub fn threads_after(tx: &ReadTx<'_>, room: Nid, after: Seq, limit: u32) -> Result<Vec<Nid>, StoreError> {
    tx.rows(
        "SELECT thread FROM notify_head WHERE room = ?1 AND seq > ?2 AND thread <> 0 ORDER BY seq DESC LIMIT ?3",
        (room, after, limit),
        |row| row.get(0),
    )
}

/// What an event does to one user's counts beyond what it does to everybody's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Own {
    /// Where it is.
    pub seq: Seq,
    /// 0: the main timeline.
    pub thread: Nid,
    /// Added to the count of notifying events.
    pub delta: i64,
    /// Counted as highlight.
    pub highlight: bool,
}

/// Notes what an event does to one user's counts.
pub fn put_own(tx: &mut WriteTx<'_>, user: Nid, room: Nid, own: &Own) -> Result<(), StoreError> {
    tx.execute(
        "INSERT OR REPLACE INTO notify_user(user, room, seq, thread, delta, highlight) VALUES(?1, ?2, ?3, ?4, ?5, ?6)",
        (user, room, own.seq, own.thread, own.delta, own.highlight),
    )
    .map(drop)
}

/// A user's own rows of a room after `after`, at most `limit`.
pub fn own_after(
    tx: &ReadTx<'_>,
    user: Nid,
    room: Nid,
    after: Seq,
    limit: u32,
) -> Result<Vec<Own>, StoreError> {
    tx.rows(
        "SELECT seq, thread, delta, highlight FROM notify_user WHERE user = ?1 AND room = ?2 AND seq > ?3
         ORDER BY seq LIMIT ?4",
        (user, room, after, limit),
        |row| Ok(Own { seq: row.get(0)?, thread: row.get(1)?, delta: row.get(2)?, highlight: row.get(3)? }),
    )
}

/// Drops a user's own rows of a room that are read.
pub fn drop_own(tx: &mut WriteTx<'_>, user: Nid, room: Nid, until: Seq) -> Result<(), StoreError> {
    tx.execute("DELETE FROM notify_user WHERE user = ?1 AND room = ?2 AND seq <= ?3", (user, room, until))
        .map(drop)
}

/// How far a user has read: (thread, position).
pub fn read_positions(tx: &ReadTx<'_>, user: Nid, room: Nid) -> Result<Vec<(Nid, Seq)>, StoreError> {
    tx.rows("SELECT thread, seq FROM read_pos WHERE user = ?1 AND room = ?2", (user, room), |row| {
        Ok((row.get(0)?, row.get(1)?))
    })
}

/// Moves a user's position on; never back.
pub fn put_read_position(
    tx: &mut WriteTx<'_>,
    user: Nid,
    room: Nid,
    thread: Nid,
    seq: Seq,
) -> Result<(), StoreError> {
    tx.execute(
        "INSERT INTO read_pos(user, room, thread, seq) VALUES(?1, ?2, ?3, ?4)
         ON CONFLICT(user, room, thread) DO UPDATE SET seq = max(seq, excluded.seq)",
        (user, room, thread, seq),
    )?;
    if thread == ALL {
        // Positions inside what is read anyway say nothing more.
        tx.execute(
            "DELETE FROM read_pos WHERE user = ?1 AND room = ?2 AND thread <> 0 AND seq <= ?3",
            (user, room, seq),
        )?;
    }
    Ok(())
}
