//! The overlay router: key-addressed sockets over any links. Without feature `net` it has no I/O, no clock, no
//! randomness of its own.
//!
//! [`Router`] decides, whoever drives it does: `net::driver` with tokio, the simulator with a virtual clock, tests by
//! hand. One mutation (`handle_*`), then `poll_*` until empty, then wait for a deadline, bytes or a command.
//!
//! # Layers
//!
//! | module | owns |
//! |---|---|
//! | [`wire`] | bytes to frames and back; total |
//! | [`peer`] | direct neighbours: link handshake, seals, queues, signs of life, cost, ports |
//! | [`tree`] | this node's place in the spanning trees, and its peers' |
//! | [`forward`] | the next hop of a packet; pure |
//! | [`session`], [`lookup`] | end to end: keys with another node, and where it is; joined in [`endpoint`] |
//! | [`audit`] | which peers drop what they should pass on |
//! | [`router`] | carries what these have for each other; no protocol of its own |
//! | `net` | the only I/O: sockets, multicast, TUN, the handles that applications hold |
//!
//! # The life of a packet
//!
//! Ours: `net/handle` > [`Router::handle_command`] > `endpoint` > `lookup` (where is the key? the packet waits) >
//! `session` (sealed to the key) > `router/packets` > `forward` > `peer/queue` > [`Router::poll_transmit`].
//!
//! Somebody else's: `net/tcp` > [`Router::handle_frame`] > `peer/link` > `router/packets` > `wire/data` > `forward` >
//! `peer/queue` > [`Router::poll_transmit`]. One copy, into an arena; nothing else is allocated.
//!
//! For us: [`Router::handle_frame`] > `peer/link` > `router/packets` > `endpoint` > `session` (opened, not a repetition)
//! > [`Router::poll_event`].
//!
//! What is said on the wire, byte by byte, is in `docs/protocol.md`.

pub mod audit;
pub mod config;
pub mod crypto;
pub mod endpoint;
pub mod error;
pub mod forward;
pub mod id;
pub mod lookup;
pub mod map;
#[cfg(feature = "net")]
pub mod net;
pub mod peer;
mod rate;
pub mod route;
pub mod router;
pub mod session;
pub mod stats;
pub mod time;
pub mod timer;
pub mod tree;
pub mod vicinity;
pub mod wire;

pub use config::{Boot, Class, Config, LinkKind, LinkSpec, Role, Secret};
pub use crypto::{Entropy, SecretKey};
pub use error::{LinkError, Unreachable};
pub use id::{LinkId, NodeId, Port, Sid, Target};
pub use lookup::AccountRecord;
pub use router::{Channel, Command, Event, PeerInfo, Router, SelfInfo, SessionInfo, TreeInfoView};
pub use stats::Stats;
pub use time::Instant;
pub use tree::tenure::RootTimes;
