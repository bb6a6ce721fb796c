//! What application services alone ask, and third-party networks, which they know.

use std::sync::Arc;

use http::StatusCode;
use ruma::api::client::{
    appservice::request_ping,
    thirdparty::{
        get_location_for_protocol, get_location_for_room_alias, get_protocol, get_protocols,
        get_user_for_protocol, get_user_for_user_id,
    },
};
use serde_json::{Value, json};

use crate::{
    api::routes::{Group, Table},
    appservice::PingError,
    error::Error,
    http::{
        args::Args,
        reply::{self, Json, Made},
    },
    server::Server,
};

pub(super) fn routes(table: &mut Table) {
    table.add(Group::Client, ping);
    table.add(Group::Client, protocols);
    table.add(Group::Client, protocol);
    table.add(Group::Client, users);
    table.add(Group::Client, users_of);
    table.add(Group::Client, locations);
    table.add(Group::Client, locations_of);
}

async fn ping(server: Arc<Server>, args: Args<request_ping::v1::Request>) -> Result<Made, Error> {
    if args.caller.id != args.appservice_id {
        return Err(Error::forbidden("a service may ping itself only"));
    }
    let txn = args.transaction_id.as_ref().map(|txn| txn.as_str());
    let answer = server.appservices.ping(&args.caller, txn).await;
    let (status, body) = match answer {
        Ok(took) => (StatusCode::OK, json!({"duration_ms": took.as_millis() as u64})),
        Err(PingError::NoUrl) => (
            StatusCode::BAD_REQUEST,
            json!({"errcode": "M_URL_NOT_SET", "error": "the registration file has no url"}),
        ),
        Err(PingError::Timeout(error)) => {
            (StatusCode::GATEWAY_TIMEOUT, json!({"errcode": "M_CONNECTION_TIMEOUT", "error": error}))
        }
        Err(PingError::Failed(error)) => {
            (StatusCode::BAD_GATEWAY, json!({"errcode": "M_CONNECTION_FAILED", "error": error}))
        }
        Err(PingError::Status(status, body)) => (
            StatusCode::BAD_GATEWAY,
            json!({"errcode": "M_BAD_STATUS", "error": format!("the service says {status}"),
                "status": status, "body": body}),
        ),
    };
    Ok(Made(reply::json(status, body.to_string())))
}

async fn protocols(
    server: Arc<Server>,
    _: Args<get_protocols::v3::Request>,
) -> Result<Json<serde_json::Map<String, Value>>, Error> {
    Ok(Json(server.appservices.protocols().await))
}

async fn protocol(server: Arc<Server>, args: Args<get_protocol::v3::Request>) -> Result<Json<Value>, Error> {
    let found = server.appservices.protocol(&args.protocol).await;
    found.map(Json).ok_or_else(|| Error::not_found("no bridge here knows this network"))
}

async fn users(
    server: Arc<Server>,
    args: Args<get_user_for_protocol::v3::Request>,
) -> Result<Json<Vec<Value>>, Error> {
    let query = args.head.uri.query().map(without_token).unwrap_or_default();
    Ok(Json(server.appservices.third_party("user", Some(&args.protocol), &query).await))
}

async fn locations(
    server: Arc<Server>,
    args: Args<get_location_for_protocol::v3::Request>,
) -> Result<Json<Vec<Value>>, Error> {
    let query = args.head.uri.query().map(without_token).unwrap_or_default();
    Ok(Json(server.appservices.third_party("location", Some(&args.protocol), &query).await))
}

async fn users_of(
    server: Arc<Server>,
    args: Args<get_user_for_user_id::v3::Request>,
) -> Result<Json<Vec<Value>>, Error> {
    let query = args.head.uri.query().map(without_token).unwrap_or_default();
    Ok(Json(server.appservices.third_party("user", None, &query).await))
}

async fn locations_of(
    server: Arc<Server>,
    args: Args<get_location_for_room_alias::v3::Request>,
) -> Result<Json<Vec<Value>>, Error> {
    let query = args.head.uri.query().map(without_token).unwrap_or_default();
    Ok(Json(server.appservices.third_party("location", None, &query).await))
}

/// A client's query as a service may see it.
fn without_token(query: &str) -> String {
    let kept: Vec<&str> = query.split('&').filter(|pair| !pair.starts_with("access_token=")).collect();
    kept.join("&")
}
