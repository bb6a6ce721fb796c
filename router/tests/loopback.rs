//! Goal: real nodes over real TCP on this host link, reach each other by key, refuse whom they must, and survive
//! whatever comes over a connection. Method: several nodes in one process, conditions awaited with a deadline.

use std::future::Future;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use router::crypto::SecretKey;
use router::id::NodeId;
use router::net::{KeySocket, LookupError, Node, NodeConfig, NodeEvent, PeerError, SendError, StartError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const PATIENCE: Duration = Duration::from_secs(10);

fn secret(n: u8) -> SecretKey {
    SecretKey::from_seed([n; 32])
}

/// A node that listens at `listen` (options of the address, or none) and dials `peers`.
async fn node(n: u8, listen: &str, peers: &[String]) -> Node {
    let mut config = NodeConfig::new(secret(n));
    config.listen.push(format!("tcp://127.0.0.1:0{listen}").parse().unwrap());
    config.peers = peers.iter().map(|p| p.parse().unwrap()).collect();
    Node::start(config).await.unwrap()
}

fn at(node: &Node) -> String {
    format!("tcp://{}", node.listening()[0])
}

/// Waits until a condition holds, with a deadline.
async fn wait_for<F: Future<Output = bool>>(what: &str, mut condition: impl FnMut() -> F) {
    let start = Instant::now();
    while !condition().await {
        assert!(start.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn linked(node: &Node) -> usize {
    node.peers().await.iter().filter(|p| p.node.is_some()).count()
}

/// Sends until something comes back, as datagrams may be lost.
async fn echo(from: &KeySocket, to: NodeId, payload: Bytes) -> Bytes {
    let start = Instant::now();
    loop {
        assert!(start.elapsed() < PATIENCE, "no answer from {to}");
        from.send(to, payload.clone()).await.unwrap();
        let answer = tokio::time::timeout(Duration::from_millis(500), from.recv()).await;
        if let Ok(Some((_, answer))) = answer {
            return answer;
        }
    }
}

fn serve_echo(socket: KeySocket) {
    tokio::spawn(async move {
        while let Some((from, payload)) = socket.recv().await {
            let _ = socket.send(from, payload).await;
        }
    });
}

#[tokio::test]
async fn a_pair_talks_by_key() {
    let a = node(1, "", &[]).await;
    let mut events = a.events();
    let b = node(2, "", &[at(&a)]).await;
    serve_echo(a.socket());
    let payload = Bytes::from(vec![7; 1280]);
    assert_eq!(echo(&b.socket(), a.id(), payload.clone()).await, payload);
    let up = events.recv().await.unwrap();
    assert!(matches!(up, NodeEvent::PeerUp { node, multicast: false, .. } if node == b.id()), "{up:?}");
    assert!(b.ping(a.id()).await.unwrap() < Duration::from_secs(1));
    assert_eq!(b.lookup(a.id()).await, Ok(a.id()));
    assert_eq!(b.lookup(a.id().address()).await, Ok(a.id()));
    assert_eq!(a.self_info().await.unwrap().peers, 1);
    assert!(b.sessions().await.iter().any(|s| s.node == a.id()));
    assert_eq!(a.trees().await[0].root, b.trees().await[0].root);
    let mtu = b.socket().mtu(&a.id());
    let too_large = b.socket().try_send(a.id(), Bytes::from(vec![0; mtu + 1]));
    assert_eq!(too_large, Err(SendError::TooLarge { mtu }));

    b.shutdown().await;
    assert_eq!(b.socket().try_send(a.id(), Bytes::new()), Err(SendError::Closed));
    assert_eq!(b.socket().recv().await, None);
    assert_eq!(b.lookup(a.id()).await, Err(LookupError::Closed));
    wait_for("a notices", || async { linked(&a).await == 0 }).await;
}

#[tokio::test]
async fn a_line_of_five_carries() {
    let mut line = vec![node(1, "", &[]).await];
    for n in 2..=5 {
        let before = at(line.last().unwrap());
        line.push(node(n, "", &[before]).await);
    }
    let (first, last) = (&line[0], &line[4]);
    serve_echo(last.socket());
    let payload = Bytes::from_static(b"across three strangers");
    assert_eq!(echo(&first.socket(), last.id(), payload.clone()).await, payload);
    assert_eq!(first.lookup(last.id().address()).await, Ok(last.id()));
    let stranger = secret(99).id();
    assert!(matches!(first.lookup(stranger).await, Err(LookupError::Unreachable(_))));
    assert!(line[2].stats().await.router.forwarded > 0);
}

#[tokio::test]
async fn listeners_refuse_others() {
    let friend = secret(2).id();
    let guarded = node(1, &format!("?key={friend}&password=swordfish"), &[]).await;
    let to = |options: &str| format!("{}?{options}", at(&guarded));
    let wrong_key = node(3, "", &[to("password=swordfish")]).await;
    let wrong_password = node(2, "", &[to("password=haddock")]).await;
    let no_password = node(2, "", &[at(&guarded)]).await;
    let friend = node(2, "", &[to("password=swordfish")]).await;
    wait_for("the friend is in", || async { linked(&guarded).await == 1 }).await;
    assert_eq!(linked(&friend).await, 1);
    wait_for("the others were refused", || async { guarded.stats().await.net.links_bad >= 3 }).await;
    for refused in [&wrong_key, &wrong_password, &no_password] {
        assert_eq!(linked(refused).await, 0);
    }
}

#[tokio::test]
async fn a_pinned_key_must_answer() {
    let a = node(1, "", &[]).await;
    let expects_another = node(2, "", &[format!("{}?key={}", at(&a), secret(9).id())]).await;
    let expects_it = node(3, "", &[format!("{}?key={}", at(&a), a.id())]).await;
    wait_for("the right one is linked", || async { linked(&expects_it).await == 1 }).await;
    wait_for("the wrong one gives up", || async { expects_another.stats().await.net.links_bad >= 1 }).await;
    assert_eq!(linked(&expects_another).await, 0);
}

#[tokio::test]
async fn peers_come_and_go_at_run_time() {
    let a = node(1, "", &[]).await;
    let b = node(2, "", &[]).await;
    let uri = at(&a).parse().unwrap();
    b.add_peer(at(&a).parse().unwrap()).await.unwrap();
    assert_eq!(b.add_peer(at(&a).parse().unwrap()).await, Err(PeerError::Known));
    assert_eq!(b.configured_peers().await, [at(&a).parse().unwrap()]);
    wait_for("linked", || async { linked(&a).await == 1 }).await;
    b.remove_peer(&uri).await.unwrap();
    assert_eq!(b.remove_peer(&uri).await, Err(PeerError::Unknown));
    wait_for("not linked", || async { linked(&a).await == 0 && linked(&b).await == 0 }).await;
}

#[tokio::test]
async fn a_restarted_node_is_back_at_once_and_its_counter_grows() {
    let state = tempfile::tempdir().unwrap();
    let start = |listen: String| {
        let mut config = NodeConfig::new(secret(1));
        config.listen.push(listen.parse().unwrap());
        config.state_dir = Some(state.path().to_owned());
        Node::start(config)
    };
    let stored = || {
        let text = std::fs::read_to_string(state.path().join("router.counter")).unwrap();
        text.lines().next().unwrap().parse::<u64>().unwrap()
    };
    let a = start("tcp://127.0.0.1:0".to_owned()).await.unwrap();
    let listen = at(&a);
    let b = node(2, "", std::slice::from_ref(&listen)).await;
    wait_for("linked", || async { linked(&b).await == 1 }).await;
    let mut last = stored();
    for _ in 0..3 {
        a.shutdown().await;
        assert!(matches!(a.peers().await.len(), 0));
        let again = start(listen.clone()).await.unwrap();
        let restarted = Instant::now();
        wait_for("linked again", || async { linked(&again).await == 1 }).await;
        assert!(restarted.elapsed() < Duration::from_secs(2), "{:?}", restarted.elapsed());
        serve_echo(again.socket());
        assert_eq!(echo(&b.socket(), again.id(), Bytes::from_static(b"x")).await, "x");
        assert!(stored() >= last);
        last = stored();
        again.shutdown().await;
    }
}

#[tokio::test]
async fn garbage_and_silence_do_no_harm() {
    let a = node(1, "", &[]).await;
    let address: SocketAddr = a.listening()[0];
    let garbage: [&[u8]; 6] = [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        &[0; 4096],
        &[255; 70_000],
        &[0, 1],
        &[0, 1, 0, 0, 1, 0],
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ];
    for bytes in garbage {
        let mut stream = TcpStream::connect(address).await.unwrap();
        // It may be closed while we write.
        let _ = stream.write_all(bytes).await;
        let closed = tokio::time::timeout(PATIENCE, async {
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest).await;
        });
        closed.await.expect("a connection that carries garbage is closed");
    }
    // More silent strangers than are kept.
    let mut silent = Vec::new();
    for _ in 0..100 {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    let b = node(2, "", &[at(&a)]).await;
    serve_echo(a.socket());
    assert_eq!(echo(&b.socket(), a.id(), Bytes::from_static(b"x")).await, "x");
    assert!(a.peers().await.len() <= 65, "strangers are bounded");
    assert!(a.stats().await.net.links_refused > 0);
}

#[tokio::test]
async fn a_start_that_fails_says_why() {
    let a = node(1, "", &[]).await;
    let mut config = NodeConfig::new(secret(2));
    config.listen.push(at(&a).parse().unwrap());
    let error = Node::start(config).await.unwrap_err();
    assert!(matches!(error, StartError::Listen { .. }));
    assert!(error.to_string().contains("another program has that port"), "{error}");
    let mut config = NodeConfig::new(secret(2));
    config.state_dir = Some("/proc/no/such/place".into());
    let error = Node::start(config).await.unwrap_err();
    assert!(error.to_string().contains("cannot keep state in /proc/no/such/place"), "{error}");
    let mut config = NodeConfig::new(secret(2));
    config.tun = Some("a name with spaces".into());
    assert!(matches!(Node::start(config).await, Err(StartError::Tun { .. })));
}

#[tokio::test]
async fn a_node_that_nobody_holds_ends() {
    let a = node(1, "", &[]).await;
    let (socket, address) = (a.socket(), a.listening()[0]);
    drop(a);
    assert_eq!(tokio::time::timeout(PATIENCE, socket.recv()).await.unwrap(), None);
    wait_for("its port is closed", || async { TcpStream::connect(address).await.is_err() }).await;
}

#[tokio::test]
async fn a_flood_of_packets_is_bounded() {
    let a = node(1, "", &[]).await;
    let b = node(2, "", &[at(&a)]).await;
    serve_echo(a.socket());
    echo(&b.socket(), a.id(), Bytes::from_static(b"x")).await;
    // Nobody takes these at the other end of a node without a reader.
    let (socket, payload) = (a.socket(), Bytes::from(vec![0; 1200]));
    for _ in 0..20_000 {
        socket.send(b.id(), payload.clone()).await.unwrap();
    }
    let full = (0..100_000).any(|_| socket.try_send(b.id(), payload.clone()) == Err(SendError::Full));
    assert!(full, "whoever sends without waiting is told");
    wait_for("the node still answers", || async { b.ping(a.id()).await.is_ok() }).await;
}
