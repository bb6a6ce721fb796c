//! Our media for other servers, as `multipart/mixed`.

use std::sync::Arc;

use ruma::{
    UInt,
    api::federation::authenticated_media::{
        Content, ContentMetadata, FileOrLocation, get_content, get_content_thumbnail,
    },
    http_headers::{ContentDisposition, ContentDispositionType},
    media::Method as WantedMethod,
};
use tokio::io::AsyncReadExt as _;

use crate::{
    api::routes::{Group, Table},
    error::Error,
    http::{args::Args, limits::Class},
    media::{Method, Opened, Size},
    server::Server,
};

pub(super) fn routes(table: &mut Table) {
    table.add(Group::Federation, content).limit(Class::Federation);
    table.add(Group::Federation, thumbnail).limit(Class::Federation);
}

async fn content(
    server: Arc<Server>,
    args: Args<get_content::v1::Request>,
) -> Result<get_content::v1::Response, Error> {
    let opened = server.media.get(&server.name, &args.media_id, args.timeout_ms, false).await?;
    Ok(get_content::v1::Response::new(ContentMetadata::new(), read(opened).await?))
}

async fn thumbnail(
    server: Arc<Server>,
    args: Args<get_content_thumbnail::v1::Request>,
) -> Result<get_content_thumbnail::v1::Response, Error> {
    let pixels = |side: UInt| u32::try_from(u64::from(side)).unwrap_or(u32::MAX).max(1);
    let method = match args.method {
        Some(WantedMethod::Crop) => Method::Crop,
        _ => Method::Scale,
    };
    let animated = args.animated == Some(true);
    let size = Size { width: pixels(args.width), height: pixels(args.height), method, animated };
    let opened = server.media.thumbnail(&server.name, &args.media_id, size, args.timeout_ms, false).await?;
    Ok(get_content_thumbnail::v1::Response::new(ContentMetadata::new(), read(opened).await?))
}

/// Reads a file of ours whole: uploads are bounded by the operator's limit.
async fn read(opened: Opened) -> Result<FileOrLocation, Error> {
    let mut file = Vec::with_capacity(usize::try_from(opened.size).unwrap_or(0));
    opened
        .file
        .take(opened.size)
        .read_to_end(&mut file)
        .await
        .map_err(|error| Error::internal(format!("a media file cannot be read: {error}")))?;
    let kind = opened.content_type.unwrap_or_else(|| "application/octet-stream".to_owned());
    let disposition = ContentDisposition::new(ContentDispositionType::Inline).with_filename(opened.name);
    Ok(FileOrLocation::File(Content::new(file, kind, disposition)))
}
