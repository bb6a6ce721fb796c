//! Carries the outbox to its destinations: the task around [`core::Core`], which decides.

pub mod core;
mod task;

pub use task::PduWriter;

use std::sync::{Mutex, MutexGuard, PoisonError};

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
}

struct Ephemeral {
    servers: Vec<OwnedServerName>,
    key: String,
    edu: Box<RawValue>,
}

/// Unstored EDUs between two looks of the sender; at that rate nobody reads who is typing.
const EPHEMERAL_MAX: usize = 256;
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
