//! Registration by shared secret, as Synapse's `register_new_matrix_user` does it.
// https://element-hq.github.io/synapse/latest/admin_api/register_api.html

use std::sync::Arc;

use http::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use super::body;
use crate::{
    api::routes::{Group, Table},
    error::Error,
    http::{args::Incoming, limits::Class, reply::Json},
    server::Server,
    user::{NewDevice, SharedSecretRequest},
};

const PATH: &str = "/_synapse/admin/v1/register";

pub(super) fn routes(table: &mut Table) {
    table.plain(Group::Admin, Method::GET, PATH, nonce).limit(Class::Register);
    table.plain(Group::Admin, Method::POST, PATH, register).limit(Class::Register);
}

async fn nonce(server: Arc<Server>, _: Incoming) -> Result<Json<Value>, Error> {
    secret(&server)?;
    Ok(Json(json!({ "nonce": server.users.shared_secret_nonce() })))
}

#[derive(Deserialize)]
struct Body {
    nonce: String,
    username: String,
    password: String,
    displayname: Option<String>,
    #[serde(default)]
    admin: Option<bool>,
    user_type: Option<String>,
    mac: String,
    #[serde(default)]
    inhibit_login: bool,
}

async fn register(server: Arc<Server>, incoming: Incoming) -> Result<Json<Value>, Error> {
    let body: Body = body(&incoming)?;
    let secret = secret(&server)?;
    let request = SharedSecretRequest {
        nonce: body.nonce,
        username: body.username,
        password: body.password,
        displayname: body.displayname,
        admin: body.admin.unwrap_or(false),
        kind: body.user_type,
        mac: body.mac,
    };
    let device = (!body.inhibit_login).then(NewDevice::default);
    let (user, session) = server.users.register_by_shared_secret(secret.expose(), request, device).await?;
    let mut answer = json!({ "user_id": user, "home_server": server.name });
    if let Some(session) = session {
        answer["access_token"] = session.access_token.into();
        answer["device_id"] = session.device.as_str().into();
    }
    Ok(Json(answer))
}

fn secret(server: &Server) -> Result<router::config::Secret, Error> {
    server.settings().registration_shared_secret.clone().ok_or_else(|| {
        Error::invalid_param("shared secret registration is not enabled; set `registration_shared_secret`")
    })
}
