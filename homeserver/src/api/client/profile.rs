//! Profiles.

use std::{collections::BTreeMap, sync::Arc};

use ruma::{
    OwnedUserId, UserId,
    api::client::profile::{delete_profile_field, get_profile, get_profile_field, set_profile_field},
    api::federation::query::get_profile_information,
    profile::ProfileFieldName,
};
use serde_json::{Map, Value};

use super::own;
use crate::{
    api::routes::{Group, Table},
    error::Error,
    http::{
        args::{Args, Head},
        auth::require_user,
        limits::Class,
        reply::Json,
    },
    server::Server,
};

pub(super) fn routes(table: &mut Table) {
    table.add(Group::Client, get);
    table.add(Group::Client, get_field);
    table.add(Group::Client, set_field);
    table.add(Group::Client, delete_field);
}

async fn get(
    server: Arc<Server>,
    args: Args<get_profile::v3::Request>,
) -> Result<Json<Map<String, Value>>, Error> {
    Ok(Json(find(&server, &args.head, &args.user_id, None).await?))
}

async fn get_field(
    server: Arc<Server>,
    args: Args<get_profile_field::v3::Request>,
) -> Result<Json<BTreeMap<String, Value>>, Error> {
    let field = args.field.to_string();
    let mut profile = find(&server, &args.head, &args.user_id, Some(&field)).await?;
    match profile.remove(&field) {
        Some(value) => Ok(Json(BTreeMap::from([(field, value)]))),
        // Clients that ask for a name or a picture take the empty object as "has none".
        None if matches!(&*field, "displayname" | "avatar_url") => Ok(Json(BTreeMap::new())),
        None => Err(Error::not_found("this profile has no such field")),
    }
}

async fn set_field(
    server: Arc<Server>,
    args: Args<set_profile_field::v3::Request>,
) -> Result<set_profile_field::v3::Response, Error> {
    own(&args.caller, &args.user_id)?;
    let field = args.value.field_name().to_string();
    let value = args.value.value().into_owned();
    // An empty name or picture is none.
    let value = (value.as_str() != Some("")).then_some(value);
    change(&server, args.user_id.clone(), &field, value).await?;
    Ok(set_profile_field::v3::Response::new())
}

async fn delete_field(
    server: Arc<Server>,
    args: Args<delete_profile_field::v3::Request>,
) -> Result<delete_profile_field::v3::Response, Error> {
    own(&args.caller, &args.user_id)?;
    change(&server, args.user_id.clone(), args.field.as_str(), None).await?;
    Ok(delete_profile_field::v3::Response::new())
}

async fn change(
    server: &Arc<Server>,
    user: OwnedUserId,
    field: &str,
    value: Option<Value>,
) -> Result<(), Error> {
    server.limits.take(Class::Write, user.as_str())?;
    server.set_profile(user, field, value).await
}

/// A profile of ours, or of another server's user: then that server is asked.
async fn find(
    server: &Arc<Server>,
    head: &Head,
    user: &UserId,
    field: Option<&str>,
) -> Result<Map<String, Value>, Error> {
    if !server.settings().open_directory {
        require_user(server, &head.headers, head.uri.query()).await?;
    }
    if user.server_name() == server.name {
        return Ok(server.users.profile(user).await?);
    }
    let mut question = get_profile_information::v1::Request::new(user.to_owned());
    question.field = field.map(ProfileFieldName::from);
    let answer = server.remote.request(user.server_name(), question).await?;
    Ok(answer.iter().map(|(field, value)| (field.clone(), value.clone())).collect())
}
