//! The one way in for events, ours or theirs.
//!
//! | stage | what is known then | made by |
//! |---|---|---|
//! | `Received` | JSON, and who sent it | the federation API |
//! | `Verified` ([`super::core::pdu::FullEvent`]) | format, id, signatures | [`verify`] |
//! | `Placed` ([`place::Placed`]) | the state before it | [`place`] |
//! | `Authorized` ([`append::Append`]) | the rules' verdict, what the state is after it | [`authorize`] |
//!
//! Our own events are built on the worker's head ([`head`]) and are authorized from the start.

pub(in crate::room) mod append;
pub(in crate::room) mod authorize;
mod fill;
pub(in crate::room) mod gaps;
pub(in crate::room) mod head;
pub(in crate::room) mod import;
pub(in crate::room) mod load;
pub(in crate::room) mod outliers;
pub(in crate::room) mod place;
pub(in crate::room) mod verify;
pub(in crate::room) mod whole;
pub(in crate::room) mod worker;
