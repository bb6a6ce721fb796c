//! A user who left and had their words erased: whoever was there still reads them, whoever comes later does not.

use super::*;

#[tokio::test]
async fn erased_words_are_for_those_who_heard_them() {
    let home = Home::new(open()).await;
    let (alice, bob, carol) = (home.user("alice").await, home.user("bob").await, home.user("carol").await);
    let (_, made) =
        home.post("/_matrix/client/v3/createRoom", &bob, json!({ "preset": "public_chat" })).await;
    let room = format!("/_matrix/client/v3/rooms/{}", made["room_id"].as_str().unwrap());
    home.post(&format!("{room}/join"), &alice, json!({})).await;
    let text = |body: &str| json!({ "msgtype": "m.text", "body": body });
    let (_, said) = home.put(&format!("{room}/send/m.room.message/1"), &alice, text("what alice said")).await;
    home.put(&format!("{room}/send/m.room.message/1"), &bob, text("what bob said")).await;
    let end = json!({ "erase": true, "auth": { "type": "m.login.password", "password": PASSWORD,
        "identifier": { "type": "m.id.user", "user": "alice" } } });
    let (status, answer) = home.post("/_matrix/client/v3/account/deactivate", &alice, end).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    home.post(&format!("{room}/join"), &carol, json!({})).await;

    let event = said["event_id"].as_str().unwrap().replace('$', "%24");
    for (user, heard) in [(&bob, true), (&carol, false)] {
        let (_, page) = home.get(&format!("{room}/messages?dir=b&limit=50"), user).await;
        let (_, one) = home.get(&format!("{room}/event/{event}"), user).await;
        let (_, sync) = home.get("/_matrix/client/v3/sync?timeout=0", user).await;
        for answer in [&page, &one, &sync] {
            assert_eq!(answer.to_string().contains("what alice said"), heard, "{} {answer}", user.id);
        }
        assert_eq!(one["content"] == json!({}), !heard);
        assert!(page.to_string().contains("what bob said"));
    }
}
