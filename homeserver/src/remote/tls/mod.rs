//! The carrier to ordinary servers: HTTPS, as the server-server API has it.
//!
//! A request goes the way the specification's steps find (`route`, `wellknown`, `dns`), over a pooled connection whose
//! certificate is good for the right name (`connect`). HTTP/2 where the other side has it, HTTP/1.1 where not.
//!
//! spec: <https://spec.matrix.org/v1.19/server-server-api/#resolving-server-names>

mod address;
mod connect;
mod dns;
mod roots;
mod route;
mod wellknown;

#[cfg(test)]
mod tests;

use std::{path::PathBuf, sync::Arc, time::Duration};

use axum::body::Body;
use bytes::Bytes;
use http::{Uri, uri::PathAndQuery};
use http_body_util::Full;
use hyper_util::{
    client::legacy::Client,
    rt::{TokioExecutor, TokioTimer},
};
use ruma::ServerName;

use super::carrier::CarrierError;

pub use address::is_public;
pub use roots::RootsError;
pub(super) use roots::client_config;

/// How ordinary servers are reached.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// PEM files of further authorities whose certificates are believed.
    pub extra_ca: Vec<PathBuf>,
    /// Whether names may lead to addresses that are not on the public Internet.
    pub allow_private_addresses: bool,
}

/// Carries requests to ordinary servers. Cloning shares connections and caches.
#[derive(Clone)]
pub struct TlsCarrier {
    delegations: Arc<wellknown::Delegations>,
    client: Client<connect::Connector, Full<Bytes>>,
    private: bool,
}

impl TlsCarrier {
    /// With the machine's certificate authorities and name servers.
    pub fn new(settings: &Settings) -> Result<Self, RootsError> {
        let dns = dns::Dns::system(settings.allow_private_addresses);
        let mut carrier = Self::over(dns, client_config(&settings.extra_ca)?);
        carrier.private = settings.allow_private_addresses;
        Ok(carrier)
    }

    /// Whether names may lead to addresses that are not on the public Internet.
    pub fn allows_private(&self) -> bool {
        self.private
    }

    fn over(dns: dns::Dns, tls: Arc<rustls::ClientConfig>) -> Self {
        let connector = connect::Connector::new(dns, tls);
        let mut builder = Client::builder(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(IDLE_PER_HOST_MAX)
            .http1_max_buf_size(HEAD_BYTES_MAX)
            .http2_max_header_list_size(HEAD_BYTES_MAX as u32)
            .http2_keep_alive_interval(PING_EVERY)
            .http2_keep_alive_timeout(PING_WITHIN);
        let delegations = wellknown::Delegations::new(builder.build(connector.for_web()));
        Self { delegations: Arc::new(delegations), client: builder.build(connector), private: false }
    }

    /// Sends one request to a server and answers with the head of the response; its body streams.
    pub async fn request(
        &self,
        to: &ServerName,
        mut request: http::Request<Bytes>,
    ) -> Result<http::Response<Body>, CarrierError> {
        let authority = self.delegations.authority_of(to).await;
        let path = request.uri().path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/"));
        let uri = Uri::builder().scheme("https").authority(&*authority).path_and_query(path).build();
        *request.uri_mut() = uri.map_err(|error| CarrierError::Unreachable(error.to_string()))?;
        let sent = tokio::time::timeout(HEAD_WITHIN, self.client.request(request.map(Full::new))).await;
        match sent {
            Ok(Ok(response)) => Ok(response.map(Body::new)),
            Ok(Err(error)) => Err(CarrierError::Unreachable(chain(&error))),
            Err(_) => Err(CarrierError::Timeout(HEAD_WITHIN)),
        }
    }

    /// Forgets where a name leads: a request to it failed.
    pub fn forget(&self, name: &ServerName) {
        self.delegations.failed(name);
    }
}

impl std::fmt::Debug for TlsCarrier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TlsCarrier")
    }
}

/// An error and what caused it, in one line: "client error (Connect)" alone helps nobody.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text.chars().take(ERROR_CHARS_MAX).collect()
}

/// How long a connection that nobody uses stays open.
const IDLE: Duration = Duration::from_secs(60);
/// Idle connections to one host; with HTTP/2 one is enough.
const IDLE_PER_HOST_MAX: usize = 4;
/// The head of an answer, which another server writes.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// From the request to the head of its answer. Joins of large rooms take long; whoever asks has a shorter limit.
const HEAD_WITHIN: Duration = Duration::from_secs(180);
/// An HTTP/2 connection with open requests is asked for a sign of life this often.
const PING_EVERY: Duration = Duration::from_secs(20);
/// How long it may take to give one.
const PING_WITHIN: Duration = Duration::from_secs(20);
const ERROR_CHARS_MAX: usize = 300;
