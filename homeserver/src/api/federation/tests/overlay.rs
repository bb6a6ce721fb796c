//! The same over real nodes: links on loopback, accounts found in the overlay, requests over HTTP/2 between keys.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use h2_overlay::Overlay;
use router::{
    SecretKey,
    net::{Multicast, Node, NodeConfig},
};
use ruma::{
    RoomId, RoomOrAliasId, UserId,
    api::{
        client::room::create_room,
        federation::{discovery::get_server_version, query::get_profile_information},
    },
};
use serde_json::{json, value::to_raw_value};

use super::harness::until;
use crate::{
    account::{Identity, verify_record},
    clock::Clock,
    http::listen::overlay_service,
    notify::Notify,
    remote::{Remote, overlay::OverlayCarrier},
    room::{Draft, read::MessagesQuery},
    server::{Parts, Server, Settings},
    store::{Options, Store},
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
        Self::start_in(tempfile::tempdir().unwrap(), seed, peers).await
    }

    async fn start_in(dir: tempfile::TempDir, seed: u8, peers: &[&Self]) -> Self {
        let secret = SecretKey::from_seed([seed; 32]);
        let identity = Arc::new(Identity::open_or_create(dir.path(), None, &secret).unwrap());
        let dial = |peer: &&Self| format!("tcp://{}", peer.node.listening()[0]).parse().unwrap();
        let node = Node::start(NodeConfig {
            listen: vec!["tcp://127.0.0.1:0".parse().unwrap()],
            peers: peers.iter().map(dial).collect(),
            multicast: Multicast::off(),
            router: router::Config { verify_account: verify_record, ..router::Config::default() },
            state_dir: Some(dir.path().to_owned()),
            ..NodeConfig::new(secret)
        })
        .await
        .unwrap();
        let overlay = Overlay::of(&node, h2_overlay::Config::default());
        let store = Store::open(dir.path(), Options::default(), Notify::new()).unwrap();
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

    /// Ends it; gives back what it keeps on disk.
    async fn stop(self) -> tempfile::TempDir {
        self.server.stop();
        self.server.finish().await;
        self.overlay.close().await;
        self.node.shutdown().await;
        self.server.store.close().await;
        self.dir
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

/// Bodies of the messages that a user sees, newest first, up to 100.
async fn bodies(peer: &Real, user: &UserId, room: &RoomId) -> Vec<String> {
    let query = MessagesQuery {
        from: None,
        to: None,
        backwards: true,
        limit: 100,
        lazy_members: false,
        filter: None,
        relations: Default::default(),
        device: None,
    };
    let Ok(page) = peer.server.rooms.messages(user, room, query).await else { return Vec::new() };
    let events =
        page.chunk.iter().map(|event| serde_json::from_str::<serde_json::Value>(event.get()).unwrap());
    events.filter_map(|event| event["content"]["body"].as_str().map(str::to_owned)).collect()
}

async fn say(peer: &Real, user: &UserId, room: &RoomId, text: &str) {
    let content = to_raw_value(&json!({ "msgtype": "m.text", "body": text })).unwrap();
    peer.server.rooms.send(user, room, Draft::message("m.room.message", content), None).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn people_two_hops_apart_talk_and_one_who_was_off_catches_up() {
    let b = Real::start(52, &[]).await;
    let (a, c) = (Real::start(51, &[&b]).await, Real::start(53, &[&b]).await);
    let alice = a.server.users.create_by_operator("alice", "correct horse battery").await.unwrap();
    let carol = c.server.users.create_by_operator("carol", "correct horse battery").await.unwrap();
    let room = a.server.rooms.create(&alice, create_room::v3::Request::new()).await.unwrap();
    until("carol is invited", || async {
        let invited = a.server.rooms.invite(&alice, &room, &carol, None).await;
        invited.map_err(|error| println!("{error}")).ok()
    })
    .await;
    c.server.rooms.join(&carol, <&RoomOrAliasId>::from(&*room), Vec::new(), None).await.unwrap();
    let mut position = c.server.store.notify().position();
    let mut times = Vec::new();
    for n in 0..20 {
        tokio::time::sleep(Duration::from_millis(30)).await;
        position.borrow_and_update();
        let start = Instant::now();
        say(&a, &alice, &room, &format!("m{n}")).await;
        tokio::time::timeout(Duration::from_secs(5), position.changed()).await.unwrap().unwrap();
        times.push(start.elapsed());
    }
    times.sort_unstable();
    println!("two hops, send on a to commit on c: p50 {:?}, max {:?}", times[10], times[19]);
    until("the last one is there", || async {
        (bodies(&c, &carol, &room).await.first().map(String::as_str) == Some("m19")).then_some(())
    })
    .await;
    // c goes, much is said, c comes back.
    let dir = c.stop().await;
    for n in 20..80 {
        say(&a, &alice, &room, &format!("m{n}")).await;
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
    let start = Instant::now();
    let c = Real::start_in(dir, 53, &[&b]).await;
    until("everything is there", || async {
        (bodies(&c, &carol, &room).await.first().map(String::as_str) == Some("m79")).then_some(())
    })
    .await;
    println!("started and caught up in {:?}", start.elapsed());
    let mut all: Vec<String> = (0..80).map(|n| format!("m{n}")).collect();
    all.reverse();
    assert_eq!(bodies(&c, &carol, &room).await, all);
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    for peer in [a, b, c] {
        peer.stop().await;
    }
}
