//! The carrier against servers on loopback with certificates of their own authority: names, protocols, delegation,
//! redirects, private addresses.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use axum::{Router, body::Body, extract::Request};
use http_body_util::BodyExt as _;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
    service::TowerToHyperService,
};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use ruma::ServerName;
use rustls::{ClientConfig, RootCertStore, ServerConfig, crypto::ring};
use rustls_pki_types::PrivateKeyDer;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::{TlsCarrier, dns::Dns};
use crate::remote::CarrierError;

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    client: Arc<ClientConfig>,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let cert = params.self_signed(&key).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(cert.der().clone()).unwrap();
        let mut client = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        client.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Self { issuer: Issuer::new(params, key), client: Arc::new(client) }
    }

    /// A server with a certificate for `name` that answers every request by what `answer` says.
    async fn serve(
        &self,
        name: &str,
        alpn: &[&[u8]],
        answer: fn(&Request) -> http::Response<Body>,
    ) -> Served {
        let key = KeyPair::generate().unwrap();
        let cert = CertificateParams::new([name.to_owned()]).unwrap().signed_by(&key, &self.issuer).unwrap();
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![cert.der().clone()], PrivateKeyDer::try_from(key.serialize_der()).unwrap())
            .unwrap();
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen: Arc<Mutex<Vec<String>>> = Arc::default();
        let log = Arc::clone(&seen);
        let service = Router::new().fallback(move |request: Request| {
            let host = request
                .uri()
                .authority()
                .map(ToString::to_string)
                .or_else(|| Some(request.headers().get("host")?.to_str().ok()?.to_owned()));
            let line =
                format!("{:?} {} {}", request.version(), host.unwrap_or_default(), request.uri().path());
            log.lock().unwrap().push(line);
            let response = answer(&request);
            async move { response }
        });
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, service) = (acceptor.clone(), service.clone());
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let builder = auto::Builder::new(TokioExecutor::new());
                    let _ = builder
                        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service))
                        .await;
                });
            }
        });
        Served { address, seen }
    }
}

struct Served {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Served {
    fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }
}

fn hello(_: &Request) -> http::Response<Body> {
    http::Response::new(Body::from("hello"))
}

const BOTH: &[&[u8]] = &[b"h2", b"http/1.1"];

async fn ask(carrier: &TlsCarrier, name: &str) -> Result<String, CarrierError> {
    let name = ServerName::parse(name).unwrap();
    let request =
        http::Request::get(format!("https://{name}/_matrix/key/v2/server")).body(bytes::Bytes::new());
    let response = carrier.request(&name, request.unwrap()).await?;
    let body = response.into_body().collect().await.unwrap().to_bytes();
    Ok(String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test]
async fn http2_where_there_is_http2_and_one_connection_for_many_requests() {
    let authority = Authority::new();
    let served = authority.serve("a.example.org", BOTH, hello).await;
    let dns = Dns::fixed(true, &[("a.example.org", served.address)]);
    let carrier = TlsCarrier::over(dns, Arc::clone(&authority.client));
    for _ in 0..3 {
        assert_eq!(ask(&carrier, "a.example.org:8448").await.unwrap(), "hello");
    }
    assert_eq!(served.seen(), vec!["HTTP/2.0 a.example.org:8448 /_matrix/key/v2/server"; 3]);
}

#[tokio::test]
async fn http1_where_there_is_no_more() {
    let authority = Authority::new();
    let served = authority.serve("127.0.0.1", &[], hello).await;
    let carrier = TlsCarrier::over(Dns::fixed(true, &[]), Arc::clone(&authority.client));
    assert_eq!(ask(&carrier, &served.address.to_string()).await.unwrap(), "hello");
    assert_eq!(served.seen(), [format!("HTTP/1.1 {} /_matrix/key/v2/server", served.address)]);
}

#[tokio::test]
async fn a_certificate_for_another_name_or_of_another_authority_is_refused() {
    let authority = Authority::new();
    let served = authority.serve("b.example.org", BOTH, hello).await;
    let dns = Dns::fixed(true, &[("a.example.org", served.address), ("b.example.org", served.address)]);
    let carrier = TlsCarrier::over(dns.clone(), Arc::clone(&authority.client));
    let error = ask(&carrier, "a.example.org:1").await.unwrap_err().to_string();
    assert!(error.contains("TLS"), "{error}");
    assert!(ask(&carrier, "b.example.org:1").await.is_ok());
    let stranger = TlsCarrier::over(dns, Authority::new().client);
    assert!(ask(&stranger, "b.example.org:1").await.is_err());
    assert_eq!(served.seen().len(), 1);
}

#[tokio::test]
async fn a_private_address_is_refused_by_name_and_as_literal() {
    let authority = Authority::new();
    let served = authority.serve("a.example.org", BOTH, hello).await;
    let dns = Dns::fixed(false, &[("a.example.org", served.address)]);
    let carrier = TlsCarrier::over(dns, Arc::clone(&authority.client));
    for name in ["a.example.org:1", &served.address.to_string(), "a.example.org"] {
        let error = ask(&carrier, name).await.unwrap_err().to_string();
        assert!(error.contains("private"), "{name}: {error}");
    }
    assert!(served.seen().is_empty());
}

#[tokio::test]
async fn a_host_delegates_and_its_delegate_proves_its_own_name() {
    let authority = Authority::new();
    let web = authority
        .serve("example.org", BOTH, |request| match request.uri().path() {
            "/.well-known/matrix/server" => http::Response::builder()
                .status(302)
                .header("location", "/moved")
                .body(Body::empty())
                .unwrap(),
            "/moved" => http::Response::new(Body::from("{\"m.server\": \"matrix.example.org:443\"}")),
            _ => http::Response::builder().status(404).body(Body::empty()).unwrap(),
        })
        .await;
    let matrix = authority.serve("matrix.example.org", BOTH, hello).await;
    let dns = Dns::fixed(true, &[("example.org", web.address), ("matrix.example.org", matrix.address)]);
    let carrier = TlsCarrier::over(dns, Arc::clone(&authority.client));
    assert_eq!(ask(&carrier, "example.org").await.unwrap(), "hello");
    assert_eq!(ask(&carrier, "example.org").await.unwrap(), "hello");
    assert_eq!(web.seen().len(), 2, "the delegation is remembered: {:?}", web.seen());
    assert!(
        matrix.seen().iter().all(|line| line.contains(" matrix.example.org:443 ")),
        "{:?}",
        matrix.seen()
    );
}

#[tokio::test]
async fn a_host_that_delegates_to_nobody_is_asked_itself() {
    let authority = Authority::new();
    let served = authority
        .serve("example.org", BOTH, |request| match request.uri().path() {
            "/.well-known/matrix/server" => http::Response::new(Body::from("<html>not found</html>")),
            _ => http::Response::new(Body::from("itself")),
        })
        .await;
    let dns = Dns::fixed(true, &[("example.org", served.address)]);
    let carrier = TlsCarrier::over(dns, Arc::clone(&authority.client));
    assert_eq!(ask(&carrier, "example.org").await.unwrap(), "itself");
}

#[tokio::test]
async fn redirects_end_and_lead_to_no_other_scheme() {
    let authority = Authority::new();
    let web = authority
        .serve("example.org", BOTH, |request| match request.uri().path() {
            "/_matrix/key/v2/server" => http::Response::new(Body::from("itself")),
            _ => http::Response::builder()
                .status(301)
                .header("location", "/.well-known/matrix/server")
                .body(Body::empty())
                .unwrap(),
        })
        .await;
    let dns = Dns::fixed(true, &[("example.org", web.address)]);
    let carrier = TlsCarrier::over(dns, Arc::clone(&authority.client));
    assert_eq!(ask(&carrier, "example.org").await.unwrap(), "itself");
    assert_eq!(web.seen().len(), 7, "six looks and one request: {:?}", web.seen());
}
