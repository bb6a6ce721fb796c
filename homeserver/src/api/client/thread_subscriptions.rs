//! Following threads (MSC4306), and what changed in that (MSC4308).

use std::{collections::BTreeMap, sync::Arc};

use http::Method;
use ruma::api::{
    auth_scheme::AccessToken,
    client::threads::{
        get_thread_subscription, get_thread_subscriptions_changes, subscribe_thread, unsubscribe_thread,
    },
};
use serde_json::{Value, json};

use crate::{
    api::routes::{Group, Table},
    error::Error,
    http::{
        args::{Args, Incoming},
        auth::CallerKind as _,
        limits::Class,
        reply::Json,
    },
    room::thread::{Followed, from_token, token},
    server::Server,
    store::Seq,
};

/// Threads in one answer when the client does not say.
const PAGE: u64 = 100;
const PAGE_MAX: u64 = 1_000;

pub(super) fn routes(table: &mut Table) {
    table.add(Group::Client, get);
    table.add(Group::Client, subscribe);
    table.add(Group::Client, unsubscribe);
    table.add(Group::Client, changes);
    let path = "/_matrix/client/unstable/io.element.msc4360/thread_updates";
    table.plain(Group::Client, Method::GET, path, updates);
}

async fn get(
    server: Arc<Server>,
    args: Args<get_thread_subscription::unstable::Request>,
) -> Result<get_thread_subscription::unstable::Response, Error> {
    let automatic =
        server.rooms.thread_subscription(&args.caller.user, &args.room_id, &args.thread_root).await?;
    Ok(get_thread_subscription::unstable::Response::new(automatic))
}

async fn subscribe(
    server: Arc<Server>,
    args: Args<subscribe_thread::unstable::Request>,
) -> Result<subscribe_thread::unstable::Response, Error> {
    server.limits.take(Class::Write, args.caller.user.as_str())?;
    let cause = args.automatic.as_deref();
    server.rooms.subscribe_thread(&args.caller.user, &args.room_id, &args.thread_root, cause).await?;
    Ok(subscribe_thread::unstable::Response::new())
}

async fn unsubscribe(
    server: Arc<Server>,
    args: Args<unsubscribe_thread::unstable::Request>,
) -> Result<unsubscribe_thread::unstable::Response, Error> {
    server.limits.take(Class::Write, args.caller.user.as_str())?;
    server.rooms.unsubscribe_thread(&args.caller.user, &args.room_id, &args.thread_root).await?;
    Ok(unsubscribe_thread::unstable::Response::new())
}

/// Threads of all the caller's rooms that have new replies, the newest first: what sliding sync had no room for (MSC4360).
async fn updates(server: Arc<Server>, incoming: Incoming) -> Result<Json<Value>, Error> {
    let caller = AccessToken::caller(&server, &incoming).await?;
    let only = |name: &'static str| incoming.head.query_values(name).next();
    if only("dir").as_deref() != Some("b") {
        return Err(Error::invalid_param("`dir` is b: the newest come first"));
    }
    let place = |text: Option<String>, default: Seq| match text {
        None => Ok(default),
        Some(text) => from_token(&text).map_or_else(|| super::position(&server, &text), Ok),
    };
    let (until, after) = (place(only("from"), Seq(i64::MAX))?, place(only("to"), Seq(0))?);
    let limit = match only("limit").map(|text| text.parse::<u64>()) {
        None => PAGE,
        Some(Ok(limit)) if limit > 0 => limit.min(PAGE_MAX),
        Some(_) => return Err(Error::invalid_param("`limit` is a number greater than 0")),
    };
    let (found, next) = server.rooms.thread_updates(&caller.user, after, until, limit as usize).await?;
    let mut chunk: BTreeMap<String, BTreeMap<String, Value>> = BTreeMap::new();
    for update in found {
        let mut told = json!({ "thread_root": update.root });
        if let Some(prev) = update.prev {
            told["prev_batch"] = prev.to_string().into();
        }
        chunk.entry(update.room).or_default().insert(update.id, told);
    }
    let mut told = json!({ "chunk": chunk });
    if let Some(next) = next {
        told["next_batch"] = token(next).into();
    }
    Ok(Json(told))
}

/// A page of changes, the newest first. `from` is a token of the page before or of sliding sync; `to` also a `pos` of it.
async fn changes(
    server: Arc<Server>,
    args: Args<get_thread_subscriptions_changes::unstable::Request>,
) -> Result<Json<Value>, Error> {
    let place = |text: &Option<String>, default: Seq| match text.as_deref() {
        None => Ok(default),
        Some(text) => from_token(text).map_or_else(|| super::position(&server, text), Ok),
    };
    let (until, after) = (place(&args.from, Seq(i64::MAX))?, place(&args.to, Seq(0))?);
    let limit = args.limit.map_or(PAGE, u64::from).min(PAGE_MAX) as u32;
    let (found, next) = server.rooms.thread_subscriptions(&args.caller.user, after, until, limit).await?;
    let mut told = serde_json::Map::new();
    for (key, follows) in [("subscribed", true), ("unsubscribed", false)] {
        let rooms = by_room(found.iter().filter(|one| one.sub.follows == follows));
        if !rooms.is_empty() {
            told.insert(key.to_owned(), json!(rooms));
        }
    }
    if let Some(next) = next {
        told.insert("end".to_owned(), token(next).into());
    }
    Ok(Json(told.into()))
}

fn by_room<'a>(found: impl Iterator<Item = &'a Followed>) -> BTreeMap<&'a str, BTreeMap<String, Value>> {
    let mut rooms: BTreeMap<&str, BTreeMap<String, Value>> = BTreeMap::new();
    for Followed { room, root, sub } in found {
        let told = match sub.follows {
            true => json!({ "automatic": sub.automatic, "bump_stamp": sub.seq.0 }),
            false => json!({ "bump_stamp": sub.seq.0 }),
        };
        rooms.entry(room).or_default().insert(root.to_string(), told);
    }
    rooms
}
