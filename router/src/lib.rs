//! The overlay router: key-addressed sockets over any links. Without feature `net` it has no I/O, no clock, no
//! randomness of its own.
//!
//! [`Router`] decides, whoever drives it does: `net::driver` with tokio, the simulator with a virtual clock, tests by
//! hand. One mutation (`handle_*`), then `poll_*` until empty, then wait for a deadline, bytes or a command.

pub mod config;
pub mod crypto;
pub mod endpoint;
pub mod error;
pub mod forward;
pub mod id;
pub mod lookup;
#[cfg(feature = "net")]
pub mod net;
pub mod peer;
mod rate;
pub mod router;
pub mod session;
pub mod stats;
pub mod time;
pub mod timer;
pub mod tree;
pub mod wire;

pub use config::{Boot, Class, Config, LinkKind, LinkSpec, Role, Secret};
pub use crypto::{Entropy, SecretKey};
pub use error::{LinkError, Unreachable};
pub use id::{LinkId, NodeId, Port, Sid, Target};
pub use lookup::AccountRecord;
pub use router::{Channel, Command, Event, PeerInfo, Router, SelfInfo, SessionInfo, TreeInfoView};
pub use stats::Stats;
pub use time::Instant;
