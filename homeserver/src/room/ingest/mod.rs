//! The one way in for events, ours or theirs.

pub mod worker;
