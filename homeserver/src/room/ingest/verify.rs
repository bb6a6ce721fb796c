//! Received to Verified: format, id, room, signatures and hash of what another server sent.

use futures_util::{StreamExt, stream};
use ruma::{
    CanonicalJsonObject, OwnedEventId, OwnedServerName, RoomId, room_version_rules::RoomVersionRules,
    serde::Base64, signatures::PublicKeyMap,
};

use crate::room::{
    PduJson, RoomError, Rooms,
    core::{check, pdu::FullEvent},
};

/// Events of one answer or transaction whose signatures are looked up at the same time.
const VERIFY_PARALLEL: usize = 16;

/// An event as it came, read but not believed.
#[derive(Clone, Debug)]
pub(in crate::room) struct Received {
    /// Its id, which follows from its content.
    pub(in crate::room) id: OwnedEventId,
    /// The event.
    pub(in crate::room) object: CanonicalJsonObject,
}

/// Format and id, and that the event belongs to `room`.
pub(in crate::room) fn received(
    object: CanonicalJsonObject,
    room: &RoomId,
    rules: &RoomVersionRules,
) -> Result<Received, RoomError> {
    let (id, object) = check::format(object, rules).map_err(rejected)?;
    let says = check::room_or_made(&object, &id, rules).map_err(rejected)?;
    if says != room {
        return Err(RoomError::Rejected("the event belongs to another room".into()));
    }
    Ok(Received { id, object })
}

/// What cannot be read is not taken.
pub(in crate::room) fn rejected(error: impl std::fmt::Display) -> RoomError {
    RoomError::Rejected(error.to_string())
}

impl Rooms {
    /// Signatures and hash.
    pub(in crate::room) async fn verify(
        &self,
        room: &RoomId,
        event: Received,
        rules: &RoomVersionRules,
    ) -> Result<FullEvent, RoomError> {
        let wanted = check::wanted_keys(&event.object, rules).map_err(rejected)?;
        let ts = match event.object.get("origin_server_ts") {
            Some(ruma::CanonicalJsonValue::Integer(ts)) => u64::try_from(i64::from(*ts)).unwrap_or(0),
            _ => 0,
        };
        // Until version 5 a key that was ever the server's will do.
        let keys = self.keys(wanted, if rules.enforce_key_validity { ts } else { 0 }).await;
        check::signatures(event.id, room, event.object, rules, &keys).map_err(rejected)
    }

    /// Everything that holds of a list of events; what does not is left out.
    pub(in crate::room) async fn verify_all(
        &self,
        room: &RoomId,
        pdus: Vec<PduJson>,
        rules: &RoomVersionRules,
    ) -> Vec<FullEvent> {
        let events = pdus.iter().filter_map(|pdu| {
            let object = check::parse(pdu).ok()?;
            received(object, room, rules).ok()
        });
        let events: Vec<Received> = events.collect();
        stream::iter(events)
            .map(|event| self.verify(room, event, rules))
            .buffered(VERIFY_PARALLEL)
            .filter_map(|event| std::future::ready(event.ok()))
            .collect()
            .await
    }

    /// Public keys; our own without asking anybody.
    async fn keys(&self, mut wanted: Vec<(OwnedServerName, Vec<String>)>, ts_ms: u64) -> PublicKeyMap {
        let signer = self.signer();
        let before = wanted.len();
        wanted.retain(|(server, _)| *server != signer.name);
        let own = wanted.len() < before;
        let mut keys =
            if wanted.is_empty() { PublicKeyMap::new() } else { self.inner.fetch.keys(wanted, ts_ms).await };
        if own {
            let id = format!("ed25519:{}", signer.key.version());
            let key = Base64::new(signer.key.public_key().to_vec());
            keys.entry(signer.name.to_string()).or_default().insert(id, key);
        }
        keys
    }
}
