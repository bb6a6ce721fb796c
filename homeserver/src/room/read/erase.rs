//! Messages of users who had their words erased: shown whole to those who were there when they were said, pruned to all others.
//!
//! spec: <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3accountdeactivate>

use crate::{
    room::{
        core::{pdu, version},
        ingest::load,
        project::{content, text},
    },
    store::{
        Nid, ReadTx, StoreError,
        schema::{
            accounts,
            events::{self, EventRow, NO_ROOM_ID, REDACTED},
            rooms, state,
        },
    },
};

/// Whether a message's words are erased: those of state stay, for rooms are made of it.
pub(in crate::room) fn is_erased(tx: &ReadTx<'_>, event: &EventRow) -> Result<bool, StoreError> {
    Ok(event.skey.is_none() && event.flags & REDACTED == 0 && accounts::is_erased(tx, event.sender)?)
}

/// Whether a user was joined when an event was said.
pub(super) fn was_there(tx: &ReadTx<'_>, event: &EventRow, user: Nid) -> Result<bool, StoreError> {
    if user == Nid(0) || user == event.sender {
        return Ok(user != Nid(0));
    }
    let Some(sid) = event.state_after else { return Ok(false) };
    let Some(skey) = tx.lookup_skey("m.room.member", &tx.text(user)?)? else { return Ok(false) };
    let Some(member) = state::one(tx, sid, skey)? else { return Ok(false) };
    let member = events::event(tx, member)?;
    Ok(member.is_some_and(|member| text(&content(&member.client), "membership").as_deref() == Some("join")))
}

/// What is left of an event without its words.
pub(in crate::room) fn pruned(tx: &ReadTx<'_>, event: &EventRow) -> Result<EventRow, StoreError> {
    let room = load::room_id(tx, event.room)?;
    let rules = rooms::room(tx, event.room)?.and_then(|row| version::rules(&row.version));
    let rules = rules.ok_or(StoreError::Corrupt("a room without a version"))?;
    let says_room = event.flags & NO_ROOM_ID == 0;
    let (client, rest) = pdu::prune(&rules, &room, says_room, &event.client, &event.rest)
        .map_err(|_| StoreError::Corrupt("a stored event cannot be pruned"))?;
    Ok(EventRow { client, rest, flags: event.flags | REDACTED, ..event.clone() })
}
