//! User-interactive authentication: what has to be proven before an account is made or an important thing changed.
//!
//! A request names the stage it proves; once all stages of one flow are proven, it goes through. What was proven is
//! remembered under the session's name only while a flow needs more than that: a flow of one stage costs a stranger's
//! request no memory.
// spec: https://spec.matrix.org/v1.19/client-server-api/#user-interactive-authentication-api

mod registration;
mod sessions;
mod stages;

use std::sync::Arc;

use ruma::{
    OwnedUserId, UserId,
    api::{
        client::uiaa::{AuthData, AuthFlow, AuthType, UiaaInfo},
        error::{ErrorKind, StandardErrorBody},
    },
};
use serde_json::{Map, Value};

pub use self::{
    registration::{Registered, bad_registration_token, registration, stages as registration_stages},
    sessions::{Proven, Sessions},
};
use crate::{
    error::{Error, RequestError},
    http::auth::{LocalUser, Origin},
    server::Server,
};

/// What has to be proven, and for what.
pub(super) struct Needed<'a> {
    /// What is to be done, and by whom: a session is good for one thing.
    operation: String,
    /// Ways through; one of them has to be gone to its end.
    flows: Vec<Vec<AuthType>>,
    /// What clients need to know to prove a stage.
    params: Map<String, Value>,
    /// Whose password is asked for.
    caller: Option<&'a LocalUser>,
}

/// Asks for the caller's password, or, where it came in by an outside provider, for that.
pub async fn password(
    server: &Arc<Server>,
    caller: &LocalUser,
    origin: &Origin,
    auth: Option<&AuthData>,
) -> Result<(), Error> {
    let needed = Needed {
        operation: format!("password {}", caller.user),
        flows: vec![vec![AuthType::Password]],
        params: Map::new(),
        caller: Some(caller),
    };
    prove(server, &needed, origin, auth).await.map(drop)
}

/// Asks for what a new cross-signing identity needs: of OAuth's clients leave on the account page, of others the
/// password.
// spec: https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3keysdevice_signingupload
pub async fn new_identity(
    server: &Arc<Server>,
    caller: &LocalUser,
    origin: &Origin,
    auth: Option<&AuthData>,
) -> Result<(), Error> {
    let base = crate::api::oauth::base(server);
    let Some(base) = base else { return password(server, caller, origin, auth).await };
    if !server.users.is_oauth_device(caller).await? {
        return password(server, caller, origin, auth).await;
    }
    if server.users.may_reset_identity(&caller.user) {
        return Ok(());
    }
    let page = format!("{base}{}?action=org.matrix.cross_signing_reset", crate::api::oauth::ACCOUNT_PATH);
    let mut params = Map::new();
    for name in ["m.oauth", "org.matrix.cross_signing_reset"] {
        params.insert(name.into(), serde_json::json!({ "url": page }));
    }
    let needed = Needed {
        operation: format!("identity {}", caller.user),
        flows: vec![vec![AuthType::OAuth]],
        params,
        caller: Some(caller),
    };
    prove(server, &needed, origin, auth).await.map(drop)
}

/// Asks whoever forgot a password for the account's e-mail address; whose it is.
pub async fn forgotten_password(
    server: &Arc<Server>,
    origin: &Origin,
    auth: Option<&AuthData>,
) -> Result<OwnedUserId, Error> {
    if !server.users.sends_mail() {
        return Err(RequestError::MissingToken.into());
    }
    let needed = Needed {
        operation: "forgotten password".into(),
        flows: vec![vec![AuthType::EmailIdentity]],
        params: Map::new(),
        caller: None,
    };
    let proven = prove(server, &needed, origin, auth).await?;
    let address = proven.email.ok_or_else(|| Error::forbidden("no address was proven"))?;
    let user = server.users.by_email(&address.address).await?;
    let user = user.ok_or_else(|| Error::forbidden("no account here has this e-mail address"))?;
    // A link is good for one new password.
    server.users.spend_address(address).await?;
    Ok(user)
}

/// Goes one step: checks the stage that is shown, and lets the request through or asks for the rest.
async fn prove(
    server: &Arc<Server>,
    needed: &Needed<'_>,
    origin: &Origin,
    auth: Option<&AuthData>,
) -> Result<Proven, Error> {
    let session = server.uia.session(auth.and_then(AuthData::session));
    let mut proven = server.uia.proven(&session, &needed.operation)?;
    if let Some(auth) = auth {
        let offered = |stage: &AuthType| needed.flows.iter().any(|flow| flow.contains(stage));
        match auth.auth_type() {
            // A page in a browser has proven something; nothing is shown here.
            None => {}
            Some(stage) if !offered(&stage) => {
                return Err(ask(needed, &session, &proven, Some("this is not one of the stages asked for")));
            }
            Some(stage) => match stages::check(server, needed, origin, auth, &mut proven).await? {
                Ok(()) => proven.add(stage),
                Err(wrong) => return Err(ask(needed, &session, &proven, Some(&wrong))),
            },
        }
    }
    if needed.flows.iter().any(|flow| flow.iter().all(|stage| proven.has(stage))) {
        server.uia.end(&session);
        return Ok(proven);
    }
    if !proven.is_empty() {
        server.uia.keep(&session, &needed.operation, &proven);
    }
    Err(ask(needed, &session, &proven, None))
}

/// The answer that lists what may be proven and what has been.
fn ask(needed: &Needed<'_>, session: &str, proven: &Proven, wrong: Option<&str>) -> Error {
    let mut info = UiaaInfo::new(needed.flows.iter().cloned().map(AuthFlow::new).collect());
    info.session = Some(session.to_owned());
    info.completed = proven.stages().to_vec();
    info.params = serde_json::value::to_raw_value(&needed.params).ok();
    info.auth_error =
        wrong.map(|text| Box::new(StandardErrorBody::new(ErrorKind::Forbidden, text.to_owned())));
    Error::Uiaa(Box::new(info))
}

/// A user as people type it: a whole id, or the local part alone.
pub fn user_id(server: &Arc<Server>, typed: &str) -> Option<OwnedUserId> {
    let user = UserId::parse_with_server_name(typed, &server.name).ok()?;
    (user.server_name() == server.name).then_some(user)
}
