//! The page on which a user agrees to terms that have changed. Its link says whose it is.

use std::{collections::HashMap, sync::Arc};

use http::{Method, StatusCode};
use ruma::{OwnedUserId, UserId};

use super::{form, query};
use crate::{
    api::routes::{Group, Table},
    error::Error,
    http::{
        args::Incoming,
        limits::Class,
        page::{escape, page},
        reply::Made,
    },
    server::Server,
    user::Terms,
};

/// Where it is.
pub(crate) const TERMS_PATH: &str = "/_mangrove/terms";

pub(super) fn routes(table: &mut Table) {
    table.plain(Group::Pages, Method::GET, TERMS_PATH, show).limit(Class::Refresh);
    table.plain(Group::Pages, Method::POST, TERMS_PATH, agree).limit(Class::Refresh);
}

/// Whose link it is, if it is for the terms in force.
fn asked(server: &Server, fields: &HashMap<String, String>) -> Option<(OwnedUserId, Terms)> {
    let field = |name: &str| fields.get(name).map(String::as_str).unwrap_or_default();
    let terms = server.settings().accounts.terms.clone()?;
    let user = UserId::parse(field("user")).ok()?;
    let fits = field("version") == terms.version
        && server.users.terms_mark_fits(&user, &terms.version, field("mark"));
    fits.then_some((user, terms))
}

async fn show(server: Arc<Server>, incoming: Incoming) -> Result<Made, Error> {
    let fields = query(&incoming);
    let Some((user, terms)) = asked(&server, &fields) else { return Ok(over()) };
    let hidden: String = ["user", "version", "mark"]
        .iter()
        .map(|name| {
            let value = fields.get(*name).map(String::as_str).unwrap_or_default();
            format!("<input type=\"hidden\" name=\"{name}\" value=\"{}\">", escape(value))
        })
        .collect();
    let html = format!(
        "<p>The terms of this server have changed. To go on as <b>{}</b>, agree to <a href=\"{}\" rel=\"noreferrer\" \
         target=\"_blank\">{}</a>.</p><form method=\"post\">{hidden}<button>I agree</button></form>",
        escape(user.as_str()),
        escape(&terms.url),
        escape(&terms.name)
    );
    Ok(Made(page(StatusCode::OK, "Terms", &html)))
}

async fn agree(server: Arc<Server>, incoming: Incoming) -> Result<Made, Error> {
    let Some((user, terms)) = asked(&server, &form(&incoming)) else { return Ok(over()) };
    server.users.agree(&user, &terms.version).await?;
    let html = "<p>Thank you. You can close this page and go on in your app.</p>";
    Ok(Made(page(StatusCode::OK, "You have agreed", html)))
}

fn over() -> Made {
    let html = "<p>This link is not valid, or no longer. Try again in your app: it gets a new one.</p>";
    Made(page(StatusCode::BAD_REQUEST, "This link has ended", html))
}
