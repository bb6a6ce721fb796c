//! Administrators' paths that take away what a user has said. Draupnir and synapse-admin call them after a ban.
// https://element-hq.github.io/synapse/latest/admin_api/user_admin_api.html#redact-all-the-events-of-a-user

use std::sync::Arc;

use http::Method;
use ruma::{OwnedRoomId, OwnedUserId, UserId};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{body, path};
use crate::{
    api::routes::{Group, Table},
    error::Error,
    http::{args::Incoming, auth::require_admin, reply::Json},
    server::Server,
};

pub(super) fn routes(table: &mut Table) {
    table.plain(Group::Admin, Method::POST, "/_synapse/admin/v1/user/{user_id}/redact", redact);
    table.plain(Group::Admin, Method::GET, "/_synapse/admin/v1/user/redact_status/{redact_id}", status);
}

/// Messages of one room that are redacted if nothing else is asked for, as Synapse does.
const MESSAGES: usize = 1_000;
/// The most that one order redacts in a room: each is an event of its own that every server of the room gets.
const MESSAGES_MAX: usize = 10_000;

#[derive(Default, Deserialize)]
struct Order {
    /// Empty: all that the user is or was in.
    #[serde(default)]
    rooms: Vec<OwnedRoomId>,
    reason: Option<String>,
    limit: Option<usize>,
    /// The administrator says it, and not the user; of other servers' users it always is the administrator.
    #[serde(default)]
    use_admin: bool,
}

async fn redact(server: Arc<Server>, incoming: Incoming) -> Result<Json<Value>, Error> {
    let caller = require_admin(&server, &incoming).await?;
    let user = UserId::parse(path(&incoming, 0)).map_err(|_| Error::invalid_param("not a user id"))?;
    let mut order = body::<Order>(&incoming)?;
    if order.rooms.is_empty() {
        order.rooms = server.rooms.rooms_of_anybody(&user).await?;
    }
    let ours = user.server_name() == server.name && server.users.exists(&user).await?;
    let by = if ours && !order.use_admin { user.clone() } else { caller.user };
    let id = server.jobs.begin(user.as_str());
    let (worker, job) = (Arc::clone(&server), id.clone());
    server.tasks.spawn(async move {
        let failed = tokio::select! {
            failed = redact_all(&worker, &user, &by, order) => Ok(json!(failed)),
            () = worker.shutdown.cancelled() => Err("the node has ended; begin anew".to_owned()),
        };
        worker.jobs.end(&job, failed);
    });
    Ok(Json(json!({ "redact_id": id })))
}

/// Redacts what it can, and gives what it could not: event id (or room id) -> why.
async fn redact_all(
    server: &Server,
    user: &OwnedUserId,
    by: &OwnedUserId,
    order: Order,
) -> Map<String, Value> {
    let mut failed = Map::new();
    let limit = order.limit.unwrap_or(MESSAGES).min(MESSAGES_MAX);
    for room in &order.rooms {
        let said = match server.rooms.said_by(user, room, limit).await {
            Ok(said) => said,
            Err(error) => {
                failed.insert(room.to_string(), error.to_string().into());
                continue;
            }
        };
        for event in said {
            if let Err(error) = server.rooms.redact(by, room, &event, order.reason.clone(), None).await {
                failed.insert(event.to_string(), error.to_string().into());
            }
        }
    }
    failed
}

async fn status(server: Arc<Server>, incoming: Incoming) -> Result<Json<Value>, Error> {
    require_admin(&server, &incoming).await?;
    let job =
        server.jobs.get(path(&incoming, 0)).ok_or_else(|| Error::not_found("no such order is known"))?;
    Ok(Json(match job.outcome {
        None => json!({ "status": "active" }),
        Some(Ok(failed)) => json!({ "status": "complete", "failed_redactions": failed }),
        Some(Err(error)) => json!({ "status": "failed", "error": error, "failed_redactions": {} }),
    }))
}
