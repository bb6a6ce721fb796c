//! One room of a response.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::{
    Context,
    config::{MEMBER, StateConfig},
    conn::Sent,
    lists::Entry,
    request::{Dialect, RoomConfig},
};
use crate::{
    push::counts,
    room::read::json::{Viewer, client_event},
    store::{
        Kind, Nid, ReadTx, Seq, StoreError,
        ids::skey_split,
        schema::{
            events::{self, EventRow},
            membership::{self, Membership, UserRoom},
            receipts,
            rooms::{self, RoomRow},
            state::{self, Change},
            sync as query,
        },
    },
    sync::{
        filter::EventFilter,
        heroes::heroes,
        json::Writer,
        lazy::Member,
        timeline::{GAPS_MAX, Timeline, View, Window, content_at},
    },
};

/// Members who changed while the client did not look that are all told to one that loads them lazily.
const GAP_MEMBERS_MAX: usize = 100;

/// A room to be written.
pub(super) struct Room<'a> {
    pub(super) tx: &'a ReadTx<'a>,
    pub(super) context: &'a Context,
    pub(super) ignored: &'a HashSet<Nid>,
    /// Members that the connection was shown.
    pub(super) known: &'a std::collections::HashMap<(Nid, Nid), Nid>,
    /// End of the snapshot.
    pub(super) until: Seq,
    pub(super) room: Nid,
    pub(super) id: &'a str,
    pub(super) entry: &'a Entry,
    /// What the connection was sent of it.
    pub(super) sent: Option<Sent>,
    /// By which configuration that was.
    pub(super) old: Option<&'a StateConfig>,
    pub(super) config: &'a RoomConfig,
    pub(super) dm: bool,
    pub(super) dm_told: bool,
    /// Lists that show it.
    pub(super) lists: &'a [&'a str],
}

/// What was written.
#[derive(Debug, Default)]
pub(super) struct Written {
    /// The room as a member of `rooms`; empty if there is nothing to say.
    pub(super) json: Vec<u8>,
    /// Members that lazy loading shows with it.
    pub(super) members: Vec<Member>,
    /// The client starts anew with this room.
    pub(super) initial: bool,
    /// Events of its timeline.
    pub(super) events: Vec<Nid>,
    /// The timeline leaves a gap to what the client has.
    pub(super) gap: bool,
}

/// The state part of a room.
#[derive(Default)]
struct Required {
    events: Vec<EventRow>,
    /// Pairs that are no longer there.
    gone: Vec<(String, String)>,
    members: Vec<Member>,
}

impl Room<'_> {
    /// Writes the room, unless there is nothing to say.
    pub(super) fn write(&self) -> Result<Written, StoreError> {
        match self.entry.membership {
            Membership::Join => self.joined(),
            Membership::Invite | Membership::Knock => self.waiting(),
            Membership::Leave | Membership::Ban => self.gone(),
        }
    }

    /// Up to where the client knows the room; `None`: not at all.
    fn known_upto(&self) -> Option<Seq> {
        self.sent.map(|sent| sent.upto.unwrap_or_else(|| self.context.since()))
    }

    fn joined(&self) -> Result<Written, StoreError> {
        let (tx, room) = (self.tx, self.room);
        let Some(row) = rooms::room(tx, room)? else { return Ok(Written::default()) };
        let after = match self.known_upto() {
            Some(upto) if self.entry.since <= upto || self.was_in(upto)? => Some(upto),
            _ => None,
        };
        let initial = after.is_none();
        let window = Window {
            room,
            after: after.unwrap_or_default(),
            upto: self.until,
            visible_from: self.entry.since,
        };
        let mut timeline = self.timeline(window)?;
        // More of what came before is asked for, and there is room for it beside what is new.
        let grown = self.sent.is_some_and(|sent| usize::from(sent.limit) < self.config.limit);
        let expanded = !initial && grown && !timeline.limited && timeline.events.len() < self.config.limit;
        if expanded {
            timeline = self.timeline(Window { after: Seq(0), ..window })?;
        }
        if initial || expanded {
            let whole = timeline.events.first().is_some_and(|first| Some(first.nid) == row.create);
            timeline.limited |= !whole;
        }
        let deltas = match after {
            Some(after) => state::deltas(tx, room, after, self.until)?,
            None => Vec::new(),
        };
        let changed = self.changed(&deltas)?;
        let required = self.required(initial, &timeline, &deltas)?;
        let moved = initial || changed.iter().any(|(kind, _)| kind == MEMBER);
        let bumped = after.is_none_or(|after| row.bump > after);
        let read = match after {
            Some(after) => self.read_since(after)?,
            None => false,
        };
        // Who asks for no events is told that there are some, and what is unread.
        let nothing = timeline.events.is_empty()
            && !timeline.limited
            && required.events.is_empty()
            && required.gone.is_empty()
            && changed.is_empty()
            && self.dm == self.dm_told;
        if nothing && !initial && !read {
            return Ok(Written { members: required.members, ..Written::default() });
        }
        let name_changed = |kind: &str| initial || changed.contains(&(kind.to_owned(), String::new()));
        let heroes = if moved || name_changed("m.room.name") || name_changed("m.room.canonical_alias") {
            Some(self.heroes(&row)?)
        } else {
            None
        };
        let unread = counts::unread(tx, self.context.user, room, self.entry.since)?;
        let viewer = self.viewer(Some(self.entry.since));
        let mut writer = Writer::default();
        self.open(&mut writer, initial);
        if name_changed("m.room.name") {
            optional(&mut writer, "name", row.name.as_deref(), initial);
        }
        if name_changed("m.room.avatar") {
            optional(&mut writer, "avatar", row.avatar.as_deref(), initial);
        }
        if let Some(heroes) = heroes.filter(|_| row.name.is_none()) {
            writer.key("heroes").array(|array| heroes.iter().for_each(|hero| array.raw(hero)));
        }
        if (initial && self.dm) || (!initial && self.dm != self.dm_told) {
            writer.key("is_dm").bool(self.dm);
        }
        if bumped {
            writer.key("bump_stamp").number(row.bump.0.max(1));
        }
        if moved {
            writer.key("joined_count").number(row.joined);
            writer.key("invited_count").number(row.invited);
        }
        let whole = unread.whole();
        writer.key("notification_count").number(whole.notify);
        writer.key("highlight_count").number(whole.highlight);
        self.write_timeline(&mut writer, &timeline, &viewer, expanded, initial)?;
        self.write_required(&mut writer, &required, &viewer)?;
        writer.close_object();
        Ok(self.written(writer, &timeline, required.members, initial, after))
    }

    /// An invite, or a knock: all that the user may see of the room is what came with it.
    fn waiting(&self) -> Result<Written, StoreError> {
        let initial = self.known_upto().is_none_or(|upto| upto < self.entry.since);
        if !initial {
            return Ok(Written::default());
        }
        let stripped =
            membership::user_room(self.tx, self.context.user, self.room)?.and_then(|row| row.stripped);
        let stripped = stripped.filter(|stripped| !stripped.is_empty()).unwrap_or_else(|| b"[]".to_vec());
        let mut writer = Writer::default();
        self.open(&mut writer, true);
        let key = match self.context.ask.dialect {
            Dialect::Unstable => "invite_state",
            Dialect::Stable => "stripped_state",
        };
        writer.key(key).raw(&stripped);
        if let Some(name) = &self.entry.name {
            writer.key("name").string(name);
        }
        if self.dm {
            writer.key("is_dm").bool(true);
        }
        writer.key("bump_stamp").number(self.entry.bump.0.max(1));
        writer.close_object();
        Ok(Written { json: writer.into_members(), initial: true, ..Written::default() })
    }

    /// Left, kicked or banned: what there was up to then, once.
    fn gone(&self) -> Result<Written, StoreError> {
        let tx = self.tx;
        let known = self.known_upto();
        if known.is_some_and(|upto| upto >= self.entry.since) {
            return Ok(Written::default());
        }
        let Some(row) = membership::user_room(tx, self.context.user, self.room)? else {
            return Ok(Written::default());
        };
        let viewer = self.viewer(None);
        let own = events::event(tx, row.nid)?;
        let mut writer = Writer::default();
        let (Some(left), Some(sid)) = (row.left_seq, row.left_state) else {
            // Never in it, or it was purged: the client only has to know that the invite, or the room, is gone.
            self.open(&mut writer, known.is_none());
            writer.key("bump_stamp").number(self.entry.bump.0.max(1));
            match (own, &row.stripped) {
                (None, Some(farewell)) => writer.key("required_state").raw(farewell),
                (own, _) => {
                    let required = Required { events: own.into_iter().collect(), ..Required::default() };
                    self.write_required(&mut writer, &required, &viewer)?;
                }
            }
            writer.close_object();
            return Ok(Written {
                json: writer.into_members(),
                initial: known.is_none(),
                ..Written::default()
            });
        };
        let initial = known.is_none();
        let upto = left.min(self.until);
        // In between the user may not have been in all the time, so the rules are asked.
        let window =
            Window { room: self.room, after: known.unwrap_or_default(), upto, visible_from: Seq(i64::MAX) };
        let timeline = self.timeline(window)?;
        let required = match known {
            Some(after) => {
                let mut required = self.required_changes(&state::deltas(tx, self.room, after, upto)?)?;
                if let Some(own) = own.filter(|own| required.events.iter().all(|event| event.nid != own.nid))
                {
                    required.events.push(own);
                }
                required
            }
            None => self.required_at_leave(sid, &row)?,
        };
        self.open(&mut writer, initial);
        if initial {
            let name = content_at(tx, sid, "m.room.name", "", "name")?;
            optional(&mut writer, "name", name.as_deref(), true);
            let avatar = content_at(tx, sid, "m.room.avatar", "", "url")?;
            optional(&mut writer, "avatar", avatar.as_deref(), true);
        }
        if self.dm {
            writer.key("is_dm").bool(true);
        }
        writer.key("bump_stamp").number(self.entry.bump.0.max(1));
        self.write_timeline(&mut writer, &timeline, &viewer, false, initial)?;
        self.write_required(&mut writer, &required, &viewer)?;
        writer.close_object();
        Ok(self.written(writer, &timeline, Vec::new(), initial, known))
    }

    fn written(
        &self,
        writer: Writer,
        timeline: &Timeline,
        members: Vec<Member>,
        initial: bool,
        after: Option<Seq>,
    ) -> Written {
        Written {
            json: writer.into_members(),
            members,
            initial,
            events: timeline.events.iter().map(|event| event.nid).collect(),
            gap: after.is_some_and(|after| timeline.limited && timeline.start > after),
        }
    }

    fn timeline(&self, window: Window) -> Result<Timeline, StoreError> {
        let filter = EventFilter::default();
        let view = View {
            user: self.context.user,
            filter: &filter,
            limit: self.config.limit,
            ignored: self.ignored,
        };
        Timeline::load(self.tx, &view, self.id, window)
    }

    /// Whether the user was in the room at `upto`, went and came back: then the client knows it, and what happened since
    /// is in the deltas, unless we all were out of it and got it anew from another server.
    fn was_in(&self, upto: Seq) -> Result<bool, StoreError> {
        let user = self.tx.text(self.context.user)?;
        let Some(skey) = self.tx.lookup_skey(MEMBER, &user)? else { return Ok(false) };
        let deltas = state::deltas(self.tx, self.room, upto, self.until)?;
        let first = deltas.iter().find(|(_, change)| change.skey == skey);
        let Some(old) = first.and_then(|(_, change)| change.old) else { return Ok(false) };
        let Some(old) = events::event(self.tx, old)? else { return Ok(false) };
        let now = membership::user_room(self.tx, self.context.user, self.room)?;
        let anew = match now {
            Some(row) => query::after_gaps(self.tx, self.room, GAPS_MAX)?.contains(&row.nid),
            None => true,
        };
        Ok(crate::sync::timeline::is_join(&old.client) && !anew)
    }

    /// (type, state key) of what changed.
    fn changed(&self, deltas: &[(Seq, Change)]) -> Result<BTreeSet<(String, String)>, StoreError> {
        let mut changed = BTreeSet::new();
        for (_, change) in deltas {
            let text = self.tx.text(change.skey)?;
            let (kind, key) = skey_split(&text);
            changed.insert((kind.to_owned(), key.to_owned()));
        }
        Ok(changed)
    }

    /// Whether the user's own counts changed: they read something.
    fn read_since(&self, after: Seq) -> Result<bool, StoreError> {
        Ok(receipts::own(self.tx, self.room, self.context.user)?.iter().any(|own| own.seq > after))
    }

    fn required(
        &self,
        initial: bool,
        timeline: &Timeline,
        deltas: &[(Seq, Change)],
    ) -> Result<Required, StoreError> {
        let mut required = if initial {
            let chosen = self.select(&self.config.state)?;
            self.collect(chosen.into_values())?
        } else {
            let mut required = self.required_changes(deltas)?;
            if let Some(old) = self.old.filter(|old| **old != *self.config.state) {
                // What is asked for now and was not before.
                let mut chosen = self.select(&self.config.state)?;
                for (skey, nid) in std::mem::take(&mut chosen) {
                    let text = self.tx.text(skey)?;
                    let (kind, key) = skey_split(&text);
                    if !old.matches(kind, key) && required.events.iter().all(|event| event.nid != nid) {
                        required.events.extend(events::event(self.tx, nid)?);
                    }
                }
            }
            required
        };
        if self.config.state.lazy {
            self.lazy_members(&mut required, initial, timeline, deltas)?;
        }
        Ok(required)
    }

    /// Net changes of what is asked for.
    fn required_changes(&self, deltas: &[(Seq, Change)]) -> Result<Required, StoreError> {
        let mut ends: BTreeMap<Nid, (Option<Nid>, Option<Nid>)> = BTreeMap::new();
        for (_, change) in deltas {
            ends.entry(change.skey).or_insert((change.old, None)).1 = change.new;
        }
        let mut required = Required::default();
        for (skey, (old, new)) in ends {
            let text = self.tx.text(skey)?;
            let (kind, key) = skey_split(&text);
            if old == new || !self.config.state.matches(kind, key) {
                continue;
            }
            match new {
                Some(new) => required.events.extend(events::event(self.tx, new)?),
                None => required.gone.push((kind.to_owned(), key.to_owned())),
            }
        }
        Ok(required)
    }

    /// The present state that a configuration asks for.
    fn select(&self, config: &StateConfig) -> Result<BTreeMap<Nid, Nid>, StoreError> {
        let (tx, room) = (self.tx, self.room);
        let reach = config.reach();
        let mut chosen = BTreeMap::new();
        if reach.members || reach.rest {
            let all =
                if reach.members { state::current_all(tx, room)? } else { state::current_rest(tx, room)? };
            for (skey, nid) in all {
                let text = tx.text(skey)?;
                let (kind, key) = skey_split(&text);
                if config.matches(kind, key) {
                    chosen.insert(skey, nid);
                }
            }
        }
        for (kind, key) in &reach.exact {
            if let Some(skey) = tx.lookup_skey(kind, key)?
                && !chosen.contains_key(&skey)
                && config.matches(kind, key)
                && let Some(nid) = state::current(tx, room, skey)?
            {
                chosen.insert(skey, nid);
            }
        }
        Ok(chosen)
    }

    /// The state that is asked for, as it was when the user left.
    fn required_at_leave(&self, sid: i64, row: &UserRoom) -> Result<Required, StoreError> {
        let mut nids = vec![row.nid];
        let reach = self.config.state.reach();
        if reach.members || reach.rest {
            for (skey, nid) in state::full(self.tx, sid)? {
                let text = self.tx.text(skey)?;
                let (kind, key) = skey_split(&text);
                if nid != row.nid && self.config.state.matches(kind, key) {
                    nids.push(nid);
                }
            }
        } else {
            for (kind, key) in &reach.exact {
                if let Some(skey) = self.tx.lookup_skey(kind, key)? {
                    nids.extend(state::one(self.tx, sid, skey)?.filter(|nid| *nid != row.nid));
                }
            }
        }
        self.collect(nids)
    }

    fn collect(&self, nids: impl IntoIterator<Item = Nid>) -> Result<Required, StoreError> {
        let mut required = Required::default();
        for nid in nids {
            required.events.extend(events::event(self.tx, nid)?);
        }
        Ok(required)
    }

    /// Members that the timeline needs, and those that changed.
    fn lazy_members(
        &self,
        required: &mut Required,
        initial: bool,
        timeline: &Timeline,
        deltas: &[(Seq, Change)],
    ) -> Result<(), StoreError> {
        let tx = self.tx;
        let mut needed: BTreeSet<Nid> = timeline.events.iter().map(|event| event.sender).collect();
        for event in &timeline.events {
            let Some(skey) = event.skey else { continue };
            if let (MEMBER, user) = skey_split(&tx.text(skey)?) {
                needed.extend(tx.lookup(Kind::User, user)?);
            }
        }
        let mut changed: BTreeSet<Nid> = BTreeSet::new();
        if !initial {
            for (_, change) in deltas {
                if let (MEMBER, user) = skey_split(&tx.text(change.skey)?) {
                    changed.extend(tx.lookup(Kind::User, user)?);
                }
            }
        }
        // After a long gap only those whom the client was shown: it asks for others as it needs them.
        if timeline.limited && changed.len() > GAP_MEMBERS_MAX {
            let me = self.context.user;
            changed.retain(|user| *user == me || self.known.contains_key(&(self.room, *user)));
        }
        needed.extend(&changed);
        for user in needed {
            let Some((_, event)) = membership::member(tx, self.room, user)? else { continue };
            let known = self.known.get(&(self.room, user)) == Some(&event);
            if known && !initial {
                continue;
            }
            required.members.push((self.room, user, event));
            if required.events.iter().all(|known| known.nid != event) {
                required.events.extend(events::event(tx, event)?);
            }
        }
        Ok(())
    }

    /// Heroes as JSON objects.
    fn heroes(&self, row: &RoomRow) -> Result<Vec<Vec<u8>>, StoreError> {
        let mut shown = Vec::new();
        for hero in heroes(self.tx, self.context.user, row)? {
            let event = match membership::member(self.tx, self.room, hero)? {
                Some((_, nid)) => events::event(self.tx, nid)?,
                None => None,
            };
            let profile = event.map(|event| Profile::of(&event.client)).unwrap_or_default();
            let id = self.tx.text(hero)?;
            let mut writer = Writer::default();
            writer.object(|object| {
                object.key("user_id").string(&id);
                if let Some(name) = &profile.displayname {
                    object.key("displayname").string(name);
                }
                if let Some(url) = &profile.avatar_url {
                    object.key("avatar_url").string(url);
                }
            });
            writer.finish();
            shown.push(writer.into_bytes());
        }
        Ok(shown)
    }

    fn viewer(&self, joined: Option<Seq>) -> Viewer<'_> {
        Viewer {
            user: self.context.user,
            device: Some(&self.context.device),
            room_id: false,
            now_ms: self.context.now_ms,
            joined,
        }
    }

    /// Opens the room's object with what every room has; [`Writer::close_object`] has to follow.
    fn open(&self, writer: &mut Writer, initial: bool) {
        writer.key(self.id).object(|object| {
            if initial {
                object.key("initial").bool(true);
            }
            object.key("membership").string(self.entry.membership.as_str());
            if !self.lists.is_empty() {
                object.key("lists").array(|array| self.lists.iter().for_each(|list| array.string(list)));
            }
        });
        writer.reopen();
    }

    fn write_timeline(
        &self,
        writer: &mut Writer,
        timeline: &Timeline,
        viewer: &Viewer<'_>,
        expanded: bool,
        initial: bool,
    ) -> Result<(), StoreError> {
        let since = self.context.token.map(|token| Seq(token.seq));
        let live = timeline
            .events
            .iter()
            .filter(|event| event.seq.zip(since).is_some_and(|(seq, since)| seq > since));
        let live = live.count();
        if !timeline.events.is_empty() || initial {
            let mut events = Vec::with_capacity(timeline.events.len());
            for event in &timeline.events {
                events.push(client_event(self.tx, event, viewer)?);
            }
            let key = match self.context.ask.dialect {
                Dialect::Unstable => "timeline",
                Dialect::Stable => "timeline_events",
            };
            writer.key(key).array(|array| events.iter().for_each(|event| array.raw(event.get().as_bytes())));
        }
        // Who asks for no events pages back from there as well.
        if !timeline.events.is_empty() || initial || timeline.limited {
            writer.key("prev_batch").string(&timeline.prev_batch.to_string());
        }
        if timeline.limited {
            writer.key("limited").bool(true);
        }
        if expanded {
            let key = match self.context.ask.dialect {
                Dialect::Unstable => "unstable_expanded_timeline",
                Dialect::Stable => "expanded_timeline",
            };
            writer.key(key).bool(true);
        }
        writer.key("num_live").number(live as i64);
        Ok(())
    }

    fn write_required(
        &self,
        writer: &mut Writer,
        required: &Required,
        viewer: &Viewer<'_>,
    ) -> Result<(), StoreError> {
        if required.events.is_empty() && required.gone.is_empty() {
            return Ok(());
        }
        let mut events = Vec::with_capacity(required.events.len());
        for event in &required.events {
            events.push(client_event(self.tx, event, viewer)?);
        }
        writer.key("required_state").array(|array| {
            events.iter().for_each(|event| array.raw(event.get().as_bytes()));
            for (kind, key) in &required.gone {
                array.object(|object| {
                    object.key("type").string(kind);
                    object.key("state_key").string(key);
                });
            }
        });
        Ok(())
    }
}

/// A value that is left out (at first) or `null` (later) if there is none.
fn optional(writer: &mut Writer, key: &str, value: Option<&str>, initial: bool) {
    match value {
        Some(value) => writer.key(key).string(value),
        None if !initial => writer.key(key).raw(b"null"),
        None => {}
    }
}

/// Name and avatar of a membership event.
#[derive(Default, serde::Deserialize)]
struct Profile {
    displayname: Option<String>,
    avatar_url: Option<String>,
}

impl Profile {
    fn of(client: &[u8]) -> Self {
        #[derive(serde::Deserialize)]
        struct Event {
            content: Profile,
        }
        serde_json::from_slice::<Event>(client).map(|event| event.content).unwrap_or_default()
    }
}
