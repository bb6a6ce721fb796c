//! Pushers: kept for the client that set them.

use std::sync::Arc;

use ruma::api::client::push::{get_pushers, set_pusher, set_pusher::v3::PusherAction};
use serde_json::value::RawValue;

use crate::{
    api::routes::{Group, Table},
    error::{Error, RequestError},
    http::{args::Args, limits::Class, reply::Json},
    server::Server,
};

pub(super) fn routes(table: &mut Table) {
    table.add(Group::Client, list);
    table.add(Group::Client, set);
}

#[derive(serde::Serialize)]
struct Pushers {
    pushers: Vec<Box<RawValue>>,
}

async fn list(server: Arc<Server>, args: Args<get_pushers::v3::Request>) -> Result<Json<Pushers>, Error> {
    let pushers = server.users.pushers(&args.caller.user).await?;
    Ok(Json(Pushers {
        pushers: pushers.into_iter().filter_map(|json| RawValue::from_string(json).ok()).collect(),
    }))
}

async fn set(
    server: Arc<Server>,
    args: Args<set_pusher::v3::Request>,
) -> Result<set_pusher::v3::Response, Error> {
    server.limits.take(Class::Write, args.caller.user.as_str())?;
    match &args.action {
        PusherAction::Post(post) => {
            let json = serde_json::to_string(&post.pusher)
                .map_err(|error| RequestError::BadJson(error.to_string()))?;
            server.users.set_pusher(&args.caller, &post.pusher.ids, json, post.append).await?;
        }
        PusherAction::Delete(ids) => server.users.remove_pusher(&args.caller, ids).await?,
        _ => return Err(Error::invalid_param("a pusher is set or removed")),
    }
    Ok(set_pusher::v3::Response::new())
}
