//! State that somebody sees of a room before being in it, as servers exchange it: whole events since Matrix 1.16, before
//! that without most of their fields.
//!
//! spec: <https://spec.matrix.org/v1.19/server-server-api/#put_matrixfederationv2inviteroomideventid>

use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, RoomId, UserId, api::federation::membership::RawStrippedState,
    room_version_rules::RoomVersionRules,
};
use serde_json::value::RawValue;

use super::{
    RoomError, Rooms,
    core::{canonical, check, pdu::CREATE},
    project::membership::stripped_pdus,
};
use crate::store::{Kind, schema::membership};

/// Most stripped state that is kept of a knock or an invite.
const STATE_MAX: usize = 50;
/// Longest event in it.
const EVENT_LEN_MAX: usize = 65_535;

impl Rooms {
    /// Create, join rules, name, alias, avatar, topic, encryption and the sender's membership, whole, for an invite to
    /// another server or a knock from one.
    pub async fn state_for_outsider(
        &self,
        room: &RoomId,
        sender: &UserId,
    ) -> Result<Vec<RawStrippedState>, RoomError> {
        let (room, sender) = (room.to_owned(), sender.to_owned());
        let pdus = self
            .inner
            .store
            .read(move |tx| -> Result<_, RoomError> {
                let Some(room) = tx.lookup(Kind::Room, room.as_str())? else { return Ok(Vec::new()) };
                let member = match tx.lookup(Kind::User, sender.as_str())? {
                    Some(user) => membership::member(tx, room, user)?.map(|(_, nid)| nid),
                    None => None,
                };
                Ok(stripped_pdus(tx, room, [member])?)
            })
            .await?;
        Ok(pdus.into_iter().map(RawStrippedState::Pdu).collect())
    }
}

/// What is kept of the state that came with an invite or as the answer to a knock, as clients see it. What does not
/// belong to the room is left out; a create event that makes another room is an error.
pub fn taken(
    state: Vec<RawStrippedState>,
    room: &RoomId,
    rules: &RoomVersionRules,
) -> Result<Vec<Box<RawValue>>, RoomError> {
    let mut kept = Vec::new();
    for event in state.into_iter().take(STATE_MAX) {
        #[allow(deprecated, reason = "servers before Matrix 1.16 send it")]
        let event = match event {
            RawStrippedState::Stripped(event) => Some(event.into_json()),
            RawStrippedState::Pdu(pdu) => strip(&pdu, room, rules)?,
            _ => None,
        };
        kept.extend(event.filter(|event| event.get().len() <= EVENT_LEN_MAX));
    }
    Ok(kept)
}

fn strip(
    pdu: &RawValue,
    room: &RoomId,
    rules: &RoomVersionRules,
) -> Result<Option<Box<RawValue>>, RoomError> {
    let Ok(event) = check::parse(pdu) else { return Ok(None) };
    let create = event.get("type").and_then(CanonicalJsonValue::as_str) == Some(CREATE);
    let mut keys = vec!["content", "sender", "state_key", "type"];
    let mut id = None;
    if create {
        id = check::event_id(&event, rules).ok();
        let made = id.as_deref().and_then(check::room_id_of_create);
        if rules.authorization.room_create_event_id_as_room_id && made.as_deref() != Some(room) {
            return Err(RoomError::Invalid("the create event in the room's state makes another room".into()));
        }
        keys.push("origin_server_ts");
    }
    let says = event.get("room_id").and_then(CanonicalJsonValue::as_str);
    if says.is_some_and(|says| says != room.as_str()) || (says.is_none() && !create) {
        return Ok(None);
    }
    let mut stripped: CanonicalJsonObject =
        event.into_iter().filter(|(key, _)| keys.contains(&key.as_str())).collect();
    if let Some(id) = id {
        stripped.insert("event_id".to_owned(), id.as_str().into());
    }
    Ok(canonical::to_json(&stripped).ok().and_then(|json| RawValue::from_string(json).ok()))
}

#[cfg(test)]
mod tests {
    use ruma::{room_id, serde::Raw};
    use serde_json::{json, value::to_raw_value};

    use super::*;
    use crate::room::core::version;

    fn pdu(value: serde_json::Value) -> RawStrippedState {
        RawStrippedState::Pdu(to_raw_value(&value).unwrap())
    }

    fn create() -> serde_json::Value {
        json!({ "type": "m.room.create", "state_key": "", "sender": "@a:x", "content": { "room_version": "12" },
            "origin_server_ts": 1, "depth": 1, "prev_events": [], "auth_events": [],
            "hashes": { "sha256": "jV2ADeXbYnFUAzhZxcNXH2BRDTc6x8wtqTXPAjfI6BE" }, "signatures": {} })
    }

    #[test]
    fn whole_events_become_what_clients_see_and_foreign_ones_nothing() {
        let rules = version::rules("12").unwrap();
        let raw = to_raw_value(&create()).unwrap();
        let id = check::event_id(&check::parse(&raw).unwrap(), &rules).unwrap();
        let room = check::room_id_of_create(&id).unwrap();
        let name = json!({ "type": "m.room.name", "state_key": "", "sender": "@a:x", "content": { "name": "n" },
            "room_id": room, "depth": 2, "signatures": {} });
        let mut foreign = name.clone();
        foreign["room_id"] = "!other:x".into();
        let old = RawStrippedState::from(Raw::from_json(
            to_raw_value(
                &json!({ "type": "m.room.topic", "state_key": "", "sender": "@a:x", "content": {} }),
            )
            .unwrap(),
        ));
        let kept = taken(vec![pdu(create()), pdu(name), pdu(foreign), old], &room, &rules).unwrap();
        let kept: Vec<serde_json::Value> =
            kept.iter().map(|event| serde_json::from_str(event.get()).unwrap()).collect();
        assert_eq!(kept.len(), 3, "{kept:?}");
        assert_eq!(kept[0]["event_id"], id.as_str());
        assert_eq!(kept[0]["origin_server_ts"], 1);
        assert!(kept[0].get("hashes").is_none());
        assert_eq!(
            kept[1],
            json!({ "type": "m.room.name", "state_key": "", "sender": "@a:x", "content": { "name": "n" } })
        );
        assert_eq!(kept[2]["type"], "m.room.topic");
    }

    #[test]
    fn a_create_event_that_makes_another_room_is_refused() {
        let rules = version::rules("12").unwrap();
        let room = room_id!("!jV2ADeXbYnFUAzhZxcNXH2BRDTc6x8wtqTXPAjfI6BE");
        assert!(matches!(taken(vec![pdu(create())], room, &rules), Err(RoomError::Invalid(_))));
    }
}
