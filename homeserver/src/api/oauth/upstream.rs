//! Log-in through an outside provider: where clients and our own log-in page begin it, and where the browser comes back.

use std::sync::Arc;

use http::{HeaderValue, Method, StatusCode, header};
use ruma::api::error::ErrorKind;

use super::{LOGIN_PATH, Visit, hidden, next_path};
use crate::{
    api::{
        pages::{fields, form},
        routes::{Group, Table},
    },
    error::{Error, RequestError},
    http::{
        args::Incoming,
        limits::Class,
        page::{base_url, escape, page, page_with_form, redirect},
        reply::{Made, Reply},
    },
    server::Server,
    user::{Step, Then, UpstreamError},
};

pub(super) fn routes(table: &mut Table) {
    for version in ["r0", "v3"] {
        let [any, one] = match version {
            "r0" => {
                ["/_matrix/client/r0/login/sso/redirect", "/_matrix/client/r0/login/sso/redirect/{idp_id}"]
            }
            _ => ["/_matrix/client/v3/login/sso/redirect", "/_matrix/client/v3/login/sso/redirect/{idp_id}"],
        };
        table.plain(Group::Client, Method::GET, any, for_client).limit(Class::Refresh);
        table.plain(Group::Client, Method::GET, one, for_client).limit(Class::Refresh);
    }
    table.plain(Group::Pages, Method::GET, START_PATH, for_page).limit(Class::Refresh);
    table.plain(Group::Pages, Method::GET, CALLBACK_PATH, back).limit(Class::Refresh);
    table.plain(Group::Pages, Method::POST, NAME_PATH, choose).limit(Class::Register);
}

/// A client sends the browser here, and waits at `redirectUrl`.
async fn for_client(server: Arc<Server>, incoming: Incoming) -> Result<Made, Error> {
    let fields = fields(incoming.head.uri.query().unwrap_or_default());
    let to = fields.get("redirectUrl").cloned().unwrap_or_default();
    if to.is_empty() || to.len() > ADDRESS_BYTES_MAX || url::Url::parse(&to).is_err() {
        return Err(RequestError::MissingParam("redirectUrl: where the client waits".into()).into());
    }
    // Never run in our own name.
    if ["javascript:", "data:", "vbscript:"].iter().any(|bad| to.trim().to_ascii_lowercase().starts_with(bad))
    {
        return Err(Error::invalid_param("redirectUrl leads nowhere that a client could wait"));
    }
    begin(&server, &incoming, Then::Client(to)).await
}

/// Our own log-in page sends the browser here.
async fn for_page(server: Arc<Server>, incoming: Incoming) -> Result<Made, Error> {
    let fields = fields(incoming.head.uri.query().unwrap_or_default());
    let next = next_path(fields.get("next").map(String::as_str).unwrap_or_default()).to_owned();
    begin(&server, &incoming, Then::Page(next)).await
}

async fn begin(server: &Arc<Server>, incoming: &Incoming, then: Then) -> Result<Made, Error> {
    let callback = format!("{}{CALLBACK_PATH}", base_url(server, &incoming.head));
    let id = incoming.path.first().map(String::as_str);
    match server.upstreams.begin(id, callback, then).await {
        Ok((to, cookie)) => Ok(Made(with_cookie(server, redirect(&to), &cookie))),
        Err(UpstreamError::Unknown) => {
            Err(Error::new(ErrorKind::NotFound, "no such provider is configured; see [[oidc]]"))
        }
        Err(error) => wrong(&error),
    }
}

/// Ties a log-in to the browser that begins it, so that nobody is logged in by another's link.
fn with_cookie(server: &Server, mut reply: Reply, cookie: &str) -> Reply {
    let https = server.settings().public_url.as_deref().is_some_and(|url| url.starts_with("https"));
    let secure = if https { "; Secure" } else { "" };
    let text =
        format!("{COOKIE}={cookie}; Path=/_mangrove/oidc; HttpOnly; SameSite=Lax; Max-Age=600{secure}");
    if let Ok(value) = HeaderValue::try_from(text) {
        reply.headers_mut().append(header::SET_COOKIE, value);
    }
    reply
}

fn cookie(incoming: &Incoming) -> &str {
    let cookies = incoming.head.header(header::COOKIE).unwrap_or_default();
    let mine = cookies.split(';').find_map(|pair| pair.trim().strip_prefix(COOKIE)?.strip_prefix('='));
    mine.unwrap_or_default()
}

async fn back(server: Arc<Server>, incoming: Incoming) -> Result<Made, Error> {
    let fields = fields(incoming.head.uri.query().unwrap_or_default());
    let field = |name: &str| fields.get(name).map(String::as_str);
    let answer = match (field("code"), field("error")) {
        (Some(code), None) => Ok(code),
        (_, error) => Err(field("error_description").or(error).unwrap_or("it did not say why")),
    };
    let state = field("state").unwrap_or_default();
    match server.upstreams.finish(&server.users, state, cookie(&incoming), answer).await {
        Ok(Step::Done(user, then)) => go_on(server, incoming, &user, then).await,
        Ok(Step::ChooseName(state, proposed)) => Ok(name_page(&state, proposed.as_deref(), None)),
        Err(error) => wrong(&error),
    }
}

fn name_page(state: &str, proposed: Option<&str>, wrong: Option<&str>) -> Made {
    let wrong = wrong
        .map_or_else(String::new, |text| format!("<p class=\"wrong\" role=\"alert\">{}</p>", escape(text)));
    let html = format!(
        "{wrong}<p>Choose what you are called here. It cannot be changed later.</p><form method=\"post\" \
         action=\"{NAME_PATH}\">{}<label>User name<input name=\"user\" value=\"{}\" required autocapitalize=\"none\" \
         autocomplete=\"username\"></label><button>Make the account</button></form>",
        hidden("state", state),
        escape(proposed.unwrap_or_default())
    );
    Made(page(StatusCode::OK, "A name for your account", &html))
}

async fn choose(server: Arc<Server>, incoming: Incoming) -> Result<Made, Error> {
    let fields = form(&incoming);
    let field = |name: &str| fields.get(name).map(String::as_str).unwrap_or_default();
    let name = field("user");
    match server.upstreams.choose(&server.users, field("state"), cookie(&incoming), name).await {
        Ok(Ok((user, then))) => go_on(server, incoming, &user, then).await,
        Ok(Err((state, error))) => Ok(name_page(&state, Some(name), Some(&error.to_string()))),
        Err(error) => wrong(&error),
    }
}

/// The provider has said who it is: back to where the log-in began.
async fn go_on(
    server: Arc<Server>,
    incoming: Incoming,
    user: &ruma::UserId,
    then: Then,
) -> Result<Made, Error> {
    match then {
        Then::Page(next) => {
            let browser = server.users.browser(None);
            let mut visit = Visit::bare(server, incoming, browser)?;
            visit.browser = visit.server.users.browser_login(&visit.browser, user);
            Ok(Made(visit.with_cookie(redirect(&next))))
        }
        Then::Client(to) => {
            // spec: https://spec.matrix.org/v1.19/client-server-api/#sso-client-login: the user says yes before a token leaves.
            let token = server.users.make_login_token(user).await?;
            let joint = if to.contains('?') { '&' } else { '?' };
            let link = format!("{to}{joint}loginToken={token}");
            let shown = url::Url::parse(&to).ok().and_then(|url| {
                Some(format!("{}://{}", url.scheme(), url.host_str().filter(|host| !host.is_empty())?))
            });
            let html = format!(
                "<p>An app wants to use your account <b>{}</b>. Go on only if you began this yourself.</p>\
                 <p>It waits at <b>{}</b>.</p><p><a id=\"go-on\" href=\"{}\" rel=\"noreferrer\">Go on</a></p>",
                escape(user.as_str()),
                escape(shown.as_deref().unwrap_or(&to)),
                escape(&link)
            );
            Ok(Made(page_with_form(StatusCode::OK, "Let this app in?", &html, &[])))
        }
    }
}

fn wrong(error: &UpstreamError) -> Result<Made, Error> {
    let status = match error {
        UpstreamError::Provider(why) => {
            tracing::warn!(%why, "a log-in through an outside provider failed");
            StatusCode::BAD_GATEWAY
        }
        UpstreamError::NotBegun => StatusCode::BAD_REQUEST,
        UpstreamError::Unknown => StatusCode::NOT_FOUND,
        _ => StatusCode::FORBIDDEN,
    };
    let html = format!("<p>{}.</p><p><a href=\"{LOGIN_PATH}\">Log in</a></p>", escape(&error.to_string()));
    Ok(Made(page(status, "You were not logged in", &html)))
}

/// Links to the providers, for our log-in page.
pub(super) fn links(server: &Server, next: &str) -> String {
    let query = crate::remote::web::encode_form(&[("next", next)]);
    let link = |provider: &crate::user::UpstreamSettings| {
        let path = START_PATH.replace("{idp_id}", &provider.id);
        format!("<p><a href=\"{path}?{query}\">Log in with {}</a></p>", escape(&provider.name))
    };
    server.upstreams.providers().iter().map(link).collect()
}

const COOKIE: &str = "mangrove_oidc";
const START_PATH: &str = "/_mangrove/oidc/start/{idp_id}";
const CALLBACK_PATH: &str = "/_mangrove/oidc/callback";
const NAME_PATH: &str = "/_mangrove/oidc/name";
const ADDRESS_BYTES_MAX: usize = 2_048;
