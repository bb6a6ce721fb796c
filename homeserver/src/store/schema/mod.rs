//! Owns the tables, by area: each table has one file, which holds its SQL and is the only one that writes it.

pub mod account_data;
pub mod accounts;
pub mod appservices;
pub mod backup;
pub mod chain;
pub mod conn;
pub mod dest;
pub mod e2ee;
pub mod events;
pub mod filters;
pub mod media;
pub mod membership;
pub mod oauth;
pub mod outbox;
pub mod purge;
pub mod push;
pub mod pushers;
pub mod receipts;
pub mod rooms;
pub mod search;
pub mod server_keys;
pub mod state;
pub mod sync;
pub mod threads;
pub mod threepids;
pub mod users;
