//! All we say to other servers.
//!
//! `client` turns a typed request into a signed one and reads the answer, `resolve` finds the nodes
//! of a name, `carrier` is the way there (`overlay`, or memory in tests), `tls` the one to ordinary
//! servers, `keyring` knows other servers' keys and checks signatures with them, `sender` carries the
//! outbox to its destinations.

mod blocked;
pub mod carrier;
pub mod client;
pub mod contacts;
mod dial;
pub mod error;
mod follow;
pub mod keyring;
#[cfg(test)]
pub mod memory;
pub mod outside;
pub mod overlay;
pub mod resolve;
pub mod sender;
pub mod tls;
mod ways;
pub mod web;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, OnceLock, PoisonError, Weak},
};

use router::NodeId;
use ruma::{OwnedRoomId, OwnedServerName, RoomId, ServerName};
use serde_json::value::RawValue;

pub use carrier::{Carrier, CarrierError, Class, SharedCarrier};
pub use client::Options;
pub use error::RemoteError;
pub use keyring::{KeyError, Keyring};

use crate::{account::Identity, clock::Clock, store::Store};

/// Speaks to other servers in our name. Cloning shares it.
#[derive(Clone)]
pub struct Remote {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    clock: Clock,
    identity: Arc<Identity>,
    carrier: SharedCarrier,
    /// The way to ordinary servers; none for names that they could not reach back.
    tls: Option<tls::TlsCarrier>,
    /// Who of those that TLS reaches is on the overlay too.
    seen: Mutex<ways::Seen>,
    /// For what is done in the background.
    me: Weak<Self>,
    resolver: resolve::Resolver,
    keyring: Keyring,
    outgoing: sender::Outgoing,
    /// With whom nothing is exchanged.
    blocked: blocked::Blocked,
    /// Where files are fetched to which other servers point; made when it is first needed.
    files: OnceLock<outside::Outside>,
    /// When and how servers last answered.
    contacts: contacts::Contacts,
    /// Rooms that somebody was seen to list, and who.
    listed: Mutex<HashMap<OwnedRoomId, OwnedServerName>>,
    turns: Mutex<HashMap<OwnedServerName, Arc<tokio::sync::Mutex<()>>>>,
}

/// Rooms that are remembered with a server that lists them.
const LISTED_MAX: usize = 4096;
/// Servers whose transactions are taken in at the same time; above that, turns nobody holds are forgotten.
const TURNS_MAX: usize = 256;

impl Remote {
    /// Over the overlay alone, as some account.
    pub fn new(store: Store, identity: Arc<Identity>, carrier: SharedCarrier, clock: Clock) -> Self {
        Self::with_tls(store, identity, carrier, None, clock)
    }

    /// Over the overlay and to ordinary servers.
    pub fn with_tls(
        store: Store,
        identity: Arc<Identity>,
        carrier: SharedCarrier,
        tls: Option<tls::TlsCarrier>,
        clock: Clock,
    ) -> Self {
        let inner = Arc::new_cyclic(|weak| Inner {
            resolver: resolve::Resolver::new(Arc::clone(&carrier)),
            keyring: Keyring::new(store.clone(), Arc::clone(&identity), clock.clone(), weak.clone()),
            store,
            clock,
            outgoing: sender::Outgoing::default(),
            blocked: blocked::Blocked::default(),
            files: OnceLock::new(),
            contacts: contacts::Contacts::default(),
            listed: Mutex::default(),
            turns: Mutex::default(),
            identity,
            carrier,
            tls,
            seen: Mutex::default(),
            me: weak.clone(),
        });
        Self { inner }
    }

    /// Who we are.
    pub fn identity(&self) -> &Identity {
        &self.inner.identity
    }

    /// The database.
    pub fn store(&self) -> &Store {
        &self.inner.store
    }

    /// The wall clock.
    pub fn clock(&self) -> &Clock {
        &self.inner.clock
    }

    /// Other servers' keys.
    pub fn keyring(&self) -> &Keyring {
        &self.inner.keyring
    }

    /// From now on nothing is exchanged with servers of these names (`*` and `?` stand for other characters).
    pub fn block(&self, patterns: &[String]) {
        self.inner.blocked.set(patterns);
    }

    /// Whether the operator wants nothing to do with a server.
    pub fn is_blocked(&self, name: &ServerName) -> bool {
        self.inner.blocked.has(name)
    }

    /// The nodes of a server, asking the overlay if they are not known.
    pub async fn nodes_of(&self, name: &ServerName) -> Result<Vec<NodeId>, RemoteError> {
        Ok(self.inner.place_of(name).await?.nodes)
    }

    /// The servers that are known to live on a node, without asking anybody.
    pub fn names_of(&self, node: &NodeId) -> Vec<OwnedServerName> {
        self.inner.resolver.names_of(node)
    }

    /// A request of that server was verified: it is there, and what waits for it goes out now.
    pub fn heard_from(&self, name: &ServerName, node: Option<NodeId>) {
        if let Some(node) = node {
            self.inner.carrier.heard(node);
            self.inner.there_on_overlay(name);
        }
        self.inner.outgoing.wake(name);
    }

    /// Remembers who lists a room, for joins that name no server.
    pub fn note_room(&self, room: OwnedRoomId, server: OwnedServerName) {
        let mut listed = self.inner.listed.lock().unwrap_or_else(PoisonError::into_inner);
        if listed.len() >= LISTED_MAX {
            listed.clear();
        }
        listed.insert(room, server);
    }

    /// A server that was seen to list a room.
    pub fn lister_of(&self, room: &RoomId) -> Option<OwnedServerName> {
        self.inner.listed.lock().unwrap_or_else(PoisonError::into_inner).get(room).cloned()
    }

    /// The turn of one server: its transactions are taken in one after the other.
    pub async fn turn_of(&self, name: &ServerName) -> tokio::sync::OwnedMutexGuard<()> {
        let turn = {
            let mut turns = self.inner.turns.lock().unwrap_or_else(PoisonError::into_inner);
            if turns.len() >= TURNS_MAX {
                turns.retain(|_, turn| Arc::strong_count(turn) > 1);
            }
            Arc::clone(turns.entry(name.to_owned()).or_default())
        };
        turn.lock_owned().await
    }

    /// The network changed: whatever waits for anybody is tried at once.
    pub fn network_changed(&self) {
        self.inner.outgoing.wake_all();
    }

    /// We have come to another network, or two have met: whatever waits for anybody is tried at once, and servers that
    /// share rooms with us hear that we are there.
    pub fn network_joined(&self) {
        self.inner.outgoing.greet_all();
    }

    /// Sends an EDU that is neither stored nor repeated (typing) to some servers. One that is sent
    /// later under the same `key` takes the place of one that still waits.
    pub fn send_ephemeral(&self, servers: Vec<OwnedServerName>, key: String, edu: Box<RawValue>) {
        self.inner.outgoing.ephemeral(servers, key, edu);
    }
}

impl std::fmt::Debug for Remote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Remote({})", self.inner.identity.server_name())
    }
}
