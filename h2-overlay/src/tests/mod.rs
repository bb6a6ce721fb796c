//! Whole overlays in one process, over a network in memory that loses, delays and cuts off as told.

mod floods;
mod lifecycle;
mod requests;

use std::{sync::Arc, time::Duration};

use axum::{
    Extension, Router,
    body::Body as AxumBody,
    extract::Path,
    routing::{get, post},
};
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Full;
use router::NodeId;
use tokio::task::JoinHandle;

use crate::{Caller, Class, Config, Error, Overlay, memory::Net};

/// No test waits longer for anything.
const PATIENCE: Duration = Duration::from_secs(20);

fn node(number: u8) -> NodeId {
    NodeId::from_bytes([number; 32])
}

/// A service with a bit of everything.
fn service() -> Router {
    Router::new()
        .route("/hello", get(|| async { "hello" }))
        .route("/caller", get(|Extension(Caller(node)): Extension<Caller>| async move { node.to_string() }))
        .route("/echo", post(|body: AxumBody| async move { body }))
        .route(
            "/bytes/{length}",
            get(|Path(length): Path<usize>| async move {
                let chunk = Bytes::from(vec![7; 64 * 1024]);
                let chunks = (0..length.div_ceil(chunk.len())).map(move |index| {
                    let size = chunk.len().min(length - index * chunk.len());
                    Ok::<_, std::io::Error>(chunk.slice(..size))
                });
                AxumBody::from_stream(futures_util::stream::iter(chunks))
            }),
        )
        .route("/never", get(std::future::pending::<StatusCode>))
}

struct Pair {
    net: Net,
    client: Overlay,
    server: Overlay,
    serving: JoinHandle<()>,
}

impl Pair {
    fn new() -> Self {
        Self::with(Config::default())
    }

    /// The limits count for the server.
    fn with(config: Config) -> Self {
        let net = Net::new();
        let server = net.overlay(node(2), config);
        let client = net.overlay(node(1), Config::default());
        let serving = serve(&server);
        Self { net, client, server, serving }
    }

    async fn get(&self, path: &str) -> Result<(StatusCode, Bytes), Error> {
        fetch(&self.client, node(2), Class::Interactive, path).await
    }
}

fn serve(overlay: &Overlay) -> JoinHandle<()> {
    let overlay = overlay.clone();
    tokio::spawn(async move { overlay.serve(service()).await })
}

fn get_request(path: &str) -> Request<Full<Bytes>> {
    Request::get(path).body(Full::default()).unwrap()
}

async fn fetch(from: &Overlay, to: NodeId, class: Class, path: &str) -> Result<(StatusCode, Bytes), Error> {
    within(async {
        let response = from.request(to, class, get_request(path)).await?;
        let status = response.status();
        Ok((status, response.into_body().bytes(usize::MAX).await?))
    })
    .await
}

async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work).await.expect("done in time")
}

/// Waits for something that has no event of its own.
async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !condition() {
        assert!(tokio::time::Instant::now() < deadline, "in vain: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A shared counter for services in tests.
type Count = Arc<std::sync::atomic::AtomicU32>;
