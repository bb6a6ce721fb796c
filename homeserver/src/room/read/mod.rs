//! Answers, over a read snapshot. Methods of [`super::Rooms`] check who asks; the functions in the files below do not.

pub(in crate::room) mod access;
pub mod json;
mod members;
mod messages;
pub mod notifications;
mod relations;
mod state;
pub mod timeline;

pub use self::{
    json::{client_event, pdu},
    members::JoinedMember,
    messages::{Context, Messages, MessagesQuery},
    relations::{Relations, RelationsQuery},
    timeline::Token,
};
