//! What ingest asks other servers for, asked through [`Remote`]: first the server that brought the event, then others in
//! the room.

use std::collections::BTreeSet;

use futures_util::{FutureExt as _, StreamExt as _, future::BoxFuture, stream};
use ruma::{
    EventId, OwnedEventId, OwnedServerName, RoomId, ServerName, UInt,
    api::federation::{
        authorization::get_event_authorization,
        backfill::get_backfill,
        event::{get_event, get_missing_events, get_room_state, get_room_state_ids},
    },
    signatures::PublicKeyMap,
};

use super::{Fetch, FetchError, PduJson};
use crate::{
    remote::{Options, Remote, RemoteError},
    store::{Kind, StoreError, schema::membership},
};

/// Servers asked for one thing, the first one included. Each may take the whole time-out.
const SERVERS_TRIED: usize = 3;
/// Servers whose keys are fetched at the same time.
const KEYS_PARALLEL: usize = 8;
/// Most events taken from one answer, whatever was asked for.
const EVENTS_MAX: usize = 500;

impl From<RemoteError> for FetchError {
    fn from(error: RemoteError) -> Self {
        Self(error.to_string())
    }
}

impl Fetch for Remote {
    fn keys<'a>(
        &'a self,
        wanted: Vec<(OwnedServerName, Vec<String>)>,
        ts_ms: u64,
    ) -> BoxFuture<'a, PublicKeyMap> {
        async move {
            stream::iter(wanted)
                .map(|(server, ids)| async move {
                    let ids: BTreeSet<String> = ids.into_iter().collect();
                    let keys = self.keyring().keys(&server, &ids).await.ok()?;
                    let usable = keys.usable_at(&ids, ts_ms);
                    (!usable.is_empty()).then(|| (server.to_string(), usable))
                })
                .buffer_unordered(KEYS_PARALLEL)
                .filter_map(std::future::ready)
                .collect()
                .await
        }
        .boxed()
    }

    fn missing_events<'a>(
        &'a self,
        from: &'a ServerName,
        room: &'a RoomId,
        earliest: Vec<OwnedEventId>,
        latest: Vec<OwnedEventId>,
        limit: u32,
        min_depth: u64,
    ) -> BoxFuture<'a, Result<Vec<PduJson>, FetchError>> {
        async move {
            let mut request = get_missing_events::v1::Request::new(room.to_owned(), earliest, latest);
            request.limit = limit.into();
            request.min_depth = UInt::new_saturating(min_depth);
            let ask = |server: OwnedServerName| {
                let request = request.clone();
                async move { self.request_with(&server, request, Options::bulk()).await }
            };
            // An empty answer is one: the events may be hidden from us, or nobody has them.
            Ok(bounded(self.first(from, room, ask).await?.events))
        }
        .boxed()
    }

    fn event<'a>(
        &'a self,
        from: &'a ServerName,
        event: &'a EventId,
    ) -> BoxFuture<'a, Result<PduJson, FetchError>> {
        async move { Ok(self.request(from, get_event::v1::Request::new(event.to_owned())).await?.pdu) }
            .boxed()
    }

    fn state_ids<'a>(
        &'a self,
        from: &'a ServerName,
        room: &'a RoomId,
        event: &'a EventId,
    ) -> BoxFuture<'a, Result<(Vec<OwnedEventId>, Vec<OwnedEventId>), FetchError>> {
        async move {
            let request = get_room_state_ids::v1::Request::new(event.to_owned(), room.to_owned());
            let ask = |server: OwnedServerName| {
                let request = request.clone();
                async move { self.request_with(&server, request, Options::state()).await }
            };
            let answer = self.first(from, room, ask).await?;
            Ok((answer.pdu_ids, answer.auth_chain_ids))
        }
        .boxed()
    }

    fn state<'a>(
        &'a self,
        from: &'a ServerName,
        room: &'a RoomId,
        event: &'a EventId,
    ) -> BoxFuture<'a, Result<(Vec<PduJson>, Vec<PduJson>), FetchError>> {
        async move {
            let request = get_room_state::v1::Request::new(event.to_owned(), room.to_owned());
            let ask = |server: OwnedServerName| {
                let request = request.clone();
                async move { self.request_with(&server, request, Options::state()).await }
            };
            let answer = self.first(from, room, ask).await?;
            Ok((answer.pdus, answer.auth_chain))
        }
        .boxed()
    }

    fn event_auth<'a>(
        &'a self,
        from: &'a ServerName,
        room: &'a RoomId,
        event: &'a EventId,
    ) -> BoxFuture<'a, Result<Vec<PduJson>, FetchError>> {
        async move {
            let request = get_event_authorization::v1::Request::new(room.to_owned(), event.to_owned());
            let ask = |server: OwnedServerName| {
                let request = request.clone();
                async move { self.request_with(&server, request, Options::state()).await }
            };
            Ok(self.first(from, room, ask).await?.auth_chain)
        }
        .boxed()
    }

    fn backfill<'a>(
        &'a self,
        from: &'a ServerName,
        room: &'a RoomId,
        from_events: Vec<OwnedEventId>,
        limit: u32,
    ) -> BoxFuture<'a, Result<Vec<PduJson>, FetchError>> {
        async move {
            let request = get_backfill::v1::Request::new(room.to_owned(), from_events, limit.into());
            let ask = |server: OwnedServerName| {
                let request = request.clone();
                async move { self.request_with(&server, request, Options::bulk()).await }
            };
            Ok(bounded(self.first(from, room, ask).await?.pdus))
        }
        .boxed()
    }
}

impl Remote {
    /// The first answer of `from` or, if it has none, of other servers in the room. The error is `from`'s.
    async fn first<T, F>(
        &self,
        from: &ServerName,
        room: &RoomId,
        ask: impl Fn(OwnedServerName) -> F,
    ) -> Result<T, RemoteError>
    where
        F: Future<Output = Result<T, RemoteError>>,
    {
        let error = match ask(from.to_owned()).await {
            Ok(answer) => return Ok(answer),
            Err(error) => error,
        };
        // A store that fails here only takes away the second chance.
        for server in self.others_in(from, room).await.unwrap_or_default() {
            if let Ok(answer) = ask(server).await {
                return Ok(answer);
            }
        }
        Err(error)
    }

    async fn others_in(&self, from: &ServerName, room: &RoomId) -> Result<Vec<OwnedServerName>, StoreError> {
        let (from, room) = (from.to_owned(), room.to_owned());
        let ours = self.identity().server_name().to_owned();
        self.store()
            .read(move |tx| {
                let Some(room) = tx.lookup(Kind::Room, room.as_str())? else { return Ok(Vec::new()) };
                let mut names = Vec::new();
                for server in membership::servers(tx, room)? {
                    let Ok(name) = ServerName::parse(&*tx.text(server)?) else { continue };
                    if name != from && name != ours && names.len() + 1 < SERVERS_TRIED {
                        names.push(name);
                    }
                }
                Ok(names)
            })
            .await
    }
}

fn bounded(mut events: Vec<PduJson>) -> Vec<PduJson> {
    events.truncate(EVENTS_MAX);
    events
}
