//! The same over real nodes: links on loopback, accounts found in the overlay, requests over HTTP/2 between keys.

use std::sync::Arc;

use h2_overlay::Overlay;
use router::{
    SecretKey,
    net::{Multicast, Node, NodeConfig},
};
use ruma::api::federation::{discovery::get_server_version, query::get_profile_information};

use super::harness::until;
use crate::{
    account::{Identity, verify_record},
    clock::Clock,
    http::listen::overlay_service,
    notify::Notify,
    remote::{Remote, overlay::OverlayCarrier},
    server::{Parts, Server, Settings},
    store::{Options, Store, Synchronous},
};

struct Real {
    server: Arc<Server>,
    node: Node,
    overlay: Overlay,
    dir: tempfile::TempDir,
}

impl Real {
    /// A server on a node that listens on loopback and dials `peers`.
    async fn start(seed: u8, peers: &[&Self]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let secret = SecretKey::from_seed([seed; 32]);
        let identity = Arc::new(Identity::open_or_create(dir.path(), None, &secret).unwrap());
        let dial = |peer: &&Self| format!("tcp://{}", peer.node.listening()[0]).parse().unwrap();
        let node = Node::start(NodeConfig {
            listen: vec!["tcp://127.0.0.1:0".parse().unwrap()],
            peers: peers.iter().map(dial).collect(),
            multicast: Multicast::off(),
            router: router::Config { verify_account: verify_record, ..router::Config::default() },
            ..NodeConfig::new(secret)
        })
        .await
        .unwrap();
        let overlay = Overlay::of(&node, h2_overlay::Config::default());
        let options = Options { synchronous: Synchronous::Normal, ..Options::default() };
        let store = Store::open(dir.path(), options, Notify::new()).unwrap();
        let clock = Clock::system();
        let carrier = Arc::new(OverlayCarrier::new(node.clone(), overlay.clone()));
        let server = Server::start(Parts {
            settings: Settings { rate_limits: false, ..Settings::default() },
            clock: clock.clone(),
            store: store.clone(),
            remote: Remote::new(store, identity, carrier, clock),
            media_dir: dir.path().join("media"),
            overlay: Some(node.clone()),
        })
        .unwrap();
        let service = overlay_service(Arc::clone(&server));
        let serving = overlay.clone();
        tokio::spawn(async move { serving.serve(service).await });
        Self { server, node, overlay, dir }
    }

    async fn stop(self) {
        self.server.stop();
        self.server.finish().await;
        self.overlay.close().await;
        self.node.shutdown().await;
        self.server.store.close().await;
        drop(self.dir);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_is_found_and_asked_through_another_node() {
    let b = Real::start(42, &[]).await;
    let (a, c) = (Real::start(41, &[&b]).await, Real::start(43, &[&b]).await);
    let carol = c.server.users.create_by_operator("carol", "correct horse battery").await.unwrap();
    until("a reaches c by name", || async {
        let request = get_server_version::v1::Request::new();
        match a.server.remote.request(&c.server.name, request).await {
            Ok(_) => Some(()),
            Err(error) => {
                println!("{error}");
                None
            }
        }
    })
    .await;
    // Signed, so c has to find a's keys in turn.
    let request = get_profile_information::v1::Request::new(carol);
    a.server.remote.request(&c.server.name, request).await.unwrap();
    assert_eq!(a.server.remote.nodes_of(&c.server.name).await.unwrap(), [c.node.id()]);
    for peer in [a, b, c] {
        peer.stop().await;
    }
}
