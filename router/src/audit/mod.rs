//! Droppers: [`locate`] (the sender's suspicion of links), probe.rs (the neighbour audit), suspect.rs (who is passed over),
//! map.rs (the verified map).
pub mod locate;
