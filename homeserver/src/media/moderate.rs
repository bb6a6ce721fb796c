//! What administrators do to media: look, take out of sight, delete.
//!
//! Content is taken out of sight by its hash, so that the same file under another id, or uploaded again, stays so.

use ruma::{OwnedServerName, ServerName, UserId};

use super::{Media, MediaError, SWEEP_ROWS, server_nid};
pub use crate::store::schema::media::MediaInfo;
use crate::store::{Kind, Nid, ReadTx, StoreError, WriteTx, schema, schema::media::Hash};

/// A medium by its address.
pub type Address = (OwnedServerName, String);

impl Media {
    /// One medium.
    pub async fn describe(&self, server: &ServerName, id: &str) -> Result<MediaInfo, MediaError> {
        let (ours, server, id) = (server == self.name, server.to_owned(), id.to_owned());
        let found = self
            .store
            .read(move |tx: &ReadTx<'_>| match server_nid(tx, ours, &server)? {
                Some(server) => schema::media::described(tx, server, &id),
                None => Ok(None),
            })
            .await?;
        found.ok_or(MediaError::NotFound)
    }

    /// A page of what a user has uploaded, newest first, and how much there is.
    pub async fn of_user(
        &self,
        user: &UserId,
        from: u64,
        limit: u64,
    ) -> Result<(Vec<MediaInfo>, u64), MediaError> {
        let user = user.to_owned();
        self.store
            .read(move |tx: &ReadTx<'_>| match tx.lookup(Kind::User, user.as_str())? {
                Some(user) => Ok(schema::media::of_user(tx, user, from, limit)?),
                None => Ok((Vec::new(), 0)),
            })
            .await
    }

    /// Takes media out of sight; gives how many were not so before. What is protected, or not here, is passed over.
    pub async fn quarantine(&self, media: Vec<Address>, by: &UserId) -> Result<u64, MediaError> {
        let (name, by, now) = (self.name.clone(), by.to_owned(), self.clock.now_ms());
        let mut count = 0;
        for part in media.chunks(SWEEP_ROWS as usize) {
            let (part, name, by) = (part.to_vec(), name.clone(), by.clone());
            count += self
                .store
                .write(move |tx: &mut WriteTx<'_>| {
                    let mut count = 0;
                    for (server, id) in &part {
                        if let Some(server) = server_nid(tx, *server == name, server)?
                            && schema::media::quarantine(tx, server, id, by.as_str(), now)?
                        {
                            count += 1;
                        }
                    }
                    Ok::<_, MediaError>(count)
                })
                .await?;
        }
        Ok(count)
    }

    /// Lets a medium be seen again.
    pub async fn unquarantine(&self, server: &ServerName, id: &str) -> Result<(), MediaError> {
        let (ours, server, id) = (server == self.name, server.to_owned(), id.to_owned());
        self.store
            .write(move |tx: &mut WriteTx<'_>| {
                let Some(server) = server_nid(tx, ours, &server)? else { return Ok(()) };
                Ok(schema::media::unquarantine(tx, server, &id)?)
            })
            .await
    }

    /// Keeps a medium of ours in sight whatever happens to its user's or room's media, or no longer.
    pub async fn protect(&self, id: &str, on: bool) -> Result<(), MediaError> {
        let id = id.to_owned();
        self.store
            .write(move |tx: &mut WriteTx<'_>| match schema::media::protect(tx, &id, on)? {
                true => Ok(()),
                false => Err(MediaError::NotFound),
            })
            .await
    }

    /// Deletes media of ours by id; gives those that were there.
    pub async fn delete(&self, ids: Vec<String>) -> Result<Vec<String>, MediaError> {
        let mut deleted = Vec::new();
        for part in ids.chunks(SWEEP_ROWS as usize) {
            let part = part.to_vec();
            let _sweep = self.shared.sweeping.write().await;
            let (done, files) = self
                .store
                .write(move |tx: &mut WriteTx<'_>| {
                    let (mut done, mut files) = (Vec::new(), Vec::new());
                    for id in part {
                        if let Some(hash) =
                            schema::media::find(tx, schema::media::OURS, &id)?.and_then(|row| row.hash)
                        {
                            files.extend(schema::media::forget(tx, schema::media::OURS, &id, &hash)?);
                            done.push(id);
                        }
                    }
                    Ok::<_, MediaError>((done, files))
                })
                .await?;
            for hash in files {
                self.files.remove(&hash).await?;
            }
            deleted.extend(done);
        }
        Ok(deleted)
    }

    /// Deletes media of ours that nobody asked for since `before_ms` and that have more than `larger` bytes; of those in
    /// `keep` (pictures of users and rooms), none.
    pub async fn delete_old(
        &self,
        before_ms: u64,
        larger: u64,
        keep: &std::collections::HashSet<String>,
    ) -> Result<Vec<String>, MediaError> {
        let old = self
            .store
            .read(move |tx: &ReadTx<'_>| {
                Ok::<_, MediaError>(schema::media::old_ours(tx, before_ms, larger, DELETED_MAX)?)
            })
            .await?;
        self.delete(old.into_iter().filter(|id| !keep.contains(id)).collect()).await
    }

    /// Deletes copies of other servers' media that nobody asked for since `before_ms`; gives how many.
    pub async fn purge_remote(&self, before_ms: u64) -> Result<u64, MediaError> {
        let mut count = 0;
        loop {
            let _sweep = self.shared.sweeping.write().await;
            let gone = self
                .store
                .write(move |tx: &mut WriteTx<'_>| {
                    let old: Vec<(Nid, String, Hash)> = schema::media::old_remote(tx, before_ms, SWEEP_ROWS)?;
                    let mut files = Vec::new();
                    for (server, id, hash) in &old {
                        files.extend(schema::media::forget(tx, *server, id, hash)?);
                    }
                    Ok::<_, StoreError>((old.len() as u64, files))
                })
                .await?;
            for hash in gone.1 {
                self.files.remove(&hash).await?;
            }
            if gone.0 == 0 {
                return Ok(count);
            }
            count += gone.0;
        }
    }
}

/// Media that one request deletes at most; whoever wants more asks again.
const DELETED_MAX: u32 = 10_000;
