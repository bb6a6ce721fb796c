//! Serves HTTP/2 to other nodes, whoever dialled the connection, within the limits of `Config`.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{FutureExt, future::BoxFuture};
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Empty, combinators::UnsyncBoxBody};
use hyper::{server::conn::http2::Builder, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use router::NodeId;
use tokio::{
    io::AsyncReadExt,
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch},
};
use tower::ServiceExt;

use crate::{
    body::{Body, BoxError},
    config::{Class, Config},
    pool::{self, Busy, Conn, Pool},
    stats::Counters,
    stream::LIMITED,
};

/// A request extension: who sent it. The overlay's session proved the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller(pub NodeId);

type Answer = Response<UnsyncBoxBody<Bytes, BoxError>>;
type Service = Arc<dyn Fn(Request<Body>) -> BoxFuture<'static, Result<Answer, BoxError>> + Send + Sync>;

/// Accepts connections and streams, and hands requests to the service of [`crate::Overlay::serve`].
pub(crate) struct Server {
    service: watch::Sender<Option<Service>>,
    stopped: watch::Sender<bool>,
    requests: Arc<Semaphore>,
    config: Config,
    counters: Arc<Counters>,
}

/// How long the first byte of a stream may take, and how long requests wait for a service at the start.
const FIRST_WAIT: Duration = Duration::from_secs(5);
/// How long an accepted connection may take to finish its handshake.
const HANDSHAKE_WAIT: Duration = Duration::from_secs(10);

impl Server {
    pub(crate) fn start(
        pool: Arc<Pool>,
        conns: mpsc::UnboundedReceiver<Arc<Conn>>,
        config: Config,
        counters: Arc<Counters>,
    ) -> Arc<Self> {
        let server = Arc::new(Self {
            service: watch::Sender::new(None),
            stopped: watch::Sender::new(false),
            requests: Arc::new(Semaphore::new(config.requests_max)),
            config,
            counters,
        });
        tokio::spawn(accept(pool, server.clone()));
        tokio::spawn(serve_all(conns, server.clone()));
        server
    }

    pub(crate) async fn serve<S, B>(&self, service: S)
    where
        S: tower::Service<Request<Body>, Response = Response<B>> + Clone + Send + Sync + 'static,
        S::Future: Send + 'static,
        S::Error: Into<BoxError>,
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let erased: Service = Arc::new(move |request| {
            let answer = service.clone().oneshot(request);
            async move {
                let response = answer.await.map_err(Into::into)?;
                Ok(response.map(|body| body.map_err(Into::into).boxed_unsync()))
            }
            .boxed()
        });
        self.service.send_replace(Some(erased));
        // The sender is ours, so that waiting cannot fail.
        let _ = self.stopped.subscribe().wait_for(|stopped| *stopped).await;
    }

    /// Turns true when the overlay is closed.
    pub(crate) fn stopped(&self) -> watch::Receiver<bool> {
        self.stopped.subscribe()
    }

    pub(crate) fn stop(&self) {
        self.stopped.send_replace(true);
        self.service.send_replace(None);
    }

    async fn answer(self: Arc<Self>, request: Request<hyper::body::Incoming>, peer: Arc<Peer>) -> Answer {
        let (Ok(permit), Some(turn)) = (self.requests.clone().try_acquire_owned(), peer.turn(&self.config))
        else {
            self.counters.busy.add();
            return busy();
        };
        self.counters.requests_in.add();
        let node = peer.conn.node;
        let guard = Served { _permit: permit, _turn: turn, _busy: peer.conn.begin() };
        let (limit, counters) = (self.config.request_body_bytes_max, self.counters.clone());
        let mut request = request.map(|body| Body::network(body, limit, counters));
        request.extensions_mut().insert(Caller(node));
        let mut services = self.service.subscribe();
        let service = match tokio::time::timeout(FIRST_WAIT, services.wait_for(Option::is_some)).await {
            Ok(Ok(service)) => service.clone().expect("waited for it"),
            _ => return busy(),
        };
        match service(request).await {
            Ok(response) => response.map(|body| GuardedBody { body, _guard: guard }.boxed_unsync()),
            Err(error) => {
                tracing::debug!(%node, %error, "service failed");
                plain(StatusCode::INTERNAL_SERVER_ERROR)
            }
        }
    }
}

/// What is served on one connection.
struct Peer {
    conn: Arc<Conn>,
    serving: AtomicU32,
}

impl Peer {
    fn turn(self: &Arc<Self>, config: &Config) -> Option<Turn> {
        let serving = self.serving.fetch_add(1, Relaxed);
        let turn = Turn(self.clone());
        (serving < config.requests_per_connection_max).then_some(turn)
    }
}

/// One of the requests that a connection may have served at a time.
struct Turn(Arc<Peer>);

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.serving.fetch_sub(1, Relaxed);
    }
}

/// All that a request occupies until its answer is sent or given up.
struct Served {
    _permit: OwnedSemaphorePermit,
    _turn: Turn,
    _busy: Busy,
}

struct GuardedBody {
    body: UnsyncBoxBody<Bytes, BoxError>,
    _guard: Served,
}

impl http_body::Body for GuardedBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, BoxError>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

fn plain(status: StatusCode) -> Answer {
    let mut response = Response::new(Empty::new().map_err(|never| match never {}).boxed_unsync());
    *response.status_mut() = status;
    response
}

fn busy() -> Answer {
    let mut response = plain(StatusCode::SERVICE_UNAVAILABLE);
    response.headers_mut().insert(header::RETRY_AFTER, header::HeaderValue::from_static("1"));
    response
}

/// Takes connections that others make.
async fn accept(pool: Arc<Pool>, server: Arc<Server>) {
    while let Some((node, incoming)) = pool.streams().next_incoming().await {
        let pinned = pool.streams().pin(node);
        let connecting = match pool.streams().accept(&node, incoming) {
            Ok(connecting) => connecting,
            Err(error) => {
                tracing::debug!(%node, %error, "connection not accepted");
                continue;
            }
        };
        let (pool, counters) = (pool.clone(), server.counters.clone());
        tokio::spawn(async move {
            match tokio::time::timeout(HANDSHAKE_WAIT, connecting).await {
                Ok(Ok(quic)) => {
                    let registered = pool.register(Conn::new(node, quic, false, pinned));
                    if registered.is_ok() {
                        counters.accepted.add();
                    }
                }
                Ok(Err(error)) => tracing::debug!(%node, %error, "handshake failed"),
                Err(_) => tracing::debug!(%node, "handshake timed out"),
            }
        });
    }
}

/// Serves every connection of the pool.
async fn serve_all(mut conns: mpsc::UnboundedReceiver<Arc<Conn>>, server: Arc<Server>) {
    while let Some(conn) = conns.recv().await {
        tokio::spawn(serve_connection(conn, server.clone()));
    }
}

async fn serve_connection(conn: Arc<Conn>, server: Arc<Server>) {
    let quic = conn.quic.clone();
    let peer = Arc::new(Peer { conn, serving: AtomicU32::new(0) });
    // QUIC itself limits how many streams are open: `sessions_per_connection_max`.
    while let Ok((send, recv)) = quic.accept_bi().await {
        tokio::spawn(serve_stream(send, recv, peer.clone(), server.clone()));
    }
}

async fn serve_stream(
    mut send: quinn::SendStream,
    mut recv: quinn::RecvStream,
    peer: Arc<Peer>,
    server: Arc<Server>,
) {
    let first = tokio::time::timeout(FIRST_WAIT, recv.read_u8()).await;
    let Some(class) = first.ok().and_then(Result::ok).and_then(Class::from_preamble) else {
        server.counters.streams_refused.add();
        // Either fails only where the stream has ended already.
        let _ = (send.reset(LIMITED), recv.stop(LIMITED));
        return;
    };
    if send.set_priority(class.priority()).is_err() {
        return;
    }
    let node = peer.conn.node;
    let config = server.config.clone();
    let service = service_fn(move |request| {
        let answer = server.clone().answer(request, peer.clone());
        async move { Ok::<_, Infallible>(answer.await) }
    });
    let served = Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(config.requests_per_connection_max)
        .max_header_list_size(config.header_bytes_max)
        .max_pending_accept_reset_streams(PENDING_RESETS_MAX)
        .max_local_error_reset_streams(LOCAL_RESETS_MAX)
        .initial_stream_window_size(pool::H2_STREAM_WINDOW)
        .initial_connection_window_size(pool::H2_CONNECTION_WINDOW)
        .max_frame_size(pool::frame_size(class))
        .max_send_buf_size(pool::H2_SEND_BUFFER)
        .serve_connection(TokioIo::new(tokio::io::join(recv, send)), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%node, ?class, %error, "HTTP/2 session ended");
    }
}

/// Streams that a peer opened and reset before we took them (rapid reset); more end the HTTP/2 session.
const PENDING_RESETS_MAX: usize = 32;
/// Streams that we reset for a peer's errors; more end the HTTP/2 session.
const LOCAL_RESETS_MAX: usize = 256;
