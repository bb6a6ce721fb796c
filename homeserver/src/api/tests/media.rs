//! Uploads, downloads in parts, thumbnails, and what a web page may do with them.

use image::{ExtendedColorType, ImageEncoder as _, codecs::png::PngEncoder};

use super::*;

async fn upload(home: &Home, user: &User, kind: &str, name: &str, content: &[u8]) -> String {
    let request = Request::post(format!("/_matrix/media/v3/upload?filename={name}"))
        .header(header::AUTHORIZATION, format!("Bearer {}", user.token))
        .header(header::CONTENT_TYPE, kind)
        .body(Body::from(content.to_vec()))
        .unwrap();
    let (head, answer) = home.send(request).await;
    assert_eq!(head.status, StatusCode::OK, "{answer:?}");
    let answer: Value = serde_json::from_slice(&answer).unwrap();
    answer["content_uri"].as_str().unwrap().strip_prefix("mxc://").unwrap().to_owned()
}

async fn download(home: &Home, user: Option<&User>, path: &str, headers: &[(&str, &str)]) -> (Head, Bytes) {
    let mut request = Request::get(path);
    if let Some(user) = user {
        request = request.header(header::AUTHORIZATION, format!("Bearer {}", user.token));
    }
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    home.send(request.body(Body::empty()).unwrap()).await
}

fn picture(width: u32, height: u32) -> Vec<u8> {
    let pixels: Vec<u8> = (0..width * height).flat_map(|at| [at as u8, (at / width) as u8, 128]).collect();
    let mut out = Vec::new();
    PngEncoder::new(&mut out).write_image(&pixels, width, height, ExtendedColorType::Rgb8).unwrap();
    out
}

#[tokio::test]
async fn a_file_comes_back_whole_and_in_parts() {
    let home = Home::new(open()).await;
    let alice = home.user("alice").await;
    let content: Vec<u8> = (0..200_000_u32).map(|at| (at % 251) as u8).collect();
    let mxc = upload(&home, &alice, "text/html", "p%C3%A4ge.html", &content).await;
    let path = format!("/_matrix/client/v1/media/download/{mxc}");
    let (head, body) = download(&home, Some(&alice), &path, &[]).await;
    assert_eq!((head.status, &body[..]), (StatusCode::OK, &content[..]));
    assert_eq!(head.headers["content-type"], "text/html");
    assert_eq!(head.headers["content-length"], "200000");
    assert_eq!(head.headers["x-content-type-options"], "nosniff");
    assert!(
        head.headers["content-security-policy"].to_str().unwrap().starts_with("sandbox; default-src 'none'")
    );
    let disposition = head.headers["content-disposition"].to_str().unwrap();
    assert!(disposition.starts_with("attachment"), "{disposition}");
    assert!(disposition.contains("p%C3%A4ge.html"), "{disposition}");

    for (range, expected) in
        [("bytes=0-9", 0..10), ("bytes=199990-", 199_990..200_000), ("bytes=-5", 199_995..200_000)]
    {
        let (head, body) = download(&home, Some(&alice), &path, &[("range", range)]).await;
        assert_eq!(head.status, StatusCode::PARTIAL_CONTENT);
        assert_eq!(&body[..], &content[expected.clone()]);
        let said = format!("bytes {}-{}/200000", expected.start, expected.end - 1);
        assert_eq!(head.headers["content-range"], said);
    }
    let (head, _) = download(&home, Some(&alice), &path, &[("range", "bytes=200000-")]).await;
    assert_eq!(head.status, StatusCode::RANGE_NOT_SATISFIABLE);
    assert_eq!(head.headers["content-range"], "bytes */200000");
    let tag = head.headers["etag"].to_str().unwrap().to_owned();
    let (head, body) = download(&home, Some(&alice), &path, &[("if-none-match", &tag)]).await;
    assert_eq!((head.status, body.len()), (StatusCode::NOT_MODIFIED, 0));

    let (head, _) = download(&home, None, &path, &[]).await;
    assert_eq!(head.status, StatusCode::UNAUTHORIZED);
    let old = format!("/_matrix/media/v3/download/{mxc}/other.html");
    let (head, body) = download(&home, None, &old, &[]).await;
    assert_eq!((head.status, body.len()), (StatusCode::OK, content.len()));
    assert!(head.headers["content-disposition"].to_str().unwrap().contains("other.html"));
    let request = Request::head(&path)
        .header(header::AUTHORIZATION, format!("Bearer {}", alice.token))
        .body(Body::empty())
        .unwrap();
    let (head, body) = home.send(request).await;
    assert_eq!((head.status, body.len()), (StatusCode::OK, 0));

    // The same content twice: two ids, one file.
    let again = upload(&home, &alice, "image/png", "x", &content).await;
    assert_ne!(again, mxc);
    let (head, _) =
        download(&home, Some(&alice), &format!("/_matrix/client/v1/media/download/{again}"), &[]).await;
    assert!(head.headers["content-disposition"].to_str().unwrap().starts_with("inline"));
}

#[tokio::test]
async fn an_upload_may_come_later() {
    let home = Home::new(open()).await;
    let (alice, bob) = (home.user("alice").await, home.user("bob").await);
    let (_, announced) = home.post("/_matrix/media/v1/create", &alice, json!({})).await;
    assert!(announced["unused_expires_at"].as_u64().unwrap() > home.server.clock.now_ms());
    let mxc = announced["content_uri"].as_str().unwrap().strip_prefix("mxc://").unwrap().to_owned();
    let path = format!("/_matrix/client/v1/media/download/{mxc}");
    let (head, body) = download(&home, Some(&bob), &format!("{path}?timeout_ms=10"), &[]).await;
    let answer = serde_json::from_slice(&body).unwrap();
    assert_error((head.status, answer), 504, "M_NOT_YET_UPLOADED");

    let put = |user: &User| {
        Request::put(format!("/_matrix/media/v3/upload/{mxc}"))
            .header(header::AUTHORIZATION, format!("Bearer {}", user.token))
            .body(Body::from("later"))
            .unwrap()
    };
    let (head, _) = home.send(put(&bob)).await;
    assert_eq!(head.status, StatusCode::FORBIDDEN);
    let waiting = format!("{path}?timeout_ms=5000");
    let (waited, sent) = tokio::join!(download(&home, Some(&bob), &waiting, &[]), async {
        tokio::task::yield_now().await;
        home.send(put(&alice)).await
    });
    assert_eq!(sent.0.status, StatusCode::OK, "{:?}", sent.1);
    assert_eq!((waited.0.status, &waited.1[..]), (StatusCode::OK, &b"later"[..]));
    let (head, body) = home.send(put(&alice)).await;
    assert_error((head.status, serde_json::from_slice(&body).unwrap()), 409, "M_CANNOT_OVERWRITE_MEDIA");
}

#[tokio::test]
async fn too_large_and_not_there() {
    let home = Home::new(Settings { upload_bytes_max: 1000, ..open() }).await;
    let alice = home.user("alice").await;
    let request = Request::post("/_matrix/media/v3/upload")
        .header(header::AUTHORIZATION, format!("Bearer {}", alice.token))
        .body(Body::from_stream(futures_util::stream::iter(
            (0..10).map(|_| Ok::<_, std::io::Error>(vec![0; 200])),
        )))
        .unwrap();
    let (head, body) = home.send(request).await;
    assert_error((head.status, serde_json::from_slice(&body).unwrap()), 413, "M_TOO_LARGE");
    let name = &home.server.name;
    for path in [
        format!("/_matrix/client/v1/media/download/{name}/nosuch"),
        format!("/_matrix/client/v1/media/thumbnail/{name}/nosuch?width=1&height=1"),
        "/_matrix/media/v3/download/other.example/x".to_owned(),
    ] {
        let (head, body) = download(&home, Some(&alice), &path, &[]).await;
        let answer: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(answer["errcode"], "M_NOT_FOUND", "{path} {}", head.status);
    }
}

#[tokio::test]
async fn thumbnails_under_limits() {
    let home = Home::new(open()).await;
    let alice = home.user("alice").await;
    let mxc = upload(&home, &alice, "image/png", "x.png", &picture(1000, 500)).await;
    let path = format!("/_matrix/client/v1/media/thumbnail/{mxc}");
    for (query, width, height) in [
        ("width=32&height=32&method=crop", 32, 32),
        ("width=90&height=90&method=crop", 96, 96),
        ("width=300&height=200&method=scale", 320, 160),
        ("width=640&height=480", 640, 320),
        ("width=4000000000&height=1", 800, 400),
    ] {
        for _ in 0..2 {
            let (head, body) = download(&home, Some(&alice), &format!("{path}?{query}"), &[]).await;
            assert_eq!(head.status, StatusCode::OK, "{query} {body:?}");
            assert_eq!(head.headers["content-type"], "image/png");
            let small = image::load_from_memory(&body).unwrap();
            assert_eq!((small.width(), small.height()), (width, height), "{query}");
        }
    }
    // What is small is given as it is.
    let original = picture(20, 20);
    let mxc = upload(&home, &alice, "image/png", "x.png", &original).await;
    let path = format!("/_matrix/client/v1/media/thumbnail/{mxc}?width=32&height=32&method=crop");
    let (_, body) = download(&home, Some(&alice), &path, &[]).await;
    assert_eq!(&body[..], &original[..]);
    // No picture, and one that says it has more pixels than there are atoms.
    let mut bomb = picture(8, 8);
    bomb[16..24].copy_from_slice(&[0, 1, 0, 0, 0, 1, 0, 0]);
    for content in [&b"not a picture"[..], &bomb] {
        let mxc = upload(&home, &alice, "image/png", "x.png", content).await;
        let path = format!("/_matrix/client/v1/media/thumbnail/{mxc}?width=32&height=32");
        let (head, body) = download(&home, Some(&alice), &path, &[]).await;
        assert_eq!(head.status, StatusCode::BAD_REQUEST, "{body:?}");
    }
}
