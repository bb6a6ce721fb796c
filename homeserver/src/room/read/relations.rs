//! Owns what relates to an event, and a room's threads.

use std::collections::HashSet;

use ruma::{EventId, OwnedDeviceId, RoomId, UserId};

use super::{
    access::access,
    json::{Viewer, client_event},
    messages::{viewer, visible},
    timeline::Token,
};
use crate::{
    room::{ClientEvent, RoomError, Rooms},
    store::{
        Kind, Nid, ReadTx, Seq, StoreError,
        schema::{events, threads},
    },
};

/// Children in one page, at most.
const LIMIT_MAX: u32 = 100;
/// Children that one page looks at, however few of them it shows.
const CHILDREN_MAX: u32 = 10_000;
/// How far children of children are followed. The specification wants three at least.
const RECURSION_MAX: u32 = 3;
/// Parents that a page with recursion looks below.
const PARENTS_MAX: usize = 1_000;
/// Threads that one page of the list looks at.
const THREADS_SCANNED_MAX: u32 = 1_000;

/// Which children of an event are wanted.
#[derive(Clone, Debug, Default)]
pub struct RelationsQuery {
    /// The relation.
    pub rel_type: Option<String>,
    /// The child's event type.
    pub event_type: Option<String>,
    /// Where to start.
    pub from: Option<Token>,
    /// Where to stop.
    pub to: Option<Token>,
    /// Oldest first.
    pub forwards: bool,
    /// Children on the page, at most.
    pub limit: u32,
    /// Children of children, too.
    pub recurse: bool,
    /// The device that asks.
    pub device: Option<OwnedDeviceId>,
}

/// A page of children.
#[derive(Debug, Default)]
pub struct Relations {
    /// The children in the order of the direction.
    pub chunk: Vec<ClientEvent>,
    /// Where the next page starts, if there is one.
    pub next: Option<Token>,
    /// How far children of children were followed.
    pub depth: u32,
}

impl Rooms {
    /// Children of an event that the user may see.
    pub async fn relations(
        &self,
        user: &UserId,
        room: &RoomId,
        parent: &EventId,
        query: RelationsQuery,
    ) -> Result<Relations, RoomError> {
        let (user, room, parent) = (user.to_owned(), room.to_owned(), parent.to_owned());
        let now_ms = self.inner.clock.now_ms();
        self.inner.store.read(move |tx| relations(tx, &user, &room, &parent, &query, now_ms)).await
    }

    /// Roots of the room's threads, the one with the newest reply first; with a token for the next page.
    pub async fn threads(
        &self,
        user: &UserId,
        room: &RoomId,
        participated: bool,
        from: Option<&str>,
        limit: u32,
    ) -> Result<(Vec<ClientEvent>, Option<String>), RoomError> {
        let (user, room) = (user.to_owned(), room.to_owned());
        let now_ms = self.inner.clock.now_ms();
        let from = match from {
            Some(from) => from
                .strip_prefix('h')
                .and_then(|number| number.parse().ok())
                .map(Seq)
                .ok_or_else(|| RoomError::Invalid("`from` is no token of this list".into()))?,
            None => Seq(i64::MAX),
        };
        let limit = limit.clamp(1, LIMIT_MAX) as usize;
        self.inner
            .store
            .read(move |tx| {
                let mut access = access(tx, &user, &room)?;
                let viewer = viewer(&access, now_ms);
                let thread = tx.lookup(Kind::Name, "m.thread")?;
                let (mut list, mut last) = (Vec::new(), None);
                for (root, seq) in threads::list(tx, access.row.room, from, THREADS_SCANNED_MAX)? {
                    if list.len() == limit {
                        return Ok((list, last));
                    }
                    last = Some(format!("h{}", seq.0));
                    let Some(event) = events::event(tx, root)? else { continue };
                    let takes_part = |tx: &ReadTx<'_>| -> Result<bool, StoreError> {
                        let Some(thread) = thread else { return Ok(false) };
                        let (_, mine) = events::relation_count(tx, root, thread, viewer.user)?;
                        Ok(mine || event.sender == viewer.user)
                    };
                    if access.may_see(tx, &event)? && (!participated || takes_part(tx)?) {
                        list.push(client_event(tx, &event, &viewer)?);
                    }
                }
                Ok((list, None))
            })
            .await
    }
}

fn relations(
    tx: &ReadTx<'_>,
    user: &UserId,
    room: &RoomId,
    parent: &EventId,
    query: &RelationsQuery,
    now_ms: u64,
) -> Result<Relations, RoomError> {
    let (mut access, row) = visible(tx, user, room, parent)?;
    let mut answer =
        Relations { depth: if query.recurse { RECURSION_MAX } else { 0 }, ..Relations::default() };
    let rel = match &query.rel_type {
        Some(rel) => match tx.lookup(Kind::Name, rel)? {
            Some(rel) => Some(rel),
            None => return Ok(answer),
        },
        None => None,
    };
    let backwards = !query.forwards;
    let start = query.from.unwrap_or(if backwards { Token::END } else { Token::START });
    let mut places = Vec::new();
    for parent in parents(tx, row.nid, query.recurse)? {
        places.extend(start.children(tx, parent, rel, backwards, CHILDREN_MAX)?);
    }
    if query.recurse {
        places.sort_unstable();
        places.dedup();
        if backwards {
            places.reverse();
        }
    }
    let limit = query.limit.clamp(1, LIMIT_MAX) as usize;
    let viewer = Viewer { device: query.device.as_deref(), ..viewer(&access, now_ms) };
    let mut last = start;
    for (depth, seq, child) in places {
        if query.to.is_some_and(|to| to.stops(depth, seq, backwards)) {
            break;
        }
        let Some(event) = events::event(tx, child)? else { continue };
        let other = |kind: &String| tx.text(event.kind).is_ok_and(|is| *is != **kind);
        if query.event_type.as_ref().is_some_and(other) || !access.may_see(tx, &event)? {
            continue;
        }
        if answer.chunk.len() == limit {
            answer.next = Some(last);
            break;
        }
        last = start.past(depth, seq, backwards);
        answer.chunk.push(client_event(tx, &event, &viewer)?);
    }
    Ok(answer)
}

/// The event, and with recursion what relates to it, all levels but the last.
fn parents(tx: &ReadTx<'_>, event: Nid, recurse: bool) -> Result<Vec<Nid>, StoreError> {
    let mut parents = vec![event];
    if !recurse {
        return Ok(parents);
    }
    let mut seen = HashSet::from([event]);
    let mut level = 0..1;
    for _ in 1..RECURSION_MAX {
        let begin = parents.len();
        for at in level {
            let left = PARENTS_MAX.saturating_sub(parents.len()) as u32;
            for (child, _) in events::relations(tx, parents[at], None, left)? {
                if seen.insert(child) {
                    parents.push(child);
                }
            }
        }
        level = begin..parents.len();
    }
    Ok(parents)
}
