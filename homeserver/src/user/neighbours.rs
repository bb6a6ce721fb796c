//! People and rooms of the nodes next door, as far as they want to be found.
//!
//! The lists are pulled over the overlay and kept by the federation side; here is what searches see of them. Nothing of
//! what somebody types leaves this node.

use futures_util::future::BoxFuture;
use serde_json::value::RawValue;

use super::Person;

/// What multicast neighbours show of themselves.
pub trait Neighbours: Send + Sync {
    /// Their people.
    fn people(&self) -> Vec<Person>;

    /// Their public rooms: `PublicRoomsChunk` objects.
    fn rooms(&self) -> Vec<Box<RawValue>>;

    /// Asks them for what is new, and waits a moment for their answers: before a search.
    fn refresh(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }
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
