//! Administrators' paths about media.
// https://element-hq.github.io/synapse/latest/admin_api/media_admin_api.html

use std::{collections::HashSet, sync::Arc};

use http::Method;
use ruma::{OwnedMxcUri, OwnedServerName, OwnedUserId, RoomId, ServerName, UserId};
use serde_json::{Value, json};

use super::{number, path, query};
use crate::{
    api::routes::{Group, Table},
    error::{Error, RequestError},
    http::{args::Incoming, auth::require_admin, reply::Json},
    media::{Address, MediaInfo},
    server::Server,
};

pub(super) fn routes(table: &mut Table) {
    let admin = Group::Admin;
    table.plain(admin, Method::GET, "/_synapse/admin/v1/room/{room_id}/media", of_room);
    table
        .plain(admin, Method::POST, "/_synapse/admin/v1/room/{room_id}/media/quarantine", quarantine_room)
        .also("/_synapse/admin/v1/quarantine_media/{room_id}");
    table.plain(admin, Method::POST, "/_synapse/admin/v1/user/{user_id}/media/quarantine", quarantine_user);
    table.plain(
        admin,
        Method::POST,
        "/_synapse/admin/v1/media/quarantine/{server_name}/{media_id}",
        quarantine,
    );
    table.plain(
        admin,
        Method::POST,
        "/_synapse/admin/v1/media/unquarantine/{server_name}/{media_id}",
        unquarantine,
    );
    table.plain(admin, Method::POST, "/_synapse/admin/v1/media/protect/{media_id}", protect);
    table.plain(admin, Method::POST, "/_synapse/admin/v1/media/unprotect/{media_id}", unprotect);
    table.plain(admin, Method::GET, "/_synapse/admin/v1/media/{server_name}/{media_id}", describe);
    table.plain(admin, Method::DELETE, "/_synapse/admin/v1/media/{server_name}/{media_id}", delete);
    table
        .plain(admin, Method::POST, "/_synapse/admin/v1/media/delete", delete_old)
        .also("/_synapse/admin/v1/media/{server_name}/delete");
    table.plain(admin, Method::GET, "/_synapse/admin/v1/users/{user_id}/media", of_user);
    table.plain(admin, Method::DELETE, "/_synapse/admin/v1/users/{user_id}/media", delete_of_user);
    table.plain(admin, Method::POST, "/_synapse/admin/v1/purge_media_cache", purge_remote);
}

fn room(incoming: &Incoming) -> Result<ruma::OwnedRoomId, Error> {
    RoomId::parse(path(incoming, 0)).map_err(|_| Error::invalid_param("not a room id"))
}

fn user(server: &Server, incoming: &Incoming) -> Result<OwnedUserId, Error> {
    let user = UserId::parse(path(incoming, 0)).map_err(|_| Error::invalid_param("not a user id"))?;
    if user.server_name() != server.name {
        return Err(Error::invalid_param("only uploads of users of this server are known"));
    }
    Ok(user)
}

/// Server and id of the path.
fn medium(incoming: &Incoming) -> Result<(OwnedServerName, &str), Error> {
    let name = ServerName::parse(path(incoming, 0)).map_err(|_| Error::invalid_param("not a server name"))?;
    Ok((name, path(incoming, 1)))
}

fn addresses(uris: &[OwnedMxcUri]) -> Vec<Address> {
    uris.iter()
        .filter_map(|uri| uri.parts().ok())
        .map(|(name, id)| (name.to_owned(), id.to_owned()))
        .collect()
}

fn shown(info: &MediaInfo) -> Value {
    json!({ "media_id": info.id, "media_type": info.content_type, "upload_name": info.name,
        "media_length": info.size, "created_ts": info.made_ms, "last_access_ts": info.used_ms,
        "quarantined_by": info.quarantined_by, "safe_from_quarantine": info.protected })
}

async fn of_room(server: Arc<Server>, incoming: Incoming) -> Result<Json<Value>, Error> {
    require_admin(&server, &incoming).await?;
    let media = server.rooms.admin_media(&room(&incoming)?).await?;
    let (local, remote): (Vec<_>, Vec<_>) =
        media.into_iter().partition(|uri| uri.server_name().is_ok_and(|name| name == server.name));
    Ok(Json(json!({ "local": local, "remote": remote })))
}

async fn quarantine_room(server: Arc<Server>, incoming: Incoming) -> Result<Json<Value>, Error> {
    let caller = require_admin(&server, &incoming).await?;
    let media = server.rooms.admin_media(&room(&incoming)?).await?;
    let count = server.media.quarantine(addresses(&media), &caller.user).await?;
    Ok(Json(json!({ "num_quarantined": count })))
}

/// All ids that a user has uploaded.
async fn uploads(server: &Server, user: &UserId) -> Result<Vec<String>, Error> {
    let (mut ids, mut from) = (Vec::new(), 0);
    loop {
        let (page, total) = server.media.of_user(user, from, PAGE).await?;
        from += page.len() as u64;
        let end = page.is_empty() || from >= total;
        ids.extend(page.into_iter().map(|info| info.id));
        if end {
            return Ok(ids);
        }
    }
}

async fn quarantine_user(server: Arc<Server>, incoming: Incoming) -> Result<Json<Value>, Error> {
    let caller = require_admin(&server, &incoming).await?;
    let ids = uploads(&server, &user(&server, &incoming)?).await?;
    let media = ids.into_iter().map(|id| (server.name.clone(), id)).collect();
    let count = server.media.quarantine(media, &caller.user).await?;
    Ok(Json(json!({ "num_quarantined": count })))
}

async fn quarantine(server: Arc<Server>, incoming: Incoming) -> Result<Json<Value>, Error> {
    let caller = require_admin(&server, &incoming).await?;
    let (name, id) = medium(&incoming)?;
    server.media.quarantine(vec![(name, id.to_owned())], &caller.user).await?;
    Ok(Json(json!({})))
}

async fn unquarantine(server: Arc<Server>, incoming: Incoming) -> Result<Json<Value>, Error> {
    require_admin(&server, &incoming).await?;
    let (name, id) = medium(&incoming)?;
    server.media.unquarantine(&name, id).await?;
    Ok(Json(json!({})))
}

async fn protect(server: Arc<Server>, incoming: Incoming) -> Result<Json<Value>, Error> {
    require_admin(&server, &incoming).await?;
    server.media.protect(path(&incoming, 0), true).await?;
    Ok(Json(json!({})))
}

async fn unprotect(server: Arc<Server>, incoming: Incoming) -> Result<Json<Value>, Error> {
    require_admin(&server, &incoming).await?;
    server.media.protect(path(&incoming, 0), false).await?;
    Ok(Json(json!({})))
}

async fn describe(server: Arc<Server>, incoming: Incoming) -> Result<Json<Value>, Error> {
    require_admin(&server, &incoming).await?;
    let (name, id) = medium(&incoming)?;
    let mut told = shown(&server.media.describe(&name, id).await?);
    told["media_origin"] = name.as_str().into();
    Ok(Json(json!({ "media_info": told })))
}

fn deleted(ids: Vec<String>) -> Json<Value> {
    Json(json!({ "total": ids.len(), "deleted_media": ids }))
}

async fn delete(server: Arc<Server>, incoming: Incoming) -> Result<Json<Value>, Error> {
    require_admin(&server, &incoming).await?;
    let (name, id) = medium(&incoming)?;
    if name != server.name {
        return Err(Error::invalid_param("only media of this server are deleted so; see purge_media_cache"));
    }
    let gone = server.media.delete(vec![id.to_owned()]).await?;
    if gone.is_empty() {
        return Err(Error::not_found("no such media"));
    }
    Ok(deleted(gone))
}

async fn delete_old(server: Arc<Server>, incoming: Incoming) -> Result<Json<Value>, Error> {
    require_admin(&server, &incoming).await?;
    let query = query(&incoming);
    if !query.contains_key("before_ts") {
        return Err(RequestError::MissingParam("before_ts".into()).into());
    }
    let (before, larger) = (number(&query, "before_ts", 0)?, number(&query, "size_gt", 0)?);
    if before > server.clock.now_ms() {
        return Err(Error::invalid_param("before_ts lies in the future; it is in milliseconds"));
    }
    let keep: HashSet<String> = match query.get("keep_profiles").map(String::as_str) {
        Some("false") => HashSet::new(),
        _ => {
            let mut pictures = server.users.pictures().await?;
            pictures.extend(server.rooms.pictures().await?);
            pictures.iter().filter_map(|uri| uri.media_id().ok()).map(ToOwned::to_owned).collect()
        }
    };
    Ok(deleted(server.media.delete_old(before, larger, &keep).await?))
}

async fn of_user(server: Arc<Server>, incoming: Incoming) -> Result<Json<Value>, Error> {
    require_admin(&server, &incoming).await?;
    let query = query(&incoming);
    let (from, limit) = (number(&query, "from", 0)?, number(&query, "limit", 100)?.min(1_000));
    let (page, total) = server.media.of_user(&user(&server, &incoming)?, from, limit).await?;
    let mut told = json!({ "media": page.iter().map(shown).collect::<Vec<_>>(), "total": total });
    if from + limit < total {
        told["next_token"] = (from + limit).into();
    }
    Ok(Json(told))
}

async fn delete_of_user(server: Arc<Server>, incoming: Incoming) -> Result<Json<Value>, Error> {
    require_admin(&server, &incoming).await?;
    let query = query(&incoming);
    let (from, limit) = (number(&query, "from", 0)?, number(&query, "limit", 100)?.min(1_000));
    let (page, _) = server.media.of_user(&user(&server, &incoming)?, from, limit).await?;
    Ok(deleted(server.media.delete(page.into_iter().map(|info| info.id).collect()).await?))
}

async fn purge_remote(server: Arc<Server>, incoming: Incoming) -> Result<Json<Value>, Error> {
    require_admin(&server, &incoming).await?;
    let query = query(&incoming);
    if !query.contains_key("before_ts") {
        return Err(RequestError::MissingParam("before_ts".into()).into());
    }
    let count = server.media.purge_remote(number(&query, "before_ts", 0)?).await?;
    Ok(Json(json!({ "deleted": count })))
}

/// Uploads read at a time.
const PAGE: u64 = 500;
