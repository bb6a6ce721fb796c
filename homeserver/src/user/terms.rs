//! Who has agreed to the terms in force, and the links by which somebody does.

use std::{
    collections::HashSet,
    sync::{Mutex, PoisonError},
};

use ring::hmac;
use ruma::{OwnedUserId, UserId};

use super::{UserError, Users, active, token};
use crate::store::{ReadTx, WriteTx, schema};

/// What is remembered between requests.
pub(super) struct Agreements {
    /// Marks links; they are made anew after a restart.
    key: hmac::Key,
    /// Users known to have agreed, with the version.
    agreed: Mutex<HashSet<(OwnedUserId, String)>>,
}

impl Default for Agreements {
    fn default() -> Self {
        let key = hmac::Key::new(hmac::HMAC_SHA256, token::random().as_bytes());
        Self { key, agreed: Mutex::default() }
    }
}

impl Users {
    /// Whether a user has agreed to this version of the terms.
    pub async fn has_agreed(&self, user: &UserId, version: &str) -> Result<bool, UserError> {
        let key = (user.to_owned(), version.to_owned());
        if self.agreements.agreed.lock().unwrap_or_else(PoisonError::into_inner).contains(&key) {
            return Ok(true);
        }
        let name = user.to_owned();
        let known = self
            .store
            .read(move |tx: &ReadTx<'_>| {
                let nid = active(tx, &name)?;
                Ok::<_, UserError>(schema::accounts::consent(tx, nid)?)
            })
            .await?;
        let agreed = known.as_deref() == Some(version);
        if agreed {
            self.remember(key);
        }
        Ok(agreed)
    }

    /// Notes that a user agrees.
    pub async fn agree(&self, user: &UserId, version: &str) -> Result<(), UserError> {
        let (name, text) = (user.to_owned(), version.to_owned());
        self.store
            .write(move |tx: &mut WriteTx<'_>| {
                let nid = active(tx, &name)?;
                Ok::<_, UserError>(schema::accounts::set_consent(tx, nid, &text)?)
            })
            .await?;
        self.remember((user.to_owned(), version.to_owned()));
        Ok(())
    }

    fn remember(&self, key: (OwnedUserId, String)) {
        let mut agreed = self.agreements.agreed.lock().unwrap_or_else(PoisonError::into_inner);
        if agreed.len() >= AGREED_MAX {
            // They are looked up again.
            agreed.clear();
        }
        agreed.insert(key);
    }

    /// What makes a link to the terms one user's own.
    pub fn terms_mark(&self, user: &UserId, version: &str) -> String {
        let mark = hmac::sign(&self.agreements.key, format!("{user}\n{version}").as_bytes());
        data_encoding::BASE64URL_NOPAD.encode(mark.as_ref())
    }

    /// Whether a link to the terms is this user's.
    pub fn terms_mark_fits(&self, user: &UserId, version: &str, mark: &str) -> bool {
        data_encoding::BASE64URL_NOPAD.decode(mark.as_bytes()).is_ok_and(|mark| {
            hmac::verify(&self.agreements.key, format!("{user}\n{version}").as_bytes(), &mark).is_ok()
        })
    }
}

/// Users remembered to have agreed: some 100 bytes each.
const AGREED_MAX: usize = 10_000;
