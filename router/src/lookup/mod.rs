//! Owns the answer to "where is that key?": locators, the records that carry them, and the search for them.
pub mod locator;
pub mod record;

pub use locator::{Coords, Hop, Locator};
pub use record::{AccountRecord, LocatorRecord};

/// A place in the key space of the lookup: BLAKE3 of a node's key or of an account. Distance is XOR.
pub type Place = [u8; 32];
