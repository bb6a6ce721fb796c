//! Tokens for codes, refresh tokens and waiting devices; and their end.

use std::sync::Arc;

use http::{HeaderValue, Method, StatusCode, header};
use serde_json::json;

use super::{REVOKE_PATH, TOKEN_PATH, base_or_404};
use crate::{
    api::{
        pages::form,
        routes::{Group, Table},
    },
    error::Error,
    http::{
        args::Incoming,
        limits::Class,
        reply::{Made, json as json_reply},
    },
    server::Server,
    user::{Session, UserError},
};

pub(super) fn routes(table: &mut Table) {
    table.plain(Group::Pages, Method::POST, TOKEN_PATH, token).limit(Class::Refresh);
    table.plain(Group::Pages, Method::POST, REVOKE_PATH, revoke).limit(Class::Refresh);
}

async fn token(server: Arc<Server>, incoming: Incoming) -> Result<Made, Error> {
    base_or_404(&server)?;
    let fields = form(&incoming);
    let field = |name: &str| fields.get(name).map(String::as_str).unwrap_or_default();
    let client = field("client_id");
    if server.users.client(client).await?.is_none() {
        return Ok(refused("invalid_client", "no client has this client_id; register it anew"));
    }
    let given = match field("grant_type") {
        "authorization_code" => {
            let (code, redirect, verifier) = (field("code"), field("redirect_uri"), field("code_verifier"));
            server.users.redeem_code(code, client, redirect, verifier).await?
        }
        "urn:ietf:params:oauth:grant-type:device_code" => {
            server.users.redeem_device(field("device_code"), client).await?
        }
        "refresh_token" => match server.users.refresh_for(field("refresh_token"), Some(client)).await {
            Ok(given) => Ok(given),
            Err(UserError::Store(error)) => return Err(error.into()),
            Err(error) => return Ok(refused("invalid_grant", &error.to_string())),
        },
        _ => return Ok(refused("unsupported_grant_type", "this grant_type is not known here")),
    };
    Ok(match given {
        Ok((session, scope)) => tokens(&session, &scope),
        Err(error) => refused(error.0, error.1),
    })
}

fn tokens(session: &Session, scope: &str) -> Made {
    let answer = json!({
        "access_token": session.access_token,
        "token_type": "Bearer",
        "expires_in": session.expires_in.map(|time| time.as_secs()),
        "refresh_token": session.refresh_token,
        "scope": scope,
    });
    Made(no_store(json_reply(StatusCode::OK, answer.to_string())))
}

// RFC 7009: a token that is none is revoked already.
async fn revoke(server: Arc<Server>, incoming: Incoming) -> Result<Made, Error> {
    base_or_404(&server)?;
    if let Some(token) = form(&incoming).get("token") {
        server.users.revoke(token).await?;
    }
    Ok(Made(no_store(json_reply(StatusCode::OK, "{}"))))
}

/// An error in OAuth's form.
pub(super) fn refused(code: &str, text: &str) -> Made {
    let body = json!({ "error": code, "error_description": text }).to_string();
    Made(no_store(json_reply(StatusCode::BAD_REQUEST, body)))
}

fn no_store(mut reply: crate::http::reply::Reply) -> crate::http::reply::Reply {
    reply.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    reply
}
