//! A server's key document (`/_matrix/key/v2/server`) as it comes in. Pure.

use std::collections::BTreeMap;

use ruma::{CanonicalJsonObject, CanonicalJsonValue, ServerName, serde::Base64, signatures::PublicKeyMap};

use super::{Key, ServerKeys};
use crate::account::{
    Entry, NameKind,
    entry::{is_name_of, unb64},
};

/// Most keys of one server that are read.
const KEYS_MAX: usize = 64;
/// spec: <https://spec.matrix.org/v1.19/server-server-api/#publishing-keys>: no key is believed for
/// longer than seven days.
const VALID_MS_MAX: u64 = 7 * 24 * 3600 * 1000;

/// What a document says.
#[derive(Debug)]
pub(super) struct Document {
    /// Keys by id, as the specification has them.
    pub(super) keys: BTreeMap<String, Key>,
    /// The head of the account's identity log.
    pub(super) identity: Option<Head>,
}

/// The field `x.identity`.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) inception: Entry,
    pub(super) n: u64,
    pub(super) hash: [u8; 32],
}

/// Reads the document of `server` and checks what can be checked without its identity log: its
/// name, for ordinary names the signature of a key that it lists, for names made from an account
/// that the inception is that account's.
pub(super) fn read(server: &ServerName, bytes: &[u8], now_ms: u64) -> Result<Document, DocumentError> {
    let json: CanonicalJsonObject = serde_json::from_slice(bytes).map_err(|_| DocumentError::Json)?;
    if json.get("server_name").and_then(CanonicalJsonValue::as_str) != Some(server.as_str()) {
        return Err(DocumentError::Name);
    }
    let valid_until = number(json.get("valid_until_ts")).ok_or(DocumentError::Field("valid_until_ts"))?;
    let valid_until = valid_until.min(now_ms.saturating_add(VALID_MS_MAX));
    let mut keys = BTreeMap::new();
    for (id, key) in list(&json, "verify_keys")? {
        let key = Key { key: public(key)?, valid_until_ms: Some(valid_until), expired_ms: None };
        keys.insert(id.clone(), key);
    }
    if keys.is_empty() {
        return Err(DocumentError::Field("verify_keys"));
    }
    if json.contains_key("old_verify_keys") {
        for (id, key) in list(&json, "old_verify_keys")? {
            let expired = number(key.as_object().and_then(|key| key.get("expired_ts")))
                .ok_or(DocumentError::Field("expired_ts"))?;
            let key = Key { key: public(key)?, valid_until_ms: None, expired_ms: Some(expired) };
            keys.entry(id.clone()).or_insert(key);
        }
    }
    let identity = json.get("x.identity").map(|identity| head(server, identity)).transpose()?;
    if NameKind::of(server) == NameKind::Ordinary {
        let live = ServerKeys {
            keys: keys
                .iter()
                .filter(|(_, key)| key.expired_ms.is_none())
                .map(|(i, k)| (i.clone(), k.clone()))
                .collect(),
            log: None,
            fetched_ms: now_ms,
        };
        if !is_signed(server, bytes, &live) {
            return Err(DocumentError::Signature);
        }
    }
    Ok(Document { keys, identity })
}

/// Until when a document says that its keys are valid.
pub(super) fn valid_until(json: &CanonicalJsonObject) -> Option<u64> {
    number(json.get("valid_until_ts"))
}

/// Whether one of the keys has signed the document.
pub(super) fn is_signed(server: &ServerName, bytes: &[u8], keys: &ServerKeys) -> bool {
    let Ok(mut json) = serde_json::from_slice::<CanonicalJsonObject>(bytes) else { return false };
    // Only the server's own signature counts; a notary's beside it must not make the check fail.
    let own = json.remove("signatures").and_then(|signatures| match signatures {
        CanonicalJsonValue::Object(mut signatures) => signatures.remove(server.as_str()),
        _ => None,
    });
    let Some(own) = own else { return false };
    let signatures = CanonicalJsonObject::from([(server.to_string(), own)]);
    json.insert("signatures".to_owned(), signatures.into());
    let set = keys.keys.iter().map(|(id, key)| (id.clone(), key.key.clone())).collect();
    let map = PublicKeyMap::from([(server.to_string(), set)]);
    ruma::signatures::verify_json(&map, &json).is_ok()
}

fn head(server: &ServerName, value: &CanonicalJsonValue) -> Result<Head, DocumentError> {
    let value = value.as_object().ok_or(DocumentError::Identity)?;
    let inception = value.get("inception").and_then(CanonicalJsonValue::as_object);
    let inception = inception.ok_or(DocumentError::Identity)?.clone();
    let inception = Entry::from_object(inception).map_err(|_| DocumentError::Identity)?;
    let account = NameKind::of(server).acct().is_none_or(|acct| acct == inception.acct());
    if !account || !is_name_of(server, &inception) {
        return Err(DocumentError::Identity);
    }
    let hash = value.get("hash").and_then(CanonicalJsonValue::as_str).and_then(unb64);
    Ok(Head {
        inception,
        n: number(value.get("n")).ok_or(DocumentError::Identity)?,
        hash: hash.ok_or(DocumentError::Identity)?,
    })
}

fn list<'a>(
    json: &'a CanonicalJsonObject,
    field: &'static str,
) -> Result<impl Iterator<Item = (&'a String, &'a CanonicalJsonValue)>, DocumentError> {
    let list = json.get(field).and_then(CanonicalJsonValue::as_object).ok_or(DocumentError::Field(field))?;
    if list.len() > KEYS_MAX {
        return Err(DocumentError::Field(field));
    }
    // Keys of algorithms we do not know are somebody else's business.
    Ok(list.iter().filter(|(id, _)| id.starts_with("ed25519:")))
}

fn public(key: &CanonicalJsonValue) -> Result<Base64, DocumentError> {
    key.as_object()
        .and_then(|key| key.get("key"))
        .and_then(CanonicalJsonValue::as_str)
        .and_then(|key| Base64::<ruma::serde::base64::Standard>::parse(key).ok())
        .filter(|key| key.as_bytes().len() == 32)
        .ok_or(DocumentError::Field("key"))
}

fn number(value: Option<&CanonicalJsonValue>) -> Option<u64> {
    match value? {
        CanonicalJsonValue::Integer(number) => u64::try_from(i64::from(*number)).ok(),
        _ => None,
    }
}

/// What is wrong with a key document.
#[derive(Debug, Clone, Copy, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum DocumentError {
    /// It is no JSON object.
    #[error("it is no JSON object")]
    Json,
    /// It is another server's.
    #[error("it is another server's")]
    Name,
    /// A field is missing or wrong.
    #[error("{0} is missing or wrong")]
    Field(&'static str),
    /// No key of the server has signed it.
    #[error("no key in force has signed it")]
    Signature,
    /// A name made from an account whose identity is not there.
    #[error("it carries no identity")]
    NoIdentity,
    /// The identity is not the name's.
    #[error("its identity is not the one the name stands for")]
    Identity,
}
