//! Two devices meet for a log-in by QR code, by both forms of the protocol.

use super::*;

const PATH: &str = "/_matrix/client/unstable/io.element.msc4388/rendezvous";
const OLD_PATH: &str = "/_matrix/client/unstable/org.matrix.msc4108/rendezvous";

#[tokio::test]
async fn each_reads_what_the_other_wrote_and_nobody_overwrites_it() {
    let home = Home::new(open()).await;
    let (_, told) = home.call(Method::GET, PATH, None, Value::Null).await;
    assert_eq!(told, json!({ "create_available": true }));
    let (status, made) = home.call(Method::POST, PATH, None, json!({ "data": "one" })).await;
    assert_eq!((status, &made["expires_in_ms"]), (StatusCode::OK, &json!(60_000)), "{made}");
    let path = format!("{PATH}/{}", made["id"].as_str().unwrap());
    let first = &made["sequence_token"];
    let (_, read) = home.call(Method::GET, &path, None, Value::Null).await;
    assert_eq!((&read["data"], &read["sequence_token"]), (&json!("one"), first));
    let write = async |token: &Value, data: &str| {
        home.call(Method::PUT, &path, None, json!({ "sequence_token": token, "data": data })).await
    };
    let (status, second) = write(first, "two").await;
    assert_eq!(status, StatusCode::OK);
    let (status, refused) = write(first, "three").await;
    assert_eq!(status, StatusCode::CONFLICT, "{refused}");
    assert!(refused["errcode"].as_str().unwrap().ends_with("CONCURRENT_WRITE"), "{refused}");
    assert_error(write(&second["sequence_token"], &"x".repeat(4_097)).await, 413, "M_TOO_LARGE");
    home.server.clock.advance(59_000);
    assert_eq!(home.call(Method::GET, &path, None, Value::Null).await.1["data"], "two");
    home.server.clock.advance(1_000);
    assert_error(home.call(Method::GET, &path, None, Value::Null).await, 404, "M_NOT_FOUND");
    let (_, made) = home.call(Method::POST, PATH, None, json!({ "data": "" })).await;
    let path = format!("{PATH}/{}", made["id"].as_str().unwrap());
    assert_eq!(home.call(Method::DELETE, &path, None, Value::Null).await, (StatusCode::OK, json!({})));
    assert_error(home.call(Method::DELETE, &path, None, Value::Null).await, 404, "M_NOT_FOUND");
}

#[tokio::test]
async fn the_first_form_speaks_plain_text_and_tags() {
    let public_url = Some("https://chat.example.org".to_owned());
    let home = Home::new(Settings { public_url, ..open() }).await;
    let ask = async |method: Method, path: &str, tag: Option<(&str, &str)>, body: &str| {
        let mut request = Request::builder().method(method).uri(path).header("content-type", "text/plain");
        if let Some((name, value)) = tag {
            request = request.header(name, value);
        }
        home.send(request.body(Body::from(body.to_owned())).unwrap()).await
    };
    let (head, made) = ask(Method::POST, OLD_PATH, None, "one").await;
    assert_eq!(head.status, StatusCode::CREATED, "{made:?}");
    let made: Value = serde_json::from_slice(&made).unwrap();
    let path = made["url"].as_str().unwrap().strip_prefix("https://chat.example.org").unwrap().to_owned();
    let first = head.headers["etag"].to_str().unwrap().to_owned();
    assert!(head.headers["access-control-expose-headers"].to_str().unwrap().contains("ETag"));
    assert!(head.headers.contains_key("expires") && head.headers.contains_key("last-modified"));
    let (head, body) = ask(Method::GET, &path, None, "").await;
    assert_eq!((head.status, &body[..]), (StatusCode::OK, &b"one"[..]));
    assert_eq!(head.headers["content-type"], "text/plain");
    let (head, _) = ask(Method::GET, &path, Some(("if-none-match", &first)), "").await;
    assert_eq!(head.status, StatusCode::NOT_MODIFIED);
    let (head, _) = ask(Method::PUT, &path, Some(("if-match", &first)), "two").await;
    assert_eq!(head.status, StatusCode::ACCEPTED);
    let (head, _) = ask(Method::PUT, &path, Some(("if-match", &first)), "three").await;
    assert_eq!(head.status, StatusCode::PRECONDITION_FAILED);
    let (head, body) = ask(Method::GET, &path, Some(("if-none-match", &first)), "").await;
    assert_eq!((head.status, &body[..]), (StatusCode::OK, &b"two"[..]));
    let (head, _) = ask(Method::DELETE, &path, None, "").await;
    assert_eq!(head.status, StatusCode::NO_CONTENT);
    assert_eq!(ask(Method::GET, &path, None, "").await.0.status, StatusCode::NOT_FOUND);
}
