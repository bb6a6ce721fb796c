//! A typed federation request to a server, by name: signed, carried, its answer read.

use std::{collections::BTreeMap, time::Duration};

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use router::NodeId;
use ruma::{
    OwnedServerName, ServerName,
    api::{
        IncomingResponseExt as _, OutgoingRequest, OutgoingRequestExt as _,
        auth_scheme::{AuthScheme, NoAuthentication},
        federation::authentication::{ServerSignatures, XMatrix, XMatrixSigningInput},
        path_builder::PathBuilder,
    },
    signatures::Ed25519KeyPair,
};
use serde_json::value::RawValue;

use super::{
    Remote,
    carrier::{CarrierError, Class},
    contacts::Way,
    error::RemoteError,
    resolve::unreachable,
    ways::{self, OVERLAY_WITHIN},
};

/// How long a request may take if nothing else is said.
pub const TIMEOUT: Duration = Duration::from_secs(30);
/// How long a join may take: the answer holds the room's whole state.
pub const TIMEOUT_JOIN: Duration = Duration::from_secs(120);
/// Largest answer to an ordinary request: a transaction's worth of events and more.
pub const ANSWER_LEN_MAX: usize = 8 << 20;
/// Largest answer that holds a room's state.
pub const STATE_LEN_MAX: usize = 256 << 20;

/// How one request is sent.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Which stream it takes.
    pub class: Class,
    /// From now to the last byte of the answer.
    pub timeout: Duration,
    /// Largest answer in bytes.
    pub limit: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { class: Class::Interactive, timeout: TIMEOUT, limit: ANSWER_LEN_MAX }
    }
}

impl Options {
    /// For answers that hold the state of a room.
    pub fn state() -> Self {
        Self { class: Class::Bulk, timeout: TIMEOUT_JOIN, limit: STATE_LEN_MAX }
    }

    /// For events from the past.
    pub fn bulk() -> Self {
        Self { class: Class::Bulk, ..Self::default() }
    }

    /// For media of at most `limit` bytes.
    pub fn media(limit: usize) -> Self {
        Self { class: Class::Bulk, timeout: TIMEOUT_JOIN, limit }
    }
}

/// The authentication schemes of the server-server API, made from our name and key.
pub trait ServerAuth: AuthScheme {
    /// What the scheme signs with.
    fn input<'a>(
        origin: OwnedServerName,
        destination: OwnedServerName,
        key: &'a Ed25519KeyPair,
    ) -> Self::Input<'a>;
}

impl ServerAuth for ServerSignatures {
    fn input<'a>(
        origin: OwnedServerName,
        destination: OwnedServerName,
        key: &'a Ed25519KeyPair,
    ) -> Self::Input<'a> {
        XMatrixSigningInput::new(origin, destination, key)
    }
}

impl ServerAuth for NoAuthentication {
    fn input<'a>(_: OwnedServerName, _: OwnedServerName, _: &'a Ed25519KeyPair) -> Self::Input<'a> {}
}

impl Remote {
    /// Asks `to` and waits for the whole answer.
    pub async fn request<R>(&self, to: &ServerName, request: R) -> Result<R::IncomingResponse, RemoteError>
    where
        R: OutgoingRequest,
        R::Authentication: ServerAuth,
        for<'a> R::PathBuilder: PathBuilder<Input<'a> = ()>,
    {
        self.request_with(to, request, Options::default()).await
    }

    /// [`Self::request`], sent in another way than the usual.
    pub async fn request_with<R>(
        &self,
        to: &ServerName,
        request: R,
        options: Options,
    ) -> Result<R::IncomingResponse, RemoteError>
    where
        R: OutgoingRequest,
        R::Authentication: ServerAuth,
        for<'a> R::PathBuilder: PathBuilder<Input<'a> = ()>,
    {
        let signed = self.sign_request(to, request)?;
        let response = self.carry(to, signed, options).await?;
        let (parts, body) = response.into_parts();
        let read = |body: &[u8]| {
            let (parts, _) = http::Response::from_parts(parts.clone(), ()).into_parts();
            R::IncomingResponse::try_from_http_response(http::Response::from_parts(parts, body))
        };
        read(&body)
            .or_else(|error| match without_nulls(&body) {
                Some(body) => read(&body),
                None => Err(error),
            })
            .map_err(|error| RemoteError::BadAnswer { server: to.to_owned(), reason: error.to_string() })
    }

    /// `GET` of a path at a server, in nobody's name.
    pub async fn get_unsigned(
        &self,
        to: &ServerName,
        path: &str,
        options: Options,
    ) -> Result<http::Response<Bytes>, RemoteError> {
        let request = http::Request::get(format!("https://{to}{path}")).body(Bytes::new());
        let request = request.map_err(|error| RemoteError::Request(error.to_string()))?;
        self.carry(to, request, options).await
    }

    /// `PUT` of some JSON at a server, signed: for what a typed request does not say as it has to be said.
    pub async fn put_signed(
        &self,
        to: &ServerName,
        path: &str,
        body: &RawValue,
    ) -> Result<http::Response<Bytes>, RemoteError> {
        let wrong = |error: &dyn std::fmt::Display| RemoteError::Request(error.to_string());
        let identity = self.identity();
        let key = identity.signing_key();
        let request = http::Request::put(format!("https://{to}{path}"))
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(Bytes::copy_from_slice(body.get().as_bytes()));
        let mut request = request.map_err(|error| wrong(&error))?;
        let input = XMatrixSigningInput::new(identity.server_name().to_owned(), to.to_owned(), &key);
        let claim = XMatrix::sign_http_request(&request, input).map_err(|error| wrong(&error))?;
        request.headers_mut().insert(http::header::AUTHORIZATION, (&claim).into());
        self.carry(to, request, Options::default()).await
    }

    /// Writes a typed request as signed HTTP.
    pub(super) fn sign_request<R>(
        &self,
        to: &ServerName,
        request: R,
    ) -> Result<http::Request<Bytes>, RemoteError>
    where
        R: OutgoingRequest,
        R::Authentication: ServerAuth,
        for<'a> R::PathBuilder: PathBuilder<Input<'a> = ()>,
    {
        let identity = self.identity();
        let key = identity.signing_key();
        let auth = R::Authentication::input(identity.server_name().to_owned(), to.to_owned(), &key);
        // The host is what a TLS server would be asked by; over the overlay the key counts.
        let base = format!("https://{to}");
        let request = request
            .try_into_http_request::<BytesMut>(&base, auth, ())
            .map_err(|error| RemoteError::Request(error.to_string()))?;
        Ok(request.map(BytesMut::freeze))
    }

    /// Carries signed HTTP to one of the server's nodes and reads the answer. An answer that tells
    /// of an error is one.
    pub(super) async fn carry(
        &self,
        to: &ServerName,
        request: http::Request<Bytes>,
        options: Options,
    ) -> Result<http::Response<Bytes>, RemoteError> {
        if to == self.identity().server_name() {
            return Err(RemoteError::Ourselves);
        }
        if self.is_blocked(to) && !request.uri().path().starts_with("/_matrix/key/") {
            return Err(RemoteError::Blocked(to.to_owned()));
        }
        match tokio::time::timeout(options.timeout, self.carry_untimed(to, request, options)).await {
            Ok(result) => result,
            Err(_) => {
                self.inner.resolver.forget(to);
                Err(unreachable(to, CarrierError::Timeout(options.timeout)))
            }
        }
    }

    async fn carry_untimed(
        &self,
        to: &ServerName,
        request: http::Request<Bytes>,
        options: Options,
    ) -> Result<http::Response<Bytes>, RemoteError> {
        let ways = self.inner.ways(to).await?;
        let mut last = CarrierError::NotFound;
        for node in ways.nodes {
            let asked = self.inner.carrier.request(node, options.class, request.clone());
            let asked = match ways.tls {
                None => asked.await,
                Some(_) => {
                    tokio::time::timeout(OVERLAY_WITHIN, asked).await.unwrap_or_else(|_| Err(ways::slow()))
                }
            };
            match asked {
                Ok(response) => {
                    self.inner.there_on_overlay(to);
                    self.inner.contacts.note(to, Way::Overlay, self.clock().now_ms());
                    return read(to, response, options.limit).await;
                }
                Err(error) => last = error,
            }
            if ways.tls.is_some() {
                self.inner.left_overlay(to);
                break;
            }
        }
        self.inner.resolver.forget(to);
        let Some(tls) = ways.tls else { return Err(unreachable(to, last)) };
        match tls.request(to, request).await {
            Ok(response) => {
                self.inner.contacts.note(to, Way::Tls, self.clock().now_ms());
                read(to, response, options.limit).await
            }
            Err(error) => {
                tls.forget(to);
                Err(unreachable(to, error))
            }
        }
    }
}

impl Remote {
    /// Carries signed HTTP to one node, whoever's it is.
    pub(super) async fn carry_to(
        &self,
        server: &ServerName,
        node: NodeId,
        request: http::Request<Bytes>,
        options: Options,
    ) -> Result<http::Response<Bytes>, RemoteError> {
        let asked = async {
            let response = self.inner.carrier.request(node, options.class, request).await;
            read(server, response.map_err(|error| unreachable(server, error))?, options.limit).await
        };
        match tokio::time::timeout(options.timeout, asked).await {
            Ok(result) => result,
            Err(_) => Err(unreachable(server, CarrierError::Timeout(options.timeout))),
        }
    }
}

impl Remote {
    /// `GET` of a path at a node, whoever's it is; the node is known by its key, so nothing is signed.
    pub async fn get_from_node(
        &self,
        node: NodeId,
        path: &'static str,
        limit: usize,
        timeout: Duration,
    ) -> Result<Bytes, CarrierError> {
        let mut request = http::Request::new(Bytes::new());
        *request.uri_mut() = http::Uri::from_static(path);
        let broken = |what: String| CarrierError::Unreachable(what);
        let asked = async {
            let response = self.inner.carrier.request(node, Class::Interactive, request).await?;
            if !response.status().is_success() {
                return Err(broken(format!("HTTP status {}", response.status().as_u16())));
            }
            let body = http_body_util::Limited::new(response.into_body(), limit);
            let body = body.collect().await.map_err(|error| broken(error.to_string()))?;
            Ok(body.to_bytes())
        };
        tokio::time::timeout(timeout, asked).await.unwrap_or(Err(CarrierError::Timeout(timeout)))
    }
}

/// Reads a whole answer of at most `limit` bytes.
async fn read(
    server: &ServerName,
    response: http::Response<Body>,
    limit: usize,
) -> Result<http::Response<Bytes>, RemoteError> {
    let (parts, mut body) = response.into_parts();
    let mut bytes = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame =
            frame.map_err(|error| unreachable(server, CarrierError::Unreachable(error.to_string())))?;
        let Ok(data) = frame.into_data() else { continue };
        if bytes.len() + data.len() > limit {
            return Err(RemoteError::TooLarge { server: server.to_owned(), limit });
        }
        bytes.extend_from_slice(&data);
    }
    if parts.status.is_success() {
        return Ok(http::Response::from_parts(parts, bytes.freeze()));
    }
    Err(refusal(server, parts.status, &bytes))
}

/// Reads a standard error body; whatever is no such body is an error without a code.
fn refusal(server: &ServerName, status: http::StatusCode, body: &[u8]) -> RemoteError {
    #[derive(serde::Deserialize, Default)]
    #[serde(default)]
    struct Standard {
        errcode: Option<String>,
        error: Option<String>,
        retry_after_ms: Option<u64>,
    }
    let standard: Standard = serde_json::from_slice(body).unwrap_or_default();
    let cut =
        |text: String| text.chars().filter(|c| !c.is_control()).take(MESSAGE_CHARS_MAX).collect::<String>();
    RemoteError::Refused {
        server: server.to_owned(),
        status: status.as_u16(),
        errcode: standard.errcode.map(cut),
        message: standard.error.map(cut).unwrap_or_else(|| format!("HTTP status {}", status.as_u16())),
        retry_after_ms: standard.retry_after_ms,
    }
}

/// What of another server's words is passed on to our users.
const MESSAGE_CHARS_MAX: usize = 300;
/// An answer without the members that are null, if there are any: servers written in Go say so of what they do not have.
fn without_nulls(body: &[u8]) -> Option<Vec<u8>> {
    let mut members: BTreeMap<String, &RawValue> = serde_json::from_slice(body).ok()?;
    let before = members.len();
    members.retain(|_, value| value.get() != "null");
    if members.len() == before {
        return None;
    }
    serde_json::to_vec(&members).ok()
}
