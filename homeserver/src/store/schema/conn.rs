//! Tables of `cache.db`: the connections of sliding sync. Owner: `sync::sliding::conn`.
//!
//! | table | key | value |
//! |---|---|---|
//! | `conn` | (user, device, name) | its nonce; the number of the state that the client has confirmed; the one it was sent since, as a blob |
//! | `conn_room` | (connection, room) | what the client was sent of it, as a blob |
//! | `conn_config` | (connection, number) | a room configuration that rooms were sent with, JSON |

use rusqlite::{Connection, OptionalExtension as _};

use crate::store::{Nid, StoreError};

/// See the module. A change of it throws older files away.
pub const SCHEMA: &str = "
CREATE TABLE conn(id INTEGER PRIMARY KEY, user INTEGER NOT NULL, device TEXT NOT NULL, name TEXT NOT NULL,
  nonce INTEGER NOT NULL, n INTEGER NOT NULL, next INTEGER, pending BLOB, used INTEGER NOT NULL,
  UNIQUE(user, device, name));
CREATE TABLE conn_room(conn INTEGER, room INTEGER, sent BLOB NOT NULL, PRIMARY KEY(conn, room)) WITHOUT ROWID;
CREATE TABLE conn_config(conn INTEGER, config INTEGER, json TEXT NOT NULL, PRIMARY KEY(conn, config)) WITHOUT ROWID;
";

/// A connection as it is stored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConnRow {
    /// Tells it from earlier ones of the same name.
    pub nonce: i64,
    /// Number of the confirmed state.
    pub n: i64,
    /// Number and changes of the state that was sent last, if it was not confirmed yet.
    pub pending: Option<(i64, Vec<u8>)>,
    /// What was sent of each room, by the confirmed state.
    pub rooms: Vec<(Nid, Vec<u8>)>,
    /// Room configurations.
    pub configs: Vec<(i64, String)>,
}

/// Whose connection.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// The user.
    pub user: Nid,
    /// Their device.
    pub device: String,
    /// `conn_id`.
    pub name: String,
}

fn id(conn: &Connection, key: &Key) -> Result<Option<i64>, StoreError> {
    Ok(conn
        .prepare_cached("SELECT id FROM conn WHERE user = ?1 AND device = ?2 AND name = ?3")?
        .query_row((key.user, &key.device, &key.name), |row| row.get(0))
        .optional()?)
}

/// Reads a connection.
pub fn load(conn: &Connection, key: &Key) -> Result<Option<ConnRow>, StoreError> {
    let Some(id) = id(conn, key)? else { return Ok(None) };
    let mut row = conn.prepare_cached("SELECT nonce, n, next, pending FROM conn WHERE id = ?1")?.query_row(
        [id],
        |row| {
            let pending = row.get::<_, Option<i64>>(2)?.zip(row.get(3)?);
            Ok(ConnRow { nonce: row.get(0)?, n: row.get(1)?, pending, ..ConnRow::default() })
        },
    )?;
    row.rooms = conn
        .prepare_cached("SELECT room, sent FROM conn_room WHERE conn = ?1")?
        .query_map([id], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<Result<_, _>>()?;
    row.configs = conn
        .prepare_cached("SELECT config, json FROM conn_config WHERE conn = ?1 ORDER BY config")?
        .query_map([id], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<Result<_, _>>()?;
    Ok(Some(row))
}

/// Begins a connection anew; of those of the same device beyond `max`, the least recently used ones go.
pub fn create(conn: &Connection, key: &Key, nonce: i64, now_ms: i64, max: u32) -> Result<(), StoreError> {
    if let Some(id) = id(conn, key)? {
        delete(conn, id)?;
    }
    conn.prepare_cached(
        "INSERT INTO conn(user, device, name, nonce, n, used) VALUES(?1, ?2, ?3, ?4, 0, ?5)",
    )?
    .execute((key.user, &key.device, &key.name, nonce, now_ms))?;
    let old: Vec<i64> = conn
        .prepare_cached(
            "SELECT id FROM conn WHERE user = ?1 AND device = ?2 ORDER BY used DESC, id DESC LIMIT -1 OFFSET ?3",
        )?
        .query_map((key.user, &key.device, max), |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    for id in old {
        delete(conn, id)?;
    }
    Ok(())
}

fn delete(conn: &Connection, id: i64) -> Result<(), StoreError> {
    for sql in [
        "DELETE FROM conn_room WHERE conn = ?1",
        "DELETE FROM conn_config WHERE conn = ?1",
        "DELETE FROM conn WHERE id = ?1",
    ] {
        conn.prepare_cached(sql)?.execute([id])?;
    }
    Ok(())
}

/// Drops connections that nobody used since `before_ms`.
pub fn drop_unused(conn: &Connection, before_ms: i64) -> Result<(), StoreError> {
    let old: Vec<i64> = conn
        .prepare_cached("SELECT id FROM conn WHERE used < ?1")?
        .query_map([before_ms], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    for id in old {
        delete(conn, id)?;
    }
    Ok(())
}

/// Drops all connections of a device.
pub fn drop_device(conn: &Connection, user: Nid, device: &str) -> Result<(), StoreError> {
    let old: Vec<i64> = conn
        .prepare_cached("SELECT id FROM conn WHERE user = ?1 AND device = ?2")?
        .query_map((user, device), |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    for id in old {
        delete(conn, id)?;
    }
    Ok(())
}

/// A change of what was sent: room and blob, or the room is forgotten.
pub type RoomChange = (Nid, Option<Vec<u8>>);

/// The client has confirmed state `n`: `rooms` is what it changes.
pub fn confirm(
    conn: &Connection,
    key: &Key,
    nonce: i64,
    n: i64,
    rooms: &[RoomChange],
    configs: &[(i64, String)],
) -> Result<(), StoreError> {
    let Some(id) = id(conn, key)? else { return Ok(()) };
    let ours = conn
        .prepare_cached("UPDATE conn SET n = ?3, next = NULL, pending = NULL WHERE id = ?1 AND nonce = ?2")?
        .execute((id, nonce, n))?;
    if ours == 0 {
        return Ok(());
    }
    for (config, json) in configs {
        conn.prepare_cached("INSERT OR REPLACE INTO conn_config(conn, config, json) VALUES(?1, ?2, ?3)")?
            .execute((id, config, json))?;
    }
    for (room, sent) in rooms {
        match sent {
            Some(sent) => conn
                .prepare_cached("INSERT OR REPLACE INTO conn_room(conn, room, sent) VALUES(?1, ?2, ?3)")?
                .execute((id, room, sent))?,
            None => conn
                .prepare_cached("DELETE FROM conn_room WHERE conn = ?1 AND room = ?2")?
                .execute((id, room))?,
        };
    }
    Ok(())
}

/// The client was sent state `next`, of which `pending` tells what it changes.
pub fn put_pending(
    conn: &Connection,
    key: &Key,
    nonce: i64,
    next: i64,
    pending: &[u8],
    now_ms: i64,
) -> Result<(), StoreError> {
    conn.prepare_cached(
        "UPDATE conn SET next = ?5, pending = ?6, used = ?7 WHERE user = ?1 AND device = ?2 AND name = ?3 AND nonce = ?4",
    )?
    .execute((key.user, &key.device, &key.name, nonce, next, pending, now_ms))?;
    Ok(())
}
