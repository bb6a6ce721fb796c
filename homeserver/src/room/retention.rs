//! Verbs that let messages grow old (MSC1763): a room says in `m.room.retention` how long its messages live, a setting says
//! it for rooms that do not.
//!
//! An expired message loses its content and its place; the graph keeps what is left of it. State and the ends of the graph
//! stay. Other servers decide for themselves.
//!
//! spec: <https://github.com/matrix-org/matrix-spec-proposals/pull/1763>

use std::{collections::HashMap, time::Duration};

use ruma::{OwnedEventId, RoomId, room_version_rules::RoomVersionRules};

use super::{
    RoomError, Rooms,
    core::{pdu, version},
    ingest::load,
    project,
};
use crate::store::{
    Kind, Nid, ReadTx, StoreError, WriteTx,
    schema::{
        events::{self, EventRow, NO_ROOM_ID},
        rooms, state,
    },
};

/// Shortest life of a message that a room may ask for: nobody loses a day's conversation to a slip of a moderator's.
pub const LIFETIME_MIN: Duration = Duration::from_secs(24 * 60 * 60);
/// Where a room says it: the name that Synapse reads, and the proposal's own while it is unstable.
const POLICIES: [&str; 2] = ["m.room.retention", "org.matrix.msc1763.retention"];
/// Messages in one operation.
const BATCH: u32 = 80;
/// Rooms looked at in one read.
const ROOMS_PAGE: i64 = 200;

/// Keeps up with the age of messages: remembers how far each room is done.
#[derive(Debug, Default)]
pub struct Retention {
    /// Life of a message in rooms that do not say; `None`: for ever.
    default: Option<Duration>,
    done: HashMap<Nid, i64>,
}

impl Retention {
    /// Nothing is done yet. `default`: life of a message in rooms that do not say; `None`: for ever.
    pub fn new(default: Option<Duration>) -> Self {
        Self { default, done: HashMap::new() }
    }
}

impl Rooms {
    /// Takes away what has grown too old by now, in all rooms. Gives the number of messages.
    pub async fn expire(&self, retention: &mut Retention) -> Result<u64, RoomError> {
        let now = i64::try_from(self.inner.clock.now_ms()).unwrap_or(i64::MAX);
        let default = retention.default;
        let (mut after, mut count) = (Nid(0), 0);
        loop {
            let page =
                self.inner.store.read(move |tx| -> Result<_, StoreError> { due(tx, after, default) }).await?;
            let Some((last, _)) = page.last().copied() else { return Ok(count) };
            after = last;
            for (room, lifetime) in page {
                let Some(lifetime) = lifetime else { continue };
                let before = now.saturating_sub(i64::try_from(lifetime.as_millis()).unwrap_or(i64::MAX));
                let mut from = retention.done.get(&room).copied().unwrap_or(0);
                loop {
                    let step = move |tx: &mut WriteTx<'_>| expire_some(tx, room, from, before);
                    let (done, upto) = self.inner.store.write(step).await?;
                    if done == 0 {
                        break;
                    }
                    count += done;
                    from = upto;
                }
                retention.done.insert(room, from);
            }
        }
    }
}

/// A page of rooms with the life of their messages, if it is limited.
fn due(
    tx: &ReadTx<'_>,
    after: Nid,
    default: Option<Duration>,
) -> Result<Vec<(Nid, Option<Duration>)>, StoreError> {
    let mut page = Vec::new();
    for room in rooms::page(tx, after, ROOMS_PAGE)? {
        let mut own = None;
        for kind in POLICIES {
            if let (None, Some(nid)) = (own, state::current_of(tx, room, kind, "")?) {
                own = events::event(tx, nid)?
                    .and_then(|event| project::content(&event.client).get("max_lifetime")?.as_u64());
            }
        }
        let lifetime = own.map(Duration::from_millis).or(default).map(|life| life.max(LIFETIME_MIN));
        page.push((room, lifetime));
    }
    Ok(page)
}

/// Takes some messages away: their number, and the time up to which it is done.
fn expire_some(tx: &mut WriteTx<'_>, room: Nid, from: i64, before: i64) -> Result<(u64, i64), StoreError> {
    let Some(row) = rooms::room(tx, room)? else { return Ok((0, from)) };
    let (Some(rules), room_id) = (version::rules(&row.version), load::room_id(tx, room)?) else {
        return Ok((0, from));
    };
    let room_id: &RoomId = &room_id;
    let (mut count, mut upto) = (0, from);
    for (nid, ts) in events::aged(tx, room, from, before, BATCH)? {
        let Some(event) = events::event(tx, nid)? else { continue };
        take_away(tx, &rules, room_id, &event)?;
        (count, upto) = (count + 1, ts);
    }
    Ok((count, upto))
}

/// Takes one message's content and place away.
fn take_away(
    tx: &mut WriteTx<'_>,
    rules: &RoomVersionRules,
    room_id: &RoomId,
    event: &EventRow,
) -> Result<(), StoreError> {
    project::relations::remove(tx, event, &project::content(&event.client))?;
    let says_room = event.flags & NO_ROOM_ID == 0;
    let (client, rest) = pdu::prune(rules, room_id, says_room, &event.client, &event.rest)
        .map_err(|_| StoreError::Corrupt("a stored event cannot be pruned"))?;
    events::expire(tx, event, &client, &rest)
}

/// Up to where an administrator takes a room's messages away.
#[derive(Clone, Debug)]
pub enum Until {
    /// Before this event of its timeline.
    Event(OwnedEventId),
    /// Sent before this time, in milliseconds.
    Time(u64),
}

impl Rooms {
    /// Takes a room's old messages away, those of our own users only with `ours`: other servers may have theirs still.
    /// State stays, and so do the ends of the graph. Gives the number of messages.
    pub async fn purge_history(&self, room: &RoomId, until: Until, ours: bool) -> Result<u64, RoomError> {
        let (room_id, server) = (room.to_owned(), self.server_name().to_owned());
        let (nid, until) = self
            .inner
            .store
            .read(move |tx| {
                let unknown = || RoomError::NotFound("this server does not know that room".into());
                let nid = tx.lookup(Kind::Room, room_id.as_str())?.ok_or_else(unknown)?;
                rooms::room(tx, nid)?.ok_or_else(unknown)?;
                let until = match until {
                    Until::Time(ms) => events::History::Time(i64::try_from(ms).unwrap_or(i64::MAX)),
                    Until::Event(id) => {
                        let event = events::event_by_id(tx, &id)?.filter(|event| event.room == nid);
                        let place = event.and_then(|event| Some((event.depth, event.seq?)));
                        let (depth, seq) = place.ok_or_else(|| {
                            RoomError::NotFound("that event is not in the room's timeline here".into())
                        })?;
                        events::History::Place(depth, seq)
                    }
                };
                Ok::<_, RoomError>((nid, until))
            })
            .await?;
        let (mut count, mut from) = (0, events::HISTORY_START);
        loop {
            let server = server.clone();
            let step = move |tx: &mut WriteTx<'_>| -> Result<Option<(u64, _)>, StoreError> {
                let Some(row) = rooms::room(tx, nid)? else { return Ok(None) };
                let (Some(rules), room_id) = (version::rules(&row.version), load::room_id(tx, nid)?) else {
                    return Ok(None);
                };
                let (mut count, mut last) = (0, None);
                for (place, event) in events::history(tx, nid, from, until, BATCH)? {
                    last = Some(place);
                    let Some(event) = events::event(tx, event)? else { continue };
                    let sender = tx.text(event.sender)?;
                    let local = sender.split_once(':').is_some_and(|(_, name)| name == server);
                    if !local || ours {
                        take_away(tx, &rules, &room_id, &event)?;
                        count += 1;
                    }
                }
                Ok(last.map(|last| (count, last)))
            };
            match self.inner.store.write(step).await? {
                Some((done, last)) => (count, from) = (count + done, last),
                None => return Ok(count),
            }
        }
    }
}
