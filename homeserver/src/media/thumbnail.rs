//! Small pictures: which sizes there are, made once, kept beside their originals.

use std::time::Duration;

use ruma::ServerName;

use super::{Media, MediaError, Opened, Size, contain, shrink::Method};
use crate::store::{ReadTx, WriteTx, schema, schema::media::Hash};

/// The sizes that are made; others get the next larger.
// spec: https://spec.matrix.org/v1.19/client-server-api/#thumbnails
const SIZES: [(u32, u32, Method); 5] = [
    (32, 32, Method::Crop),
    (96, 96, Method::Crop),
    (320, 240, Method::Scale),
    (640, 480, Method::Scale),
    (800, 600, Method::Scale),
];

impl Size {
    /// The size that is made for this wish.
    fn made(self) -> Self {
        let fits = |(width, height, method): &(u32, u32, Method)| {
            *method == self.method && *width >= self.width && *height >= self.height
        };
        let (width, height, method) = SIZES
            .into_iter()
            .find(fits)
            .or_else(|| {
                SIZES.into_iter().find(|(width, height, _)| *width >= self.width && *height >= self.height)
            })
            .unwrap_or(SIZES[SIZES.len() - 1]);
        // A crop wish that no small square answers keeps its shape in the next larger frame.
        let method = if self.method == Method::Crop { Method::Crop } else { method };
        Self { width, height, method, animated: self.animated }
    }
}

impl Media {
    /// A small picture of a medium. What is small already is given as it is.
    pub async fn thumbnail(
        &self,
        server: &ServerName,
        id: &str,
        size: Size,
        wait: Duration,
        fetch: bool,
    ) -> Result<Opened, MediaError> {
        let row = self.row(server, id, wait, fetch).await?;
        let original = row.hash.ok_or(MediaError::NotYetUploaded)?;
        let size = size.made();
        let known = self.known_thumbnail(original, size).await?;
        let (hash, content_type) = match known {
            Some(known) => known,
            None => match self.make_thumbnail(original, size).await? {
                Some(made) => made,
                None => return self.get(server, id, wait, false).await,
            },
        };
        let (file, bytes) = self.files.open_blob(&hash).await?;
        Ok(Opened {
            file,
            size: bytes,
            content_type: Some(content_type),
            name: Some("thumbnail".to_owned()),
            hash,
        })
    }

    async fn known_thumbnail(
        &self,
        original: Hash,
        size: Size,
    ) -> Result<Option<(Hash, String)>, MediaError> {
        let key = key(size);
        self.store
            .read(move |tx: &ReadTx<'_>| Ok(schema::media::thumbnail(tx, &original, key.0, key.1, key.2)?))
            .await
    }

    /// Makes and keeps a thumbnail; `None`: the original is no larger than it.
    async fn make_thumbnail(&self, original: Hash, size: Size) -> Result<Option<(Hash, String)>, MediaError> {
        let _turn = self.shared.decoding.acquire().await.map_err(|_| MediaError::NoThumbnail)?;
        if let Some(known) = self.known_thumbnail(original, size).await? {
            return Ok(Some(known));
        }
        let made = contain::shrink(self.program.as_deref(), &self.files, &original, size).await?;
        let Some((bytes, content_type)) = made else {
            return Ok(None);
        };
        let mut writing = self.files.begin().await?;
        writing.write(&bytes).await?;
        let _no_sweep = self.shared.sweeping.read().await;
        let (hash, length) = self.files.finish(writing).await?;
        let kind = content_type.clone();
        self.store
            .write(move |tx: &mut WriteTx<'_>| {
                schema::media::put_blob(tx, &hash, length)?;
                schema::media::put_thumbnail(tx, &original, key(size), &hash, &kind)
            })
            .await?;
        Ok(Some((hash, content_type)))
    }
}

fn key(size: Size) -> (u32, u32, u8) {
    (size.width, size.height, u8::from(size.method == Method::Crop) | u8::from(size.animated) << 1)
}
