//! What belongs to no room: messages to devices, lists of devices, tokens, the long poll.

use std::time::{Duration, Instant};

use super::*;
use crate::{api::tests::open, sync::token::Token};

async fn send_to(home: &Home, from: &User, to: &User, txn: usize) {
    let path = format!("/_matrix/client/v3/sendToDevice/m.test/t{txn}");
    let body = json!({"messages": {&to.id: {"*": {"n": txn}}}});
    let (status, answer) = home.put(&path, from, body).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
}

fn numbers(told: &Value) -> Vec<usize> {
    let events = told["to_device"]["events"].as_array().unwrap();
    events.iter().map(|event| event["content"]["n"].as_u64().unwrap() as usize).collect()
}

#[tokio::test]
async fn a_message_to_a_device_arrives_once_though_answers_are_lost() {
    let home = Home::new(open()).await;
    let (alice, bob) = (home.user("alice").await, home.user("bob").await);
    let mut a = Client::new(&home, &alice, Value::Null);
    let (mut sent, mut got) = (0, Vec::new());
    a.sync().await;
    for round in 0..12 {
        for _ in 0..(round * 7) % 40 {
            send_to(&home, &bob, &alice, sent).await;
            send_to(&home, &bob, &alice, sent).await;
            sent += 1;
        }
        if round % 3 == 1 {
            let lost = numbers(&a.ask(0).await);
            let again = numbers(&a.ask(0).await);
            assert_eq!(lost, again);
        }
        if round % 2 == 0 {
            got.extend(numbers(a.sync().await));
        }
    }
    loop {
        let more = numbers(a.sync().await);
        if more.is_empty() {
            break;
        }
        got.extend(more);
    }
    assert!(sent > 100, "more than one answer holds");
    assert_eq!(got, (0..sent).collect::<Vec<_>>());
    // Another device, or one that begins anew, does not get what the first has acknowledged.
    let mut fresh = Client::new(&home, &alice, Value::Null);
    assert!(numbers(fresh.sync().await).is_empty());
}

#[tokio::test]
async fn a_foreign_or_future_token_starts_anew_and_deletes_nothing() {
    let home = Home::new(open()).await;
    let (alice, bob) = (home.user("alice").await, home.user("bob").await);
    let doer = Doer(&home);
    let room = doer.room(&alice).await;
    let mut a = Client::new(&home, &alice, Value::Null);
    a.sync().await;
    send_to(&home, &bob, &alice, 1).await;
    let told = a.ask(0).await;
    let token: Token = told["next_batch"].as_str().unwrap().parse().unwrap();
    let foreign = [
        Token { incarnation: token.incarnation ^ 1, ..token }.to_string(),
        Token { node: token.node ^ 1, ..token }.to_string(),
        Token { seq: token.seq + 1_000_000, to_device: token.to_device + 1_000_000, ..token }.to_string(),
        Token { to_device: token.seq + 1, ..token }.to_string(),
        "s72594_4483_1934".to_owned(),
        "x".repeat(2_000),
    ];
    for since in foreign {
        a.since = Some(since.clone());
        let told = a.ask(0).await;
        assert!(told["rooms"]["join"][&room]["state"]["events"].is_array(), "{since}");
        assert!(told["rooms"]["join"][&room]["timeline"]["events"].as_array().unwrap().len() > 3, "{since}");
        assert_eq!(numbers(&told), [1], "{since}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_waiting_sync_wakes_for_what_concerns_it_and_for_nothing_else() {
    let home = Home::new(open()).await;
    let (alice, bob, carol) = (home.user("alice").await, home.user("bob").await, home.user("carol").await);
    let doer = Doer(&home);
    let (room, other) = (doer.room(&alice).await, doer.room(&carol).await);
    doer.done(&bob, &room, "join", json!({})).await;
    let mut a = Client::new(&home, &alice, Value::Null);
    a.sync().await;
    // Nothing: the time is waited for.
    let begun = Instant::now();
    let (nothing, ()) = tokio::join!(a.ask(300), async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        doer.say(&carol, &other, "not for alice").await;
    });
    assert!(begun.elapsed() >= Duration::from_millis(300));
    assert_eq!(nothing["rooms"].get("join"), None);
    let mut waits = Vec::new();
    for n in 0..20 {
        let (told, sent) = tokio::join!(
            async {
                let told = a.ask(10_000).await;
                (told, Instant::now())
            },
            async {
                tokio::time::sleep(Duration::from_millis(20)).await;
                let begun = Instant::now();
                doer.say(&bob, &room, &format!("wake {n}")).await;
                begun
            }
        );
        let (told, at) = told;
        let events = told["rooms"]["join"][&room]["timeline"]["events"].as_array().unwrap();
        assert_eq!(events.last().unwrap()["content"]["body"], format!("wake {n}"));
        waits.push(at.duration_since(sent));
        a.keep(&told);
    }
    waits.sort();
    println!("send to woken sync, in process: p50 {:?}, max {:?}", waits[10], waits[19]);
    assert!(waits[10] < Duration::from_millis(250), "{waits:?}");
    // The end of the node ends the wait.
    let begun = Instant::now();
    let (_, ()) = tokio::join!(a.ask(30_000), async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        home.server.stop();
    });
    assert!(begun.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn lists_of_devices_follow_who_shares_a_room() {
    let home = Home::new(open()).await;
    let (alice, bob) = (home.user("alice").await, home.user("bob").await);
    let doer = Doer(&home);
    let mut a = Client::new(&home, &alice, Value::Null);
    a.sync().await;
    let upload = |user: &User| {
        let (id, device) = (user.id.clone(), user.device.clone());
        json!({"device_keys": {"user_id": id, "device_id": device, "algorithms": ["m.olm.v1"],
            "keys": {format!("ed25519:{device}"): "key"}, "signatures": {}},
            "one_time_keys": {"signed_curve25519:AAAAAQ": {"key": "k", "signatures": {}}}})
    };
    let (status, answer) = home.post("/_matrix/client/v3/keys/upload", &bob, upload(&bob)).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    assert_eq!(answer["one_time_key_counts"]["signed_curve25519"], 1);
    let lists =
        |told: &Value| (told["device_lists"]["changed"].clone(), told["device_lists"]["left"].clone());
    assert_eq!(lists(a.sync().await), (json!([]), json!([])), "nothing is shared");
    let room = doer.room(&alice).await;
    doer.done(&bob, &room, "join", json!({})).await;
    // The room is alice's since then too, which her other devices hear.
    assert_eq!(lists(a.sync().await), (json!([alice.id, bob.id]), json!([])));
    let from = a.since.clone().unwrap();
    // A new key of a shared user; one's own device is told of, too.
    home.post("/_matrix/client/v3/keys/upload", &alice, upload(&alice)).await;
    assert_eq!(lists(a.sync().await).0, json!([alice.id]));
    // A key was claimed: bob's device is told what it has left.
    let mut b = Client::new(&home, &bob, Value::Null);
    b.sync().await;
    assert_eq!(b.last["device_one_time_keys_count"]["signed_curve25519"], 1);
    let claim = json!({"one_time_keys": {&bob.id: {&bob.device: "signed_curve25519"}}});
    let (_, claimed) = home.post("/_matrix/client/v3/keys/claim", &alice, claim.clone()).await;
    assert!(claimed["one_time_keys"][&bob.id][&bob.device]["signed_curve25519:AAAAAQ"].is_object());
    let told = b.ask(5_000).await;
    assert_eq!(told["device_one_time_keys_count"]["signed_curve25519"], 0);
    let (_, claimed) = home.post("/_matrix/client/v3/keys/claim", &alice, claim).await;
    assert_eq!(claimed["one_time_keys"], json!({}));
    // Nothing shared any more.
    doer.done(&bob, &room, "leave", json!({})).await;
    assert_eq!(lists(a.sync().await), (json!([]), json!([bob.id])));
    let to = a.since.clone().unwrap();
    let path = format!("/_matrix/client/v3/keys/changes?from={from}&to={to}");
    let (_, changes) = home.get(&path, &alice).await;
    assert_eq!(changes["left"], json!([bob.id]));
    let (status, _) = home.get("/_matrix/client/v3/keys/changes?from=s1&to=s2", &alice).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
}
