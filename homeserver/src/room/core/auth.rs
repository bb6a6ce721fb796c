//! Owns who may do what: the authorization rules over the events that a caller can look up.
//!
//! spec: <https://spec.matrix.org/v1.19/server-server-api/#checks-performed-on-receipt-of-a-pdu>, steps 4 to 6

use std::sync::Arc;

use ruma::{
    EventId, Int, OwnedUserId, UserId,
    events::{StateEventType, TimelineEventType, room::power_levels::UserPowerLevel},
    room_version_rules::RoomVersionRules,
    state_res::{
        auth_types_for_event, check_state_dependent_auth_rules, check_state_independent_auth_rules,
        events::{RoomCreateEvent, RoomPowerLevelsEvent, RoomPowerLevelsIntField},
    },
};
use serde_json::value::RawValue;

use super::{owned, pdu::Pdu};

/// The state entries that authorize an event of this kind; its `auth_events` are those of them that exist. The create
/// event is always among them here, whether or not the version wants it named.
pub fn needed(
    rules: &RoomVersionRules,
    kind: &TimelineEventType,
    sender: &UserId,
    state_key: Option<&str>,
    content: &RawValue,
) -> Result<Vec<(String, String)>, String> {
    let types = auth_types_for_event(kind, sender, state_key, content, &rules.authorization)?;
    let mut keys: Vec<(String, String)> =
        types.into_iter().map(|(kind, key)| (kind.to_string(), key)).collect();
    let create = ("m.room.create".to_owned(), String::new());
    if *kind != TimelineEventType::RoomCreate && !keys.contains(&create) {
        keys.push(create);
    }
    Ok(keys)
}

/// Whether an entry of [`needed`] is named in `auth_events`.
pub fn is_named(rules: &RoomVersionRules, key: &(String, String)) -> bool {
    !(rules.authorization.room_create_event_id_as_room_id && key.0 == "m.room.create")
}

/// The rules that look at the event and its auth events only. An error means: rejected.
pub fn check_own(
    rules: &RoomVersionRules,
    event: &Pdu,
    fetch: impl Fn(&EventId) -> Option<Arc<Pdu>>,
) -> Result<(), String> {
    check_state_independent_auth_rules(&rules.authorization, event, fetch)
}

/// The rules by a state. `fetch` gives the state's event of a (type, state key).
pub fn check_state(
    rules: &RoomVersionRules,
    event: &Pdu,
    fetch: impl Fn(&str, &str) -> Option<Arc<Pdu>>,
) -> Result<(), String> {
    let hidden = owned::checked(rules, event, &fetch)?;
    let event = hidden.as_ref().unwrap_or(event);
    check_state_dependent_auth_rules(&rules.authorization, event, |kind: &StateEventType, key: &str| {
        let found = fetch(&kind.to_string(), key);
        // ruma refuses every join where there are none.
        if found.is_none() && *kind == StateEventType::RoomJoinRules { no_join_rules(event) } else { found }
    })
}

/// What counts in a room without join rules: who is invited may come.
// spec: <https://spec.matrix.org/v1.19/client-server-api/#mroomjoin_rules>
fn no_join_rules(beside: &Pdu) -> Option<Arc<Pdu>> {
    let mut rules = beside.clone();
    rules.kind = TimelineEventType::RoomJoinRules;
    rules.type_name = "m.room.join_rules".to_owned();
    rules.state_key = Some(String::new());
    rules.content = RawValue::from_string("{\"join_rule\":\"invite\"}".to_owned()).ok()?;
    Some(Arc::new(rules))
}

/// Levels that are not an event's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Redact others' events.
    Redact,
    /// Invite.
    Invite,
    /// Send a state event of the type that follows.
    State(&'static str),
}

/// Those who have all power in a room because they made it; nobody in versions without such.
pub fn privileged(rules: &RoomVersionRules, create: &Arc<Pdu>) -> Vec<OwnedUserId> {
    if !rules.authorization.explicitly_privilege_room_creators {
        return Vec::new();
    }
    creators(rules, create)
}

/// Those who made a room.
pub fn creators(rules: &RoomVersionRules, create: &Arc<Pdu>) -> Vec<OwnedUserId> {
    let creators = RoomCreateEvent::new(create.clone()).creators(&rules.authorization);
    creators.map(|creators| creators.iter().map(|user| (**user).to_owned()).collect()).unwrap_or_default()
}

/// Whether a user's power is enough for an action, by a state's create and power level events.
pub fn may(
    rules: &RoomVersionRules,
    create: &Arc<Pdu>,
    levels: Option<&Arc<Pdu>>,
    user: &UserId,
    action: Action,
) -> bool {
    let rules = &rules.authorization;
    let Ok(creators) = RoomCreateEvent::new(create.clone()).creators(rules) else { return false };
    let levels = levels.cloned().map(RoomPowerLevelsEvent::new);
    let need = match (&levels, action) {
        (Some(levels), Action::Redact) => {
            levels.get_as_int_or_default(RoomPowerLevelsIntField::Redact, rules).ok()
        }
        (Some(levels), Action::Invite) => {
            levels.get_as_int_or_default(RoomPowerLevelsIntField::Invite, rules).ok()
        }
        (Some(levels), Action::State(kind)) => {
            levels.event_power_level(&TimelineEventType::from(kind), Some(""), rules).ok()
        }
        (None, Action::Redact) => Some(Int::from(50)),
        (None, Action::Invite | Action::State(_)) => Some(Int::from(0)),
    };
    let Some(need) = need else { return false };
    if rules.explicitly_privilege_room_creators && creators.contains(user) {
        return true;
    }
    let have = match &levels {
        Some(levels) => levels.user_power_level(user, rules).ok(),
        None if creators.contains(user) => Some(Int::from(100)),
        None => Some(Int::from(0)),
    };
    have.is_some_and(|have| UserPowerLevel::from(have) >= UserPowerLevel::from(need))
}
