//! Tables of end-to-end encryption: keys of devices, one-time keys, cross-signing, lists of devices, messages to
//! devices. Owner: `e2ee`; read by `sync` and `push` too.
//!
//! | table | key | value |
//! |---|---|---|
//! | `device_key` | local user, device | the device's keys as signed |
//! | `one_time_key` | local user, device, algorithm, key id | the key; NULL once it was claimed, so that an upload that is repeated cannot bring it back |
//! | `fallback_key` | local user, device, algorithm | the key, and whether it was used |
//! | `key_counts` | local user, device | position of the last change of what one-time or fallback keys are left |
//! | `cross_signing` | user (ours or theirs), usage | the key |
//! | `key_signature` | signer, target user, target key, signing key | a signature that only its signer is shown |
//! | `device_list` | user (ours or theirs) | position of the last change; for ours also the stream id last told to servers |
//! | `remote_list`, `remote_device` | their user(, device) | their list as last told, and whether it may be stale |
//! | `to_device` | local user, device, position | a message, until the device has acknowledged it |
//! | `to_device_txn` | local user, device, transaction | a request that was carried out |
//! | `in_message` | their server, message id | a message that was received |
//! | `sharing` | room, position, user | who began or ceased to share the room |

use std::collections::HashSet;

use crate::store::{Kind, Nid, ReadTx, Seq, StoreError, WriteTx};

/// See the module.
pub const SCHEMA: &str = "
CREATE TABLE device_key(
  user INTEGER NOT NULL, device TEXT NOT NULL, json TEXT NOT NULL, PRIMARY KEY(user, device)) WITHOUT ROWID;
CREATE TABLE one_time_key(
  user INTEGER NOT NULL, device TEXT NOT NULL, algorithm TEXT NOT NULL, key_id TEXT NOT NULL, seq INTEGER NOT NULL,
  json TEXT, PRIMARY KEY(user, device, algorithm, key_id)) WITHOUT ROWID;
CREATE INDEX one_time_key_free ON one_time_key(user, device, algorithm, seq) WHERE json IS NOT NULL;
CREATE INDEX one_time_key_claimed ON one_time_key(user, device, seq) WHERE json IS NULL;
CREATE TABLE fallback_key(
  user INTEGER NOT NULL, device TEXT NOT NULL, algorithm TEXT NOT NULL, key_id TEXT NOT NULL, used INTEGER NOT NULL,
  json TEXT NOT NULL, PRIMARY KEY(user, device, algorithm)) WITHOUT ROWID;
CREATE TABLE key_counts(
  user INTEGER NOT NULL, device TEXT NOT NULL, seq INTEGER NOT NULL, PRIMARY KEY(user, device)) WITHOUT ROWID;
CREATE TABLE cross_signing(
  user INTEGER NOT NULL, usage INTEGER NOT NULL, json TEXT NOT NULL, PRIMARY KEY(user, usage)) WITHOUT ROWID;
CREATE TABLE key_signature(
  signer INTEGER NOT NULL, target INTEGER NOT NULL, key TEXT NOT NULL, key_id TEXT NOT NULL, signature TEXT NOT NULL,
  PRIMARY KEY(signer, target, key, key_id)) WITHOUT ROWID;
CREATE TABLE device_list(user INTEGER PRIMARY KEY, seq INTEGER NOT NULL, announced INTEGER NOT NULL DEFAULT 0);
CREATE INDEX device_list_seq ON device_list(seq);
CREATE TABLE remote_list(user INTEGER PRIMARY KEY, stream_id INTEGER NOT NULL, stale INTEGER NOT NULL);
CREATE TABLE remote_device(
  user INTEGER NOT NULL, device TEXT NOT NULL, name TEXT, json TEXT NOT NULL, PRIMARY KEY(user, device)) WITHOUT ROWID;
CREATE TABLE to_device(
  user INTEGER NOT NULL, device TEXT NOT NULL, seq INTEGER NOT NULL, json TEXT NOT NULL,
  PRIMARY KEY(user, device, seq)) WITHOUT ROWID;
CREATE TABLE to_device_txn(
  user INTEGER NOT NULL, device TEXT NOT NULL, txn TEXT NOT NULL, at_ms INTEGER NOT NULL,
  PRIMARY KEY(user, device, txn)) WITHOUT ROWID;
CREATE INDEX to_device_txn_at ON to_device_txn(at_ms);
CREATE TABLE in_message(
  origin INTEGER NOT NULL, message TEXT NOT NULL, at_ms INTEGER NOT NULL, PRIMARY KEY(origin, message)) WITHOUT ROWID;
CREATE INDEX in_message_at ON in_message(origin, at_ms);
CREATE TABLE sharing(
  room INTEGER NOT NULL, seq INTEGER NOT NULL, user INTEGER NOT NULL, joined INTEGER NOT NULL,
  PRIMARY KEY(room, seq, user)) WITHOUT ROWID;
";

/// Which cross-signing key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Usage {
    /// Signs the other two.
    Master = 0,
    /// Signs the user's own devices.
    SelfSigning = 1,
    /// Signs other users' master keys; shown to its owner only.
    UserSigning = 2,
}

// Keys of local devices.

/// The keys of one device, as JSON.
pub fn device_key(tx: &ReadTx<'_>, user: Nid, device: &str) -> Result<Option<String>, StoreError> {
    tx.row("SELECT json FROM device_key WHERE user = ?1 AND device = ?2", (user, device), |row| row.get(0))
}

/// All devices of a user that have keys: (device, JSON), in order.
pub fn device_keys(tx: &ReadTx<'_>, user: Nid) -> Result<Vec<(String, String)>, StoreError> {
    tx.rows("SELECT device, json FROM device_key WHERE user = ?1 ORDER BY device", [user], |row| {
        Ok((row.get(0)?, row.get(1)?))
    })
}

/// Keeps the keys of a device.
pub fn put_device_key(tx: &mut WriteTx<'_>, user: Nid, device: &str, json: &str) -> Result<(), StoreError> {
    tx.execute(
        "INSERT INTO device_key(user, device, json) VALUES(?1, ?2, ?3)
         ON CONFLICT(user, device) DO UPDATE SET json = excluded.json",
        (user, device, json),
    )
    .map(drop)
}

/// Forgets all keys of a device and what waits for it. True if it had published keys.
pub fn delete_device(tx: &mut WriteTx<'_>, user: Nid, device: &str) -> Result<bool, StoreError> {
    let had = tx.execute("DELETE FROM device_key WHERE user = ?1 AND device = ?2", (user, device))? > 0;
    tx.execute("DELETE FROM one_time_key WHERE user = ?1 AND device = ?2", (user, device))?;
    tx.execute("DELETE FROM fallback_key WHERE user = ?1 AND device = ?2", (user, device))?;
    tx.execute("DELETE FROM key_counts WHERE user = ?1 AND device = ?2", (user, device))?;
    tx.execute("DELETE FROM to_device WHERE user = ?1 AND device = ?2", (user, device))?;
    tx.execute("DELETE FROM to_device_txn WHERE user = ?1 AND device = ?2", (user, device))?;
    Ok(had)
}

// One-time and fallback keys.

/// What is known of a one-time key: `Some(None)` if it was claimed.
pub fn one_time_key(
    tx: &ReadTx<'_>,
    user: Nid,
    device: &str,
    algorithm: &str,
    key_id: &str,
) -> Result<Option<Option<String>>, StoreError> {
    tx.row(
        "SELECT json FROM one_time_key WHERE user = ?1 AND device = ?2 AND algorithm = ?3 AND key_id = ?4",
        (user, device, algorithm, key_id),
        |row| row.get(0),
    )
}

/// Keeps a new one-time key.
pub fn put_one_time_key(
    tx: &mut WriteTx<'_>,
    user: Nid,
    device: &str,
    algorithm: &str,
    key_id: &str,
    seq: Seq,
    json: &str,
) -> Result<(), StoreError> {
    tx.execute(
        "INSERT INTO one_time_key(user, device, algorithm, key_id, seq, json) VALUES(?1, ?2, ?3, ?4, ?5, ?6)",
        (user, device, algorithm, key_id, seq, json),
    )
    .map(drop)
}

/// Takes the oldest one-time key that is left, for good: (key id, JSON).
pub fn claim_one_time_key(
    tx: &mut WriteTx<'_>,
    user: Nid,
    device: &str,
    algorithm: &str,
    claimed_kept: u32,
) -> Result<Option<(String, String)>, StoreError> {
    let found: Option<(String, String)> = tx.row(
        "SELECT key_id, json FROM one_time_key WHERE user = ?1 AND device = ?2 AND algorithm = ?3
         AND json IS NOT NULL ORDER BY seq, key_id LIMIT 1",
        (user, device, algorithm),
        |row| Ok((row.get(0)?, row.get(1)?)),
    )?;
    let Some((key_id, json)) = found else {
        return Ok(None);
    };
    tx.execute(
        "UPDATE one_time_key SET json = NULL WHERE user = ?1 AND device = ?2 AND algorithm = ?3 AND key_id = ?4",
        (user, device, algorithm, &key_id),
    )?;
    // Only the latest claimed ones can still come in a repeated upload.
    tx.execute(
        "DELETE FROM one_time_key WHERE user = ?1 AND device = ?2 AND json IS NULL AND seq <
           (SELECT seq FROM one_time_key WHERE user = ?1 AND device = ?2 AND json IS NULL
            ORDER BY seq DESC LIMIT 1 OFFSET ?3)",
        (user, device, claimed_kept),
    )?;
    Ok(Some((key_id, json)))
}

/// One-time keys left for each algorithm.
pub fn one_time_key_counts(
    tx: &ReadTx<'_>,
    user: Nid,
    device: &str,
) -> Result<Vec<(String, i64)>, StoreError> {
    tx.rows(
        "SELECT algorithm, count(*) FROM one_time_key WHERE user = ?1 AND device = ?2 AND json IS NOT NULL
         GROUP BY algorithm",
        (user, device),
        |row| Ok((row.get(0)?, row.get(1)?)),
    )
}

/// Notes that a device has other keys left than before.
pub fn put_counts_position(
    tx: &mut WriteTx<'_>,
    user: Nid,
    device: &str,
    seq: Seq,
) -> Result<(), StoreError> {
    tx.execute(
        "INSERT INTO key_counts(user, device, seq) VALUES(?1, ?2, ?3)
         ON CONFLICT(user, device) DO UPDATE SET seq = excluded.seq",
        (user, device, seq),
    )
    .map(drop)
}

/// Position of the last change of what keys a device has left.
pub fn counts_position(tx: &ReadTx<'_>, user: Nid, device: &str) -> Result<Option<Seq>, StoreError> {
    tx.row("SELECT seq FROM key_counts WHERE user = ?1 AND device = ?2", (user, device), |row| row.get(0))
}

/// Keeps a fallback key instead of the one before. True if it is a new one.
pub fn put_fallback_key(
    tx: &mut WriteTx<'_>,
    user: Nid,
    device: &str,
    algorithm: &str,
    key_id: &str,
    json: &str,
) -> Result<bool, StoreError> {
    let changed = tx.execute(
        "INSERT INTO fallback_key(user, device, algorithm, key_id, used, json) VALUES(?1, ?2, ?3, ?4, 0, ?5)
         ON CONFLICT(user, device, algorithm) DO UPDATE SET key_id = excluded.key_id, used = 0, json = excluded.json
         WHERE key_id <> excluded.key_id OR json <> excluded.json",
        (user, device, algorithm, key_id, json),
    )?;
    Ok(changed > 0)
}

/// The fallback key, from now on marked as used: (key id, JSON, was it unused until now).
pub fn use_fallback_key(
    tx: &mut WriteTx<'_>,
    user: Nid,
    device: &str,
    algorithm: &str,
) -> Result<Option<(String, String, bool)>, StoreError> {
    let found: Option<(String, String, bool)> = tx.row(
        "SELECT key_id, json, used = 0 FROM fallback_key WHERE user = ?1 AND device = ?2 AND algorithm = ?3",
        (user, device, algorithm),
        |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
    )?;
    if matches!(found, Some((_, _, true))) {
        tx.execute(
            "UPDATE fallback_key SET used = 1 WHERE user = ?1 AND device = ?2 AND algorithm = ?3",
            (user, device, algorithm),
        )?;
    }
    Ok(found)
}

/// Algorithms with an unused fallback key.
pub fn unused_fallback_keys(tx: &ReadTx<'_>, user: Nid, device: &str) -> Result<Vec<String>, StoreError> {
    tx.rows(
        "SELECT algorithm FROM fallback_key WHERE user = ?1 AND device = ?2 AND used = 0 ORDER BY algorithm",
        (user, device),
        |row| row.get(0),
    )
}

/// Drops the one-time and fallback keys of a device whose identity keys are no longer the same.
pub fn drop_keys_of_device(tx: &mut WriteTx<'_>, user: Nid, device: &str) -> Result<(), StoreError> {
    tx.execute("DELETE FROM one_time_key WHERE user = ?1 AND device = ?2", (user, device))?;
    tx.execute("DELETE FROM fallback_key WHERE user = ?1 AND device = ?2", (user, device))?;
    Ok(())
}

/// Drops all one-time keys: a restored backup may hold keys that were claimed since.
pub fn drop_one_time_keys(tx: &mut WriteTx<'_>) -> Result<(), StoreError> {
    tx.execute("DELETE FROM one_time_key", ()).map(drop)
}

// Cross-signing.

/// A cross-signing key.
pub fn cross_signing(tx: &ReadTx<'_>, user: Nid, usage: Usage) -> Result<Option<String>, StoreError> {
    tx.row("SELECT json FROM cross_signing WHERE user = ?1 AND usage = ?2", (user, usage as u8), |row| {
        row.get(0)
    })
}

/// Keeps a cross-signing key.
pub fn put_cross_signing(
    tx: &mut WriteTx<'_>,
    user: Nid,
    usage: Usage,
    json: &str,
) -> Result<(), StoreError> {
    tx.execute(
        "INSERT INTO cross_signing(user, usage, json) VALUES(?1, ?2, ?3)
         ON CONFLICT(user, usage) DO UPDATE SET json = excluded.json",
        (user, usage as u8, json),
    )
    .map(drop)
}

/// Forgets a cross-signing key.
pub fn delete_cross_signing(tx: &mut WriteTx<'_>, user: Nid, usage: Usage) -> Result<(), StoreError> {
    tx.execute("DELETE FROM cross_signing WHERE user = ?1 AND usage = ?2", (user, usage as u8)).map(drop)
}

/// Keeps a signature over someone else's key, for its signer alone.
pub fn put_signature(
    tx: &mut WriteTx<'_>,
    signer: Nid,
    target: Nid,
    key: &str,
    key_id: &str,
    signature: &str,
) -> Result<(), StoreError> {
    tx.execute(
        "INSERT INTO key_signature(signer, target, key, key_id, signature) VALUES(?1, ?2, ?3, ?4, ?5)
         ON CONFLICT DO UPDATE SET signature = excluded.signature",
        (signer, target, key, key_id, signature),
    )
    .map(drop)
}

/// Signatures that `signer` has made over a key of `target`: (key id, signature).
pub fn signatures(
    tx: &ReadTx<'_>,
    signer: Nid,
    target: Nid,
    key: &str,
) -> Result<Vec<(String, String)>, StoreError> {
    tx.rows(
        "SELECT key_id, signature FROM key_signature WHERE signer = ?1 AND target = ?2 AND key = ?3",
        (signer, target, key),
        |row| Ok((row.get(0)?, row.get(1)?)),
    )
}

// Lists of devices.

/// Position of the last change of a user's devices or keys.
pub fn list_position(tx: &ReadTx<'_>, user: Nid) -> Result<Option<Seq>, StoreError> {
    tx.row("SELECT seq FROM device_list WHERE user = ?1", [user], |row| row.get(0))
}

/// Notes a change of a user's list.
pub fn put_list_position(tx: &mut WriteTx<'_>, user: Nid, seq: Seq) -> Result<(), StoreError> {
    tx.execute(
        "INSERT INTO device_list(user, seq) VALUES(?1, ?2) ON CONFLICT(user) DO UPDATE SET seq = excluded.seq",
        (user, seq),
    )
    .map(drop)
}

/// The stream id that servers were last told for one of our users; 0 if they never were.
pub fn announced(tx: &ReadTx<'_>, user: Nid) -> Result<i64, StoreError> {
    Ok(tx.row("SELECT announced FROM device_list WHERE user = ?1", [user], |row| row.get(0))?.unwrap_or(0))
}

/// Notes what servers are told now.
pub fn put_announced(tx: &mut WriteTx<'_>, user: Nid, stream_id: i64) -> Result<(), StoreError> {
    tx.execute("UPDATE device_list SET announced = ?2 WHERE user = ?1", (user, stream_id)).map(drop)
}

/// Users whose lists changed after `since`, up to `until`, the first `limit` of them.
pub fn lists_changed(tx: &ReadTx<'_>, since: Seq, until: Seq, limit: u32) -> Result<Vec<Nid>, StoreError> {
    tx.rows(
        "SELECT user FROM device_list WHERE seq > ?1 AND seq <= ?2 ORDER BY seq LIMIT ?3",
        (since, until, limit),
        |row| row.get(0),
    )
}

/// What is known of a remote user's list: (stream id, stale).
pub fn remote_list(tx: &ReadTx<'_>, user: Nid) -> Result<Option<(i64, bool)>, StoreError> {
    tx.row("SELECT stream_id, stale FROM remote_list WHERE user = ?1", [user], |row| {
        Ok((row.get(0)?, row.get(1)?))
    })
}

/// Notes how far a remote user's list was followed.
pub fn put_remote_list(
    tx: &mut WriteTx<'_>,
    user: Nid,
    stream_id: i64,
    stale: bool,
) -> Result<(), StoreError> {
    tx.execute(
        "INSERT INTO remote_list(user, stream_id, stale) VALUES(?1, ?2, ?3)
         ON CONFLICT(user) DO UPDATE SET stream_id = excluded.stream_id, stale = excluded.stale",
        (user, stream_id, stale),
    )
    .map(drop)
}

/// The list must be fetched anew before it is used. True if there was one that counted as good.
pub fn mark_stale(tx: &mut WriteTx<'_>, user: Nid) -> Result<bool, StoreError> {
    Ok(tx.execute("UPDATE remote_list SET stale = 1 WHERE user = ?1 AND stale = 0", [user])? > 0)
}

/// The lists of everybody in a room must be fetched anew before they are used.
pub fn mark_room_stale(tx: &mut WriteTx<'_>, room: Nid) -> Result<(), StoreError> {
    tx.execute(
        "UPDATE remote_list SET stale = 1 WHERE stale = 0
         AND user IN (SELECT user FROM member WHERE room = ?1 AND membership = 1)",
        [room],
    )
    .map(drop)
}

/// Servers (ours, too) with a user in a room of this user.
pub fn servers_sharing_with(tx: &ReadTx<'_>, user: Nid) -> Result<Vec<Nid>, StoreError> {
    tx.rows(
        "SELECT DISTINCT room_server.server FROM member JOIN room_server ON room_server.room = member.room
         WHERE member.user = ?1 AND member.membership = 1",
        [user],
        |row| row.get(0),
    )
}

/// Servers (ours, too) with a user in a room of this user other than one.
pub fn servers_sharing_elsewhere(tx: &ReadTx<'_>, user: Nid, room: Nid) -> Result<HashSet<Nid>, StoreError> {
    let servers = tx.rows(
        "SELECT DISTINCT room_server.server FROM member JOIN room_server ON room_server.room = member.room
         WHERE member.user = ?1 AND member.membership = 1 AND member.room <> ?2",
        (user, room),
        |row| row.get(0),
    )?;
    Ok(servers.into_iter().collect())
}

/// Whether a user of ours is in a room of this user.
pub fn shares_with_local(tx: &ReadTx<'_>, user: Nid) -> Result<bool, StoreError> {
    let found = tx.row(
        "SELECT 1 FROM member JOIN user_room ON user_room.room = member.room AND user_room.membership = 1
         WHERE member.user = ?1 AND member.membership = 1 LIMIT 1",
        [user],
        |_| Ok(()),
    )?;
    Ok(found.is_some())
}

/// Whether two users are in a room together.
pub fn share_a_room(tx: &ReadTx<'_>, one: Nid, other: Nid) -> Result<bool, StoreError> {
    let found = tx.row(
        "SELECT 1 FROM member AS one JOIN member AS other ON other.room = one.room AND other.membership = 1
         WHERE one.user = ?1 AND one.membership = 1 AND other.user = ?2 LIMIT 1",
        (one, other),
        |_| Ok(()),
    )?;
    Ok(found.is_some())
}

/// A device in a remote user's list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteDevice {
    /// Its id.
    pub device: String,
    /// What its owner calls it.
    pub name: Option<String>,
    /// Its keys.
    pub json: String,
}

/// The devices of a remote user.
pub fn remote_devices(tx: &ReadTx<'_>, user: Nid) -> Result<Vec<RemoteDevice>, StoreError> {
    tx.rows("SELECT device, name, json FROM remote_device WHERE user = ?1 ORDER BY device", [user], |row| {
        Ok(RemoteDevice { device: row.get(0)?, name: row.get(1)?, json: row.get(2)? })
    })
}

/// Keeps a device of a remote user.
pub fn put_remote_device(tx: &mut WriteTx<'_>, user: Nid, device: &RemoteDevice) -> Result<(), StoreError> {
    tx.execute(
        "INSERT INTO remote_device(user, device, name, json) VALUES(?1, ?2, ?3, ?4)
         ON CONFLICT(user, device) DO UPDATE SET name = excluded.name, json = excluded.json",
        (user, &device.device, &device.name, &device.json),
    )
    .map(drop)
}

/// Forgets a device of a remote user.
pub fn delete_remote_device(tx: &mut WriteTx<'_>, user: Nid, device: &str) -> Result<(), StoreError> {
    tx.execute("DELETE FROM remote_device WHERE user = ?1 AND device = ?2", (user, device)).map(drop)
}

/// Forgets all devices of a remote user.
pub fn delete_remote_devices(tx: &mut WriteTx<'_>, user: Nid) -> Result<(), StoreError> {
    tx.execute("DELETE FROM remote_device WHERE user = ?1", [user]).map(drop)
}

// Messages to devices.

/// Queues a message.
pub fn put_to_device(
    tx: &mut WriteTx<'_>,
    user: Nid,
    device: &str,
    seq: Seq,
    json: &str,
) -> Result<(), StoreError> {
    tx.execute(
        "INSERT INTO to_device(user, device, seq, json) VALUES(?1, ?2, ?3, ?4)",
        (user, device, seq, json),
    )
    .map(drop)
}

/// Drops the oldest messages of a queue that is longer than `keep`. Gives how many went.
pub fn trim_to_device(tx: &mut WriteTx<'_>, user: Nid, device: &str, keep: u32) -> Result<usize, StoreError> {
    tx.execute(
        "DELETE FROM to_device WHERE user = ?1 AND device = ?2 AND seq <=
           (SELECT seq FROM to_device WHERE user = ?1 AND device = ?2 ORDER BY seq DESC LIMIT 1 OFFSET ?3)",
        (user, device, keep),
    )
}

/// The messages after `since`, up to `until`, the first `limit` of them.
pub fn to_device(
    tx: &ReadTx<'_>,
    user: Nid,
    device: &str,
    since: Seq,
    until: Seq,
    limit: u32,
) -> Result<Vec<(Seq, String)>, StoreError> {
    tx.rows(
        "SELECT seq, json FROM to_device WHERE user = ?1 AND device = ?2 AND seq > ?3 AND seq <= ?4
         ORDER BY seq LIMIT ?5",
        (user, device, since, until, limit),
        |row| Ok((row.get(0)?, row.get(1)?)),
    )
}

/// Whether there is anything that an acknowledgement up to `until` would delete.
pub fn has_to_device(tx: &ReadTx<'_>, user: Nid, device: &str, until: Seq) -> Result<bool, StoreError> {
    let found = tx.row(
        "SELECT 1 FROM to_device WHERE user = ?1 AND device = ?2 AND seq <= ?3 LIMIT 1",
        (user, device, until),
        |_| Ok(()),
    )?;
    Ok(found.is_some())
}

/// The device has everything up to `until`.
pub fn acknowledge(tx: &mut WriteTx<'_>, user: Nid, device: &str, until: Seq) -> Result<(), StoreError> {
    tx.execute("DELETE FROM to_device WHERE user = ?1 AND device = ?2 AND seq <= ?3", (user, device, until))
        .map(drop)
}

/// Notes a request of a device as carried out. False if it was before.
pub fn put_to_device_txn(
    tx: &mut WriteTx<'_>,
    user: Nid,
    device: &str,
    txn: &str,
    now_ms: u64,
    keep_ms: u64,
) -> Result<bool, StoreError> {
    tx.execute("DELETE FROM to_device_txn WHERE at_ms < ?1", [now_ms.saturating_sub(keep_ms) as i64])?;
    let new = tx.execute(
        "INSERT OR IGNORE INTO to_device_txn(user, device, txn, at_ms) VALUES(?1, ?2, ?3, ?4)",
        (user, device, txn, now_ms as i64),
    )?;
    Ok(new > 0)
}

/// Notes a message of another server as received; forgets the ones of that server older than `keep_ms`, and the
/// oldest beyond `keep`. False if it was there before.
pub fn put_in_message(
    tx: &mut WriteTx<'_>,
    origin: Nid,
    message: &str,
    now_ms: u64,
    keep_ms: u64,
    keep: u32,
) -> Result<bool, StoreError> {
    let new = tx.execute(
        "INSERT OR IGNORE INTO in_message(origin, message, at_ms) VALUES(?1, ?2, ?3)",
        (origin, message, now_ms as i64),
    )?;
    tx.execute(
        "DELETE FROM in_message WHERE origin = ?1 AND at_ms < max(?2, coalesce(
           (SELECT at_ms FROM in_message WHERE origin = ?1 ORDER BY at_ms DESC LIMIT 1 OFFSET ?3), 0))",
        (origin, now_ms.saturating_sub(keep_ms) as i64, keep),
    )?;
    Ok(new > 0)
}

// Who shares rooms.

/// Notes that a user began or ceased to share a room with its members.
pub fn put_sharing(
    tx: &mut WriteTx<'_>,
    room: Nid,
    seq: Seq,
    user: Nid,
    joined: bool,
) -> Result<(), StoreError> {
    tx.execute(
        "INSERT OR REPLACE INTO sharing(room, seq, user, joined) VALUES(?1, ?2, ?3, ?4)",
        (room, seq, user, joined),
    )
    .map(drop)
}

/// What a device is called by its user.
pub fn device_name(tx: &ReadTx<'_>, user: Nid, device: &str) -> Result<Option<String>, StoreError> {
    let Some(device) = tx.lookup(Kind::Device, device)? else {
        return Ok(None);
    };
    let name: Option<Option<String>> =
        tx.row("SELECT name FROM device WHERE user = ?1 AND device = ?2", (user, device), |row| row.get(0))?;
    Ok(name.flatten())
}

/// The devices of a local user.
pub fn local_devices(tx: &ReadTx<'_>, user: Nid) -> Result<Vec<String>, StoreError> {
    tx.rows(
        "SELECT intern.text FROM device JOIN intern ON intern.nid = device.device WHERE device.user = ?1",
        [user],
        |row| row.get(0),
    )
}

/// Who began or ceased to share a room in (since, until].
pub fn sharing(tx: &ReadTx<'_>, room: Nid, since: Seq, until: Seq) -> Result<Vec<(Nid, bool)>, StoreError> {
    tx.rows(
        "SELECT user, joined FROM sharing WHERE room = ?1 AND seq > ?2 AND seq <= ?3 ORDER BY seq",
        (room, since, until),
        |row| Ok((row.get(0)?, row.get(1)?)),
    )
}
