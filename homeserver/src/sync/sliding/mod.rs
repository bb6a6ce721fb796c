//! Sliding sync (MSC4186): the rooms that a client's lists and subscriptions show, and what is new in them.
//!
//! ```text
//!   POST /sync ─> request ─> connection, as the client's `pos` has it ─> watch ─> one snapshot:
//!        lists: sort, filter, windows ─> rooms: what each was not sent yet ─> extensions ─> something? ─yes─> answer
//!                                                        ^                                     └─no─> wait ──┐
//!                                                        └──────────────────────────────────────────────────┘
//! ```
//!
//! A room that leaves all windows while something happens in it keeps the position up to which it was sent; when it is
//! shown again, it is sent from there. So none is lost, whatever the windows do. A response that would take too long
//! tells the most recent rooms first and the others in the next one, which does not wait.
//!
//! spec: MSC4186 <https://github.com/matrix-org/matrix-spec-proposals/pull/4186>

mod config;
mod conn;
mod extensions;
mod filter;
mod lists;
mod pos;
mod profiles;
mod request;
mod rooms;
mod sticky;
mod threads;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use ruma::{OwnedDeviceId, OwnedUserId};
use tokio::time::{Instant as WaitInstant, timeout_at};
use tokio_util::sync::CancellationToken;

use self::{
    config::StateConfig,
    conn::{CONFIGS_MAX, Conns, Delta, GLOBAL, Handle, Key, Sent, bits},
    extensions::{Extend, News, Shown},
    lists::{Listing, Listings},
    request::{Ask, RoomConfig},
};
pub use self::{pos::Pos, request::Dialect};
use super::{Inner, SyncError, TIMEOUT_MAX, json::Writer, lazy::Member, parts, token::Token};
use crate::{
    e2ee,
    store::{Kind, Nid, ReadTx, Seq, StoreError, schema::sync as query},
};

/// One response is written no longer than this, in one snapshot; what is left comes with the next.
const WRITE_TIME_MAX: Duration = Duration::from_millis(250);
/// Rooms of one response have no more bytes than this (and one room); what is left comes with the next.
const ROOMS_BYTES_MAX: usize = 4 << 20;

/// What sliding sync keeps beside the store.
pub(super) struct Sliding {
    conns: Conns,
    listings: Listings,
}

impl Sliding {
    pub(super) fn new(store: &crate::store::Store, clock: &crate::clock::Clock) -> Self {
        Self { conns: Conns::new(store.cache_db().clone(), clock.clone()), listings: Listings::default() }
    }
}

/// A request as it comes.
#[derive(Clone, Debug)]
pub struct SlidingRequest {
    /// Who asks.
    pub user: OwnedUserId,
    /// On which device.
    pub device: OwnedDeviceId,
    /// The body, JSON.
    pub body: Bytes,
    /// In which spelling.
    pub dialect: Dialect,
    /// `pos` of the query.
    pub pos: Option<String>,
    /// `timeout` of the query, in milliseconds.
    pub timeout_ms: Option<u64>,
    /// Ends the wait when the node ends.
    pub stop: CancellationToken,
}

/// Which messages to the device the client has.
#[derive(Clone, Copy, Debug)]
enum ToDeviceSince {
    Nothing,
    Known(Seq),
}

/// A request as the parts of a response see it.
#[derive(Debug)]
struct Context {
    user: Nid,
    device: OwnedDeviceId,
    /// `None`: the connection begins.
    token: Option<Token>,
    ask: Ask,
    handle: Handle,
    to_device: ToDeviceSince,
    /// Up to where the client has events that stick.
    sticky_since: Option<Seq>,
    /// Under which lazily loaded members are remembered.
    shown_as: String,
    now_ms: u64,
}

impl Context {
    fn since(&self) -> Seq {
        self.token.map_or(Seq(0), |token| Seq(token.seq))
    }

    /// Up to where the client was told of receipts.
    fn receipts_since(&self) -> Seq {
        self.token.map_or(Seq(0), |token| Seq(token.receipts))
    }
}

/// A response before its `pos` is known.
struct Built {
    lists: Vec<u8>,
    rooms: Vec<u8>,
    extensions: Vec<u8>,
    /// Whether it says anything.
    news: bool,
    delta: Delta,
    /// Rooms that the user is in, or waits to be let in.
    follow: Vec<Nid>,
    members: Vec<Member>,
    until: Seq,
    typing: bool,
    /// Receipts are told up to here.
    receipts: Seq,
}

/// See [`super::Sync::sliding`].
pub(super) async fn sync(inner: &Arc<Inner>, request: SlidingRequest) -> Result<Bytes, SyncError> {
    let started = WaitInstant::now();
    let ask = Ask::parse(
        &request.body,
        request.dialect,
        request.pos.clone(),
        request.timeout_ms,
        request.user.as_str(),
    )
    .map_err(SyncError::Invalid)?;
    let until = started + ask.timeout.min(TIMEOUT_MAX);
    let id = request.user.clone();
    let (user, end) = inner
        .store
        .read(move |tx| Ok::<_, StoreError>((tx.lookup(Kind::User, id.as_str())?, query::end(tx)?)))
        .await?;
    // An account has its number from the day it was made.
    let user = user.ok_or(StoreError::Corrupt("an account without its number"))?;
    let key = Key { user, device: request.device.to_string(), name: ask.conn.clone() };
    let (handle, token) = match &ask.pos {
        None => (inner.sliding.conns.begin(key).await?, None),
        Some(text) => {
            let pos: Pos = text.parse().map_err(|_| SyncError::UnknownPos)?;
            let ours = inner.is_ours(&pos.token) && Seq(pos.token.seq) <= end;
            if !ours {
                return Err(SyncError::UnknownPos);
            }
            let handle = inner.sliding.conns.resume(key, pos.nonce, pos.n).await?;
            (handle.ok_or(SyncError::UnknownPos)?, Some(pos.token))
        }
    };
    let to_device = acknowledge(inner, &ask, &request, user, end).await?;
    let shown_as = format!("{}\n{}", request.device, ask.conn);
    if token.is_none() {
        inner.shown.forget(user, &shown_as);
    }
    let sticky_since = ask.extensions.sticky_events.since.as_deref().and_then(|text| inner.token(text));
    let sticky_since = sticky_since.map(|token| Seq(token.seq));
    let turn = handle.turn.clone();
    let context = Arc::new(Context {
        user,
        device: request.device,
        token,
        ask,
        handle,
        to_device,
        sticky_since,
        shown_as,
        now_ms: inner.clock.now_ms(),
    });
    let mut watch = inner.notify.watch(user);
    let mut followed = false;
    loop {
        let (shared, asked) = (inner.clone(), context.clone());
        let built = inner.store.read(move |tx| build(tx, &shared, &asked)).await?;
        let over = WaitInstant::now() >= until || request.stop.is_cancelled() || turn.is_cancelled();
        if built.news || context.token.is_none() || over {
            return finish(inner, &context, built).await;
        }
        // Rooms are followed only now: most syncs find something at once and never wait.
        watch.follow(built.follow.iter().copied());
        if !followed {
            followed = true;
            continue;
        }
        tokio::select! {
            _ = timeout_at(until, watch.changed()) => {}
            () = request.stop.cancelled() => {}
            () = turn.cancelled() => {}
        }
    }
}

/// Deletes the messages to the device that it brings back the position of. A foreign or future token deletes nothing.
async fn acknowledge(
    inner: &Inner,
    ask: &Ask,
    request: &SlidingRequest,
    user: Nid,
    end: Seq,
) -> Result<ToDeviceSince, SyncError> {
    let asked = &ask.extensions.to_device;
    let token =
        asked.since.as_deref().filter(|_| asked.enabled == Some(true)).and_then(|text| inner.token(text));
    let Some(position) = token.map(|token| Seq(token.to_device)).filter(|position| *position <= end) else {
        return Ok(ToDeviceSince::Nothing);
    };
    let device = request.device.clone();
    let any = inner.store.read(move |tx| e2ee::has_acknowledged(tx, user, &device, position)).await?;
    if any {
        inner.e2ee.acknowledge(&request.user, &request.device, position).await?;
    }
    Ok(ToDeviceSince::Known(position))
}

/// Gives the response its `pos`.
async fn finish(inner: &Inner, context: &Context, built: Built) -> Result<Bytes, SyncError> {
    if built.delta.configs.len() + context.handle.state.configs.len() > CONFIGS_MAX {
        return Err(SyncError::UnknownPos);
    }
    let n = inner.sliding.conns.sent(&context.handle, built.delta).await?;
    inner.shown.show(context.user, &context.shown_as, built.until, built.members);
    let token = Token {
        incarnation: inner.store.incarnation(),
        node: inner.node,
        seq: built.until.0,
        to_device: 0,
        typing: u64::from(built.typing),
        receipts: built.receipts.0,
    };
    let pos = Pos { nonce: context.handle.nonce, n, token };
    let mut writer = Writer::default();
    writer.object(|object| {
        object.key("pos").string(&pos.to_string());
        if let Some(txn) = &context.ask.txn {
            object.key("txn_id").string(txn);
        }
        for (name, part) in
            [("lists", &built.lists), ("rooms", &built.rooms), ("extensions", &built.extensions)]
        {
            object.key(name).object(|object| object.members(part));
        }
    });
    writer.finish();
    Ok(writer.into_bytes().into())
}

/// A room that the request is about.
struct Pick {
    room: Nid,
    /// Numbers of the lists that show it.
    lists: Vec<usize>,
    /// Number of its subscription.
    subscription: Option<usize>,
}

/// What a request is about.
struct Picked {
    picks: Vec<Pick>,
    /// The lists' counts, as members.
    lists: Vec<u8>,
    /// Joined rooms, also those out of the windows; filled for who asks for events that stick.
    about: HashMap<Nid, Seq>,
}

/// Builds the response as of now.
fn build(tx: &ReadTx<'_>, inner: &Inner, context: &Context) -> Result<Built, StoreError> {
    let until = query::end(tx)?;
    let listing = inner.sliding.listings.at(tx, context.user, until)?;
    let ignored = parts::ignored(tx, context.user)?;
    let since = context.token.map(|token| Seq(token.seq));
    let news = extensions::news(tx, context.user, since, until, listing.rooms.len())?;
    let private = news.private();

    let Picked { picks, lists, about } = pick(tx, context, &listing, &ignored)?;
    let mut response = Response {
        tx,
        inner,
        context,
        listing: &listing,
        ignored: &ignored,
        news: &news,
        private: &private,
        configs: HashMap::new(),
        delta: Delta::default(),
        known: HashMap::new(),
        rooms: Vec::new(),
        members: Vec::new(),
        left_over: false,
    };
    if context
        .ask
        .lists
        .iter()
        .map(|list| &list.config)
        .chain(context.ask.subscriptions.iter().map(|(_, config)| config))
        .any(|config| config.state.lazy)
    {
        response.known = inner.shown.known(context.user, &context.shown_as, since);
    }
    let mut shown = response.write_rooms(&picks)?;
    let token = Token {
        incarnation: inner.store.incarnation(),
        node: inner.node,
        seq: until.0,
        to_device: 0,
        typing: 0,
        receipts: until.0,
    };
    let extend =
        Extend { tx, context, typing: &inner.typing, news: &news, about: &about, ignored: &ignored, token };
    let extended = extend.write(&mut shown)?;
    response.note(&shown, extended.global)?;
    response.leave_windows(&picks)?;
    let Response { delta, rooms, members, left_over, .. } = response;

    let follows = |entry: &lists::Entry| extensions::is_joined(entry.membership);
    let follow: Vec<Nid> =
        listing.rooms.iter().filter(|(_, entry)| follows(entry)).map(|(room, _)| *room).collect();
    let typing = context.ask.extensions.typing.on()
        && follow.iter().any(|room| inner.typing.in_room(*room).is_some_and(|(_, users)| !users.is_empty()));
    Ok(Built {
        news: !rooms.is_empty() || extended.news || left_over,
        lists,
        rooms,
        extensions: extended.json,
        delta,
        follow,
        members,
        until,
        typing,
        receipts: extended.receipts.unwrap_or(until),
    })
}

/// The rooms that the request is about, those it subscribes to first, then the most recent; and the lists' counts.
fn pick(
    tx: &ReadTx<'_>,
    context: &Context,
    listing: &Listing,
    ignored: &HashSet<Nid>,
) -> Result<Picked, StoreError> {
    let ask = &context.ask;
    let state = &context.handle.state;
    let told = |room: Nid| state.rooms.get(&room).map(|sent| sent.upto.unwrap_or_else(|| context.since()));
    let sorted = listing.sorted(ignored, told);
    let mut places: HashMap<Nid, usize> = HashMap::new();
    let mut picks: Vec<Pick> = Vec::new();
    let sticky = ask.extensions.sticky_events.enabled == Some(true);
    let mut about = HashMap::new();
    for (number, (id, _)) in ask.subscriptions.iter().enumerate() {
        let Some(room) = tx.lookup(Kind::Room, id)? else { continue };
        // Who has nothing to do with a room is told nothing of it.
        let Some(entry) = listing.rooms.get(&room) else { continue };
        // A room that was left can be looked at, unless it is forgotten.
        let left = !entry.forgotten && !entry.is_here();
        if !left && !entry.is_shown(ignored, told(room)) {
            continue;
        }
        if sticky && extensions::is_joined(entry.membership) {
            about.insert(room, entry.since);
        }
        places.insert(room, picks.len());
        picks.push(Pick { room, lists: Vec::new(), subscription: Some(number) });
    }
    let mut writer = Writer::default();
    let mut chosen: Vec<Vec<usize>> = vec![Vec::new(); sorted.len()];
    for (number, list) in ask.lists.iter().enumerate() {
        let filter = list.filter.ready(tx, listing)?;
        let mut count: u64 = 0;
        for (index, (room, entry)) in sorted.iter().enumerate() {
            if !filter.passes(listing, *room, entry) {
                continue;
            }
            if sticky && extensions::is_joined(entry.membership) {
                about.insert(*room, entry.since);
            }
            let within = list
                .ranges
                .as_ref()
                .is_none_or(|ranges| ranges.iter().any(|(from, to)| (*from..=*to).contains(&count)));
            if within {
                chosen[index].push(number);
            }
            count += 1;
        }
        writer.key(&list.name).object(|object| object.key("count").number(count as i64));
    }
    for ((room, _), lists) in sorted.iter().zip(chosen) {
        if lists.is_empty() {
            continue;
        }
        match places.get(room) {
            Some(place) => picks[*place].lists = lists,
            None => picks.push(Pick { room: *room, lists, subscription: None }),
        }
    }
    Ok(Picked { picks, lists: writer.into_members(), about })
}

/// The rooms of a response as they are written.
struct Response<'a> {
    tx: &'a ReadTx<'a>,
    inner: &'a Inner,
    context: &'a Context,
    listing: &'a Listing,
    ignored: &'a HashSet<Nid>,
    news: &'a News,
    private: &'a HashSet<Nid>,
    /// Combined configurations of (lists, subscription), each made once.
    configs: HashMap<(Vec<usize>, Option<usize>), (RoomConfig, u16)>,
    delta: Delta,
    known: HashMap<(Nid, Nid), Nid>,
    rooms: Vec<u8>,
    members: Vec<Member>,
    /// There was no time for all rooms.
    left_over: bool,
}

impl<'a> Response<'a> {
    /// Writes the rooms that have something to say; gives all that were looked at.
    fn write_rooms(&mut self, picks: &[Pick]) -> Result<Vec<Shown<'a>>, StoreError> {
        let begun = Instant::now();
        let context = self.context;
        let since = context.since();
        let mut shown = Vec::with_capacity(picks.len());
        for pick in picks {
            let Some(entry) = self.listing.rooms.get(&pick.room) else { continue };
            let sent = context.handle.state.rooms.get(&pick.room).copied();
            let upto = sent.map(|sent| sent.upto.unwrap_or(since));
            let (config, number) = self.config(pick)?;
            let dm = self.listing.dms.contains(&pick.room);
            let touched = match upto {
                None => true,
                Some(upto) if upto == since => self.news.touches(self.tx, pick.room, since)?,
                Some(upto) => query::room_touched(self.tx, pick.room, upto, self.news.until)?,
            };
            let grown = |sent: Sent| {
                usize::from(sent.limit) < config.limit
                    || sent.config != number
                    || (sent.bits & bits::DM != 0) != dm
                    || sent.upto.is_some()
            };
            let candidate = touched
                || upto.is_some_and(|upto| entry.since > upto)
                || self.private.contains(&pick.room)
                || sent.is_some_and(grown);
            let lists: Vec<&'a str> = pick.lists.iter().map(|list| &*context.ask.lists[*list].name).collect();
            let mut new = Sent {
                upto: None,
                limit: sent.map_or(config.limit as u16, |sent| sent.limit.max(config.limit as u16)),
                config: number,
                bits: sent.map_or(0, |sent| sent.bits & !bits::DM) | if dm { bits::DM } else { 0 },
            };
            let id = self.tx.text(pick.room)?;
            let mut part = Shown {
                room: pick.room,
                id: id.clone(),
                joined: extensions::is_joined(entry.membership),
                lists,
                subscribed: pick.subscription.is_some(),
                lazy: config.state.lazy,
                upto,
                bits: new.bits,
                events: Vec::new(),
                touched,
            };
            if candidate {
                if begun.elapsed() > WRITE_TIME_MAX || self.rooms.len() > ROOMS_BYTES_MAX {
                    self.left_over = true;
                    self.put_off(pick.room, sent);
                    continue;
                }
                let old =
                    sent.and_then(|sent| self.context.handle.state.configs.get(usize::from(sent.config)));
                let written = rooms::Room {
                    tx: self.tx,
                    context,
                    ignored: self.ignored,
                    known: &self.known,
                    until: self.news.until,
                    room: pick.room,
                    id: &id,
                    entry,
                    sent,
                    old: old.map(|old| &**old),
                    config: &config,
                    dm,
                    dm_told: sent.is_some_and(|sent| sent.bits & bits::DM != 0),
                    lists: &part.lists,
                }
                .write()?;
                if written.initial {
                    part.upto = None;
                    part.bits = new.bits & bits::DM;
                }
                if written.initial || written.gap {
                    new.limit = config.limit as u16;
                }
                self.rooms.extend_from_slice(&written.json);
                self.members.extend(written.members);
                part.events = written.events;
            }
            self.delta.rooms.push((pick.room, Some(new)));
            shown.push(part);
        }
        Ok(shown)
    }

    /// A room is not told now what happened in it.
    fn put_off(&mut self, room: Nid, sent: Option<Sent>) {
        if let Some(sent) = sent.filter(|sent| sent.upto.is_none()) {
            let since = self.context.since();
            self.delta.rooms.push((room, Some(Sent { upto: Some(since), ..sent })));
        }
    }

    /// The union of what the room's rules ask for, and its number among the connection's.
    fn config(&mut self, pick: &Pick) -> Result<(RoomConfig, u16), StoreError> {
        let key = (pick.lists.clone(), pick.subscription);
        if let Some(known) = self.configs.get(&key) {
            return Ok(known.clone());
        }
        let ask = &self.context.ask;
        let lists = pick.lists.iter().map(|list| &ask.lists[*list].config);
        let subscription = pick.subscription.map(|number| &ask.subscriptions[number].1);
        let mut whole: Option<RoomConfig> = None;
        for config in lists.chain(subscription) {
            whole = Some(match whole {
                None => config.clone(),
                Some(whole) if whole.state == config.state => {
                    RoomConfig { limit: whole.limit.max(config.limit), ..whole }
                }
                Some(whole) => RoomConfig {
                    limit: whole.limit.max(config.limit),
                    state: Arc::new(whole.state.union(&config.state)),
                },
            });
        }
        let whole = whole.unwrap_or_else(|| RoomConfig { limit: 0, state: Arc::new(StateConfig::default()) });
        let known = self.context.handle.state.configs.iter().chain(&self.delta.configs);
        let number = match known.clone().position(|config| *config == whole.state) {
            Some(number) => number,
            None => {
                let number = known.count();
                self.delta.configs.push(whole.state.clone());
                number
            }
        };
        let found = (whole, u16::try_from(number).unwrap_or(u16::MAX));
        self.configs.insert(key, found.clone());
        Ok(found)
    }

    /// Keeps in the delta only what differs, with what the extensions told.
    fn note(&mut self, shown: &[Shown<'_>], global: u8) -> Result<(), StoreError> {
        let told: HashMap<Nid, u8> = shown.iter().map(|room| (room.room, room.bits)).collect();
        let before = &self.context.handle.state.rooms;
        for (room, sent) in &mut self.delta.rooms {
            if let (Some(sent), Some(bits)) = (sent.as_mut(), told.get(room)) {
                sent.bits = *bits;
            }
        }
        self.delta.rooms.retain(|(room, sent)| before.get(room) != sent.as_ref());
        let known = before.get(&GLOBAL).map_or(0, |sent| sent.bits);
        if known != global {
            let sent = Sent { upto: None, limit: 0, config: 0, bits: global };
            self.delta.rooms.push((GLOBAL, Some(sent)));
        }
        Ok(())
    }

    /// Rooms that no rule shows (any more) and in which something happened stay behind at the client's position.
    fn leave_windows(&mut self, picks: &[Pick]) -> Result<(), StoreError> {
        let Some(since) = self.context.token.map(|token| Seq(token.seq)) else { return Ok(()) };
        let picked: HashSet<Nid> = picks.iter().map(|pick| pick.room).collect();
        for (room, sent) in &self.context.handle.state.rooms {
            if *room == GLOBAL || picked.contains(room) {
                continue;
            }
            let Some(entry) = self.listing.rooms.get(room) else {
                self.delta.rooms.push((*room, None));
                continue;
            };
            if entry.forgotten && !entry.is_news(Some(sent.upto.unwrap_or(since))) {
                self.delta.rooms.push((*room, None));
                continue;
            }
            if sent.upto.is_some() {
                continue;
            }
            let typing = || self.inner.typing.in_room(*room).is_some_and(|(seq, _)| seq > since);
            let behind = entry.since > since
                || self.private.contains(room)
                || self.news.touches(self.tx, *room, since)?
                || typing();
            if behind {
                self.delta.rooms.push((*room, Some(Sent { upto: Some(since), ..*sent })));
            }
        }
        Ok(())
    }
}
