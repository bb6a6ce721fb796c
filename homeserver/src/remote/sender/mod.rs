//! Carries the outbox to its destinations: the task around [`core::Core`], which decides.

pub mod core;
mod task;

pub use task::PduWriter;

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use ruma::{OwnedServerName, ServerName};
use serde_json::value::RawValue;

/// What others tell the sender between two looks of it. Bounded: names are a set of destinations,
/// and unstored EDUs beyond [`EPHEMERAL_MAX`] push out the oldest.
#[derive(Default)]
pub(super) struct Outgoing {
    news: Mutex<News>,
    bell: tokio::sync::Notify,
}

#[derive(Default)]
struct News {
    heard: Vec<OwnedServerName>,
    all: bool,
    greet: bool,
    ephemeral: Vec<Ephemeral>,
    overviews: Vec<oneshot::Sender<Vec<core::Waiting>>>,
}

struct Ephemeral {
    servers: Vec<OwnedServerName>,
    key: String,
    edu: Box<RawValue>,
}

/// Unstored EDUs between two looks of the sender; at that rate nobody reads who is typing.
const EPHEMERAL_MAX: usize = 256;
/// The sender looks at once; longer, and it does not run.
const OVERVIEW_WITHIN: std::time::Duration = std::time::Duration::from_secs(5);
/// Names between two looks of the sender; more than that is "all".
const HEARD_MAX: usize = 256;

impl Outgoing {
    /// Something was heard of a server.
    pub(super) fn wake(&self, name: &ServerName) {
        let mut news = self.news();
        if !news.heard.iter().any(|known| known == name) {
            if news.heard.len() < HEARD_MAX {
                news.heard.push(name.to_owned());
            } else {
                news.all = true;
            }
        }
        drop(news);
        self.bell.notify_one();
    }

    /// Something about the network changed.
    pub(super) fn wake_all(&self) {
        self.news().all = true;
        self.bell.notify_one();
    }

    /// As [`Self::wake_all`], and those who share rooms with us are to be greeted.
    pub(super) fn greet_all(&self) {
        self.news().greet = true;
        self.wake_all();
    }

    pub(super) fn ephemeral(&self, servers: Vec<OwnedServerName>, key: String, edu: Box<RawValue>) {
        let mut news = self.news();
        news.ephemeral.retain(|known| known.key != key);
        if news.ephemeral.len() >= EPHEMERAL_MAX {
            news.ephemeral.remove(0);
        }
        news.ephemeral.push(Ephemeral { servers, key, edu });
        drop(news);
        self.bell.notify_one();
    }

    /// What waits for whom; none if the sender does not run.
    pub(super) async fn overview(&self) -> Option<Vec<core::Waiting>> {
        let (answer, result) = oneshot::channel();
        {
            let mut news = self.news();
            // Questions of the owner's, on the control socket; who went away is forgotten.
            news.overviews.retain(|waiting| !waiting.is_closed());
            news.overviews.push(answer);
        }
        self.bell.notify_one();
        tokio::time::timeout(OVERVIEW_WITHIN, result).await.ok()?.ok()
    }

    /// Waits until something was told since the last call.
    async fn rung(&self) {
        self.bell.notified().await;
    }

    fn take(&self) -> News {
        std::mem::take(&mut *self.news())
    }

    fn news(&self) -> MutexGuard<'_, News> {
        self.news.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
