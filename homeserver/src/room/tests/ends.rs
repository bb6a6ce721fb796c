//! A graph with more ends than one event builds on.

use ruma::{OwnedEventId, OwnedRoomId};
use serde_json::{Value, json, value::to_raw_value};

use super::{
    Node,
    federation::{Net, resolved, sign},
    message, state,
};
use crate::{
    room::{Draft, PduJson},
    store::{
        Kind, StoreError,
        schema::{events, state as table},
    },
};

/// An event of alice's for each draft, all on the same end.
async fn side_by_side(a: &Node, room: &OwnedRoomId, drafts: Vec<Draft>) -> Vec<PduJson> {
    let alice = a.user("alice");
    let mut list = Vec::new();
    for draft in drafts {
        let made = a.rooms.template(room, &alice, draft).await.unwrap();
        list.push(to_raw_value(&sign(a, &made.version, made.event)).unwrap());
    }
    list
}

async fn before(node: &Node, event: &OwnedEventId) -> Vec<(String, OwnedEventId)> {
    let event = event.clone();
    node.store
        .read(move |tx| -> Result<_, StoreError> {
            let event = events::event_by_id(tx, &event)?.unwrap();
            let mut list = Vec::new();
            for (skey, nid) in table::full(tx, event.state_before.unwrap())? {
                list.push((tx.text(skey)?.to_string(), events::id(tx, nid)?));
            }
            list.sort();
            Ok(list)
        })
        .await
        .unwrap()
}

/// What is said on ten of fourteen ends has the state of those ten before it, for us as for everyone else.
#[tokio::test]
async fn an_event_on_some_of_many_ends_has_their_state_before_it() {
    for version in ["1", "10", "12"] {
        let net = Net::default();
        let ((_d1, a), (_d2, b), (_d3, c)) =
            (net.node("one.test"), net.node("two.testing"), net.node("three.example"));
        let room = a.room(&a.user("alice"), version).await;
        for node in [&b, &c] {
            net.join(node, &node.user("bob"), &a, &room).await.unwrap();
            net.deliver(&a).await;
        }
        net.outbox(&b).await;
        // All are equally deep: which ten are built on does not follow from which topic is the newest.
        let drafts = (0..14_u64).map(|count| {
            let mut draft = state("m.room.topic", "", json!({ "topic": count }));
            draft.ts_ms = Some(4_000_000_000_000 + count * 1000);
            draft
        });
        let list = side_by_side(&a, &room, drafts.collect()).await;
        for node in [&b, &c] {
            for received in node.rooms.receive(a.rooms.server_name(), list.clone()).await {
                received.result.unwrap();
            }
        }
        assert_eq!(resolved(&b, &room).await, resolved(&c, &room).await, "version {version}");
        let first = b.rooms.send(&b.user("bob"), &room, message("on ten"), None).await.unwrap();
        let second = b.rooms.send(&b.user("bob"), &room, message("on all"), None).await.unwrap();
        net.deliver(&b).await;
        for event in [&first, &second] {
            assert_eq!(before(&b, event).await, before(&c, event).await, "version {version}");
        }
        assert_eq!(resolved(&b, &room).await, resolved(&c, &room).await, "version {version}");
    }
}

#[tokio::test]
async fn many_ends_are_merged_by_an_event_that_says_nothing() {
    let net = Net::default();
    let ((_d1, a), (_d2, b)) = (net.node("one.test"), net.node("two.testing"));
    let (alice, bob) = (a.user("alice"), b.user("bob"));
    let room = a.room(&alice, "10").await;
    net.join(&b, &bob, &a, &room).await.unwrap();
    net.deliver(&a).await;
    net.outbox(&b).await;
    // Fourteen events side by side: each is built on the same end.
    let drafts = (0..14).map(|count| message(&count.to_string())).collect();
    let list = side_by_side(&a, &room, drafts).await;
    for received in b.rooms.receive(a.rooms.server_name(), list).await {
        received.result.unwrap();
    }
    let ends = |node: &Node| {
        let (store, room) = (node.store.clone(), room.clone());
        async move {
            store
                .read(move |tx| -> Result<_, StoreError> {
                    let room = tx.lookup(Kind::Room, room.as_str())?.unwrap();
                    Ok(events::forward(tx, room)?.len())
                })
                .await
                .unwrap()
        }
    };
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    let mut changed = b.store.notify().position();
    while ends(&b).await > 10 {
        assert!(std::time::Instant::now() < deadline, "the ends are merged");
        let _ = tokio::time::timeout(std::time::Duration::from_millis(200), changed.changed()).await;
    }
    assert_eq!(ends(&b).await, 5, "ten of fourteen became one");
    assert!(net.outbox(&b).await.is_empty(), "others meet it when the next event builds on it");
    let next = b.say(&bob, &room, "next").await.unwrap();
    assert_eq!(ends(&b).await, 1);
    net.deliver(&b).await;
    let seen: Value = serde_json::from_str(a.rooms.event(&alice, &room, &next).await.unwrap().get()).unwrap();
    assert_eq!(seen["content"]["body"], "next");
}
