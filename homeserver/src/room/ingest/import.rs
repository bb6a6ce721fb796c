//! Owns rooms that come from elsewhere: a `send_join` answer becomes a room, an invite a promise of one.

use std::sync::Arc;

use ruma::{CanonicalJsonObject, OwnedEventId, RoomId, UserId, room_version_rules::RoomVersionRules};
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
            pdu::{FullEvent, Pdu},
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
        self.inner.store.read(move |tx| allowed(tx, &for_check, &pdu, &checked)).await?;

        let _turn = self.inner.imports.lock().await;
        if self.is_resident(&room).await? {
            // Another user of ours was faster: an event like others, with its state told.
            let result = self.submit_pdu(join, Some(vec![map]), None).await?;
            return match result.await.map_err(|_| RoomError::Busy)?? {
                Taken::Accepted | Taken::Known => Ok(()),
                Taken::SoftFailed(reason) | Taken::Rejected(reason) => Err(RoomError::Forbidden(reason)),
                Taken::Missing { .. } => Err(RoomError::Rejected("the join refers to unknown events".into())),
            };
        }
        self.import(&answer.version, rules, join, map).await
    }

    /// Makes the room of a state, in bounded steps, and appends the join as the last. Until then nobody sees the room; a
    /// crash leaves it so, and the next import begins anew.
    async fn import(
        &self,
        version: &str,
        rules: Arc<RoomVersionRules>,
        join: FullEvent,
        map: StateMap,
    ) -> Result<(), RoomError> {
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
            .write(move |tx| -> Result<(), RoomError> {
                row.resident = true;
                row.audience = None;
                rooms::put_room(tx, &row)?;
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
                Ok(())
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

/// A room that is on its way out does not come back before it has gone.
fn check_stays(tx: &ReadTx<'_>, room: Nid) -> Result<(), RoomError> {
    match purge::is_going(tx, room)? {
        true => {
            Err(RoomError::NotNow("the room is being removed from this server; try again in a moment".into()))
        }
        false => Ok(()),
    }
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
fn allowed(tx: &ReadTx<'_>, rules: &RoomVersionRules, event: &Pdu, map: &StateMap) -> Result<(), RoomError> {
    let mut entries = std::collections::HashMap::new();
    for key in authorize::needed(rules, event) {
        if let Some(skey) = tx.lookup_skey(&key.0, &key.1)?
            && let Some(nid) = map.get(&skey)
            && let Some(pdu) = load::pdu(tx, *nid)?
        {
            entries.insert(key, pdu);
        }
    }
    auth::check_state(rules, event, |kind, key| entries.get(&(kind.to_owned(), key.to_owned())).cloned())
        .map_err(|reason| RoomError::Rejected(format!("the room's state does not allow the join: {reason}")))
}
