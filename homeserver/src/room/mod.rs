//! The heart: rooms, their events and everything that follows from an event. This file lists the verbs and reads.
//!
//! # An event's way
//! ```text
//!   send/join/…  ──Draft──┐
//!                         ├─> worker of the room: Received > Verified > Placed > Authorized ──> append ──> commit
//!   receive (their PDU) ──┘        (ingest/)                                (one transaction)     └─> notify
//! ```
//! `core/` is pure: what an event is, its hashes and signatures, who may do what, how forks resolve. `ingest/` is the one
//! way in. `ingest/append.rs` is the one transaction that stores an event with its projections (`project/`). `read/` answers.
//!
//! # What the methods give
//! Client events come out as [`ClientEvent`]: one JSON object with `event_id`, `room_id`, `sender`, `type`, `content`,
//! `origin_server_ts`, `state_key` if any, and `unsigned` if there is something to say; ready to be put into an answer
//! (`ruma::serde::Raw::from_json`). PDUs come out as [`PduJson`]: the event as servers exchange it.

mod administer;
pub mod alias;
pub mod answer;
#[doc(hidden)]
pub mod bench;
pub mod clean;
#[doc(hidden)]
pub mod compare;
pub mod core;
pub mod create;
pub mod delayed;
pub mod federation;
mod fetch;
mod handshake;
pub mod ingest;
pub mod join;
pub mod leave;
pub mod partial;
mod policy;
mod project;
pub mod purge;
pub mod read;
pub mod receipt;
mod remote_invite;
mod remote_join;
mod remote_leave;
pub mod retention;
pub mod search;
pub mod send;
mod staging;
pub mod stripped;
pub mod thread;
pub mod typing;
mod upgrade;

use std::sync::Arc;

use futures_util::future::BoxFuture;
use ruma::{
    EventId, OwnedDeviceId, OwnedEventId, OwnedServerName, OwnedTransactionId, RoomId, ServerName, UserId,
    signatures::PublicKeyMap,
};
use serde_json::value::RawValue;

pub use self::{core::build::Signer, create::can_create};
use crate::{
    clock::Clock,
    notify::Notify,
    remote::Remote,
    store::{Store, StoreError},
};

/// An event as clients see it. See the module.
pub type ClientEvent = Box<RawValue>;
/// An event as servers exchange it.
pub type PduJson = Box<RawValue>;

/// What a client wants to put into a room.
#[derive(Clone, Debug)]
pub struct Draft {
    /// Event type.
    pub event_type: String,
    /// State key, for a state event.
    pub state_key: Option<String>,
    /// `content`, a JSON object.
    pub content: Box<RawValue>,
    /// The event that an `m.room.redaction` redacts (its place in the event follows the room version).
    pub redacts: Option<OwnedEventId>,
    /// `origin_server_ts`; now if none.
    pub ts_ms: Option<u64>,
    /// For how many milliseconds the event sticks (MSC4354).
    pub sticky_ms: Option<u32>,
}

impl Draft {
    /// A message.
    pub fn message(event_type: impl Into<String>, content: Box<RawValue>) -> Self {
        Self {
            event_type: event_type.into(),
            state_key: None,
            content,
            redacts: None,
            ts_ms: None,
            sticky_ms: None,
        }
    }

    /// A state event.
    pub fn state(
        event_type: impl Into<String>,
        state_key: impl Into<String>,
        content: Box<RawValue>,
    ) -> Self {
        Self { state_key: Some(state_key.into()), ..Self::message(event_type, content) }
    }
}

/// A client's transaction: the same one twice makes one event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Txn {
    /// The device that sends.
    pub device: OwnedDeviceId,
    /// Its transaction id.
    pub id: OwnedTransactionId,
}

/// Where the names in membership events come from; `user` implements it.
pub trait Profiles: Send + Sync + 'static {
    /// Display name and avatar of a local user.
    fn profile<'a>(&'a self, user: &'a UserId) -> BoxFuture<'a, Profile>;
}

/// What a membership event says of its user.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Profile {
    /// Display name.
    pub displayname: Option<String>,
    /// Avatar's mxc URI.
    pub avatar_url: Option<String>,
}

/// What ingest asks other servers for; `remote` implements it. Answers are not trusted: everything that comes back goes
/// through the same stages as what was sent to us.
pub trait Fetch: Send + Sync + 'static {
    /// Public keys to verify what `servers` signed with the named key ids, usable for an event of `ts_ms` (milliseconds
    /// since the epoch; validity is enforced here). Servers or keys that cannot be had are left out.
    fn keys<'a>(
        &'a self,
        wanted: Vec<(OwnedServerName, Vec<String>)>,
        ts_ms: u64,
    ) -> BoxFuture<'a, PublicKeyMap>;

    /// `POST get_missing_events`: what lies between `earliest` (known) and `latest` (just come), oldest first.
    fn missing_events<'a>(
        &'a self,
        from: &'a ServerName,
        room: &'a RoomId,
        earliest: Vec<OwnedEventId>,
        latest: Vec<OwnedEventId>,
        limit: u32,
        min_depth: u64,
    ) -> BoxFuture<'a, Result<Vec<PduJson>, FetchError>>;

    /// `GET event`.
    fn event<'a>(
        &'a self,
        from: &'a ServerName,
        event: &'a EventId,
    ) -> BoxFuture<'a, Result<PduJson, FetchError>>;

    /// `GET state_ids` before `event`: (state, auth chain).
    #[allow(clippy::type_complexity, reason = "the two lists of the endpoint")]
    fn state_ids<'a>(
        &'a self,
        from: &'a ServerName,
        room: &'a RoomId,
        event: &'a EventId,
    ) -> BoxFuture<'a, Result<(Vec<OwnedEventId>, Vec<OwnedEventId>), FetchError>>;

    /// `GET state` before `event`: (state, auth chain), whole PDUs.
    #[allow(clippy::type_complexity, reason = "the two lists of the endpoint")]
    fn state<'a>(
        &'a self,
        from: &'a ServerName,
        room: &'a RoomId,
        event: &'a EventId,
    ) -> BoxFuture<'a, Result<(Vec<PduJson>, Vec<PduJson>), FetchError>>;

    /// `GET event_auth`: the event's auth chain.
    fn event_auth<'a>(
        &'a self,
        from: &'a ServerName,
        room: &'a RoomId,
        event: &'a EventId,
    ) -> BoxFuture<'a, Result<Vec<PduJson>, FetchError>>;

    /// `GET backfill`: `from_events` and what came before, newest first.
    fn backfill<'a>(
        &'a self,
        from: &'a ServerName,
        room: &'a RoomId,
        from_events: Vec<OwnedEventId>,
        limit: u32,
    ) -> BoxFuture<'a, Result<Vec<PduJson>, FetchError>>;
}

/// The other server could not be asked, or said no.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct FetchError(pub String);

/// Why a verb or read of a room did not succeed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RoomError {
    /// A guest came to a room that lets no guests in.
    #[error("this room lets no guests in; make an account first")]
    NoGuests,
    /// No such room, event, alias or state, or none that this caller may know of.
    #[error("{0}")]
    NotFound(String),
    /// The room's rules, or ours, do not allow it; the text says which.
    #[error("{0}")]
    Forbidden(String),
    /// The request makes no sense as it is.
    #[error("{0}")]
    Invalid(String),
    /// The content is not an object that an event can have (`M_BAD_JSON`).
    #[error("{0}")]
    BadJson(String),
    /// The user's own rule refuses the invite (`M_INVITE_BLOCKED`).
    #[error("{0} does not take invites from you")]
    InviteBlocked(String),
    /// An alias that is not the room's (`M_BAD_ALIAS`).
    #[error("{0}")]
    BadAlias(String),
    /// Not as things stand; the text says what has to come first (`M_UNKNOWN`).
    #[error("{0}")]
    NotNow(String),
    /// The event would be larger than 65,535 bytes (`M_TOO_LARGE`).
    #[error("the event is larger than the 65535 bytes that an event may have")]
    TooLarge,
    /// Room version that we do not speak (`M_UNSUPPORTED_ROOM_VERSION`).
    #[error("room version {0} is not supported here")]
    UnsupportedVersion(String),
    /// The caller's server does not speak the room's version (`M_INCOMPATIBLE_ROOM_VERSION`).
    #[error("the room has version {0}, which your server does not speak")]
    IncompatibleVersion(String),
    /// The alias is taken (`M_ROOM_IN_USE`).
    #[error("the alias {0} is in use already")]
    AliasInUse(String),
    /// An overlay-only name and an ordinary server would meet in one room.
    #[error("{0}")]
    Mixture(String),
    /// This server cannot vouch for a restricted join; another may (`M_UNABLE_TO_AUTHORISE_JOIN`).
    #[error("{0}")]
    UnableToAuthorise(String),
    /// Other servers were needed and none helped.
    #[error("{0}")]
    Unreachable(String),
    /// Too much at once; try again (`M_LIMIT_EXCEEDED`).
    #[error("the room is too busy; try again in a moment")]
    Busy,
    /// A foreign event that is not acceptable; says why.
    #[error("{0}")]
    Rejected(String),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// From what a [`Rooms`] is built.
pub struct Parts {
    /// The database.
    pub store: Store,
    /// Wake-ups.
    pub notify: Notify,
    /// The clock of `origin_server_ts`.
    pub clock: Clock,
    /// Our name and event-signing key.
    pub signer: Signer,
    /// Names for membership events.
    pub profiles: Arc<dyn Profiles>,
    /// Other servers, as ingest asks them.
    pub fetch: Arc<dyn Fetch>,
    /// Other servers, as handshakes ask them.
    pub remote: Remote,
}

/// All rooms that this node knows. Clones share them.
#[derive(Clone)]
pub struct Rooms {
    pub(in crate::room) inner: Arc<Inner>,
}

pub(in crate::room) struct Inner {
    pub(in crate::room) store: Store,
    pub(in crate::room) notify: Notify,
    pub(in crate::room) clock: Clock,
    pub(in crate::room) signer: Signer,
    pub(in crate::room) profiles: Arc<dyn Profiles>,
    pub(in crate::room) fetch: Arc<dyn Fetch>,
    pub(in crate::room) remote: Remote,
    pub(in crate::room) workers: ingest::worker::Workers,
    pub(in crate::room) policies: Arc<policy::Policies>,
    /// One room is imported at a time: two users of ours who join the same one at once make it once.
    pub(in crate::room) imports: tokio::sync::Mutex<()>,
    /// Events that wait for what comes before them.
    pub(in crate::room) staging: staging::Staging,
    /// Rooms whose state is fetched in the background.
    pub(in crate::room) fetching: Arc<tokio::sync::Semaphore>,
}

impl Inner {
    pub(in crate::room) fn tools(&self) -> ingest::worker::Tools {
        ingest::worker::Tools {
            store: self.store.clone(),
            signer: self.signer.clone(),
            clock: self.clock.clone(),
            policies: Arc::clone(&self.policies),
        }
    }
}

impl Rooms {
    /// Needs a tokio runtime when its methods are called, not here.
    pub fn new(parts: Parts) -> Self {
        let Parts { store, notify, clock, signer, profiles, fetch, remote } = parts;
        let workers = ingest::worker::Workers::default();
        let policies = Arc::new(policy::Policies::new(remote.clone()));
        Self {
            inner: Arc::new(Inner {
                store,
                notify,
                clock,
                signer,
                profiles,
                fetch,
                remote,
                workers,
                policies,
                imports: tokio::sync::Mutex::default(),
                staging: staging::Staging::default(),
                fetching: Arc::new(tokio::sync::Semaphore::new(partial::FETCHED_AT_ONCE)),
            }),
        }
    }

    /// The database that rooms live in.
    pub fn store(&self) -> &Store {
        &self.inner.store
    }

    /// Wake-ups.
    pub fn notify(&self) -> &Notify {
        &self.inner.notify
    }

    /// Our name and event-signing key.
    pub fn signer(&self) -> &Signer {
        &self.inner.signer
    }

    /// Our server name.
    pub fn server_name(&self) -> &ServerName {
        &self.inner.signer.name
    }

    /// Whether a user is ours.
    pub fn is_local(&self, user: &UserId) -> bool {
        user.server_name() == self.server_name()
    }
}

#[cfg(test)]
mod tests;
