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
    http::listen::overlay_service,
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
