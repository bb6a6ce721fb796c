//! Pushers, and what was notified.

use std::sync::Arc;

use ruma::api::client::push::{get_notifications, get_pushers, set_pusher, set_pusher::v3::PusherAction};
use ruma::{MilliSecondsSinceUnixEpoch, UInt};
use serde_json::value::RawValue;

use crate::{
    api::routes::{Group, Table},
    error::{Error, RequestError},
    http::{args::Args, limits::Class, reply::Json},
    room::{ClientEvent, read::notifications::Notification},
    server::Server,
    store::Seq,
};

pub(super) fn routes(table: &mut Table) {
    table.add(Group::Client, list);
    table.add(Group::Client, set);
    table.add(Group::Client, notifications);
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
    server.gateway.changed();
    Ok(set_pusher::v3::Response::new())
}

#[derive(serde::Serialize)]
struct Page {
    #[serde(skip_serializing_if = "Option::is_none")]
    next_token: Option<String>,
    notifications: Vec<Told>,
}

#[derive(serde::Serialize)]
struct Told {
    actions: Vec<ruma::push::Action>,
    event: ClientEvent,
    read: bool,
    room_id: String,
    ts: MilliSecondsSinceUnixEpoch,
}

async fn notifications(
    server: Arc<Server>,
    args: Args<get_notifications::v3::Request>,
) -> Result<Json<Page>, Error> {
    server.limits.take(Class::Write, args.caller.user.as_str())?;
    let bad = || Error::invalid_param("from is no token of an earlier page");
    let from = args.from.as_deref().map(|text| text.parse().map(Seq).map_err(|_| bad())).transpose()?;
    let limit = args.limit.map_or(20, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
    let highlights = args.only.as_deref() == Some("highlight");
    let (list, next) = server.rooms.notifications(&args.caller.user, from, limit, highlights).await?;
    let told = |one: Notification| Told {
        actions: one.actions,
        event: one.event,
        read: one.read,
        room_id: one.room,
        ts: MilliSecondsSinceUnixEpoch(UInt::new_saturating(one.ts_ms.unsigned_abs())),
    };
    Ok(Json(Page {
        next_token: next.map(|seq| seq.0.to_string()),
        notifications: list.into_iter().map(told).collect(),
    }))
}
