//! Owns what is missing before an event can have its place: its auth events, the events before it, or at least the state.

use std::sync::Arc;

use futures_util::{StreamExt as _, stream};
use ruma::{
    OwnedEventId, OwnedServerName, RoomId, ServerName, events::room::server_acl::RoomServerAclEventContent,
    room_version_rules::RoomVersionRules,
};
use tokio::sync::oneshot;

use super::{
    append, load,
    outliers::{state_map, unknown},
    place,
    worker::{Job, PduJob, Taken},
};
use crate::{
    room::{
        PduJson, RoomError, Rooms,
        core::{pdu::FullEvent, version},
        policy::{self, Policy},
    },
    store::{
        Kind, ReadTx, StoreError,
        schema::{
            events::{self, OUTLIER},
            membership, rooms,
            state::{self, StateMap},
        },
    },
};

/// Ends of ours that are named to the other server.
const EARLIEST_MAX: usize = 20;
/// Events asked for in one backfill.
const BACKFILL_EVENTS: u32 = 100;
/// Missing events that one backfill starts from.
const BACKFILL_STARTS: u32 = 5;
/// Missing events whose state is asked for; an event has at most 20 previous ones.
const STATES_MAX: usize = 20;
/// One part in so many may be missing of a told state for its events to be asked for one by one.
const MOSTLY_HERE: usize = 10;
/// Missing events that are asked for one by one in any case.
const FEW: usize = 10;
/// Events asked for one by one at most; 10 % of a state of 10 000.
const EACH_MAX: usize = 1_000;
/// Events asked for at the same time.
const EVENTS_PARALLEL: usize = 8;
/// Servers asked for history before giving up.
const BACKFILL_SERVERS: usize = 3;

/// What is known of a room before its events are looked at.
#[derive(Clone)]
pub(in crate::room) struct Known {
    pub(in crate::room) version: Arc<str>,
    pub(in crate::room) rules: Arc<RoomVersionRules>,
    pub(in crate::room) resident: bool,
    /// Which servers may speak; all, if there is no list.
    pub(in crate::room) acl: Option<Arc<RoomServerAclEventContent>>,
    /// Whose signature its events need, if anybody's.
    pub(in crate::room) policy: Option<Arc<Policy>>,
}

impl Known {
    /// Whether the room lets a server speak.
    pub(in crate::room) fn lets(&self, server: &ServerName) -> bool {
        self.acl.as_ref().is_none_or(|acl| acl.is_allowed(server))
    }
}

impl Rooms {
    /// The room's version, if it is known here in any form.
    pub(in crate::room) async fn known(&self, room: &RoomId) -> Result<Option<Known>, RoomError> {
        let room = room.to_owned();
        self.inner.store.read(move |tx| known(tx, &room)).await
    }

    /// Hands a verified event to the room's worker.
    pub(in crate::room) async fn submit_pdu(
        &self,
        event: FullEvent,
        state: Option<Vec<StateMap>>,
        pass_on: Option<OwnedServerName>,
    ) -> Result<oneshot::Receiver<Result<Taken, RoomError>>, RoomError> {
        let (answer, result) = oneshot::channel();
        let room = event.pdu.room.clone();
        let job = PduJob { event, state, pass_on, answer, tries: 0 };
        self.inner.workers.submit(&self.inner.tools(), &room, Job::Pdu(job)).await?;
        Ok(result)
    }

    async fn take_once(
        &self,
        event: &FullEvent,
        state: Option<Vec<StateMap>>,
        pass_on: Option<OwnedServerName>,
    ) -> Result<Taken, RoomError> {
        let result = self.submit_pdu(event.clone(), state, pass_on).await?;
        result.await.map_err(|_| RoomError::Busy)?
    }

    /// Takes a verified event, fetching from `origin` what has to come before it.
    pub(in crate::room) async fn take(
        &self,
        origin: &ServerName,
        known: &Known,
        event: &FullEvent,
        pass_on: Option<OwnedServerName>,
    ) -> Result<Taken, RoomError> {
        let taken = self.take_once(event, None, pass_on.clone()).await?;
        if !matches!(&taken, Taken::Missing { prev, .. } if !prev.is_empty()) {
            return self.finish(origin, known, event, taken, pass_on).await;
        }
        // What comes before an event is mostly what it is allowed by, too.
        self.fill_gap(origin, known, event).await?;
        let taken = self.take_once(event, None, pass_on.clone()).await?;
        // An event that was pushed to us can become the only end of the graph, and what its server tells of the state
        // before it would be the room's. Whoever pushes it has its previous events: they are to come too. Their own
        // may be missing, and are bridged.
        if matches!(&taken, Taken::Missing { prev, .. } if !prev.is_empty()) {
            return Ok(taken);
        }
        self.finish(origin, known, event, taken, pass_on).await
    }

    /// Takes an event whose gap was filled as far as it could be.
    pub(in crate::room) async fn take_found(
        &self,
        origin: &ServerName,
        known: &Known,
        event: &FullEvent,
        pass_on: Option<OwnedServerName>,
    ) -> Result<Taken, RoomError> {
        let taken = self.take_once(event, None, pass_on.clone()).await?;
        self.finish(origin, known, event, taken, pass_on).await
    }

    /// Fetches what an event still lacks, the state at its gap and its auth events, and takes it.
    async fn finish(
        &self,
        origin: &ServerName,
        known: &Known,
        event: &FullEvent,
        taken: Taken,
        pass_on: Option<OwnedServerName>,
    ) -> Result<Taken, RoomError> {
        let Taken::Missing { prev, auth } = taken else { return Ok(taken) };
        let told = match prev.is_empty() {
            true => None,
            false => Some(self.fetch_state(origin, known, event).await?),
        };
        let taken = match told.is_some() {
            // The state at the gap brings most of what allows the event.
            true => self.take_once(event, told.clone(), pass_on.clone()).await?,
            false => Taken::Missing { prev, auth },
        };
        let Taken::Missing { auth, .. } = taken else { return Ok(taken) };
        self.fetch_auth(origin, known, event, auth).await?;
        self.take_once(event, told, pass_on).await
    }

    /// Fetches and stores what allows an event: its auth chain, or, where that cannot be had, the missing events alone.
    pub(in crate::room) async fn fetch_auth(
        &self,
        origin: &ServerName,
        known: &Known,
        event: &FullEvent,
        missing: Vec<OwnedEventId>,
    ) -> Result<(), RoomError> {
        let pdu = &event.pdu;
        let chain = match self.inner.fetch.event_auth(origin, &pdu.room, &pdu.event_id).await {
            Ok(chain) => chain,
            Err(error) => {
                tracing::debug!(%origin, event = %pdu.event_id, %error, "no auth chain");
                self.fetch_each(origin, missing).await
            }
        };
        let chain = self.verify_all(&pdu.room, chain, &known.rules).await;
        self.store_outliers(&known.rules, chain).await
    }

    async fn fetch_each(&self, origin: &ServerName, ids: Vec<OwnedEventId>) -> Vec<PduJson> {
        stream::iter(ids.into_iter().take(EACH_MAX))
            .map(|id| async move { self.inner.fetch.event(origin, &id).await.ok() })
            .buffer_unordered(EVENTS_PARALLEL)
            .filter_map(std::future::ready)
            .collect()
            .await
    }

    /// The states after those of an event's previous ones that are missing, as `origin` tells them: each missing event
    /// has the state before it, and may be of that state itself.
    async fn fetch_state(
        &self,
        origin: &ServerName,
        known: &Known,
        event: &FullEvent,
    ) -> Result<Vec<StateMap>, RoomError> {
        let prev = event.pdu.prev.clone();
        let missing = self.inner.store.read(move |tx| place::missing(tx, &prev)).await?;
        let mut told = Vec::new();
        for prev in missing.into_iter().take(STATES_MAX) {
            let map = self.fetch_state_at(origin, known, &event.pdu.room, prev.clone(), true).await?;
            if self.is_partial(&event.pdu.room).await? {
                // Asked for again when the room is whole: what another server told is kept with the event.
                let state = map.clone();
                self.inner.store.write(move |tx| append::keep_told(tx, &prev, &state)).await?;
            }
            told.push(map);
        }
        Ok(told)
    }

    /// The state before an event or, `after`, with the event itself in it.
    pub(in crate::room) async fn fetch_state_at(
        &self,
        origin: &ServerName,
        known: &Known,
        room: &RoomId,
        at: OwnedEventId,
        after: bool,
    ) -> Result<StateMap, RoomError> {
        let (mut state, auth) = self.inner.fetch.state_ids(origin, room, &at).await.map_err(unreachable)?;
        let all = state.len() + auth.len();
        let itself = if after { std::slice::from_ref(&at) } else { &[] };
        let mut wanted = [&state[..], &auth[..], itself].concat();
        wanted.sort_unstable();
        wanted.dedup();
        let wanted =
            self.inner.store.read(move |tx| -> Result<_, StoreError> { unknown(tx, &wanted) }).await?;
        let found = if wanted.len() * MOSTLY_HERE < all || wanted.len() <= FEW {
            self.fetch_each(origin, wanted).await
        } else {
            let (events, chain) = self.inner.fetch.state(origin, room, &at).await.map_err(unreachable)?;
            let mut found = events;
            found.extend(chain);
            if after {
                found.extend(self.inner.fetch.event(origin, &at).await.ok());
            }
            found
        };
        let found = self.verify_all(room, found, &known.rules).await;
        self.store_outliers(&known.rules, found).await?;
        if after {
            // An event comes last in the state after it.
            state.push(at);
        }
        let map = self.inner.store.read(move |tx| -> Result<_, StoreError> { state_map(tx, &state) }).await?;
        if map.is_empty() {
            return Err(RoomError::Rejected(format!("{origin} told no usable state")));
        }
        Ok(map)
    }

    /// Fetches older events than the timeline has. True if there are new ones.
    pub(in crate::room) async fn backfill(&self, room: &RoomId) -> Result<bool, RoomError> {
        let Some(known) = self.known(room).await?.filter(|known| known.resident) else { return Ok(false) };
        let room_id = room.to_owned();
        let own = self.server_name().to_owned();
        let (starts, servers) = self
            .inner
            .store
            .read(move |tx| -> Result<_, StoreError> { backward(tx, &room_id, &own) })
            .await?;
        if starts.is_empty() {
            return Ok(false);
        }
        for server in servers.into_iter().take(BACKFILL_SERVERS) {
            if self.backfill_known(&server, room, &known, starts.clone()).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Fetches some events of the past and what came before them from one server. True if there are new ones.
    pub(in crate::room) async fn backfill_from(
        &self,
        server: &ServerName,
        room: &RoomId,
        starts: Vec<OwnedEventId>,
    ) -> Result<bool, RoomError> {
        match self.known(room).await?.filter(|known| known.resident) {
            Some(known) => self.backfill_known(server, room, &known, starts).await,
            None => Ok(false),
        }
    }

    async fn backfill_known(
        &self,
        server: &ServerName,
        room: &RoomId,
        known: &Known,
        starts: Vec<OwnedEventId>,
    ) -> Result<bool, RoomError> {
        let answer = self.inner.fetch.backfill(server, room, starts, BACKFILL_EVENTS).await;
        let Ok(pdus) = answer else { return Ok(false) };
        let list = self.verify_all(room, pdus, &known.rules).await;
        Ok(!list.is_empty() && self.store_history(server, room, known, list).await?)
    }

    /// Gives verified events of the past their places.
    async fn store_history(
        &self,
        server: &ServerName,
        room: &RoomId,
        known: &Known,
        mut list: Vec<FullEvent>,
    ) -> Result<bool, RoomError> {
        list.sort_by_key(|event| event.pdu.depth);
        let auth: Vec<OwnedEventId> = list.iter().flat_map(|event| event.pdu.auth.clone()).collect();
        let own: Vec<OwnedEventId> = list.iter().map(|event| event.pdu.event_id.clone()).collect();
        let missing: Vec<OwnedEventId> = self
            .inner
            .store
            .read(move |tx| unknown(tx, &auth))
            .await?
            .into_iter()
            .filter(|id| !own.contains(id))
            .collect();
        // The newest that misses an auth event brings the chains of those before it along, mostly; each is asked for once.
        for event in list.iter().rev() {
            let auth = event.pdu.auth.clone();
            if auth.iter().any(|id| missing.contains(id)) {
                let still = self.inner.store.read(move |tx| unknown(tx, &auth)).await?;
                if still.iter().any(|id| missing.contains(id)) {
                    // Without it those events are rejected, and the others are history all the same.
                    if let Err(error) = self.fetch_auth(server, known, event, still).await {
                        tracing::debug!(%server, %error, "auth events of history could not be had");
                    }
                }
            }
        }
        let ids: Vec<OwnedEventId> = list.iter().map(|event| event.pdu.event_id.clone()).collect();
        // The state before the oldest; without it those are shown by the room's present visibility.
        let told = match list.first() {
            Some(oldest) if !oldest.pdu.prev.is_empty() => {
                let id = oldest.pdu.event_id.clone();
                self.fetch_state_at(server, known, &oldest.pdu.room, id, false).await.ok()
            }
            Some(_) => Some(StateMap::new()),
            None => None,
        };
        self.store_outliers(&known.rules, list).await?;
        let (rules, room) = (known.rules.clone(), room.to_owned());
        self.inner
            .store
            .write(move |tx| -> Result<bool, RoomError> {
                append::history(tx, &rules, &room, &ids, told.as_ref())
            })
            .await
    }
}

/// What is known of a room, in one look.
pub(in crate::room) fn known(tx: &ReadTx<'_>, room: &RoomId) -> Result<Option<Known>, RoomError> {
    let Some(nid) = tx.lookup(Kind::Room, room.as_str())? else { return Ok(None) };
    let Some(row) = rooms::room(tx, nid)? else { return Ok(None) };
    let rules =
        version::shared(&row.version).ok_or_else(|| RoomError::UnsupportedVersion(row.version.clone()))?;
    let acl = match state::current_of(tx, nid, "m.room.server_acl", "")? {
        Some(acl) => load::pdu(tx, acl)?,
        None => None,
    };
    // What cannot be read denies nobody, as the specification has it for the fields' defaults.
    let acl = acl.and_then(|acl| serde_json::from_str(acl.content.get()).ok());
    Ok(Some(Known {
        version: row.version.into(),
        rules,
        resident: row.resident,
        acl: acl.map(Arc::new),
        policy: policy::of_room(tx, nid)?.map(Arc::new),
    }))
}

pub(super) fn unreachable(error: crate::room::FetchError) -> RoomError {
    RoomError::Unreachable(error.to_string())
}

/// Ids of our ends of the graph.
pub(super) fn ends(tx: &ReadTx<'_>, room: &RoomId) -> Result<Vec<OwnedEventId>, RoomError> {
    let Some(room) = tx.lookup(Kind::Room, room.as_str())? else { return Ok(Vec::new()) };
    let mut ids = Vec::new();
    for nid in events::forward(tx, room)?.into_iter().take(EARLIEST_MAX) {
        ids.push(events::id(tx, nid)?);
    }
    Ok(ids)
}

/// Where history ends here, and who may have more of it: servers of the newest state first that sent the events at the
/// edge, then others in the room.
fn backward(
    tx: &ReadTx<'_>,
    room: &RoomId,
    own: &ServerName,
) -> Result<(Vec<OwnedEventId>, Vec<OwnedServerName>), StoreError> {
    let Some(room) = tx.lookup(Kind::Room, room.as_str())? else { return Ok((Vec::new(), Vec::new())) };
    let mut starts = Vec::new();
    for (nid, _) in events::backward(tx, room, BACKFILL_STARTS)? {
        // What was rejected once has a row, and nothing more to fetch.
        if events::event(tx, nid)?.is_none_or(|event| event.flags & OUTLIER != 0) {
            starts.push(events::id(tx, nid)?);
        }
    }
    let mut servers = Vec::new();
    if let Some(row) = rooms::room(tx, room)?
        && let Some(creator) = row.creator
        && let Ok(creator) = ruma::UserId::parse(&*tx.text(creator)?)
    {
        servers.push(creator.server_name().to_owned());
    }
    for server in membership::servers(tx, room)? {
        if let Ok(name) = ServerName::parse(&*tx.text(server)?)
            && !servers.contains(&name)
        {
            servers.push(name);
        }
    }
    servers.retain(|server| server != own);
    Ok((starts, servers))
}
