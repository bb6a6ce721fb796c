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
