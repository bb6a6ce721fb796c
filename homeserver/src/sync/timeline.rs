//! The timeline of one room in one response.

use std::collections::HashSet;

use super::filter::EventFilter;
use crate::{
    room::read::timeline::Token,
    store::{
        Nid, ReadTx, Seq, StoreError,
        schema::{
            events::{self, EventRow},
            state, sync as query,
        },
    },
};

/// Events that are looked at for one timeline; if a filter lets few of them pass, the client pages on by itself.
const SCAN_MAX: usize = 1_000;
/// Gaps of one room that are looked at.
pub(in crate::sync) const GAPS_MAX: u32 = 100;

/// Which part of a room's timeline.
#[derive(Clone, Copy, Debug)]
pub(in crate::sync) struct Window {
    /// The room.
    pub(in crate::sync) room: Nid,
    /// Events after this position.
    pub(in crate::sync) after: Seq,
    /// Up to this one.
    pub(in crate::sync) upto: Seq,
    /// Events from here on are visible without a look at the room's rules: the user was in the room.
    pub(in crate::sync) visible_from: Seq,
}

impl Window {
    /// The client has nothing of the room yet.
    fn is_first(&self) -> bool {
        self.after == Seq(0)
    }
}

/// For whom a timeline is read, and what of it.
#[derive(Clone, Copy, Debug)]
pub(in crate::sync) struct View<'a> {
    /// The user.
    pub(in crate::sync) user: Nid,
    /// What the client wants to see.
    pub(in crate::sync) filter: &'a EventFilter,
    /// How many events at most.
    pub(in crate::sync) limit: usize,
    /// Senders whose messages the user does not want to see.
    pub(in crate::sync) ignored: &'a HashSet<Nid>,
}

/// Events, oldest first.
#[derive(Debug)]
pub(in crate::sync) struct Timeline {
    pub(in crate::sync) events: Vec<EventRow>,
    /// There are more before.
    pub(in crate::sync) limited: bool,
    /// Where to page back from.
    pub(in crate::sync) prev_batch: Token,
    /// The least position of its events; after all if there is none.
    pub(in crate::sync) start: Seq,
}

impl Timeline {
    /// Reads the latest events of the window that the filter and the room's rules let through. For a client that sees the
    /// room for the first time, those that are last in the room's own order: what came late and belongs further up is not
    /// new to it.
    pub(in crate::sync) fn load(
        tx: &ReadTx<'_>,
        view: &View<'_>,
        room_id: &str,
        window: Window,
    ) -> Result<Self, StoreError> {
        let mut timeline = Self {
            events: Vec::new(),
            limited: false,
            prev_batch: Token::END,
            start: Seq(window.upto.0.saturating_add(1)),
        };
        if !view.filter.is_closed_in(room_id) {
            timeline.fill(tx, view, window)?;
        }
        timeline.events.reverse();
        let first = timeline.events.first().and_then(|event| event.seq);
        timeline.prev_batch = match timeline.events.first().and_then(Token::before) {
            Some(first) if window.is_first() => first,
            _ => Token::stream(first.unwrap_or(timeline.start)),
        };
        Ok(timeline)
    }

    /// Fills in events, newest first.
    fn fill(&mut self, tx: &ReadTx<'_>, view: &View<'_>, window: Window) -> Result<(), StoreError> {
        let limit = view.limit;
        let gaps: HashSet<Nid> = query::after_gaps(tx, window.room, GAPS_MAX)?.into_iter().collect();
        let mut upto = window.upto;
        let mut place = (i64::MAX, Seq(i64::MAX));
        let mut scanned = 0;
        loop {
            let batch = (limit + 1).min(SCAN_MAX - scanned);
            let rows: Vec<(Seq, Nid)> = if window.is_first() {
                let seqs = (Seq(1), window.upto);
                let size = u32::try_from(batch).unwrap_or(u32::MAX);
                let rows = events::places(tx, window.room, place, seqs, true, size)?;
                place = rows.last().map_or(place, |(depth, seq, _)| (*depth, *seq));
                rows.into_iter().map(|(_, seq, nid)| (seq, nid)).collect()
            } else {
                query::timeline(tx, window.room, window.after, upto, batch)?
            };
            let last = rows.len() < batch;
            scanned += rows.len();
            for (seq, nid) in rows {
                upto = Seq(seq.0 - 1);
                let Some(event) = events::event(tx, nid)? else { continue };
                if !passes(tx, view, &event)? {
                    continue;
                }
                if seq < window.visible_from && !visible(tx, view.user, &event)? {
                    // State that stands behind what is shown would be undone by older state in the same piece.
                    if event.skey.is_some() && !self.events.is_empty() {
                        self.limited = true;
                        return Ok(());
                    }
                    continue;
                }
                if self.events.len() >= limit {
                    self.limited = true;
                    return Ok(());
                }
                self.events.push(event);
                self.start = self.start.min(seq);
                if gaps.contains(&nid) {
                    self.limited = true;
                    return Ok(());
                }
            }
            if last {
                return Ok(());
            }
            if scanned >= SCAN_MAX {
                self.limited = true;
                return Ok(());
            }
        }
    }

    /// Whether this event is in it.
    pub(in crate::sync) fn contains(&self, nid: Nid) -> bool {
        self.events.iter().any(|event| event.nid == nid)
    }
}

/// Whether the client's filter and the user's list of whom to ignore let an event through.
fn passes(tx: &ReadTx<'_>, view: &View<'_>, event: &EventRow) -> Result<bool, StoreError> {
    if event.skey.is_none() && event.sender != view.user && view.ignored.contains(&event.sender) {
        return Ok(false);
    }
    let filter = view.filter;
    if filter.is_open() {
        return Ok(true);
    }
    let (kind, sender) = (tx.text(event.kind)?, tx.text(event.sender)?);
    Ok(filter.passes(&kind, &sender, || has_url(&event.client)))
}

/// Whether a membership event says that its user is in the room.
pub(in crate::sync) fn is_join(client: &[u8]) -> bool {
    #[derive(serde::Deserialize)]
    struct Event {
        content: Content,
    }
    #[derive(serde::Deserialize)]
    struct Content {
        membership: String,
    }
    serde_json::from_slice::<Event>(client).is_ok_and(|event| event.content.membership == "join")
}

/// Whether an event's content has a `url`.
pub(in crate::sync) fn has_url(client: &[u8]) -> bool {
    #[derive(serde::Deserialize)]
    struct Event {
        content: Content,
    }
    #[derive(serde::Deserialize)]
    struct Content {
        url: Option<String>,
    }
    serde_json::from_slice::<Event>(client).is_ok_and(|event| event.content.url.is_some())
}

/// Whether a user who is (or was) in the room may see an event from before: by the state before it, and for an event
/// that itself changes who may, also by the state after it.
fn visible(tx: &ReadTx<'_>, user: Nid, event: &EventRow) -> Result<bool, StoreError> {
    for sid in [event.state_before, event.state_after].into_iter().flatten() {
        let history = content_at(tx, sid, "m.room.history_visibility", "", "history_visibility")?;
        let member = content_at(tx, sid, "m.room.member", &tx.text(user)?, "membership")?;
        // The user was a member at some time after the event: the window ends with a membership.
        let sees = match (history.as_deref(), member.as_deref()) {
            (_, Some("join")) | (Some("invited"), Some("invite")) => true,
            (Some("invited" | "joined"), _) => false,
            _ => true,
        };
        if sees {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A text field of the content of a state event in a snapshot.
pub(in crate::sync) fn content_at(
    tx: &ReadTx<'_>,
    sid: i64,
    event_type: &str,
    state_key: &str,
    field: &str,
) -> Result<Option<String>, StoreError> {
    #[derive(serde::Deserialize)]
    struct Event {
        content: serde_json::Map<String, serde_json::Value>,
    }
    let Some(skey) = tx.lookup_skey(event_type, state_key)? else { return Ok(None) };
    let Some(nid) = state::one(tx, sid, skey)? else { return Ok(None) };
    let Some(event) = events::event(tx, nid)? else { return Ok(None) };
    let event = serde_json::from_slice::<Event>(&event.client).ok();
    Ok(event.and_then(|event| Some(event.content.get(field)?.as_str()?.to_owned())))
}
