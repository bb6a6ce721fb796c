//! The overlay router: key-addressed sockets over any links. Without feature `net` it has no I/O, no clock, no randomness.
pub mod config;
pub mod crypto;
pub mod error;
pub mod forward;
pub mod id;
pub mod lookup;
#[cfg(feature = "net")]
pub mod net;
pub mod peer;
pub mod router;
pub mod session;
pub mod stats;
pub mod time;
pub mod timer;
pub mod tree;
pub mod wire;
