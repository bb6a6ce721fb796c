//! The Matrix homeserver: its areas, each calling only those before it in this list.
pub mod account;
pub mod api;
pub mod clock;
pub mod cmd;
pub mod config;
pub mod e2ee;
pub mod error;
pub mod http;
pub mod media;
pub mod notify;
pub mod push;
pub mod remote;
pub mod room;
pub mod server;
pub mod store;
pub mod sync;
pub mod user;
