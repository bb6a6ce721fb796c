//! One entry of an identity log: its fields, its hash, its signatures. Pure.
//!
//! ```text
//! entry = { v: 1, acct, n, prev: hash(entry n-1) | null, hlc,
//!           zone | domain, server_name            -- inception (n = 0) only
//!           rot: [{ pub, rank }], next0: sha256(next rank-0 pub),
//!           nodes: [{ id, sign, net, seal, role, caps, since, prio }],
//!           revoked?, relays?, gateways?, msk?,   -- absent when empty
//!           sig: { pub, sig, nodes: { id: { net, sign } } } }
//! hash(entry) = SHA-256(HASH_TAG || canonical JSON of the entry without acct, server_name, sig)
//! acct        = hash(inception)
//! sig.sig     = signature over ENTRY_TAG || canonical JSON of the entry without sig
//! sig.nodes   = signatures over ITEM_TAG || canonical JSON of { acct, id, sign, net, seal }
//! ```
//! `server_name` follows from `acct` and the zone, so it cannot be part of what `acct` hashes; the
//! zone (or the domain) is, and whoever reads an entry checks that the three agree.

use std::collections::BTreeMap;

use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use router::NodeId;
use ruma::{CanonicalJsonObject, CanonicalJsonValue, OwnedServerName, ServerName};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::name::{Acct, NameKind, check_zone};

/// Longest entry that is read, in bytes of canonical JSON.
pub const ENTRY_LEN_MAX: usize = 8 * 1024;
/// Most nodes of one account.
pub const NODES_MAX: usize = 16;
/// Most rotation keys in force at once.
pub const ROT_MAX: usize = 16;

const HASH_TAG: &[u8] = b"mangrove identity entry hash v1\0";
const ENTRY_TAG: &[u8] = b"mangrove identity entry signature v1\0";
const ITEM_TAG: &[u8] = b"mangrove identity node item v1\0";
/// Domain under which the node key signs its own item.
const ITEM_DOMAIN: &str = "mangrove identity node item v1";

/// A public key as text: `<algorithm>:<unpadded base64>`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tagged<const SEAL: bool>(pub [u8; 32]);

/// An ed25519 key.
pub type SignPub = Tagged<false>;
/// An x25519 key.
pub type SealPub = Tagged<true>;

impl<const SEAL: bool> Tagged<SEAL> {
    const ALGORITHM: &'static str = if SEAL { "x25519" } else { "ed25519" };
}

impl<const SEAL: bool> std::fmt::Display for Tagged<SEAL> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", Self::ALGORITHM, b64(&self.0))
    }
}

impl<const SEAL: bool> std::fmt::Debug for Tagged<SEAL> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

impl<const SEAL: bool> Serialize for Tagged<SEAL> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de, const SEAL: bool> Deserialize<'de> for Tagged<SEAL> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.split_once(':')
            .filter(|(algorithm, _)| *algorithm == Self::ALGORITHM)
            .and_then(|(_, key)| unb64(key))
            .map(Self)
            .ok_or_else(|| serde::de::Error::custom("not a key with an algorithm this version knows"))
    }
}

/// A key that may sign the next entry; a lower rank overrules a higher one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RotKey {
    /// The key.
    #[serde(rename = "pub")]
    pub key: SignPub,
    /// 0 recovery words, 1 phone, 2 laptop.
    pub rank: u8,
}

/// One node of the account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeItem {
    /// Short name of the node within the account, `n1`.
    pub id: String,
    /// Its event-signing key.
    pub sign: SignPub,
    /// Its key on the overlay.
    pub net: SignPub,
    /// What mail for it is sealed to.
    pub seal: SealPub,
    /// `full`, `static` or `thin`.
    pub role: String,
    /// What it may do: `sign`, `admin`, `otk`.
    pub caps: Vec<String>,
    /// Hybrid logical clock of its arrival.
    pub since: u64,
    /// Which node to try first: smaller is earlier.
    pub prio: u64,
}

impl NodeItem {
    /// Key id of the node's event-signing key: `ed25519:n1_<8 characters of its hash>`.
    pub fn key_id(&self) -> String {
        key_id(&self.id, &self.sign)
    }

    /// Whether the node may sign events and requests for the account.
    pub fn may_sign(&self) -> bool {
        self.caps.iter().any(|cap| cap == "sign")
    }

    fn message(&self, acct: &Acct) -> Vec<u8> {
        let item = CanonicalJsonObject::from([
            ("acct".to_owned(), format!("k{acct}").into()),
            ("id".to_owned(), self.id.as_str().into()),
            ("net".to_owned(), self.net.to_string().into()),
            ("seal".to_owned(), self.seal.to_string().into()),
            ("sign".to_owned(), self.sign.to_string().into()),
        ]);
        [ITEM_TAG, canonical(&item).as_bytes()].concat()
    }
}

/// The key id under which `sign` of node `id` is published. Never given out twice: it carries the
/// key's hash, and servers that once saw an id as old refuse it for ever.
pub fn key_id(id: &str, sign: &SignPub) -> String {
    let hash = data_encoding::BASE32_NOPAD.encode(&Sha256::digest(sign.0)).to_ascii_lowercase();
    format!("ed25519:{id}_{}", &hash[..8])
}

/// The fields of an entry that this version reads. Unknown ones are kept in the JSON and hashed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fields {
    /// Version of the format.
    pub v: u64,
    /// Position in the log.
    pub n: u64,
    /// Hash of the entry before.
    pub prev: Option<String>,
    /// Hybrid logical clock: milliseconds since 1970, times 1024, plus a counter.
    pub hlc: u64,
    /// Inception of a derived name: its zone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// Inception of a name of one's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<OwnedServerName>,
    /// Keys that may sign the next entry.
    pub rot: Vec<RotKey>,
    /// Hash of the next rank-0 key.
    pub next0: String,
    /// The account's nodes.
    pub nodes: Vec<NodeItem>,
}

/// Signatures of a node over its own item.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct ItemSig {
    net: String,
    sign: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Sig {
    #[serde(rename = "pub")]
    key: SignPub,
    sig: String,
    nodes: BTreeMap<String, ItemSig>,
}

/// An entry whose own signatures hold. Whether its signer was allowed to is the log's question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    json: CanonicalJsonObject,
    fields: Fields,
    signer: SignPub,
    hash: [u8; 32],
    acct: Acct,
}

/// Who signs what in a new entry.
pub struct Signers<'a> {
    /// The rotation key.
    pub rot: &'a SigningKey,
    /// Nodes listed for the first time, each with its overlay and its event-signing key.
    pub nodes: &'a [(&'a str, &'a router::SecretKey, &'a SigningKey)],
    /// The entry before, whose item signatures are carried on.
    pub before: Option<&'a Entry>,
}

impl Entry {
    /// Makes and signs an entry; `acct` is `None` for the inception.
    pub fn create(fields: Fields, acct: Option<Acct>, signers: &Signers<'_>) -> Result<Self, EntryError> {
        let mut json = to_object(&fields)?;
        let acct = acct.unwrap_or_else(|| Acct(hash(&json)));
        json.insert("acct".to_owned(), format!("k{acct}").into());
        if fields.n == 0 {
            json.insert("server_name".to_owned(), server_name(&fields, &acct)?.as_str().into());
        }
        let mut nodes = signers.before.map(Self::sig).transpose()?.map(|sig| sig.nodes).unwrap_or_default();
        nodes.retain(|id, _| fields.nodes.iter().any(|item| item.id == *id));
        for (id, net, sign) in signers.nodes {
            let item = fields.nodes.iter().find(|item| item.id == *id).ok_or(EntryError::Shape("node"))?;
            let message = item.message(&acct);
            let net = b64(&net.sign(ITEM_DOMAIN, &message));
            let sign = b64(&sign.sign(&message).to_bytes());
            nodes.insert((*id).to_owned(), ItemSig { net, sign });
        }
        let sig = Sig {
            key: Tagged(signers.rot.verifying_key().to_bytes()),
            sig: b64(&signers.rot.sign(&entry_message(&json)).to_bytes()),
            nodes,
        };
        json.insert("sig".to_owned(), to_object(&sig)?.into());
        Self::from_object(json)
    }

    /// Reads an entry and checks its shape and signatures.
    pub fn from_json(bytes: &[u8]) -> Result<Self, EntryError> {
        if bytes.len() > ENTRY_LEN_MAX {
            return Err(EntryError::TooLong);
        }
        let json: CanonicalJsonObject =
            serde_json::from_slice(bytes).map_err(|_| EntryError::Shape("canonical JSON"))?;
        Self::from_object(json)
    }

    /// As [`Self::from_json`], for JSON that is parsed already.
    pub fn from_object(json: CanonicalJsonObject) -> Result<Self, EntryError> {
        let text = canonical(&json);
        if text.len() > ENTRY_LEN_MAX {
            return Err(EntryError::TooLong);
        }
        let fields: Fields = serde_json::from_str(&text).map_err(|_| EntryError::Shape("field"))?;
        let sig: Sig = json
            .get("sig")
            .and_then(|sig| serde_json::to_value(sig).ok())
            .and_then(|sig| serde_json::from_value(sig).ok())
            .ok_or(EntryError::Shape("sig"))?;
        let hash = hash(&json);
        let text_of = |key: &str| json.get(key).and_then(CanonicalJsonValue::as_str);
        let acct: Acct = text_of("acct")
            .and_then(|text| text.strip_prefix('k'))
            .and_then(|text| text.parse().ok())
            .ok_or(EntryError::Shape("acct"))?;
        check_shape(&fields)?;
        if fields.n == 0 {
            if acct.0 != hash {
                return Err(EntryError::Account);
            }
            if text_of("server_name") != Some(server_name(&fields, &acct)?.as_str()) {
                return Err(EntryError::Name);
            }
        } else if json.contains_key("server_name") {
            return Err(EntryError::Name);
        }
        for item in &fields.nodes {
            let proof = sig.nodes.get(&item.id).ok_or(EntryError::NodeSignature)?;
            let message = item.message(&acct);
            let net = unb64(&proof.net).ok_or(EntryError::NodeSignature)?;
            if NodeId::from_bytes(item.net.0).verify(ITEM_DOMAIN, &message, &net).is_err()
                || !verify(&item.sign, &message, &proof.sign)
            {
                return Err(EntryError::NodeSignature);
            }
        }
        if !verify(&sig.key, &entry_message(&json), &sig.sig) {
            return Err(EntryError::Signature);
        }
        Ok(Self { json, fields, signer: sig.key, hash, acct })
    }

    /// What the entry says.
    pub fn fields(&self) -> &Fields {
        &self.fields
    }

    /// The entry as it is stored and sent.
    pub fn json(&self) -> &CanonicalJsonObject {
        &self.json
    }

    /// The entry's hash: the account's id if this is the inception.
    pub fn hash(&self) -> [u8; 32] {
        self.hash
    }

    /// The account that the entry says it belongs to.
    pub fn acct(&self) -> Acct {
        self.acct
    }

    /// The rotation key that signed it.
    pub fn signer(&self) -> SignPub {
        self.signer
    }

    /// The server name, for an inception.
    pub fn server_name(&self) -> Option<OwnedServerName> {
        (self.fields.n == 0).then(|| server_name(&self.fields, &self.acct).ok()).flatten()
    }

    /// The inception with everything left out that a reader can fill in: what an account record
    /// carries as its proof.
    pub fn to_proof(&self) -> Vec<u8> {
        let mut json = self.json.clone();
        json.remove("acct");
        if self.fields.zone.is_some() {
            json.remove("server_name");
        }
        canonical(&json).into_bytes()
    }

    /// Reads an inception out of a proof.
    pub fn from_proof(bytes: &[u8]) -> Result<Self, EntryError> {
        if bytes.len() > ENTRY_LEN_MAX {
            return Err(EntryError::TooLong);
        }
        let mut json: CanonicalJsonObject =
            serde_json::from_slice(bytes).map_err(|_| EntryError::Shape("canonical JSON"))?;
        let acct = Acct(hash(&json));
        let zone = json.get("zone").and_then(CanonicalJsonValue::as_str).map(str::to_owned);
        if let Some(zone) = zone {
            let name = acct.name_in(&zone).map_err(|_| EntryError::Name)?;
            json.insert("server_name".to_owned(), name.as_str().into());
        }
        json.insert("acct".to_owned(), format!("k{acct}").into());
        let entry = Self::from_object(json)?;
        if entry.fields.n != 0 {
            return Err(EntryError::Shape("n"));
        }
        Ok(entry)
    }

    fn sig(&self) -> Result<Sig, EntryError> {
        self.json
            .get("sig")
            .and_then(|sig| serde_json::to_value(sig).ok())
            .and_then(|sig| serde_json::from_value(sig).ok())
            .ok_or(EntryError::Shape("sig"))
    }
}

/// Hash of a public key, as `next0` holds it.
pub fn key_hash(key: &SignPub) -> String {
    b64(&Sha256::digest(key.0))
}

/// Unpadded base64, Matrix's spelling of bytes.
pub fn b64(bytes: &[u8]) -> String {
    data_encoding::BASE64_NOPAD.encode(bytes)
}

/// Reads exactly `N` bytes of unpadded base64 in its one spelling.
pub fn unb64<const N: usize>(text: &str) -> Option<[u8; N]> {
    data_encoding::BASE64_NOPAD.decode(text.as_bytes()).ok()?.try_into().ok()
}

/// Canonical JSON of an object.
pub fn canonical(object: &CanonicalJsonObject) -> String {
    serde_json::to_string(object).expect("canonical JSON has no key or value that cannot be written")
}

/// Verifies a plain ed25519 signature in base64; strict, so that small-order keys prove nothing.
pub fn verify(key: &SignPub, message: &[u8], signature: &str) -> bool {
    let (Ok(key), Some(signature)) = (VerifyingKey::from_bytes(&key.0), unb64(signature)) else {
        return false;
    };
    key.verify_strict(message, &Signature::from_bytes(&signature)).is_ok()
}

fn hash(json: &CanonicalJsonObject) -> [u8; 32] {
    let mut rest = json.clone();
    for key in ["acct", "server_name", "sig"] {
        rest.remove(key);
    }
    Sha256::new().chain_update(HASH_TAG).chain_update(canonical(&rest)).finalize().into()
}

fn entry_message(json: &CanonicalJsonObject) -> Vec<u8> {
    let mut rest = json.clone();
    rest.remove("sig");
    [ENTRY_TAG, canonical(&rest).as_bytes()].concat()
}

fn server_name(fields: &Fields, acct: &Acct) -> Result<OwnedServerName, EntryError> {
    match (&fields.zone, &fields.domain) {
        (Some(zone), None) => acct.name_in(zone).map_err(|_| EntryError::Name),
        (None, Some(domain)) if NameKind::of(domain) == NameKind::Ordinary => Ok(domain.clone()),
        _ => Err(EntryError::Name),
    }
}

/// What must hold within one entry whoever signed it.
fn check_shape(fields: &Fields) -> Result<(), EntryError> {
    let inception = fields.n == 0;
    if fields.v != 1 {
        return Err(EntryError::Version);
    }
    if inception != fields.prev.is_none() || inception != (fields.zone.is_some() || fields.domain.is_some()) {
        return Err(EntryError::Shape("prev"));
    }
    if fields.zone.as_deref().is_some_and(|zone| check_zone(zone).is_err()) {
        return Err(EntryError::Name);
    }
    if fields.rot.len() > ROT_MAX || fields.nodes.len() > NODES_MAX || unb64::<32>(&fields.next0).is_none() {
        return Err(EntryError::Shape("rot"));
    }
    if fields.rot.iter().filter(|rot| rot.rank == 0).count() != 1 {
        return Err(EntryError::Shape("rank 0"));
    }
    for (at, rot) in fields.rot.iter().enumerate() {
        if fields.rot[..at].iter().any(|other| other.key == rot.key) {
            return Err(EntryError::Shape("rot"));
        }
    }
    for (at, item) in fields.nodes.iter().enumerate() {
        let id = item.id.as_bytes();
        if id.is_empty() || id.len() > 8 || !id.iter().all(u8::is_ascii_alphanumeric) {
            return Err(EntryError::Shape("node id"));
        }
        let twice =
            |other: &NodeItem| other.id == item.id || other.net == item.net || other.sign == item.sign;
        if fields.nodes[..at].iter().any(twice) || item.sign == item.net {
            return Err(EntryError::Shape("node"));
        }
    }
    Ok(())
}

fn to_object<T: Serialize>(value: &T) -> Result<CanonicalJsonObject, EntryError> {
    let value = serde_json::to_value(value).map_err(|_| EntryError::Shape("field"))?;
    match CanonicalJsonValue::try_from(value) {
        Ok(CanonicalJsonValue::Object(object)) => Ok(object),
        _ => Err(EntryError::Shape("field")),
    }
}

/// Compares a name with the one that an account's inception gives it.
pub fn is_name_of(name: &ServerName, inception: &Entry) -> bool {
    inception.server_name().is_some_and(|own| own == name)
}

/// Why an entry is none.
#[derive(Debug, Clone, Copy, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum EntryError {
    /// Over [`ENTRY_LEN_MAX`].
    #[error("the identity entry is longer than 8 KiB")]
    TooLong,
    /// A field is missing or of the wrong form.
    #[error("the identity entry has a bad or missing part: {0}")]
    Shape(&'static str),
    /// A version this program does not know.
    #[error("the identity entry is of a version this program does not know")]
    Version,
    /// `acct` is not the inception's hash.
    #[error("the account id is not the hash of the inception entry")]
    Account,
    /// `server_name` does not follow from account and zone.
    #[error("the server name is not the one the identity gives")]
    Name,
    /// The entry's signature is wrong.
    #[error("the identity entry's signature is wrong")]
    Signature,
    /// A node did not agree to be listed.
    #[error("a node in the identity entry has not signed its own item")]
    NodeSignature,
}
