//! Owns state that belongs to users (MSC3757): in the versions that have it, a state key that begins with a user's id may
//! go on with `_` and anything, and whoever has more power than that user may write it, too.
//!
//! The rest of the rules is ruma's, which knows only state keys that are the sender's id. It is shown such an event under
//! another key ([`hide`]), at its place and in state resolution alike.
//!
//! spec: MSC3757 <https://github.com/matrix-org/matrix-spec-proposals/pull/3757>

use std::sync::Arc;

use ruma::{
    OwnedUserId, UserId,
    events::room::power_levels::UserPowerLevel,
    room_version_rules::{RoomVersionDisposition, RoomVersionRules},
    state_res::events::{RoomCreateEvent, RoomPowerLevelsEvent},
};

use super::pdu::{CREATE, MEMBER, Pdu};

/// Put before a state key that ruma should not take for a user's.
const HIDDEN: char = '\u{1}';

/// The rules of a version that has owned state, made of those of the version that it is based on.
pub fn based_on(mut rules: RoomVersionRules) -> RoomVersionRules {
    // The only versions here that are not stable.
    rules.disposition = RoomVersionDisposition::Unstable;
    rules
}

/// Whether a version has owned state.
pub fn is_in(rules: &RoomVersionRules) -> bool {
    matches!(rules.disposition, RoomVersionDisposition::Unstable)
}

/// Whether a state key may belong to a user other than the sender.
pub fn concerns(kind: &str, state_key: &str) -> bool {
    kind != MEMBER && state_key.starts_with('@')
}

/// Whose a state key is.
pub fn owner(state_key: &str) -> Option<OwnedUserId> {
    let colon = state_key.find(':')?;
    // Names of servers have no underscores.
    let end = state_key[colon..].find('_').map_or(state_key.len(), |at| colon + at);
    UserId::parse(&state_key[..end]).ok()
}

/// The event as the rules of other versions can look at it. `Err`: it is not its sender's to write.
pub fn checked(
    rules: &RoomVersionRules,
    event: &Pdu,
    fetch: impl Fn(&str, &str) -> Option<Arc<Pdu>>,
) -> Result<Option<Pdu>, String> {
    let Some(key) = event.state_key.as_deref().filter(|key| concerns(&event.type_name, key)) else {
        return Ok(None);
    };
    if !is_in(rules) {
        return Ok(None);
    }
    let owner = owner(key).ok_or_else(|| {
        format!("the state key {key:?} is neither a user id, nor one with `_` and more after it")
    })?;
    if owner != event.sender && !outranks(rules, &event.sender, &owner, fetch)? {
        return Err(format!("{} may not write the state of {owner}", event.sender));
    }
    Ok(Some(hide(event)))
}

/// Whether one user has more power than another.
fn outranks(
    rules: &RoomVersionRules,
    user: &UserId,
    other: &UserId,
    fetch: impl Fn(&str, &str) -> Option<Arc<Pdu>>,
) -> Result<bool, String> {
    let rules = &rules.authorization;
    let create = fetch(CREATE, "").ok_or("the room has no create event")?;
    let creators = RoomCreateEvent::new(create);
    let creators = creators.creators(rules)?;
    let levels = fetch("m.room.power_levels", "").map(RoomPowerLevelsEvent::new);
    let level = |user: &UserId| -> Result<UserPowerLevel, String> {
        if rules.explicitly_privilege_room_creators && creators.contains(user) {
            return Ok(UserPowerLevel::Infinite);
        }
        Ok(match &levels {
            Some(levels) => levels.user_power_level(user, rules)?.into(),
            None if creators.contains(user) => ruma::Int::from(100).into(),
            None => ruma::Int::from(0).into(),
        })
    };
    Ok(level(user)? > level(other)?)
}

/// The event under another state key, if it is owned state.
fn hide(event: &Pdu) -> Pdu {
    let mut hidden = event.clone();
    hidden.state_key = hidden.state_key.map(|key| hidden_key(&event.type_name, key));
    hidden
}

/// The key under which ruma is shown an entry.
fn hidden_key(kind: &str, key: String) -> String {
    if concerns(kind, &key) { format!("{HIDDEN}{key}") } else { key }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_of_the_user_that_it_begins_with() {
        for (key, whose) in [
            ("@a:b.org", Some("@a:b.org")),
            ("@a:b.org_x", Some("@a:b.org")),
            ("@a_b:b.org:80_x:@y", Some("@a_b:b.org:80")),
            ("@oops", None),
            ("@a:b.org@x", None),
        ] {
            assert_eq!(owner(key).as_ref().map(|user| user.as_str()), whose, "{key}");
        }
    }
}
