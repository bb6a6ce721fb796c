//! Nodes that do what an honest one does not. Their routers are honest ones; the world takes away what they should have
//! passed on, or answers in their place.

use std::{
    collections::{BTreeMap, HashMap},
    hash::BuildHasherDefault,
    sync::Arc,
};

use bytes::Bytes;
use router::{
    NodeId,
    lookup::LocatorRecord,
    wire::{
        DataS, Notice, body,
        body::find::{Contact, Find, Found, Record, Store, Values},
        kind,
    },
};

use crate::trace::{Itself, Seen};

/// Which packets of others a dropper drops. It takes part in the trees like an honest node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, serde::Deserialize, serde::Serialize)]
#[value(rename_all = "kebab-case")]
#[serde(rename_all = "kebab-case")]
pub enum DropperKind {
    /// All.
    Silent,
    /// Those of every second flow, told apart by the receiver's index alone, and all droppers choose alike.
    Selective,
    /// Those of every second flow, told apart by index, ports ahead and destination, each dropper by a secret of its own.
    SelectiveSecret,
    /// All but those that could be an audit by what a node on the way sees: sent by the neighbour that they come from.
    AuditAware,
    /// All but those that it can give to a fellow, so that fellows vouch for each other.
    Colluding,
}

/// Where droppers are.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum, serde::Deserialize, serde::Serialize,
)]
#[value(rename_all = "kebab-case")]
#[serde(rename_all = "kebab-case")]
pub enum DropperPlace {
    /// Anywhere.
    #[default]
    Random,
    /// The nodes with the most links.
    Degree,
}

/// What one node does.
#[derive(Debug)]
pub struct Malice {
    kind: DropperKind,
    /// It lies in the lookup: these are the only nodes that it knows.
    fellows: Arc<[Contact]>,
    lies: bool,
    /// Records that it was given to keep, as they were the first time, by the address of who they are of.
    old: BTreeMap<[u8; 15], LocatorRecord>,
    /// Packets of others that came, and whether it passes them on.
    transit: HashMap<u64, bool, BuildHasherDefault<Itself>>,
    me: router::Sid,
}

/// What becomes of a frame that comes to such a node.
pub(crate) enum Verdict {
    /// Its router gets it.
    Pass,
    /// It is gone.
    Drop,
    /// Its router does not get it, but this goes back.
    Answer(Bytes),
}

/// Packets that are remembered between coming and going: they wait for milliseconds.
const TRANSIT_MAX: usize = 4096;
/// Records that one liar remembers: more than the largest share of a network's that come to one node.
const OLD_MAX: usize = 4096;
/// Contacts of a lying answer: as many as an honest one has.
const CONTACTS: usize = 8;

impl Malice {
    /// A dropper of that kind.
    pub fn new(kind: DropperKind, me: NodeId) -> Self {
        let (old, transit) = (BTreeMap::new(), HashMap::default());
        Self { kind, fellows: Arc::default(), lies: false, old, transit, me: me.sid() }
    }

    /// It also answers questions of the lookup with fellows only, forged or old records, or not at all, and keeps no record
    /// for others.
    #[must_use]
    pub fn lying(mut self, fellows: Arc<[Contact]>) -> Self {
        self.fellows = fellows;
        self.lies = true;
        self
    }

    pub(crate) fn comes(&mut self, frame: &[u8]) -> Verdict {
        if frame.first() == Some(&kind::NOTICE) {
            let for_others = Notice::decode(frame).is_ok_and(|notice| !notice.ports.is_empty());
            return if for_others { Verdict::Drop } else { Verdict::Pass };
        }
        let Some(seen) = Seen::new(frame) else { return Verdict::Pass };
        let for_me = seen.dst == Some(self.me) || seen.ports.is_some_and(<[u8]>::is_empty);
        if for_me {
            return self.asked(&seen);
        }
        if self.transit.len() >= TRANSIT_MAX {
            self.transit.clear();
        }
        let passes = match self.kind {
            DropperKind::Silent | DropperKind::Colluding => false,
            DropperKind::Selective => flow(&seen).is_multiple_of(2),
            DropperKind::SelectiveSecret => secret_flow(self.me, &seen).is_multiple_of(2),
            DropperKind::AuditAware => seen.rev.is_empty(),
        };
        self.transit.insert(seen.key, passes);
        Verdict::Pass
    }

    /// Whether a frame that its router sends is taken away; `fellow`: the next hop is one of them.
    pub(crate) fn swallows(&self, frame: &[u8], fellow: bool) -> bool {
        let Some(seen) = Seen::new(frame) else { return false };
        let Some(&passes) = self.transit.get(&seen.key) else { return false };
        !(passes || self.kind == DropperKind::Colluding && fellow)
    }

    fn asked(&mut self, seen: &Seen<'_>) -> Verdict {
        match seen.body.first() {
            Some(&(body::STORE | body::REFRESH)) if self.lies => {
                if let Ok(Store { record: Record::Locator(record), .. }) = Store::decode(seen.body)
                    && self.old.len() < OLD_MAX
                {
                    self.old.entry(address(&record.node.hash())).or_insert(record);
                }
                Verdict::Drop
            }
            Some(&body::FIND) if self.lies => {
                let Ok(find) = Find::decode(seen.body) else { return Verdict::Drop };
                self.lie(&find, seen.rev).map_or(Verdict::Drop, Verdict::Answer)
            }
            _ => Verdict::Pass,
        }
    }

    /// An answer that leads to fellows, the nearest first; some have a forged record with them, or one that is old, and some
    /// are none.
    fn lie(&self, find: &Find, back: &[u8]) -> Option<Bytes> {
        let old = self.old.get(&address(&find.place)).cloned();
        let values = match find.nonce % 4 {
            0 => return None,
            1 => old.map(|old| LocatorRecord { seq: old.seq + 1000, ..old }),
            2 => old,
            _ => None,
        };
        let mut nearest: Vec<&Contact> = self.fellows.iter().collect();
        nearest.sort_by_cached_key(|fellow| {
            let mut distance = fellow.node.hash();
            distance.iter_mut().zip(&find.place).for_each(|(byte, other)| *byte ^= other);
            distance
        });
        let found = Found {
            nonce: find.nonce,
            token: [7; 16],
            stored: false,
            more: false,
            own: None,
            values: Values::Locators(values.into_iter().collect()),
            contacts: nearest.into_iter().take(CONTACTS).cloned().collect(),
        };
        let mut body = Vec::new();
        found.encode(usize::MAX, &mut body);
        let packet = DataS { flags: 0, load: 0, ports: back, rev: &[], index: 0, body: &body };
        let mut frame = Vec::new();
        packet.encode(None, &mut frame);
        Some(frame.into())
    }
}

/// The same for all packets of a flow, as far as a node on the way can tell.
fn flow(seen: &Seen<'_>) -> u64 {
    let dst = seen.dst.map_or(0, |dst| u64::from_be_bytes(*dst.as_bytes()));
    let index = if seen.index == 0 { dst } else { u64::from(seen.index) };
    index.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33
}

/// The same for all packets that have index, ports ahead and destination in common; another dropper sees another number.
fn secret_flow(dropper: router::Sid, seen: &Seen<'_>) -> u8 {
    let mut hasher = blake3::Hasher::new();
    hasher
        .update(dropper.as_bytes())
        .update(&seen.index.to_be_bytes())
        .update(seen.ports.unwrap_or_default());
    hasher.update(seen.dst.as_ref().map_or(&[], |dst| &dst.as_bytes()[..]));
    hasher.finalize().as_bytes()[0]
}

/// What the address of who is at that place is made of.
fn address(place: &[u8; 32]) -> [u8; 15] {
    let mut address = [0; 15];
    address.copy_from_slice(&place[..15]);
    address
}
