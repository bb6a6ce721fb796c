//! The long poll: register, then read, then wait.

use std::sync::Arc;

use bytes::Bytes;
use tokio::time::{Instant, timeout_at};

use super::{Context, Inner, SyncError, SyncRequest, TIMEOUT_MAX, v3};
use crate::{
    e2ee,
    store::{Kind, Seq, StoreError, schema::sync as query},
};

/// See [`super::Sync::sync`].
pub(super) async fn sync(inner: &Arc<Inner>, request: SyncRequest) -> Result<Bytes, SyncError> {
    let until = Instant::now() + request.timeout.min(TIMEOUT_MAX);
    let since = request.since.as_deref().and_then(|text| inner.token(text));
    let id = request.user.clone();
    let (user, end) = inner
        .store
        .read(move |tx| Ok::<_, StoreError>((tx.lookup(Kind::User, id.as_str())?, query::end(tx)?)))
        .await?;
    let since = since.filter(|token| Seq(token.seq) <= end);
    // An account has its number from the day it was made.
    let user = user.ok_or(StoreError::Corrupt("an account without its number"))?;
    let context = Arc::new(Context {
        user,
        device: request.device,
        since,
        filter: request.filter,
        full_state: request.full_state,
        state_after: request.state_after,
        now_ms: inner.clock.now_ms(),
    });
    match since {
        Some(token) => acknowledge(inner, &context, &request.user, Seq(token.to_device)).await?,
        None => inner.shown.forget(user, context.device.as_str()),
    }
    let mut watch = inner.notify.watch(user);
    let mut followed = false;
    loop {
        let built = v3::build(inner, &context).await?;
        if built.news
            || since.is_none()
            || context.full_state
            || Instant::now() >= until
            || request.stop.is_cancelled()
        {
            inner.shown.show(user, context.device.as_str(), built.position, built.members);
            return Ok(built.body.into());
        }
        // Rooms are followed only now: most syncs find something at once and never wait.
        watch.follow(built.rooms.iter().copied());
        if !followed {
            followed = true;
            continue;
        }
        // Past the time: one more read, which is the answer.
        tokio::select! {
            _ = timeout_at(until, watch.changed()) => {}
            () = request.stop.cancelled() => {}
        }
    }
}

/// Deletes the messages that the device brings back the position of. Looked at in a read first: mostly there are none,
/// and an idle client must not make the writer work.
async fn acknowledge(
    inner: &Inner,
    context: &Arc<Context>,
    user: &ruma::UserId,
    position: Seq,
) -> Result<(), SyncError> {
    let asked = context.clone();
    let any = inner
        .store
        .read(move |tx| e2ee::has_acknowledged(tx, asked.user, &asked.device, position))
        .await
        .map_err(SyncError::Store)?;
    if any {
        inner.e2ee.acknowledge(user, &context.device, position).await?;
    }
    Ok(())
}
