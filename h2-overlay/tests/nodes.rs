//! Goal: HTTP/2 by key over real nodes, also through a third one, and again after a restart.
//! Method: nodes in one process, linked by TCP over loopback.

use std::time::{Duration, Instant};

use axum::{Extension, Router, body::Bytes, routing::get, routing::post};
use h2_overlay::{Caller, Class, Config, Error, Overlay};
use http::{Request, Response};
use http_body_util::Full;
use router::{
    NodeId, SecretKey,
    net::{Node, NodeConfig, PeerUri},
};

const PATIENCE: Duration = Duration::from_secs(20);

async fn start(number: u8, peers: &[&Node]) -> Node {
    let mut config = NodeConfig::new(SecretKey::from_seed([number; 32]));
    config.listen = vec!["tcp://127.0.0.1:0".parse().unwrap()];
    config.peers = peers.iter().map(|peer| uri(peer)).collect();
    Node::start(config).await.unwrap()
}

fn uri(node: &Node) -> PeerUri {
    format!("tcp://{}", node.listening()[0]).parse().unwrap()
}

fn serve(node: &Node) -> Overlay {
    let overlay = Overlay::of(node, Config::default());
    let service = Router::new()
        .route("/caller", get(|Extension(Caller(node)): Extension<Caller>| async move { node.to_string() }))
        .route("/echo", post(|body: Bytes| async move { body }));
    let serving = overlay.clone();
    tokio::spawn(async move { serving.serve(service).await });
    overlay
}

async fn ask(overlay: &Overlay, to: NodeId) -> Result<String, Error> {
    let request = Request::get("/caller").body(Full::default()).unwrap();
    let answer: Response<_> =
        tokio::time::timeout(PATIENCE, overlay.request(to, Class::Interactive, request))
            .await
            .expect("in time")?;
    let body = answer.into_body().bytes(1000).await?;
    Ok(String::from_utf8(body.to_vec()).unwrap())
}

/// The network needs a moment before it knows a node.
async fn ask_until_answered(overlay: &Overlay, to: NodeId) -> String {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match ask(overlay, to).await {
            Ok(answer) => return answer,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn through_a_third_node_and_after_a_restart() {
    let middle = start(1, &[]).await;
    let (left, right) = (start(2, &[&middle]).await, start(3, &[&middle]).await);
    let (asking, serving) = (Overlay::of(&left, Config::default()), serve(&right));
    assert_eq!(ask_until_answered(&asking, right.id()).await, left.id().to_string());

    let sent = Bytes::from(vec![42; 2_000_000]);
    let request = Request::post("/echo").body(Full::new(sent.clone())).unwrap();
    let answer = tokio::time::timeout(PATIENCE, asking.request(right.id(), Class::Bulk, request)).await;
    let echoed = answer.expect("in time").unwrap().into_body().bytes(usize::MAX).await.unwrap();
    assert!(sent == echoed);

    // Both ends without a word, then the same key again.
    drop(serving);
    right.shutdown().await;
    let right = start(3, &[&middle]).await;
    let serving = serve(&right);
    let back = Instant::now();
    assert_eq!(ask_until_answered(&asking, right.id()).await, left.id().to_string());
    eprintln!("answered {:?} after the restart", back.elapsed());
    assert_eq!(asking.connections(), 1);
    serving.close().await;
    for node in [left, middle, right] {
        node.shutdown().await;
    }
}
