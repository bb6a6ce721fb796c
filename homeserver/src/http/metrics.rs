//! What the node counts of itself, for Prometheus, on a listener of its own.
//!
//! | metric | labels | what |
//! |---|---|---|
//! | `mangrove_http_requests_total` | method, path (template), status | requests answered |
//! | `mangrove_http_request_seconds` | path (template) | how long they took; long polls count their wait |
//! | `mangrove_position` | | place in the one order of commits |
//! | `mangrove_users`, `mangrove_rooms` | | accounts and rooms known |
//! | `mangrove_destinations_behind` | | servers that have not got everything yet |
//! | `mangrove_memory_bytes` | | resident memory |

use std::{sync::Arc, time::Duration};

use axum::{Router, routing::get};
use http::{HeaderValue, StatusCode, header};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};

use super::reply::{self, Reply};
use crate::{server::Server, user::Page};

/// Begins to count. In one process once: a second call (tests) gives nothing.
pub fn begin() -> Option<PrometheusHandle> {
    let builder = PrometheusBuilder::new().set_buckets(&BUCKETS_S).ok()?;
    builder.install_recorder().ok()
}

/// `GET /metrics`.
pub fn service(server: Arc<Server>, handle: PrometheusHandle) -> Router {
    Router::new()
        .route(
            "/metrics",
            get(move || {
                let (server, handle) = (Arc::clone(&server), handle.clone());
                async move { answer(&server, &handle).await }
            }),
        )
        .fallback(|| async { reply::json(StatusCode::NOT_FOUND, "{}") })
}

async fn answer(server: &Server, handle: &PrometheusHandle) -> Reply {
    metrics::gauge!("mangrove_position").set(server.store.position().0 as f64);
    let one = Page { limit: 1, deactivated: true, guests: true, ..Page::default() };
    if let Ok((_, users)) = server.users.admin_list(one.clone()).await {
        metrics::gauge!("mangrove_users").set(users as f64);
    }
    if let Ok((_, rooms)) = server.rooms.admin_list(one).await {
        metrics::gauge!("mangrove_rooms").set(rooms as f64);
    }
    if let Ok(behind) = server.users.servers_behind().await {
        metrics::gauge!("mangrove_destinations_behind").set(behind.len() as f64);
    }
    if let Some(bytes) = resident_bytes() {
        metrics::gauge!("mangrove_memory_bytes").set(bytes as f64);
    }
    handle.run_upkeep();
    let mut reply = reply::json(StatusCode::OK, handle.render());
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    reply.headers_mut().insert(header::CONTENT_TYPE, kind);
    reply
}

/// Counts one request that was answered.
pub(crate) fn answered(method: &http::Method, path: &'static str, status: StatusCode, took: Duration) {
    let labels = [
        ("method", method.as_str().to_owned()),
        ("path", path.to_owned()),
        ("status", status.as_str().to_owned()),
    ];
    metrics::counter!("mangrove_http_requests_total", &labels).increment(1);
    metrics::histogram!("mangrove_http_request_seconds", "path" => path).record(took.as_secs_f64());
}

fn resident_bytes() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * PAGE_BYTES)
}

/// Linux on every processor that this runs on.
const PAGE_BYTES: u64 = 4_096;
const BUCKETS_S: [f64; 11] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0];
