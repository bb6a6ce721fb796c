//! Registration by whoever knows the operator's shared secret: a nonce of ours, and an HMAC-SHA1 over what is asked.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use ring::hmac;
use ruma::OwnedUserId;

use super::{NewAccount, NewDevice, Proof, Session, UserError, Users, token};

/// What is asked, and the proof. The MAC is over `nonce \0 username \0 password \0 admin|notadmin [\0 kind]`.
#[derive(Clone, Debug)]
pub struct SharedSecretRequest {
    /// From [`Users::shared_secret_nonce`]; good once.
    pub nonce: String,
    /// The local part.
    pub username: String,
    /// The password.
    pub password: String,
    /// What to call the user; `None`: its local part.
    pub displayname: Option<String>,
    /// Whether it becomes an administrator.
    pub admin: bool,
    /// `bot` or `support`.
    pub kind: Option<String>,
    /// HMAC-SHA1 in hex.
    pub mac: String,
}

impl Users {
    /// A number good for one registration within a minute.
    pub fn shared_secret_nonce(&self) -> String {
        let nonce = token::random();
        self.nonces.insert(nonce.clone(), self.clock.now_ms());
        nonce
    }

    /// Makes an account for whoever knows `secret`.
    pub async fn register_by_shared_secret(
        &self,
        secret: &[u8],
        request: SharedSecretRequest,
        device: Option<NewDevice>,
    ) -> Result<(OwnedUserId, Option<Session>), UserError> {
        // The proof first: whoever does not know the secret cannot use up anybody's nonce by guessing.
        let mac = data_encoding::HEXLOWER_PERMISSIVE
            .decode(request.mac.as_bytes())
            .map_err(|_| UserError::BadSharedSecret)?;
        let mut text =
            vec![request.nonce.as_bytes(), request.username.as_bytes(), request.password.as_bytes()];
        text.push(if request.admin { b"admin" } else { b"notadmin" });
        if let Some(kind) = &request.kind {
            text.push(kind.as_bytes());
        }
        let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, secret);
        hmac::verify(&key, &text.join(&0), &mac).map_err(|_| UserError::BadSharedSecret)?;
        if !self.nonces.take(&request.nonce, self.clock.now_ms()) {
            return Err(UserError::Invalid("this nonce was not given out, was used or is too old".into()));
        }
        let account = NewAccount {
            localpart: Some(request.username.to_lowercase()),
            password: Some(request.password),
            displayname: request.displayname,
            admin: request.admin,
            kind: request.kind,
            ..NewAccount::new(Proof::Operator)
        };
        self.register(account, device).await
    }
}

/// Numbers given out and not used yet.
#[derive(Default)]
pub(super) struct Nonces(Mutex<HashMap<String, u64>>);

impl Nonces {
    fn insert(&self, nonce: String, now_ms: u64) {
        let mut nonces = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        nonces.retain(|_, made_ms| now_ms.saturating_sub(*made_ms) < GOOD_FOR_MS);
        if nonces.len() >= NONCES_MAX {
            nonces.clear();
        }
        nonces.insert(nonce, now_ms);
    }

    fn take(&self, nonce: &str, now_ms: u64) -> bool {
        let made_ms = self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(nonce);
        made_ms.is_some_and(|made_ms| now_ms.saturating_sub(made_ms) < GOOD_FOR_MS)
    }
}

/// As Synapse.
const GOOD_FOR_MS: u64 = 60_000;
/// Far more than scripts ask for in a minute; some 100 bytes each.
const NONCES_MAX: usize = 1_000;
