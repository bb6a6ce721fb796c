//! Who has to be told that a user's devices or keys changed: local clients through sync, servers through EDUs; and
//! the lists of other servers' users, followed through theirs.
//!
//! ```text
//!   our device changed ─> device_list(seq), rooms touched ─> EDU {stream id, id before} to servers that share a room
//!   EDU of theirs ─> id before is the one we have? ─yes─> applied
//!                                                  └no──> stale: asked whole at once, or when someone needs it
//! ```

use ruma::{
    DeviceId, OwnedUserId, ServerName, UInt, UserId,
    api::federation::{
        device::get_devices::v1 as get_devices,
        transactions::edu::{DeviceListUpdateContent, Edu, SigningKeyUpdateContent},
    },
    encryption::{CrossSigningKey, DeviceKeys, KeyUsage},
    serde::Raw,
};

use super::{
    E2ee, E2eeError,
    object::{ID_BYTES_MAX, KEY_OBJECT_BYTES_MAX, KeyObject},
};
use crate::store::{
    Kind, Nid, Seq, StoreError, Touched, WriteTx,
    schema::{
        dehydrated,
        e2ee::{self as table, RemoteDevice, Usage},
        events::{self, stream_kind},
        membership::{self, Membership},
        outbox, partial,
    },
};

/// The longest list of another server's user that is followed; the rest of it is not seen here.
pub const REMOTE_DEVICES_MAX: usize = 500;

/// A device of ours was made or renamed: servers that know it hear its name.
pub fn device_changed(tx: &mut WriteTx<'_>, user: &UserId, device: &DeviceId) -> Result<(), StoreError> {
    let Some(nid) = tx.lookup(Kind::User, user.as_str())? else {
        return Ok(());
    };
    announce_device(tx, nid, user, device)
}

/// A device of ours is deleted: its keys and what waits for it go, and whoever knew it hears so.
pub fn device_deleted(tx: &mut WriteTx<'_>, user: &UserId, device: &DeviceId) -> Result<(), StoreError> {
    let Some(nid) = tx.lookup(Kind::User, user.as_str())? else {
        return Ok(());
    };
    dehydrated::remove(tx, nid, device.as_str())?;
    if table::delete_device(tx, nid, device.as_str())? {
        announce(tx, nid, user, device, true)?;
    }
    Ok(())
}

/// A user began or ceased to be joined to a room, by the resolved state; `seq` is the position of that change.
///
/// Called for every change of `m.room.member` that turns a joined user into one who is not, or the other way round.
pub fn on_membership(
    tx: &mut WriteTx<'_>,
    room: Nid,
    seq: Seq,
    user: Nid,
    local: bool,
    joined: bool,
) -> Result<(), StoreError> {
    table::put_sharing(tx, room, seq, user, joined)?;
    if !joined {
        return Ok(());
    }
    if !local {
        // Before this join nobody told us of changes, unless another room was shared.
        table::mark_stale(tx, user)?;
        return Ok(());
    }
    if membership::local_members(tx, room, Membership::Join)?.len() <= 1 {
        // Our first member here: the same holds for everybody in the room.
        table::mark_room_stale(tx, room)?;
    }
    introduce(tx, room, user)
}

/// A member of a room that was joined with a part of its state came into view. Clients look after the members of encrypted
/// rooms; of others they hear only if something changed meanwhile.
pub fn on_found(
    tx: &mut WriteTx<'_>,
    room: Nid,
    seq: Seq,
    user: Nid,
    encrypted: bool,
) -> Result<(), StoreError> {
    if encrypted {
        table::put_sharing(tx, room, seq, user, true)?;
    }
    table::mark_stale(tx, user)?;
    if partial::take_devices(tx, user)? {
        list_changed(tx, user, false)?;
    }
    Ok(())
}

/// Devices of one user that servers are told of when the user meets them; more they see when they ask.
const INTRODUCED_MAX: usize = 100;

/// A user of ours came into a room: servers there that shared none with the user before hear which devices there are.
///
/// spec: <https://spec.matrix.org/v1.19/server-server-api/#device-management>
fn introduce(tx: &mut WriteTx<'_>, room: Nid, nid: Nid) -> Result<(), StoreError> {
    let Ok(user) = UserId::parse(&*tx.text(nid)?) else { return Ok(()) };
    let ours = tx.lookup(Kind::Server, user.server_name().as_str())?;
    let mut servers = membership::servers(tx, room)?;
    servers.retain(|server| Some(*server) != ours);
    if servers.is_empty() {
        return Ok(());
    }
    let known = table::servers_sharing_elsewhere(tx, nid, room)?;
    servers.retain(|server| !known.contains(server));
    if servers.is_empty() {
        return Ok(());
    }
    let mut at = table::announced(tx, nid)?;
    if at == 0 {
        at = tx.next_seq()?.0;
        table::put_announced(tx, nid, at)?;
    }
    let mut devices = table::local_devices(tx, nid)?;
    if partial::is_partial(tx, room)? {
        // A large room, mostly: those without keys are of no use to anybody.
        let mut keyed = Vec::with_capacity(devices.len());
        for device in devices {
            if table::device_key(tx, nid, &device)?.is_some() {
                keyed.push(device);
            }
        }
        devices = keyed;
    }
    devices.truncate(INTRODUCED_MAX);
    introduce_to(tx, nid, &user, at, &devices, &servers)
}

/// Tells everybody concerned about one device: its keys as they are now, or that it is gone.
pub(super) fn announce_device(
    tx: &mut WriteTx<'_>,
    nid: Nid,
    user: &UserId,
    device: &DeviceId,
) -> Result<(), StoreError> {
    announce(tx, nid, user, device, false)
}

fn announce(
    tx: &mut WriteTx<'_>,
    nid: Nid,
    user: &UserId,
    device: &DeviceId,
    gone: bool,
) -> Result<(), StoreError> {
    let seq = list_changed(tx, nid, true)?;
    let servers = servers_sharing_with(tx, nid, user)?;
    let before = table::announced(tx, nid)?;
    table::put_announced(tx, nid, seq.0)?;
    if servers.is_empty() {
        return Ok(());
    }
    let mut update = DeviceListUpdateContent::new(user.to_owned(), device.to_owned(), id(seq.0));
    if before > 0 {
        update.prev_id = vec![id(before)];
    }
    match table::device_key(tx, nid, device.as_str())? {
        Some(json) => {
            update.keys = raw(json);
            update.device_display_name = table::device_name(tx, nid, device.as_str())?;
        }
        // One without keys is told by its name.
        None if !gone && table::local_devices(tx, nid)?.iter().any(|known| known == device.as_str()) => {
            update.device_display_name = table::device_name(tx, nid, device.as_str())?;
        }
        None => update.deleted = Some(true),
    }
    put_edu(tx, &servers, &Edu::DeviceListUpdate(update))
}

/// Tells everybody concerned about new cross-signing keys (or new signatures on the master key).
pub(super) fn announce_cross_signing(
    tx: &mut WriteTx<'_>,
    nid: Nid,
    user: &UserId,
) -> Result<(), StoreError> {
    list_changed(tx, nid, true)?;
    let servers = servers_sharing_with(tx, nid, user)?;
    if servers.is_empty() {
        return Ok(());
    }
    let mut update = SigningKeyUpdateContent::new(user.to_owned());
    update.master_key = table::cross_signing(tx, nid, Usage::Master)?.and_then(raw);
    update.self_signing_key = table::cross_signing(tx, nid, Usage::SelfSigning)?.and_then(raw);
    put_edu(tx, &servers, &Edu::SigningKeyUpdate(update))
}

/// Servers other than ours whose users share a room with one of ours.
fn servers_sharing_with(tx: &WriteTx<'_>, nid: Nid, user: &UserId) -> Result<Vec<Nid>, StoreError> {
    let ours = tx.lookup(Kind::Server, user.server_name().as_str())?;
    let mut servers = table::servers_sharing_with(tx, nid)?;
    servers.retain(|server| Some(*server) != ours);
    Ok(servers)
}

/// A user of ours shares a room with servers of which that was not known while its devices changed: they hear of the
/// devices, if one changed at `since` or later.
pub fn announce_since(tx: &mut WriteTx<'_>, nid: Nid, since: Seq, servers: &[Nid]) -> Result<(), StoreError> {
    let at = table::announced(tx, nid)?;
    if at < since.0 {
        return Ok(());
    }
    let Ok(user) = UserId::parse(&*tx.text(nid)?) else { return Ok(()) };
    let mut devices = table::local_devices(tx, nid)?;
    devices.truncate(INTRODUCED_MAX);
    introduce_to(tx, nid, &user, at, &devices, servers)
}

/// Names devices without a predecessor, so that a server that keeps a list asks for it whole.
fn introduce_to(
    tx: &mut WriteTx<'_>,
    nid: Nid,
    user: &UserId,
    at: i64,
    devices: &[String],
    servers: &[Nid],
) -> Result<(), StoreError> {
    for device in devices {
        let mut update = DeviceListUpdateContent::new(user.to_owned(), device.as_str().into(), id(at));
        update.keys = table::device_key(tx, nid, device)?.and_then(raw);
        update.device_display_name = table::device_name(tx, nid, device)?;
        put_edu(tx, servers, &Edu::DeviceListUpdate(update))?;
    }
    Ok(())
}

/// Queues an EDU for servers.
pub(super) fn put_edu(tx: &mut WriteTx<'_>, servers: &[Nid], edu: &Edu) -> Result<(), StoreError> {
    let body = serde_json::to_vec(edu).map_err(|_| StoreError::Corrupt("an EDU that cannot be written"))?;
    outbox::push_edu(tx, servers, &body).map(drop)
}

/// Notes the change and wakes all local users who share a room with the user.
fn list_changed(tx: &mut WriteTx<'_>, user: Nid, local: bool) -> Result<Seq, StoreError> {
    let seq = tx.next_seq()?;
    table::put_list_position(tx, user, seq)?;
    for room in membership::rooms_of(tx, user, Membership::Join)? {
        tx.touch(Touched::Room(room));
    }
    if local {
        tx.touch(Touched::User(user));
    }
    Ok(seq)
}

/// Tells `signer` alone that a key of `target` carries a new signature of theirs.
pub(super) fn signature_added(tx: &mut WriteTx<'_>, signer: Nid, target: Nid) -> Result<(), StoreError> {
    events::push_stream(tx, stream_kind::DEVICE_LIST, None, Some(signer), Some(target))?;
    tx.touch(Touched::User(signer));
    Ok(())
}

impl E2ee {
    /// An `m.device_list_update` of another server.
    pub async fn receive_device_list_update(
        &self,
        origin: &ServerName,
        content: DeviceListUpdateContent,
    ) -> Result<(), E2eeError> {
        if content.user_id.server_name() != origin {
            return Err(E2eeError::ForeignUser(content.user_id));
        }
        let user = content.user_id.clone();
        let stale = self.store.write(move |tx| apply_update(tx, content)).await?;
        if stale {
            self.refresh_later(user);
        }
        Ok(())
    }

    /// An `m.signing_key_update` of another server.
    pub async fn receive_signing_key_update(
        &self,
        origin: &ServerName,
        content: SigningKeyUpdateContent,
    ) -> Result<(), E2eeError> {
        let user = content.user_id.clone();
        if user.server_name() != origin {
            return Err(E2eeError::ForeignUser(user));
        }
        let master = cross_signing_of(&user, content.master_key.as_ref(), &KeyUsage::Master)?;
        let self_signing =
            cross_signing_of(&user, content.self_signing_key.as_ref(), &KeyUsage::SelfSigning)?;
        self.store
            .write(move |tx| {
                let Some(nid) = followed(tx, &user)? else {
                    return Ok(());
                };
                if let Some(master) = master {
                    table::put_cross_signing(tx, nid, Usage::Master, &master.to_json())?;
                }
                if let Some(self_signing) = self_signing {
                    table::put_cross_signing(tx, nid, Usage::SelfSigning, &self_signing.to_json())?;
                }
                list_changed(tx, nid, false).map(drop)
            })
            .await
            .map_err(|error: StoreError| error.into())
    }

    /// Answers another server that wants the whole list of a user of ours.
    pub async fn user_devices(&self, user: &UserId) -> Result<get_devices::Response, E2eeError> {
        let user = user.to_owned();
        if user.server_name() != self.name {
            return Err(E2eeError::UnknownUser(user));
        }
        self.store
            .read(move |tx| {
                let Some(nid) = tx.lookup(Kind::User, user.as_str())? else {
                    return Err(E2eeError::UnknownUser(user));
                };
                let mut response = get_devices::Response::new(user, id(table::announced(tx, nid)?));
                for (device, json) in table::device_keys(tx, nid)? {
                    let Some(keys) = raw::<DeviceKeys>(json) else { continue };
                    let name = table::device_name(tx, nid, &device)?;
                    let mut device = get_devices::UserDevice::new(device.into(), keys);
                    device.device_display_name = name;
                    response.devices.push(device);
                }
                response.master_key = table::cross_signing(tx, nid, Usage::Master)?.and_then(raw);
                response.self_signing_key = table::cross_signing(tx, nid, Usage::SelfSigning)?.and_then(raw);
                Ok(response)
            })
            .await
    }

    /// Asks for a stale list in the background, unless too many are asked for already: then it is asked for when
    /// someone needs it.
    fn refresh_later(&self, user: OwnedUserId) {
        let Ok(permit) = self.refreshes.clone().try_acquire_owned() else {
            return;
        };
        let e2ee = self.clone();
        tokio::spawn(async move {
            if let Err(error) = e2ee.refresh(&user).await {
                tracing::debug!(%user, %error, "a list of devices could not be fetched");
            }
            drop(permit);
        });
    }

    /// Fetches a remote user's whole list and keeps it, if we share a room.
    pub(super) async fn refresh(&self, user: &UserId) -> Result<(), E2eeError> {
        let before = self.list_position(user).await?;
        let answer = self.servers.devices(user).await?;
        let list = RemoteListAnswer::from_devices(user, answer);
        self.store_list(list, before).await
    }

    /// Where a user's list stands, before it is asked for elsewhere.
    pub(super) async fn list_position(&self, user: &UserId) -> Result<Option<Seq>, E2eeError> {
        let user = user.to_owned();
        self.store
            .read(move |tx| match tx.lookup(Kind::User, user.as_str())? {
                Some(nid) => table::list_position(tx, nid),
                None => Ok(None),
            })
            .await
            .map_err(|error: StoreError| error.into())
    }

    /// Keeps a list that was asked for when ours stood at `before`: if it changed since, the answer may be older than
    /// that change and counts as stale.
    pub(super) async fn store_list(
        &self,
        list: RemoteListAnswer,
        before: Option<Seq>,
    ) -> Result<(), E2eeError> {
        self.store
            .write(move |tx| {
                let Some(nid) = followed(tx, &list.user)? else {
                    return Ok(());
                };
                let current = table::list_position(tx, nid)? == before;
                table::delete_remote_devices(tx, nid)?;
                for device in &list.devices {
                    table::put_remote_device(tx, nid, device)?;
                }
                for (usage, key) in [(Usage::Master, &list.master), (Usage::SelfSigning, &list.self_signing)]
                {
                    match key {
                        Some(key) => table::put_cross_signing(tx, nid, usage, key)?,
                        None => table::delete_cross_signing(tx, nid, usage)?,
                    }
                }
                table::put_remote_list(tx, nid, list.stream_id, !current)
            })
            .await
            .map_err(|error: StoreError| error.into())
    }
}

/// A remote user's list as its server told it, checked.
#[derive(Debug)]
pub(super) struct RemoteListAnswer {
    pub(super) user: OwnedUserId,
    /// The id from which updates go on; [`UNKNOWN_STREAM`] if the answer has none.
    pub(super) stream_id: i64,
    pub(super) devices: Vec<RemoteDevice>,
    pub(super) master: Option<String>,
    pub(super) self_signing: Option<String>,
}

/// No update says that it follows on this one, so that the next one makes the list be asked whole.
pub(super) const UNKNOWN_STREAM: i64 = -1;

impl RemoteListAnswer {
    fn from_devices(user: &UserId, answer: get_devices::Response) -> Self {
        let devices = answer
            .devices
            .iter()
            .filter_map(|device| {
                remote_device(user, &device.device_id, &device.keys, device.device_display_name.clone())
            })
            .take(REMOTE_DEVICES_MAX)
            .collect();
        let key = |raw: Option<&Raw<CrossSigningKey>>, usage| {
            cross_signing_of(user, raw, &usage).ok().flatten().map(|key| key.to_json())
        };
        Self {
            user: user.to_owned(),
            stream_id: i64::from(answer.stream_id),
            devices,
            master: key(answer.master_key.as_ref(), KeyUsage::Master),
            self_signing: key(answer.self_signing_key.as_ref(), KeyUsage::SelfSigning),
        }
    }
}

/// The keys of one device of a remote user, if they are of that device.
pub(super) fn remote_device(
    user: &UserId,
    device: &DeviceId,
    keys: &Raw<DeviceKeys>,
    name: Option<String>,
) -> Option<RemoteDevice> {
    let mut object = KeyObject::parse(keys.json().get(), KEY_OBJECT_BYTES_MAX).ok()?;
    object.check_device(user, device).ok()?;
    object.strip_unsigned();
    let name = name.map(|name| name.chars().take(ID_BYTES_MAX).collect());
    Some(RemoteDevice { device: device.to_string(), name, json: object.to_json() })
}

/// A remote user's cross-signing key, if there is one; an error if it is not theirs or not for this use.
pub(super) fn cross_signing_of(
    user: &UserId,
    raw: Option<&Raw<CrossSigningKey>>,
    usage: &KeyUsage,
) -> Result<Option<KeyObject>, E2eeError> {
    let Some(raw) = raw else { return Ok(None) };
    let object = KeyObject::parse(raw.json().get(), KEY_OBJECT_BYTES_MAX)?;
    object.check_cross_signing(user, usage)?;
    Ok(Some(object))
}

/// A remote user with whom a local one shares a room: only their lists are kept.
fn followed(tx: &WriteTx<'_>, user: &UserId) -> Result<Option<Nid>, StoreError> {
    let Some(nid) = tx.lookup(Kind::User, user.as_str())? else {
        return Ok(None);
    };
    Ok(table::shares_with_local(tx, nid)?.then_some(nid))
}

/// Applies one update. True if the list has to be fetched whole.
fn apply_update(tx: &mut WriteTx<'_>, content: DeviceListUpdateContent) -> Result<bool, E2eeError> {
    let Some(nid) = followed(tx, &content.user_id)? else {
        partial::note_devices(tx, &content.user_id)?;
        return Ok(false);
    };
    let new = i64::from(content.stream_id);
    let stale = match table::remote_list(tx, nid)? {
        // Nothing that anybody could ask for.
        None if content.keys.is_none() && content.deleted != Some(true) => return Ok(false),
        // Never asked for, or in vain: whoever asks now gets the whole.
        None => false,
        // Repeated, or overtaken by a whole list.
        Some((have, false)) if new <= have => return Ok(false),
        Some((have, false)) => {
            let follows = content.prev_id.iter().all(|prev| i64::from(*prev) <= have)
                && (content.prev_id.iter().any(|prev| i64::from(*prev) == have) || have == 0);
            let device = content.device_id.as_str();
            let keys = content.keys.as_ref();
            let update = keys.and_then(|keys| {
                remote_device(&content.user_id, &content.device_id, keys, content.device_display_name.clone())
            });
            match update {
                _ if !follows => {}
                _ if content.deleted == Some(true) => table::delete_remote_device(tx, nid, device)?,
                Some(update) => table::put_remote_device(tx, nid, &update)?,
                None => table::delete_remote_device(tx, nid, device)?,
            }
            table::put_remote_list(tx, nid, if follows { new } else { have }, !follows)?;
            !follows
        }
        Some((_, true)) => true,
    };
    list_changed(tx, nid, false)?;
    Ok(stale)
}

fn id(value: i64) -> UInt {
    UInt::new_saturating(u64::try_from(value).unwrap_or(0))
}

/// Stored JSON as ruma has it. Stored JSON was parsed before, so this is `None` only for a damaged row.
pub(super) fn raw<T>(json: String) -> Option<Raw<T>> {
    Raw::from_json_string(json).ok()
}
