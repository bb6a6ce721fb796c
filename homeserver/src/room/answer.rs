//! The resident server's side of the handshakes: templates for others' membership events, and taking those events in.

use std::time::Duration;

use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, EventId, OwnedUserId, RoomId, RoomVersionId, ServerName, UserId,
    api::federation::membership::RawStrippedState, room_version_rules::RoomVersionRules,
};
use serde_json::value::{RawValue, to_raw_value};

use super::{
    Draft, PduJson, RoomError, Rooms,
    core::canonical,
    federation::Template,
    handshake::{event_id, expect_membership, parse, raw, rules_of},
    join::voucher,
    stripped,
};
use crate::store::{
    Kind, ReadTx, StoreError,
    schema::{events, membership, rooms, state},
};

/// What a server that has just joined is told.
#[derive(Debug)]
pub struct JoinReply {
    /// The state before the join.
    pub state: Vec<PduJson>,
    /// Its auth chain.
    pub auth_chain: Vec<PduJson>,
    /// The join, signed by us too if it needed that.
    pub event: PduJson,
    /// Servers in the room before the join.
    pub servers: Vec<String>,
    /// Members were left out of the state.
    pub omitted: bool,
}

/// How long a server that wants to join waits here for a room whose state is still on its way.
const WHOLE_PATIENCE: Duration = Duration::from_secs(2);

impl Rooms {
    /// `make_join`: the join that a user of `origin` may sign.
    pub async fn answer_make_join(
        &self,
        origin: &ServerName,
        room: &RoomId,
        user: &UserId,
        spoken: &[RoomVersionId],
    ) -> Result<Template, RoomError> {
        self.check_asker(origin, room, user).await?;
        self.check_whole(room).await?;
        self.check_newcomer(room, origin).await?;
        self.check_spoken(room, spoken).await?;
        let mut content = CanonicalJsonObject::from([("membership".to_owned(), "join".into())]);
        if let Some(by) = self.join_authority(room, user).await? {
            content.insert("join_authorised_via_users_server".to_owned(), by.as_str().into());
        }
        self.template(room, user, member_draft(user, &content)).await
    }

    /// `make_knock`.
    pub async fn answer_make_knock(
        &self,
        origin: &ServerName,
        room: &RoomId,
        user: &UserId,
        spoken: &[RoomVersionId],
    ) -> Result<Template, RoomError> {
        self.check_asker(origin, room, user).await?;
        self.check_whole(room).await?;
        self.check_newcomer(room, origin).await?;
        self.check_spoken(room, spoken).await?;
        let content = CanonicalJsonObject::from([("membership".to_owned(), "knock".into())]);
        self.template(room, user, member_draft(user, &content)).await
    }

    /// `make_leave`: also for those who are only invited or have knocked.
    pub async fn answer_make_leave(
        &self,
        origin: &ServerName,
        room: &RoomId,
        user: &UserId,
    ) -> Result<Template, RoomError> {
        self.check_asker(origin, room, user).await?;
        let content = CanonicalJsonObject::from([("membership".to_owned(), "leave".into())]);
        self.template(room, user, member_draft(user, &content)).await
    }

    /// `send_join`: takes the join in and answers with the state it came into; without its members, if the other server
    /// can do without (`omit`).
    pub async fn answer_send_join(
        &self,
        origin: &ServerName,
        room: &RoomId,
        id: &EventId,
        pdu: &RawValue,
        omit: bool,
    ) -> Result<JoinReply, RoomError> {
        self.check_whole(room).await?;
        self.check_newcomer(room, origin).await?;
        let (mut event, rules) = self.take_membership(origin, room, id, pdu, "join").await?;
        if authority(&event).is_some_and(|by| self.is_local(&by)) {
            self.countersign(&mut event, &rules)?;
        }
        let signed = raw(&event);
        // Those before the join are told.
        let mut servers: Vec<String> = self.room_servers(room).await?.into_iter().map(String::from).collect();
        if !servers.iter().any(|server| *server == self.server_name().as_str()) {
            servers.push(self.server_name().to_string());
        }
        self.receive_handshake(origin, room, event).await?;
        let answer = match omit {
            true => self.lean_state_answer(origin, room, id).await?,
            false => self.state_answer(origin, room, id).await?,
        };
        let (state, auth_chain) = (answer.state, answer.auth_chain);
        Ok(JoinReply { state, auth_chain, event: signed, servers, omitted: omit })
    }

    /// `send_leave`.
    pub async fn answer_send_leave(
        &self,
        origin: &ServerName,
        room: &RoomId,
        id: &EventId,
        pdu: &RawValue,
    ) -> Result<(), RoomError> {
        let (event, _) = self.take_membership(origin, room, id, pdu, "leave").await?;
        self.receive_handshake(origin, room, event).await?;
        Ok(())
    }

    /// `send_knock`: answers with what somebody who waits at the door may see.
    pub async fn answer_send_knock(
        &self,
        origin: &ServerName,
        room: &RoomId,
        id: &EventId,
        pdu: &RawValue,
    ) -> Result<Vec<RawStrippedState>, RoomError> {
        self.check_whole(room).await?;
        self.check_newcomer(room, origin).await?;
        let (event, _) = self.take_membership(origin, room, id, pdu, "knock").await?;
        let user = state_key(&event)?;
        self.receive_handshake(origin, room, event).await?;
        self.state_for_outsider(room, &user).await
    }

    /// `invite`: signs an invite for a user of ours and keeps it.
    pub async fn answer_invite(
        &self,
        origin: &ServerName,
        room: &RoomId,
        id: &EventId,
        version: &str,
        pdu: &RawValue,
        stripped: Vec<RawStrippedState>,
    ) -> Result<PduJson, RoomError> {
        self.check_pair(origin)?;
        // A room that is known here may deny its own inviter.
        self.check_access(origin, room).await?;
        let rules = rules_of(version)?;
        let stripped = stripped::taken(stripped, room, &rules)?;
        let mut event = parse(pdu)?;
        let target = state_key(&event)?;
        if !self.is_local(&target) {
            return Err(RoomError::Invalid(format!("{target} is not a user of this server")));
        }
        expect_membership(&event, room, &target, "invite")?;
        expect_sender(&event, origin)?;
        if event_id(&event, &rules)? != *id {
            return Err(RoomError::Invalid("the event id is not the event's hash".to_owned()));
        }
        event.remove("unsigned");
        if let Some(Ok(sender)) = event.get("sender").and_then(CanonicalJsonValue::as_str).map(UserId::parse)
        {
            self.check_invited(&target, &sender).await?;
        }
        let checked = self.check_event(room, event, &rules).await?;
        let mut event = checked.event;
        self.countersign(&mut event, &rules)?;
        let signed = raw(&event);
        if self.is_resident(room).await? {
            // We are in the room already: the invite takes the usual way in, and its sender tells the others.
            for received in self.receive(origin, vec![raw(&event)]).await {
                received.result?;
            }
        } else {
            self.receive_outlier_membership(room, version, event, stripped).await?;
        }
        Ok(signed)
    }

    /// Checks a membership event that another server made of our template.
    async fn take_membership(
        &self,
        origin: &ServerName,
        room: &RoomId,
        id: &EventId,
        pdu: &RawValue,
        membership: &str,
    ) -> Result<(CanonicalJsonObject, RoomVersionRules), RoomError> {
        let version = self.version(room).await?.ok_or_else(|| unknown(room))?;
        let rules = rules_of(&version)?;
        let mut event = parse(pdu)?;
        let user = state_key(&event)?;
        self.check_asker(origin, room, &user).await?;
        expect_membership(&event, room, &user, membership)?;
        expect_sender(&event, origin)?;
        if event.get("sender").and_then(CanonicalJsonValue::as_str) != Some(user.as_str()) {
            return Err(RoomError::Invalid("the event is about another user than its sender".to_owned()));
        }
        if event_id(&event, &rules)? != *id {
            return Err(RoomError::Invalid("the event id is not the event's hash".to_owned()));
        }
        event.remove("unsigned");
        Ok((event, rules))
    }

    /// Whether `origin` may ask for `user` in `room` at all.
    async fn check_asker(&self, origin: &ServerName, room: &RoomId, user: &UserId) -> Result<(), RoomError> {
        if user.server_name() != origin {
            return Err(RoomError::Forbidden(format!("{origin} does not speak for {user}")));
        }
        if !self.is_resident(room).await? {
            return Err(unknown(room));
        }
        self.check_access(origin, room).await
    }

    /// Whether the room's access list lets `origin` speak.
    async fn check_access(&self, origin: &ServerName, room: &RoomId) -> Result<(), RoomError> {
        match self.acl_allows(room, origin).await? {
            true => Ok(()),
            false => Err(RoomError::Forbidden("the room's server access list denies your server".to_owned())),
        }
    }

    /// Nobody comes in through a server that does not know all of the room itself. A small room is whole in no time, so
    /// a moment is waited before the asker is sent to another server.
    async fn check_whole(&self, room: &RoomId) -> Result<(), RoomError> {
        match self.is_whole_within(room, WHOLE_PATIENCE).await? {
            true => Ok(()),
            false => Err(unknown(room)),
        }
    }

    async fn check_spoken(&self, room: &RoomId, spoken: &[RoomVersionId]) -> Result<(), RoomError> {
        let version = self.version(room).await?.ok_or_else(|| unknown(room))?;
        if spoken.iter().any(|spoken| spoken.as_str() == version) {
            return Ok(());
        }
        Err(RoomError::IncompatibleVersion(version))
    }

    fn countersign(
        &self,
        event: &mut CanonicalJsonObject,
        rules: &RoomVersionRules,
    ) -> Result<(), RoomError> {
        let signer = self.signer();
        canonical::sign_event(signer.name.as_str(), &*signer.key, event, rules)
            .map_err(|error| RoomError::Invalid(error.to_string()))
    }

    /// The local user whose right to invite lets `user` into a restricted room; `None` if no such right is needed.
    ///
    /// spec: <https://spec.matrix.org/v1.19/client-server-api/#restricted-rooms>
    async fn join_authority(&self, room: &RoomId, user: &UserId) -> Result<Option<OwnedUserId>, RoomError> {
        let (where_, who, ours) = (room.to_owned(), user.to_owned(), self.server_name().to_owned());
        let found = self
            .inner
            .store
            .read(move |tx| -> Result<_, StoreError> { authority_in(tx, &where_, &who, &ours) })
            .await?;
        match found {
            Authority::NotNeeded => Ok(None),
            Authority::By(by) => Ok(Some(by)),
            Authority::NotAllowed => Err(RoomError::Forbidden(
                "only members of certain rooms or spaces may join this one".to_owned(),
            )),
            Authority::CannotTell => Err(RoomError::UnableToAuthorise(
                "this server does not know the rooms whose members may join this one".to_owned(),
            )),
            Authority::Powerless => Err(RoomError::UnableToAuthorise(
                "no user of this server may invite into this room; another server may help".to_owned(),
            )),
        }
    }
}

enum Authority {
    NotNeeded,
    By(OwnedUserId),
    NotAllowed,
    CannotTell,
    Powerless,
}

fn authority_in(
    tx: &ReadTx<'_>,
    room: &RoomId,
    user: &UserId,
    ours: &ServerName,
) -> Result<Authority, StoreError> {
    use membership::Membership::{Invite, Join};
    let Some(nid) = tx.lookup(Kind::Room, room.as_str())? else { return Ok(Authority::NotNeeded) };
    let Some(row) = rooms::room(tx, nid)? else { return Ok(Authority::NotNeeded) };
    if !matches!(row.join_rule.as_deref(), Some("restricted" | "knock_restricted")) {
        return Ok(Authority::NotNeeded);
    }
    let user = tx.lookup(Kind::User, user.as_str())?;
    let is = |room, wanted: &[membership::Membership]| -> Result<bool, StoreError> {
        let Some(user) = user else { return Ok(false) };
        Ok(membership::member(tx, room, user)?.is_some_and(|(membership, _)| wanted.contains(&membership)))
    };
    if is(nid, &[Invite, Join])? {
        return Ok(Authority::NotNeeded);
    }
    let rules = content(tx, nid, "m.room.join_rules")?;
    let allow = rules.get("allow").and_then(CanonicalJsonValue::as_array);
    let (mut allowed, mut unknown) = (false, false);
    for entry in allow.into_iter().flatten().filter_map(CanonicalJsonValue::as_object).take(ALLOW_MAX) {
        let text = |key: &str| entry.get(key).and_then(CanonicalJsonValue::as_str);
        if text("type") != Some("m.room_membership") {
            continue;
        }
        let Some(other) = text("room_id") else { continue };
        let other = tx.lookup(Kind::Room, other)?;
        match other.map(|other| rooms::room(tx, other)).transpose()?.flatten() {
            Some(known) if known.resident => allowed = allowed || is(known.room, &[Join])?,
            _ => unknown = true,
        }
    }
    if !allowed {
        return Ok(if unknown { Authority::CannotTell } else { Authority::NotAllowed });
    }
    Ok(voucher(tx, &row, ours)?.map_or(Authority::Powerless, Authority::By))
}

/// `content` of a current state event without a state key; empty if there is none.
fn content(
    tx: &ReadTx<'_>,
    room: crate::store::Nid,
    event_type: &str,
) -> Result<CanonicalJsonObject, StoreError> {
    let Some(nid) = state::current_of(tx, room, event_type, "")? else {
        return Ok(CanonicalJsonObject::new());
    };
    let Some(event) = events::event(tx, nid)? else { return Ok(CanonicalJsonObject::new()) };
    let json = std::str::from_utf8(&event.client).ok().and_then(|json| canonical::parse(json).ok());
    let mut client = json.ok_or(StoreError::Corrupt("an event is no JSON"))?;
    match client.remove("content") {
        Some(CanonicalJsonValue::Object(content)) => Ok(content),
        _ => Ok(CanonicalJsonObject::new()),
    }
}

/// Rooms whose members may join that are looked at.
const ALLOW_MAX: usize = 50;

fn authority(event: &CanonicalJsonObject) -> Option<OwnedUserId> {
    let content = event.get("content").and_then(CanonicalJsonValue::as_object)?;
    let by = content.get("join_authorised_via_users_server").and_then(CanonicalJsonValue::as_str)?;
    UserId::parse(by).ok()
}

fn state_key(event: &CanonicalJsonObject) -> Result<OwnedUserId, RoomError> {
    event
        .get("state_key")
        .and_then(CanonicalJsonValue::as_str)
        .and_then(|key| UserId::parse(key).ok())
        .ok_or_else(|| RoomError::BadJson("`state_key` is no user id".to_owned()))
}

fn expect_sender(event: &CanonicalJsonObject, origin: &ServerName) -> Result<(), RoomError> {
    let sender = event
        .get("sender")
        .and_then(CanonicalJsonValue::as_str)
        .and_then(|sender| <&UserId>::try_from(sender).ok())
        .ok_or_else(|| RoomError::BadJson("`sender` is no user id".to_owned()))?;
    if sender.server_name() != origin {
        return Err(RoomError::Forbidden(format!("{origin} does not speak for {sender}")));
    }
    Ok(())
}

fn member_draft(user: &UserId, content: &CanonicalJsonObject) -> Draft {
    let content = to_raw_value(content).expect("canonical JSON can be written");
    Draft::state("m.room.member", user.as_str(), content)
}

fn unknown(room: &RoomId) -> RoomError {
    RoomError::NotFound(format!("no user of this server is in {room}"))
}
