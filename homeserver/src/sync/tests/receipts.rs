//! More receipts than fit into a response: the others come in the next ones, each once, in both syncs.

use super::*;
use crate::{
    api::tests::open,
    store::{
        Kind, StoreError, Touched,
        schema::{
            events::{self, stream_kind},
            receipts::{self, ReceiptRow},
        },
    },
};

/// So many people read something in a room.
async fn read(home: &Home, room: &str, people: std::ops::Range<u32>) {
    let room = room.to_owned();
    home.server
        .store
        .write(move |tx| -> Result<(), StoreError> {
            let room = tx.lookup(Kind::Room, &room)?.unwrap();
            for number in people {
                let user = tx.intern(Kind::User, &format!("@reader{number}:elsewhere.org"))?;
                let seq = events::push_stream(tx, stream_kind::RECEIPT, Some(room), None, None)?;
                let (thread, event) = (String::new(), format!("$event{}", number % 7));
                receipts::put(tx, room, &ReceiptRow { user, private: false, thread, event, ts: 1, seq })?;
            }
            tx.touch(Touched::Room(room));
            Ok(())
        })
        .await
        .unwrap();
}

/// Who has read, by an `m.receipt` event.
fn readers(event: &Value) -> Vec<String> {
    let events = event["content"].as_object().into_iter().flatten();
    events.flat_map(|(_, kinds)| kinds["m.read"].as_object().unwrap().keys().cloned()).collect()
}

#[tokio::test]
async fn what_does_not_fit_comes_in_the_next_responses() {
    let home = Home::new(open()).await;
    let alice = home.user("alice").await;
    let doer = Doer(&home);
    let (big, small) = (doer.room(&alice).await, doer.room(&alice).await);
    let mut v2 = Client::new(&home, &alice, Value::Null);
    v2.sync().await;
    let slide = async |pos: Option<String>| {
        let path = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync?timeout=0".to_owned();
        let path = path + &pos.map(|pos| format!("&pos={}", part(&pos))).unwrap_or_default();
        let list = json!({"ranges": [[0, 9]], "timeline_limit": 1, "required_state": []});
        let body = json!({"lists": {"a": list}, "extensions": {"receipts": {"enabled": true}}});
        home.post(&path, &alice, body).await.1
    };
    let mut slid = slide(None).await;
    read(&home, &big, 0..450).await;
    read(&home, &small, 0..3).await;
    let (mut by_v2, mut by_sliding) = (Vec::new(), Vec::new());
    let mut small_v2 = HashSet::new();
    for turn in 0..5 {
        let told = v2.sync().await["rooms"]["join"].clone();
        let event = |room: &str| told[room]["ephemeral"]["events"][0].clone();
        let new = readers(&event(&big));
        assert!(new.len() <= 200 && (turn > 2 || !new.is_empty()), "{turn}: {}", new.len());
        by_v2.extend(new);
        small_v2.extend(readers(&event(&small)));
        slid = slide(slid["pos"].as_str().map(str::to_owned)).await;
        by_sliding.extend(readers(&slid["extensions"]["receipts"]["rooms"][&big]));
        if turn == 0 {
            // Somebody goes on meanwhile.
            read(&home, &big, 449..451).await;
        }
    }
    for mut told in [by_v2, by_sliding] {
        told.sort();
        told.dedup();
        assert_eq!(told.len(), 451);
    }
    assert_eq!(small_v2.len(), 3);
    // Then it is quiet.
    assert!(v2.sync().await["rooms"].get("join").is_none());
    assert!(slide(slid["pos"].as_str().map(str::to_owned)).await["extensions"].get("receipts").is_none());
}
