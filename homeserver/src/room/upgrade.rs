//! The verb that replaces a room by one of another version, with all that moves along.
//!
//! The new room is made whole in one write, then the old one gets its tombstone; what follows (aliases, listing, levels
//! of the old room, spaces) is done as far as the user may, and does not undo the upgrade. What users have for
//! themselves follows when they join: `project/successor.rs`.
//!
//! spec: <https://spec.matrix.org/v1.19/client-server-api/#room-upgrades>

use ruma::{
    EventId, OwnedEventId, OwnedRoomId, OwnedUserId, RoomId, RoomVersionId, UserId,
    room_version_rules::RoomVersionRules,
};
use serde_json::{Map, Value, json, value::to_raw_value};

use super::{
    Draft, RoomError, Rooms,
    core::{auth::Action, version},
    ingest::load,
    project::content,
    read::access::access,
};
use crate::store::{
    Kind, ReadTx, StoreError,
    ids::skey_split,
    schema::{
        events,
        membership::{self, Membership},
        rooms, state,
    },
};

/// State that moves along. Power levels and what a space has are looked at on their own.
const MOVED: [&str; 8] = [
    "m.room.join_rules",
    "m.room.history_visibility",
    "m.room.guest_access",
    "m.room.encryption",
    "m.room.name",
    "m.room.topic",
    "m.room.avatar",
    "m.room.server_acl",
];
/// Bans that move along in the one write that makes the room.
const BANS_MAX: u32 = 1_000;
/// Children of a space that move along.
const CHILDREN_MAX: usize = 1_000;
/// Level of whoever makes the new room until its own levels are set.
const FULL_POWER: i64 = 100;

/// What is taken from the old room.
struct Old {
    create: Map<String, Value>,
    /// Who stands above all levels, or made the room where nobody does.
    creators: Vec<String>,
    levels: Option<Value>,
    state: Vec<(String, String, Value)>,
    bans: Vec<(String, Value)>,
    aliases: Option<Value>,
    /// Spaces that the room says it is in.
    spaces: Vec<OwnedRoomId>,
    last: Option<OwnedEventId>,
    listed: bool,
}

impl Rooms {
    /// Makes a new room of `version` in place of `old`, by someone who may close that.
    pub async fn upgrade(
        &self,
        user: &UserId,
        old: &RoomId,
        version: RoomVersionId,
        additional: Vec<OwnedUserId>,
    ) -> Result<OwnedRoomId, RoomError> {
        let rules = version::rules(version.as_str())
            .ok_or_else(|| RoomError::UnsupportedVersion(version.to_string()))?;
        let (user_id, old_id) = (user.to_owned(), old.to_owned());
        let found = self.inner.store.read(move |tx| read(tx, &user_id, &old_id)).await?;
        let member = self.inner.profiles.profile(user).await.content("join", None);
        let drafts = drafts(user, old, &found, &version, &rules, &additional, member)?;
        let room = self.make_room(user, &version, &rules, &drafts, None, false).await?;
        let tombstone = json!({ "body": "This room has been replaced", "replacement_room": room });
        if let Err(error) =
            self.submit(user, old, state_draft("m.room.tombstone", "", &tombstone)?, None).await
        {
            // Nobody is led to the new room: it is left alone again.
            let _ = self.leave(user, &room, None).await;
            return Err(error);
        }
        if let Err(error) = self.move_along(user, old, &room, found).await {
            tracing::warn!(%old, %room, %error, "not everything moved along with an upgraded room");
        }
        Ok(room)
    }

    async fn move_along(
        &self,
        user: &UserId,
        old: &RoomId,
        room: &RoomId,
        found: Old,
    ) -> Result<(), RoomError> {
        let (old_id, new_id, listed) = (old.to_owned(), room.to_owned(), found.listed);
        self.inner
            .store
            .write(move |tx| -> Result<(), StoreError> {
                let (Some(old), Some(new)) =
                    (tx.lookup(Kind::Room, old_id.as_str())?, tx.lookup(Kind::Room, new_id.as_str())?)
                else {
                    return Ok(());
                };
                rooms::move_aliases(tx, old, new)?;
                if listed {
                    rooms::set_public(tx, old, false)?;
                    rooms::set_public(tx, new, true)?;
                }
                Ok(())
            })
            .await?;
        let attempt = async |room: &RoomId, kind: &str, key: &str, content: &Value| {
            let sent = match state_draft(kind, key, content) {
                Ok(draft) => self.send(user, room, draft, None).await,
                Err(error) => Err(error),
            };
            if let Err(error) = sent {
                tracing::debug!(%room, kind, %error, "an upgrade's part was not allowed");
            }
        };
        if let Some(aliases) = &found.aliases {
            attempt(old, "m.room.canonical_alias", "", &json!({})).await;
            attempt(room, "m.room.canonical_alias", "", aliases).await;
        }
        if let Some(levels) = found.levels.as_ref().and_then(closed) {
            attempt(old, "m.room.power_levels", "", &levels).await;
        }
        for space in &found.spaces {
            let Ok(child) = self.state_content(user, space, "m.space.child", old.as_str()).await else {
                continue;
            };
            let child: Value = serde_json::from_str(child.get()).unwrap_or_default();
            if child.get("via").is_some() {
                attempt(space, "m.space.child", room.as_str(), &child).await;
                attempt(space, "m.space.child", old.as_str(), &json!({})).await;
            }
        }
        Ok(())
    }
}

/// Looks at the old room; refuses whoever may not close it.
fn read(tx: &ReadTx<'_>, user: &UserId, old: &RoomId) -> Result<Old, RoomError> {
    let access = access(tx, user, old)?;
    let row = &access.row;
    if !access.joined || !super::send::may(tx, row, user, Action::State("m.room.tombstone"))? {
        return Err(RoomError::Forbidden("you do not have the power to replace this room".into()));
    }
    let create = match row.create {
        Some(create) => load::pdu(tx, create)?,
        None => None,
    };
    let create = create.ok_or_else(|| RoomError::NotFound("the room has no create event here".into()))?;
    let content_of = |nid| -> Result<Value, StoreError> {
        Ok(events::event(tx, nid)?.map(|event| content(&event.client)).unwrap_or_default())
    };
    let map: Map<String, Value> = serde_json::from_str(create.content.get()).unwrap_or_default();
    let more = map.get("additional_creators").and_then(Value::as_array).into_iter().flatten();
    let more = more.filter_map(Value::as_str).map(ToOwned::to_owned);
    let creators = std::iter::once(create.sender.to_string()).chain(more).collect();
    let is_space = map.get("type").and_then(Value::as_str) == Some("m.space");
    let (mut moved, mut levels, mut aliases, mut spaces) = (Vec::new(), None, None, Vec::new());
    for (skey, nid) in state::current_rest(tx, row.room)? {
        let text = tx.text(skey)?;
        let (kind, key) = skey_split(&text);
        match kind {
            "m.room.power_levels" if key.is_empty() => levels = Some(content_of(nid)?),
            "m.room.canonical_alias" if key.is_empty() => aliases = Some(content_of(nid)?),
            "m.space.child" if is_space && moved.len() < CHILDREN_MAX => {
                let child = content_of(nid)?;
                if child.get("via").is_some() {
                    moved.push((kind.to_owned(), key.to_owned(), child));
                }
            }
            "m.space.parent" => {
                let parent = content_of(nid)?;
                if parent.get("via").is_some() {
                    spaces.extend(RoomId::parse(key));
                    moved.push((kind.to_owned(), key.to_owned(), parent));
                }
            }
            kind if key.is_empty() && MOVED.contains(&kind) => {
                moved.push((kind.to_owned(), String::new(), content_of(nid)?));
            }
            _ => {}
        }
    }
    // The order of the list above, whatever order the state came in.
    moved.sort_by_key(|(kind, key, _)| {
        (MOVED.iter().position(|moved| moved == kind).unwrap_or(MOVED.len()), key.clone())
    });
    let mut bans = Vec::new();
    for (user, nid) in membership::members_with(tx, row.room, Membership::Ban, BANS_MAX)? {
        let mut ban = json!({ "membership": "ban" });
        if let Some(reason) = content_of(nid)?.get("reason") {
            ban["reason"] = reason.clone();
        }
        bans.push((tx.text(user)?.to_string(), ban));
    }
    let last = match events::forward(tx, row.room)?.into_iter().max() {
        Some(last) => Some(events::id(tx, last)?),
        None => None,
    };
    Ok(Old { create: map, creators, levels, state: moved, bans, aliases, spaces, last, listed: row.public })
}

/// The new room's first events.
fn drafts(
    user: &UserId,
    old: &RoomId,
    found: &Old,
    version: &RoomVersionId,
    rules: &RoomVersionRules,
    additional: &[OwnedUserId],
    member: Value,
) -> Result<Vec<Draft>, RoomError> {
    let auth = &rules.authorization;
    let mut create = found.create.clone();
    for key in ["creator", "additional_creators", "predecessor", "room_version"] {
        create.remove(key);
    }
    create.insert("room_version".into(), version.as_str().into());
    let mut predecessor = json!({ "room_id": old });
    // Where the new room's id follows from its create event, nothing could name an event that names the room.
    if !auth.room_create_event_id_as_room_id
        && let Some(last) = found.last.as_deref().map(EventId::as_str)
    {
        predecessor["event_id"] = last.into();
    }
    create.insert("predecessor".into(), predecessor);
    if !auth.use_room_create_sender {
        create.insert("creator".into(), user.as_str().into());
    }
    let mut creators = vec![user.to_string()];
    if auth.additional_room_creators && !additional.is_empty() {
        create.insert("additional_creators".into(), json!(additional));
        creators.extend(additional.iter().map(ToString::to_string));
    }
    let levels =
        levels(found, &creators, user, auth.explicitly_privilege_room_creators, auth.integer_power_levels);
    let mut first = levels.clone();
    if !auth.explicitly_privilege_room_creators {
        // Until everything stands, its maker may do everything.
        first["users"][user.as_str()] = FULL_POWER.max(highest(&levels)).into();
    }
    let mut list = vec![
        state_draft("m.room.create", "", &Value::Object(create))?,
        state_draft("m.room.member", user.as_str(), &member)?,
        state_draft("m.room.power_levels", "", &first)?,
    ];
    for (kind, key, content) in &found.state {
        let mut content = content.clone();
        if kind == "m.room.join_rules" {
            let known = match content.get("join_rule").and_then(Value::as_str) {
                Some("knock") => auth.knocking,
                Some("restricted") => auth.restricted_join_rule,
                Some("knock_restricted") => auth.knock_restricted_join_rule,
                _ => true,
            };
            if !known {
                content = json!({ "join_rule": "invite" });
            }
        }
        list.push(state_draft(kind, key, &content)?);
    }
    for (banned, content) in &found.bans {
        if !creators.contains(banned) {
            list.push(state_draft("m.room.member", banned, content)?);
        }
    }
    if first != levels {
        list.push(state_draft("m.room.power_levels", "", &levels)?);
    }
    Ok(list)
}

/// The old room's levels as the new version writes them.
fn levels(found: &Old, creators: &[String], user: &UserId, privileged: bool, integers: bool) -> Value {
    let mut levels = match &found.levels {
        Some(Value::Object(levels)) => Value::Object(levels.clone()),
        _ => json!({ "users": {} }),
    };
    if !levels["users"].is_object() {
        levels["users"] = json!({});
    }
    if integers {
        numbers(&mut levels);
    }
    if let Some(users) = levels["users"].as_object_mut() {
        if privileged {
            users.retain(|user, _| !creators.contains(user));
        } else {
            // Who stood above the levels has a high one now; the maker keeps what it had.
            for creator in found.creators.iter().chain([&user.to_string()]) {
                if found.levels.is_none() || !users.contains_key(creator) {
                    let was_creator = found.creators.contains(creator);
                    if was_creator && !found.create.contains_key("creator") {
                        users.insert(creator.clone(), FULL_POWER.into());
                    }
                }
            }
        }
    }
    levels
}

/// Levels that are numbers in strings, as old versions let them be, become numbers.
fn numbers(value: &mut Value) {
    match value {
        Value::String(text) => {
            if let Ok(number) = text.trim().parse::<i64>() {
                *value = number.into();
            }
        }
        Value::Object(map) => map.values_mut().for_each(numbers),
        _ => {}
    }
}

/// The highest level that anything asks for.
fn highest(levels: &Value) -> i64 {
    let single = ["state_default", "events_default", "ban", "kick", "invite", "redact"];
    let events = levels["events"].as_object().into_iter().flat_map(Map::values);
    let users = levels["users"].as_object().into_iter().flat_map(Map::values);
    single
        .iter()
        .map(|key| &levels[*key])
        .chain(events)
        .chain(users)
        .filter_map(Value::as_i64)
        .max()
        .unwrap_or(0)
}

/// The levels of a room in which nobody is to go on; none if they are so already.
fn closed(levels: &Value) -> Option<Value> {
    let mut levels = levels.clone();
    let users_default = levels["users_default"].as_i64().unwrap_or(0);
    let level = users_default.saturating_add(1).max(50);
    let mut changed = false;
    for key in ["events_default", "invite"] {
        if levels[key].as_i64().unwrap_or(0) < level {
            levels.as_object_mut()?.insert(key.into(), level.into());
            changed = true;
        }
    }
    changed.then_some(levels)
}

fn state_draft(kind: &str, key: &str, content: &Value) -> Result<Draft, RoomError> {
    let content = to_raw_value(content).map_err(|error| RoomError::BadJson(error.to_string()))?;
    Ok(Draft::state(kind, key, content))
}
