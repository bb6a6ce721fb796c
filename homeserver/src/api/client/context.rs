//! An event and what surrounds it.

use std::sync::Arc;

use ruma::api::client::context::get_context;
use serde::Serialize;

use super::message::lazy;
use crate::{
    api::routes::{Group, Table},
    error::Error,
    http::{args::Args, reply::Json},
    room::ClientEvent,
    server::Server,
};

pub(super) fn routes(table: &mut Table) {
    table.add(Group::Client, context);
}

#[derive(Serialize)]
struct Context {
    start: String,
    end: String,
    events_before: Vec<ClientEvent>,
    event: ClientEvent,
    events_after: Vec<ClientEvent>,
    state: Vec<ClientEvent>,
}

async fn context(server: Arc<Server>, args: Args<get_context::v3::Request>) -> Result<Json<Context>, Error> {
    let limit = u64::from(args.limit).min(AROUND_MAX) as u32;
    let found = server
        .rooms
        .context(&args.caller.user, &args.room_id, &args.event_id, limit, lazy(&args.filter))
        .await?;
    Ok(Json(Context {
        start: found.start.to_string(),
        end: found.end.to_string(),
        events_before: found.before,
        event: found.event,
        events_after: found.after,
        state: found.state,
    }))
}

/// Events around one.
const AROUND_MAX: u64 = 200;
