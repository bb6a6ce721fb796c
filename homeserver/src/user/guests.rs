//! Guests: accounts without name and password, and how one becomes an ordinary account.
// spec: https://spec.matrix.org/v1.19/client-server-api/#guest-access

use ruma::OwnedUserId;

use super::{Flag, NewAccount, NewDevice, Proof, Session, UserError, Users, active, sessions::open_session};
use crate::store::{WriteTx, schema};

impl Users {
    /// Makes a guest account and logs it in.
    pub async fn register_guest(
        &self,
        device_name: Option<String>,
    ) -> Result<(OwnedUserId, Session), UserError> {
        let account = NewAccount { guest: true, ..NewAccount::new(Proof::Open) };
        let device = NewDevice { name: device_name, ..NewDevice::default() };
        match self.register(account, Some(device)).await? {
            (user, Some(session)) => Ok((user, session)),
            (_, None) => Err(UserError::NoDevice),
        }
    }

    /// Turns a guest into an ordinary account: its name stays, it gets a password, its guest's token ends.
    pub async fn upgrade_guest(
        &self,
        guest_token: &str,
        username: &str,
        password: &str,
        proof: Proof,
        device: Option<NewDevice>,
    ) -> Result<(OwnedUserId, Option<Session>), UserError> {
        let user = self.id_of(&username.to_lowercase())?;
        let known = self.by_token(guest_token).await?;
        if !known.is_some_and(|access| access.caller.user == user && access.standing.guest) {
            return Err(UserError::Invalid(
                "the guest's access token and user name do not belong together".into(),
            ));
        }
        if let Some(device) = &device {
            device.check()?;
        }
        let hash = self.passwords.hash(password).await?;
        let (name, hooks, now) = (user.clone(), self.hooks, self.clock.now_ms());
        let session = self
            .store
            .write(move |tx: &mut WriteTx<'_>| {
                let nid = active(tx, &name)?;
                if let Proof::Token(token) = &proof
                    && !schema::users::use_registration_token(tx, token, now)?
                {
                    return Err(UserError::BadRegistrationToken);
                }
                super::devices::remove_all(tx, hooks, &name, nid, None)?;
                schema::users::set_password(tx, nid, Some(&hash))?;
                schema::accounts::set_flag(tx, nid, Flag::Guest, false)?;
                device.map(|device| open_session(tx, hooks, &name, nid, device, now)).transpose()
            })
            .await?;
        self.tokens.forget_user(&user);
        Ok((user, session))
    }
}
