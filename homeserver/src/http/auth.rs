//! Who calls: the access token's user, the server whose signature holds, or nobody in particular.

use std::{net::SocketAddr, pin::Pin, sync::Arc};

use bytes::Bytes;
use http::{HeaderMap, header, request::Parts};
use router::NodeId;
use ruma::{
    OwnedServerName,
    api::{
        auth_scheme::{
            AccessToken, AccessTokenOptional, AppserviceToken, AppserviceTokenOptional, AuthScheme,
            NoAccessToken, NoAuthentication,
        },
        error::ErrorKind,
        federation::authentication::{ServerSignatures, XMatrix},
    },
};

pub use crate::user::LocalUser;
use crate::{
    appservice::{Appservices, registration::Registration},
    error::{Error, RequestError},
    http::{args::Incoming, limits::Class, standing::Policy},
    server::Server,
    user::Access,
};

/// What an authentication scheme of ruma's makes of a request here.
pub trait CallerKind: AuthScheme {
    /// What the handler is given.
    type Caller: Send + 'static;

    /// Finds the caller, or refuses the request.
    fn caller(
        server: &Arc<Server>,
        request: &Incoming,
    ) -> impl Future<Output = Result<Self::Caller, Error>> + Send;
}

impl CallerKind for AccessToken {
    type Caller = LocalUser;

    async fn caller(server: &Arc<Server>, request: &Incoming) -> Result<LocalUser, Error> {
        let token = token(&request.head.headers, request.head.uri.query())?;
        let token = token.ok_or(RequestError::MissingToken)?;
        if let Some(service) = server.appservices.by_token(&token) {
            return masquerade(server, &service, request.head.uri.query()).await;
        }
        let access = access_of(server, &token).await?;
        request.policy.check(server, &access, &request.path).await?;
        if !access.standing.guest {
            request.policy.check_terms(server, &access.caller.user, &request.head).await?;
        }
        note_seen(server, &access.caller, &request.origin);
        Ok(access.caller)
    }
}

impl CallerKind for AccessTokenOptional {
    type Caller = Option<LocalUser>;

    async fn caller(server: &Arc<Server>, request: &Incoming) -> Result<Option<LocalUser>, Error> {
        match token(&request.head.headers, request.head.uri.query())? {
            Some(token) => {
                if let Some(service) = server.appservices.by_token(&token) {
                    return masquerade(server, &service, request.head.uri.query()).await.map(Some);
                }
                let access = access_of(server, &token).await?;
                request.policy.check(server, &access, &request.path).await?;
                Ok(Some(access.caller))
            }
            None => Ok(None),
        }
    }
}

impl CallerKind for NoAuthentication {
    type Caller = ();

    async fn caller(_: &Arc<Server>, _: &Incoming) -> Result<(), Error> {
        Ok(())
    }
}

impl CallerKind for NoAccessToken {
    type Caller = ();

    async fn caller(_: &Arc<Server>, _: &Incoming) -> Result<(), Error> {
        Ok(())
    }
}

/// Endpoints that an application service may also call: the service, if one does.
impl CallerKind for AppserviceTokenOptional {
    type Caller = Option<Arc<Registration>>;

    async fn caller(server: &Arc<Server>, request: &Incoming) -> Result<Self::Caller, Error> {
        service_of(server, &request.head.headers, request.head.uri.query())
    }
}

/// Endpoints for application services alone.
impl CallerKind for AppserviceToken {
    type Caller = Arc<Registration>;

    async fn caller(server: &Arc<Server>, request: &Incoming) -> Result<Self::Caller, Error> {
        let (headers, query) = (&request.head.headers, request.head.uri.query());
        let refused = match token(headers, query)? {
            Some(_) => RequestError::UnknownToken,
            None => RequestError::MissingToken,
        };
        service_of(server, headers, query)?.ok_or_else(|| refused.into())
    }
}

/// The application service that makes a request, if one does.
pub fn service_of(
    server: &Server,
    headers: &HeaderMap,
    query: Option<&str>,
) -> Result<Option<Arc<Registration>>, Error> {
    Ok(token(headers, query)?.and_then(|token| server.appservices.by_token(&token)))
}

/// The user in whose name an application service calls.
// spec: https://spec.matrix.org/v1.19/application-service-api/#identity-assertion
async fn masquerade(
    server: &Arc<Server>,
    service: &Registration,
    query: Option<&str>,
) -> Result<LocalUser, Error> {
    let value = |name: &str| query_value(query, name);
    let device = value("device_id").or_else(|| value("org.matrix.msc3202.device_id"));
    let (user, device) = server
        .appservices
        .masquerade(service, value("user_id").as_deref(), device)
        .map_err(|error| Error::forbidden(error.to_string()))?;
    if !server.users.exists(&user).await? {
        return Err(Error::forbidden("the application service has not registered this user"));
    }
    let device = match device {
        None => Appservices::no_device(service).into(),
        Some(device) => {
            let device = ruma::OwnedDeviceId::from(device);
            if server.users.device(&user, &device).await.is_err() {
                return Err(Error::new(ErrorKind::UnknownDevice, "this user has no device with this id"));
            }
            device
        }
    };
    Ok(LocalUser { user, device })
}

/// A query parameter's value, decoded.
fn query_value(query: Option<&str>, name: &str) -> Option<String> {
    let pairs = query?.split('&').filter_map(|pair| pair.split_once('='));
    let (_, value) = pairs.into_iter().find(|(key, _)| *key == name)?;
    let spaced = value.replace('+', " ");
    Some(percent_encoding::percent_decode_str(&spaced).decode_utf8_lossy().into_owned())
}

impl CallerKind for ServerSignatures {
    type Caller = RemoteServer;

    async fn caller(server: &Arc<Server>, request: &Incoming) -> Result<RemoteServer, Error> {
        let claim = XMatrix::extract_from_http_headers(&request.head.headers)
            .map_err(|_| RequestError::BadAuthorization)?;
        if server.remote.is_blocked(&claim.origin) {
            return Err(Error::forbidden("this server does not exchange anything with yours"));
        }
        let mut signed = http::Request::new(request.body.clone());
        *signed.method_mut() = request.head.method.clone();
        *signed.uri_mut() = request.head.uri.clone();
        let name = server
            .xmatrix
            .verify(claim, signed, request.origin.node)
            .await
            .map_err(|refusal| RequestError::BadSignature(refusal.0))?;
        server.limits.take(Class::Origin, name.as_str())?;
        Ok(RemoteServer { name, node: request.origin.node })
    }
}

/// Another homeserver whose signature over the request holds.
#[derive(Clone, Debug)]
pub struct RemoteServer {
    /// Its name.
    pub name: OwnedServerName,
    /// The node the request came from, if it came over the overlay: one of the server's own.
    pub node: Option<NodeId>,
}

/// Checks X-Matrix signatures; made by the federation side, which knows the servers' keys.
pub trait VerifyXMatrix: Send + Sync {
    /// Answers with the origin's name if the signature is its own, the request was meant for us, and `node`, where it
    /// came from if it came over the overlay, is one of the origin's.
    fn verify(
        &self,
        claim: XMatrix,
        request: http::Request<Bytes>,
        node: Option<NodeId>,
    ) -> Pin<Box<dyn Future<Output = Result<OwnedServerName, XMatrixRefused>> + Send + '_>>;
}

/// Why a signature was refused, in words for the caller.
#[derive(Debug)]
pub struct XMatrixRefused(pub String);

/// Where a request came from, as far as limits care.
#[derive(Clone, Debug, Default)]
pub struct Origin {
    /// The address at the other end of a TCP listener.
    pub peer: Option<SocketAddr>,
    /// The verified key at the other end of the overlay.
    pub node: Option<NodeId>,
    /// The web page that made the browser ask, if a browser says so.
    pub page: Option<String>,
}

impl Origin {
    pub(crate) fn of(parts: &Parts) -> Self {
        Self {
            peer: parts.extensions.get::<PeerAddr>().map(|peer| peer.0),
            node: parts.extensions.get::<h2_overlay::Caller>().map(|caller| caller.0),
            page: parts
                .headers
                .get(header::ORIGIN)
                .and_then(|value| value.to_str().ok())
                .map(|page| page.chars().take(PAGE_CHARS_MAX).collect()),
        }
    }

    /// Whether it came from this very machine: from a reverse proxy, if it is another server's.
    pub fn is_here(&self) -> bool {
        self.node.is_none() && self.peer.is_some_and(|peer| peer.ip().to_canonical().is_loopback())
    }

    /// What requests of strangers are counted by.
    pub fn key(&self) -> String {
        let page = self.page.as_deref().unwrap_or_default();
        match (self.node, self.peer) {
            (Some(node), _) => node.to_string(),
            (None, Some(peer)) => format!("{} {page}", peer.ip()),
            (None, None) => page.to_owned(),
        }
    }
}

/// Request extension: the TCP address of the caller.
#[derive(Clone, Copy, Debug)]
pub struct PeerAddr(pub SocketAddr);

/// The user a request's token belongs to; for endpoints whose type asks for no token although we do.
pub async fn require_user(
    server: &Arc<Server>,
    headers: &HeaderMap,
    query: Option<&str>,
) -> Result<LocalUser, Error> {
    let token = token(headers, query)?.ok_or(RequestError::MissingToken)?;
    if let Some(service) = server.appservices.by_token(&token) {
        return masquerade(server, &service, query).await;
    }
    let access = access_of(server, &token).await?;
    Policy::ANY.check(server, &access, &[]).await?;
    Ok(access.caller)
}

/// The user whose token an endpoint shows that ruma has no type for, or whose body is still to come; what the account may
/// do is looked at.
pub async fn caller_of(server: &Arc<Server>, request: &Incoming) -> Result<LocalUser, Error> {
    AccessToken::caller(server, request).await
}

/// The administrator a request's token belongs to.
pub async fn require_admin(server: &Arc<Server>, request: &Incoming) -> Result<LocalUser, Error> {
    let token = token(&request.head.headers, request.head.uri.query())?.ok_or(RequestError::MissingToken)?;
    let access = access_of(server, &token).await?;
    Policy::ANY.check(server, &access, &[]).await?;
    if !access.standing.admin {
        return Err(Error::forbidden("you are not a server admin"));
    }
    Ok(access.caller)
}

/// Keeps a device's "last seen" fresh, beside the request.
fn note_seen(server: &Arc<Server>, caller: &LocalUser, origin: &Origin) {
    if server.users.seen_due(caller) {
        let users = server.users.clone();
        let (caller, ip) = (caller.clone(), origin.peer.map(|peer| peer.ip().to_string()));
        server.tasks.spawn(async move {
            if let Err(error) = users.seen(&caller, ip).await {
                tracing::debug!(%error, "a device's last sign of life was not noted");
            }
        });
    }
}

async fn access_of(server: &Arc<Server>, token: &str) -> Result<Access, Error> {
    server.users.by_token(token).await?.ok_or_else(|| RequestError::UnknownToken.into())
}

/// The access token of a request: from its header or, as old clients do, from its query.
// spec: https://spec.matrix.org/v1.19/client-server-api/#using-access-tokens
fn token(headers: &HeaderMap, query: Option<&str>) -> Result<Option<String>, Error> {
    if let Some(value) = headers.get(header::AUTHORIZATION) {
        let value = value.to_str().map_err(|_| RequestError::BadAuthorization)?;
        let (scheme, token) = value.split_once(' ').ok_or(RequestError::BadAuthorization)?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Err(RequestError::BadAuthorization.into());
        }
        return Ok(Some(token.trim().to_owned()));
    }
    // Our tokens need no percent-encoding.
    let from_query = query
        .into_iter()
        .flat_map(|query| query.split('&'))
        .find_map(|pair| pair.strip_prefix("access_token="));
    Ok(from_query.map(str::to_owned))
}

/// Longer `Origin` headers are cut: they are only compared.
const PAGE_CHARS_MAX: usize = 128;
