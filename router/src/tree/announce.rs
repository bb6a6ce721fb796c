//! Owns what peers tell each other of their chains: once whole, then what has changed.
use super::ancestry::{Slot, Void};
use super::{Trees, resync_after};
use crate::id::Port;
use crate::stats::Stats;
use crate::time::{Duration, Instant};
use crate::wire::{Control, TreeInfo};

impl Trees {
    pub(super) fn on_announce(
        &mut self,
        port: Port,
        port_there: Port,
        infos: Vec<TreeInfo>,
        stats: &mut Stats,
        now: Instant,
    ) {
        let Some(peer) = self.peers.get_mut(&port) else { return };
        let mut moved = 0u8;
        if port_there != Port::SELF && peer.port_there != Some(port_there) {
            peer.port_there = Some(port_there);
            moved = u8::MAX;
        }
        for info in infos {
            let tree = usize::from(info.tree);
            if tree >= self.trees {
                continue;
            }
            if info.node == self.me {
                self.on_own_shown(&info, stats, now);
                continue;
            }
            if !self.known.wants(&info) {
                continue;
            }
            if self.known.len() >= KNOWN_MAX {
                self.sweep(now);
            }
            let within = self.peers.get_mut(&port).is_some_and(|peer| peer.checks.take(now));
            if !within || self.known.len() >= KNOWN_MAX || !self.holds(&info, stats) {
                stats.tree_infos_refused += 1;
                continue;
            }
            stats.tree_infos_accepted += 1;
            moved |= 1 << tree;
            let (slot, old_parent) = self.known.insert(info, now);
            self.hint(port, slot, old_parent, &info);
        }
        if moved != 0 {
            self.sweep_soon(now);
        }
        for tree in 0..self.trees {
            // An ANNOUNCE ends the passing over: what made the peer refuse may be gone.
            let passed = self.own[tree].passed_over.remove(&port).is_some();
            if moved & 1 << tree != 0 {
                self.recompute(tree, now);
            } else if passed {
                self.choose(tree, now);
            }
        }
    }

    /// Somebody shows me an entry of my own that is newer than I know: a disk was lost, or a clock was wrong.
    fn on_own_shown(&mut self, info: &TreeInfo, stats: &mut Stats, now: Instant) {
        let tree = usize::from(info.tree);
        let known = self.known.info(tree, self.me_slot).map_or(0, |known| known.seq);
        let asked = self.own[tree].request.as_ref().map_or(0, |request| request.info.seq);
        if info.seq <= known.max(asked) || info.seq == u64::MAX || !self.holds(info, stats) {
            return;
        }
        self.next_seq = self.next_seq.max(info.seq + 1);
        self.become_root(tree, now);
        self.choose(tree, now);
    }

    /// Who left a parent that is a peer of mine may know of its end before I do.
    fn hint(&mut self, from: Port, node: Slot, old_parent: Option<Slot>, info: &TreeInfo) {
        let Some(old) = old_parent.filter(|&old| old != node && self.known.id(old) != info.parent) else {
            return;
        };
        let lost = self.peers.iter().find(|(port, peer)| peer.slot == old && **port != from);
        if let Some((&port, _)) = lost {
            self.hints.insert(port);
        }
    }

    pub(super) fn on_resync(&mut self, port: Port, trees: u8, now: Instant) {
        let Some(peer) = self.peers.get_mut(&port) else { return };
        if peer.resynced.is_some_and(|last| now - last < RESYNC_REST) {
            return;
        }
        peer.resynced = Some(now);
        peer.due = true;
        for tree in (0..self.trees).filter(|tree| trees & 1 << tree != 0) {
            for (slot, _) in peer.sent[tree].drain(..) {
                self.known.unpin(slot);
            }
        }
    }

    pub(super) fn ask_for_missing(&mut self, now: Instant) {
        for (&port, peer) in &mut self.peers {
            let mut trees = 0;
            for (&tree, (since, asked)) in &mut peer.missing {
                if now >= *since + resync_after(*asked) {
                    *since = now;
                    *asked = asked.saturating_add(1);
                    trees |= 1 << tree;
                }
            }
            if trees != 0 {
                self.frames.push_back((port, Control::Resync { trees }));
            }
        }
    }

    /// When the next announcement may go out; at once if that is past.
    pub fn announce_at(&self) -> Option<Instant> {
        let due = self.peers.values().filter(|peer| peer.due);
        due.map(|peer| peer.announced.map_or(Instant::ZERO, |last| last + ANNOUNCE_EVERY)).min()
    }

    /// Peers that may get an announcement now. O(peers).
    pub fn announceable(&self, now: Instant) -> Vec<Port> {
        let ready = |last: Option<Instant>| last.is_none_or(|last| now >= last + ANNOUNCE_EVERY);
        self.peers
            .iter()
            .filter(|(_, peer)| peer.due && ready(peer.announced))
            .map(|(&port, _)| port)
            .collect()
    }

    /// The peer's link is busy: later.
    pub fn postpone(&mut self, port: Port, now: Instant) {
        if let Some(peer) = self.peers.get_mut(&port) {
            peer.announced = Some(now);
        }
    }

    /// What that peer has not heard of my chains, in frames of the size that its link takes. Empty if it knows all.
    pub fn announce(&mut self, port: Port, now: Instant) -> Vec<Control> {
        let mut chain = std::mem::take(&mut self.scratch);
        let mut infos = Vec::new();
        let Some(peer) = self.peers.get_mut(&port) else { return Vec::new() };
        let first = peer.announced.is_none();
        for tree in 0..self.trees {
            if self.known.walk(tree, self.me_slot, &mut chain).is_err() {
                continue;
            }
            let sent = &mut peer.sent[tree];
            let mut now_sent = Vec::with_capacity(chain.len());
            for &slot in &chain {
                let Some(info) = self.known.info(tree, slot) else { continue };
                if !sent.contains(&(slot, info.seq)) {
                    infos.push(*info);
                }
                now_sent.push((slot, info.seq));
            }
            for &(slot, seq) in sent.iter().filter(|(slot, _)| !chain.contains(slot)) {
                if let Some(info) = self.known.info(tree, slot).filter(|info| info.seq > seq) {
                    infos.push(*info);
                }
            }
            for (slot, _) in &now_sent {
                self.known.pin_slot(*slot);
            }
            for (slot, _) in std::mem::replace(sent, now_sent) {
                self.known.unpin(slot);
            }
        }
        self.scratch = chain;
        peer.due = false;
        if infos.is_empty() && !first {
            return Vec::new();
        }
        peer.announced = Some(now);
        let each = (peer.frame_max.saturating_sub(ANNOUNCE_HEAD) / TreeInfo::LEN_MAX).max(1);
        let frames = infos.chunks(each).map(|infos| Control::Announce { port, infos: infos.to_vec() });
        frames.collect()
    }

    /// Walks anew from every peer above which something has changed, without choosing (the caller does).
    pub(super) fn rewalk_peers(&mut self, tree: usize, now: Instant) {
        let mut chain = std::mem::take(&mut self.scratch);
        let last = self.is_last(tree);
        for (&port, peer) in &mut self.peers {
            let stamp = self.known.stamp(tree, peer.slot);
            if std::mem::replace(&mut peer.walked[tree], stamp) == stamp {
                continue;
            }
            let mut new = super::walk(&self.known, tree, peer.slot, self.me_slot, &mut chain);
            // A place that the peer could not prove is none; in the last tree it still leads to the common root.
            let parent =
                self.known.info(tree, peer.slot).filter(|info| !info.is_root()).map(|info| info.parent);
            if let Ok(way) = &mut new
                && parent.is_some_and(|parent| peer.claimed.contains(&parent))
            {
                if last {
                    way.void = true;
                } else {
                    new = Err(Void::Loop);
                }
            }
            match &new {
                Ok(_) => {
                    peer.missing.remove(&tree);
                }
                Err(Void::Unknown) => {
                    peer.missing.entry(tree).or_insert((now, 0));
                }
                Err(Void::Loop) => {}
            }
            if new != peer.ways[tree] {
                let moved = match (&new, &peer.ways[tree]) {
                    (Ok(new), Ok(old)) => new.coords != old.coords || new.void != old.void,
                    _ => true,
                };
                peer.ways[tree] = new;
                if moved {
                    self.changes.insert((port, tree));
                }
            }
        }
        self.scratch = chain;
    }
}

/// At most one ANNOUNCE to a peer in that time: changes of all trees wait for each other.
const ANNOUNCE_EVERY: Duration = Duration::from_millis(50);
/// A whole chain is told again at most that often, however often it is asked for.
const RESYNC_REST: Duration = Duration::from_secs(1);
/// Known nodes: half of them on chains (the chains of 64 peers, 250 deep, all different), half remembered by seq only.
/// Some 20 MB when full.
const KNOWN_MAX: usize = 32_768;
/// Kind and port before the entries.
const ANNOUNCE_HEAD: usize = 4 + 5;
