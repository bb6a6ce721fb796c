//! Owns what a foreign event must be before its room is asked: JSON, format, signatures, hash.
//!
//! spec: <https://spec.matrix.org/v1.19/server-server-api/#checks-performed-on-receipt-of-a-pdu>, steps 1 to 3

use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, EventId, OwnedEventId, OwnedRoomId, OwnedServerName, RoomId,
    room_version_rules::{EventIdFormatVersion, EventsReferenceFormatVersion, RoomVersionRules},
    signatures::{PublicKeyMap, Verified, required_server_signatures_to_verify_event},
    state_res::check_pdu_format,
};
use serde_json::value::RawValue;

use super::{
    canonical,
    pdu::{CREATE, FullEvent, Malformed, id_of_format, named},
};

/// Largest PDU: the format check counts again, canonically; this keeps absurd ones from being parsed at all.
pub const JSON_BYTES_MAX: usize = 2 * 65_535;

/// JSON to canonical object.
pub fn parse(json: &RawValue) -> Result<CanonicalJsonObject, Malformed> {
    if json.get().len() > JSON_BYTES_MAX {
        return Err(Malformed("the event is larger than an event may be".into()));
    }
    canonical::parse(json.get())
}

/// The room that an event says it belongs to. A create event of a version whose room ids are hashes says none.
pub fn room_of(object: &CanonicalJsonObject) -> Result<Option<OwnedRoomId>, Malformed> {
    match object.get("room_id") {
        Some(CanonicalJsonValue::String(room)) => {
            RoomId::parse(room).map(Some).map_err(|error| Malformed(format!("`room_id`: {error}")))
        }
        None => Ok(None),
        Some(_) => Err(Malformed("`room_id` is no string".into())),
    }
}

/// The id of an event: its reference hash, or (versions 1 and 2) what it says itself.
pub fn event_id(object: &CanonicalJsonObject, rules: &RoomVersionRules) -> Result<OwnedEventId, Malformed> {
    let text = match rules.event_id_format {
        EventIdFormatVersion::V1 => match object.get("event_id") {
            Some(CanonicalJsonValue::String(id)) => id.clone(),
            _ => return Err(Malformed("`event_id` is no string".into())),
        },
        _ => format!("${}", canonical::reference_hash(object, rules)?),
    };
    id_of_format(&text, &rules.event_id_format).ok_or_else(|| Malformed("no event id".into()))
}

/// Whether the lists name events as the version does: ids of its form, in pairs with hashes or alone.
fn lists(object: &CanonicalJsonObject, rules: &RoomVersionRules) -> Result<(), Malformed> {
    let pairs = rules.events_reference_format == EventsReferenceFormatVersion::V1;
    for key in ["prev_events", "auth_events"] {
        let list = object.get(key).and_then(CanonicalJsonValue::as_array);
        for item in list.into_iter().flatten() {
            let fits = matches!(item, CanonicalJsonValue::Array(_)) == pairs
                && named(item).is_some_and(|id| id_of_format(id, &rules.event_id_format).is_some());
            if !fits {
                return Err(Malformed(format!("`{key}` holds something that is no event id")));
            }
        }
    }
    Ok(())
}

/// The room id that a create event makes, where that is its hash.
pub fn room_id_of_create(event_id: &EventId) -> Option<OwnedRoomId> {
    RoomId::parse(format!("!{}", event_id.as_str().strip_prefix('$')?)).ok()
}

/// Format and id of an event. `unsigned` is gone afterwards.
pub fn format(
    mut object: CanonicalJsonObject,
    rules: &RoomVersionRules,
) -> Result<(OwnedEventId, CanonicalJsonObject), Malformed> {
    // What another server writes there means nothing to us, and is not signed.
    object.remove("unsigned");
    canonical::check_strict(&object, rules)?;
    lists(&object, rules)?;
    match lenient(&object, rules) {
        Some(shortened) => check_pdu_format(&shortened, &rules.event_format).map_err(Malformed)?,
        None => check_pdu_format(&object, &rules.event_format).map_err(Malformed)?,
    }
    let id = event_id(&object, rules)?;
    Ok((id, object))
}

/// Longest type or state key.
const FIELD_MAX: usize = 255;

/// Before version 11 servers counted the characters of a type or state key, not its bytes, and rooms have such events.
/// Before version 6 an event could be deeper than canonical JSON can say. The event with those cut to what may be, if it is
/// one of them and is not too large as a whole.
fn lenient(object: &CanonicalJsonObject, rules: &RoomVersionRules) -> Option<CanonicalJsonObject> {
    // Version 11 is the first that takes a create event's `creator` from its sender.
    if !rules.authorization.use_room_create_sender {
        let long = |key: &&str| {
            let text = object.get(*key).and_then(CanonicalJsonValue::as_str);
            text.is_some_and(|text| text.len() > FIELD_MAX && text.chars().count() <= FIELD_MAX)
        };
        let long: Vec<&str> = ["type", "state_key"].into_iter().filter(long).collect();
        let deep = object.get("depth").and_then(CanonicalJsonValue::as_str).and_then(canonical::number);
        let deep = deep.is_some_and(|depth| depth.parse::<i64>().is_ok_and(|depth| depth > 0));
        if (deep || !long.is_empty()) && canonical::to_json(object).ok()?.len() <= PDU_BYTES_MAX {
            let mut object = object.clone();
            if deep {
                object.insert("depth".to_owned(), CanonicalJsonValue::Integer(ruma::Int::MAX));
            }
            for key in long {
                if let Some(CanonicalJsonValue::String(text)) = object.get_mut(key) {
                    text.truncate(text.floor_char_boundary(FIELD_MAX));
                }
            }
            return Some(object);
        }
    }
    None
}

/// spec: <https://spec.matrix.org/v1.19/client-server-api/#size-limits>
const PDU_BYTES_MAX: usize = 65_535;

/// Servers that must have signed it, with the key ids that each signed with.
pub fn wanted_keys(
    object: &CanonicalJsonObject,
    rules: &RoomVersionRules,
) -> Result<Vec<(OwnedServerName, Vec<String>)>, Malformed> {
    let servers = required_server_signatures_to_verify_event(object, &rules.signatures)
        .map_err(|error| Malformed(error.to_string()))?;
    let Some(CanonicalJsonValue::Object(signatures)) = object.get("signatures") else {
        return Err(Malformed("`signatures` is no object".into()));
    };
    servers
        .into_iter()
        .map(|server| match signatures.get(server.as_str()) {
            Some(CanonicalJsonValue::Object(keys)) => Ok((server, keys.keys().cloned().collect())),
            _ => Err(Malformed(format!("{server} has not signed the event"))),
        })
        .collect()
}

/// Signatures and content hash. An event whose content was changed on the way is pruned; its id stays the same.
pub fn signatures(
    id: OwnedEventId,
    room: &RoomId,
    mut object: CanonicalJsonObject,
    rules: &RoomVersionRules,
    keys: &PublicKeyMap,
) -> Result<FullEvent, Malformed> {
    match canonical::verify_event(keys, &object, rules)? {
        Verified::All => {}
        Verified::Signatures => {
            ruma::canonical_json::redact_in_place(&mut object, &rules.redaction, None)
                .map_err(|error| Malformed(error.to_string()))?;
        }
    }
    FullEvent::new(id, room, object)
}

/// The room an event belongs to, by what it says or what it makes.
pub fn room_or_made(
    object: &CanonicalJsonObject,
    id: &EventId,
    rules: &RoomVersionRules,
) -> Result<OwnedRoomId, Malformed> {
    if let Some(room) = room_of(object)? {
        return Ok(room);
    }
    let create = matches!(object.get("type"), Some(CanonicalJsonValue::String(kind)) if kind == CREATE);
    if create && rules.authorization.room_create_event_id_as_room_id {
        return room_id_of_create(id).ok_or_else(|| Malformed("no room id".into()));
    }
    Err(Malformed("`room_id` is missing".into()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::room::core::version;

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            ".{0,12}".prop_map(Value::from),
            Just(json!("!room:x")),
            Just(json!("@user:x")),
            Just(json!("$jV2ADeXbYnFUAzhZxcNXH2BRDTc6x8wtqTXPAjfI6BE")),
        ];
        leaf.prop_recursive(3, 24, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("[a-z_.]{1,10}", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    fn any_pdu() -> impl Strategy<Value = Value> {
        let fields = [
            "type",
            "sender",
            "room_id",
            "content",
            "state_key",
            "prev_events",
            "auth_events",
            "depth",
            "hashes",
            "signatures",
            "origin_server_ts",
            "redacts",
            "unsigned",
            "event_id",
        ];
        let sound = json!({
            "type": "m.room.member", "sender": "@user:x", "room_id": "!room:x", "content": {"membership": "join"},
            "state_key": "@user:x", "prev_events": [], "auth_events": [], "depth": 3,
            "hashes": {"sha256": "jV2ADeXbYnFUAzhZxcNXH2BRDTc6x8wtqTXPAjfI6BE"},
            "signatures": {"x": {"ed25519:1": "AAAA"}}, "origin_server_ts": 1,
        });
        (prop::collection::vec((0..fields.len(), any_json()), 0..4)).prop_map(move |changes| {
            let mut pdu = sound.clone();
            for (field, value) in changes {
                pdu[fields[field]] = value;
            }
            pdu
        })
    }

    proptest! {
        #[test]
        fn any_json_is_an_event_or_an_error(pdu in prop_oneof![any_json(), any_pdu()]) {
            let raw = serde_json::value::to_raw_value(&pdu).unwrap();
            let Ok(object) = parse(&raw) else { return Ok(()) };
            for entry in version::SUPPORTED {
                let rules = version::rules(entry.id).unwrap();
                let _ = room_of(&object);
                let _ = wanted_keys(&object, &rules);
                let Ok((id, object)) = format(object.clone(), &rules) else { continue };
                let Ok(room) = room_or_made(&object, &id, &rules) else { continue };
                let _ = signatures(id.clone(), &room, object.clone(), &rules, &PublicKeyMap::new());
                if let Ok(event) = FullEvent::new(id.clone(), &room, object.clone()) {
                    let again = super::super::pdu::Pdu::stored(
                        id, room.clone(), event.pdu.says_room, false, &event.client, &event.rest, (event.pdu.prev.clone(), event.pdu.auth.clone()));
                    prop_assert!(again.is_ok(), "{:?}", again);
                    let _ = super::super::pdu::prune(&rules, &room, event.pdu.says_room, &event.client, &event.rest);
                    let _ = super::super::auth::check_own(&rules, &event.pdu, |_| None);
                }
            }
        }

        #[test]
        fn any_text_is_an_event_or_an_error(text in ".{0,200}") {
            if let Ok(raw) = RawValue::from_string(text) {
                let _ = parse(&raw);
            }
        }
    }
}
