//! Ten thousand syncs that wait, and a client that reads nothing: memory stays bounded, and others are served.

use std::time::{Duration, Instant};

use super::*;

/// Resident bytes of this process.
fn resident() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    pages.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

const WAITING: usize = 10_000;
/// What one waiting request may keep in this profile, where futures are larger than in a release.
const BYTES_EACH: u64 = 48 << 10;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_waiting_syncs_take_bounded_memory() {
    let home = Arc::new(Home::new(open()).await);
    let (alice, bob) = (home.user("alice").await, home.user("bob").await);
    let (_, first) = home.get("/_matrix/client/v3/sync?timeout=0", &bob).await;
    let since = first["next_batch"].as_str().unwrap().to_owned();
    let before = resident();
    let mut waiting = tokio::task::JoinSet::new();
    for _ in 0..WAITING {
        let request = Request::get(format!("/_matrix/client/v3/sync?timeout=600000&since={since}"))
            .header(header::AUTHORIZATION, format!("Bearer {}", bob.token))
            .body(Body::empty())
            .unwrap();
        let client = home.client.clone();
        waiting.spawn(async move {
            let (head, body) = client.oneshot(request).await.unwrap().into_parts();
            (head.status, body.collect().await.unwrap().to_bytes())
        });
    }
    // Another user is served meanwhile. Reads are taken in turn, so that after so many rounds all others wait.
    let mut slowest = Duration::ZERO;
    for _ in 0..1_000 {
        let begun = Instant::now();
        let (status, _) = home.get(&format!("/_matrix/client/v3/profile/{}", alice.id), &alice).await;
        assert_eq!(status, StatusCode::OK);
        slowest = slowest.max(begun.elapsed());
    }
    assert!(slowest < Duration::from_secs(10), "{slowest:?}");
    let held = resident().saturating_sub(before);
    println!("{} bytes for each of {WAITING} waiting syncs", held / WAITING as u64);
    assert!(waiting.try_join_next().is_none(), "nothing has happened that would end one");
    assert!(held < WAITING as u64 * BYTES_EACH, "{held} bytes are held by {WAITING} waiting syncs");
    // Something comes: all of them answer.
    let data = format!("/_matrix/client/v3/user/{}/account_data/org.test", bob.id);
    assert_eq!(home.put(&data, &bob, json!({ "now": true })).await.0, StatusCode::OK);
    let mut told = 0;
    let deadline = tokio::time::Instant::now() + Duration::from_secs(120);
    while let Ok(Some(done)) = tokio::time::timeout_at(deadline, waiting.join_next()).await {
        let (status, body) = done.unwrap();
        assert_eq!(status, StatusCode::OK);
        told += usize::from(String::from_utf8_lossy(&body).contains("org.test"));
    }
    assert_eq!(told, WAITING);
}
