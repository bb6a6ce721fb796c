//! Messages to devices: queued until the device acknowledges them, from and to other servers once.
//!
//! ```text
//!   PUT /sendToDevice ─(transaction seen? done)─> to_device rows of our devices, one EDU for each other server
//!   EDU of a server   ─(message id seen? done)──> to_device rows
//!   /sync             shows rows after the token's position; the token that comes back deletes up to there
//! ```

use std::collections::BTreeMap;

use ruma::{
    DeviceId, OwnedServerName, OwnedTransactionId, OwnedUserId, ServerName, TransactionId, UserId,
    api::federation::transactions::edu::{DirectDeviceContent, DirectDeviceMessages, Edu},
    to_device::DeviceIdOrAllDevices,
};
use serde::Serialize;
use serde_json::value::RawValue;

use super::{E2ee, E2eeError, device_lists::put_edu, object::ID_BYTES_MAX};
use crate::store::{Kind, Nid, ReadTx, Seq, StoreError, Touched, WriteTx, schema::e2ee as table};

/// Messages that wait for one device; beyond, the oldest go. A device that was away for months in busy encrypted
/// rooms has some thousands.
pub const QUEUE_MAX: u32 = 20_000;
/// The queue's length is looked at once in so many messages: counting it walks it.
const QUEUE_LOOK: i64 = 64;
/// Devices that one request or EDU may reach.
pub const RECIPIENTS_MAX: usize = 5_000;
/// The longest content of one message: an event's size.
pub const CONTENT_BYTES_MAX: usize = 64 * 1024;
/// How long a device's transaction ids are remembered.
const TXN_KEPT_MS: u64 = 24 * 60 * 60 * 1000;
/// How long other servers' message ids are remembered: longer than a server repeats a transaction.
const MESSAGE_ID_KEPT_MS: u64 = 7 * 24 * 60 * 60 * 1000;
/// How many of them for each server.
const MESSAGE_IDS_MAX: u32 = 50_000;

impl E2ee {
    /// Sends messages to devices. The same transaction again does nothing.
    pub async fn send_to_device(
        &self,
        sender: &UserId,
        device: &DeviceId,
        event_type: &str,
        txn: &TransactionId,
        messages: DirectDeviceMessages,
    ) -> Result<(), E2eeError> {
        check(event_type, txn.as_str(), &messages)?;
        let mut local = DirectDeviceMessages::new();
        let mut remote: BTreeMap<OwnedServerName, DirectDeviceMessages> = BTreeMap::new();
        for (user, devices) in messages {
            if user.server_name() == self.name {
                local.insert(user, devices);
            } else {
                let server = user.server_name().to_owned();
                remote.entry(server).or_default().insert(user, devices);
            }
        }
        let mut edus = Vec::with_capacity(remote.len());
        for (server, messages) in remote {
            let mut content = DirectDeviceContent::new(sender.to_owned(), event_type.into(), message_id()?);
            content.messages = messages;
            edus.push((server, Edu::DirectToDevice(content)));
        }
        let (sender, device) = (sender.to_owned(), device.to_owned());
        let txn = format!("{event_type} {txn}");
        let event_type = event_type.to_owned();
        let now_ms = self.clock.now_ms();
        self.store
            .write(move |tx| {
                let nid = tx.intern(Kind::User, sender.as_str())?;
                if !table::put_to_device_txn(tx, nid, device.as_str(), &txn, now_ms, TXN_KEPT_MS)? {
                    return Ok(());
                }
                deliver(tx, &sender, &event_type, &local)?;
                for (server, edu) in &edus {
                    let server = tx.intern(Kind::Server, server.as_str())?;
                    put_edu(tx, &[server], edu)?;
                }
                Ok(())
            })
            .await
            .map_err(E2eeError::Store)
    }

    /// An `m.direct_to_device` of another server.
    pub async fn receive_to_device(
        &self,
        origin: &ServerName,
        content: DirectDeviceContent,
    ) -> Result<(), E2eeError> {
        if content.sender.server_name() != origin {
            return Err(E2eeError::ForeignUser(content.sender));
        }
        check(&content.ev_type.to_string(), content.message_id.as_str(), &content.messages)?;
        let name = self.name.clone();
        let origin = origin.to_owned();
        let now_ms = self.clock.now_ms();
        self.store
            .write(move |tx| {
                let origin = tx.intern(Kind::Server, origin.as_str())?;
                let id = content.message_id.as_str();
                if !table::put_in_message(tx, origin, id, now_ms, MESSAGE_ID_KEPT_MS, MESSAGE_IDS_MAX)? {
                    return Ok(());
                }
                let mut messages = content.messages;
                messages.retain(|user, _| user.server_name() == name);
                deliver(tx, &content.sender, &content.ev_type.to_string(), &messages)
            })
            .await
            .map_err(E2eeError::Store)
    }

    /// The device has brought back a token: everything up to its position arrived.
    pub async fn acknowledge(&self, user: &UserId, device: &DeviceId, until: Seq) -> Result<(), E2eeError> {
        let (user, device) = (user.to_owned(), device.to_owned());
        self.store
            .write(move |tx| match tx.lookup(Kind::User, user.as_str())? {
                Some(nid) => table::acknowledge(tx, nid, device.as_str(), until),
                None => Ok(()),
            })
            .await
            .map_err(E2eeError::Store)
    }
}

/// Messages for a device after `since`, up to `until`: (position, JSON), the first `limit` of them.
pub fn waiting(
    tx: &ReadTx<'_>,
    user: Nid,
    device: &DeviceId,
    since: Seq,
    until: Seq,
    limit: u32,
) -> Result<Vec<(Seq, String)>, StoreError> {
    table::to_device(tx, user, device.as_str(), since, until, limit)
}

/// Whether an acknowledgement up to `until` deletes anything.
pub fn has_acknowledged(
    tx: &ReadTx<'_>,
    user: Nid,
    device: &DeviceId,
    until: Seq,
) -> Result<bool, StoreError> {
    table::has_to_device(tx, user, device.as_str(), until)
}

fn check(event_type: &str, id: &str, messages: &DirectDeviceMessages) -> Result<(), E2eeError> {
    let long = |what: &'static str, max: usize| Err(E2eeError::TooMany { what, max });
    if event_type.len() > ID_BYTES_MAX || id.len() > ID_BYTES_MAX {
        return long("bytes in a type or id", ID_BYTES_MAX);
    }
    let contents = messages.values().flat_map(BTreeMap::values);
    if contents.clone().count() > RECIPIENTS_MAX {
        return long("devices in one request", RECIPIENTS_MAX);
    }
    if contents.clone().any(|content| content.json().get().len() > CONTENT_BYTES_MAX) {
        return long("bytes in one message", CONTENT_BYTES_MAX);
    }
    Ok(())
}

/// A random id, so that the other side can tell a repeated EDU.
fn message_id() -> Result<OwnedTransactionId, E2eeError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|_| StoreError::Closed)?;
    Ok(data_encoding::HEXLOWER.encode(&bytes).into())
}

/// Queues messages for devices of ours; who is not there gets none.
fn deliver(
    tx: &mut WriteTx<'_>,
    sender: &OwnedUserId,
    event_type: &str,
    messages: &DirectDeviceMessages,
) -> Result<(), StoreError> {
    #[derive(Serialize)]
    struct Message<'a> {
        content: &'a RawValue,
        sender: &'a UserId,
        r#type: &'a str,
    }
    for (user, by_device) in messages {
        let Some(nid) = tx.lookup(Kind::User, user.as_str())? else {
            continue;
        };
        let devices = table::local_devices(tx, nid)?;
        let mut any = false;
        for (target, content) in by_device {
            let message = Message { content: content.json(), sender, r#type: event_type };
            let json = serde_json::to_string(&message)
                .map_err(|_| StoreError::Corrupt("a message that cannot be written"))?;
            for device in &devices {
                let meant = match target {
                    DeviceIdOrAllDevices::AllDevices => true,
                    DeviceIdOrAllDevices::DeviceId(id) => id.as_str() == device,
                };
                if meant {
                    queue(tx, nid, device, &json)?;
                    any = true;
                }
            }
        }
        if any {
            tx.touch(Touched::User(nid));
        }
    }
    Ok(())
}

fn queue(tx: &mut WriteTx<'_>, user: Nid, device: &str, json: &str) -> Result<(), StoreError> {
    let seq = tx.next_seq()?;
    table::put_to_device(tx, user, device, seq, json)?;
    if seq.0 % QUEUE_LOOK == 0 {
        let dropped = table::trim_to_device(tx, user, device, QUEUE_MAX)?;
        if dropped > 0 {
            tracing::debug!(
                device,
                dropped,
                "a device has been away too long: its oldest messages are dropped"
            );
        }
    }
    Ok(())
}
