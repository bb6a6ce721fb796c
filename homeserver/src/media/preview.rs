//! Previews of links: a page is fetched, read in a process of its own, its picture kept as a medium that nobody owns.
//!
//! Off unless the operator wants it: whoever may ask for a preview makes the node ask addresses of their choice, and says by
//! it what is talked about. Names are looked up here, and only public addresses are connected to, at each redirect anew.

use std::{
    collections::HashMap,
    io::Cursor,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, header};
use ruma::OwnedMxcUri;
use serde_json::{Map, Value, json};
use tokio::sync::Semaphore;
use url::Url;

use super::{Media, MediaError, contain, upload::check_metadata};
use crate::{
    clock::Clock,
    remote::outside::Outside,
    store::{WriteTx, schema, schema::media::MediaRow},
    user::token,
};

/// Makes previews.
#[derive(Clone)]
pub struct Previews {
    media: Media,
    outside: Outside,
    clock: Clock,
    turns: Arc<Semaphore>,
    known: Arc<Mutex<HashMap<String, Known>>>,
}

/// A preview under way or made: those who ask for one meanwhile wait for it.
type Known = Arc<tokio::sync::OnceCell<(u64, Arc<Map<String, Value>>)>>;

/// Why there is no preview.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PreviewError {
    /// Not an address of the web.
    #[error("previews are made of http and https addresses")]
    BadAddress,
    /// Too many at once.
    #[error("too many previews at once; try again in a moment")]
    Busy,
    /// The page did not come.
    #[error("the page could not be fetched: {0}")]
    Unreachable(String),
    /// Its picture could not be kept.
    #[error(transparent)]
    Media(#[from] MediaError),
}

impl Previews {
    /// `private`: also of pages inside the network that the node stands in (for tests).
    pub fn new(media: Media, clock: Clock, private: bool) -> Self {
        Self {
            media,
            outside: Outside::for_pages(private),
            clock,
            turns: Arc::new(Semaphore::new(AT_ONCE)),
            known: Arc::default(),
        }
    }

    /// What a page says of itself, with its picture as one of our media.
    pub async fn preview(
        &self,
        address: &str,
        language: Option<&str>,
    ) -> Result<Arc<Map<String, Value>>, PreviewError> {
        let url = checked(address)?;
        let now = self.clock.now_ms();
        let cell = {
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            let fresh = |cell: &Known| match cell.get() {
                Some((until, _)) => *until > now,
                // Under way, or failed and nobody's any more.
                None => Arc::strong_count(cell) > 1,
            };
            if known.get(url.as_str()).is_some_and(|cell| !fresh(cell)) || known.len() >= KNOWN_MAX {
                known.retain(|_, cell| fresh(cell));
                if known.len() >= KNOWN_MAX {
                    known.clear();
                }
            }
            Arc::clone(known.entry(url.to_string()).or_default())
        };
        let made = cell.get_or_try_init(|| async {
            let _turn = tokio::time::timeout(TURN_WITHIN, self.turns.acquire())
                .await
                .ok()
                .and_then(Result::ok)
                .ok_or(PreviewError::Busy)?;
            let told = self.make(url.clone(), language).await?;
            Ok::<_, PreviewError>((self.clock.now_ms() + KEPT_MS, Arc::new(told)))
        });
        Ok(Arc::clone(&made.await?.1))
    }

    async fn make(&self, url: Url, language: Option<&str>) -> Result<Map<String, Value>, PreviewError> {
        let (url, page, _) =
            self.fetch(url, "text/html, image/*;q=0.8, */*;q=0.5", language, PAGE_BYTES_MAX).await?;
        let kind = kind_of(&page);
        if kind.starts_with("image/") {
            // It may be longer than a page; what has come is there already, but a picture is wanted whole.
            let mut told = Map::new();
            self.add_picture(&mut told, url, language).await?;
            return Ok(told);
        }
        if !matches!(&*kind, "text/html" | "application/xhtml+xml" | "") {
            return Ok(Map::new());
        }
        let read =
            contain::read_page(self.media.program.as_deref(), page.into_body().to_vec(), url.to_string());
        let mut told: Map<String, Value> = match read.await {
            Ok(json) => serde_json::from_slice(&json).unwrap_or_default(),
            // A page that cannot be read says nothing.
            Err(MediaError::NoThumbnail) => Map::new(),
            Err(error) => return Err(error.into()),
        };
        told.entry("og:url").or_insert_with(|| url.as_str().into());
        if let Some(Value::String(picture)) = told.remove("og:image")
            && let Ok(picture) = url.join(&picture)
            && checked(picture.as_str()).is_ok()
            && let Err(error) = self.add_picture(&mut told, picture, language).await
        {
            tracing::debug!(%error, "a page's picture was left out of its preview");
        }
        Ok(told)
    }

    async fn add_picture(
        &self,
        told: &mut Map<String, Value>,
        url: Url,
        language: Option<&str>,
    ) -> Result<(), PreviewError> {
        let limit =
            usize::try_from(self.media.limits.file_bytes_max).unwrap_or(usize::MAX).min(PICTURE_BYTES_MAX);
        let (url, answer, whole) = self.fetch(url, "image/*", language, limit).await?;
        let kind = kind_of(&answer);
        let bytes = answer.into_body();
        // Only its head is looked at here.
        let size = image::ImageReader::new(Cursor::new(&bytes[..]))
            .with_guessed_format()
            .ok()
            .filter(|reader| reader.format().is_some())
            .and_then(|reader| reader.into_dimensions().ok());
        let (Some((width, height)), true) = (size, whole) else {
            return Err(PreviewError::Unreachable("the picture is none, or too large".into()));
        };
        let name = url.path_segments().and_then(|mut parts| parts.next_back()).map(ToOwned::to_owned);
        let length = bytes.len();
        let uri = self.media.keep(&bytes, &kind, name.filter(|name| !name.is_empty())).await?;
        for (field, value) in [
            ("og:image", json!(uri)),
            ("og:image:type", json!(kind)),
            ("og:image:width", json!(width)),
            ("og:image:height", json!(height)),
            ("matrix:image:size", json!(length)),
        ] {
            told.insert(field.into(), value);
        }
        Ok(())
    }

    /// Fetches the start of something, following a few redirects: where it was in the end, the answer, whether it is whole.
    async fn fetch(
        &self,
        mut url: Url,
        accept: &str,
        language: Option<&str>,
        limit: usize,
    ) -> Result<(Url, Response<Bytes>, bool), PreviewError> {
        let failed = |text: String| PreviewError::Unreachable(text);
        for _ in 0..=REDIRECTS_MAX {
            let mut request = Request::get(url.as_str()).header(header::ACCEPT, accept).header(
                header::USER_AGENT,
                concat!("mangrove/", env!("CARGO_PKG_VERSION"), " (link preview; bot)"),
            );
            if let Some(language) = language.filter(|text| text.len() <= LANGUAGE_BYTES_MAX) {
                request = request.header(header::ACCEPT_LANGUAGE, language);
            }
            let request = request.body(Bytes::new()).map_err(|error| failed(error.to_string()))?;
            let (answer, whole) = self
                .outside
                .send_for_start(request, limit, FETCH_WITHIN)
                .await
                .map_err(|error| failed(error.to_string()))?;
            if answer.status().is_redirection()
                && let Some(to) = answer.headers().get(header::LOCATION).and_then(|to| to.to_str().ok())
            {
                let to = url.join(to).map_err(|error| failed(error.to_string()))?;
                url = checked(to.as_str())?;
                continue;
            }
            if !answer.status().is_success() {
                return Err(failed(format!("status {}", answer.status())));
            }
            return Ok((url, answer, whole));
        }
        Err(failed("too many redirects".into()))
    }
}

impl Media {
    /// Keeps a file that nobody owns: it goes when it was not asked for the longest, as others' files do.
    async fn keep(&self, bytes: &[u8], kind: &str, name: Option<String>) -> Result<OwnedMxcUri, MediaError> {
        self.make_room(bytes.len() as u64).await?;
        let mut writing = self.files.begin().await?;
        writing.write(bytes).await?;
        let _no_sweep = self.shared.sweeping.read().await;
        let (hash, size) = self.files.finish(writing).await?;
        let (id, now) = (token::random(), self.clock.now_ms());
        let fits = check_metadata(Some(kind), name.as_deref()).is_ok();
        let row = MediaRow {
            hash: Some(hash),
            content_type: fits.then(|| kind.to_owned()),
            name: name.filter(|_| fits),
            owner: None,
            made_ms: now,
            used_ms: now,
            quarantined: false,
        };
        let uri = self.uri(&id);
        self.store
            .write(move |tx: &mut WriteTx<'_>| {
                schema::media::put_blob(tx, &hash, size)?;
                schema::media::put(tx, schema::media::OURS, &id, &row)
            })
            .await?;
        Ok(uri)
    }
}

/// An address that may be fetched, without its fragment.
fn checked(address: &str) -> Result<Url, PreviewError> {
    if address.len() > ADDRESS_BYTES_MAX {
        return Err(PreviewError::BadAddress);
    }
    let mut url = Url::parse(address.trim()).map_err(|_| PreviewError::BadAddress)?;
    let fits = matches!(url.scheme(), "http" | "https")
        && url.host().is_some()
        && url.username().is_empty()
        && url.password().is_none();
    url.set_fragment(None);
    if fits { Ok(url) } else { Err(PreviewError::BadAddress) }
}

fn kind_of(answer: &Response<Bytes>) -> String {
    let kind =
        answer.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// Previews made at once.
const AT_ONCE: usize = 8;
/// How long one waits for its turn.
const TURN_WITHIN: Duration = Duration::from_secs(10);
const FETCH_WITHIN: Duration = Duration::from_secs(10);
const REDIRECTS_MAX: usize = 5;
/// What matters stands in a page's head.
const PAGE_BYTES_MAX: usize = 512 << 10;
const PICTURE_BYTES_MAX: usize = 10 << 20;
const ADDRESS_BYTES_MAX: usize = 2_048;
const LANGUAGE_BYTES_MAX: usize = 256;
/// Previews remembered, some kilobytes each, and for how long.
const KNOWN_MAX: usize = 500;
const KEPT_MS: u64 = 3_600_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for good in ["http://x.org", "https://x.org/a?b#c", " https://[2001:db8::1]:8443/ "] {
            assert!(checked(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "x.org",
            "ftp://x.org/",
            "file:///etc/passwd",
            "http://me:secret@x.org/",
            "javascript:alert(1)",
        ] {
            assert!(checked(bad).is_err(), "{bad}");
        }
        assert_eq!(checked("https://x.org/a#b").unwrap().as_str(), "https://x.org/a");
    }
}
