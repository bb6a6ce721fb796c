//! Pure: what an event is, who may do what, how forks resolve. No store, no clock, no waiting.

pub mod auth;
pub mod build;
pub mod canonical;
pub mod chains;
pub mod check;
pub mod owned;
pub mod pdu;
pub mod resolve;
mod resolve_v1;
mod resolve_v2;
pub mod version;
pub mod visibility;

#[cfg(test)]
mod tests;
