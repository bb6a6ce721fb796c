//! Owns direct neighbours: one [`Peer`] a key, however many links lead to it, and the ports that belong to keys.
pub mod arq;
pub mod cost;
pub mod handshake;
pub mod link;
mod pieces;
pub mod queue;
pub mod replay;

use crate::config::Class;
use crate::id::{LinkId, NodeId, Port, Sid};
use crate::time::{Duration, Instant};
use std::collections::BTreeMap;

/// A direct neighbour.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Its key.
    pub node: NodeId,
    /// Its short name.
    pub sid: Sid,
    /// My port for it.
    pub port: Port,
    /// How long it tends to stay.
    pub class: Class,
    /// Links that are up, the oldest first; never empty.
    pub links: Vec<LinkId>,
    /// The one that frames go over.
    pub active: LinkId,
}

/// All peers, by port.
#[derive(Debug, Default)]
pub struct PeerTable {
    ports: BTreeMap<NodeId, PortUse>,
    peers: BTreeMap<Port, Peer>,
    next: u16,
}

#[derive(Clone, Copy, Debug)]
struct PortUse {
    port: Port,
    /// When the peer left; `None` while it is here.
    free_since: Option<Instant>,
}

impl PeerTable {
    /// A link to that node is up. Gives the peer, and whether it is new; `None` if the table is full.
    pub fn add_link(
        &mut self,
        node: NodeId,
        class: Class,
        link: LinkId,
        now: Instant,
    ) -> Option<(&mut Peer, bool)> {
        let port = match self.ports.get_mut(&node) {
            Some(used) => {
                used.free_since = None;
                used.port
            }
            None => {
                if self.peers.len() >= PEERS_MAX {
                    return None;
                }
                let port = self.free_port(now)?;
                self.ports.insert(node, PortUse { port, free_since: None });
                port
            }
        };
        let mut new = false;
        let peer = self.peers.entry(port).or_insert_with(|| {
            new = true;
            Peer { node, sid: node.sid(), port, class, links: Vec::new(), active: link }
        });
        peer.class = class;
        peer.links.push(link);
        Some((peer, new))
    }

    /// That link is gone. Gives the peer if this was its last one.
    pub fn remove_link(&mut self, port: Port, link: LinkId, now: Instant) -> Option<Peer> {
        let peer = self.peers.get_mut(&port)?;
        peer.links.retain(|&other| other != link);
        if let Some(&first) = peer.links.first() {
            if peer.active == link {
                peer.active = first;
            }
            return None;
        }
        if let Some(used) = self.ports.get_mut(&peer.node) {
            used.free_since = Some(now);
        }
        self.peers.remove(&port)
    }

    /// The peer behind a port.
    pub fn get(&self, port: Port) -> Option<&Peer> {
        self.peers.get(&port)
    }

    /// The peer behind a port.
    pub fn get_mut(&mut self, port: Port) -> Option<&mut Peer> {
        self.peers.get_mut(&port)
    }

    /// The peer with that key.
    pub fn by_node(&self, node: &NodeId) -> Option<&Peer> {
        self.peers.get(&self.ports.get(node)?.port)
    }

    /// All of them, by port.
    pub fn iter(&self) -> impl Iterator<Item = &Peer> {
        self.peers.values()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.peers.len()
    }

    /// Is there none?
    pub fn is_empty(&self) -> bool {
        self.peers.is_empty()
    }

    /// A port that was never given, or that its key has left for [`PORT_KEPT`]; if a flood of fresh keys used up all,
    /// the one left longest ago.
    fn free_port(&mut self, now: Instant) -> Option<Port> {
        debug_assert!(PEERS_MAX < usize::from(PORTS_MAX));
        let left = self.ports.iter().filter_map(|(node, used)| Some((used.free_since?, *node)));
        if let Some((since, oldest)) = left.min()
            && (now - since >= PORT_KEPT || self.next >= PORTS_MAX)
        {
            return self.ports.remove(&oldest).map(|used| used.port);
        }
        self.next += 1;
        Some(Port(self.next))
    }
}

/// Direct neighbours. Each costs some kilobytes; a hub of that size sends 900 kB a minute to idle ones.
pub const PEERS_MAX: usize = 1024;
/// Links to one peer: a cable, a wireless link, a tunnel, and one of each that is about to die.
pub const PEER_LINKS_MAX: usize = 6;
/// Ports, those included that belong to keys which have left.
const PORTS_MAX: u16 = 4096;
/// A port belongs to its peer's key for that long after it left, so that a coordinate leads to nobody else.
pub const PORT_KEPT: Duration = Duration::from_secs(24 * 3600);

#[cfg(test)]
mod tests {
    use super::*;

    fn node(n: u32) -> NodeId {
        let mut bytes = [0; 32];
        bytes[..4].copy_from_slice(&n.to_be_bytes());
        NodeId::from_bytes(bytes)
    }

    #[test]
    fn a_port_belongs_to_its_key() {
        let mut table = PeerTable::default();
        let now = Instant::ZERO;
        let first = table.add_link(node(1), Class::Stable, LinkId(1), now).unwrap().0.port;
        let (peer, new) = table.add_link(node(1), Class::Stable, LinkId(2), now).unwrap();
        assert_eq!((peer.port, new, peer.active), (first, false, LinkId(1)));
        assert!(table.remove_link(first, LinkId(1), now).is_none());
        assert_eq!(table.get(first).unwrap().active, LinkId(2));
        assert!(table.remove_link(first, LinkId(2), now).is_some());
        assert_ne!(table.add_link(node(2), Class::Stable, LinkId(3), now).unwrap().0.port, first);
        assert_eq!(table.add_link(node(1), Class::Stable, LinkId(4), now).unwrap().0.port, first);
    }

    #[test]
    fn a_flood_of_keys_stays_within_the_bounds() {
        let mut table = PeerTable::default();
        for n in 0..10_000 {
            let now = Instant::from_micros(u64::from(n));
            let port = table.add_link(node(n), Class::Stable, LinkId(n.into()), now).unwrap().0.port;
            table.remove_link(port, LinkId(n.into()), now);
            assert!(table.ports.len() <= usize::from(PORTS_MAX));
        }
        for n in 0..2_000 {
            let given = table.add_link(node(n), Class::Stable, LinkId(n.into()), Instant::ZERO).is_some();
            assert_eq!(given, (n as usize) < PEERS_MAX);
        }
    }
}
