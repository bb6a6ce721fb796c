//! Tables of key backups: message keys that clients keep here, encrypted to a key that only their user has.
//! Owner: `e2ee::key_backup`.
//!
//! | table | key | value |
//! |---|---|---|
//! | `backup` | local user, version | what the keys are encrypted to, and a number that rises with each change |
//! | `backup_key` | local user, version, room, session | the encrypted key, and how good a copy it is |

use crate::store::{Nid, ReadTx, StoreError, WriteTx};

/// See the module.
pub const SCHEMA: &str = "
CREATE TABLE backup(
  user INTEGER NOT NULL, version INTEGER NOT NULL, algorithm TEXT NOT NULL, etag INTEGER NOT NULL,
  deleted INTEGER NOT NULL DEFAULT 0, count INTEGER NOT NULL DEFAULT 0, PRIMARY KEY(user, version)) WITHOUT ROWID;
CREATE TABLE backup_key(
  user INTEGER NOT NULL, version INTEGER NOT NULL, room TEXT NOT NULL, session TEXT NOT NULL,
  verified INTEGER NOT NULL, first_index INTEGER NOT NULL, forwarded INTEGER NOT NULL, json TEXT NOT NULL,
  PRIMARY KEY(user, version, room, session)) WITHOUT ROWID;
";

/// A backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupRow {
    /// Its version.
    pub version: i64,
    /// `algorithm` and `auth_data`, as JSON.
    pub algorithm: String,
    /// Rises with each change of its keys.
    pub etag: i64,
    /// Keys in it.
    pub count: i64,
}

fn read(row: &rusqlite::Row<'_>) -> rusqlite::Result<BackupRow> {
    Ok(BackupRow { version: row.get(0)?, algorithm: row.get(1)?, etag: row.get(2)?, count: row.get(3)? })
}

/// A user's latest backup.
pub fn latest(tx: &ReadTx<'_>, user: Nid) -> Result<Option<BackupRow>, StoreError> {
    tx.row(
        "SELECT version, algorithm, etag, count FROM backup WHERE user = ?1 AND deleted = 0
         ORDER BY version DESC LIMIT 1",
        [user],
        read,
    )
}

/// One backup of a user.
pub fn find(tx: &ReadTx<'_>, user: Nid, version: i64) -> Result<Option<BackupRow>, StoreError> {
    tx.row(
        "SELECT version, algorithm, etag, count FROM backup WHERE user = ?1 AND version = ?2 AND deleted = 0",
        (user, version),
        read,
    )
}

/// Makes a new backup; its version is one that no earlier one had.
pub fn create(tx: &mut WriteTx<'_>, user: Nid, algorithm: &str) -> Result<i64, StoreError> {
    let last: Option<Option<i64>> =
        tx.row("SELECT max(version) FROM backup WHERE user = ?1", [user], |row| row.get(0))?;
    let version = last.flatten().unwrap_or(0) + 1;
    tx.execute(
        "INSERT INTO backup(user, version, algorithm, etag) VALUES(?1, ?2, ?3, 0)",
        (user, version, algorithm),
    )?;
    Ok(version)
}

/// Changes what a backup's keys are encrypted to (its signatures, that is).
pub fn set_algorithm(
    tx: &mut WriteTx<'_>,
    user: Nid,
    version: i64,
    algorithm: &str,
) -> Result<(), StoreError> {
    tx.execute(
        "UPDATE backup SET algorithm = ?3 WHERE user = ?1 AND version = ?2",
        (user, version, algorithm),
    )
    .map(drop)
}

/// Deletes a backup; its number stays used.
pub fn delete(tx: &mut WriteTx<'_>, user: Nid, version: i64) -> Result<(), StoreError> {
    tx.execute(
        "UPDATE backup SET deleted = 1, algorithm = '' WHERE user = ?1 AND version = ?2",
        (user, version),
    )?;
    tx.execute("DELETE FROM backup_key WHERE user = ?1 AND version = ?2", (user, version)).map(drop)
}

/// An encrypted key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRow {
    /// Its room.
    pub room: String,
    /// Its session.
    pub session: String,
    /// Came from a verified device.
    pub verified: bool,
    /// The first message that it decrypts.
    pub first_index: i64,
    /// Through how many hands it came.
    pub forwarded: i64,
    /// As the client sent it.
    pub json: String,
}

/// The copy of a key that is kept: (verified, first index, forwarded).
pub fn key_quality(
    tx: &ReadTx<'_>,
    user: Nid,
    version: i64,
    room: &str,
    session: &str,
) -> Result<Option<(bool, i64, i64)>, StoreError> {
    tx.row(
        "SELECT verified, first_index, forwarded FROM backup_key
         WHERE user = ?1 AND version = ?2 AND room = ?3 AND session = ?4",
        (user, version, room, session),
        |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
    )
}

/// Keeps a key, in place of the copy there was.
pub fn put_key(tx: &mut WriteTx<'_>, user: Nid, version: i64, key: &KeyRow) -> Result<(), StoreError> {
    tx.execute(
        "INSERT OR REPLACE INTO backup_key(user, version, room, session, verified, first_index, forwarded, json)
         VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        (user, version, &key.room, &key.session, key.verified, key.first_index, key.forwarded, &key.json),
    )
    .map(drop)
}

/// Keys of a backup, all or of one room, or one: (room, session, JSON).
pub fn keys(
    tx: &ReadTx<'_>,
    user: Nid,
    version: i64,
    room: Option<&str>,
    session: Option<&str>,
) -> Result<Vec<(String, String, String)>, StoreError> {
    tx.rows(
        "SELECT room, session, json FROM backup_key WHERE user = ?1 AND version = ?2
         AND (?3 IS NULL OR room = ?3) AND (?4 IS NULL OR session = ?4)",
        (user, version, room, session),
        |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
    )
}

/// Deletes keys of a backup, all or of one room, or one; gives how many.
pub fn delete_keys(
    tx: &mut WriteTx<'_>,
    user: Nid,
    version: i64,
    room: Option<&str>,
    session: Option<&str>,
) -> Result<usize, StoreError> {
    tx.execute(
        "DELETE FROM backup_key WHERE user = ?1 AND version = ?2
         AND (?3 IS NULL OR room = ?3) AND (?4 IS NULL OR session = ?4)",
        (user, version, room, session),
    )
}

/// Notes that a backup's keys changed, and how many there are.
pub fn touch(tx: &mut WriteTx<'_>, user: Nid, version: i64) -> Result<(), StoreError> {
    tx.execute(
        "UPDATE backup SET etag = etag + 1,
           count = (SELECT count(*) FROM backup_key WHERE user = ?1 AND version = ?2)
         WHERE user = ?1 AND version = ?2",
        (user, version),
    )
    .map(drop)
}
