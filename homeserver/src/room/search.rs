//! The verb that searches messages: catches the index up, asks it, leaves out what the user may not see.

use std::{collections::HashSet, time::Duration};

use ruma::{OwnedRoomId, OwnedUserId, RoomId, UserId, api::client::filter::RoomEventFilter};
use serde_json::Value;

use super::{
    ClientEvent, RoomError, Rooms,
    ingest::load,
    project::content,
    read::{
        Token,
        access::{Access, access},
        json::client_event,
        messages::{self, viewer},
        timeline,
    },
};
use crate::store::{
    Nid, ReadTx, Seq, StoreError, WriteTx,
    schema::{
        events::{self, EventRow, REDACTED},
        membership::{self, Membership},
        rooms, search,
    },
};

/// Stream rows indexed in one write: others get their turn between.
const INDEX_CHUNK: u32 = 500;
/// How long a search waits for the index to catch up; then it searches what there is, and the next one goes on.
const CATCH_UP_MAX: Duration = Duration::from_secs(10);
/// Hits of one search: what lies beyond wants a better question.
const HITS_MAX: u32 = 1_000;
/// Rooms of one search; of those who are in more, the ones they came to last.
const ROOMS_MAX: usize = 1_000;
/// Words of one question.
const WORDS_MAX: usize = 16;
/// Letters of a body that are indexed.
const WORDS_BYTES_MAX: usize = 16 << 10;
/// Results on a page if the client says nothing, and at most.
const PAGE: usize = 10;
const PAGE_MAX: usize = 100;
/// Events around a result, at most.
const AROUND_MAX: usize = 20;

/// What is searched for.
#[derive(Clone, Debug)]
pub struct Search {
    /// Words that an event has to have, all of them.
    pub term: String,
    /// Keys that may have them (`content.body` and so on); none: all.
    pub keys: Option<Vec<String>>,
    /// Rooms, senders, types, and results on a page.
    pub filter: RoomEventFilter,
    /// The newest first; else the best.
    pub recent: bool,
    /// Events before and after each result.
    pub around: (usize, usize),
    /// With names and pictures of the senders around.
    pub profiles: bool,
    /// With each room's state.
    pub state: bool,
    /// Where the page starts.
    pub from: usize,
}

/// A result.
#[derive(Debug)]
pub struct Hit {
    /// How good it is.
    pub rank: f64,
    /// Its room.
    pub room: OwnedRoomId,
    /// Its sender.
    pub sender: OwnedUserId,
    /// The event.
    pub event: ClientEvent,
    /// Before it, newest first.
    pub before: Vec<ClientEvent>,
    /// After it, oldest first.
    pub after: Vec<ClientEvent>,
    /// Tokens to page on from either end.
    pub start: Option<Token>,
    /// See [`Hit::start`].
    pub end: Option<Token>,
    /// Member events of the senders shown.
    pub members: Vec<ClientEvent>,
}

/// A page of results.
#[derive(Debug, Default)]
pub struct Found {
    /// All that match, as far as looked.
    pub count: usize,
    /// Those on this page.
    pub hits: Vec<Hit>,
    /// Where the next page starts.
    pub next: Option<usize>,
    /// The words searched for.
    pub words: Vec<String>,
    /// State of the rooms on this page, if it was asked for.
    pub state: Vec<(OwnedRoomId, Vec<ClientEvent>)>,
}

impl Rooms {
    /// Searches the rooms that a user is or was in.
    pub async fn search(&self, user: &UserId, question: Search) -> Result<Found, RoomError> {
        let begun = std::time::Instant::now();
        while begun.elapsed() < CATCH_UP_MAX && self.inner.store.write(catch_up).await? {}
        let user = user.to_owned();
        let now_ms = self.inner.clock.now_ms();
        self.inner.store.read(move |tx| find(tx, &user, &question, now_ms)).await
    }
}

/// Indexes a part of what the stream has beyond the index. True if there is more.
fn catch_up(tx: &mut WriteTx<'_>) -> Result<bool, StoreError> {
    let rows = search::next(tx, search::position(tx)?, INDEX_CHUNK)?;
    let Some((last, _)) = rows.last().copied() else { return Ok(false) };
    for nid in rows.iter().filter_map(|(_, nid)| *nid) {
        if let Some(event) = events::event(tx, nid)?
            && let Some(words) = words_of(tx, &event)?
        {
            search::put(tx, nid, event.room, &words)?;
        }
    }
    search::put_position(tx, last)?;
    Ok(rows.len() == INDEX_CHUNK as usize)
}

/// The text of an event that is searched, if it has one and its room is not encrypted.
pub(in crate::room) fn words_of(tx: &ReadTx<'_>, event: &EventRow) -> Result<Option<String>, StoreError> {
    let Some(key) = key_of(&tx.text(event.kind)?) else { return Ok(None) };
    if event.flags & REDACTED != 0
        || rooms::room(tx, event.room)?.is_none_or(|room| room.encryption.is_some())
    {
        return Ok(None);
    }
    let content = content(&event.client);
    let Some(Value::String(text)) = content.get(key) else { return Ok(None) };
    let end = text.floor_char_boundary(WORDS_BYTES_MAX);
    Ok(Some(text[..end].to_owned()))
}

/// The key of the content that is searched, by event type.
fn key_of(kind: &str) -> Option<&'static str> {
    match kind {
        "m.room.message" => Some("body"),
        "m.room.name" => Some("name"),
        "m.room.topic" => Some("topic"),
        _ => None,
    }
}

/// Letters and digits in a row, as the index cuts them.
fn split(term: &str) -> Vec<String> {
    let words = term.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
    let mut seen = HashSet::new();
    words.map(str::to_lowercase).filter(|word| seen.insert(word.clone())).take(WORDS_MAX).collect()
}

fn find(tx: &ReadTx<'_>, user: &UserId, question: &Search, now_ms: u64) -> Result<Found, RoomError> {
    let words = split(&question.term);
    if words.is_empty() {
        return Err(RoomError::Invalid("search_term: type a word to search for".into()));
    }
    let rooms = searched(tx, user, &question.filter)?;
    let limit = question.filter.limit.map_or(PAGE, |limit| u64::from(limit) as usize).clamp(1, PAGE_MAX);
    let mut accesses: Vec<(Nid, Access)> = Vec::new();
    let mut found = Found { words: words.clone(), ..Found::default() };
    for (nid, rank) in search::find(tx, &words, &rooms, question.recent, HITS_MAX)? {
        let Some(event) = events::event(tx, nid)? else { continue };
        let at = match accesses.iter().position(|(room, _)| *room == event.room) {
            Some(at) => at,
            None => {
                let id = load::room_id(tx, event.room)?;
                match access(tx, user, &id) {
                    Ok(access) => accesses.push((event.room, access)),
                    Err(RoomError::Forbidden(_)) => continue,
                    Err(error) => return Err(error),
                }
                accesses.len() - 1
            }
        };
        let access = &mut accesses[at].1;
        if event.flags & REDACTED != 0 || !wanted(tx, &event, question)? || !access.may_see(tx, &event)? {
            continue;
        }
        found.count += 1;
        if found.count > question.from && found.hits.len() < limit {
            found.hits.push(hit(tx, access, &event, rank, question, now_ms)?);
        }
    }
    // A full page may be followed by another: the client sees by the next one.
    found.next = (found.hits.len() == limit).then_some(question.from + limit);
    if question.state {
        for hit in &found.hits {
            if !found.state.iter().any(|(room, _)| *room == hit.room) {
                found.state.push((hit.room.clone(), super::read::state_events(tx, user, &hit.room, now_ms)?));
            }
        }
    }
    Ok(found)
}

/// Rooms that the user is or was in and the filter names.
fn searched(tx: &ReadTx<'_>, user: &UserId, filter: &RoomEventFilter) -> Result<Vec<Nid>, StoreError> {
    let Some(user) = tx.lookup(crate::store::Kind::User, user.as_str())? else { return Ok(Vec::new()) };
    let mut rows = membership::user_rooms(tx, user)?;
    rows.retain(|row| {
        let been = row.membership == Membership::Join || row.left_seq.is_some();
        been && !row.forgotten
    });
    rows.sort_by_key(|row| std::cmp::Reverse(row.seq.max(row.left_seq.unwrap_or(Seq(0)))));
    let mut rooms = Vec::new();
    for row in rows {
        let id = tx.text(row.room)?;
        let is = |room: &OwnedRoomId| *room.as_str() == *id;
        if !filter.not_rooms.iter().any(is) && filter.rooms.as_ref().is_none_or(|rooms| rooms.iter().any(is))
        {
            rooms.push(row.room);
        }
        if rooms.len() >= ROOMS_MAX {
            break;
        }
    }
    Ok(rooms)
}

fn wanted(tx: &ReadTx<'_>, event: &EventRow, question: &Search) -> Result<bool, StoreError> {
    let kind = tx.text(event.kind)?;
    let Some(key) = key_of(&kind) else { return Ok(false) };
    let named = question
        .keys
        .as_ref()
        .is_none_or(|keys| keys.iter().any(|wanted| wanted.strip_prefix("content.") == Some(key)));
    Ok(named && messages::wanted(tx, event, Some(&question.filter))?)
}

fn hit(
    tx: &ReadTx<'_>,
    access: &mut Access,
    event: &EventRow,
    rank: f64,
    question: &Search,
    now_ms: u64,
) -> Result<Hit, StoreError> {
    let sees = viewer(access, now_ms);
    let sender =
        UserId::parse(&*tx.text(event.sender)?).map_err(|_| StoreError::Corrupt("a sender is no user"))?;
    let mut hit = Hit {
        rank,
        room: load::room_id(tx, event.room)?,
        sender,
        event: client_event(tx, event, &sees)?,
        before: Vec::new(),
        after: Vec::new(),
        start: None,
        end: None,
        members: Vec::new(),
    };
    let (before, after) = (question.around.0.min(AROUND_MAX), question.around.1.min(AROUND_MAX));
    let mut shown = vec![event.clone()];
    if let (Some(at), Some(after_it)) = (Token::before(event), Token::after(event)) {
        let list = |events: &[EventRow]| -> Result<Vec<ClientEvent>, StoreError> {
            events.iter().map(|event| client_event(tx, event, &sees)).collect()
        };
        (hit.start, hit.end) = (Some(at), Some(after_it));
        if before > 0 {
            let page = timeline::page(tx, access, at, None, true, before, |_| Ok(true))?;
            (hit.before, hit.start) = (list(&page.events)?, Some(page.next));
            shown.extend(page.events);
        }
        if after > 0 {
            let page = timeline::page(tx, access, after_it, None, false, after, |_| Ok(true))?;
            (hit.after, hit.end) = (list(&page.events)?, Some(page.next));
            shown.extend(page.events);
        }
    }
    if question.profiles {
        hit.members = messages::senders(tx, access, &shown, &sees)?;
    }
    Ok(hit)
}

impl Found {
    /// Rooms of this page's results, each once.
    pub fn rooms(&self) -> Vec<&RoomId> {
        let mut rooms: Vec<&RoomId> = Vec::new();
        for hit in &self.hits {
            if !rooms.contains(&&*hit.room) {
                rooms.push(&hit.room);
            }
        }
        rooms
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_typed_becomes_plain_words() {
        assert_eq!(split("Message 4"), ["message", "4"]);
        assert_eq!(
            split("\" OR room : * NEAR(a\0b) \u{201c}Äpfel\u{201d}"),
            ["or", "room", "near", "a", "b", "äpfel"]
        );
        assert!(split("--- !").is_empty());
        assert_eq!(split(&"w ".repeat(50)), ["w"]);
    }
}
