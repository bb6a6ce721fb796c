//! What the authorization server can do, and registration of clients.

use std::sync::Arc;

use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::{
    ACCOUNT_PATH, AUTHORIZE_PATH, DEVICE_PATH, REGISTER_PATH, REVOKE_PATH, TOKEN_PATH, base_or_404,
    token::refused,
};
use crate::{
    api::{
        admin::body,
        routes::{Group, Table},
    },
    error::Error,
    http::{
        args::Incoming,
        limits::Class,
        reply::{Json, Made, json},
    },
    server::{Registration, Server},
    user::oauth::ClientMetadata,
};

pub(super) fn routes(table: &mut Table) {
    table
        .plain(Group::Client, Method::GET, "/_matrix/client/v1/auth_metadata", metadata)
        .also("/_matrix/client/unstable/org.matrix.msc2965/auth_metadata");
    table
        .plain(Group::Pages, Method::GET, "/.well-known/openid-configuration", metadata)
        .also("/.well-known/oauth-authorization-server");
    table.plain(
        Group::Client,
        Method::GET,
        "/_matrix/client/unstable/org.matrix.msc2965/auth_issuer",
        issuer,
    );
    table.plain(Group::Pages, Method::POST, REGISTER_PATH, register).limit(Class::Register);
}

// spec: https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv1auth_metadata
async fn metadata(server: Arc<Server>, _: Incoming) -> Result<Json<Value>, Error> {
    let base = base_or_404(&server)?;
    let prompts: &[&str] =
        if server.settings().registration == Registration::Closed { &[] } else { &["create"] };
    Ok(Json(json!({
        "issuer": format!("{base}/"),
        "authorization_endpoint": format!("{base}{AUTHORIZE_PATH}"),
        "token_endpoint": format!("{base}{TOKEN_PATH}"),
        "registration_endpoint": format!("{base}{REGISTER_PATH}"),
        "revocation_endpoint": format!("{base}{REVOKE_PATH}"),
        "device_authorization_endpoint": format!("{base}{DEVICE_PATH}"),
        "account_management_uri": format!("{base}{ACCOUNT_PATH}"),
        "account_management_actions_supported": [
            "org.matrix.profile", "org.matrix.devices_list", "org.matrix.device_view", "org.matrix.device_delete",
            "org.matrix.sessions_list", "org.matrix.session_view", "org.matrix.session_end",
            "org.matrix.account_deactivate", "org.matrix.cross_signing_reset",
        ],
        "response_types_supported": ["code"],
        "response_modes_supported": ["query", "fragment"],
        "grant_types_supported": [
            "authorization_code", "refresh_token", "urn:ietf:params:oauth:grant-type:device_code",
        ],
        "code_challenge_methods_supported": ["S256"],
        "token_endpoint_auth_methods_supported": ["none"],
        "revocation_endpoint_auth_methods_supported": ["none"],
        "prompt_values_supported": prompts,
        "scopes_supported": ["urn:matrix:client:api:*", "urn:matrix:client:device:*"],
    })))
}

async fn issuer(server: Arc<Server>, _: Incoming) -> Result<Json<Value>, Error> {
    Ok(Json(json!({ "issuer": format!("{}/", base_or_404(&server)?) })))
}

async fn register(server: Arc<Server>, incoming: Incoming) -> Result<Made, Error> {
    base_or_404(&server)?;
    let metadata: ClientMetadata = match body(&incoming) {
        Ok(metadata) => metadata,
        Err(error) => return Ok(refused("invalid_client_metadata", &error.to_string())),
    };
    match server.users.register_client(&metadata).await? {
        Err(error) => Ok(refused(error.0, &error.1)),
        Ok(id) => {
            let mut answer = serde_json::to_value(&metadata).unwrap_or_default();
            answer["client_id"] = id.into();
            answer["client_id_issued_at"] = (server.clock.now_ms() / 1000).into();
            Ok(Made(json(StatusCode::CREATED, answer.to_string())))
        }
    }
}
