//! Tables of what was pushed. Owner: `push::gateway`; the pushers themselves are `users::pusher`.
//!
//! | table | key | value |
//! |---|---|---|
//! | `push_cursor` | (user, app, push key) | position up to which the pusher was told |
//! | `vapid` | (one row) | the key that names this server to web push services |

use crate::store::{
    Nid, ReadTx, Seq, StoreError, WriteTx,
    schema::{events::stream_kind, membership::Membership},
};

/// See the module.
pub const SCHEMA: &str = "
CREATE TABLE push_cursor(user INTEGER, app TEXT, push_key TEXT, seq INTEGER NOT NULL,
  PRIMARY KEY(user, app, push_key)) WITHOUT ROWID;
CREATE TABLE vapid(id INTEGER PRIMARY KEY CHECK(id = 1), key BLOB NOT NULL);
";

/// Whose pusher.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// The user.
    pub user: Nid,
    /// `app_id`.
    pub app: String,
    /// `pushkey`.
    pub push_key: String,
}

/// The pushers of all users.
pub fn all(tx: &ReadTx<'_>) -> Result<Vec<Key>, StoreError> {
    tx.rows("SELECT user, app, push_key FROM pusher", [], |row| {
        Ok(Key { user: row.get(0)?, app: row.get(1)?, push_key: row.get(2)? })
    })
}

/// A pusher's JSON, and up to where it was told.
pub fn find(tx: &ReadTx<'_>, key: &Key) -> Result<Option<(String, Option<Seq>)>, StoreError> {
    tx.row(
        "SELECT p.json, c.seq FROM pusher p LEFT JOIN push_cursor c ON c.user = p.user AND c.app = p.app
           AND c.push_key = p.push_key WHERE p.user = ?1 AND p.app = ?2 AND p.push_key = ?3",
        (key.user, &key.app, &key.push_key),
        |row| Ok((row.get(0)?, row.get(1)?)),
    )
}

/// Moves a pusher's position on.
pub fn put_cursor(tx: &mut WriteTx<'_>, key: &Key, seq: Seq) -> Result<(), StoreError> {
    tx.execute(
        "INSERT INTO push_cursor(user, app, push_key, seq) VALUES(?1, ?2, ?3, ?4)
         ON CONFLICT(user, app, push_key) DO UPDATE SET seq = max(seq, excluded.seq)",
        (key.user, &key.app, &key.push_key, seq),
    )
    .map(drop)
}

/// Removes a pusher that its gateway does not know.
pub fn remove(tx: &mut WriteTx<'_>, key: &Key) -> Result<(), StoreError> {
    for sql in [
        "DELETE FROM pusher WHERE user = ?1 AND app = ?2 AND push_key = ?3",
        "DELETE FROM push_cursor WHERE user = ?1 AND app = ?2 AND push_key = ?3",
    ] {
        tx.execute(sql, (key.user, &key.app, &key.push_key))?;
    }
    Ok(())
}

/// Pushers of users for whom something happened in (since, until]: an event in a room of theirs, or something of their own.
pub fn touched(tx: &ReadTx<'_>, since: Seq, until: Seq) -> Result<Vec<Key>, StoreError> {
    // From the pushers' side: a room may have more members than the node has pushers.
    tx.rows(
        "WITH new AS (SELECT DISTINCT room, user FROM stream WHERE seq > ?1 AND seq <= ?2 AND (room IS NOT NULL OR user IS NOT NULL))
         SELECT DISTINCT p.user, p.app, p.push_key FROM pusher p, new WHERE new.user = p.user OR EXISTS(
           SELECT 1 FROM user_room u WHERE u.user = p.user AND u.room = new.room AND u.membership = 1)",
        (since, until),
        |row| Ok(Key { user: row.get(0)?, app: row.get(1)?, push_key: row.get(2)? }),
    )
}

/// What happened in rooms that a user is in, and memberships of their own, in (since, until]: (position, room, event).
pub fn events_for(
    tx: &ReadTx<'_>,
    user: Nid,
    since: Seq,
    until: Seq,
    limit: u32,
) -> Result<Vec<(Seq, Nid, Nid)>, StoreError> {
    // The stream is read from the position on, whatever the planner thinks of the number of rooms.
    tx.rows(
        "SELECT seq, room, ref FROM stream WHERE seq > ?2 AND seq <= ?3 AND room IS NOT NULL AND ref IS NOT NULL AND (
           (kind = ?5 AND EXISTS(SELECT 1 FROM user_room u WHERE u.user = ?1 AND u.room = stream.room AND u.membership = ?7))
           OR (kind = ?6 AND user = ?1)) ORDER BY seq LIMIT ?4",
        (user, since, until, limit, stream_kind::EVENT, stream_kind::MEMBERSHIP, Membership::Join),
        |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
    )
}

/// The same backwards from `before`, without memberships, over at most `scan` rows of the stream; and where it ended.
pub fn events_before(
    tx: &ReadTx<'_>,
    user: Nid,
    before: Seq,
    scan: i64,
) -> Result<Vec<(Seq, Nid, Nid)>, StoreError> {
    tx.rows(
        "SELECT seq, room, ref FROM stream WHERE seq < ?2 AND seq >= ?2 - ?3 AND kind = ?4 AND ref IS NOT NULL AND EXISTS(
           SELECT 1 FROM user_room u WHERE u.user = ?1 AND u.room = stream.room AND u.membership = ?5) ORDER BY seq DESC",
        (user, before, scan, stream_kind::EVENT, Membership::Join),
        |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
    )
}

/// Rooms of a user in which anything may be unread.
pub fn maybe_unread(tx: &ReadTx<'_>, user: Nid) -> Result<Vec<(Nid, Seq)>, StoreError> {
    tx.rows(
        "SELECT u.room, u.seq FROM user_room u WHERE u.user = ?1 AND u.membership = ?2 AND (
           EXISTS(SELECT 1 FROM notify_head h WHERE h.room = u.room AND h.seq > max(u.seq, coalesce(
             (SELECT r.seq FROM read_pos r WHERE r.user = ?1 AND r.room = u.room AND r.thread = 0), 0)))
           OR EXISTS(SELECT 1 FROM notify_user n WHERE n.user = ?1 AND n.room = u.room))",
        (user, Membership::Join),
        |row| Ok((row.get(0)?, row.get(1)?)),
    )
}

/// The key for web push services, made by `new` if there is none.
pub fn vapid(tx: &mut WriteTx<'_>, new: &[u8]) -> Result<Vec<u8>, StoreError> {
    tx.execute("INSERT OR IGNORE INTO vapid(id, key) VALUES(1, ?1)", [new])?;
    tx.row("SELECT key FROM vapid WHERE id = 1", [], |row| row.get(0))?
        .ok_or(StoreError::Corrupt("vapid key"))
}
