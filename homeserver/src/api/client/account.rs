//! Accounts: who am I, and making, changing and ending them.

use std::{sync::Arc, time::Duration};

use ruma::{
    OwnedUserId, UserId,
    api::{
        client::account::{
            ThirdPartyIdRemovalStatus, change_password, check_registration_token_validity, deactivate,
            get_username_availability, register, request_openid_token, whoami,
        },
        error::ErrorKind,
    },
    authentication::TokenType,
};

use super::own;
use crate::{
    api::routes::{Group, Table},
    appservice::Appservices,
    error::{Error, RequestError},
    http::{args::Args, auth::LocalUser, limits::Class, uia},
    server::{Registration, Server},
    user::{NewAccount, NewDevice, Proof, Session, UserError},
};

pub(super) fn routes(table: &mut Table) {
    table.add(Group::Client, whoami);
    table.add(Group::Client, register);
    table.add(Group::Client, available).limit(Class::Register);
    table.add(Group::Client, token_validity).limit(Class::Register);
    table.add(Group::Client, change_password);
    table.add(Group::Client, deactivate);
    table.add(Group::Client, openid_token);
}

async fn whoami(server: Arc<Server>, args: Args<whoami::v3::Request>) -> Result<whoami::v3::Response, Error> {
    let guest = server.users.standing(&args.caller.user).await?.guest;
    let mut response = whoami::v3::Response::new(args.caller.user, guest);
    response.device_id = Some(args.caller.device).filter(|id| !Appservices::is_no_device(id.as_str()));
    Ok(response)
}

async fn register(
    server: Arc<Server>,
    args: Args<register::v3::Request>,
) -> Result<register::v3::Response, Error> {
    let request = &args.request;
    if request.kind == register::RegistrationKind::Guest {
        return register_guest(&server, &args).await;
    }
    if request.login_type.is_some() {
        return register_for_service(&server, &args).await;
    }
    // People type capitals; user names here have none.
    let username = request.username.as_ref().map(|name| name.to_lowercase());
    if let Some(name) = &username
        && let Ok(user) = UserId::parse(format!("@{name}:{}", server.name))
        && server.appservices.user_is_taken(&user, None)
    {
        return Err(Error::new(ErrorKind::Exclusive, "this name is reserved for an application service"));
    }
    // A bad name is told before anything has to be proven; a taken one too, but only where everybody may ask. Where a
    // token is needed, whoever shows none learns nothing about who lives here.
    if let (Registration::Open, Some(name), None) =
        (server.settings().registration, &username, &request.guest_access_token)
    {
        server.users.available(name).await?;
    }
    let proven = uia::registration(&server, &args.origin, request.auth.as_ref()).await?;
    server.limits.take(Class::Register, &args.origin.key())?;
    let password = request.password.clone().ok_or_else(|| RequestError::MissingParam("password".into()))?;
    let device = (!request.inhibit_login).then(|| NewDevice {
        id: request.device_id.clone(),
        name: request.initial_device_display_name.clone(),
        refresh: request.refresh_token,
        client: None,
    });
    let made = match &request.guest_access_token {
        Some(guest) => {
            let name = username.ok_or_else(|| RequestError::MissingParam("username".into()))?;
            server.users.upgrade_guest(guest, &name, &password, proven.proof, device).await
        }
        None => {
            let account = NewAccount {
                localpart: username,
                password: Some(password),
                email: proven.email,
                consent: proven.consent,
                ..NewAccount::new(proven.proof)
            };
            server.users.register(account, device).await
        }
    };
    match made {
        Err(UserError::BadRegistrationToken) => {
            Err(uia::bad_registration_token(&server, request.auth.as_ref()))
        }
        made => {
            let (user, session) = made?;
            Ok(registered(user, session))
        }
    }
}

/// An account for a user of an application service.
async fn register_for_service(
    server: &Arc<Server>,
    args: &Args<register::v3::Request>,
) -> Result<register::v3::Response, Error> {
    let service = args.caller.as_deref().ok_or(RequestError::MissingToken)?;
    let name = args.request.username.clone().ok_or_else(|| RequestError::MissingParam("username".into()))?;
    let user = UserId::parse(format!("@{name}:{}", server.name)).map_err(|_| UserError::InvalidName)?;
    if !service.has_user(&user, &server.name) || server.appservices.user_is_taken(&user, Some(service)) {
        return Err(Error::new(
            ErrorKind::Exclusive,
            "this name is not in the namespace of the application service",
        ));
    }
    let device = (!args.request.inhibit_login).then(|| NewDevice {
        id: args.request.device_id.clone(),
        name: args.request.initial_device_display_name.clone(),
        refresh: args.request.refresh_token,
        client: None,
    });
    let account = NewAccount { localpart: Some(name), ..NewAccount::new(Proof::Operator) };
    let (user, session) = server.users.register(account, device).await?;
    Ok(registered(user, session))
}

async fn register_guest(
    server: &Arc<Server>,
    args: &Args<register::v3::Request>,
) -> Result<register::v3::Response, Error> {
    if !server.settings().accounts.general.guests {
        return Err(Error::new(ErrorKind::GuestAccessForbidden, "this node has no guest accounts"));
    }
    server.limits.take(Class::Register, &args.origin.key())?;
    let name = args.request.initial_device_display_name.clone();
    let (user, session) = server.users.register_guest(name).await?;
    Ok(registered(user, Some(session)))
}

fn registered(user: OwnedUserId, session: Option<Session>) -> register::v3::Response {
    let mut response = register::v3::Response::new(user);
    if let Some(session) = session {
        response.access_token = Some(session.access_token);
        response.device_id = Some(session.device);
        response.refresh_token = session.refresh_token;
        response.expires_in = session.expires_in;
    }
    response
}

async fn available(
    server: Arc<Server>,
    args: Args<get_username_availability::v3::Request>,
) -> Result<get_username_availability::v3::Response, Error> {
    match server.settings().registration {
        Registration::Open => server.users.available(&args.username.to_lowercase()).await?,
        // Names are not told to web pages that happen to run in the same browser; the answer comes with the token.
        Registration::Token => match server.users.available(&args.username.to_lowercase()).await {
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
    let valid = server.settings().registration != Registration::Closed
        && server.users.registration_token_valid(&args.token).await?;
    Ok(check_registration_token_validity::v1::Response::new(valid))
}

async fn change_password(
    server: Arc<Server>,
    args: Args<change_password::v3::Request>,
) -> Result<change_password::v3::Response, Error> {
    let (user, device) = match args.caller.as_ref() {
        Some(caller) => {
            uia::password(&server, caller, &args.origin, args.auth.as_ref()).await?;
            (caller.user.clone(), Some(&*caller.device))
        }
        // Whoever forgot the password proves the account's e-mail address instead.
        None => (uia::forgotten_password(&server, &args.origin, args.auth.as_ref()).await?, None),
    };
    server.users.set_password(&user, &args.new_password, args.logout_devices, device).await?;
    Ok(change_password::v3::Response::new())
}

async fn deactivate(
    server: Arc<Server>,
    args: Args<deactivate::v3::Request>,
) -> Result<deactivate::v3::Response, Error> {
    let caller = logged_in(args.caller.as_ref())?;
    uia::password(&server, caller, &args.origin, args.auth.as_ref()).await?;
    server.deactivate(&caller.user, args.erase).await?;
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

/// The caller of an endpoint that old specifications let be called with an e-mail's proof instead of a token.
fn logged_in(caller: Option<&LocalUser>) -> Result<&LocalUser, Error> {
    caller.ok_or_else(|| RequestError::MissingToken.into())
}

const OPENID_MS: u64 = 3_600_000;
