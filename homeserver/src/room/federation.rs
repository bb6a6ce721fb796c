//! What other servers bring and ask: verbs and reads of the federation API, without its handshakes.

use std::collections::{BinaryHeap, HashSet, VecDeque};

use ruma::{
    CanonicalJsonObject, EventId, OwnedEventId, OwnedRoomId, OwnedServerName, RoomId, ServerName, UserId,
};
use serde_json::value::RawValue;
use tokio::sync::oneshot;

use super::{
    Draft, PduJson, RoomError, Rooms,
    core::{
        check,
        pdu::{FullEvent, MEMBER},
    },
    ingest::{
        gaps::{Known, known},
        load,
        verify::{received, rejected},
        worker::{Job, Made, Taken},
    },
    read::{access::ServerAccess, erase, json},
    staging::{Outcome, PATIENCE, came_out},
};
use crate::store::{
    Kind, Nid, ReadTx, StoreError,
    ids::skey_split,
    schema::{
        events::{self, EventRow, OUTLIER, PARTIAL},
        membership::{self, Membership},
        rooms::{self, RoomRow},
        state,
    },
};

/// Events in one answer to a backfill.
const BACKFILL_MAX: u32 = 100;
/// Events in one answer to a question about a gap.
const MISSING_MAX: u32 = 100;
/// Members told by whose names a room without one is called.
const HEROES_MAX: u32 = 6;
/// Events looked at for one answer.
const WALK_MAX: usize = 1000;

/// What became of one PDU that was sent to us.
#[derive(Debug)]
pub struct Received {
    /// Its id, if it could be made out.
    pub event_id: Option<OwnedEventId>,
    /// `Err`: not taken, with the reason. A soft-failed or rejected event is taken.
    pub result: Result<(), RoomError>,
}

/// A `send_join` answer to be imported, and what is needed to understand it.
#[derive(Debug)]
pub struct JoinAnswer {
    /// The room.
    pub room_id: OwnedRoomId,
    /// Its version.
    pub version: String,
    /// Our join event, signed (for a restricted join by both).
    pub event: PduJson,
    /// The state before the join.
    pub state: Vec<PduJson>,
    /// The auth chain of that state.
    pub auth_chain: Vec<PduJson>,
    /// The server that answered.
    pub origin: OwnedServerName,
    /// Members are left out of the state; the servers that are in the room, as told.
    pub partial: Option<Vec<OwnedServerName>>,
}

/// State before an event, as federation answers it.
#[derive(Debug, Default)]
pub struct StateAnswer {
    /// State events.
    pub state: Vec<PduJson>,
    /// Their auth chain.
    pub auth_chain: Vec<PduJson>,
}

/// An event to be completed and signed by another server (`make_join` and the like).
#[derive(Debug)]
pub struct Template {
    /// The room's version.
    pub version: String,
    /// The event without hashes and signatures.
    pub event: CanonicalJsonObject,
}

impl Rooms {
    /// Takes PDUs from another server (a transaction, in order). Gaps are filled through [`super::Fetch`], if they are
    /// not filled within [`PATIENCE`] after this has returned: those events count as taken. Results come in the order of
    /// `pdus`. An event that is here already is `Ok`.
    pub async fn receive(&self, origin: &ServerName, pdus: Vec<PduJson>) -> Vec<Received> {
        // First everything that needs no order, then all of it to the workers at once, so that a room's events share
        // commits; those that miss something wait for what they miss, one after the other.
        let prepared = futures_util::future::join_all(pdus.iter().map(|pdu| self.prepare(origin, pdu))).await;
        let mut under_way = Vec::with_capacity(prepared.len());
        for (event_id, prepared) in prepared {
            let step = match prepared {
                Ok(Prepared::Event { event, .. }) => {
                    self.submit_pdu(event.clone(), None, None).await.map(|result| Some((event, result)))
                }
                Ok(Prepared::Done) => Ok(None),
                Err(error) => Err(error),
            };
            under_way.push((event_id, step));
        }
        let mut settled = Vec::with_capacity(under_way.len());
        for ((event_id, step), pdu) in under_way.into_iter().zip(&pdus) {
            let result = match step {
                Ok(Some((event, result))) => self.settle(origin, event, result, pdu).await,
                Ok(None) => Ok(None),
                Err(error) => Err(error),
            };
            settled.push((event_id, result));
        }
        let deadline = tokio::time::Instant::now() + PATIENCE;
        let mut results = Vec::with_capacity(settled.len());
        for (event_id, result) in settled {
            let result = match result {
                // Whoever is not told in time is answered all the same: the event waits, and is not lost.
                Ok(Some(outcome)) => match tokio::time::timeout_at(deadline, outcome).await {
                    Ok(Ok(outcome)) => outcome,
                    _ => Ok(()),
                },
                Ok(None) => Ok(()),
                Err(error) => Err(error),
            };
            if let Err(error) = &result {
                tracing::debug!(%origin, event = ?event_id, %error, "an event from another server was not taken");
            }
            results.push(Received { event_id, result });
        }
        results
    }

    /// What the worker says of an event. One that misses what comes before it waits for it: in that case where its
    /// outcome will be told.
    async fn settle(
        &self,
        origin: &ServerName,
        event: FullEvent,
        result: oneshot::Receiver<Result<Taken, RoomError>>,
        pdu: &RawValue,
    ) -> Result<Option<oneshot::Receiver<Outcome>>, RoomError> {
        let taken = result.await.map_err(|_| RoomError::Busy)??;
        if matches!(taken, Taken::Missing { .. }) {
            return self.stage(origin, &event.pdu.room, &event.pdu.event_id, pdu).await;
        }
        came_out(origin, &event.pdu.event_id, taken).map(|()| None)
    }

    /// What needs no order: room, access list, format, signatures.
    pub(in crate::room) async fn prepare(
        &self,
        origin: &ServerName,
        json: &RawValue,
    ) -> (Option<OwnedEventId>, Result<Prepared, RoomError>) {
        let object = match check::parse(json) {
            Ok(object) => object,
            Err(error) => return (None, Err(rejected(error))),
        };
        let room = match check::room_of(&object) {
            Ok(Some(room)) => room,
            Ok(None) => return (None, Err(RoomError::Rejected("the event names no room".into()))),
            Err(error) => return (None, Err(rejected(error))),
        };
        let known = match self.known(&room).await {
            Ok(Some(known)) => known,
            Ok(None) => return (None, Err(RoomError::NotFound("this room is not known here".into()))),
            Err(error) => return (None, Err(error)),
        };
        let event = match received(object, &room, &known.rules) {
            Ok(event) => event,
            Err(error) => return (None, Err(error)),
        };
        let id = event.id.clone();
        let verified = async {
            if !known.lets(origin) {
                return Err(RoomError::Forbidden("the room does not let this server speak".into()));
            }
            let event = self.verify(&room, event, &known.rules).await?;
            if known.resident {
                let event = self.vouched(&known, event).await;
                return Ok(Prepared::Event { known, event });
            }
            self.take_without_room(&known, event).await?;
            Ok(Prepared::Done)
        };
        let verified = verified.await;
        (Some(id), verified)
    }

    /// The event with the signature of the room's policy server, if there is one and it gives it: else the event is softly
    /// failed when it is judged.
    async fn vouched(&self, known: &Known, event: FullEvent) -> FullEvent {
        let Some(policy) = &known.policy else { return event };
        match self.inner.policies.sign(policy, event.clone(), &known.rules).await {
            Ok(signed) => signed,
            Err(error) => {
                tracing::debug!(event = %event.pdu.event_id, %error, "not signed by the room's policy server");
                event
            }
        }
    }

    /// Takes one PDU that joins the graph by a handshake (`send_join`, `send_leave`, `send_knock`, an invite of ours that
    /// the other server has signed): like [`Rooms::receive`], but a soft failure or rejection is an error, and the event
    /// goes on to the other servers.
    pub async fn receive_handshake(
        &self,
        origin: &ServerName,
        room: &RoomId,
        pdu: CanonicalJsonObject,
    ) -> Result<OwnedEventId, RoomError> {
        let unknown = || RoomError::NotFound("this room is not known here".into());
        let known = self.known(room).await?.filter(|known| known.resident).ok_or_else(unknown)?;
        let event = received(pdu, room, &known.rules)?;
        let id = event.id.clone();
        let event = self.verify(room, event, &known.rules).await?;
        let event = self.vouched(&known, event).await;
        match self.take(origin, &known, &event, Some(origin.to_owned())).await? {
            Taken::Known | Taken::Accepted => Ok(id),
            Taken::SoftFailed(reason) | Taken::Rejected(reason) => Err(RoomError::Forbidden(reason)),
            Taken::Missing { .. } => {
                Err(RoomError::Rejected("the event refers to events that cannot be had".into()))
            }
        }
    }

    /// The template of an event that `sender` (of another server) may put on the present end of the room.
    pub async fn template(
        &self,
        room: &RoomId,
        sender: &UserId,
        draft: Draft,
    ) -> Result<Template, RoomError> {
        let made = self.make(room, sender, draft, false).await?;
        Ok(Template { version: made.version.to_string(), event: made.event })
    }

    /// Builds, hashes and signs an event of ours on the present end of the room WITHOUT storing it (an invite that the
    /// other server signs first). Hand it to [`Rooms::receive_handshake`] afterwards.
    pub async fn build(
        &self,
        room: &RoomId,
        sender: &UserId,
        draft: Draft,
    ) -> Result<CanonicalJsonObject, RoomError> {
        Ok(self.make(room, sender, draft, true).await?.event)
    }

    async fn make(
        &self,
        room: &RoomId,
        sender: &UserId,
        draft: Draft,
        sign: bool,
    ) -> Result<Made, RoomError> {
        let (answer, result) = oneshot::channel();
        let job = Job::Template { sender: sender.to_owned(), draft, sign, answer };
        self.inner.workers.submit(&self.inner.tools(), room, job).await?;
        result.await.map_err(|_| RoomError::Busy)?
    }

    /// The state before an event, whole PDUs, with auth chain. For servers in the room.
    pub async fn state_answer(
        &self,
        origin: &ServerName,
        room: &RoomId,
        event: &EventId,
    ) -> Result<StateAnswer, RoomError> {
        let (origin, room, event) = (origin.to_owned(), room.to_owned(), event.to_owned());
        self.inner
            .store
            .read(move |tx| {
                let (state, chain) = state_before(tx, &origin, &room, &event)?;
                Ok(StateAnswer { state: pdus(tx, &state)?, auth_chain: pdus(tx, &chain)? })
            })
            .await
    }

    /// Like [`Rooms::state_answer`] without the members, but those that name a room without a name; the auth chain has
    /// that of the event too, and leaves out what the state has.
    pub(in crate::room) async fn lean_state_answer(
        &self,
        origin: &ServerName,
        room: &RoomId,
        event: &EventId,
    ) -> Result<StateAnswer, RoomError> {
        let (origin, room, event) = (origin.to_owned(), room.to_owned(), event.to_owned());
        self.inner
            .store
            .read(move |tx| {
                let (nid, row) = (guest(tx, &origin, &room)?, event_of(tx, &room, &event)?);
                let sid = told_state(&row)?;
                let mut named = HashSet::new();
                if let Some(room) =
                    rooms::room(tx, nid)?.filter(|room| room.name.is_none() && room.alias.is_none())
                {
                    for (_, member) in membership::members_with(tx, room.room, Membership::Join, HEROES_MAX)?
                    {
                        named.insert(member);
                    }
                }
                let mut list = Vec::new();
                for (skey, nid) in state::full(tx, sid)? {
                    if named.contains(&nid) || skey_split(&tx.text(skey)?).0 != MEMBER {
                        list.push(nid);
                    }
                }
                let seeds: Vec<Nid> = list.iter().copied().chain([row.nid]).collect();
                let here: HashSet<Nid> = list.iter().copied().collect();
                let mut chain = chain(tx, &seeds)?;
                chain.retain(|nid| !here.contains(nid));
                Ok(StateAnswer { state: pdus(tx, &list)?, auth_chain: pdus(tx, &chain)? })
            })
            .await
    }

    /// Like [`Rooms::state_answer`], ids only: (state, auth chain).
    pub async fn state_ids_answer(
        &self,
        origin: &ServerName,
        room: &RoomId,
        event: &EventId,
    ) -> Result<(Vec<OwnedEventId>, Vec<OwnedEventId>), RoomError> {
        let (origin, room, event) = (origin.to_owned(), room.to_owned(), event.to_owned());
        self.inner
            .store
            .read(move |tx| {
                let (state, chain) = state_before(tx, &origin, &room, &event)?;
                let ids =
                    |list: &[Nid]| list.iter().map(|nid| events::id(tx, *nid)).collect::<Result<Vec<_>, _>>();
                Ok((ids(&state)?, ids(&chain)?))
            })
            .await
    }

    /// An event's auth chain.
    pub async fn event_auth_answer(
        &self,
        origin: &ServerName,
        room: &RoomId,
        event: &EventId,
    ) -> Result<Vec<PduJson>, RoomError> {
        let (origin, room, event) = (origin.to_owned(), room.to_owned(), event.to_owned());
        self.inner
            .store
            .read(move |tx| {
                let room = guest(tx, &origin, &room)?;
                let row = in_room(tx, room, &event)?;
                Ok(pdus(tx, &chain(tx, &[row.nid])?)?)
            })
            .await
    }

    /// One event and its time, if the server is in the room: pruned if its users may know only that it exists.
    pub async fn event_answer(
        &self,
        origin: &ServerName,
        event: &EventId,
    ) -> Result<(PduJson, u64), RoomError> {
        let (origin, event) = (origin.to_owned(), event.to_owned());
        self.inner
            .store
            .read(move |tx| {
                let unknown = || RoomError::NotFound("there is no such event here".into());
                let row = events::event_by_id(tx, &event)?.ok_or_else(unknown)?;
                let room = load::room_id(tx, row.room)?;
                guest(tx, &origin, &room)?;
                if known(tx, &room)?.is_some_and(|known| !known.lets(&origin)) {
                    return Err(RoomError::Forbidden(
                        "the room's server access list denies your server".into(),
                    ));
                }
                let mut access = ServerAccess::new(tx, &origin)?;
                let ts = u64::try_from(row.ts).unwrap_or(0);
                Ok((shown(tx, &mut access, row)?, ts))
            })
            .await
    }

    /// `from` and what came before, newest first, at most `limit` (bounded here).
    pub async fn backfill_answer(
        &self,
        origin: &ServerName,
        room: &RoomId,
        from: Vec<OwnedEventId>,
        limit: u32,
    ) -> Result<Vec<PduJson>, RoomError> {
        let (origin, room) = (origin.to_owned(), room.to_owned());
        let limit = limit.min(BACKFILL_MAX) as usize;
        self.inner
            .store
            .read(move |tx| {
                let room = guest(tx, &origin, &room)?;
                let mut access = ServerAccess::new(tx, &origin)?;
                let mut heap = BinaryHeap::new();
                let mut seen = HashSet::new();
                for id in from.iter().take(limit) {
                    if let Some(row) = events::event_by_id(tx, id)?
                        && row.room == room
                        && seen.insert(row.nid)
                    {
                        heap.push((row.depth, row.seq, row.nid));
                    }
                }
                let mut list = Vec::new();
                while let Some((_, _, nid)) = heap.pop() {
                    if list.len() >= limit {
                        break;
                    }
                    let Some(row) = events::event(tx, nid)? else { continue };
                    for prev in &row.prev {
                        if let Some(prev) = events::event(tx, *prev)?
                            && prev.flags & OUTLIER == 0
                            && seen.insert(prev.nid)
                        {
                            heap.push((prev.depth, prev.seq, prev.nid));
                        }
                    }
                    if row.seq.is_some() {
                        list.push(shown(tx, &mut access, row)?);
                    }
                }
                Ok(list)
            })
            .await
    }

    /// What lies between `earliest` and `latest`, oldest first, at most `limit` (bounded here).
    pub async fn missing_events_answer(
        &self,
        origin: &ServerName,
        room: &RoomId,
        earliest: Vec<OwnedEventId>,
        latest: Vec<OwnedEventId>,
        limit: u32,
        min_depth: u64,
    ) -> Result<Vec<PduJson>, RoomError> {
        let (origin, room) = (origin.to_owned(), room.to_owned());
        let limit = limit.min(MISSING_MAX) as usize;
        let min_depth = i64::try_from(min_depth).unwrap_or(i64::MAX);
        self.inner
            .store
            .read(move |tx| {
                let room = guest(tx, &origin, &room)?;
                let mut access = ServerAccess::new(tx, &origin)?;
                let mut seen = HashSet::new();
                for id in earliest.iter().take(WALK_MAX) {
                    seen.extend(events::nid(tx, id)?);
                }
                let mut open = VecDeque::new();
                for id in latest.iter().take(WALK_MAX) {
                    if let Some(row) = events::event_by_id(tx, id)?
                        && row.room == room
                    {
                        open.extend(row.prev);
                    }
                }
                let mut list = Vec::new();
                while let Some(nid) = open.pop_front() {
                    if list.len() >= limit || seen.len() >= WALK_MAX {
                        break;
                    }
                    if !seen.insert(nid) {
                        continue;
                    }
                    let Some(row) = events::event(tx, nid)? else { continue };
                    if row.flags & OUTLIER != 0 || row.depth < min_depth || row.room != room {
                        continue;
                    }
                    open.extend(row.prev.iter().copied());
                    let depth = row.depth;
                    list.push((depth, shown(tx, &mut access, row)?));
                }
                list.sort_by_key(|(depth, _)| *depth);
                Ok(list.into_iter().map(|(_, pdu)| pdu).collect())
            })
            .await
    }

    /// Servers with a joined user, ours among them.
    pub async fn room_servers(&self, room: &RoomId) -> Result<Vec<OwnedServerName>, RoomError> {
        let room = room.to_owned();
        self.inner
            .store
            .read(move |tx| {
                let Some(room) = tx.lookup(Kind::Room, room.as_str())? else { return Ok(Vec::new()) };
                let mut names = Vec::new();
                for server in membership::servers(tx, room)? {
                    names.extend(ServerName::parse(&*tx.text(server)?).ok());
                }
                Ok(names)
            })
            .await
    }

    /// The room's version, if we know the room.
    pub async fn version(&self, room: &RoomId) -> Result<Option<String>, RoomError> {
        Ok(self.row(room).await?.map(|row| row.version))
    }

    /// Whether a local user is joined, so that we hold the room's state.
    pub async fn is_resident(&self, room: &RoomId) -> Result<bool, RoomError> {
        Ok(self.row(room).await?.is_some_and(|row| row.resident))
    }

    pub(in crate::room) async fn row(&self, room: &RoomId) -> Result<Option<RoomRow>, RoomError> {
        let room = room.to_owned();
        self.inner
            .store
            .read(move |tx| match tx.lookup(Kind::Room, room.as_str())? {
                Some(room) => Ok(rooms::room(tx, room)?),
                None => Ok(None),
            })
            .await
    }

    /// Whether the room's `m.room.server_acl` lets this server speak. True if there is none.
    pub async fn acl_allows(&self, room: &RoomId, server: &ServerName) -> Result<bool, RoomError> {
        Ok(self.known(room).await?.is_none_or(|known| known.lets(server)))
    }
}

/// What [`Rooms::prepare`] comes to.
pub(in crate::room) enum Prepared {
    /// To be taken by the room.
    Event { known: Known, event: FullEvent },
    /// Nothing is left to do.
    Done,
}

/// The room, if a server is in it.
pub(in crate::room) fn guest(tx: &ReadTx<'_>, origin: &ServerName, room: &RoomId) -> Result<Nid, RoomError> {
    let unknown = || RoomError::NotFound("this room is not known here".into());
    let room = tx.lookup(Kind::Room, room.as_str())?.ok_or_else(unknown)?;
    let row = rooms::room(tx, room)?.filter(|row| row.resident).ok_or_else(unknown)?;
    let inside = match tx.lookup(Kind::Server, origin.as_str())? {
        Some(server) => membership::server_in(tx, row.room, server)?,
        None => false,
    };
    if inside { Ok(room) } else { Err(RoomError::Forbidden("your server is not in this room".into())) }
}

pub(in crate::room) fn in_room(tx: &ReadTx<'_>, room: Nid, event: &EventId) -> Result<EventRow, RoomError> {
    events::event_by_id(tx, event)?
        .filter(|row| row.room == room)
        .ok_or_else(|| RoomError::NotFound("there is no such event in this room".into()))
}

fn event_of(tx: &ReadTx<'_>, room: &RoomId, event: &EventId) -> Result<EventRow, RoomError> {
    let unknown = || RoomError::NotFound("this room is not known here".into());
    in_room(tx, tx.lookup(Kind::Room, room.as_str())?.ok_or_else(unknown)?, event)
}

/// The state before an event, if it is known whole.
fn told_state(row: &EventRow) -> Result<i64, RoomError> {
    if row.flags & PARTIAL != 0 {
        return Err(RoomError::Forbidden("only a part of the state at this event is here yet".into()));
    }
    row.state_before.ok_or_else(|| RoomError::NotFound("the state at this event is not known here".into()))
}

/// Numbers of the state before an event, and of its auth chain.
fn state_before(
    tx: &ReadTx<'_>,
    origin: &ServerName,
    room: &RoomId,
    event: &EventId,
) -> Result<(Vec<Nid>, Vec<Nid>), RoomError> {
    let room = guest(tx, origin, room)?;
    let sid = told_state(&in_room(tx, room, event)?)?;
    let state: Vec<Nid> = state::full(tx, sid)?.into_values().collect();
    let chain = chain(tx, &state)?;
    Ok((state, chain))
}

/// The auth chains of some events.
fn chain(tx: &ReadTx<'_>, seeds: &[Nid]) -> Result<Vec<Nid>, StoreError> {
    let mut seen = HashSet::new();
    let mut open = seeds.to_vec();
    let mut list = Vec::new();
    while let Some(nid) = open.pop() {
        for auth in events::auth(tx, nid)?.unwrap_or_default() {
            if seen.insert(auth) {
                list.push(auth);
                open.push(auth);
            }
        }
    }
    Ok(list)
}

fn pdus(tx: &ReadTx<'_>, list: &[Nid]) -> Result<Vec<PduJson>, StoreError> {
    let mut pdus = Vec::with_capacity(list.len());
    for nid in list {
        if let Some(row) = events::event(tx, *nid)? {
            pdus.push(json::pdu(tx, &row)?);
        }
    }
    Ok(pdus)
}

/// The event as a server may see it.
fn shown(tx: &ReadTx<'_>, access: &mut ServerAccess, row: EventRow) -> Result<PduJson, StoreError> {
    let hidden = !access.may_see(tx, &row)? || erase::is_erased(tx, &row)? && !access.was_there(tx, &row)?;
    if hidden { json::pdu(tx, &erase::pruned(tx, &row)?) } else { json::pdu(tx, &row) }
}
