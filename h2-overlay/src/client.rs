//! `Overlay`: what an application holds. Requests to a node by its key.

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, Response, Uri, Version, uri};
use http_body_util::Full;
use router::{
    NodeId,
    net::{KeySocket, Node, NodeEvent},
};
use tokio::sync::{
    broadcast::{self, error::RecvError},
    watch,
};

use crate::{
    body::{Body, BoxError},
    config::{Class, Config},
    error::Error,
    pool::{Conn, Pool},
    server::Server,
    stats::{Counters, Stats},
    stream::{Streams, socket::Datagrams},
};

/// HTTP/2 to and from other nodes. Clones share everything.
#[derive(Clone)]
pub struct Overlay(Arc<Inner>);

struct Inner {
    pool: Arc<Pool>,
    server: Arc<Server>,
    counters: Arc<Counters>,
    config: Config,
}

/// A request extension of the caller: the request may be sent twice, although its method does not say so. GET, HEAD, PUT,
/// DELETE, OPTIONS need none.
#[derive(Debug, Clone, Copy)]
pub struct Idempotent;

impl Overlay {
    /// Speaks HTTP/2 over a node's datagrams. The overlay becomes the one receiver of the socket. Needs a tokio runtime.
    pub fn new(socket: KeySocket, config: Config) -> Self {
        Self::over(Box::new(socket), config)
    }

    /// The same, and hears from the node who can be reached: no back-off outlasts the return of a node.
    pub fn of(node: &Node, config: Config) -> Self {
        let overlay = Self::new(node.socket(), config);
        let (pool, stopped, events) = (overlay.0.pool.clone(), overlay.0.server.stopped(), node.events());
        tokio::spawn(follow(pool, stopped, events));
        overlay
    }

    pub(crate) fn over(datagrams: Box<dyn Datagrams>, config: Config) -> Self {
        let counters = Arc::<Counters>::default();
        let (accepted, conns) = tokio::sync::mpsc::unbounded_channel();
        let streams = Streams::over(datagrams, &config, counters.clone())
            .expect("making an endpoint on a socket in memory does no I/O");
        let pool = Pool::new(streams, config.clone(), counters.clone(), accepted);
        let server = Server::start(pool.clone(), conns, config.clone(), counters.clone());
        Self(Arc::new(Inner { pool, server, counters, config }))
    }

    /// Serves requests of others until [`Self::close`]. A later call replaces the service for new requests.
    ///
    /// The service sees [`crate::Caller`] in the extensions. `axum::Router` fits.
    pub async fn serve<S, B>(&self, service: S)
    where
        S: tower::Service<Request<Body>, Response = Response<B>> + Clone + Send + Sync + 'static,
        S::Future: Send + 'static,
        S::Error: Into<BoxError>,
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        self.0.server.serve(service).await;
    }

    /// Sends a request to a node and returns its answer once the head of it is there. There is no time limit on
    /// the answer but the caller's; dropping the future cancels the request.
    ///
    /// A request that was not sent when its connection broke is sent again on a new one; so is one that was sent, if its
    /// method (or [`Idempotent`]) allows that.
    pub async fn request(
        &self,
        to: NodeId,
        class: Class,
        mut request: Request<Full<Bytes>>,
    ) -> Result<Response<Body>, Error> {
        complete(&to, &mut request)?;
        let safe = request.method().is_idempotent() || request.extensions().get::<Idempotent>().is_some();
        self.0.counters.requests_out.add();
        let (conn, fresh) = self.0.pool.connection(to).await?;
        match self.attempt(conn, class, request.clone()).await {
            Ok(response) => Ok(response),
            Err(failed) if !failed.sent || (safe && !fresh && matches!(failed.error, Error::Lost(_))) => {
                tracing::debug!(node = %to, error = %failed.error, "sending a request again");
                self.0.counters.retried.add();
                let (conn, _) = self.0.pool.connection(to).await?;
                self.attempt(conn, class, request).await.map_err(|failed| failed.error)
            }
            Err(failed) => Err(failed.error),
        }
    }

    async fn attempt(
        &self,
        conn: Arc<Conn>,
        class: Class,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Body>, Failed> {
        let busy = conn.begin();
        let mut session =
            conn.session(class, &self.0.config).await.map_err(|error| Failed { error, sent: false })?;
        match session.try_send_request(request).await {
            Ok(response) => {
                let (limit, counters) = (self.0.config.response_body_bytes_max, self.0.counters.clone());
                Ok(response.map(|body| Body::network(body, limit, counters).guarded(Box::new(busy))))
            }
            Err(mut failed) => {
                let sent = failed.take_message().is_none();
                let mut error = Error::from_hyper(failed.error());
                if let Some(reason) = conn.quic.close_reason() {
                    error = Error::lost(reason);
                }
                Err(Failed { error, sent })
            }
        }
    }

    /// The node was heard of (a session or a link came up): dials to it need not wait any longer.
    pub fn reachable(&self, node: &NodeId) {
        self.0.pool.reachable(node);
    }

    /// The router finds no way to the node at present: a dial that has lasted a while is given up.
    pub fn unreachable(&self, node: &NodeId) {
        self.0.pool.unreachable(node);
    }

    /// This node's key.
    pub fn id(&self) -> NodeId {
        self.0.pool.streams().id()
    }

    /// Connections that live.
    pub fn connections(&self) -> usize {
        self.0.pool.len()
    }

    /// Counters since the start.
    pub fn stats(&self) -> Stats {
        self.0.counters.read()
    }

    /// Ends all connections and [`Self::serve`]; takes no more than a fraction of a second.
    pub async fn close(&self) {
        self.0.server.stop();
        self.0.pool.close().await;
    }
}

#[cfg(test)]
impl Overlay {
    /// Breaks all connections, as a network would that the other side comes back from.
    pub(crate) fn break_connections(&self) {
        self.0.pool.break_all();
    }

    /// The bare connection, to do what no well-meaning client does.
    pub(crate) async fn quic_connection(&self, node: NodeId) -> quinn::Connection {
        self.0.pool.connection(node).await.expect("it is there").0.quic.clone()
    }
}

impl std::fmt::Debug for Overlay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Overlay").field(&self.id()).finish()
    }
}

async fn follow(
    pool: Arc<Pool>,
    mut stopped: watch::Receiver<bool>,
    mut events: broadcast::Receiver<NodeEvent>,
) {
    loop {
        let event = tokio::select! {
            event = events.recv() => event,
            // The sender goes with the overlay.
            _ = stopped.wait_for(|stopped| *stopped) => return,
        };
        match event {
            Ok(NodeEvent::SessionUp { node }) => pool.reachable(&node),
            // A new link may lead anywhere.
            Ok(NodeEvent::PeerUp { .. } | NodeEvent::Joined) => pool.all_reachable(),
            Ok(NodeEvent::Unreachable { node }) => pool.unreachable(&node),
            // Missed ones cost a back-off, which is bounded.
            Ok(_) | Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => return,
        }
    }
}

struct Failed {
    error: Error,
    /// Whether the other side may have seen the request.
    sent: bool,
}

/// HTTP/2 wants scheme and authority; to a node by key its key is the authority unless the caller names another.
fn complete(to: &NodeId, request: &mut Request<Full<Bytes>>) -> Result<(), Error> {
    *request.version_mut() = Version::HTTP_2;
    if request.method() == Method::CONNECT {
        return Err(Error::BadRequest("CONNECT is not a request to a node".into()));
    }
    if request.uri().scheme().is_some() && request.uri().authority().is_some() {
        return Ok(());
    }
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    parts.scheme = Some(uri::Scheme::HTTP);
    if parts.authority.is_none() {
        let key = to.to_string();
        parts.authority = Some(key.parse().expect("hex digits are a host"));
    }
    if parts.path_and_query.is_none() {
        parts.path_and_query = Some(uri::PathAndQuery::from_static("/"));
    }
    *request.uri_mut() =
        Uri::from_parts(parts).map_err(|error| Error::BadRequest(error.to_string().into()))?;
    Ok(())
}
