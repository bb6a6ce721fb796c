//! What a room shows without keeping it in its history: who types, who has read what.

use std::collections::BTreeMap;

use super::{Context, Inner, Plan};
use crate::{
    store::{
        Nid, ReadTx, StoreError,
        schema::receipts::{self, ReceiptRow},
    },
    sync::json::Writer,
};

/// Receipts of a room in one response: of one that is new to the client its own and the latest of others, of another the
/// first that it was not told; the others are in the next.
const RECEIPTS_MAX: u32 = 200;

/// Ephemeral events of a room.
#[derive(Debug, Default)]
pub(super) struct Ephemeral {
    pub(super) events: Vec<Vec<u8>>,
    /// The user has read something, so that counts differ.
    pub(super) own_receipt: bool,
}

/// What is new in a room.
pub(super) fn events(
    tx: &ReadTx<'_>,
    inner: &Inner,
    context: &Context,
    plan: &Plan,
    room: Nid,
    room_id: &str,
    new: bool,
) -> Result<Ephemeral, StoreError> {
    let filter = &context.filter.ephemeral;
    let mut ephemeral = Ephemeral::default();
    let mut rows = if new {
        receipts::latest(tx, room, context.user, plan.until, RECEIPTS_MAX)?
    } else {
        let since = context.receipts_since();
        receipts::changed(tx, room, context.user, since, plan.until, RECEIPTS_MAX + 1)?
    };
    if new {
        for own in receipts::own(tx, room, context.user)? {
            if own.seq <= plan.until && !rows.contains(&own) {
                rows.push(own);
            }
        }
    }
    if rows.len() > RECEIPTS_MAX as usize && !new {
        rows.truncate(RECEIPTS_MAX as usize);
        plan.cut_receipts(rows.last().map(|row| row.seq));
    }
    ephemeral.own_receipt = rows.iter().any(|row| row.user == context.user);
    if filter.is_closed_in(room_id) {
        return Ok(ephemeral);
    }
    if filter.passes_type("m.typing")
        && let Some(typing) = typing(inner, context, plan, room, new)
    {
        ephemeral.events.push(typing);
    }
    if filter.passes_type("m.receipt") && !rows.is_empty() {
        ephemeral.events.push(receipt_event(tx, &rows)?);
    }
    Ok(ephemeral)
}

fn typing(inner: &Inner, context: &Context, plan: &Plan, room: Nid, new: bool) -> Option<Vec<u8>> {
    let since = context.since();
    let users = match inner.typing.in_room(room) {
        Some((seq, _)) if seq > plan.until => return None,
        Some((_, users)) if new => users,
        Some((seq, users)) if seq > since => users,
        // Shown by an earlier run, and no longer true.
        _ if context.since.is_some_and(|token| token.typing == 1) && since <= inner.typing.floor() => {
            Vec::new()
        }
        _ => return None,
    };
    if new && users.is_empty() {
        return None;
    }
    Some(typing_event(&users))
}

/// Who types, as an event.
pub(in crate::sync) fn typing_event(users: &[ruma::OwnedUserId]) -> Vec<u8> {
    let mut writer = Writer::default();
    writer.object(|object| {
        object.key("content").object(|object| {
            object.key("user_ids").array(|array| users.iter().for_each(|user| array.string(user.as_str())));
        });
        object.key("type").string("m.typing");
    });
    writer.finish();
    writer.into_bytes()
}

/// Receipts as one event.
pub(in crate::sync) fn receipt_event(tx: &ReadTx<'_>, rows: &[ReceiptRow]) -> Result<Vec<u8>, StoreError> {
    // event -> receipt type -> user -> receipts; of one user's receipts on one event in several threads the last wins.
    let mut by_event: BTreeMap<&str, BTreeMap<&str, BTreeMap<std::sync::Arc<str>, &ReceiptRow>>> =
        BTreeMap::new();
    for row in rows {
        let kind = if row.private { "m.read.private" } else { "m.read" };
        let user = tx.text(row.user)?;
        let users = by_event.entry(&row.event).or_default().entry(kind).or_default();
        // spec: MSC4102: one without a thread wins.
        if users.get(&user).is_none_or(|known| !known.thread.is_empty()) {
            users.insert(user, row);
        }
    }
    let mut writer = Writer::default();
    writer.object(|object| {
        object.key("content").object(|object| {
            for (event, kinds) in &by_event {
                object.key(event).object(|object| {
                    for (kind, users) in kinds {
                        object.key(kind).object(|object| {
                            for (user, row) in users {
                                object.key(user).object(|object| {
                                    object.key("ts").number(row.ts);
                                    if !row.thread.is_empty() {
                                        object.key("thread_id").string(&row.thread);
                                    }
                                });
                            }
                        });
                    }
                });
            }
        });
        object.key("type").string("m.receipt");
    });
    writer.finish();
    Ok(writer.into_bytes())
}
