//! Previews of links: what they say, and where they do not go.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

/// A web server on loopback.
async fn web() -> (String, Arc<AtomicUsize>) {
    async fn answer(
        axum::extract::State(hits): axum::extract::State<Arc<AtomicUsize>>,
        request: axum::extract::Request,
    ) -> axum::response::Response {
        hits.fetch_add(1, Ordering::SeqCst);
        let reply = |kind: &str, body: Vec<u8>| {
            axum::response::Response::builder().header("content-type", kind).body(Body::from(body)).unwrap()
        };
        match request.uri().path() {
            "/page" => reply(
                "text/html; charset=utf-8",
                b"<html><head><title>plain</title><meta property='og:title' content='The Rock'>\
                  <meta property='og:image' content='/picture.png'></head><body>text</body></html>"
                    .to_vec(),
            ),
            "/picture.png" => {
                let mut out = std::io::Cursor::new(Vec::new());
                let picture = image::RgbImage::new(30, 20);
                picture.write_to(&mut out, image::ImageFormat::Png).unwrap();
                reply("image/png", out.into_inner())
            }
            "/long" => reply("text/html", [&b"<title>long</title>"[..], &vec![b' '; 2 << 20]].concat()),
            "/moved" => axum::response::Response::builder()
                .status(302)
                .header("location", "/page")
                .body(Body::empty())
                .unwrap(),
            "/round" => axum::response::Response::builder()
                .status(302)
                .header("location", "/round")
                .body(Body::empty())
                .unwrap(),
            "/file" => axum::response::Response::builder()
                .status(302)
                .header("location", "file:///etc/passwd")
                .body(Body::empty())
                .unwrap(),
            _ => axum::response::Response::builder().status(404).body(Body::empty()).unwrap(),
        }
    }
    let hits = Arc::new(AtomicUsize::new(0));
    let app = Router::new().fallback(answer).with_state(Arc::clone(&hits));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await });
    (url, hits)
}

fn path(url: &str) -> String {
    let url = percent_encoding::utf8_percent_encode(url, percent_encoding::NON_ALPHANUMERIC);
    format!("/_matrix/client/v1/media/preview_url?url={url}")
}

#[tokio::test]
async fn a_page_says_what_it_is_and_its_picture_becomes_ours() {
    let (url, hits) = web().await;
    let home =
        Home::new(Settings { url_previews: true, url_preview_private_addresses: true, ..open() }).await;
    let alice = home.user("alice").await;
    let (status, told) = home.get(&path(&format!("{url}/moved#there")), &alice).await;
    assert_eq!(status, StatusCode::OK, "{told}");
    assert_eq!((&told["og:title"], &told["og:url"]), (&json!("The Rock"), &json!(format!("{url}/page"))));
    assert_eq!((&told["og:image:width"], &told["og:image:height"]), (&json!(30), &json!(20)));
    let mxc = told["og:image"].as_str().unwrap().strip_prefix("mxc://").unwrap();
    let request = Request::get(format!("/_matrix/client/v1/media/download/{mxc}"))
        .header(header::AUTHORIZATION, format!("Bearer {}", alice.token))
        .body(Body::empty())
        .unwrap();
    let (head, picture) = home.send(request).await;
    assert_eq!(head.status, StatusCode::OK);
    assert_eq!(told["matrix:image:size"], picture.len());
    // Asked again: remembered.
    let before = hits.load(Ordering::SeqCst);
    assert_eq!(home.get(&path(&format!("{url}/moved")), &alice).await.1, told);
    assert_eq!(hits.load(Ordering::SeqCst), before);
    let (_, long) = home.get(&path(&format!("{url}/long")), &alice).await;
    assert_eq!(long["og:title"], "long", "what matters stands at the start: {long}");
    let (_, picture) = home.get(&path(&format!("{url}/picture.png")), &alice).await;
    assert!(picture["og:image"].is_string(), "{picture}");
    for (wrong, status) in [
        (format!("{url}/nothing"), StatusCode::BAD_GATEWAY),
        (format!("{url}/round"), StatusCode::BAD_GATEWAY),
        (format!("{url}/file"), StatusCode::BAD_REQUEST),
        ("ftp://x.org/".into(), StatusCode::BAD_REQUEST),
    ] {
        let (found, answer) = home.get(&path(&wrong), &alice).await;
        assert_eq!(found, status, "{wrong}: {answer}");
    }
}

#[tokio::test]
async fn no_preview_reaches_into_the_own_network() {
    let (url, hits) = web().await;
    let home = Home::new(Settings { url_previews: true, ..open() }).await;
    let alice = home.user("alice").await;
    let port = url.rsplit(':').next().unwrap();
    for host in [
        "127.0.0.1",
        "localhost",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "127.1",
        "0x7f000001",
        "2130706433",
        "0.0.0.0",
    ] {
        let (status, answer) = home.get(&path(&format!("http://{host}:{port}/page")), &alice).await;
        assert_eq!(status, StatusCode::BAD_GATEWAY, "{host}: {answer}");
    }
    assert_eq!(hits.load(Ordering::SeqCst), 0);
    let off = Home::new(open()).await;
    let bob = off.user("bob").await;
    assert_error(off.get(&path("https://example.org/"), &bob).await, 404, "M_UNRECOGNIZED");
}
