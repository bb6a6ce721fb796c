//! Owns PEERS: what this node tells each peer of its other peers, and what it was told by them. A peer of a peer is
//! believed in with its own signature: "that one is a peer of mine".
use crate::config::SignatureMemory;
use crate::crypto::{SecretKey, domain};
use crate::id::{NodeId, Port};
use crate::rate::Rate;
use crate::time::{Duration, Instant};
use crate::wire::Control;
use crate::wire::control::{PEERS_ENTRIES_MAX, PeerEntry};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// What is told, and what was told, by port.
pub(super) struct Roster {
    secret: SecretKey,
    checked: Option<Arc<dyn SignatureMemory>>,
    rows: BTreeMap<Port, Box<Row>>,
    frames: VecDeque<(Port, Control)>,
}

struct Row {
    node: NodeId,
    /// "This node is a peer of mine", by that peer.
    half: Option<[u8; 64]>,
    half_sent: bool,
    /// It is, or was, a parent of this node.
    parent: bool,
    /// Peers that it was told of.
    told: BTreeSet<Port>,
    /// Of these: gone since.
    gone: BTreeSet<Port>,
    /// All it was told before is to be forgotten.
    anew: bool,
    /// What it tells.
    here: Vec<PeerEntry>,
    /// It has to hear something, not before then.
    due: Option<Instant>,
    last: Instant,
    checks: Rate,
}

impl Roster {
    pub(super) fn new(secret: SecretKey, checked: Option<Arc<dyn SignatureMemory>>) -> Self {
        Self { secret, checked, rows: BTreeMap::new(), frames: VecDeque::new() }
    }

    pub(super) fn on_peer_up(&mut self, port: Port, node: NodeId, now: Instant) {
        let row = Row {
            node,
            half: None,
            half_sent: false,
            parent: false,
            told: BTreeSet::new(),
            gone: BTreeSet::new(),
            anew: false,
            here: Vec::new(),
            due: Some(now + SOON),
            last: Instant::ZERO,
            checks: Rate::new(CHECKS_BURST, CHECKS_PER_SECOND, now),
        };
        self.rows.insert(port, Box::new(row));
    }

    pub(super) fn on_peer_down(&mut self, port: Port, now: Instant) {
        self.rows.remove(&port);
        for row in self.rows.values_mut() {
            if row.told.remove(&port) {
                // What leads nowhere is told at once: who audits by it would blame us.
                row.gone.insert(port);
                row.due = Some(row.due.map_or(now + SOON, |due| due.min(now + SOON)));
            }
        }
    }

    pub(super) fn on_peer_moved(&mut self, port: Port, now: Instant) {
        if let Some(row) = self.rows.get_mut(&port) {
            row.half_sent = false;
            row.anew = true;
            row.told.clear();
            row.gone.clear();
            row.due = Some(now + SOON);
        }
    }

    pub(super) fn on_peers(
        &mut self,
        port: Port,
        half: Option<[u8; 64]>,
        gone: &[Port],
        here: Vec<PeerEntry>,
        now: Instant,
    ) {
        let me = self.secret.id();
        let Some(row) = self.rows.get_mut(&port) else { return };
        if let Some(half) = half.filter(|half| row.half.as_ref() != Some(half)) {
            let memory = self.checked.as_deref();
            let good = row.checks.take(now)
                && row.node.verify_remembering(memory, domain::PEERS, me.as_bytes(), &half).0.is_ok();
            if good {
                row.half = Some(half);
                let parent = row.parent;
                for (_, other) in self.rows.iter_mut().filter(|(other, _)| **other != port) {
                    if parent || other.told.len() < TOLD_MAX {
                        let rest = if parent || other.told.len() < TOLD_FIRST { SOON } else { REST };
                        let rested = (now + SOON).max(other.last + rest);
                        other.due = Some(other.due.map_or(rested, |due| due.min(rested)));
                    }
                }
            }
        }
        let Some(row) = self.rows.get_mut(&port) else { return };
        if gone.contains(&Port::SELF) {
            row.here.clear();
        }
        row.here.retain(|entry| !gone.contains(&entry.port));
        for entry in here {
            row.here.retain(|known| known.port != entry.port && known.node != entry.node);
            if entry.node == me || entry.node == row.node || row.here.len() >= HERE_MAX {
                continue;
            }
            let memory = self.checked.as_deref();
            let (node, sig) = (&entry.node, &entry.half);
            if row.checks.take(now)
                && node.verify_remembering(memory, domain::PEERS, row.node.as_bytes(), sig).0.is_ok()
            {
                row.here.push(entry);
            }
        }
    }

    /// What the peer told of its other peers, checked.
    pub(super) fn told_by(&self, port: Port) -> Option<&[PeerEntry]> {
        Some(&self.rows.get(&port)?.here)
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.rows.values().filter_map(|row| row.due).min()
    }

    /// Tells what is due. Parents go first: whoever may follow a chain through us asks them.
    pub(super) fn handle_timeout(&mut self, is_parent: impl Fn(Port) -> bool, now: Instant) {
        let due: Vec<Port> = self
            .rows
            .iter()
            .filter(|(_, row)| row.due.is_some_and(|due| due <= now))
            .map(|(p, _)| *p)
            .collect();
        for port in due {
            // Each peer hears of others, in the order of ports from its own on: so all are asked about equally often.
            let ring = self.rows.range((std::ops::Bound::Excluded(port), std::ops::Bound::Unbounded));
            let ring = ring.chain(self.rows.range(..port));
            let told = &self.rows[&port].told;
            let fresh = ring.filter(|(other, row)| row.half.is_some() && !told.contains(other));
            let mut fresh: Vec<(bool, PeerEntry)> = fresh
                .filter_map(|(&other, row)| {
                    Some((!is_parent(other), PeerEntry { port: other, node: row.node, half: row.half? }))
                })
                .collect();
            fresh.sort_by_key(|(ordinary, _)| *ordinary);
            let parents = fresh.iter().filter(|(ordinary, _)| !ordinary).count();
            // Parents change: a new one takes the place of somebody who is none any more, or our place could not be proved.
            let short = (told.len() + parents).saturating_sub(HERE_MAX);
            let leaving: Vec<Port> =
                told.iter().rev().filter(|port| !is_parent(**port)).take(short).copied().collect();
            let told = told.len() - leaving.len();
            let room = TOLD_MAX.saturating_sub(told).max(parents.min(HERE_MAX.saturating_sub(told)));
            fresh.truncate(room);

            let Some(row) = self.rows.get_mut(&port) else { continue };
            for port in leaving {
                row.told.remove(&port);
                row.gone.insert(port);
            }
            row.due = None;
            let mut half = (!row.half_sent).then(|| self.secret.sign(domain::PEERS, row.node.as_bytes()));
            row.half_sent = true;
            let mut gone: Vec<Port> = std::mem::take(&mut row.gone).into_iter().collect();
            if std::mem::take(&mut row.anew) {
                gone.insert(0, Port::SELF);
            }
            let mut here: Vec<PeerEntry> = fresh.into_iter().map(|(_, entry)| entry).collect();
            row.told.extend(here.iter().map(|entry| entry.port));
            while half.is_some() || !gone.is_empty() || !here.is_empty() {
                row.last = now;
                let (gone, here) = (chunk(&mut gone), chunk(&mut here));
                self.frames.push_back((port, Control::Peers { half: half.take(), gone, here }));
            }
        }
    }

    /// A parent that some peer was not told of yet: it is told soon.
    pub(super) fn on_parent(&mut self, parent: Port, now: Instant) {
        let Some(row) = self.rows.get_mut(&parent) else { return };
        row.parent = true;
        if row.half.is_none() {
            return;
        }
        for (port, row) in &mut self.rows {
            if *port != parent && !row.told.contains(&parent) {
                row.due = Some(row.due.map_or(now + SOON, |due| due.min(now + SOON)));
            }
        }
    }

    pub(super) fn poll_frame(&mut self) -> Option<(Port, Control)> {
        self.frames.pop_front()
    }
}

fn chunk<T>(list: &mut Vec<T>) -> Vec<T> {
    let rest = list.split_off(list.len().min(PEERS_ENTRIES_MAX));
    std::mem::replace(list, rest)
}

/// Peers that a peer is told of besides parents: enough for audits through four, with some to spare.
const TOLD_MAX: usize = 10;
/// The first of them are told without delay.
const TOLD_FIRST: usize = 4;
/// Peers of a peer that are kept.
const HERE_MAX: usize = 16;
/// What happens together is told together.
const SOON: Duration = Duration::from_secs(1);
/// New peers are told to a peer at most so often.
const REST: Duration = Duration::from_secs(20);
/// Signatures that one peer's lists may have checked at once.
const CHECKS_BURST: u32 = 64;
/// And per second.
const CHECKS_PER_SECOND: u32 = 2;

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(n: u8) -> SecretKey {
        SecretKey::from_seed([n; 32])
    }

    fn at(secs: u64) -> Instant {
        Instant::from_micros(1_000_000 * secs)
    }

    /// D (9) with peers 1 and 2, each of which has given its half.
    fn roster() -> Roster {
        let mut roster = Roster::new(secret(9), None);
        for n in 1..3 {
            roster.on_peer_up(Port(n.into()), secret(n).id(), at(0));
            let half = secret(n).sign(domain::PEERS, secret(9).id().as_bytes());
            roster.on_peers(Port(n.into()), Some(half), &[], vec![], at(0));
        }
        roster
    }

    #[test]
    fn peers_hear_of_each_other_and_of_who_goes() {
        let mut roster = roster();
        roster.handle_timeout(|_| false, at(2));
        let (port, Control::Peers { half: Some(half), gone, here }) = roster.poll_frame().unwrap() else {
            panic!()
        };
        assert_eq!((port, gone.len(), here.len()), (Port(1), 0, 1));
        secret(9).id().verify(domain::PEERS, secret(1).id().as_bytes(), &half).unwrap();
        let mut told = Roster::new(secret(1), None);
        told.on_peer_up(Port(5), secret(9).id(), at(0));
        told.on_peers(Port(5), Some(half), &gone, here.clone(), at(2));
        assert_eq!(told.told_by(Port(5)).unwrap(), here);
        while roster.poll_frame().is_some() {}
        roster.on_peer_down(Port(2), at(3));
        roster.handle_timeout(|_| false, at(4));
        let (_, Control::Peers { half, gone, here }) = roster.poll_frame().unwrap() else { panic!() };
        assert_eq!((half, &gone[..], here.len()), (None, &[Port(2)][..], 0));
        told.on_peers(Port(5), None, &gone, vec![], at(4));
        assert!(told.told_by(Port(5)).unwrap().is_empty());
    }

    #[test]
    fn a_parent_is_told_of_however_many_were_told_before() {
        let mut roster = Roster::new(secret(9), None);
        for n in 10..60 {
            roster.on_peer_up(Port(n.into()), secret(n).id(), at(0));
            let half = secret(n).sign(domain::PEERS, secret(9).id().as_bytes());
            roster.on_peers(Port(n.into()), Some(half), &[], vec![], at(0));
        }
        let mut told = Roster::new(secret(10), None);
        told.on_peer_up(Port(5), secret(9).id(), at(0));
        for parent in 20..60 {
            roster.on_parent(Port(parent), at(10 * u64::from(parent)));
            roster.handle_timeout(|port| port == Port(parent), at(10 * u64::from(parent) + 5));
            while let Some((port, Control::Peers { half, gone, here })) = roster.poll_frame() {
                if port == Port(10) {
                    told.on_peers(Port(5), half, &gone, here, at(10 * u64::from(parent) + 5));
                }
            }
            let here = told.told_by(Port(5)).unwrap();
            assert!(here.len() <= HERE_MAX);
            assert!(here.iter().any(|entry| entry.port == Port(parent)), "parent {parent}");
        }
    }

    #[test]
    fn nobody_is_told_of_without_its_own_word_and_lists_are_bounded() {
        let mut told = Roster::new(secret(1), None);
        told.on_peer_up(Port(5), secret(9).id(), at(0));
        let entry = |n: u8, signer: u8| PeerEntry {
            port: Port(n.into()),
            node: secret(n).id(),
            half: secret(signer).sign(domain::PEERS, secret(9).id().as_bytes()),
        };
        told.on_peers(Port(5), None, &[], vec![entry(20, 21), entry(1, 1), entry(9, 9)], at(0));
        assert!(told.told_by(Port(5)).unwrap().is_empty());
        for n in 20..60 {
            told.on_peers(Port(5), None, &[], vec![entry(n, n)], at(0));
        }
        assert_eq!(told.told_by(Port(5)).unwrap().len(), HERE_MAX);
        told.on_peers(Port(5), None, &[Port::SELF], vec![], at(0));
        assert!(told.told_by(Port(5)).unwrap().is_empty());
    }
}
