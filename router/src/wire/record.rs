//! Owns the list of hops that DATA_T gathers with flag RECORD and that DATA_S carries back with flag REPLY.
//!
//! ```text
//! DATA_T with RECORD: .. index:4 record body        DATA_S with REPLY: .. index:4 record n:2 chord* body
//! record = n:2 cost:1 size:1 entry*                 n: bit 15: it is full, 14..0: bytes of the entries
//! entry  = sid:8 in:port out:port cost:1 size:1     in, out: the hop's ports; cost, size: of the link that it goes out by
//! chord  = from:1 to:1 port cost:1 size:1           hop number `from` has hop number `to` behind that port
//! ```
//! `cost` and `size` before the entries are those of the first link. Neither is sealed: what may be believed of them, and
//! how far, is in [`crate::route`].
use super::FrameError;
use super::codec::{Reader, Writer, port_bytes};
use crate::id::{Port, Sid};

/// What a hop appends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Who it is.
    pub sid: Sid,
    /// The port that the packet came in by.
    pub in_port: Port,
    /// The port that it goes out by.
    pub out_port: Port,
    /// The link that it goes out by.
    pub link: Span,
}

/// What is said of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Milliseconds one way, 1..=255.
    pub cost: u8,
    /// Largest frame it takes, in pieces of 256 bytes; at least [`Span::SIZE_MIN`].
    pub size: u8,
}

/// A link over which a packet would skip hops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chord {
    /// Number of the hop that has it, in the record.
    pub from: u8,
    /// Number of the hop that it leads to.
    pub to: u8,
    /// The port of `from`.
    pub port: Port,
    /// The link.
    pub link: Span,
}

/// The hops of a packet so far, unread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// A hop found no room: the list ends before the way does.
    pub full: bool,
    /// The first link.
    pub first: Span,
    /// Encoded entries.
    pub entries: &'a [u8],
}

/// What comes back: the record as it arrived, and the chords that hops on the way back added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply<'a> {
    /// The way there.
    pub record: Record<'a>,
    /// Encoded chords.
    pub chords: &'a [u8],
}

impl Span {
    /// The least `size`: every link takes 1280 bytes and what is around them.
    pub const SIZE_MIN: u8 = (crate::config::DATAGRAM_MTU / 256) as u8;

    /// A link of that cost that takes frames of that many bytes.
    pub fn new(cost: u8, frame_max: usize) -> Self {
        Self { cost: cost.max(1), size: (frame_max / 256).min(255) as u8 }
    }

    /// Largest frame in bytes.
    pub const fn frame_max(self) -> usize {
        let size = if self.size < Self::SIZE_MIN { Self::SIZE_MIN } else { self.size };
        size as usize * 256
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, FrameError> {
        let span = Self { cost: reader.u8()?, size: reader.u8()? };
        if span.cost == 0 { Err(FrameError::Value) } else { Ok(span) }
    }

    fn write(self, out: &mut impl Writer) {
        out.put(&[self.cost, self.size]);
    }
}

impl Entry {
    /// Bytes it takes.
    pub fn bytes(&self) -> usize {
        8 + port_bytes(self.in_port).1 + port_bytes(self.out_port).1 + 2
    }

    /// Reads one.
    pub fn read(reader: &mut Reader<'_>) -> Result<Self, FrameError> {
        let (sid, in_port, out_port) = (reader.sid()?, reader.port()?, reader.port()?);
        let link = Span::read(reader)?;
        if in_port == Port::SELF || out_port == Port::SELF {
            return Err(FrameError::Value);
        }
        Ok(Self { sid, in_port, out_port, link })
    }

    fn write(&self, out: &mut impl Writer) {
        out.put(self.sid.as_bytes());
        out.put_port(self.in_port);
        out.put_port(self.out_port);
        self.link.write(out);
    }
}

impl Chord {
    /// Bytes it takes.
    pub fn bytes(&self) -> usize {
        2 + port_bytes(self.port).1 + 2
    }

    /// Reads one.
    pub fn read(reader: &mut Reader<'_>) -> Result<Self, FrameError> {
        let (from, to, port) = (reader.u8()?, reader.u8()?, reader.port()?);
        let link = Span::read(reader)?;
        if port == Port::SELF || to <= from {
            return Err(FrameError::Value);
        }
        Ok(Self { from, to, port, link })
    }

    /// Writes it.
    pub fn write(&self, out: &mut impl Writer) {
        out.put(&[self.from, self.to]);
        out.put_port(self.port);
        self.link.write(out);
    }
}

impl<'a> Record<'a> {
    /// A record without hops.
    pub const fn new(first: Span) -> Self {
        Self { full: false, first, entries: &[] }
    }

    /// Takes the record off what follows the index of a DATA_T with RECORD; the body is what remains.
    pub fn split(bytes: &'a [u8]) -> Result<(Self, &'a [u8]), FrameError> {
        let mut reader = Reader::new(bytes);
        let record = Self::read(&mut reader)?;
        Ok((record, reader.rest()))
    }

    fn read(reader: &mut Reader<'a>) -> Result<Self, FrameError> {
        let head = reader.u16()?;
        let first = Span::read(reader)?;
        let len = usize::from(head & !FULL);
        if len > LIST_MAX {
            return Err(FrameError::Long);
        }
        Ok(Self { full: head & FULL != 0, first, entries: reader.bytes(len)? })
    }

    /// Bytes it takes, with one entry more.
    pub fn encoded_len(&self, more: Option<&Entry>) -> usize {
        4 + self.entries.len() + more.map_or(0, Entry::bytes)
    }

    /// Would one more entry leave list and body within [`LIST_MAX`]?
    pub fn has_room(&self, entry: &Entry, body: usize) -> bool {
        !self.full && self.encoded_len(Some(entry)) + body <= LIST_MAX
    }

    /// Writes it, with one entry more; that must have room.
    pub fn encode(&self, more: Option<&Entry>, out: &mut impl Writer) {
        let len = self.entries.len() + more.map_or(0, Entry::bytes);
        debug_assert!(len <= LIST_MAX);
        out.put_two(len as u16 | if self.full { FULL } else { 0 });
        self.first.write(out);
        out.put(self.entries);
        if let Some(entry) = more {
            entry.write(out);
        }
    }

    /// The hops.
    pub fn iter(&self) -> impl Iterator<Item = Result<Entry, FrameError>> + use<'a> {
        let mut reader = Reader::new(self.entries);
        std::iter::from_fn(move || (!reader.is_empty()).then(|| Entry::read(&mut reader)))
            .take(HOPS_MAX + 1)
            .scan(false, |over, entry| {
                let ended = std::mem::replace(over, entry.is_err());
                (!ended).then_some(entry)
            })
    }

    /// The longest beginning that takes at most so many bytes; it is full then.
    pub fn cut(&self, len_max: usize) -> Self {
        let mut len = 0;
        for entry in self.iter() {
            match entry {
                Ok(entry) if len + entry.bytes() <= len_max => len += entry.bytes(),
                _ => break,
            }
        }
        Self { full: self.full || len < self.entries.len(), first: self.first, entries: &self.entries[..len] }
    }
}

impl<'a> Reply<'a> {
    /// Takes the lists off what follows the index of a DATA_S with REPLY; the body is what remains.
    pub fn split(bytes: &'a [u8]) -> Result<(Self, &'a [u8]), FrameError> {
        let mut reader = Reader::new(bytes);
        let record = Record::read(&mut reader)?;
        let chords = reader.counted(LIST_MAX)?;
        Ok((Self { record, chords }, reader.rest()))
    }

    /// Bytes it takes.
    pub fn encoded_len(&self) -> usize {
        self.record.encoded_len(None) + 2 + self.chords.len()
    }

    /// Writes it, with more chords; all together must be within [`LIST_MAX`].
    pub fn encode(&self, more: &[Chord], out: &mut impl Writer) {
        self.record.encode(None, out);
        let len = self.chords.len() + more.iter().map(Chord::bytes).sum::<usize>();
        out.put_two(len as u16);
        out.put(self.chords);
        for chord in more {
            chord.write(out);
        }
    }

    /// The chords, in the order in which they were added.
    pub fn chords(&self) -> impl Iterator<Item = Result<Chord, FrameError>> + use<'a> {
        let mut reader = Reader::new(self.chords);
        std::iter::from_fn(move || (!reader.is_empty()).then(|| Chord::read(&mut reader))).scan(
            false,
            |over, chord| {
                let ended = std::mem::replace(over, chord.is_err());
                (!ended).then_some(chord)
            },
        )
    }

    /// The chords up to the first that a hop before `hop`, or that hop itself, is said to have: whoever said so came before
    /// that hop on the way back, and speaks for another.
    pub fn cut(&self, hop: u8) -> Self {
        let mut len = 0;
        for chord in self.chords() {
            match chord {
                Ok(chord) if chord.from > hop => len += chord.bytes(),
                _ => break,
            }
        }
        Self { record: self.record, chords: &self.chords[..len] }
    }
}

/// List and body together: what every link takes.
pub const LIST_MAX: usize = crate::config::MTU_MIN;
/// Hops of a source route.
pub const HOPS_MAX: usize = 255;
const FULL: u16 = 0x8000;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entry(n: u8) -> Entry {
        let link = Span { cost: n.max(1), size: 64 };
        let (in_port, out_port) = (Port(u16::from(n) + 1), Port(300));
        Entry { sid: Sid::from_bytes([n; 8]), in_port, out_port, link }
    }

    #[test]
    fn hops_are_appended_until_there_is_no_room() {
        let (mut list, mut count) = (Vec::new(), 0);
        Record::new(Span::new(5, 2000)).encode(None, &mut list);
        list.extend(b"body");
        loop {
            let (record, body) = Record::split(&list).unwrap();
            let next = entry(count);
            if !record.has_room(&next, body.len()) {
                break;
            }
            let mut longer = Vec::new();
            record.encode(Some(&next), &mut longer);
            longer.extend(body);
            assert_eq!(longer.len(), record.encoded_len(Some(&next)) + body.len());
            list = longer;
            count += 1;
        }
        assert!(list.len() <= LIST_MAX && list.len() > LIST_MAX - 15);
        let (record, body) = Record::split(&list).unwrap();
        assert_eq!((body, record.first), (&b"body"[..], Span { cost: 5, size: 7 }));
        let hops: Vec<Entry> = record.iter().map(Result::unwrap).collect();
        assert_eq!(hops, (0..count).map(entry).collect::<Vec<_>>());
        let cut = record.cut(100);
        assert!(cut.full && cut.entries.len() <= 100 && cut.iter().count() == 7);
    }

    #[test]
    fn nobody_adds_a_chord_for_a_hop_that_comes_later_on_the_way_back() {
        let chord = |from, to| Chord { from, to, port: Port(1), link: Span { cost: 1, size: 6 } };
        let mut bytes = Vec::new();
        let reply = Reply { record: Record::new(Span::new(1, 1536)), chords: &[] };
        reply.encode(&[chord(7, 9), chord(5, 9), chord(2, 4), chord(6, 8)], &mut bytes);
        let (reply, rest) = Reply::split(&bytes).unwrap();
        assert!(rest.is_empty());
        let left: Vec<u8> = reply.cut(3).chords().map(|chord| chord.unwrap().from).collect();
        assert_eq!(left, [7, 5]);
    }

    proptest! {
        #[test]
        fn any_bytes_are_lists_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..300), hop: u8) {
            if let Ok((record, body)) = Record::split(&bytes) {
                prop_assert!(record.iter().count() <= HOPS_MAX + 1);
                prop_assert!(record.cut(40).entries.len() <= 40);
                let mut again = Vec::new();
                record.encode(None, &mut again);
                again.extend(body);
                prop_assert_eq!(&again, &bytes);
            }
            if let Ok((reply, body)) = Reply::split(&bytes) {
                let _ = (reply.chords().count(), reply.cut(hop));
                let mut again = Vec::new();
                reply.encode(&[], &mut again);
                again.extend(body);
                prop_assert_eq!(&again, &bytes);
            }
        }
    }
}
