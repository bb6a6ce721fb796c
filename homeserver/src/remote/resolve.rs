//! Server name -> nodes: asks the overlay for the account's records and remembers the answer.

use std::{
    collections::HashMap,
    sync::Mutex,
    time::{Duration, Instant},
};

use router::NodeId;
use ruma::{OwnedServerName, ServerName};

use super::{
    carrier::{CarrierError, SharedCarrier},
    error::RemoteError,
};
use crate::account::{Log, NameKind, identity::is_name_of_log, read_record};

/// How long a resolution is used without asking again; a failed request ends it at once.
const FRESH: Duration = Duration::from_secs(600);
/// How long "not found" is believed: the overlay is still finding itself when a node starts.
const ABSENT: Duration = Duration::from_millis(500);
/// Most names remembered; a stranger can make us resolve one per request that claims an origin.
const NAMES_MAX: usize = 4096;

/// Where an account can be reached, best first.
#[derive(Clone, Debug)]
pub struct Place {
    /// Its nodes.
    pub nodes: Vec<NodeId>,
    /// What the records prove of its identity log.
    pub log: Log,
}

struct Known {
    place: Option<Place>,
    at: Instant,
}

/// Resolves names, one lookup at a time for each.
pub(super) struct Resolver {
    carrier: SharedCarrier,
    known: Mutex<HashMap<OwnedServerName, Known>>,
}

impl Resolver {
    pub(super) fn new(carrier: SharedCarrier) -> Self {
        Self { carrier, known: Mutex::default() }
    }

    /// The nodes of `name`. Its name must be the one in the account's inception entry, or it is
    /// another spelling that would split rooms between those who check and those who do not.
    pub(super) async fn resolve(&self, name: &ServerName) -> Result<Place, RemoteError> {
        if let Some(known) = self.remembered(name) {
            return known.ok_or_else(|| unreachable(name, CarrierError::NotFound));
        }
        let acct = match NameKind::of(name) {
            NameKind::Overlay(acct) | NameKind::Gateway(acct) => acct,
            NameKind::Nobody => {
                let reason =
                    "is nobody's name: below .alt a name is k, 52 characters of a-z and 2-7, and a zone"
                        .into();
                return Err(RemoteError::NoWay { server: name.to_owned(), reason });
            }
            NameKind::Ordinary => {
                let reason = "is an ordinary server, which the overlay does not find by its name".into();
                return Err(RemoteError::NoWay { server: name.to_owned(), reason });
            }
        };
        let records = self.carrier.find_account(acct).await.or_else(|error| match error {
            CarrierError::NotFound => Ok(Vec::new()),
            other => Err(unreachable(name, other)),
        })?;
        let mut nodes: Vec<(u64, NodeId)> = Vec::new();
        let mut best: Option<Log> = None;
        for record in records {
            let Some(log) = read_record(&record) else { continue };
            if log.acct() != acct || !is_name_of_log(name, &log) {
                continue;
            }
            let prio = log.nodes().iter().find(|item| item.net.0 == *record.node.as_bytes());
            let prio = prio.map_or(u64::MAX, |item| item.prio);
            if !nodes.iter().any(|(_, node)| *node == record.node) {
                nodes.push((prio, record.node));
            }
            if best.as_ref().is_none_or(|best| log.compare(best).is_gt()) {
                best = Some(log);
            }
        }
        nodes.sort_unstable_by_key(|(prio, node)| (*prio, *node.as_bytes()));
        let nodes = nodes.into_iter().map(|(_, node)| node).collect();
        let place = best.map(|log| Place { nodes, log });
        self.remember(name, place.clone());
        place.ok_or_else(|| unreachable(name, CarrierError::NotFound))
    }

    /// Remembers where a name was found without having asked: a request came from there.
    pub(super) fn note(&self, name: &ServerName, place: Place) {
        if self.remembered(name).flatten().is_none() {
            self.remember(name, Some(place));
        }
    }

    /// Drops what is known of a name: a request to it failed, or something was heard of its node.
    pub(super) fn forget(&self, name: &ServerName) {
        self.lock().remove(name);
    }

    /// The names that are known to live on a node.
    pub(super) fn names_of(&self, node: &NodeId) -> Vec<OwnedServerName> {
        let known = self.lock();
        let of_node = |known: &Known| known.place.as_ref().is_some_and(|place| place.nodes.contains(node));
        known.iter().filter(|(_, known)| of_node(known)).map(|(name, _)| name.clone()).collect()
    }

    fn remembered(&self, name: &ServerName) -> Option<Option<Place>> {
        let known = self.lock();
        let known = known.get(name)?;
        let fresh = if known.place.is_some() { FRESH } else { ABSENT };
        (known.at.elapsed() < fresh).then(|| known.place.clone())
    }

    fn remember(&self, name: &ServerName, place: Option<Place>) {
        let mut known = self.lock();
        if known.len() >= NAMES_MAX && !known.contains_key(name) {
            // The oldest goes; names that matter are asked for again at their next request.
            if let Some(oldest) = known.iter().min_by_key(|(_, known)| known.at).map(|(name, _)| name.clone())
            {
                known.remove(&oldest);
            }
        }
        known.insert(name.to_owned(), Known { place, at: Instant::now() });
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<OwnedServerName, Known>> {
        self.known.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

pub(super) fn unreachable(name: &ServerName, reason: CarrierError) -> RemoteError {
    RemoteError::Unreachable { server: name.to_owned(), reason }
}
