//! Administrators' paths about the server: version, statistics, reports, other servers, notices.

use std::sync::Arc;

use http::Method;
use ruma::UserId;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{body, number, path, query};
use crate::{
    api::routes::{Group, Table},
    error::Error,
    http::{args::Incoming, auth::require_admin, reply::Json},
    server::Server,
    user::Report,
};

pub(super) fn routes(table: &mut Table) {
    table.plain(Group::Admin, Method::GET, "/_synapse/admin/v1/server_version", version);
    table.plain(Group::Admin, Method::GET, "/_synapse/admin/v1/statistics/users/media", media_statistics);
    table.plain(Group::Admin, Method::GET, "/_synapse/admin/v1/event_reports", event_reports);
    table.plain(Group::Admin, Method::GET, "/_synapse/admin/v1/event_reports/{id}", event_report);
    table.plain(Group::Admin, Method::DELETE, "/_synapse/admin/v1/event_reports/{id}", remove_report);
    table.plain(Group::Admin, Method::GET, "/_synapse/admin/v1/user_reports", other_reports);
    table.plain(Group::Admin, Method::GET, "/_synapse/admin/v1/federation/destinations", destinations);
    table.plain(Group::Admin, Method::GET, "/_synapse/admin/v1/background_updates/status", background);
    table.plain(
        Group::Admin,
        Method::GET,
        "/_synapse/admin/v1/background_updates/enabled",
        background_enabled,
    );
    table.plain(Group::Admin, Method::POST, "/_synapse/admin/v1/send_server_notice", notice);
    table.plain(Group::Admin, Method::PUT, "/_synapse/admin/v1/send_server_notice/{txn_id}", notice);
}

/// Asked for without a token by some tools, and no secret.
async fn version(_: Arc<Server>, _: Incoming) -> Result<Json<Value>, Error> {
    Ok(Json(json!({ "server_version": concat!("Mangrove ", env!("CARGO_PKG_VERSION")) })))
}

async fn media_statistics(server: Arc<Server>, incoming: Incoming) -> Result<Json<Value>, Error> {
    require_admin(&server, &incoming).await?;
    let limit = number(&query(&incoming), "limit", 100)?.min(1_000);
    let users: Vec<Value> = server
        .users
        .media_by_user(limit)
        .await?
        .into_iter()
        .map(|(user, files, bytes)| json!({ "user_id": user, "media_count": files, "media_length": bytes }))
        .collect();
    Ok(Json(json!({ "total": users.len(), "users": users })))
}

fn shown(report: &Report) -> Value {
    json!({ "id": report.id, "received_ts": report.at_ms, "user_id": report.reporter, "room_id": report.room,
        "event_id": report.event, "target_user_id": report.target, "reason": report.reason, "score": report.score })
}

async fn reports(
    server: &Arc<Server>,
    incoming: &Incoming,
    events: bool,
) -> Result<(Vec<Value>, u64, u64), Error> {
    require_admin(server, incoming).await?;
    let query = query(incoming);
    let (from, limit) = (number(&query, "from", 0)?, number(&query, "limit", 100)?.min(1_000));
    let (list, total) = server.users.reports(events, from, limit).await?;
    Ok((list.iter().map(shown).collect(), total, from + limit))
}

async fn event_reports(server: Arc<Server>, incoming: Incoming) -> Result<Json<Value>, Error> {
    let (list, total, next) = reports(&server, &incoming, true).await?;
    let mut answer = json!({ "event_reports": list, "total": total });
    if next < total {
        answer["next_token"] = next.into();
    }
    Ok(Json(answer))
}

async fn other_reports(server: Arc<Server>, incoming: Incoming) -> Result<Json<Value>, Error> {
    let (list, total, next) = reports(&server, &incoming, false).await?;
    let mut answer = json!({ "user_reports": list, "total": total });
    if next < total {
        answer["next_token"] = next.into();
    }
    Ok(Json(answer))
}

fn id(incoming: &Incoming) -> Result<i64, Error> {
    path(incoming, 0).parse().map_err(|_| Error::invalid_param("the report's id is a number"))
}

async fn event_report(server: Arc<Server>, incoming: Incoming) -> Result<Json<Value>, Error> {
    require_admin(&server, &incoming).await?;
    let report = server.users.report_by_id(id(&incoming)?).await?;
    Ok(Json(shown(&report.ok_or_else(|| Error::not_found("no such report"))?)))
}

async fn remove_report(server: Arc<Server>, incoming: Incoming) -> Result<Json<Value>, Error> {
    require_admin(&server, &incoming).await?;
    match server.users.remove_report(id(&incoming)?).await? {
        true => Ok(Json(json!({}))),
        false => Err(Error::not_found("no such report")),
    }
}

/// Only those that are behind: of the others there is nothing to know.
async fn destinations(server: Arc<Server>, incoming: Incoming) -> Result<Json<Value>, Error> {
    require_admin(&server, &incoming).await?;
    let behind: Vec<Value> = server
        .users
        .servers_behind()
        .await?
        .into_iter()
        .map(|name| {
            json!({ "destination": name, "retry_last_ts": 0, "retry_interval": 0, "failure_ts": null,
                "last_successful_stream_ordering": null })
        })
        .collect();
    Ok(Json(json!({ "total": behind.len(), "destinations": behind })))
}

/// Migrations run before the server starts.
async fn background(server: Arc<Server>, incoming: Incoming) -> Result<Json<Value>, Error> {
    require_admin(&server, &incoming).await?;
    Ok(Json(json!({ "enabled": true, "current_updates": {} })))
}

async fn background_enabled(server: Arc<Server>, incoming: Incoming) -> Result<Json<Value>, Error> {
    require_admin(&server, &incoming).await?;
    Ok(Json(json!({ "enabled": true })))
}

async fn notice(server: Arc<Server>, incoming: Incoming) -> Result<Json<Value>, Error> {
    #[derive(Deserialize)]
    struct Body {
        user_id: String,
        content: serde_json::Map<String, Value>,
    }
    require_admin(&server, &incoming).await?;
    let body: Body = body(&incoming)?;
    let user = UserId::parse(body.user_id).map_err(|_| Error::invalid_param("not a user id"))?;
    let txn = incoming.path.first().map(String::as_str);
    let event = server.send_notice(&user, body.content.into(), txn).await?;
    Ok(Json(json!({ "event_id": event })))
}
