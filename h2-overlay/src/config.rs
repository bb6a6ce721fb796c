//! The knobs and bounds of the overlay's HTTP/2, each with its reason.

use std::time::Duration;

/// Which of the two HTTP/2 sessions of a connection a request takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// Small and waited for: sent before anything of the other class.
    Interactive,
    /// Large and patient: media, backfill.
    Bulk,
}

impl Class {
    /// The first byte of a stream.
    pub(crate) fn preamble(self) -> u8 {
        match self {
            Self::Interactive => 0,
            Self::Bulk => 1,
        }
    }

    pub(crate) fn from_preamble(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::Interactive),
            1 => Some(Self::Bulk),
            _ => None,
        }
    }

    /// Of streams on one connection the higher goes first.
    pub(crate) fn priority(self) -> i32 {
        match self {
            Self::Interactive => 0,
            Self::Bulk => -1,
        }
    }
}

/// Limits and times. The defaults suit a homeserver; every bound is there for a stranger who would grow it.
#[derive(Debug, Clone)]
pub struct Config {
    /// Connections in all, ours and theirs. One costs about 150 KiB when idle; the least recently used idle one makes
    /// room for another.
    pub connections_max: usize,
    /// Live connections with one node: two come from a simultaneous dial, the rest from restarts.
    pub connections_per_node_max: usize,
    /// Handshakes that others have begun and not finished.
    pub handshakes_max: usize,
    /// HTTP/2 sessions that the other side may open on one connection: one per class, the rest for replaced ones.
    pub sessions_per_connection_max: u32,
    /// Requests of one connection that are being served at a time.
    pub requests_per_connection_max: u32,
    /// Requests of all others together that are being served at a time; the next is answered with 503.
    pub requests_max: usize,
    /// Decoded header bytes of one request or answer.
    pub header_bytes_max: u32,
    /// Bytes of a request's body that a service can read.
    pub request_body_bytes_max: u64,
    /// Bytes of an answer's body that a caller can read.
    pub response_body_bytes_max: u64,
    /// How long a dial may take.
    pub dial_timeout: Duration,
    /// The first pause after a failed dial; doubles up to `backoff_max`, ends as soon as the node is heard.
    pub backoff_min: Duration,
    /// The longest pause after failed dials: also a node that comes back unnoticed is found this soon.
    pub backoff_max: Duration,
    /// After this long without a packet a connection is forgotten, in silence.
    pub idle_timeout: Duration,
    /// How often a connection with requests under way is pinged when it says nothing.
    pub ping_interval: Duration,
    /// An unanswered ping ends the connection after this long.
    pub ping_timeout: Duration,
    /// How many bytes not yet acknowledged are kept per connection. More starves small requests behind bulk on slow
    /// paths, less caps bulk on long ones (measured between 256 KiB and 1 MiB).
    pub send_window: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            connections_max: 256,
            connections_per_node_max: 4,
            handshakes_max: 64,
            sessions_per_connection_max: 8,
            requests_per_connection_max: 128,
            requests_max: 1024,
            header_bytes_max: 32 * 1024,
            request_body_bytes_max: 128 * 1024 * 1024,
            response_body_bytes_max: 512 * 1024 * 1024,
            dial_timeout: Duration::from_secs(10),
            backoff_min: Duration::from_millis(250),
            backoff_max: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(60),
            ping_interval: Duration::from_secs(5),
            ping_timeout: Duration::from_secs(10),
            send_window: 512 * 1024,
        }
    }
}
