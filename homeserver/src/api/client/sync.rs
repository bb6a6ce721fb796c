//! What is new: `/sync`, in both kinds.

use std::sync::Arc;

use ruma::api::{
    auth_scheme::AccessToken,
    client::sync::sync_events::{
        v3::{Filter, Request},
        v5,
    },
};
use ruma::{UserId, presence::PresenceState};

use crate::{
    api::routes::{Group, Table},
    error::Error,
    http::{
        args::{Args, Streaming},
        auth::CallerKind as _,
        reply::Raw,
    },
    server::Server,
    sync::{Dialect, SlidingRequest, SyncRequest, filter::SyncFilter},
};

pub(super) fn routes(table: &mut Table) {
    table.add(Group::Client, sync);
    table
        .add_streaming::<v5::Request, _, _, _>(Group::Client, sliding)
        .body_max(SLIDING_BYTES_MAX)
        .also(STABLE);
}

/// The path that the accepted proposal names.
const STABLE: &str = "/_matrix/client/v4/sync";
/// A thousand subscriptions with their required state.
const SLIDING_BYTES_MAX: usize = 512 << 10;

async fn sync(server: Arc<Server>, args: Args<Request>) -> Result<Raw, Error> {
    let (user, device) = (args.caller.user.clone(), args.caller.device.clone());
    let filter = match &args.filter {
        Some(Filter::FilterDefinition(definition)) => SyncFilter::from(definition),
        Some(Filter::FilterId(id)) => SyncFilter::from(&server.filters.find(&user, id).await?),
        _ => SyncFilter::default(),
    };
    note_presence(&server, &user, args.set_presence.clone()).await?;
    let request = SyncRequest {
        user,
        device,
        since: args.request.since.clone(),
        filter,
        full_state: args.full_state,
        state_after: state_after(&args),
        timeout: args.timeout.unwrap_or_default(),
        stop: server.shutdown.clone(),
    };
    Ok(Raw(server.sync.sync(request).await?))
}

/// The parameter's name from before it was in the specification.
fn state_after(args: &Args<Request>) -> Option<&'static str> {
    if args.head.query_values("org.matrix.msc4222.use_state_after").any(|value| value == "true") {
        return Some("org.matrix.msc4222.state_after");
    }
    args.use_state_after.then_some("state_after")
}

/// Who syncs is there, unless the client says otherwise.
async fn note_presence(server: &Server, user: &UserId, state: PresenceState) -> Result<(), Error> {
    if server.settings().presence && state != PresenceState::Offline {
        server.users.set_presence(user, state, None, true).await?;
    }
    Ok(())
}

/// Reads its body itself: it has two spellings, and fields that ruma does not know.
async fn sliding(server: Arc<Server>, streaming: Streaming) -> Result<Raw, Error> {
    let incoming = streaming.read(SLIDING_BYTES_MAX).await?;
    let caller = AccessToken::caller(&server, &incoming).await?;
    let dialect = match incoming.head.uri.path() == STABLE {
        true => Dialect::Stable,
        false => Dialect::Unstable,
    };
    let pos = incoming.head.query_values("pos").next();
    let timeout_ms = incoming.head.query_values("timeout").next();
    let timeout_ms = timeout_ms
        .map(|text| text.parse().map_err(|_| Error::invalid_param("timeout is a number of milliseconds")))
        .transpose()?;
    let state = incoming.head.query_values("set_presence").next();
    note_presence(&server, &caller.user, state.map_or(PresenceState::Online, PresenceState::from)).await?;
    let request = SlidingRequest {
        user: caller.user,
        device: caller.device,
        body: incoming.body,
        dialect,
        pos,
        timeout_ms,
        stop: server.shutdown.clone(),
    };
    Ok(Raw(server.sync.sliding(request).await?))
}
