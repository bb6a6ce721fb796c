//! Uploads of our users: at once, or announced first.

use std::time::Duration;

use axum::body::Body;
use http_body_util::BodyExt as _;
use ruma::{OwnedMxcUri, ServerName, UserId};

use super::{Media, MediaError, files::Writing};
use crate::{
    store::{Kind, ReadTx, WriteTx, schema, schema::media::MediaRow},
    user::token,
};

/// An id whose content is to come.
#[derive(Clone, Debug)]
pub struct Announced {
    /// Its address.
    pub uri: OwnedMxcUri,
    /// When it ends if nothing came.
    pub expires_ms: u64,
}

impl Media {
    /// Takes an upload and gives it an id.
    pub async fn upload(
        &self,
        user: &UserId,
        body: Body,
        content_type: Option<String>,
        name: Option<String>,
    ) -> Result<OwnedMxcUri, MediaError> {
        let id = token::random();
        self.take(user, id.clone(), body, content_type, name, false).await?;
        Ok(self.uri(&id))
    }

    /// Promises an id for an upload that comes later.
    // spec: https://spec.matrix.org/v1.19/client-server-api/#post_matrixmediav1create
    pub async fn announce(&self, user: &UserId) -> Result<Announced, MediaError> {
        let (user, id, now) = (user.to_owned(), token::random(), self.clock.now_ms());
        let uri = self.uri(&id);
        self.store
            .write(move |tx: &mut WriteTx<'_>| {
                let owner = tx.intern(Kind::User, user.as_str())?;
                let since = now.saturating_sub(UPLOAD_WAIT_MS);
                if schema::media::announced(tx, owner, since)? >= ANNOUNCED_MAX {
                    return Err(MediaError::TooManyAnnounced);
                }
                let row = MediaRow {
                    hash: None,
                    content_type: None,
                    name: None,
                    owner: Some(owner),
                    made_ms: now,
                    used_ms: now,
                    quarantined: false,
                };
                schema::media::put(tx, schema::media::OURS, &id, &row)?;
                Ok(())
            })
            .await?;
        Ok(Announced { uri, expires_ms: now + UPLOAD_WAIT_MS })
    }

    /// Takes the upload that was announced.
    pub async fn upload_announced(
        &self,
        user: &UserId,
        server: &ServerName,
        id: &str,
        body: Body,
        content_type: Option<String>,
        name: Option<String>,
    ) -> Result<(), MediaError> {
        if server != self.name {
            return Err(MediaError::NotOwner);
        }
        let owner = user.to_owned();
        let row = self.find(server, id).await?.ok_or(MediaError::NotFound)?;
        let allowed = self
            .store
            .read(move |tx: &ReadTx<'_>| {
                Ok::<_, MediaError>(row.owner == tx.lookup(Kind::User, owner.as_str())?)
            })
            .await?;
        if !allowed {
            return Err(MediaError::NotOwner);
        }
        if row.hash.is_some() {
            return Err(MediaError::CannotOverwrite);
        }
        self.take(user, id.to_owned(), body, content_type, name, true).await?;
        self.shared.uploaded.notify_waiters();
        Ok(())
    }

    async fn take(
        &self,
        user: &UserId,
        id: String,
        mut body: Body,
        content_type: Option<String>,
        name: Option<String>,
        announced: bool,
    ) -> Result<(), MediaError> {
        check_metadata(content_type.as_deref(), name.as_deref())?;
        let mut writing = self.files.begin().await?;
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.map_err(|_| MediaError::BrokenOff)?.into_data() else {
                continue;
            };
            self.check_room(&writing, data.len())?;
            writing.write(&data).await?;
        }
        let no_sweep = self.shared.sweeping.read().await;
        let (hash, size) = self.files.finish(writing).await?;
        let (user, now) = (user.to_owned(), self.clock.now_ms());
        let stored = self
            .store
            .write(move |tx: &mut WriteTx<'_>| {
                let known = schema::media::find(tx, schema::media::OURS, &id)?;
                match known {
                    Some(MediaRow { hash: Some(_), .. }) => return Err(MediaError::CannotOverwrite),
                    // It ran out while it was on its way.
                    None if announced => return Err(MediaError::NotFound),
                    _ => {}
                }
                schema::media::put_blob(tx, &hash, size)?;
                let row = MediaRow {
                    hash: Some(hash),
                    content_type,
                    name,
                    owner: Some(tx.intern(Kind::User, user.as_str())?),
                    made_ms: now,
                    used_ms: now,
                    quarantined: false,
                };
                schema::media::put(tx, schema::media::OURS, &id, &row)?;
                Ok(())
            })
            .await;
        drop(no_sweep);
        if stored.is_err() {
            self.discard(hash).await?;
        }
        stored
    }

    /// Removes a file that got no row, unless it is somebody else's too.
    async fn discard(&self, hash: schema::media::Hash) -> Result<(), MediaError> {
        let _sweep = self.shared.sweeping.write().await;
        let known = self.store.read(move |tx: &ReadTx<'_>| schema::media::has_blob(tx, &hash)).await?;
        if !known {
            self.files.remove(&hash).await?;
        }
        Ok(())
    }

    fn check_room(&self, writing: &Writing, more: usize) -> Result<(), MediaError> {
        let limit = self.limits.file_bytes_max;
        if writing.size() + more as u64 > limit {
            return Err(MediaError::TooLarge { limit });
        }
        Ok(())
    }

    /// Waits for an announced upload.
    pub(super) async fn announced_row(
        &self,
        server: &ServerName,
        id: &str,
        wait: Duration,
    ) -> Result<MediaRow, MediaError> {
        let arrival = async {
            loop {
                // Registered before the look, so that no arrival is missed.
                let arrived = self.shared.uploaded.notified();
                let row = self.find(server, id).await?.ok_or(MediaError::NotFound)?;
                if row.hash.is_some() {
                    return Ok(row);
                }
                if self.clock.now_ms().saturating_sub(row.made_ms) > UPLOAD_WAIT_MS {
                    return Err(MediaError::NotFound);
                }
                arrived.await;
            }
        };
        tokio::time::timeout(wait, arrival).await.unwrap_or(Err(MediaError::NotYetUploaded))
    }

    pub(super) fn uri(&self, id: &str) -> OwnedMxcUri {
        format!("mxc://{}/{id}", self.name).into()
    }
}

pub(super) fn check_metadata(content_type: Option<&str>, name: Option<&str>) -> Result<(), MediaError> {
    let fits = content_type.is_none_or(|text| text.len() <= METADATA_BYTES_MAX)
        && name.is_none_or(|text| text.len() <= METADATA_BYTES_MAX);
    if fits { Ok(()) } else { Err(MediaError::BadMetadata) }
}

/// How long an announced upload may take to come: the specification's recommendation, a day.
pub const UPLOAD_WAIT_MS: u64 = 24 * 3_600_000;
/// Announced uploads of one user that are still to come.
const ANNOUNCED_MAX: u64 = 100;
/// File systems allow 255 bytes for a name; headers should not be longer than that.
const METADATA_BYTES_MAX: usize = 255;
