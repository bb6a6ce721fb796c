//! Owns making our events: the fields, the hashes, the signature, the id.

use std::{collections::HashMap, sync::Arc};

use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedEventId, OwnedServerName, RoomId, UserId,
    room_version_rules::{EventIdFormatVersion, EventsReferenceFormatVersion, RoomVersionRules},
    signatures::{Ed25519KeyPair, JsonError, hash_and_sign_event},
    state_res::check_pdu_format,
};

use super::{
    check,
    pdu::{FullEvent, REDACTION, STICKY, STICKY_MAX_MS},
};
use crate::room::{Draft, RoomError};

/// Who we are to other servers: our name and the key that signs events.
#[derive(Clone)]
pub struct Signer {
    /// Our server name.
    pub name: OwnedServerName,
    /// Our event-signing key, with its key id.
    pub key: Arc<Ed25519KeyPair>,
}

/// Where in the graph an event is put.
#[derive(Clone, Debug, Default)]
pub struct Position {
    /// Previous events.
    pub prev: Vec<OwnedEventId>,
    /// Auth events.
    pub auth: Vec<OwnedEventId>,
    /// Reference hashes of both, where the version wants them named.
    pub hashes: HashMap<OwnedEventId, Arc<str>>,
    /// Depth to claim.
    pub depth: i64,
}

/// The largest integer that JSON of an event may hold.
const INTEGER_MAX: i64 = (1 << 53) - 1;

/// The event without hashes and signatures. `room` is `None` for a create event whose hash is the room's id.
pub fn unsigned(
    room: Option<&RoomId>,
    sender: &UserId,
    draft: &Draft,
    position: &Position,
    now_ms: u64,
    rules: &RoomVersionRules,
) -> Result<CanonicalJsonObject, RoomError> {
    if draft.content.get().len() > check::JSON_BYTES_MAX {
        return Err(RoomError::TooLarge);
    }
    let mut content: CanonicalJsonObject = serde_json::from_str(draft.content.get())
        .map_err(|error| RoomError::BadJson(format!("content is not what an event may hold: {error}")))?;
    let mut event = CanonicalJsonObject::new();
    let mut put = |key: &str, value: CanonicalJsonValue| {
        event.insert(key.to_owned(), value);
    };
    let text = |text: &str| CanonicalJsonValue::String(text.to_owned());
    let pairs = rules.events_reference_format == EventsReferenceFormatVersion::V1;
    let item = |id: &OwnedEventId| {
        if !pairs {
            return text(id.as_str());
        }
        let hash = position.hashes.get(id).map(|hash| ("sha256".to_owned(), text(hash)));
        CanonicalJsonValue::Array(vec![text(id.as_str()), CanonicalJsonObject::from_iter(hash).into()])
    };
    let list = |ids: &[OwnedEventId]| CanonicalJsonValue::Array(ids.iter().map(item).collect());
    if draft.event_type == REDACTION
        && let Some(target) = &draft.redacts
    {
        if rules.redaction.content_field_redacts {
            content.insert("redacts".to_owned(), text(target.as_str()));
        } else {
            put("redacts", text(target.as_str()));
        }
    }
    put("content", CanonicalJsonValue::Object(content));
    put("type", text(&draft.event_type));
    put("sender", text(sender.as_str()));
    put("origin_server_ts", integer(i64::try_from(draft.ts_ms.unwrap_or(now_ms)).unwrap_or(INTEGER_MAX)));
    put("depth", integer(position.depth));
    put("prev_events", list(&position.prev));
    put("auth_events", list(&position.auth));
    if let Some(key) = &draft.state_key {
        put("state_key", text(key));
    }
    if let Some(duration) = draft.sticky_ms {
        let duration = integer(i64::from(duration).min(STICKY_MAX_MS));
        let object = CanonicalJsonObject::from([("duration_ms".to_owned(), duration)]);
        put(STICKY, CanonicalJsonValue::Object(object));
    }
    if let Some(room) = room {
        put("room_id", text(room.as_str()));
    }
    Ok(event)
}

fn integer(value: i64) -> CanonicalJsonValue {
    let value = ruma::Int::try_from(value.clamp(0, INTEGER_MAX)).unwrap_or(ruma::Int::MAX);
    CanonicalJsonValue::Integer(value)
}

/// Hashes and signs an event of ours; gives its id. In versions 1 and 2 it is made up here, out of the event.
pub fn sign(
    object: &mut CanonicalJsonObject,
    signer: &Signer,
    rules: &RoomVersionRules,
) -> Result<OwnedEventId, RoomError> {
    if rules.event_id_format == EventIdFormatVersion::V1 {
        object.remove("event_id");
        let hash = ruma::signatures::content_hash(object).map_err(json_error)?;
        let text = data_encoding::BASE64URL_NOPAD.encode(hash.as_bytes());
        object.insert("event_id".to_owned(), format!("${text}:{}", signer.name).into());
    }
    hash_and_sign_event(signer.name.as_str(), &*signer.key, object, &rules.redaction).map_err(json_error)?;
    check_pdu_format(object, &rules.event_format).map_err(|error| {
        if error.contains("larger than maximum") { RoomError::TooLarge } else { RoomError::Invalid(error) }
    })?;
    check::event_id(object, rules).map_err(|error| RoomError::Invalid(error.to_string()))
}

/// A whole event of ours.
pub fn finish(
    mut object: CanonicalJsonObject,
    signer: &Signer,
    rules: &RoomVersionRules,
) -> Result<FullEvent, RoomError> {
    let id = sign(&mut object, signer, rules)?;
    let room =
        check::room_or_made(&object, &id, rules).map_err(|error| RoomError::Invalid(error.to_string()))?;
    FullEvent::new(id, &room, object).map_err(|error| RoomError::Invalid(error.to_string()))
}

fn json_error(error: JsonError) -> RoomError {
    match error {
        JsonError::PduTooLarge => RoomError::TooLarge,
        other => RoomError::BadJson(other.to_string()),
    }
}
