//! The Matrix homeserver: its areas, each calling only those before it in this list.
pub mod clock;
pub mod error;
pub mod notify;
pub mod store;
pub mod account;
pub mod remote;
pub mod user;
pub mod e2ee;
pub mod push;
pub mod media;
pub mod room;
pub mod sync;
pub mod server;
pub mod http;
pub mod api;
pub mod config;
pub mod cmd;
