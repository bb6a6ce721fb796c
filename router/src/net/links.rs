//! What the tasks that make connections (`dial`, `listen`, `multicast`) share with the loop.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::net::TcpStream;
use tokio::sync::{broadcast, mpsc, oneshot, watch};

use super::handle::{NodeEvent, Shared};
use super::interfaces::Interfaces;
use super::uri::PeerUri;
use crate::config::LinkSpec;
use crate::error::LinkError;
use crate::id::{LinkId, NodeId};
use crate::router::{Command, Router};

/// Connections on their way to the loop: whoever makes more waits.
pub(crate) const INTERNAL_MAX: usize = 16;

/// What tasks tell the loop.
pub(crate) enum Internal {
    Link(Box<NewLink>),
    Query(Box<dyn FnOnce(&Router) + Send>),
}

/// A connection that was made.
pub(crate) struct NewLink {
    pub(crate) link: LinkId,
    pub(crate) stream: TcpStream,
    pub(crate) spec: LinkSpec,
    /// The configured neighbour that was dialled.
    pub(crate) peer: Option<PeerUri>,
    /// Told when it is over.
    pub(crate) ended: oneshot::Sender<LinkEnd>,
}

/// How a link ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LinkEnd {
    pub(crate) reason: LinkError,
    /// The peer, if it ever proved its key.
    pub(crate) node: Option<NodeId>,
}

/// One task's way to the loop.
#[derive(Clone)]
pub(crate) struct LinkMaker {
    shared: Arc<Shared>,
    internal: mpsc::Sender<Internal>,
    next: Arc<AtomicU64>,
    /// The host's interfaces, as they change.
    pub(crate) interfaces: watch::Receiver<Interfaces>,
}

impl LinkMaker {
    pub(crate) fn new(
        shared: Arc<Shared>,
        internal: mpsc::Sender<Internal>,
        interfaces: watch::Receiver<Interfaces>,
    ) -> Self {
        Self { shared, internal, next: Arc::default(), interfaces }
    }

    /// Gives a connection to the loop; the receiver tells how it ended, or nothing if the node ends.
    pub(crate) async fn link(
        &self,
        stream: TcpStream,
        spec: LinkSpec,
        peer: Option<PeerUri>,
    ) -> (LinkId, oneshot::Receiver<LinkEnd>) {
        let link = LinkId(self.next.fetch_add(1, Ordering::Relaxed));
        let (ended, end) = oneshot::channel();
        // A loop that has ended drops the connection, and with it `ended`.
        let _ =
            self.internal.send(Internal::Link(Box::new(NewLink { link, stream, spec, peer, ended }))).await;
        (link, end)
    }

    /// Asks the router.
    pub(crate) async fn query<T: Send + 'static>(&self, question: fn(&Router) -> T) -> Option<T> {
        let (answer, answered) = oneshot::channel();
        let question = Box::new(move |router: &Router| drop(answer.send(question(router))));
        self.internal.send(Internal::Query(question)).await.ok()?;
        answered.await.ok()
    }

    /// Has a link given up.
    pub(crate) fn close(&self, link: LinkId) {
        // Refused only when the loop has ended, or has thousands of commands waiting: then the link stays, which is
        // found out the next time that somebody wants it closed.
        let _ = self.shared.commands.push(Command::CloseLink { link });
    }

    /// What happens from now on.
    pub(crate) fn events(&self) -> broadcast::Receiver<NodeEvent> {
        self.shared.events.subscribe()
    }

    pub(crate) fn counters(&self) -> &super::stats::Counters {
        &self.shared.net_stats
    }
}
