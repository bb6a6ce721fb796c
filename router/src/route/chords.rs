//! Owns what a hop adds to a reply on its way back: the links by which later packets could skip hops.
use crate::forward::Table;
use crate::id::{LinkId, Port, Sid};
use crate::peer::link::Link;
use crate::wire::data::split_port;
use crate::wire::record::{Chord, Entry, LIST_MAX, Span};
use crate::wire::{Record, Reply};
use std::collections::BTreeMap;

/// The chords of one hop.
#[derive(Debug)]
pub struct Chords {
    found: [Chord; CHORDS_PER_HOP],
    len: usize,
}

impl Default for Chords {
    fn default() -> Self {
        let none = Chord { from: 0, to: 0, port: Port::SELF, link: Span { cost: 1, size: 0 } };
        Self { found: [none; CHORDS_PER_HOP], len: 0 }
    }
}

impl Chords {
    /// The lists as this hop passes them on, and its own chords. A list in which it does not stand where it should (the
    /// ports that are left tell where) was changed on the way, so it goes on empty: nobody can invent hops before the
    /// honest one that is next on the way back. `from` is where the reply came from, `granted` whether there is time for
    /// a search. O(hops x peers), within a rate.
    #[allow(clippy::too_many_arguments)] // what a hop knows
    pub fn find<'a>(
        me: Sid,
        from: Port,
        ports: &[u8],
        reply: Reply<'a>,
        body: usize,
        granted: bool,
        table: &Table,
        links: &BTreeMap<LinkId, Box<Link>>,
    ) -> (Reply<'a>, Self) {
        let mut own = Self::default();
        let empty = Reply { record: Record { full: true, entries: &[], ..reply.record }, chords: &[] };
        let (mut left, mut count, mut first) = (ports, 0usize, Port::SELF);
        while let Ok(Some((port, rest))) = split_port(left) {
            first = if count == 0 { port } else { first };
            count += 1;
            left = rest;
        }
        let Some(at) = count.checked_sub(1).filter(|_| left.is_empty()) else { return (empty, own) };
        let mut entries = reply.record.iter().skip(at);
        match entries.next() {
            Some(Ok(entry)) if entry.sid == me && entry.in_port == first && entry.out_port == from => {}
            // The list was full before it came here.
            None if reply.record.full => return (reply.cut(u8::try_from(at).unwrap_or(u8::MAX)), own),
            _ => return (empty, own),
        }
        let Ok(hop) = u8::try_from(at) else { return (empty, own) };
        let reply = reply.cut(hop);
        if granted {
            let room = LIST_MAX.saturating_sub(reply.encoded_len() + body);
            // The next hop is no chord, and the farther ones are worth more.
            for (later, entry) in entries.skip(1).enumerate() {
                let Ok(Entry { sid, .. }) = entry else { break };
                let Ok(to) = u8::try_from(at + 2 + later) else { break };
                let peer = table.peers.iter().find(|peer| peer.sid == sid && !peer.late);
                let Some(peer) = peer else { continue };
                let Some(link) = links.get(&peer.link) else { continue };
                own.keep(Chord { from: hop, to, port: peer.port, link: Link::span(link) });
            }
            own.fit(room);
        }
        (reply, own)
    }

    /// What to append.
    pub fn as_slice(&self) -> &[Chord] {
        &self.found[..self.len]
    }

    /// Bytes of what to append.
    pub fn bytes(&self) -> usize {
        self.as_slice().iter().map(Chord::bytes).sum()
    }

    fn keep(&mut self, chord: Chord) {
        if self.len == CHORDS_PER_HOP {
            self.found.rotate_left(1);
            self.len -= 1;
        }
        self.found[self.len] = chord;
        self.len += 1;
    }

    fn fit(&mut self, room: usize) {
        while self.len > 0 && self.bytes() > room {
            self.found[..self.len].rotate_left(1);
            self.len -= 1;
        }
    }
}

/// Chords that one hop may add: the farthest ones. More only lead to where these do.
const CHORDS_PER_HOP: usize = 4;
