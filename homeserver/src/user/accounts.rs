//! Accounts: making, listing, ending them, and their passwords.

use ruma::{DeviceId, OwnedUserId, UserId};

use super::{Address, NewDevice, Proof, Session, UserError, Users, active, sessions::open_session, user_nid};
use crate::store::{ReadTx, WriteTx, schema, schema::accounts::Flag};

/// An account to be made.
#[derive(Clone, Debug)]
pub struct NewAccount {
    /// What stands before the colon of the user id; `None`: something random.
    pub localpart: Option<String>,
    /// The password; `None`: it cannot log in until the operator sets one.
    pub password: Option<String>,
    /// What to call it; `None`: its local part.
    pub displayname: Option<String>,
    /// Whether it becomes an administrator.
    pub admin: bool,
    /// Whether it is a guest's.
    pub guest: bool,
    /// `bot` or `support`, as Synapse has them.
    pub kind: Option<String>,
    /// The e-mail address that it was proven with.
    pub email: Option<Address>,
    /// The version of the terms agreed to.
    pub consent: Option<String>,
    /// The outside provider and its name for whom the account is.
    pub upstream: Option<(String, String)>,
    /// Why it may be made.
    pub proof: Proof,
}

impl NewAccount {
    /// An ordinary account without name and password.
    pub fn new(proof: Proof) -> Self {
        Self {
            localpart: None,
            password: None,
            displayname: None,
            admin: false,
            guest: false,
            kind: None,
            email: None,
            consent: None,
            upstream: None,
            proof,
        }
    }
}

/// An account as the operator sees it.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Account {
    /// The user.
    pub user: OwnedUserId,
    /// When it was made, in milliseconds since the epoch.
    pub made_ms: u64,
    /// Whether it was deactivated.
    pub deactivated: bool,
    /// How many devices are logged in.
    pub devices: usize,
}

impl Users {
    /// Makes an account and, if `device` is given, logs it in there. Everything or nothing: the name is found free and
    /// a one-time token is used up in the same write.
    pub async fn register(
        &self,
        account: NewAccount,
        device: Option<NewDevice>,
    ) -> Result<(OwnedUserId, Option<Session>), UserError> {
        let localpart = account.localpart.unwrap_or_else(super::token::localpart);
        let user = self.id_of(&localpart)?;
        if let Some(device) = &device {
            device.check()?;
        }
        // A look before the hash, so that a taken name costs nothing; the write looks again.
        let (name, proof, now) = (user.clone(), account.proof.clone(), self.clock.now_ms());
        self.store
            .read(move |tx: &ReadTx<'_>| {
                if schema::users::find(tx, name.as_str())?.is_some() {
                    return Err(UserError::NameTaken);
                }
                match &proof {
                    Proof::Token(token) if !schema::users::registration_token_valid(tx, token, now)? => {
                        Err(UserError::BadRegistrationToken)
                    }
                    _ => Ok(()),
                }
            })
            .await?;
        let password = match &account.password {
            Some(password) => Some(self.passwords.hash(password).await?),
            None => None,
        };
        let (name, hooks) = (user.clone(), self.hooks);
        let session = self
            .store
            .write(move |tx: &mut WriteTx<'_>| {
                if let Proof::Token(token) = &account.proof
                    && !schema::users::use_registration_token(tx, token, now)?
                {
                    return Err(UserError::BadRegistrationToken);
                }
                if schema::users::find(tx, name.as_str())?.is_some() {
                    return Err(UserError::NameTaken);
                }
                let nid = user_nid(tx, &name)?;
                schema::users::insert(tx, nid, password.as_deref(), now)?;
                schema::accounts::set_flag(tx, nid, Flag::Admin, account.admin)?;
                schema::accounts::set_flag(tx, nid, Flag::Guest, account.guest)?;
                schema::accounts::set_kind(tx, nid, account.kind.as_deref())?;
                if let Some((provider, subject)) = &account.upstream {
                    if schema::oauth::upstream(tx, provider, subject)?.is_some() {
                        // Twice at once: the first has it.
                        return Err(UserError::NameTaken);
                    }
                    schema::oauth::put_upstream(tx, provider, subject, nid)?;
                }
                if let Some(version) = &account.consent {
                    schema::accounts::set_consent(tx, nid, version)?;
                }
                if let Some(email) = &account.email {
                    email.give_to(tx, nid, now)?;
                }
                // Clients show the local part until the user chooses a name; so do room-mates and searches.
                let shown = account.displayname.as_deref().unwrap_or_else(|| name.localpart());
                let shown = serde_json::Value::from(shown).to_string();
                schema::users::set_profile(tx, nid, "displayname", Some(&shown))?;
                device.map(|device| open_session(tx, hooks, &name, nid, device, now)).transpose()
            })
            .await?;
        Ok((user, session))
    }

    /// Whether a name could be registered; says why not.
    pub async fn available(&self, localpart: &str) -> Result<(), UserError> {
        let user = self.id_of(localpart)?;
        self.store
            .read(move |tx: &ReadTx<'_>| match schema::users::find(tx, user.as_str())? {
                Some(_) => Err(UserError::NameTaken),
                None => Ok(()),
            })
            .await
    }

    /// Whether this user has an account here that is not deactivated.
    pub async fn exists(&self, user: &UserId) -> Result<bool, UserError> {
        let user = user.to_owned();
        self.store
            .read(move |tx: &ReadTx<'_>| match active(tx, &user) {
                Ok(_) => Ok(true),
                Err(UserError::NoUser | UserError::Deactivated) => Ok(false),
                Err(other) => Err(other),
            })
            .await
    }

    /// Checks a password.
    pub async fn check_password(&self, user: &UserId, password: &str) -> Result<(), UserError> {
        let (user, name) = (user.to_owned(), user.to_owned());
        let row = self
            .store
            .read(move |tx: &ReadTx<'_>| Ok::<_, UserError>(schema::users::find(tx, user.as_str())?))
            .await?;
        if row.as_ref().is_some_and(|row| row.deactivated) {
            // Still hashed, so that it takes as long as a wrong password.
            let _ = self.passwords.verify(password, None).await;
            return Err(UserError::Deactivated);
        }
        let stored = row.and_then(|row| row.password);
        let old = stored.as_deref().is_some_and(super::password::is_imported);
        self.passwords.verify(password, stored).await?;
        if old {
            // From Synapse: from now on as ours are. Its length may break our rules; the user chose it under others.
            let hash = self.passwords.hash_any(password).await?;
            self.store
                .write(move |tx: &mut WriteTx<'_>| {
                    let nid = active(tx, &name)?;
                    Ok::<_, UserError>(schema::users::set_password(tx, nid, Some(&hash))?)
                })
                .await?;
        }
        Ok(())
    }

    /// Sets a password's hash as another server had it: argon2 (PHC string) or bcrypt.
    pub async fn import_password(&self, user: &UserId, hash: &str) -> Result<(), UserError> {
        if !super::password::is_hash(hash) {
            return Err(UserError::Invalid(
                "a password hash is an argon2 PHC string or bcrypt's $2b$..".into(),
            ));
        }
        let (name, hash) = (user.to_owned(), hash.to_owned());
        self.store
            .write(move |tx: &mut WriteTx<'_>| {
                let nid = active(tx, &name)?;
                Ok(schema::users::set_password(tx, nid, Some(&hash))?)
            })
            .await
    }

    /// Sets a password. With `end_others` every device but `keep` is logged out.
    pub async fn set_password(
        &self,
        user: &UserId,
        password: &str,
        end_others: bool,
        keep: Option<&DeviceId>,
    ) -> Result<(), UserError> {
        let hash = self.passwords.hash(password).await?;
        let name = user.to_owned();
        self.store
            .write(move |tx: &mut WriteTx<'_>| {
                let nid = active(tx, &name)?;
                schema::users::set_password(tx, nid, Some(&hash))?;
                Ok::<_, UserError>(())
            })
            .await?;
        if end_others {
            self.browsers_forget(user);
            self.logout_all(user, keep).await?;
        }
        Ok(())
    }

    /// Ends an account: its devices, tokens, addresses and password go, its name stays taken. Leaving its rooms is for
    /// whoever knows rooms. With `erase` its words are no longer shown to those who were not there when it said them.
    pub async fn deactivate(&self, user: &UserId, erase: bool) -> Result<(), UserError> {
        self.logout_all(user, None).await?;
        let (name, hooks) = (user.to_owned(), self.hooks);
        self.store
            .write(move |tx: &mut WriteTx<'_>| {
                let nid = active(tx, &name)?;
                // A log-in may have come between.
                super::devices::remove_all(tx, hooks, &name, nid, None)?;
                for (field, _) in schema::users::profile(tx, nid)? {
                    schema::users::set_profile(tx, nid, &field, None)?;
                }
                schema::users::deactivate(tx, nid)?;
                schema::accounts::set_flag(tx, nid, Flag::Erased, erase)?;
                Ok::<_, UserError>(())
            })
            .await?;
        self.tokens.forget_user(user);
        self.browsers_forget(user);
        Ok(())
    }

    /// All accounts.
    pub async fn accounts(&self) -> Result<Vec<Account>, UserError> {
        self.store
            .read(move |tx: &ReadTx<'_>| {
                let mut accounts = Vec::new();
                for row in schema::users::all(tx)? {
                    let Ok(user) = UserId::parse(&*tx.text(row.user)?) else {
                        continue;
                    };
                    accounts.push(Account {
                        user,
                        made_ms: row.made_ms,
                        deactivated: row.deactivated,
                        devices: schema::users::devices(tx, row.user)?.len(),
                    });
                }
                Ok::<_, UserError>(accounts)
            })
            .await
    }

    /// The user whom somebody means by a name: a whole id or the local part.
    pub fn named(&self, typed: &str) -> Result<OwnedUserId, UserError> {
        let user = UserId::parse_with_server_name(typed, &self.name).map_err(|_| UserError::InvalidName)?;
        if user.server_name() == self.name { Ok(user) } else { Err(UserError::NoUser) }
    }
}
