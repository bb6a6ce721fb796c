//! Logging in and out.

use std::{sync::Arc, time::Duration};

use ruma::{
    OwnedUserId, UserId,
    api::{
        IncomingRequest, Metadata,
        client::{
            session::{
                get_login_token,
                get_login_types::{
                    self,
                    v3::{
                        ApplicationServiceLoginType, IdentityProvider, LoginType, PasswordLoginType,
                        SsoLoginType, TokenLoginType,
                    },
                },
                login, logout, logout_all, refresh_token,
            },
            uiaa::UserIdentifier,
        },
        error::{DeserializationError, Error as RumaError, ErrorKind},
    },
};
use serde::de::Error as _;

use crate::{
    api::routes::{Group, Table},
    error::{Error, RequestError},
    http::{args::Args, limits::Class, uia},
    server::Server,
    user::{LOGIN_TOKEN_MS, NewDevice, UserError},
};

pub(super) fn routes(table: &mut Table) {
    table.add(Group::Client, login_types);
    table.add(Group::Client, login);
    table.add(Group::Client, login_token);
    table.add(Group::Client, refresh).limit(Class::Refresh);
    table.add(Group::Client, logout);
    table.add(Group::Client, logout_all);
}

async fn login_types(
    server: Arc<Server>,
    _: Args<get_login_types::v3::Request>,
) -> Result<get_login_types::v3::Response, Error> {
    let mut token = TokenLoginType::new();
    token.get_login_token = true;
    let mut flows = vec![LoginType::Password(PasswordLoginType::new()), LoginType::Token(token)];
    if !server.upstreams.providers().is_empty() {
        let mut sso = SsoLoginType::new();
        sso.identity_providers = server
            .upstreams
            .providers()
            .iter()
            .map(|provider| IdentityProvider::new(provider.id.clone(), provider.name.clone()))
            .collect();
        flows.push(LoginType::Sso(sso));
    }
    if !server.appservices.is_empty() {
        flows.push(LoginType::ApplicationService(ApplicationServiceLoginType::new()));
    }
    Ok(get_login_types::v3::Response::new(flows))
}

async fn login(server: Arc<Server>, args: Args<Login>) -> Result<login::v3::Response, Error> {
    let request = &args.request.0;
    let device = NewDevice {
        id: request.device_id.clone(),
        name: request.initial_device_display_name.clone(),
        refresh: request.refresh_token,
        client: None,
    };
    let session = match &request.login_info {
        login::v3::LoginInfo::Password(password) => {
            let user = who(&server, password).await?;
            server.limits.take_login(&user, args.origin.page.as_deref())?;
            server.users.login(&user, &password.password, device).await?
        }
        login::v3::LoginInfo::Token(token) => {
            server.limits.take(Class::Register, &args.origin.key())?;
            server.users.login_by_token(&token.token, device).await?
        }
        login::v3::LoginInfo::ApplicationService(info) => {
            let service = args.caller.as_deref().ok_or(RequestError::MissingToken)?;
            #[allow(deprecated, reason = "application services older than r0.4 send it")]
            let user = match (&info.identifier, &info.user) {
                (Some(UserIdentifier::Matrix(matrix)), _) => user_of(&server, &matrix.user)?,
                (None, Some(user)) => user_of(&server, user)?,
                _ => return Err(Error::invalid_param("who logs in? `identifier` is missing")),
            };
            if !service.has_user(&user, &server.name) {
                return Err(Error::new(ErrorKind::Exclusive, "this user is not in the service's namespace"));
            }
            server.users.login_without_proof(&user, device).await?
        }
        _ => return Err(Error::new(ErrorKind::Unknown, "log-in is by m.login.password or m.login.token")),
    };
    let mut response = login::v3::Response::new(session.user, session.access_token, session.device);
    response.refresh_token = session.refresh_token;
    response.expires_in = session.expires_in;
    #[allow(deprecated, reason = "old clients read it")]
    {
        response.home_server = Some(server.name.clone());
    }
    Ok(response)
}

/// Whom a password is said to belong to.
async fn who(server: &Arc<Server>, password: &login::v3::Password) -> Result<OwnedUserId, Error> {
    let by_email = async |address: &str| -> Result<OwnedUserId, Error> {
        server.users.by_email(address).await?.ok_or_else(|| UserError::WrongPassword.into())
    };
    #[allow(deprecated, reason = "old clients still name the user this way")]
    match (&password.identifier, &password.user, &password.address) {
        (Some(UserIdentifier::Matrix(matrix)), ..) => user_of(server, &matrix.user),
        (Some(UserIdentifier::Email(email)), ..) => by_email(&email.address).await,
        (Some(_), ..) => Err(Error::forbidden("log-in is by user name or e-mail address")),
        (None, Some(user), _) => user_of(server, user),
        (None, None, Some(address)) => by_email(address).await,
        (None, None, None) => Err(Error::invalid_param("who logs in? `identifier` is missing")),
    }
}

async fn login_token(
    server: Arc<Server>,
    args: Args<get_login_token::v1::Request>,
) -> Result<get_login_token::v1::Response, Error> {
    uia::password(&server, &args.caller, &args.origin, args.auth.as_ref()).await?;
    let token = server.users.make_login_token(&args.caller.user).await?;
    Ok(get_login_token::v1::Response::new(Duration::from_millis(LOGIN_TOKEN_MS), token))
}

async fn refresh(
    server: Arc<Server>,
    args: Args<refresh_token::v3::Request>,
) -> Result<refresh_token::v3::Response, Error> {
    let session = server.users.refresh(&args.request.refresh_token).await?;
    let mut response = refresh_token::v3::Response::new(session.access_token);
    response.refresh_token = session.refresh_token;
    response.expires_in_ms = session.expires_in;
    Ok(response)
}

/// The user who wants in. A name that cannot be one gets the answer of a wrong password.
fn user_of(server: &Arc<Server>, typed: &str) -> Result<OwnedUserId, Error> {
    // People type capitals; user names here have none.
    let lower = typed.trim().to_lowercase();
    uia::user_id(server, &lower)
        .filter(|user| UserId::parse(user.as_str()).is_ok())
        .ok_or_else(|| UserError::WrongPassword.into())
}

async fn logout(server: Arc<Server>, args: Args<logout::v3::Request>) -> Result<logout::v3::Response, Error> {
    server.users.logout(&args.caller.user, &args.caller.device).await?;
    Ok(logout::v3::Response::new())
}

async fn logout_all(
    server: Arc<Server>,
    args: Args<logout_all::v3::Request>,
) -> Result<logout_all::v3::Response, Error> {
    server.users.logout_all(&args.caller.user, None).await?;
    Ok(logout_all::v3::Response::new())
}

/// ruma's log-in request, after a look at its `type`: ruma 0.17 panics if there is none.
struct Login(login::v3::Request);

impl Metadata for Login {
    const METHOD: http::Method = login::v3::Request::METHOD;
    const RATE_LIMITED: bool = login::v3::Request::RATE_LIMITED;
    type Authentication = <login::v3::Request as Metadata>::Authentication;
    type PathBuilder = <login::v3::Request as Metadata>::PathBuilder;
    const PATH_BUILDER: Self::PathBuilder = login::v3::Request::PATH_BUILDER;
}

impl IncomingRequest for Login {
    type EndpointError = RumaError;
    type OutgoingResponse = login::v3::Response;

    fn try_from_http_request_inner(
        request: http::Request<&[u8]>,
        path_args: &[&str],
    ) -> Result<Self, DeserializationError> {
        #[derive(serde::Deserialize)]
        struct Kind {
            #[serde(rename = "type")]
            _kind: String,
        }
        if request.body().first() == Some(&b'[') {
            // A struct may also be written as a list; ruma takes objects only.
            return Err(serde_json::Error::custom("an object is expected").into());
        }
        serde_json::from_slice::<Kind>(request.body())?;
        login::v3::Request::try_from_http_request_inner(request, path_args).map(Self)
    }
}
