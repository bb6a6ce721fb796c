//! Which events notify whom: rules and, at each event's write, the counts that follow from them.

pub mod counts;
pub mod gateway;
pub mod project;
pub mod rules;
pub mod settings;

use ruma::push::{InsertPushRuleError, RemovePushRuleError};

use crate::store::{Store, StoreError};

/// Push rules of our users. Clones share everything.
#[derive(Clone)]
pub struct Push {
    store: Store,
}

impl Push {
    /// The rules in a store.
    pub fn new(store: Store) -> Self {
        Self { store }
    }
}

/// Why a rule was not changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PushError {
    /// No such rule.
    #[error("there is no such push rule")]
    NoRule,
    /// What ruma says of a new rule.
    #[error(transparent)]
    Insert(#[from] InsertPushRuleError),
    /// The server's own rules stay.
    #[error(transparent)]
    Remove(#[from] RemovePushRuleError),
    /// More than anybody writes.
    #[error("the push rules of one user have at most {max} bytes")]
    TooLarge {
        /// The limit.
        max: usize,
    },
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}
