//! Owns `/messages`, `/context` and `/event`.

use std::collections::HashSet;

use ruma::{DeviceId, EventId, OwnedDeviceId, RoomId, UserId, api::client::filter::RoomEventFilter};
use serde::Deserialize;

use super::{
    access::{Access, access},
    json::{Viewer, client_event},
    timeline::{self, Page, Token},
};
use crate::{
    room::{ClientEvent, RoomError, Rooms, project::content},
    store::{
        Nid, ReadTx, StoreError,
        schema::{
            events::{self, EventRow},
            state,
        },
    },
};

/// Events in one page, at most.
const LIMIT_MAX: u32 = 1000;
/// Rounds of backfill for one page: beyond, the client asks again.
const BACKFILL_ROUNDS: u32 = 2;

/// A page of `/messages`.
#[derive(Debug)]
pub struct Messages {
    /// Where the page starts.
    pub start: Token,
    /// Where the next page starts; none at the end.
    pub end: Option<Token>,
    /// Events in the order of the direction.
    pub chunk: Vec<ClientEvent>,
    /// Member events of the senders, for lazy loading.
    pub state: Vec<ClientEvent>,
}

/// How to page.
#[derive(Clone, Debug)]
pub struct MessagesQuery {
    /// Where to start; none: the end of the timeline (backwards) or its start.
    pub from: Option<Token>,
    /// Where to stop.
    pub to: Option<Token>,
    /// Towards the past.
    pub backwards: bool,
    /// Events at most (bounded here).
    pub limit: u32,
    /// Add the senders' member events.
    pub lazy_members: bool,
    /// What the filter lets through, by type, sender and content; none lets all through.
    pub filter: Option<RoomEventFilter>,
    /// What it lets through by relation.
    pub relations: RelationFilter,
    /// The device that asks: what it sent itself has its transaction id.
    pub device: Option<OwnedDeviceId>,
}

/// Lets events through by how they relate to others.
// spec: MSC3874
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct RelationFilter {
    /// Only these kinds of relations.
    #[serde(rename = "org.matrix.msc3874.rel_types", alias = "rel_types")]
    only: Option<Vec<String>>,
    /// None of these.
    #[serde(rename = "org.matrix.msc3874.not_rel_types", alias = "not_rel_types")]
    not: Option<Vec<String>>,
}

impl RelationFilter {
    /// Reads the part of a filter that is about relations; anything else says nothing about them.
    pub fn of(filter: &str) -> Self {
        if filter.trim_start().starts_with('{') {
            serde_json::from_str(filter).unwrap_or_default()
        } else {
            Self::default()
        }
    }

    fn passes(&self, event: &EventRow) -> bool {
        if self.only.is_none() && self.not.is_none() {
            return true;
        }
        let content = content(&event.client);
        let relation = content.get("m.relates_to").and_then(|relation| relation.get("rel_type"));
        let relation = relation.and_then(serde_json::Value::as_str);
        let among = |list: &[String]| relation.is_some_and(|relation| list.iter().any(|one| one == relation));
        self.only.as_deref().is_none_or(among) && !self.not.as_deref().is_some_and(among)
    }
}

/// What surrounds an event.
#[derive(Debug)]
pub struct Context {
    /// The event.
    pub event: ClientEvent,
    /// Before it, newest first.
    pub before: Vec<ClientEvent>,
    /// After it, oldest first.
    pub after: Vec<ClientEvent>,
    /// Token to page back from.
    pub start: Token,
    /// Token to page on from.
    pub end: Token,
    /// State after the last event shown (with lazy members: of the senders only).
    pub state: Vec<ClientEvent>,
}

impl Rooms {
    /// A page of the timeline that the user may see; backfills from other servers when it ends here.
    pub async fn messages(
        &self,
        user: &UserId,
        room: &RoomId,
        query: MessagesQuery,
    ) -> Result<Messages, RoomError> {
        let mut rounds = 0;
        loop {
            let (user_id, room_id, one) = (user.to_owned(), room.to_owned(), query.clone());
            let now_ms = self.inner.clock.now_ms();
            let (messages, lacking) =
                self.inner.store.read(move |tx| messages(tx, &user_id, &room_id, &one, now_ms)).await?;
            // The timeline may go on elsewhere.
            let more = query.backwards && lacking && rounds < BACKFILL_ROUNDS;
            rounds += 1;
            if !more {
                return Ok(messages);
            }
            match self.backfill(room).await {
                Ok(true) => {}
                Ok(false) => return Ok(messages),
                // What is here is an answer all the same.
                Err(error) => {
                    tracing::debug!(%room, %error, "older events could not be had");
                    return Ok(messages);
                }
            }
        }
    }

    /// One event, if the user may see it.
    pub async fn event(
        &self,
        user: &UserId,
        room: &RoomId,
        event: &EventId,
    ) -> Result<ClientEvent, RoomError> {
        self.event_on(user, None, room, event).await
    }

    /// One event, if the user may see it; with the device's transaction id, if that sent it. Who is not in the room
    /// does not learn whether the event is there.
    pub async fn event_on(
        &self,
        user: &UserId,
        device: Option<&DeviceId>,
        room: &RoomId,
        event: &EventId,
    ) -> Result<ClientEvent, RoomError> {
        let (user, room, event) = (user.to_owned(), room.to_owned(), event.to_owned());
        let device = device.map(ToOwned::to_owned);
        let now_ms = self.inner.clock.now_ms();
        self.inner
            .store
            .read(move |tx| {
                let (access, row) = match visible(tx, &user, &room, &event) {
                    Err(RoomError::Forbidden(_)) => {
                        return Err(RoomError::NotFound(
                            "there is no such event, or it is not yours to see".into(),
                        ));
                    }
                    found => found?,
                };
                let viewer = Viewer { device: device.as_deref(), ..viewer(&access, now_ms) };
                Ok(client_event(tx, &row, &viewer)?)
            })
            .await
    }

    /// The room that an event is of, if it is here.
    pub async fn room_of(&self, event: &EventId) -> Result<Option<ruma::OwnedRoomId>, RoomError> {
        let event = event.to_owned();
        self.inner
            .store
            .read(move |tx| match events::event_by_id(tx, &event)? {
                Some(row) => Ok(Some(crate::room::ingest::load::room_id(tx, row.room)?)),
                None => Ok(None),
            })
            .await
    }

    /// Whether a local user may see an event.
    pub async fn may_see(&self, user: &UserId, event: &EventId) -> Result<bool, RoomError> {
        let (user, event) = (user.to_owned(), event.to_owned());
        self.inner
            .store
            .read(move |tx| {
                let Some(row) = events::event_by_id(tx, &event)? else { return Ok(false) };
                let room = crate::room::ingest::load::room_id(tx, row.room)?;
                match access(tx, &user, &room) {
                    Ok(mut access) => Ok(access.may_see(tx, &row)?),
                    Err(RoomError::Forbidden(_)) => Ok(false),
                    Err(error) => Err(error),
                }
            })
            .await
    }

    /// An event and what surrounds it.
    pub async fn context(
        &self,
        user: &UserId,
        room: &RoomId,
        event: &EventId,
        limit: u32,
        lazy_members: bool,
    ) -> Result<Context, RoomError> {
        let (user, room, event) = (user.to_owned(), room.to_owned(), event.to_owned());
        let now_ms = self.inner.clock.now_ms();
        self.inner.store.read(move |tx| context(tx, &user, &room, &event, limit, lazy_members, now_ms)).await
    }
}

pub(in crate::room) fn viewer(access: &Access, now_ms: u64) -> Viewer<'static> {
    Viewer { user: access.user, device: None, room_id: true, now_ms, joined: None }
}

/// The event, if the user may see it.
pub(in crate::room) fn visible(
    tx: &ReadTx<'_>,
    user: &UserId,
    room: &RoomId,
    event: &EventId,
) -> Result<(Access, EventRow), RoomError> {
    let unknown = || RoomError::NotFound("there is no such event, or it is not yours to see".into());
    let mut access = access(tx, user, room)?;
    let row = events::event_by_id(tx, event)?.ok_or_else(unknown)?;
    if access.may_see(tx, &row)? { Ok((access, row)) } else { Err(unknown()) }
}

fn messages(
    tx: &ReadTx<'_>,
    user: &UserId,
    room: &RoomId,
    query: &MessagesQuery,
    now_ms: u64,
) -> Result<(Messages, bool), RoomError> {
    let mut access = access(tx, user, room)?;
    let start = query.from.unwrap_or(if query.backwards { Token::END } else { Token::START });
    let limit = query.limit.clamp(1, LIMIT_MAX) as usize;
    let Page { events, next, ended } =
        timeline::page(tx, &mut access, start, query.to, query.backwards, limit, |event| {
            Ok(query.relations.passes(event) && wanted(tx, event, query.filter.as_ref())?)
        })?;
    let viewer = Viewer { device: query.device.as_deref(), ..viewer(&access, now_ms) };
    let state = if query.lazy_members { senders(tx, &access, &events, &viewer)? } else { Vec::new() };
    let chunk = events.iter().map(|event| client_event(tx, event, &viewer)).collect::<Result<Vec<_>, _>>()?;
    // A gap inside the page is as good a reason to ask others as the end.
    let newest = start.depth.min(access.row.depth);
    let gap = query.backwards && events::gap_between(tx, access.row.room, next.depth, newest)?;
    // A page at the end that has something names its end all the same: more may be there by the next question.
    let end = if ended && chunk.is_empty() { None } else { Some(next) };
    Ok((Messages { start, end, chunk, state }, ended || gap))
}

/// Member events of the senders of `events`.
pub(in crate::room) fn senders(
    tx: &ReadTx<'_>,
    access: &Access,
    events: &[EventRow],
    viewer: &Viewer<'_>,
) -> Result<Vec<ClientEvent>, StoreError> {
    let mut seen = HashSet::new();
    let mut list = Vec::new();
    for event in events {
        if !seen.insert(event.sender) {
            continue;
        }
        let Some(skey) = tx.lookup_skey("m.room.member", &tx.text(event.sender)?)? else { continue };
        // As the member was at the event, which is what its reader wants to see.
        let sid = event.state_after.unwrap_or_else(|| access.state());
        if let Some(nid) = state::one(tx, sid, skey)?
            && let Some(member) = events::event(tx, nid)?
        {
            list.push(client_event(tx, &member, viewer)?);
        }
    }
    Ok(list)
}

/// Whether a filter lets an event through.
pub(in crate::room) fn wanted(
    tx: &ReadTx<'_>,
    event: &EventRow,
    filter: Option<&RoomEventFilter>,
) -> Result<bool, StoreError> {
    let Some(filter) = filter else { return Ok(true) };
    let kind = tx.text(event.kind)?;
    let sender = tx.text(event.sender)?;
    let matches = |pattern: &str| match pattern.split_once('*') {
        Some((head, tail)) => {
            kind.len() >= head.len() + tail.len() && kind.starts_with(head) && kind.ends_with(tail)
        }
        None => *pattern == *kind,
    };
    if filter.not_types.iter().any(|pattern| matches(pattern))
        || filter.types.as_ref().is_some_and(|types| !types.iter().any(|pattern| matches(pattern)))
        || filter.not_senders.iter().any(|not| *not.as_str() == *sender)
        || filter.senders.as_ref().is_some_and(|senders| !senders.iter().any(|one| *one.as_str() == *sender))
    {
        return Ok(false);
    }
    if let Some(url) = &filter.url_filter {
        let has = content(&event.client).get("url").is_some_and(serde_json::Value::is_string);
        let wants = matches!(url, ruma::api::client::filter::UrlFilter::EventsWithUrl);
        return Ok(has == wants);
    }
    Ok(true)
}

fn context(
    tx: &ReadTx<'_>,
    user: &UserId,
    room: &RoomId,
    event: &EventId,
    limit: u32,
    lazy_members: bool,
    now_ms: u64,
) -> Result<Context, RoomError> {
    let (mut access, row) = visible(tx, user, room, event)?;
    let (Some(at), Some(after_it)) = (Token::before(&row), Token::after(&row)) else {
        return Err(RoomError::NotFound("the event has no place in the timeline".into()));
    };
    let limit = limit.min(LIMIT_MAX) as usize;
    let all = |_: &EventRow| Ok(true);
    let empty = |next| Page { events: Vec::new(), next, ended: false };
    let before = match limit / 2 {
        0 => empty(at),
        half => timeline::page(tx, &mut access, at, None, true, half, all)?,
    };
    let after = match limit - limit / 2 {
        0 => empty(after_it),
        half => timeline::page(tx, &mut access, after_it, None, false, half, all)?,
    };
    let viewer = viewer(&access, now_ms);
    let last = after.events.last().unwrap_or(&row);
    let sid = last.state_after.unwrap_or_else(|| access.state());
    let shown: Vec<EventRow> = before.events.iter().chain([&row]).chain(&after.events).cloned().collect();
    let senders: HashSet<Nid> = shown.iter().map(|event| event.sender).collect();
    let mut state = Vec::new();
    for (skey, nid) in state::full(tx, sid)? {
        let text = tx.text(skey)?;
        let (kind, key) = crate::store::ids::skey_split(&text);
        if lazy_members
            && kind == "m.room.member"
            && !tx.lookup(crate::store::Kind::User, key)?.is_some_and(|user| senders.contains(&user))
        {
            continue;
        }
        if let Some(event) = events::event(tx, nid)? {
            state.push(client_event(tx, &event, &viewer)?);
        }
    }
    let list = |events: &[EventRow]| -> Result<Vec<ClientEvent>, StoreError> {
        events.iter().map(|event| client_event(tx, event, &viewer)).collect()
    };
    Ok(Context {
        event: client_event(tx, &row, &viewer)?,
        before: list(&before.events)?,
        after: list(&after.events)?,
        start: before.next,
        end: after.next,
        state,
    })
}
