//! The account: a signed log of which keys and nodes it has, apart from any node's own key.
//!
//! `name` says which server names there are, `entry` and `log` are the pure rules of the log,
//! `recovery` derives the keys that overrule all others, `identity` is what this node holds of it.
//! The format, byte by byte: `docs/identity.md`.

pub mod entry;
pub(crate) mod files;
pub mod identity;
pub mod log;
pub mod name;
pub mod recovery;

pub use entry::{Entry, EntryError, NodeItem};
pub use identity::{Identity, IdentityError, NameChoice, log_keys, read_record, verify_record};
pub use log::{Log, LogError};
pub use name::{
    Acct, DEFAULT_ZONE, NameError, NameKind, find_mixture, is_overlay_name, may_share_room, mixture_text,
};
pub use recovery::{RecoveryError, RecoveryWords};

#[cfg(test)]
mod tests;
