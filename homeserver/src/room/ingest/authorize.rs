//! Placed to Authorized: what the rules say of an event at its own place, by the state before it, and now.
//!
//! spec: <https://spec.matrix.org/v1.19/server-server-api/#checks-performed-on-receipt-of-a-pdu>, steps 4 to 6

use std::{collections::HashMap, sync::Arc};

use ruma::{EventId, OwnedEventId, room_version_rules::RoomVersionRules};

use super::{append::Verdict, head::Key};
use crate::room::core::{
    auth,
    pdu::{MEMBER, Pdu},
};

/// An event's auth events, by id and by (type, state key).
pub(in crate::room) struct Lookup {
    by_id: HashMap<OwnedEventId, Arc<Pdu>>,
    by_key: HashMap<Key, Arc<Pdu>>,
}

impl Lookup {
    /// `create` is known to all, whether or not an event of this version names it.
    pub(in crate::room) fn new(auth: Vec<Arc<Pdu>>, create: Option<Arc<Pdu>>) -> Self {
        let mut lookup = Self { by_id: HashMap::new(), by_key: HashMap::new() };
        for event in auth.into_iter().chain(create) {
            if let Some(key) = event.key() {
                lookup.by_key.entry(key).or_insert_with(|| event.clone());
            }
            lookup.by_id.insert(event.event_id.clone(), event);
        }
        lookup
    }

    fn id(&self, id: &EventId) -> Option<Arc<Pdu>> {
        self.by_id.get(id).cloned()
    }

    /// A state entry, where only a part of the state is here (`partial`): a member that it does not name is as the event
    /// itself says, and who leaves may. The event is judged again when the state is whole.
    pub(in crate::room) fn in_part(
        &self,
        partial: bool,
        event: &Pdu,
        (kind, key): (&str, &str),
        here: impl FnOnce() -> Option<Arc<Pdu>>,
    ) -> Option<Arc<Pdu>> {
        if !partial || kind != MEMBER {
            return here();
        }
        let leaves = event.is_state(MEMBER, event.sender.as_str())
            && event.membership().as_deref() == Some("leave")
            && key == event.sender.as_str();
        match leaves {
            true => self.key(kind, key).or_else(here),
            false => here().or_else(|| self.key(kind, key)),
        }
    }

    fn key(&self, kind: &str, key: &str) -> Option<Arc<Pdu>> {
        self.by_key.get(&(kind.to_owned(), key.to_owned())).cloned()
    }
}

/// State entries that the rules may look up for an event. What cannot be read needs none: the rules refuse it.
pub(in crate::room) fn needed(rules: &RoomVersionRules, event: &Pdu) -> Vec<Key> {
    auth::needed(rules, &event.kind, &event.sender, event.state_key.as_deref(), &event.content)
        .unwrap_or_default()
}

/// The verdict, with the reason if it is not "accepted". `now`: the room's present state, if it is another than `before`.
pub(in crate::room) fn decide(
    rules: &RoomVersionRules,
    event: &Pdu,
    own: &Lookup,
    before: impl Fn(&str, &str) -> Option<Arc<Pdu>>,
    now: Option<impl Fn(&str, &str) -> Option<Arc<Pdu>>>,
) -> (Verdict, String) {
    if let Err(reason) = at_own(rules, event, own) {
        return (Verdict::Rejected, reason);
    }
    if let Err(reason) = auth::check_state(rules, event, before) {
        return (Verdict::Rejected, reason);
    }
    if let Some(now) = now
        && let Err(reason) = auth::check_state(rules, event, now)
    {
        return (Verdict::SoftFailed, reason);
    }
    (Verdict::Accepted, String::new())
}

/// The rules by the event's own auth events: all that can be asked of an event without a place.
pub(in crate::room) fn at_own(rules: &RoomVersionRules, event: &Pdu, own: &Lookup) -> Result<(), String> {
    auth::check_own(rules, event, |id| own.id(id))?;
    auth::check_state(rules, event, |kind, key| own.key(kind, key))
}
