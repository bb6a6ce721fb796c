//! Who of those that share a room with the user is online, if the node tells it.

use std::collections::BTreeSet;

use ruma::{UserId, presence::PresenceState};

use super::{Context, Inner};
use crate::{
    store::{Kind, Nid, ReadTx, Seq, StoreError, schema::membership},
    sync::json::Writer,
};

/// People of one response; on a node with more, the others come when they change.
const PEOPLE_MAX: usize = 1_000;

/// Presence events: of who changed, and of `met`, who shares a room with the user only now.
pub(super) fn events(
    tx: &ReadTx<'_>,
    inner: &Inner,
    context: &Context,
    until: Seq,
    met: &BTreeSet<Nid>,
) -> Result<Vec<Vec<u8>>, StoreError> {
    const TYPE: &str = "m.presence";
    let Some(users) = inner.presence.as_ref().filter(|_| context.filter.presence.passes_type(TYPE)) else {
        return Ok(Vec::new());
    };
    let mut people = BTreeSet::new();
    for user in users.presence_changed(context.since(), until) {
        if let Some(user) = tx.lookup(Kind::User, user.as_str())?
            && (user == context.user || membership::share(tx, user, context.user)?)
        {
            people.insert(user);
        }
    }
    people.extend(met);
    let mut events = Vec::new();
    for person in people.into_iter().take(PEOPLE_MAX) {
        let id = tx.text(person)?;
        let Ok(user) = <&UserId>::try_from(&*id) else { continue };
        let Some(known) = users.presence(user) else { continue };
        if !context.filter.presence.passes(TYPE, &id, || false) {
            continue;
        }
        let ago = context.now_ms.saturating_sub(known.active_ms);
        let mut writer = Writer::default();
        writer.object(|object| {
            object.key("content").object(|object| {
                object.key("presence").string(known.state.as_str());
                object.key("last_active_ago").number(i64::try_from(ago).unwrap_or(i64::MAX));
                object.key("currently_active").bool(known.state == PresenceState::Online);
                if let Some(status) = &known.status {
                    object.key("status_msg").string(status);
                }
            });
            object.key("sender").string(&id);
            object.key("type").string(TYPE);
        });
        writer.finish();
        events.push(writer.into_bytes());
    }
    Ok(events)
}
