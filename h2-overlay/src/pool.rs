//! The connections with other nodes: one that lives for each, who dials whom when, and what is given up at a limit.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::{FutureExt, future::BoxFuture, future::Shared};
use http_body_util::Full;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use router::NodeId;
use tokio::sync::{Notify, oneshot};

use crate::{
    config::{Class, Config},
    error::Error,
    stats::Counters,
    stream::{LIMITED, REPLACED, Streams, socket::Pinned},
};

/// One QUIC connection and the HTTP/2 sessions that we opened on it.
pub(crate) struct Conn {
    pub(crate) node: NodeId,
    pub(crate) quic: quinn::Connection,
    dialed: bool,
    since: Instant,
    /// Requests under way, ours and theirs.
    busy: AtomicU32,
    used: Mutex<Instant>,
    sessions: [tokio::sync::Mutex<Option<SendRequest<Full<Bytes>>>>; 2],
    _pinned: Pinned,
}

impl std::fmt::Debug for Conn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Conn").field("node", &self.node).field("dialed", &self.dialed).finish_non_exhaustive()
    }
}

impl Conn {
    pub(crate) fn new(node: NodeId, quic: quinn::Connection, dialed: bool, pinned: Pinned) -> Arc<Self> {
        let now = Instant::now();
        Arc::new(Self {
            node,
            quic,
            dialed,
            since: now,
            busy: AtomicU32::new(0),
            used: Mutex::new(now),
            sessions: Default::default(),
            _pinned: pinned,
        })
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.quic.close_reason().is_some()
    }

    /// Counts a request as under way until the guard is dropped.
    pub(crate) fn begin(self: &Arc<Self>) -> Busy {
        self.busy.fetch_add(1, Relaxed);
        Busy(self.clone())
    }

    fn is_idle(&self) -> bool {
        self.busy.load(Relaxed) == 0
    }

    fn last_used(&self) -> Instant {
        *self.used.lock().expect("no panic under the lock")
    }

    /// The HTTP/2 session for a class of requests, opened if need be.
    pub(crate) async fn session(
        &self,
        class: Class,
        config: &Config,
    ) -> Result<SendRequest<Full<Bytes>>, Error> {
        let mut session = self.sessions[class as usize].lock().await;
        if let Some(sender) = session.as_ref().filter(|sender| !sender.is_closed()) {
            return Ok(sender.clone());
        }
        let (mut send, recv) = self.quic.open_bi().await.map_err(Error::lost)?;
        send.set_priority(class.priority()).map_err(Error::lost)?;
        send.write_all(&[class.preamble()]).await.map_err(Error::lost)?;
        let (sender, connection) = Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(config.ping_interval)
            .keep_alive_timeout(config.ping_timeout)
            .keep_alive_while_idle(false)
            .max_header_list_size(config.header_bytes_max)
            .initial_stream_window_size(H2_STREAM_WINDOW)
            .initial_connection_window_size(H2_CONNECTION_WINDOW)
            .max_frame_size(frame_size(class))
            .max_send_buf_size(H2_SEND_BUFFER)
            .handshake(TokioIo::new(tokio::io::join(recv, send)))
            .await
            .map_err(|error| Error::from_hyper(&error))?;
        let (node, quic) = (self.node, self.quic.clone());
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%node, ?class, %error, "HTTP/2 session ended");
                // Nobody answered the pings: the whole connection is of no use.
                if error.is_timeout() {
                    quic.close(REPLACED, b"timeout");
                }
            }
        });
        *session = Some(sender.clone());
        Ok(sender)
    }
}

/// Frames of small requests are kept small, so that none waits long behind another; bulk is cheaper in large ones.
pub(crate) fn frame_size(class: Class) -> u32 {
    match class {
        Class::Interactive => 16 * 1024,
        Class::Bulk => 64 * 1024,
    }
}

/// What one request's or answer's body may send ahead of its reader.
pub(crate) const H2_STREAM_WINDOW: u32 = 256 * 1024;
/// The same for all bodies of an HTTP/2 session.
pub(crate) const H2_CONNECTION_WINDOW: u32 = 1024 * 1024;
/// What HTTP/2 buffers of one body before QUIC takes it.
pub(crate) const H2_SEND_BUFFER: usize = 128 * 1024;

/// A request under way; see [`Conn::begin`].
#[derive(Debug)]
pub(crate) struct Busy(Arc<Conn>);

impl Drop for Busy {
    fn drop(&mut self) {
        *self.0.used.lock().expect("no panic under the lock") = Instant::now();
        self.0.busy.fetch_sub(1, Relaxed);
    }
}

type Dialing = Shared<BoxFuture<'static, Result<Arc<Conn>, Error>>>;

/// What there is with one node.
#[derive(Default)]
struct Slot {
    conns: Vec<Arc<Conn>>,
    dial: Option<(Dialing, Arc<Dial>)>,
    failures: u32,
    failed_at: Option<Instant>,
    /// Wakes those who wait for a dial when a connection comes from the other side.
    arrived: Arc<Notify>,
}

struct Dial {
    started: Instant,
    give_up: Notify,
}

/// Nodes whose failed dials are remembered.
const SLOTS_MAX: usize = 4096;
/// Two connections made within this time come from a simultaneous dial.
const SIMULTANEOUS: Duration = Duration::from_secs(5);
/// A dial is not given up before, whatever the router says: its first lookups may have come too early.
const DIAL_MIN: Duration = Duration::from_millis(1500);

/// All connections of a node.
pub(crate) struct Pool {
    streams: Streams,
    config: Config,
    counters: Arc<Counters>,
    slots: Mutex<HashMap<NodeId, Slot>>,
    closed: AtomicBool,
    /// Called with every new connection, ours and theirs: whoever dialled it, both sides may ask.
    accepted: tokio::sync::mpsc::UnboundedSender<Arc<Conn>>,
}

impl Pool {
    pub(crate) fn new(
        streams: Streams,
        config: Config,
        counters: Arc<Counters>,
        accepted: tokio::sync::mpsc::UnboundedSender<Arc<Conn>>,
    ) -> Arc<Self> {
        Arc::new(Self {
            streams,
            config,
            counters,
            slots: Mutex::default(),
            closed: AtomicBool::new(false),
            accepted,
        })
    }

    pub(crate) fn streams(&self) -> &Streams {
        &self.streams
    }

    fn slots(&self) -> MutexGuard<'_, HashMap<NodeId, Slot>> {
        self.slots.lock().expect("no panic under the lock")
    }

    /// A connection with the node; the flag says that it was just made.
    pub(crate) async fn connection(self: &Arc<Self>, node: NodeId) -> Result<(Arc<Conn>, bool), Error> {
        if node == self.streams.id() {
            return Err(Error::BadRequest("a node does not dial itself".into()));
        }
        let mut fresh = false;
        loop {
            if self.closed.load(Relaxed) {
                return Err(Error::Closed);
            }
            let (dialing, arrived) = {
                let mut slots = self.slots();
                self.prune(&mut slots);
                let slot = slots.entry(node).or_default();
                if let Some(conn) = self.best(slot) {
                    return Ok((conn, fresh));
                }
                let dialing = match &slot.dial {
                    Some((dialing, _)) => dialing.clone(),
                    None => {
                        let wait = self.backoff(slot, &node);
                        if !wait.is_zero() {
                            return Err(Error::Unreachable { node, retry_in: wait });
                        }
                        self.start_dial(slot, node)
                    }
                };
                (dialing, slot.arrived.clone())
            };
            fresh = true;
            tokio::select! {
                dialed = dialing => return dialed.map(|conn| (conn, true)),
                () = arrived.notified() => {}
            }
        }
    }

    /// The connection for new requests: the newest, but of two from a simultaneous dial the one that the lesser key dialled,
    /// so that both sides take the same.
    fn best(&self, slot: &mut Slot) -> Option<Arc<Conn>> {
        slot.conns.retain(|conn| !conn.is_dead());
        let reusable = self.config.idle_timeout * 3 / 4;
        let ours_first = |conn: &Conn| conn.dialed == (self.streams.id() < conn.node);
        slot.conns
            .iter()
            // The other side may be forgetting it just now.
            .filter(|conn| !conn.is_idle() || conn.last_used().elapsed() < reusable)
            .reduce(|best, conn| {
                let simultaneous = best.since.max(conn.since) - best.since.min(conn.since) < SIMULTANEOUS;
                let better = if simultaneous { ours_first(conn) } else { conn.since > best.since };
                if better { conn } else { best }
            })
            .cloned()
    }

    /// How long to wait before the next dial. Hearing the node ends it.
    fn backoff(&self, slot: &Slot, node: &NodeId) -> Duration {
        let Some(failed_at) = slot.failed_at else { return Duration::ZERO };
        if self.streams.socket().last_heard(node).is_some_and(|heard| heard > failed_at) {
            return Duration::ZERO;
        }
        let doublings = slot.failures.saturating_sub(1).min(16);
        let pause = self.config.backoff_min.saturating_mul(1 << doublings).min(self.config.backoff_max);
        pause.saturating_sub(failed_at.elapsed())
    }

    fn start_dial(self: &Arc<Self>, slot: &mut Slot, node: NodeId) -> Dialing {
        self.counters.dials.add();
        let dial = Arc::new(Dial { started: Instant::now(), give_up: Notify::new() });
        let (done, outcome) = oneshot::channel();
        let (pool, running) = (self.clone(), dial.clone());
        // A task of its own: whoever asked first may lose patience while others still wait.
        tokio::spawn(async move {
            let result = pool.run_dial(node, &running).await;
            let result = pool.end_dial(node, result);
            // Nobody waits any more: the connection stays in the pool.
            let _ = done.send(result);
        });
        let dialing = async move { outcome.await.unwrap_or(Err(Error::Closed)) }.boxed().shared();
        slot.dial = Some((dialing.clone(), dial));
        dialing
    }

    async fn run_dial(&self, node: NodeId, dial: &Dial) -> Result<Arc<Conn>, Error> {
        let pinned = self.streams.pin(node);
        let connecting = self.streams.dial(node).map_err(|_| Error::Closed)?;
        tokio::select! {
            connected = connecting => match connected {
                Ok(quic) => Ok(Conn::new(node, quic, true, pinned)),
                Err(error) => {
                    tracing::debug!(%node, %error, "dial failed");
                    Err(Error::Unreachable { node, retry_in: Duration::ZERO })
                }
            },
            () = tokio::time::sleep(self.config.dial_timeout) => {
                Err(Error::Unreachable { node, retry_in: Duration::ZERO })
            }
            () = dial.give_up.notified() => Err(Error::Unreachable { node, retry_in: Duration::ZERO }),
        }
    }

    fn end_dial(&self, node: NodeId, result: Result<Arc<Conn>, Error>) -> Result<Arc<Conn>, Error> {
        let result = result.and_then(|conn| self.register(conn.clone()).map(|()| conn));
        let mut slots = self.slots();
        let slot = slots.entry(node).or_default();
        slot.dial = None;
        match result {
            Ok(conn) => Ok(conn),
            Err(Error::Unreachable { .. }) => {
                self.counters.dials_failed.add();
                slot.failures = slot.failures.saturating_add(1);
                slot.failed_at = Some(Instant::now());
                let retry_in = self.backoff(slot, &node);
                Err(Error::Unreachable { node, retry_in })
            }
            Err(error) => {
                self.counters.dials_failed.add();
                Err(error)
            }
        }
    }

    /// Takes a new connection in, whoever made it, if the limits allow.
    pub(crate) fn register(&self, conn: Arc<Conn>) -> Result<(), Error> {
        let mut slots = self.slots();
        if self.closed.load(Relaxed) {
            conn.quic.close(REPLACED, b"closing");
            return Err(Error::Closed);
        }
        for slot in slots.values_mut() {
            slot.conns.retain(|conn| !conn.is_dead());
        }
        let here = slots.get(&conn.node).map_or(0, |slot| slot.conns.len());
        let all: usize = slots.values().map(|slot| slot.conns.len()).sum();
        let full_here = here >= self.config.connections_per_node_max;
        if full_here || all >= self.config.connections_max {
            self.counters.refused.add();
            // The oldest idle one makes room: that of the same node if that is too many.
            let victim = slots
                .values()
                .flat_map(|slot| &slot.conns)
                .filter(|other| other.is_idle() && (!full_here || other.node == conn.node))
                .min_by_key(|other| other.last_used())
                .cloned();
            let Some(victim) = victim else {
                conn.quic.close(LIMITED, b"too many connections");
                return Err(Error::Busy);
            };
            victim.quic.close(LIMITED, b"making room");
            if let Some(slot) = slots.get_mut(&victim.node) {
                slot.conns.retain(|other| !Arc::ptr_eq(other, &victim));
            }
        }
        let slot = slots.entry(conn.node).or_default();
        slot.failures = 0;
        slot.failed_at = None;
        slot.conns.push(conn.clone());
        slot.arrived.notify_waiters();
        // The receiver lives as long as the overlay.
        let _ = self.accepted.send(conn);
        Ok(())
    }

    /// The node was heard of: the next dial need not wait.
    pub(crate) fn reachable(&self, node: &NodeId) {
        if let Some(slot) = self.slots().get_mut(node) {
            slot.failures = 0;
            slot.failed_at = None;
        }
    }

    /// The network has changed: no dial need wait.
    pub(crate) fn all_reachable(&self) {
        for slot in self.slots().values_mut() {
            slot.failures = 0;
            slot.failed_at = None;
        }
    }

    /// The router finds no way to the node: a dial that has had its chance is given up.
    pub(crate) fn unreachable(&self, node: &NodeId) {
        if let Some((_, dial)) = self.slots().get(node).and_then(|slot| slot.dial.as_ref())
            && dial.started.elapsed() >= DIAL_MIN
        {
            dial.give_up.notify_one();
        }
    }

    /// Forgets nodes with nothing but old failures once there are many.
    fn prune(&self, slots: &mut HashMap<NodeId, Slot>) {
        if slots.len() < SLOTS_MAX {
            return;
        }
        let old = self.config.backoff_max;
        slots.retain(|_, slot| {
            slot.conns.retain(|conn| !conn.is_dead());
            !slot.conns.is_empty()
                || slot.dial.is_some()
                || slot.failed_at.is_some_and(|failed| failed.elapsed() < old)
        });
    }

    /// Live connections.
    pub(crate) fn len(&self) -> usize {
        self.slots().values().flat_map(|slot| &slot.conns).filter(|conn| !conn.is_dead()).count()
    }

    pub(crate) async fn close(&self) {
        self.closed.store(true, Relaxed);
        self.streams.close().await;
        let dropped: Vec<Slot> = self.slots().drain().map(|(_, slot)| slot).collect();
        drop(dropped);
    }

    #[cfg(test)]
    pub(crate) fn break_all(&self) {
        for conn in self.slots().values().flat_map(|slot| &slot.conns) {
            conn.quic.close(REPLACED, b"test");
        }
    }
}
