//! Servers that can be started, cut off, stopped and started again.

use std::{sync::Arc, time::Duration};

use axum::body::Body;
use bytes::Bytes;
use http_body_util::BodyExt as _;
use router::{NodeId, SecretKey};
use ruma::{
    OwnedUserId, ServerName, UserId,
    api::{OutgoingRequest, OutgoingRequestExt as _, path_builder::PathBuilder},
    signatures::Ed25519KeyPair,
};
use tower::ServiceExt as _;

use crate::{
    account::Identity,
    clock::Clock,
    http::listen::{client_service, overlay_service},
    notify::Notify,
    remote::{Remote, client::ServerAuth, memory::MemoryNet},
    server::{Parts, Server, Settings},
    store::{Options, Store, Synchronous},
};

/// Longest wait for anything that is to happen by itself.
pub(super) const DEADLINE: Duration = Duration::from_secs(20);

/// One server and what it keeps between two starts.
pub(super) struct Peer {
    pub(super) server: Arc<Server>,
    pub(super) secret: SecretKey,
    dir: tempfile::TempDir,
    net: MemoryNet,
}

impl Peer {
    /// A new server in `mesh.alt`.
    pub(super) async fn start(net: &MemoryNet, seed: u8) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let secret = SecretKey::from_seed([seed; 32]);
        let server = run(net, dir.path(), &secret);
        Self { server, secret, dir, net: net.clone() }
    }

    /// Stops it in good order and starts it again from what it has on disk.
    pub(super) async fn restart(self) -> Self {
        let Self { server, secret, dir, net } = self;
        stop(&server).await;
        drop(server);
        let server = run(&net, dir.path(), &secret);
        Self { server, secret, dir, net }
    }

    /// Stops it; nothing answers there any more.
    pub(super) async fn stop(self) -> Stopped {
        let Self { server, secret, dir, net } = self;
        net.set_away(secret.id(), true);
        stop(&server).await;
        Stopped { secret, dir, net }
    }

    pub(super) fn name(&self) -> &ServerName {
        &self.server.name
    }

    pub(super) fn node(&self) -> NodeId {
        self.secret.id()
    }

    /// Makes an account.
    pub(super) async fn user(&self, name: &str) -> OwnedUserId {
        self.server.users.create_by_operator(name, "correct horse battery").await.unwrap()
    }

    /// A user id here, whether there is such a user or not.
    pub(super) fn id(&self, name: &str) -> OwnedUserId {
        UserId::parse(format!("@{name}:{}", self.server.name)).unwrap()
    }

    /// Hands HTTP to this server as if it came from `node`.
    pub(super) async fn ask(
        &self,
        node: NodeId,
        mut request: http::Request<Bytes>,
    ) -> (u16, serde_json::Value) {
        request.extensions_mut().insert(h2_overlay::Caller(node));
        let path = request.uri().path_and_query().cloned().unwrap();
        *request.uri_mut() = path.into();
        let service = overlay_service(Arc::clone(&self.server));
        let response = service.oneshot(request.map(Body::from)).await.unwrap();
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&body).unwrap_or_default())
    }
}

/// A client of one server, over its client API.
pub(super) struct Client {
    service: axum::Router,
    token: String,
    pub(super) user: OwnedUserId,
    pub(super) device: String,
}

impl Client {
    /// Logs a new account in.
    pub(super) async fn new(peer: &Peer, name: &str) -> Self {
        let user = peer.user(name).await;
        let service = client_service(Arc::clone(&peer.server));
        let mut client = Self { service, token: String::new(), user, device: String::new() };
        let login = serde_json::json!({
            "type": "m.login.password",
            "identifier": { "type": "m.id.user", "user": name },
            "password": "correct horse battery",
        });
        let answer = client.call("POST", "/_matrix/client/v3/login", &login).await;
        client.token = answer["access_token"].as_str().unwrap().to_owned();
        client.device = answer["device_id"].as_str().unwrap().to_owned();
        client
    }

    /// Calls an endpoint that has to succeed; the answer is its JSON.
    pub(super) async fn call(&self, method: &str, path: &str, body: &serde_json::Value) -> serde_json::Value {
        let (status, body) = self.raw(method, path, body.to_string().into(), "application/json").await;
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
        assert_eq!(status, 200, "{method} {path}: {body}");
        body
    }

    pub(super) async fn get(&self, path: &str) -> serde_json::Value {
        let (status, body) = self.raw("GET", path, Bytes::new(), "application/json").await;
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
        assert_eq!(status, 200, "GET {path}: {body}");
        body
    }

    pub(super) async fn raw(&self, method: &str, path: &str, body: Bytes, kind: &str) -> (u16, Bytes) {
        let request = http::Request::builder()
            .method(method)
            .uri(path)
            .header("host", "localhost")
            .header("content-type", kind)
            .header("authorization", format!("Bearer {}", self.token))
            .body(Body::from(body))
            .unwrap();
        let response = self.service.clone().oneshot(request).await.unwrap();
        let status = response.status().as_u16();
        (status, response.into_body().collect().await.unwrap().to_bytes())
    }

    /// Syncs from `since` on until `check` finds something in an answer; moves `since`.
    pub(super) async fn sync_until<T>(
        &self,
        what: &str,
        since: &mut Option<String>,
        mut check: impl FnMut(&serde_json::Value) -> Option<T>,
    ) -> T {
        let start = std::time::Instant::now();
        loop {
            let from = since.as_ref().map_or_else(String::new, |since| format!("&since={since}"));
            let answer = self.get(&format!("/_matrix/client/v3/sync?timeout=1000{from}")).await;
            *since = Some(answer["next_batch"].as_str().unwrap().to_owned());
            if let Some(found) = check(&answer) {
                return found;
            }
            assert!(start.elapsed() < DEADLINE, "{what} did not come; last answer: {answer}");
        }
    }
}

/// A server that does not run.
pub(super) struct Stopped {
    secret: SecretKey,
    dir: tempfile::TempDir,
    net: MemoryNet,
}

impl Stopped {
    pub(super) async fn start(self) -> Peer {
        let Self { secret, dir, net } = self;
        net.set_away(secret.id(), false);
        let server = run(&net, dir.path(), &secret);
        Peer { server, secret, dir, net }
    }
}

fn run(net: &MemoryNet, dir: &std::path::Path, secret: &SecretKey) -> Arc<Server> {
    let identity = Arc::new(Identity::open_or_create(dir, None, secret).unwrap());
    let options = Options { synchronous: Synchronous::Normal, ..Options::default() };
    let store = Store::open(dir, options, Notify::new()).unwrap();
    let clock = Clock::system();
    net.publish(identity.account_record(clock.now_ms()));
    let remote = Remote::new(store.clone(), identity, net.carrier(secret.id()), clock.clone());
    let server = Server::start(Parts {
        settings: Settings { rate_limits: false, ..Settings::default() },
        clock,
        store,
        remote,
        media_dir: dir.join("media"),
        overlay: None,
    })
    .unwrap();
    net.serve(secret.id(), overlay_service(Arc::clone(&server)));
    server
}

async fn stop(server: &Server) {
    server.stop();
    server.finish().await;
    server.store.close().await;
}

/// A request as `origin` would sign it with `key`.
pub(super) fn signed<R>(
    request: R,
    origin: &ServerName,
    destination: &ServerName,
    key: &Ed25519KeyPair,
) -> http::Request<Bytes>
where
    R: OutgoingRequest,
    R::Authentication: ServerAuth,
    for<'a> R::PathBuilder: PathBuilder<Input<'a> = ()>,
{
    let auth = R::Authentication::input(origin.to_owned(), destination.to_owned(), key);
    request.try_into_http_request::<Vec<u8>>("https://x", auth, ()).unwrap().map(Bytes::from)
}

/// Waits until `check` gives something.
pub(super) async fn until<T, F>(what: &str, mut check: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let start = std::time::Instant::now();
    loop {
        if let Some(found) = check().await {
            return found;
        }
        assert!(start.elapsed() < DEADLINE, "{what} did not happen");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
