//! Owns `relation`: which event relates to which. Either may come first.

use serde_json::Value;

use crate::{
    room::core::pdu::hash_id,
    store::{Kind, Nid, StoreError, WriteTx, schema::events},
};

/// Longest `rel_type` that is kept: names of relations are short, and each is interned.
const REL_TYPE_BYTES_MAX: usize = 255;

/// Notes what the event relates to.
pub(in crate::room) fn apply(
    tx: &mut WriteTx<'_>,
    event: Nid,
    sender: Nid,
    content: &Value,
) -> Result<(), StoreError> {
    let Some((rel, parent)) = relates_to(content) else { return Ok(()) };
    let parent = events::intern(tx, &parent)?;
    let rel = tx.intern(Kind::Name, rel)?;
    events::put_relation(tx, parent, rel, event, sender)
}

/// The relation leaves with the content of a redacted event.
pub(in crate::room) fn remove(tx: &mut WriteTx<'_>, event: Nid, content: &Value) -> Result<(), StoreError> {
    let Some((rel, parent)) = relates_to(content) else { return Ok(()) };
    let (Some(parent), Some(rel)) = (events::nid(tx, &parent)?, tx.lookup(Kind::Name, rel)?) else {
        return Ok(());
    };
    events::remove_relation(tx, parent, rel, event)
}

/// `m.relates_to` with `rel_type` and `event_id`.
fn relates_to(content: &Value) -> Option<(&str, ruma::OwnedEventId)> {
    let relation = content.get("m.relates_to")?;
    let rel = relation.get("rel_type")?.as_str().filter(|rel| rel.len() <= REL_TYPE_BYTES_MAX)?;
    let parent = hash_id(relation.get("event_id")?.as_str()?)?;
    Some((rel, parent))
}
