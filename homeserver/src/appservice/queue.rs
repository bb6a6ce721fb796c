//! Tells one service what happens: transactions in order, each until it is taken, over restarts.
//!
//! Nothing is queued: a position and the stream say what is still to be told. The end of a transaction is noted before it
//! is sent, so that the same one goes out again if the answer is lost; its id names where it begins and ends.

use std::{sync::Arc, time::Duration};

use http::Method;
use tokio_util::sync::CancellationToken;

use super::{
    Appservices,
    interest::{Batch, Reader},
    registration::Registration,
};
use crate::store::{
    Seq, StoreError,
    schema::{appservices as table, e2ee as keys},
};

/// How long a service may take for one transaction.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);
/// The first wait after a failure; each next one is twice as long.
const WAIT_FIRST: Duration = Duration::from_secs(1);
/// The longest wait.
const WAIT_MAX: Duration = Duration::from_secs(5 * 60);
/// Positions that are passed over without a note in the file, when nothing in them is for the service.
const LAG_MAX: i64 = 1_000;

/// Follows commits until `stop`.
pub(super) async fn run(services: Appservices, service: Arc<Registration>, stop: CancellationToken) {
    tokio::select! {
        done = follow(&services, &service) => if let Err(error) = done {
            tracing::warn!(service = service.id, %error, "an application service is no longer told");
        },
        () = stop.cancelled() => {}
    }
}

async fn follow(services: &Appservices, service: &Arc<Registration>) -> Result<(), StoreError> {
    let store = &services.inner.store;
    let mut position = store.notify().position();
    let id = service.id.clone();
    let known = store.read(move |tx| table::cursor(tx, &id)).await?;
    let (mut at, mut sent_until) = match known {
        Some(known) => known,
        None => {
            // A service that is new is told from now on.
            let now = store.position();
            note(services, service, now, None).await?;
            (now, None)
        }
    };
    let mut noted = at;
    loop {
        let until = sent_until.unwrap_or_else(|| store.position());
        if until <= at {
            if position.changed().await.is_err() {
                return Ok(());
            }
            continue;
        }
        let batch = read(services, service, at, until).await?;
        if batch.news {
            if sent_until.is_none() {
                note(services, service, at, Some(batch.until)).await?;
            }
            send(services, service, at, &batch).await;
            let (seq, id, delivered) = (batch.until, service.id.clone(), batch.delivered);
            store
                .write_soon(move |tx| {
                    for (user, device, seq) in &delivered {
                        keys::acknowledge(tx, *user, device, *seq)?;
                    }
                    table::put_cursor(tx, &id, seq, None)
                })
                .await?;
            noted = batch.until;
        } else if batch.until.0 - noted.0 > LAG_MAX || sent_until.is_some() {
            note(services, service, batch.until, None).await?;
            noted = batch.until;
        }
        at = batch.until;
        sent_until = None;
    }
}

async fn note(
    services: &Appservices,
    service: &Registration,
    at: Seq,
    until: Option<Seq>,
) -> Result<(), StoreError> {
    let id = service.id.clone();
    services.inner.store.write_soon(move |tx| table::put_cursor(tx, &id, at, until)).await
}

async fn read(
    services: &Appservices,
    service: &Arc<Registration>,
    at: Seq,
    until: Seq,
) -> Result<Batch, StoreError> {
    let (inner, service) = (services.inner.clone(), service.clone());
    services
        .inner
        .store
        .read(move |tx| {
            let mut reader = Reader {
                tx,
                service: &service,
                own: &inner.name,
                typing: &inner.typing,
                now_ms: inner.clock.now_ms(),
                known: Default::default(),
            };
            reader.batch(at, until)
        })
        .await
}

/// Sends a transaction until it is taken.
async fn send(services: &Appservices, service: &Registration, at: Seq, batch: &Batch) {
    let incarnation = services.inner.store.incarnation();
    let path = format!("transactions/{incarnation:x}.{}.{}", at.0, batch.until.0);
    let mut wait = WAIT_FIRST;
    loop {
        let answer =
            services.call(service, Method::PUT, &path, Some(batch.body.clone()), ANSWER_WITHIN).await;
        match answer {
            Ok((200..=299, _)) => return,
            Ok((status, _)) => tracing::info!(service = service.id, status, "an application service refuses"),
            Err(error) => {
                tracing::info!(service = service.id, %error, "an application service does not answer")
            }
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(WAIT_MAX);
    }
}
