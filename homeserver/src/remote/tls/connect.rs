//! One connection: resolve, connect, prove the other side's name.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http::Uri;
use rustls::ClientConfig;

use super::{
    super::dial::{DialError, Stream, dial},
    dns::{Dns, DnsError},
    route::Step,
};

/// Connects to the authority of a URI, by the rules of the server-server API or, for `/.well-known`, of the web.
#[derive(Clone)]
pub(super) struct Connector {
    dns: Dns,
    tls: Arc<ClientConfig>,
    web: bool,
}

impl Connector {
    pub(super) fn new(dns: Dns, tls: Arc<ClientConfig>) -> Self {
        Self { dns, tls, web: false }
    }

    /// The same for web servers: port 443, no SRV records.
    pub(super) fn for_web(&self) -> Self {
        Self { web: true, ..self.clone() }
    }

    async fn connect(self, uri: Uri) -> Result<Stream, ConnectError> {
        if uri.scheme_str() != Some("https") {
            return Err(ConnectError::Scheme);
        }
        let authority = uri.authority().ok_or(ConnectError::Authority)?.as_str();
        let step = Step::of(authority).ok_or(ConnectError::Authority)?;
        let name = step.certificate_name().ok_or(ConnectError::Authority)?;
        let addresses = if self.web { self.dns.web(&step).await? } else { self.dns.addresses(&step).await? };
        Ok(dial(&addresses, Some((self.tls, name))).await?)
    }
}

impl tower::Service<Uri> for Connector {
    type Response = Stream;
    type Error = ConnectError;
    type Future = Pin<Box<dyn Future<Output = Result<Stream, ConnectError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        Box::pin(self.clone().connect(uri))
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectError {
    #[error("only https is spoken")]
    Scheme,
    #[error("its address cannot be read")]
    Authority,
    #[error(transparent)]
    Dns(#[from] DnsError),
    #[error(transparent)]
    Dial(#[from] DialError),
}
