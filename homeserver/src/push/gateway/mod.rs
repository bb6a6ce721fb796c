//! Tells pushers: push gateways over HTTP, and browsers' push services directly.
//!
//! ```text
//!   commit ─> position ─> whose pushers? ─> one task each, while there is something to tell:
//!       cursor ─> next event that notifies ─> send ─> cursor moves on (or: wait, longer each time)
//! ```
//!
//! Nothing is queued: a cursor and the stream say what is still to be told, so a restart forgets nothing. An event that
//! could not be told within a day is not told any more.
//!
//! spec: <https://spec.matrix.org/v1.19/push-gateway-api/>, web push: MSC4174

mod note;
pub mod webpush;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Uri, header};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{note::Note, webpush::Vapid};
use crate::{
    clock::Clock,
    remote::outside::Outside,
    store::{
        Seq, Store, StoreError,
        schema::pushers::{self as table, Key},
    },
};

/// How long a gateway may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);
/// The longest answer that is read.
const ANSWER_BYTES_MAX: usize = 64 << 10;
/// The first wait after a failure; each next one is twice as long.
const WAIT_FIRST: Duration = Duration::from_secs(1);
/// The longest wait.
const WAIT_MAX: Duration = Duration::from_secs(60 * 60);
/// What is older than this is not told any more.
const AGE_MAX_MS: i64 = 24 * 60 * 60 * 1000;
/// Positions that a cursor may lag behind in the file while there is nothing to tell.
const LAG_MAX: i64 = 1_000;

/// Tells pushers. Clones share everything.
#[derive(Clone)]
pub struct Gateway {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    clock: Clock,
    web: Outside,
    /// Where push services reach the people of this server.
    contact: Mutex<String>,
    vapid: tokio::sync::OnceCell<Vapid>,
    /// Whether there may be any pusher: without one, no commit costs a look.
    any: AtomicBool,
    /// Pushers whose task runs, and whether it has to look again; how many unread events they were told of last.
    running: Mutex<HashMap<Key, bool>>,
    badges: Mutex<HashMap<Key, i64>>,
}

/// How a pusher took it.
enum Told {
    Yes,
    /// It is no longer there.
    Gone,
    /// To be tried again.
    Later(String),
}

impl Gateway {
    /// `private`: gateways may stand in the own network, and speak without TLS.
    pub fn new(store: Store, clock: Clock, private: bool, contact: String) -> Self {
        let inner = Inner {
            store,
            clock,
            web: Outside::new(private),
            contact: Mutex::new(contact),
            vapid: tokio::sync::OnceCell::new(),
            any: AtomicBool::new(true),
            running: Mutex::default(),
            badges: Mutex::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Where push services reach the people of this server from now on.
    pub fn set_contact(&self, contact: String) {
        *self.inner.contact.lock().unwrap_or_else(PoisonError::into_inner) = contact;
    }

    /// A pusher was set or removed.
    pub fn changed(&self) {
        self.inner.any.store(true, Ordering::Release);
    }

    /// The public key that browsers subscribe with.
    pub async fn vapid(&self) -> Result<String, StoreError> {
        Ok(self.key().await?.public())
    }

    async fn key(&self) -> Result<&Vapid, StoreError> {
        self.inner
            .vapid
            .get_or_try_init(|| async {
                let mut bytes = [0; 32];
                getrandom::fill(&mut bytes).map_err(|_| StoreError::Closed)?;
                // The top bits clear: always a key.
                bytes[0] &= 0x7f;
                bytes[31] |= 1;
                let stored = self.inner.store.write(move |tx| table::vapid(tx, &bytes)).await?;
                Vapid::from_bytes(&stored).ok_or(StoreError::Corrupt("vapid key"))
            })
            .await
    }

    /// Follows commits until `stop`; the pushers' tasks are spawned on `tasks`.
    pub async fn run(self, stop: CancellationToken, tasks: TaskTracker) {
        let mut position = self.inner.store.notify().position();
        let mut seen = self.inner.store.position();
        match self.inner.store.read(table::all).await {
            Ok(all) => all.into_iter().for_each(|key| self.wake(key, &stop, &tasks)),
            Err(error) => tracing::warn!(%error, "pushers cannot be read"),
        }
        loop {
            tokio::select! {
                changed = position.changed() => if changed.is_err() { return },
                () = stop.cancelled() => return,
            }
            let until = *position.borrow_and_update();
            if until <= seen || !self.inner.any.load(Ordering::Acquire) {
                seen = seen.max(until);
                continue;
            }
            let since = seen;
            let touched = self
                .inner
                .store
                .read(move |tx| {
                    Ok::<_, StoreError>((table::touched(tx, since, until)?, table::all(tx)?.len()))
                })
                .await;
            match touched {
                Ok((touched, all)) => {
                    if all == 0 {
                        self.inner.any.store(false, Ordering::Release);
                    }
                    seen = until;
                    touched.into_iter().for_each(|key| self.wake(key, &stop, &tasks));
                }
                Err(StoreError::Closed) => return,
                Err(error) => tracing::warn!(%error, "pushers cannot be told"),
            }
        }
    }

    /// There may be something to tell.
    fn wake(&self, key: Key, stop: &CancellationToken, tasks: &TaskTracker) {
        if let Some(again) = self.running().get_mut(&key) {
            *again = true;
            return;
        }
        self.running().insert(key.clone(), false);
        let (gateway, stop) = (self.clone(), stop.clone());
        tasks.spawn(async move {
            loop {
                let done = tokio::select! {
                    done = gateway.tell(&key) => done,
                    () = stop.cancelled() => return,
                };
                if let Err(error) = done {
                    tracing::debug!(%error, "a pusher is no longer told");
                    gateway.running().remove(&key);
                    return;
                }
                let mut running = gateway.running();
                match running.get_mut(&key) {
                    Some(again) if *again => *again = false,
                    _ => {
                        running.remove(&key);
                        return;
                    }
                }
            }
        });
    }

    /// Tells a pusher everything that there is.
    async fn tell(&self, key: &Key) -> Result<(), StoreError> {
        let store = &self.inner.store;
        let mut wait = WAIT_FIRST;
        let mut cursor: Option<Seq> = None;
        loop {
            let asked = key.clone();
            let found = store
                .read(move |tx| {
                    let Some((json, stored)) = table::find(tx, &asked)? else {
                        return Ok::<_, StoreError>(None);
                    };
                    let until = tx.position();
                    // One that was never told begins here.
                    let stored = stored.unwrap_or(until);
                    let after = cursor.map_or(stored, |cursor| cursor.max(stored));
                    let (note, upto) = note::next(tx, asked.user, after, until)?;
                    let badge = note::badge(tx, asked.user)?;
                    Ok(Some((json, note, upto, until, stored, badge)))
                })
                .await?;
            let Some((json, note, upto, until, stored, badge)) = found else { return Ok(()) };
            let Ok(pusher) = serde_json::from_str::<Pusher>(&json) else { return Ok(()) };
            let Some(note) = note else {
                cursor = Some(upto);
                if upto < until {
                    continue;
                }
                if upto.0 - stored.0 > LAG_MAX {
                    self.move_on(key, upto).await?;
                }
                return self.tell_badge(key, &pusher, badge).await;
            };
            let late = self.inner.clock.now_ms() as i64 - note.ts > AGE_MAX_MS;
            let told = if late { Told::Yes } else { self.send(key, &pusher, Some(&note), badge).await };
            match told {
                Told::Yes => {
                    self.badges().insert(key.clone(), badge);
                    cursor = Some(note.seq);
                    wait = WAIT_FIRST;
                    self.move_on(key, note.seq).await?;
                }
                Told::Gone => {
                    tracing::info!(
                        app = key.app,
                        "a push gateway no longer knows a device: its pusher is removed"
                    );
                    let key = key.clone();
                    return store.write(move |tx| table::remove(tx, &key)).await;
                }
                Told::Later(reason) => {
                    tracing::debug!(reason, app = key.app, ?wait, "a pusher could not be told");
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(WAIT_MAX);
                }
            }
        }
    }

    /// The number of unread events went down: the device shows it, if the pusher was told of more in this run.
    async fn tell_badge(&self, key: &Key, pusher: &Pusher, badge: i64) -> Result<(), StoreError> {
        let before = self.badges().insert(key.clone(), badge);
        if pusher.kind == "http" && before.is_some_and(|before| before > badge) {
            // Lost if it fails: the next event brings it.
            self.send(key, pusher, None, badge).await;
        }
        Ok(())
    }

    async fn move_on(&self, key: &Key, seq: Seq) -> Result<(), StoreError> {
        let key = key.clone();
        self.inner.store.write_soon(move |tx| table::put_cursor(tx, &key, seq)).await
    }

    async fn send(&self, key: &Key, pusher: &Pusher, note: Option<&Note>, badge: i64) -> Told {
        let mut notification = match note {
            None => json!({}),
            Some(note) if pusher.data.format.as_deref() == Some("event_id_only") => note.short.clone(),
            Some(note) => note.whole.clone(),
        };
        notification["counts"] = json!({"unread": badge});
        let request = match &*pusher.kind {
            "http" => {
                let mut data = pusher.data.other.clone();
                data.remove("url");
                let mut device = json!({"app_id": key.app, "pushkey": key.push_key, "data": data});
                if let Some(format) = &pusher.data.format {
                    device["data"]["format"] = format.as_str().into();
                }
                if let Some(note) = note {
                    device["tweaks"] = note.tweaks.clone();
                }
                notification["devices"] = json!([device]);
                let body = json!({"notification": notification}).to_string();
                let url = pusher.data.url.as_deref().unwrap_or_default();
                Request::post(url).header(header::CONTENT_TYPE, "application/json").body(Bytes::from(body))
            }
            "webpush" | "org.matrix.msc4174.webpush" => match self.sealed(key, pusher, notification).await {
                Ok(request) => Ok(request),
                Err(reason) => return Told::Later(reason),
            },
            // Kept for the client; nothing here tells it.
            _ => return Told::Yes,
        };
        // Its address is none: nobody will ever be reached there.
        let Ok(request) = request else { return Told::Gone };
        let answer = match self.inner.web.send(request, ANSWER_BYTES_MAX, ANSWER_WITHIN).await {
            Ok(answer) => answer,
            Err(error) => return Told::Later(error.to_string()),
        };
        let status = answer.status();
        if pusher.kind != "http" {
            return match status.as_u16() {
                // RFC 8030, section 7.3; others answer 410.
                404 | 410 => Told::Gone,
                200..=299 => Told::Yes,
                _ => Told::Later(format!("the push service says {status}")),
            };
        }
        if !status.is_success() {
            return Told::Later(format!("the gateway says {status}"));
        }
        #[derive(Deserialize, Default)]
        struct Answer {
            #[serde(default)]
            rejected: Vec<String>,
        }
        let answer: Answer = serde_json::from_slice(answer.body()).unwrap_or_default();
        if answer.rejected.contains(&key.push_key) { Told::Gone } else { Told::Yes }
    }

    /// A message for a browser.
    async fn sealed(
        &self,
        key: &Key,
        pusher: &Pusher,
        notification: Value,
    ) -> Result<Request<Bytes>, String> {
        let endpoint = pusher.data.endpoint.as_deref().or(pusher.data.url.as_deref()).unwrap_or_default();
        let auth = pusher.data.auth.as_deref().unwrap_or_default();
        let uri: Uri = endpoint.parse().map_err(|_| "the endpoint is no address".to_owned())?;
        let origin = match (uri.scheme_str(), uri.authority()) {
            (Some(scheme), Some(authority)) => format!("{scheme}://{authority}"),
            _ => return Err("the endpoint is no address".into()),
        };
        let urgency = if notification["prio"] == "low" { "normal" } else { "high" };
        let mut message = notification;
        if message.to_string().len() > webpush::PLAINTEXT_BYTES_MAX
            && let Some(message) = message.as_object_mut()
        {
            message.remove("content");
        }
        let sealed = webpush::seal(&key.push_key, auth, message.to_string().as_bytes())
            .map_err(|error| error.to_string())?;
        let vapid = self.key().await.map_err(|error| error.to_string())?;
        let contact = self.inner.contact.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let signed = vapid.authorization(&origin, &contact, self.inner.clock.now_ms() / 1000);
        Request::post(uri)
            .header("content-encoding", "aes128gcm")
            .header("ttl", "86400")
            .header("urgency", urgency)
            .header(header::AUTHORIZATION, signed)
            .header(header::CONTENT_TYPE, "application/octet-stream")
            .body(Bytes::from(sealed))
            .map_err(|error| error.to_string())
    }

    fn running(&self) -> MutexGuard<'_, HashMap<Key, bool>> {
        self.inner.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn badges(&self) -> MutexGuard<'_, HashMap<Key, i64>> {
        self.inner.badges.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A pusher as its client set it.
#[derive(Debug, Deserialize)]
struct Pusher {
    kind: String,
    #[serde(default)]
    data: Data,
}

#[derive(Debug, Default, Deserialize)]
struct Data {
    url: Option<String>,
    format: Option<String>,
    endpoint: Option<String>,
    auth: Option<String>,
    #[serde(flatten)]
    other: serde_json::Map<String, Value>,
}

#[cfg(test)]
mod tests;
