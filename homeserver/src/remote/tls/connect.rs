//! One connection: resolve, connect, prove the other side's name.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::Uri;
use hyper_util::{
    client::legacy::connect::{Connected, Connection},
    rt::TokioIo,
};
use rustls::ClientConfig;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{
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

    async fn connect(self, uri: Uri) -> Result<Secured, ConnectError> {
        if uri.scheme_str() != Some("https") {
            return Err(ConnectError::Scheme);
        }
        let authority = uri.authority().ok_or(ConnectError::Authority)?.as_str();
        let step = Step::of(authority).ok_or(ConnectError::Authority)?;
        let name = step.certificate_name().ok_or(ConnectError::Authority)?;
        let addresses = if self.web { self.dns.web(&step).await? } else { self.dns.addresses(&step).await? };
        let stream = first(addresses).await?;
        stream.set_nodelay(true)?;
        let handshake = TlsConnector::from(self.tls).connect(name, stream);
        let stream = tokio::time::timeout(HANDSHAKE_WITHIN, handshake)
            .await
            .map_err(|_| ConnectError::Timeout)?
            .map_err(ConnectError::Tls)?;
        Ok(Secured(TokioIo::new(Tls(stream))))
    }
}

/// The first address that answers.
async fn first(addresses: Vec<SocketAddr>) -> Result<TcpStream, ConnectError> {
    let mut last = ConnectError::Timeout;
    for address in addresses {
        match tokio::time::timeout(CONNECT_WITHIN, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => last = ConnectError::Io(error),
            Err(_) => last = ConnectError::Timeout,
        }
    }
    Err(last)
}

impl tower::Service<Uri> for Connector {
    type Response = Secured;
    type Error = ConnectError;
    type Future = Pin<Box<dyn Future<Output = Result<Secured, ConnectError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        Box::pin(self.clone().connect(uri))
    }
}

/// A TLS stream that says which HTTP it speaks.
pub(super) struct Secured(TokioIo<Tls>);

struct Tls(TlsStream<TcpStream>);

impl Connection for Secured {
    fn connected(&self) -> Connected {
        let h2 = self.0.inner().0.get_ref().1.alpn_protocol() == Some(b"h2");
        if h2 { Connected::new().negotiated_h2() } else { Connected::new() }
    }
}

impl hyper::rt::Read for Secured {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl hyper::rt::Write for Secured {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, bufs)
    }
}

impl AsyncRead for Tls {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // A server that closes without close_notify ended its answer all the same: HTTP has lengths of its own.
        match Pin::new(&mut self.0).poll_read(cx, buf) {
            Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => Poll::Ready(Ok(())),
            other => other,
        }
    }
}

impl AsyncWrite for Tls {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
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
    Io(#[from] io::Error),
    #[error("TLS: {0}")]
    Tls(io::Error),
    #[error("nothing answers there")]
    Timeout,
}

const CONNECT_WITHIN: Duration = Duration::from_secs(5);
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(10);
