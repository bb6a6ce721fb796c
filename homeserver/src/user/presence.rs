//! Who is there: kept in RAM, and told to those who share a room only if the operator wants it.
//!
//! It is the chattiest part of Matrix, and on a network of small devices it is not worth its traffic: off by default. A
//! user's own state is what its clients last said. Switched on, syncs tell it, and servers that share a room are told by
//! EDUs that are neither stored nor repeated.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use ruma::{
    OwnedServerName, OwnedUserId, ServerName, UInt, UserId,
    api::federation::transactions::edu::{Edu, PresenceContent, PresenceUpdate},
    presence::PresenceState,
};
use serde_json::value::{RawValue, to_raw_value};

use super::{UserError, Users};
use crate::store::{
    Kind, Nid, Seq, StoreError, Touched, WriteTx,
    schema::{
        e2ee,
        membership::{self, Membership},
    },
};

/// Sends an EDU that is neither stored nor repeated; a later one with the same key takes the place of one that waits.
pub type Send = Arc<dyn Fn(Vec<OwnedServerName>, String, Box<RawValue>) + std::marker::Send + Sync>;

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
    /// A user of another server, as that one says.
    pub remote: bool,
}

impl Presence {
    /// Who has not been heard of for longer is gone.
    fn away_after_ms(&self) -> u64 {
        if self.remote { REMOTE_AWAY_AFTER_MS } else { AWAY_AFTER_MS }
    }
}

#[derive(Default)]
pub(super) struct Table {
    /// Users of ours, and at most [`REMOTE_MAX`] of others.
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
        if self.clock.now_ms().saturating_sub(found.active_ms) > found.away_after_ms() {
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
            let new = Presence { state, status, active_ms: now, seq, remote: false };
            if same || !tell {
                // Bounded by the number of accounts.
                known.insert(user.to_owned(), new);
                return Ok(());
            }
            new
        };
        self.announce(user.to_owned(), new).await
    }

    /// Tells of those whose clients (or servers) have not said anything for long that they are gone. To be called now and
    /// then; the answer is how many they are.
    pub async fn announce_gone(&self) -> Result<usize, UserError> {
        let now = self.clock.now_ms();
        let gone: Vec<(OwnedUserId, Presence)> = self
            .presence
            .known()
            .iter()
            .filter(|(_, known)| {
                let away = now.saturating_sub(known.active_ms) > known.away_after_ms();
                known.state != PresenceState::Offline && away
            })
            .map(|(user, known)| (user.clone(), Presence { state: PresenceState::Offline, ..known.clone() }))
            .collect();
        let count = gone.len();
        for (user, presence) in gone {
            self.announce(user, presence).await?;
        }
        Ok(count)
    }

    /// Tells those who share a room, and their servers if the user is ours.
    async fn announce(&self, user: OwnedUserId, new: Presence) -> Result<(), UserError> {
        let tells = self.tells.as_ref().filter(|_| !new.remote);
        let edu = tells.and_then(|_| update(&user, &new));
        let key = format!("m.presence {user}");
        let (table, own, wanted) = (self.presence.clone(), self.name.clone(), edu.is_some());
        let servers = self
            .store
            .write(move |tx: &mut WriteTx<'_>| -> Result<_, StoreError> {
                let nid = tx.intern(Kind::User, user.as_str())?;
                let seq = tx.next_seq()?;
                // In the table before the write is published: whoever reads at that position sees it.
                {
                    let mut known = table.known();
                    // Whoever was heard of since is not gone.
                    if known.get(&user).is_some_and(|now| now.active_ms > new.active_ms) {
                        return Ok(Vec::new());
                    }
                    known.insert(user, Presence { seq, ..new });
                }
                wake(tx, nid)?;
                let mut servers = Vec::new();
                if wanted {
                    for server in e2ee::servers_sharing_with(tx, nid)?.into_iter().take(SERVERS_MAX) {
                        let server = ServerName::parse(&*tx.text(server)?).ok();
                        servers.extend(server.filter(|server| *server != own));
                    }
                }
                Ok(servers)
            })
            .await?;
        if let (Some(tells), Some(edu)) = (tells, edu)
            && !servers.is_empty()
        {
            tells(servers, key, edu);
        }
        Ok(())
    }

    /// What another server says of its users. Of those with whom nobody here shares a room nothing is kept.
    pub async fn receive_presence(
        &self,
        origin: &ServerName,
        content: PresenceContent,
    ) -> Result<(), UserError> {
        if self.tells.is_none() {
            return Ok(());
        }
        let now = self.clock.now_ms();
        let mut news: BTreeMap<OwnedUserId, Presence> = BTreeMap::new();
        for update in content.push.into_iter().take(UPDATES_MAX) {
            if update.user_id.server_name() != origin {
                continue;
            }
            let status = update.status_msg.map(|text| text.chars().take(STATUS_CHARS_MAX).collect());
            let active_ms = now.saturating_sub(update.last_active_ago.into());
            // Whoever is there is believed to be for a while, however long ago it did something.
            let active_ms = if update.presence == PresenceState::Online { now } else { active_ms };
            let new = Presence { state: update.presence, status, active_ms, seq: Seq(0), remote: true };
            news.insert(update.user_id, new);
        }
        let table = self.presence.clone();
        self.store
            .write(move |tx: &mut WriteTx<'_>| -> Result<(), StoreError> {
                for (user, new) in news {
                    let Some(nid) = tx.lookup(Kind::User, user.as_str())? else { continue };
                    let same = table
                        .known()
                        .get(&user)
                        .is_some_and(|known| known.state == new.state && known.status == new.status);
                    if !e2ee::shares_with_local(tx, nid)? {
                        continue;
                    }
                    let seq = if same { None } else { Some(tx.next_seq()?) };
                    let mut known = table.known();
                    let old = known.get(&user).map(|known| known.seq);
                    if old.is_none() && known.len() >= REMOTE_MAX {
                        known.retain(|_, known| !known.remote);
                    }
                    known.insert(user, Presence { seq: seq.or(old).unwrap_or_default(), ..new });
                    drop(known);
                    if seq.is_some() {
                        wake(tx, nid)?;
                    }
                }
                Ok(())
            })
            .await?;
        Ok(())
    }
}

/// The EDU that tells of one user.
fn update(user: &UserId, presence: &Presence) -> Option<Box<RawValue>> {
    let mut update = PresenceUpdate::new(user.to_owned(), presence.state.clone(), UInt::from(0_u32));
    update.status_msg = presence.status.clone();
    update.currently_active = presence.state == PresenceState::Online;
    to_raw_value(&Edu::Presence(PresenceContent::new(vec![update]))).ok()
}

/// Wakes those who share rooms with a user.
fn wake(tx: &mut WriteTx<'_>, user: Nid) -> Result<(), StoreError> {
    tx.touch(Touched::User(user));
    for room in membership::rooms_of(tx, user, Membership::Join)?.into_iter().take(ROOMS_MAX) {
        tx.touch(Touched::Room(room));
    }
    Ok(())
}

/// A client that syncs says so at least this often.
const AWAY_AFTER_MS: u64 = 120_000;
/// Other servers say so again every 25 minutes; Synapse's own limit.
const REMOTE_AWAY_AFTER_MS: u64 = 30 * 60 * 1000;
/// Users of other servers of whom something is known; past this it begins anew.
const REMOTE_MAX: usize = 20_000;
/// Users in one EDU that are looked at.
const UPDATES_MAX: usize = 100;
/// Servers that one change is told to.
const SERVERS_MAX: usize = 200;
const STATUS_CHARS_MAX: usize = 512;
/// Rooms whose waiting syncs are woken at once; members of others see it with their next response.
const ROOMS_MAX: usize = 500;
