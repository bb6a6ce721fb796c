//! Connections that break, nodes that come and go, silence when there is nothing to say.

use std::{sync::atomic::Ordering::Relaxed, time::Instant};

use super::*;
use crate::Idempotent;

#[tokio::test]
async fn a_restarted_node_is_found_again_at_once() {
    let pair = Pair::new();
    pair.get("/hello").await.unwrap();
    pair.serving.abort();
    drop(pair.server);
    // The same key, nothing remembered: kill -9.
    let server = pair.net.overlay(node(2), Config::default());
    let serving = serve(&server);
    let start = Instant::now();
    let answer = fetch(&pair.client, node(2), Class::Interactive, "/caller").await.unwrap();
    assert_eq!(answer.1, node(1).to_string());
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    assert_eq!(pair.client.stats().retried, 1);
    serving.abort();
}

#[tokio::test]
async fn what_may_not_be_repeated_is_not() {
    let seen = Count::default();
    let count = seen.clone();
    let service = Router::new().route(
        "/once",
        post(move || {
            count.fetch_add(1, Relaxed);
            std::future::pending::<StatusCode>()
        }),
    );
    let net = Net::new();
    let (server, client) = (net.overlay(node(2), Config::default()), net.overlay(node(1), Config::default()));
    let (first, count) = (server.clone(), seen.clone());
    let serving = tokio::spawn({
        let service = service.clone();
        async move { first.serve(service).await }
    });
    for (idempotent, deliveries) in [(false, 1), (true, 2)] {
        count.store(0, Relaxed);
        // So that the connection is not a fresh one.
        let _ = fetch(&client, node(2), Class::Interactive, "/none").await.unwrap();
        let mut request = Request::post("/once").body(Full::default()).unwrap();
        if idempotent {
            request.extensions_mut().insert(Idempotent);
        }
        let asking = tokio::spawn({
            let client = client.clone();
            async move { client.request(node(2), Class::Interactive, request).await }
        });
        eventually("the request arrives", || count.load(Relaxed) == 1).await;
        server.break_connections();
        if deliveries == 1 {
            assert!(matches!(within(asking).await.unwrap(), Err(Error::Lost(_))));
        } else {
            eventually("it arrives again", || count.load(Relaxed) == 2).await;
            asking.abort();
        }
        assert_eq!(count.load(Relaxed), deliveries);
    }
    serving.abort();
}

#[tokio::test]
async fn an_absent_node_fails_and_is_dialled_again_once_heard() {
    let net = Net::new();
    let config = Config {
        dial_timeout: Duration::from_millis(300),
        backoff_min: Duration::from_secs(60),
        backoff_max: Duration::from_secs(60),
        ..Config::default()
    };
    let client = net.overlay(node(1), config);
    let failed = fetch(&client, node(2), Class::Interactive, "/hello").await.unwrap_err();
    assert!(failed.is_unreachable(), "{failed}");
    let start = Instant::now();
    let held = fetch(&client, node(2), Class::Interactive, "/hello").await.unwrap_err();
    assert!(
        matches!(held, Error::Unreachable { retry_in, .. } if retry_in > Duration::from_secs(50)),
        "{held}"
    );
    assert!(start.elapsed() < Duration::from_millis(100), "no dial during the back-off");

    let server = net.overlay(node(2), Config::default());
    let serving = serve(&server);
    client.reachable(&node(2));
    fetch(&client, node(2), Class::Interactive, "/hello").await.unwrap();
    serving.abort();
}

#[tokio::test]
async fn a_datagram_from_the_node_ends_the_back_off() {
    let net = Net::new();
    let config = Config {
        dial_timeout: Duration::from_millis(200),
        backoff_min: Duration::from_secs(60),
        backoff_max: Duration::from_secs(60),
        ..Config::default()
    };
    let client = net.overlay(node(1), config);
    fetch(&client, node(2), Class::Interactive, "/hello").await.unwrap_err();
    let server = net.overlay(node(2), Config::default());
    let (serving, back) = (serve(&server), serve(&client));
    fetch(&server, node(1), Class::Interactive, "/hello").await.unwrap();
    fetch(&client, node(2), Class::Interactive, "/hello").await.unwrap();
    serving.abort();
    back.abort();
}

#[tokio::test]
async fn a_dial_is_given_up_when_the_router_finds_no_way() {
    let net = Net::new();
    let client = net.overlay(node(1), Config::default());
    let asking = tokio::spawn({
        let client = client.clone();
        async move { client.request(node(2), Class::Interactive, get_request("/")).await }
    });
    let start = Instant::now();
    while !asking.is_finished() {
        client.unreachable(&node(2));
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(start.elapsed() < Duration::from_secs(5), "the dial goes on");
    }
    assert!(start.elapsed() >= Duration::from_secs(1), "lookups need a moment");
    assert!(asking.await.unwrap().unwrap_err().is_unreachable());
}

#[tokio::test]
async fn an_idle_connection_is_silent_and_forgotten() {
    let net = Net::new();
    let config = Config { idle_timeout: Duration::from_millis(800), ..Config::default() };
    let (server, client) = (net.overlay(node(2), config.clone()), net.overlay(node(1), config));
    let serving = serve(&server);
    fetch(&client, node(2), Class::Interactive, "/hello").await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    let sent = net.sent();
    eventually("both ends forget it", || client.connections() + server.connections() == 0).await;
    assert_eq!(net.sent(), sent, "not a word");
    fetch(&client, node(2), Class::Interactive, "/hello").await.unwrap();
    assert_eq!(client.stats().dials, 2);
    serving.abort();
}

#[tokio::test]
async fn a_request_under_way_keeps_the_connection() {
    let net = Net::new();
    let config = Config {
        idle_timeout: Duration::from_millis(600),
        ping_interval: Duration::from_millis(200),
        ping_timeout: Duration::from_millis(400),
        ..Config::default()
    };
    let (server, client) = (net.overlay(node(2), config.clone()), net.overlay(node(1), config));
    let serving = serve(&server);
    let asking = tokio::spawn({
        let client = client.clone();
        async move { client.request(node(2), Class::Interactive, get_request("/never")).await }
    });
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert!(!asking.is_finished());
    assert_eq!(client.connections(), 1);
    // And where nobody answers any more, the request ends.
    net.detach(&node(2));
    let error = within(asking).await.unwrap().unwrap_err();
    assert!(matches!(error, Error::Lost(_) | Error::Unreachable { .. }), "{error}");
    serving.abort();
}

#[tokio::test]
async fn close_is_quick_and_tells_the_other_side() {
    let pair = Pair::new();
    pair.get("/hello").await.unwrap();
    let start = Instant::now();
    pair.server.close().await;
    within(pair.serving).await.unwrap();
    assert!(start.elapsed() < Duration::from_secs(1));
    eventually("the client knows", || pair.client.connections() == 0).await;
    let error = pair.server.request(node(1), Class::Interactive, get_request("/")).await.unwrap_err();
    assert!(matches!(error, Error::Closed));
}

#[tokio::test]
async fn a_node_does_not_ask_itself() {
    let pair = Pair::new();
    let error = pair.client.request(node(1), Class::Interactive, get_request("/")).await.unwrap_err();
    assert!(matches!(error, Error::BadRequest(_)));
}
