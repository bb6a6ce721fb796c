//! What a newcomer has to prove: terms, captcha, e-mail, a token, or nothing.

use std::sync::Arc;

use ruma::api::client::uiaa::{AuthData, AuthType};
use serde_json::{Map, Value, json};

use super::{Needed, prove};
use crate::{
    error::Error,
    http::auth::Origin,
    server::{Registration, Server},
    user::{Address, Proof, UserError},
};

/// What a newcomer has proven.
#[derive(Clone, Debug)]
pub struct Registered {
    /// Why the account may be made.
    pub proof: Proof,
    /// The e-mail address that goes with it.
    pub email: Option<Address>,
    /// The version of the terms agreed to.
    pub consent: Option<String>,
}

/// Asks for whatever this node wants to see before it makes an account.
pub async fn registration(
    server: &Arc<Server>,
    origin: &Origin,
    auth: Option<&AuthData>,
) -> Result<Registered, Error> {
    let needed = needed(server)?;
    let proven = prove(server, &needed, origin, auth).await?;
    let settings = server.settings();
    let terms = settings.accounts.terms.as_ref();
    Ok(Registered {
        proof: proven.token.map_or(Proof::Open, Proof::Token),
        email: proven.email,
        consent: terms.map(|terms| terms.version.clone()),
    })
}

/// Asks again for a registration token after the one given was used up meanwhile.
pub fn bad_registration_token(server: &Arc<Server>, auth: Option<&AuthData>) -> Error {
    let session = server.uia.session(auth.and_then(AuthData::session));
    match needed(server) {
        Ok(needed) => super::ask(
            &needed,
            &session,
            &super::Proven::default(),
            Some(&UserError::BadRegistrationToken.to_string()),
        ),
        Err(error) => error,
    }
}

/// Which stages this node asks for, however many ways there are.
pub fn stages(server: &Server) -> Vec<AuthType> {
    let accounts = &server.settings().accounts;
    let mut stages = Vec::new();
    if server.settings().registration == Registration::Token {
        stages.push(AuthType::RegistrationToken);
    }
    if accounts.captcha.is_some() {
        stages.push(AuthType::ReCaptcha);
    }
    if accounts.terms.is_some() {
        stages.push(AuthType::Terms);
    }
    if accounts.general.require_email {
        stages.push(AuthType::EmailIdentity);
    }
    stages
}

fn needed(server: &Arc<Server>) -> Result<Needed<'static>, Error> {
    if server.settings().registration == Registration::Closed {
        return Err(Error::forbidden(
            "this node takes no registrations; its owner makes accounts with `mangrove account create NAME`",
        ));
    }
    let accounts = &server.settings().accounts;
    let base = stages(server);
    let mut flows = Vec::new();
    if base.is_empty() {
        flows.push(vec![AuthType::Dummy]);
        flows.push(vec![AuthType::RegistrationToken]);
    } else {
        flows.push(base.clone());
    }
    if server.users.sends_mail() && !accounts.general.require_email {
        flows.push([base, vec![AuthType::EmailIdentity]].concat());
    }
    let mut params = Map::new();
    if let Some(captcha) = &accounts.captcha {
        params.insert("m.login.recaptcha".into(), json!({ "public_key": captcha.public_key }));
    }
    if let Some(terms) = &accounts.terms {
        let policy: Value =
            json!({ "version": terms.version, "en": { "name": terms.name, "url": terms.url } });
        params.insert("m.login.terms".into(), json!({ "policies": { "terms": policy } }));
    }
    Ok(Needed { operation: "register".into(), flows, params, caller: None })
}

/// Asks the captcha's service whether an answer is a human's.
pub(super) async fn captcha(server: &Arc<Server>, answer: &str, origin: &Origin) -> Result<(), String> {
    let Some(captcha) = &server.settings().accounts.captcha else {
        return Err("this server asks for no captcha".into());
    };
    if answer.is_empty() || answer.len() > CAPTCHA_BYTES_MAX {
        return Err("the captcha's answer is missing".into());
    }
    let mut form = vec![("secret", captcha.secret_key.as_str()), ("response", answer)];
    let address = origin.peer.map(|peer| peer.ip().to_string());
    if let Some(address) = &address {
        form.push(("remoteip", address));
    }
    let said = server.web.post_form(&captcha.verify_url, &form).await.map_err(|error| {
        tracing::warn!(%error, "the captcha's service did not answer; see `captcha.verify_url`");
        "the captcha could not be checked; try again".to_owned()
    })?;
    let said: Value = serde_json::from_slice(&said).unwrap_or_default();
    if said["success"] == true { Ok(()) } else { Err("the captcha was not solved; try again".into()) }
}

/// Their answers are some 2 kB.
const CAPTCHA_BYTES_MAX: usize = 16_384;
