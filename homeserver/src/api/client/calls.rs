//! Calls: TURN credentials, where the media server is (MSC4143), and a seat in it for whoever is in the room (MSC4195;
//! also the two paths of `lk-jwt-service`, which today's clients ask).

use std::sync::Arc;

use http::{Method, header};
use ruma::{
    OwnedRoomId, OwnedServerName, OwnedUserId,
    api::{
        client::{
            rtc::{self, RtcTransport},
            voip::get_turn_server_info,
        },
        federation::openid::get_openid_userinfo,
    },
};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    api::{
        admin::body,
        routes::{Group, Table},
    },
    calls::{LiveKit, ROOM_SLOT, Seat},
    error::Error,
    http::{
        args::{Args, Head, Incoming},
        limits::Class,
        reply::Json,
    },
    server::Server,
};

pub(super) fn routes(table: &mut Table) {
    table.add(Group::Client, turn_server);
    table.add(Group::Client, transports);
    table.add(Group::Client, token);
    table.add(Group::Client, delegate);
    table.plain(Group::Client, Method::POST, LEGACY_PATH, legacy_seat).limit(Class::Refresh);
    table.plain(Group::Client, Method::POST, SEAT_PATH, seat).limit(Class::Refresh);
}

async fn turn_server(
    server: Arc<Server>,
    args: Args<get_turn_server_info::v3::Request>,
) -> Result<Json<Value>, Error> {
    let user = &args.caller.user;
    // No server: clients take the empty object as that, and call directly.
    let Some(turn) = &server.settings().calls.turn else { return Ok(Json(json!({}))) };
    if !turn.guests && server.users.standing(user).await?.guest {
        return Ok(Json(json!({})));
    }
    Ok(Json(turn.credentials(user, server.clock.now_ms())))
}

async fn transports(
    server: Arc<Server>,
    args: Args<rtc::transports::v1::Request>,
) -> Result<rtc::transports::v1::Response, Error> {
    let url = service_url(&server, &args.head);
    Ok(rtc::transports::v1::Response::new(url.map(RtcTransport::livekit).into_iter().collect()))
}

/// Where clients ask for a seat; none: there is no media server.
pub(crate) fn service_url(server: &Server, head: &Head) -> Option<String> {
    server.settings().calls.livekit.as_ref()?;
    let base = match &server.settings().public_url {
        Some(url) => url.clone(),
        None => format!("http://{}", head.header(header::HOST)?),
    };
    Some(format!("{base}{SERVICE_PATH}"))
}

fn livekit(server: &Server) -> Result<LiveKit, Error> {
    server.settings().calls.livekit.clone().ok_or_else(|| {
        Error::not_found("this server has no media server for calls; its operator has to set up [livekit]")
    })
}

async fn token(
    server: Arc<Server>,
    args: Args<rtc::livekit::get_token::v1::Request>,
) -> Result<rtc::livekit::get_token::v1::Response, Error> {
    let livekit = &livekit(&server)?;
    server.limits.take(Class::Write, args.caller.user.as_str())?;
    if args.server_name.as_ref().is_some_and(|name| *name != server.name) {
        return Err(Error::not_found("ask that server for a token of its media server"));
    }
    check_url(livekit, &args.url)?;
    let seat = Seat {
        room: &args.room_id,
        slot: &args.slot_id,
        user: &args.caller.user,
        device: args.caller.device.as_str(),
        member: Some(&args.member_id),
    };
    Ok(rtc::livekit::get_token::v1::Response::new(admit(&server, livekit, &seat).await?))
}

fn check_url(livekit: &LiveKit, url: &str) -> Result<(), Error> {
    if url.trim_end_matches('/') == livekit.url.trim_end_matches('/') {
        return Ok(());
    }
    Err(Error::not_found("that media server is not this server's"))
}

/// A client hands the leave of its call over: it goes out when the media server has the participant no longer.
async fn delegate(
    server: Arc<Server>,
    args: Args<rtc::livekit::delegate_delayed_leave::v1::Request>,
) -> Result<rtc::livekit::delegate_delayed_leave::v1::Response, Error> {
    let livekit = &livekit(&server)?;
    server.limits.take(Class::Write, args.caller.user.as_str())?;
    check_url(livekit, &args.url)?;
    let seat = Seat {
        room: &args.room_id,
        slot: &args.slot_id,
        user: &args.caller.user,
        device: args.caller.device.as_str(),
        member: Some(&args.member_id),
    };
    if let Some(watch) = &server.watch {
        watch.delegate(&seat, &args.delay_id).await?;
    }
    Ok(rtc::livekit::delegate_delayed_leave::v1::Response::new())
}

#[derive(Deserialize)]
struct OpenId {
    access_token: String,
    matrix_server_name: OwnedServerName,
}

/// What clients ask for a room's only call.
async fn legacy_seat(server: Arc<Server>, incoming: Incoming) -> Result<Json<Value>, Error> {
    #[derive(Deserialize)]
    struct Body {
        room: OwnedRoomId,
        openid_token: OpenId,
        device_id: String,
    }
    let livekit = &livekit(&server)?;
    let body: Body = body(&incoming)?;
    let user = vouched(&server, &body.openid_token).await?;
    let seat = Seat { room: &body.room, slot: ROOM_SLOT, user: &user, device: &body.device_id, member: None };
    let jwt = admit(&server, livekit, &seat).await?;
    Ok(Json(json!({ "url": livekit.url, "jwt": jwt })))
}

/// What clients ask that tell calls of a room apart.
async fn seat(server: Arc<Server>, incoming: Incoming) -> Result<Json<Value>, Error> {
    #[derive(Deserialize)]
    struct Member {
        id: String,
        claimed_user_id: OwnedUserId,
        claimed_device_id: String,
    }
    #[derive(Deserialize)]
    struct Body {
        room_id: OwnedRoomId,
        slot_id: String,
        openid_token: OpenId,
        member: Member,
    }
    let livekit = &livekit(&server)?;
    let body: Body = body(&incoming)?;
    let user = vouched(&server, &body.openid_token).await?;
    if user != body.member.claimed_user_id {
        return Err(Error::forbidden("the OpenID token is another user's"));
    }
    let seat = Seat {
        room: &body.room_id,
        slot: &body.slot_id,
        user: &user,
        device: &body.member.claimed_device_id,
        member: Some(&body.member.id),
    };
    let jwt = admit(&server, livekit, &seat).await?;
    Ok(Json(json!({ "url": livekit.url, "jwt": jwt })))
}

/// Whose OpenID token it is: one of ours, or what its server says.
async fn vouched(server: &Arc<Server>, token: &OpenId) -> Result<OwnedUserId, Error> {
    let refused = || Error::forbidden("the OpenID token is not (or no longer) valid");
    if token.matrix_server_name == server.name {
        return server.users.by_openid_token(&token.access_token).await?.ok_or_else(refused);
    }
    let question = get_openid_userinfo::v1::Request::new(token.access_token.clone());
    let answer = server.remote.request(&token.matrix_server_name, question).await.map_err(|_| refused())?;
    // A server speaks for its own users only.
    if answer.sub.server_name() == token.matrix_server_name { Ok(answer.sub) } else { Err(refused()) }
}

/// Lets a member of the room into its call. The media server keeps rooms that we make alone, so that nobody uses it for
/// calls of rooms that are not here.
async fn admit(server: &Arc<Server>, livekit: &LiveKit, seat: &Seat<'_>) -> Result<String, Error> {
    for text in [seat.slot, seat.device, seat.member.unwrap_or_default()] {
        if text.len() > TEXT_BYTES_MAX {
            return Err(Error::invalid_param("ids of calls, devices and members have at most 255 bytes"));
        }
    }
    if !server.rooms.is_joined(seat.user, seat.room).await.unwrap_or(false) {
        return Err(Error::forbidden("only members of the room may join its call"));
    }
    let (now, call) = (server.clock.now_ms(), seat.call());
    let maker = livekit.maker_token(&call, now).map_err(Error::internal)?;
    let made = server
        .web
        .post_json(&livekit.create_room_url(), Some(&maker), &LiveKit::create_room_body(&call))
        .await;
    if let Err(error) = made {
        tracing::warn!(%error, "the media server of [livekit] did not make a call's room");
        return Err(Error::new(
            ruma::api::error::ErrorKind::Unknown,
            "the media server does not answer; try again later",
        ));
    }
    livekit.token(seat, now).map_err(Error::internal)
}

/// Where clients look for `lk-jwt-service`; the two paths below it are its.
const SERVICE_PATH: &str = "/_mangrove/rtc";
const LEGACY_PATH: &str = "/_mangrove/rtc/sfu/get";
const SEAT_PATH: &str = "/_mangrove/rtc/get_token";
/// The specification's limit for ids.
const TEXT_BYTES_MAX: usize = 255;
