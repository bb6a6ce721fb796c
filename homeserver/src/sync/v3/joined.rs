//! A room that the user is in.

use super::{
    Context, Inner, Plan, ephemeral,
    state::{From, StateOf, StatePart},
};
use crate::{
    push::counts,
    room::read::json::{Viewer, client_event},
    store::{
        Nid, ReadTx, Seq, StoreError,
        schema::{
            account_data,
            events::{self, EventRow},
            membership::UserRoom,
            partial,
            rooms::{self, RoomRow},
            state, sticky, sync as query,
        },
    },
    sync::{
        filter::Members,
        heroes,
        json::Writer,
        parts,
        timeline::{GAPS_MAX, Timeline, Window, is_join},
    },
};

/// A room to be written.
pub(super) struct Room<'a> {
    pub(super) tx: &'a ReadTx<'a>,
    pub(super) inner: &'a Inner,
    pub(super) context: &'a Context,
    pub(super) plan: &'a Plan,
    pub(super) row: &'a UserRoom,
    pub(super) id: &'a str,
}

impl Room<'_> {
    /// Writes the room as a member of `join`, unless there is nothing to say. Gives the members that lazy loading shows.
    pub(super) fn write(&self, writer: &mut Writer) -> Result<StatePart, StoreError> {
        let (tx, context, row) = (self.tx, self.context, self.row);
        let Some(room) = rooms::room(tx, row.room)? else { return Ok(StatePart::default()) };
        let since = context.since();
        // The client sees the room for the first time (or again after having been out of it).
        let new =
            context.since.is_none() || (row.seq > since && !self.was_in(since)?) || self.came_whole(since)?;
        let window = Window {
            room: row.room,
            after: if new { Seq(0) } else { since },
            upto: self.plan.until,
            visible_from: row.seq,
        };
        let mut timeline = Timeline::load(tx, &self.plan.view(context), self.id, window)?;
        if new {
            let whole = timeline.events.first().is_some_and(|first| Some(first.nid) == room.create);
            timeline.limited |= !whole || context.since.is_some();
        }
        let from = if new || context.full_state { From::Nothing } else { From::Position(since) };
        let state_of = StateOf {
            tx,
            context,
            plan: self.plan,
            room: row.room,
            room_id: self.id,
            timeline: &timeline,
            upto: self.plan.until,
            from,
        };
        let mut heroes = None;
        let mut part = state_of.load(|part| {
            if !(new || context.full_state || part.moved) {
                return Ok(Vec::new());
            }
            let found = heroes::heroes(tx, context.user, &room)?;
            let needed = found.clone();
            heroes = Some(found);
            Ok(needed)
        })?;
        let ephemeral = ephemeral::events(tx, self.inner, context, self.plan, row.room, self.id, new)?;
        let data = self.account_data(new)?;
        let sticky = self.sticky(new, &timeline)?;
        let read = ephemeral.own_receipt || self.plan.private.contains(&row.room);
        let empty = timeline.events.is_empty() && part.events.is_empty() && ephemeral.events.is_empty();
        if empty && sticky.is_empty() && data.is_empty() && !read && !new && heroes.is_none() {
            return Ok(StatePart { members: std::mem::take(&mut part.members), ..StatePart::default() });
        }
        let unread = counts::unread(tx, context.user, row.room, row.seq)?;
        let viewer = viewer(context, Some(row.seq));
        let timeline_events = render(tx, &timeline.events, &viewer)?;
        let state_events = render(tx, &part.events, &viewer)?;
        let sticky_events = render(tx, &sticky, &viewer)?;
        writer.key(self.id).object(|object| {
            write_timeline(object, &timeline, &timeline_events);
            object.key(context.state_key()).events(&state_events);
            object.key("ephemeral").events(&ephemeral.events);
            object.key("account_data").events(&data);
            if !sticky_events.is_empty() {
                object.key("msc4354_sticky").events(&sticky_events);
            }
        });
        // The object is reopened: what follows can fail.
        writer.reopen();
        self.write_counts(writer, &unread)?;
        if let Some(heroes) = heroes {
            self.write_summary(writer, &room, &heroes)?;
        }
        writer.close_object();
        Ok(part)
    }

    /// Whether the room became whole since: who wants all members at once has not seen it before.
    fn came_whole(&self, since: Seq) -> Result<bool, StoreError> {
        if self.context.filter.members != Members::All {
            return Ok(false);
        }
        Ok(partial::whole_since(self.tx, self.row.room)?.is_some_and(|whole| whole > since))
    }

    /// Whether the user was in the room at `since`, went and came back: then the client knows it, and what happened since
    /// is in the deltas, unless we all were out of it and got it anew from another server.
    fn was_in(&self, since: Seq) -> Result<bool, StoreError> {
        let user = self.tx.text(self.context.user)?;
        let Some(skey) = self.tx.lookup_skey("m.room.member", &user)? else { return Ok(false) };
        let deltas = state::deltas(self.tx, self.row.room, since, self.plan.until)?;
        let first = deltas.iter().find(|(_, change)| change.skey == skey);
        let Some(old) = first.and_then(|(_, change)| change.old) else { return Ok(false) };
        let was_in = events::event(self.tx, old)?.is_some_and(|event| is_join(&event.client));
        Ok(was_in && !query::after_gaps(self.tx, self.row.room, GAPS_MAX)?.contains(&self.row.nid))
    }

    /// Events that stick and that the timeline does not show (MSC4354): the room's visibility and the client's filters are
    /// not asked.
    fn sticky(&self, new: bool, timeline: &Timeline) -> Result<Vec<EventRow>, StoreError> {
        let after = if new { Seq(0) } else { self.context.since() };
        let now = i64::try_from(self.context.now_ms).unwrap_or(i64::MAX);
        let mut found = Vec::new();
        for (_, nid) in sticky::in_room(self.tx, self.row.room, after, self.plan.until, now)? {
            if timeline.contains(nid) {
                continue;
            }
            let event = events::event(self.tx, nid)?;
            found.extend(event.filter(|event| !self.plan.ignored.contains(&event.sender)));
        }
        Ok(found)
    }

    fn account_data(&self, new: bool) -> Result<Vec<Vec<u8>>, StoreError> {
        let filter = &self.context.filter.room_account_data;
        if filter.is_closed_in(self.id) {
            return Ok(Vec::new());
        }
        let until = self.plan.until;
        let entries = if new {
            let all = account_data::of_room(self.tx, self.context.user, self.row.room)?;
            all.into_iter().filter(|entry| entry.seq <= until && !entry.is_removed()).collect()
        } else {
            self.plan.room_data.get(&self.row.room).cloned().unwrap_or_default()
        };
        let passing = entries.iter().filter(|entry| filter.passes_type(&entry.kind));
        Ok(passing.map(|entry| parts::account_data_event(&entry.kind, &entry.content)).collect())
    }

    fn write_counts(&self, writer: &mut Writer, unread: &counts::Unread) -> Result<(), StoreError> {
        let write = |object: &mut Writer, count: counts::Count| {
            object.key("highlight_count").number(count.highlight);
            object.key("notification_count").number(count.notify);
        };
        let threads = self.context.filter.thread_counts;
        let count = if threads { unread.main } else { unread.whole() };
        writer.key("unread_notifications").object(|object| write(object, count));
        // None at all says that nothing is unread in any.
        if threads && !unread.threads.is_empty() {
            let mut ids = Vec::new();
            for (thread, count) in &unread.threads {
                ids.push((events::id(self.tx, *thread)?, *count));
            }
            writer.key("unread_thread_notifications").object(|object| {
                for (id, count) in &ids {
                    object.key(id.as_str()).object(|object| write(object, *count));
                }
            });
        }
        Ok(())
    }

    fn write_summary(&self, writer: &mut Writer, room: &RoomRow, heroes: &[Nid]) -> Result<(), StoreError> {
        let mut names = Vec::new();
        for hero in heroes {
            names.push(self.tx.text(*hero)?);
        }
        writer.key("summary").object(|object| {
            if room.name.is_none() && room.alias.is_none() {
                object.key("m.heroes").array(|array| names.iter().for_each(|name| array.string(name)));
            }
            object.key("m.joined_member_count").number(room.joined);
            object.key("m.invited_member_count").number(room.invited);
        });
        Ok(())
    }
}

/// For whom events are put together.
pub(super) fn viewer(context: &Context, joined: Option<Seq>) -> Viewer<'_> {
    let now_ms = context.now_ms;
    Viewer { user: context.user, device: Some(&context.device), room_id: false, now_ms, joined }
}

/// Events as the client sees them.
pub(super) fn render(
    tx: &ReadTx<'_>,
    events: &[EventRow],
    viewer: &Viewer<'_>,
) -> Result<Vec<Vec<u8>>, StoreError> {
    events.iter().map(|event| Ok(client_event(tx, event, viewer)?.get().as_bytes().to_vec())).collect()
}

/// The member `timeline`.
pub(super) fn write_timeline(object: &mut Writer, timeline: &Timeline, events: &[Vec<u8>]) {
    object.key("timeline").object(|object| {
        object.key("events").array(|array| events.iter().for_each(|event| array.raw(event)));
        object.key("prev_batch").string(&timeline.prev_batch.to_string());
        object.key("limited").bool(timeline.limited);
    });
}
