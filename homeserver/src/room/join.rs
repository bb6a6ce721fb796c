//! Verbs that bring a user in: join, invite, knock.

use ruma::{OwnedRoomId, OwnedServerName, OwnedUserId, RoomAliasId, RoomId, RoomOrAliasId, UserId};
use serde_json::{Map, Value, json, value::to_raw_value};

use super::{
    Draft, Profile, RoomError, Rooms,
    core::auth::Action,
    ingest::load,
    send::{may, membership_of},
};
use crate::store::{
    Kind, Nid, ReadTx, StoreError,
    schema::{
        membership::{self, Membership},
        partial,
        rooms::{self, RoomRow},
        state,
    },
};
use crate::user::invites::{self, Rule};

impl Rooms {
    /// Joins a local user, through another server (`via`) if the room is not here. Joining twice changes nothing.
    pub async fn join(
        &self,
        user: &UserId,
        target: &RoomOrAliasId,
        via: Vec<OwnedServerName>,
        reason: Option<String>,
    ) -> Result<OwnedRoomId, RoomError> {
        self.join_with(user, target, via, reason, Map::new()).await
    }

    /// The same with more in the membership event's content; what the event is about cannot be overwritten.
    pub async fn join_with(
        &self,
        user: &UserId,
        target: &RoomOrAliasId,
        via: Vec<OwnedServerName>,
        reason: Option<String>,
        extra: Map<String, Value>,
    ) -> Result<OwnedRoomId, RoomError> {
        let (room, via) = self.target(user, target, via).await?;
        self.not_blocked(&room).await?;
        let (user_id, room_id) = (user.to_owned(), room.clone());
        let entry = self.inner.store.read(move |tx| entry(tx, &user_id, &room_id)).await?;
        let mut content = self.inner.profiles.profile(user).await.content("join", reason.as_deref());
        for (key, value) in extra {
            if key != "join_authorised_via_users_server" && content.get(&key).is_none() {
                content[key] = value;
            }
        }
        match entry {
            Entry::Joined => Ok(room),
            Entry::Here { vouch } => {
                self.guest_may_join(user, &room).await?;
                if let Some(vouch) = vouch {
                    content["join_authorised_via_users_server"] = vouch.as_str().into();
                }
                self.submit(user, &room, member(user, &content)?, None).await?;
                Ok(room)
            }
            Entry::Elsewhere => {
                self.remote_join(user, &room, &via, member(user, &content)?).await?;
                Ok(room)
            }
        }
    }

    /// Asks to be let in.
    pub async fn knock(
        &self,
        user: &UserId,
        target: &RoomOrAliasId,
        via: Vec<OwnedServerName>,
        reason: Option<String>,
    ) -> Result<OwnedRoomId, RoomError> {
        let (room, via) = self.target(user, target, via).await?;
        let content = self.inner.profiles.profile(user).await.content("knock", reason.as_deref());
        let draft = member(user, &content)?;
        if self.is_resident(&room).await? {
            self.submit(user, &room, draft, None).await?;
        } else {
            self.remote_knock(user, &room, &via, draft).await?;
        }
        Ok(room)
    }

    /// Invites a user, ours or theirs (theirs: their server is asked to sign first).
    pub async fn invite(
        &self,
        sender: &UserId,
        room: &RoomId,
        target: &UserId,
        reason: Option<String>,
    ) -> Result<(), RoomError> {
        self.invite_as(sender, room, target, reason, false).await
    }

    /// Refuses an invite that a user of ours does not take from `sender`.
    pub(in crate::room) async fn check_invited(
        &self,
        target: &UserId,
        sender: &UserId,
    ) -> Result<(), RoomError> {
        let (user, sender) = (target.to_owned(), sender.to_owned());
        let rule = self
            .inner
            .store
            .read(move |tx| match tx.lookup(Kind::User, user.as_str())? {
                Some(user) => invites::rule(tx, user, &sender),
                None => Ok(Rule::Allow),
            })
            .await?;
        if rule == Rule::Block { Err(RoomError::InviteBlocked(target.to_string())) } else { Ok(()) }
    }

    pub(in crate::room) async fn invite_as(
        &self,
        sender: &UserId,
        room: &RoomId,
        target: &UserId,
        reason: Option<String>,
        direct: bool,
    ) -> Result<(), RoomError> {
        self.check_newcomer(room, target.server_name()).await?;
        let (user, room_id) = (target.to_owned(), room.to_owned());
        let now = self.inner.store.read(move |tx| membership_of(tx, &user, &room_id)).await?;
        match now {
            Some(Membership::Join) => {
                return Err(RoomError::Forbidden(format!("{target} is in the room already")));
            }
            Some(Membership::Ban) => {
                return Err(RoomError::Forbidden(format!("{target} is banned from the room; unban first")));
            }
            _ => {}
        }
        let local = self.is_local(target);
        if local {
            self.check_invited(target, sender).await?;
        }
        let profile = if local { self.inner.profiles.profile(target).await } else { Profile::default() };
        let mut content = profile.content("invite", reason.as_deref());
        if direct {
            content["is_direct"] = Value::Bool(true);
        }
        let draft = member(target, &content)?;
        if local {
            self.submit(sender, room, draft, None).await?;
        } else {
            self.remote_invite(sender, room, target, draft).await?;
        }
        Ok(())
    }

    /// The room that is meant, and servers to ask for it.
    async fn target(
        &self,
        user: &UserId,
        target: &RoomOrAliasId,
        mut via: Vec<OwnedServerName>,
    ) -> Result<(OwnedRoomId, Vec<OwnedServerName>), RoomError> {
        let room = match <&RoomId>::try_from(target) {
            Ok(room) => room.to_owned(),
            Err(_) => {
                let alias: &RoomAliasId = target
                    .try_into()
                    .map_err(|_| RoomError::Invalid("this is neither a room id nor an alias".into()))?;
                let (room, servers) = self.resolve_alias(alias).await?;
                via.extend(servers);
                room
            }
        };
        // Who invited us is in the room, whatever the client names.
        let (user, room_id) = (user.to_owned(), room.clone());
        let inviter = self
            .inner
            .store
            .read(move |tx| -> Result<Option<OwnedServerName>, RoomError> {
                let (Some(user), Some(room)) =
                    (tx.lookup(Kind::User, user.as_str())?, tx.lookup(Kind::Room, room_id.as_str())?)
                else {
                    return Ok(None);
                };
                let Some(row) = membership::user_room(tx, user, room)? else { return Ok(None) };
                if row.membership != Membership::Invite {
                    return Ok(None);
                }
                Ok(load::pdu(tx, row.nid)?.map(|invite| invite.sender.server_name().to_owned()))
            })
            .await?;
        via.extend(inviter);
        let own = self.server_name();
        via.retain(|server| server != own);
        let mut seen = std::collections::HashSet::new();
        via.retain(|server| seen.insert(server.clone()));
        Ok((room, via))
    }
}

impl Profile {
    /// `content` of a membership event.
    pub(in crate::room) fn content(&self, membership: &str, reason: Option<&str>) -> Value {
        let mut content = json!({ "membership": membership });
        if let Some(name) = &self.displayname {
            content["displayname"] = name.as_str().into();
        }
        if let Some(url) = &self.avatar_url {
            content["avatar_url"] = url.as_str().into();
        }
        if let Some(reason) = reason {
            content["reason"] = reason.into();
        }
        content
    }
}

/// A membership event of a user.
pub(in crate::room) fn member(user: &UserId, content: &Value) -> Result<Draft, RoomError> {
    let content = to_raw_value(content).map_err(|error| RoomError::BadJson(error.to_string()))?;
    Ok(Draft::state("m.room.member", user.as_str(), content))
}

/// How a local user can get into a room.
enum Entry {
    /// It is in.
    Joined,
    /// The room is here; for a restricted join one of ours vouches.
    Here { vouch: Option<OwnedUserId> },
    /// Through another server.
    Elsewhere,
}

fn entry(tx: &ReadTx<'_>, user: &UserId, room: &RoomId) -> Result<Entry, RoomError> {
    let Some(nid) = tx.lookup(Kind::Room, room.as_str())? else { return Ok(Entry::Elsewhere) };
    let Some(row) = rooms::room(tx, nid)?.filter(|row| row.resident) else { return Ok(Entry::Elsewhere) };
    let membership = membership_of(tx, user, room)?;
    if membership != Some(Membership::Join) && partial::is_partial(tx, nid)? {
        // Whether the user may come in is for a server to say that knows the whole room.
        return Ok(Entry::Elsewhere);
    }
    match membership {
        Some(Membership::Join) => return Ok(Entry::Joined),
        Some(Membership::Invite) => return Ok(Entry::Here { vouch: None }),
        _ => {}
    }
    if !matches!(row.join_rule.as_deref(), Some("restricted" | "knock_restricted")) {
        return Ok(Entry::Here { vouch: None });
    }
    if !allowed_by_room(tx, nid, user)? {
        return Err(RoomError::Forbidden("you have to be in one of the rooms that this room lets in".into()));
    }
    match voucher(tx, &row, user.server_name())? {
        Some(vouch) => Ok(Entry::Here { vouch: Some(vouch) }),
        // Nobody of ours may invite: a server with someone who may has to sign.
        None => Ok(Entry::Elsewhere),
    }
}

/// Whether a user is joined to a room that the restricted join rule names (as far as known here).
pub(in crate::room) fn allowed_by_room(
    tx: &ReadTx<'_>,
    room: Nid,
    user: &UserId,
) -> Result<bool, StoreError> {
    let Some(rule) = state::current_of(tx, room, "m.room.join_rules", "")? else { return Ok(false) };
    let Some(rule) = load::pdu(tx, rule)? else { return Ok(false) };
    let Some(user) = tx.lookup(Kind::User, user.as_str())? else { return Ok(false) };
    let content: Value = serde_json::from_str(rule.content.get()).unwrap_or_default();
    for allow in content.get("allow").and_then(Value::as_array).into_iter().flatten() {
        if allow.get("type").and_then(Value::as_str) == Some("m.room_membership")
            && let Some(id) = allow.get("room_id").and_then(Value::as_str)
            && let Some(other) = tx.lookup(Kind::Room, id)?
            && membership::member(tx, other, user)?
                .is_some_and(|(membership, _)| membership == Membership::Join)
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A joined user of `server` who may invite.
pub(in crate::room) fn voucher(
    tx: &ReadTx<'_>,
    row: &RoomRow,
    server: &ruma::ServerName,
) -> Result<Option<OwnedUserId>, StoreError> {
    for user in membership::local_members(tx, row.room, Membership::Join)? {
        let text = tx.text(user)?;
        let Ok(user) = UserId::parse(&*text) else { continue };
        if user.server_name() == server && may(tx, row, &user, Action::Invite)? {
            return Ok(Some(user));
        }
    }
    Ok(None)
}
