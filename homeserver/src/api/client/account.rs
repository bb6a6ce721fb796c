//! Accounts: who am I, and making, changing and ending them.

use std::{sync::Arc, time::Duration};

use ruma::{
    api::{
        client::account::{
            ThirdPartyIdRemovalStatus, change_password, check_registration_token_validity, deactivate,
            get_3pids, get_username_availability, register, request_openid_token, whoami,
        },
        error::ErrorKind,
    },
    authentication::TokenType,
};

use super::own;
use crate::{
    api::routes::{Group, Table},
    error::{Error, RequestError},
    http::{args::Args, auth::LocalUser, limits::Class, reply::Json, uia},
    server::{Registration, Server},
    user::{NewAccount, NewDevice, UserError},
};

pub(super) fn routes(table: &mut Table) {
    table.add(Group::Client, whoami);
    table.add(Group::Client, register);
    table.add(Group::Client, available).limit(Class::Register);
    table.add(Group::Client, token_validity).limit(Class::Register);
    table.add(Group::Client, change_password);
    table.add(Group::Client, deactivate);
    table.add(Group::Client, openid_token);
    table.add(Group::Client, third_party_ids);
}

async fn whoami(_: Arc<Server>, args: Args<whoami::v3::Request>) -> Result<whoami::v3::Response, Error> {
    let mut response = whoami::v3::Response::new(args.caller.user, false);
    response.device_id = Some(args.caller.device);
    Ok(response)
}

async fn register(
    server: Arc<Server>,
    args: Args<register::v3::Request>,
) -> Result<register::v3::Response, Error> {
    let request = &args.request;
    if request.kind == register::RegistrationKind::Guest {
        return Err(Error::new(ErrorKind::GuestAccessForbidden, "this node has no guest accounts"));
    }
    if request.login_type.is_some() {
        return Err(Error::new(
            ErrorKind::AppserviceLoginUnsupported,
            "this node has no application services",
        ));
    }
    // A bad name is told before anything has to be proven; a taken one too, but only where everybody may ask. Where a
    // token is needed, whoever shows none learns nothing about who lives here.
    if let (Registration::Open, Some(name)) = (server.settings.registration, &request.username) {
        server.users.available(name).await?;
    }
    let proof = uia::registration(&server, request.auth.as_ref())?;
    server.limits.take(Class::Register, &args.origin.key())?;
    let account = NewAccount {
        localpart: request.username.clone(),
        password: Some(
            request.password.clone().ok_or_else(|| RequestError::MissingParam("password".into()))?,
        ),
        ..NewAccount::new(proof)
    };
    let device = (!request.inhibit_login).then(|| NewDevice {
        id: request.device_id.clone(),
        name: request.initial_device_display_name.clone(),
    });
    let (user, session) = match server.users.register(account, device).await {
        Err(UserError::BadRegistrationToken) => {
            return Err(uia::bad_registration_token(request.auth.as_ref()));
        }
        other => other?,
    };
    let mut response = register::v3::Response::new(user);
    if let Some(session) = session {
        response.access_token = Some(session.access_token);
        response.device_id = Some(session.device);
    }
    Ok(response)
}

async fn available(
    server: Arc<Server>,
    args: Args<get_username_availability::v3::Request>,
) -> Result<get_username_availability::v3::Response, Error> {
    match server.settings.registration {
        Registration::Open => server.users.available(&args.username).await?,
        // Names are not told to web pages that happen to run in the same browser; the answer comes with the token.
        Registration::Token => match server.users.available(&args.username).await {
            Err(error @ UserError::InvalidName) => return Err(error.into()),
            Ok(()) | Err(UserError::NameTaken) => {}
            Err(other) => return Err(other.into()),
        },
        Registration::Closed => {
            return Err(Error::forbidden("this node takes no registrations"));
        }
    }
    Ok(get_username_availability::v3::Response::new(true))
}

async fn token_validity(
    server: Arc<Server>,
    args: Args<check_registration_token_validity::v1::Request>,
) -> Result<check_registration_token_validity::v1::Response, Error> {
    let valid = server.settings.registration != Registration::Closed
        && server.users.registration_token_valid(&args.token).await?;
    Ok(check_registration_token_validity::v1::Response::new(valid))
}

async fn change_password(
    server: Arc<Server>,
    args: Args<change_password::v3::Request>,
) -> Result<change_password::v3::Response, Error> {
    let caller = logged_in(args.caller.as_ref())?;
    uia::password(&server, caller, &args.origin, args.auth.as_ref()).await?;
    server
        .users
        .set_password(&caller.user, &args.new_password, args.logout_devices, Some(&caller.device))
        .await?;
    Ok(change_password::v3::Response::new())
}

async fn deactivate(
    server: Arc<Server>,
    args: Args<deactivate::v3::Request>,
) -> Result<deactivate::v3::Response, Error> {
    let caller = logged_in(args.caller.as_ref())?;
    uia::password(&server, caller, &args.origin, args.auth.as_ref()).await?;
    // Rooms first: a user without an account cannot leave. What cannot be left (its servers are away) stays.
    for room in server.rooms.joined_rooms(&caller.user).await? {
        if let Err(error) = server.rooms.leave(&caller.user, &room, None).await {
            tracing::debug!(%room, %error, "a deactivated user could not leave a room");
        }
    }
    server.users.deactivate(&caller.user).await?;
    Ok(deactivate::v3::Response::new(ThirdPartyIdRemovalStatus::NoSupport))
}

async fn openid_token(
    server: Arc<Server>,
    args: Args<request_openid_token::v3::Request>,
) -> Result<request_openid_token::v3::Response, Error> {
    own(&args.caller, &args.user_id)?;
    server.limits.take(Class::Write, args.caller.user.as_str())?;
    let token = server.users.openid_token(&args.caller.user, OPENID_MS).await?;
    Ok(request_openid_token::v3::Response::new(
        token,
        TokenType::Bearer,
        server.name.clone(),
        Duration::from_millis(OPENID_MS),
    ))
}

async fn third_party_ids(
    _: Arc<Server>,
    _: Args<get_3pids::v3::Request>,
) -> Result<Json<serde_json::Value>, Error> {
    // Written out: ruma leaves the empty list away, which some clients do not expect.
    Ok(Json(serde_json::json!({ "threepids": [] })))
}

/// The caller of an endpoint that old specifications let be called with an e-mail's proof instead of a token.
fn logged_in(caller: Option<&LocalUser>) -> Result<&LocalUser, Error> {
    caller.ok_or_else(|| RequestError::MissingToken.into())
}

const OPENID_MS: u64 = 3_600_000;
