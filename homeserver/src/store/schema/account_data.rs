//! Account data, global and by room (tags are room account data of type `m.tag`). Owner: `user::account_data`.
//!
//! `account_data`: key (user, room, type), where room 0 means global; `seq` is the commit position of its last change,
//! by which `sync` finds what is new. A removed entry stays with content `{}` ([`REMOVED`]), so that syncs which know it
//! show the removal; to everybody else it is not there.

use rusqlite::params;

use crate::store::{Nid, ReadTx, Seq, StoreError, Touched, WriteTx};

pub(in crate::store) const SCHEMA: &str = "
CREATE TABLE account_data(user INTEGER NOT NULL, room INTEGER NOT NULL, type TEXT NOT NULL, seq INTEGER NOT NULL, content TEXT NOT NULL,
  PRIMARY KEY(user, room, type)) WITHOUT ROWID;
CREATE INDEX account_data_seq ON account_data(user, seq);
";

/// The room of what belongs to no room.
pub const GLOBAL: Nid = Nid(0);

/// The content of an entry that was removed.
pub const REMOVED: &str = "{}";

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// [`GLOBAL`] or a room.
    pub room: Nid,
    /// Its type.
    pub kind: String,
    /// Its content, JSON.
    pub content: String,
    /// When it last changed.
    pub seq: Seq,
}

impl Entry {
    /// Whether it was removed.
    pub fn is_removed(&self) -> bool {
        self.content == REMOVED
    }
}

/// One entry's content, unless it was removed.
pub fn get(tx: &ReadTx<'_>, user: Nid, room: Nid, kind: &str) -> Result<Option<String>, StoreError> {
    let content: Option<String> = tx.row(
        "SELECT content FROM account_data WHERE user = ?1 AND room = ?2 AND type = ?3",
        params![user, room, kind],
        |row| row.get(0),
    )?;
    Ok(content.filter(|content| content != REMOVED))
}

/// Sets an entry, gives it its place in the commit order and wakes the user's syncs.
pub fn set(tx: &mut WriteTx<'_>, user: Nid, room: Nid, kind: &str, content: &str) -> Result<Seq, StoreError> {
    let seq = tx.next_seq()?;
    tx.execute(
        "INSERT INTO account_data(user, room, type, seq, content) VALUES(?1, ?2, ?3, ?4, ?5)
         ON CONFLICT(user, room, type) DO UPDATE SET seq = excluded.seq, content = excluded.content",
        params![user, room, kind, seq, content],
    )?;
    tx.touch(Touched::User(user));
    Ok(seq)
}

/// Everything of a user that changed after `after` and not after `until`; `after` 0: everything there is.
pub fn changed(tx: &ReadTx<'_>, user: Nid, after: Seq, until: Seq) -> Result<Vec<Entry>, StoreError> {
    tx.rows(
        "SELECT room, type, content, seq FROM account_data WHERE user = ?1 AND seq > ?2 AND seq <= ?3 ORDER BY seq",
        (user, after, until),
        |row| {
            Ok(Entry {
                room: row.get(0)?,
                kind: row.get(1)?,
                content: row.get(2)?,
                seq: row.get(3)?,
            })
        },
    )
}

/// Everything of a user in one room.
pub fn of_room(tx: &ReadTx<'_>, user: Nid, room: Nid) -> Result<Vec<Entry>, StoreError> {
    tx.rows(
        "SELECT room, type, content, seq FROM account_data WHERE user = ?1 AND room = ?2",
        (user, room),
        |row| Ok(Entry { room: row.get(0)?, kind: row.get(1)?, content: row.get(2)?, seq: row.get(3)? }),
    )
}

/// Forgets a user's removed entries: a client that was not told of their removal by now keeps them.
pub fn drop_removed(tx: &mut WriteTx<'_>, user: Nid) -> Result<(), StoreError> {
    tx.execute("DELETE FROM account_data WHERE user = ?1 AND content = ?2", (user, REMOVED)).map(drop)
}

/// How many entries a user has: the bound is kept in `user::account_data`.
pub fn count(tx: &ReadTx<'_>, user: Nid) -> Result<u64, StoreError> {
    let count =
        tx.row("SELECT count(*) FROM account_data WHERE user = ?1", [user], |row| row.get::<_, i64>(0))?;
    Ok(count.unwrap_or_default() as u64)
}
