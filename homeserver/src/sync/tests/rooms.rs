//! Rooms in a sync: timelines, gaps, state, members, leaving, counts, filters.

use super::*;
use crate::{api::tests::open, server::Settings};

fn bodies(told: &Value) -> Vec<String> {
    let events = told["timeline"]["events"].as_array().unwrap();
    let body = |event: &Value| event["content"]["body"].as_str().map(ToOwned::to_owned);
    events.iter().filter_map(body).collect()
}

#[tokio::test]
async fn a_new_message_comes_once_with_its_transaction() {
    let home = Home::new(open()).await;
    let (alice, bob) = (home.user("alice").await, home.user("bob").await);
    let doer = Doer(&home);
    let room = doer.room(&alice).await;
    doer.done(&bob, &room, "join", json!({})).await;
    let (mut a, mut b) = (Client::new(&home, &alice, Value::Null), Client::new(&home, &bob, Value::Null));
    let first = a.sync().await;
    assert_eq!(first["rooms"]["join"][&room]["timeline"]["limited"], false);
    let types = |told: &Value| {
        let events = told["account_data"]["events"].as_array().unwrap().clone();
        events.iter().map(|event| event["type"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(types(first), ["m.push_rules"]);
    b.sync().await;
    doer.say(&alice, &room, "hello").await;
    doer.say(&alice, &room, "hello").await;
    let told = a.sync().await["rooms"]["join"][&room].clone();
    assert_eq!(bodies(&told), ["hello"]);
    assert_eq!(told["timeline"]["events"][0]["unsigned"]["transaction_id"], "hello");
    assert_eq!(told["unread_notifications"]["notification_count"], 0);
    let told = b.sync().await["rooms"]["join"][&room].clone();
    assert_eq!(bodies(&told), ["hello"]);
    assert!(told["timeline"]["events"][0]["unsigned"]["transaction_id"].is_null());
    assert_eq!(told["unread_notifications"]["notification_count"], 1);
    for client in [&mut a, &mut b] {
        let nothing = client.sync().await;
        assert_eq!(nothing["rooms"].get("join"), None);
    }
}

#[tokio::test]
async fn a_gap_is_told_and_can_be_filled() {
    let home = Home::new(open()).await;
    let (alice, bob) = (home.user("alice").await, home.user("bob").await);
    let doer = Doer(&home);
    let room = doer.room(&alice).await;
    doer.done(&bob, &room, "join", json!({})).await;
    let filter = json!({"room": {"timeline": {"limit": 3}}});
    let mut a = Client::new(&home, &alice, filter);
    a.sync().await;
    for n in 0..10 {
        doer.say(&bob, &room, &format!("m{n}")).await;
    }
    doer.state(&alice, &room, "m.room.topic", json!({"topic": "in the gap"})).await;
    for n in 10..13 {
        doer.say(&bob, &room, &format!("m{n}")).await;
    }
    let told = a.sync().await["rooms"]["join"][&room].clone();
    assert_eq!(bodies(&told), ["m10", "m11", "m12"]);
    assert_eq!(told["timeline"]["limited"], true);
    assert_eq!(told["state"]["events"].as_array().unwrap().len(), 1);
    assert_eq!(told["state"]["events"][0]["content"]["topic"], "in the gap");
    let from = told["timeline"]["prev_batch"].as_str().unwrap();
    let path = format!("/_matrix/client/v3/rooms/{}/messages?dir=b&limit=4&from={}", part(&room), part(from));
    let (_, page) = home.get(&path, &alice).await;
    let older: Vec<_> =
        page["chunk"].as_array().unwrap().iter().map(|event| event["content"].clone()).collect();
    assert_eq!(older[0]["topic"], "in the gap");
    assert_eq!(older[1]["body"], "m9");
    assert_eq!(older[3]["body"], "m7");
    // A state event that the timeline shows is not in the state part as well.
    doer.state(&alice, &room, "m.room.topic", json!({"topic": "shown"})).await;
    let told = a.sync().await["rooms"]["join"][&room].clone();
    assert_eq!(told["state"]["events"], json!([]));
    assert_eq!(told["timeline"]["events"][0]["content"]["topic"], "shown");
    assert_eq!(told["timeline"]["events"][0]["unsigned"]["prev_content"]["topic"], "in the gap");
}

#[tokio::test]
async fn invites_leaves_and_bans_are_told() {
    let home = Home::new(open()).await;
    let (alice, bob) = (home.user("alice").await, home.user("bob").await);
    let doer = Doer(&home);
    let mut b = Client::new(&home, &bob, Value::Null);
    b.sync().await;
    let room = doer.create(&alice, json!({"invite": [bob.id], "name": "Tea"})).await;
    let invite = b.sync().await["rooms"]["invite"][&room]["invite_state"]["events"].clone();
    let types: HashSet<_> =
        invite.as_array().unwrap().iter().map(|event| event["type"].as_str().unwrap()).collect();
    assert!(types.contains("m.room.name") && types.contains("m.room.member"), "{types:?}");
    assert_eq!(b.sync().await["rooms"].get("invite"), None);
    // Declined, invited again, accepted.
    doer.done(&bob, &room, "leave", json!({})).await;
    assert!(b.sync().await["rooms"]["leave"][&room].is_object());
    doer.done(&alice, &room, "invite", json!({"user_id": bob.id})).await;
    assert!(b.sync().await["rooms"]["invite"][&room].is_object());
    doer.say(&alice, &room, "before").await;
    doer.done(&bob, &room, "join", json!({})).await;
    let told = b.sync().await["rooms"]["join"][&room].clone();
    assert_eq!(told["timeline"]["limited"], true);
    assert_eq!(told["summary"]["m.joined_member_count"], 2);
    assert_eq!(bodies(&told), ["before"]);
    // Kicked: the leave is the last that is told.
    doer.say(&alice, &room, "seen").await;
    doer.done(&alice, &room, "ban", json!({"user_id": bob.id, "reason": "out"})).await;
    doer.say(&alice, &room, "not seen").await;
    let told = b.sync().await["rooms"]["leave"][&room].clone();
    assert_eq!(bodies(&told), ["seen"]);
    let events = told["timeline"]["events"].as_array().unwrap();
    assert_eq!(events.last().unwrap()["content"]["membership"], "ban");
    assert_eq!(b.sync().await["rooms"], json!({}));
    // A client that begins now is told too: it was not the user's own wish.
    let mut fresh = Client::new(&home, &bob, Value::Null);
    assert!(fresh.sync().await["rooms"]["leave"][&room].is_object());
    let mut all = Client::new(&home, &bob, json!({"room": {"include_leave": true}}));
    let told = all.sync().await["rooms"]["leave"][&room].clone();
    assert!(bodies(&told).contains(&"seen".to_owned()) && !bodies(&told).contains(&"not seen".to_owned()));
    let path = format!("/_matrix/client/v3/rooms/{}/forget", part(&room));
    home.post(&path, &bob, json!({})).await;
    let mut all = Client::new(&home, &bob, json!({"room": {"include_leave": true}}));
    assert_eq!(all.sync().await["rooms"].get("leave"), None);
}

#[tokio::test]
async fn members_are_loaded_lazily() {
    let home = Home::new(open()).await;
    let (alice, bob, carol) = (home.user("alice").await, home.user("bob").await, home.user("carol").await);
    let doer = Doer(&home);
    let room = doer.create(&alice, json!({"preset": "public_chat", "name": "Tea"})).await;
    for user in [&bob, &carol] {
        doer.done(user, &room, "join", json!({})).await;
    }
    for n in 0..5 {
        doer.say(&bob, &room, &format!("m{n}")).await;
    }
    let filter = |redundant: bool| {
        json!({"room": {"timeline": {"limit": 2},
            "state": {"lazy_load_members": true, "include_redundant_members": redundant}}})
    };
    let members = |told: &Value| {
        let events = told["state"]["events"].as_array().unwrap().clone();
        let members = events.iter().filter(|event| event["type"] == "m.room.member");
        members.map(|event| event["state_key"].as_str().unwrap().to_owned()).collect::<HashSet<_>>()
    };
    let only = |users: &[&User]| users.iter().map(|user| user.id.clone()).collect::<HashSet<_>>();
    let mut lazy = Client::new(&home, &alice, filter(false));
    let told = lazy.sync().await["rooms"]["join"][&room].clone();
    assert_eq!(members(&told), only(&[&alice, &bob]));
    assert!(told["state"]["events"].as_array().unwrap().iter().any(|event| event["type"] == "m.room.name"));
    doer.say(&bob, &room, "again").await;
    let told = lazy.sync().await["rooms"]["join"][&room].clone();
    assert_eq!(members(&told), only(&[]), "bob is known");
    doer.say(&carol, &room, "me too").await;
    // The answer is lost: carol is shown again.
    let lost = lazy.ask(0).await["rooms"]["join"][&room].clone();
    assert_eq!(members(&lost), only(&[&carol]));
    let told = lazy.sync().await["rooms"]["join"][&room].clone();
    assert_eq!(members(&told), only(&[&carol]));
    let mut redundant = Client::new(&home, &bob, filter(true));
    redundant.sync().await;
    for n in 0..2 {
        doer.say(&carol, &room, &format!("c{n}")).await;
        let told = redundant.sync().await["rooms"]["join"][&room].clone();
        assert_eq!(members(&told), only(&[&carol]));
    }
}

#[tokio::test]
async fn what_is_unread_is_counted() {
    let home = Home::new(open()).await;
    let (alice, bob) = (home.user("alice").await, home.user("bob").await);
    let doer = Doer(&home);
    let room = doer.room(&alice).await;
    doer.done(&bob, &room, "join", json!({})).await;
    let mut a = Client::new(&home, &alice, Value::Null);
    a.sync().await;
    let first = doer.say(&bob, &room, "one").await;
    let mention = json!({"msgtype": "m.text", "body": "you", "m.mentions": {"user_ids": [alice.id]}});
    doer.send(&bob, &room, "mention", mention).await;
    doer.say(&bob, &room, "three").await;
    a.sync().await;
    assert_eq!(a.rooms[&room].unread, (3, 1));
    // Read up to the first; in private it counts the same.
    doer.done(&alice, &room, &format!("receipt/m.read.private/{}", part(&first)), json!({})).await;
    let told = a.sync().await["rooms"]["join"][&room].clone();
    assert_eq!(a.rooms[&room].unread, (2, 1));
    let receipt = &told["ephemeral"]["events"][0]["content"][&first]["m.read.private"][&alice.id];
    assert!(receipt["ts"].is_i64());
    let mut b = Client::new(&home, &bob, Value::Null);
    b.sync().await;
    assert!(!b.last.to_string().contains("m.read.private"));
    // Whoever writes has read.
    doer.say(&alice, &room, "four").await;
    a.sync().await;
    assert_eq!(a.rooms[&room].unread, (0, 0));
    // A muted room counts nothing.
    let rule = format!("/_matrix/client/v3/pushrules/global/room/{}", part(&room));
    let (status, answer) = home.put(&rule, &alice, json!({"actions": []})).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let rules = a.sync().await["account_data"]["events"][0].clone();
    assert_eq!(rules["type"], "m.push_rules");
    assert_eq!(rules["content"]["global"]["room"][0]["rule_id"], json!(room));
    doer.say(&bob, &room, "muted").await;
    a.sync().await;
    assert_eq!(a.rooms[&room].unread, (0, 0));
    // A receipt goes on only; both see it.
    let last = doer.say(&bob, &room, "last").await;
    doer.done(&alice, &room, &format!("receipt/m.read/{}", part(&last)), json!({})).await;
    doer.done(&alice, &room, &format!("receipt/m.read/{}", part(&first)), json!({})).await;
    b.sync().await;
    let told = &b.last["rooms"]["join"][&room]["ephemeral"]["events"][0];
    assert_eq!(told["type"], "m.receipt");
    assert!(told["content"][&last]["m.read"][&alice.id].is_object());
    let (status, _) = doer.post(&alice, &room, "receipt/m.read/$nothing", json!({})).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn threads_are_counted_apart_if_wanted() {
    let home = Home::new(open()).await;
    let (alice, bob) = (home.user("alice").await, home.user("bob").await);
    let doer = Doer(&home);
    let room = doer.room(&alice).await;
    doer.done(&bob, &room, "join", json!({})).await;
    let filter = json!({"room": {"timeline": {"unread_thread_notifications": true}}});
    let (mut apart, mut whole) =
        (Client::new(&home, &alice, filter), Client::new(&home, &alice, Value::Null));
    let root = doer.say(&bob, &room, "root").await;
    let mut last = String::new();
    for n in 0..2 {
        let content = json!({"msgtype": "m.text", "body": "in it",
            "m.relates_to": {"rel_type": "m.thread", "event_id": root}});
        let (_, answer) = doer.send(&bob, &room, &format!("t{n}"), content).await;
        last = answer["event_id"].as_str().unwrap().to_owned();
    }
    apart.sync().await;
    whole.sync().await;
    assert_eq!((apart.rooms[&room].unread, whole.rooms[&room].unread), ((1, 0), (3, 0)));
    let told = &apart.last["rooms"]["join"][&room]["unread_thread_notifications"];
    assert_eq!(told[&root]["notification_count"], 2);
    doer.done(&alice, &room, &format!("receipt/m.read/{}", part(&last)), json!({"thread_id": root})).await;
    apart.sync().await;
    whole.sync().await;
    assert_eq!((apart.rooms[&room].unread, whole.rooms[&room].unread), ((1, 0), (1, 0)));
    assert_eq!(apart.last["rooms"]["join"][&room].get("unread_thread_notifications"), None);
}

#[tokio::test]
async fn a_filter_lets_through_what_it_says() {
    let home = Home::new(open()).await;
    let (alice, bob) = (home.user("alice").await, home.user("bob").await);
    let doer = Doer(&home);
    let (one, two) = (doer.room(&alice).await, doer.room(&alice).await);
    let filter = json!({"room": {"rooms": [one], "timeline": {"types": ["m.room.message"], "not_senders": [bob.id]},
        "state": {"types": ["m.room.topic"]}}, "account_data": {"types": []}});
    let path = format!("/_matrix/client/v3/user/{}/filter", part(&alice.id));
    let (_, answer) = home.post(&path, &alice, filter.clone()).await;
    let (_, again) = home.post(&path, &alice, filter.clone()).await;
    assert_eq!(answer, again, "the same filter has the same id");
    let id = answer["filter_id"].as_str().unwrap();
    let (_, kept) = home.get(&format!("{path}/{id}"), &alice).await;
    assert_eq!(kept, filter);
    let (status, _) = home.get(&format!("{path}/none"), &alice).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    for room in [&one, &two] {
        doer.done(&bob, room, "join", json!({})).await;
        doer.say(&bob, room, "filtered").await;
        doer.say(&alice, room, "shown").await;
        doer.state(&alice, room, "m.room.topic", json!({"topic": "t"})).await;
    }
    let (_, told) = home.get(&format!("/_matrix/client/v3/sync?filter={id}"), &alice).await;
    assert_eq!(told["account_data"]["events"], json!([]));
    let rooms = told["rooms"]["join"].as_object().unwrap();
    assert_eq!(rooms.keys().collect::<Vec<_>>(), [&one]);
    assert_eq!(bodies(&rooms[&one]), ["shown"]);
    let state = rooms[&one]["state"]["events"].as_array().unwrap();
    assert_eq!(state.iter().map(|event| &event["type"]).collect::<Vec<_>>(), ["m.room.topic"]);
}

#[tokio::test]
async fn who_types_is_told_and_ends() {
    let home = Home::new(open()).await;
    let (alice, bob) = (home.user("alice").await, home.user("bob").await);
    let doer = Doer(&home);
    let room = doer.room(&alice).await;
    doer.done(&bob, &room, "join", json!({})).await;
    let mut a = Client::new(&home, &alice, Value::Null);
    a.sync().await;
    let path = format!("/_matrix/client/v3/rooms/{}/typing/{}", part(&room), part(&bob.id));
    let typing =
        |told: &Value| told["rooms"]["join"][&room]["ephemeral"]["events"][0]["content"]["user_ids"].clone();
    home.put(&path, &bob, json!({"typing": true, "timeout": 30_000})).await;
    assert_eq!(typing(a.sync().await), json!([bob.id]));
    home.put(&path, &bob, json!({"typing": true, "timeout": 30_000})).await;
    assert_eq!(a.sync().await["rooms"].get("join"), None, "nothing new");
    home.server.clock.advance(31_000);
    let told = a.ask(5_000).await;
    assert_eq!(typing(&told), json!([]));
    a.sync().await;
    let (status, _) = home.put(&path, &alice, json!({"typing": false})).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn who_is_ignored_is_not_heard() {
    let home = Home::new(open()).await;
    let (alice, bob) = (home.user("alice").await, home.user("bob").await);
    let doer = Doer(&home);
    let room = doer.room(&alice).await;
    doer.done(&bob, &room, "join", json!({})).await;
    let path = format!("/_matrix/client/v3/user/{}/account_data/m.ignored_user_list", part(&alice.id));
    home.put(&path, &alice, json!({"ignored_users": {&bob.id: {}}})).await;
    let mut a = Client::new(&home, &alice, Value::Null);
    a.sync().await;
    doer.say(&bob, &room, "not heard").await;
    doer.create(&bob, json!({"invite": [alice.id]})).await;
    doer.say(&alice, &room, "mine").await;
    let told = a.sync().await.clone();
    assert_eq!(bodies(&told["rooms"]["join"][&room]), ["mine"]);
    assert_eq!(told["rooms"].get("invite"), None);
}

#[tokio::test]
async fn presence_is_told_to_who_shares_a_room_if_the_node_tells_it() {
    let home = Home::new(Settings { presence: true, ..open() }).await;
    let (alice, bob) = (home.user("alice").await, home.user("bob").await);
    let doer = Doer(&home);
    let room = doer.room(&alice).await;
    let people = |answer: &Value| -> Vec<(String, String)> {
        let events = answer["presence"]["events"].as_array().unwrap();
        let told = |event: &Value| {
            let text = |value: &Value| value.as_str().unwrap().to_owned();
            (text(&event["sender"]), text(&event["content"]["presence"]))
        };
        events.iter().map(told).filter(|(sender, _)| *sender != bob.id).collect()
    };
    let path = format!("/_matrix/client/v3/presence/{}/status", part(&alice.id));
    home.put(&path, &alice, json!({"presence": "unavailable", "status_msg": "tea"})).await;
    let mut client = Client::new(&home, &bob, Value::Null);
    assert_eq!(people(client.sync().await), []);
    doer.done(&bob, &room, "join", json!({})).await;
    assert_eq!(people(client.sync().await), [(alice.id.clone(), "unavailable".to_owned())]);
    assert_eq!(people(client.sync().await), []);
    home.put(&path, &alice, json!({"presence": "online"})).await;
    let answer = client.sync().await;
    assert_eq!(people(answer), [(alice.id.clone(), "online".to_owned())]);
    assert_eq!(answer["presence"]["events"][0]["content"]["status_msg"], "tea");
    let mut other = Client::new(&home, &bob, json!({"presence": {"types": []}}));
    assert_eq!(people(other.sync().await), []);
}

#[tokio::test]
async fn the_state_after_the_timeline_is_told_to_who_wants_it() {
    let home = Home::new(open()).await;
    let (alice, bob) = (home.user("alice").await, home.user("bob").await);
    let doer = Doer(&home);
    let room = doer.create(&alice, json!({"preset": "public_chat", "name": "one"})).await;
    doer.done(&bob, &room, "join", json!({})).await;
    let sync = async |since: Option<&str>| {
        let since = since.map(|since| format!("&since={since}")).unwrap_or_default();
        let path = format!("/_matrix/client/v3/sync?timeout=0&use_state_after=true{since}");
        home.get(&path, &bob).await.1
    };
    let name = |answer: &Value| {
        let part = &answer["rooms"]["join"][&room];
        assert!(part.get("state").is_none(), "{part}");
        let events = part["state_after"]["events"].as_array().unwrap();
        events
            .iter()
            .rfind(|event| event["type"] == "m.room.name")
            .map(|event| event["content"]["name"].clone())
    };
    let first = sync(None).await;
    assert_eq!(name(&first), Some(json!("one")));
    doer.state(&alice, &room, "m.room.name", json!({"name": "two"})).await;
    let next = sync(first["next_batch"].as_str()).await;
    assert_eq!(name(&next), Some(json!("two")), "although the timeline has it too");
    doer.say(&alice, &room, "nothing about state").await;
    let quiet = sync(next["next_batch"].as_str()).await;
    assert_eq!(name(&quiet), None);
}
