//! Owns paging through a room's timeline.

use std::{fmt, str::FromStr};

use super::access::Access;
use crate::store::{
    Nid, ReadTx, Seq, StoreError,
    schema::events::{self, EventRow},
};

/// A place between two events of a timeline: backwards from it come events with a smaller (depth, seq), forwards those
/// with an equal or greater one. Text form `t<depth>_<seq>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Token {
    /// Depth in our timeline.
    pub depth: i64,
    /// Position in the stream, negative if backfilled.
    pub seq: Seq,
}

impl Token {
    /// After everything.
    pub const END: Self = Self { depth: i64::MAX, seq: Seq(i64::MAX) };
    /// Before everything.
    pub const START: Self = Self { depth: i64::MIN, seq: Seq(i64::MIN) };

    /// Just before an event of the timeline: the `prev_batch` of a timeline that begins with it.
    pub fn before(event: &EventRow) -> Option<Self> {
        event.seq.map(|seq| Self { depth: event.depth, seq })
    }

    /// Just after an event of the timeline.
    pub fn after(event: &EventRow) -> Option<Self> {
        event.seq.map(|seq| Self { depth: event.depth, seq: Seq(seq.0.saturating_add(1)) })
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "t{}_{}", self.depth, self.seq.0)
    }
}

impl FromStr for Token {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (depth, seq) = text.strip_prefix('t').and_then(|rest| rest.split_once('_')).ok_or(())?;
        Ok(Self { depth: depth.parse().map_err(|_| ())?, seq: Seq(seq.parse().map_err(|_| ())?) })
    }
}

/// The token just after everything that had happened in the room at stream position `seq` (for a client that pages from
/// a sync token).
pub fn token_at(tx: &ReadTx<'_>, room: Nid, seq: Seq) -> Result<Token, StoreError> {
    let newest = events::newest_at(tx, room, seq)?;
    Ok(newest.map_or(Token::START, |(depth, seq)| Token { depth, seq: Seq(seq.0.saturating_add(1)) }))
}

/// Events that one page looks at, at most, however few of them the viewer may see.
const SCAN_MAX: usize = 2000;
/// Places read at a time.
const LOOK: u32 = 50;

/// A page of what the viewer may see.
pub(in crate::room) struct Page {
    /// Events in the order of the direction.
    pub(in crate::room) events: Vec<EventRow>,
    /// Where the next page starts.
    pub(in crate::room) next: Token,
    /// The timeline ends here in this direction.
    pub(in crate::room) ended: bool,
}

/// Up to `limit` visible events from `from` on, not beyond `to`.
pub(in crate::room) fn page(
    tx: &ReadTx<'_>,
    access: &mut Access,
    from: Token,
    to: Option<Token>,
    backwards: bool,
    limit: usize,
    mut wanted: impl FnMut(&EventRow) -> Result<bool, StoreError>,
) -> Result<Page, StoreError> {
    let mut page = Page { events: Vec::new(), next: from, ended: false };
    let mut scanned = 0;
    while page.events.len() < limit && scanned < SCAN_MAX {
        let from = (page.next.depth, page.next.seq);
        let places = events::places(tx, access.row.room, from, backwards, LOOK)?;
        if places.is_empty() {
            page.ended = true;
            break;
        }
        for (depth, seq, nid) in places {
            let place = Token { depth, seq };
            let next = if backwards { place } else { Token { depth, seq: Seq(seq.0.saturating_add(1)) } };
            if to.is_some_and(|to| if backwards { place < to } else { place >= to }) {
                page.ended = true;
                return Ok(page);
            }
            scanned += 1;
            page.next = next;
            let Some(event) = events::event(tx, nid)? else { continue };
            if access.may_see(tx, &event)? && wanted(&event)? {
                page.events.push(event);
                if page.events.len() >= limit {
                    return Ok(page);
                }
            }
        }
    }
    Ok(page)
}
