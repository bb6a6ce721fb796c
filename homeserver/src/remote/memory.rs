//! A carrier in memory: several servers in one process, reachable or not as a test wants it.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use axum::{Router, body::Body};
use bytes::Bytes;
use router::{AccountRecord, NodeId};
use tower::ServiceExt as _;

use super::carrier::{Carried, Carrier, CarrierError, Class};
use crate::account::{Acct, verify_record};

/// The network between the servers of one process. Clones are the same one.
#[derive(Clone, Default)]
pub struct MemoryNet {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    records: HashMap<Acct, Vec<AccountRecord>>,
    services: HashMap<NodeId, Router>,
    cut: HashSet<(NodeId, NodeId)>,
    away: HashSet<NodeId>,
    requests: Vec<(NodeId, NodeId, String)>,
}

impl MemoryNet {
    /// Nobody is there yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// A carrier for one node.
    pub fn carrier(&self, node: NodeId) -> Arc<dyn Carrier> {
        Arc::new(MemoryCarrier { net: self.clone(), node })
    }

    /// Makes a record findable.
    pub fn publish(&self, record: AccountRecord) {
        if verify_record(&record) {
            let mut state = self.state();
            let records = state.records.entry(Acct(record.acct)).or_default();
            records.retain(|known| known.node != record.node);
            records.push(record);
        }
    }

    /// What answers at a node.
    pub fn serve(&self, node: NodeId, service: Router) {
        self.state().services.insert(node, service);
    }

    /// Takes a node off the network, or puts it back.
    pub fn set_away(&self, node: NodeId, away: bool) {
        let mut state = self.state();
        if away {
            state.away.insert(node);
        } else {
            state.away.remove(&node);
        }
    }

    /// Cuts two nodes apart, or joins them again.
    pub fn set_cut(&self, a: NodeId, b: NodeId, cut: bool) {
        let mut state = self.state();
        for pair in [(a, b), (b, a)] {
            if cut {
                state.cut.insert(pair);
            } else {
                state.cut.remove(&pair);
            }
        }
    }

    /// Requests so far: from, to, path.
    pub fn requests(&self) -> Vec<(NodeId, NodeId, String)> {
        self.state().requests.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct MemoryCarrier {
    net: MemoryNet,
    node: NodeId,
}

impl Carrier for MemoryCarrier {
    fn find_account(&self, acct: Acct) -> Carried<'_, Vec<AccountRecord>> {
        Box::pin(async move {
            let state = self.net.state();
            if state.away.contains(&self.node) {
                return Err(CarrierError::NotFound);
            }
            Ok(state.records.get(&acct).cloned().unwrap_or_default())
        })
    }

    fn request(
        &self,
        node: NodeId,
        _: Class,
        mut request: http::Request<Bytes>,
    ) -> Carried<'_, http::Response<Body>> {
        Box::pin(async move {
            let service = {
                let mut state = self.net.state();
                let cut = state.cut.contains(&(self.node, node))
                    || state.away.contains(&self.node)
                    || state.away.contains(&node);
                if cut {
                    return Err(CarrierError::Unreachable("the cable is out".to_owned()));
                }
                state.requests.push((self.node, node, request.uri().path().to_owned()));
                state.services.get(&node).cloned()
            };
            let service = service.ok_or(CarrierError::NotFound)?;
            request.extensions_mut().insert(h2_overlay::Caller(self.node));
            let path = request.uri().path_and_query().cloned();
            *request.uri_mut() = path.map_or_else(|| http::Uri::from_static("/"), http::Uri::from);
            let response = service.oneshot(request.map(Body::from)).await;
            Ok(response.unwrap_or_else(|never| match never {}))
        })
    }
}
