//! Log-ins: a device, its access token, and who a token speaks for.

use std::{
    collections::HashMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use ruma::{DeviceId, OwnedDeviceId, OwnedUserId, UserId};

use super::{
    DeviceHooks, LocalUser, Standing, UserError, Users, active, devices, refresh::give_tokens, token,
};
use crate::store::{Kind, Nid, ReadTx, StoreError, WriteTx, schema};

/// The device that somebody logs in on.
#[derive(Clone, Debug, Default)]
pub struct NewDevice {
    /// An id it had before; `None`: a new one.
    pub id: Option<OwnedDeviceId>,
    /// What to call it, if it is new.
    pub name: Option<String>,
    /// Whether the client knows refresh tokens: its access tokens then end by themselves.
    pub refresh: bool,
    /// The OAuth client that it is made by, and the scope granted.
    pub client: Option<(String, String)>,
}

impl NewDevice {
    pub(super) fn check(&self) -> Result<(), UserError> {
        let fits = self.id.as_ref().is_none_or(|id| (1..=DEVICE_ID_BYTES_MAX).contains(&id.as_str().len()));
        if !fits {
            return Err(UserError::Invalid("a device id has 1 to 255 bytes".into()));
        }
        devices::check_name(self.name.as_deref())
    }
}

/// A log-in that worked.
#[derive(Clone, Debug)]
pub struct Session {
    /// The user.
    pub user: OwnedUserId,
    /// The device.
    pub device: OwnedDeviceId,
    /// What the client shows from now on. Only its hash is kept.
    pub access_token: String,
    /// What makes the next access token, if the client knows such.
    pub refresh_token: Option<String>,
    /// How long the access token is good.
    pub expires_in: Option<Duration>,
}

/// Who a token speaks for, and what that account may do.
#[derive(Clone, Debug)]
pub struct Access {
    /// The user and device.
    pub caller: LocalUser,
    /// What the account may do.
    pub standing: Standing,
    /// When the token ends by itself.
    pub expires_ms: Option<u64>,
}

impl Users {
    /// Checks a password and logs a device in.
    pub async fn login(
        &self,
        user: &UserId,
        password: &str,
        device: NewDevice,
    ) -> Result<Session, UserError> {
        device.check()?;
        self.check_password(user, password).await?;
        self.open(user, device).await
    }

    /// Logs a device in, for a user who has proven to be it.
    pub(super) async fn open(&self, user: &UserId, device: NewDevice) -> Result<Session, UserError> {
        let (name, hooks, now) = (user.to_owned(), self.hooks, self.clock.now_ms());
        let session = self
            .store
            .write(move |tx: &mut WriteTx<'_>| {
                let nid = active(tx, &name)?;
                if schema::accounts::standing(tx, nid)?.locked {
                    return Err(UserError::Locked);
                }
                open_session(tx, hooks, &name, nid, device, now)
            })
            .await?;
        // The device's earlier token has ended.
        self.tokens.forget_device(user, &session.device);
        Ok(session)
    }

    /// Logs a device in for whoever has proven elsewhere that they may: an application service for a user of its own.
    pub async fn login_without_proof(&self, user: &UserId, device: NewDevice) -> Result<Session, UserError> {
        device.check()?;
        let (name, hooks, now) = (user.to_owned(), self.hooks, self.clock.now_ms());
        let session = self
            .store
            .write(move |tx: &mut WriteTx<'_>| {
                let nid = active(tx, &name)?;
                open_session(tx, hooks, &name, nid, device, now)
            })
            .await?;
        self.tokens.forget_device(user, &session.device);
        Ok(session)
    }

    /// Makes a device without a token: an application service speaks for it with its own (MSC4190). True if it is new.
    pub async fn make_device(
        &self,
        user: &UserId,
        id: &DeviceId,
        name: Option<String>,
    ) -> Result<bool, UserError> {
        let device = NewDevice { id: Some(id.to_owned()), name, ..NewDevice::default() };
        device.check()?;
        let (user, id, hooks, now) = (user.to_owned(), id.to_owned(), self.hooks, self.clock.now_ms());
        self.store
            .write(move |tx: &mut WriteTx<'_>| {
                let nid = active(tx, &user)?;
                let number = tx.intern(Kind::Device, id.as_str())?;
                if schema::users::device(tx, nid, number)?.is_some() {
                    return Ok(false);
                }
                schema::users::put_device(tx, nid, number, device.name.as_deref(), now)?;
                (hooks.changed)(tx, &user, &id)?;
                Ok(true)
            })
            .await
    }

    /// Whose access token this is; an expired one is told apart, since its device may come back.
    pub async fn by_token(&self, token: &str) -> Result<Option<Access>, UserError> {
        if token.is_empty() || token.len() > TOKEN_BYTES_MAX {
            return Ok(None);
        }
        let (hash, now) = (token::hash(token), self.clock.now_ms());
        if let Some(known) = self.tokens.find(&hash) {
            return in_time(known, now).map(Some);
        }
        let before = self.tokens.ended();
        let found = self
            .store
            .read(move |tx: &ReadTx<'_>| {
                let Some(row) = schema::accounts::access_token(tx, &hash)? else {
                    return Ok(None);
                };
                let user = UserId::parse(&*tx.text(row.user)?)
                    .map_err(|_| StoreError::Corrupt("a token of no user"))?;
                let device = OwnedDeviceId::from(&*tx.text(row.device)?);
                let access = Access {
                    caller: LocalUser { user, device },
                    standing: schema::accounts::standing(tx, row.user)?,
                    expires_ms: row.expires_ms,
                };
                Ok::<_, UserError>(Some((access, row)))
            })
            .await?;
        let Some((access, row)) = found else { return Ok(None) };
        let access = in_time(access, now)?;
        if let Some(replaced) = row.replaces {
            // The first use of a token that came by a refresh: what it was made of ends now.
            self.store
                .write(move |tx: &mut WriteTx<'_>| {
                    Ok::<_, UserError>(schema::accounts::confirm_refresh(
                        tx, row.user, row.device, &replaced,
                    )?)
                })
                .await?;
            self.tokens.forget_device(&access.caller.user, &access.caller.device);
        } else {
            self.tokens.insert(hash, access.clone(), before);
        }
        Ok(Some(access))
    }

    /// Whether it is time to note again that a device was heard of: once in [`SEEN_EVERY_MS`].
    pub fn seen_due(&self, caller: &LocalUser) -> bool {
        self.tokens.due(caller, self.clock.now_ms())
    }

    /// Notes when and where a device is heard of.
    pub async fn seen(&self, caller: &LocalUser, ip: Option<String>) -> Result<(), UserError> {
        let now = self.clock.now_ms();
        let caller = caller.clone();
        self.store
            .write(move |tx: &mut WriteTx<'_>| {
                let user = tx.intern(Kind::User, caller.user.as_str())?;
                let device = tx.intern(Kind::Device, caller.device.as_str())?;
                schema::users::saw_device(tx, user, device, now, ip.as_deref())?;
                Ok(())
            })
            .await
    }

    /// Logs one device out; it is gone then.
    pub async fn logout(&self, user: &UserId, device: &DeviceId) -> Result<(), UserError> {
        match self.delete_devices(user, &[device.to_owned()]).await {
            Ok(()) | Err(UserError::NoDevice) => Ok(()),
            Err(other) => Err(other),
        }
    }

    /// Logs every device out, but for `keep`.
    pub async fn logout_all(&self, user: &UserId, keep: Option<&DeviceId>) -> Result<(), UserError> {
        let (name, hooks, keep) = (user.to_owned(), self.hooks, keep.map(ToOwned::to_owned));
        self.store
            .write(move |tx: &mut WriteTx<'_>| {
                let nid = active(tx, &name)?;
                devices::remove_all(tx, hooks, &name, nid, keep.as_deref())
            })
            .await?;
        self.tokens.forget_user(user);
        Ok(())
    }

    /// A token that proves to third parties who the user is, and nothing else; good for `for_ms`.
    pub async fn openid_token(&self, user: &UserId, for_ms: u64) -> Result<String, UserError> {
        let (name, now) = (user.to_owned(), self.clock.now_ms());
        let token = token::random();
        let hash = token::hash(&token);
        self.store
            .write(move |tx: &mut WriteTx<'_>| {
                let nid = active(tx, &name)?;
                schema::users::put_openid(tx, nid, &hash, now, now + for_ms)?;
                Ok::<_, UserError>(())
            })
            .await?;
        Ok(token)
    }

    /// Whom an OpenID token speaks for: asked over federation.
    pub async fn by_openid_token(&self, token: &str) -> Result<Option<OwnedUserId>, UserError> {
        let (hash, now) = (token::hash(token), self.clock.now_ms());
        self.store
            .read(move |tx: &ReadTx<'_>| {
                let Some(user) = schema::users::by_openid(tx, &hash, now)? else {
                    return Ok(None);
                };
                Ok(UserId::parse(&*tx.text(user)?).ok())
            })
            .await
    }
}

/// Makes (or takes up again) a device and gives it a token, in the caller's write.
pub(super) fn open_session(
    tx: &mut WriteTx<'_>,
    hooks: DeviceHooks,
    user: &UserId,
    user_nid: Nid,
    device: NewDevice,
    now_ms: u64,
) -> Result<Session, UserError> {
    let id = device.id.unwrap_or_else(token::device_id);
    let nid = tx.intern(Kind::Device, id.as_str())?;
    if schema::users::device(tx, user_nid, nid)?.is_none()
        && schema::users::devices(tx, user_nid)?.len() >= DEVICES_MAX
    {
        return Err(UserError::TooLarge("this account has 500 devices; log some of them out first".into()));
    }
    let new = schema::users::put_device(tx, user_nid, nid, device.name.as_deref(), now_ms)?;
    schema::accounts::set_device_client(tx, user_nid, nid, device.client.as_ref())?;
    schema::users::remove_tokens(tx, user_nid, nid)?;
    let tokens = give_tokens(tx, (user_nid, nid), device.refresh, now_ms, None)?;
    if new {
        (hooks.changed)(tx, user, &id)?;
    }
    Ok(tokens.session(user.to_owned(), id))
}

fn in_time(access: Access, now_ms: u64) -> Result<Access, UserError> {
    match access.expires_ms {
        Some(end) if end <= now_ms => Err(UserError::ExpiredToken),
        _ => Ok(access),
    }
}

/// Tokens seen lately, so that a request need not ask the database who it is. Entries go when a token ends, after the
/// commit that ended it.
#[derive(Default)]
pub(super) struct TokenCache {
    known: Mutex<Known>,
    /// Counts endings: what was read before one must not be put in after it.
    ended: AtomicU64,
}

#[derive(Default)]
struct Known {
    by_hash: HashMap<[u8; 32], Access>,
    seen_ms: HashMap<(OwnedUserId, OwnedDeviceId), u64>,
}

impl TokenCache {
    fn lock(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, hash: &[u8; 32]) -> Option<Access> {
        self.lock().by_hash.get(hash).cloned()
    }

    fn ended(&self) -> u64 {
        self.ended.load(Ordering::Acquire)
    }

    fn insert(&self, hash: [u8; 32], access: Access, before: u64) {
        let mut known = self.lock();
        if self.ended() != before {
            return;
        }
        if known.by_hash.len() >= TOKENS_CACHED_MAX {
            known.by_hash.clear();
        }
        known.by_hash.insert(hash, access);
    }

    fn due(&self, caller: &LocalUser, now_ms: u64) -> bool {
        let mut known = self.lock();
        if known.seen_ms.len() >= TOKENS_CACHED_MAX {
            known.seen_ms.clear();
        }
        let key = (caller.user.clone(), caller.device.clone());
        let last = known.seen_ms.entry(key).or_insert(0);
        let due = now_ms.saturating_sub(*last) >= SEEN_EVERY_MS;
        if due {
            *last = now_ms;
        }
        due
    }

    pub(super) fn forget_device(&self, user: &UserId, device: &DeviceId) {
        let mut known = self.lock();
        self.ended.fetch_add(1, Ordering::AcqRel);
        known.by_hash.retain(|_, entry| entry.caller.user != user || entry.caller.device != device);
    }

    pub(super) fn forget_user(&self, user: &UserId) {
        let mut known = self.lock();
        self.ended.fetch_add(1, Ordering::AcqRel);
        known.by_hash.retain(|_, entry| entry.caller.user != user);
    }
}

/// Ours have 32 characters.
const TOKEN_BYTES_MAX: usize = 128;
/// The specification's bound on opaque ids.
const DEVICE_ID_BYTES_MAX: usize = 255;
/// Devices of one account: far more than anybody has, few enough to list.
const DEVICES_MAX: usize = 500;
/// Tokens remembered: some 200 bytes each.
const TOKENS_CACHED_MAX: usize = 4_096;
/// How fresh "last seen" is: one small write per device in ten minutes.
const SEEN_EVERY_MS: u64 = 600_000;
