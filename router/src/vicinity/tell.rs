//! Owns what peers are told of the nodes in sight: what has changed since they were told last.
use super::{GONE, RENEW, RENEW_REST, TELL_EVERY, Vicinity};
use crate::id::{Port, Sid};
use crate::time::Instant;
use crate::wire::Control;
use crate::wire::control::{VICINITY_ENTRIES_MAX, VicinityEntry};

impl Vicinity {
    /// When [`Self::handle_timeout`] is wanted.
    pub fn deadline(&self) -> Option<Instant> {
        if !self.on {
            return None;
        }
        let due = self.peers.values().filter(|peer| peer.due);
        let due = due.map(|peer| peer.last.unwrap_or(peer.since) + TELL_EVERY).min();
        let renew = self.renewed + if self.outdated { RENEW_REST } else { RENEW };
        due.into_iter().chain((!self.peers.is_empty()).then_some(renew)).min()
    }

    /// Tells peers what is due. O(peers x nodes in sight).
    pub fn handle_timeout(&mut self, now: Instant) -> Vec<(Port, Control)> {
        let mut frames = Vec::new();
        if !self.on {
            return frames;
        }
        if now >= self.renewed + if self.outdated { RENEW_REST } else { RENEW } {
            self.seq = self.seq.saturating_add(1);
            (self.renewed, self.outdated) = (now, false);
            self.peers.values_mut().for_each(|peer| peer.due = true);
        }
        let ports: Vec<Port> =
            self.peers.iter().filter(|(_, peer)| peer.due).map(|(&port, _)| port).collect();
        for port in ports {
            let Some(peer) = self.peers.get_mut(&port) else { continue };
            if now < peer.last.unwrap_or(peer.since) + TELL_EVERY {
                continue;
            }
            peer.due = false;
            let mut entries = self.news(port, now);
            while !entries.is_empty() {
                let rest = entries.split_off(entries.len().min(VICINITY_ENTRIES_MAX));
                frames.push((port, Control::Vicinity { entries }));
                entries = rest;
            }
        }
        frames
    }

    /// What that peer has to hear, noted as told.
    fn news(&mut self, port: Port, now: Instant) -> Vec<VicinityEntry> {
        let Self { me, seq, peers, nodes, near, wishes, .. } = self;
        let Some(peer) = peers.get_mut(&port) else { return Vec::new() };
        let mut entries = Vec::new();
        let tell = |entries: &mut Vec<VicinityEntry>, node: Sid, cost: u16, seq: u32| {
            entries.push(VicinityEntry { node, cost, seq });
        };
        if peer.told.get(me) != Some(&(0, *seq)) {
            tell(&mut entries, *me, 0, *seq);
            peer.told.insert(*me, (0, *seq));
        }
        let gone: Vec<Sid> =
            peer.told.keys().filter(|sid| **sid != *me && !near.contains(sid)).copied().collect();
        for sid in gone {
            peer.told.remove(&sid);
            tell(&mut entries, sid, GONE, 0);
        }
        for sid in near.iter() {
            let Some(node) = nodes.get_mut(sid) else { continue };
            let Some(route) = node.route else { continue };
            // Who is reached through the peer is nearer to it than we are.
            if route.port == port || *sid == peer.sid {
                if peer.told.remove(sid).is_some() {
                    tell(&mut entries, *sid, GONE, 0);
                }
                continue;
            }
            let told = peer.told.get(sid);
            let changed = told.is_none_or(|&(cost, seq)| {
                // A way that got a little longer is no news; one that got longer than what was told by much is.
                seq != route.seq || cost.abs_diff(route.cost) > (cost / 10).max(1)
            });
            if changed {
                peer.told.insert(*sid, (route.cost, route.seq));
                tell(&mut entries, *sid, route.cost, route.seq);
                let better = node
                    .bound
                    .is_none_or(|(seq, cost)| route.seq > seq || route.seq == seq && route.cost < cost);
                if better {
                    node.bound = Some((route.seq, route.cost));
                }
            }
        }
        let wished: Vec<(Port, Sid)> = wishes.keys().filter(|(of, _)| *of == port).copied().collect();
        for key in wished {
            if let Some(seq) = wishes.remove(&key) {
                // What it was told of the node before is void with that.
                peer.told.remove(&key.1);
                entries.retain(|entry| entry.node != key.1);
                entries.push(VicinityEntry { node: key.1, cost: GONE, seq });
            }
        }
        if !entries.is_empty() {
            peer.last = Some(now);
        }
        entries
    }
}
