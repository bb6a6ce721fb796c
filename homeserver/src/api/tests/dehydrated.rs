//! A device that sleeps on the server: put to sleep, reached by others, woken, replaced.

use super::*;

const PATH: &str = "/_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device";

fn body(user: &User, device: &str) -> Value {
    json!({
        "device_id": device,
        "initial_device_display_name": "asleep",
        "device_data": { "algorithm": "org.matrix.msc3814.v2", "device_pickle": "sealed", "nonce": "n" },
        "device_keys": {
            "user_id": user.id, "device_id": device, "dehydrated": true,
            "algorithms": ["m.olm.v1.curve25519-aes-sha2", "m.megolm.v1.aes-sha2"],
            "keys": { format!("curve25519:{device}"): "c", format!("ed25519:{device}"): "e" },
            "signatures": { &user.id: { format!("ed25519:{device}"): "s" } },
        },
        "one_time_keys": { "signed_curve25519:AAAA": { "key": "k", "signatures": {} } },
        "fallback_keys": { "signed_curve25519:AAAB": { "key": "f", "fallback": true, "signatures": {} } },
    })
}

#[tokio::test]
async fn messages_wait_for_the_sleeping_device_until_it_is_woken() {
    let home = Home::new(open()).await;
    let (alice, bob) = (home.user("alice").await, home.user("bob").await);
    assert_error(home.get(PATH, &alice).await, 404, "M_NOT_FOUND");
    let mine = json!({ "device_id": alice.device });
    let mut awake = body(&alice, &alice.device);
    awake.as_object_mut().unwrap().extend(mine.as_object().unwrap().clone());
    assert_error(home.put(PATH, &alice, awake).await, 400, "M_INVALID_PARAM");

    let (status, told) = home.put(PATH, &alice, body(&alice, "SLEEP1")).await;
    assert_eq!((status, told), (StatusCode::OK, json!({ "device_id": "SLEEP1" })));
    let (_, told) = home.get(PATH, &alice).await;
    assert_eq!(told["device_data"]["device_pickle"], "sealed");
    // Others find it like any device.
    let query = json!({ "device_keys": { &alice.id: [] } });
    let (_, keys) = home.post("/_matrix/client/v3/keys/query", &bob, query).await;
    assert_eq!(keys["device_keys"][&alice.id]["SLEEP1"]["dehydrated"], true, "{keys}");
    let claim = json!({ "one_time_keys": { &alice.id: { "SLEEP1": "signed_curve25519" } } });
    let (_, claimed) = home.post("/_matrix/client/v3/keys/claim", &bob, claim).await;
    assert!(claimed["one_time_keys"][&alice.id]["SLEEP1"]["signed_curve25519:AAAA"].is_object(), "{claimed}");
    for n in 0..120 {
        let message = json!({ "messages": { &alice.id: { "SLEEP1": { "n": n } } } });
        let path = format!("/_matrix/client/v3/sendToDevice/m.test/{n}");
        assert_eq!(home.put(&path, &bob, message).await.0, StatusCode::OK);
    }
    // In pages, and again if asked again.
    let events = format!("{PATH}/SLEEP1/events");
    for _ in 0..2 {
        let (mut seen, mut from) = (Vec::new(), json!({}));
        loop {
            let (status, page) = home.post(&events, &alice, from).await;
            assert_eq!(status, StatusCode::OK, "{page}");
            let list = page["events"].as_array().unwrap().clone();
            if list.is_empty() {
                break;
            }
            seen.extend(list.iter().map(|event| event["content"]["n"].as_u64().unwrap()));
            from = json!({ "next_batch": page["next_batch"] });
        }
        assert_eq!(seen, (0..120).collect::<Vec<_>>());
    }
    assert_error(
        home.post(&format!("{PATH}/{}/events", alice.device), &alice, json!({})).await,
        403,
        "M_FORBIDDEN",
    );

    // Another takes its place; then none is left.
    assert_eq!(home.put(PATH, &alice, body(&alice, "SLEEP2")).await.0, StatusCode::OK);
    let (_, devices) = home.get("/_matrix/client/v3/devices", &alice).await;
    assert!(devices.to_string().contains("SLEEP2") && !devices.to_string().contains("SLEEP1"), "{devices}");
    let (status, told) = home.call(Method::DELETE, PATH, Some(&alice.token), Value::Null).await;
    assert_eq!((status, told), (StatusCode::OK, json!({ "device_id": "SLEEP2" })));
    assert_error(home.get(PATH, &alice).await, 404, "M_NOT_FOUND");
    for nonsense in [json!([]), json!({}), json!({ "device_id": "X", "device_data": 1, "device_keys": {} })] {
        assert_eq!(home.put(PATH, &alice, nonsense).await.0, StatusCode::BAD_REQUEST);
    }
}
