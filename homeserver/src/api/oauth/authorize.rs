//! The page on which a user allows a client in.

use std::{collections::HashMap, sync::Arc};

use http::{Method, StatusCode, Uri};

use super::{AUTHORIZE_PATH, SIGNUP_PATH, Visit, hidden, next_path};
use crate::{
    api::{
        pages::fields,
        routes::{Group, Table},
    },
    error::Error,
    http::{
        args::Incoming,
        limits::Class,
        page::{escape, redirect},
        reply::Made,
    },
    remote::web::encode_form,
    server::Server,
    user::oauth::{ClientMetadata, Grant, Scope},
};

pub(super) fn routes(table: &mut Table) {
    table.plain(Group::Pages, Method::GET, AUTHORIZE_PATH, show).limit(Class::Refresh);
    table.plain(Group::Pages, Method::POST, AUTHORIZE_PATH, decide).limit(Class::Refresh);
}

/// A client's request that holds.
struct Ask {
    client_id: String,
    client: ClientMetadata,
    redirect: String,
    state: Option<String>,
    scope: Scope,
    challenge: String,
    fragment: bool,
}

/// What is wrong with a request: told on a page while it is not known whom to answer, else to the client.
enum Wrong {
    Page(&'static str),
    Client { redirect: String, fragment: bool, state: Option<String>, code: &'static str },
}

impl Ask {
    async fn read(server: &Server, fields: &HashMap<String, String>) -> Result<Result<Self, Wrong>, Error> {
        let field = |name: &str| fields.get(name).map(String::as_str).unwrap_or_default();
        let client_id = field("client_id").to_owned();
        let Some(client) = server.users.client(&client_id).await? else {
            return Ok(Err(Wrong::Page(
                "The app is not registered here (or no longer). Start again in the app.",
            )));
        };
        let redirect = field("redirect_uri").to_owned();
        if !client.may_redirect(&redirect) {
            return Ok(Err(Wrong::Page(
                "The app wants to be answered at a place that it has not registered.",
            )));
        }
        let state = fields.get("state").cloned();
        let fragment = field("response_mode") == "fragment";
        let wrong = |code| {
            Ok(Err(Wrong::Client { redirect: redirect.clone(), fragment, state: state.clone(), code }))
        };
        if field("response_type") != "code" {
            return wrong("unsupported_response_type");
        }
        let challenge = field("code_challenge");
        if field("code_challenge_method") != "S256" || challenge.len() != CHALLENGE_CHARS {
            return wrong("invalid_request");
        }
        let Some(scope) = Scope::parse(field("scope")) else { return wrong("invalid_scope") };
        let challenge = challenge.to_owned();
        Ok(Ok(Self { client_id, client, redirect, state, scope, challenge, fragment }))
    }

    fn name(&self) -> &str {
        self.client.client_name.as_deref().unwrap_or(&self.client.client_uri)
    }
}

async fn show(server: Arc<Server>, incoming: Incoming) -> Result<Made, Error> {
    let visit = Visit::of(server, incoming)?;
    let ask = match Ask::read(&visit.server, &visit.fields).await? {
        Ok(ask) => ask,
        Err(wrong) => return Ok(tell(&visit, wrong)),
    };
    let query = visit.incoming.head.uri.query().unwrap_or_default();
    let here = format!("{AUTHORIZE_PATH}?{query}");
    if visit.browser.user.is_none() && visit.field("prompt") == "create" {
        let next = encode_form(&[("next", &here)]);
        return Ok(Made(visit.with_cookie(redirect(&format!("{SIGNUP_PATH}?{next}")))));
    }
    let user = match visit.user_or_login(&here) {
        Ok(user) => user,
        Err(elsewhere) => return Ok(elsewhere),
    };
    let html = format!(
        "<p><b>{}</b> (<a href=\"{}\" rel=\"noreferrer\">{}</a>) wants to use your account <b>{}</b>: read and send \
         messages, and change your account's settings.</p><p class=\"quiet\">It will be listed as device {}.</p>{}",
        escape(ask.name()),
        escape(&ask.client.client_uri),
        escape(&ask.client.client_uri),
        escape(user.as_str()),
        escape(ask.scope.device.as_str()),
        visit.form(
            AUTHORIZE_PATH,
            &format!(
                "{}<button name=\"decision\" value=\"allow\">Allow</button><button name=\"decision\" \
                 value=\"deny\">Do not allow</button><button name=\"decision\" value=\"other\">Use another \
                 account</button>",
                hidden("request", query)
            )
        )
    );
    Ok(visit.page(StatusCode::OK, "Let this app in?", &html, &target(&ask.redirect)))
}

async fn decide(server: Arc<Server>, incoming: Incoming) -> Result<Made, Error> {
    let visit = Visit::of(server, incoming)?;
    let query = visit.field("request").to_owned();
    let ask = match Ask::read(&visit.server, &fields(&query)).await? {
        Ok(ask) => ask,
        Err(wrong) => return Ok(tell(&visit, wrong)),
    };
    let here = format!("{AUTHORIZE_PATH}?{query}");
    let user = match visit.user_or_login(next_path(&here)) {
        Ok(user) => user,
        Err(elsewhere) => return Ok(elsewhere),
    };
    match visit.field("decision") {
        "allow" => {
            let name = ask.name().chars().take(DEVICE_NAME_CHARS_MAX).collect();
            let grant = Grant {
                client: ask.client_id,
                device_name: Some(name),
                user,
                scope: ask.scope,
                redirect: ask.redirect.clone(),
                challenge: ask.challenge,
            };
            let code = visit.server.users.grant(grant);
            Ok(answer(&visit, &ask.redirect, ask.fragment, ask.state.as_deref(), ("code", &code)))
        }
        "other" => {
            visit.server.users.browser_logout(&visit.browser);
            let next = encode_form(&[("next", &here)]);
            Ok(Made(redirect(&format!("{}?{next}", super::LOGIN_PATH))))
        }
        _ => {
            Ok(answer(&visit, &ask.redirect, ask.fragment, ask.state.as_deref(), ("error", "access_denied")))
        }
    }
}

/// Sends the browser back to the client.
fn answer(visit: &Visit, to: &str, fragment: bool, state: Option<&str>, (name, value): (&str, &str)) -> Made {
    let issuer = format!("{}/", super::base(&visit.server).unwrap_or_default());
    let mut pairs = vec![(name, value), ("iss", &*issuer)];
    if let Some(state) = state {
        pairs.push(("state", state));
    }
    let joint = match (fragment, to.contains('?')) {
        (true, _) => '#',
        (false, true) => '&',
        (false, false) => '?',
    };
    Made(visit.with_cookie(redirect(&format!("{to}{joint}{}", encode_form(&pairs)))))
}

fn tell(visit: &Visit, wrong: Wrong) -> Made {
    match wrong {
        Wrong::Page(text) => {
            visit.page(StatusCode::BAD_REQUEST, "This does not work", &format!("<p>{text}</p>"), &[])
        }
        Wrong::Client { redirect, fragment, state, code } => {
            answer(visit, &redirect, fragment, state.as_deref(), ("error", code))
        }
    }
}

/// What the page's policy must let its form lead to: browsers check redirects, too.
fn target(redirect: &str) -> Vec<String> {
    let parsed: Option<Uri> = redirect.parse().ok();
    let origin = parsed.as_ref().and_then(|uri| uri.scheme_str().zip(uri.authority()));
    match origin {
        Some((scheme @ ("http" | "https"), authority)) => vec![format!("{scheme}://{authority}")],
        _ => redirect.split_once(':').map(|(scheme, _)| vec![format!("{scheme}:")]).unwrap_or_default(),
    }
}

/// SHA-256 in unpadded base64.
const CHALLENGE_CHARS: usize = 43;
/// What a device's name may have.
const DEVICE_NAME_CHARS_MAX: usize = 100;
