//! Table of clients' filters. Owner: `sync::filters`.
//!
//! `filter`: key (local user, id) -> the definition as JSON; `seq` orders them by age. The id is made of the
//! definition, so that a client which uploads the same one each time it starts has one row.

use crate::store::{Nid, ReadTx, Seq, StoreError, WriteTx};

/// See the module.
pub const SCHEMA: &str = "
CREATE TABLE filter(
  user INTEGER NOT NULL, id TEXT NOT NULL, seq INTEGER NOT NULL, json TEXT NOT NULL, PRIMARY KEY(user, id)) WITHOUT ROWID;
";

/// A user's filter.
pub fn find(tx: &ReadTx<'_>, user: Nid, id: &str) -> Result<Option<String>, StoreError> {
    tx.row("SELECT json FROM filter WHERE user = ?1 AND id = ?2", (user, id), |row| row.get(0))
}

/// Keeps a filter, and of all of the user's the latest `keep`.
pub fn put(
    tx: &mut WriteTx<'_>,
    user: Nid,
    id: &str,
    seq: Seq,
    json: &str,
    keep: u32,
) -> Result<(), StoreError> {
    tx.execute(
        "INSERT INTO filter(user, id, seq, json) VALUES(?1, ?2, ?3, ?4)
         ON CONFLICT(user, id) DO UPDATE SET seq = excluded.seq",
        (user, id, seq, json),
    )?;
    tx.execute(
        "DELETE FROM filter WHERE user = ?1 AND seq <=
           (SELECT seq FROM filter WHERE user = ?1 ORDER BY seq DESC LIMIT 1 OFFSET ?2)",
        (user, keep),
    )
    .map(drop)
}
