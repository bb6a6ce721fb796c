//! Backups of message keys.

use std::{collections::BTreeMap, sync::Arc};

use ruma::api::client::backup::{
    add_backup_keys, add_backup_keys_for_room, add_backup_keys_for_session, create_backup_version,
    delete_backup_keys, delete_backup_keys_for_room, delete_backup_keys_for_session, delete_backup_version,
    get_backup_info, get_backup_keys, get_backup_keys_for_room, get_backup_keys_for_session,
    get_latest_backup_info, update_backup_version,
};
use serde_json::{Map, Value, json, value::RawValue};

use crate::{
    api::routes::{Group, Table},
    e2ee::{BackupKeys, E2eeError, Selection},
    error::Error,
    http::{args::Args, reply::Json},
    server::Server,
    store::schema::backup::BackupRow,
};

/// An upload of keys: clients send some hundred at a time.
const BODY_BYTES_MAX: usize = 8 << 20;

pub(super) fn routes(table: &mut Table) {
    table.add(Group::Client, create);
    table.add(Group::Client, latest);
    table.add(Group::Client, info);
    table.add(Group::Client, update);
    table.add(Group::Client, delete);
    table.add(Group::Client, put).body_max(BODY_BYTES_MAX);
    table.add(Group::Client, put_room).body_max(BODY_BYTES_MAX);
    table.add(Group::Client, put_session);
    table.add(Group::Client, get);
    table.add(Group::Client, get_room);
    table.add(Group::Client, get_session);
    table.add(Group::Client, delete_keys);
    table.add(Group::Client, delete_room);
    table.add(Group::Client, delete_session);
}

async fn create(
    server: Arc<Server>,
    args: Args<create_backup_version::v3::Request>,
) -> Result<create_backup_version::v3::Response, Error> {
    let version = server.e2ee.create_backup(&args.caller.user, args.algorithm.json()).await?;
    Ok(create_backup_version::v3::Response::new(version))
}

async fn latest(
    server: Arc<Server>,
    args: Args<get_latest_backup_info::v3::Request>,
) -> Result<Json<Value>, Error> {
    described(server.e2ee.backup(&args.caller.user, None).await?)
}

async fn info(server: Arc<Server>, args: Args<get_backup_info::v3::Request>) -> Result<Json<Value>, Error> {
    described(server.e2ee.backup(&args.caller.user, Some(&args.version)).await?)
}

async fn update(
    server: Arc<Server>,
    args: Args<update_backup_version::v3::Request>,
) -> Result<update_backup_version::v3::Response, Error> {
    server.e2ee.update_backup(&args.caller.user, &args.version, args.algorithm.json()).await?;
    Ok(update_backup_version::v3::Response::new())
}

async fn delete(
    server: Arc<Server>,
    args: Args<delete_backup_version::v3::Request>,
) -> Result<delete_backup_version::v3::Response, Error> {
    server.e2ee.delete_backup(&args.caller.user, &args.version).await?;
    Ok(delete_backup_version::v3::Response::new())
}

async fn put(server: Arc<Server>, args: Args<add_backup_keys::v3::Request>) -> Result<Json<Value>, Error> {
    let user = args.caller.user.clone();
    let request = args.request;
    let rooms = request.rooms.into_iter().map(|(room, backup)| {
        let sessions = backup.sessions.into_iter().map(|(session, key)| (session, key.into_json()));
        (room.to_string(), sessions.collect())
    });
    changed(server.e2ee.put_backup_keys(&user, &request.version, rooms.collect()).await?)
}

async fn put_room(
    server: Arc<Server>,
    args: Args<add_backup_keys_for_room::v3::Request>,
) -> Result<Json<Value>, Error> {
    let user = args.caller.user.clone();
    let request = args.request;
    let sessions = request.sessions.into_iter().map(|(session, key)| (session, key.into_json())).collect();
    let keys = BackupKeys::from([(request.room_id.to_string(), sessions)]);
    changed(server.e2ee.put_backup_keys(&user, &request.version, keys).await?)
}

async fn put_session(
    server: Arc<Server>,
    args: Args<add_backup_keys_for_session::v3::Request>,
) -> Result<Json<Value>, Error> {
    let user = args.caller.user.clone();
    let request = args.request;
    let sessions = BTreeMap::from([(request.session_id, request.session_data.into_json())]);
    let keys = BackupKeys::from([(request.room_id.to_string(), sessions)]);
    changed(server.e2ee.put_backup_keys(&user, &request.version, keys).await?)
}

async fn get(server: Arc<Server>, args: Args<get_backup_keys::v3::Request>) -> Result<Json<Value>, Error> {
    let keys = server.e2ee.backup_keys(&args.caller.user, &args.version, Selection::default()).await?;
    let rooms = keys.into_iter().map(|(room, sessions)| (room, json!({ "sessions": sessions })));
    Ok(Json(json!({ "rooms": rooms.collect::<Map<_, _>>() })))
}

async fn get_room(
    server: Arc<Server>,
    args: Args<get_backup_keys_for_room::v3::Request>,
) -> Result<Json<Value>, Error> {
    let which = of_room(args.room_id.as_str());
    let keys = server.e2ee.backup_keys(&args.caller.user, &args.version, which).await?;
    let sessions: BTreeMap<String, Box<RawValue>> = keys.into_values().flatten().collect();
    Ok(Json(json!({ "sessions": sessions })))
}

async fn get_session(
    server: Arc<Server>,
    args: Args<get_backup_keys_for_session::v3::Request>,
) -> Result<Json<Box<RawValue>>, Error> {
    let which = of_session(args.room_id.as_str(), &args.session_id);
    let keys = server.e2ee.backup_keys(&args.caller.user, &args.version, which).await?;
    let key = keys.into_values().flatten().next().map(|(_, key)| key);
    Ok(Json(key.ok_or(E2eeError::NoBackup)?))
}

async fn delete_keys(
    server: Arc<Server>,
    args: Args<delete_backup_keys::v3::Request>,
) -> Result<Json<Value>, Error> {
    changed(server.e2ee.delete_backup_keys(&args.caller.user, &args.version, Selection::default()).await?)
}

async fn delete_room(
    server: Arc<Server>,
    args: Args<delete_backup_keys_for_room::v3::Request>,
) -> Result<Json<Value>, Error> {
    let which = of_room(args.room_id.as_str());
    changed(server.e2ee.delete_backup_keys(&args.caller.user, &args.version, which).await?)
}

async fn delete_session(
    server: Arc<Server>,
    args: Args<delete_backup_keys_for_session::v3::Request>,
) -> Result<Json<Value>, Error> {
    let which = of_session(args.room_id.as_str(), &args.session_id);
    changed(server.e2ee.delete_backup_keys(&args.caller.user, &args.version, which).await?)
}

fn of_room(room: &str) -> Selection {
    Selection { room: Some(room.to_owned()), session: None }
}

fn of_session(room: &str, session: &str) -> Selection {
    Selection { room: Some(room.to_owned()), session: Some(session.to_owned()) }
}

fn described(backup: BackupRow) -> Result<Json<Value>, Error> {
    let mut shown: Map<String, Value> = serde_json::from_str(&backup.algorithm)
        .map_err(|_| Error::internal("a stored backup is no object"))?;
    shown.insert("version".into(), backup.version.to_string().into());
    shown.insert("etag".into(), backup.etag.to_string().into());
    shown.insert("count".into(), backup.count.into());
    Ok(Json(Value::Object(shown)))
}

fn changed(backup: BackupRow) -> Result<Json<Value>, Error> {
    Ok(Json(json!({ "etag": backup.etag.to_string(), "count": backup.count })))
}
