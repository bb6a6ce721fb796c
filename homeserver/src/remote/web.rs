//! Plain requests to services that the operator has configured: a captcha's, an outside identity provider. Trusted by
//! being configured; what a stranger names must never come here.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Method, Request, Uri, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore, crypto::ring};
use rustls_pki_types::ServerName;
use tokio::{net::TcpStream, sync::OnceCell};
use tokio_rustls::TlsConnector;

/// Asks configured services. A connection for each request: they are few.
#[derive(Clone, Debug, Default)]
pub struct Web {
    tls: Arc<OnceCell<Arc<ClientConfig>>>,
}

impl Web {
    /// `GET`, expecting a body of at most [`BODY_BYTES_MAX`].
    pub async fn get(&self, url: &str, bearer: Option<&str>) -> Result<Bytes, String> {
        let mut request = Request::builder().method(Method::GET);
        if let Some(token) = bearer {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        self.ask(url, request, Bytes::new()).await
    }

    /// `POST` of a form.
    pub async fn post_form(&self, url: &str, form: &[(&str, &str)]) -> Result<Bytes, String> {
        let request = Request::builder()
            .method(Method::POST)
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
        self.ask(url, request, encode_form(form).into()).await
    }

    async fn ask(&self, url: &str, request: http::request::Builder, body: Bytes) -> Result<Bytes, String> {
        tokio::time::timeout(ANSWER_WITHIN, self.ask_now(url, request, body))
            .await
            .map_err(|_| format!("{url}: no answer in {} s", ANSWER_WITHIN.as_secs()))?
            .map_err(|error| format!("{url}: {error}"))
    }

    async fn ask_now(
        &self,
        url: &str,
        request: http::request::Builder,
        body: Bytes,
    ) -> Result<Bytes, String> {
        let uri: Uri = url.parse().map_err(|error: http::uri::InvalidUri| error.to_string())?;
        let authority = uri.authority().ok_or("not a whole URL")?;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let secure = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err("neither http nor https".into()),
        };
        let port = authority.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let request = request
            .uri(path)
            .header(header::HOST, authority.as_str())
            .header(header::ACCEPT, "application/json")
            .header(header::USER_AGENT, concat!("mangrove/", env!("CARGO_PKG_VERSION")))
            .body(Full::new(body))
            .map_err(|error| error.to_string())?;
        let stream = TcpStream::connect((host.as_str(), port)).await.map_err(|error| error.to_string())?;
        if !secure {
            return exchange(TokioIo::new(stream), request).await;
        }
        let tls = self.tls.get_or_init(|| async { client_config() }).await;
        let name = ServerName::try_from(host).map_err(|error| error.to_string())?;
        let stream = TlsConnector::from(Arc::clone(tls))
            .connect(name, stream)
            .await
            .map_err(|error| error.to_string())?;
        exchange(TokioIo::new(stream), request).await
    }
}

async fn exchange<I>(io: I, request: Request<Full<Bytes>>) -> Result<Bytes, String>
where
    I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(io).await.map_err(|error| error.to_string())?;
    let driver = tokio::spawn(connection);
    let answer = async {
        let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
        let status = response.status();
        let body = Limited::new(response.into_body(), BODY_BYTES_MAX)
            .collect()
            .await
            .map_err(|error| error.to_string())?
            .to_bytes();
        if status.is_success() {
            Ok(body)
        } else {
            let start: String = String::from_utf8_lossy(&body).chars().take(200).collect();
            Err(format!("status {status}: {start}"))
        }
    }
    .await;
    driver.abort();
    answer
}

fn client_config() -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring has the ciphers of TLS 1.2 and 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Arc::new(config)
}

/// A form's pairs as `application/x-www-form-urlencoded`.
pub fn encode_form(form: &[(&str, &str)]) -> String {
    use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
    form.iter()
        .map(|(name, value)| {
            format!(
                "{}={}",
                utf8_percent_encode(name, NON_ALPHANUMERIC),
                utf8_percent_encode(value, NON_ALPHANUMERIC)
            )
        })
        .collect::<Vec<_>>()
        .join("&")
}

/// Key sets and metadata are far below it.
const BODY_BYTES_MAX: usize = 1 << 20;
const ANSWER_WITHIN: Duration = Duration::from_secs(15);
