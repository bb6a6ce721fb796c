//! What a hostile node can do: too much of everything, and nonsense.

use super::*;
use crate::stream::socket::Datagrams;

#[tokio::test]
async fn bodies_end_at_the_limit() {
    let pair = Pair::with(Config { request_body_bytes_max: 100_000, ..Config::default() });
    let post = |length: usize| Request::post("/echo").body(Full::new(Bytes::from(vec![1; length]))).unwrap();
    let ok = within(pair.client.request(node(2), Class::Bulk, post(100_000))).await.unwrap();
    assert_eq!(ok.into_body().bytes(usize::MAX).await.unwrap().len(), 100_000);
    let response = within(pair.client.request(node(2), Class::Bulk, post(100_001))).await;
    let cut = match response {
        Ok(response) => within(response.into_body().bytes(usize::MAX)).await.is_err(),
        Err(_) => true,
    };
    assert!(cut);
    assert_eq!(pair.server.stats().oversized, 1);
    // And the caller's own limit.
    let response = pair.client.request(node(2), Class::Bulk, get_request("/bytes/50000")).await.unwrap();
    let error = within(response.into_body().bytes(49_999)).await.unwrap_err();
    assert!(matches!(error, Error::BodyTooLarge { limit: 49_999 }), "{error}");
}

#[tokio::test]
async fn headers_end_at_the_limit() {
    let pair = Pair::with(Config { header_bytes_max: 4096, ..Config::default() });
    let mut request = get_request("/hello");
    request.headers_mut().insert("x-long", "a".repeat(10_000).parse().unwrap());
    match within(pair.client.request(node(2), Class::Interactive, request)).await {
        Ok(response) => assert_eq!(response.status(), StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE),
        Err(error) => assert!(matches!(error, Error::Protocol(_)), "{error}"),
    }
    assert_eq!(pair.get("/hello").await.unwrap().0, StatusCode::OK, "others are served as before");
}

#[tokio::test]
async fn requests_over_the_limit_are_told_so() {
    let pair = Pair::with(Config { requests_max: 3, ..Config::default() });
    let stuck: Vec<_> = (0..3)
        .map(|_| {
            let client = pair.client.clone();
            tokio::spawn(
                async move { client.request(node(2), Class::Interactive, get_request("/never")).await },
            )
        })
        .collect();
    eventually("three are served", || pair.server.stats().requests_in == 3).await;
    assert_eq!(pair.get("/hello").await.unwrap().0, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(pair.server.stats().busy, 1);
    stuck.iter().for_each(JoinHandle::abort);
    for task in stuck {
        assert!(task.await.unwrap_err().is_cancelled());
    }
    within(async {
        while pair.get("/hello").await.unwrap().0 != StatusCode::OK {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn connections_are_limited_and_idle_ones_make_room() {
    let net = Net::new();
    let config = Config { connections_max: 4, ..Config::default() };
    let server = net.overlay(node(200), config);
    let serving = serve(&server);
    for number in 0..12 {
        let client = net.overlay(node(number), Config::default());
        assert_eq!(fetch(&client, node(200), Class::Interactive, "/hello").await.unwrap().1, "hello");
        assert!(server.connections() <= 4);
    }
    assert_eq!(server.stats().refused, 8);
    serving.abort();
}

#[tokio::test]
async fn resets_in_a_row_do_not_hold_the_server_up() {
    let pair = Pair::new();
    for _ in 0..300 {
        let request = pair.client.request(node(2), Class::Interactive, get_request("/never"));
        let _ = tokio::time::timeout(Duration::from_micros(300), request).await;
    }
    assert_eq!(pair.get("/hello").await.unwrap().0, StatusCode::OK);
}

#[tokio::test]
async fn garbage_is_dropped() {
    let pair = Pair::new();
    pair.get("/hello").await.unwrap();
    let stranger = pair.net.socket(node(66));
    let mut state = 1u64;
    let mut random = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u8
    };
    for round in 0..3000usize {
        let length = 1 + round % 1280;
        let mut datagram: Vec<u8> = (0..length).map(|_| random()).collect();
        match round % 4 {
            // A long header of our version: an Initial, then whatever comes.
            0 if length > 40 => {
                datagram[0] = 0xc0 | (datagram[0] & 0x33);
                datagram[1..5].copy_from_slice(&crate::stream::crypto::VERSION.to_be_bytes());
                (datagram[5], datagram[14]) = (8, 8);
            }
            1 => datagram[0] = 0x40 | (datagram[0] & 0x3f),
            _ => {}
        }
        stranger.try_send(node(2), datagram.into()).unwrap();
        if round % 64 == 0 {
            tokio::task::yield_now().await;
        }
    }
    assert_eq!(pair.get("/hello").await.unwrap().1, "hello");
}

#[tokio::test]
async fn streams_of_no_class_are_refused() {
    let pair = Pair::new();
    pair.get("/hello").await.unwrap();
    let quic = pair.client.quic_connection(node(2)).await;
    let (mut send, mut recv) = quic.open_bi().await.unwrap();
    send.write_all(&[77, 1, 2, 3]).await.unwrap();
    assert!(within(recv.read_to_end(10)).await.is_err());
    assert_eq!(pair.server.stats().streams_refused, 1);
    // Nonsense in the place of HTTP/2 ends that stream alone.
    let (mut send, mut recv) = quic.open_bi().await.unwrap();
    send.write_all(&[0]).await.unwrap();
    send.write_all(&[0xee; 5000]).await.unwrap();
    let _ = within(recv.read_to_end(100_000)).await;
    assert_eq!(pair.get("/hello").await.unwrap().1, "hello");
}

#[tokio::test]
async fn sessions_per_connection_are_limited() {
    let pair = Pair::with(Config { sessions_per_connection_max: 3, ..Config::default() });
    pair.get("/hello").await.unwrap();
    let quic = pair.client.quic_connection(node(2)).await;
    let mut open = Vec::new();
    for _ in 0..2 {
        open.push(within(quic.open_bi()).await.unwrap());
    }
    let fourth = tokio::time::timeout(Duration::from_millis(200), quic.open_bi()).await;
    assert!(fourth.is_err(), "QUIC holds it back");
}
