//! The checks themselves: an event's signatures, a request's X-Matrix header.

use std::{collections::BTreeSet, pin::Pin};

use bytes::Bytes;
use router::NodeId;
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedServerName, ServerName,
    api::federation::authentication::XMatrix,
    room_version_rules::RoomVersionRules,
    signatures::{
        PublicKeyMap, PublicKeySet, Verified, required_server_signatures_to_verify_event, verify_event,
    },
};

use super::{EventKeys, KeyError, Keyring, ServerKeys, signature_ids};
use crate::{
    account::NameKind,
    http::auth::{VerifyXMatrix, XMatrixRefused},
    remote::Remote,
};

impl EventKeys {
    /// Checks the signatures of every server that has to have signed an event, and its hash.
    /// [`Verified::Signatures`]: the content is not what was signed, the event counts redacted.
    ///
    /// spec: <https://spec.matrix.org/v1.19/server-server-api/#validating-hashes-and-signatures-on-received-events>
    pub fn verify(
        &self,
        event: &CanonicalJsonObject,
        rules: &RoomVersionRules,
    ) -> Result<Verified, KeyError> {
        let map = self.to_verify(event, rules)?;
        verify_event(&map, event, rules).map_err(|error| KeyError::Signature(error.to_string()))
    }

    /// The keys that can have signed an event, of every server that has to have. An error: one has none.
    pub fn to_verify(
        &self,
        event: &CanonicalJsonObject,
        rules: &RoomVersionRules,
    ) -> Result<PublicKeyMap, KeyError> {
        let wrong = |error: &dyn std::fmt::Display| KeyError::Signature(error.to_string());
        let servers = required_server_signatures_to_verify_event(event, &rules.signatures)
            .map_err(|error| wrong(&error))?;
        let at = event.get("origin_server_ts").and_then(|ts| match ts {
            CanonicalJsonValue::Integer(ts) => u64::try_from(i64::from(*ts)).ok(),
            _ => None,
        });
        let mut map = PublicKeyMap::new();
        for server in servers {
            let keys = match self.servers.get(&server) {
                Some(Ok(keys)) => keys,
                Some(Err(error)) => return Err(error.clone()),
                None => return Err(KeyError::UnknownKey(server, String::new())),
            };
            let ids = signature_ids(event, &server);
            // spec: https://spec.matrix.org/v1.19/rooms/v5/#signing-key-validity-period
            let strict = rules.enforce_key_validity && keys.log.is_none();
            map.insert(server.to_string(), usable(&server, keys, &ids, at.filter(|_| strict))?);
        }
        Ok(map)
    }
}

/// The keys among `ids` that can have signed at that time; an error that says why if there is none.
fn usable(
    server: &ServerName,
    keys: &ServerKeys,
    ids: &BTreeSet<String>,
    at_ms: Option<u64>,
) -> Result<PublicKeySet, KeyError> {
    let mut known = false;
    let mut set = PublicKeySet::new();
    for id in ids {
        let Some(key) = keys.keys.get(id) else { continue };
        known = true;
        if at_ms.is_none_or(|at| key.is_valid_at(at)) {
            set.insert(id.clone(), key.key.clone());
        }
    }
    if !set.is_empty() {
        return Ok(set);
    }
    if known {
        return Err(KeyError::Expired(server.to_owned()));
    }
    Err(KeyError::UnknownKey(server.to_owned(), ids.iter().next().cloned().unwrap_or_default()))
}

impl Keyring {
    /// Checks who signed a request: the signature, that it was meant for us, and, if it came over
    /// the overlay, that the node it came from belongs to the server.
    pub async fn verify_request(
        &self,
        claim: &XMatrix,
        request: &http::Request<Bytes>,
        node: Option<NodeId>,
    ) -> Result<OwnedServerName, XMatrixError> {
        let ours = self.identity.server_name();
        if claim.destination.as_deref() != Some(ours) {
            return Err(XMatrixError::Destination);
        }
        if claim.origin == ours {
            return Err(XMatrixError::Ourselves);
        }
        let ids = BTreeSet::from([claim.key.to_string()]);
        // A name made from an account proves itself, so the node that asks may show its keys. A domain does not: its
        // keys come from where the domain leads, and its identity then says which nodes speak for it.
        let made_from_account = NameKind::of(&claim.origin).acct().is_some();
        if node.is_some() && !made_from_account && !self.reaches_domains() {
            return Err(XMatrixError::NotOnOverlay(claim.origin.clone()));
        }
        let keys = self.keys_from(&claim.origin, &ids, node.filter(|_| made_from_account)).await?;
        if node.is_some_and(|node| keys.nodes().all(|own| own != node)) {
            return Err(XMatrixError::ForeignNode(claim.origin.clone()));
        }
        // Requests carry no time of their own: what counts is now.
        let now = keys.log.is_none().then(|| self.clock.now_ms());
        let set = usable(&claim.origin, &keys, &ids, now)?;
        let map = PublicKeyMap::from([(claim.origin.to_string(), set)]);
        claim.verify_http_request(request, ours, &map).map_err(|_| XMatrixError::Signature)?;
        Ok(claim.origin.clone())
    }
}

impl VerifyXMatrix for Remote {
    fn verify(
        &self,
        claim: XMatrix,
        request: http::Request<Bytes>,
        node: Option<NodeId>,
    ) -> Pin<Box<dyn Future<Output = Result<OwnedServerName, XMatrixRefused>> + Send + '_>> {
        Box::pin(async move {
            let verified = self.keyring().verify_request(&claim, &request, node).await;
            match verified {
                Ok(name) => {
                    self.heard_from(&name, node);
                    Ok(name)
                }
                Err(error) => Err(XMatrixRefused(error.to_string())),
            }
        })
    }
}

/// Why a request counts as unsigned.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum XMatrixError {
    /// Meant for another server.
    #[error("it names another server as its destination, or none")]
    Destination,
    /// It claims to be from us.
    #[error("it claims to come from this very server")]
    Ourselves,
    /// A name that cannot come over the overlay.
    #[error("{0} is not a name of the overlay")]
    NotOnOverlay(OwnedServerName),
    /// Sent by a node that is none of the server's.
    #[error("it comes from a node that does not belong to {0}")]
    ForeignNode(OwnedServerName),
    /// The signature is wrong.
    #[error("the signature is wrong")]
    Signature,
    /// The keys to check with cannot be had.
    #[error(transparent)]
    Keys(#[from] KeyError),
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use ruma::{
        room_version_rules::RoomVersionRules as Rules,
        serde::Base64,
        signatures::{Ed25519KeyPair, hash_and_sign_event},
    };
    use serde_json::json;

    use super::{super::Key, *};

    fn event(key: &Ed25519KeyPair, ts: u64, rules: &Rules) -> CanonicalJsonObject {
        let mut event: CanonicalJsonObject = serde_json::from_value(json!({
            "type": "m.room.message", "sender": "@a:x.test", "room_id": "!r:x.test", "content": {}, "depth": 1,
            "origin_server_ts": ts, "prev_events": [], "auth_events": [],
        }))
        .unwrap();
        hash_and_sign_event("x.test", key, &mut event, &rules.redaction).unwrap();
        event
    }

    #[test]
    fn a_key_counts_for_its_time_and_another_under_its_name_never() {
        let make = || Ed25519KeyPair::from_der(&Ed25519KeyPair::generate(), "1".into()).unwrap();
        let (key, other) = (make(), make());
        let known = |valid_until_ms, expired_ms| {
            let key = Key { key: Base64::new(key.public_key().to_vec()), valid_until_ms, expired_ms };
            let keys = ServerKeys { keys: [("ed25519:1".to_owned(), key)].into(), ..ServerKeys::default() };
            EventKeys { servers: [(OwnedServerName::try_from("x.test").unwrap(), Ok(Arc::new(keys)))].into() }
        };
        for keys in [known(Some(1_000), None), known(None, Some(1_000)), known(Some(9_000), Some(1_000))] {
            for (rules, after_its_end) in [(Rules::V4, true), (Rules::V5, false), (Rules::V11, false)] {
                assert!(keys.verify(&event(&key, 999, &rules), &rules).is_ok());
                let late = keys.verify(&event(&key, 1_001, &rules), &rules);
                assert_eq!(late.is_ok(), after_its_end, "{late:?}");
                assert!(matches!(
                    keys.verify(&event(&other, 999, &rules), &rules),
                    Err(KeyError::Signature(_))
                ));
            }
        }
        let strange = EventKeys::default().verify(&event(&key, 1, &Rules::V11), &Rules::V11);
        assert!(matches!(strange, Err(KeyError::UnknownKey(..))));
    }
}
