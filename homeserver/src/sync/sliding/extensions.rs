//! What a response tells beside rooms: messages to the device, keys, account data, receipts, who types.

use std::collections::{HashMap, HashSet};

use super::{
    Context, ToDeviceSince,
    conn::{GLOBAL, bits},
    request::Scope,
};
use crate::{
    e2ee,
    room::typing::Typing,
    store::{
        Nid, ReadTx, Seq, StoreError,
        schema::{
            account_data, e2ee as keys, events,
            events::stream_kind,
            membership::{self, Membership},
            receipts, sync as query,
        },
    },
    sync::{
        json::Writer,
        parts,
        token::Token,
        v3::{
            devices,
            ephemeral::{receipt_event, typing_event},
        },
    },
};

/// Messages to the device in one response, whatever the client asks; the next response has more.
const TO_DEVICE_MAX: u64 = 100;
/// Receipts of a room in one response: of one that is new to the client those of others on the events that it is shown, of
/// another the first that it was not told; the others are in the next.
const RECEIPTS_MAX: u32 = 200;

/// A room that the request is about, after it was written.
#[derive(Debug)]
pub(super) struct Shown<'a> {
    pub(super) room: Nid,
    pub(super) id: std::sync::Arc<str>,
    pub(super) joined: bool,
    pub(super) lists: Vec<&'a str>,
    pub(super) subscribed: bool,
    /// Its members are shown as they are needed.
    pub(super) lazy: bool,
    /// What the client was told up to here; `None`: it starts anew with the room.
    pub(super) upto: Option<Seq>,
    /// What was told whole, before and (added here) by this response.
    pub(super) bits: u8,
    /// Events of its timeline in this response.
    pub(super) events: Vec<Nid>,
    /// Something happened in it.
    pub(super) touched: bool,
}

/// What happened since the client's position.
pub(super) struct News {
    pub(super) until: Seq,
    /// Rooms in which anything happened; `None`: it is too long ago to say.
    pub(super) touched: Option<HashSet<Nid>>,
    /// Account data that changed.
    pub(super) data: Vec<account_data::Entry>,
    /// What happened for this user alone: (kind, reference).
    pub(super) own: Vec<(i64, Option<Nid>)>,
}

/// Extensions as members of the response's `extensions`.
#[derive(Default)]
pub(super) struct Written {
    pub(super) json: Vec<u8>,
    pub(super) news: bool,
    /// Bits of [`GLOBAL`] after it.
    pub(super) global: u8,
    /// Up to where receipts are told, if some room has more than fit.
    pub(super) receipts: Option<Seq>,
}

/// What extensions are made from.
pub(super) struct Extend<'a> {
    pub(super) tx: &'a ReadTx<'a>,
    pub(super) context: &'a Context,
    pub(super) typing: &'a Typing,
    pub(super) news: &'a News,
    /// Joined rooms that lists or subscriptions are about, in or out of their windows, and since when the user is in them.
    pub(super) about: &'a HashMap<Nid, Seq>,
    /// Whom the user does not want to hear.
    pub(super) ignored: &'a HashSet<Nid>,
    /// The life of the database and the node, for tokens.
    pub(super) token: Token,
}

impl Extend<'_> {
    /// Writes all that are asked for, and notes in `shown` what was told.
    pub(super) fn write(&self, shown: &mut [Shown<'_>]) -> Result<Written, StoreError> {
        let asked = &self.context.ask.extensions;
        let before = self.context.handle.state.rooms.get(&GLOBAL).map_or(0, |sent| sent.bits);
        let mut written = Written { global: before, ..Written::default() };
        let mut writer = Writer::default();
        if asked.to_device.enabled == Some(true) {
            written.news |= self.to_device(&mut writer)?;
        }
        if asked.e2ee.on() {
            written.news |= self.e2ee(&mut writer)?;
        }
        if asked.account_data.on() {
            written.news |= self.account_data(&mut writer, shown, before)?;
            written.global |= bits::ACCOUNT_DATA;
        }
        if asked.receipts.on() {
            written.news |= self.receipts(&mut writer, shown, &mut written.receipts)?;
        }
        if asked.typing.on() {
            written.news |= self.typing(&mut writer, shown);
        }
        if asked.profiles.scope.on() {
            written.news |= self.profiles(&mut writer, shown)?;
        }
        if asked.thread_subscriptions.on() {
            written.news |= self.thread_subscriptions(&mut writer, &mut written.global)?;
        } else {
            // Asked for again, they are told anew.
            written.global &= !bits::FOLLOWED_THREADS;
        }
        if asked.threads.on() {
            written.news |= self.threads(&mut writer, shown)?;
        }
        if asked.sticky_events.enabled == Some(true) {
            written.news |= self.sticky_events(&mut writer, shown)?;
        }
        self.forget_uncovered(shown);
        written.json = writer.into_members();
        Ok(written)
    }

    fn to_device(&self, writer: &mut Writer) -> Result<bool, StoreError> {
        let (tx, context, until) = (self.tx, self.context, self.news.until);
        let limit = context.ask.extensions.to_device.limit.unwrap_or(TO_DEVICE_MAX).clamp(1, TO_DEVICE_MAX);
        let from = match context.to_device {
            ToDeviceSince::Known(seq) => seq,
            ToDeviceSince::Nothing => Seq(0),
        };
        let messages = e2ee::waiting(tx, context.user, &context.device, from, until, limit as u32)?;
        if messages.is_empty() && context.token.is_some() {
            return Ok(false);
        }
        let end = if messages.len() as u64 == limit {
            messages.last().map_or(until, |(seq, _)| *seq)
        } else {
            until
        };
        let token = Token { to_device: end.0, seq: until.0.max(end.0), ..self.token };
        writer.key("to_device").object(|object| {
            object.key("next_batch").string(&token.to_string());
            object
                .key("events")
                .array(|array| messages.iter().for_each(|(_, json)| array.raw(json.as_bytes())));
        });
        Ok(!messages.is_empty())
    }

    fn e2ee(&self, writer: &mut Writer) -> Result<bool, StoreError> {
        let (tx, context) = (self.tx, self.context);
        let (user, since, until) = (context.user, context.since(), self.news.until);
        let initial = context.token.is_none();
        let mut news = false;
        let signed: Vec<Nid> = self
            .news
            .own
            .iter()
            .filter(|(kind, _)| *kind == stream_kind::DEVICE_LIST)
            .filter_map(|(_, reference)| *reference)
            .collect();
        let rows = match &self.news.touched {
            // Only where something happened can somebody have come or gone.
            Some(touched) => {
                let mut rows = Vec::new();
                for room in touched {
                    rows.extend(membership::user_room(tx, user, *room)?);
                }
                rows
            }
            None => membership::user_rooms(tx, user)?,
        };
        let lists = devices::changes(tx, user, since, until, &rows, &signed, initial)?;
        news |= !lists.is_empty();
        let counts = e2ee::counts(tx, user, &context.device)?;
        let unused = keys::unused_fallback_keys(tx, user, context.device.as_str())?;
        let counted = keys::counts_position(tx, user, context.device.as_str())?;
        news |= counted.is_some_and(|seq| seq > since && seq <= until);
        let mut inner = Writer::default();
        lists.write(tx, &mut inner)?;
        let inner = inner.into_members();
        writer.key("e2ee").object(|object| {
            object.members(&inner);
            object.key("device_one_time_keys_count").object(|object| {
                for (algorithm, count) in &counts {
                    object.key(algorithm).number(*count);
                }
            });
            object
                .key("device_unused_fallback_key_types")
                .array(|array| unused.iter().for_each(|algorithm| array.string(algorithm)));
        });
        Ok(news && !initial)
    }

    fn account_data(
        &self,
        writer: &mut Writer,
        shown: &mut [Shown<'_>],
        before: u8,
    ) -> Result<bool, StoreError> {
        let (tx, context, until) = (self.tx, self.context, self.news.until);
        let user = context.user;
        // Global data, whole at first.
        let whole = before & bits::ACCOUNT_DATA == 0;
        let mut global = Vec::new();
        if whole {
            let all = account_data::of_room(tx, user, account_data::GLOBAL)?;
            for entry in all.into_iter().filter(|entry| !entry.is_removed()) {
                global.push(parts::account_data_event(&entry.kind, &entry.content));
            }
        } else {
            let changed = self.news.data.iter().filter(|entry| entry.room == account_data::GLOBAL);
            global.extend(changed.map(|entry| parts::account_data_event(&entry.kind, &entry.content)));
        }
        let since = (!whole).then(|| context.since());
        global.extend(parts::push_rules(tx, user, since, until)?);
        // That of rooms.
        let mut changed: HashMap<Nid, Vec<&account_data::Entry>> = HashMap::new();
        for entry in &self.news.data {
            changed.entry(entry.room).or_default().push(entry);
        }
        let mut rooms = Vec::new();
        for (room, whole) in covered(shown, &context.ask.extensions.account_data, bits::ACCOUNT_DATA) {
            let mut events = Vec::new();
            match room.upto {
                Some(upto) if !whole && upto == context.since() => {
                    let changed = changed.get(&room.room).into_iter().flatten();
                    events
                        .extend(changed.map(|entry| parts::account_data_event(&entry.kind, &entry.content)));
                }
                upto => {
                    let after = upto.filter(|_| !whole).unwrap_or_default();
                    let all = account_data::of_room(tx, user, room.room)?;
                    let told = after > Seq(0);
                    let new = all.iter().filter(|entry| entry.seq > after && (told || !entry.is_removed()));
                    events.extend(new.map(|entry| parts::account_data_event(&entry.kind, &entry.content)));
                }
            }
            if !events.is_empty() {
                rooms.push((room.id.clone(), events));
            }
        }
        if global.is_empty() && rooms.is_empty() {
            return Ok(false);
        }
        writer.key("account_data").object(|object| {
            object.key("global").array(|array| global.iter().for_each(|event| array.raw(event)));
            object.key("rooms").object(|object| {
                for (id, events) in &rooms {
                    object.key(id).array(|array| events.iter().for_each(|event| array.raw(event)));
                }
            });
        });
        Ok(true)
    }

    fn receipts(
        &self,
        writer: &mut Writer,
        shown: &mut [Shown<'_>],
        cut: &mut Option<Seq>,
    ) -> Result<bool, StoreError> {
        let (tx, until) = (self.tx, self.news.until);
        let user = self.context.user;
        let (since, private) = (self.context.since(), self.news.private());
        let told = self.context.receipts_since();
        let mut rooms = Vec::new();
        for (room, whole) in covered(shown, &self.context.ask.extensions.receipts, bits::RECEIPTS) {
            if !room.joined {
                continue;
            }
            let rows = match room.upto {
                Some(upto) if !whole => {
                    // A private receipt is no news of the room's, but of the user's.
                    let behind = told < since;
                    if !room.touched && upto == since && !private.contains(&room.room) && !behind {
                        continue;
                    }
                    let mut rows =
                        receipts::changed(tx, room.room, user, upto.min(told), until, RECEIPTS_MAX + 1)?;
                    if rows.len() > RECEIPTS_MAX as usize {
                        rows.truncate(RECEIPTS_MAX as usize);
                        *cut = [*cut, rows.last().map(|row| row.seq)].into_iter().flatten().min();
                    }
                    rows
                }
                _ => {
                    let mut rows = receipts::own(tx, room.room, user)?;
                    if !room.events.is_empty() {
                        let mut ids = HashSet::new();
                        for event in &room.events {
                            ids.insert(events::id(tx, *event)?.to_string());
                        }
                        let others = receipts::latest(tx, room.room, user, until, RECEIPTS_MAX)?;
                        rows.extend(
                            others.into_iter().filter(|row| row.user != user && ids.contains(&row.event)),
                        );
                    }
                    rows
                }
            };
            if !rows.is_empty() {
                rooms.push((room.id.clone(), receipt_event(tx, &rows)?));
            }
        }
        write_rooms(writer, "receipts", &rooms);
        Ok(!rooms.is_empty())
    }

    fn typing(&self, writer: &mut Writer, shown: &mut [Shown<'_>]) -> bool {
        let until = self.news.until;
        let floor = self.typing.floor();
        // Who typed before a restart does not any more.
        let forgotten =
            self.context.token.is_some_and(|token| token.typing == 1) && self.context.since() <= floor;
        let mut rooms = Vec::new();
        for (room, whole) in covered(shown, &self.context.ask.extensions.typing, bits::TYPING) {
            if !room.joined {
                continue;
            }
            let users = match (self.typing.in_room(room.room), room.upto) {
                (Some((seq, _)), _) if seq > until => continue,
                (Some((_, users)), _) if whole => users,
                (Some((seq, users)), Some(upto)) if seq > upto => users,
                _ if forgotten && !whole => Vec::new(),
                _ => continue,
            };
            if whole && users.is_empty() {
                continue;
            }
            rooms.push((room.id.clone(), typing_event(&users)));
        }
        write_rooms(writer, "typing", &rooms);
        !rooms.is_empty()
    }

    /// What an extension no longer covers has to be told whole when it is covered again.
    fn forget_uncovered(&self, shown: &mut [Shown<'_>]) {
        let asked = &self.context.ask.extensions;
        for (scope, bit) in [
            (&asked.account_data, bits::ACCOUNT_DATA),
            (&asked.receipts, bits::RECEIPTS),
            (&asked.typing, bits::TYPING),
            (&asked.profiles.scope, bits::PROFILES),
        ] {
            for room in shown.iter_mut() {
                if !(scope.on() && scope.covers(&room.id, &room.lists, room.subscribed)) {
                    room.bits &= !bit;
                }
            }
        }
    }
}

/// Rooms that an extension covers, each with whether it has to be told whole; they count as told from now on.
pub(super) fn covered<'r, 'a>(
    shown: &'r mut [Shown<'a>],
    scope: &'r Scope,
    bit: u8,
) -> impl Iterator<Item = (&'r Shown<'a>, bool)> {
    shown.iter_mut().filter_map(move |room| {
        if !scope.covers(&room.id, &room.lists, room.subscribed) {
            return None;
        }
        let whole = room.bits & bit == 0 || room.upto.is_none();
        room.bits |= bit;
        Some((&*room, whole))
    })
}

fn write_rooms(writer: &mut Writer, name: &str, rooms: &[(std::sync::Arc<str>, Vec<u8>)]) {
    if rooms.is_empty() {
        return;
    }
    writer.key(name).object(|object| {
        object.key("rooms").object(|object| {
            for (id, event) in rooms {
                object.key(id).raw(event);
            }
        });
    });
}

/// What happened since `since`.
pub(super) fn news(
    tx: &ReadTx<'_>,
    user: Nid,
    since: Option<Seq>,
    until: Seq,
    rooms: usize,
) -> Result<News, StoreError> {
    let Some(since) = since else {
        return Ok(News { until, touched: Some(HashSet::new()), data: Vec::new(), own: Vec::new() });
    };
    // Few things happened: they are looked at. Few rooms: those are, one by one.
    let touched = if until.0 - since.0 <= 4 * rooms.max(250) as i64 {
        Some(query::rooms_touched(tx, since, until)?.into_iter().collect())
    } else {
        None
    };
    Ok(News {
        until,
        touched,
        data: account_data::changed(tx, user, since, until)?,
        own: query::user_rows(tx, user, since, until)?,
    })
}

impl News {
    /// Whether anything happened in a room in (since, until].
    pub(super) fn touches(&self, tx: &ReadTx<'_>, room: Nid, since: Seq) -> Result<bool, StoreError> {
        match &self.touched {
            Some(touched) => Ok(touched.contains(&room)),
            None => query::room_touched(tx, room, since, self.until),
        }
    }

    /// Rooms of which something that only this user sees changed.
    pub(super) fn private(&self) -> HashSet<Nid> {
        let receipts = self.own.iter().filter(|(kind, _)| *kind == stream_kind::RECEIPT);
        let mut rooms: HashSet<Nid> = receipts.filter_map(|(_, room)| *room).collect();
        rooms.extend(self.data.iter().map(|entry| entry.room).filter(|room| *room != account_data::GLOBAL));
        rooms
    }
}

/// Whether a membership is one of who is in the room.
pub(super) fn is_joined(membership: Membership) -> bool {
    membership == Membership::Join
}
