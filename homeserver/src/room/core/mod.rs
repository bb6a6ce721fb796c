//! Pure: what an event is, who may do what, how forks resolve. No store, no clock, no waiting.

pub mod build;
pub mod version;
