//! One task per active room: order by ownership, no per-room locks.

/// The rooms' tasks.
#[derive(Default)]
pub(in crate::room) struct Workers {}
