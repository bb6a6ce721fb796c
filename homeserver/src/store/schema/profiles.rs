//! Table of when which field of a profile changed. Owner: `user::profile`; read by `sync`.
//!
//! `profile_change`: (local user, field) -> position of the last change. The values are in `profile`.

use super::membership::{self, Membership};
use crate::store::{Nid, ReadTx, Seq, StoreError, Touched, WriteTx};

/// See the module.
pub const SCHEMA: &str = "
CREATE TABLE profile_change(user INTEGER NOT NULL, field TEXT NOT NULL, seq INTEGER NOT NULL,
  PRIMARY KEY(user, field)) WITHOUT ROWID;
CREATE INDEX profile_change_seq ON profile_change(seq);
";

/// Rooms whose waiting syncs are woken at once; members of others see the change with their next response.
const ROOMS_MAX: usize = 500;

/// A field changed: those who share a room hear of it.
pub fn changed_now(tx: &mut WriteTx<'_>, user: Nid, field: &str) -> Result<(), StoreError> {
    let seq = tx.next_seq()?;
    tx.execute(
        "INSERT INTO profile_change(user, field, seq) VALUES(?1, ?2, ?3)
         ON CONFLICT(user, field) DO UPDATE SET seq = excluded.seq",
        (user, field, seq),
    )?;
    tx.touch(Touched::User(user));
    for room in membership::rooms_of(tx, user, Membership::Join)?.into_iter().take(ROOMS_MAX) {
        tx.touch(Touched::Room(room));
    }
    Ok(())
}

/// What changed in (after, until]: (user, field), the first `limit`.
pub fn changed(
    tx: &ReadTx<'_>,
    after: Seq,
    until: Seq,
    limit: u32,
) -> Result<Vec<(Nid, String)>, StoreError> {
    tx.rows(
        "SELECT user, field FROM profile_change WHERE seq > ?1 AND seq <= ?2 ORDER BY seq LIMIT ?3",
        (after, until, limit),
        |row| Ok((row.get(0)?, row.get(1)?)),
    )
}
