//! Owns what is known of other servers' keys and identities.
//!
//! | table | key -> value | written by | read by |
//! |---|---|---|---|
//! | `server` | server -> when its keys were fetched, its identity log, the document they came with | `remote/keyring` | `remote/keyring` |
//! | `server_key` | (server, key id) -> key and times, for servers without an identity | `remote/keyring` | `remote/keyring` |

use ruma::ServerName;

use crate::store::{Kind, Nid, ReadTx, StoreError, WriteTx};

/// See the module.
pub const SCHEMA: &str = "
CREATE TABLE server(nid INTEGER PRIMARY KEY, fetched INTEGER NOT NULL, log BLOB);
CREATE TABLE server_key(server INTEGER, id TEXT, key BLOB NOT NULL, valid_until INTEGER, expired INTEGER,
  PRIMARY KEY(server, id)) WITHOUT ROWID;
";

/// The document that the keys came with, signed by its server: what a notary passes on.
pub const SCHEMA_DOCUMENT: &str = "ALTER TABLE server ADD COLUMN document BLOB;";

/// What is stored of one server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// When its keys were fetched, milliseconds since the epoch.
    pub fetched_ms: u64,
    /// Its identity log: a JSON array of entries. Its keys follow from it.
    pub log: Option<Vec<u8>>,
    /// The keys of a server without an identity.
    pub keys: Vec<KeyRow>,
    /// The document they came with; read by [`document`] alone.
    pub document: Option<Vec<u8>>,
}

/// One key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRow {
    /// Its id with the algorithm.
    pub id: String,
    /// 32 bytes.
    pub key: Vec<u8>,
    /// Until when its owner promised to use it.
    pub valid_until_ms: Option<u64>,
    /// Since when it is not used any more.
    pub expired_ms: Option<u64>,
}

/// Reads what is known of a server.
pub fn load(tx: &ReadTx<'_>, name: &ServerName) -> Result<Option<Stored>, StoreError> {
    let Some(server) = tx.lookup(Kind::Server, name.as_str())? else { return Ok(None) };
    let head = tx.row("SELECT fetched, log FROM server WHERE nid = ?1", [server], |row| {
        Ok((row.get::<_, i64>(0)?, row.get(1)?))
    })?;
    let Some((fetched, log)) = head else { return Ok(None) };
    let keys =
        tx.rows("SELECT id, key, valid_until, expired FROM server_key WHERE server = ?1", [server], |row| {
            Ok(KeyRow {
                id: row.get(0)?,
                key: row.get(1)?,
                valid_until_ms: row.get::<_, Option<i64>>(2)?.map(unsigned),
                expired_ms: row.get::<_, Option<i64>>(3)?.map(unsigned),
            })
        })?;
    Ok(Some(Stored { fetched_ms: unsigned(fetched), log, keys, document: None }))
}

/// The document that a server's keys came with, as it signed it.
pub fn document(tx: &ReadTx<'_>, name: &ServerName) -> Result<Option<Vec<u8>>, StoreError> {
    let Some(server) = tx.lookup(Kind::Server, name.as_str())? else { return Ok(None) };
    let found = tx.row("SELECT document FROM server WHERE nid = ?1", [server], |row| row.get(0))?;
    Ok(found.flatten())
}

/// Writes what was fetched of a server; keys that it no longer lists stay.
pub fn save(tx: &mut WriteTx<'_>, name: &ServerName, stored: &Stored) -> Result<(), StoreError> {
    let server = tx.intern(Kind::Server, name.as_str())?;
    tx.execute(
        "INSERT OR REPLACE INTO server(nid, fetched, log, document) VALUES(?1, ?2, ?3, ?4)",
        (server, signed(stored.fetched_ms), &stored.log, &stored.document),
    )?;
    for key in &stored.keys {
        tx.execute(
            "INSERT OR REPLACE INTO server_key(server, id, key, valid_until, expired) VALUES(?1, ?2, ?3, ?4, ?5)",
            (server, &key.id, &key.key, key.valid_until_ms.map(signed), key.expired_ms.map(signed)),
        )?;
    }
    Ok(())
}

/// The identity logs of all servers: which node belongs to which of them.
pub fn logs(tx: &ReadTx<'_>, limit: u32) -> Result<Vec<(Nid, Vec<u8>)>, StoreError> {
    tx.rows("SELECT nid, log FROM server WHERE log IS NOT NULL LIMIT ?1", [limit], |row| {
        Ok((row.get(0)?, row.get(1)?))
    })
}

/// SQLite has no unsigned integers; times far beyond its range are as good as its end.
fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn unsigned(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}
