//! Whether one stage's proof holds.

use std::sync::Arc;

use ruma::api::client::uiaa::{AuthData, UserIdentifier};

use super::{Needed, Proven, user_id};
use crate::{error::Error, http::auth::Origin, server::Server, user::UserError};

/// Checks one proof. The inner error is told to the client beside what is still asked; the outer one ends the request.
pub(super) async fn check(
    server: &Arc<Server>,
    needed: &Needed<'_>,
    origin: &Origin,
    auth: &AuthData,
    proven: &mut Proven,
) -> Result<Result<(), String>, Error> {
    match auth {
        AuthData::Dummy(_) | AuthData::Terms(_) => Ok(Ok(())),
        AuthData::Password(proof) => {
            let Some(caller) = needed.caller else {
                return Ok(Err("there is no password to prove yet".into()));
            };
            let named = match &proof.identifier {
                UserIdentifier::Matrix(matrix) => user_id(server, &matrix.user),
                UserIdentifier::Email(email) => server.users.by_email(&email.address).await?,
                _ => None,
            };
            // spec: the account that is proven has to be the one that asks; Complement wants 403.
            if named.as_deref() != Some(&*caller.user) {
                return Err(Error::forbidden("that is not the account you are logged in to"));
            }
            server.limits.take_login(&caller.user, origin.page.as_deref())?;
            match server.users.check_password(&caller.user, &proof.password).await {
                Ok(()) => Ok(Ok(())),
                Err(UserError::WrongPassword) => Ok(Err("the password is wrong".into())),
                Err(other) => Err(other.into()),
            }
        }
        AuthData::RegistrationToken(proof) => {
            if !server.users.registration_token_valid(&proof.token).await? {
                return Ok(Err(UserError::BadRegistrationToken.to_string()));
            }
            proven.token = Some(proof.token.clone());
            Ok(Ok(()))
        }
        AuthData::ReCaptcha(proof) => Ok(super::registration::captcha(server, &proof.response, origin).await),
        AuthData::EmailIdentity(proof) => {
            let creds = &proof.thirdparty_id_creds;
            match server.users.proven_address(creds.sid.as_str(), creds.client_secret.as_str()).await {
                Ok(address) => {
                    proven.email = Some(address);
                    Ok(Ok(()))
                }
                Err(error @ UserError::NotProven) => Ok(Err(error.to_string())),
                Err(other) => Err(other.into()),
            }
        }
        AuthData::OAuth(_) => Ok(match needed.caller {
            Some(caller) if server.users.may_reset_identity(&caller.user) => Ok(()),
            _ => Err("open the page first and allow it there".into()),
        }),
        _ => Ok(Err("this server does not know that stage".into())),
    }
}
