//! Listeners over real sockets: they serve, and end in good order. Method: hand-written HTTP/1.1.

use std::time::{Duration, Instant};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use super::*;
use crate::http::listen::serve;

async fn ask(stream: &mut TcpStream, path: &str, token: &str) {
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
}

async fn answer(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let mut chunk = [0; 4096];
    // An answer of ours ends with its JSON.
    while !bytes.ends_with(b"}") {
        match stream.read(&mut chunk).await.unwrap() {
            0 => break,
            read => bytes.extend_from_slice(&chunk[..read]),
        }
    }
    String::from_utf8(bytes).unwrap()
}

#[tokio::test]
async fn it_serves_and_ends_within_two_seconds() {
    let home = Home::new(open()).await;
    let alice = home.user("alice").await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let service = client_service(Arc::clone(&home.server));
    let serving = tokio::spawn(serve(listener, None, service, Arc::clone(&home.server)));

    let mut stream = TcpStream::connect(address).await.unwrap();
    for _ in 0..2 {
        ask(&mut stream, "/_matrix/client/v3/account/whoami", &alice.token).await;
        let text = answer(&mut stream).await;
        assert!(text.starts_with("HTTP/1.1 200 OK"), "{text}");
        assert!(text.contains(&alice.id));
    }
    // Where it was heard of is noted beside the request.
    let path = format!("/_matrix/client/v3/devices/{}", alice.device);
    let deadline = Instant::now() + Duration::from_secs(5);
    while home.get(&path, &alice).await.1["last_seen_ip"] != "127.0.0.1" {
        assert!(Instant::now() < deadline, "a device's last sign of life was not noted");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }

    // One connection idle, one in a long poll, one in the middle of its head.
    let mut idle = TcpStream::connect(address).await.unwrap();
    let mut waiting = TcpStream::connect(address).await.unwrap();
    ask(&mut waiting, "/_matrix/client/v3/sync?timeout=0", &alice.token).await;
    let first = answer(&mut waiting).await;
    let since = first.split("\"next_batch\":\"").nth(1).unwrap().split('"').next().unwrap().to_owned();
    ask(&mut waiting, &format!("/_matrix/client/v3/sync?timeout=30000&since={since}"), &alice.token).await;
    let mut half = TcpStream::connect(address).await.unwrap();
    half.write_all(b"GET /_matrix").await.unwrap();
    tokio::time::timeout(Duration::from_millis(200), waiting.readable()).await.unwrap_err();

    let began = Instant::now();
    home.server.stop();
    serving.await.unwrap();
    home.server.finish().await;
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    let text = answer(&mut waiting).await;
    assert!(text.starts_with("HTTP/1.1 200 OK"), "a long poll is answered: {text}");
    assert_eq!(idle.read(&mut [0; 8]).await.unwrap(), 0);
    assert!(TcpStream::connect(address).await.is_err(), "nobody listens any more");
}
