//! Key backups, version 1: message keys that a user's clients keep here, encrypted to a key that the server has not.
// spec: https://spec.matrix.org/v1.19/client-server-api/#server-side-key-backups

use std::collections::BTreeMap;

use ruma::UserId;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{E2ee, E2eeError, object::ID_BYTES_MAX};
use crate::store::{
    Kind, Nid, ReadTx, StoreError,
    schema::backup::{self as table, BackupRow, KeyRow},
};

/// The longest `auth_data` and the longest encrypted key.
const JSON_BYTES_MAX: usize = 64 * 1024;
/// Keys in one backup: a busy account of ten years.
const KEYS_MAX: i64 = 1_000_000;

/// Encrypted keys by room and session.
pub type BackupKeys = BTreeMap<String, BTreeMap<String, Box<RawValue>>>;

/// Which keys of a backup.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// Of this room; of all if none.
    pub room: Option<String>,
    /// Of this session.
    pub session: Option<String>,
}

#[derive(Deserialize)]
struct Algorithm {
    algorithm: String,
    #[serde(rename = "auth_data")]
    _auth_data: BTreeMap<String, serde_json::Value>,
}

#[derive(Deserialize)]
struct Quality {
    first_message_index: u32,
    forwarded_count: u32,
    is_verified: bool,
}

impl E2ee {
    /// Makes a new backup and gives its version. `algorithm` is `{"algorithm", "auth_data"}`.
    pub async fn create_backup(&self, user: &UserId, algorithm: &RawValue) -> Result<String, E2eeError> {
        let (_, json) = algorithm_of(algorithm)?;
        let user = user.to_owned();
        let version = self
            .store
            .write(move |tx| {
                let nid = tx.intern(Kind::User, user.as_str())?;
                table::create(tx, nid, &json)
            })
            .await?;
        Ok(version.to_string())
    }

    /// A backup, the latest if no version is named.
    pub async fn backup(&self, user: &UserId, version: Option<&str>) -> Result<BackupRow, E2eeError> {
        let (user, version) = (user.to_owned(), version.map(ToOwned::to_owned));
        self.store
            .read(move |tx| {
                let nid = number(tx, &user)?;
                let found = match version {
                    Some(version) => table::find(tx, nid, parse(&version)?)?,
                    None => table::latest(tx, nid)?,
                };
                found.ok_or(E2eeError::NoBackup)
            })
            .await
    }

    /// Changes the signatures of a backup; its algorithm stays.
    pub async fn update_backup(
        &self,
        user: &UserId,
        version: &str,
        algorithm: &RawValue,
    ) -> Result<(), E2eeError> {
        let (name, json) = algorithm_of(algorithm)?;
        let (user, version) = (user.to_owned(), parse(version)?);
        self.store
            .write(move |tx| {
                let nid = number(tx, &user)?;
                let old = table::find(tx, nid, version)?.ok_or(E2eeError::NoBackup)?;
                let known: Algorithm =
                    serde_json::from_str(&old.algorithm).map_err(|_| StoreError::Corrupt("a backup"))?;
                if known.algorithm != name {
                    return Err(E2eeError::BadBackup("the algorithm of a backup does not change".into()));
                }
                Ok(table::set_algorithm(tx, nid, version, &json)?)
            })
            .await
    }

    /// Deletes a backup with its keys.
    pub async fn delete_backup(&self, user: &UserId, version: &str) -> Result<(), E2eeError> {
        let (user, version) = (user.to_owned(), parse(version)?);
        self.store
            .write(move |tx| {
                let nid = number(tx, &user)?;
                table::find(tx, nid, version)?.ok_or(E2eeError::NoBackup)?;
                Ok(table::delete(tx, nid, version)?)
            })
            .await
    }

    /// Keeps keys in the latest backup; of two copies of one key the better stays.
    pub async fn put_backup_keys(
        &self,
        user: &UserId,
        version: &str,
        keys: BackupKeys,
    ) -> Result<BackupRow, E2eeError> {
        let mut rows = Vec::new();
        for (room, sessions) in keys {
            for (session, json) in sessions {
                rows.push(key_row(room.clone(), session, &json)?);
            }
        }
        let (user, version) = (user.to_owned(), parse(version)?);
        self.store
            .write(move |tx| {
                let nid = number(tx, &user)?;
                let backup = current(tx, nid, version)?;
                if backup.count + rows.len() as i64 > KEYS_MAX {
                    return Err(E2eeError::TooMany { what: "keys in one backup", max: KEYS_MAX as usize });
                }
                let mut changed = false;
                for row in &rows {
                    let old = table::key_quality(tx, nid, version, &row.room, &row.session)?;
                    if old.is_none_or(|old| is_better(row, old)) {
                        table::put_key(tx, nid, version, row)?;
                        changed = true;
                    }
                }
                if changed {
                    table::touch(tx, nid, version)?;
                }
                table::find(tx, nid, version)?.ok_or(E2eeError::NoBackup)
            })
            .await
    }

    /// Keys of a backup.
    pub async fn backup_keys(
        &self,
        user: &UserId,
        version: &str,
        which: Selection,
    ) -> Result<BackupKeys, E2eeError> {
        let (user, version) = (user.to_owned(), parse(version)?);
        self.store
            .read(move |tx| {
                let nid = number(tx, &user)?;
                table::find(tx, nid, version)?.ok_or(E2eeError::NoBackup)?;
                let mut keys = BackupKeys::new();
                let rows = table::keys(tx, nid, version, which.room.as_deref(), which.session.as_deref())?;
                for (room, session, json) in rows {
                    let json =
                        RawValue::from_string(json).map_err(|_| StoreError::Corrupt("a backed up key"))?;
                    keys.entry(room).or_default().insert(session, json);
                }
                Ok(keys)
            })
            .await
    }

    /// Deletes keys of a backup.
    pub async fn delete_backup_keys(
        &self,
        user: &UserId,
        version: &str,
        which: Selection,
    ) -> Result<BackupRow, E2eeError> {
        let (user, version) = (user.to_owned(), parse(version)?);
        self.store
            .write(move |tx| {
                let nid = number(tx, &user)?;
                table::find(tx, nid, version)?.ok_or(E2eeError::NoBackup)?;
                if table::delete_keys(tx, nid, version, which.room.as_deref(), which.session.as_deref())? > 0
                {
                    table::touch(tx, nid, version)?;
                }
                table::find(tx, nid, version)?.ok_or(E2eeError::NoBackup)
            })
            .await
    }
}

fn number(tx: &ReadTx<'_>, user: &UserId) -> Result<Nid, E2eeError> {
    tx.lookup(Kind::User, user.as_str())?.ok_or(E2eeError::NoBackup)
}

fn parse(version: &str) -> Result<i64, E2eeError> {
    version.parse().ok().filter(|version| *version > 0).ok_or(E2eeError::NoBackup)
}

/// The backup of this version, which has to be the latest: keys go nowhere else.
fn current(tx: &ReadTx<'_>, user: Nid, version: i64) -> Result<BackupRow, E2eeError> {
    let latest = table::latest(tx, user)?.ok_or(E2eeError::NoBackup)?;
    if latest.version != version {
        return Err(E2eeError::WrongBackup { current: latest.version.to_string() });
    }
    Ok(latest)
}

fn algorithm_of(raw: &RawValue) -> Result<(String, String), E2eeError> {
    if raw.get().len() > JSON_BYTES_MAX {
        return Err(E2eeError::TooMany { what: "bytes of auth_data", max: JSON_BYTES_MAX });
    }
    is_object(raw)?;
    let parsed: Algorithm =
        serde_json::from_str(raw.get()).map_err(|error| E2eeError::BadBackup(error.to_string()))?;
    Ok((parsed.algorithm, raw.get().to_owned()))
}

/// serde reads a struct from a JSON array too; what is kept here is shown as an object later.
fn is_object(raw: &RawValue) -> Result<(), E2eeError> {
    if raw.get().trim_start().starts_with('{') {
        Ok(())
    } else {
        Err(E2eeError::BadBackup("not a JSON object".into()))
    }
}

fn key_row(room: String, session: String, json: &RawValue) -> Result<KeyRow, E2eeError> {
    if session.len() > ID_BYTES_MAX || room.len() > ID_BYTES_MAX {
        return Err(E2eeError::TooMany { what: "bytes in an id", max: ID_BYTES_MAX });
    }
    if json.get().len() > JSON_BYTES_MAX {
        return Err(E2eeError::TooMany { what: "bytes in one key", max: JSON_BYTES_MAX });
    }
    is_object(json)?;
    let quality: Quality =
        serde_json::from_str(json.get()).map_err(|error| E2eeError::BadBackup(error.to_string()))?;
    Ok(KeyRow {
        room,
        session,
        verified: quality.is_verified,
        first_index: quality.first_message_index.into(),
        forwarded: quality.forwarded_count.into(),
        json: json.get().to_owned(),
    })
}

/// Verified before not, then the earlier first message, then fewer hands.
fn is_better(new: &KeyRow, (verified, first_index, forwarded): (bool, i64, i64)) -> bool {
    (!new.verified, new.first_index, new.forwarded) < (!verified, first_index, forwarded)
}
