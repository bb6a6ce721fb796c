//! Where two devices meet for a log-in by QR code: MSC4388, and the first form of MSC4108 that today's clients speak.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use axum::body::Body;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use ruma::api::{
    client::rendezvous::{
        create_rendezvous_session::unstable_msc4388 as create, delete_rendezvous_session::unstable as delete,
        discover_rendezvous::unstable as discover, get_rendezvous_session::unstable as get,
        update_rendezvous_session::unstable as update,
    },
    error::ErrorKind,
};
use serde_json::json;

use crate::{
    api::routes::{Group, Table},
    error::{Error, RequestError},
    http::{
        args::{Args, Incoming},
        limits::Class,
        reply::{Made, Reply, json as json_reply},
    },
    server::Server,
    user::{SLOT_BYTES_MAX, Slot, SlotError},
};

pub(super) fn routes(table: &mut Table) {
    table.add(Group::Client, available);
    table.add(Group::Client, open).limit(Class::Register);
    table.add(Group::Client, read).limit(Class::Refresh);
    table.add(Group::Client, write).limit(Class::Refresh);
    table.add(Group::Client, close).limit(Class::Refresh);
    let bytes = SLOT_BYTES_MAX + 1;
    table.plain(Group::Client, Method::POST, OLD_OPEN_PATH, old_open).limit(Class::Register).body_max(bytes);
    table.plain(Group::Client, Method::GET, OLD_PATH, old_read).limit(Class::Refresh);
    table.plain(Group::Client, Method::PUT, OLD_PATH, old_write).limit(Class::Refresh).body_max(bytes);
    table.plain(Group::Client, Method::DELETE, OLD_PATH, old_close).limit(Class::Refresh);
}

impl From<SlotError> for Error {
    fn from(error: SlotError) -> Self {
        let kind = match error {
            SlotError::Gone => ErrorKind::NotFound,
            SlotError::Changed => ErrorKind::ConcurrentWrite,
            SlotError::TooLarge => return RequestError::TooLarge { limit: SLOT_BYTES_MAX }.into(),
        };
        Self::new(kind, error.to_string())
    }
}

fn left(server: &Server, slot: &Slot) -> Duration {
    Duration::from_millis(slot.expires_ms.saturating_sub(server.clock.now_ms()))
}

async fn available(_: Arc<Server>, _: Args<discover::Request>) -> Result<discover::Response, Error> {
    Ok(discover::Response::new(true))
}

async fn open(server: Arc<Server>, args: Args<create::Request>) -> Result<create::Response, Error> {
    let (id, slot) = server.users.open_slot(args.request.data)?;
    Ok(create::Response::new(id, slot.tag.clone(), left(&server, &slot)))
}

async fn read(server: Arc<Server>, args: Args<get::Request>) -> Result<get::Response, Error> {
    let slot = server.users.slot(&args.id)?;
    let left = left(&server, &slot);
    Ok(get::Response::new(slot.tag, slot.data, left))
}

async fn write(server: Arc<Server>, args: Args<update::Request>) -> Result<update::Response, Error> {
    let request = args.request;
    let slot = server.users.write_slot(&request.id, &request.sequence_token, request.data)?;
    Ok(update::Response::new(slot.tag))
}

async fn close(server: Arc<Server>, args: Args<delete::Request>) -> Result<delete::Response, Error> {
    match server.users.close_slot(&args.id) {
        true => Ok(delete::Response::new()),
        false => Err(SlotError::Gone.into()),
    }
}

// MSC4108 as it first was: plain text, and HTTP's own tags.

fn text(incoming: &Incoming) -> Result<String, Error> {
    let kind = incoming.head.header(header::CONTENT_TYPE).unwrap_or_default();
    if kind.split(';').next().map(str::trim) != Some("text/plain") {
        return Err(Error::invalid_param("the body has to be text/plain"));
    }
    String::from_utf8(incoming.body.to_vec())
        .map_err(|_| RequestError::InvalidParam("the body is no text".into()).into())
}

fn id(incoming: &Incoming) -> &str {
    incoming.path.first().map(String::as_str).unwrap_or_default()
}

fn tag(slot: &Slot) -> String {
    format!("\"{}\"", slot.tag)
}

/// The slot's tag and times.
fn mark(headers: &mut HeaderMap, server: &Server, slot: &Slot) {
    // As the clock of this machine has it, however a test turns ours.
    let at = |ms: u64| {
        let now = server.clock.now_ms();
        let time = if ms >= now {
            SystemTime::now() + Duration::from_millis(ms - now)
        } else {
            SystemTime::now() - Duration::from_millis(now - ms)
        };
        httpdate::fmt_http_date(time)
    };
    for (name, value) in [
        (header::ETAG, tag(slot)),
        (header::EXPIRES, at(slot.expires_ms)),
        (header::LAST_MODIFIED, at(slot.changed_ms)),
        (header::CACHE_CONTROL, "no-store, no-transform".into()),
        (header::PRAGMA, "no-cache".into()),
    ] {
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(name, value);
        }
    }
}

fn bare(status: StatusCode, server: &Server, slot: &Slot) -> Reply {
    let mut reply = Response::new(Body::empty());
    *reply.status_mut() = status;
    mark(reply.headers_mut(), server, slot);
    reply
}

async fn old_open(server: Arc<Server>, incoming: Incoming) -> Result<Made, Error> {
    let base = match &server.settings().public_url {
        Some(url) => url.clone(),
        None => {
            let host = incoming.head.header(header::HOST);
            format!("http://{}", host.ok_or_else(|| Error::not_found("no address is known to meet at"))?)
        }
    };
    let (id, slot) = server.users.open_slot(text(&incoming)?)?;
    let url = format!("{base}{}", OLD_PATH.replace("{id}", &id));
    let mut reply = json_reply(StatusCode::CREATED, json!({ "url": url }).to_string());
    mark(reply.headers_mut(), &server, &slot);
    Ok(Made(reply))
}

async fn old_read(server: Arc<Server>, incoming: Incoming) -> Result<Made, Error> {
    let slot = server.users.slot(id(&incoming))?;
    if incoming.head.header(header::IF_NONE_MATCH).is_some_and(|known| known == tag(&slot)) {
        return Ok(Made(bare(StatusCode::NOT_MODIFIED, &server, &slot)));
    }
    let mut reply = bare(StatusCode::OK, &server, &slot);
    reply.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    // It is anybody's text: no page of ours.
    reply.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    *reply.body_mut() = Body::from(slot.data);
    Ok(Made(reply))
}

async fn old_write(server: Arc<Server>, incoming: Incoming) -> Result<Made, Error> {
    let known = incoming.head.header(header::IF_MATCH);
    let known = known.ok_or_else(|| RequestError::MissingParam("header If-Match".into()))?.trim_matches('"');
    match server.users.write_slot(id(&incoming), known, text(&incoming)?) {
        Ok(slot) => Ok(Made(bare(StatusCode::ACCEPTED, &server, &slot))),
        Err(SlotError::Changed) => {
            let slot = server.users.slot(id(&incoming))?;
            let said = json!({ "errcode": "M_CONCURRENT_WRITE", "error": SlotError::Changed.to_string(),
                "org.matrix.msc4108.errcode": "M_CONCURRENT_WRITE" });
            let mut reply = json_reply(StatusCode::PRECONDITION_FAILED, said.to_string());
            mark(reply.headers_mut(), &server, &slot);
            Ok(Made(reply))
        }
        Err(error) => Err(error.into()),
    }
}

async fn old_close(server: Arc<Server>, incoming: Incoming) -> Result<Made, Error> {
    if !server.users.close_slot(id(&incoming)) {
        return Err(SlotError::Gone.into());
    }
    let mut reply = Response::new(Body::empty());
    *reply.status_mut() = StatusCode::NO_CONTENT;
    Ok(Made(reply))
}

const OLD_OPEN_PATH: &str = "/_matrix/client/unstable/org.matrix.msc4108/rendezvous";
const OLD_PATH: &str = "/_mangrove/rendezvous/{id}";
