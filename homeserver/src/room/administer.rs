//! What administrators see of rooms and do to them, whether they are in them or not.

use std::collections::BTreeSet;

use ruma::{OwnedMxcUri, OwnedUserId, RoomId, UserId};
use serde_json::{Value, json, value::to_raw_value};

use super::{Draft, RoomError, Rooms, ingest::load, project};
use crate::store::{
    Kind, Nid, ReadTx, StoreError,
    schema::{
        events,
        membership::{self, Membership},
        moderation::{self, Page},
        rooms, state,
    },
};

impl Rooms {
    /// A page of rooms in Synapse's words, and how many there are.
    pub async fn admin_list(&self, page: Page) -> Result<(Vec<Value>, u64), RoomError> {
        self.inner
            .store
            .read(move |tx| {
                let (nids, total) = moderation::rooms(tx, &page)?;
                let list =
                    nids.into_iter().map(|nid| described(tx, nid)).collect::<Result<_, StoreError>>()?;
                Ok((list, total))
            })
            .await
    }

    /// One room in Synapse's words.
    pub async fn admin_detail(&self, room: &RoomId) -> Result<Value, RoomError> {
        let room = room.to_owned();
        self.inner
            .store
            .read(move |tx| {
                let nid = known(tx, &room)?;
                let mut shown = described(tx, nid)?;
                shown["forgotten"] = false.into();
                Ok(shown)
            })
            .await
    }

    /// The joined members of a room.
    pub async fn admin_members(&self, room: &RoomId) -> Result<Vec<String>, RoomError> {
        let room = room.to_owned();
        self.inner
            .store
            .read(move |tx| {
                let nid = known(tx, &room)?;
                let members = membership::members_with(tx, nid, Membership::Join, MEMBERS_MAX)?;
                members.into_iter().map(|(user, _)| Ok(tx.text(user)?.to_string())).collect()
            })
            .await
    }

    /// The current state of a room, as clients see events.
    pub async fn admin_state(&self, room: &RoomId) -> Result<Vec<Value>, RoomError> {
        let room = room.to_owned();
        self.inner
            .store
            .read(move |tx| {
                let nid = known(tx, &room)?;
                let row = rooms::room(tx, nid)?.ok_or_else(unknown)?;
                let mut list = Vec::new();
                for event in state::full(tx, row.sid)?.into_values() {
                    let Some(event_row) = events::event(tx, event)? else { continue };
                    let mut shown: Value = serde_json::from_slice(&event_row.client)
                        .map_err(|_| StoreError::Corrupt("a stored event is no JSON"))?;
                    if let Value::Object(shown) = &mut shown {
                        shown.insert("event_id".into(), events::id(tx, event)?.as_str().into());
                        shown.insert("room_id".into(), room.as_str().into());
                    }
                    list.push(shown);
                }
                Ok(list)
            })
            .await
    }

    /// The aliases that a room has here.
    pub async fn admin_aliases(&self, room: &RoomId) -> Result<Vec<String>, RoomError> {
        let room = room.to_owned();
        self.inner
            .store
            .read(move |tx| {
                let nid = known(tx, &room)?;
                Ok(rooms::aliases(tx, nid)?)
            })
            .await
    }

    /// The pictures of all rooms.
    pub async fn pictures(&self) -> Result<Vec<OwnedMxcUri>, RoomError> {
        self.inner.store.read(move |tx| Ok(rooms::pictures(tx)?.into_iter().map(Into::into).collect())).await
    }

    /// The media that a room's events name, as far as the server can read them: at most [`ROOM_MEDIA_MAX`].
    pub async fn admin_media(&self, room: &RoomId) -> Result<Vec<OwnedMxcUri>, RoomError> {
        let room = room.to_owned();
        self.inner
            .store
            .read_slowly(move |tx| {
                let nid = known(tx, &room)?;
                let mut found = BTreeSet::new();
                let mut after = (i64::MIN, Nid(0));
                loop {
                    let page = events::of_room(tx, nid, after, MEDIA_PAGE)?;
                    let Some(last) = page.last() else { break };
                    after = *last;
                    for (_, event) in page {
                        if let Some(row) = events::event(tx, event)? {
                            named_media(&project::content(&row.client), &mut found);
                        }
                    }
                    if found.len() >= ROOM_MEDIA_MAX {
                        break;
                    }
                    tx.breathe()?;
                }
                Ok::<_, RoomError>(found.into_iter().take(ROOM_MEDIA_MAX).collect())
            })
            .await
    }

    /// Whether a room is blocked, and by whom.
    pub async fn blocked(&self, room: &RoomId) -> Result<Option<String>, RoomError> {
        let room = room.to_owned();
        self.inner.store.read(move |tx| Ok(moderation::blocked(tx, room.as_str())?)).await
    }

    /// Blocks a room (nobody here joins it any more), or lifts the block.
    pub async fn set_blocked(&self, room: &RoomId, by: &UserId, on: bool) -> Result<(), RoomError> {
        let (room, by, now) = (room.to_owned(), by.to_owned(), self.inner.clock.now_ms());
        self.inner
            .store
            .write(move |tx| Ok(moderation::set_blocked(tx, room.as_str(), on.then_some(by.as_str()), now)?))
            .await
    }

    /// Refuses a room that an administrator has blocked.
    pub(in crate::room) async fn not_blocked(&self, room: &RoomId) -> Result<(), RoomError> {
        match self.blocked(room).await? {
            Some(_) => Err(RoomError::Forbidden("this room is blocked on this server".into())),
            None => Ok(()),
        }
    }

    /// Our users who are in a room.
    pub async fn local_joined(&self, room: &RoomId) -> Result<Vec<OwnedUserId>, RoomError> {
        let room = room.to_owned();
        self.inner
            .store
            .read(move |tx| {
                let nid = known(tx, &room)?;
                let mut joined = Vec::new();
                for user in membership::local_members(tx, nid, Membership::Join)? {
                    joined.extend(UserId::parse(&*tx.text(user)?).ok());
                }
                Ok(joined)
            })
            .await
    }

    /// Our users in a room leave it, and it is listed no more. Gives those who left, and those who could not.
    pub async fn evict_ours(&self, room: &RoomId) -> Result<(Vec<OwnedUserId>, Vec<OwnedUserId>), RoomError> {
        let room_id = room.to_owned();
        let ours: Vec<OwnedUserId> = self
            .inner
            .store
            .read(move |tx| {
                let nid = known(tx, &room_id)?;
                let mut ours = Vec::new();
                for membership in [Membership::Join, Membership::Invite, Membership::Knock] {
                    for user in membership::local_members(tx, nid, membership)? {
                        if let Ok(user) = UserId::parse(&*tx.text(user)?) {
                            ours.push(user);
                        }
                    }
                }
                Ok::<_, RoomError>(ours)
            })
            .await?;
        let (mut left, mut stayed) = (Vec::new(), Vec::new());
        for user in ours {
            match self.leave(&user, room, None).await {
                Ok(()) => {
                    // Also out of its list of rooms that it was in.
                    if let Err(error) = self.forget(&user, room).await {
                        tracing::debug!(%user, %room, %error, "a left room could not be forgotten");
                    }
                    left.push(user);
                }
                Err(error) => {
                    tracing::debug!(%user, %room, %error, "a user could not leave a room that is deleted");
                    stayed.push(user);
                }
            }
        }
        let room_id = room.to_owned();
        self.inner
            .store
            .write(move |tx| {
                let Some(nid) = tx.lookup(Kind::Room, room_id.as_str())? else { return Ok(()) };
                rooms::set_public(tx, nid, false)?;
                for alias in rooms::aliases(tx, nid)? {
                    rooms::remove_alias(tx, &alias)?;
                }
                Ok::<_, RoomError>(())
            })
            .await?;
        Ok((left, stayed))
    }

    /// Makes `user` an administrator of a room, by the word of a local member who may.
    pub async fn make_room_admin(&self, room: &RoomId, user: &UserId) -> Result<(), RoomError> {
        let room_id = room.to_owned();
        let server = self.server_name().to_owned();
        let (strongest, mut levels, rule) = self
            .inner
            .store
            .read(move |tx| {
                let nid = known(tx, &room_id)?;
                let row = rooms::room(tx, nid)?.ok_or_else(unknown)?;
                let levels: Value = match state::current_of(tx, nid, "m.room.power_levels", "")? {
                    Some(event) => events::event(tx, event)?
                        .and_then(|event| serde_json::from_slice::<Value>(&event.client).ok())
                        .map(|mut event| event["content"].take())
                        .unwrap_or_default(),
                    None => Value::Null,
                };
                let level = |user: &str| {
                    levels["users"][user].as_i64().or_else(|| levels["users_default"].as_i64()).unwrap_or(0)
                };
                let creator = match row.creator {
                    Some(creator) => tx.text(creator)?.to_string(),
                    None => String::new(),
                };
                let mut best: Option<(i64, OwnedUserId)> = None;
                for user in membership::local_members(tx, nid, Membership::Join)? {
                    let Ok(user) = UserId::parse(&*tx.text(user)?) else { continue };
                    if user.server_name() != server {
                        continue;
                    }
                    let own = if user.as_str() == creator { i64::MAX } else { level(user.as_str()) };
                    if best.as_ref().is_none_or(|(known, _)| own > *known) {
                        best = Some((own, user));
                    }
                }
                Ok::<_, RoomError>((best, levels, row.join_rule))
            })
            .await?;
        let (own, admin) =
            strongest.ok_or_else(|| RoomError::Forbidden("no user of this server is in the room".into()))?;
        if !levels.is_object() {
            levels = json!({ "users": {} });
        }
        let target = own.min(100);
        if !levels["users"].is_object() {
            levels["users"] = json!({});
        }
        levels["users"][user.as_str()] = target.into();
        let content = to_raw_value(&levels).map_err(|_| RoomError::Invalid("power levels".into()))?;
        self.send(&admin, room, Draft::state("m.room.power_levels", "", content), None).await?;
        let joined = self.membership(user, room).await? == Some(Membership::Join);
        if !joined && rule.as_deref() != Some("public") {
            self.invite(&admin, room, user, None).await?;
        }
        Ok(())
    }
}

/// What a message's content names: the file and its small picture, sealed or not.
fn named_media(content: &Value, found: &mut BTreeSet<OwnedMxcUri>) {
    let info = &content["info"];
    for uri in
        [&content["url"], &content["file"]["url"], &info["thumbnail_url"], &info["thumbnail_file"]["url"]]
    {
        if let Some(uri) = uri.as_str().filter(|uri| uri.starts_with("mxc://")) {
            found.insert(uri.into());
        }
    }
}

/// Media told of one room.
const ROOM_MEDIA_MAX: usize = 20_000;
/// Events read between two rests.
const MEDIA_PAGE: u32 = 256;

/// Members shown of one room: the largest rooms of all have some 150 000.
const MEMBERS_MAX: u32 = 300_000;

fn unknown() -> RoomError {
    RoomError::NotFound("this server does not know that room".into())
}

fn known(tx: &ReadTx<'_>, room: &RoomId) -> Result<Nid, RoomError> {
    let nid = tx.lookup(Kind::Room, room.as_str())?.ok_or_else(unknown)?;
    rooms::room(tx, nid)?.map(|_| nid).ok_or_else(unknown)
}

fn described(tx: &ReadTx<'_>, nid: Nid) -> Result<Value, StoreError> {
    let row = rooms::room(tx, nid)?.ok_or(StoreError::Corrupt("a room without a row"))?;
    let creator = row.creator.map(|creator| tx.text(creator)).transpose()?;
    Ok(json!({
        "room_id": load::room_id(tx, nid)?,
        "name": row.name,
        "topic": row.topic,
        "avatar": row.avatar,
        "canonical_alias": row.alias,
        "joined_members": row.joined,
        "joined_local_members": membership::local_members(tx, nid, Membership::Join)?.len(),
        "joined_local_devices": 0,
        "version": row.version,
        "creator": creator.as_deref(),
        "encryption": row.encryption,
        "federatable": row.federate,
        "public": row.public,
        "join_rules": row.join_rule,
        "guest_access": row.guest,
        "history_visibility": row.history,
        "state_events": state::full(tx, row.sid)?.len(),
        "room_type": row.room_type,
        "tombstoned": row.tombstone.is_some(),
        "replacement_room": row.tombstone,
    }))
}
