//! OAuth 2.0 as Matrix clients speak it, with small pages of the node's own: log-in, consent, account.
//!
//! Without `public_url` over https there is none of it: clients then log in by password, as before.

mod account;
mod authorize;
mod device;
mod login;
mod metadata;
mod token;
mod upstream;

use std::{collections::HashMap, sync::Arc};

use http::{HeaderValue, StatusCode, header};
use ruma::OwnedUserId;

use crate::{
    api::{pages::fields, routes::Table},
    error::Error,
    http::{
        args::Incoming,
        page::{self, escape},
        reply::{Made, Reply},
    },
    server::Server,
    user::oauth::Browser,
};

/// Adds every endpoint of the authorization server.
pub(crate) fn routes(table: &mut Table) {
    metadata::routes(table);
    authorize::routes(table);
    login::routes(table);
    token::routes(table);
    device::routes(table);
    account::routes(table);
    upstream::routes(table);
}

/// The authorization server's name and base, without a slash at the end; none where clients could not trust it.
pub(crate) fn base(server: &Server) -> Option<String> {
    let settings = server.settings();
    let url = settings.public_url.as_deref()?.trim_end_matches('/');
    let uri: http::Uri = url.parse().ok()?;
    let local = matches!(uri.host(), Some("localhost" | "127.0.0.1" | "[::1]"));
    (uri.scheme_str() == Some("https") || local).then(|| url.to_owned())
}

fn base_or_404(server: &Server) -> Result<String, Error> {
    base(server).ok_or_else(|| {
        Error::new(
            ruma::api::error::ErrorKind::Unrecognized,
            "this server has no OAuth 2.0; its operator has to set public_url to an https address",
        )
    })
}

/// One visit of a browser to a page of ours.
struct Visit {
    server: Arc<Server>,
    incoming: Incoming,
    browser: Browser,
    fields: HashMap<String, String>,
}

impl Visit {
    /// Reads cookie and fields. A form that did not come from a page of ours is refused.
    fn of(server: Arc<Server>, incoming: Incoming) -> Result<Self, Error> {
        base_or_404(&server)?;
        let cookie = incoming.head.header(header::COOKIE).and_then(|cookies| {
            cookies.split(';').find_map(|pair| pair.trim().strip_prefix(COOKIE)?.strip_prefix('='))
        });
        let browser = server.users.browser(cookie);
        let fields = if incoming.head.method == http::Method::POST {
            let fields = fields(&String::from_utf8_lossy(&incoming.body));
            let mark = fields.get("mark").map(String::as_str).unwrap_or_default();
            if !server.users.form_is_ours(&browser, mark) {
                return Err(Error::forbidden("this form is too old or not ours; reload the page before it"));
            }
            fields
        } else {
            fields(incoming.head.uri.query().unwrap_or_default())
        };
        Ok(Self { server, incoming, browser, fields })
    }

    /// A visit whose form, if any, was checked in another way.
    fn bare(server: Arc<Server>, incoming: Incoming, browser: Browser) -> Result<Self, Error> {
        base_or_404(&server)?;
        Ok(Self { server, incoming, browser, fields: HashMap::new() })
    }

    fn field(&self, name: &str) -> &str {
        self.fields.get(name).map(String::as_str).unwrap_or_default()
    }

    /// A form to a path of ours: its inside's HTML is the caller's, escaped already.
    fn form(&self, path: &str, inside: &str) -> String {
        format!(
            "<form method=\"post\" action=\"{path}\"><input type=\"hidden\" name=\"mark\" value=\"{}\">{inside}</form>",
            escape(&self.server.users.form_mark(&self.browser))
        )
    }

    /// A page, with the browser's cookie.
    fn page(&self, status: StatusCode, title: &str, html: &str, form_targets: &[String]) -> Made {
        Made(self.with_cookie(page::page_with_form(status, title, html, form_targets)))
    }

    fn with_cookie(&self, mut reply: Reply) -> Reply {
        let secure =
            if base(&self.server).is_some_and(|base| base.starts_with("https")) { "; Secure" } else { "" };
        let age = crate::user::oauth::BROWSER_MS / 1000;
        let cookie = format!(
            "{COOKIE}={}; Path=/_mangrove; HttpOnly; SameSite=Lax; Max-Age={age}{secure}",
            self.browser.cookie
        );
        if let Ok(cookie) = HeaderValue::try_from(cookie) {
            reply.headers_mut().insert(header::SET_COOKIE, cookie);
        }
        reply
    }

    /// The user who is logged in in this browser, or where to log in before coming back to `next`.
    #[allow(clippy::result_large_err, reason = "the error is the page that is shown")]
    fn user_or_login(&self, next: &str) -> Result<OwnedUserId, Made> {
        self.browser.user.clone().ok_or_else(|| {
            let next = crate::remote::web::encode_form(&[("next", next)]);
            Made(self.with_cookie(page::redirect(&format!("{LOGIN_PATH}?{next}"))))
        })
    }
}

/// A hidden field.
fn hidden(name: &str, value: &str) -> String {
    format!("<input type=\"hidden\" name=\"{name}\" value=\"{}\">", escape(value))
}

/// Where a browser goes on: a path of our own pages, whatever a link says.
fn next_path(next: &str) -> &str {
    let ours =
        next.starts_with("/_mangrove/") && !next.contains(['\r', '\n', '\\']) && next.len() <= NEXT_BYTES_MAX;
    if ours { next } else { ACCOUNT_PATH }
}

const COOKIE: &str = "mangrove";
const AUTHORIZE_PATH: &str = "/_mangrove/oauth/authorize";
const REGISTER_PATH: &str = "/_mangrove/oauth/register";
const TOKEN_PATH: &str = "/_mangrove/oauth/token";
const REVOKE_PATH: &str = "/_mangrove/oauth/revoke";
const DEVICE_PATH: &str = "/_mangrove/oauth/device";
const LINK_PATH: &str = "/_mangrove/link";
const LOGIN_PATH: &str = "/_mangrove/login";
const SIGNUP_PATH: &str = "/_mangrove/signup";
/// The account's page.
pub(crate) const ACCOUNT_PATH: &str = "/_mangrove/account";
/// An authorization request with all its parts.
const NEXT_BYTES_MAX: usize = 8_192;
