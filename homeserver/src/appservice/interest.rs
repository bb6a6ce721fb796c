//! What a service is told: events of rooms that interest it, and what happens to its users.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use ruma::{RoomAliasId, RoomId, ServerName, UserId};
use serde_json::{Value, json, value::RawValue};

use super::registration::Registration;
use crate::{
    e2ee,
    room::{
        read::json::{Viewer, client_event},
        typing::Typing,
    },
    store::{
        Kind, Nid, ReadTx, Seq, StoreError,
        ids::skey_split,
        schema::{
            appservices::{self as table, Row},
            e2ee as keys,
            events::{self, EventRow, stream_kind},
            membership::{self, Membership},
            receipts, rooms,
        },
    },
};

/// Rows of the stream in one transaction.
const ROWS_MAX: u32 = 100;
/// Messages to devices in one transaction.
const TO_DEVICE_MAX: u32 = 100;
/// Members that are looked at in one go.
const MEMBERS_PAGE: u32 = 100;
/// Changed device lists that are looked at for one transaction.
const LISTS_MAX: u32 = 1_000;

/// A transaction's body, and the position it goes up to.
pub(super) struct Batch {
    pub(super) body: Value,
    pub(super) until: Seq,
    /// Whether it says anything.
    pub(super) news: bool,
    /// (user, device) and position of messages to devices that have no other way to be told.
    pub(super) delivered: Vec<(Nid, String, Seq)>,
}

/// Reads what a service is told.
pub(super) struct Reader<'a> {
    pub(super) tx: &'a ReadTx<'a>,
    pub(super) service: &'a Registration,
    pub(super) own: &'a ServerName,
    pub(super) typing: &'a Typing,
    pub(super) now_ms: u64,
    /// Rooms that interest it or not, as found out in this batch.
    pub(super) known: HashMap<Nid, bool>,
}

impl Reader<'_> {
    /// What happened in (since, until], or, if that is much, in the first part of it.
    pub(super) fn batch(&mut self, since: Seq, until: Seq) -> Result<Batch, StoreError> {
        let mut until = until;
        if self.service.encryption {
            let messages = table::to_device(self.tx, since, until, TO_DEVICE_MAX)?;
            if let Some(last) = messages.last().filter(|_| messages.len() == TO_DEVICE_MAX as usize) {
                until = last.0;
            }
        }
        let rows = table::rows(self.tx, since, until, ROWS_MAX)?;
        let until = match rows.last() {
            Some(last) if rows.len() == ROWS_MAX as usize => last.seq,
            _ => until,
        };
        let mut told: Vec<Box<RawValue>> = Vec::new();
        let mut ephemeral = Vec::new();
        let mut seen = BTreeSet::new();
        for row in &rows {
            match row.kind {
                stream_kind::RECEIPT if self.service.ephemeral => ephemeral.extend(self.receipt(row)?),
                stream_kind::EVENT | stream_kind::MEMBERSHIP => {
                    let Some(nid) = row.reference.filter(|nid| !seen.contains(nid)) else { continue };
                    let Some(event) = events::event(self.tx, nid)? else { continue };
                    if self.event_interests(&event)? {
                        seen.insert(nid);
                        told.push(self.render(&event)?);
                    }
                }
                _ => {}
            }
        }
        if self.service.ephemeral {
            for (room, users) in self.typing.changed(since, until) {
                if self.room_interests(room)? {
                    let id = self.tx.text(room)?;
                    ephemeral
                        .push(json!({"type": "m.typing", "room_id": &*id, "content": {"user_ids": users}}));
                }
            }
        }
        let mut body = json!({"events": told});
        let mut news = !told.is_empty();
        if !ephemeral.is_empty() {
            news = true;
            body["de.sorunome.msc2409.ephemeral"] = ephemeral.clone().into();
            body["ephemeral"] = ephemeral.into();
        }
        let mut delivered = Vec::new();
        if self.service.encryption {
            news |= self.encryption(since, until, &mut body, &mut delivered)?;
        }
        Ok(Batch { body, until, news, delivered })
    }

    fn is_ours(&self, user: &str) -> bool {
        <&UserId>::try_from(user).is_ok_and(|user| self.service.has_user(user, self.own))
    }

    fn event_interests(&mut self, event: &EventRow) -> Result<bool, StoreError> {
        let sender = self.tx.text(event.sender)?;
        if self.is_ours(&sender) || self.service.names_user(&sender) {
            return Ok(true);
        }
        if let Some(skey) = event.skey {
            let text = self.tx.text(skey)?;
            if let ("m.room.member", user) = skey_split(&text) {
                // Who is in the room is another question from now on.
                self.known.remove(&event.room);
                if self.is_ours(user) || self.service.names_user(user) {
                    return Ok(true);
                }
            }
        }
        self.room_interests(event.room)
    }

    /// Whether the room, one of its names or one of its members is in the namespace.
    fn room_interests(&mut self, room: Nid) -> Result<bool, StoreError> {
        if let Some(known) = self.known.get(&room) {
            return Ok(*known);
        }
        let found = self.look(room)?;
        self.known.insert(room, found);
        Ok(found)
    }

    fn look(&self, room: Nid) -> Result<bool, StoreError> {
        let id = self.tx.text(room)?;
        if <&RoomId>::try_from(&*id).is_ok_and(|id| self.service.has_room(id)) {
            return Ok(true);
        }
        let mut aliases = rooms::aliases(self.tx, room)?;
        aliases.extend(rooms::room(self.tx, room)?.and_then(|row| row.alias));
        if aliases
            .iter()
            .any(|alias| <&RoomAliasId>::try_from(&**alias).is_ok_and(|alias| self.service.has_alias(alias)))
        {
            return Ok(true);
        }
        // In a room that is bridged one of the first is the service's.
        let mut after = Nid(0);
        loop {
            let members =
                membership::local_members_after(self.tx, room, Membership::Join, after, MEMBERS_PAGE)?;
            for user in &members {
                if self.is_ours(&self.tx.text(*user)?) {
                    return Ok(true);
                }
            }
            match members.last() {
                Some(last) => after = *last,
                None => return Ok(false),
            }
        }
    }

    fn render(&self, event: &EventRow) -> Result<Box<RawValue>, StoreError> {
        let viewer = Viewer { user: Nid(0), device: None, room_id: true, now_ms: self.now_ms, joined: None };
        client_event(self.tx, event, &viewer)
    }

    fn receipt(&mut self, row: &Row) -> Result<Option<Value>, StoreError> {
        // A private receipt's row names its user, and the room as what it refers to.
        let (room, viewer) = match (row.room, row.user, row.reference) {
            (Some(room), ..) => (room, Nid(0)),
            (None, Some(user), Some(room)) if self.is_ours(&self.tx.text(user)?) => (room, user),
            _ => return Ok(None),
        };
        if !self.room_interests(room)? {
            return Ok(None);
        }
        let before = Seq(row.seq.0 - 1);
        let mut content: BTreeMap<String, Value> = BTreeMap::new();
        for receipt in receipts::changed(self.tx, room, viewer, before, row.seq, 1)? {
            let user = self.tx.text(receipt.user)?;
            let mut about = json!({"ts": receipt.ts});
            if !receipt.thread.is_empty() {
                about["thread_id"] = receipt.thread.into();
            }
            let kind = if receipt.private { "m.read.private" } else { "m.read" };
            content.insert(receipt.event, json!({kind: {&*user: about}}));
        }
        let id = self.tx.text(room)?;
        Ok((!content.is_empty()).then(|| json!({"type": "m.receipt", "room_id": &*id, "content": content})))
    }

    /// Messages to its devices, lists of devices, counts of keys.
    fn encryption(
        &mut self,
        since: Seq,
        until: Seq,
        body: &mut Value,
        delivered: &mut Vec<(Nid, String, Seq)>,
    ) -> Result<bool, StoreError> {
        let mut news = false;
        let mut messages = Vec::new();
        for (seq, user, device, message) in table::to_device(self.tx, since, until, TO_DEVICE_MAX)? {
            let id = self.tx.text(user)?;
            if !self.is_ours(&id) {
                continue;
            }
            if let Ok(Value::Object(mut message)) = serde_json::from_str::<Value>(&message) {
                message.insert("to_user_id".into(), (*id).into());
                message.insert("to_device_id".into(), device.clone().into());
                messages.push(Value::Object(message));
            }
            let number = self.tx.lookup(Kind::Device, &device)?;
            let own_way = match number {
                Some(number) => table::has_token(self.tx, user, number)?,
                None => false,
            };
            if !own_way {
                delivered.push((user, device, seq));
            }
        }
        if !messages.is_empty() {
            news = true;
            body["de.sorunome.msc2409.to_device"] = messages.clone().into();
            body["to_device"] = messages.into();
        }
        let mut changed = Vec::new();
        for user in keys::lists_changed(self.tx, since, until, LISTS_MAX)? {
            let mut interests = false;
            for room in membership::rooms_of(self.tx, user, Membership::Join)? {
                if self.room_interests(room)? {
                    interests = true;
                    break;
                }
            }
            if interests {
                changed.push(self.tx.text(user)?.to_string());
            }
        }
        if !changed.is_empty() {
            news = true;
            body["org.matrix.msc3202.device_lists"] = json!({"changed": changed, "left": []});
        }
        let (mut counts, mut fallback) = (json!({}), json!({}));
        for (user, device) in table::counts_changed(self.tx, since, until)? {
            let id = self.tx.text(user)?;
            if !self.is_ours(&id) {
                continue;
            }
            news = true;
            let left: BTreeMap<String, i64> =
                e2ee::counts(self.tx, user, device.as_str().into())?.into_iter().collect();
            counts[&*id][&device] = json!(left);
            fallback[&*id][&device] = json!(keys::unused_fallback_keys(self.tx, user, &device)?);
        }
        if counts.as_object().is_some_and(|counts| !counts.is_empty()) {
            // Both names: the proposal was renamed while bridges were written.
            body["org.matrix.msc3202.device_one_time_key_counts"] = counts.clone();
            body["org.matrix.msc3202.device_one_time_keys_count"] = counts;
            body["org.matrix.msc3202.device_unused_fallback_key_types"] = fallback;
        }
        Ok(news)
    }
}
