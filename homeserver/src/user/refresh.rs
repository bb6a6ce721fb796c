//! Access tokens that end by themselves, and the refresh tokens that make the next ones.
//!
//! ```text
//! log-in -> (A1, R1)
//! refresh R1 -> (A2, R2), both marked "in place of R1"; A1 and R1 still work, since the answer may be lost
//! refresh R1 again -> (A2', R2'); A2 and R2 end
//! first use of A2' or R2' -> R1 and A1 end, the marks go
//! ```
// spec: https://spec.matrix.org/v1.19/client-server-api/#refreshing-access-tokens

use std::time::Duration;

use ruma::{OwnedDeviceId, OwnedUserId, UserId};

use super::{LocalUser, Session, UserError, Users, active, token};
use crate::store::{Kind, Nid, ReadTx, StoreError, WriteTx, schema};

impl Users {
    /// Makes the next pair of tokens of a device.
    pub async fn refresh(&self, refresh_token: &str) -> Result<Session, UserError> {
        Ok(self.refresh_for(refresh_token, None).await?.0)
    }

    /// [`Users::refresh`] for an OAuth client, which has to be the one the device was made by; also gives the scope.
    pub async fn refresh_for(
        &self,
        refresh_token: &str,
        client: Option<&str>,
    ) -> Result<(Session, String), UserError> {
        let (hash, now, client) =
            (token::hash(refresh_token), self.clock.now_ms(), client.map(ToOwned::to_owned));
        let (session, scope) = self
            .store
            .write(move |tx: &mut WriteTx<'_>| {
                let row = schema::accounts::refresh_token(tx, &hash)?.ok_or(UserError::BadRefreshToken)?;
                if row.expires_ms.is_some_and(|end| end <= now) {
                    return Err(UserError::BadRefreshToken);
                }
                if schema::accounts::standing(tx, row.user)?.locked {
                    return Err(UserError::Locked);
                }
                let made_by = schema::accounts::device_client(tx, row.user, row.device)?;
                if client.is_some() && made_by.as_ref().map(|(made_by, _)| made_by) != client.as_ref() {
                    return Err(UserError::BadRefreshToken);
                }
                if let Some(older) = row.replaces {
                    schema::accounts::confirm_refresh(tx, row.user, row.device, &older)?;
                }
                schema::accounts::forget_unused(tx, &hash)?;
                let tokens = give_tokens(tx, (row.user, row.device), true, now, Some(&hash))?;
                let user = UserId::parse(&*tx.text(row.user)?)
                    .map_err(|_| StoreError::Corrupt("a token of no user"))?;
                let device = OwnedDeviceId::from(&*tx.text(row.device)?);
                let scope = made_by.map(|(_, scope)| scope).unwrap_or_default();
                Ok((tokens.session(user, device), scope))
            })
            .await?;
        self.tokens.forget_device(&session.user, &session.device);
        Ok((session, scope))
    }
}

impl Users {
    /// The device that a refresh token belongs to.
    pub(super) async fn device_of_refresh_token(
        &self,
        shown: &str,
    ) -> Result<Option<(OwnedUserId, OwnedDeviceId)>, UserError> {
        let hash = token::hash(shown);
        self.store
            .read(move |tx: &ReadTx<'_>| {
                let Some(row) = schema::accounts::refresh_token(tx, &hash)? else { return Ok(None) };
                let user = UserId::parse(&*tx.text(row.user)?)
                    .map_err(|_| StoreError::Corrupt("a token of no user"))?;
                Ok(Some((user, OwnedDeviceId::from(&*tx.text(row.device)?))))
            })
            .await
    }

    /// Whether a device was made by an OAuth client: such clients prove things on the account page.
    pub async fn is_oauth_device(&self, caller: &LocalUser) -> Result<bool, UserError> {
        let caller = caller.clone();
        self.store
            .read(move |tx: &ReadTx<'_>| {
                let user = active(tx, &caller.user)?;
                let Some(device) = tx.lookup(Kind::Device, caller.device.as_str())? else { return Ok(false) };
                Ok(schema::accounts::device_client(tx, user, device)?.is_some())
            })
            .await
    }
}

/// Tokens as they were given out.
pub(super) struct Tokens {
    access: String,
    refresh: Option<String>,
    expires_in: Option<Duration>,
}

impl Tokens {
    pub(super) fn session(self, user: OwnedUserId, device: OwnedDeviceId) -> Session {
        Session {
            user,
            device,
            access_token: self.access,
            refresh_token: self.refresh,
            expires_in: self.expires_in,
        }
    }
}

/// Makes an access token, and a refresh token with it if the client knows such, in the caller's write.
pub(super) fn give_tokens(
    tx: &mut WriteTx<'_>,
    (user, device): (Nid, Nid),
    refresh: bool,
    now_ms: u64,
    replaces: Option<&[u8; 32]>,
) -> Result<Tokens, StoreError> {
    let replaces = replaces.map(<[u8; 32]>::as_slice);
    let access = token::random();
    let expires_ms = refresh.then_some(now_ms + ACCESS_TOKEN_MS);
    schema::accounts::add_access_token(tx, user, device, &token::hash(&access), expires_ms, replaces)?;
    let refresh = match refresh {
        true => {
            let refresh = token::random();
            let hash = token::hash(&refresh);
            schema::accounts::add_refresh_token(tx, user, device, &hash, None, replaces)?;
            Some(refresh)
        }
        false => None,
    };
    let expires_in = refresh.is_some().then_some(Duration::from_millis(ACCESS_TOKEN_MS));
    Ok(Tokens { access, refresh, expires_in })
}

/// How long an access token with a refresh token is good: what a thief of one has. Five minutes, as elsewhere; a refresh
/// costs one small write.
pub(super) const ACCESS_TOKEN_MS: u64 = 300_000;
