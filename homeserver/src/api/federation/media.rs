//! Our media for other servers, as `multipart/mixed`.
//!
//! spec: <https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1mediadownloadmediaid>

use std::sync::Arc;

use axum::body::Body;
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::{HeaderValue, header};
use ruma::{
    UInt,
    api::federation::authenticated_media::{get_content, get_content_thumbnail},
    http_headers::{ContentDisposition, ContentDispositionType},
    media::Method as WantedMethod,
};

use crate::{
    api::{
        client::media::chunks,
        routes::{Group, Table},
    },
    error::Error,
    http::{
        args::Args,
        limits::Class,
        reply::{Made, Reply},
    },
    media::{Method, Opened, Size},
    server::Server,
};

pub(super) fn routes(table: &mut Table) {
    table.add(Group::Federation, content).limit(Class::Federation);
    table.add(Group::Federation, thumbnail).limit(Class::Federation);
}

async fn content(server: Arc<Server>, args: Args<get_content::v1::Request>) -> Result<Made, Error> {
    parts(server.media.get(&server.name, &args.media_id, args.timeout_ms, false).await?)
}

async fn thumbnail(
    server: Arc<Server>,
    args: Args<get_content_thumbnail::v1::Request>,
) -> Result<Made, Error> {
    let pixels = |side: UInt| u32::try_from(u64::from(side)).unwrap_or(u32::MAX).max(1);
    let method = match args.method {
        Some(WantedMethod::Crop) => Method::Crop,
        _ => Method::Scale,
    };
    let animated = args.animated == Some(true);
    let size = Size { width: pixels(args.width), height: pixels(args.height), method, animated };
    parts(server.media.thumbnail(&server.name, &args.media_id, size, args.timeout_ms, false).await?)
}

/// The two parts, metadata (there is none) and the file, which is read as it is sent.
fn parts(opened: Opened) -> Result<Made, Error> {
    // What is random of 128 bits stands in no file.
    let mut random = [0; 16];
    getrandom::fill(&mut random).map_err(|error| Error::internal(format!("no randomness: {error}")))?;
    let boundary = data_encoding::HEXLOWER.encode(&random);
    let kind = opened.content_type.filter(|kind| HeaderValue::from_str(kind).is_ok());
    let kind = kind.unwrap_or_else(|| "application/octet-stream".to_owned());
    let disposition =
        ContentDisposition::new(ContentDispositionType::Inline).with_filename(opened.name).to_string();
    let head = format!(
        "--{boundary}\r\nContent-Type: application/json\r\n\r\n{{}}\r\n\
         --{boundary}\r\nContent-Type: {kind}\r\nContent-Disposition: {disposition}\r\n\r\n"
    );
    let end = format!("\r\n--{boundary}--\r\n");
    let length = head.len() as u64 + opened.size + end.len() as u64;
    let body = stream::once(std::future::ready(Ok(Bytes::from(head))))
        .chain(chunks(opened.file, opened.size))
        .chain(stream::once(std::future::ready(Ok(Bytes::from(end)))));
    let mut reply = Reply::new(Body::from_stream(body));
    let kind = format!("multipart/mixed; boundary={boundary}");
    let value = |text: &str| HeaderValue::from_str(text).map_err(|error| Error::internal(error.to_string()));
    reply.headers_mut().insert(header::CONTENT_TYPE, value(&kind)?);
    reply.headers_mut().insert(header::CONTENT_LENGTH, length.into());
    Ok(Made(reply))
}
