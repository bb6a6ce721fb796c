//! Account data of our users, global and by room; tags are room account data.

use ruma::{RoomId, UserId};

use super::{UserError, Users, active};
use crate::store::{Kind, Nid, ReadTx, StoreError, WriteTx, schema};

impl Users {
    /// One entry's content as JSON text; `room` `None`: global.
    pub async fn account_data(
        &self,
        user: &UserId,
        room: Option<&RoomId>,
        kind: &str,
    ) -> Result<Option<String>, UserError> {
        let (user, room, kind) = (user.to_owned(), room.map(ToOwned::to_owned), kind.to_owned());
        self.store
            .read(move |tx: &ReadTx<'_>| {
                let user = active(tx, &user)?;
                let Some(room) = room_nid(tx, room.as_deref())? else {
                    return Ok(None);
                };
                Ok(schema::account_data::get(tx, user, room, &kind)?)
            })
            .await
    }

    /// All entries of one room: (type, content).
    pub async fn room_account_data(
        &self,
        user: &UserId,
        room: &RoomId,
    ) -> Result<Vec<(String, String)>, UserError> {
        let (user, room) = (user.to_owned(), room.to_owned());
        self.store
            .read(move |tx: &ReadTx<'_>| {
                let user = active(tx, &user)?;
                let Some(room) = room_nid(tx, Some(&room))? else {
                    return Ok(Vec::new());
                };
                let entries = schema::account_data::of_room(tx, user, room)?;
                let present = entries.into_iter().filter(|entry| !entry.is_removed());
                Ok(present.map(|entry| (entry.kind, entry.content)).collect())
            })
            .await
    }

    /// Sets an entry. Its content is a JSON object, as text; an empty one removes the entry.
    // spec: MSC3391
    pub async fn set_account_data(
        &self,
        user: &UserId,
        room: Option<&RoomId>,
        kind: &str,
        content: String,
    ) -> Result<(), UserError> {
        self.change_account_data(user, room, kind, move |_| Ok(content)).await
    }

    /// Changes an entry from what it is to what `change` makes of it, in one write.
    pub async fn change_account_data<F>(
        &self,
        user: &UserId,
        room: Option<&RoomId>,
        kind: &str,
        change: F,
    ) -> Result<(), UserError>
    where
        F: FnOnce(Option<String>) -> Result<String, UserError> + Send + 'static,
    {
        if kind.is_empty() || kind.len() > TYPE_BYTES_MAX {
            return Err(UserError::TooLarge("an account data type has 1 to 255 bytes".into()));
        }
        let (user, room, kind) = (user.to_owned(), room.map(ToOwned::to_owned), kind.to_owned());
        self.store
            .write(move |tx: &mut WriteTx<'_>| {
                let user = active(tx, &user)?;
                let room = match &room {
                    Some(room) => tx.intern(Kind::Room, room.as_str())?,
                    None => schema::account_data::GLOBAL,
                };
                let old = schema::account_data::get(tx, user, room, &kind)?;
                if old.is_none() && schema::account_data::count(tx, user)? >= ENTRIES_MAX {
                    schema::account_data::drop_removed(tx, user)?;
                }
                if old.is_none() && schema::account_data::count(tx, user)? >= ENTRIES_MAX {
                    return Err(UserError::TooLarge("this account has too many account data entries".into()));
                }
                let new = change(old)?;
                if new.len() > CONTENT_BYTES_MAX {
                    return Err(UserError::TooLarge("an account data entry has at most 512 KiB".into()));
                }
                let new = if is_empty(&new) { schema::account_data::REMOVED } else { &new };
                schema::account_data::set(tx, user, room, &kind, new)?;
                Ok(())
            })
            .await
    }
}

/// Whether a JSON object has no members.
fn is_empty(object: &str) -> bool {
    let inner = object.trim().strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
    inner.is_some_and(|inner| inner.trim().is_empty())
}

fn room_nid(tx: &ReadTx<'_>, room: Option<&RoomId>) -> Result<Option<Nid>, StoreError> {
    match room {
        Some(room) => tx.lookup(Kind::Room, room.as_str()),
        None => Ok(Some(schema::account_data::GLOBAL)),
    }
}

const TYPE_BYTES_MAX: usize = 255;
/// `m.direct`, push rules and breadcrumbs of busy people have some tens of KiB.
const CONTENT_BYTES_MAX: usize = 512 << 10;
/// A tag and a marker for each of some thousand rooms, and all that clients keep globally.
const ENTRIES_MAX: u64 = 20_000;
