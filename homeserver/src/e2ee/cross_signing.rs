//! Cross-signing: the three keys of a user, and signatures that come later.
// spec: https://spec.matrix.org/v1.19/client-server-api/#cross-signing

use std::collections::BTreeMap;

use ruma::{
    OwnedUserId, UserId,
    encryption::{CrossSigningKey, KeyUsage},
    serde::Raw,
};
use serde_json::value::RawValue;

use super::{
    E2ee, E2eeError,
    device_lists::{announce_cross_signing, announce_device, cross_signing_of, signature_added},
    object::{KEY_OBJECT_BYTES_MAX, KeyObject, ObjectError},
};
use crate::store::{
    Kind, Nid, ReadTx, StoreError, WriteTx,
    schema::e2ee::{self as table, Usage},
};

/// Keys that one request may sign.
pub const SIGNED_KEYS_MAX: usize = 1_000;
/// Signatures on one object that are looked at.
const SIGNATURES_MAX: usize = 50;

/// The keys of an upload, each as its owner signed it.
#[derive(Clone, Debug, Default)]
pub struct SigningKeys {
    /// Signs the other two.
    pub master: Option<Raw<CrossSigningKey>>,
    /// Signs the user's devices.
    pub self_signing: Option<Raw<CrossSigningKey>>,
    /// Signs other users' master keys.
    pub user_signing: Option<Raw<CrossSigningKey>>,
}

/// Keys that were checked.
struct Checked {
    master: Option<KeyObject>,
    self_signing: Option<KeyObject>,
    user_signing: Option<KeyObject>,
}

/// Signed objects by user and key (a device id, or a public key).
pub type SignedObjects = BTreeMap<OwnedUserId, BTreeMap<String, Box<RawValue>>>;
/// Why a signature was not taken: (errcode, text) by user and key.
pub type SignatureFailures = BTreeMap<OwnedUserId, BTreeMap<String, (&'static str, String)>>;

impl E2ee {
    /// Whether an upload has to be confirmed with a password: not if it changes nothing, and not the first one, which
    /// a client makes right after the login.
    pub async fn signing_keys_need_proof(
        &self,
        user: &UserId,
        keys: &SigningKeys,
    ) -> Result<bool, E2eeError> {
        let new = Checked::of(user, keys)?;
        let user = user.to_owned();
        self.store
            .read(move |tx| {
                let Some(nid) = tx.lookup(Kind::User, user.as_str())? else {
                    return Ok(false);
                };
                if stored(tx, nid, Usage::Master)?.is_none() {
                    return Ok(false);
                }
                for (usage, key) in new.each() {
                    let same =
                        stored(tx, nid, usage)?.is_some_and(|old| old.signed_part() == key.signed_part());
                    if !same {
                        return Ok(true);
                    }
                }
                Ok(false)
            })
            .await
    }

    /// Keeps new cross-signing keys and tells everybody concerned.
    pub async fn upload_signing_keys(&self, user: &UserId, keys: &SigningKeys) -> Result<(), E2eeError> {
        let new = Checked::of(user, keys)?;
        let user = user.to_owned();
        self.store.write(move |tx| put_signing_keys(tx, &user, &new)).await
    }

    /// Keeps signatures over keys: of the user's own devices and master key, and of others' master keys.
    pub async fn upload_signatures(
        &self,
        user: &UserId,
        objects: SignedObjects,
    ) -> Result<SignatureFailures, E2eeError> {
        if objects.values().map(BTreeMap::len).sum::<usize>() > SIGNED_KEYS_MAX {
            return Err(E2eeError::TooMany { what: "signed keys in one request", max: SIGNED_KEYS_MAX });
        }
        let user = user.to_owned();
        self.store.write(move |tx| put_signatures(tx, &user, &objects)).await.map_err(E2eeError::Store)
    }
}

impl Checked {
    fn of(user: &UserId, keys: &SigningKeys) -> Result<Self, E2eeError> {
        let new = Self {
            master: cross_signing_of(user, keys.master.as_ref(), &KeyUsage::Master)?,
            self_signing: cross_signing_of(user, keys.self_signing.as_ref(), &KeyUsage::SelfSigning)?,
            user_signing: cross_signing_of(user, keys.user_signing.as_ref(), &KeyUsage::UserSigning)?,
        };
        let publics: Vec<_> = new.each().filter_map(|(_, key)| key.public_key()).collect();
        // One key for two uses would let a signature of the one kind pass for the other.
        if publics.iter().enumerate().any(|(at, key)| publics[..at].contains(key)) {
            return Err(ObjectError::Field("keys").into());
        }
        Ok(new)
    }

    fn each(&self) -> impl Iterator<Item = (Usage, &KeyObject)> {
        [
            (Usage::Master, &self.master),
            (Usage::SelfSigning, &self.self_signing),
            (Usage::UserSigning, &self.user_signing),
        ]
        .into_iter()
        .filter_map(|(usage, key)| Some((usage, key.as_ref()?)))
    }
}

fn stored(tx: &ReadTx<'_>, user: Nid, usage: Usage) -> Result<Option<KeyObject>, StoreError> {
    let json = table::cross_signing(tx, user, usage)?;
    Ok(json.and_then(|json| KeyObject::parse(&json, usize::MAX).ok()))
}

fn put_signing_keys(tx: &mut WriteTx<'_>, user: &UserId, new: &Checked) -> Result<(), E2eeError> {
    let nid = tx.intern(Kind::User, user.as_str())?;
    let old_master = stored(tx, nid, Usage::Master)?;
    let master = new.master.as_ref().or(old_master.as_ref());
    let public = master.and_then(KeyObject::public_key).map(ToOwned::to_owned);
    for (usage, key) in new.each().filter(|(usage, _)| *usage != Usage::Master) {
        let public = public.as_deref().ok_or(E2eeError::NoMasterKey)?;
        if !key.is_signed_by(user, public) {
            let who = format!("the master key (of the {usage:?} key)");
            return Err(ObjectError::Signature(who).into());
        }
    }
    let replaced =
        |new: &KeyObject| old_master.as_ref().is_some_and(|old| old.public_key() != new.public_key());
    let mut changed = false;
    if new.master.as_ref().is_some_and(replaced) {
        // What the old master key signed is worth nothing under the new one.
        for usage in [Usage::SelfSigning, Usage::UserSigning] {
            table::delete_cross_signing(tx, nid, usage)?;
        }
        changed = true;
    }
    for (usage, key) in new.each() {
        let same = stored(tx, nid, usage)?.is_some_and(|old| old.signed_part() == key.signed_part());
        if !same {
            table::put_cross_signing(tx, nid, usage, &key.to_json())?;
            changed = true;
        }
    }
    if changed {
        announce_cross_signing(tx, nid, user)?;
    }
    Ok(())
}

fn put_signatures(
    tx: &mut WriteTx<'_>,
    user: &UserId,
    objects: &SignedObjects,
) -> Result<SignatureFailures, StoreError> {
    let mut failures = SignatureFailures::new();
    let nid = tx.intern(Kind::User, user.as_str())?;
    for (target, by_key) in objects {
        for (key, object) in by_key {
            let done = match KeyObject::parse(object.get(), KEY_OBJECT_BYTES_MAX) {
                Ok(object) if target == user => put_own_signatures(tx, nid, user, key, &object)?,
                Ok(object) => put_signatures_of_other(tx, nid, user, target, key, &object)?,
                Err(error) => Err(("M_INVALID_PARAM", error.to_string())),
            };
            if let Err(failure) = done {
                failures.entry(target.clone()).or_default().insert(key.clone(), failure);
            }
        }
    }
    Ok(failures)
}

/// Why one object was not taken.
type Refusal = (&'static str, String);

fn not_found(key: &str) -> Refusal {
    ("M_NOT_FOUND", format!("there is no key {key} of that user"))
}

fn other_key(key: &str) -> Refusal {
    ("M_INVALID_PARAM", format!("what was signed is not the key {key} as it is kept here; query it again"))
}

fn bad_signature(id: &str) -> Refusal {
    ("M_INVALID_SIGNATURE", format!("the signature by {id} is missing or does not hold"))
}

/// Signatures of a user over a device or the master key of their own.
fn put_own_signatures(
    tx: &mut WriteTx<'_>,
    nid: Nid,
    user: &UserId,
    key: &str,
    signed: &KeyObject,
) -> Result<Result<(), Refusal>, StoreError> {
    if let Some(json) = table::device_key(tx, nid, key)? {
        let Ok(mut kept) = KeyObject::parse(&json, usize::MAX) else {
            return Ok(Err(not_found(key)));
        };
        let signer = stored(tx, nid, Usage::SelfSigning)?;
        let public = signer.as_ref().and_then(KeyObject::public_key);
        let added = add_signatures(&mut kept, signed, user, key, |id| {
            id.strip_prefix("ed25519:").filter(|name| Some(*name) == public).map(ToOwned::to_owned)
        });
        return Ok(match added {
            Ok(true) => {
                table::put_device_key(tx, nid, key, &kept.to_json())?;
                announce_device(tx, nid, user, key.into())?;
                Ok(())
            }
            Ok(false) => Ok(()),
            Err(refusal) => Err(refusal),
        });
    }
    let Some(mut kept) = stored(tx, nid, Usage::Master)?.filter(|master| master.public_key() == Some(key))
    else {
        return Ok(Err(not_found(key)));
    };
    let mut device_keys = BTreeMap::new();
    for (device, json) in table::device_keys(tx, nid)? {
        let object = KeyObject::parse(&json, usize::MAX).ok();
        if let Some(public) =
            object.and_then(|object| Some(object.device_signing_key((&*device).into())?.to_owned()))
        {
            device_keys.insert(format!("ed25519:{device}"), public);
        }
    }
    Ok(match add_signatures(&mut kept, signed, user, key, |id| device_keys.get(id).cloned()) {
        Ok(true) => {
            table::put_cross_signing(tx, nid, Usage::Master, &kept.to_json())?;
            announce_cross_signing(tx, nid, user)?;
            Ok(())
        }
        Ok(false) => Ok(()),
        Err(refusal) => Err(refusal),
    })
}

/// Signatures of a user over somebody else's master key: kept beside it, for the signer alone.
fn put_signatures_of_other(
    tx: &mut WriteTx<'_>,
    nid: Nid,
    user: &UserId,
    target: &UserId,
    key: &str,
    signed: &KeyObject,
) -> Result<Result<(), Refusal>, StoreError> {
    let Some(target) = tx.lookup(Kind::User, target.as_str())? else {
        return Ok(Err(not_found(key)));
    };
    let Some(mut kept) = stored(tx, target, Usage::Master)?.filter(|master| master.public_key() == Some(key))
    else {
        return Ok(Err(not_found(key)));
    };
    let signer = stored(tx, nid, Usage::UserSigning)?;
    let Some(public) = signer.as_ref().and_then(KeyObject::public_key).map(ToOwned::to_owned) else {
        return Ok(Err(("M_NOT_FOUND", "you have no user-signing key".into())));
    };
    let id = format!("ed25519:{public}");
    let added = add_signatures(&mut kept, signed, user, key, |name| (name == id).then(|| public.clone()));
    Ok(match added {
        Ok(_) => {
            let signature = signed.signatures().find(|(by, name, _)| *by == user && *name == id);
            if let Some((_, _, signature)) = signature {
                table::put_signature(tx, nid, target, key, &id, signature)?;
                signature_added(tx, nid, target)?;
            }
            Ok(())
        }
        Err(refusal) => Err(refusal),
    })
}

/// Adds to `kept` what `user` signed on the same object with a key that `public_key` knows. True if one was new.
fn add_signatures(
    kept: &mut KeyObject,
    signed: &KeyObject,
    user: &UserId,
    key: &str,
    public_key: impl Fn(&str) -> Option<String>,
) -> Result<bool, Refusal> {
    if kept.signed_part() != signed.signed_part() {
        return Err(other_key(key));
    }
    let have = |kept: &KeyObject, id: &str, signature: &str| {
        kept.signatures().any(|(by, known, value)| by == user && known == id && value == signature)
    };
    let mut valid = 0;
    let mut added = false;
    for (_, id, signature) in signed.signatures().filter(|(by, _, _)| *by == user).take(SIGNATURES_MAX) {
        // The object is sent whole: what is on it already was checked when it came.
        if have(kept, id, signature) {
            valid += 1;
            continue;
        }
        let Some(public) = public_key(id) else { continue };
        if !signed.is_signed(signature, &public) {
            return Err(bad_signature(id));
        }
        kept.add_signature(user.as_str(), id, signature);
        added = true;
    }
    if !added && valid == 0 {
        return Err(bad_signature(key));
    }
    Ok(added)
}
