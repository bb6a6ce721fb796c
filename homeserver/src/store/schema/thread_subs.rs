//! Tables of who follows which threads. Owner: `room::thread`; read by `push` and `sync`.
//!
//! | table | key | value |
//! |---|---|---|
//! | `thread_sub` | local user, room, root | whether the user follows it, whether a client decided so by itself, since when it is so, and when the user last left it |
//! | `thread_user` | local user | nothing: the user has ever followed a thread, so that the rules about it apply |

use rusqlite::params;

use crate::store::{Nid, ReadTx, Seq, StoreError, Touched, WriteTx};

/// See the module.
pub const SCHEMA: &str = "
CREATE TABLE thread_sub(user INTEGER NOT NULL, room INTEGER NOT NULL, root INTEGER NOT NULL, follows INTEGER NOT NULL,
  automatic INTEGER NOT NULL, seq INTEGER NOT NULL, left_seq INTEGER, PRIMARY KEY(user, room, root)) WITHOUT ROWID;
CREATE INDEX thread_sub_seq ON thread_sub(user, seq);
CREATE TABLE thread_user(user INTEGER PRIMARY KEY);
";

/// What a user has to do with a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sub {
    /// The room.
    pub room: Nid,
    /// The thread's root.
    pub root: Nid,
    /// The user follows it.
    pub follows: bool,
    /// Because a client decided so by itself.
    pub automatic: bool,
    /// Since which position it is so.
    pub seq: Seq,
    /// When the user last left it.
    pub left: Option<Seq>,
}

macro_rules! columns {
    () => {
        "SELECT room, root, follows, automatic, seq, left_seq FROM thread_sub WHERE user = ?1"
    };
}

fn read(row: &rusqlite::Row<'_>) -> rusqlite::Result<Sub> {
    Ok(Sub {
        room: row.get(0)?,
        root: row.get(1)?,
        follows: row.get(2)?,
        automatic: row.get(3)?,
        seq: row.get(4)?,
        left: row.get(5)?,
    })
}

/// What a user has to do with one thread.
pub fn get(tx: &ReadTx<'_>, user: Nid, room: Nid, root: Nid) -> Result<Option<Sub>, StoreError> {
    tx.row(concat!(columns!(), " AND room = ?2 AND root = ?3"), (user, room, root), read)
}

/// Notes it, and wakes the user's syncs.
pub fn put(tx: &mut WriteTx<'_>, user: Nid, sub: &Sub) -> Result<(), StoreError> {
    tx.execute(
        "INSERT OR REPLACE INTO thread_sub(user, room, root, follows, automatic, seq, left_seq)
         VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        params![user, sub.room, sub.root, sub.follows, sub.automatic, sub.seq, sub.left],
    )?;
    tx.execute("INSERT OR IGNORE INTO thread_user(user) VALUES(?1)", [user])?;
    tx.touch(Touched::User(user));
    Ok(())
}

/// How many threads a user has to do with.
pub fn count(tx: &ReadTx<'_>, user: Nid) -> Result<u64, StoreError> {
    let count =
        tx.row("SELECT count(*) FROM thread_sub WHERE user = ?1", [user], |row| row.get::<_, i64>(0))?;
    Ok(count.unwrap_or_default() as u64)
}

/// Forgets which threads a user has left.
pub fn drop_left(tx: &mut WriteTx<'_>, user: Nid) -> Result<(), StoreError> {
    tx.execute("DELETE FROM thread_sub WHERE user = ?1 AND NOT follows", [user]).map(drop)
}

/// What changed in (after, until], the newest `limit` of it, newest first.
pub fn changed(
    tx: &ReadTx<'_>,
    user: Nid,
    after: Seq,
    until: Seq,
    limit: u32,
) -> Result<Vec<Sub>, StoreError> {
    tx.rows(
        concat!(columns!(), " AND seq > ?2 AND seq <= ?3 ORDER BY seq DESC LIMIT ?4"),
        (user, after, until, limit),
        read,
    )
}

/// Local members of a room who have ever followed a thread: (user, whether they follow this one).
pub fn members(tx: &ReadTx<'_>, room: Nid, root: Nid) -> Result<Vec<(Nid, bool)>, StoreError> {
    tx.rows(
        "SELECT thread_user.user, coalesce((SELECT follows FROM thread_sub WHERE thread_sub.user = thread_user.user
           AND room = ?1 AND root = ?2), 0) FROM thread_user
         JOIN user_room ON user_room.user = thread_user.user AND user_room.room = ?1 AND user_room.membership = 1",
        (room, root),
        |row| Ok((row.get(0)?, row.get(1)?)),
    )
}

/// Whether a user who has ever followed a thread follows this one; `None` for who never did.
pub fn follows(tx: &ReadTx<'_>, user: Nid, room: Nid, root: Nid) -> Result<Option<bool>, StoreError> {
    let ever = tx.row("SELECT 1 FROM thread_user WHERE user = ?1", [user], |_| Ok(()))?;
    match ever {
        Some(()) => Ok(Some(get(tx, user, room, root)?.is_some_and(|sub| sub.follows))),
        None => Ok(None),
    }
}
