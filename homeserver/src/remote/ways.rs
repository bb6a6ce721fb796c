//! Which carriers lead to a server: the overlay, TLS, or both. A name on both is asked over the overlay once it
//! is known to answer there; until then nobody waits for it.

use std::{
    collections::HashMap,
    sync::PoisonError,
    time::{Duration, Instant},
};

use bytes::Bytes;
use router::NodeId;
use ruma::{OwnedServerName, ServerName};

use super::{
    Inner, RemoteError,
    carrier::{CarrierError, Class},
    resolve,
    tls::TlsCarrier,
};
use crate::account::{NameKind, mixture_text};

/// How a server can be reached now.
pub(super) struct Ways {
    /// Its nodes, best first; empty if it is on no overlay, or is not known to be there now.
    pub(super) nodes: Vec<NodeId>,
    /// The way over TLS.
    pub(super) tls: Option<TlsCarrier>,
}

/// What is known of names that TLS reaches too.
#[derive(Default)]
pub(super) struct Seen {
    /// Until when a name's nodes are believed to answer.
    there: HashMap<OwnedServerName, Instant>,
    /// When a name may be looked for on the overlay again.
    look_after: HashMap<OwnedServerName, Instant>,
}

impl Inner {
    /// The ways to a server; at least one.
    pub(super) async fn ways(&self, name: &ServerName) -> Result<Ways, RemoteError> {
        match (NameKind::of(name), &self.tls) {
            (NameKind::Overlay(_) | NameKind::Nobody, _) | (NameKind::Gateway(_), None) => {
                Ok(Ways { nodes: self.place_of(name).await?.nodes, tls: None })
            }
            (NameKind::Ordinary, None) => Err(self.no_tls(name)),
            (NameKind::Gateway(_) | NameKind::Ordinary, Some(tls)) => {
                let nodes = match self.is_on_overlay(name) {
                    true => self.nodes_known(name).await.unwrap_or_default(),
                    // Nobody waits for a lookup where there is a way already.
                    false => {
                        self.look_for(name);
                        Vec::new()
                    }
                };
                Ok(Ways { nodes, tls: Some(tls.clone()) })
            }
        }
    }

    /// Looks in the background whether a name that TLS reaches is on the overlay too.
    fn look_for(&self, name: &ServerName) {
        {
            let mut seen = self.seen();
            let now = Instant::now();
            if seen.look_after.get(name).is_some_and(|after| now < *after) {
                return;
            }
            if seen.look_after.len() >= NAMES_MAX {
                seen.look_after.retain(|_, after| now < *after);
            }
            if seen.look_after.len() >= NAMES_MAX {
                return;
            }
            seen.look_after.insert(name.to_owned(), now + LOOK_EVERY);
        }
        let (Some(inner), Ok(runtime)) = (self.me.upgrade(), tokio::runtime::Handle::try_current()) else {
            return;
        };
        let name = name.to_owned();
        runtime.spawn(async move {
            // Who a domain is comes with its keys. Those are not fetched for this: whoever exchanges events with it needs
            // them, and calls `look_again_at` when they come; whoever only reads there has no use for a second way.
            let nodes = match NameKind::of(&name) {
                NameKind::Gateway(_) => {
                    inner.place_of(&name).await.map(|place| place.nodes).unwrap_or_default()
                }
                _ => inner.nodes_known(&name).await.unwrap_or_default(),
            };
            for node in nodes.into_iter().take(NODES_ASKED) {
                let mut request = http::Request::new(Bytes::new());
                *request.uri_mut() = http::Uri::from_static("/_matrix/federation/v1/version");
                let asked = inner.carrier.request(node, Class::Interactive, request);
                if let Ok(Ok(_)) = tokio::time::timeout(LOOK_WITHIN, asked).await {
                    inner.there_on_overlay(&name);
                    return;
                }
            }
        });
    }

    /// The nodes of a name: from the overlay, or, while it finds no record, those that the name's
    /// identity is known to list.
    pub(super) async fn place_of(&self, name: &ServerName) -> Result<resolve::Place, RemoteError> {
        let error = match self.resolver.resolve(name).await {
            Ok(place) => return Ok(place),
            Err(error) => error,
        };
        if !matches!(error, RemoteError::Unreachable { .. }) {
            return Err(error);
        }
        let log = self.keyring.log_stored(name).await.ok_or(error)?;
        let nodes = log.nodes().iter().map(|item| NodeId::from_bytes(item.net.0)).collect();
        Ok(resolve::Place { nodes, log })
    }

    /// The nodes that a name's identity lists, without asking anybody.
    async fn nodes_known(&self, name: &ServerName) -> Option<Vec<NodeId>> {
        let log = self.keyring.log_stored(name).await?;
        Some(log.nodes().iter().map(|item| NodeId::from_bytes(item.net.0)).collect())
    }

    /// The overlay changed here: names that were not found there, or had left it, may be looked for at once.
    pub(super) fn look_again(&self) {
        self.seen().look_after.clear();
    }

    /// Its identity has become known.
    pub(super) fn look_again_at(&self, name: &ServerName) {
        self.seen().look_after.remove(name);
    }

    /// A session with a node came up: the names that it speaks for may be looked for at once.
    pub(super) fn look_again_for(&self, node: &NodeId) {
        let names = self.keyring.names_on(node);
        let mut seen = self.seen();
        seen.look_after.retain(|name, _| !names.contains(name));
    }

    /// Its nodes do not answer: TLS alone for a while.
    pub(super) fn left_overlay(&self, name: &ServerName) {
        let mut seen = self.seen();
        seen.there.remove(name);
        seen.look_after.insert(name.to_owned(), Instant::now() + LOOK_AGAIN);
    }

    /// Something came from one of its nodes.
    pub(super) fn there_on_overlay(&self, name: &ServerName) {
        if self.tls.is_none() {
            return;
        }
        let (mut seen, now) = (self.seen(), Instant::now());
        if seen.there.len() >= NAMES_MAX {
            seen.there.retain(|_, until| now < *until);
        }
        if seen.there.len() < NAMES_MAX {
            seen.there.insert(name.to_owned(), now + THERE_FOR);
        }
    }

    fn is_on_overlay(&self, name: &ServerName) -> bool {
        self.seen().there.get(name).is_some_and(|until| Instant::now() < *until)
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn no_tls(&self, name: &ServerName) -> RemoteError {
        let ours = self.identity.server_name();
        let reason = match NameKind::of(ours) {
            NameKind::Overlay(_) => mixture_text(ours, name),
            _ => {
                "is an ordinary server, and federation with those is switched off in the settings".to_owned()
            }
        };
        RemoteError::NoWay { server: name.to_owned(), reason }
    }
}

/// One node did not answer in time, and there is another way.
pub(super) fn slow() -> CarrierError {
    CarrierError::Timeout(OVERLAY_WITHIN)
}

/// How long the overlay has for the head of an answer where TLS is a second way.
pub(super) const OVERLAY_WITHIN: Duration = Duration::from_secs(5);
/// How long a name is believed to be on the overlay after something came from there.
const THERE_FOR: Duration = Duration::from_secs(600);
/// How often a name that TLS reaches is looked for on the overlay.
const LOOK_EVERY: Duration = Duration::from_secs(300);
/// The same for one whose nodes stopped answering.
const LOOK_AGAIN: Duration = Duration::from_secs(60);
const LOOK_WITHIN: Duration = Duration::from_secs(10);
/// Nodes of one name that are asked.
const NODES_ASKED: usize = 2;
/// Names that are remembered; beyond, more are not looked for.
const NAMES_MAX: usize = 4_096;
