//! Requests and answers as they should be: whole, from whom they say, bulk beside small ones, over a bad network.

use std::time::Instant;

use http_body_util::BodyExt;

use super::*;

#[tokio::test]
async fn answers_come_back_and_the_caller_is_known() {
    let pair = Pair::new();
    assert_eq!(pair.get("/hello").await.unwrap(), (StatusCode::OK, Bytes::from("hello")));
    assert_eq!(pair.get("/caller").await.unwrap().1, node(1).to_string());
    assert_eq!(pair.get("/nothing").await.unwrap().0, StatusCode::NOT_FOUND);
    assert_eq!(pair.client.connections(), 1, "one connection for all");
    assert_eq!(pair.client.stats().dials, 1);
}

#[tokio::test]
async fn the_caller_cannot_be_claimed() {
    let pair = Pair::new();
    let mut request = get_request("/caller");
    request.extensions_mut().insert(Caller(node(9)));
    let response = within(pair.client.request(node(2), Class::Interactive, request)).await.unwrap();
    assert_eq!(response.into_body().bytes(100).await.unwrap(), node(1).to_string());
}

#[tokio::test]
async fn either_side_asks_over_the_same_connection() {
    let pair = Pair::new();
    let back = serve(&pair.client);
    pair.get("/hello").await.unwrap();
    eventually("the server has the connection too", || pair.server.connections() == 1).await;
    let answer = fetch(&pair.server, node(1), Class::Interactive, "/caller").await.unwrap();
    assert_eq!(answer.1, node(2).to_string());
    assert_eq!(pair.server.stats().dials, 0);
    back.abort();
}

#[tokio::test]
async fn bodies_stream_both_ways() {
    let pair = Pair::new();
    let sent: Bytes = (0..3_000_000u32).map(|i| (i % 251) as u8).collect::<Vec<_>>().into();
    let request = Request::post("/echo").body(Full::new(sent.clone())).unwrap();
    let response = within(pair.client.request(node(2), Class::Bulk, request)).await.unwrap();
    let mut body = response.into_body();
    let mut got = Vec::new();
    while let Some(frame) = within(body.frame()).await {
        got.extend_from_slice(frame.unwrap().data_ref().unwrap());
    }
    assert!(sent == got, "{} bytes sent, {} back", sent.len(), got.len());
}

#[tokio::test]
async fn many_requests_at_once() {
    let pair = Pair::new();
    let all = (0..100).map(|_| pair.get("/hello"));
    for answer in futures_util::future::join_all(all).await {
        assert_eq!(answer.unwrap().0, StatusCode::OK);
    }
    assert_eq!(pair.client.stats().dials, 1, "all wait for the same dial");
}

#[tokio::test]
async fn two_who_dial_each_other_at_once_both_get_their_answer() {
    let pair = Pair::new();
    pair.net.set_delay(Duration::from_millis(20));
    let back = serve(&pair.client);
    for _ in 0..5 {
        let (one, other) =
            tokio::join!(pair.get("/caller"), fetch(&pair.server, node(1), Class::Interactive, "/caller"));
        assert_eq!(one.unwrap().1, node(1).to_string());
        assert_eq!(other.unwrap().1, node(2).to_string());
    }
    assert!(pair.client.stats().dials + pair.server.stats().dials <= 2);
    back.abort();
}

#[tokio::test]
async fn small_requests_go_on_beside_bulk() {
    let pair = Pair::new();
    pair.net.set_delay(Duration::from_millis(5));
    let client = pair.client.clone();
    let bulk = tokio::spawn(async move { fetch(&client, node(2), Class::Bulk, "/bytes/30000000").await });
    tokio::time::sleep(Duration::from_millis(50)).await;
    let mut slowest = Duration::ZERO;
    for _ in 0..10 {
        let start = Instant::now();
        pair.get("/hello").await.unwrap();
        slowest = slowest.max(start.elapsed());
    }
    assert!(slowest < Duration::from_secs(1), "{slowest:?} for a small request");
    assert_eq!(within(bulk).await.unwrap().unwrap().1.len(), 30_000_000);
}

#[tokio::test]
async fn five_percent_loss_is_survived() {
    let pair = Pair::new();
    pair.net.set_delay(Duration::from_millis(2));
    pair.net.set_loss_permille(50);
    for _ in 0..20 {
        assert_eq!(pair.get("/hello").await.unwrap().1, "hello");
    }
    let bulk = fetch(&pair.client, node(2), Class::Bulk, "/bytes/1000000").await.unwrap();
    assert_eq!(bulk.1.len(), 1_000_000);
}

#[tokio::test]
async fn large_datagrams_are_used_where_the_path_takes_them() {
    let pair = Pair::new();
    pair.net.set_mtu(32 * 1024);
    fetch(&pair.client, node(2), Class::Bulk, "/bytes/8000000").await.unwrap();
    let before = pair.net.sent();
    fetch(&pair.client, node(2), Class::Bulk, "/bytes/8000000").await.unwrap();
    let sent = pair.net.sent() - before;
    assert!(sent < 8_000_000 / 8_000, "{sent} datagrams for 8 MB");
}
