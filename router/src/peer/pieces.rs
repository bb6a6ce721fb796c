//! Owns packets that are longer than a datagram link takes: cut into pieces at one end of the link, put together at the
//! other. Only so far as every link must take ([`crate::config::DATAGRAM_MTU`]): what is longer goes by other links.
//!
//! ```text
//! PIECE = 05 counter:8 mac:8  number:4 at:1 of:1  bytes
//! ```
//! `number` names the packet, `at` counts its pieces from 0, `of` says how many there are. Pieces may come in any order; one
//! that is lost loses the packet, as the loss of a whole frame would.
use crate::config::DATAGRAM_MTU;
use crate::time::{Duration, Instant};
use crate::wire::{FrameError, Reader, Writer};
use bytes::Bytes;
use std::collections::VecDeque;

/// Bytes of a piece before what it carries, counter and MAC left out.
pub(super) const PIECE_HEAD: usize = 4 + 1 + 1;

/// The pieces of a packet, header first, each of at most `room` bytes with its header; none if they would be too many.
pub(super) fn cut(packet: &[u8], number: u32, room: usize) -> Vec<Vec<u8>> {
    let each = room.saturating_sub(PIECE_HEAD).max(1);
    let of = packet.len().div_ceil(each);
    if of > PIECES_MAX {
        return Vec::new();
    }
    // All about as long: on a link that is slow the last is not worth a frame less.
    let each = packet.len().div_ceil(of.max(1)).max(1);
    let piece = |(at, bytes): (usize, &[u8])| {
        let mut piece = Vec::with_capacity(PIECE_HEAD + bytes.len());
        piece.put_four(number);
        piece.put_byte(at as u8);
        piece.put_byte(of as u8);
        piece.put(bytes);
        piece
    };
    packet.chunks(each).enumerate().map(piece).collect()
}

/// Packets of which some pieces have come.
#[derive(Debug, Default)]
pub(super) struct Joiner {
    open: VecDeque<Open>,
}

#[derive(Debug)]
struct Open {
    number: u32,
    since: Instant,
    left: usize,
    pieces: Vec<Option<Bytes>>,
}

impl Joiner {
    /// A piece whose MAC holds: the packet, if it is whole with it.
    pub(super) fn on_piece(&mut self, piece: &[u8], now: Instant) -> Result<Option<Vec<u8>>, FrameError> {
        let mut reader = Reader::new(piece);
        let (number, at, of) = (reader.u32()?, usize::from(reader.u8()?), usize::from(reader.u8()?));
        let bytes = reader.rest();
        if at >= of || of > PIECES_MAX || bytes.is_empty() {
            return Err(FrameError::Value);
        }
        self.open.retain(|open| now.since(open.since) < WAIT_MAX);
        let known = self.open.iter().position(|open| open.number == number);
        let known = known.unwrap_or_else(|| {
            if self.open.len() >= OPEN_MAX {
                self.open.pop_front();
            }
            self.open.push_back(Open { number, since: now, left: of, pieces: vec![None; of] });
            self.open.len() - 1
        });
        let open = &mut self.open[known];
        if open.pieces.len() != of {
            return Err(FrameError::Value);
        }
        if open.pieces[at].is_none() {
            open.pieces[at] = Some(Bytes::copy_from_slice(bytes));
            open.left -= 1;
        }
        if open.left > 0 {
            return Ok(None);
        }
        let whole = self.open.remove(known).map_or(Vec::new(), |open| open.pieces);
        let whole: Vec<u8> = whole.into_iter().flatten().flatten().collect();
        if whole.len() > DATAGRAM_MTU { Err(FrameError::Long) } else { Ok(Some(whole)) }
    }
}

/// Pieces of a packet: the shortest frames that a link may have still carry the longest packet that it must.
const PIECES_MAX: usize = 4;
/// Packets of a link whose pieces are waited for; the oldest gives way. Frames overtake each other by a few at most.
const OPEN_MAX: usize = 16;
/// What has not come by then was lost: a second is long for a link.
const WAIT_MAX: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::DATAGRAM_MTU_LEAST;

    const NOW: Instant = Instant::from_micros(5);

    #[test]
    fn what_was_cut_is_joined_in_any_order_and_once() {
        let packet: Vec<u8> = (0..DATAGRAM_MTU).map(|n| n as u8).collect();
        let mut pieces = cut(&packet, 7, DATAGRAM_MTU_LEAST - 17);
        assert!(pieces.len() > 1 && pieces.iter().all(|piece| piece.len() <= DATAGRAM_MTU_LEAST - 17));
        pieces.rotate_left(1);
        let mut joiner = Joiner::default();
        let (last, first) = pieces.split_last().unwrap();
        for piece in first.iter().chain(first) {
            assert_eq!(joiner.on_piece(piece, NOW), Ok(None));
        }
        assert_eq!(joiner.on_piece(last, NOW), Ok(Some(packet)));
        assert_eq!(joiner.on_piece(last, NOW), Ok(None), "the others are gone");
    }

    #[test]
    fn lost_pieces_are_not_waited_for_and_take_no_room() {
        let mut joiner = Joiner::default();
        for number in 0..1000 {
            let pieces = cut(&[1; 1000], number, 559);
            assert_eq!(joiner.on_piece(&pieces[0], NOW), Ok(None));
        }
        assert_eq!(joiner.open.len(), OPEN_MAX);
        let late = cut(&[1; 1000], 999, 559);
        assert_eq!(joiner.on_piece(&late[1], NOW + WAIT_MAX), Ok(None));
        assert_eq!(joiner.open.len(), 1);
    }

    #[test]
    fn pieces_that_do_not_fit_together_are_refused() {
        let mut joiner = Joiner::default();
        let piece = |at, of, bytes: &[u8]| [&[0, 0, 0, 1, at, of][..], bytes].concat();
        for bad in
            [&[0, 0, 0][..], &piece(0, 0, b"x"), &piece(2, 2, b"x"), &piece(0, 200, b"x"), &piece(0, 1, b"")]
        {
            assert!(joiner.on_piece(bad, NOW).is_err());
        }
        assert_eq!(joiner.on_piece(&piece(0, 2, b"x"), NOW), Ok(None));
        assert_eq!(joiner.on_piece(&piece(1, 3, b"x"), NOW), Err(FrameError::Value));
        let long = vec![1; DATAGRAM_MTU];
        assert_eq!(joiner.on_piece(&piece(1, 2, &long), NOW), Err(FrameError::Long));
        assert!(cut(&[1; 5000], 1, 559).is_empty());
    }
}
