//! HTTP/2 between nodes of the overlay, addressed by key.
//!
//! ```text
//!   tower service (an axum Router)            request(to, class, ..)
//!        │ server.rs                              │ client.rs, pool.rs
//!        └────────── h2, one per class ───────────┘
//!                     │ stream/mod.rs: one QUIC connection per pair of nodes
//!                     │ stream/crypto.rs: null session, since datagrams are sealed already
//!                     │ stream/socket.rs: node key <-> the address that QUIC sees
//!                  router::net::KeySocket: sealed datagrams to a key
//! ```
//!
//! # The life of a request
//!
//! [`Overlay::request`] asks `pool.rs` for a connection to the node. If there is none that lives, one dial is started for all who
//! wait (`pool.rs`), at once or after a bounded back-off. On the connection there is one stream with an HTTP/2 session
//! of its own for [`Class::Interactive`] and one for [`Class::Bulk`], opened at the first request of their class. The
//! other end (`server.rs`) reads the class from the stream's first byte, serves HTTP/2 on it within the limits of
//! [`Config`], and gives each request to the service with [`Caller`] in its extensions: the key that the overlay's
//! session proved, never anything that the other side only says. Both ends may send requests over one connection,
//! whoever dialled it.
//!
//! A connection without requests says nothing and is forgotten after [`Config::idle_timeout`]; while a request is under
//! way HTTP/2 pings keep watch over it. A node that restarted answers packets of a connection it does not know with a
//! stateless reset, so a stale connection ends within one round trip and the request is sent again if that is safe.

mod body;
mod client;
mod config;
mod error;
mod pool;
mod server;
mod stats;
mod stream;
#[cfg(test)]
mod tests;

pub use body::{Body, BoxError};
pub use client::{Idempotent, Overlay};
pub use config::{Class, Config};
pub use error::Error;
pub use server::Caller;
pub use stats::Stats;
#[cfg(any(test, feature = "memory"))]
pub use stream::memory;
