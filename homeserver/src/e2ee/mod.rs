//! End-to-end encryption as a server sees it: keys kept and handed out, lists of devices, messages to devices.
//!
//! The server is trusted with none of it: keys are kept as their owners signed them, and messages are opaque. What it
//! has to get right: a one-time key is handed out once, a message to a device arrives once, and whoever encrypts to a
//! user hears of each change of that user's devices before the next message.

pub mod ask;
pub mod cross_signing;
pub mod dehydrated;
pub mod device_keys;
pub mod device_lists;
pub mod key_backup;
pub mod object;
pub mod one_time_keys;
pub mod to_device;

use std::sync::Arc;

use ruma::{OwnedServerName, OwnedUserId};
use tokio::sync::Semaphore;

use self::{
    ask::{Ask, AskError},
    object::ObjectError,
};
pub use self::{
    cross_signing::{SignatureFailures, SignedObjects, SigningKeys},
    device_keys::{Upload, Wanted},
    key_backup::{BackupKeys, Selection},
    one_time_keys::{Claimed, Claims, counts},
    to_device::{has_acknowledged, waiting},
};
use crate::{
    clock::Clock,
    store::{Store, StoreError},
};

/// Lists of devices fetched in the background at a time; what is beyond is fetched when it is needed.
const REFRESHES_MAX: usize = 8;
/// Other servers asked at a time for one request.
const SERVERS_AT_ONCE: usize = 16;

/// Keys, lists of devices and messages to devices. Clones share everything.
#[derive(Clone)]
pub struct E2ee {
    store: Store,
    servers: Arc<dyn Ask>,
    clock: Clock,
    name: OwnedServerName,
    refreshes: Arc<Semaphore>,
}

impl E2ee {
    /// For the server of this name.
    pub fn new(store: Store, servers: Arc<dyn Ask>, clock: Clock, name: OwnedServerName) -> Self {
        Self { store, servers, clock, name, refreshes: Arc::new(Semaphore::new(REFRESHES_MAX)) }
    }
}

/// What can go wrong with keys and messages to devices.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum E2eeError {
    /// A key object that is not what it should be.
    #[error(transparent)]
    Object(#[from] ObjectError),
    /// A one-time key id was used for another key.
    #[error("one-time key {0} was uploaded before with another value; make a new key with a new id")]
    OneTimeKeyTaken(String),
    /// More than a device or a request may have.
    #[error("more than {max} {what}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// The limit.
        max: usize,
    },
    /// Self-signing and user-signing keys need a master key that signs them.
    #[error("there is no master key yet; upload one first, or in the same request")]
    NoMasterKey,
    /// A server speaks for a user who is not its own.
    #[error("{0} is not a user of that server")]
    ForeignUser(OwnedUserId),
    /// Nobody of that name is here.
    #[error("{0} is not known here")]
    UnknownUser(OwnedUserId),
    /// No such backup of this user's, or no such key in it.
    #[error("there is no such key backup")]
    NoBackup,
    /// Keys go into the latest backup only.
    #[error("that is not the latest key backup; it is version {current}")]
    WrongBackup {
        /// The latest version.
        current: String,
    },
    /// Not a backup, or not a key of one.
    #[error("the key backup is not understood: {0}")]
    BadBackup(String),
    /// Another server failed us.
    #[error(transparent)]
    Ask(#[from] AskError),
    /// The database did.
    #[error(transparent)]
    Store(#[from] StoreError),
}

#[cfg(test)]
pub(crate) mod tests;
