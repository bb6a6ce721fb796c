//! What an event and the change of the resolved state change elsewhere, in the event's own transaction.
//!
//! Projections follow the resolved state, not events: they are told [`Change`]s. A plain message that merges two forks can
//! ban someone.

pub(in crate::room) mod membership;
pub(in crate::room) mod outbox;
pub(in crate::room) mod redaction;
pub(in crate::room) mod relations;
pub(in crate::room) mod rooms;
pub(in crate::room) mod sticky;
pub(in crate::room) mod successor;

use serde::Deserialize;
use serde_json::{Value, value::RawValue};

use crate::store::{
    Nid, ReadTx, StoreError,
    ids::skey_split,
    schema::{events, state::Change},
};

/// A [`Change`] with what projections read.
pub(in crate::room) struct StateChange {
    /// The change.
    pub(in crate::room) change: Change,
    /// Event type.
    pub(in crate::room) kind: String,
    /// State key.
    pub(in crate::room) key: String,
    /// `content` of the event after, if there is one.
    pub(in crate::room) content: Option<Value>,
    /// Its sender.
    pub(in crate::room) sender: Option<Nid>,
}

/// Reads what the projections need of some changes.
pub(in crate::room) fn read_changes(
    tx: &ReadTx<'_>,
    changes: &[Change],
) -> Result<Vec<StateChange>, StoreError> {
    let mut read = Vec::with_capacity(changes.len());
    for change in changes {
        let text = tx.text(change.skey)?;
        let (kind, key) = skey_split(&text);
        let event = match change.new {
            Some(new) => events::event(tx, new)?,
            None => None,
        };
        read.push(StateChange {
            change: *change,
            kind: kind.to_owned(),
            key: key.to_owned(),
            content: event.as_ref().map(|event| content(&event.client)),
            sender: event.map(|event| event.sender),
        });
    }
    Ok(read)
}

/// `content` of a stored client object; null if it cannot be read.
pub(in crate::room) fn content(client: &[u8]) -> Value {
    #[derive(Deserialize)]
    struct Client<'a> {
        #[serde(borrow)]
        content: &'a RawValue,
    }
    serde_json::from_slice::<Client<'_>>(client)
        .ok()
        .and_then(|client| serde_json::from_str(client.content.get()).ok())
        .unwrap_or_default()
}

/// A string of an object, if it is one.
pub(in crate::room) fn text(content: &Value, key: &str) -> Option<String> {
    content.get(key).and_then(Value::as_str).map(ToOwned::to_owned)
}
