//! What applications hold: a [`Node`] to ask and steer, a [`KeySocket`] to talk by key.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use thiserror::Error;
use tokio::sync::{broadcast, mpsc, oneshot};

use super::queue::{Commands, Received, Refused};
use super::start;
use super::stats::NodeStats;
use super::{NodeConfig, PeerUri, StartError};
use crate::config::MTU_MIN;
use crate::error::Unreachable;
use crate::id::{LinkId, NodeId, Sid, Target};
use crate::lookup::AccountRecord;
use crate::route::choose::RouteInfo;
use crate::router::{Channel, Command, PeerInfo, Router, SelfInfo, SessionInfo, TreeInfoView};

/// Events that a slow listener may be behind before it misses some (and is told so).
const EVENTS_MAX: usize = 256;
/// Requests on their way to the loop; more callers wait.
const REQUESTS_MAX: usize = 64;
/// Nodes whose packet size is remembered for [`KeySocket::mtu`]; of others 1280 is said, which always holds.
const MTUS_MAX: usize = 4096;
/// Packets that one call of [`KeySocket::recv`] leaves for the next ones.
const RECV_BATCH: usize = 1;

/// A running node. Clones are the same node; it ends with [`Self::shutdown`] or when the last clone is dropped.
#[derive(Clone, Debug)]
pub struct Node {
    shared: Arc<Shared>,
    requests: mpsc::Sender<Request>,
}

/// What happens around a node.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NodeEvent {
    /// A link to a neighbour is up. There may be several to one neighbour.
    PeerUp {
        /// The neighbour.
        node: NodeId,
        /// The link.
        link: LinkId,
        /// Found by multicast.
        multicast: bool,
        /// The interface it was found on.
        interface: Option<String>,
        /// Where it leads.
        remote: String,
    },
    /// A link to a neighbour that was up is gone.
    PeerDown {
        /// The neighbour.
        node: NodeId,
        /// The link.
        link: LinkId,
        /// Found by multicast.
        multicast: bool,
    },
    /// A session with a node stands: it can be reached.
    SessionUp {
        /// The node.
        node: NodeId,
    },
    /// A session ended by silence.
    SessionDown {
        /// The node.
        node: NodeId,
    },
    /// Packets to a node were dropped since it cannot be found or does not answer.
    Unreachable {
        /// The node.
        node: NodeId,
    },
    /// Packets to a node take another way than before.
    PathChanged {
        /// The node.
        node: NodeId,
    },
    /// This node has come to a network, or two have met ([`crate::Event::Joined`]).
    Joined,
}

/// Why a question about another node has no answer.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum LookupError {
    /// The network says so.
    #[error(transparent)]
    Unreachable(#[from] Unreachable),
    /// This node has ended.
    #[error("the node has been shut down")]
    Closed,
}

/// Why a packet was not taken.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum SendError {
    /// Too much waits already: [`KeySocket::poll_send_ready`] tells when there is room.
    #[error("the node is busy sending")]
    Full,
    /// No path takes so large a packet.
    #[error("the packet is larger than the path takes ({mtu} bytes)")]
    TooLarge {
        /// What it takes now.
        mtu: usize,
    },
    /// The node has ended.
    #[error("the node has been shut down")]
    Closed,
}

/// Why a list of neighbours to dial stays as it is.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum PeerError {
    /// It is in the list.
    #[error("this peer is configured already")]
    Known,
    /// It is not in the list.
    #[error("no such peer is configured")]
    Unknown,
    /// The list is full.
    #[error("there are too many configured peers")]
    TooMany,
    /// The node has ended.
    #[error("the node has been shut down")]
    Closed,
}

impl Node {
    /// Starts a node: listeners and interfaces are there when this returns, links come later by themselves.
    pub async fn start(config: NodeConfig) -> Result<Self, StartError> {
        let (requests, inbox) = mpsc::channel(REQUESTS_MAX);
        let shared = start::start(config, inbox).await?;
        Ok(Self { shared, requests })
    }

    /// The node's key.
    pub fn id(&self) -> NodeId {
        self.shared.id
    }

    /// Datagrams to and from keys. All sockets of a node share one receive queue: one of them should receive.
    pub fn socket(&self) -> KeySocket {
        KeySocket { shared: Arc::clone(&self.shared) }
    }

    /// Finds a node by key or address.
    pub async fn lookup(&self, target: impl Into<Target>) -> Result<NodeId, LookupError> {
        let target = target.into();
        Ok(self.ask(|answer| Request::Lookup(target, answer)).await.ok_or(LookupError::Closed)??)
    }

    /// The time to a node and back, through a session.
    pub async fn ping(&self, to: NodeId) -> Result<Duration, LookupError> {
        Ok(self.ask(|answer| Request::Ping(to, answer)).await.ok_or(LookupError::Closed)??)
    }

    /// The ways that are known to a node: the trees first, then source routes. Empty without a session.
    pub async fn routes(&self, to: NodeId) -> Vec<RouteInfo> {
        let routes = self.ask(|answer| {
            // Whoever asked may have gone meanwhile.
            Request::Query(Box::new(move |router| drop(answer.send(router.routes(&to)))))
        });
        routes.await.unwrap_or_default()
    }

    /// Who is on the way to a node, the node itself last, and the time to each and back, of those that answer. Empty if
    /// packets to it take no source route.
    pub async fn trace(&self, to: NodeId) -> Vec<(Sid, Option<Duration>)> {
        self.ask(|answer| Request::Trace(to, answer)).await.unwrap_or_default()
    }

    /// Finds the nodes of an account; none if nobody knows any.
    pub async fn find_account(&self, acct: [u8; 32]) -> Result<Vec<AccountRecord>, LookupError> {
        self.ask(|answer| Request::FindAccount(acct, answer)).await.ok_or(LookupError::Closed)
    }

    /// Keeps a record of an account of this node findable until [`Self::withdraw`].
    pub fn publish(&self, record: AccountRecord) {
        // Refused only by a node that has ended, or is not keeping up with thousands of these: the caller of either
        // has other worries, and publishes again with the next record.
        let _ = self.shared.commands.push(Command::Publish { record });
    }

    /// No longer keeps an account's record.
    pub fn withdraw(&self, acct: [u8; 32]) {
        let _ = self.shared.commands.push(Command::Withdraw { acct });
    }

    /// The node itself.
    pub async fn self_info(&self) -> Option<SelfInfo> {
        self.query(Router::self_info).await
    }

    /// All links; empty once the node has ended.
    pub async fn peers(&self) -> Vec<PeerInfo> {
        self.query(Router::peers).await.unwrap_or_default()
    }

    /// The node's place in each tree.
    pub async fn trees(&self) -> Vec<TreeInfoView> {
        self.query(Router::trees).await.unwrap_or_default()
    }

    /// All sessions.
    pub async fn sessions(&self) -> Vec<SessionInfo> {
        self.query(Router::sessions).await.unwrap_or_default()
    }

    /// Counters of the router and of what drives it.
    pub async fn stats(&self) -> NodeStats {
        let router = self.query(Router::stats).await.unwrap_or_default();
        let mut net = self.shared.net_stats.snapshot();
        net.received_dropped = self.shared.received.dropped();
        NodeStats { router, net }
    }

    /// Keeps a link to one more neighbour from now on.
    pub async fn add_peer(&self, peer: PeerUri) -> Result<(), PeerError> {
        self.ask(|answer| Request::AddPeer(peer, answer)).await.unwrap_or(Err(PeerError::Closed))
    }

    /// Gives a configured neighbour up, and its link.
    pub async fn remove_peer(&self, peer: &PeerUri) -> Result<(), PeerError> {
        let peer = peer.clone();
        self.ask(|answer| Request::RemovePeer(peer, answer)).await.unwrap_or(Err(PeerError::Closed))
    }

    /// The neighbours that are configured, whether there is a link or not.
    pub async fn configured_peers(&self) -> Vec<PeerUri> {
        self.ask(Request::ConfiguredPeers).await.unwrap_or_default()
    }

    /// What happens from now on.
    pub fn events(&self) -> broadcast::Receiver<NodeEvent> {
        self.shared.events.subscribe()
    }

    /// Neighbours with a link that multicast found.
    pub fn neighbours(&self) -> Vec<NodeId> {
        let mut found: Vec<NodeId> = self.shared.view().neighbours.values().copied().collect();
        found.sort_unstable();
        found.dedup();
        found
    }

    /// Where configured listeners listen, with the ports that the system chose.
    pub fn listening(&self) -> Vec<SocketAddr> {
        self.shared.view().listening.clone()
    }

    /// Ends the node: its state is on disk and its sockets are closed when this returns.
    pub async fn shutdown(&self) {
        self.ask(Request::Shutdown).await;
    }

    async fn query<T: Send + 'static>(&self, question: fn(&Router) -> T) -> Option<T> {
        self.ask(|answer| {
            // Whoever asked may have gone meanwhile.
            Request::Query(Box::new(move |router| drop(answer.send(question(router)))))
        })
        .await
    }

    async fn ask<T>(&self, request: impl FnOnce(oneshot::Sender<T>) -> Request) -> Option<T> {
        let (answer, answered) = oneshot::channel();
        self.requests.send(request(answer)).await.ok()?;
        answered.await.ok()
    }
}

/// Datagrams of applications, from key to key: sealed, authenticated, unordered, and lost when the network says so.
#[derive(Clone, Debug)]
pub struct KeySocket {
    shared: Arc<Shared>,
}

impl KeySocket {
    /// The key of this node.
    pub fn id(&self) -> NodeId {
        self.shared.id
    }

    /// The largest payload that is taken for that node now; never below 1280.
    pub fn mtu(&self, to: &NodeId) -> usize {
        self.shared.view().mtus.get(to).map_or(MTU_MIN, |mtu| mtu.least)
    }

    /// Counts how often packets to that node have changed their way ([`NodeEvent::PathChanged`]), for as long as somebody
    /// holds it: what was measured of the old way says little of the new one.
    pub fn path_changes(&self, to: &NodeId) -> Arc<AtomicU32> {
        let mut view = self.shared.view();
        if let Some(counter) = view.changes.get(to).and_then(Weak::upgrade) {
            return counter;
        }
        view.changes.retain(|_, counter| counter.strong_count() > 0);
        let counter = Arc::default();
        view.changes.insert(*to, Arc::downgrade(&counter));
        counter
    }

    /// Hands a packet over. That it was taken says nothing about whether it arrives.
    pub fn try_send(&self, to: NodeId, payload: Bytes) -> Result<(), SendError> {
        if payload.len() > MTU_MIN {
            // Where ways differ, the router finds one that takes it.
            let mtu = self.shared.view().mtus.get(&to).map_or(MTU_MIN, |mtu| mtu.most);
            if payload.len() > mtu {
                return Err(SendError::TooLarge { mtu });
            }
        }
        let command = Command::Send { to, channel: Channel::Stream, payload };
        self.shared.commands.push(command).map_err(|refused| match refused {
            Refused::Full => SendError::Full,
            Refused::Closed => SendError::Closed,
        })
    }

    /// Ready once [`Self::try_send`] would not say [`SendError::Full`]; several tasks may wait.
    pub fn poll_send_ready(&self, cx: &Context<'_>) -> Poll<()> {
        self.shared.commands.poll_room(cx)
    }

    /// Hands a packet over, waiting for room.
    pub async fn send(&self, to: NodeId, payload: Bytes) -> Result<(), SendError> {
        loop {
            match self.try_send(to, payload.clone()) {
                Err(SendError::Full) => std::future::poll_fn(|cx| self.poll_send_ready(cx)).await,
                done => return done,
            }
        }
    }

    /// Moves up to `max` received packets to the end of `out` and tells how many; 0 only once the node has ended.
    /// One task may wait.
    pub fn poll_recv_many(
        &self,
        cx: &Context<'_>,
        out: &mut Vec<(NodeId, Bytes)>,
        max: usize,
    ) -> Poll<usize> {
        self.shared.received.poll(cx, out, max)
    }

    /// The next packet; `None` once the node has ended. One task may wait.
    pub fn poll_recv(&self, cx: &Context<'_>) -> Poll<Option<(NodeId, Bytes)>> {
        let mut out = Vec::with_capacity(RECV_BATCH);
        self.poll_recv_many(cx, &mut out, RECV_BATCH).map(|_| out.pop())
    }

    /// The next packet; `None` once the node has ended.
    pub async fn recv(&self) -> Option<(NodeId, Bytes)> {
        std::future::poll_fn(|cx| self.poll_recv(cx)).await
    }
}

/// What handles and the loop share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) id: NodeId,
    pub(crate) commands: Commands,
    pub(crate) received: Received,
    pub(crate) events: broadcast::Sender<NodeEvent>,
    pub(crate) net_stats: super::stats::Counters,
    view: Mutex<View>,
}

/// What handles may look at without asking the loop.
#[derive(Debug, Default)]
pub(crate) struct View {
    /// Links that multicast found and that are up.
    pub(crate) neighbours: HashMap<LinkId, NodeId>,
    pub(crate) listening: Vec<SocketAddr>,
    /// Only those that take more than the least.
    pub(crate) mtus: HashMap<NodeId, Mtu>,
    /// Of nodes that somebody watches: as many as there are connections.
    changes: HashMap<NodeId, Weak<AtomicU32>>,
}

impl Shared {
    pub(crate) fn new(id: NodeId, commands: Commands) -> Self {
        Self {
            id,
            commands,
            received: Received::default(),
            events: broadcast::Sender::new(EVENTS_MAX),
            net_stats: super::stats::Counters::default(),
            view: Mutex::default(),
        }
    }

    pub(crate) fn view(&self) -> MutexGuard<'_, View> {
        // Every change to it is one insert or remove: it stays whole if a holder panicked.
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set_mtu(&self, node: NodeId, mtu: Mtu) {
        let mut view = self.view();
        if mtu.most <= MTU_MIN {
            view.mtus.remove(&node);
        } else if view.mtus.len() < MTUS_MAX || view.mtus.contains_key(&node) {
            view.mtus.insert(node, mtu);
        }
    }

    pub(crate) fn path_changed(&self, node: &NodeId) {
        if let Some(counter) = self.view().changes.get(node).and_then(Weak::upgrade) {
            counter.fetch_add(1, Relaxed);
        }
    }
}

/// Payloads that the ways to a node take: all of them, and the broadest.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Mtu {
    pub(crate) least: usize,
    pub(crate) most: usize,
}

/// What a [`Node`] asks of the loop.
pub(crate) enum Request {
    Query(Box<dyn FnOnce(&Router) + Send>),
    Lookup(Target, oneshot::Sender<Result<NodeId, Unreachable>>),
    Ping(NodeId, oneshot::Sender<Result<Duration, Unreachable>>),
    Trace(NodeId, oneshot::Sender<Vec<super::asked::Traced>>),
    FindAccount([u8; 32], oneshot::Sender<Vec<AccountRecord>>),
    AddPeer(PeerUri, oneshot::Sender<Result<(), PeerError>>),
    RemovePeer(PeerUri, oneshot::Sender<Result<(), PeerError>>),
    ConfiguredPeers(oneshot::Sender<Vec<PeerUri>>),
    Shutdown(oneshot::Sender<()>),
}
