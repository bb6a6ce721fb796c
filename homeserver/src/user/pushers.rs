//! Pushers: where a user's clients want to be told. Kept as the client sent them.

use ruma::{UserId, api::client::push::PusherIds};

use super::{LocalUser, UserError, Users, active};
use crate::store::{Kind, ReadTx, WriteTx, schema};

impl Users {
    /// All pushers of a user, as JSON.
    pub async fn pushers(&self, user: &UserId) -> Result<Vec<String>, UserError> {
        let user = user.to_owned();
        self.store
            .read(move |tx: &ReadTx<'_>| {
                let user = active(tx, &user)?;
                Ok(schema::users::pushers(tx, user)?)
            })
            .await
    }

    /// Sets a pusher; unless it is to be appended, the same one of other users goes.
    pub async fn set_pusher(
        &self,
        caller: &LocalUser,
        ids: &PusherIds,
        json: String,
        append: bool,
    ) -> Result<(), UserError> {
        // spec: https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3pushersset
        if ids.app_id.len() > APP_BYTES_MAX
            || ids.pushkey.len() > KEY_BYTES_MAX
            || json.len() > JSON_BYTES_MAX
        {
            return Err(UserError::TooLarge("an app id has at most 64 bytes, a push key at most 512".into()));
        }
        let (caller, ids) = (caller.clone(), ids.clone());
        self.store
            .write(move |tx: &mut WriteTx<'_>| {
                let user = active(tx, &caller.user)?;
                let device = tx.intern(Kind::Device, caller.device.as_str())?;
                if schema::users::pushers(tx, user)?.len() >= PUSHERS_MAX {
                    return Err(UserError::TooLarge("this account has too many pushers".into()));
                }
                if !append {
                    schema::users::remove_pusher_of_others(tx, user, &ids.app_id, &ids.pushkey)?;
                }
                schema::users::set_pusher(tx, user, device, &ids.app_id, &ids.pushkey, Some(&json))?;
                // What happened before is not told.
                let key = schema::pushers::Key { user, app: ids.app_id, push_key: ids.pushkey };
                let seq = tx.next_seq()?;
                schema::pushers::put_cursor(tx, &key, seq)?;
                Ok(())
            })
            .await
    }

    /// Removes a pusher; that there is none is fine.
    pub async fn remove_pusher(&self, caller: &LocalUser, ids: &PusherIds) -> Result<(), UserError> {
        let (caller, ids) = (caller.clone(), ids.clone());
        self.store
            .write(move |tx: &mut WriteTx<'_>| {
                let user = active(tx, &caller.user)?;
                let device = tx.intern(Kind::Device, caller.device.as_str())?;
                schema::users::set_pusher(tx, user, device, &ids.app_id, &ids.pushkey, None)?;
                Ok(())
            })
            .await
    }
}

const APP_BYTES_MAX: usize = 64;
const KEY_BYTES_MAX: usize = 512;
const JSON_BYTES_MAX: usize = 8 << 10;
/// A client sets one or two for each device.
const PUSHERS_MAX: usize = 200;
