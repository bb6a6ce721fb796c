//! Devices without a browser of their own: they show a code, and their user allows them on another device's page.
// spec: https://spec.matrix.org/v1.19/client-server-api/#device-authorization-grant

use std::sync::Arc;

use http::{Method, StatusCode};
use serde_json::json;

use super::{DEVICE_PATH, LINK_PATH, Visit, base_or_404, hidden, token::refused};
use crate::{
    api::{
        pages::form,
        routes::{Group, Table},
    },
    error::Error,
    http::{
        args::Incoming,
        limits::Class,
        page::escape,
        reply::{Made, json as json_reply},
    },
    remote::web::encode_form,
    server::Server,
    user::oauth::{DEVICE_POLL_S, DeviceAsk, Scope},
};

pub(super) fn routes(table: &mut Table) {
    table.plain(Group::Pages, Method::POST, DEVICE_PATH, ask).limit(Class::Register);
    table.plain(Group::Pages, Method::GET, LINK_PATH, show).limit(Class::Refresh);
    // Codes have 34 bits: guesses are limited as registrations are.
    table.plain(Group::Pages, Method::POST, LINK_PATH, decide).limit(Class::Register);
}

async fn ask(server: Arc<Server>, incoming: Incoming) -> Result<Made, Error> {
    let base = base_or_404(&server)?;
    let fields = form(&incoming);
    let field = |name: &str| fields.get(name).map(String::as_str).unwrap_or_default();
    let Some(client) = server.users.client(field("client_id")).await? else {
        return Ok(refused("invalid_client", "no client has this client_id; register it anew"));
    };
    let Some(scope) = Scope::parse(field("scope")) else {
        return Ok(refused("invalid_scope", "the scope names no device, or not the client API"));
    };
    let ask = DeviceAsk { client: field("client_id").to_owned(), device_name: client.client_name, scope };
    Ok(match server.users.ask_by_device(ask) {
        Err(error) => refused(error.0, error.1),
        Ok((code, user_code)) => {
            let answer = json!({
                "device_code": code,
                "user_code": user_code,
                "verification_uri": format!("{base}{LINK_PATH}"),
                "verification_uri_complete": format!("{base}{LINK_PATH}?code={user_code}"),
                "expires_in": 1200,
                "interval": DEVICE_POLL_S,
            });
            Made(json_reply(StatusCode::OK, answer.to_string()))
        }
    })
}

async fn show(server: Arc<Server>, incoming: Incoming) -> Result<Made, Error> {
    let visit = Visit::of(server, incoming)?;
    let code = visit.field("code").to_owned();
    let user = match visit.user_or_login(&format!("{LINK_PATH}?{}", encode_form(&[("code", &code)]))) {
        Ok(user) => user,
        Err(elsewhere) => return Ok(elsewhere),
    };
    let inside = match visit.server.users.waiting_device(&code) {
        None => {
            let wrong =
                if code.is_empty() { "" } else { "<p class=\"wrong\">No device waits with this code.</p>" };
            format!(
                "{wrong}<label>The code that your device shows<input name=\"code\" value=\"{}\" required \
                 autocomplete=\"off\" autocapitalize=\"characters\"></label><button name=\"decision\" \
                 value=\"look\">Go on</button>",
                escape(&code)
            )
        }
        Some(ask) => format!(
            "<p><b>{}</b> wants to use your account <b>{}</b> as device {}. Only go on if you hold that device in your \
             hands and it shows the code <b>{}</b>.</p>{}<button name=\"decision\" value=\"allow\">Allow</button>\
             <button name=\"decision\" value=\"deny\">Do not allow</button>",
            escape(ask.device_name.as_deref().unwrap_or("An app")),
            escape(user.as_str()),
            escape(ask.scope.device.as_str()),
            escape(&code),
            hidden("code", &code)
        ),
    };
    let html = visit.form(LINK_PATH, &inside);
    Ok(visit.page(StatusCode::OK, "Link a device", &html, &[]))
}

async fn decide(server: Arc<Server>, incoming: Incoming) -> Result<Made, Error> {
    let visit = Visit::of(server, incoming)?;
    let code = visit.field("code").to_owned();
    let here = format!("{LINK_PATH}?{}", encode_form(&[("code", &code)]));
    let user = match visit.user_or_login(&here) {
        Ok(user) => user,
        Err(elsewhere) => return Ok(elsewhere),
    };
    let (allowed, title) = match visit.field("decision") {
        "allow" => (Some(&*user), "The device is linked"),
        "deny" => (None, "The device is not linked"),
        _ => return Ok(Made(visit.with_cookie(crate::http::page::redirect(&here)))),
    };
    if !visit.server.users.decide_device(&code, allowed) {
        return Ok(Made(visit.with_cookie(crate::http::page::redirect(&here))));
    }
    Ok(visit.page(StatusCode::OK, title, "<p>You can close this page.</p>", &[]))
}
