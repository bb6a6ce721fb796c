//! Devices: listing, naming and removing them.

use ruma::{DeviceId, MilliSecondsSinceUnixEpoch, OwnedDeviceId, UInt, UserId};

use super::{DeviceHooks, UserError, Users, active};
use crate::store::{
    Kind, Nid, ReadTx, StoreError, WriteTx, schema,
    schema::{account_data, users::DeviceRow},
};

/// A device as its user sees it.
#[derive(Clone, Debug)]
pub struct Device {
    /// Its id.
    pub id: OwnedDeviceId,
    /// What its user calls it.
    pub name: Option<String>,
    /// When it was last seen.
    pub seen: Option<MilliSecondsSinceUnixEpoch>,
    /// From where.
    pub seen_ip: Option<String>,
}

impl Device {
    fn of(tx: &ReadTx<'_>, row: DeviceRow) -> Result<Self, StoreError> {
        Ok(Self {
            id: OwnedDeviceId::from(&*tx.text(row.device)?),
            name: row.name,
            seen: row.seen_ms.map(|ms| MilliSecondsSinceUnixEpoch(UInt::new_saturating(ms))),
            seen_ip: row.seen_ip,
        })
    }
}

impl Users {
    /// All devices of a user.
    pub async fn devices(&self, user: &UserId) -> Result<Vec<Device>, UserError> {
        let user = user.to_owned();
        self.store
            .read(move |tx: &ReadTx<'_>| {
                let nid = active(tx, &user)?;
                schema::users::devices(tx, nid)?.into_iter().map(|row| Ok(Device::of(tx, row)?)).collect()
            })
            .await
    }

    /// One device of a user.
    pub async fn device(&self, user: &UserId, device: &DeviceId) -> Result<Device, UserError> {
        let (user, device) = (user.to_owned(), device.to_owned());
        self.store
            .read(move |tx: &ReadTx<'_>| {
                let user = active(tx, &user)?;
                let device = tx.lookup(Kind::Device, device.as_str())?.ok_or(UserError::NoDevice)?;
                let row = schema::users::device(tx, user, device)?.ok_or(UserError::NoDevice)?;
                Ok(Device::of(tx, row)?)
            })
            .await
    }

    /// Renames a device.
    pub async fn rename_device(
        &self,
        user: &UserId,
        device: &DeviceId,
        name: Option<String>,
    ) -> Result<(), UserError> {
        check_name(name.as_deref())?;
        let (user, device, hooks) = (user.to_owned(), device.to_owned(), self.hooks);
        self.store
            .write(move |tx: &mut WriteTx<'_>| {
                let user_nid = active(tx, &user)?;
                let nid = tx.lookup(Kind::Device, device.as_str())?.ok_or(UserError::NoDevice)?;
                if !schema::users::rename_device(tx, user_nid, nid, name.as_deref())? {
                    return Err(UserError::NoDevice);
                }
                (hooks.changed)(tx, &user, &device)?;
                Ok(())
            })
            .await
    }

    /// Removes devices: their tokens, keys and waiting messages go with them. Those that are not there are passed over;
    /// if none is there, that is an error.
    pub async fn delete_devices(&self, user: &UserId, gone: &[OwnedDeviceId]) -> Result<(), UserError> {
        let (name, ids, hooks) = (user.to_owned(), gone.to_vec(), self.hooks);
        self.store
            .write(move |tx: &mut WriteTx<'_>| {
                let user_nid = active(tx, &name)?;
                let mut removed = false;
                for id in &ids {
                    if let Some(nid) = tx.lookup(Kind::Device, id.as_str())?
                        && schema::users::remove_device(tx, user_nid, nid)?
                    {
                        forget(tx, hooks, &name, user_nid, id)?;
                        removed = true;
                    }
                }
                if removed { Ok(()) } else { Err(UserError::NoDevice) }
            })
            .await?;
        for device in gone {
            self.tokens.forget_device(user, device);
        }
        Ok(())
    }
}

/// Removes every device but `keep`, in the caller's write.
pub(super) fn remove_all(
    tx: &mut WriteTx<'_>,
    hooks: DeviceHooks,
    user: &UserId,
    user_nid: Nid,
    keep: Option<&DeviceId>,
) -> Result<(), UserError> {
    for row in schema::users::devices(tx, user_nid)? {
        let id = OwnedDeviceId::from(&*tx.text(row.device)?);
        if Some(&*id) != keep && schema::users::remove_device(tx, user_nid, row.device)? {
            forget(tx, hooks, user, user_nid, &id)?;
        }
    }
    Ok(())
}

/// What else goes with a device: its keys and waiting messages, and its own settings among the user's account data.
// spec: MSC3890
fn forget(
    tx: &mut WriteTx<'_>,
    hooks: DeviceHooks,
    user: &UserId,
    nid: Nid,
    device: &DeviceId,
) -> Result<(), StoreError> {
    (hooks.deleted)(tx, user, device)?;
    for prefix in ["m.local_notification_settings.", "org.matrix.msc3890.local_notification_settings."] {
        let kind = format!("{prefix}{device}");
        if account_data::get(tx, nid, account_data::GLOBAL, &kind)?.is_some() {
            account_data::set(tx, nid, account_data::GLOBAL, &kind, account_data::REMOVED)?;
        }
    }
    Ok(())
}

pub(super) fn check_name(name: Option<&str>) -> Result<(), UserError> {
    match name {
        Some(name) if name.chars().count() > NAME_CHARS_MAX => {
            Err(UserError::TooLarge("a device name has at most 100 characters".into()))
        }
        _ => Ok(()),
    }
}

/// Device names are shown to everybody who shares a room; what is longer is not a name.
const NAME_CHARS_MAX: usize = 100;
