//! Leave to replace one's cross-signing identity without a password, given on the account page for a short time.
// spec: https://spec.matrix.org/v1.19/client-server-api/#oauth-20-aware-clients (m.oauth)

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use ruma::{OwnedUserId, UserId};

use super::Users;

/// Who may do it, and until when.
#[derive(Default)]
pub(super) struct Resets(Mutex<HashMap<OwnedUserId, u64>>);

impl Users {
    /// Lets a user replace its identity within [`RESET_MS`].
    pub fn allow_identity_reset(&self, user: &UserId) {
        let now = self.clock.now_ms();
        let mut resets = self.resets.0.lock().unwrap_or_else(PoisonError::into_inner);
        resets.retain(|_, until| *until > now);
        if resets.len() < RESETS_MAX {
            resets.insert(user.to_owned(), now + RESET_MS);
        }
    }

    /// Whether a user may do it now.
    pub fn may_reset_identity(&self, user: &UserId) -> bool {
        let resets = self.resets.0.lock().unwrap_or_else(PoisonError::into_inner);
        resets.get(user).is_some_and(|until| *until > self.clock.now_ms())
    }
}

/// As matrix-authentication-service has it.
const RESET_MS: u64 = 600_000;
/// Users who do it within ten minutes; more than that wait.
const RESETS_MAX: usize = 10_000;
