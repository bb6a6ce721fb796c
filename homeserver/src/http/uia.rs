//! User-interactive authentication: what has to be proven before an account is made or an important thing changed.
//!
//! Every flow we offer has one stage, so a request that carries its proof is complete in itself. A session is therefore
//! only a name that the client hands back: nothing is remembered for a stranger, and nothing can be filled up.
// spec: https://spec.matrix.org/v1.19/client-server-api/#user-interactive-authentication-api

use std::sync::Arc;

use ruma::{
    UserId,
    api::{
        client::uiaa::{AuthData, AuthFlow, AuthType, UiaaInfo, UserIdentifier},
        error::{ErrorKind, StandardErrorBody},
    },
};

use crate::{
    error::Error,
    http::auth::{LocalUser, Origin},
    server::{Registration, Server},
    user::{Proof, UserError, token},
};

/// Asks for the caller's password, unless it was sent along and is right.
pub async fn password(
    server: &Arc<Server>,
    caller: &LocalUser,
    origin: &Origin,
    auth: Option<&AuthData>,
) -> Result<(), Error> {
    let flows = [AuthType::Password];
    let Some(AuthData::Password(proof)) = auth else {
        return Err(ask(&flows, auth, None));
    };
    let named = match &proof.identifier {
        UserIdentifier::Matrix(matrix) => user_id(server, &matrix.user),
        _ => None,
    };
    if named.as_deref() != Some(&*caller.user) {
        return Err(ask(&flows, auth, Some("that is not the account you are logged in to")));
    }
    server.limits.take_login(&caller.user, origin.page.as_deref())?;
    match server.users.check_password(&caller.user, &proof.password).await {
        Ok(()) => Ok(()),
        Err(UserError::WrongPassword) => Err(ask(&flows, auth, Some("the password is wrong"))),
        Err(other) => Err(other.into()),
    }
}

/// Asks for whatever this node wants to see before it makes an account.
pub fn registration(server: &Arc<Server>, auth: Option<&AuthData>) -> Result<Proof, Error> {
    match (server.settings.registration, auth) {
        (Registration::Closed, _) => Err(Error::forbidden(
            "this node takes no registrations; its owner makes accounts with `mangrove account create NAME`",
        )),
        (Registration::Open, Some(AuthData::Dummy(_))) => Ok(Proof::Open),
        (_, Some(AuthData::RegistrationToken(proof))) => Ok(Proof::Token(proof.token.clone())),
        (Registration::Open, auth) => Err(ask(&[AuthType::Dummy, AuthType::RegistrationToken], auth, None)),
        (Registration::Token, auth) => Err(ask(&[AuthType::RegistrationToken], auth, None)),
    }
}

/// Asks again for a registration token after the one given was no good.
pub fn bad_registration_token(auth: Option<&AuthData>) -> Error {
    ask(
        &[AuthType::RegistrationToken],
        auth,
        Some("this registration token is not valid, or was used before"),
    )
}

/// The answer that lists what may be proven, one stage to a flow.
fn ask(stages: &[AuthType], auth: Option<&AuthData>, wrong: Option<&str>) -> Error {
    let mut info = UiaaInfo::new(stages.iter().map(|stage| AuthFlow::new(vec![stage.clone()])).collect());
    info.session = Some(
        auth.and_then(AuthData::session)
            .filter(|session| session.len() <= SESSION_CHARS_MAX)
            .map_or_else(token::random, str::to_owned),
    );
    info.params = serde_json::value::to_raw_value(&serde_json::json!({})).ok();
    info.auth_error =
        wrong.map(|text| Box::new(StandardErrorBody::new(ErrorKind::Forbidden, text.to_owned())));
    Error::Uiaa(Box::new(info))
}

/// A user as people type it: a whole id, or the local part alone.
pub fn user_id(server: &Arc<Server>, typed: &str) -> Option<ruma::OwnedUserId> {
    let user = UserId::parse_with_server_name(typed, &server.name).ok()?;
    (user.server_name() == server.name).then_some(user)
}

/// Longer session names are none of ours.
const SESSION_CHARS_MAX: usize = 128;
