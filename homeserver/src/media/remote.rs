//! Media of other servers: fetched once, kept while there is room.

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use ruma::{
    ServerName,
    api::federation::authenticated_media::{FileOrLocation, get_content},
    http_headers::ContentDisposition,
};
use tokio::sync::Mutex;

use super::{Media, MediaError, MediaKey, SWEEP_ROWS, upload::check_metadata};
use crate::{
    remote::{Options, Remote, RemoteError},
    store::{Kind, ReadTx, StoreError, WriteTx, schema, schema::media::MediaRow},
};

/// Gets a medium from the server that has it. The federation client does; tests bring their own.
pub trait FetchMedia: Send + Sync {
    /// Fetches a file of at most `bytes_max` bytes.
    fn fetch_media<'a>(
        &'a self,
        server: &'a ServerName,
        id: &'a str,
        bytes_max: u64,
    ) -> Pin<Box<dyn Future<Output = Result<Fetched, MediaError>> + Send + 'a>>;
}

/// A fetched medium.
#[derive(Clone, Debug)]
pub struct Fetched {
    /// Its content.
    pub content: Bytes,
    /// Its type, as its server says.
    pub content_type: Option<String>,
    /// Its file name, as its server says.
    pub name: Option<String>,
}

/// Over federation.
impl FetchMedia for Remote {
    fn fetch_media<'a>(
        &'a self,
        server: &'a ServerName,
        id: &'a str,
        bytes_max: u64,
    ) -> Pin<Box<dyn Future<Output = Result<Fetched, MediaError>> + Send + 'a>> {
        Box::pin(async move {
            let limit = usize::try_from(bytes_max).unwrap_or(usize::MAX).saturating_add(ENVELOPE_BYTES);
            let question = get_content::v1::Request::new(id.to_owned());
            let answer = self.request_with(server, question, Options::media(limit)).await;
            if answer.as_ref().is_err_and(is_unknown_endpoint) {
                return self.fetch_media_unsigned(server, id, limit, bytes_max).await;
            }
            let answer = answer.map_err(|error| match error {
                RemoteError::TooLarge { .. } => MediaError::TooLarge { limit: bytes_max },
                error if error.errcode() == Some("M_NOT_FOUND") => MediaError::NotFound,
                error => MediaError::Unreachable(error.to_string()),
            })?;
            match answer.content {
                FileOrLocation::File(content) => Ok(Fetched {
                    content: content.file.into(),
                    content_type: content.content_type,
                    name: content.content_disposition.and_then(|disposition| disposition.filename),
                }),
                FileOrLocation::Location(location) => self.fetch_media_at(&location, bytes_max).await,
                _ => {
                    Err(MediaError::Unreachable("its server answers in a way that is not known here".into()))
                }
            }
        })
    }
}

/// Servers older than Matrix 1.11 do not know the endpoint.
fn is_unknown_endpoint(error: &RemoteError) -> bool {
    matches!(error.status(), Some(400 | 404 | 405))
        && matches!(error.errcode(), None | Some("M_UNRECOGNIZED"))
}

impl Remote {
    /// From where its server points to: any address of the Internet, in nobody's name. Never one of our own network.
    // spec: https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1mediadownloadmediaid
    async fn fetch_media_at(&self, location: &str, bytes_max: u64) -> Result<Fetched, MediaError> {
        let unreachable = |why: String| MediaError::Unreachable(format!("where its server points to: {why}"));
        let limit = usize::try_from(bytes_max).unwrap_or(usize::MAX);
        let mut uri: http::Uri =
            location.parse().map_err(|_| unreachable("no address that can be asked".into()))?;
        for _ in 0..=REDIRECTS_MAX {
            let request = http::Request::get(uri.clone()).body(Bytes::new());
            let request = request.map_err(|error| unreachable(error.to_string()))?;
            let answer = self.files_outside().send(request, limit, FILE_WITHIN).await;
            let answer = answer.map_err(|error| unreachable(error.to_string()))?;
            let header = |name| answer.headers().get(name).map(http::HeaderValue::as_bytes);
            if answer.status().is_redirection() {
                let next = header(http::header::LOCATION).and_then(|value| http::Uri::try_from(value).ok());
                // Only whole addresses: what is relative to a server that redirects is nothing a file store says.
                uri = next
                    .filter(|next| next.host().is_some())
                    .ok_or_else(|| unreachable("it points on to nowhere".into()))?;
                continue;
            }
            if !answer.status().is_success() {
                return Err(unreachable(format!("HTTP status {}", answer.status().as_u16())));
            }
            let name = header(http::header::CONTENT_DISPOSITION)
                .and_then(|value| ContentDisposition::try_from(value).ok())
                .and_then(|disposition| disposition.filename);
            let content_type = header(http::header::CONTENT_TYPE);
            let content_type = content_type.and_then(|value| String::from_utf8(value.to_vec()).ok());
            return Ok(Fetched { content_type, name, content: answer.into_body() });
        }
        Err(unreachable("it points on and on".into()))
    }

    /// The old way, for servers that know no other: nobody says who asks.
    async fn fetch_media_unsigned(
        &self,
        server: &ServerName,
        id: &str,
        limit: usize,
        bytes_max: u64,
    ) -> Result<Fetched, MediaError> {
        let id = percent_encoding::utf8_percent_encode(id, percent_encoding::NON_ALPHANUMERIC);
        let path = format!("/_matrix/media/v3/download/{server}/{id}?allow_remote=false");
        let answer = self.get_unsigned(server, &path, Options::media(limit)).await;
        let answer = answer.map_err(|error| match error {
            RemoteError::TooLarge { .. } => MediaError::TooLarge { limit: bytes_max },
            error if error.status() == Some(404) => MediaError::NotFound,
            error => MediaError::Unreachable(error.to_string()),
        })?;
        let header = |name| answer.headers().get(name).map(http::HeaderValue::as_bytes);
        let name = header(http::header::CONTENT_DISPOSITION)
            .and_then(|value| ContentDisposition::try_from(value).ok())
            .and_then(|disposition| disposition.filename);
        let content_type = header(http::header::CONTENT_TYPE);
        let content_type = content_type.and_then(|value| String::from_utf8(value.to_vec()).ok());
        Ok(Fetched { content_type, name, content: answer.into_body() })
    }
}

impl Media {
    /// Fetches a medium, keeps it and makes room for it. Those who ask for the same one meanwhile wait for the first.
    pub(super) async fn fetch(&self, server: &ServerName, id: &str) -> Result<MediaRow, MediaError> {
        let key = (server.to_owned(), id.to_owned());
        let turn = {
            let mut fetching = self.shared.fetching.lock().await;
            if fetching.len() >= FETCHES_MAX && !fetching.contains_key(&key) {
                fetching.retain(|_, turn| Arc::strong_count(turn) > 1);
                if fetching.len() >= FETCHES_MAX {
                    return Err(MediaError::Unreachable("too many downloads at once".into()));
                }
            }
            Arc::clone(fetching.entry(key.clone()).or_default())
        };
        let answer = self.fetch_in_turn(&turn, key.clone()).await;
        let mut fetching = self.shared.fetching.lock().await;
        if Arc::strong_count(&turn) <= 2 {
            fetching.remove(&key);
        }
        answer
    }

    async fn fetch_in_turn(&self, turn: &Mutex<()>, (server, id): MediaKey) -> Result<MediaRow, MediaError> {
        let _turn = turn.lock().await;
        if let Some(row) = self.find(&server, &id).await?
            && row.hash.is_some()
        {
            return Ok(row);
        }
        let limit = self.limits.file_bytes_max;
        let mut fetched = self.other.fetch_media(&server, &id, limit).await?;
        if fetched.content.len() as u64 > limit {
            return Err(MediaError::TooLarge { limit });
        }
        if check_metadata(fetched.content_type.as_deref(), fetched.name.as_deref()).is_err() {
            // A stranger's name for it is not worth refusing the file.
            fetched.content_type = None;
            fetched.name = None;
        }
        self.make_room(fetched.content.len() as u64).await?;
        let mut writing = self.files.begin().await?;
        writing.write(&fetched.content).await?;
        let row = {
            let _no_sweep = self.shared.sweeping.read().await;
            let (hash, size) = self.files.finish(writing).await?;
            let now = self.clock.now_ms();
            let row = MediaRow {
                hash: Some(hash),
                content_type: fetched.content_type,
                name: fetched.name,
                owner: None,
                made_ms: now,
                used_ms: now,
                quarantined: false,
            };
            let stored = row.clone();
            self.store
                .write(move |tx: &mut WriteTx<'_>| {
                    let server = tx.intern(Kind::Server, server.as_str())?;
                    schema::media::put_blob(tx, &hash, size)?;
                    schema::media::put(tx, server, &id, &stored)
                })
                .await?;
            row
        };
        Ok(row)
    }

    /// Removes the remote media that were not asked for the longest until `more` bytes fit their share, or none is left.
    pub(super) async fn make_room(&self, more: u64) -> Result<(), MediaError> {
        let goal = self.limits.remote_bytes_max.saturating_sub(more);
        loop {
            let used = self.store.read(|tx: &ReadTx<'_>| schema::media::evictable_bytes(tx)).await?;
            if used <= goal {
                return Ok(());
            }
            let _sweep = self.shared.sweeping.write().await;
            let gone = self
                .store
                .write(move |tx: &mut WriteTx<'_>| {
                    let mut gone = Vec::new();
                    let mut left = used;
                    let oldest = schema::media::oldest_remote(tx, SWEEP_ROWS)?;
                    for (server, id, hash) in &oldest {
                        if left <= goal {
                            break;
                        }
                        let size = schema::media::blob_bytes(tx, hash)?;
                        let freed = schema::media::forget(tx, *server, id, hash)?;
                        if !freed.is_empty() {
                            left = left.saturating_sub(size);
                        }
                        gone.extend(freed);
                    }
                    if oldest.is_empty() {
                        // What is left are thumbnails of our own users' pictures; they can be made again.
                        gone = schema::media::forget_thumbnails(tx, SWEEP_ROWS)?;
                        return Ok((gone, false));
                    }
                    Ok::<_, StoreError>((gone, true))
                })
                .await?;
            let (gone, more) = gone;
            let done = gone.is_empty() && !more;
            for hash in gone {
                self.files.remove(&hash).await?;
            }
            if done {
                return Ok(());
            }
        }
    }
}

/// Further addresses that are gone to where another server has pointed us.
const REDIRECTS_MAX: usize = 3;
/// How long a file may take to come from there.
const FILE_WITHIN: Duration = Duration::from_secs(120);
/// Downloads under way at once.
const FETCHES_MAX: usize = 64;
/// What the multipart answer has around the file.
const ENVELOPE_BYTES: usize = 16 << 10;
