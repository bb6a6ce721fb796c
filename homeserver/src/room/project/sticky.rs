//! Owns `sticky`: until when an event sticks (MSC4354).

use ruma::{ServerName, UserId};

use super::membership::Moved;
use crate::{
    room::core::pdu::{STICKY, STICKY_MAX_MS},
    store::{
        Kind, Nid, Seq, StoreError, WriteTx,
        schema::{
            events::{self, EventRow},
            membership::{self, Membership},
            outbox, sticky as table,
        },
    },
};

/// An event has got its place: notes until when it sticks, if it does. It has not been stored yet.
pub(in crate::room) fn apply(
    tx: &mut WriteTx<'_>,
    event: &mut EventRow,
    seq: Seq,
    now_ms: u64,
) -> Result<(), StoreError> {
    let Some(duration) = duration(&event.client) else { return Ok(()) };
    let now = i64::try_from(now_ms).unwrap_or(i64::MAX);
    // A time that lies ahead does not make it stick longer.
    let until = event.ts.min(now).saturating_add(duration.min(STICKY_MAX_MS));
    if until > now {
        event.flags |= events::STICKY;
        table::put(tx, event.room, seq, event.nid, until, now)?;
    }
    Ok(())
}

/// Members have come: servers that are new with them are sent our own events that still stick.
pub(in crate::room) fn welcome(
    tx: &mut WriteTx<'_>,
    room: Nid,
    own: &ServerName,
    moved: &Moved,
    now_ms: u64,
) -> Result<(), StoreError> {
    if !moved.servers {
        return Ok(());
    }
    let now = i64::try_from(now_ms).unwrap_or(i64::MAX);
    let sticking = table::in_room(tx, room, Seq(0), Seq(i64::MAX), now)?;
    if sticking.is_empty() {
        return Ok(());
    }
    let mut new = Vec::new();
    for (user, before, after) in &moved.users {
        let joined = *after == Some(Membership::Join) && *before != Some(Membership::Join);
        let Ok(user) = UserId::parse(&*tx.text(*user)?) else { continue };
        if joined && user.server_name() != own {
            let server = tx.intern(Kind::Server, user.server_name().as_str())?;
            // The first of its server.
            if membership::server_count(tx, room, server)? == 1 {
                new.push(server);
            }
        }
    }
    let Some(audience) = outbox::audience(tx, &new)? else { return Ok(()) };
    for (_, nid) in sticking {
        let Some(event) = events::event(tx, nid)? else { continue };
        if UserId::parse(&*tx.text(event.sender)?).is_ok_and(|sender| sender.server_name() == own) {
            outbox::push_event(tx, nid, audience)?;
        }
    }
    Ok(())
}

/// For how many milliseconds an event wants to stick.
fn duration(client: &[u8]) -> Option<i64> {
    // Nearly no event does: the key alone decides whether there is anything to parse.
    let name = STICKY.as_bytes();
    if !client.windows(name.len()).any(|window| window == name) {
        return None;
    }
    let event: serde_json::Value = serde_json::from_slice(client).ok()?;
    event.get(STICKY)?.get("duration_ms")?.as_i64().filter(|duration| *duration >= 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_number_at_the_top_makes_it_stick() {
        for (json, wanted) in [
            (r#"{"msc4354_sticky":{"duration_ms":5},"type":"m.x"}"#, Some(5)),
            (r#"{"content":{"msc4354_sticky":{"duration_ms":5}}}"#, None),
            (r#"{"msc4354_sticky":{"duration_ms":-5}}"#, None),
            (r#"{"msc4354_sticky":{"duration_ms":"5"}}"#, None),
            (r#"{"msc4354_sticky":[1]}"#, None),
            ("{}", None),
        ] {
            assert_eq!(duration(json.as_bytes()), wanted, "{json}");
        }
    }
}
