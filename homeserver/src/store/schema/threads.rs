//! Owns `thread`: the roots of a room's threads, by their newest reply.
//!
//! | table | key -> value | written by |
//! |---|---|---|
//! | `thread` | (room, root) -> position of the newest reply | append, redaction |

use crate::store::{Nid, ReadTx, Seq, StoreError, WriteTx};

/// See the module. The replies that are here already have their rows in `relation`.
pub const SCHEMA: &str = "
CREATE TABLE thread(room INTEGER, root INTEGER, seq INTEGER NOT NULL, PRIMARY KEY(room, root)) WITHOUT ROWID;
CREATE INDEX thread_seq ON thread(room, seq);
INSERT INTO thread(room, root, seq)
  SELECT event.room, relation.parent, max(event.seq) FROM relation JOIN event ON event.nid = relation.child
  WHERE event.seq IS NOT NULL AND relation.rel = (SELECT nid FROM intern WHERE kind = 7 AND text = 'm.thread')
  GROUP BY event.room, relation.parent;
";

/// Threads of all rooms by their newest reply.
pub const SCHEMA_NEWEST: &str = "CREATE INDEX thread_newest ON thread(seq);";

/// A reply came.
pub fn reply(tx: &mut WriteTx<'_>, room: Nid, root: Nid, seq: Seq) -> Result<(), StoreError> {
    tx.execute(
        "INSERT INTO thread(room, root, seq) VALUES(?1, ?2, ?3) \
         ON CONFLICT(room, root) DO UPDATE SET seq = max(seq, excluded.seq)",
        (room, root, seq),
    )
    .map(drop)
}

/// A reply is gone: the thread stands where the newest of those that are left does. `rel`: the number of `m.thread`.
pub fn reply_gone(tx: &mut WriteTx<'_>, room: Nid, root: Nid, rel: Nid) -> Result<(), StoreError> {
    let newest: Option<Option<Seq>> = tx.row(
        "SELECT max(event.seq) FROM relation JOIN event ON event.nid = relation.child \
         WHERE relation.parent = ?1 AND relation.rel = ?2",
        (root, rel),
        |row| row.get(0),
    )?;
    match newest.flatten() {
        Some(seq) => tx
            .execute("UPDATE thread SET seq = ?3 WHERE room = ?1 AND root = ?2", (room, root, seq))
            .map(drop),
        None => tx.execute("DELETE FROM thread WHERE room = ?1 AND root = ?2", (room, root)).map(drop),
    }
}

/// Threads of the rooms that a user is in with their newest reply in (after, until], newest first: (room, root, position).
pub fn newest(
    tx: &ReadTx<'_>,
    user: Nid,
    after: Seq,
    until: Seq,
    limit: u32,
) -> Result<Vec<(Nid, Nid, Seq)>, StoreError> {
    // The order of the tables is said: from few new replies to their rooms, not from all of the user's rooms.
    tx.rows(
        "SELECT thread.room, thread.root, thread.seq FROM thread INDEXED BY thread_newest CROSS JOIN user_room
         ON user_room.user = ?1 AND user_room.room = thread.room AND user_room.membership = 1
         WHERE thread.seq > ?2 AND thread.seq <= ?3 ORDER BY thread.seq DESC LIMIT ?4",
        (user, after, until, limit),
        |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
    )
}

/// Threads of a room with their newest reply before `before`, the newest first.
pub fn list(tx: &ReadTx<'_>, room: Nid, before: Seq, limit: u32) -> Result<Vec<(Nid, Seq)>, StoreError> {
    tx.rows(
        "SELECT root, seq FROM thread WHERE room = ?1 AND seq < ?2 ORDER BY seq DESC LIMIT ?3",
        (room, before, limit),
        |row| Ok((row.get(0)?, row.get(1)?)),
    )
}
