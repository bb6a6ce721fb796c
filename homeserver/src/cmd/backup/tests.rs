//! A backup is whole or refused, and what is restored is told as another life. Method: a whole homeserver in process,
//! backed up amid its work, and a client that keeps its token across the restore.

use std::os::unix::fs::PermissionsExt;

use http::StatusCode;
use serde_json::{Value, json};

use super::*;
use crate::api::tests::{Home, User, open as open_to_all};

async fn say(home: &Home, user: &User, room: &str, count: usize, text: &str) {
    for index in 0..count {
        let path = format!("/_matrix/client/v3/rooms/{room}/send/m.room.message/{text}{index}");
        let body = json!({ "msgtype": "m.text", "body": format!("{text} {index}") });
        let (status, answer) = home.put(&path, user, body).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
    }
}

async fn sync(home: &Home, user: &User, since: &str) -> Value {
    let (status, answer) = home.get(&format!("/_matrix/client/v3/sync?timeout=0&since={since}"), user).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    answer
}

fn bodies(answer: &Value, room: &str) -> Vec<String> {
    let events = answer["rooms"]["join"][room]["timeline"]["events"].as_array().cloned().unwrap_or_default();
    events.iter().filter_map(|event| Some(event["content"]["body"].as_str()?.to_owned())).collect()
}

fn token(answer: &Value) -> String {
    answer["next_batch"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_a_restored_node_misses_and_repeats_nothing_unless_told_to_begin_anew() {
    let data = tempfile::tempdir().unwrap();
    let home = Home::at(data.path(), open_to_all()).await;
    let alice = home.user("alice").await;
    let (_, made) = home.post("/_matrix/client/v3/createRoom", &alice, json!({ "name": "kept" })).await;
    let room = made["room_id"].as_str().unwrap().to_owned();
    let keys = json!({ "one_time_keys": { "curve25519:AAAAAQ": "b64", "curve25519:AAAAAg": "b65" } });
    let (status, counts) = home.post("/_matrix/client/v3/keys/upload", &alice, keys).await;
    assert_eq!((status, &counts["one_time_key_counts"]["curve25519"]), (StatusCode::OK, &json!(2)));
    say(&home, &alice, &room, 5, "before").await;
    let first = sync(&home, &alice, "").await;
    assert!(bodies(&first, &room).contains(&"before 4".to_owned()));

    let file = data.path().join("backup.tar");
    let blob = data.path().join("media/ab");
    fs::create_dir_all(&blob).unwrap();
    fs::write(blob.join("cd"), b"a blob").unwrap();
    fs::write(data.path().join("node.key"), "00\n").unwrap();
    let (store, dir, to) = (home.server.store.clone(), data.path().to_owned(), file.clone());
    let summary =
        tokio::task::spawn_blocking(move || write(&store, &dir, "name.test", &to)).await.unwrap().unwrap();
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::metadata(&file).unwrap().len(), summary.bytes);
    let left: Vec<_> = fs::read_dir(data.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".part"))
        .collect();
    assert!(left.is_empty(), "{left:?}");

    // What comes now is lost by the restore; the client has a token from after it.
    say(&home, &alice, &room, 40, "lost").await;
    let later = sync(&home, &alice, &token(&first)).await;
    assert!(bodies(&later, &room).contains(&"lost 39".to_owned()));
    let (before, future) = (token(&first), token(&later));
    let incarnation = home.server.store.incarnation();

    let place = tempfile::tempdir().unwrap();
    let restored = place.path().join("node");
    let summary = archive::read(&file, &restored).unwrap();
    assert_eq!(summary.name, "name.test");
    assert_eq!(fs::read(restored.join("media/ab/cd")).unwrap(), b"a blob");
    assert_eq!(fs::metadata(restored.join("node.key")).unwrap().permissions().mode() & 0o777, 0o600);
    let again = Store::open(&restored, Default::default(), Notify::default()).unwrap();
    let position = again.position();
    again.begin_new_life().await.unwrap();
    again.close().await;
    drop(again);
    let old_home = Home::at(&restored, open_to_all()).await;
    assert_ne!(old_home.server.store.incarnation(), incarnation);
    assert!(old_home.server.store.position().0 > position.0 + 1_000_000, "numbers jump");

    for stale in [&before, &future] {
        let told = sync(&old_home, &alice, stale).await;
        let joined = &told["rooms"]["join"][&room];
        // All of the room, as at the first sync: the client cannot take it for a continuation.
        let full = joined["state"]["events"].as_array().unwrap().len()
            + joined["timeline"]["events"]
                .as_array()
                .unwrap()
                .iter()
                .filter(|e| e["state_key"].is_string())
                .count();
        assert!(full >= 6, "{told}");
        assert!(bodies(&told, &room).iter().all(|body| body.starts_with("before")));
        assert_eq!(told["device_one_time_keys_count"]["curve25519"].as_i64().unwrap_or(0), 0, "{told}");
        let (_, counts) = old_home.post("/_matrix/client/v3/keys/upload", &alice, json!({})).await;
        assert_eq!(counts["one_time_key_counts"]["curve25519"].as_i64().unwrap_or(0), 0);
    }
    let mut since = token(&sync(&old_home, &alice, &future).await);
    for round in 0..3 {
        say(&old_home, &alice, &room, 3, &format!("after{round}x")).await;
        let told = sync(&old_home, &alice, &since).await;
        let expected: Vec<String> = (0..3).map(|index| format!("after{round}x {index}")).collect();
        assert_eq!(bodies(&told, &room), expected, "each once, in order");
        since = token(&told);
    }
}

#[test]
fn what_is_damaged_or_no_backup_is_refused_and_nothing_is_overwritten() {
    let place = tempfile::tempdir().unwrap();
    let data = place.path().join("data");
    let store = Store::open(&data, Default::default(), Notify::default()).unwrap();
    fs::write(data.join("node.key"), "ab".repeat(32)).unwrap();
    fs::write(data.join("lock"), "").unwrap();
    let file = place.path().join("b.tar");
    write(&store, &data, "name.test", &file).unwrap();
    // Another one in its place.
    write(&store, &data, "name.test", &file).unwrap();
    let whole = fs::read(&file).unwrap();
    let bad = place.path().join("bad.tar");
    for (index, spoilt) in [
        Vec::new(),
        b"no archive at all".to_vec(),
        whole[..whole.len() - 512].to_vec(),
        whole[..whole.len() / 2].to_vec(),
        {
            let mut flipped = whole.clone();
            flipped[2048] ^= 1;
            flipped
        },
        vec![0; 10_000],
    ]
    .into_iter()
    .enumerate()
    {
        fs::write(&bad, spoilt).unwrap();
        let to = place.path().join(format!("to{index}"));
        let error = archive::read(&bad, &to).unwrap_err().to_string();
        assert!(error.contains("checksum"), "{index}: {error}");
        assert!(!to.exists());
    }
    let args = |file: &Path, dir: &Path| RestoreArgs {
        data: Data { dir: Some(dir.to_owned()) },
        file: Some(file.to_owned()),
        in_place: false,
    };
    let taken = place.path().join("taken");
    fs::create_dir(&taken).unwrap();
    fs::write(taken.join("x"), "mine").unwrap();
    assert!(matches!(restore(&args(&file, &taken)), Err(CmdError::Usage(text)) if text.contains("--data")));
    assert_eq!(fs::read_to_string(taken.join("x")).unwrap(), "mine");
    let fresh = place.path().join("fresh");
    assert!(restore(&args(&bad, &fresh)).is_err());
    assert!(!fresh.exists() && !place.path().join("fresh.restoring").exists());
    restore(&args(&file, &fresh)).unwrap();
    assert!(
        fresh.join("hs.db").is_file() && fresh.join("node.key").is_file() && !fresh.join("ctl.sock").exists()
    );
    let reopened = Store::open(&fresh, Default::default(), Notify::default()).unwrap();
    assert_ne!(reopened.incarnation(), store.incarnation());
    let incarnation = reopened.incarnation();
    drop(reopened);
    let in_place = RestoreArgs { data: Data { dir: Some(fresh.clone()) }, file: None, in_place: true };
    restore(&in_place).unwrap();
    let reopened = Store::open(&fresh, Default::default(), Notify::default()).unwrap();
    assert_ne!(reopened.incarnation(), incarnation);
}
