//! Tables of accounts, devices, tokens, profiles and pushers. Owner: `user`.
//!
//! | table | key | holds | readers |
//! |---|---|---|---|
//! | `user` | user | password (PHC string), made, deactivated | user |
//! | `device` | user, device | name, last seen | user, e2ee |
//! | `access_token` | SHA-256 of the token | user, device | user |
//! | `openid_token` | SHA-256 of the token | user, expiry | user (federation asks) |
//! | `registration_token` | token | uses left, expiry | user |
//! | `profile` | user, field | JSON value | user, room (member events) |
//! | `pusher` | user, app, push key | its JSON as the client sent it | user, push |

use rusqlite::params;

use crate::store::{Kind, Nid, ReadTx, StoreError, WriteTx};

pub(in crate::store) const SCHEMA: &str = "
CREATE TABLE user(user INTEGER PRIMARY KEY, password TEXT, made_ms INTEGER NOT NULL, deactivated INTEGER NOT NULL DEFAULT 0);
CREATE TABLE device(user INTEGER NOT NULL, device INTEGER NOT NULL, name TEXT, made_ms INTEGER NOT NULL, seen_ms INTEGER,
  seen_ip TEXT, PRIMARY KEY(user, device)) WITHOUT ROWID;
CREATE TABLE access_token(hash BLOB PRIMARY KEY, user INTEGER NOT NULL, device INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX access_token_device ON access_token(user, device);
CREATE TABLE openid_token(hash BLOB PRIMARY KEY, user INTEGER NOT NULL, expires_ms INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE registration_token(token TEXT PRIMARY KEY, uses_left INTEGER NOT NULL, made_ms INTEGER NOT NULL, expires_ms INTEGER) WITHOUT ROWID;
CREATE TABLE profile(user INTEGER NOT NULL, field TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY(user, field)) WITHOUT ROWID;
CREATE TABLE pusher(user INTEGER NOT NULL, app TEXT NOT NULL, push_key TEXT NOT NULL, device INTEGER NOT NULL, json TEXT NOT NULL,
  PRIMARY KEY(user, app, push_key)) WITHOUT ROWID;
";

/// An account as stored.
#[derive(Clone, Debug)]
pub struct UserRow {
    /// The user.
    pub user: Nid,
    /// Its password hash; `None` if it cannot log in with one.
    pub password: Option<String>,
    /// When it was made.
    pub made_ms: u64,
    /// Whether it was deactivated; its name stays taken.
    pub deactivated: bool,
}

/// A device as stored.
#[derive(Clone, Debug)]
pub struct DeviceRow {
    /// The device.
    pub device: Nid,
    /// What its user calls it.
    pub name: Option<String>,
    /// When it was last seen.
    pub seen_ms: Option<u64>,
    /// From where.
    pub seen_ip: Option<String>,
}

/// A registration token as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenRow {
    /// The token.
    pub token: String,
    /// How many accounts it still makes.
    pub uses_left: u32,
    /// When it was made.
    pub made_ms: u64,
    /// When it ends by itself.
    pub expires_ms: Option<u64>,
}

/// A user's number if the user was ever mentioned, by anybody.
pub fn nid(tx: &ReadTx<'_>, user: &str) -> Result<Option<Nid>, StoreError> {
    tx.lookup(Kind::User, user)
}

/// An account of ours.
pub fn find(tx: &ReadTx<'_>, user: &str) -> Result<Option<UserRow>, StoreError> {
    let Some(user) = nid(tx, user)? else {
        return Ok(None);
    };
    tx.row("SELECT password, made_ms, deactivated FROM user WHERE user = ?1", [user], |row| {
        Ok(UserRow {
            user,
            password: row.get(0)?,
            made_ms: row.get::<_, i64>(1)? as u64,
            deactivated: row.get(2)?,
        })
    })
}

/// Every account, in the order they were made.
pub fn all(tx: &ReadTx<'_>) -> Result<Vec<UserRow>, StoreError> {
    tx.rows("SELECT user, password, made_ms, deactivated FROM user ORDER BY made_ms, user", [], |row| {
        Ok(UserRow {
            user: row.get(0)?,
            password: row.get(1)?,
            made_ms: row.get::<_, i64>(2)? as u64,
            deactivated: row.get(3)?,
        })
    })
}

/// Makes an account; the caller knows that there is none.
pub fn insert(
    tx: &mut WriteTx<'_>,
    user: Nid,
    password: Option<&str>,
    now_ms: u64,
) -> Result<(), StoreError> {
    tx.execute(
        "INSERT INTO user(user, password, made_ms) VALUES(?1, ?2, ?3)",
        params![user, password, now_ms as i64],
    )?;
    Ok(())
}

/// Changes (or takes away) a password.
pub fn set_password(tx: &mut WriteTx<'_>, user: Nid, password: Option<&str>) -> Result<(), StoreError> {
    tx.execute("UPDATE user SET password = ?2 WHERE user = ?1", params![user, password])?;
    Ok(())
}

/// Ends an account; its name stays taken for ever.
pub fn deactivate(tx: &mut WriteTx<'_>, user: Nid) -> Result<(), StoreError> {
    tx.execute("UPDATE user SET deactivated = 1, password = NULL WHERE user = ?1", [user])?;
    tx.execute("DELETE FROM openid_token WHERE user = ?1", [user])?;
    tx.execute("DELETE FROM pusher WHERE user = ?1", [user])?;
    tx.execute("DELETE FROM login_token WHERE user = ?1", [user])?;
    tx.execute("DELETE FROM threepid WHERE user = ?1", [user])?;
    tx.execute("DELETE FROM upstream_account WHERE user = ?1", [user])?;
    Ok(())
}

/// Takes a deactivated account up again; it has no password yet.
pub fn reactivate(tx: &mut WriteTx<'_>, user: Nid) -> Result<(), StoreError> {
    tx.execute("UPDATE user SET deactivated = 0 WHERE user = ?1", [user])?;
    Ok(())
}

/// One device.
pub fn device(tx: &ReadTx<'_>, user: Nid, device: Nid) -> Result<Option<DeviceRow>, StoreError> {
    tx.row(
        "SELECT device, name, seen_ms, seen_ip FROM device WHERE user = ?1 AND device = ?2",
        (user, device),
        device_row,
    )
}

/// All devices of a user.
pub fn devices(tx: &ReadTx<'_>, user: Nid) -> Result<Vec<DeviceRow>, StoreError> {
    tx.rows(
        "SELECT device, name, seen_ms, seen_ip FROM device WHERE user = ?1 ORDER BY made_ms, device",
        [user],
        device_row,
    )
}

fn device_row(row: &rusqlite::Row<'_>) -> rusqlite::Result<DeviceRow> {
    Ok(DeviceRow {
        device: row.get(0)?,
        name: row.get(1)?,
        seen_ms: row.get::<_, Option<i64>>(2)?.map(|ms| ms as u64),
        seen_ip: row.get(3)?,
    })
}

/// Makes a device, or renames it if `name` says so; true if it is new.
pub fn put_device(
    tx: &mut WriteTx<'_>,
    user: Nid,
    device: Nid,
    name: Option<&str>,
    now_ms: u64,
) -> Result<bool, StoreError> {
    let made = tx.execute(
        "INSERT OR IGNORE INTO device(user, device, name, made_ms) VALUES(?1, ?2, ?3, ?4)",
        params![user, device, name, now_ms as i64],
    )?;
    if made == 0 && name.is_some() {
        rename_device(tx, user, device, name)?;
    }
    Ok(made > 0)
}

/// Renames a device; false if there is none.
pub fn rename_device(
    tx: &mut WriteTx<'_>,
    user: Nid,
    device: Nid,
    name: Option<&str>,
) -> Result<bool, StoreError> {
    let changed = tx.execute(
        "UPDATE device SET name = ?3 WHERE user = ?1 AND device = ?2",
        params![user, device, name],
    )?;
    Ok(changed > 0)
}

/// Notes when and from where a device was last heard of.
pub fn saw_device(
    tx: &mut WriteTx<'_>,
    user: Nid,
    device: Nid,
    now_ms: u64,
    ip: Option<&str>,
) -> Result<(), StoreError> {
    tx.execute(
        "UPDATE device SET seen_ms = ?3, seen_ip = coalesce(?4, seen_ip) WHERE user = ?1 AND device = ?2",
        params![user, device, now_ms as i64, ip],
    )?;
    Ok(())
}

/// Removes a device with its tokens and pushers; false if there was none.
pub fn remove_device(tx: &mut WriteTx<'_>, user: Nid, device: Nid) -> Result<bool, StoreError> {
    remove_tokens(tx, user, device)?;
    tx.execute("DELETE FROM pusher WHERE user = ?1 AND device = ?2", (user, device))?;
    let removed = tx.execute("DELETE FROM device WHERE user = ?1 AND device = ?2", (user, device))?;
    Ok(removed > 0)
}

/// Ends all tokens of a device.
pub fn remove_tokens(tx: &mut WriteTx<'_>, user: Nid, device: Nid) -> Result<(), StoreError> {
    tx.execute("DELETE FROM access_token WHERE user = ?1 AND device = ?2", (user, device))?;
    tx.execute("DELETE FROM refresh_token WHERE user = ?1 AND device = ?2", (user, device))?;
    Ok(())
}

/// Stores an OpenID token, and forgets those that have ended.
pub fn put_openid(
    tx: &mut WriteTx<'_>,
    user: Nid,
    hash: &[u8; 32],
    now_ms: u64,
    expires_ms: u64,
) -> Result<(), StoreError> {
    tx.execute("DELETE FROM openid_token WHERE expires_ms < ?1", [now_ms as i64])?;
    tx.execute(
        "INSERT INTO openid_token(hash, user, expires_ms) VALUES(?1, ?2, ?3)",
        params![hash.as_slice(), user, expires_ms as i64],
    )?;
    Ok(())
}

/// Whom an OpenID token speaks for.
pub fn by_openid(tx: &ReadTx<'_>, hash: &[u8; 32], now_ms: u64) -> Result<Option<Nid>, StoreError> {
    tx.row(
        "SELECT user FROM openid_token WHERE hash = ?1 AND expires_ms >= ?2",
        params![hash.as_slice(), now_ms as i64],
        |row| row.get(0),
    )
}

/// Stores a registration token.
pub fn put_registration_token(tx: &mut WriteTx<'_>, row: &TokenRow) -> Result<(), StoreError> {
    tx.execute(
        "INSERT INTO registration_token(token, uses_left, made_ms, expires_ms) VALUES(?1, ?2, ?3, ?4)",
        params![row.token, row.uses_left, row.made_ms as i64, row.expires_ms.map(|ms| ms as i64)],
    )?;
    Ok(())
}

/// Registration tokens that still make an account, oldest first.
pub fn registration_tokens(tx: &ReadTx<'_>, now_ms: u64) -> Result<Vec<TokenRow>, StoreError> {
    tx.rows(
        "SELECT token, uses_left, made_ms, expires_ms FROM registration_token
         WHERE uses_left > 0 AND coalesce(expires_ms, ?1) >= ?1 ORDER BY made_ms",
        [now_ms as i64],
        |row| {
            Ok(TokenRow {
                token: row.get(0)?,
                uses_left: row.get(1)?,
                made_ms: row.get::<_, i64>(2)? as u64,
                expires_ms: row.get::<_, Option<i64>>(3)?.map(|ms| ms as u64),
            })
        },
    )
}

/// Takes one use off a token; false if it has none left.
pub fn use_registration_token(tx: &mut WriteTx<'_>, token: &str, now_ms: u64) -> Result<bool, StoreError> {
    let used = tx.execute(
        "UPDATE registration_token SET uses_left = uses_left - 1, uses_done = uses_done + 1
         WHERE token = ?1 AND uses_left > 0 AND coalesce(expires_ms, ?2) >= ?2",
        params![token, now_ms as i64],
    )?;
    Ok(used > 0)
}

/// Whether a registration token would make an account now.
pub fn registration_token_valid(tx: &ReadTx<'_>, token: &str, now_ms: u64) -> Result<bool, StoreError> {
    let found = tx.row(
        "SELECT 1 FROM registration_token WHERE token = ?1 AND uses_left > 0 AND coalesce(expires_ms, ?2) >= ?2",
        params![token, now_ms as i64],
        |row| row.get::<_, i64>(0),
    )?;
    Ok(found.is_some())
}

/// All profile fields of a user: (name, JSON value).
pub fn profile(tx: &ReadTx<'_>, user: Nid) -> Result<Vec<(String, String)>, StoreError> {
    tx.rows("SELECT field, value FROM profile WHERE user = ?1", [user], |row| Ok((row.get(0)?, row.get(1)?)))
}

/// The pictures of all profiles, as JSON values.
pub fn pictures(tx: &ReadTx<'_>) -> Result<Vec<String>, StoreError> {
    tx.rows("SELECT value FROM profile WHERE field = 'avatar_url'", [], |row| row.get(0))
}

/// Sets a profile field, or (`None`) removes it.
pub fn set_profile(
    tx: &mut WriteTx<'_>,
    user: Nid,
    field: &str,
    value: Option<&str>,
) -> Result<(), StoreError> {
    match value {
        Some(value) => tx.execute(
            "INSERT INTO profile(user, field, value) VALUES(?1, ?2, ?3)
             ON CONFLICT(user, field) DO UPDATE SET value = excluded.value",
            params![user, field, value],
        )?,
        None => tx.execute("DELETE FROM profile WHERE user = ?1 AND field = ?2", params![user, field])?,
    };
    Ok(())
}

/// The pushers of a user, as JSON.
pub fn pushers(tx: &ReadTx<'_>, user: Nid) -> Result<Vec<String>, StoreError> {
    tx.rows("SELECT json FROM pusher WHERE user = ?1 ORDER BY app, push_key", [user], |row| row.get(0))
}

/// Sets a pusher, or (`None`) removes it.
pub fn set_pusher(
    tx: &mut WriteTx<'_>,
    user: Nid,
    device: Nid,
    app: &str,
    push_key: &str,
    json: Option<&str>,
) -> Result<(), StoreError> {
    match json {
        Some(json) => tx.execute(
            "INSERT INTO pusher(user, app, push_key, device, json) VALUES(?1, ?2, ?3, ?4, ?5)
             ON CONFLICT(user, app, push_key) DO UPDATE SET device = excluded.device, json = excluded.json",
            params![user, app, push_key, device, json],
        )?,
        None => tx.execute(
            "DELETE FROM pusher WHERE user = ?1 AND app = ?2 AND push_key = ?3",
            params![user, app, push_key],
        )?,
    };
    Ok(())
}

/// The pusher with this app and push key moves to another user when that one sets it without `append`.
pub fn remove_pusher_of_others(
    tx: &mut WriteTx<'_>,
    user: Nid,
    app: &str,
    push_key: &str,
) -> Result<(), StoreError> {
    tx.execute(
        "DELETE FROM pusher WHERE user <> ?1 AND app = ?2 AND push_key = ?3",
        params![user, app, push_key],
    )?;
    Ok(())
}
