//! `/.well-known/matrix/server`: where a host says its Matrix server is, with the specification's caching rules.
//!
//! spec: <https://spec.matrix.org/v1.19/server-server-api/#resolving-server-names>, step 3

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use http::{HeaderMap, Uri, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::client::legacy::Client;
use ruma::{OwnedServerName, ServerName};

use super::{connect::Connector, route::Step};

/// Remembers what hosts delegate to.
pub(super) struct Delegations {
    client: Client<Connector, Full<Bytes>>,
    known: Mutex<HashMap<OwnedServerName, Arc<Place>>>,
}

/// One host; whoever comes while it is asked waits for that answer.
#[derive(Default)]
struct Place {
    answer: tokio::sync::Mutex<Option<Answer>>,
}

#[derive(Clone, Debug)]
struct Answer {
    /// `None`: it delegates to nobody.
    delegate: Option<String>,
    fetched: Instant,
    until: Instant,
}

impl Delegations {
    pub(super) fn new(client: Client<Connector, Full<Bytes>>) -> Self {
        Self { client, known: Mutex::default() }
    }

    /// The host, and port if one is named, that stands in the requests to a server.
    pub(super) async fn authority_of(&self, name: &ServerName) -> String {
        if !Step::of(name.as_str()).is_some_and(|step| step.may_delegate()) {
            return name.to_string();
        }
        let place = self.place(name);
        let mut answer = place.answer.lock().await;
        let now = Instant::now();
        let known = match &*answer {
            Some(known) if now < known.until => known.clone(),
            known => {
                let fresh = self.ask(name, known.as_ref()).await;
                *answer = Some(fresh.clone());
                fresh
            }
        };
        known.delegate.unwrap_or_else(|| name.to_string())
    }

    /// A request failed: if the answer is not very new, it is asked for again next time.
    pub(super) fn failed(&self, name: &ServerName) {
        let place = self.lock().get(name).cloned();
        if let Some(place) = place
            && let Ok(mut answer) = place.answer.try_lock()
            && let Some(known) = &mut *answer
            && known.fetched.elapsed() > FRESH_AT_LEAST
        {
            known.until = known.fetched;
        }
    }

    async fn ask(&self, name: &ServerName, known: Option<&Answer>) -> Answer {
        let now = Instant::now();
        let asked = tokio::time::timeout(ASK_WITHIN, self.fetch(name)).await;
        let outcome = asked.unwrap_or_else(|_| Err("no answer in time".into()));
        match outcome {
            Ok((delegate, keep)) => Answer { delegate: Some(delegate), fetched: now, until: now + keep },
            Err(reason) => {
                tracing::debug!(%name, reason, "no delegation");
                // An answer that was good an hour ago is better than a guess while the web server is down.
                match known.filter(|known| known.delegate.is_some() && known.fetched.elapsed() < KEEP_MAX) {
                    Some(known) => Answer { until: now + AGAIN_FAILED, ..known.clone() },
                    None => Answer { delegate: None, fetched: now, until: now + ABSENT },
                }
            }
        }
    }

    async fn fetch(&self, name: &ServerName) -> Result<(String, Duration), String> {
        let host = name.host();
        let mut uri: Uri = format!("https://{host}/.well-known/matrix/server")
            .parse()
            .map_err(|_| "the name makes no address".to_owned())?;
        for _ in 0..=REDIRECTS_MAX {
            let mut request = http::Request::new(Full::default());
            *request.uri_mut() = uri.clone();
            let response = self.client.request(request).await.map_err(|error| super::chain(&error))?;
            let (parts, body) = response.into_parts();
            if parts.status.is_redirection() {
                let location = parts.headers.get(header::LOCATION).and_then(|value| value.to_str().ok());
                uri = location.and_then(|to| target(&uri, to)).ok_or("it redirects to no https address")?;
                continue;
            }
            if parts.status != http::StatusCode::OK {
                return Err(format!("HTTP status {}", parts.status.as_u16()));
            }
            let body = Limited::new(body, DOCUMENT_BYTES_MAX).collect().await;
            let body = body.map_err(|error| error.to_string())?.to_bytes();
            let delegate = read(&body).ok_or("it holds no valid m.server")?;
            return Ok((delegate, keep(&parts.headers, SystemTime::now())));
        }
        Err("it redirects too often".into())
    }

    fn place(&self, name: &ServerName) -> Arc<Place> {
        let mut known = self.lock();
        if known.len() >= NAMES_MAX && !known.contains_key(name) {
            // Those nobody is asking now are forgotten; they are asked again when they are needed.
            known.retain(|_, place| Arc::strong_count(place) > 1);
        }
        Arc::clone(known.entry(name.to_owned()).or_default())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<OwnedServerName, Arc<Place>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads the document.
fn read(body: &[u8]) -> Option<String> {
    let json: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(body).ok()?;
    let server = json.get("m.server")?.as_str()?;
    Step::of(server)?;
    Some(server.to_owned())
}

/// Where a redirect leads: absolute https, or a path on the same host.
fn target(from: &Uri, location: &str) -> Option<Uri> {
    let to: Uri = location.parse().ok()?;
    match (to.scheme_str(), to.authority()) {
        (Some("https"), Some(_)) => Some(to),
        (None, None) => {
            let path = to.path_and_query()?.clone();
            path.as_str().starts_with('/').then_some(())?;
            Uri::builder()
                .scheme("https")
                .authority(from.authority()?.clone())
                .path_and_query(path)
                .build()
                .ok()
        }
        _ => None,
    }
}

/// How long a document is believed: what its headers say, between five minutes and two days; a day if they say nothing.
fn keep(headers: &HeaderMap, now: SystemTime) -> Duration {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let directives = text(header::CACHE_CONTROL).unwrap_or_default().to_ascii_lowercase();
    let mut said = None;
    for directive in directives.split(',').map(str::trim) {
        if directive == "no-store" || directive == "no-cache" {
            said = Some(Duration::ZERO);
            break;
        }
        if let Some(seconds) = directive.strip_prefix("max-age=").and_then(|age| age.parse().ok()) {
            said = Some(Duration::from_secs(seconds));
        }
    }
    let said = said.or_else(|| {
        let expires = httpdate::parse_http_date(text(header::EXPIRES)?).ok()?;
        Some(expires.duration_since(now).unwrap_or_default())
    });
    said.unwrap_or(KEEP_DEFAULT).clamp(FRESH_AT_LEAST, KEEP_MAX)
}

const KEEP_DEFAULT: Duration = Duration::from_secs(24 * 3600);
const KEEP_MAX: Duration = Duration::from_secs(48 * 3600);
const FRESH_AT_LEAST: Duration = Duration::from_secs(300);
/// How long "delegates to nobody" is believed; the specification allows an hour.
const ABSENT: Duration = Duration::from_secs(3600);
/// When a host that delegated before, and cannot be asked now, is asked again.
const AGAIN_FAILED: Duration = Duration::from_secs(600);
const ASK_WITHIN: Duration = Duration::from_secs(15);
const DOCUMENT_BYTES_MAX: usize = 50 << 10;
const REDIRECTS_MAX: usize = 5;
/// Hosts remembered; a stranger can make us ask for one per request that claims an origin.
const NAMES_MAX: usize = 4_096;

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn documents_and_redirects() {
        assert_eq!(
            read(br#"{"m.server": "matrix.example.org:443"}"#).as_deref(),
            Some("matrix.example.org:443")
        );
        for bad in [
            &b"[]"[..],
            b"{}",
            b"{\"m.server\": 1}",
            b"{\"m.server\": \"a/b\"}",
            b"<html>",
            b"[\"m.server\"]",
        ] {
            assert_eq!(read(bad), None);
        }
        let from: Uri = "https://example.org/.well-known/matrix/server".parse().unwrap();
        assert_eq!(target(&from, "/x").unwrap(), "https://example.org/x");
        assert_eq!(target(&from, "https://b.org/y").unwrap(), "https://b.org/y");
        for bad in ["http://b.org/", "ftp://b", "file:///etc/passwd", ""] {
            assert_eq!(target(&from, bad), None, "{bad}");
        }
    }

    #[test]
    fn caching_follows_the_headers_within_bounds() {
        let of = |name: header::HeaderName, value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, value.parse().unwrap());
            keep(&headers, SystemTime::UNIX_EPOCH).as_secs()
        };
        assert_eq!(keep(&HeaderMap::new(), SystemTime::UNIX_EPOCH), KEEP_DEFAULT);
        assert_eq!(of(header::CACHE_CONTROL, "public, max-age=3600"), 3600);
        assert_eq!(of(header::CACHE_CONTROL, "max-age=99999999999"), KEEP_MAX.as_secs());
        assert_eq!(of(header::CACHE_CONTROL, "no-store"), FRESH_AT_LEAST.as_secs());
        assert_eq!(of(header::EXPIRES, "Thu, 01 Jan 1970 01:00:00 GMT"), 3600);
        assert_eq!(of(header::EXPIRES, "0"), KEEP_DEFAULT.as_secs());
    }
}
