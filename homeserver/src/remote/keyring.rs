//! Other servers' signing keys: fetched once, kept in the store, used to check what they signed.
//!
//! A key of a name that is made from an account is valid iff the account's identity log has it in
//! force; the timestamps in its key document are advice, since a device's clock may be years off.
//! For all other names the specification's times hold.

mod check;
mod document;
mod notary;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, OnceLock, PoisonError, Weak},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use router::NodeId;
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedServerName, ServerName,
    api::federation::discovery::get_server_keys,
    room_version_rules::RoomVersionRules,
    serde::Base64,
    signatures::{PublicKeySet, Verified, required_server_signatures_to_verify_event},
};

use super::{Inner, Remote, RemoteError, client::Options, resolve::Place};
use crate::{
    account::{Entry, Identity, Log, NameKind, log_keys},
    clock::Clock,
    store::{Store, StoreError, schema::server_keys as table},
};

pub use check::XMatrixError;
pub use document::DocumentError;

/// Most servers whose keys are kept in memory; the store has the rest.
const SERVERS_MAX: usize = 1024;
/// Servers whose keys are fetched at the same time for one set of events.
const FETCH_PARALLEL: usize = 8;
/// How long a server is not asked again after it could not be asked.
const PAUSE_FAILED: Duration = Duration::from_secs(2);
/// How long a server is not asked again about a key it did not have: every forged key id would ask.
const PAUSE_UNKNOWN: Duration = Duration::from_secs(30);
/// How long fetching one server's keys may take.
const FETCH_TIMEOUT: Duration = Duration::from_secs(10);
/// Keys of a server's past that are kept; one that changes them so often has to list them.
const OLD_KEYS_MAX: usize = 256;
/// Largest key document; an identity log adds to it what [`crate::account::log::LOG_LEN_MAX`] says.
const DOCUMENT_LEN_MAX: usize = 128 << 10;

/// One key of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// The public key.
    pub key: Base64,
    /// Until when its owner promised to use it; `None`: in force as long as the identity says so.
    pub valid_until_ms: Option<u64>,
    /// For keys of the past: since when it is not used any more.
    pub expired_ms: Option<u64>,
}

impl Key {
    /// Whether it may have signed something at that time.
    pub fn is_valid_at(&self, at_ms: u64) -> bool {
        let until = self.expired_ms.or(self.valid_until_ms);
        until.is_none_or(|until| at_ms <= until)
    }
}

/// The keys of one server.
#[derive(Clone, Debug, Default)]
pub struct ServerKeys {
    /// By key id.
    pub keys: BTreeMap<String, Key>,
    /// The identity log they come from, for names made from an account.
    pub log: Option<Log>,
    /// When they were fetched.
    pub fetched_ms: u64,
}

impl ServerKeys {
    /// Whether nobody need be asked: they are all here, and none is past the time its owner promised to use it. A key
    /// of the past stays what it is.
    fn serves(&self, ids: &BTreeSet<String>, now_ms: u64) -> bool {
        ids.iter().all(|id| {
            self.keys.get(id).is_some_and(|key| key.expired_ms.is_some() || key.is_valid_at(now_ms))
        })
    }

    /// The keys among `ids` that can have signed something at that time.
    pub fn usable_at(&self, ids: &BTreeSet<String>, at_ms: u64) -> PublicKeySet {
        let usable = |id: &String| {
            let key = self.keys.get(id).filter(|key| key.is_valid_at(at_ms))?;
            Some((id.clone(), key.key.clone()))
        };
        ids.iter().filter_map(usable).collect()
    }

    /// Keys of a log, valid as long as it is in force.
    fn of_log(log: Log, fetched_ms: u64) -> Self {
        let key = |key| Key { key, valid_until_ms: None, expired_ms: None };
        let keys = log_keys(&log).into_iter().map(|(id, public)| (id, key(public))).collect();
        Self { keys, log: Some(log), fetched_ms }
    }

    /// The overlay nodes that may speak for the server.
    pub fn nodes(&self) -> impl Iterator<Item = NodeId> {
        let items = self.log.iter().flat_map(|log| log.nodes());
        items.filter(|item| item.may_sign()).map(|item| NodeId::from_bytes(item.net.0))
    }
}

/// Knows other servers' keys.
pub struct Keyring {
    store: Store,
    identity: Arc<Identity>,
    clock: Clock,
    remote: Weak<Inner>,
    known: Mutex<HashMap<OwnedServerName, Arc<ServerKeys>>>,
    slots: Mutex<HashMap<OwnedServerName, Arc<Slot>>>,
    /// Who is believed about servers that cannot be asked.
    notaries: OnceLock<Vec<OwnedServerName>>,
}

/// One fetch at a time for a server; who comes later finds what the first one brought.
#[derive(Default)]
struct Slot {
    turn: tokio::sync::Mutex<Option<Failed>>,
}

#[derive(Clone)]
struct Failed {
    until: Instant,
    error: KeyError,
}

impl Keyring {
    pub(super) fn new(store: Store, identity: Arc<Identity>, clock: Clock, remote: Weak<Inner>) -> Self {
        Self {
            store,
            identity,
            clock,
            remote,
            known: Mutex::default(),
            slots: Mutex::default(),
            notaries: OnceLock::new(),
        }
    }

    /// Whether ordinary servers' keys can be asked for at all.
    fn reaches_domains(&self) -> bool {
        self.remote.upgrade().is_some_and(|remote| remote.tls.is_some())
    }

    /// The keys of `server`, among them those named by `ids` if it has them. Asks the server only
    /// if one of them is not known.
    pub async fn keys(
        &self,
        server: &ServerName,
        ids: &BTreeSet<String>,
    ) -> Result<Arc<ServerKeys>, KeyError> {
        self.keys_from(server, ids, None).await
    }

    /// The keys of a server that probably lives on a node.
    pub async fn keys_at(&self, server: &ServerName, node: NodeId) -> Result<Arc<ServerKeys>, KeyError> {
        self.keys_from(server, &BTreeSet::new(), Some(node)).await
    }

    /// [`Self::keys`], asking a node first that probably is the server's: the one a request came from.
    pub(super) async fn keys_from(
        &self,
        server: &ServerName,
        ids: &BTreeSet<String>,
        hint: Option<NodeId>,
    ) -> Result<Arc<ServerKeys>, KeyError> {
        if server == self.identity.server_name() {
            return Ok(Arc::new(ServerKeys::of_log(self.identity.log().clone(), self.clock.now_ms())));
        }
        let now = self.clock.now_ms();
        if let Some(keys) = self.known(server).filter(|keys| keys.serves(ids, now)) {
            return Ok(keys);
        }
        let slot = self.slot(server);
        let mut turn = slot.turn.lock().await;
        if let Some(keys) = self.known(server).filter(|keys| keys.serves(ids, now)) {
            return Ok(keys);
        }
        let stored = match self.known(server) {
            Some(known) => Some(known),
            None => self.load(server).await?,
        };
        if let Some(keys) = &stored {
            self.remember(server, Arc::clone(keys));
            if keys.serves(ids, now) {
                return Ok(Arc::clone(keys));
            }
        }
        if let Some(failed) = turn.as_ref().filter(|failed| Instant::now() < failed.until) {
            // What is known may do: an event can be signed by several keys of which one is enough.
            return stored.ok_or_else(|| failed.error.clone());
        }
        self.fetch_in_turn(server, ids, hint, stored, &mut turn).await
    }

    /// Fetches a server's keys, whose turn it is, and keeps them. If they cannot be had, those that are stored may do.
    async fn fetch_in_turn(
        &self,
        server: &ServerName,
        ids: &BTreeSet<String>,
        hint: Option<NodeId>,
        stored: Option<Arc<ServerKeys>>,
        turn: &mut Option<Failed>,
    ) -> Result<Arc<ServerKeys>, KeyError> {
        let fetched = tokio::time::timeout(FETCH_TIMEOUT, self.fetch(server, stored.as_deref(), hint)).await;
        let fetched = fetched.unwrap_or_else(|_| Err(KeyError::Timeout(server.to_owned())));
        let pause = |for_, error| Some(Failed { until: Instant::now() + for_, error });
        match fetched {
            Ok((mut keys, document)) => {
                if keys.log.is_none() {
                    self.ask_for_old(server, ids, &mut keys).await;
                }
                let keys = Arc::new(keys);
                let missing = ids.iter().find(|id| !keys.keys.contains_key(*id));
                *turn = missing
                    .and_then(|id| pause(PAUSE_UNKNOWN, KeyError::UnknownKey(server.to_owned(), id.clone())));
                self.save(server, &keys, document).await?;
                self.remember(server, Arc::clone(&keys));
                Ok(keys)
            }
            Err(error) => {
                let Some((keys, document)) = self.notaries_word(server, ids, stored.as_deref()).await else {
                    *turn = pause(PAUSE_FAILED, error.clone());
                    return stored.ok_or(error);
                };
                let keys = Arc::new(keys);
                *turn = pause(PAUSE_UNKNOWN, error);
                self.save(server, &keys, document).await?;
                self.remember(server, Arc::clone(&keys));
                Ok(keys)
            }
        }
    }

    /// Collects the keys that are needed to check some events, so that the checks themselves can run
    /// without waiting. Keys that cannot be had are missing from it; the checks then say so.
    pub async fn for_events<'a>(
        &self,
        events: impl IntoIterator<Item = &'a CanonicalJsonObject>,
        rules: &RoomVersionRules,
    ) -> EventKeys {
        let mut wanted: BTreeMap<OwnedServerName, BTreeSet<String>> = BTreeMap::new();
        for event in events {
            let Ok(servers) = required_server_signatures_to_verify_event(event, &rules.signatures) else {
                continue;
            };
            for server in servers {
                let ids = signature_ids(event, &server);
                wanted.entry(server).or_default().extend(ids);
            }
        }
        let found = stream::iter(wanted)
            .map(|(server, ids)| async move {
                let keys = self.keys(&server, &ids).await;
                (server, keys)
            })
            .buffer_unordered(FETCH_PARALLEL)
            .collect::<Vec<_>>()
            .await;
        EventKeys { servers: found.into_iter().collect() }
    }

    /// Fetches the keys that an event needs and checks its signatures and hash.
    pub async fn verify_event(
        &self,
        event: &CanonicalJsonObject,
        rules: &RoomVersionRules,
    ) -> Result<Verified, KeyError> {
        self.for_events([event], rules).await.verify(event, rules)
    }

    /// The newest identity log known of a server, without asking anybody.
    pub fn log_known(&self, server: &ServerName) -> Option<Log> {
        self.known(server).and_then(|keys| keys.log.clone())
    }

    /// The servers in memory whose identity lists a node as one that speaks for them.
    pub(super) fn names_on(&self, node: &NodeId) -> Vec<OwnedServerName> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let on_node = |keys: &ServerKeys| keys.nodes().any(|own| own == *node);
        known.iter().filter(|(_, keys)| on_node(keys)).map(|(name, _)| name.clone()).collect()
    }

    /// As [`Self::log_known`], looking into the store too.
    pub(super) async fn log_stored(&self, server: &ServerName) -> Option<Log> {
        if let Some(keys) = self.known(server) {
            return keys.log.clone();
        }
        // A store that fails is as good as an empty one: the caller has another error to tell.
        let keys = self.load(server).await.ok().flatten()?;
        self.remember(server, Arc::clone(&keys));
        keys.log.clone()
    }

    async fn fetch(
        &self,
        server: &ServerName,
        stored: Option<&ServerKeys>,
        hint: Option<NodeId>,
    ) -> Result<(ServerKeys, Bytes), KeyError> {
        let inner = self.remote.upgrade().ok_or(KeyError::Closing)?;
        let remote = Remote { inner };
        if let NameKind::Nobody = NameKind::of(server) {
            // Says why, too.
            remote.nodes_of(server).await?;
        }
        let options = Options { limit: DOCUMENT_LEN_MAX, timeout: FETCH_TIMEOUT, ..Options::default() };
        let request = remote.sign_request(server, get_server_keys::v2::Request::new())?;
        // Whoever speaks for a server can show its keys. Only the node that asks is asked, or a stranger who claims
        // many names would have us search the overlay for each.
        let (body, from) = match hint {
            Some(node) => (remote.carry_to(server, node, request, options).await?.into_body(), Some(node)),
            None => (remote.carry(server, request, options).await?.into_body(), None),
        };
        let now = self.clock.now_ms();
        let document = document::read(server, &body, now)?;
        let Some(head) = document.identity else {
            return match NameKind::of(server) {
                NameKind::Ordinary => {
                    // A key that is not listed any more was good as long as its owner once said.
                    let mut keys = stored.map(|stored| stored.keys.clone()).unwrap_or_default();
                    keys.retain(|_, key| {
                        stored.is_some_and(|stored| stored.log.is_none())
                            && key.expired_ms.or(key.valid_until_ms).is_some()
                    });
                    if keys.len() > OLD_KEYS_MAX {
                        keys.clear();
                    }
                    keys.extend(document.keys);
                    Ok((ServerKeys { keys, log: None, fetched_ms: now }, body))
                }
                _ => Err(DocumentError::NoIdentity.into()),
            };
        };
        let mut log = Log::new(head.inception).map_err(|_| DocumentError::Identity)?;
        if head.n > 0 {
            log = self.fetch_log(&remote, server, from).await?;
        }
        if log.last().hash() != head.hash {
            return Err(DocumentError::Identity.into());
        }
        if let Some(known) = stored.and_then(|stored| stored.log.as_ref())
            && known.compare(&log).is_gt()
        {
            // What we know overrules what we are told.
            log = known.clone();
        }
        let keys = ServerKeys::of_log(log, now);
        if !document::is_signed(server, &body, &keys) {
            return Err(DocumentError::Signature.into());
        }
        if stored.is_none_or(|stored| stored.log.is_none()) {
            remote.inner.look_again_at(server);
        }
        if let Some(node) = from
            && let Some(log) = keys.log.clone()
            && keys.nodes().any(|own| own == node)
        {
            remote.inner.resolver.note(server, Place { nodes: vec![node], log });
        }
        Ok((keys, body))
    }

    /// The whole identity log, as the server itself has it.
    async fn fetch_log(
        &self,
        remote: &Remote,
        server: &ServerName,
        from: Option<NodeId>,
    ) -> Result<Log, KeyError> {
        let uri = format!("https://{server}{}", crate::api::x::IDENTITY_PATH);
        let request = http::Request::get(uri)
            .body(Bytes::new())
            .map_err(|error| RemoteError::Request(error.to_string()))?;
        let limit = crate::account::log::LOG_LEN_MAX + DOCUMENT_LEN_MAX;
        let options = Options { limit, timeout: FETCH_TIMEOUT, ..Options::default() };
        let response = match from {
            Some(node) => remote.carry_to(server, node, request, options).await?,
            None => remote.carry(server, request, options).await?,
        };
        #[derive(serde::Deserialize)]
        struct Answer {
            entries: Vec<CanonicalJsonObject>,
        }
        let answer: Answer = serde_json::from_slice(response.body()).map_err(|_| DocumentError::Identity)?;
        let entries = answer.entries.into_iter().map(Entry::from_object).collect::<Result<Vec<_>, _>>();
        let log = entries.ok().and_then(|entries| Log::from_entries(entries).ok());
        let log = log.filter(|log| crate::account::identity::is_name_of_log(server, log));
        Ok(log.ok_or(DocumentError::Identity)?)
    }

    async fn load(&self, server: &ServerName) -> Result<Option<Arc<ServerKeys>>, KeyError> {
        let name = server.to_owned();
        let stored = self.store.read(move |tx| table::load(tx, &name)).await?;
        let Some(stored) = stored else { return Ok(None) };
        if let Some(log) = stored.log {
            let entries: Vec<CanonicalJsonObject> = serde_json::from_slice(&log).unwrap_or_default();
            let entries = entries.into_iter().map(Entry::from_object).collect::<Result<Vec<_>, _>>();
            // A row that cannot be read is as good as none: the keys are fetched again.
            let log = entries.ok().and_then(|entries| Log::from_entries(entries).ok());
            return Ok(log.map(|log| Arc::new(ServerKeys::of_log(log, stored.fetched_ms))));
        }
        let key = |row: table::KeyRow| {
            let key = Key {
                key: Base64::new(row.key),
                valid_until_ms: row.valid_until_ms,
                expired_ms: row.expired_ms,
            };
            (row.id, key)
        };
        let keys = stored.keys.into_iter().map(key).collect();
        Ok(Some(Arc::new(ServerKeys { keys, log: None, fetched_ms: stored.fetched_ms })))
    }

    async fn save(&self, server: &ServerName, keys: &ServerKeys, document: Bytes) -> Result<(), KeyError> {
        let row = table::Stored {
            document: (document.len() <= notary::DOCUMENT_LEN_MAX).then(|| document.to_vec()),
            fetched_ms: keys.fetched_ms,
            log: keys.log.as_ref().map(|log| {
                let entries: Vec<_> = log.entries().iter().map(Entry::json).collect();
                serde_json::to_vec(&entries).expect("canonical JSON can be written")
            }),
            keys: keys
                .keys
                .iter()
                .filter(|_| keys.log.is_none())
                .map(|(id, key)| table::KeyRow {
                    id: id.clone(),
                    key: key.key.as_bytes().to_vec(),
                    valid_until_ms: key.valid_until_ms,
                    expired_ms: key.expired_ms,
                })
                .collect(),
        };
        let name = server.to_owned();
        Ok(self.store.write_soon(move |tx| table::save(tx, &name, &row)).await?)
    }

    fn known(&self, server: &ServerName) -> Option<Arc<ServerKeys>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).get(server).cloned()
    }

    fn remember(&self, server: &ServerName, keys: Arc<ServerKeys>) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= SERVERS_MAX && !known.contains_key(server) {
            // Any one may go: the store still has it.
            if let Some(victim) = known.keys().next().cloned() {
                known.remove(&victim);
            }
        }
        known.insert(server.to_owned(), keys);
    }

    fn slot(&self, server: &ServerName) -> Arc<Slot> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if slots.len() >= SERVERS_MAX {
            // Nobody waits at those; at worst a pause is forgotten.
            slots.retain(|_, slot| Arc::strong_count(slot) > 1);
        }
        Arc::clone(slots.entry(server.to_owned()).or_default())
    }
}

/// The keys that a set of events needs, as far as they could be had.
#[derive(Clone, Debug, Default)]
pub struct EventKeys {
    servers: BTreeMap<OwnedServerName, Result<Arc<ServerKeys>, KeyError>>,
}

/// Key ids under which `server` signed an event.
fn signature_ids(event: &CanonicalJsonObject, server: &ServerName) -> BTreeSet<String> {
    event
        .get("signatures")
        .and_then(CanonicalJsonValue::as_object)
        .and_then(|signatures| signatures.get(server.as_str()))
        .and_then(CanonicalJsonValue::as_object)
        .map(|ids| ids.keys().take(KEY_IDS_MAX).cloned().collect())
        .unwrap_or_default()
}

/// Signatures of one server on one event that are looked at.
const KEY_IDS_MAX: usize = 16;

/// Why a signature cannot be relied on.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The server's keys could not be fetched.
    #[error("cannot get the keys: {0}")]
    Remote(#[from] RemoteError),
    /// The server's key document does not hold.
    #[error("the key document does not hold: {0}")]
    Document(#[from] DocumentError),
    /// The keys did not come in time.
    #[error("{0} did not send its keys in time")]
    Timeout(OwnedServerName),
    /// The server has no such key.
    #[error("{0} has no key {1}")]
    UnknownKey(OwnedServerName, String),
    /// The key was not in force at the event's time.
    #[error("{0} did not use that key at that time")]
    Expired(OwnedServerName),
    /// The signature is wrong.
    #[error("the signature is wrong: {0}")]
    Signature(String),
    /// The store failed.
    #[error("the store failed: {0}")]
    Store(String),
    /// The node is ending.
    #[error("the node is ending")]
    Closing,
}

impl KeyError {
    /// Whether the same check may succeed later.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Remote(error) => error.is_transient(),
            Self::Timeout(_) | Self::Store(_) | Self::Closing => true,
            Self::Document(_) | Self::UnknownKey(..) | Self::Expired(_) | Self::Signature(_) => false,
        }
    }
}

impl From<StoreError> for KeyError {
    fn from(error: StoreError) -> Self {
        Self::Store(error.to_string())
    }
}
