//! Owns what an event is to us: the fields that the rules look at, and its two stored objects.
//!
//! An event is stored as two canonical JSON objects: *client* holds [`CLIENT_KEYS`], *rest* everything else of the PDU but
//! `unsigned` and `room_id`. `room_id` is put back when a PDU is put together (unless the event is the create event of a
//! version in which the room's id is its hash). The objects' keys are disjoint, so a PDU is the two glued together.

use std::{collections::BTreeMap, sync::Arc};

use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, EventId, MilliSecondsSinceUnixEpoch, OwnedEventId, OwnedRoomId,
    OwnedUserId, RoomId, ServerName, UInt, UserId,
    events::TimelineEventType,
    room_version_rules::{EventIdFormatVersion, RoomVersionRules},
    state_res::Event,
};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::canonical;

/// Keys of a PDU that clients may see.
pub const CLIENT_KEYS: [&str; 7] =
    ["content", STICKY, "origin_server_ts", "redacts", "sender", "state_key", "type"];

/// Says for how long an event sticks (MSC4354), by the name that it has while that is a proposal.
pub const STICKY: &str = "msc4354_sticky";
/// The longest that an event sticks, in milliseconds.
pub const STICKY_MAX_MS: i64 = 3_600_000;

/// The type of create events.
pub const CREATE: &str = "m.room.create";
/// The type of membership events.
pub const MEMBER: &str = "m.room.member";
/// The type of redactions.
pub const REDACTION: &str = "m.room.redaction";

/// An event's fields as the rules see them.
#[derive(Clone, Debug)]
pub struct Pdu {
    /// Its id: the reference hash, or (versions 1 and 2) what the event says.
    pub event_id: OwnedEventId,
    /// Versions 1 and 2: the reference hash, which is named beside the id wherever another event refers to this one.
    pub hash: Option<Arc<str>>,
    /// The room it belongs to, also where the event itself does not say so.
    pub room: OwnedRoomId,
    /// Whether the event says `room_id` itself.
    pub says_room: bool,
    /// Sender.
    pub sender: OwnedUserId,
    /// `origin_server_ts` in milliseconds.
    pub ts: u64,
    /// Type as ruma's rules want it.
    pub kind: TimelineEventType,
    /// Type as the event says it: ruma knows some under several names, and gives back one.
    pub type_name: String,
    /// State key.
    pub state_key: Option<String>,
    /// Content.
    pub content: Box<RawValue>,
    /// Previous events.
    pub prev: Vec<OwnedEventId>,
    /// Auth events.
    pub auth: Vec<OwnedEventId>,
    /// `redacts` beside `content`: the target of a redaction in versions before 11. See [`Pdu::target`].
    pub redacts: Option<OwnedEventId>,
    /// As claimed.
    pub depth: i64,
    /// Failed the rules at its own place.
    pub rejected: bool,
}

/// Why JSON is no event of ours. Anything can come from outside; nothing here panics.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(pub String);

impl Pdu {
    /// Reads the fields of an event whose id is known. `room`: the room when the event does not say it.
    pub fn read(
        event_id: OwnedEventId,
        room: &RoomId,
        object: &CanonicalJsonObject,
    ) -> Result<Self, Malformed> {
        let says_room = object.contains_key("room_id");
        if says_room && string(object, "room_id")? != room.as_str() {
            return Err(Malformed("the event belongs to another room".into()));
        }
        let kind = string(object, "type")?;
        let Some(CanonicalJsonValue::Object(content)) = object.get("content") else {
            return Err(Malformed("`content` is no object".into()));
        };
        let raw = RawValue::from_string(canonical::to_json(content)?)
            .map_err(|error| Malformed(error.to_string()))?;
        let hash = match event_id.server_name() {
            Some(_) => Some(canonical::reference_hash(object, &RoomVersionRules::V1)?.into()),
            None => None,
        };
        Ok(Self {
            event_id,
            hash,
            room: room.to_owned(),
            says_room,
            sender: UserId::parse(string(object, "sender")?)
                .map_err(|error| Malformed(format!("`sender`: {error}")))?,
            ts: integer(object, "origin_server_ts")?
                .try_into()
                .map_err(|_| Malformed("`origin_server_ts` is negative".into()))?,
            kind: kind.into(),
            type_name: kind.to_owned(),
            state_key: match object.contains_key("state_key") {
                true => Some(string(object, "state_key")?.to_owned()),
                false => None,
            },
            prev: ids(object, "prev_events")?,
            auth: ids(object, "auth_events")?,
            redacts: match object.get("redacts") {
                Some(CanonicalJsonValue::String(target)) => EventId::parse(target).ok(),
                _ => None,
            },
            content: raw,
            depth: integer(object, "depth")?,
            rejected: false,
        })
    }

    /// Reads an event back from its two stored objects and its lists, `prev_events` and `auth_events`; without
    /// [`Pdu::hash`].
    pub fn stored(
        event_id: OwnedEventId,
        room: OwnedRoomId,
        says_room: bool,
        rejected: bool,
        client: &[u8],
        rest: &[u8],
        lists: (Vec<OwnedEventId>, Vec<OwnedEventId>),
    ) -> Result<Self, Malformed> {
        #[derive(Deserialize)]
        struct Client<'a> {
            #[serde(borrow)]
            content: &'a RawValue,
            origin_server_ts: u64,
            sender: OwnedUserId,
            #[serde(default)]
            state_key: Option<String>,
            r#type: String,
            #[serde(default)]
            redacts: Option<serde_json::Value>,
        }
        #[derive(Deserialize)]
        struct Rest {
            depth: i64,
        }
        let client: Client<'_> =
            serde_json::from_slice(client).map_err(|error| Malformed(error.to_string()))?;
        let rest: Rest = serde_json::from_slice(rest).map_err(|error| Malformed(error.to_string()))?;
        Ok(Self {
            event_id,
            hash: None,
            room,
            says_room,
            sender: client.sender,
            ts: client.origin_server_ts,
            kind: client.r#type.as_str().into(),
            type_name: client.r#type,
            state_key: client.state_key,
            content: client.content.to_owned(),
            prev: lists.0,
            auth: lists.1,
            redacts: match client.redacts {
                Some(serde_json::Value::String(target)) => EventId::parse(target).ok(),
                _ => None,
            },
            depth: rest.depth,
            rejected,
        })
    }

    /// Type and state key, for a state event.
    pub fn key(&self) -> Option<(String, String)> {
        self.state_key.as_ref().map(|key| (self.type_name.clone(), key.clone()))
    }

    /// Whether it is this kind of state event.
    pub fn is_state(&self, kind: &str, state_key: &str) -> bool {
        self.state_key.as_deref() == Some(state_key) && self.type_name == kind
    }

    /// A string inside `content`, if it is there and is one.
    pub fn content_str(&self, key: &str) -> Option<String> {
        // Not as canonical JSON: before version 6 there may be other numbers beside it.
        let mut content: BTreeMap<String, serde_json::Value> =
            serde_json::from_str(self.content.get()).ok()?;
        match content.remove(key) {
            Some(serde_json::Value::String(text)) => Some(text),
            _ => None,
        }
    }

    /// What a redaction redacts: the version says where it stands, and what stands elsewhere means nothing.
    pub fn target(&self, rules: &RoomVersionRules) -> Option<OwnedEventId> {
        if self.kind != TimelineEventType::RoomRedaction {
            None
        } else if rules.redaction.content_field_redacts {
            self.content_str("redacts").and_then(|target| known_id(&target))
        } else {
            self.redacts.clone().filter(|target| known_id(target.as_str()).is_some())
        }
    }

    /// `membership` of a member event.
    pub fn membership(&self) -> Option<String> {
        if self.kind == TimelineEventType::RoomMember { self.content_str("membership") } else { None }
    }
}

fn string<'a>(object: &'a CanonicalJsonObject, key: &str) -> Result<&'a str, Malformed> {
    match object.get(key) {
        Some(CanonicalJsonValue::String(text)) if canonical::number(text).is_none() => Ok(text),
        _ => Err(Malformed(format!("`{key}` is no string"))),
    }
}

fn integer(object: &CanonicalJsonObject, key: &str) -> Result<i64, Malformed> {
    match object.get(key) {
        Some(CanonicalJsonValue::Integer(number)) => Ok((*number).into()),
        // Before version 6 it may be larger than canonical JSON has it.
        Some(CanonicalJsonValue::String(text)) => canonical::number(text)
            .and_then(|number| number.parse().ok())
            .ok_or_else(|| Malformed(format!("`{key}` is no integer"))),
        _ => Err(Malformed(format!("`{key}` is no integer"))),
    }
}

fn ids(object: &CanonicalJsonObject, key: &str) -> Result<Vec<OwnedEventId>, Malformed> {
    let Some(CanonicalJsonValue::Array(list)) = object.get(key) else {
        return Err(Malformed(format!("`{key}` is no list")));
    };
    list.iter()
        .map(|item| known_id(named(item)?))
        .collect::<Option<Vec<_>>>()
        .ok_or_else(|| Malformed(format!("`{key}` holds something that is no event id")))
}

/// The id in an item of `prev_events` or `auth_events`: the item itself or, in versions 1 and 2, the first of a pair with
/// the event's hashes.
pub fn named(item: &CanonicalJsonValue) -> Option<&str> {
    match item {
        CanonicalJsonValue::String(id) => Some(id),
        CanonicalJsonValue::Array(pair) => match &pair[..] {
            [CanonicalJsonValue::String(id), CanonicalJsonValue::Object(_)] => Some(id),
            _ => None,
        },
        _ => None,
    }
}

/// An event id of some version: a hash, or (1 and 2) a text and the name of the server that made it up.
pub fn known_id(text: &str) -> Option<OwnedEventId> {
    let formats = [EventIdFormatVersion::V3, EventIdFormatVersion::V2, EventIdFormatVersion::V1];
    formats.iter().find_map(|format| id_of_format(text, format))
}

/// An event id of that format.
pub fn id_of_format(text: &str, format: &EventIdFormatVersion) -> Option<OwnedEventId> {
    let rest = text.strip_prefix('$')?;
    let fits = match format {
        EventIdFormatVersion::V1 => {
            // ruma allows longer ones, for what old databases hold.
            text.len() <= ID_LEN_MAX
                && !text.contains('\0')
                && EventId::parse(text).ok()?.server_name().is_some()
        }
        EventIdFormatVersion::V2 => is_hash(rest, &data_encoding::BASE64_NOPAD),
        _ => is_hash(rest, &data_encoding::BASE64URL_NOPAD),
    };
    if fits { EventId::parse(text).ok() } else { None }
}

/// spec: <https://spec.matrix.org/v1.19/appendices/#event-ids>
const ID_LEN_MAX: usize = 255;

fn is_hash(text: &str, alphabet: &data_encoding::Encoding) -> bool {
    alphabet.decode(text.as_bytes()).is_ok_and(|bytes| bytes.len() == 32)
}

/// An event that is whole: fields and stored objects.
#[derive(Clone, Debug)]
pub struct FullEvent {
    /// Its fields.
    pub pdu: Arc<Pdu>,
    /// Stored object of what clients may see.
    pub client: Vec<u8>,
    /// Stored object of everything else but the lists of events.
    pub rest: Vec<u8>,
    /// The lists of events are in `rest` all the same.
    pub has_lists: bool,
}

impl FullEvent {
    /// Takes an event apart. The object keeps no `unsigned`.
    pub fn new(
        event_id: OwnedEventId,
        room: &RoomId,
        object: CanonicalJsonObject,
    ) -> Result<Self, Malformed> {
        let pdu = Pdu::read(event_id, room, &object)?;
        let has_lists = has_pairs(&object);
        let (client, rest) = split(object)?;
        Ok(Self { pdu: Arc::new(pdu), client, rest, has_lists })
    }

    /// The event put together again.
    pub fn object(&self) -> Result<CanonicalJsonObject, Malformed> {
        let mut object = parse(&self.client)?;
        object.extend(parse(&self.rest)?);
        if self.pdu.says_room {
            object.insert("room_id".to_owned(), self.pdu.room.as_str().into());
        }
        if !self.has_lists {
            let list = |ids: &[OwnedEventId]| {
                CanonicalJsonValue::Array(ids.iter().map(|id| id.as_str().into()).collect())
            };
            object.insert("prev_events".to_owned(), list(&self.pdu.prev));
            object.insert("auth_events".to_owned(), list(&self.pdu.auth));
        }
        Ok(object)
    }

    /// The event with one more signature, which changes neither its id nor its hash.
    pub fn with_signature(
        mut self,
        server: &ServerName,
        key_id: &str,
        signature: &str,
    ) -> Result<Self, Malformed> {
        let no_object = || Malformed("`signatures` is no object".into());
        let mut rest = parse(&self.rest)?;
        let signatures = rest.entry("signatures".to_owned());
        let CanonicalJsonValue::Object(signatures) =
            signatures.or_insert_with(|| CanonicalJsonObject::new().into())
        else {
            return Err(no_object());
        };
        let own = signatures.entry(server.to_string());
        let CanonicalJsonValue::Object(own) = own.or_insert_with(|| CanonicalJsonObject::new().into()) else {
            return Err(no_object());
        };
        own.insert(key_id.to_owned(), signature.into());
        self.rest = canonical::to_json(&rest)?.into_bytes();
        Ok(self)
    }
}

fn parse(json: &[u8]) -> Result<CanonicalJsonObject, Malformed> {
    let text = std::str::from_utf8(json).map_err(|error| Malformed(error.to_string()))?;
    canonical::parse(text)
}

/// An event's two stored objects. The lists of events are in neither: they are stored as numbers. But in versions 1 and 2
/// they name hashes too, and stay.
pub fn split(object: CanonicalJsonObject) -> Result<(Vec<u8>, Vec<u8>), Malformed> {
    let (mut client, mut rest) = (CanonicalJsonObject::new(), CanonicalJsonObject::new());
    let pairs = has_pairs(&object);
    for (key, value) in object {
        if LISTS.contains(&key.as_str()) {
            if pairs {
                rest.insert(key, value);
            }
        } else if CLIENT_KEYS.contains(&key.as_str()) {
            client.insert(key, value);
        } else if !["unsigned", "room_id"].contains(&key.as_str()) {
            rest.insert(key, value);
        }
    }
    let json = |object| canonical::to_json(object).map(String::into_bytes);
    Ok((json(&client)?, json(&rest)?))
}

const LISTS: [&str; 2] = ["auth_events", "prev_events"];

/// Whether an event's lists hold pairs of ids and hashes.
fn has_pairs(object: &CanonicalJsonObject) -> bool {
    let lists = LISTS.iter().filter_map(|key| object.get(*key)?.as_array());
    lists.flatten().any(|item| matches!(item, CanonicalJsonValue::Array(_)))
}

/// An event as one object again, without its lists of events.
pub fn join(
    room: &RoomId,
    says_room: bool,
    client: &[u8],
    rest: &[u8],
) -> Result<CanonicalJsonObject, Malformed> {
    let read = |bytes: &[u8]| -> Result<CanonicalJsonObject, Malformed> {
        let text = std::str::from_utf8(bytes).map_err(|error| Malformed(error.to_string()))?;
        canonical::parse(text)
    };
    let mut object = read(client)?;
    object.extend(read(rest)?);
    if says_room {
        object.insert("room_id".into(), CanonicalJsonValue::String(room.as_str().into()));
    }
    Ok(object)
}

/// The two stored objects of the pruned event.
pub fn prune(
    rules: &RoomVersionRules,
    room: &RoomId,
    says_room: bool,
    client: &[u8],
    rest: &[u8],
) -> Result<(Vec<u8>, Vec<u8>), Malformed> {
    let mut object = join(room, says_room, client, rest)?;
    ruma::canonical_json::redact_in_place(&mut object, &rules.redaction, None)
        .map_err(|error| Malformed(error.to_string()))?;
    split(object)
}

impl Event for Pdu {
    type Id = OwnedEventId;

    fn event_id(&self) -> &Self::Id {
        &self.event_id
    }

    fn room_id(&self) -> Option<&RoomId> {
        self.says_room.then_some(&*self.room)
    }

    fn sender(&self) -> &UserId {
        &self.sender
    }

    fn origin_server_ts(&self) -> MilliSecondsSinceUnixEpoch {
        MilliSecondsSinceUnixEpoch(UInt::new_saturating(self.ts))
    }

    fn event_type(&self) -> &TimelineEventType {
        &self.kind
    }

    fn content(&self) -> &RawValue {
        &self.content
    }

    fn state_key(&self) -> Option<&str> {
        self.state_key.as_deref()
    }

    fn prev_events(&self) -> Box<dyn DoubleEndedIterator<Item = &Self::Id> + '_> {
        Box::new(self.prev.iter())
    }

    fn auth_events(&self) -> Box<dyn DoubleEndedIterator<Item = &Self::Id> + '_> {
        Box::new(self.auth.iter())
    }

    fn redacts(&self) -> Option<&Self::Id> {
        self.redacts.as_ref()
    }

    fn rejected(&self) -> bool {
        self.rejected
    }
}
