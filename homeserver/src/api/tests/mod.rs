//! A whole homeserver in this process, asked over its own routers: no socket, no overlay, a clock moved by hand.

mod access;
mod account;
pub(crate) mod admin;
mod bad_input;
mod calls;
mod clock;
mod dehydrated;
mod erasure;
mod idle;
mod listener;
mod mail;
mod media;
mod oauth;
mod oddities;
mod preview;
mod proposals;
mod purge;
mod reload;
mod rendezvous;
mod rooms;
mod sessions;
mod standing;
mod uia;
mod upstream;

use std::{path::Path, sync::Arc};

use axum::{Router, body::Body};
use bytes::Bytes;
use http::{Method, Request, StatusCode, header, response::Parts as Head};
use http_body_util::BodyExt as _;
use router::SecretKey;
use serde_json::{Value, json};
use tower::ServiceExt as _;

use crate::{
    account::{Identity, NameChoice},
    clock::Clock,
    http::listen::client_service,
    notify::Notify,
    remote::{Remote, memory::MemoryNet},
    server::{Parts, Registration, Server, Settings},
    store::{Options, Store},
};

/// A homeserver and its clients' side.
pub(crate) struct Home {
    pub(crate) server: Arc<Server>,
    pub(crate) client: Router,
    _dir: Option<tempfile::TempDir>,
}

/// Somebody logged in.
pub(crate) struct User {
    pub(crate) id: String,
    pub(crate) token: String,
    pub(crate) device: String,
}

/// Everybody may register and nothing is limited: what most tests want.
pub(crate) fn open() -> Settings {
    Settings { registration: Registration::Open, rate_limits: false, ..Settings::default() }
}

/// The password of every user made by [`Home::user`].
pub(crate) const PASSWORD: &str = "correct horse battery";

impl Home {
    pub(crate) async fn new(settings: Settings) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let home = Self::at(dir.path(), settings).await;
        Self { _dir: Some(dir), ..home }
    }

    /// On a data directory of the caller's, perhaps of an earlier run.
    pub(crate) async fn at(dir: &Path, settings: Settings) -> Self {
        let clock = Clock::manual(1_700_000_000_000);
        let key = SecretKey::from_seed([7; 32]);
        let identity =
            Identity::open_or_create(dir, Some(NameChoice::Zone("mesh.alt".into())), &key).unwrap();
        let store = Store::open(dir, Options::default(), Notify::new()).unwrap();
        let net = MemoryNet::new();
        let remote = Remote::new(store.clone(), Arc::new(identity), net.carrier(key.id()), clock.clone());
        let media_dir = dir.join("media");
        let server =
            Server::start(Parts { settings, clock, store, remote, media_dir, overlay: None }).unwrap();
        let client = client_service(Arc::clone(&server));
        Self { server, client, _dir: None }
    }

    /// Ends as a node does.
    pub(crate) async fn close(self) {
        self.server.stop();
        self.server.finish().await;
        self.server.store.close().await;
    }

    /// Sends a request as it is.
    pub(crate) async fn send(&self, request: Request<Body>) -> (Head, Bytes) {
        let (head, body) = self.client.clone().oneshot(request).await.unwrap().into_parts();
        (head, body.collect().await.unwrap().to_bytes())
    }

    /// Sends JSON (or, for `Null`, no body) and reads JSON.
    pub(crate) async fn call(
        &self,
        method: Method,
        path: &str,
        token: Option<&str>,
        body: Value,
    ) -> (StatusCode, Value) {
        let mut request = Request::builder().method(method).uri(path);
        if let Some(token) = token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let body = if body.is_null() { Body::empty() } else { Body::from(body.to_string()) };
        let (head, body) = self.send(request.body(body).unwrap()).await;
        assert_eq!(head.headers["access-control-allow-origin"], "*", "{path}");
        let json = serde_json::from_slice(&body).unwrap_or_else(|error| panic!("{path}: {error}: {body:?}"));
        (head.status, json)
    }

    pub(crate) async fn get(&self, path: &str, user: &User) -> (StatusCode, Value) {
        self.call(Method::GET, path, Some(&user.token), Value::Null).await
    }

    pub(crate) async fn post(&self, path: &str, user: &User, body: Value) -> (StatusCode, Value) {
        self.call(Method::POST, path, Some(&user.token), body).await
    }

    pub(crate) async fn put(&self, path: &str, user: &User, body: Value) -> (StatusCode, Value) {
        self.call(Method::PUT, path, Some(&user.token), body).await
    }

    /// Registers somebody on an open server.
    pub(crate) async fn user(&self, name: &str) -> User {
        let body = json!({
            "username": name, "password": PASSWORD, "auth": { "type": "m.login.dummy" },
        });
        let (status, answer) = self.call(Method::POST, "/_matrix/client/v3/register", None, body).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        User::of(&answer)
    }
}

impl User {
    /// What a log-in or registration answered.
    pub(crate) fn of(answer: &Value) -> Self {
        let text =
            |field: &str| answer[field].as_str().unwrap_or_else(|| panic!("{field}: {answer}")).to_owned();
        Self { id: text("user_id"), token: text("access_token"), device: text("device_id") }
    }
}

/// Checks an error's status and errcode, and that it says something.
#[track_caller]
pub(crate) fn assert_error((status, answer): (StatusCode, Value), expected: u16, errcode: &str) {
    assert_eq!((status.as_u16(), answer["errcode"].as_str()), (expected, Some(errcode)), "{answer}");
    assert!(answer["error"].as_str().is_some_and(|text| text.len() > 5), "{answer}");
}
