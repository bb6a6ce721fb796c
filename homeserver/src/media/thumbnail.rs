//! Small pictures: decoded under limits, scaled, kept beside their originals.

use std::{io::Cursor, time::Duration};

use image::{
    DynamicImage, ImageDecoder as _, ImageFormat, ImageReader, Limits, codecs::jpeg::JpegEncoder,
    imageops::FilterType,
};
use ruma::ServerName;

use super::{Media, MediaError, Opened};
use crate::store::{ReadTx, WriteTx, schema, schema::media::Hash};

/// How a picture is fitted into a size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Whole, inside it.
    Scale,
    /// Filling it, cut at the edges.
    Crop,
}

/// How large a thumbnail is wanted.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// In pixels.
    pub width: u32,
    /// In pixels.
    pub height: u32,
    /// How to fit.
    pub method: Method,
}

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
        Self { width, height, method }
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
        let files = self.files.clone();
        let made = tokio::task::spawn_blocking(move || shrink(&files.read_blocking(&original)?, size))
            .await
            .map_err(|_| MediaError::NoThumbnail)??;
        let Some((bytes, content_type)) = made else {
            return Ok(None);
        };
        let mut writing = self.files.begin().await?;
        writing.write(&bytes).await?;
        let _no_sweep = self.shared.sweeping.read().await;
        let (hash, length) = self.files.finish(writing).await?;
        self.store
            .write(move |tx: &mut WriteTx<'_>| {
                schema::media::put_blob(tx, &hash, length)?;
                schema::media::put_thumbnail(tx, &original, key(size), &hash, content_type)
            })
            .await?;
        Ok(Some((hash, content_type.to_owned())))
    }
}

fn key(size: Size) -> (u32, u32, u8) {
    (size.width, size.height, u8::from(size.method == Method::Crop))
}

/// Decodes under limits and scales down. `None`: it is no larger than asked for.
fn shrink(bytes: &[u8], size: Size) -> Result<Option<(Vec<u8>, &'static str)>, MediaError> {
    let mut reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format()?;
    let mut limits = Limits::default();
    limits.max_image_width = Some(SIDE_MAX);
    limits.max_image_height = Some(SIDE_MAX);
    limits.max_alloc = Some(DECODE_BYTES_MAX);
    reader.limits(limits);
    let mut decoder = reader.into_decoder().map_err(|_| MediaError::NoThumbnail)?;
    let (width, height) = decoder.dimensions();
    if u64::from(width) * u64::from(height) > PIXELS_MAX {
        return Err(MediaError::NoThumbnail);
    }
    if width <= size.width && height <= size.height {
        return Ok(None);
    }
    let orientation = decoder.orientation().unwrap_or(image::metadata::Orientation::NoTransforms);
    let mut picture = DynamicImage::from_decoder(decoder).map_err(|_| MediaError::NoThumbnail)?;
    picture.apply_orientation(orientation);
    let small = match size.method {
        Method::Scale => picture.thumbnail(size.width, size.height),
        Method::Crop => {
            // The cheap scaler first, so that the good one has little to do.
            let twice = picture.resize_to_fill(
                size.width.min(picture.width()),
                size.height.min(picture.height()),
                FilterType::Triangle,
            );
            twice.resize_to_fill(size.width, size.height, FilterType::Triangle)
        }
    };
    let mut out = Cursor::new(Vec::new());
    if small.color().has_alpha() {
        small.into_rgba8().write_to(&mut out, ImageFormat::Png).map_err(|_| MediaError::NoThumbnail)?;
        return Ok(Some((out.into_inner(), "image/png")));
    }
    small
        .into_rgb8()
        .write_with_encoder(JpegEncoder::new_with_quality(&mut out, JPEG_QUALITY))
        .map_err(|_| MediaError::NoThumbnail)?;
    Ok(Some((out.into_inner(), "image/jpeg")))
}

/// The longest side decoded.
const SIDE_MAX: u32 = 16_384;
/// More pixels than any phone's camera makes by default.
const PIXELS_MAX: u64 = 28_000_000;
/// What a decoder may allocate.
const DECODE_BYTES_MAX: u64 = 128 << 20;
const JPEG_QUALITY: u8 = 80;
