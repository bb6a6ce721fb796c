//! This node's share in its account: the log, the node's own keys, and what is published from them.
//!
//! Files in the data directory, all 0600:
//! - `identity.json`: `{ v, node, keys: { sign, seal, rot }, log: [entry…] }`. Written whole; the
//!   presence of this file is what "there is an identity" means.
//! - `recovery-words`: the words the rank-0 keys come from, until their owner has written them down.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use ed25519_dalek::SigningKey;
use router::{AccountRecord, NodeId, SecretKey};
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedServerName, OwnedServerSigningKeyId, ServerName,
    serde::Base64,
    signatures::{Ed25519KeyPair, PublicKeySet},
};
use serde::{Deserialize, Serialize};
use x25519_dalek::StaticSecret;
use zeroize::Zeroizing;

use super::{
    entry::{Entry, EntryError, Fields, NodeItem, RotKey, Signers, Tagged, b64, is_name_of, key_hash, unb64},
    files,
    log::{Log, LogError},
    name::{Acct, DEFAULT_ZONE, NameError, NameKind, check_zone},
    recovery::{RecoveryError, RecoveryWords},
};

/// How long others may keep our keys without asking again.
/// spec: <https://spec.matrix.org/v1.19/server-server-api/#retrieving-server-keys>: at most 7 days.
const KEYS_VALID_MS: u64 = 7 * 24 * 3600 * 1000;
/// Largest proof of an account record.
pub const PROOF_LEN_MAX: usize = 1024;
/// Rank of the key that an administrating node holds.
const RANK_NODE: u8 = 2;
/// DER of an ed25519 private key (RFC 8410) up to the 32 bytes of the seed.
const PKCS8_PREFIX: [u8; 16] = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];

const IDENTITY_FILE: &str = "identity.json";
const WORDS_FILE: &str = "recovery-words";

/// What a new account is to be called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NameChoice {
    /// `k<52>.<zone>`.
    Zone(String),
    /// A domain of one's own.
    ServerName(OwnedServerName),
}

/// The account as this node holds it.
pub struct Identity {
    dir: PathBuf,
    log: Log,
    server_name: OwnedServerName,
    node: SecretKey,
    item: NodeItem,
    signing: Arc<Ed25519KeyPair>,
    seal: StaticSecret,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Identity({})", self.server_name)
    }
}

impl Identity {
    /// Opens the identity in `dir`, or makes one named as `choice` says (by default in
    /// [`DEFAULT_ZONE`]). A choice that is not what the identity was made with is refused, and so is
    /// another node key: nothing is changed then.
    pub fn open_or_create(
        dir: &Path,
        choice: Option<NameChoice>,
        node: &SecretKey,
    ) -> Result<Self, IdentityError> {
        if let Some(identity) = Self::open(dir, node)? {
            identity.check_choice(choice.as_ref())?;
            return Ok(identity);
        }
        let choice = choice.unwrap_or_else(|| NameChoice::Zone(DEFAULT_ZONE.to_owned()));
        check_new_name(&choice)?;
        Self::create(dir, choice, node)
    }

    /// Opens the identity in `dir` if there is one.
    pub fn open(dir: &Path, node: &SecretKey) -> Result<Option<Self>, IdentityError> {
        let path = dir.join(IDENTITY_FILE);
        let Some(bytes) = files::read(&path).map_err(|error| IdentityError::File(path.clone(), error))?
        else {
            return Ok(None);
        };
        let bytes = Zeroizing::new(bytes);
        let damaged = |why: String| IdentityError::Damaged(path.clone(), why);
        let stored: Stored = serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
        if stored.v != 1 {
            return Err(damaged("it was written by a newer version".to_owned()));
        }
        let entries = stored.log.into_iter().map(Entry::from_object).collect::<Result<Vec<_>, _>>();
        let log = entries
            .map_err(LogError::from)
            .and_then(Log::from_entries)
            .map_err(|error| damaged(error.to_string()))?;
        let item = log
            .nodes()
            .iter()
            .find(|item| item.id == stored.node)
            .cloned()
            .ok_or_else(|| damaged("its log does not list this node".to_owned()))?;
        if item.net.0 != *node.id().as_bytes() {
            return Err(IdentityError::OtherNode {
                listed: NodeId::from_bytes(item.net.0),
                found: node.id(),
            });
        }
        let key =
            |text: &str| unb64(text).map(Zeroizing::new).ok_or_else(|| damaged("a key is no key".to_owned()));
        let (sign, seal) = (key(&stored.keys.sign)?, key(&stored.keys.seal)?);
        if SigningKey::from_bytes(&sign).verifying_key().to_bytes() != item.sign.0 {
            return Err(damaged("its signing key is not the one in the log".to_owned()));
        }
        Self::assemble(dir, log, item, node, &sign, *seal).map(Some)
    }

    fn create(dir: &Path, choice: NameChoice, node: &SecretKey) -> Result<Self, IdentityError> {
        let words_path = dir.join(WORDS_FILE);
        let file_error = |path: &Path| {
            let path = path.to_owned();
            move |error| IdentityError::File(path, error)
        };
        // Words that an interrupted start left behind are as good as new ones.
        let left = files::read(&words_path).map_err(file_error(&words_path))?.map(Zeroizing::new);
        let left = left.and_then(|bytes| RecoveryWords::parse(std::str::from_utf8(&bytes).ok()?).ok());
        let words = match left {
            Some(words) => words,
            None => {
                let words = RecoveryWords::generate()?;
                let text = Zeroizing::new(format!("{}\n", *words.text()));
                files::write(&words_path, text.as_bytes()).map_err(file_error(&words_path))?;
                words
            }
        };
        let (sign, seal, rot) = (random()?, random()?, random()?);
        let (sign_key, rot_key) = (SigningKey::from_bytes(&sign), SigningKey::from_bytes(&rot));
        let seal_key = StaticSecret::from(*seal);
        let hlc = now_ms() << 10;
        let item = NodeItem {
            id: "n1".to_owned(),
            sign: Tagged(sign_key.verifying_key().to_bytes()),
            net: Tagged(*node.id().as_bytes()),
            seal: Tagged(x25519_dalek::PublicKey::from(&seal_key).to_bytes()),
            role: "full".to_owned(),
            caps: ["sign", "admin", "otk"].map(str::to_owned).to_vec(),
            since: hlc,
            prio: 0,
        };
        let (zone, domain) = match choice {
            NameChoice::Zone(zone) => (Some(zone), None),
            NameChoice::ServerName(name) => (None, Some(name)),
        };
        let fields = Fields {
            v: 1,
            n: 0,
            prev: None,
            hlc,
            zone,
            domain,
            rot: vec![
                RotKey { key: words.public(0), rank: 0 },
                RotKey { key: Tagged(rot_key.verifying_key().to_bytes()), rank: RANK_NODE },
            ],
            next0: key_hash(&words.public(1)),
            nodes: vec![item.clone()],
        };
        let signers =
            Signers { rot: &words.key(0), nodes: &[(item.id.as_str(), node, &sign_key)], before: None };
        let log = Log::new(Entry::create(fields, None, &signers)?)?;
        if log.inception().to_proof().len() > PROOF_LEN_MAX {
            return Err(NameError::Zone(
                log.inception().server_name().map(String::from).unwrap_or_default(),
                "too long",
            )
            .into());
        }
        let stored = Stored {
            v: 1,
            node: item.id.clone(),
            keys: Keys { sign: b64(&*sign), seal: b64(&*seal), rot: b64(&*rot) },
            log: log.entries().iter().map(|entry| entry.json().clone()).collect(),
        };
        let path = dir.join(IDENTITY_FILE);
        let bytes = Zeroizing::new(
            serde_json::to_vec(&stored)
                .map_err(|error| IdentityError::Damaged(path.clone(), error.to_string()))?,
        );
        files::write(&path, &bytes).map_err(file_error(&path))?;
        Self::assemble(dir, log, item, node, &sign, *seal)
    }

    fn assemble(
        dir: &Path,
        log: Log,
        item: NodeItem,
        node: &SecretKey,
        sign: &[u8; 32],
        seal: [u8; 32],
    ) -> Result<Self, IdentityError> {
        let der = Zeroizing::new([&PKCS8_PREFIX[..], sign].concat());
        let version = item.key_id().trim_start_matches("ed25519:").to_owned();
        let signing = Ed25519KeyPair::from_der(&der, version)
            .map_err(|error| IdentityError::Damaged(dir.join(IDENTITY_FILE), error.to_string()))?;
        let server_name = log.inception().server_name().ok_or(EntryError::Name)?;
        if log.inception().to_proof().len() > PROOF_LEN_MAX {
            let why = "its inception is too long for an account record".to_owned();
            return Err(IdentityError::Damaged(dir.join(IDENTITY_FILE), why));
        }
        Ok(Self {
            dir: dir.to_owned(),
            log,
            server_name,
            node: node.clone(),
            item,
            signing: Arc::new(signing),
            seal: StaticSecret::from(seal),
        })
    }

    fn check_choice(&self, choice: Option<&NameChoice>) -> Result<(), IdentityError> {
        let fields = self.log.inception().fields();
        let same = match choice {
            None => true,
            Some(NameChoice::Zone(zone)) => fields.zone.as_ref() == Some(zone),
            Some(NameChoice::ServerName(name)) => *name == self.server_name,
        };
        if same {
            return Ok(());
        }
        Err(IdentityError::NameChange {
            name: self.server_name.clone(),
            asked: match choice {
                Some(NameChoice::Zone(zone)) => format!("zone {zone}"),
                Some(NameChoice::ServerName(name)) => format!("server name {name}"),
                None => String::new(),
            },
        })
    }

    /// The account's name in Matrix.
    pub fn server_name(&self) -> &ServerName {
        &self.server_name
    }

    /// The account.
    pub fn acct(&self) -> Acct {
        self.log.acct()
    }

    /// The node this is.
    pub fn node_id(&self) -> NodeId {
        self.node.id()
    }

    /// The node's short name within the account: `n1`. Part of transaction ids.
    pub fn node_name(&self) -> &str {
        &self.item.id
    }

    /// The event-signing key; its version is `n1_<8 characters>`.
    pub fn signing_key(&self) -> Arc<Ed25519KeyPair> {
        Arc::clone(&self.signing)
    }

    /// Id of [`Self::signing_key`], with the algorithm.
    pub fn key_id(&self) -> OwnedServerSigningKeyId {
        OwnedServerSigningKeyId::try_from(self.item.key_id())
            .expect("a node id and base32 characters make a key version")
    }

    /// The secret that mail to this node is sealed to.
    pub fn seal_key(&self) -> &StaticSecret {
        &self.seal
    }

    /// The account's log.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// The first entry of the log.
    pub fn inception(&self) -> &Entry {
        self.log.inception()
    }

    /// Our own keys in the form signatures are checked with.
    pub fn public_keys(&self) -> PublicKeySet {
        log_keys(&self.log)
    }

    /// The document served as `/_matrix/key/v2/server`.
    pub fn key_document(&self, now_ms: u64) -> CanonicalJsonObject {
        let mut verify_keys = CanonicalJsonObject::new();
        for (id, key) in log_keys(&self.log) {
            let key = CanonicalJsonObject::from([("key".to_owned(), key.encode().into())]);
            verify_keys.insert(id, key.into());
        }
        let identity = CanonicalJsonObject::from([
            ("hash".to_owned(), b64(&self.log.last().hash()).into()),
            ("inception".to_owned(), self.inception().json().clone().into()),
            ("n".to_owned(), integer(self.log.last().fields().n)),
        ]);
        let mut document = CanonicalJsonObject::from([
            ("old_verify_keys".to_owned(), CanonicalJsonObject::new().into()),
            ("server_name".to_owned(), self.server_name.as_str().into()),
            ("valid_until_ts".to_owned(), integer(now_ms.saturating_add(KEYS_VALID_MS))),
            ("verify_keys".to_owned(), verify_keys.into()),
            ("x.identity".to_owned(), identity.into()),
        ]);
        self.sign_json(&mut document);
        document
    }

    /// Signs any object of ours, in place.
    pub fn sign_json(&self, object: &mut CanonicalJsonObject) {
        ruma::signatures::sign_json(self.server_name.as_str(), &*self.signing, object)
            .expect("an object that we made has no `signatures` of another form");
    }

    /// The record that leads from the account to this node; `seq` grows with every publication.
    pub fn account_record(&self, seq: u64) -> AccountRecord {
        AccountRecord::sign(&self.node, self.acct().0, seq, Bytes::from(self.inception().to_proof()))
            .expect("creating and opening the identity checked the length of its proof")
    }

    /// The name of the account in `dir`, read without the node's key: also while the node runs.
    pub fn read_server_name(dir: &Path) -> Result<OwnedServerName, IdentityError> {
        let path = dir.join(IDENTITY_FILE);
        let bytes = files::read(&path).map_err(|error| IdentityError::File(path.clone(), error))?;
        let bytes = Zeroizing::new(bytes.ok_or_else(|| IdentityError::Absent(dir.to_owned()))?);
        let damaged = |why: String| IdentityError::Damaged(path, why);
        let stored: Stored = serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
        let inception = stored.log.into_iter().next().map(Entry::from_object).transpose()?;
        Ok(inception.and_then(|entry| entry.server_name()).ok_or(EntryError::Name)?)
    }

    /// The recovery words, as long as they are on this device.
    pub fn recovery_words(&self) -> Result<String, IdentityError> {
        let path = self.dir.join(WORDS_FILE);
        let bytes = files::read(&path).map_err(|error| IdentityError::File(path.clone(), error))?;
        let bytes = bytes.map(Zeroizing::new).ok_or(IdentityError::WordsForgotten)?;
        let words = std::str::from_utf8(&bytes)
            .ok()
            .and_then(|text| RecoveryWords::parse(text).ok())
            .ok_or_else(|| IdentityError::Damaged(path, "these are no recovery words".to_owned()))?;
        Ok(words.text().to_string())
    }

    /// Removes the recovery words from this device.
    pub fn forget_recovery_words(&self) -> Result<(), IdentityError> {
        let path = self.dir.join(WORDS_FILE);
        match files::forget(&path) {
            Ok(true) => Ok(()),
            Ok(false) => Err(IdentityError::WordsForgotten),
            Err(error) => Err(IdentityError::File(path, error)),
        }
    }
}

/// The event-signing keys that a log has in force.
pub fn log_keys(log: &Log) -> PublicKeySet {
    log.nodes()
        .iter()
        .filter(|item| item.may_sign())
        .map(|item| (item.key_id(), Base64::new(item.sign.0.to_vec())))
        .collect()
}

/// Whether a record's proof shows that its node belongs to its account. The record's own signature
/// is the router's to check.
pub fn verify_record(record: &AccountRecord) -> bool {
    read_record(record).is_some()
}

/// The log that a record proves, if it does.
pub fn read_record(record: &AccountRecord) -> Option<Log> {
    if record.proof.len() > PROOF_LEN_MAX {
        return None;
    }
    let inception = Entry::from_proof(&record.proof).ok()?;
    if inception.acct().0 != record.acct {
        return None;
    }
    let log = Log::new(inception).ok()?;
    log.nodes().iter().any(|item| item.net.0 == *record.node.as_bytes()).then_some(log)
}

/// Whether `name` is the one that the log's account has.
pub fn is_name_of_log(name: &ServerName, log: &Log) -> bool {
    is_name_of(name, log.inception())
}

fn check_new_name(choice: &NameChoice) -> Result<(), NameError> {
    match choice {
        NameChoice::Zone(zone) => check_zone(zone),
        NameChoice::ServerName(name) => {
            let wrong = |why| Err(NameError::Domain(name.to_string(), why));
            match NameKind::of(name) {
                NameKind::Overlay(_) | NameKind::Nobody => {
                    wrong("names below .alt are made from keys; give the zone instead (--zone)")
                }
                NameKind::Gateway(_) => wrong("it has the form of a name made from a key"),
                NameKind::Ordinary if name.as_str().len() > 150 => wrong("it is longer than 150 characters"),
                NameKind::Ordinary if name.as_str().bytes().any(|b| b.is_ascii_uppercase()) => {
                    wrong("write it in lower case")
                }
                NameKind::Ordinary => Ok(()),
            }
        }
    }
}

fn integer(value: u64) -> CanonicalJsonValue {
    CanonicalJsonValue::Integer(ruma::Int::new_saturating(i64::try_from(value).unwrap_or(i64::MAX)))
}

fn random() -> Result<Zeroizing<[u8; 32]>, IdentityError> {
    let mut bytes = Zeroizing::new([0; 32]);
    getrandom::fill(&mut *bytes).map_err(|_| RecoveryError::Random)?;
    Ok(bytes)
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(0)
}

#[derive(Serialize, Deserialize)]
struct Stored {
    v: u64,
    node: String,
    keys: Keys,
    log: Vec<CanonicalJsonObject>,
}

#[derive(Serialize, Deserialize)]
struct Keys {
    sign: String,
    seal: String,
    rot: String,
}

impl Drop for Keys {
    fn drop(&mut self) {
        use zeroize::Zeroize as _;
        self.sign.zeroize();
        self.seal.zeroize();
        self.rot.zeroize();
    }
}

/// Why there is no identity to work with.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// A name that cannot be.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The name was chosen before.
    #[error(
        "this account is {name} and stays so; {asked} was asked for. A name is chosen once: use another \
         data directory (--data) for another account, or leave out --zone and --server-name"
    )]
    NameChange {
        /// The name there is.
        name: OwnedServerName,
        /// What was asked for instead.
        asked: String,
    },
    /// The node's key is not the one that the identity lists.
    #[error(
        "the identity in the data directory belongs to node {listed}, but the node's key here is {found}; \
         put the right key file back"
    )]
    OtherNode {
        /// Node in the identity.
        listed: NodeId,
        /// Node whose key was given.
        found: NodeId,
    },
    /// A file cannot be read or written.
    #[error("{path}: {1}", path = .0.display())]
    File(PathBuf, io::Error),
    /// A file's content is not what was written there.
    #[error("{path} is damaged ({1}); restore it from a backup", path = .0.display())]
    Damaged(PathBuf, String),
    /// There is no identity yet.
    #[error("there is no identity in {path} yet; `mangrove init` makes one", path = .0.display())]
    Absent(PathBuf),
    /// The words were removed from this device before.
    #[error("the recovery words are no longer on this device; they are where they were written down")]
    WordsForgotten,
    /// No words, no randomness.
    #[error(transparent)]
    Recovery(#[from] RecoveryError),
    /// An entry of ours does not hold.
    #[error(transparent)]
    Entry(#[from] EntryError),
    /// A log of ours does not hold.
    #[error(transparent)]
    Log(#[from] LogError),
}
