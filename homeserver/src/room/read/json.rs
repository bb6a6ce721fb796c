//! Owns how stored objects become what clients and servers get: bytes put together, nothing parsed unless it is a redaction.

use ruma::DeviceId;
use serde_json::{Value, value::RawValue};

use super::erase;
use crate::{
    room::{
        ClientEvent, PduJson,
        delayed::TXN_PREFIX,
        project::{content, text},
        send::REDACT_TXN,
    },
    store::{
        Kind, Nid, ReadTx, Seq, StoreError,
        schema::{
            events::{self, EventRow, NO_LISTS, NO_ROOM_ID, REDACTED, STICKY},
            state, sticky,
        },
    },
};

/// For whom an event is put together.
#[derive(Clone, Copy, Debug)]
pub struct Viewer<'a> {
    /// Number of the local user, for `unsigned.transaction_id`.
    pub user: Nid,
    /// Their device.
    pub device: Option<&'a DeviceId>,
    /// With `room_id` (not inside `/sync`).
    pub room_id: bool,
    /// Now, for `unsigned.age`.
    pub now_ms: u64,
    /// Since when the viewer has been in the room, if they are: events from then on say so in `unsigned.membership`.
    pub joined: Option<Seq>,
}

/// The event as a client sees it. `unsigned` has `age`, the viewer's `transaction_id`, `prev_content` and `replaces_state`
/// of a state event, `redacted_because`, and `m.relations`: see [`bundle`].
pub fn client_event(
    tx: &ReadTx<'_>,
    event: &EventRow,
    viewer: &Viewer<'_>,
) -> Result<ClientEvent, StoreError> {
    with_relations(tx, event, viewer, true)
}

/// `threads`: with the summary of its thread; the newest reply inside of one has none, however replies are nested.
fn with_relations(
    tx: &ReadTx<'_>,
    event: &EventRow,
    viewer: &Viewer<'_>,
    threads: bool,
) -> Result<ClientEvent, StoreError> {
    let pruned;
    let event = if erase::is_erased(tx, event)? && !erase::was_there(tx, event, viewer.user)? {
        pruned = erase::pruned(tx, event)?;
        &pruned
    } else {
        event
    };
    let mut unsigned = Object::new();
    let age = i64::try_from(viewer.now_ms).unwrap_or(i64::MAX).saturating_sub(event.ts);
    unsigned.put("age", age.to_string().as_bytes());
    if viewer.joined.is_some_and(|joined| event.seq.is_some_and(|seq| seq >= joined)) {
        unsigned.put("membership", b"\"join\"");
    } else if let Some(membership) = membership_at(tx, event, viewer.user)? {
        unsigned.put("membership", text_json(&membership).as_bytes());
    }
    if event.flags & STICKY != 0
        && let Some(seq) = event.seq
        && let Some(until) = sticky::until(tx, event.room, seq)?
        && let left = until.saturating_sub(i64::try_from(viewer.now_ms).unwrap_or(i64::MAX))
        && left > 0
    {
        // As clients read it, and as the proposal calls it by now.
        for key in ["msc4354_sticky_duration_ttl_ms", "sticky_duration_remaining_ms"] {
            unsigned.put(key, left.to_string().as_bytes());
        }
    }
    if viewer.user == event.sender
        && let Some((_, txn)) = &event.sent
        && let Some(delayed) = txn.strip_prefix(TXN_PREFIX)
    {
        unsigned.put("org.matrix.msc4140.delay_id", text_json(delayed).as_bytes());
    } else if let Some(device) = viewer.device
        && viewer.user == event.sender
        && let Some((sent_by, txn)) = &event.sent
        && tx.lookup(Kind::Device, device.as_str())? == Some(*sent_by)
    {
        let txn = txn.strip_prefix(REDACT_TXN).unwrap_or(txn);
        unsigned.put("transaction_id", text_json(txn).as_bytes());
    }
    if event.flags & REDACTED != 0
        && let Some(by) = event.redacted_by
        && let Some(redaction) = events::event(tx, by)?
    {
        unsigned.put("redacted_because", shape(tx, &redaction, viewer.room_id, None)?.as_bytes());
    } else {
        if let (Some(skey), Some(before)) = (event.skey, event.state_before)
            && let Some(old) = state::one(tx, before, skey)?
            && old != event.nid
            && let Some(old) = events::event(tx, old)?
        {
            #[derive(serde::Deserialize)]
            struct Old<'a> {
                #[serde(borrow)]
                content: &'a RawValue,
                #[serde(borrow)]
                sender: &'a RawValue,
            }
            if let Ok(fields) = serde_json::from_slice::<Old<'_>>(&old.client) {
                unsigned.put("prev_content", fields.content.get().as_bytes());
                unsigned.put("prev_sender", fields.sender.get().as_bytes());
            }
            unsigned.put("replaces_state", text_json(events::id(tx, old.nid)?.as_str()).as_bytes());
        }
    }
    if event.skey.is_none()
        && let Some(relations) = bundle(tx, event, viewer, threads)?
    {
        unsigned.put("m.relations", relations.as_bytes());
    }
    let json = shape(tx, event, viewer.room_id, Some(unsigned.close()))?;
    RawValue::from_string(json).map_err(|_| StoreError::Corrupt("a stored event is no JSON"))
}

/// The viewer's membership at the event, its own effect included.
fn membership_at(tx: &ReadTx<'_>, event: &EventRow, user: Nid) -> Result<Option<String>, StoreError> {
    if user == Nid(0) {
        return Ok(None);
    }
    let Some(sid) = event.state_after else { return Ok(None) };
    let Some(skey) = tx.lookup_skey("m.room.member", &tx.text(user)?)? else { return Ok(None) };
    let membership = match state::one(tx, sid, skey)? {
        Some(nid) if nid == event.nid => text(&content(&event.client), "membership"),
        Some(nid) => events::event(tx, nid)?.and_then(|member| text(&content(&member.client), "membership")),
        None => None,
    };
    Ok(Some(membership.unwrap_or_else(|| "leave".to_owned())))
}

/// The newest edit by the same sender (not of a redacted event), the events that refer to it and the thread's summary,
/// as far as there are any. State has none.
///
/// spec: <https://spec.matrix.org/v1.19/client-server-api/#aggregations-of-child-events>
fn bundle(
    tx: &ReadTx<'_>,
    event: &EventRow,
    viewer: &Viewer<'_>,
    threads: bool,
) -> Result<Option<String>, StoreError> {
    let mut relations = Object::new();
    let mut any = false;
    if event.flags & REDACTED == 0
        && let Some(replace) = tx.lookup(Kind::Name, "m.replace")?
    {
        let mut newest: Option<EventRow> = None;
        for (child, _) in events::relations(tx, event.nid, Some(replace), BUNDLE_MAX)? {
            if let Some(edit) = events::event(tx, child)?
                && edit.sender == event.sender
                && edit.kind == event.kind
                && edit.seq.is_some()
                && newest.as_ref().is_none_or(|newest| (edit.ts, edit.nid) > (newest.ts, newest.nid))
            {
                newest = Some(edit);
            }
        }
        if let Some(edit) = newest {
            relations.put("m.replace", shape(tx, &edit, viewer.room_id, None)?.as_bytes());
            any = true;
        }
    }
    if let Some(reference) = tx.lookup(Kind::Name, "m.reference")? {
        let mut ids = Vec::new();
        for (child, _) in events::relations(tx, event.nid, Some(reference), BUNDLE_MAX)?.into_iter().rev() {
            if events::standing(tx, child)?.is_some() {
                ids.push(serde_json::json!({ "event_id": events::id(tx, child)? }));
            }
        }
        if !ids.is_empty() {
            relations.put("m.reference", serde_json::json!({ "chunk": ids }).to_string().as_bytes());
            any = true;
        }
    }
    if threads && let Some(thread) = tx.lookup(Kind::Name, "m.thread")? {
        let (count, mine) = events::relation_count(tx, event.nid, thread, viewer.user)?;
        if count > 0
            && let Some((latest, _)) = events::relations(tx, event.nid, Some(thread), 1)?.first()
            && let Some(latest) = events::event(tx, *latest)?
        {
            let mut summary = Object::new();
            summary.put("count", count.to_string().as_bytes());
            let mine = mine || event.sender == viewer.user;
            summary.put("current_user_participated", mine.to_string().as_bytes());
            let latest = with_relations(tx, &latest, viewer, false)?;
            summary.put("latest_event", latest.get().as_bytes());
            relations.put("m.thread", summary.close().as_bytes());
            any = true;
        }
    }
    Ok(any.then(|| relations.close()))
}

/// Edits looked at to find the newest, and references told.
const BUNDLE_MAX: u32 = 64;

/// `event_id`, `room_id`, the stored fields, and `unsigned`.
fn shape(
    tx: &ReadTx<'_>,
    event: &EventRow,
    room_id: bool,
    unsigned: Option<String>,
) -> Result<String, StoreError> {
    let mut object = Object::new();
    object.put("event_id", text_json(event.key.id()?.as_str()).as_bytes());
    if room_id {
        object.put("room_id", text_json(&tx.text(event.room)?).as_bytes());
    }
    if &*tx.text(event.kind)? == "m.room.redaction" {
        object.merge(redaction(&event.client).as_bytes());
    } else {
        object.merge(&event.client);
    }
    if let Some(unsigned) = unsigned {
        object.put("unsigned", unsigned.as_bytes());
    }
    Ok(object.close())
}

/// A redaction names its target in both of the places where clients of old and new room versions look.
///
/// spec: <https://spec.matrix.org/v1.19/client-server-api/#mroomredaction>
fn redaction(client: &[u8]) -> String {
    let mut event: Value = serde_json::from_slice(client).unwrap_or_default();
    let inner = event.get("content").and_then(|content| content.get("redacts")).cloned();
    let outer = event.get("redacts").cloned();
    match (inner, outer) {
        (Some(target), None) => event["redacts"] = target,
        (None, Some(target)) if event["content"].is_object() => event["content"]["redacts"] = target,
        _ => {}
    }
    event.to_string()
}

/// The event as servers exchange it.
pub fn pdu(tx: &ReadTx<'_>, event: &EventRow) -> Result<PduJson, StoreError> {
    let mut object = Object::new();
    object.merge(&event.client);
    object.merge(&event.rest);
    if event.flags & NO_LISTS != 0 {
        for (key, list) in [("auth_events", &event.auth), ("prev_events", &event.prev)] {
            let ids = list.iter().map(|nid| events::id(tx, *nid)).collect::<Result<Vec<_>, _>>()?;
            object.put(key, Value::from_iter(ids.iter().map(|id| id.as_str())).to_string().as_bytes());
        }
    }
    if event.flags & NO_ROOM_ID == 0 {
        object.put("room_id", text_json(&tx.text(event.room)?).as_bytes());
    }
    RawValue::from_string(object.close()).map_err(|_| StoreError::Corrupt("a stored event is no JSON"))
}

/// A JSON object put together from finished pieces.
struct Object(Vec<u8>);

impl Object {
    fn new() -> Self {
        Self(vec![b'{'])
    }

    /// Adds a key (which needs no escapes) and a JSON value.
    fn put(&mut self, key: &str, value: &[u8]) {
        self.comma();
        self.0.push(b'"');
        self.0.extend_from_slice(key.as_bytes());
        self.0.extend_from_slice(b"\":");
        self.0.extend_from_slice(value);
    }

    /// Adds all that another object has.
    fn merge(&mut self, object: &[u8]) {
        let inner = object.strip_prefix(b"{").and_then(|rest| rest.strip_suffix(b"}")).unwrap_or_default();
        if !inner.is_empty() {
            self.comma();
            self.0.extend_from_slice(inner);
        }
    }

    fn comma(&mut self) {
        if self.0.len() > 1 {
            self.0.push(b',');
        }
    }

    fn close(mut self) -> String {
        self.0.push(b'}');
        // All pieces are JSON that was text before.
        String::from_utf8(self.0).unwrap_or_else(|_| "{}".to_owned())
    }
}

fn text_json(text: &str) -> String {
    Value::from(text).to_string()
}
