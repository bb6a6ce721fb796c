//! The verb that makes a room: all of its first events in one write, so that there is a whole room or none.

use std::{fmt, sync::Arc};

use ruma::{
    OwnedRoomAliasId, OwnedRoomId, OwnedUserId, RoomAliasId, RoomId, RoomVersionId, UserId,
    api::client::room::{Visibility, create_room},
    events::{StateEventType, TimelineEventType},
    room_version_rules::RoomVersionRules,
};
use serde_json::{Map, Value, json, value::to_raw_value};

use super::{
    Draft, RoomError, Rooms,
    core::version,
    ingest::{
        append::{After, Append, Before, Forward, Verdict, append},
        head::Head,
    },
    send::refuse_creators,
};
use crate::store::{
    Kind,
    schema::rooms::{self},
};

/// State events that a room may begin with: a client that wants more sends them afterwards.
const INITIAL_STATE_MAX: usize = 256;
/// Users invited while a room is made.
const INVITES_MAX: usize = 100;
/// Rooms that one user may make in one millisecond.
const CREATE_TRIES: u32 = 100;

/// Whether rooms of this version can be made here.
pub fn can_create(version: &RoomVersionId) -> bool {
    version::rules(version.as_str()).is_some()
}

impl Rooms {
    /// Makes a room with its first events (preset, power levels, alias, name, topic, `initial_state`), then sends the
    /// invites; an invite that fails does not undo the room.
    pub async fn create(
        &self,
        creator: &UserId,
        request: create_room::v3::Request,
    ) -> Result<OwnedRoomId, RoomError> {
        let id = request.room_version.clone().unwrap_or(version::DEFAULT);
        let rules =
            version::rules(id.as_str()).ok_or_else(|| RoomError::UnsupportedVersion(id.to_string()))?;
        if request.initial_state.len() > INITIAL_STATE_MAX || request.invite.len() > INVITES_MAX {
            return Err(RoomError::Invalid(format!(
                "a room begins with at most {INITIAL_STATE_MAX} state events and {INVITES_MAX} invites"
            )));
        }
        for invited in &request.invite {
            self.check_pair(invited.server_name())?;
        }
        let alias = match &request.room_alias_name {
            Some(name) => Some(self.local_alias(name)?),
            None => None,
        };
        let profile = self.inner.profiles.profile(creator).await;
        let drafts = drafts(creator, &request, &id, &rules, alias.as_deref(), profile.content("join", None))?;
        let listed = request.visibility == Visibility::Public;
        let room = self.make_room(creator, &id, &rules, &drafts, alias, listed).await?;
        for target in request.invite {
            if let Err(error) = self.invite_as(creator, &room, &target, None, request.is_direct).await {
                tracing::debug!(%room, %target, %error, "an invite to a new room failed");
            }
        }
        Ok(room)
    }

    /// Stores a new room. Where its id is the hash of its create event, two rooms that a user makes in one millisecond
    /// would be the same one: the later is dated a little later.
    pub(in crate::room) async fn make_room(
        &self,
        creator: &UserId,
        id: &RoomVersionId,
        rules: &RoomVersionRules,
        drafts: &[Draft],
        alias: Option<OwnedRoomAliasId>,
        listed: bool,
    ) -> Result<OwnedRoomId, RoomError> {
        let by_hash = rules.authorization.room_create_event_id_as_room_id;
        let mut now = self.inner.clock.now_ms();
        for _ in 0..CREATE_TRIES {
            let room = if by_hash { None } else { Some(random_room_id(self)?) };
            let appends = self.build_all(creator, room, id, rules, drafts, now)?;
            match self.store_room(creator, appends, alias.clone(), listed).await {
                // The room's id is taken.
                Err(RoomError::Busy) => now += 1,
                result => return result,
            }
        }
        Err(RoomError::Busy)
    }

    async fn store_room(
        &self,
        creator: &UserId,
        appends: Vec<Append>,
        alias: Option<OwnedRoomAliasId>,
        listed: bool,
    ) -> Result<OwnedRoomId, RoomError> {
        let room = match appends.first() {
            Some(first) => first.event.pdu.room.clone(),
            None => return Err(RoomError::Invalid("a room has at least its create event".into())),
        };
        let (room_id, creator_id) = (room.clone(), creator.to_owned());
        self.inner
            .store
            .write(move |tx| -> Result<(), RoomError> {
                for event in &appends {
                    append(tx, event)?;
                }
                let room = tx.intern(Kind::Room, room_id.as_str())?;
                if let Some(alias) = alias {
                    let user = tx.intern(Kind::User, creator_id.as_str())?;
                    if !rooms::put_alias(tx, alias.as_str(), room, user)? {
                        return Err(RoomError::AliasInUse(alias.to_string()));
                    }
                }
                if listed {
                    rooms::set_public(tx, room, true)?;
                }
                Ok(())
            })
            .await?;
        Ok(room)
    }

    fn build_all(
        &self,
        creator: &UserId,
        room: Option<OwnedRoomId>,
        id: &RoomVersionId,
        rules: &RoomVersionRules,
        drafts: &[Draft],
        now: u64,
    ) -> Result<Vec<Append>, RoomError> {
        let version: Arc<str> = id.as_str().into();
        let rules = Arc::new(rules.clone());
        let mut head = Head::empty(room, version.clone(), rules.clone());
        let mut appends = Vec::with_capacity(drafts.len());
        for draft in drafts {
            let event = head.build(creator, draft, now, &self.inner.signer)?;
            appends.push(Append {
                event: event.clone(),
                own: self.inner.signer.name.clone(),
                version: version.clone(),
                rules: rules.clone(),
                head: head.number,
                before: Before::Current,
                after: After::Linear,
                verdict: Verdict::Accepted,
                power: false,
                forward: Forward::All,
                txn: None,
                now_ms: now,
            });
            head.advance(&event);
        }
        Ok(appends)
    }
}

/// The first events, in order.
///
/// spec: <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3createroom>
fn drafts(
    creator: &UserId,
    request: &create_room::v3::Request,
    id: &RoomVersionId,
    rules: &RoomVersionRules,
    alias: Option<&RoomAliasId>,
    member: Value,
) -> Result<Vec<Draft>, RoomError> {
    use create_room::v3::RoomPreset;
    let preset = request.preset.clone().unwrap_or(match request.visibility {
        Visibility::Public => RoomPreset::PublicChat,
        _ => RoomPreset::PrivateChat,
    });
    let trusted = preset == RoomPreset::TrustedPrivateChat;
    let privileged = rules.authorization.explicitly_privilege_room_creators;

    let mut create = match &request.creation_content {
        Some(raw) => object(raw.json().get())?,
        None => Map::new(),
    };
    create.insert("room_version".into(), id.as_str().into());
    if rules.authorization.use_room_create_sender {
        create.remove("creator");
    } else {
        create.insert("creator".into(), creator.as_str().into());
    }
    let mut creators: Vec<OwnedUserId> = vec![creator.to_owned()];
    if rules.authorization.additional_room_creators {
        if let Some(more) = create.get("additional_creators") {
            let more: Vec<OwnedUserId> = serde_json::from_value(more.clone())
                .map_err(|error| RoomError::Invalid(format!("additional_creators: {error}")))?;
            creators.extend(more);
        }
        if trusted {
            creators.extend(request.invite.iter().cloned());
        }
        creators.dedup();
        let more: Vec<&str> =
            creators.iter().filter(|user| *user != creator).map(|user| user.as_str()).collect();
        if !more.is_empty() {
            create.insert("additional_creators".into(), json!(more));
        }
    }

    let mut list = vec![
        state(&StateEventType::RoomCreate, "", &Value::Object(create))?,
        state(&StateEventType::RoomMember, creator.as_str(), &member)?,
        state(&StateEventType::RoomPowerLevels, "", &levels(request, &preset, &creators, privileged)?)?,
    ];
    if let Some(alias) = alias {
        list.push(state(&StateEventType::RoomCanonicalAlias, "", &json!({ "alias": alias }))?);
    }
    let (join, history, guest) = match preset {
        RoomPreset::PublicChat => ("public", "shared", None),
        _ => ("invite", "shared", Some("can_join")),
    };
    // Guests are shut out where nothing is said: an event that says so is one too many.
    let mut preset_state = vec![
        state(&StateEventType::RoomJoinRules, "", &json!({ "join_rule": join }))?,
        state(&StateEventType::RoomHistoryVisibility, "", &json!({ "history_visibility": history }))?,
    ];
    if let Some(guest) = guest {
        preset_state.push(state(&StateEventType::RoomGuestAccess, "", &json!({ "guest_access": guest }))?);
    }
    let mut initial = Vec::new();
    for raw in &request.initial_state {
        let event = object(raw.json().get())?;
        let kind = event.get("type").and_then(Value::as_str);
        let key = event.get("state_key").map_or(Some(""), Value::as_str);
        let (Some(kind), Some(key), Some(content)) = (kind, key, event.get("content")) else {
            return Err(RoomError::BadJson(
                "an initial state event needs type, state_key and content".into(),
            ));
        };
        if kind == "m.room.create" || kind == "m.room.member" {
            return Err(RoomError::Invalid(format!("{kind} cannot be initial state")));
        }
        initial.push(state(kind, key, content)?);
    }
    // What the request says itself takes the place of what the preset would say.
    preset_state.retain(|preset| {
        !initial.iter().any(|own| own.event_type == preset.event_type && own.state_key == preset.state_key)
    });
    list.append(&mut preset_state);
    list.append(&mut initial);
    if let Some(name) = request.name.as_deref().filter(|name| !name.is_empty()) {
        list.push(state(&StateEventType::RoomName, "", &json!({ "name": name }))?);
    }
    if let Some(topic) = request.topic.as_deref().filter(|topic| !topic.is_empty()) {
        let content = json!({ "topic": topic, "m.topic": { "m.text": [{ "body": topic }] } });
        list.push(state(&StateEventType::RoomTopic, "", &content)?);
    }
    Ok(list)
}

/// Who may do what at first.
fn levels(
    request: &create_room::v3::Request,
    preset: &create_room::v3::RoomPreset,
    creators: &[OwnedUserId],
    privileged: bool,
) -> Result<Value, RoomError> {
    use create_room::v3::RoomPreset;
    let trusted = *preset == RoomPreset::TrustedPrivateChat;
    let mut users = Map::new();
    if !privileged {
        users.extend(creators.iter().map(|user| (user.to_string(), json!(100))));
        if trusted {
            users.extend(request.invite.iter().map(|user| (user.to_string(), json!(100))));
        }
    }
    // Creators stand above 100 where they are privileged, so that closing a room can be theirs alone.
    let tombstone = if privileged { 150 } else { 100 };
    let mut levels = json!({
        "users": users,
        "users_default": 0,
        "events": {
            TimelineEventType::RoomName.to_string(): 50,
            TimelineEventType::RoomPowerLevels.to_string(): 100,
            TimelineEventType::RoomHistoryVisibility.to_string(): 100,
            TimelineEventType::RoomCanonicalAlias.to_string(): 50,
            TimelineEventType::RoomAvatar.to_string(): 50,
            TimelineEventType::RoomTombstone.to_string(): tombstone,
            TimelineEventType::RoomServerAcl.to_string(): 100,
            TimelineEventType::RoomEncryption.to_string(): 100,
        },
        "events_default": 0,
        "state_default": 50,
        "ban": 50,
        "kick": 50,
        "redact": 50,
        // Whoever can come in by themselves needs no one who invites: then it is moderators' business, as elsewhere.
        "invite": if *preset == RoomPreset::PublicChat { 50 } else { 0 },
        "historical": 100,
    });
    if let Some(raw) = &request.power_level_content_override {
        for (key, value) in object(raw.json().get())? {
            levels[key] = value;
        }
    }
    if privileged {
        refuse_creators(&levels.to_string(), creators)?;
    }
    Ok(levels)
}

fn object(json: &str) -> Result<Map<String, Value>, RoomError> {
    serde_json::from_str(json).map_err(|error| RoomError::BadJson(error.to_string()))
}

fn state(kind: impl fmt::Display, key: &str, content: &Value) -> Result<Draft, RoomError> {
    let content = to_raw_value(content).map_err(|error| RoomError::BadJson(error.to_string()))?;
    Ok(Draft::state(kind.to_string(), key, content))
}

/// A room id of versions before 12.
fn random_room_id(rooms: &Rooms) -> Result<OwnedRoomId, RoomError> {
    let mut bytes = [0; 15];
    getrandom::fill(&mut bytes).map_err(|error| RoomError::Unreachable(format!("no randomness: {error}")))?;
    let text = data_encoding::BASE64URL_NOPAD.encode(&bytes);
    RoomId::parse(format!("!{text}:{}", rooms.server_name()))
        .map_err(|error| RoomError::Invalid(error.to_string()))
}
