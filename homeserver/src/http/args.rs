//! A request as a handler gets it: typed by ruma, its caller typed by the endpoint's authentication scheme.

use std::{fmt, ops::Deref, sync::Arc, time::Duration};

use axum::{
    RequestPartsExt as _,
    body::Body,
    extract::{RawPathParams, Request},
};
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method, Uri, header};
use http_body_util::BodyExt as _;
use ruma::api::{
    IncomingRequest,
    error::{DeserializationError, HeaderDeserializationError},
};
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor},
};

use crate::{
    error::{Error, RequestError},
    http::{
        auth::{CallerKind, Origin},
        standing::Policy,
    },
    server::Server,
};

/// Everything a handler gets: the typed request (also by `Deref`), who sent it, and where it came from.
pub struct Args<R: IncomingRequest>
where
    R::Authentication: CallerKind,
{
    /// The typed request.
    pub request: R,
    /// Who calls: [`LocalUser`](crate::http::auth::LocalUser) for access tokens,
    /// [`RemoteServer`](crate::http::auth::RemoteServer) for X-Matrix, an `Option` where a token is optional, `()`
    /// where none is asked for.
    pub caller: <R::Authentication as CallerKind>::Caller,
    /// Where the request came from, for limits.
    pub origin: Origin,
    /// The body as it was sent: handlers of hot paths pass its bytes on.
    pub body: Bytes,
    /// The request's method, path and headers.
    pub head: Head,
    /// The path's variables as the client wrote them, decoded, in order. See [`Args::segment`].
    pub path: Vec<String>,
}

impl<R: IncomingRequest> Deref for Args<R>
where
    R::Authentication: CallerKind,
{
    type Target = R;

    fn deref(&self) -> &R {
        &self.request
    }
}

impl<R: IncomingRequest> Args<R>
where
    R::Authentication: CallerKind,
{
    /// The path's variable number `index` as the client wrote it; empty if there is none. Types of events are taken from
    /// here: ruma gives those that it knows by several names back under one of them.
    pub fn segment(&self, index: usize) -> &str {
        self.path.get(index).map_or("", String::as_str)
    }

    /// Makes a request of whatever came in, or says what is wrong with it.
    pub(crate) async fn from_incoming(server: &Arc<Server>, incoming: Incoming) -> Result<Self, Error> {
        let caller = R::Authentication::caller(server, &incoming).await?;
        // Clients leave out a body of which every part is optional.
        let body = match &incoming.body[..] {
            [] if incoming.head.method != Method::GET => b"{}",
            body => body,
        };
        // The parser skips over texts that nobody asks for; these, too, have to be texts.
        if std::str::from_utf8(body).is_err() {
            return Err(RequestError::NotJson("it is not UTF-8".into()).into());
        }
        // Much is kept as it came and told to others, some of whose parsers take less than ours skips over.
        if body.trim_ascii_start().first().is_some_and(|first| b"{[".contains(first)) {
            serde_json::from_slice::<Wellformed>(body)
                .map_err(|error| RequestError::NotJson(error.to_string()))?;
        }
        let mut request = http::Request::new(body);
        *request.method_mut() = incoming.head.method.clone();
        *request.uri_mut() = incoming.head.uri.clone();
        *request.headers_mut() = incoming.head.headers.clone();
        let path: Vec<&str> = incoming.path.iter().map(String::as_str).collect();
        let typed = R::try_from_http_request_inner(request, &path).map_err(not_understood)?;
        Ok(Self {
            request: typed,
            caller,
            origin: incoming.origin,
            body: incoming.body,
            head: incoming.head,
            path: incoming.path,
        })
    }
}

/// JSON that every parser takes: at most 128 deep, numbers that floats can hold, texts that are texts. Builds nothing.
struct Wellformed;

impl<'de> Deserialize<'de> for Wellformed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Self)
    }
}

impl<'de> Visitor<'de> for Wellformed {
    type Value = Self;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_str<E>(self, _: &str) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self, A::Error> {
        while list.next_element::<Self>()?.is_some() {}
        Ok(self)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Self, A::Error> {
        while object.next_entry::<Self, Self>()?.is_some() {}
        Ok(self)
    }
}

/// A request's head.
#[derive(Clone, Debug)]
pub struct Head {
    /// Its method.
    pub method: Method,
    /// Its path and query.
    pub uri: Uri,
    /// Its headers.
    pub headers: HeaderMap,
}

impl Head {
    /// The values of a query parameter, decoded.
    pub fn query_values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = String> + 'a {
        let query = self.uri.query().unwrap_or_default();
        query.split('&').filter_map(move |pair| pair.strip_prefix(name)?.strip_prefix('=')).map(|value| {
            let spaced = value.replace('+', " ");
            percent_encoding::percent_decode_str(&spaced).decode_utf8_lossy().into_owned()
        })
    }

    /// The time that an application service gives to an event it brings (`ts`, milliseconds); other callers' do not count.
    // spec: https://spec.matrix.org/v1.19/application-service-api/#timestamp-massaging
    pub fn massaged_ts(
        &self,
        server: &Server,
        ts: Option<ruma::MilliSecondsSinceUnixEpoch>,
    ) -> Result<Option<u64>, Error> {
        let Some(ts) = ts else { return Ok(None) };
        let service = super::auth::service_of(server, &self.headers, self.uri.query())?;
        Ok(service.map(|_| ts.get().into()))
    }

    /// Adds a query parameter unless there is one of that name.
    pub(crate) fn complete_query(&mut self, name: &'static str, value: &'static str) {
        if self.query_values(name).next().is_some() {
            return;
        }
        let path = self.uri.path();
        let whole = match self.uri.query() {
            Some(query) if !query.is_empty() => format!("{path}?{query}&{name}={value}"),
            _ => format!("{path}?{name}={value}"),
        };
        let mut parts = self.uri.clone().into_parts();
        if let Ok(path) = whole.parse() {
            parts.path_and_query = Some(path);
            if let Ok(uri) = Uri::from_parts(parts) {
                self.uri = uri;
            }
        }
    }

    /// A header's value, if there is one and it is text.
    pub fn header(&self, name: impl header::AsHeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// A request whose body was read and whose path was taken apart, not yet typed.
#[derive(Debug)]
pub struct Incoming {
    /// Method, path and headers.
    pub head: Head,
    /// The path's variables, decoded, in order.
    pub path: Vec<String>,
    /// The whole body.
    pub body: Bytes,
    /// Where it came from.
    pub origin: Origin,
    /// What the endpoint asks of its caller's standing.
    pub policy: Policy,
}

/// A request whose body nobody has read yet: for uploads.
#[derive(Debug)]
pub struct Streaming {
    /// Head, path and origin; its body is empty.
    pub incoming: Incoming,
    /// The body to come.
    pub body: Body,
}

impl Streaming {
    /// Takes the path apart.
    pub(crate) async fn new(request: Request, policy: Policy) -> Result<Self, Error> {
        let (mut parts, body) = request.into_parts();
        let path = match parts.extract::<RawPathParams>().await {
            Ok(params) => params.iter().map(|(_, value)| value.to_owned()).collect(),
            // A path without variables has no parameters to extract.
            Err(axum::extract::rejection::RawPathParamsRejection::MissingPathParams(_)) => Vec::new(),
            Err(_) => return Err(RequestError::InvalidParam("the path is not UTF-8".into()).into()),
        };
        let origin = Origin::of(&parts);
        Ok(Self {
            incoming: Incoming {
                head: Head { method: parts.method, uri: parts.uri, headers: parts.headers },
                path,
                body: Bytes::new(),
                origin,
                policy,
            },
            body,
        })
    }

    /// Reads the body, up to `limit` bytes.
    pub(crate) async fn read(mut self, limit: usize) -> Result<Incoming, Error> {
        let body = read_body(self.body, &self.incoming.head.headers, limit);
        self.incoming.body =
            tokio::time::timeout(BODY_WITHIN, body).await.map_err(|_| RequestError::BodyBroken)??;
        Ok(self.incoming)
    }
}

/// Reads a whole body of at most `limit` bytes; a length that says too much is refused before anything is read.
pub async fn read_body(mut body: Body, headers: &HeaderMap, limit: usize) -> Result<Bytes, Error> {
    let claimed =
        headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if claimed.is_some_and(|length| length > limit as u64) {
        return Err(RequestError::TooLarge { limit }.into());
    }
    let mut first: Option<Bytes> = None;
    let mut rest = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|_| RequestError::BodyBroken)?.into_data() else {
            continue;
        };
        let have = first.as_ref().map_or(0, Bytes::len) + rest.len();
        if have + data.len() > limit {
            return Err(RequestError::TooLarge { limit }.into());
        }
        match &first {
            // Nearly every body is one frame: it is handed on as it is.
            None => first = Some(data),
            Some(_) => rest.extend_from_slice(&data),
        }
    }
    let first = first.unwrap_or_default();
    if rest.is_empty() {
        return Ok(first);
    }
    let mut whole = BytesMut::with_capacity(first.len() + rest.len());
    whole.extend_from_slice(&first);
    whole.extend_from_slice(&rest);
    Ok(whole.freeze())
}

/// What ruma could not make a request of, as the caller's fault that it is.
fn not_understood(error: DeserializationError) -> Error {
    match error {
        DeserializationError::Json(json) => match json.classify() {
            serde_json::error::Category::Data => RequestError::BadJson(json.to_string()),
            _ => RequestError::NotJson(json.to_string()),
        },
        DeserializationError::Utf8(utf8) => RequestError::NotJson(utf8.to_string()),
        DeserializationError::Query(query) => {
            let text = query.to_string();
            if text.contains("missing field") {
                RequestError::MissingParam(text)
            } else {
                RequestError::InvalidParam(text)
            }
        }
        DeserializationError::Header(HeaderDeserializationError::MissingHeader(name)) => {
            RequestError::MissingParam(format!("header {name}"))
        }
        other => RequestError::InvalidParam(other.to_string()),
    }
    .into()
}

/// How long a whole body may take to come; a megabyte in that time is slower than any link worth the name.
const BODY_WITHIN: Duration = Duration::from_secs(120);
