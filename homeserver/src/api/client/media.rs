//! Media: uploading, downloading, thumbnails, by the old paths and the ones that ask for a token.

use std::sync::Arc;

use axum::body::Body;
use bytes::Bytes;
use futures_util::Stream;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use ruma::{
    ServerName, UInt, UserId,
    api::{
        client::{
            authenticated_media as v1,
            media::{self as v3, create_content, create_content_async, create_mxc_uri},
        },
        error::ErrorKind,
    },
    http_headers::{ContentDisposition, ContentDispositionType},
    media::Method as WantedMethod,
};
use serde_json::{Map, Value};
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};

use crate::{
    api::routes::{Group, Table},
    error::Error,
    http::{
        args::{Args, Head, Streaming},
        auth::{caller_of, require_user},
        limits::Class,
        reply::{Json, Made, Reply},
    },
    media::{MediaError, Method, Opened, PreviewError, Size},
    server::Server,
};

pub(super) fn routes(table: &mut Table) {
    table.add_streaming::<create_content::v3::Request, _, _, _>(Group::Client, upload);
    table.add_streaming::<create_content_async::v3::Request, _, _, _>(Group::Client, upload_announced);
    table.add(Group::Client, announce);
    table.add(Group::Client, config);
    table.add(Group::Client, old_config);
    table.add(Group::Client, download);
    table.add(Group::Client, download_as);
    table.add(Group::Client, thumbnail);
    table.add(Group::Client, old_download);
    table.add(Group::Client, old_download_as);
    table.add(Group::Client, old_thumbnail);
    table.add(Group::Client, preview);
    table.add(Group::Client, old_preview);
}

async fn upload(server: Arc<Server>, request: Streaming) -> Result<create_content::v3::Response, Error> {
    let head = &request.incoming.head;
    let user = caller_of(&server, &request.incoming).await?.user;
    server.limits.take(Class::Write, user.as_str())?;
    refuse_large(&server, &head.headers)?;
    let (kind, name) = described(head);
    let uri = server.media.upload(&user, request.body, kind, name).await?;
    Ok(create_content::v3::Response::new(uri))
}

async fn upload_announced(server: Arc<Server>, request: Streaming) -> Result<Json<Value>, Error> {
    let head = &request.incoming.head;
    let user = caller_of(&server, &request.incoming).await?.user;
    server.limits.take(Class::Write, user.as_str())?;
    refuse_large(&server, &head.headers)?;
    let [name, id] = &request.incoming.path[..] else {
        return Err(Error::not_found("no such media"));
    };
    let origin = ServerName::parse(name).map_err(|_| Error::invalid_param("that is no server name"))?;
    let (kind, name) = described(head);
    server.media.upload_announced(&user, &origin, id, request.body, kind, name).await?;
    Ok(Json(serde_json::json!({})))
}

async fn announce(
    server: Arc<Server>,
    args: Args<create_mxc_uri::v1::Request>,
) -> Result<create_mxc_uri::v1::Response, Error> {
    let user = &args.caller.user;
    server.limits.take(Class::Write, user.as_str())?;
    let announced = server.media.announce(user).await?;
    let mut response = create_mxc_uri::v1::Response::new(announced.uri);
    response.unused_expires_at =
        Some(ruma::MilliSecondsSinceUnixEpoch(UInt::new_saturating(announced.expires_ms)));
    Ok(response)
}

async fn config(
    server: Arc<Server>,
    _: Args<v1::get_media_config::v1::Request>,
) -> Result<v1::get_media_config::v1::Response, Error> {
    let max = UInt::new_saturating(server.media.upload_bytes_max());
    Ok(v1::get_media_config::v1::Response::new(max))
}

#[allow(deprecated, reason = "old clients use it")]
async fn old_config(
    server: Arc<Server>,
    _: Args<v3::get_media_config::v3::Request>,
) -> Result<v3::get_media_config::v3::Response, Error> {
    let max = UInt::new_saturating(server.media.upload_bytes_max());
    Ok(v3::get_media_config::v3::Response::new(max))
}

async fn download(server: Arc<Server>, args: Args<v1::get_content::v1::Request>) -> Result<Made, Error> {
    let file = server.media.get(&args.server_name, &args.media_id, args.timeout_ms, true).await?;
    send(file, &args.head, None).await
}

async fn download_as(
    server: Arc<Server>,
    args: Args<v1::get_content_as_filename::v1::Request>,
) -> Result<Made, Error> {
    let file = server.media.get(&args.server_name, &args.media_id, args.timeout_ms, true).await?;
    send(file, &args.head, Some(args.filename.clone())).await
}

async fn thumbnail(
    server: Arc<Server>,
    args: Args<v1::get_content_thumbnail::v1::Request>,
) -> Result<Made, Error> {
    let size = size(args.width, args.height, args.method.as_ref(), args.animated);
    let file = server.media.thumbnail(&args.server_name, &args.media_id, size, args.timeout_ms, true).await?;
    send(file, &args.head, None).await
}

async fn preview(
    server: Arc<Server>,
    args: Args<v1::get_media_preview::v1::Request>,
) -> Result<Json<Map<String, Value>>, Error> {
    look(&server, &args.caller.user, &args.url, &args.head).await
}

#[allow(deprecated, reason = "old clients use it")]
async fn old_preview(
    server: Arc<Server>,
    args: Args<v3::get_media_preview::v3::Request>,
) -> Result<Json<Map<String, Value>>, Error> {
    look(&server, &args.caller.user, &args.url, &args.head).await
}

async fn look(
    server: &Arc<Server>,
    user: &UserId,
    url: &str,
    head: &Head,
) -> Result<Json<Map<String, Value>>, Error> {
    let previews = server.previews.as_ref().ok_or_else(|| {
        Error::new(ErrorKind::Unrecognized, "this server makes no previews of links; see `url_previews`")
    })?;
    server.limits.take(Class::Write, user.as_str())?;
    match previews.preview(url, head.header(header::ACCEPT_LANGUAGE)).await {
        Ok(told) => Ok(Json((*told).clone())),
        Err(PreviewError::BadAddress) => Err(Error::invalid_param(PreviewError::BadAddress.to_string())),
        Err(PreviewError::Media(error)) => Err(error.into()),
        Err(error) => Err(MediaError::Unreachable(error.to_string()).into()),
    }
}

// The old paths carry no token, so they serve what this node has and fetch nothing for strangers; a client that shows
// its token there is served like any other.

#[allow(deprecated, reason = "old clients use it")]
async fn old_download(server: Arc<Server>, args: Args<v3::get_content::v3::Request>) -> Result<Made, Error> {
    let fetch = args.allow_remote && known(&server, &args.head).await;
    let file = server.media.get(&args.server_name, &args.media_id, args.timeout_ms, fetch).await?;
    send(file, &args.head, None).await
}

#[allow(deprecated, reason = "old clients use it")]
async fn old_download_as(
    server: Arc<Server>,
    args: Args<v3::get_content_as_filename::v3::Request>,
) -> Result<Made, Error> {
    let fetch = args.allow_remote && known(&server, &args.head).await;
    let file = server.media.get(&args.server_name, &args.media_id, args.timeout_ms, fetch).await?;
    send(file, &args.head, Some(args.filename.clone())).await
}

#[allow(deprecated, reason = "old clients use it")]
async fn old_thumbnail(
    server: Arc<Server>,
    args: Args<v3::get_content_thumbnail::v3::Request>,
) -> Result<Made, Error> {
    let fetch = args.allow_remote && known(&server, &args.head).await;
    let size = size(args.width, args.height, args.method.as_ref(), args.animated);
    let file =
        server.media.thumbnail(&args.server_name, &args.media_id, size, args.timeout_ms, fetch).await?;
    send(file, &args.head, None).await
}

async fn known(server: &Arc<Server>, head: &Head) -> bool {
    require_user(server, &head.headers, head.uri.query()).await.is_ok()
}

fn size(width: UInt, height: UInt, method: Option<&WantedMethod>, animated: Option<bool>) -> Size {
    let pixels = |side: UInt| u32::try_from(u64::from(side)).unwrap_or(u32::MAX);
    Size {
        width: pixels(width).max(1),
        height: pixels(height).max(1),
        method: match method {
            Some(WantedMethod::Crop) => Method::Crop,
            _ => Method::Scale,
        },
        animated: animated == Some(true),
    }
}

/// A length that says too much is refused before a byte is written.
fn refuse_large(server: &Arc<Server>, headers: &HeaderMap) -> Result<(), Error> {
    let limit = server.media.upload_bytes_max();
    let length =
        headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    match length {
        Some(length) if length > limit => Err(MediaError::TooLarge { limit }.into()),
        _ => Ok(()),
    }
}

/// Type and file name of an upload.
fn described(head: &Head) -> (Option<String>, Option<String>) {
    let kind = head.header(header::CONTENT_TYPE).map(str::to_owned);
    let name = head.query_values("filename").next().filter(|name| !name.is_empty());
    (kind, name)
}

/// The answer that carries a file: whole, or the part that was asked for, or nothing if the caller has it.
async fn send(opened: Opened, head: &Head, name: Option<String>) -> Result<Made, Error> {
    let tag = format!("\"{}\"", data_encoding::HEXLOWER.encode(&opened.hash[..16]));
    let mut reply = Reply::new(Body::empty());
    describe(reply.headers_mut(), &opened, name, &tag);
    if head.header(header::IF_NONE_MATCH).is_some_and(|known| known.contains(&tag)) {
        *reply.status_mut() = StatusCode::NOT_MODIFIED;
        return Ok(Made(reply));
    }
    let whole = 0..opened.size;
    let fresh = head.header(header::IF_RANGE).is_none_or(|known| known == tag);
    let part = match head.header(header::RANGE).filter(|_| fresh).map(|range| part(range, opened.size)) {
        None | Some(Part::Ignored) => whole,
        Some(Part::Unsatisfiable) => {
            *reply.status_mut() = StatusCode::RANGE_NOT_SATISFIABLE;
            set(&mut reply, header::CONTENT_RANGE, &format!("bytes */{}", opened.size));
            return Ok(Made(reply));
        }
        Some(Part::Bytes(part)) => {
            *reply.status_mut() = StatusCode::PARTIAL_CONTENT;
            let range = format!("bytes {}-{}/{}", part.start, part.end - 1, opened.size);
            set(&mut reply, header::CONTENT_RANGE, &range);
            part
        }
    };
    set(&mut reply, header::CONTENT_LENGTH, &(part.end - part.start).to_string());
    if head.method != http::Method::HEAD {
        let mut file = opened.file;
        if part.start > 0 {
            file.seek(std::io::SeekFrom::Start(part.start)).await.map_err(MediaError::from)?;
        }
        *reply.body_mut() = Body::from_stream(chunks(file, part.end - part.start));
    }
    Ok(Made(reply))
}

/// A file's next `length` bytes, piece by piece.
pub(in crate::api) fn chunks(
    file: tokio::fs::File,
    length: u64,
) -> impl Stream<Item = Result<Bytes, std::io::Error>> + Send {
    futures_util::stream::try_unfold((file, length), |(mut file, left)| async move {
        if left == 0 {
            return Ok::<_, std::io::Error>(None);
        }
        let mut chunk = vec![0; left.min(CHUNK_BYTES) as usize];
        let read = file.read(&mut chunk).await?;
        if read == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        chunk.truncate(read);
        Ok(Some((Bytes::from(chunk), (file, left - read as u64))))
    })
}

/// What a web page may do with a file of whoever uploaded it: look at it, in a sandbox, under the type it came with.
// spec: https://spec.matrix.org/v1.19/client-server-api/#serving-inline-content
fn describe(headers: &mut HeaderMap, opened: &Opened, name: Option<String>, tag: &str) {
    let kind = opened.content_type.as_deref().unwrap_or(BINARY);
    let bare = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let disposition = if INLINE.contains(&&*bare) {
        ContentDispositionType::Inline
    } else {
        ContentDispositionType::Attachment
    };
    let name = name.or_else(|| opened.name.clone());
    let disposition = ContentDisposition::new(disposition).with_filename(name).to_string();
    let kind = HeaderValue::from_str(kind).unwrap_or(HeaderValue::from_static(BINARY));
    headers.insert(header::CONTENT_TYPE, kind);
    if let Ok(value) = HeaderValue::try_from(disposition) {
        headers.insert(header::CONTENT_DISPOSITION, value);
    }
    if let Ok(value) = HeaderValue::from_str(tag) {
        headers.insert(header::ETAG, value);
    }
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, CSP),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::ACCEPT_RANGES, "bytes"),
        (header::CACHE_CONTROL, "private, max-age=86400, immutable"),
        (header::HeaderName::from_static("cross-origin-resource-policy"), "cross-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
}

fn set(reply: &mut Response<Body>, name: header::HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        reply.headers_mut().insert(name, value);
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Part {
    Bytes(std::ops::Range<u64>),
    Unsatisfiable,
    /// Several ranges, or none we understand: the whole file is a right answer.
    Ignored,
}

/// The part of a file of `size` bytes that a `Range` header names.
fn part(range: &str, size: u64) -> Part {
    let Some((first, last)) = range.strip_prefix("bytes=").and_then(|range| range.split_once('-')) else {
        return Part::Ignored;
    };
    let (first, last) = (first.trim(), last.trim());
    let bounds = match (first.parse::<u64>(), last.parse::<u64>()) {
        (Ok(first), Ok(last)) if first <= last => first..last.saturating_add(1).min(size),
        (Ok(first), Err(_)) if last.is_empty() => first..size,
        (Err(_), Ok(last)) if first.is_empty() => size.saturating_sub(last)..size,
        _ => return Part::Ignored,
    };
    if bounds.start < bounds.end { Part::Bytes(bounds) } else { Part::Unsatisfiable }
}

const BINARY: &str = "application/octet-stream";
const CHUNK_BYTES: u64 = 64 << 10;
const CSP: &str = "sandbox; default-src 'none'; script-src 'none'; plugin-types application/pdf; style-src 'unsafe-inline'; object-src 'self'";

/// Types that a browser may show in place: the specification's list.
const INLINE: [&str; 29] = [
    "text/css",
    "text/plain",
    "text/csv",
    "application/json",
    "application/ld+json",
    "image/jpeg",
    "image/gif",
    "image/png",
    "image/apng",
    "image/webp",
    "image/avif",
    "video/mp4",
    "video/webm",
    "video/ogg",
    "video/quicktime",
    "audio/mp4",
    "audio/webm",
    "audio/aac",
    "audio/mpeg",
    "audio/ogg",
    "audio/wave",
    "audio/wav",
    "audio/x-wav",
    "audio/x-pn-wav",
    "audio/flac",
    "audio/x-flac",
    "audio/x-m4a",
    "audio/opus",
    "video/x-m4v",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        assert_eq!(part("bytes=0-3", 10), Part::Bytes(0..4));
        assert_eq!(part("bytes=4-", 10), Part::Bytes(4..10));
        assert_eq!(part("bytes=-3", 10), Part::Bytes(7..10));
        assert_eq!(part("bytes=0-99", 10), Part::Bytes(0..10));
        assert_eq!(part("bytes=-99", 10), Part::Bytes(0..10));
        assert_eq!(part("bytes=10-", 10), Part::Unsatisfiable);
        assert_eq!(part("bytes=-0", 10), Part::Unsatisfiable);
        assert_eq!(part("bytes=3-2", 10), Part::Ignored);
        assert_eq!(part("bytes=0-1,3-4", 10), Part::Ignored);
        assert_eq!(part("lines=0-1", 10), Part::Ignored);
        assert_eq!(part("bytes=18446744073709551615-", 10), Part::Unsatisfiable);
        assert_eq!(part("bytes=0-18446744073709551615", 10), Part::Bytes(0..10));
    }
}
