//! Identity keys of devices: uploaded by their owner, asked for by everybody.

use std::{collections::BTreeMap, time::Duration};

use futures_util::{StreamExt as _, stream};
use ruma::{
    DeviceId, OwnedDeviceId, OwnedOneTimeKeyId, OwnedServerName, OwnedUserId, ServerName, UserId,
    api::{client::keys::get_keys::v3 as client, federation::keys::get_keys::v1 as federation},
    encryption::{CrossSigningKey, DeviceKeys, KeyUsage, OneTimeKey},
    serde::Raw,
};
use serde_json::json;

use super::{
    E2ee, E2eeError, SERVERS_AT_ONCE,
    ask::AskError,
    device_lists::{
        self, REMOTE_DEVICES_MAX, RemoteListAnswer, UNKNOWN_STREAM, cross_signing_of, raw, remote_device,
    },
    object::{KEY_OBJECT_BYTES_MAX, KeyObject},
    one_time_keys::{self, ONE_TIME_KEYS_MAX},
};
use crate::store::{
    Kind, Nid, ReadTx, Seq, StoreError,
    schema::e2ee::{self as table, Usage},
};

/// Users that one request may ask about: a large room.
pub const USERS_MAX: usize = 20_000;

/// Which devices of whom; none named: all.
pub type Wanted = BTreeMap<OwnedUserId, Vec<OwnedDeviceId>>;

/// What a device uploads.
#[derive(Debug, Default)]
pub struct Upload {
    /// Its identity keys.
    pub device_keys: Option<Raw<DeviceKeys>>,
    /// New one-time keys.
    pub one_time_keys: BTreeMap<OwnedOneTimeKeyId, Raw<OneTimeKey>>,
    /// New fallback keys.
    pub fallback_keys: BTreeMap<OwnedOneTimeKeyId, Raw<OneTimeKey>>,
}

impl E2ee {
    /// `/keys/upload`: keeps keys of a device of ours; gives the one-time keys left for each algorithm.
    ///
    /// The same upload again changes nothing. A device that comes with other identity keys (its storage was lost, say)
    /// begins anew: its one-time keys, which the old ones signed, are dropped. Whether to trust it is for those who
    /// verified it to decide: they see the change.
    pub async fn upload(
        &self,
        user: &UserId,
        device: &DeviceId,
        upload: Upload,
    ) -> Result<Vec<(String, i64)>, E2eeError> {
        let keys = match &upload.device_keys {
            // Clients also send an empty object for "nothing new".
            Some(keys) if keys.json().get().trim() != "{}" => {
                let mut object = KeyObject::parse(keys.json().get(), KEY_OBJECT_BYTES_MAX)?;
                object.check_device(user, device)?;
                object.strip_unsigned();
                Some(object)
            }
            _ => None,
        };
        let one_time = one_time_keys::check(&upload.one_time_keys, ONE_TIME_KEYS_MAX)?;
        let fallback = one_time_keys::check(&upload.fallback_keys, ONE_TIME_KEYS_MAX)?;
        let (user, device) = (user.to_owned(), device.to_owned());
        self.store
            .write(move |tx| {
                let nid = tx.intern(Kind::User, user.as_str())?;
                if let Some(new) = keys {
                    put_device_keys(tx, nid, &user, &device, new)?;
                }
                one_time_keys::upload(tx, nid, &device, &one_time, &fallback)?;
                Ok(one_time_keys::counts(tx, nid, &device)?)
            })
            .await
    }

    /// `/keys/query` of a user of ours: local keys and kept lists at once, others within `timeout`.
    pub async fn query(
        &self,
        asker: &UserId,
        wanted: Wanted,
        timeout: Duration,
    ) -> Result<client::Response, E2eeError> {
        let asked = asker.to_owned();
        let name = self.name.clone();
        let (mut answer, missing) = self.read_answer(wanted, Some(asked), name).await?;
        let asked_for =
            |server: OwnedServerName, users: Wanted| async move { self.query_server(&server, users).await };
        for (server, remote) in in_parallel(timeout, missing, asked_for).await {
            match remote {
                Ok(part) => answer.add(part),
                Err(error) => drop(answer.failures.insert(server.to_string(), failure(&error))),
            }
        }
        let mut response = client::Response::new();
        response.failures = answer.failures;
        response.device_keys = answer.devices;
        response.master_keys = answer.masters;
        response.self_signing_keys = answer.self_signing;
        response.user_signing_keys = answer.user_signing;
        Ok(response)
    }

    /// The same for another server: keys of our users.
    pub async fn query_for_server(
        &self,
        _origin: &ServerName,
        wanted: Wanted,
    ) -> Result<federation::Response, E2eeError> {
        let ours = wanted.into_iter().filter(|(user, _)| user.server_name() == self.name).collect();
        let (answer, _) = self.read_answer(ours, None, self.name.clone()).await?;
        let mut response = federation::Response::new(answer.devices);
        response.master_keys = answer.masters;
        response.self_signing_keys = answer.self_signing;
        Ok(response)
    }

    /// What is known here, and whom of which server has to be asked for.
    async fn read_answer(
        &self,
        wanted: Wanted,
        asker: Option<OwnedUserId>,
        name: OwnedServerName,
    ) -> Result<(Answer, BTreeMap<OwnedServerName, Wanted>), E2eeError> {
        if wanted.len() > USERS_MAX {
            return Err(E2eeError::TooMany { what: "users in one query", max: USERS_MAX });
        }
        self.store
            .read(move |tx| {
                let asker_nid = match &asker {
                    Some(asker) => tx.lookup(Kind::User, asker.as_str())?,
                    None => None,
                };
                let mut answer = Answer::default();
                let mut missing: BTreeMap<OwnedServerName, Wanted> = BTreeMap::new();
                for (user, devices) in wanted {
                    let nid = tx.lookup(Kind::User, user.as_str())?;
                    if user.server_name() == name {
                        if let Some(nid) = nid {
                            answer.local(tx, nid, &user, &devices, asker_nid)?;
                        }
                        continue;
                    }
                    match nid {
                        Some(nid) if is_followed(tx, nid)? => {
                            answer.followed(tx, nid, &user, &devices, asker_nid)?
                        }
                        _ => {
                            let server = user.server_name().to_owned();
                            missing.entry(server).or_default().insert(user, devices);
                        }
                    }
                }
                Ok::<_, StoreError>((answer, missing))
            })
            .await
            .map_err(E2eeError::Store)
    }

    /// Asks another server about its users, and keeps what it says of those with whom we share a room.
    async fn query_server(&self, server: &ServerName, wanted: Wanted) -> Result<Answer, E2eeError> {
        // Whole lists are asked for: what is kept is of use to others who ask.
        let mut before: BTreeMap<OwnedUserId, Option<Seq>> = BTreeMap::new();
        for user in wanted.keys() {
            before.insert(user.clone(), self.list_position(user).await?);
        }
        let request =
            federation::Request::new(wanted.keys().map(|user| (user.clone(), Vec::new())).collect());
        let told = self.servers.query(server, request).await?;
        let mut answer = Answer::default();
        for (user, devices) in wanted {
            let list = list_from_query(&user, &told);
            answer.remote(&user, &list, &devices);
            let before = before.get(&user).copied().flatten();
            self.store_list(list, before).await?;
        }
        Ok(answer)
    }
}

fn put_device_keys(
    tx: &mut crate::store::WriteTx<'_>,
    nid: Nid,
    user: &UserId,
    device: &DeviceId,
    mut new: KeyObject,
) -> Result<(), E2eeError> {
    if let Some(old) = table::device_key(tx, nid, device.as_str())? {
        let old = KeyObject::parse(&old, usize::MAX)?;
        if old.keys() != new.keys() {
            table::drop_keys_of_device(tx, nid, device.as_str())?;
        }
        if old.signed_part() == new.signed_part() {
            // Signatures that came by /keys/signatures/upload stay.
            for (user, id, signature) in old.signatures() {
                if !new.signatures().any(|(by, known, _)| by == user && known == id) {
                    let (user, id, signature) = (user.to_owned(), id.to_owned(), signature.to_owned());
                    new.add_signature(&user, &id, &signature);
                }
            }
        }
        if old == new {
            return Ok(());
        }
    }
    table::put_device_key(tx, nid, device.as_str(), &new.to_json())?;
    device_lists::announce_device(tx, nid, user, device)?;
    Ok(())
}

/// Whether a remote user's list is kept and up to date.
fn is_followed(tx: &ReadTx<'_>, user: Nid) -> Result<bool, StoreError> {
    Ok(matches!(table::remote_list(tx, user)?, Some((_, false))) && table::shares_with_local(tx, user)?)
}

fn list_from_query(user: &UserId, told: &federation::Response) -> RemoteListAnswer {
    let devices = told.device_keys.get(user).into_iter().flatten();
    let key = |raw: Option<&Raw<CrossSigningKey>>, usage| {
        cross_signing_of(user, raw, &usage).ok().flatten().map(|key| key.to_json())
    };
    RemoteListAnswer {
        user: user.to_owned(),
        stream_id: UNKNOWN_STREAM,
        devices: devices
            .filter_map(|(device, keys)| remote_device(user, device, keys, display_name(keys)))
            .take(REMOTE_DEVICES_MAX)
            .collect(),
        master: key(told.master_keys.get(user), KeyUsage::Master),
        self_signing: key(told.self_signing_keys.get(user), KeyUsage::SelfSigning),
    }
}

fn display_name(keys: &Raw<DeviceKeys>) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Unsigned {
        device_display_name: Option<String>,
    }
    keys.get_field::<Unsigned>("unsigned").ok()??.device_display_name
}

/// The answer to a query as it grows.
#[derive(Debug, Default)]
struct Answer {
    failures: BTreeMap<String, serde_json::Value>,
    devices: BTreeMap<OwnedUserId, BTreeMap<OwnedDeviceId, Raw<DeviceKeys>>>,
    masters: BTreeMap<OwnedUserId, Raw<CrossSigningKey>>,
    self_signing: BTreeMap<OwnedUserId, Raw<CrossSigningKey>>,
    user_signing: BTreeMap<OwnedUserId, Raw<CrossSigningKey>>,
}

impl Answer {
    fn add(&mut self, part: Self) {
        self.devices.extend(part.devices);
        self.masters.extend(part.masters);
        self.self_signing.extend(part.self_signing);
    }

    /// A user of ours.
    fn local(
        &mut self,
        tx: &ReadTx<'_>,
        nid: Nid,
        user: &UserId,
        wanted: &[OwnedDeviceId],
        asker: Option<Nid>,
    ) -> Result<(), StoreError> {
        let mut found = BTreeMap::new();
        for (device, json) in table::device_keys(tx, nid)? {
            let device = OwnedDeviceId::from(device);
            if !wanted.is_empty() && !wanted.contains(&device) {
                continue;
            }
            let name = table::device_name(tx, nid, device.as_str())?;
            if let Some(keys) = named(&json, name.as_deref()) {
                found.insert(device, keys);
            }
        }
        self.devices.insert(user.to_owned(), found);
        self.cross_signing(tx, nid, user, asker)
    }

    /// A user of another server whose list we follow.
    fn followed(
        &mut self,
        tx: &ReadTx<'_>,
        nid: Nid,
        user: &UserId,
        wanted: &[OwnedDeviceId],
        asker: Option<Nid>,
    ) -> Result<(), StoreError> {
        let found = table::remote_devices(tx, nid)?
            .into_iter()
            .filter(|row| wanted.is_empty() || wanted.iter().any(|device| device == row.device.as_str()))
            .filter_map(|row| Some((row.device.into(), named(&row.json, row.name.as_deref())?)))
            .collect();
        self.devices.insert(user.to_owned(), found);
        self.cross_signing(tx, nid, user, asker)
    }

    /// A user of another server as that server just told.
    fn remote(&mut self, user: &UserId, list: &RemoteListAnswer, wanted: &[OwnedDeviceId]) {
        let found = list
            .devices
            .iter()
            .filter(|row| wanted.is_empty() || wanted.iter().any(|device| device == row.device.as_str()))
            .filter_map(|row| Some((row.device.clone().into(), named(&row.json, row.name.as_deref())?)))
            .collect();
        self.devices.insert(user.to_owned(), found);
        if let Some(master) = list.master.clone().and_then(raw) {
            self.masters.insert(user.to_owned(), master);
        }
        if let Some(key) = list.self_signing.clone().and_then(raw) {
            self.self_signing.insert(user.to_owned(), key);
        }
    }

    /// Kept cross-signing keys. A user-signing key is shown to its owner only, and so are signatures made with it.
    fn cross_signing(
        &mut self,
        tx: &ReadTx<'_>,
        nid: Nid,
        user: &UserId,
        asker: Option<Nid>,
    ) -> Result<(), StoreError> {
        if let Some(json) = table::cross_signing(tx, nid, Usage::Master)? {
            let json = match asker {
                Some(asker) => with_signatures_of(tx, json, asker, nid)?,
                None => json,
            };
            if let Some(key) = raw(json) {
                self.masters.insert(user.to_owned(), key);
            }
        }
        if let Some(key) = table::cross_signing(tx, nid, Usage::SelfSigning)?.and_then(raw) {
            self.self_signing.insert(user.to_owned(), key);
        }
        if asker == Some(nid)
            && let Some(key) = table::cross_signing(tx, nid, Usage::UserSigning)?.and_then(raw)
        {
            self.user_signing.insert(user.to_owned(), key);
        }
        Ok(())
    }
}

/// A master key with the signatures that the asker made over it.
fn with_signatures_of(tx: &ReadTx<'_>, json: String, asker: Nid, target: Nid) -> Result<String, StoreError> {
    let Ok(mut object) = KeyObject::parse(&json, usize::MAX) else {
        return Ok(json);
    };
    let Some(public) = object.public_key().map(ToOwned::to_owned) else {
        return Ok(json);
    };
    let signatures = table::signatures(tx, asker, target, &public)?;
    if signatures.is_empty() {
        return Ok(json);
    }
    let by = tx.text(asker)?;
    for (id, signature) in signatures {
        object.add_signature(&by, &id, &signature);
    }
    Ok(object.to_json())
}

/// Stored device keys with the name that their owner gave the device.
fn named(json: &str, name: Option<&str>) -> Option<Raw<DeviceKeys>> {
    let mut object = KeyObject::parse(json, usize::MAX).ok()?;
    object.set_display_name(name);
    Some(Raw::from_json(object.to_raw()))
}

/// Asks servers, [`SERVERS_AT_ONCE`] at a time, none longer than `timeout` from now.
pub(super) async fn in_parallel<Q, A, F, Fut>(
    timeout: Duration,
    questions: BTreeMap<OwnedServerName, Q>,
    ask: F,
) -> Vec<(OwnedServerName, Result<A, E2eeError>)>
where
    F: Fn(OwnedServerName, Q) -> Fut,
    Fut: Future<Output = Result<A, E2eeError>>,
{
    let until = tokio::time::Instant::now() + timeout;
    let ask = &ask;
    stream::iter(questions)
        .map(|(server, question)| async move {
            let answer = tokio::time::timeout_at(until, ask(server.clone(), question)).await;
            let answer = answer.unwrap_or_else(|_| {
                Err(AskError::unreachable(format!("no answer within {} ms", timeout.as_millis())).into())
            });
            (server, answer)
        })
        .buffer_unordered(SERVERS_AT_ONCE)
        .collect()
        .await
}

/// What `failures` says of a server.
pub(super) fn failure(error: &E2eeError) -> serde_json::Value {
    let (errcode, status) = match error {
        E2eeError::Ask(error) => (error.errcode.as_str(), error.status),
        _ => ("M_UNKNOWN", 500),
    };
    json!({"errcode": errcode, "status": status, "error": error.to_string()})
}
