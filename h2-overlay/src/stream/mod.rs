//! Reliable streams between two nodes: QUIC over sealed datagrams, one connection per pair.

pub(crate) mod congestion;
pub(crate) mod crypto;
#[cfg(any(test, feature = "memory"))]
pub mod memory;
pub(crate) mod socket;

use std::{io, sync::Arc, time::Duration};

use quinn::{Connecting, Endpoint, Incoming, TokioRuntime};
use quinn_proto::{
    ClientConfig, EndpointConfig, IdleTimeout, MtuDiscoveryConfig, RandomConnectionIdGenerator, ServerConfig,
    TransportConfig, ValidationTokenConfig, VarInt,
};
use router::NodeId;

use crate::{config::Config, stats::Counters};
use congestion::{PathChanges, Rerouted};
use crypto::{NoTokens, NullCrypto, ResetKey, VERSION};
use socket::{Datagrams, Pinned, SealedSocket};

/// The QUIC endpoint of a node.
pub(crate) struct Streams {
    endpoint: Endpoint,
    socket: Arc<SealedSocket>,
    crypto: Arc<NullCrypto>,
    config: Config,
}

impl Streams {
    /// Starts the endpoint. Needs a tokio runtime.
    pub(crate) fn over(
        datagrams: Box<dyn Datagrams>,
        config: &Config,
        counters: Arc<Counters>,
    ) -> io::Result<Self> {
        let socket = SealedSocket::new(datagrams, counters);
        let crypto = NullCrypto::over(&socket);
        let mut endpoint_config = EndpointConfig::new(ResetKey::new(socket.id()));
        endpoint_config
            // Not the default generator: it drops packets of connections from before a restart, we reset them.
            .cid_generator(|| Box::new(RandomConnectionIdGenerator::new(CONNECTION_ID_BYTES)))
            .supported_versions(vec![VERSION])
            .max_udp_payload_size(DATAGRAM_BYTES_MAX)
            .expect("within what QUIC allows");
        let streams = Self {
            endpoint: Endpoint::new_with_abstract_socket(
                endpoint_config,
                None,
                socket.clone(),
                Arc::new(TokioRuntime),
            )?,
            socket,
            crypto,
            config: config.clone(),
        };
        let server = streams.server_config(MTU_MIN, PathChanges::default());
        streams.endpoint.set_server_config(Some(server));
        Ok(streams)
    }

    pub(crate) fn id(&self) -> NodeId {
        self.socket.id()
    }

    pub(crate) fn socket(&self) -> &Arc<SealedSocket> {
        &self.socket
    }

    pub(crate) fn pin(&self, node: NodeId) -> Pinned {
        self.socket.pin(node)
    }

    /// Begins a connection to a node.
    pub(crate) fn dial(&self, node: NodeId) -> Result<Connecting, quinn::ConnectError> {
        let mut config = ClientConfig::new(self.crypto.clone());
        config
            .version(VERSION)
            .transport_config(self.transport(self.socket.mtu(&node), self.socket.path_changes(&node)));
        self.endpoint.connect_with(config, self.socket.address_of(node), "node")
    }

    /// The next connection that another node begins, and which node that is; `None` once closed.
    pub(crate) async fn next_incoming(&self) -> Option<(NodeId, Incoming)> {
        loop {
            let incoming = self.endpoint.accept().await?;
            match self.socket.node_at(incoming.remote_address()) {
                Some(node) => return Some((node, incoming)),
                // Forgotten in a flood of keys meanwhile.
                None => incoming.ignore(),
            }
        }
    }

    pub(crate) fn accept(
        &self,
        node: &NodeId,
        incoming: Incoming,
    ) -> Result<Connecting, quinn::ConnectionError> {
        incoming
            .accept_with(Arc::new(self.server_config(self.socket.mtu(node), self.socket.path_changes(node))))
    }

    /// Says goodbye to all and waits a moment for it to be sent.
    pub(crate) async fn close(&self) {
        self.endpoint.close(CLOSED, b"closing");
        // Whoever did not hear it is told by a stateless reset.
        let _ = tokio::time::timeout(CLOSE_WAIT, self.endpoint.wait_idle()).await;
    }

    fn server_config(&self, mtu: usize, changes: PathChanges) -> ServerConfig {
        let mut config = ServerConfig::new(self.crypto.clone(), Arc::new(NoTokens));
        let mut no_tokens = ValidationTokenConfig::default();
        no_tokens.sent(0);
        config
            .transport_config(self.transport(mtu, changes))
            .validation_token_config(no_tokens)
            .migration(false)
            .max_incoming(self.config.handshakes_max)
            .incoming_buffer_size(HANDSHAKE_BYTES_MAX)
            .incoming_buffer_size_total(HANDSHAKE_BYTES_MAX * self.config.handshakes_max as u64);
        config
    }

    fn transport(&self, mtu: usize, changes: PathChanges) -> Arc<TransportConfig> {
        let mtu = mtu.clamp(MTU_MIN, usize::from(DATAGRAM_BYTES_MAX)) as u16;
        let mut discovery = MtuDiscoveryConfig::default();
        // Below it discovery has nothing to do until plain loss was taken for a black hole; then it soon goes back up.
        discovery.upper_bound(mtu).black_hole_cooldown(BLACK_HOLE_COOLDOWN);
        let mut transport = TransportConfig::default();
        transport
            .max_concurrent_bidi_streams(VarInt::from_u32(self.config.sessions_per_connection_max))
            .max_concurrent_uni_streams(VarInt::from_u32(0))
            .datagram_receive_buffer_size(None)
            .max_idle_timeout(IdleTimeout::try_from(self.config.idle_timeout).ok())
            // The overlay's session has measured the path by the time QUIC sends; the default of 333 ms would make the
            // first lost packet cost a second.
            .initial_rtt(INITIAL_RTT)
            .send_window(self.config.send_window)
            .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
            .receive_window(VarInt::from_u32(CONNECTION_WINDOW))
            .initial_mtu(mtu.min(INITIAL_MTU_MAX))
            .mtu_discovery_config(Some(discovery))
            .congestion_controller_factory(Arc::new(Rerouted { changes }))
            .allow_spin(false);
        Arc::new(transport)
    }
}

/// The close code of a whole endpoint.
pub(crate) const CLOSED: VarInt = VarInt::from_u32(0);
/// A stream or connection over a limit.
pub(crate) const LIMITED: VarInt = VarInt::from_u32(1);
/// A connection given up since it did not answer or another took its place.
pub(crate) const REPLACED: VarInt = VarInt::from_u32(2);

/// QUIC's own minimum; the overlay's is 1280.
const MTU_MIN: usize = 1200;
/// Beyond it quinn's long headers would overflow; discovery goes on from there.
const INITIAL_MTU_MAX: u16 = 9000;
/// The router's limit for a packet, less the byte that names its channel and some room.
const DATAGRAM_BYTES_MAX: u16 = 65_000;
const CONNECTION_ID_BYTES: usize = 8;
/// What a connection that is not accepted yet may buffer: a first flight and its repeats.
const HANDSHAKE_BYTES_MAX: u64 = 16 * 1024;
/// What one stream's other end may send ahead of the reader: the bandwidth-delay product of 100 Mbit/s and 80 ms.
const STREAM_WINDOW: u32 = 1024 * 1024;
/// What all streams of a connection may have unread in memory: with 256 connections at most 384 MiB under attack.
const CONNECTION_WINDOW: u32 = 1536 * 1024;
const INITIAL_RTT: Duration = Duration::from_millis(100);
const BLACK_HOLE_COOLDOWN: Duration = Duration::from_secs(10);
const CLOSE_WAIT: Duration = Duration::from_millis(300);
