//! What carries a request to another node: the overlay in a running node, memory in tests.

use std::{pin::Pin, sync::Arc, time::Duration};

use axum::body::Body;
use bytes::Bytes;
use router::{AccountRecord, NodeId};

use crate::account::Acct;

/// A boxed answer.
pub type Carried<'a, T> = Pin<Box<dyn Future<Output = Result<T, CarrierError>> + Send + 'a>>;

/// Small requests must not wait behind large ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// Somebody waits for it: transactions, keys, membership.
    Interactive,
    /// Much data: media, state, backfill.
    Bulk,
}

/// Carries requests to nodes, whatever lies in between.
pub trait Carrier: Send + Sync + 'static {
    /// The records that name an account's nodes, each verified by the overlay.
    fn find_account(&self, acct: Acct) -> Carried<'_, Vec<AccountRecord>>;

    /// Sends one request to a node and answers with the head of the response; its body streams.
    fn request(
        &self,
        node: NodeId,
        class: Class,
        request: http::Request<Bytes>,
    ) -> Carried<'_, http::Response<Body>>;

    /// Something came from that node, so it can be reached: whatever back-off there is ends.
    fn heard(&self, _node: NodeId) {}
}

/// A carrier that many tasks share.
pub type SharedCarrier = Arc<dyn Carrier>;

/// Why nothing came through.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum CarrierError {
    /// No such account or node can be found now.
    #[error("it cannot be found on the overlay now")]
    NotFound,
    /// It is known, but does not answer.
    #[error("it cannot be reached now ({0})")]
    Unreachable(String),
    /// Nothing within the time.
    #[error("no answer within {} s", .0.as_secs())]
    Timeout(Duration),
}
