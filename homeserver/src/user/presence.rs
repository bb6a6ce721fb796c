//! Who is there: kept in RAM, told to nobody beyond this node.
//!
//! Presence of others is not asked for and ours is not sent out: it is the chattiest part of Matrix, and on a network
//! of small devices it is not worth its traffic. A user's own state is what its clients last said.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use ruma::{OwnedUserId, UserId, presence::PresenceState};

use super::Users;

/// What is known of somebody.
#[derive(Clone, Debug)]
pub struct Presence {
    /// Online, away, or gone.
    pub state: PresenceState,
    /// What the user says about it.
    pub status: Option<String>,
    /// When the user last did something.
    pub active_ms: u64,
}

#[derive(Default)]
pub(super) struct Table {
    known: Mutex<HashMap<OwnedUserId, Presence>>,
}

impl Users {
    /// What a user's clients last said. Nobody who has been away for longer than [`AWAY_AFTER_MS`] counts as online.
    pub fn presence(&self, user: &UserId) -> Option<Presence> {
        let known = self.presence.known.lock().unwrap_or_else(PoisonError::into_inner);
        let mut found = known.get(user)?.clone();
        if self.clock.now_ms().saturating_sub(found.active_ms) > AWAY_AFTER_MS {
            found.state = PresenceState::Offline;
        }
        Some(found)
    }

    /// Notes what a client of a user of ours says; `status` `None` leaves the old one.
    pub fn set_presence(&self, user: &UserId, state: PresenceState, status: Option<String>) {
        let mut known = self.presence.known.lock().unwrap_or_else(PoisonError::into_inner);
        let status = status
            .map(|text| text.chars().take(STATUS_CHARS_MAX).collect())
            .or_else(|| known.get(user).and_then(|old| old.status.clone()));
        // Bounded by the number of accounts.
        known.insert(user.to_owned(), Presence { state, status, active_ms: self.clock.now_ms() });
    }
}

/// A client that syncs says so at least this often.
const AWAY_AFTER_MS: u64 = 120_000;
const STATUS_CHARS_MAX: usize = 512;
