//! Who is there: kept in RAM, told to nobody beyond this node.
//!
//! Presence of others is not asked for and ours is not sent out: it is the chattiest part of Matrix, and on a network
//! of small devices it is not worth its traffic. A user's own state is what its clients last said. Whether syncs tell it
//! to those who share a room on this node is a setting, off by default.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use ruma::{OwnedUserId, UserId, presence::PresenceState};

use super::{UserError, Users};
use crate::store::{
    Kind, Seq, Touched, WriteTx,
    schema::membership::{self, Membership},
};

/// What is known of somebody.
#[derive(Clone, Debug)]
pub struct Presence {
    /// Online, away, or gone.
    pub state: PresenceState,
    /// What the user says about it.
    pub status: Option<String>,
    /// When the user last did something.
    pub active_ms: u64,
    /// Since which position of the commit order it is so; 0 if syncs do not tell it.
    pub seq: Seq,
}

#[derive(Default)]
pub(super) struct Table {
    known: Mutex<HashMap<OwnedUserId, Presence>>,
}

impl Table {
    fn known(&self) -> MutexGuard<'_, HashMap<OwnedUserId, Presence>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Users {
    /// What a user's clients last said. Nobody who has been away for longer than [`AWAY_AFTER_MS`] counts as online.
    pub fn presence(&self, user: &UserId) -> Option<Presence> {
        let mut found = self.presence.known().get(user)?.clone();
        if self.clock.now_ms().saturating_sub(found.active_ms) > AWAY_AFTER_MS {
            found.state = PresenceState::Offline;
        }
        Some(found)
    }

    /// Users of whom anything is known that became so in (since, until].
    pub fn presence_changed(&self, since: Seq, until: Seq) -> Vec<OwnedUserId> {
        let known = self.presence.known();
        let changed = known.iter().filter(|(_, presence)| presence.seq > since && presence.seq <= until);
        changed.map(|(user, _)| user.clone()).collect()
    }

    /// Notes what a client of a user of ours says; `status` `None` leaves the old one. `tell`: syncs of those who share
    /// a room are woken if it is something new.
    pub async fn set_presence(
        &self,
        user: &UserId,
        state: PresenceState,
        status: Option<String>,
        tell: bool,
    ) -> Result<(), UserError> {
        let status: Option<String> = status.map(|text| text.chars().take(STATUS_CHARS_MAX).collect());
        let now = self.clock.now_ms();
        let new = {
            let mut known = self.presence.known();
            let old = known.get(user).cloned();
            let status = status.or_else(|| old.as_ref().and_then(|old| old.status.clone()));
            let same = old.as_ref().is_some_and(|old| old.state == state && old.status == status);
            let seq = old.map_or(Seq(0), |old| old.seq);
            let new = Presence { state, status, active_ms: now, seq };
            if same || !tell {
                // Bounded by the number of accounts.
                known.insert(user.to_owned(), new);
                return Ok(());
            }
            new
        };
        self.announce(user.to_owned(), new).await
    }

    /// Tells of those whose clients have not said anything for [`AWAY_AFTER_MS`] that they are gone. To be called now and
    /// then; the answer is how many they are.
    pub async fn announce_gone(&self) -> Result<usize, UserError> {
        let now = self.clock.now_ms();
        let gone: Vec<(OwnedUserId, Presence)> = self
            .presence
            .known()
            .iter()
            .filter(|(_, known)| {
                known.state != PresenceState::Offline && now.saturating_sub(known.active_ms) > AWAY_AFTER_MS
            })
            .map(|(user, known)| (user.clone(), Presence { state: PresenceState::Offline, ..known.clone() }))
            .collect();
        let count = gone.len();
        for (user, presence) in gone {
            self.announce(user, presence).await?;
        }
        Ok(count)
    }

    async fn announce(&self, user: OwnedUserId, new: Presence) -> Result<(), UserError> {
        let table = self.presence.clone();
        self.store
            .write(move |tx: &mut WriteTx<'_>| {
                let nid = tx.intern(Kind::User, user.as_str())?;
                let seq = tx.next_seq()?;
                // In the table before the write is published: whoever reads at that position sees it.
                {
                    let mut known = table.known();
                    // Whoever was heard of since is not gone.
                    if known.get(&user).is_some_and(|now| now.active_ms > new.active_ms) {
                        return Ok(());
                    }
                    known.insert(user, Presence { seq, ..new });
                }
                tx.touch(Touched::User(nid));
                for room in membership::rooms_of(tx, nid, Membership::Join)?.into_iter().take(ROOMS_MAX) {
                    tx.touch(Touched::Room(room));
                }
                Ok(())
            })
            .await
    }
}

/// A client that syncs says so at least this often.
const AWAY_AFTER_MS: u64 = 120_000;
const STATUS_CHARS_MAX: usize = 512;
/// Rooms whose waiting syncs are woken at once; members of others see it with their next response.
const ROOMS_MAX: usize = 500;
