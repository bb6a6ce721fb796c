//! A room that the user left, was kicked or banned from, or whose invite they declined.

use super::{
    Context, Plan,
    joined::{render, viewer, write_timeline},
    state::{From, StateOf},
};
use crate::{
    room::read::timeline::Token,
    store::{
        ReadTx, Seq, StoreError,
        schema::{events, membership::UserRoom},
    },
    sync::{
        json::Writer,
        parts,
        timeline::{Timeline, Window},
    },
};

/// Writes the room as a member of `leave`: the timeline up to the leave, nothing after it.
pub(super) fn write(
    tx: &ReadTx<'_>,
    context: &Context,
    plan: &Plan,
    row: &UserRoom,
    id: &str,
    writer: &mut Writer,
) -> Result<(), StoreError> {
    let since = context.since();
    let viewer = viewer(context, None);
    let Some(left) = row.left_seq else {
        // Never in it, or it was purged: the client only has to know that the invite, or the room, is gone.
        let event = events::event(tx, row.nid)?;
        let mut events = render(tx, event.as_slice(), &viewer)?;
        if let (None, Some([b'[', farewell @ .., b']'])) = (&event, row.stripped.as_deref()) {
            events.push(farewell.to_vec());
        }
        let timeline = Timeline { events: Vec::new(), limited: false, prev_batch: Token::END, start: Seq(0) };
        writer.key(id).object(|object| {
            write_timeline(object, &timeline, &events);
            object.key(context.state_key()).events::<&[u8]>([]);
            object.key("account_data").events::<&[u8]>([]);
        });
        return Ok(());
    };
    let upto = left.min(plan.until);
    let new = context.since.is_none();
    let after = if new { Seq(0) } else { since };
    // In between the user may not have been in all the time, so the rules are asked.
    let window = Window { room: row.room, after, upto, visible_from: Seq(i64::MAX) };
    let timeline = Timeline::load(tx, &plan.view(context), id, window)?;
    let from = match row.left_state {
        Some(sid) if new || context.full_state => From::Snapshot(sid),
        _ => From::Position(after),
    };
    let part = StateOf { tx, context, plan, room: row.room, room_id: id, timeline: &timeline, upto, from }
        .load(|_| Ok(Vec::new()))?;
    let timeline_events = render(tx, &timeline.events, &viewer)?;
    let state_events = render(tx, &part.events, &viewer)?;
    let data = plan.room_data.get(&row.room).into_iter().flatten();
    let data: Vec<_> = data.map(|entry| parts::account_data_event(&entry.kind, &entry.content)).collect();
    writer.key(id).object(|object| {
        write_timeline(object, &timeline, &timeline_events);
        object.key(context.state_key()).events(&state_events);
        object.key("account_data").events(&data);
    });
    Ok(())
}
