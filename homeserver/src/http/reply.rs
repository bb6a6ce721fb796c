//! Answers as HTTP: typed responses, raw JSON, and the one exhaustive match from errors to status and errcode.

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response, StatusCode, header};
use ruma::{
    RoomVersionId,
    api::{
        OutgoingResponse, OutgoingResponseExt as _,
        client::uiaa::UiaaResponse,
        error::{
            Error as RumaError, ErrorBody, ErrorKind, IncompatibleRoomVersionErrorData,
            LimitExceededErrorData, RetryAfter, StandardErrorBody, UnknownTokenErrorData,
        },
    },
    push::InsertPushRuleError,
};

use serde::Serialize;

use crate::{
    e2ee::{E2eeError, object::ObjectError},
    error::{Error, RequestError},
    media::MediaError,
    push::PushError,
    remote::RemoteError,
    room::{
        RoomError,
        delayed::{DELAY_MAX_MS, DelayedError},
        thread::ThreadError,
    },
    store::{StoreError, Trouble},
    sync::FilterError,
    user::UserError,
};

/// What goes out.
pub type Reply = Response<Body>;

/// What a handler may answer with: any typed response of ruma's, or [`Raw`] bytes, or a whole [`Reply`].
pub trait IntoReply {
    /// Makes the HTTP response.
    fn into_reply(self) -> Reply;
}

impl<T: OutgoingResponse> IntoReply for T {
    fn into_reply(self) -> Reply {
        match self.try_into_http_response::<Vec<u8>>() {
            Ok(response) => response.map(Body::from),
            Err(error) => {
                tracing::error!(%error, "a response could not be written");
                json(StatusCode::INTERNAL_SERVER_ERROR, BROKEN)
            }
        }
    }
}

/// JSON bytes that are ready to go out with status 200: for hot paths.
#[derive(Clone, Debug)]
pub struct Raw(pub Bytes);

impl IntoReply for Raw {
    fn into_reply(self) -> Reply {
        json(StatusCode::OK, self.0)
    }
}

/// Anything that serializes, with status 200: for answers that carry stored JSON on as it is.
#[derive(Clone, Debug)]
pub struct Json<T>(pub T);

impl<T: Serialize> IntoReply for Json<T> {
    fn into_reply(self) -> Reply {
        match serde_json::to_vec(&self.0) {
            Ok(bytes) => json(StatusCode::OK, bytes),
            Err(error) => broken(&error.to_string()),
        }
    }
}

/// A reply made by hand.
#[derive(Debug)]
pub struct Made(pub Reply);

impl IntoReply for Made {
    fn into_reply(self) -> Reply {
        self.0
    }
}

impl IntoReply for Error {
    fn into_reply(self) -> Reply {
        let text = self.to_string();
        match self {
            Self::Request(error) => request_error(error, text),
            Self::User(error) => user_error(&error, text),
            Self::Media(error) => media_error(&error, text),
            Self::Room(error) => room_error(&error, text),
            Self::Delayed(error) => delayed_error(error, text),
            Self::Thread(error) => thread_error(error, text),
            Self::Remote(error) => remote_error(&error, text),
            Self::E2ee(error) => e2ee_error(&error, text),
            Self::Push(error) => push_error(&error, text),
            Self::Filter(error) => filter_error(&error, text),
            Self::Store(error) => store_error(&error, &text),
            Self::Terms(page) => json(
                StatusCode::FORBIDDEN,
                serde_json::json!({ "errcode": "M_CONSENT_NOT_GIVEN", "error": text, "consent_uri": page })
                    .to_string(),
            ),
            Self::Matrix(kind, _) => refuse(status_of(&kind), kind, text),
            Self::Uiaa(info) => UiaaResponse::AuthResponse(*info).into_reply(),
            Self::Pretend(answer) => json(StatusCode::OK, answer.to_string()),
            Self::Internal(_) => broken(&text),
        }
    }
}

fn request_error(error: RequestError, text: String) -> Reply {
    let (status, kind) = match error {
        RequestError::NotJson(_) => (StatusCode::BAD_REQUEST, ErrorKind::NotJson),
        RequestError::BadJson(_) => (StatusCode::BAD_REQUEST, ErrorKind::BadJson),
        RequestError::InvalidParam(_) => (StatusCode::BAD_REQUEST, ErrorKind::InvalidParam),
        RequestError::MissingParam(_) => (StatusCode::BAD_REQUEST, ErrorKind::MissingParam),
        RequestError::TooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, ErrorKind::TooLarge),
        RequestError::BodyBroken => (StatusCode::BAD_REQUEST, ErrorKind::NotJson),
        RequestError::MissingToken => (StatusCode::UNAUTHORIZED, ErrorKind::MissingToken),
        RequestError::UnknownToken => {
            (StatusCode::UNAUTHORIZED, ErrorKind::UnknownToken(UnknownTokenErrorData::new()))
        }
        RequestError::BadAuthorization => (StatusCode::UNAUTHORIZED, ErrorKind::Unauthorized),
        RequestError::BadSignature(_) => (StatusCode::UNAUTHORIZED, ErrorKind::Unauthorized),
        RequestError::UnknownPath => (StatusCode::NOT_FOUND, ErrorKind::Unrecognized),
        RequestError::UnknownMethod => (StatusCode::METHOD_NOT_ALLOWED, ErrorKind::Unrecognized),
        RequestError::ForeignHost => (StatusCode::MISDIRECTED_REQUEST, ErrorKind::Forbidden),
        RequestError::RateLimited { retry_after_ms } => {
            let mut data = LimitExceededErrorData::new();
            data.retry_after = Some(RetryAfter::Delay(std::time::Duration::from_millis(retry_after_ms)));
            (StatusCode::TOO_MANY_REQUESTS, ErrorKind::LimitExceeded(data))
        }
        RequestError::ShuttingDown => (StatusCode::SERVICE_UNAVAILABLE, ErrorKind::Unknown),
    };
    refuse(status, kind, text)
}

fn user_error(error: &UserError, text: String) -> Reply {
    let kind = match error {
        UserError::InvalidName => ErrorKind::InvalidUsername,
        UserError::NameTaken => ErrorKind::UserInUse,
        UserError::WeakPassword { .. } => ErrorKind::WeakPassword,
        UserError::WrongPassword | UserError::BadRegistrationToken | UserError::BadSharedSecret => {
            ErrorKind::Forbidden
        }
        UserError::Deactivated => ErrorKind::UserDeactivated,
        UserError::Locked => ErrorKind::UserLocked,
        UserError::ExpiredToken => {
            let mut data = UnknownTokenErrorData::new();
            data.soft_logout = true;
            ErrorKind::UnknownToken(data)
        }
        UserError::BadRefreshToken => ErrorKind::UnknownToken(UnknownTokenErrorData::new()),
        UserError::BadLoginToken => ErrorKind::Forbidden,
        UserError::NoMail => ErrorKind::ThreepidMediumNotSupported,
        UserError::MailFailed => return refuse(StatusCode::BAD_GATEWAY, ErrorKind::Unknown, text),
        UserError::AddressInUse => ErrorKind::ThreepidInUse,
        UserError::UnknownAddress => ErrorKind::ThreepidNotFound,
        UserError::NotProven => {
            return refuse(StatusCode::UNAUTHORIZED, ErrorKind::ThreepidAuthFailed, text);
        }
        UserError::NoDevice | UserError::NoUser => ErrorKind::NotFound,
        UserError::TooLarge(_) => ErrorKind::TooLarge,
        UserError::InvalidRegistrationToken | UserError::Invalid(_) => ErrorKind::InvalidParam,
        UserError::Busy => ErrorKind::LimitExceeded(LimitExceededErrorData::new()),
        UserError::Store(error) => return store_error(error, &text),
    };
    refuse(status_of(&kind), kind, text)
}

fn media_error(error: &MediaError, text: String) -> Reply {
    let kind = match error {
        MediaError::NotFound => ErrorKind::NotFound,
        MediaError::NotYetUploaded => ErrorKind::NotYetUploaded,
        MediaError::CannotOverwrite => ErrorKind::CannotOverwriteMedia,
        MediaError::NotOwner => ErrorKind::Forbidden,
        MediaError::TooLarge { .. } => ErrorKind::TooLarge,
        MediaError::TooManyAnnounced => ErrorKind::LimitExceeded(LimitExceededErrorData::new()),
        MediaError::BrokenOff => return refuse(StatusCode::BAD_REQUEST, ErrorKind::Unknown, text),
        MediaError::BadMetadata => ErrorKind::InvalidParam,
        MediaError::NoThumbnail => return refuse(StatusCode::BAD_REQUEST, ErrorKind::Unknown, text),
        MediaError::Unreachable(_) => return refuse(StatusCode::BAD_GATEWAY, ErrorKind::NotFound, text),
        MediaError::Io(_) => return broken(&text),
        MediaError::Store(error) => return store_error(error, &text),
    };
    refuse(status_of(&kind), kind, text)
}

fn room_error(error: &RoomError, text: String) -> Reply {
    let kind = match error {
        RoomError::NotFound(_) => ErrorKind::NotFound,
        RoomError::Forbidden(_) | RoomError::Mixture(_) | RoomError::Rejected(_) => ErrorKind::Forbidden,
        RoomError::NoGuests => ErrorKind::GuestAccessForbidden,
        RoomError::Invalid(_) => ErrorKind::InvalidParam,
        RoomError::BadJson(_) => ErrorKind::BadJson,
        RoomError::InviteBlocked(_) => ErrorKind::InviteBlocked,
        RoomError::BadAlias(_) => ErrorKind::BadAlias,
        RoomError::NotNow(_) => return refuse(StatusCode::BAD_REQUEST, ErrorKind::Unknown, text),
        RoomError::TooLarge => ErrorKind::TooLarge,
        RoomError::UnsupportedVersion(_) => ErrorKind::UnsupportedRoomVersion,
        RoomError::IncompatibleVersion(version) => match RoomVersionId::try_from(version.as_str()) {
            Ok(version) => ErrorKind::IncompatibleRoomVersion(IncompatibleRoomVersionErrorData::new(version)),
            Err(_) => ErrorKind::UnsupportedRoomVersion,
        },
        RoomError::AliasInUse(_) => return refuse(StatusCode::CONFLICT, ErrorKind::RoomInUse, text),
        RoomError::UnableToAuthorise(_) => {
            return refuse(StatusCode::BAD_REQUEST, ErrorKind::UnableToAuthorizeJoin, text);
        }
        RoomError::Unreachable(_) => return refuse(StatusCode::BAD_GATEWAY, ErrorKind::Unknown, text),
        RoomError::Busy => ErrorKind::LimitExceeded(LimitExceededErrorData::new()),
        RoomError::Store(error) => return store_error(error, &text),
    };
    refuse(status_of(&kind), kind, text)
}

fn delayed_error(error: DelayedError, text: String) -> Reply {
    match error {
        DelayedError::Unknown => refuse(StatusCode::NOT_FOUND, ErrorKind::NotFound, text),
        DelayedError::NoDelay => refuse(StatusCode::BAD_REQUEST, ErrorKind::InvalidParam, text),
        // By the names that clients know while the proposal is none of the specification's.
        DelayedError::TooLong => {
            let body = serde_json::json!({
                "errcode": "M_UNKNOWN", "error": text, "max_delay": DELAY_MAX_MS,
                "org.matrix.msc4140.errcode": "M_MAX_DELAY_EXCEEDED", "org.matrix.msc4140.max_delay": DELAY_MAX_MS,
            });
            json(StatusCode::BAD_REQUEST, body.to_string())
        }
        DelayedError::TooMany { retry_after_ms } => {
            request_error(RequestError::RateLimited { retry_after_ms }, text)
        }
        DelayedError::Over(_) => refuse(StatusCode::CONFLICT, ErrorKind::Unknown, text),
        DelayedError::Room(error) => room_error(&error, text),
        DelayedError::Store(error) => store_error(&error, &text),
    }
}

fn thread_error(error: ThreadError, text: String) -> Reply {
    let (status, errcode) = match error {
        ThreadError::NotInThread => (StatusCode::BAD_REQUEST, "IO.ELEMENT.MSC4306.M_NOT_IN_THREAD"),
        ThreadError::Conflict => (StatusCode::CONFLICT, "IO.ELEMENT.MSC4306.M_CONFLICTING_UNSUBSCRIPTION"),
        ThreadError::TooMany => return refuse(StatusCode::BAD_REQUEST, ErrorKind::TooLarge, text),
        ThreadError::Room(error) => return room_error(&error, text),
        ThreadError::Store(error) => return store_error(&error, &text),
    };
    json(status, serde_json::json!({ "errcode": errcode, "error": text }).to_string())
}

fn e2ee_error(error: &E2eeError, text: String) -> Reply {
    let kind = match error {
        E2eeError::Object(ObjectError::Signature(_)) => {
            let body = serde_json::json!({"errcode": "M_INVALID_SIGNATURE", "error": text});
            return json(StatusCode::BAD_REQUEST, body.to_string());
        }
        E2eeError::Object(ObjectError::TooLong { .. }) | E2eeError::TooMany { .. } => ErrorKind::TooLarge,
        E2eeError::Object(ObjectError::Field(_) | ObjectError::NotCanonical(_)) => ErrorKind::BadJson,
        E2eeError::Object(_) | E2eeError::NoMasterKey => ErrorKind::InvalidParam,
        E2eeError::OneTimeKeyTaken(_) => ErrorKind::Unknown,
        E2eeError::NoBackup => ErrorKind::NotFound,
        E2eeError::WrongBackup { current } => {
            let body = serde_json::json!({
                "errcode": "M_WRONG_ROOM_KEYS_VERSION", "error": text, "current_version": current,
            });
            return json(StatusCode::FORBIDDEN, body.to_string());
        }
        E2eeError::BadBackup(_) => ErrorKind::InvalidParam,
        E2eeError::ForeignUser(_) => ErrorKind::Forbidden,
        E2eeError::UnknownUser(_) => ErrorKind::NotFound,
        E2eeError::Ask(_) => return refuse(StatusCode::BAD_GATEWAY, ErrorKind::Unknown, text),
        E2eeError::Store(error) => return store_error(error, &text),
    };
    refuse(status_of(&kind), kind, text)
}

fn push_error(error: &PushError, text: String) -> Reply {
    let kind = match error {
        PushError::NoRule => ErrorKind::NotFound,
        PushError::Insert(InsertPushRuleError::UnknownRuleId) => {
            return refuse(StatusCode::NOT_FOUND, ErrorKind::NotFound, text);
        }
        PushError::Insert(_) | PushError::Remove(_) => ErrorKind::InvalidParam,
        PushError::TooLarge { .. } => ErrorKind::TooLarge,
        PushError::Store(error) => return store_error(error, &text),
    };
    refuse(status_of(&kind), kind, text)
}

fn filter_error(error: &FilterError, text: String) -> Reply {
    let kind = match error {
        FilterError::Unknown => ErrorKind::NotFound,
        FilterError::TooLarge { .. } => ErrorKind::TooLarge,
        FilterError::Invalid(_) => ErrorKind::BadJson,
        FilterError::Store(error) => return store_error(error, &text),
    };
    refuse(status_of(&kind), kind, text)
}

/// What another server refused is passed on as its refusal; what it did not answer is a bad gateway.
fn remote_error(error: &RemoteError, text: String) -> Reply {
    match error {
        RemoteError::Refused { status, .. } if (400..500).contains(status) && *status != 401 => {
            let status = StatusCode::from_u16(*status).unwrap_or(StatusCode::BAD_GATEWAY);
            refuse(status, error.kind(), text)
        }
        RemoteError::Ourselves | RemoteError::Request(_) => broken(&text),
        _ => refuse(StatusCode::BAD_GATEWAY, ErrorKind::Unknown, text),
    }
}

fn store_error(error: &StoreError, text: &str) -> Reply {
    match error {
        StoreError::Closed => {
            request_error(RequestError::ShuttingDown, RequestError::ShuttingDown.to_string())
        }
        error => match error.trouble() {
            Some(trouble) => {
                tracing::error!(%error, "{}", trouble.advice());
                let status = match trouble {
                    Trouble::Full => StatusCode::INSUFFICIENT_STORAGE,
                    _ => StatusCode::INTERNAL_SERVER_ERROR,
                };
                refuse(status, ErrorKind::Unknown, trouble.advice().to_owned())
            }
            None => broken(text),
        },
    }
}

/// The status that goes with an errcode where the specification does not name another.
fn status_of(kind: &ErrorKind) -> StatusCode {
    match kind {
        ErrorKind::Forbidden
        | ErrorKind::GuestAccessForbidden
        | ErrorKind::InviteBlocked
        | ErrorKind::CannotLeaveServerNoticeRoom
        | ErrorKind::UserDeactivated
        | ErrorKind::UserSuspended
        | ErrorKind::UnableToAuthorizeJoin
        | ErrorKind::ThreepidDenied => StatusCode::FORBIDDEN,
        ErrorKind::MissingToken
        | ErrorKind::UnknownToken(_)
        | ErrorKind::Unauthorized
        | ErrorKind::UserLocked => StatusCode::UNAUTHORIZED,
        ErrorKind::NotFound | ErrorKind::Unrecognized => StatusCode::NOT_FOUND,
        ErrorKind::TooLarge | ErrorKind::KeyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        ErrorKind::LimitExceeded(_) => StatusCode::TOO_MANY_REQUESTS,
        ErrorKind::CannotOverwriteMedia | ErrorKind::ConcurrentWrite => StatusCode::CONFLICT,
        ErrorKind::NotYetUploaded => StatusCode::GATEWAY_TIMEOUT,
        ErrorKind::ConnectionFailed | ErrorKind::BadStatus(_) => StatusCode::BAD_GATEWAY,
        ErrorKind::ConnectionTimeout => StatusCode::GATEWAY_TIMEOUT,
        _ => StatusCode::BAD_REQUEST,
    }
}

/// A refusal in the specification's form.
pub fn refuse(status: StatusCode, kind: ErrorKind, message: String) -> Reply {
    RumaError::new(status, ErrorBody::Standard(StandardErrorBody::new(kind, message))).into_reply()
}

/// Our own fault: the log gets the text, the caller does not.
fn broken(text: &str) -> Reply {
    tracing::error!(error = text, "a request failed inside");
    json(StatusCode::INTERNAL_SERVER_ERROR, BROKEN)
}

/// A JSON reply of ready bytes.
pub fn json(status: StatusCode, body: impl Into<Body>) -> Reply {
    let mut reply = Response::new(body.into());
    *reply.status_mut() = status;
    reply.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    reply
}

/// Lets web pages of any origin read our answers, errors too: that is how web clients work.
// spec: https://spec.matrix.org/v1.19/client-server-api/#web-browser-clients
///
/// Pages for people are none of their business: they say so by an origin of `null`, which is taken off here.
pub fn allow_any_page(reply: &mut Reply) {
    if reply.headers().get(header::ACCESS_CONTROL_ALLOW_ORIGIN).is_some_and(|origin| origin == "null") {
        reply.headers_mut().remove(header::ACCESS_CONTROL_ALLOW_ORIGIN);
        return;
    }
    for (name, value) in CORS {
        let name = HeaderName::from_static(name);
        reply.headers_mut().entry(name).or_insert(HeaderValue::from_static(value));
    }
}

const CORS: [(&str, &str); 5] = [
    ("access-control-allow-origin", "*"),
    ("access-control-allow-methods", "GET, POST, PUT, DELETE, OPTIONS, PATCH, HEAD"),
    (
        "access-control-allow-headers",
        "X-Requested-With, Content-Type, Authorization, Range, Date, If-Match, If-None-Match",
    ),
    ("access-control-expose-headers", "Content-Disposition, Content-Range, Retry-After, ETag"),
    ("access-control-max-age", "86400"),
];

const BROKEN: &str =
    r#"{"errcode":"M_UNKNOWN","error":"something went wrong inside the server; its log says what"}"#;
