//! Administrators' paths about users.
// https://element-hq.github.io/synapse/latest/admin_api/user_admin_api.html

use std::sync::Arc;

use http::{Method, StatusCode};
use ruma::{OwnedDeviceId, OwnedUserId, UserId};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{body, page, path, query};
use crate::{
    api::routes::{Group, Table},
    error::{Error, RequestError},
    http::{
        args::Incoming,
        auth::require_admin,
        reply::{Json, Made, json as json_reply},
    },
    server::Server,
    user::{Flag, NewAccount, Proof},
};

pub(super) fn routes(table: &mut Table) {
    table.plain(Group::Admin, Method::GET, "/_synapse/admin/v2/users", list).also("/_synapse/admin/v3/users");
    table.plain(Group::Admin, Method::GET, "/_synapse/admin/v2/users/{user_id}", detail);
    table.plain(Group::Admin, Method::PUT, "/_synapse/admin/v2/users/{user_id}", modify);
    table.plain(Group::Admin, Method::POST, "/_synapse/admin/v1/deactivate/{user_id}", deactivate);
    table.plain(Group::Admin, Method::POST, "/_synapse/admin/v1/reset_password/{user_id}", reset_password);
    table.plain(Group::Admin, Method::GET, "/_synapse/admin/v1/users/{user_id}/admin", is_admin);
    table.plain(Group::Admin, Method::PUT, "/_synapse/admin/v1/users/{user_id}/admin", set_admin);
    table.plain(Group::Admin, Method::GET, "/_synapse/admin/v1/users/{user_id}/joined_rooms", joined_rooms);
    table.plain(Group::Admin, Method::GET, "/_synapse/admin/v2/users/{user_id}/devices", devices);
    table.plain(
        Group::Admin,
        Method::POST,
        "/_synapse/admin/v2/users/{user_id}/delete_devices",
        delete_devices,
    );
    table.plain(Group::Admin, Method::GET, "/_synapse/admin/v2/users/{user_id}/devices/{device_id}", device);
    table.plain(
        Group::Admin,
        Method::PUT,
        "/_synapse/admin/v2/users/{user_id}/devices/{device_id}",
        rename_device,
    );
    table.plain(
        Group::Admin,
        Method::DELETE,
        "/_synapse/admin/v2/users/{user_id}/devices/{device_id}",
        delete_device,
    );
    table.plain(Group::Admin, Method::POST, "/_synapse/admin/v1/users/{user_id}/login", login_as);
    table.plain(Group::Admin, Method::POST, "/_synapse/admin/v1/users/{user_id}/shadow_ban", shadow_ban);
    table.plain(Group::Admin, Method::DELETE, "/_synapse/admin/v1/users/{user_id}/shadow_ban", shadow_ban);
    table.plain(Group::Admin, Method::PUT, "/_synapse/admin/v1/suspend/{user_id}", suspend);
    table.plain(
        Group::Admin,
        Method::POST,
        "/_synapse/admin/v1/users/{user_id}/_allow_cross_signing_replacement_without_uia",
        allow_reset,
    );
    table.plain(Group::Admin, Method::GET, "/_synapse/admin/v1/users/{user_id}/pushers", pushers);
    table.plain(Group::Admin, Method::GET, "/_synapse/admin/v1/username_available", username_available);
}

/// The user of the path: one of ours.
fn user(server: &Server, incoming: &Incoming) -> Result<OwnedUserId, Error> {
    let user = UserId::parse(path(incoming, 0)).map_err(|_| Error::invalid_param("not a user id"))?;
    if user.server_name() != server.name {
        return Err(Error::invalid_param("only users of this server can be administered here"));
    }
    Ok(user)
}

async fn list(server: Arc<Server>, incoming: Incoming) -> Result<Json<Value>, Error> {
    require_admin(&server, &incoming).await?;
    let query = query(&incoming);
    let mut wanted = page(&query, "name")?;
    wanted.term = query.get("user_id").or_else(|| query.get("name")).cloned().unwrap_or_default();
    wanted.deactivated = query.get("deactivated").is_some_and(|value| value == "true");
    wanted.guests = query.get("guests").is_none_or(|value| value != "false");
    let next = wanted.from + wanted.limit;
    let (users, total) = server.users.admin_list(wanted).await?;
    let mut answer = json!({ "users": users, "total": total });
    if next < total {
        answer["next_token"] = next.to_string().into();
    }
    Ok(Json(answer))
}

async fn detail(server: Arc<Server>, incoming: Incoming) -> Result<Json<Value>, Error> {
    require_admin(&server, &incoming).await?;
    Ok(Json(server.users.admin_detail(&user(&server, &incoming)?).await?))
}

async fn pushers(server: Arc<Server>, incoming: Incoming) -> Result<Json<Value>, Error> {
    require_admin(&server, &incoming).await?;
    let pushers: Vec<Value> = server
        .users
        .pushers(&user(&server, &incoming)?)
        .await?
        .iter()
        .filter_map(|pusher| serde_json::from_str(pusher).ok())
        .collect();
    Ok(Json(json!({ "total": pushers.len(), "pushers": pushers })))
}

async fn modify(server: Arc<Server>, incoming: Incoming) -> Result<Made, Error> {
    let caller = require_admin(&server, &incoming).await?;
    let (user, body) = (user(&server, &incoming)?, body::<Map<String, Value>>(&incoming)?);
    let text = |field: &str| body.get(field).and_then(Value::as_str).map(ToOwned::to_owned);
    let new = server.users.admin_detail(&user).await.is_err();
    if new {
        let account = NewAccount {
            localpart: Some(user.localpart().to_owned()),
            password: text("password"),
            displayname: text("displayname"),
            ..NewAccount::new(Proof::Operator)
        };
        server.users.register(account, None).await?;
    }
    if body.get("deactivated") == Some(&false.into()) && !new {
        let known = server.users.admin_detail(&user).await?;
        if known["deactivated"] == true {
            server.users.reactivate(&user).await?;
        }
    }
    if let (Some(password), false) = (text("password"), new) {
        let end_others = body.get("logout_devices") != Some(&false.into());
        server.users.set_password(&user, &password, end_others, None).await?;
    }
    for field in ["displayname", "avatar_url"] {
        if let Some(value) = body.get(field) {
            let value = value.as_str().filter(|text| !text.is_empty()).map(Value::from);
            server.set_profile(user.clone(), field, value).await?;
        }
    }
    if let Some(known) = body.get("threepids").and_then(Value::as_array) {
        let addresses: Vec<String> = known
            .iter()
            .filter(|known| known["medium"] == "email")
            .filter_map(|known| known["address"].as_str().map(ToOwned::to_owned))
            .collect();
        server.users.set_addresses(&user, &addresses).await?;
    }
    if let Some(kind) = body.get("user_type") {
        server.users.set_kind(&user, kind.as_str().map(ToOwned::to_owned)).await?;
    }
    for (field, flag) in [
        ("admin", Flag::Admin),
        ("locked", Flag::Locked),
        ("suspended", Flag::Suspended),
        ("shadow_banned", Flag::ShadowBanned),
    ] {
        if let Some(on) = body.get(field).and_then(Value::as_bool) {
            if caller.user == user && (flag != Flag::Admin || !on) {
                return Err(Error::forbidden("an administrator does not shut itself out"));
            }
            server.users.set_flag(&user, flag, on).await?;
        }
    }
    if body.get("deactivated") == Some(&true.into()) {
        server.deactivate(&user, false).await?;
    }
    let shown = server.users.admin_detail(&user).await?;
    Ok(Made(json_reply(if new { StatusCode::CREATED } else { StatusCode::OK }, shown.to_string())))
}

async fn deactivate(server: Arc<Server>, incoming: Incoming) -> Result<Json<Value>, Error> {
    #[derive(Deserialize)]
    struct Body {
        #[serde(default)]
        erase: bool,
    }
    require_admin(&server, &incoming).await?;
    let erase = body::<Body>(&incoming)?.erase;
    server.deactivate(&user(&server, &incoming)?, erase).await?;
    Ok(Json(json!({ "id_server_unbind_result": "success" })))
}

async fn reset_password(server: Arc<Server>, incoming: Incoming) -> Result<Json<Value>, Error> {
    #[derive(Deserialize)]
    struct Body {
        new_password: String,
        #[serde(default = "yes")]
        logout_devices: bool,
    }
    fn yes() -> bool {
        true
    }
    require_admin(&server, &incoming).await?;
    let body: Body = body(&incoming)?;
    let user = user(&server, &incoming)?;
    server.users.set_password(&user, &body.new_password, body.logout_devices, None).await?;
    Ok(Json(json!({})))
}

async fn is_admin(server: Arc<Server>, incoming: Incoming) -> Result<Json<Value>, Error> {
    require_admin(&server, &incoming).await?;
    let standing = server.users.standing(&user(&server, &incoming)?).await?;
    Ok(Json(json!({ "admin": standing.admin })))
}

async fn set_admin(server: Arc<Server>, incoming: Incoming) -> Result<Json<Value>, Error> {
    #[derive(Deserialize)]
    struct Body {
        admin: bool,
    }
    let caller = require_admin(&server, &incoming).await?;
    let (user, admin) = (user(&server, &incoming)?, body::<Body>(&incoming)?.admin);
    if caller.user == user && !admin {
        return Err(Error::invalid_param("you may not demote yourself"));
    }
    server.users.set_flag(&user, Flag::Admin, admin).await?;
    Ok(Json(json!({})))
}

async fn joined_rooms(server: Arc<Server>, incoming: Incoming) -> Result<Json<Value>, Error> {
    require_admin(&server, &incoming).await?;
    let rooms = server.rooms.joined_rooms(&user(&server, &incoming)?).await?;
    Ok(Json(json!({ "total": rooms.len(), "joined_rooms": rooms })))
}

fn shown(user: &UserId, device: crate::user::Device) -> Value {
    json!({ "device_id": device.id, "display_name": device.name, "last_seen_ip": device.seen_ip,
        "last_seen_ts": device.seen, "user_id": user })
}

async fn devices(server: Arc<Server>, incoming: Incoming) -> Result<Json<Value>, Error> {
    require_admin(&server, &incoming).await?;
    let user = user(&server, &incoming)?;
    let devices = server.users.devices(&user).await?;
    let shown: Vec<Value> = devices.into_iter().map(|device| shown(&user, device)).collect();
    Ok(Json(json!({ "total": shown.len(), "devices": shown })))
}

async fn device(server: Arc<Server>, incoming: Incoming) -> Result<Json<Value>, Error> {
    require_admin(&server, &incoming).await?;
    let (user, id) = (user(&server, &incoming)?, OwnedDeviceId::from(path(&incoming, 1)));
    let device = server.users.device(&user, &id).await?;
    Ok(Json(shown(&user, device)))
}

async fn rename_device(server: Arc<Server>, incoming: Incoming) -> Result<Json<Value>, Error> {
    #[derive(Deserialize)]
    struct Body {
        display_name: Option<String>,
    }
    require_admin(&server, &incoming).await?;
    let (user, id) = (user(&server, &incoming)?, OwnedDeviceId::from(path(&incoming, 1)));
    server.users.rename_device(&user, &id, body::<Body>(&incoming)?.display_name).await?;
    Ok(Json(json!({})))
}

async fn delete_device(server: Arc<Server>, incoming: Incoming) -> Result<Json<Value>, Error> {
    require_admin(&server, &incoming).await?;
    let (user, id) = (user(&server, &incoming)?, OwnedDeviceId::from(path(&incoming, 1)));
    server.users.logout(&user, &id).await?;
    Ok(Json(json!({})))
}

async fn delete_devices(server: Arc<Server>, incoming: Incoming) -> Result<Json<Value>, Error> {
    #[derive(Deserialize)]
    struct Body {
        devices: Vec<OwnedDeviceId>,
    }
    require_admin(&server, &incoming).await?;
    let user = user(&server, &incoming)?;
    for device in body::<Body>(&incoming)?.devices {
        server.users.logout(&user, &device).await?;
    }
    Ok(Json(json!({})))
}

async fn login_as(server: Arc<Server>, incoming: Incoming) -> Result<Json<Value>, Error> {
    let caller = require_admin(&server, &incoming).await?;
    let user = user(&server, &incoming)?;
    if caller.user == user {
        return Err(Error::invalid_param("cannot use admin API to login as self"));
    }
    let session = server.users.login_as(&user, format!("administrator {}", caller.user)).await?;
    Ok(Json(json!({ "access_token": session.access_token })))
}

/// `POST` bans, `DELETE` lifts it.
async fn shadow_ban(server: Arc<Server>, incoming: Incoming) -> Result<Json<Value>, Error> {
    require_admin(&server, &incoming).await?;
    let on = incoming.head.method == Method::POST;
    server.users.set_flag(&user(&server, &incoming)?, Flag::ShadowBanned, on).await?;
    Ok(Json(json!({})))
}

async fn suspend(server: Arc<Server>, incoming: Incoming) -> Result<Json<Value>, Error> {
    #[derive(Deserialize)]
    struct Body {
        suspend: bool,
    }
    require_admin(&server, &incoming).await?;
    let (user, suspend) = (user(&server, &incoming)?, body::<Body>(&incoming)?.suspend);
    server.users.set_flag(&user, Flag::Suspended, suspend).await?;
    Ok(Json(json!({ format!("user_{user}_suspended"): suspend })))
}

async fn allow_reset(server: Arc<Server>, incoming: Incoming) -> Result<Json<Value>, Error> {
    require_admin(&server, &incoming).await?;
    server.users.allow_identity_reset(&user(&server, &incoming)?);
    Ok(Json(json!({ "updatable_without_uia_before_ms": server.clock.now_ms() + 600_000 })))
}

async fn username_available(server: Arc<Server>, incoming: Incoming) -> Result<Json<Value>, Error> {
    require_admin(&server, &incoming).await?;
    let query = query(&incoming);
    let name = query.get("username").ok_or_else(|| RequestError::MissingParam("username".into()))?;
    server.users.available(name).await?;
    Ok(Json(json!({ "available": true })))
}
