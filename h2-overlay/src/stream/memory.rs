//! A network in memory in the place of the overlay: for tests and benches of what stands on it. It drops, delays and
//! cuts off as told; nothing is sealed, since nothing leaves the process.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use router::NodeId;
use tokio::sync::mpsc;

use super::congestion::PathChanges;
use super::socket::{Datagrams, SendFailure};
use crate::{Config, Overlay};

/// Nodes that reach each other. Clones share it.
#[derive(Clone, Default)]
pub struct Net(Arc<Shared>);

struct Shared {
    ends: Mutex<HashMap<NodeId, mpsc::Sender<(NodeId, Bytes)>>>,
    /// Lost datagrams in a thousand.
    loss_permille: AtomicU64,
    delay_micros: AtomicU64,
    mtu: AtomicU64,
    changes: PathChanges,
    /// State of a small generator: which datagrams are lost is the same in every run with the same order of sends.
    random: AtomicU64,
    sent: AtomicU64,
}

impl Default for Shared {
    fn default() -> Self {
        Self {
            ends: Mutex::default(),
            loss_permille: AtomicU64::new(0),
            delay_micros: AtomicU64::new(0),
            mtu: AtomicU64::new(1280),
            changes: PathChanges::default(),
            random: AtomicU64::new(0x9e37_79b9_7f4a_7c15),
            sent: AtomicU64::new(0),
        }
    }
}

/// Datagrams that may wait for a node.
const QUEUE_MAX: usize = 4096;

impl Net {
    /// A network without loss or delay and with datagrams of 1280 bytes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets so many of a thousand datagrams get lost.
    pub fn set_loss_permille(&self, permille: u64) {
        self.0.loss_permille.store(permille, Relaxed);
    }

    /// Every datagram is under way for so long.
    pub fn set_delay(&self, delay: Duration) {
        self.0.delay_micros.store(delay.as_micros() as u64, Relaxed);
    }

    /// The largest datagram that is carried.
    pub fn set_mtu(&self, mtu: usize) {
        self.0.mtu.store(mtu as u64, Relaxed);
    }

    /// All packets take another way from now on.
    pub fn change_paths(&self) {
        self.0.changes.fetch_add(1, Relaxed);
    }

    /// Datagrams sent so far, the lost ones too.
    pub fn sent(&self) -> u64 {
        self.0.sent.load(Relaxed)
    }

    /// Takes a node off the network; datagrams to it get lost.
    pub fn detach(&self, node: &NodeId) {
        self.0.ends.lock().expect("no panic under the lock").remove(node);
    }

    /// An overlay on this network. Needs a tokio runtime. A second one under the same key takes the place of the first.
    pub fn overlay(&self, node: NodeId, config: Config) -> Overlay {
        Overlay::over(Box::new(self.socket(node)), config)
    }

    pub(crate) fn socket(&self, node: NodeId) -> Socket {
        let (sender, receiver) = mpsc::channel(QUEUE_MAX);
        self.0.ends.lock().expect("no panic under the lock").insert(node, sender.clone());
        Socket { node, net: self.clone(), receiver: Mutex::new(receiver), _sender: sender }
    }

    fn roll(&self) -> u64 {
        let mut x = self.0.random.load(Relaxed);
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        self.0.random.store(x, Relaxed);
        x
    }
}

impl fmt::Debug for Net {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Net")
    }
}

/// Two sockets on one network.
#[cfg(test)]
pub(crate) fn pair(a: NodeId, b: NodeId, net: Net) -> (Socket, Socket) {
    (net.socket(a), net.socket(b))
}

/// A node's end.
#[derive(Debug)]
pub(crate) struct Socket {
    node: NodeId,
    net: Net,
    receiver: Mutex<mpsc::Receiver<(NodeId, Bytes)>>,
    /// Keeps the receiver open when the node is taken off the network.
    _sender: mpsc::Sender<(NodeId, Bytes)>,
}

impl Datagrams for Socket {
    fn id(&self) -> NodeId {
        self.node
    }

    fn mtu(&self, _to: &NodeId) -> usize {
        self.net.0.mtu.load(Relaxed) as usize
    }

    fn path_changes(&self, _to: &NodeId) -> PathChanges {
        self.net.0.changes.clone()
    }

    fn try_send(&self, to: NodeId, datagram: Bytes) -> Result<(), SendFailure> {
        let shared = &self.net.0;
        shared.sent.fetch_add(1, Relaxed);
        if datagram.len() > self.mtu(&to) {
            return Err(SendFailure::TooLarge);
        }
        if self.net.roll() % 1000 < shared.loss_permille.load(Relaxed) {
            return Ok(());
        }
        let Some(end) = shared.ends.lock().expect("no panic under the lock").get(&to).cloned() else {
            return Ok(());
        };
        let from = self.node;
        match shared.delay_micros.load(Relaxed) {
            0 => match end.try_send((from, datagram)) {
                // Gone, or too slow: lost on the way.
                Err(_) | Ok(()) => {}
            },
            micros => {
                tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_micros(micros)).await;
                    // A full queue after the way is a datagram lost.
                    let _ = end.try_send((from, datagram));
                });
            }
        }
        Ok(())
    }

    fn poll_send_ready(&self, _cx: &mut Context<'_>) -> Poll<()> {
        Poll::Ready(())
    }

    fn poll_recv(&self, cx: &mut Context<'_>, out: &mut Vec<(NodeId, Bytes)>, max: usize) -> Poll<usize> {
        self.receiver.lock().expect("no panic under the lock").poll_recv_many(cx, out, max)
    }
}
