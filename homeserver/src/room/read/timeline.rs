//! Owns paging through a room's timeline.

use std::{fmt, str::FromStr};

use crate::store::{Nid, ReadTx, Seq, StoreError, schema::events::EventRow};

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
    let newest: Option<(i64, Seq)> = tx.row(
        "SELECT event.depth, event.seq FROM stream JOIN event ON event.nid = stream.ref \
         WHERE stream.room = ?1 AND stream.seq <= ?2 AND stream.kind = 1 ORDER BY stream.seq DESC LIMIT 1",
        (room, seq),
        |row| Ok((row.get(0)?, row.get(1)?)),
    )?;
    Ok(newest.map_or(Token::START, |(depth, seq)| Token { depth, seq: Seq(seq.0.saturating_add(1)) }))
}
