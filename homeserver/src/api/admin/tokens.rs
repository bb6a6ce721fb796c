//! Administrators' paths about registration tokens.
// https://element-hq.github.io/synapse/latest/usage/administration/admin_api/registration_tokens.html

use std::sync::Arc;

use http::Method;
use serde_json::{Map, Value, json};

use super::{body, path, query};
use crate::{
    api::routes::{Group, Table},
    error::Error,
    http::{args::Incoming, auth::require_admin, reply::Json},
    server::Server,
    user::{TokenInfo, Users},
};

pub(super) fn routes(table: &mut Table) {
    table.plain(Group::Admin, Method::GET, "/_synapse/admin/v1/registration_tokens", list);
    table.plain(Group::Admin, Method::POST, "/_synapse/admin/v1/registration_tokens/new", make);
    table.plain(Group::Admin, Method::GET, "/_synapse/admin/v1/registration_tokens/{token}", detail);
    table.plain(Group::Admin, Method::PUT, "/_synapse/admin/v1/registration_tokens/{token}", change);
    table.plain(Group::Admin, Method::DELETE, "/_synapse/admin/v1/registration_tokens/{token}", remove);
}

fn shown(token: &TokenInfo) -> Value {
    json!({ "token": token.token, "uses_allowed": token.uses_allowed, "pending": 0, "completed": token.completed,
        "expiry_time": token.expires_ms })
}

async fn find(server: &Server, name: &str) -> Result<TokenInfo, Error> {
    let all = server.users.all_tokens().await?;
    all.into_iter()
        .find(|token| token.token == name)
        .ok_or_else(|| Error::not_found("no such registration token"))
}

async fn list(server: Arc<Server>, incoming: Incoming) -> Result<Json<Value>, Error> {
    require_admin(&server, &incoming).await?;
    let valid = query(&incoming).get("valid").map(|valid| valid == "true");
    let now = server.clock.now_ms();
    let is_valid = |token: &TokenInfo| {
        token.uses_allowed.is_none_or(|allowed| token.completed < allowed)
            && token.expires_ms.is_none_or(|end| end >= now)
    };
    let tokens = server.users.all_tokens().await?;
    let tokens: Vec<Value> =
        tokens.iter().filter(|token| valid.is_none_or(|valid| is_valid(token) == valid)).map(shown).collect();
    Ok(Json(json!({ "registration_tokens": tokens })))
}

/// `uses_allowed` and `expiry_time` of a body: absent, null, or a number.
fn terms(body: &Map<String, Value>, known: Option<&TokenInfo>) -> Result<(Option<u32>, Option<u64>), Error> {
    let uses = match body.get("uses_allowed") {
        None => known.and_then(|known| known.uses_allowed),
        Some(Value::Null) => None,
        Some(value) => Some(
            value
                .as_u64()
                .and_then(|uses| u32::try_from(uses).ok())
                .filter(|uses| *uses < u32::MAX / 2)
                .ok_or_else(|| {
                    Error::invalid_param("uses_allowed is a number that is not negative, or null")
                })?,
        ),
    };
    let expires = match body.get("expiry_time") {
        None => known.and_then(|known| known.expires_ms),
        Some(Value::Null) => None,
        Some(value) => {
            Some(value.as_u64().ok_or_else(|| Error::invalid_param("expiry_time is milliseconds, or null"))?)
        }
    };
    Ok((uses, expires))
}

async fn make(server: Arc<Server>, incoming: Incoming) -> Result<Json<Value>, Error> {
    require_admin(&server, &incoming).await?;
    let body: Map<String, Value> = body(&incoming)?;
    let (uses, expires) = terms(&body, None)?;
    let now = server.clock.now_ms();
    if expires.is_some_and(|end| end < now) {
        return Err(Error::invalid_param("expiry_time must not be in the past"));
    }
    let text = body.get("token").and_then(Value::as_str).map(ToOwned::to_owned);
    if let Some(text) = &text
        && find(&server, text).await.is_ok()
    {
        return Err(Error::invalid_param("that token exists already"));
    }
    let for_ms = expires.map(|end| end - now);
    let made = server.users.make_token(text, Users::token_uses(uses), for_ms).await?;
    Ok(Json(shown(&find(&server, &made.token).await?)))
}

async fn detail(server: Arc<Server>, incoming: Incoming) -> Result<Json<Value>, Error> {
    require_admin(&server, &incoming).await?;
    Ok(Json(shown(&find(&server, path(&incoming, 0)).await?)))
}

async fn change(server: Arc<Server>, incoming: Incoming) -> Result<Json<Value>, Error> {
    require_admin(&server, &incoming).await?;
    let known = find(&server, path(&incoming, 0)).await?;
    let (uses, expires) = terms(&body(&incoming)?, Some(&known))?;
    server.users.change_token(&known.token, uses, expires).await?;
    Ok(Json(shown(&find(&server, &known.token).await?)))
}

async fn remove(server: Arc<Server>, incoming: Incoming) -> Result<Json<Value>, Error> {
    require_admin(&server, &incoming).await?;
    match server.users.remove_token(path(&incoming, 0)).await? {
        true => Ok(Json(json!({}))),
        false => Err(Error::not_found("no such registration token")),
    }
}
