//! A device that sleeps on the server (MSC3814): it takes messages while its user is logged in nowhere, and the next log-in
//! wakes it, reads what came, and puts another to sleep.
//!
//! To everybody else it is a device like others. Its private keys lie here sealed.
//!
//! spec: <https://github.com/matrix-org/matrix-spec-proposals/pull/3814>

use ruma::{DeviceId, OwnedDeviceId, UserId};

use super::{E2ee, E2eeError, object::KEY_OBJECT_BYTES_MAX, waiting};
use crate::store::{Kind, Seq, schema::dehydrated as table};

/// Messages given at a time.
const PAGE: u32 = 100;
/// The longest sealed device: a pickle with a hundred one-time keys has some 10 kB.
const DATA_BYTES_MAX: usize = 4 * KEY_OBJECT_BYTES_MAX;

impl E2ee {
    /// The device that sleeps: its id, and its sealed keys as JSON.
    pub async fn dehydrated(&self, user: &UserId) -> Result<Option<(OwnedDeviceId, String)>, E2eeError> {
        let user = user.to_owned();
        self.store
            .read(move |tx| {
                let Some(nid) = tx.lookup(Kind::User, user.as_str())? else { return Ok(None) };
                Ok(table::get(tx, nid)?.map(|(device, data)| (device.into(), data)))
            })
            .await
    }

    /// Notes that a device sleeps here; gives the one that did before, if it was another.
    pub async fn put_to_sleep(
        &self,
        user: &UserId,
        device: &DeviceId,
        data: String,
    ) -> Result<Option<OwnedDeviceId>, E2eeError> {
        if data.len() > DATA_BYTES_MAX {
            return Err(E2eeError::TooMany { what: "bytes in a dehydrated device", max: DATA_BYTES_MAX });
        }
        let (user, device) = (user.to_owned(), device.to_owned());
        self.store
            .write(move |tx| {
                let nid = tx.intern(Kind::User, user.as_str())?;
                let before = table::get(tx, nid)?.map(|(known, _)| known);
                table::put(tx, nid, device.as_str(), &data)?;
                Ok(before.filter(|known| device.as_str() != known).map(Into::into))
            })
            .await
    }

    /// Messages that came for the sleeping device, from a position of an earlier page on, and the position after them.
    /// They stay until the device goes.
    pub async fn messages_asleep(
        &self,
        user: &UserId,
        device: &DeviceId,
        after: Seq,
    ) -> Result<(Vec<String>, Option<Seq>), E2eeError> {
        let (user, device) = (user.to_owned(), device.to_owned());
        self.store
            .read(move |tx| {
                let Some(nid) = tx.lookup(Kind::User, user.as_str())? else { return Ok((Vec::new(), None)) };
                let page = waiting(tx, nid, &device, after, Seq(i64::MAX), PAGE)?;
                let last = page.last().map(|(seq, _)| *seq);
                Ok((page.into_iter().map(|(_, json)| json).collect(), last))
            })
            .await
    }
}
