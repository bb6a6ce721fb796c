//! Reports to this server's administrators: events, rooms, users.
// spec: https://spec.matrix.org/v1.19/client-server-api/#reporting-content

use std::sync::Arc;

use http::Method;
use ruma::{EventId, RoomId, UserId};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    api::{
        admin::body,
        routes::{Group, Table},
    },
    error::Error,
    http::{args::Incoming, auth::require_user, limits::Class, reply::Json},
    server::Server,
    user::Report,
};

pub(super) fn routes(table: &mut Table) {
    table
        .plain(Group::Client, Method::POST, "/_matrix/client/v3/rooms/{room_id}/report/{event_id}", event)
        .also("/_matrix/client/r0/rooms/{room_id}/report/{event_id}");
    table
        .plain(Group::Client, Method::POST, "/_matrix/client/v3/rooms/{room_id}/report", room)
        .also("/_matrix/client/unstable/org.matrix.msc4151/rooms/{room_id}/report");
    table.plain(Group::Client, Method::POST, "/_matrix/client/v3/users/{user_id}/report", user);
}

#[derive(Deserialize)]
struct Body {
    reason: Option<String>,
    score: Option<i64>,
}

async fn keep(server: &Arc<Server>, incoming: &Incoming, report: Report) -> Result<Json<Value>, Error> {
    let caller = require_user(server, &incoming.head.headers, incoming.head.uri.query()).await?;
    server.limits.take(Class::Write, caller.user.as_str())?;
    server.users.report(&caller.user, report).await?;
    Ok(Json(json!({})))
}

fn part(incoming: &Incoming, at: usize) -> &str {
    incoming.path.get(at).map(String::as_str).unwrap_or_default()
}

async fn event(server: Arc<Server>, incoming: Incoming) -> Result<Json<Value>, Error> {
    let caller = require_user(&server, &incoming.head.headers, incoming.head.uri.query()).await?;
    let said: Body = body(&incoming)?;
    let room = RoomId::parse(part(&incoming, 0)).map_err(|_| Error::not_found("no such room"))?;
    let event = EventId::parse(part(&incoming, 1)).map_err(|_| Error::not_found("no such event"))?;
    // Whoever may not see it is not told that it is there.
    let seen = server.rooms.event(&caller.user, &room, &event).await;
    seen.map_err(|_| Error::not_found("no such event, or you cannot see it"))?;
    let report = Report {
        room: Some(room.to_string()),
        event: Some(event.to_string()),
        reason: said.reason,
        score: said.score,
        ..Report::default()
    };
    keep(&server, &incoming, report).await
}

async fn room(server: Arc<Server>, incoming: Incoming) -> Result<Json<Value>, Error> {
    let caller = require_user(&server, &incoming.head.headers, incoming.head.uri.query()).await?;
    let said: Body = body(&incoming)?;
    let room = RoomId::parse(part(&incoming, 0)).map_err(|_| Error::not_found("no such room"))?;
    if let Err(error) = server.rooms.admin_detail(&room).await {
        tracing::debug!(user = %caller.user, %error, "a report about a room that is not here");
        return Err(Error::not_found("this server does not know that room"));
    }
    keep(&server, &incoming, Report { room: Some(room.to_string()), reason: said.reason, ..Report::default() }).await
}

async fn user(server: Arc<Server>, incoming: Incoming) -> Result<Json<Value>, Error> {
    let said: Body = body(&incoming)?;
    let user = UserId::parse(part(&incoming, 0)).map_err(|_| Error::not_found("no such user"))?;
    // Whether a user exists is not told: the answer is the same.
    keep(&server, &incoming, Report { target: Some(user.to_string()), reason: said.reason, ..Report::default() }).await
}
