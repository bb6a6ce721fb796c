//! Owns rooms that come from elsewhere: a `send_join` answer becomes a room, an invite a promise of one.

use std::sync::Arc;

use ruma::{
    CanonicalJsonObject, OwnedEventId, OwnedServerName, RoomId, ServerName, UserId,
    room_version_rules::RoomVersionRules,
};
use serde_json::value::RawValue;

use super::{
    append::{After, Append, Before, Forward, Verdict, append, outlier},
    authorize,
    gaps::Known,
    load,
    outliers::state_map,
    verify::{received, rejected},
    worker::Taken,
};
use crate::{
    room::{
        RoomError, Rooms,
        core::{
            auth, check,
            pdu::{CREATE, FullEvent, Pdu},
            version,
        },
        federation::JoinAnswer,
        project::{self, membership::At},
    },
    store::{
        Kind, Nid, ReadTx, StoreError, WriteTx,
        schema::{
            events,
            membership::{self, Membership},
            partial::{self, PartialRoom},
            purge,
            rooms::{self, RoomRow},
            state::{self, Change, StateMap},
        },
    },
};

/// State entries projected in one write while a room is imported: others get their turn between.
const IMPORT_CHUNK: usize = 500;

impl Rooms {
    /// Imports a room that a local user has just joined through another server, then appends the join. What the answer
    /// holds has been verified by the handshake; here the rules are asked.
    pub async fn import_join(&self, answer: JoinAnswer) -> Result<(), RoomError> {
        let rules = version::rules(&answer.version)
            .map(Arc::new)
            .ok_or_else(|| RoomError::UnsupportedVersion(answer.version.clone()))?;
        let room = answer.room_id.clone();
        let whole = |pdu: &RawValue| -> Result<FullEvent, RoomError> {
            let event = received(check::parse(pdu).map_err(rejected)?, &room, &rules)?;
            FullEvent::new(event.id, &room, event.object).map_err(rejected)
        };
        let join = whole(&answer.event)?;
        // What does not parse counts as not there.
        let state: Vec<FullEvent> = answer.state.iter().filter_map(|pdu| whole(pdu).ok()).collect();
        let chain = answer.auth_chain.iter().filter_map(|pdu| whole(pdu).ok());
        let ids: Vec<OwnedEventId> = state.iter().map(|event| event.pdu.event_id.clone()).collect();
        let all: Vec<FullEvent> = chain.chain(state.iter().cloned()).collect();
        drop(state);
        self.store_outliers(&rules, all).await?;
        let map = self.inner.store.read(move |tx| -> Result<_, StoreError> { state_map(tx, &ids) }).await?;
        let (for_check, pdu, checked) = (rules.clone(), join.pdu.clone(), map.clone());
        let partial = answer.partial.is_some();
        self.inner.store.read(move |tx| allowed(tx, &for_check, &pdu, &checked, partial)).await?;

        let turn = self.inner.imports.lock().await;
        if self.is_resident(&room).await? {
            drop(turn);
            // Another user of ours was faster: an event like others, with its state told, if that is whole.
            let taken = match answer.partial {
                Some(_) => self.take_join(&answer.origin, &room, &join).await?,
                None => {
                    let result = self.submit_pdu(join, Some(vec![map]), None).await?;
                    result.await.map_err(|_| RoomError::Busy)??
                }
            };
            return match taken {
                Taken::Accepted | Taken::Known => Ok(()),
                Taken::SoftFailed(reason) | Taken::Rejected(reason) => Err(RoomError::Forbidden(reason)),
                Taken::Missing { .. } => Err(RoomError::Rejected("the join refers to unknown events".into())),
            };
        }
        match self.rejoin(&rules, &join).await? {
            Rejoin::No => {}
            Rejoin::Done(first) => {
                self.make_whole(room, first);
                return Ok(());
            }
            Rejoin::Open(first) => {
                drop(turn);
                let taken = self.take_join(&answer.origin, &room, &join).await;
                if self.close_empty(&room).await? {
                    return Err(match taken {
                        Err(error) => error,
                        Ok(taken) => RoomError::Rejected(format!("the join was not taken: {taken:?}")),
                    });
                }
                self.make_whole(room, first);
                return Ok(());
            }
        }
        let partial = answer.partial.map(|servers| (answer.origin, servers));
        if let Some(join) = self.import(&answer.version, rules, join, map, partial).await? {
            self.make_whole(room, join);
        }
        Ok(())
    }

    /// Goes on with a room that was left before it was whole, if nothing has happened in it since: what was known of it is
    /// known still. Gives the join whose state is still to be fetched then.
    async fn rejoin(&self, rules: &Arc<RoomVersionRules>, join: &FullEvent) -> Result<Rejoin, RoomError> {
        let (rules, event, own) = (rules.clone(), join.clone(), self.inner.signer.name.clone());
        let now_ms = self.inner.clock.now_ms();
        self.inner
            .store
            .write(move |tx| -> Result<Rejoin, RoomError> {
                let Some(room) = tx.lookup(Kind::Room, event.pdu.room.as_str())? else {
                    return Ok(Rejoin::No);
                };
                let (Some(mut row), Some(left)) = (rooms::room(tx, room)?, partial::partial(tx, room)?)
                else {
                    return Ok(Rejoin::No);
                };
                let mut prev = Vec::new();
                for id in &event.pdu.prev {
                    match events::nid(tx, id)? {
                        Some(nid) if events::is_placed(tx, nid)? => prev.push(nid),
                        _ => return Ok(Rejoin::No),
                    }
                }
                if row.resident {
                    return Ok(Rejoin::No);
                }
                check_stays(tx, room)?;
                prev.sort_unstable();
                let mut ends = events::forward(tx, room)?;
                ends.sort_unstable();
                if prev != ends {
                    // Our leave and the join crossed.
                    row.resident = true;
                    row.head += 1;
                    rooms::put_room(tx, &row)?;
                    return Ok(Rejoin::Open(left.join));
                }
                row.resident = true;
                row.audience = None;
                rooms::put_room(tx, &row)?;
                let again = Append {
                    event,
                    own,
                    version: row.version.as_str().into(),
                    rules,
                    head: Some(row.head),
                    before: Before::Current,
                    after: After::Linear,
                    verdict: Verdict::Accepted,
                    power: false,
                    forward: Forward::No,
                    txn: None,
                    now_ms,
                };
                append(tx, &again)?;
                Ok(Rejoin::Done(left.join))
            })
            .await
    }

    /// Closes a room that was opened for somebody who did not come in. True if nobody of ours is in it.
    async fn close_empty(&self, room: &RoomId) -> Result<bool, RoomError> {
        let room = room.to_owned();
        self.inner
            .store
            .write(move |tx| -> Result<bool, RoomError> {
                let Some(room) = tx.lookup(Kind::Room, room.as_str())? else { return Ok(true) };
                let Some(mut row) = rooms::room(tx, room)? else { return Ok(true) };
                let empty = membership::local_members(tx, room, Membership::Join)?.is_empty();
                if empty {
                    row.resident = false;
                    rooms::put_room(tx, &row)?;
                }
                Ok(empty)
            })
            .await
    }

    /// Makes the room of a state, in bounded steps, and appends the join as the last. Until then nobody sees the room; a
    /// crash leaves it so, and the next import begins anew. `partial`: the state is only a part of the room's; by which
    /// server it was told, and which servers are in the room. Gives the join's number then.
    async fn import(
        &self,
        version: &str,
        rules: Arc<RoomVersionRules>,
        join: FullEvent,
        map: StateMap,
        partial: Option<(OwnedServerName, Vec<OwnedServerName>)>,
    ) -> Result<Option<Nid>, RoomError> {
        let own = self.inner.signer.name.clone();
        let (room_id, text, depth, first) =
            (join.pdu.room.clone(), version.to_owned(), join.pdu.depth, map.clone());
        let mut row = self
            .inner
            .store
            .write(move |tx| -> Result<RoomRow, RoomError> {
                let room = tx.intern(Kind::Room, room_id.as_str())?;
                check_stays(tx, room)?;
                let old = rooms::room(tx, room)?;
                state::clear_current(tx, room)?;
                membership::clear_room(tx, room)?;
                events::clear_forward(tx, room)?;
                partial::forget(tx, room)?;
                let sid = state::put(tx, room, &first)?;
                let mut row = RoomRow::new(room, text, sid);
                // Heads are not used twice: a worker may still hold one of the room's earlier life.
                row.head = match &old {
                    Some(old) => old.head + 1,
                    None => tx.next_seq()?.0,
                };
                row.depth = depth.saturating_sub(1).max(0);
                row.msgs = old.as_ref().map_or(0, |old| old.msgs);
                row.public = old.as_ref().is_some_and(|old| old.public);
                rooms::put_room(tx, &row)?;
                Ok(row)
            })
            .await?;
        let changes: Vec<Change> =
            map.iter().map(|(skey, nid)| Change { skey: *skey, old: None, new: Some(*nid) }).collect();
        for chunk in changes.chunks(IMPORT_CHUNK) {
            let (chunk, own) = (chunk.to_vec(), own.clone());
            row = self
                .inner
                .store
                .write(move |tx| -> Result<RoomRow, StoreError> {
                    state::apply(tx, row.room, None, &chunk)?;
                    let read = project::read_changes(tx, &chunk)?;
                    project::rooms::apply(&mut row, &read);
                    let seq = tx.next_seq()?;
                    let at = At { own: &own, seq, state: row.sid };
                    let moved = project::membership::apply(tx, &mut row, &at, &read)?;
                    super::append::tell_devices(tx, row.room, seq, &own, &moved)?;
                    rooms::put_room(tx, &row)?;
                    Ok(row)
                })
                .await?;
        }
        let version: Arc<str> = version.into();
        let now_ms = self.inner.clock.now_ms();
        self.inner
            .store
            .write(move |tx| -> Result<Option<Nid>, RoomError> {
                row.resident = true;
                row.audience = None;
                rooms::put_room(tx, &row)?;
                let nid = events::intern(tx, &join.pdu.event_id)?;
                let is_partial = partial.is_some();
                if let Some((origin, servers)) = partial {
                    put_partial(tx, row.room, nid, &origin, &servers, &own)?;
                }
                let last = Append {
                    event: join,
                    own,
                    version,
                    rules,
                    head: Some(row.head),
                    before: Before::Current,
                    after: After::Linear,
                    verdict: Verdict::Accepted,
                    power: false,
                    forward: Forward::No,
                    txn: None,
                    now_ms,
                };
                append(tx, &last)?;
                if is_partial {
                    partial::set_flag(tx, nid)?;
                }
                Ok(is_partial.then_some(nid))
            })
            .await
    }

    /// Stores an invite (or, with another `membership`, its withdrawal or our rejection; a knock of ours) for a local
    /// user in a room whose state we do not hold: the event as an outlier, the stripped state in the user's row. The
    /// PDU is signed by all who have to. In a room that is here it is taken like any other event.
    pub async fn receive_outlier_membership(
        &self,
        room: &RoomId,
        version: &str,
        pdu: CanonicalJsonObject,
        stripped: Vec<Box<RawValue>>,
    ) -> Result<OwnedEventId, RoomError> {
        let rules =
            version::rules(version).ok_or_else(|| RoomError::UnsupportedVersion(version.to_owned()))?;
        let event = received(pdu, room, &rules)?;
        let event = FullEvent::new(event.id, room, event.object).map_err(rejected)?;
        let id = event.pdu.event_id.clone();
        if self.is_resident(room).await? {
            // Its server also sends it as an event of the room, with all that comes before it.
            return Ok(id);
        }
        self.store_without_room(version, event, stripped).await?;
        Ok(id)
    }

    pub(in crate::room) async fn store_without_room(
        &self,
        version: &str,
        event: FullEvent,
        stripped: Vec<Box<RawValue>>,
    ) -> Result<(), RoomError> {
        let version = version.to_owned();
        let own = self.inner.signer.name.clone();
        self.inner
            .store
            .write(move |tx| -> Result<(), RoomError> {
                let pdu = event.pdu.clone();
                let target = pdu
                    .state_key
                    .as_deref()
                    .and_then(|key| <&UserId>::try_from(key).ok())
                    .filter(|user| user.server_name() == own)
                    .ok_or_else(|| {
                        RoomError::Invalid("the event is not about a user of this server".into())
                    })?;
                let membership = pdu
                    .membership()
                    .and_then(|membership| Membership::parse(&membership))
                    .filter(|membership| *membership != Membership::Join)
                    .ok_or_else(|| RoomError::Invalid("the event is no invite, knock or leave".into()))?;
                let room = tx.intern(Kind::Room, pdu.room.as_str())?;
                remember(tx, room, version)?;
                let nid = outlier(tx, &event, false)?;
                let user = tx.intern(Kind::User, target.as_str())?;
                project::membership::without_room(tx, user, room, membership, nid, &stripped)?;
                Ok(())
            })
            .await
    }

    /// A membership event of a room whose state is not here, sent like any event: an invite is withdrawn, a knock
    /// answered.
    pub(in crate::room) async fn take_without_room(
        &self,
        known: &Known,
        event: FullEvent,
    ) -> Result<(), RoomError> {
        let pdu = event.pdu.clone();
        let check = pdu.clone();
        let waits = self
            .inner
            .store
            .read(move |tx| -> Result<bool, RoomError> {
                let (Some(key), Some(room)) =
                    (check.state_key.as_deref(), tx.lookup(Kind::Room, check.room.as_str())?)
                else {
                    return Ok(false);
                };
                let Some(user) = tx.lookup(Kind::User, key)? else { return Ok(false) };
                let row = membership::user_room(tx, user, room)?;
                let Some(row) =
                    row.filter(|row| matches!(row.membership, Membership::Invite | Membership::Knock))
                else {
                    return Ok(false);
                };
                // What came before it (the end of an earlier ban, say) may arrive after it: what ends it names it.
                let names_it = check.auth.contains(&events::id(tx, row.nid)?);
                if !names_it {
                    return Ok(false);
                }
                // Without the state only those can end it who are in the event itself: who invited, or the user. Whether
                // anybody else of the inviter's server may is not to be known here.
                let inviter = load::pdu(tx, row.nid)?.map(|invite| invite.sender.clone());
                Ok(inviter
                    .as_ref()
                    .is_some_and(|inviter| *inviter == check.sender || check.sender.as_str() == key))
            })
            .await?;
        let ends = matches!(pdu.membership().as_deref(), Some("leave" | "ban"));
        if waits && ends {
            return self.store_without_room(&known.version, event, Vec::new()).await;
        }
        Err(RoomError::Rejected("nobody of this server is in the room".into()))
    }
}

/// How a user comes back into a room that was left before it was whole.
enum Rejoin {
    /// As into any other.
    No,
    /// It is in; the state before this join is still to be fetched.
    Done(Nid),
    /// The room is open for its join, which forks off; the state before this earlier one is still to be fetched.
    Open(Nid),
}

/// A room that is on its way out does not come back before it has gone.
fn check_stays(tx: &ReadTx<'_>, room: Nid) -> Result<(), RoomError> {
    match purge::is_going(tx, room)? {
        true => {
            Err(RoomError::NotNow("the room is being removed from this server; try again in a moment".into()))
        }
        false => Ok(()),
    }
}

/// Notes that a room's state is not whole. Servers that were named count as being in it until it is.
fn put_partial(
    tx: &mut WriteTx<'_>,
    room: Nid,
    join: Nid,
    origin: &ServerName,
    servers: &[OwnedServerName],
    own: &ServerName,
) -> Result<(), StoreError> {
    let origin = tx.intern(Kind::Server, origin.as_str())?;
    let mut named = vec![origin];
    for server in servers.iter().filter(|server| **server != own) {
        named.push(tx.intern(Kind::Server, server.as_str())?);
    }
    named.sort_unstable();
    named.dedup();
    for server in &named {
        membership::count_server(tx, room, *server, 1)?;
    }
    partial::put(tx, room, &PartialRoom { join, origin, servers: named })
}

/// Notes the version of a room that is only heard of.
fn remember(tx: &mut WriteTx<'_>, room: Nid, version: String) -> Result<(), RoomError> {
    check_stays(tx, room)?;
    if rooms::room(tx, room)?.is_none() {
        let sid = state::put(tx, room, &StateMap::new())?;
        rooms::put_room(tx, &RoomRow::new(room, version, sid))?;
    }
    Ok(())
}

/// Whether a state lets an event in.
fn allowed(
    tx: &ReadTx<'_>,
    rules: &RoomVersionRules,
    event: &Pdu,
    map: &StateMap,
    partial: bool,
) -> Result<(), RoomError> {
    let mut entries = std::collections::HashMap::new();
    for key in authorize::needed(rules, event) {
        if let Some(skey) = tx.lookup_skey(&key.0, &key.1)?
            && let Some(nid) = map.get(&skey)
            && let Some(pdu) = load::pdu(tx, *nid)?
        {
            entries.insert(key, pdu);
        }
    }
    let mut own = Vec::new();
    for id in &event.auth {
        own.extend(load::pdu_by_id(tx, id)?);
    }
    let create = entries.get(&(CREATE.to_owned(), String::new())).cloned();
    let own = authorize::Lookup::new(own, create);
    // A state without its members does not say who is banned; the event itself has to.
    let refused =
        |reason: String| RoomError::Forbidden(format!("the room does not allow the join: {reason}"));
    authorize::at_own(rules, event, &own).map_err(refused)?;
    auth::check_state(rules, event, |kind, key| {
        own.in_part(partial, event, (kind, key), || entries.get(&(kind.to_owned(), key.to_owned())).cloned())
    })
    .map_err(refused)
}
