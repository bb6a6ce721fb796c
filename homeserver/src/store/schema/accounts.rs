//! What an account may do and how its log-ins go on: a step after `users`. Owner: `user`.
//!
//! | table | key | holds | readers |
//! |---|---|---|---|
//! | `user` (columns) | user | administrator, guest, locked, suspended, shadow-banned, erased, kind, consent | user |
//! | `device` (columns) | user, device | OAuth client and scope it was made by | user |
//! | `access_token` (columns) | SHA-256 of the token | expiry; the refresh token it takes the place of | user |
//! | `refresh_token` | SHA-256 of the token | user, device, expiry, the one it takes the place of | user |
//! | `login_token` | SHA-256 of the token | user, expiry | user |
//! | `threepid` | medium, address | user, when it was proven | user |
//! | `threepid_session` | session id | what is being proven, to whom the mail went | user |
//! | `oauth_client` | client id | its metadata (JSON), last use | user |
//! | `upstream_account` | provider, subject | user | user |
//! | `report` | id | what was reported, by whom, why | user, room |

use rusqlite::params;

use crate::store::{Nid, ReadTx, StoreError, WriteTx};

pub(in crate::store) const SCHEMA: &str = "
ALTER TABLE user ADD COLUMN admin INTEGER NOT NULL DEFAULT 0;
ALTER TABLE user ADD COLUMN guest INTEGER NOT NULL DEFAULT 0;
ALTER TABLE user ADD COLUMN locked INTEGER NOT NULL DEFAULT 0;
ALTER TABLE user ADD COLUMN suspended INTEGER NOT NULL DEFAULT 0;
ALTER TABLE user ADD COLUMN shadow_banned INTEGER NOT NULL DEFAULT 0;
ALTER TABLE user ADD COLUMN erased INTEGER NOT NULL DEFAULT 0;
ALTER TABLE user ADD COLUMN kind TEXT;
ALTER TABLE user ADD COLUMN consent TEXT;
ALTER TABLE device ADD COLUMN client TEXT;
ALTER TABLE device ADD COLUMN scope TEXT;
ALTER TABLE access_token ADD COLUMN expires_ms INTEGER;
ALTER TABLE access_token ADD COLUMN replaces BLOB;
ALTER TABLE registration_token ADD COLUMN uses_done INTEGER NOT NULL DEFAULT 0;
CREATE TABLE refresh_token(hash BLOB PRIMARY KEY, user INTEGER NOT NULL, device INTEGER NOT NULL, expires_ms INTEGER,
  replaces BLOB) WITHOUT ROWID;
CREATE INDEX refresh_token_device ON refresh_token(user, device);
CREATE TABLE login_token(hash BLOB PRIMARY KEY, user INTEGER NOT NULL, expires_ms INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE threepid(medium TEXT NOT NULL, address TEXT NOT NULL, user INTEGER NOT NULL, validated_ms INTEGER NOT NULL,
  added_ms INTEGER NOT NULL, PRIMARY KEY(medium, address)) WITHOUT ROWID;
CREATE INDEX threepid_user ON threepid(user);
CREATE TABLE threepid_session(sid TEXT PRIMARY KEY, secret TEXT NOT NULL, medium TEXT NOT NULL, address TEXT NOT NULL,
  purpose INTEGER NOT NULL, attempt INTEGER NOT NULL, token BLOB NOT NULL, next_link TEXT, expires_ms INTEGER NOT NULL,
  validated_ms INTEGER) WITHOUT ROWID;
CREATE INDEX threepid_session_expiry ON threepid_session(expires_ms);
CREATE TABLE oauth_client(id TEXT PRIMARY KEY, json TEXT NOT NULL, used_ms INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX oauth_client_used ON oauth_client(used_ms);
CREATE TABLE upstream_account(provider TEXT NOT NULL, subject TEXT NOT NULL, user INTEGER NOT NULL,
  PRIMARY KEY(provider, subject)) WITHOUT ROWID;
CREATE TABLE report(id INTEGER PRIMARY KEY, at_ms INTEGER NOT NULL, reporter INTEGER NOT NULL, room TEXT, event TEXT, target TEXT,
  reason TEXT, score INTEGER);
";

/// A yes or no about an account that only administrators change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flag {
    /// May use the administrators' endpoints.
    Admin,
    /// Registered as a guest.
    Guest,
    /// Can do nothing but log out.
    Locked,
    /// Can read but not take part.
    Suspended,
    /// What it sends is taken and thrown away.
    ShadowBanned,
    /// Asked, when it was deactivated, that its words be no longer shown to newcomers.
    Erased,
}

impl Flag {
    fn sql(self) -> &'static str {
        match self {
            Self::Admin => "UPDATE user SET admin = ?2 WHERE user = ?1",
            Self::Guest => "UPDATE user SET guest = ?2 WHERE user = ?1",
            Self::Locked => "UPDATE user SET locked = ?2 WHERE user = ?1",
            Self::Suspended => "UPDATE user SET suspended = ?2 WHERE user = ?1",
            Self::ShadowBanned => "UPDATE user SET shadow_banned = ?2 WHERE user = ?1",
            Self::Erased => "UPDATE user SET erased = ?2 WHERE user = ?1",
        }
    }
}

/// What an account may and may not do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// See [`Flag::Admin`].
    pub admin: bool,
    /// See [`Flag::Guest`].
    pub guest: bool,
    /// See [`Flag::Locked`].
    pub locked: bool,
    /// See [`Flag::Suspended`].
    pub suspended: bool,
    /// See [`Flag::ShadowBanned`].
    pub shadow_banned: bool,
    /// See [`Flag::Erased`].
    pub erased: bool,
}

/// An account's standing; that of an account that is not there is the ordinary one.
pub fn standing(tx: &ReadTx<'_>, user: Nid) -> Result<Standing, StoreError> {
    let found = tx.row(
        "SELECT admin, guest, locked, suspended, shadow_banned, erased FROM user WHERE user = ?1",
        [user],
        |row| {
            Ok(Standing {
                admin: row.get(0)?,
                guest: row.get(1)?,
                locked: row.get(2)?,
                suspended: row.get(3)?,
                shadow_banned: row.get(4)?,
                erased: row.get(5)?,
            })
        },
    )?;
    Ok(found.unwrap_or_default())
}

/// Changes one flag.
pub fn set_flag(tx: &mut WriteTx<'_>, user: Nid, flag: Flag, on: bool) -> Result<(), StoreError> {
    tx.execute(flag.sql(), (user, on))?;
    Ok(())
}

/// The kind of an account that is no person's: `bot`, `support`.
pub fn kind(tx: &ReadTx<'_>, user: Nid) -> Result<Option<String>, StoreError> {
    Ok(tx.row("SELECT kind FROM user WHERE user = ?1", [user], |row| row.get(0))?.flatten())
}

/// Sets an account's kind.
pub fn set_kind(tx: &mut WriteTx<'_>, user: Nid, kind: Option<&str>) -> Result<(), StoreError> {
    tx.execute("UPDATE user SET kind = ?2 WHERE user = ?1", params![user, kind])?;
    Ok(())
}

/// An access token as stored.
#[derive(Clone, Debug)]
pub struct AccessRow {
    /// Whom it speaks for.
    pub user: Nid,
    /// On which device.
    pub device: Nid,
    /// When it ends by itself.
    pub expires_ms: Option<u64>,
    /// The refresh token it was given for, until it is first used: then that one ends.
    pub replaces: Option<Vec<u8>>,
}

/// An access token that is known, whether it has expired or not.
pub fn access_token(tx: &ReadTx<'_>, hash: &[u8; 32]) -> Result<Option<AccessRow>, StoreError> {
    tx.row(
        "SELECT user, device, expires_ms, replaces FROM access_token WHERE hash = ?1",
        [hash.as_slice()],
        |row| {
            Ok(AccessRow {
                user: row.get(0)?,
                device: row.get(1)?,
                expires_ms: row.get::<_, Option<i64>>(2)?.map(|ms| ms as u64),
                replaces: row.get(3)?,
            })
        },
    )
}

/// Adds an access token beside the device's others.
pub fn add_access_token(
    tx: &mut WriteTx<'_>,
    user: Nid,
    device: Nid,
    hash: &[u8; 32],
    expires_ms: Option<u64>,
    replaces: Option<&[u8]>,
) -> Result<(), StoreError> {
    tx.execute(
        "INSERT INTO access_token(hash, user, device, expires_ms, replaces) VALUES(?1, ?2, ?3, ?4, ?5)",
        params![hash.as_slice(), user, device, expires_ms.map(|ms| ms as i64), replaces],
    )?;
    Ok(())
}

/// Adds a refresh token beside the device's others.
pub fn add_refresh_token(
    tx: &mut WriteTx<'_>,
    user: Nid,
    device: Nid,
    hash: &[u8; 32],
    expires_ms: Option<u64>,
    replaces: Option<&[u8]>,
) -> Result<(), StoreError> {
    tx.execute(
        "INSERT INTO refresh_token(hash, user, device, expires_ms, replaces) VALUES(?1, ?2, ?3, ?4, ?5)",
        params![hash.as_slice(), user, device, expires_ms.map(|ms| ms as i64), replaces],
    )?;
    Ok(())
}

/// A refresh token that is known, whether it has expired or not.
pub fn refresh_token(tx: &ReadTx<'_>, hash: &[u8; 32]) -> Result<Option<AccessRow>, StoreError> {
    tx.row(
        "SELECT user, device, expires_ms, replaces FROM refresh_token WHERE hash = ?1",
        [hash.as_slice()],
        |row| {
            Ok(AccessRow {
                user: row.get(0)?,
                device: row.get(1)?,
                expires_ms: row.get::<_, Option<i64>>(2)?.map(|ms| ms as u64),
                replaces: row.get(3)?,
            })
        },
    )
}

/// Forgets what was given out for a refresh token and never used: its answer was lost.
pub fn forget_unused(tx: &mut WriteTx<'_>, replaced: &[u8]) -> Result<(), StoreError> {
    tx.execute("DELETE FROM access_token WHERE replaces = ?1", [replaced])?;
    tx.execute("DELETE FROM refresh_token WHERE replaces = ?1", [replaced])?;
    Ok(())
}

/// A new pair of tokens has been used: the refresh token it was given for and the device's older access tokens end.
pub fn confirm_refresh(
    tx: &mut WriteTx<'_>,
    user: Nid,
    device: Nid,
    replaced: &[u8],
) -> Result<(), StoreError> {
    tx.execute("DELETE FROM refresh_token WHERE hash = ?1", [replaced])?;
    tx.execute(
        "DELETE FROM access_token WHERE user = ?1 AND device = ?2 AND (replaces IS NULL OR replaces <> ?3)",
        params![user, device, replaced],
    )?;
    tx.execute("UPDATE access_token SET replaces = NULL WHERE replaces = ?1", [replaced])?;
    tx.execute("UPDATE refresh_token SET replaces = NULL WHERE replaces = ?1", [replaced])?;
    Ok(())
}

/// Stores a log-in token, and forgets those that have ended.
pub fn put_login_token(
    tx: &mut WriteTx<'_>,
    user: Nid,
    hash: &[u8; 32],
    now_ms: u64,
    expires_ms: u64,
) -> Result<(), StoreError> {
    tx.execute("DELETE FROM login_token WHERE expires_ms < ?1", [now_ms as i64])?;
    tx.execute(
        "INSERT INTO login_token(hash, user, expires_ms) VALUES(?1, ?2, ?3)",
        params![hash.as_slice(), user, expires_ms as i64],
    )?;
    Ok(())
}

/// Uses a log-in token up; whom it logs in.
pub fn take_login_token(
    tx: &mut WriteTx<'_>,
    hash: &[u8; 32],
    now_ms: u64,
) -> Result<Option<Nid>, StoreError> {
    let user = tx.row(
        "SELECT user FROM login_token WHERE hash = ?1 AND expires_ms >= ?2",
        params![hash.as_slice(), now_ms as i64],
        |row| row.get(0),
    )?;
    tx.execute("DELETE FROM login_token WHERE hash = ?1", [hash.as_slice()])?;
    Ok(user)
}

/// Which version of the terms a user has agreed to.
pub fn consent(tx: &ReadTx<'_>, user: Nid) -> Result<Option<String>, StoreError> {
    Ok(tx.row("SELECT consent FROM user WHERE user = ?1", [user], |row| row.get(0))?.flatten())
}

/// Notes which version of the terms a user has agreed to.
pub fn set_consent(tx: &mut WriteTx<'_>, user: Nid, version: &str) -> Result<(), StoreError> {
    tx.execute("UPDATE user SET consent = ?2 WHERE user = ?1", params![user, version])?;
    Ok(())
}

/// The OAuth client and scope that a device was made by.
pub fn device_client(
    tx: &ReadTx<'_>,
    user: Nid,
    device: Nid,
) -> Result<Option<(String, String)>, StoreError> {
    tx.row(
        "SELECT client, scope FROM device WHERE user = ?1 AND device = ?2 AND client IS NOT NULL",
        (user, device),
        |row| Ok((row.get(0)?, row.get::<_, Option<String>>(1)?.unwrap_or_default())),
    )
}

/// Notes (or clears) the OAuth client and scope of a device.
pub fn set_device_client(
    tx: &mut WriteTx<'_>,
    user: Nid,
    device: Nid,
    client: Option<&(String, String)>,
) -> Result<(), StoreError> {
    let (client, scope) = client.map_or((None, None), |(client, scope)| (Some(client), Some(scope)));
    tx.execute(
        "UPDATE device SET client = ?3, scope = ?4 WHERE user = ?1 AND device = ?2",
        params![user, device, client, scope],
    )?;
    Ok(())
}

/// Whether a user had its words erased.
pub fn is_erased(tx: &ReadTx<'_>, user: Nid) -> Result<bool, StoreError> {
    let erased = tx.row("SELECT erased FROM user WHERE user = ?1", [user], |row| row.get(0))?;
    Ok(erased.unwrap_or(false))
}
