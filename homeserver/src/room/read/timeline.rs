//! Owns paging through a room's timeline.

use std::{fmt, str::FromStr};

use super::access::Access;
use crate::store::{
    Nid, ReadTx, Seq, StoreError,
    schema::events::{self, EventRow},
};

/// A place between two events of a timeline: backwards from it come events with a smaller (depth, seq), forwards those
/// with an equal or greater one.
///
/// An event that comes late has a small depth and a great seq: it lies among events that a client already has. So a place
/// that comes from `/sync` is one of the stream ([`Token::stream`]): paging back from it gives all that the stream had
/// before, in the timeline's order, and nothing that the client was given after it; `part` keeps to that over the pages.
///
/// Text forms: `t<depth>_<seq>`, the same with `_b<seq>` or `_f<seq>`, and `p<seq>` for a place of the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token {
    /// Depth in our timeline.
    pub(super) depth: i64,
    /// Position in the stream, negative if backfilled.
    seq: Seq,
    part: Part,
}

/// Which events of the timeline count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    All,
    /// Backwards: those that the stream has before a position.
    Before(Seq),
    /// Forwards: those that the stream has from a position on.
    From(Seq),
}

impl Token {
    /// After everything.
    pub const END: Self = Self { depth: i64::MAX, seq: Seq(i64::MAX), part: Part::All };
    /// Before everything.
    pub const START: Self = Self { depth: i64::MIN, seq: Seq(i64::MIN), part: Part::All };

    /// Just before an event of the timeline, among all events.
    pub fn before(event: &EventRow) -> Option<Self> {
        event.seq.map(|seq| Self::place(event.depth, seq))
    }

    /// Just after an event of the timeline, among all events.
    pub fn after(event: &EventRow) -> Option<Self> {
        event.seq.map(|seq| Self::place(event.depth, next(seq)))
    }

    /// Just before position `seq` of the stream: the `prev_batch` of a timeline whose first event has it.
    pub fn stream(seq: Seq) -> Self {
        Self { part: Part::Before(seq), ..Self::END }
    }

    fn place(depth: i64, seq: Seq) -> Self {
        Self { depth, seq, part: Part::All }
    }

    /// The position, if this is a place of the stream.
    fn as_stream(self) -> Option<Seq> {
        match self.part {
            Part::Before(seq) if self.depth == i64::MAX => Some(seq),
            _ => None,
        }
    }

    /// As a start for paging in a direction; a part of the other direction does not count.
    fn facing(self, backwards: bool) -> Self {
        match (self.part, self.as_stream()) {
            (_, Some(seq)) if !backwards => Self { part: Part::From(seq), ..Self::START },
            (Part::Before(_), _) if backwards => self,
            (Part::From(_), _) if !backwards => self,
            _ => Self { part: Part::All, ..self },
        }
    }

    /// The greatest and least seq that count.
    fn range(self) -> (Seq, Seq) {
        match self.part {
            Part::All => (Seq(i64::MIN), Seq(i64::MAX)),
            Part::Before(seq) => (Seq(i64::MIN), Seq(seq.0.saturating_sub(1))),
            Part::From(seq) => (seq, Seq(i64::MAX)),
        }
    }

    /// The newest event before this place.
    pub(super) fn newest_before(self, tx: &ReadTx<'_>, room: Nid) -> Result<Option<Nid>, StoreError> {
        Ok(self.facing(true).places(tx, room, true, 1)?.first().map(|(_, _, nid)| *nid))
    }

    /// Children of an event from this place on, in the order of the direction.
    pub(super) fn children(
        self,
        tx: &ReadTx<'_>,
        parent: Nid,
        rel: Option<Nid>,
        backwards: bool,
        limit: u32,
    ) -> Result<Vec<(i64, Seq, Nid)>, StoreError> {
        let from = self.facing(backwards);
        events::children(tx, parent, rel, (from.depth, from.seq), from.range(), backwards, limit)
    }

    /// The place just past one at (depth, seq), for going on in the direction that this one was gone from.
    pub(super) fn past(self, depth: i64, seq: Seq, backwards: bool) -> Self {
        let part = self.facing(backwards).part;
        Self { depth, seq: if backwards { seq } else { next(seq) }, part }
    }

    /// Whether (depth, seq) lies beyond this place, where it is where to stop.
    pub(super) fn stops(self, depth: i64, seq: Seq, backwards: bool) -> bool {
        match self.as_stream() {
            Some(until) if backwards => seq < until,
            Some(until) => seq >= until,
            None if backwards => (depth, seq) < (self.depth, self.seq),
            None => (depth, seq) >= (self.depth, self.seq),
        }
    }

    /// The first `count` events from this place on, oldest first.
    pub(super) fn oldest_from(self, tx: &ReadTx<'_>, room: Nid, count: u32) -> Result<Vec<Nid>, StoreError> {
        let places = self.facing(false).places(tx, room, false, count)?;
        Ok(places.into_iter().map(|(_, _, nid)| nid).collect())
    }

    /// Places from this one on, in the order of the direction.
    fn places(
        self,
        tx: &ReadTx<'_>,
        room: Nid,
        backwards: bool,
        limit: u32,
    ) -> Result<Vec<(i64, Seq, Nid)>, StoreError> {
        events::places(tx, room, (self.depth, self.seq), self.range(), backwards, limit)
    }
}

fn next(seq: Seq) -> Seq {
    Seq(seq.0.saturating_add(1))
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(seq) = self.as_stream() {
            return write!(f, "p{}", seq.0);
        }
        write!(f, "t{}_{}", self.depth, self.seq.0)?;
        match self.part {
            Part::All => Ok(()),
            Part::Before(seq) => write!(f, "_b{}", seq.0),
            Part::From(seq) => write!(f, "_f{}", seq.0),
        }
    }
}

impl FromStr for Token {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let number = |text: &str| text.parse().map_err(|_| ());
        if let Some(seq) = text.strip_prefix('p') {
            return Ok(Self::stream(Seq(number(seq)?)));
        }
        let mut parts = text.strip_prefix('t').ok_or(())?.split('_');
        let depth = number(parts.next().ok_or(())?)?;
        let seq = Seq(number(parts.next().ok_or(())?)?);
        let part = match parts.next().map(|part| part.split_at_checked(1).ok_or(())).transpose()? {
            None => Part::All,
            Some(("b", seq)) => Part::Before(Seq(number(seq)?)),
            Some(("f", seq)) => Part::From(Seq(number(seq)?)),
            Some(_) => return Err(()),
        };
        if parts.next().is_some() { Err(()) } else { Ok(Self { depth, seq, part }) }
    }
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
    let from = from.facing(backwards);
    let mut page = Page { events: Vec::new(), next: from, ended: false };
    let until = to.and_then(Token::as_stream);
    let mut scanned = 0;
    while page.events.len() < limit && scanned < SCAN_MAX {
        let places = page.next.places(tx, access.row.room, backwards, LOOK)?;
        if places.is_empty() {
            page.ended = true;
            break;
        }
        for (depth, seq, nid) in places {
            let ended = match (to, until) {
                (Some(to), None) if backwards => (depth, seq) < (to.depth, to.seq),
                (Some(to), None) => (depth, seq) >= (to.depth, to.seq),
                _ => false,
            };
            if ended {
                page.ended = true;
                return Ok(page);
            }
            scanned += 1;
            page.next = Token { depth, seq: if backwards { seq } else { next(seq) }, part: from.part };
            if until.is_some_and(|until| if backwards { seq < until } else { seq >= until }) {
                continue;
            }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_read_as_they_are_written() {
        let place = Token { depth: 7, seq: Seq(-3), part: Part::All };
        let tokens = [
            Token::END,
            Token::START,
            Token::stream(Seq(12)),
            place,
            Token { part: Part::Before(Seq(9)), ..place },
            Token { part: Part::From(Seq(9)), ..place },
        ];
        for token in tokens {
            assert_eq!(token.to_string().parse(), Ok(token), "{token}");
        }
        for bad in ["", "p", "t1", "t1_2_x3", "t1_2_b", "t1_2_b3_4", "t1_2_é3", "q1", "t_1"] {
            assert!(bad.parse::<Token>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_place_of_the_stream_faces_both_ways() {
        let token = Token::stream(Seq(5));
        assert_eq!(token.facing(true).range(), (Seq(i64::MIN), Seq(4)));
        assert_eq!(token.facing(false), Token { part: Part::From(Seq(5)), ..Token::START });
        // A page's end, turned around, is a place among all events.
        let turned = Token { depth: 3, seq: Seq(4), part: Part::Before(Seq(9)) }.facing(false);
        assert_eq!(turned.part, Part::All);
    }
}
