//! Which carriers lead to a server: the overlay, TLS, or both; a name known on both is tried on the overlay first.

use std::{
    sync::PoisonError,
    time::{Duration, Instant},
};

use router::NodeId;
use ruma::ServerName;

use super::{Inner, RemoteError, carrier::CarrierError, resolve, tls::TlsCarrier};
use crate::account::{NameKind, mixture_text};

/// How a server can be reached now.
pub(super) struct Ways {
    /// Its nodes, best first; empty if it is on no overlay, or was not found there.
    pub(super) nodes: Vec<NodeId>,
    /// The way over TLS.
    pub(super) tls: Option<TlsCarrier>,
}

impl Inner {
    /// The ways to a server; at least one.
    pub(super) async fn ways(&self, name: &ServerName) -> Result<Ways, RemoteError> {
        match NameKind::of(name) {
            NameKind::Overlay(_) | NameKind::Nobody => {
                Ok(Ways { nodes: self.place_of(name).await?.nodes, tls: None })
            }
            NameKind::Gateway(_) => match (&self.tls, self.is_off_overlay(name)) {
                (None, _) => Ok(Ways { nodes: self.place_of(name).await?.nodes, tls: None }),
                (Some(tls), true) => Ok(Ways { nodes: Vec::new(), tls: Some(tls.clone()) }),
                (Some(tls), false) => {
                    // A gateway's account that no node of the overlay publishes is the gateway's own business.
                    let found = tokio::time::timeout(FIND_WITHIN, self.place_of(name)).await;
                    let nodes = found.ok().and_then(Result::ok).map(|place| place.nodes).unwrap_or_default();
                    if nodes.is_empty() {
                        self.leave_overlay(name);
                    }
                    Ok(Ways { nodes, tls: Some(tls.clone()) })
                }
            },
            NameKind::Ordinary => {
                let Some(tls) = &self.tls else { return Err(self.no_tls(name)) };
                let nodes = match self.is_off_overlay(name) {
                    true => Vec::new(),
                    false => self.nodes_known(name).await.unwrap_or_default(),
                };
                Ok(Ways { nodes, tls: Some(tls.clone()) })
            }
        }
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

    /// The nodes that an ordinary name's identity lists: it is on the overlay too.
    async fn nodes_known(&self, name: &ServerName) -> Option<Vec<NodeId>> {
        let log = self.keyring.log_stored(name).await?;
        Some(log.nodes().iter().map(|item| NodeId::from_bytes(item.net.0)).collect())
    }

    /// Its nodes do not answer: TLS alone for a while.
    pub(super) fn leave_overlay(&self, name: &ServerName) {
        let mut off = self.off_overlay.lock().unwrap_or_else(PoisonError::into_inner);
        if off.len() >= OFF_MAX {
            off.clear();
        }
        off.insert(name.to_owned(), Instant::now() + OFF_FOR);
    }

    /// Something came from one of its nodes.
    pub(super) fn back_on_overlay(&self, name: &ServerName) {
        self.off_overlay.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
    }

    fn is_off_overlay(&self, name: &ServerName) -> bool {
        let off = self.off_overlay.lock().unwrap_or_else(PoisonError::into_inner);
        off.get(name).is_some_and(|until| Instant::now() < *until)
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
/// How long a name in a gateway zone is looked for on the overlay before TLS is tried.
const FIND_WITHIN: Duration = Duration::from_secs(2);
/// How long a name that TLS reaches is not tried on the overlay after its nodes did not answer.
const OFF_FOR: Duration = Duration::from_secs(60);
/// Names that are remembered as away; beyond, all are tried again.
const OFF_MAX: usize = 4_096;
