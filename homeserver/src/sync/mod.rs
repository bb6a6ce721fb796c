//! What a client is told: sync v2, from what the store already knows.

pub mod filter;
pub mod token;
