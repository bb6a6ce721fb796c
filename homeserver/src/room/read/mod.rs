//! Answers, over a read snapshot. Methods of [`super::Rooms`] check who asks; the functions in the files below do not.

pub(in crate::room) mod access;
pub(in crate::room) mod erase;
mod hierarchy;
pub mod json;
mod members;
pub(in crate::room) mod messages;
pub mod notifications;
mod relations;
mod state;
mod summary;
pub mod thread_updates;
pub mod timeline;
mod timestamp;

pub(in crate::room) use self::state::state_events;
pub use self::{
    hierarchy::{Hierarchy, Walk},
    json::{client_event, pdu},
    members::JoinedMember,
    messages::{Context, Messages, MessagesQuery, RelationFilter},
    relations::{Relations, RelationsQuery},
    summary::Told,
    timeline::Token,
};
