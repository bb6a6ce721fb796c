//! Media: a content store of files named by their BLAKE3 hash, and random ids that point into it.
//!
//! # The life of an upload
//! The body is written to a file in `media/tmp` while it is hashed, fsynced, renamed to its hash, and only then gets its
//! row: what has an id is on the disk. An id is random, so that it says nothing about who else has the same content,
//! and may be announced before the content comes.
//!
//! Media of other servers are fetched once, kept under the same store, and the ones not asked for the longest go when
//! they pass their share of the disk.

mod contain;
mod files;
mod moderate;
mod page;
mod preview;
mod remote;
mod shrink;
mod thumbnail;
mod upload;

use std::{collections::HashMap, path::Path, sync::Arc, time::Duration};

use ruma::{OwnedServerName, ServerName};
use tokio::sync::{Mutex, RwLock, Semaphore};

use self::files::Files;
pub use self::{
    contain::{run as run_contained, run_page as run_page_contained},
    moderate::{Address, MediaInfo},
    preview::{PreviewError, Previews},
    remote::{FetchMedia, Fetched},
    shrink::{Method, Size},
    upload::{Announced, UPLOAD_WAIT_MS},
};
use crate::{
    clock::Clock,
    store::{Kind, Nid, ReadTx, Store, StoreError, WriteTx, schema, schema::media::MediaRow},
};

/// The media of this node.
#[derive(Clone)]
pub struct Media {
    store: Store,
    clock: Clock,
    name: OwnedServerName,
    files: Files,
    limits: Limits,
    /// What makes pictures small, in a process of its own.
    program: Option<Arc<Path>>,
    other: Arc<dyn FetchMedia>,
    shared: Arc<Shared>,
}

/// What media may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// One upload, and one file fetched from elsewhere, in bytes.
    pub file_bytes_max: u64,
    /// All files that are not our users' own, in bytes.
    pub remote_bytes_max: u64,
}

struct Shared {
    /// Held for reading while a file gets its row, for writing while rows and files are removed.
    sweeping: RwLock<()>,
    /// One picture is decoded at a time: it may take 128 MiB.
    decoding: Semaphore,
    /// Downloads under way, so that ten who ask for the same picture fetch it once.
    fetching: Mutex<HashMap<MediaKey, Arc<Mutex<()>>>>,
    /// Wakes those who wait for an announced upload.
    uploaded: tokio::sync::Notify,
}

/// Server and id.
type MediaKey = (OwnedServerName, String);

/// A file that can be read.
#[derive(Debug)]
pub struct Opened {
    /// The file, at its start.
    pub file: tokio::fs::File,
    /// Its size.
    pub size: u64,
    /// Its type, as the uploader said.
    pub content_type: Option<String>,
    /// Its name, as the uploader said.
    pub name: Option<String>,
    /// Its content, for caches: never changes.
    pub hash: schema::media::Hash,
}

/// Why a verb on media failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MediaError {
    /// Nothing has this id.
    #[error("no such media")]
    NotFound,
    /// The id was announced and its content has not come.
    #[error("this media was announced but has not been uploaded yet")]
    NotYetUploaded,
    /// Somebody has uploaded it already.
    #[error("this media was uploaded already")]
    CannotOverwrite,
    /// The id belongs to somebody else.
    #[error("this media id was announced by somebody else")]
    NotOwner,
    /// Larger than this node takes.
    #[error("media here have at most {limit} bytes")]
    TooLarge {
        /// The limit.
        limit: u64,
    },
    /// The user has announced many uploads and not sent them.
    #[error("too many announced uploads are still to come")]
    TooManyAnnounced,
    /// The sender went away in the middle.
    #[error("the upload broke off")]
    BrokenOff,
    /// A name or type longer than anybody needs.
    #[error("the file name or type is too long")]
    BadMetadata,
    /// No picture, or one too large to look at.
    #[error("no thumbnail can be made of this")]
    NoThumbnail,
    /// The other server could not be asked or did not answer well.
    #[error("the media's server could not be reached: {0}")]
    Unreachable(String),
    /// The disk said no.
    #[error("media file: {0}")]
    Io(#[from] std::io::Error),
    /// The database said no.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Media {
    /// The media under `dir`. `other` fetches what other servers have.
    pub fn open(
        store: Store,
        clock: Clock,
        name: OwnedServerName,
        dir: &Path,
        limits: Limits,
        other: Arc<dyn FetchMedia>,
    ) -> Result<Self, MediaError> {
        Ok(Self {
            store,
            clock,
            name,
            files: Files::open(dir)?,
            limits,
            program: None,
            other,
            shared: Arc::new(Shared {
                sweeping: RwLock::default(),
                decoding: Semaphore::new(1),
                fetching: Mutex::default(),
                uploaded: tokio::sync::Notify::new(),
            }),
        })
    }

    /// With a program that makes pictures small in a process of its own: this one.
    #[must_use]
    pub fn with_program(self, program: Option<&Path>) -> Self {
        Self { program: program.map(Into::into), ..self }
    }

    /// The largest upload taken, in bytes.
    pub fn upload_bytes_max(&self) -> u64 {
        self.limits.file_bytes_max
    }

    /// A medium's content; one of another server is fetched first if `fetch` says so, one that was announced is waited
    /// for. Not longer than `wait` either way.
    pub async fn get(
        &self,
        server: &ServerName,
        id: &str,
        wait: Duration,
        fetch: bool,
    ) -> Result<Opened, MediaError> {
        let row = self.row(server, id, wait, fetch).await?;
        let hash = row.hash.ok_or(MediaError::NotYetUploaded)?;
        let (file, size) = self.files.open_blob(&hash).await?;
        Ok(Opened { file, size, content_type: row.content_type, name: row.name, hash })
    }

    async fn row(
        &self,
        server: &ServerName,
        id: &str,
        wait: Duration,
        fetch: bool,
    ) -> Result<MediaRow, MediaError> {
        if id.is_empty() || id.len() > ID_BYTES_MAX {
            return Err(MediaError::NotFound);
        }
        let wait = wait.min(WAIT_MAX);
        let ours = server == self.name;
        let row = match (self.find(server, id).await?, ours) {
            (Some(row), _) if row.quarantined => return Err(MediaError::NotFound),
            (Some(row), true) if row.hash.is_none() => self.announced_row(server, id, wait).await?,
            (Some(row), _) if row.hash.is_some() => row,
            (_, false) if fetch => tokio::time::timeout(wait, self.fetch(server, id))
                .await
                .map_err(|_| MediaError::Unreachable("it took too long".into()))??,
            _ => return Err(MediaError::NotFound),
        };
        let now = self.clock.now_ms();
        if now.saturating_sub(row.used_ms) > USED_EVERY_MS {
            let (server, id) = (server.to_owned(), id.to_owned());
            let ours = ours.then_some(schema::media::OURS);
            self.store
                .write(move |tx: &mut WriteTx<'_>| {
                    let server = match ours {
                        Some(ours) => ours,
                        None => tx.intern(Kind::Server, server.as_str())?,
                    };
                    schema::media::used(tx, server, &id, now)
                })
                .await?;
        }
        Ok(row)
    }

    async fn find(&self, server: &ServerName, id: &str) -> Result<Option<MediaRow>, StoreError> {
        let ours = server == self.name;
        let (server, id) = (server.to_owned(), id.to_owned());
        self.store
            .read(move |tx: &ReadTx<'_>| match server_nid(tx, ours, &server)? {
                Some(server) => schema::media::find(tx, server, &id),
                None => Ok(None),
            })
            .await
    }
}

fn server_nid(tx: &ReadTx<'_>, ours: bool, server: &ServerName) -> Result<Option<Nid>, StoreError> {
    if ours { Ok(Some(schema::media::OURS)) } else { tx.lookup(Kind::Server, server.as_str()) }
}

/// Media ids are opaque; nobody's are longer.
const ID_BYTES_MAX: usize = 255;
/// The longest anybody waits for somebody else's upload or server.
const WAIT_MAX: Duration = Duration::from_secs(120);
/// Media removed in one write at most.
const SWEEP_ROWS: u32 = 64;
/// How fresh "last asked for" is: it orders what goes first, nothing else.
const USED_EVERY_MS: u64 = 24 * 3_600_000;

#[cfg(test)]
mod tests;
