//! The page behind the link in a mail. It asks for a click, so that programs which look at links in mails prove nothing.

use std::sync::Arc;

use http::{Method, StatusCode};

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
    user::SUBMIT_PATH,
};

pub(super) fn routes(table: &mut Table) {
    table.plain(Group::Pages, Method::GET, SUBMIT_PATH, show).limit(Class::Register);
    table.plain(Group::Pages, Method::POST, SUBMIT_PATH, submit).limit(Class::Register);
}

async fn show(server: Arc<Server>, incoming: Incoming) -> Result<Made, Error> {
    let fields = query(&incoming);
    let field = |name: &str| fields.get(name).cloned().unwrap_or_default();
    let (sid, token) = (field("sid"), field("token"));
    if server.users.mail_link(&sid, &token).await.is_err() {
        return Ok(over());
    }
    let html = format!(
        "<p>Press the button to confirm that this e-mail address is yours.</p><form method=\"post\">\
         <input type=\"hidden\" name=\"sid\" value=\"{}\"><input type=\"hidden\" name=\"token\" value=\"{}\">\
         <button>Confirm</button></form><p class=\"quiet\">If you did not ask for it, close this page.</p>",
        escape(&sid),
        escape(&token)
    );
    Ok(Made(page(StatusCode::OK, "Confirm your e-mail address", &html)))
}

async fn submit(server: Arc<Server>, incoming: Incoming) -> Result<Made, Error> {
    let fields = form(&incoming);
    let field = |name: &str| fields.get(name).map(String::as_str).unwrap_or_default();
    let Ok(next) = server.users.follow_mail_link(field("sid"), field("token")).await else {
        return Ok(over());
    };
    let onward = next.map_or_else(String::new, |link| {
        format!("<p><a href=\"{}\" rel=\"noreferrer\">Go on</a></p>", escape(&link))
    });
    let html = format!("<p>Thank you. You can go back to where you came from.</p>{onward}");
    Ok(Made(page(StatusCode::OK, "Your e-mail address is confirmed", &html)))
}

fn over() -> Made {
    let html = "<p>This link is not valid, or no longer. Ask for a new e-mail where you came from.</p>";
    Made(page(StatusCode::BAD_REQUEST, "This link has ended", html))
}
