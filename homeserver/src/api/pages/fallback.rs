//! Stages of user-interactive authentication in the browser, for clients that cannot show them.
// spec: https://spec.matrix.org/v1.19/client-server-api/#fallback

use std::sync::Arc;

use http::{Method, StatusCode};
use ruma::api::client::uiaa::AuthType;

use super::{form, query};
use crate::{
    api::routes::{Group, Table},
    error::Error,
    http::{
        args::Incoming,
        limits::Class,
        page::{escape, page},
        reply::Made,
        uia,
    },
    server::Server,
};

const PATH: &str = "/_matrix/client/v3/auth/{auth_type}/fallback/web";
const OLD_PATH: &str = "/_matrix/client/r0/auth/{auth_type}/fallback/web";

pub(super) fn routes(table: &mut Table) {
    table.plain(Group::Client, Method::GET, PATH, show).also(OLD_PATH).limit(Class::Register);
    table.plain(Group::Client, Method::POST, PATH, submit).also(OLD_PATH).limit(Class::Register);
}

async fn show(server: Arc<Server>, incoming: Incoming) -> Result<Made, Error> {
    let stage = stage(&server, &incoming)?;
    let session = query(&incoming).remove("session").unwrap_or_default();
    Ok(ask(&server, &stage, &session, None))
}

fn ask(server: &Server, stage: &AuthType, session: &str, wrong: Option<&str>) -> Made {
    let hidden = format!("<input type=\"hidden\" name=\"session\" value=\"{}\">", escape(session));
    let wrong = wrong.map_or_else(String::new, |text| format!("<p class=\"wrong\">{}</p>", escape(text)));
    let (title, asked) = match (stage, &server.settings().accounts.terms) {
        (AuthType::Terms, Some(terms)) => (
            "Terms",
            format!(
                "<p>To go on, agree to <a href=\"{}\" rel=\"noreferrer\" target=\"_blank\">{}</a>.</p>",
                escape(&terms.url),
                escape(&terms.name)
            ),
        ),
        (AuthType::RegistrationToken, _) => (
            "Registration token",
            "<label>Token<input name=\"token\" required autocomplete=\"off\"></label>".to_owned(),
        ),
        _ => ("Go on", "<p>Press the button to go on.</p>".to_owned()),
    };
    let html = format!("{wrong}<form method=\"post\">{hidden}{asked}<button>Go on</button></form>");
    let status = if wrong.is_empty() { StatusCode::OK } else { StatusCode::UNAUTHORIZED };
    Made(page(status, title, &html))
}

async fn submit(server: Arc<Server>, incoming: Incoming) -> Result<Made, Error> {
    let stage = stage(&server, &incoming)?;
    let fields = form(&incoming);
    let session = fields.get("session").map(String::as_str).unwrap_or_default();
    if stage == AuthType::RegistrationToken {
        let token = fields.get("token").map(String::as_str).unwrap_or_default();
        if !server.users.registration_token_valid(token).await? {
            let wrong = "this registration token is not valid, or was used before";
            return Ok(ask(&server, &stage, session, Some(wrong)));
        }
        if !server.uia.prove_token_by_page(session, token) {
            return Ok(over());
        }
    } else if !server.uia.prove_by_page(session, stage) {
        return Ok(over());
    }
    let html = "<p>You can close this page and go back to where you came from.</p>";
    Ok(Made(page(StatusCode::OK, "Done", html)))
}

/// The stage of the path: one that this server asks for and that a page without scripts can prove.
fn stage(server: &Server, incoming: &Incoming) -> Result<AuthType, Error> {
    let stage = AuthType::from(incoming.path.first().map(String::as_str).unwrap_or_default());
    let offered = stage == AuthType::Dummy || uia::registration_stages(server).contains(&stage);
    match stage {
        AuthType::Terms | AuthType::Dummy | AuthType::RegistrationToken if offered => Ok(stage),
        _ => Err(Error::not_found("this server has no page for that stage")),
    }
}

fn over() -> Made {
    let html = "<p>Begin anew where you came from.</p>";
    Made(page(StatusCode::BAD_REQUEST, "This session is none of ours", html))
}
