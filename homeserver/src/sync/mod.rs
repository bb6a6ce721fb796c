//! What a client is told: sync v2, from what the store already knows. Nothing is computed here that an event's write
//! could have: a sync reads rows and puts their bytes together.
//!
//! ```text
//!   GET /sync ─> token ─> acknowledge messages to the device ─> watch ─> read ─> something? ─yes─> answer
//!                                                                 ^                └─no─> follow rooms, read once
//!                                                                 └─────────────────────── more, wait <──┘
//! ```
//!
//! `v3/mod.rs` plans (what changed, for whom) in one snapshot, and writes the rooms in as many as it takes; every query
//! is bounded by the position of the plan, so that all of a response tells of one moment.

pub mod bench;
pub mod filter;
pub mod filters;
mod heroes;
mod json;
mod lazy;
mod parts;
pub mod sliding;
mod timeline;
pub mod token;
mod v3;
mod wait;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use ruma::{OwnedDeviceId, OwnedUserId, api::client::filter::FilterDefinition};

pub use self::filters::{FilterError, Filters};
pub use self::sliding::{Dialect, SlidingRequest};
use self::{filter::SyncFilter, lazy::Shown, sliding::Sliding, token::Token};
use crate::{
    clock::Clock,
    e2ee::{E2ee, E2eeError},
    notify::Notify,
    room::typing::Typing,
    store::{Nid, Seq, Store, StoreError},
    user::Users,
};

/// The longest a sync waits for something to happen.
pub const TIMEOUT_MAX: Duration = Duration::from_secs(120);

/// From what [`Sync`] is built.
pub struct Parts {
    /// The database.
    pub store: Store,
    /// Wake-ups.
    pub notify: Notify,
    /// The clock, for `unsigned.age`.
    pub clock: Clock,
    /// Who is typing.
    pub typing: Typing,
    /// Keys and messages to devices.
    pub e2ee: E2ee,
    /// Who is online, if syncs tell it.
    pub presence: Option<Users>,
    /// The beginning of this node's key: tokens carry it.
    pub node: u64,
}

/// Syncs of all devices. Clones share everything.
#[derive(Clone)]
pub struct Sync {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    notify: Notify,
    clock: Clock,
    typing: Typing,
    e2ee: E2ee,
    presence: Option<Users>,
    node: u64,
    shown: Shown,
    sliding: Sliding,
}

/// A request for what is new.
#[derive(Clone, Debug)]
pub struct SyncRequest {
    /// Who asks.
    pub user: OwnedUserId,
    /// On which device.
    pub device: OwnedDeviceId,
    /// The token of the last response.
    pub since: Option<String>,
    /// What to show.
    pub filter: SyncFilter,
    /// All state of all rooms, whatever changed.
    pub full_state: bool,
    /// The state part is that after the timeline, not that before it (MSC4222), under the name that the client knows it
    /// by: `state_after`, or its unstable one.
    pub state_after: Option<&'static str>,
    /// How long to wait if there is nothing.
    pub timeout: Duration,
    /// Ends the wait when the node ends.
    pub stop: CancellationToken,
}

/// Why there is no response.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SyncError {
    /// The `pos` of a connection that is not (or no longer) known: the client begins a new one.
    #[error("this pos is not known (any more); start a new connection, without pos")]
    UnknownPos,
    /// A request that makes no sense as it is.
    #[error("{0}")]
    Invalid(String),
    /// Keys or messages to devices.
    #[error(transparent)]
    E2ee(#[from] E2eeError),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Sync {
    /// Nobody syncs yet.
    pub fn new(parts: Parts) -> Self {
        let Parts { store, notify, clock, typing, e2ee, presence, node } = parts;
        let sliding = Sliding::new(&store, &clock);
        let shown = Shown::default();
        Self { inner: Arc::new(Inner { store, notify, clock, typing, e2ee, presence, node, shown, sliding }) }
    }

    /// What is new for a device since its token, as the JSON of a response; waits for something if there is nothing.
    pub async fn sync(&self, request: SyncRequest) -> Result<Bytes, SyncError> {
        wait::sync(&self.inner, request).await
    }

    /// What the lists and subscriptions of a client show that it was not sent yet, as the JSON of a response; waits for
    /// something if there is nothing.
    pub async fn sliding(&self, request: SlidingRequest) -> Result<Bytes, SyncError> {
        sliding::sync(&self.inner, request).await
    }

    /// The position of a token of ours, for endpoints that take sync tokens (`/keys/changes`, `/messages`); `None` if it
    /// is foreign, of another life of the database, or none at all.
    pub fn position(&self, token: &str) -> Option<Seq> {
        self.inner.token(token).map(|token| Seq(token.seq))
    }

    /// Users whose devices changed, and users with whom nothing is shared any more, between two tokens.
    pub async fn key_changes(
        &self,
        user: &ruma::UserId,
        from: Seq,
        to: Seq,
    ) -> Result<(Vec<OwnedUserId>, Vec<OwnedUserId>), SyncError> {
        let user = user.to_owned();
        Ok(self.inner.store.read(move |tx| v3::key_changes(tx, &user, from, to)).await?)
    }
}

impl Inner {
    /// A token of this node in this life of the database. Whether it is of the future is asked of a snapshot: one that
    /// was made of another may be ahead of the position that is published.
    fn token(&self, text: &str) -> Option<Token> {
        let token: Token = text.parse().ok()?;
        self.is_ours(&token).then_some(token)
    }

    fn is_ours(&self, token: &Token) -> bool {
        let ours = token.incarnation == self.store.incarnation() && token.node == self.node;
        ours && token.to_device <= token.seq
    }
}

/// A request as the parts of a response see it.
#[derive(Clone, Debug)]
struct Context {
    user: Nid,
    device: OwnedDeviceId,
    /// `None`: everything.
    since: Option<Token>,
    filter: SyncFilter,
    full_state: bool,
    state_after: Option<&'static str>,
    now_ms: u64,
}

impl Context {
    /// The name of the state part.
    fn state_key(&self) -> &'static str {
        self.state_after.unwrap_or("state")
    }

    fn since(&self) -> Seq {
        self.since.map_or(Seq(0), |token| Seq(token.seq))
    }

    /// Up to where the client was told of receipts.
    fn receipts_since(&self) -> Seq {
        self.since.map_or(Seq(0), |token| Seq(token.receipts))
    }
}

impl From<&FilterDefinition> for SyncFilter {
    fn from(definition: &FilterDefinition) -> Self {
        Self::new(definition)
    }
}

#[cfg(test)]
mod tests;
