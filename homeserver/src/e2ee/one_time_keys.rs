//! One-time and fallback keys: uploaded, counted, handed out once.

use std::{collections::BTreeMap, time::Duration};

use ruma::{
    DeviceId, OneTimeKeyAlgorithm, OwnedDeviceId, OwnedOneTimeKeyId, OwnedServerName, OwnedUserId,
    ServerName, UserId,
    api::{client::keys::claim_keys::v3 as client, federation::keys::claim_keys::v1 as federation},
    encryption::OneTimeKey,
    serde::Raw,
};

use super::{
    E2ee, E2eeError,
    device_keys::{failure, in_parallel},
    device_lists::raw,
    object::{ID_BYTES_MAX, KeyObject, ONE_TIME_KEY_BYTES_MAX, ObjectError},
};
use crate::store::{Kind, Nid, ReadTx, StoreError, Touched, WriteTx, schema::e2ee as table};

/// One-time keys that one device may leave here; clients keep 50 to 100.
pub const ONE_TIME_KEYS_MAX: usize = 1_000;
/// Claimed keys that are remembered, so that an upload which is repeated cannot bring them back.
const CLAIMED_KEPT: u32 = 1_000;
/// Algorithms for which one device may leave fallback keys.
const FALLBACK_KEYS_MAX: usize = 10;
/// Devices that one request may claim keys of.
pub const CLAIMS_MAX: usize = 5_000;

/// Keys to take: an algorithm for each device of each user.
pub type Claims = BTreeMap<OwnedUserId, BTreeMap<OwnedDeviceId, OneTimeKeyAlgorithm>>;
/// Keys taken.
pub type Claimed =
    BTreeMap<OwnedUserId, BTreeMap<OwnedDeviceId, BTreeMap<OwnedOneTimeKeyId, Raw<OneTimeKey>>>>;

/// A new key, checked.
#[derive(Clone, Debug)]
pub(super) struct NewKey {
    /// "algorithm:name".
    pub(super) id: String,
    pub(super) algorithm: String,
    pub(super) json: String,
}

/// Checks uploaded keys for form. Their signatures are the business of those who use them.
pub(super) fn check(
    keys: &BTreeMap<OwnedOneTimeKeyId, Raw<OneTimeKey>>,
    max: usize,
) -> Result<Vec<NewKey>, E2eeError> {
    if keys.len() > max {
        return Err(E2eeError::TooMany { what: "keys in one upload", max });
    }
    keys.iter().map(|(id, key)| new_key(id, key)).collect()
}

fn new_key(id: &OwnedOneTimeKeyId, key: &Raw<OneTimeKey>) -> Result<NewKey, E2eeError> {
    if id.as_str().len() > ID_BYTES_MAX {
        return Err(ObjectError::TooLong { max: ID_BYTES_MAX }.into());
    }
    let json = key.json().get();
    if json.len() > ONE_TIME_KEY_BYTES_MAX {
        return Err(ObjectError::TooLong { max: ONE_TIME_KEY_BYTES_MAX }.into());
    }
    // Old ones are a bare string; the others signed objects, kept in the form that was signed.
    let json = if json.starts_with('"') {
        json.to_owned()
    } else {
        let object = KeyObject::parse(json, ONE_TIME_KEY_BYTES_MAX)?;
        object.text("key").ok_or(ObjectError::Field("key"))?;
        object.to_json()
    };
    Ok(NewKey { id: id.to_string(), algorithm: id.algorithm().to_string(), json })
}

/// Keeps new keys of a device. The same key again changes nothing, also after it was claimed.
pub(super) fn upload(
    tx: &mut WriteTx<'_>,
    user: Nid,
    device: &DeviceId,
    one_time: &[NewKey],
    fallback: &[NewKey],
) -> Result<(), E2eeError> {
    let device = device.as_str();
    let have: i64 = table::one_time_key_counts(tx, user, device)?.iter().map(|(_, count)| count).sum();
    let mut room = ONE_TIME_KEYS_MAX.saturating_sub(usize::try_from(have).unwrap_or(0));
    if !one_time.is_empty() {
        let seq = tx.next_seq()?;
        for key in one_time {
            match table::one_time_key(tx, user, device, &key.algorithm, &key.id)? {
                Some(None) => continue,
                Some(Some(json)) if json == key.json => continue,
                Some(Some(_)) => return Err(E2eeError::OneTimeKeyTaken(key.id.clone())),
                None => {}
            }
            room = room
                .checked_sub(1)
                .ok_or(E2eeError::TooMany { what: "one-time keys of one device", max: ONE_TIME_KEYS_MAX })?;
            table::put_one_time_key(tx, user, device, &key.algorithm, &key.id, seq, &key.json)?;
        }
    }
    for key in fallback.iter().take(FALLBACK_KEYS_MAX) {
        table::put_fallback_key(tx, user, device, &key.algorithm, &key.id, &key.json)?;
    }
    Ok(())
}

/// Takes a key of each device named, for good. Devices that have none are absent from the answer.
fn claim(tx: &mut WriteTx<'_>, claims: &Claims) -> Result<Claimed, StoreError> {
    let mut claimed = Claimed::new();
    for (user, devices) in claims {
        let Some(nid) = tx.lookup(Kind::User, user.as_str())? else {
            continue;
        };
        for (device, algorithm) in devices {
            let Some((id, json)) = take(tx, nid, device, algorithm.as_str())? else {
                continue;
            };
            let (Ok(id), Some(key)) = (OwnedOneTimeKeyId::try_from(id), raw(json)) else {
                continue;
            };
            claimed.entry(user.clone()).or_default().entry(device.clone()).or_default().insert(id, key);
        }
    }
    Ok(claimed)
}

fn take(
    tx: &mut WriteTx<'_>,
    user: Nid,
    device: &DeviceId,
    algorithm: &str,
) -> Result<Option<(String, String)>, StoreError> {
    let device = device.as_str();
    if let Some(key) = table::claim_one_time_key(tx, user, device, algorithm, CLAIMED_KEPT)? {
        counts_changed(tx, user, device)?;
        return Ok(Some(key));
    }
    let Some((id, json, first)) = table::use_fallback_key(tx, user, device, algorithm)? else {
        return Ok(None);
    };
    if first {
        counts_changed(tx, user, device)?;
    }
    Ok(Some((id, json)))
}

/// The device hears in its next sync what it has left.
fn counts_changed(tx: &mut WriteTx<'_>, user: Nid, device: &str) -> Result<(), StoreError> {
    let seq = tx.next_seq()?;
    table::put_counts_position(tx, user, device, seq)?;
    tx.touch(Touched::User(user));
    Ok(())
}

/// Keys left for each algorithm, as `/keys/upload` and `/sync` tell it. `signed_curve25519` is always there: clients
/// make new keys when they see a low number, and would not if they saw none.
pub fn counts(tx: &ReadTx<'_>, user: Nid, device: &DeviceId) -> Result<Vec<(String, i64)>, StoreError> {
    let mut counts = table::one_time_key_counts(tx, user, device.as_str())?;
    let signed = OneTimeKeyAlgorithm::SignedCurve25519;
    if !counts.iter().any(|(algorithm, _)| algorithm == signed.as_str()) {
        counts.push((signed.to_string(), 0));
    }
    Ok(counts)
}

impl E2ee {
    /// `/keys/claim`: keys of our users at once, of others within `timeout`; servers that did not answer are named.
    pub async fn claim(&self, claims: Claims, timeout: Duration) -> Result<client::Response, E2eeError> {
        let (local, remote) = self.split(claims)?;
        let mut response = client::Response::new(self.claim_local(local).await?);
        let answers = in_parallel(timeout, remote, |server, claims| async move {
            let request = federation::Request::new(claims.clone());
            let answer = self.servers.claim(&server, request).await?;
            Ok(asked_for(&claims, answer.one_time_keys))
        })
        .await;
        for (server, answer) in answers {
            match answer {
                Ok(keys) => response.one_time_keys.extend(keys),
                Err(error) => drop(response.failures.insert(server.to_string(), failure(&error))),
            }
        }
        Ok(response)
    }

    /// The same for another server: keys of our users.
    pub async fn claim_for_server(
        &self,
        _origin: &ServerName,
        claims: federation::OneTimeKeyClaims,
    ) -> Result<federation::Response, E2eeError> {
        let (local, _) = self.split(claims)?;
        Ok(federation::Response::new(self.claim_local(local).await?))
    }

    async fn claim_local(&self, claims: Claims) -> Result<Claimed, E2eeError> {
        if claims.is_empty() {
            return Ok(Claimed::new());
        }
        self.store.write(move |tx| claim(tx, &claims)).await.map_err(E2eeError::Store)
    }

    fn split(&self, claims: Claims) -> Result<(Claims, BTreeMap<OwnedServerName, Claims>), E2eeError> {
        if claims.values().map(BTreeMap::len).sum::<usize>() > CLAIMS_MAX {
            return Err(E2eeError::TooMany { what: "devices in one claim", max: CLAIMS_MAX });
        }
        let mut local = Claims::new();
        let mut remote: BTreeMap<OwnedServerName, Claims> = BTreeMap::new();
        for (user, devices) in claims {
            if user.server_name() == self.name {
                local.insert(user, devices);
            } else {
                remote.entry(user.server_name().to_owned()).or_default().insert(user, devices);
            }
        }
        Ok((local, remote))
    }
}

/// Of another server's answer, what was asked of it.
fn asked_for(claims: &Claims, mut keys: Claimed) -> Claimed {
    let wanted =
        |user: &UserId, device: &DeviceId| claims.get(user).and_then(|devices| devices.get(device)).cloned();
    keys.retain(|user, devices| {
        devices.retain(|device, keys| {
            let algorithm = wanted(user, device);
            keys.retain(|id, key| {
                Some(id.algorithm()) == algorithm && key.json().get().len() <= ONE_TIME_KEY_BYTES_MAX
            });
            !keys.is_empty()
        });
        !devices.is_empty()
    });
    keys
}
