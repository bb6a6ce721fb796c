//! Bytes to typed request and back, the caller known; no area logic.
//!
//! A request comes in at a listener ([`listen`]), which checks the `Host` it asked for and knows the route groups it
//! may reach; the route's [`args`] read the body once, find out who calls ([`auth`]) and make the typed request; the
//! handler's answer or error goes out through [`reply`].

pub mod args;
pub mod auth;
mod guard;
pub mod limits;
pub mod listen;
pub mod metrics;
pub mod page;
pub mod reply;
pub mod standing;
pub mod tls;
pub mod uia;
