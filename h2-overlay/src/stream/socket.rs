//! The socket that QUIC sees: datagrams to keys under the guise of datagrams to IPv6 addresses.
//!
//! QUIC drops what comes from another address than the one it dialled, so a node has one synthetic address for as long
//! as this process lives: a keyed hash of its key. It never leaves the process.

use std::{
    collections::HashMap,
    fmt,
    hash::{BuildHasher, RandomState},
    io::{self, IoSliceMut},
    net::{Ipv6Addr, SocketAddr},
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, ready},
    time::Instant,
};

use bytes::Bytes;
use quinn::{
    AsyncUdpSocket, UdpPoller,
    udp::{RecvMeta, Transmit},
};
use router::{
    NodeId,
    net::{KeySocket, SendError},
};

use super::congestion::PathChanges;
use crate::stats::Counters;

/// Datagrams to and from keys. Whoever implements it vouches that a datagram given out came from the node named, whole
/// and unread by others; that is what the null crypto session stands on, so the trait is not public.
pub(crate) trait Datagrams: fmt::Debug + Send + Sync + 'static {
    /// The node's own key.
    fn id(&self) -> NodeId;
    /// The largest datagram for that node.
    fn mtu(&self, to: &NodeId) -> usize;
    /// Counts how often packets to that node have changed their way.
    fn path_changes(&self, to: &NodeId) -> PathChanges;
    /// Sends or says why not; never waits.
    fn try_send(&self, to: NodeId, datagram: Bytes) -> Result<(), SendFailure>;
    /// Ready once `try_send` would not say that the queue is full. Several tasks may wait.
    fn poll_send_ready(&self, cx: &mut Context<'_>) -> Poll<()>;
    /// Moves up to `max` datagrams to the end of `out` and tells how many; 0 only once the socket is closed.
    fn poll_recv(&self, cx: &mut Context<'_>, out: &mut Vec<(NodeId, Bytes)>, max: usize) -> Poll<usize>;
}

/// The router's sessions seal and authenticate: this is what the null crypto session is meant for.
impl Datagrams for KeySocket {
    fn id(&self) -> NodeId {
        self.id()
    }

    fn mtu(&self, to: &NodeId) -> usize {
        self.mtu(to)
    }

    fn path_changes(&self, to: &NodeId) -> PathChanges {
        self.path_changes(to)
    }

    fn try_send(&self, to: NodeId, datagram: Bytes) -> Result<(), SendFailure> {
        self.try_send(to, datagram).map_err(|error| match error {
            SendError::Full => SendFailure::Full,
            SendError::Closed => SendFailure::Closed,
            // Too large, or a reason yet unknown: this datagram is lost, others may pass.
            _ => SendFailure::TooLarge,
        })
    }

    fn poll_send_ready(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.poll_send_ready(cx)
    }

    fn poll_recv(&self, cx: &mut Context<'_>, out: &mut Vec<(NodeId, Bytes)>, max: usize) -> Poll<usize> {
        self.poll_recv_many(cx, out, max)
    }
}

/// Why a datagram was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SendFailure {
    /// The queue to the router is full.
    Full,
    /// No path takes that much.
    TooLarge,
    /// The node was shut down.
    Closed,
}

/// Wraps [`Datagrams`] for QUIC. Owning one is the proof that [`super::crypto::NullCrypto`] asks for.
pub(crate) struct SealedSocket {
    datagrams: Box<dyn Datagrams>,
    addresses: Mutex<Addresses>,
    /// What was taken from `datagrams` in one go; empty between polls.
    batch: Mutex<Vec<(NodeId, Bytes)>>,
    counters: Arc<Counters>,
}

impl SealedSocket {
    pub(crate) fn new(datagrams: Box<dyn Datagrams>, counters: Arc<Counters>) -> Arc<Self> {
        Arc::new(Self { datagrams, addresses: Mutex::default(), batch: Mutex::default(), counters })
    }

    pub(crate) fn id(&self) -> NodeId {
        self.datagrams.id()
    }

    pub(crate) fn mtu(&self, to: &NodeId) -> usize {
        self.datagrams.mtu(to)
    }

    pub(crate) fn path_changes(&self, to: &NodeId) -> PathChanges {
        self.datagrams.path_changes(to)
    }

    /// The address of a node, for QUIC to dial.
    pub(crate) fn address_of(&self, node: NodeId) -> SocketAddr {
        let mut addresses = self.addresses.lock().expect("no panic under the lock");
        socket_address(addresses.insert(node, None))
    }

    /// The node behind an address, as far as it was heard or dialled lately.
    pub(crate) fn node_at(&self, address: SocketAddr) -> Option<NodeId> {
        let SocketAddr::V6(address) = address else { return None };
        let addresses = self.addresses.lock().expect("no panic under the lock");
        addresses.nodes.get(address.ip()).map(|entry| entry.node)
    }

    /// When a datagram came from that node last.
    pub(crate) fn last_heard(&self, node: &NodeId) -> Option<Instant> {
        let addresses = self.addresses.lock().expect("no panic under the lock");
        addresses.nodes.get(&addresses.hash(node)).and_then(|entry| entry.heard)
    }

    /// Keeps the node's address known for as long as the pin lives.
    pub(crate) fn pin(self: &Arc<Self>, node: NodeId) -> Pinned {
        let mut addresses = self.addresses.lock().expect("no panic under the lock");
        let address = addresses.insert(node, None);
        if let Some(entry) = addresses.nodes.get_mut(&address) {
            entry.pins += 1;
        }
        Pinned { socket: self.clone(), address }
    }
}

/// See [`SealedSocket::pin`].
pub(crate) struct Pinned {
    socket: Arc<SealedSocket>,
    address: Ipv6Addr,
}

impl Drop for Pinned {
    fn drop(&mut self) {
        let mut addresses = self.socket.addresses.lock().expect("no panic under the lock");
        if let Some(entry) = addresses.nodes.get_mut(&self.address) {
            entry.pins -= 1;
        }
    }
}

/// Which node has which address.
struct Addresses {
    nodes: HashMap<Ipv6Addr, Entry>,
    /// Two halves of the keyed hash.
    keys: [RandomState; 2],
    uses: u64,
}

struct Entry {
    node: NodeId,
    /// Connections that need the entry.
    pins: u32,
    /// Rises with each use, for eviction.
    used: u64,
    heard: Option<Instant>,
}

/// Nodes without a connection whose address is remembered, so that an answer to what just came finds its way.
const ADDRESSES_MAX: usize = 4096;

impl Default for Addresses {
    fn default() -> Self {
        Self { nodes: HashMap::new(), keys: [RandomState::new(), RandomState::new()], uses: 0 }
    }
}

impl Addresses {
    fn hash(&self, node: &NodeId) -> Ipv6Addr {
        let [high, low] = self.keys.each_ref().map(|key| key.hash_one(node));
        Ipv6Addr::from((u128::from(high) << 64) | u128::from(low))
    }

    fn insert(&mut self, node: NodeId, heard: Option<Instant>) -> Ipv6Addr {
        let address = self.hash(&node);
        self.uses += 1;
        if self.nodes.len() >= ADDRESSES_MAX && !self.nodes.contains_key(&address) {
            self.evict();
        }
        let entry = self.nodes.entry(address).or_insert(Entry { node, pins: 0, used: 0, heard: None });
        entry.used = self.uses;
        entry.heard = heard.or(entry.heard);
        address
    }

    /// Forgets the older half of what nobody needs: seldom, so that a flood of keys costs little for each.
    fn evict(&mut self) {
        let mut used: Vec<u64> =
            self.nodes.values().filter(|entry| entry.pins == 0).map(|entry| entry.used).collect();
        used.sort_unstable();
        let Some(middle) = used.get(used.len() / 2).copied() else { return };
        self.nodes.retain(|_, entry| entry.pins > 0 || entry.used > middle);
    }
}

fn socket_address(address: Ipv6Addr) -> SocketAddr {
    SocketAddr::new(address.into(), PORT)
}

/// QUIC wants one; nobody looks at it.
const PORT: u16 = 1;
/// Datagrams that QUIC may hand over in one buffer, to be sliced without a copy each.
const SEGMENTS_MAX: usize = 16;

impl fmt::Debug for SealedSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SealedSocket").field(&self.datagrams).finish()
    }
}

impl AsyncUdpSocket for SealedSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Writable(self))
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        // An address that was forgotten is a datagram lost: its node will be heard again.
        let Some(to) = self.node_at(transmit.destination) else { return Ok(()) };
        let contents = Bytes::copy_from_slice(transmit.contents);
        let segment = transmit.segment_size.unwrap_or(contents.len()).max(1);
        let mut start = 0;
        while start < contents.len() {
            let end = contents.len().min(start + segment);
            match self.datagrams.try_send(to, contents.slice(start..end)) {
                Ok(()) => {}
                Err(SendFailure::Full) if start == 0 => return Err(io::ErrorKind::WouldBlock.into()),
                // QUIC would repeat all of it: the rest counts as lost on the way.
                Err(SendFailure::Full) => self.counters.datagrams_dropped.add(),
                Err(SendFailure::TooLarge) => self.counters.datagrams_oversized.add(),
                Err(SendFailure::Closed) => return Err(io::ErrorKind::NotConnected.into()),
            }
            start = end;
        }
        Ok(())
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let mut batch = self.batch.lock().expect("no panic under the lock");
        loop {
            if ready!(self.datagrams.poll_recv(cx, &mut batch, bufs.len().min(meta.len()))) == 0 {
                return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
            }
            let mut count = 0;
            let now = Instant::now();
            let mut addresses = self.addresses.lock().expect("no panic under the lock");
            for (from, datagram) in batch.drain(..) {
                // Longer than we ever said we take: not from a QUIC that listened.
                if datagram.is_empty() || datagram.len() > bufs[count].len() {
                    continue;
                }
                bufs[count][..datagram.len()].copy_from_slice(&datagram);
                meta[count] = RecvMeta {
                    addr: socket_address(addresses.insert(from, Some(now))),
                    len: datagram.len(),
                    stride: datagram.len(),
                    ecn: None,
                    dst_ip: None,
                };
                count += 1;
            }
            if count > 0 {
                return Poll::Ready(Ok(count));
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(socket_address(Ipv6Addr::UNSPECIFIED))
    }

    fn max_transmit_segments(&self) -> usize {
        SEGMENTS_MAX
    }

    fn may_fragment(&self) -> bool {
        false
    }
}

/// Waits for room in the node's queue.
#[derive(Debug)]
struct Writable(Arc<SealedSocket>);

impl UdpPoller for Writable {
    fn poll_writable(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.datagrams.poll_send_ready(cx).map(Ok)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(number: u32) -> NodeId {
        let mut bytes = [0; 32];
        bytes[..4].copy_from_slice(&number.to_be_bytes());
        NodeId::from_bytes(bytes)
    }

    #[test]
    fn an_address_is_kept_while_pinned_and_the_table_is_bounded() {
        let (socket, _) = crate::stream::memory::pair(node(0), node(1), crate::memory::Net::default());
        let socket = SealedSocket::new(Box::new(socket), Arc::default());
        let pinned = socket.pin(node(7));
        let address = socket.address_of(node(7));
        for number in 100..100 + 3 * ADDRESSES_MAX as u32 {
            socket.address_of(node(number));
        }
        assert!(socket.addresses.lock().unwrap().nodes.len() <= ADDRESSES_MAX);
        assert_eq!(socket.node_at(address), Some(node(7)));
        drop(pinned);
        for number in 100_000..100_000 + 3 * ADDRESSES_MAX as u32 {
            socket.address_of(node(number));
        }
        assert_eq!(socket.node_at(address), None);
        assert_eq!(socket.address_of(node(7)), address, "the same after it was forgotten");
    }
}
