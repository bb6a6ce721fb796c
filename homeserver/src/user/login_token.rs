//! Log-in tokens: one device lets another one in, or an outside provider vouched for the user.
// spec: https://spec.matrix.org/v1.19/client-server-api/#token-based-login

use ruma::UserId;

use super::{NewDevice, Session, UserError, Users, active, sessions::open_session, token};
use crate::store::{StoreError, WriteTx, schema};

impl Users {
    /// A token that logs its user in once, within [`LOGIN_TOKEN_MS`].
    pub async fn make_login_token(&self, user: &UserId) -> Result<String, UserError> {
        let (name, now, text) = (user.to_owned(), self.clock.now_ms(), token::random());
        let hash = token::hash(&text);
        self.store
            .write(move |tx: &mut WriteTx<'_>| {
                let nid = active(tx, &name)?;
                schema::accounts::put_login_token(tx, nid, &hash, now, now + LOGIN_TOKEN_MS)?;
                Ok::<_, UserError>(())
            })
            .await?;
        Ok(text)
    }

    /// Logs an administrator in as a user, on a device that says so.
    pub async fn login_as(&self, user: &UserId, name: String) -> Result<Session, UserError> {
        self.open(user, NewDevice { name: Some(name), ..NewDevice::default() }).await
    }

    /// Logs a device in with a log-in token, which is used up.
    pub async fn login_by_token(&self, login_token: &str, device: NewDevice) -> Result<Session, UserError> {
        device.check()?;
        let (hash, hooks, now) = (token::hash(login_token), self.hooks, self.clock.now_ms());
        let session = self
            .store
            .write(move |tx: &mut WriteTx<'_>| {
                let user = schema::accounts::take_login_token(tx, &hash, now)?;
                let user = user.ok_or(UserError::BadLoginToken)?;
                let name = UserId::parse(&*tx.text(user)?)
                    .map_err(|_| StoreError::Corrupt("a log-in token of no user"))?;
                active(tx, &name)?;
                if schema::accounts::standing(tx, user)?.locked {
                    return Err(UserError::Locked);
                }
                open_session(tx, hooks, &name, user, device, now)
            })
            .await?;
        self.tokens.forget_device(&session.user, &session.device);
        Ok(session)
    }
}

/// How long a log-in token is good: what the specification recommends.
pub const LOGIN_TOKEN_MS: u64 = 120_000;
