//! Media of other servers: fetched once, kept, and removed when they pass their share. Method: a server that counts
//! what it is asked, and a store of its own.

use std::sync::atomic::{AtomicUsize, Ordering};

use axum::body::Body;
use bytes::Bytes;
use ruma::{server_name, user_id};
use tokio::io::AsyncReadExt as _;

use super::*;
use crate::{notify::Notify, store::Options};

/// Answers with the id as often as its length says, and counts.
#[derive(Default)]
struct Other {
    asked: AtomicUsize,
}

impl FetchMedia for Other {
    fn fetch_media<'a>(
        &'a self,
        _: &'a ServerName,
        id: &'a str,
        _: u64,
    ) -> std::pin::Pin<Box<dyn Future<Output = Result<Fetched, MediaError>> + Send + 'a>> {
        Box::pin(async move {
            self.asked.fetch_add(1, Ordering::Relaxed);
            tokio::task::yield_now().await;
            if id == "nosuch" {
                return Err(MediaError::NotFound);
            }
            Ok(Fetched {
                content: Bytes::from(id.repeat(100)),
                content_type: Some("text/plain".into()),
                name: Some("x".repeat(1000)),
            })
        })
    }
}

struct Home {
    media: Media,
    other: Arc<Other>,
    clock: Clock,
    dir: tempfile::TempDir,
}

fn home(remote_bytes_max: u64) -> Home {
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::manual(1_000_000);
    let store = Store::open(dir.path(), Options::default(), Notify::new()).unwrap();
    let other = Arc::new(Other::default());
    let limits = Limits { file_bytes_max: 10_000, remote_bytes_max };
    let name = server_name!("here.example").to_owned();
    let media =
        Media::open(store, clock.clone(), name, &dir.path().join("media"), limits, other.clone()).unwrap();
    Home { media, other, clock, dir }
}

impl Home {
    async fn get(&self, server: &ServerName, id: &str, fetch: bool) -> Result<String, MediaError> {
        let mut opened = self.media.get(server, id, Duration::from_secs(5), fetch).await?;
        let mut text = String::new();
        opened.file.read_to_string(&mut text).await?;
        assert_eq!(opened.size, text.len() as u64);
        Ok(text)
    }

    fn files(&self) -> usize {
        let mut found = 0;
        for folder in std::fs::read_dir(self.dir.path().join("media")).unwrap() {
            found += std::fs::read_dir(folder.unwrap().path()).unwrap().count();
        }
        found
    }
}

#[tokio::test]
async fn a_remote_file_is_fetched_once() {
    let home = home(1 << 20);
    let there = server_name!("there.example");
    assert!(matches!(home.get(there, "abc", false).await, Err(MediaError::NotFound)));
    let all = futures_util::future::join_all((0..10).map(|_| home.get(there, "abc", true))).await;
    assert!(all.into_iter().all(|got| got.unwrap() == "abc".repeat(100)));
    assert_eq!(home.other.asked.load(Ordering::Relaxed), 1);
    assert_eq!(home.get(there, "abc", false).await.unwrap().len(), 300, "it is kept");
    assert!(matches!(home.get(there, "nosuch", true).await, Err(MediaError::NotFound)));
    assert!(matches!(home.get(there, "", true).await, Err(MediaError::NotFound)));
    assert!(matches!(home.get(there, &"x".repeat(101), true).await, Err(MediaError::TooLarge { .. })));
    assert_eq!(home.files(), 1, "what was refused left nothing behind");
    assert!(home.media.shared.fetching.lock().await.is_empty());
}

#[tokio::test]
async fn the_oldest_go_first_and_ours_stay() {
    let home = home(1_000);
    let there = server_name!("there.example");
    let alice = user_id!("@alice:here.example");
    let ours = home.media.upload(alice, Body::from("0001".repeat(100)), None, None).await.unwrap();
    for id in ["0001", "0002", "0003"] {
        home.clock.advance(1_000);
        home.get(there, id, true).await.unwrap();
    }
    // "0001" has the content of our own upload and costs nothing.
    assert_eq!(home.files(), 3);
    for id in ["0004", "0005"] {
        home.clock.advance(1_000);
        home.get(there, id, true).await.unwrap();
    }
    assert!(home.files() <= 3, "{}", home.files());
    let (server, id) = ours.parts().unwrap();
    assert_eq!(home.get(server, id, false).await.unwrap(), "0001".repeat(100));
    assert!(matches!(home.get(there, "0002", false).await, Err(MediaError::NotFound)));
}

#[tokio::test]
async fn announced_uploads_run_out() {
    let home = home(1_000);
    let alice = user_id!("@alice:here.example");
    let mut last = None;
    for _ in 0..100 {
        last = Some(home.media.announce(alice).await.unwrap());
    }
    assert!(matches!(home.media.announce(alice).await, Err(MediaError::TooManyAnnounced)));
    let last = last.unwrap();
    home.clock.advance(UPLOAD_WAIT_MS + 1);
    let (server, id) = last.uri.parts().unwrap();
    assert!(matches!(home.get(server, id, false).await, Err(MediaError::NotFound)));
    home.media.announce(alice).await.unwrap();
    let late = home.media.upload_announced(alice, server, id, Body::from("late"), None, None).await;
    assert!(matches!(late, Err(MediaError::NotFound)));
    assert_eq!(home.files(), 0);
}

#[tokio::test]
async fn what_a_broken_upload_left_is_swept() {
    let home = home(1_000);
    let alice = user_id!("@alice:here.example");
    let broken = futures_util::stream::iter([
        Ok(Bytes::from("half of")),
        Err(std::io::Error::from(std::io::ErrorKind::ConnectionReset)),
    ]);
    let result = home.media.upload(alice, Body::from_stream(broken), None, None).await;
    assert!(matches!(result, Err(MediaError::BrokenOff)));
    assert_eq!(home.files(), 0);
    let tmp = home.dir.path().join("media/tmp");
    std::fs::write(tmp.join("left"), "by a power cut").unwrap();
    Files::open(&home.dir.path().join("media")).unwrap();
    assert_eq!(home.files(), 0);
}
