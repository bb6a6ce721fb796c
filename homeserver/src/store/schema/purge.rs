//! Owns rooms on their way out: which are being purged, and the rows that go with them.
//!
//! A purge marks the room first: its row goes and its users forget it, so that nothing reads it any more. Then everything
//! of it goes in operations of at most [`ROWS_MAX`] rows, so that the writer stays free for others. What is left at a
//! crash is taken up at the next start.
//!
//! | table | key -> value |
//! |---|---|
//! | `purge` | room that is being purged -> where it began |

use crate::store::{
    Nid, ReadTx, StoreError, Touched, WriteTx,
    schema::{
        events::{self, stream_kind},
        membership::{self, Membership, UserRoom},
        partial,
    },
};

/// See the module.
pub const SCHEMA: &str = "
CREATE TABLE purge(room INTEGER PRIMARY KEY, seq INTEGER NOT NULL);
";

/// Rows that one operation deletes at most, or little more: an event's own rows go together.
pub const ROWS_MAX: usize = 1_000;
/// Events deleted in one operation: each has about a dozen rows.
const EVENTS_MAX: usize = 80;

/// Statements that each delete some rows of a room: `?1` is the room, `?2` how many at most.
const BY_ROOM: &[&str] = &[
    "DELETE FROM timeline WHERE (room, depth, seq) IN \
     (SELECT room, depth, seq FROM timeline WHERE room = ?1 LIMIT ?2)",
    // What tells users that they are out stays.
    "DELETE FROM stream WHERE seq IN (SELECT seq FROM stream WHERE room = ?1 AND user IS NULL LIMIT ?2)",
    "DELETE FROM state_delta WHERE (room, seq, skey) IN \
     (SELECT room, seq, skey FROM state_delta WHERE room = ?1 LIMIT ?2)",
    "DELETE FROM cur_state WHERE (room, skey) IN (SELECT room, skey FROM cur_state WHERE room = ?1 LIMIT ?2)",
    "DELETE FROM state WHERE sid IN (SELECT sid FROM state WHERE room = ?1 LIMIT ?2)",
    "DELETE FROM member WHERE (room, user) IN (SELECT room, user FROM member WHERE room = ?1 LIMIT ?2)",
    "DELETE FROM room_server WHERE (room, server) IN \
     (SELECT room, server FROM room_server WHERE room = ?1 LIMIT ?2)",
    "DELETE FROM fwd_extremity WHERE (room, nid) IN \
     (SELECT room, nid FROM fwd_extremity WHERE room = ?1 LIMIT ?2)",
    "DELETE FROM missing_prev WHERE (room, prev, child) IN \
     (SELECT room, prev, child FROM missing_prev WHERE room = ?1 LIMIT ?2)",
    "DELETE FROM notify WHERE (room, thread, seq) IN \
     (SELECT room, thread, seq FROM notify WHERE room = ?1 LIMIT ?2)",
    "DELETE FROM notify_gone WHERE (room, thread, seq) IN \
     (SELECT room, thread, seq FROM notify_gone WHERE room = ?1 LIMIT ?2)",
    "DELETE FROM notify_head WHERE (room, thread) IN \
     (SELECT room, thread FROM notify_head WHERE room = ?1 LIMIT ?2)",
    "DELETE FROM notify_user WHERE (user, room, seq) IN (SELECT user, room, seq FROM notify_user \
     WHERE user IN (SELECT user FROM user_room WHERE room = ?1) AND room = ?1 LIMIT ?2)",
    "DELETE FROM read_pos WHERE (user, room, thread) IN (SELECT user, room, thread FROM read_pos \
     WHERE user IN (SELECT user FROM user_room WHERE room = ?1) AND room = ?1 LIMIT ?2)",
    "DELETE FROM account_data WHERE (user, room, type) IN (SELECT user, room, type FROM account_data \
     WHERE user IN (SELECT user FROM user_room WHERE room = ?1) AND room = ?1 LIMIT ?2)",
    "DELETE FROM receipt WHERE (room, user, kind, thread) IN \
     (SELECT room, user, kind, thread FROM receipt WHERE room = ?1 LIMIT ?2)",
    "DELETE FROM sharing WHERE (room, seq, user) IN \
     (SELECT room, seq, user FROM sharing WHERE room = ?1 LIMIT ?2)",
    "DELETE FROM thread WHERE (room, root) IN (SELECT room, root FROM thread WHERE room = ?1 LIMIT ?2)",
    "DELETE FROM thread_sub WHERE (user, room, root) IN (SELECT user, room, root FROM thread_sub \
     WHERE user IN (SELECT user FROM user_room WHERE room = ?1) AND room = ?1 LIMIT ?2)",
    "DELETE FROM sticky WHERE (room, seq) IN (SELECT room, seq FROM sticky WHERE room = ?1 LIMIT ?2)",
    "DELETE FROM delayed WHERE id IN (SELECT id FROM delayed WHERE room = ?1 LIMIT ?2)",
    "DELETE FROM alias WHERE alias IN (SELECT alias FROM alias WHERE room = ?1 LIMIT ?2)",
    "DELETE FROM txn_id WHERE (user, device, room, txn) IN (SELECT user, device, room, txn FROM txn_id \
     WHERE user IN (SELECT user FROM user_room WHERE room = ?1) AND room = ?1 LIMIT ?2)",
    // Relations and redactions whose targets were never here.
    "DELETE FROM relation WHERE (parent, rel, child) IN (SELECT parent, rel, child FROM mention \
     JOIN relation ON relation.parent = mention.nid \
     WHERE ?1 = ?1 AND child NOT IN (SELECT nid FROM event) LIMIT ?2)",
    "DELETE FROM redaction WHERE (target, nid) IN (SELECT redaction.target, redaction.nid FROM mention \
     JOIN redaction ON redaction.target = mention.nid \
     WHERE ?1 = ?1 AND redaction.nid NOT IN (SELECT nid FROM event) LIMIT ?2)",
];

/// Whether a room is being purged: nothing of that id may be made before the end.
pub fn is_going(tx: &ReadTx<'_>, room: Nid) -> Result<bool, StoreError> {
    Ok(tx.row("SELECT 1 FROM purge WHERE room = ?1", [room], |_| Ok(()))?.is_some())
}

/// Rooms that are being purged.
pub fn going(tx: &ReadTx<'_>) -> Result<Vec<Nid>, StoreError> {
    tx.rows("SELECT room FROM purge ORDER BY seq", [], |row| row.get(0))
}

/// Marks a room: from now on nothing reads it. Local users who had anything to do with it are told that they are out, by
/// the list of events that `farewell` makes of their row: the room's own go with it.
pub fn begin(
    tx: &mut WriteTx<'_>,
    room: Nid,
    farewell: impl Fn(&ReadTx<'_>, Nid, &UserRoom) -> Result<Vec<u8>, StoreError>,
) -> Result<(), StoreError> {
    let seq = tx.next_seq()?;
    tx.execute("INSERT OR IGNORE INTO purge(room, seq) VALUES(?1, ?2)", (room, seq))?;
    tx.execute("DELETE FROM room_network WHERE room = ?1", [room])?;
    tx.execute("DELETE FROM room WHERE room = ?1", [room])?;
    partial::forget(tx, room)?;
    for user in membership::room_users(tx, room)? {
        let Some(mut row) = membership::user_room(tx, user, room)? else { continue };
        row.stripped = Some(farewell(tx, user, &row)?);
        let seq = events::push_stream(tx, stream_kind::MEMBERSHIP, Some(room), Some(user), Some(row.nid))?;
        row.membership = Membership::Leave;
        (row.left_state, row.left_seq, row.forgotten, row.seq) = (None, None, true, seq);
        membership::put_user_room(tx, user, &row)?;
        tx.touch(Touched::User(user));
    }
    tx.touch(Touched::Room(room));
    Ok(())
}

/// Whether something of the room still waits to be sent to other servers (its users' leaves).
pub fn is_owed(tx: &ReadTx<'_>, room: Nid) -> Result<bool, StoreError> {
    let found = tx.row(
        "SELECT 1 FROM outbox JOIN event ON event.nid = outbox.ref WHERE event.room = ?1 LIMIT 1",
        [room],
        |_| Ok(()),
    )?;
    Ok(found.is_some())
}

/// Deletes some rows of a marked room. False if there were none left, and the mark has gone.
pub fn step(tx: &mut WriteTx<'_>, room: Nid) -> Result<bool, StoreError> {
    let batch: Vec<Nid> =
        tx.rows("SELECT nid FROM event WHERE room = ?1 LIMIT ?2", (room, EVENTS_MAX as i64), |row| {
            row.get(0)
        })?;
    if !batch.is_empty() {
        for nid in batch {
            events::remove(tx, nid)?;
        }
        return Ok(true);
    }
    for sql in BY_ROOM {
        if tx.execute(sql, (room, ROWS_MAX as i64))? > 0 {
            return Ok(true);
        }
    }
    tx.execute("DELETE FROM purge WHERE room = ?1", [room])?;
    Ok(false)
}
