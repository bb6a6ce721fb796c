//! People and rooms of the nodes next door, as far as they want to be found.
//!
//! The lists are pulled over the overlay and kept by the federation side; here is what searches see of them. Nothing of
//! what somebody types leaves this node.

use serde_json::value::RawValue;

use super::Person;

/// What multicast neighbours show of themselves.
pub trait Neighbours: Send + Sync {
    /// Their people.
    fn people(&self) -> Vec<Person>;

    /// Their public rooms: `PublicRoomsChunk` objects.
    fn rooms(&self) -> Vec<Box<RawValue>>;
}

/// Nobody next door.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoNeighbours;

impl Neighbours for NoNeighbours {
    fn people(&self) -> Vec<Person> {
        Vec::new()
    }

    fn rooms(&self) -> Vec<Box<RawValue>> {
        Vec::new()
    }
}
