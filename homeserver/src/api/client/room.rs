//! Making rooms, and single facts about one.

use std::sync::Arc;

use ruma::api::{
    Direction,
    client::{
        reporting::report_user,
        room::{
            aliases, create_room, get_event_by_timestamp, get_room_event, report_content, report_room,
            upgrade_room,
        },
    },
};

use crate::{
    api::routes::{Group, Table},
    error::Error,
    http::{args::Args, limits::Class, reply::Json},
    room::ClientEvent,
    server::Server,
    user::Report,
};

pub(super) fn routes(table: &mut Table) {
    table.add(Group::Client, create);
    table.add(Group::Client, event);
    table.add(Group::Client, aliases);
    table.add(Group::Client, report_event);
    table.add(Group::Client, report);
    table.add(Group::Client, report_person);
    table.add(Group::Client, upgrade);
    table.add(Group::Client, event_at);
}

async fn create(
    server: Arc<Server>,
    args: Args<create_room::v3::Request>,
) -> Result<create_room::v3::Response, Error> {
    let creator = &args.caller.user;
    server.limits.take(Class::Membership, creator.as_str())?;
    if args.invite.len() > INVITES_MAX {
        return Err(Error::invalid_param("a new room invites at most 100 users at once"));
    }
    if !args.invite_3pid.is_empty() {
        return Err(Error::invalid_param("this node invites by user id only"));
    }
    let mut request = args.request.clone();
    request.room_version.get_or_insert_with(|| server.settings().default_room_version.clone());
    let room = server.rooms.create(creator, request).await?;
    Ok(create_room::v3::Response::new(room))
}

async fn upgrade(
    server: Arc<Server>,
    args: Args<upgrade_room::v3::Request>,
) -> Result<upgrade_room::v3::Response, Error> {
    let user = &args.caller.user;
    server.limits.take(Class::Membership, user.as_str())?;
    if args.additional_creators.len() > INVITES_MAX {
        return Err(Error::invalid_param("a room has at most 100 additional creators"));
    }
    let room = server
        .rooms
        .upgrade(user, &args.room_id, args.new_version.clone(), args.additional_creators.clone())
        .await?;
    Ok(upgrade_room::v3::Response::new(room))
}

async fn event_at(
    server: Arc<Server>,
    args: Args<get_event_by_timestamp::v1::Request>,
) -> Result<get_event_by_timestamp::v1::Response, Error> {
    let backwards = args.dir == Direction::Backward;
    let (id, ts) =
        server.rooms.event_at(&args.caller.user, &args.room_id, args.ts.get().into(), backwards).await?;
    let ts = ruma::MilliSecondsSinceUnixEpoch(ruma::UInt::new_saturating(ts));
    Ok(get_event_by_timestamp::v1::Response::new(id, ts))
}

async fn event(
    server: Arc<Server>,
    args: Args<get_room_event::v3::Request>,
) -> Result<Json<ClientEvent>, Error> {
    let event = server
        .rooms
        .event_on(&args.caller.user, Some(&args.caller.device), &args.room_id, &args.event_id)
        .await?;
    Ok(Json(event))
}

async fn aliases(
    server: Arc<Server>,
    args: Args<aliases::v3::Request>,
) -> Result<aliases::v3::Response, Error> {
    let aliases = server.rooms.aliases(&args.caller.user, &args.room_id).await?;
    Ok(aliases::v3::Response::new(aliases))
}

async fn report_event(
    server: Arc<Server>,
    args: Args<report_content::v3::Request>,
) -> Result<report_content::v3::Response, Error> {
    let user = &args.caller.user;
    server.limits.take(Class::Write, user.as_str())?;
    server.rooms.event(user, &args.room_id, &args.event_id).await?;
    let reason = shortened(args.reason.as_deref().unwrap_or_default());
    tracing::warn!(%user, room = %args.room_id, event = %args.event_id, reason, "a user reports an event");
    let report = Report {
        room: Some(args.room_id.to_string()),
        event: Some(args.event_id.to_string()),
        reason: Some(reason),
        ..Report::default()
    };
    server.users.report(user, report).await?;
    Ok(report_content::v3::Response::new())
}

async fn report(
    server: Arc<Server>,
    args: Args<report_room::v3::Request>,
) -> Result<report_room::v3::Response, Error> {
    let user = &args.caller.user;
    server.limits.take(Class::Write, user.as_str())?;
    let reason = shortened(&args.reason);
    tracing::warn!(%user, room = %args.room_id, reason, "a user reports a room");
    let report = Report { room: Some(args.room_id.to_string()), reason: Some(reason), ..Report::default() };
    server.users.report(user, report).await?;
    Ok(report_room::v3::Response::new())
}

async fn report_person(
    server: Arc<Server>,
    args: Args<report_user::v3::Request>,
) -> Result<report_user::v3::Response, Error> {
    let user = &args.caller.user;
    server.limits.take(Class::Write, user.as_str())?;
    let reason = shortened(&args.reason);
    tracing::warn!(%user, reported = %args.user_id, reason, "a user reports a user");
    let report = Report { target: Some(args.user_id.to_string()), reason: Some(reason), ..Report::default() };
    server.users.report(user, report).await?;
    Ok(report_user::v3::Response::new())
}

/// What goes to the log of something a user wrote.
fn shortened(text: &str) -> String {
    text.chars().take(REASON_CHARS_MAX).collect()
}

const INVITES_MAX: usize = 100;
const REASON_CHARS_MAX: usize = 500;
