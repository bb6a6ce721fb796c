//! Owns `relation`: which event relates to which. Either may come first.

use serde_json::Value;

use crate::{
    room::core::pdu::known_id,
    store::{
        Kind, StoreError, WriteTx,
        schema::{
            events::{self, EventRow},
            threads,
        },
    },
};

/// The relation of a reply to its thread's root.
const THREAD: &str = "m.thread";

/// Longest `rel_type` that is kept: names of relations are short, and each is interned.
const REL_TYPE_BYTES_MAX: usize = 255;

/// Notes what the event relates to.
pub(in crate::room) fn apply(
    tx: &mut WriteTx<'_>,
    event: &EventRow,
    content: &Value,
) -> Result<(), StoreError> {
    let Some((name, parent)) = relates_to(content) else { return Ok(()) };
    let parent = events::intern(tx, &parent)?;
    let rel = tx.intern(Kind::Name, name)?;
    events::put_relation(tx, parent, rel, event.nid, event.sender)?;
    match event.seq {
        Some(seq) if name == THREAD => threads::reply(tx, event.room, parent, seq),
        _ => Ok(()),
    }
}

/// The relation leaves with the content of a redacted event.
pub(in crate::room) fn remove(
    tx: &mut WriteTx<'_>,
    event: &EventRow,
    content: &Value,
) -> Result<(), StoreError> {
    let Some((name, parent)) = relates_to(content) else { return Ok(()) };
    let (Some(parent), Some(rel)) = (events::nid(tx, &parent)?, tx.lookup(Kind::Name, name)?) else {
        return Ok(());
    };
    events::remove_relation(tx, parent, rel, event.nid)?;
    if name == THREAD {
        threads::reply_gone(tx, event.room, parent, rel)?;
    }
    Ok(())
}

/// The root of the thread that an event with this content is a reply in.
pub(in crate::room) fn thread(content: &Value) -> Option<ruma::OwnedEventId> {
    relates_to(content).filter(|(name, _)| *name == THREAD).map(|(_, root)| root)
}

/// `m.relates_to` with `rel_type` and `event_id`.
fn relates_to(content: &Value) -> Option<(&str, ruma::OwnedEventId)> {
    let relation = content.get("m.relates_to")?;
    let rel = relation.get("rel_type")?.as_str().filter(|rel| rel.len() <= REL_TYPE_BYTES_MAX)?;
    let parent = known_id(relation.get("event_id")?.as_str()?)?;
    Some((rel, parent))
}
