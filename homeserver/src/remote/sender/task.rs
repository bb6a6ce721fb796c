//! The task that does what [`Core`] decides: reads the outbox, writes marks, sends transactions.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use ruma::{
    MilliSecondsSinceUnixEpoch, OwnedServerName, OwnedTransactionId, ServerName,
    api::federation::transactions::{edu::Edu, send_transaction_message},
    serde::Raw,
};
use serde_json::value::RawValue;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::core::{Action, Core, Item, Outcome, QUEUE_MAX, Range, Save};
use crate::{
    remote::{CarrierError, Remote, RemoteError},
    store::{
        Kind, Nid, ReadTx, Seq, StoreError,
        schema::{
            dest,
            events::{self, EventRow},
            membership,
            outbox::{self, KIND_PDU},
        },
    },
};

/// Writes a stored event as servers exchange it: `room::read::pdu`.
pub type PduWriter = fn(&ReadTx<'_>, &EventRow) -> Result<Box<RawValue>, StoreError>;

/// Rows of the outbox read at a time.
const ROWS_READ: u32 = 512;
/// Rows looked at in one read while a destination catches up.
const ROWS_SCANNED: u32 = 4096;
/// Audiences whose servers are kept in memory.
const AUDIENCES_MAX: usize = 1024;
/// Servers greeted after a start, and when two networks have met.
const GREETED_MAX: u32 = 10_000;
/// How long a write that failed waits before it is tried again (a full disk).
const SAVE_RETRY: Duration = Duration::from_secs(1);

/// What a side task came back with.
enum Done {
    Saved,
    Loaded {
        server: Nid,
        upto: Seq,
        items: Vec<Item>,
        complete: bool,
    },
    Sent {
        server: Nid,
        txn: String,
        outcome: Outcome,
    },
    Greeted {
        server: Nid,
        outcome: Outcome,
    },
    Ephemeral {
        server: Nid,
    },
    /// The store is closed: the node ends.
    Closed,
}

impl Remote {
    /// Sends what is in the outbox until `shutdown`, or until the store is closed. `pdu` writes events.
    pub async fn run_sender(self, pdu: PduWriter, shutdown: CancellationToken) {
        if let Err(error) = self.send_all(pdu, &shutdown).await
            && !shutdown.is_cancelled()
        {
            tracing::error!(%error, "the federation sender ended: nothing is sent to other servers any more");
        }
    }

    async fn send_all(&self, pdu: PduWriter, shutdown: &CancellationToken) -> Result<(), StoreError> {
        let start = Instant::now();
        let store = self.store();
        // Registered before the first read: what comes between is seen by one of the two.
        let mut outbox = store.notify().outbox();
        let stored = store.read(dest::load).await?;
        let prefix = format!("{}.{:x}", self.identity().node_name(), store.incarnation());
        let mut core = Core::new(prefix, stored);
        let ours = self.identity().server_name().to_owned();
        let ours = store.write(move |tx| tx.intern(Kind::Server, ours.as_str())).await?;
        core.handle_joined(&self.greeted(ours).await?, start.elapsed());

        let mut audiences: HashMap<i64, Arc<[Nid]>> = HashMap::new();
        let mut tasks: JoinSet<Done> = JoinSet::new();
        loop {
            outbox.borrow_and_update();
            self.read_rows(&mut core, &mut audiences, ours, start).await?;
            self.take_news(&mut core, ours, start).await?;
            while let Some(action) = core.poll_action(start.elapsed()) {
                self.perform(action, pdu, &mut tasks);
            }
            let wait = core.poll_timeout().map(|at| at.saturating_sub(start.elapsed()));
            let wait = wait.unwrap_or(Duration::from_secs(3600));
            tokio::select! {
                _ = shutdown.cancelled() => break,
                changed = outbox.changed() => if changed.is_err() { break },
                () = self.inner.outgoing.rung() => {}
                () = tokio::time::sleep(wait) => {}
                Some(done) = tasks.join_next() => {
                    // A task that panicked has been reported by the runtime; its destination's state is lost with it.
                    let Ok(done) = done else { continue };
                    if !handle(&mut core, done, start.elapsed()) { break }
                }
            }
        }
        // Transactions under way are sent again, unchanged, at the next start.
        tasks.shutdown().await;
        Ok(())
    }

    async fn read_rows(
        &self,
        core: &mut Core,
        audiences: &mut HashMap<i64, Arc<[Nid]>>,
        ours: Nid,
        start: Instant,
    ) -> Result<(), StoreError> {
        loop {
            let seen = core.seen();
            let known: Vec<i64> = audiences.keys().copied().collect();
            let (rows, new) = self
                .store()
                .read(move |tx| -> Result<_, StoreError> {
                    let rows = outbox::after(tx, seen, ROWS_READ)?;
                    let mut new: HashMap<i64, Arc<[Nid]>> = HashMap::new();
                    for row in &rows {
                        if !known.contains(&row.audience) && !new.contains_key(&row.audience) {
                            let mut servers = outbox::audience_servers(tx, row.audience)?;
                            servers.retain(|server| *server != ours);
                            new.insert(row.audience, servers.into());
                        }
                    }
                    Ok((rows, new))
                })
                .await?;
            let whole = rows.len() < ROWS_READ as usize;
            if audiences.len() + new.len() > AUDIENCES_MAX {
                audiences.retain(|id, _| rows.iter().any(|row| row.audience == *id));
            }
            audiences.extend(new);
            for row in rows {
                let item = Item { seq: row.seq, pdu: row.kind == KIND_PDU };
                let audience = audiences.get(&row.audience).map_or(&[][..], |servers| servers);
                core.handle_row(item, audience, start.elapsed());
            }
            if whole {
                return Ok(());
            }
        }
    }

    /// All servers that share a room with us.
    async fn greeted(&self, ours: Nid) -> Result<Vec<Nid>, StoreError> {
        let mut servers = self.store().read(|tx| membership::all_servers(tx, GREETED_MAX)).await?;
        servers.retain(|server| *server != ours);
        Ok(servers)
    }

    async fn take_news(&self, core: &mut Core, ours: Nid, start: Instant) -> Result<(), StoreError> {
        let news = self.inner.outgoing.take();
        for asked in news.overviews {
            // Who asked may have gone.
            let _ = asked.send(core.overview(start.elapsed()));
        }
        if news.greet && core.may_greet(start.elapsed()) {
            core.handle_joined(&self.greeted(ours).await?, start.elapsed());
        }
        if news.all {
            core.handle_wake_all();
        }
        if news.heard.is_empty() && news.ephemeral.is_empty() {
            return Ok(());
        }
        let (heard, ephemeral) = (news.heard, news.ephemeral);
        let (heard, ephemeral) = self
            .store()
            .read(move |tx| -> Result<_, StoreError> {
                let number = |name: &OwnedServerName| tx.lookup(Kind::Server, name.as_str());
                let heard = heard.iter().filter_map(|name| number(name).transpose());
                let heard = heard.collect::<Result<Vec<_>, _>>()?;
                let mut edus = Vec::new();
                for edu in ephemeral {
                    let servers = edu.servers.iter().filter_map(|name| number(name).transpose());
                    edus.push((servers.collect::<Result<Vec<_>, _>>()?, edu.key, edu.edu));
                }
                Ok((heard, edus))
            })
            .await?;
        for server in heard {
            core.handle_wake(server);
        }
        for (servers, key, edu) in ephemeral {
            core.handle_ephemeral(&servers, &key, edu.get());
        }
        Ok(())
    }

    fn perform(&self, action: Action, pdu: PduWriter, tasks: &mut JoinSet<Done>) {
        let remote = self.clone();
        match action {
            Action::Save(save) => {
                tasks.spawn(async move { remote.save(Arc::new(save)).await });
            }
            Action::Load { server, after, upto } => {
                tasks.spawn(async move {
                    let rows = remote
                        .store()
                        .read(move |tx| dest::rows_of(tx, server, after, upto, QUEUE_MAX, ROWS_SCANNED));
                    match rows.await {
                        Ok((items, complete)) => Done::Loaded { server, upto, items, complete },
                        Err(_) => Done::Closed,
                    }
                });
            }
            Action::Send(range) => {
                tasks.spawn(async move {
                    let (server, txn) = (range.server, range.txn.clone());
                    match remote.send_range(range, pdu).await {
                        Ok(outcome) => Done::Sent { server, txn, outcome },
                        Err(_) => Done::Closed,
                    }
                });
            }
            Action::Greet(server) => {
                tasks.spawn(async move {
                    let txn =
                        format!("{}.hello.{:x}", remote.identity().node_name(), remote.clock().now_ms());
                    match remote.send_to(server, txn, Vec::new(), Vec::new()).await {
                        Ok(outcome) => Done::Greeted { server, outcome },
                        Err(_) => Done::Closed,
                    }
                });
            }
            Action::Ephemeral(server, edus) => {
                tasks.spawn(async move {
                    let txn = format!("{}.now.{:x}", remote.identity().node_name(), random());
                    let edus =
                        edus.into_iter().filter_map(|edu| RawValue::from_string(edu.into()).ok()).collect();
                    // Whether it arrived makes no difference: it is not repeated.
                    match remote.send_to(server, txn, Vec::new(), edus).await {
                        Ok(_) => Done::Ephemeral { server },
                        Err(_) => Done::Closed,
                    }
                });
            }
        }
    }

    async fn save(&self, save: Arc<Save>) -> Done {
        loop {
            let now = Arc::clone(&save);
            // A power cut may undo it: then a range is sent again under another id, and nothing comes of it, since
            // events, messages to devices and receipts are known by their own ids. Not worth a wait for the disk
            // between every message and its way out.
            match self.store().write_soon(move |tx| dest::save(tx, &now)).await {
                Ok(()) => return Done::Saved,
                Err(StoreError::Closed) => return Done::Closed,
                Err(error) => {
                    tracing::error!(%error, "how far other servers are cannot be written");
                    tokio::time::sleep(SAVE_RETRY).await;
                }
            }
        }
    }

    /// Puts a transaction together out of the store, the same at every attempt, and sends it.
    async fn send_range(&self, range: Range, pdu: PduWriter) -> Result<Outcome, StoreError> {
        let (server, first, last) = (range.server, range.first, range.last);
        let (pdus, edus) = self
            .store()
            .read(move |tx| -> Result<_, StoreError> {
                let (mut pdus, mut edus) = (Vec::new(), Vec::new());
                let mut at = Seq(first.0 - 1);
                'rows: loop {
                    let rows = outbox::after(tx, at, ROWS_READ)?;
                    let whole = rows.len() < ROWS_READ as usize;
                    for row in rows {
                        if row.seq > last {
                            break 'rows;
                        }
                        at = row.seq;
                        if !outbox::audience_servers(tx, row.audience)?.contains(&server) {
                            continue;
                        }
                        match (row.event, row.body) {
                            // A purged event is gone; nothing is owed any more.
                            (Some(event), _) => match events::event(tx, event)? {
                                Some(event) => pdus.push(pdu(tx, &event)?),
                                None => continue,
                            },
                            (None, Some(body)) => {
                                let body = String::from_utf8(body).ok();
                                edus.extend(body.and_then(|body| RawValue::from_string(body).ok()));
                            }
                            (None, None) => {}
                        }
                    }
                    if whole {
                        break;
                    }
                }
                Ok((pdus, edus))
            })
            .await?;
        self.send_to(server, range.txn, pdus, edus).await
    }

    async fn send_to(
        &self,
        server: Nid,
        txn: String,
        pdus: Vec<Box<RawValue>>,
        edus: Vec<Box<RawValue>>,
    ) -> Result<Outcome, StoreError> {
        let name = self.store().read(move |tx| tx.text(server)).await?;
        let Ok(name) = ServerName::parse(&*name) else {
            // Nothing can ever be sent there.
            return Ok(Outcome::Done);
        };
        let now = MilliSecondsSinceUnixEpoch(ruma::UInt::new_saturating(self.clock().now_ms()));
        let ours = self.identity().server_name().to_owned();
        let mut request =
            send_transaction_message::v1::Request::new(OwnedTransactionId::from(txn.as_str()), ours, now);
        request.pdus = pdus;
        request.edus = edus.into_iter().map(Raw::<Edu>::from_json).collect();
        let result = self.request(&name, request).await;
        Ok(match result {
            Ok(answer) => {
                for (event, error) in
                    answer.pdus.iter().filter_map(|(id, result)| Some((id, result.as_ref().err()?)))
                {
                    tracing::debug!(%event, server = %name, error, "an event was not taken");
                }
                Outcome::Done
            }
            Err(error) => {
                tracing::debug!(server = %name, txn, %error, "a transaction was not taken");
                outcome_of(&error)
            }
        })
    }
}

/// What a failed attempt means for the next one.
fn outcome_of(error: &RemoteError) -> Outcome {
    match error {
        RemoteError::Refused { status: 400 | 413, .. } => Outcome::Malformed,
        RemoteError::Refused { retry_after_ms, .. } => {
            Outcome::Away { retry_after: retry_after_ms.map(Duration::from_millis) }
        }
        // Nothing is owed to whom the operator blocks.
        RemoteError::Blocked(_) => Outcome::Done,
        // It answered with success, in words we do not understand.
        RemoteError::BadAnswer { .. } | RemoteError::TooLarge { .. } => Outcome::Done,
        RemoteError::Unreachable { reason: CarrierError::Timeout(_), .. }
        | RemoteError::Unreachable { .. }
        | RemoteError::NoWay { .. } => Outcome::Away { retry_after: None },
        RemoteError::Request(_) | RemoteError::Ourselves => Outcome::Malformed,
    }
}

/// Gives the core what came back; false if the node ends.
fn handle(core: &mut Core, done: Done, now: Duration) -> bool {
    match done {
        Done::Saved => core.handle_saved(),
        Done::Loaded { server, upto, items, complete } => core.handle_loaded(server, upto, &items, complete),
        Done::Sent { server, txn, outcome } => core.handle_sent(server, &txn, outcome, now),
        Done::Greeted { server, outcome } => core.handle_greeted(server, outcome, now),
        Done::Ephemeral { server } => core.handle_ephemeral_sent(server),
        Done::Closed => return false,
    }
    true
}

/// A number that makes the id of an unstored transaction unlike every other.
fn random() -> u64 {
    let mut bytes = [0; 8];
    // Without randomness the ids repeat, and the other side may drop a typing notice as known.
    let _ = getrandom::fill(&mut bytes);
    u64::from_le_bytes(bytes)
}
