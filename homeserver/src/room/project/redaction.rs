//! Owns redactions: which event is pruned by which, in whatever order they come.
//!
//! A redaction is an event like others; whether it takes effect is a question of its own: its sender has the power to
//! redact at its place in the graph, or is of the server of the target's sender. One that comes before its target waits
//! in `redaction` and is not shown until the target is here.
//!
//! spec: <https://spec.matrix.org/v1.19/rooms/v11/#redactions>

use ruma::{EventId, RoomId, UserId, room_version_rules::RoomVersionRules};

use super::{content, relations};
use crate::{
    push::project::on_redacted,
    room::core::pdu,
    store::{
        Nid, ReadTx, StoreError, WriteTx,
        schema::{
            events::{self, EventRow, NO_ROOM_ID, REDACTED, STICKY},
            search, sticky,
        },
    },
};

/// What became of a redaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::room) enum Effect {
    /// The target is pruned now (or was before).
    Done,
    /// The target is not here yet.
    Waits,
    /// It may not redact its target.
    Refused,
}

/// A redaction has come.
pub(in crate::room) fn apply(
    tx: &mut WriteTx<'_>,
    rules: &RoomVersionRules,
    room_id: &RoomId,
    redaction: &EventRow,
    target: &EventId,
    power: bool,
) -> Result<Effect, StoreError> {
    let target = events::intern(tx, target)?;
    events::put_redaction(tx, target, redaction.nid, power)?;
    match events::event(tx, target)? {
        None => Ok(Effect::Waits),
        Some(event) if event.room != redaction.room => Ok(Effect::Refused),
        Some(event) if !allowed(tx, rules, &event, redaction, power)? => Ok(Effect::Refused),
        Some(event) if event.flags & REDACTED != 0 => Ok(Effect::Done),
        Some(event) => {
            search::remove(tx, event.nid)?;
            if let Some(seq) = event.seq.filter(|_| event.flags & STICKY != 0) {
                sticky::remove(tx, event.room, seq)?;
            }
            let content = content(&event.client);
            relations::remove(tx, &event, &content)?;
            if let Some(seq) = event.seq {
                let thread = match relations::thread(&content) {
                    Some(root) => events::nid(tx, &root)?,
                    None => None,
                };
                on_redacted(tx, event.room, thread, seq)?;
            }
            let says_room = event.flags & NO_ROOM_ID == 0;
            let (client, rest) = pdu::prune(rules, room_id, says_room, &event.client, &event.rest)
                .map_err(|_| StoreError::Corrupt("a stored event cannot be pruned"))?;
            events::prune(tx, event.nid, redaction.nid, &client, &rest)?;
            Ok(Effect::Done)
        }
    }
}

/// An event has come: prunes it in place if a redaction waits for it, and gives those that are to be shown now.
pub(in crate::room) fn arrive(
    tx: &ReadTx<'_>,
    rules: &RoomVersionRules,
    room_id: &RoomId,
    event: &mut EventRow,
) -> Result<Vec<Nid>, StoreError> {
    let mut shown = Vec::new();
    for (nid, power) in events::redactions(tx, event.nid)? {
        let Some(redaction) = events::event(tx, nid)? else { continue };
        if redaction.room != event.room
            || redaction.seq.is_none()
            || !allowed(tx, rules, event, &redaction, power)?
        {
            continue;
        }
        if event.flags & REDACTED == 0 {
            let says_room = event.flags & NO_ROOM_ID == 0;
            let (client, rest) = pdu::prune(rules, room_id, says_room, &event.client, &event.rest)
                .map_err(|_| StoreError::Corrupt("an event cannot be pruned"))?;
            (event.client, event.rest) = (client, rest);
            event.flags |= REDACTED;
            event.redacted_by = Some(nid);
        }
        shown.push(nid);
    }
    Ok(shown)
}

fn allowed(
    tx: &ReadTx<'_>,
    rules: &RoomVersionRules,
    target: &EventRow,
    redaction: &EventRow,
    power: bool,
) -> Result<bool, StoreError> {
    if power {
        return Ok(true);
    }
    if rules.authorization.special_case_room_redaction {
        // Versions 1 and 2 go by the servers that made the ids up.
        // spec: https://spec.matrix.org/v1.19/rooms/v1/#authorization-rules
        let (one, other) = (target.key.id()?, redaction.key.id()?);
        return Ok(one.server_name().is_some() && one.server_name() == other.server_name());
    }
    if target.sender == redaction.sender {
        return Ok(true);
    }
    let (one, other) = (tx.text(target.sender)?, tx.text(redaction.sender)?);
    let server = |user: &str| UserId::parse(user).ok().map(|user| user.server_name().to_owned());
    Ok(server(&one).is_some() && server(&one) == server(&other))
}
