//! Requests to web addresses that users name (push gateways, push services), and to application services.
//!
//! (What the operator alone configures is asked through `web.rs`.)
//!
//! Whoever may make the node ask an address of their choice must not reach into the network it stands in: unless private
//! addresses are allowed, names are looked up here and only public addresses are connected to. Redirects are not followed.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;

use super::{
    dial::{Stream, dial},
    tls::is_public,
};

/// Name, connection and handshake together.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// Idle connections that are kept for each address.
const IDLE_MAX: usize = 2;
const IDLE_WITHIN: Duration = Duration::from_secs(60);

/// An HTTP client. Clones share its connections.
#[derive(Clone)]
pub struct Outside {
    client: Client<Connector, Full<Bytes>>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct OutsideError(String);

impl OutsideError {
    /// With a text.
    pub(crate) fn new(text: String) -> Self {
        Self(text)
    }
}

impl Outside {
    /// `private`: also to addresses inside the network that the node stands in, and without TLS.
    pub fn new(private: bool) -> Self {
        Self::with(Connector { private, plain: private, tls: Arc::default() })
    }

    /// For pages of the web: also without TLS. `private`: also inside the network that the node stands in.
    pub fn for_pages(private: bool) -> Self {
        Self::with(Connector { private, plain: true, tls: Arc::default() })
    }

    fn with(connector: Connector) -> Self {
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(hyper_util::rt::TokioTimer::new())
            .pool_max_idle_per_host(IDLE_MAX)
            .pool_idle_timeout(IDLE_WITHIN)
            .build(connector);
        Self { client }
    }

    /// Sends a request and reads the first `limit` bytes of the answer, all within `within`; whether that is all of it.
    pub async fn send_for_start(
        &self,
        request: Request<Bytes>,
        limit: usize,
        within: Duration,
    ) -> Result<(Response<Bytes>, bool), OutsideError> {
        let answer = async {
            let response = self
                .client
                .request(request.map(Full::new))
                .await
                .map_err(|error| OutsideError(describe(&error)))?;
            let (head, mut body) = response.into_parts();
            let (mut start, mut whole) = (Vec::new(), true);
            while let Some(frame) = body.frame().await {
                let frame = frame.map_err(|error| OutsideError(describe(&error)))?;
                if let Ok(data) = frame.into_data() {
                    let room = limit - start.len();
                    start.extend_from_slice(&data[..data.len().min(room)]);
                    if data.len() > room {
                        whole = false;
                        break;
                    }
                }
            }
            Ok((Response::from_parts(head, start.into()), whole))
        };
        tokio::time::timeout(within, answer).await.map_err(|_| OutsideError("no answer in time".into()))?
    }

    /// Sends a request and reads an answer of at most `limit` bytes, all within `within`.
    pub async fn send(
        &self,
        request: Request<Bytes>,
        limit: usize,
        within: Duration,
    ) -> Result<Response<Bytes>, OutsideError> {
        let answer = async {
            let response = self
                .client
                .request(request.map(Full::new))
                .await
                .map_err(|error| OutsideError(describe(&error)))?;
            let (head, body) = response.into_parts();
            let body =
                Limited::new(body, limit).collect().await.map_err(|error| OutsideError(error.to_string()))?;
            Ok(Response::from_parts(head, body.to_bytes()))
        };
        tokio::time::timeout(within, answer).await.map_err(|_| OutsideError("no answer in time".into()))?
    }
}

/// An error with its causes, in one line.
fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}

impl super::Remote {
    /// For files to which other servers point: private addresses only where other servers may have some, too.
    pub(crate) fn files_outside(&self) -> &Outside {
        let private = || self.inner.tls.as_ref().is_some_and(super::tls::TlsCarrier::allows_private);
        self.inner.files.get_or_init(|| Outside::new(private()))
    }

    /// For tests, whose file stores stand on this machine; before the first file.
    #[cfg(test)]
    pub(crate) fn allow_private_files(&self) {
        assert!(self.inner.files.set(Outside::new(true)).is_ok(), "files have been fetched already");
    }
}

#[derive(Clone)]
struct Connector {
    private: bool,
    plain: bool,
    /// Made when it is first needed: most nodes ask nobody.
    tls: Arc<OnceLock<Arc<ClientConfig>>>,
}

impl Connector {
    async fn connect(self, uri: Uri) -> Result<Stream, io::Error> {
        let wrong = |text: &str| io::Error::new(io::ErrorKind::InvalidInput, text.to_owned());
        let host = uri.host().ok_or_else(|| wrong("the address names no host"))?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") if self.plain => false,
            _ => return Err(wrong("only https is asked")),
        };
        let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
        let connecting = async {
            let mut addresses: Vec<SocketAddr> = tokio::net::lookup_host((host, port)).await?.collect();
            if !self.private {
                addresses.retain(|address| is_public(address.ip()));
            }
            if addresses.is_empty() {
                return Err(wrong("the name leads to no public address"));
            }
            let proof = if tls {
                let name = ServerName::try_from(host.to_owned()).map_err(|_| wrong("the name is none"))?;
                Some((self.config(), name))
            } else {
                None
            };
            dial(&addresses, proof).await.map_err(io::Error::other)
        };
        tokio::time::timeout(CONNECT_WITHIN, connecting)
            .await
            .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "nothing answers there"))?
    }

    fn config(&self) -> Arc<ClientConfig> {
        let make = || super::tls::client_config(&[]).unwrap_or_else(|_| unreachable!("no file is named"));
        self.tls.get_or_init(make).clone()
    }
}

impl tower::Service<Uri> for Connector {
    type Response = Stream;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Stream, io::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), io::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        Box::pin(self.clone().connect(uri))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn nobody_reaches_into_the_own_network() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        for uri in [
            format!("https://127.0.0.1:{port}/"),
            format!("https://localhost:{port}/"),
            format!("http://127.0.0.1:{port}/"),
        ] {
            let request = Request::get(&uri).body(Bytes::new()).unwrap();
            for outside in [Outside::new(false), Outside::for_pages(false)] {
                let answer = outside.send(request.clone(), 100, Duration::from_secs(5)).await;
                assert!(answer.is_err(), "{uri}");
            }
        }
    }
}
