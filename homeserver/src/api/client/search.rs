//! Searching messages.

use std::{collections::BTreeMap, sync::Arc};

use ruma::api::client::search::search_events::v3::{GroupingKey, OrderBy, Request};
use serde_json::{Map, Value, json};

use crate::{
    api::routes::{Group, Table},
    error::Error,
    http::{args::Args, limits::Class, reply::Json},
    room::search::{Found, Hit, Search},
    server::Server,
};

pub(super) fn routes(table: &mut Table) {
    table.add(Group::Client, search);
}

async fn search(server: Arc<Server>, args: Args<Request>) -> Result<Json<Value>, Error> {
    let user = &args.caller.user;
    server.limits.take(Class::Write, user.as_str())?;
    let Some(criteria) = &args.search_categories.room_events else {
        return Ok(Json(json!({ "search_categories": {} })));
    };
    let from = match args.next_batch.as_deref() {
        None | Some("") => 0,
        Some(token) => token
            .strip_prefix('s')
            .and_then(|at| at.parse().ok())
            .ok_or_else(|| Error::invalid_param("`next_batch` is no token of a search"))?,
    };
    let around = &criteria.event_context;
    let asked = asks_for_context(&args.body);
    let question = Search {
        term: criteria.search_term.clone(),
        keys: criteria.keys.as_ref().map(|keys| keys.iter().map(ToString::to_string).collect()),
        filter: criteria.filter.clone(),
        recent: criteria.order_by == Some(OrderBy::Recent),
        around: match asked {
            true => (u64::from(around.before_limit) as usize, u64::from(around.after_limit) as usize),
            false => (0, 0),
        },
        profiles: asked && around.include_profile,
        state: criteria.include_state == Some(true),
        from,
    };
    let found = server.rooms.search(user, question).await?;
    let keys: Vec<GroupingKey> =
        criteria.groupings.group_by.iter().filter_map(|group| group.key.clone()).collect();
    Ok(Json(json!({ "search_categories": { "room_events": answer(&found, &keys, asked) } })))
}

/// Whether the client wants the events around the results: ruma's type has them wanted in any case.
fn asks_for_context(body: &[u8]) -> bool {
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    body["search_categories"]["room_events"]["event_context"].is_object()
}

fn answer(found: &Found, keys: &[GroupingKey], context: bool) -> Value {
    let mut answer = json!({
        "count": found.count,
        "highlights": found.words,
        "results": found.hits.iter().map(|hit| result(hit, context)).collect::<Vec<_>>(),
    });
    let next = found.next.map(|next| format!("s{next}"));
    if let Some(next) = &next {
        answer["next_batch"] = next.as_str().into();
    }
    if !found.state.is_empty() {
        let state: BTreeMap<_, _> =
            found.state.iter().map(|(room, events)| (room.as_str(), events)).collect();
        answer["state"] = json!(state);
    }
    let mut groups = Map::new();
    for key in keys {
        let name = |hit: &Hit| match key {
            GroupingKey::RoomId => Some(hit.room.to_string()),
            GroupingKey::Sender => Some(hit.sender.to_string()),
            _ => None,
        };
        let mut group: BTreeMap<String, Vec<Value>> = BTreeMap::new();
        for hit in &found.hits {
            if let Some(name) = name(hit) {
                group.entry(name).or_default().push(event_id(hit));
            }
        }
        let group: Map<String, Value> = group
            .into_iter()
            .enumerate()
            .map(|(order, (name, ids))| (name, json!({ "order": order, "results": ids })))
            .collect();
        if !group.is_empty() {
            groups.insert(key.to_string(), Value::Object(group));
        }
    }
    if !groups.is_empty() {
        answer["groups"] = Value::Object(groups);
    }
    answer
}

fn result(hit: &Hit, context: bool) -> Value {
    let mut result = json!({ "rank": hit.rank, "result": hit.event });
    if context {
        let mut around = json!({ "events_before": hit.before, "events_after": hit.after });
        for (key, token) in [("start", hit.start), ("end", hit.end)] {
            if let Some(token) = token {
                around[key] = token.to_string().into();
            }
        }
        if !hit.members.is_empty() {
            around["profile_info"] = profiles(hit);
        }
        result["context"] = around;
    }
    result
}

fn event_id(hit: &Hit) -> Value {
    let event: Value = serde_json::from_str(hit.event.get()).unwrap_or_default();
    event["event_id"].clone()
}

/// Names and pictures by user, from the member events.
fn profiles(hit: &Hit) -> Value {
    let mut profiles = Map::new();
    for member in &hit.members {
        let event: Value = serde_json::from_str(member.get()).unwrap_or_default();
        if let Some(user) = event["state_key"].as_str() {
            let profile = json!({ "displayname": event["content"]["displayname"], "avatar_url": event["content"]["avatar_url"] });
            profiles.insert(user.to_owned(), profile);
        }
    }
    Value::Object(profiles)
}
