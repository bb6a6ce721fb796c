//! Who reads what, by history visibility, through every read: messages, event, context, and what another server gets.

use serde_json::{Value, json};

use super::{Node, state};
use crate::{room::read::MessagesQuery, store::Options};

#[tokio::test]
async fn each_visibility_shows_what_it_says() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::open(dir.path(), Options::default());
    let (alice, bob, eve) = (node.user("alice"), node.user("bob"), node.user("eve"));
    // What bob sees of: before the invite, after it, while joined, after leaving, after joining again; then what a
    // stranger sees.
    let table = [
        ("world_readable", "1 2 3 4 5", true),
        ("shared", "1 2 3 4 5", false),
        ("invited", "2 3 5", false),
        ("joined", "3 5", false),
    ];
    for (visibility, seen, open) in table {
        let room = node.room(&alice, "12").await;
        let history = state("m.room.history_visibility", "", json!({ "history_visibility": visibility }));
        node.rooms.send(&alice, &room, history, None).await.unwrap();
        let mut ids = vec![node.say(&alice, &room, "1").await.unwrap()];
        node.rooms.invite(&alice, &room, &bob, None).await.unwrap();
        ids.push(node.say(&alice, &room, "2").await.unwrap());
        node.rooms.join(&bob, (&*room).into(), vec![], None).await.unwrap();
        ids.push(node.say(&alice, &room, "3").await.unwrap());
        node.rooms.leave(&bob, &room, None).await.unwrap();
        ids.push(node.say(&alice, &room, "4").await.unwrap());

        // While out, the past is his, what came after only if all may see it.
        let out = bodies(&node, &bob, &room).await.unwrap();
        let expected: Vec<&str> = match visibility {
            "world_readable" => vec!["1", "2", "3", "4"],
            _ => seen.split(' ').filter(|body| ["1", "2", "3"].contains(body)).collect(),
        };
        assert_eq!(out, expected, "{visibility}, out");
        let old_state = node.rooms.state_all(&bob, &room).await.unwrap();
        node.rooms
            .send(&alice, &room, state("m.room.topic", "", json!({"topic": "later"})), None)
            .await
            .unwrap();
        assert_eq!(
            node.rooms.state_all(&bob, &room).await.unwrap().len(),
            old_state.len(),
            "as it was when he left"
        );

        node.rooms.join(&bob, (&*room).into(), vec![], None).await.unwrap();
        ids.push(node.say(&alice, &room, "5").await.unwrap());
        let back: Vec<String> = bodies(&node, &bob, &room).await.unwrap();
        assert_eq!(back.join(" "), seen, "{visibility}, back");
        for (n, id) in ids.iter().enumerate() {
            let visible = seen.split(' ').any(|body| body == (n + 1).to_string());
            assert_eq!(node.rooms.event(&bob, &room, id).await.is_ok(), visible, "{visibility} event {n}");
            assert_eq!(node.rooms.context(&bob, &room, id, 4, true).await.is_ok(), visible);
            assert_eq!(node.rooms.may_see(&bob, id).await.unwrap(), visible);
        }
        assert_eq!(bodies(&node, &eve, &room).await.is_some(), open, "{visibility}, a stranger");
        assert_eq!(node.rooms.state_all(&eve, &room).await.is_ok(), open);
        assert!(node.rooms.joined_members(&eve, &room).await.is_err());
    }
}

async fn bodies(node: &Node, user: &ruma::UserId, room: &ruma::RoomId) -> Option<Vec<String>> {
    let query = MessagesQuery {
        from: None,
        to: None,
        backwards: true,
        limit: 100,
        lazy_members: false,
        filter: None,
        relations: Default::default(),
        device: None,
    };
    let page = node.rooms.messages(user, room, query).await.ok()?;
    let mut list: Vec<String> = page
        .chunk
        .iter()
        .filter_map(|event| {
            let event: Value = serde_json::from_str(event.get()).unwrap();
            event["content"]["body"].as_str().map(ToOwned::to_owned)
        })
        .collect();
    list.reverse();
    Some(list)
}
