//! Keys and messages to devices keep their promises: once, to the right one, in order, bounded.
//! Method: a real store, members put in place by hand, other servers played by [`Servers`].

mod backup;
mod cross_signing;
mod keys;
mod lists;
mod messages;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::future::BoxFuture;
use ruma::{
    DeviceId, OwnedServerName, OwnedUserId, ServerName, UserId,
    api::federation::{
        device::get_devices::v1 as get_devices,
        keys::{claim_keys::v1 as claim_keys, get_keys::v1 as get_keys},
    },
    encryption::DeviceKeys,
    serde::Raw,
};
use serde_json::{Value, json};

use super::{
    E2ee, Upload,
    ask::{Ask, AskError},
    device_lists::on_membership,
};
use crate::{
    clock::Clock,
    notify::Notify,
    store::{
        Kind, Nid, Options, Seq, Store, StoreError, Synchronous,
        schema::{
            membership::{self, Membership, UserRoom},
            outbox, users,
        },
    },
};

/// Our server's name in these tests.
pub(crate) const OURS: &str = "ours.test";

/// A user's devices, with the stream id of the list.
type DeviceList = (u32, BTreeMap<String, Value>);

/// Other servers.
#[derive(Default)]
pub(crate) struct Servers {
    pub(crate) lists: Mutex<HashMap<OwnedUserId, DeviceList>>,
    pub(crate) devices_asked: AtomicUsize,
    pub(crate) query_asked: AtomicUsize,
    pub(crate) silent: AtomicBool,
}

impl Servers {
    /// What a user's server says of the user's devices from now on.
    pub(crate) fn set(&self, user: &UserId, stream_id: u32, devices: &[&str]) {
        let devices = devices.iter().map(|device| (device.to_string(), device_keys(user, device)));
        self.lists.lock().unwrap().insert(user.to_owned(), (stream_id, devices.collect()));
    }

    async fn wait(&self) {
        while self.silent.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Ask for Servers {
    fn devices<'a>(&'a self, user: &'a UserId) -> BoxFuture<'a, Result<get_devices::Response, AskError>> {
        Box::pin(async move {
            self.devices_asked.fetch_add(1, Ordering::Relaxed);
            self.wait().await;
            let lists = self.lists.lock().unwrap();
            let (stream_id, devices) = lists.get(user).ok_or_else(|| AskError::unreachable("unknown"))?;
            let mut response = get_devices::Response::new(user.to_owned(), (*stream_id).into());
            for (device, keys) in devices {
                let keys = Raw::from_json_string(keys.to_string()).unwrap();
                response.devices.push(get_devices::UserDevice::new(device.as_str().into(), keys));
            }
            Ok(response)
        })
    }

    fn query<'a>(
        &'a self,
        _: &'a ServerName,
        request: get_keys::Request,
    ) -> BoxFuture<'a, Result<get_keys::Response, AskError>> {
        Box::pin(async move {
            self.query_asked.fetch_add(1, Ordering::Relaxed);
            self.wait().await;
            let lists = self.lists.lock().unwrap();
            let mut found: BTreeMap<_, BTreeMap<_, Raw<DeviceKeys>>> = BTreeMap::new();
            for user in request.device_keys.keys() {
                let Some((_, devices)) = lists.get(user) else { continue };
                let devices = devices.iter().map(|(device, keys)| {
                    (device.as_str().into(), Raw::from_json_string(keys.to_string()).unwrap())
                });
                found.insert(user.clone(), devices.collect());
            }
            Ok(get_keys::Response::new(found))
        })
    }

    fn claim<'a>(
        &'a self,
        server: &'a ServerName,
        request: claim_keys::Request,
    ) -> BoxFuture<'a, Result<claim_keys::Response, AskError>> {
        Box::pin(async move {
            self.wait().await;
            let key = |user: &UserId| json!({"key": format!("key of {user}"), "signatures": {}});
            let mut keys = BTreeMap::new();
            for (user, devices) in request.one_time_keys {
                if user.server_name() != server {
                    continue;
                }
                let devices = devices.into_keys().map(|device| {
                    let id = "signed_curve25519:R".try_into().unwrap();
                    (device, BTreeMap::from([(id, Raw::from_json_string(key(&user).to_string()).unwrap())]))
                });
                keys.insert(user.clone(), devices.collect());
            }
            // A server that says more than it was asked for is not believed.
            keys.insert("@evil:third.test".try_into().unwrap(), BTreeMap::new());
            Ok(claim_keys::Response::new(keys))
        })
    }
}

/// A server of ours with a store, and nothing else.
pub(crate) struct World {
    pub(crate) store: Store,
    pub(crate) e2ee: E2ee,
    pub(crate) servers: Arc<Servers>,
    pub(crate) name: OwnedServerName,
    _dir: tempfile::TempDir,
}

impl World {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options = Options { synchronous: Synchronous::Normal, ..Options::default() };
        let store = Store::open(dir.path(), options, Notify::new()).unwrap();
        let servers = Arc::new(Servers::default());
        let name = OwnedServerName::try_from(OURS).unwrap();
        let e2ee = E2ee::new(store.clone(), servers.clone(), Clock::manual(1_000_000), name.clone());
        Self { store, e2ee, servers, name, _dir: dir }
    }

    /// A user of ours with devices.
    pub(crate) async fn user(&self, name: &str, devices: &[&str]) -> OwnedUserId {
        let user = UserId::parse(format!("@{name}:{OURS}")).unwrap();
        let (id, devices) =
            (user.clone(), devices.iter().map(|device| device.to_string()).collect::<Vec<_>>());
        self.write(move |tx| {
            let nid = tx.intern(Kind::User, id.as_str())?;
            for device in devices {
                let device = tx.intern(Kind::Device, &device)?;
                users::put_device(tx, nid, device, Some("a device"), 0)?;
            }
            Ok(())
        })
        .await;
        user
    }

    /// Puts a user (ours or theirs) into a room, or takes them out.
    pub(crate) async fn set_member(&self, room: &str, user: &UserId, joined: bool) {
        let (room, user, local) = (room.to_owned(), user.to_owned(), user.server_name() == self.name);
        self.write(move |tx| {
            let room = tx.intern(Kind::Room, &room)?;
            let nid = tx.intern(Kind::User, user.as_str())?;
            let server = tx.intern(Kind::Server, user.server_name().as_str())?;
            let seq = tx.next_seq()?;
            let membership = if joined { Membership::Join } else { Membership::Leave };
            membership::put_member(tx, room, nid, Some((membership, Nid(0))))?;
            membership::count_server(tx, room, server, if joined { 1 } else { -1 })?;
            if local {
                let row = UserRoom {
                    room,
                    membership,
                    nid: Nid(0),
                    seq,
                    left_state: None,
                    left_seq: (!joined).then_some(seq),
                    stripped: None,
                    forgotten: false,
                };
                membership::put_user_room(tx, nid, &row)?;
            }
            on_membership(tx, room, seq, nid, local, joined)
        })
        .await;
    }

    pub(crate) async fn write<T, F>(&self, op: F) -> T
    where
        T: Send + 'static,
        F: FnOnce(&mut crate::store::WriteTx<'_>) -> Result<T, StoreError> + Send + 'static,
    {
        self.store.write(op).await.unwrap()
    }

    /// EDUs that wait to be sent, and to whom.
    pub(crate) async fn outbox(&self) -> Vec<(Vec<String>, Value)> {
        self.store
            .read(|tx| {
                let mut found = Vec::new();
                for row in outbox::after(tx, Seq(0), 1000)? {
                    let servers = outbox::audience_servers(tx, row.audience)?;
                    let servers = servers.iter().map(|nid| Ok(tx.text(*nid)?.to_string()));
                    let servers = servers.collect::<Result<Vec<_>, StoreError>>()?;
                    let body = serde_json::from_slice(&row.body.unwrap()).unwrap();
                    found.push((servers, body));
                }
                Ok::<_, StoreError>(found)
            })
            .await
            .unwrap()
    }

    /// Uploads the identity keys of a device.
    pub(crate) async fn upload_identity(&self, user: &UserId, device: &str) {
        let keys = Raw::from_json_string(device_keys(user, device).to_string()).unwrap();
        let upload = Upload { device_keys: Some(keys), ..Upload::default() };
        self.e2ee.upload(user, device.into(), upload).await.unwrap();
    }
}

/// Identity keys of a device, unsigned.
pub(crate) fn device_keys(user: &UserId, device: &str) -> Value {
    json!({
        "user_id": user, "device_id": device, "algorithms": ["m.olm.v1.curve25519-aes-sha2"],
        "keys": {
            format!("curve25519:{device}"): format!("curve of {device}"),
            format!("ed25519:{device}"): format!("ed of {device}"),
        },
        "signatures": {user: {format!("ed25519:{device}"): "a signature"}},
    })
}

/// An upload of one-time keys.
pub(crate) fn one_time(names: impl IntoIterator<Item = String>) -> Upload {
    let keys = names.into_iter().map(|name| {
        let json = json!({"key": format!("key {name}"), "signatures": {}}).to_string();
        (format!("signed_curve25519:{name}").try_into().unwrap(), Raw::from_json_string(json).unwrap())
    });
    Upload { one_time_keys: keys.collect(), ..Upload::default() }
}

/// A device id.
pub(crate) fn device(id: &str) -> &DeviceId {
    id.into()
}
