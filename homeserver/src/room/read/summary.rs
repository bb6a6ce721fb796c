//! Owns what is told of a room to someone who need not be in it.

use ruma::{OwnedRoomId, OwnedServerName, RoomId, ServerName, UserId};
use serde_json::{Value, json};

use crate::{
    room::{RoomError, Rooms, ingest::load, join::allowed_by_room, project::content},
    store::{
        Kind, Nid, ReadTx, StoreError,
        ids::skey_split,
        schema::{
            events,
            membership::{self, Membership},
            rooms::{self, RoomRow},
            state,
        },
    },
};

/// Children of a space that are told.
const CHILDREN_MAX: usize = 1_000;
/// The longest `order` of a child that counts.
const ORDER_CHARS_MAX: usize = 50;
/// Servers asked in turn for a room that is not here.
const SERVERS_MAX: usize = 3;

/// A room as it is told, with its children if it is a space.
#[derive(Clone, Debug)]
pub struct Told {
    /// A `RoomSummary` as JSON.
    pub summary: Value,
    /// Stripped `m.space.child` events, in order.
    pub children: Vec<Value>,
}

/// For whom a room is told.
pub(in crate::room) enum Asker<'a> {
    /// Somebody of ours; `None`: whoever asks without a token.
    User(Option<&'a UserId>),
    /// Another server.
    Server(&'a ServerName),
}

impl Rooms {
    /// The summary of a room that the user may know of, with the user's membership: from here, or from a server that is
    /// in it.
    pub async fn summary(
        &self,
        user: Option<&UserId>,
        room: &RoomId,
        via: &[OwnedServerName],
    ) -> Result<(Told, Option<Membership>), RoomError> {
        let (user_id, room_id) = (user.map(ToOwned::to_owned), room.to_owned());
        let (here, membership) = self
            .inner
            .store
            .read(move |tx| -> Result<_, RoomError> {
                let membership = match &user_id {
                    Some(user) => own_membership(tx, user, &room_id)?,
                    None => None,
                };
                Ok((told(tx, &Asker::User(user_id.as_deref()), &room_id)?, membership))
            })
            .await?;
        match here {
            Local::Told(told) => Ok((told, membership)),
            Local::Hidden => {
                Err(RoomError::NotFound("there is no such room, or it is not yours to see".into()))
            }
            Local::Elsewhere => match self.told_elsewhere(user, room, via).await {
                Some(told) => Ok((told, membership)),
                None => Err(RoomError::NotFound("no server that was asked knows such a room".into())),
            },
        }
    }

    /// The same for another server, of a room that is here.
    pub async fn summary_for_server(&self, server: &ServerName, room: &RoomId) -> Result<Told, RoomError> {
        let (server, room) = (server.to_owned(), room.to_owned());
        let here = self.inner.store.read(move |tx| told(tx, &Asker::Server(&server), &room)).await?;
        match here {
            Local::Told(told) => Ok(told),
            _ => Err(RoomError::NotFound("there is no such room, or it is not yours to see".into())),
        }
    }

    /// What another server says of a room, if the user may know of it.
    pub(in crate::room) async fn told_elsewhere(
        &self,
        user: Option<&UserId>,
        room: &RoomId,
        via: &[OwnedServerName],
    ) -> Option<Told> {
        let own = self.server_name();
        for server in via.iter().filter(|server| *server != own).take(SERVERS_MAX) {
            let question = ruma::api::federation::space::get_hierarchy::v1::Request::new(room.to_owned());
            let answer = match self.inner.remote.request(server, question).await {
                Ok(answer) => answer,
                Err(error) => {
                    tracing::debug!(%room, %server, %error, "a server does not tell a room");
                    continue;
                }
            };
            let Ok(summary) = serde_json::to_value(&answer.room.summary) else { continue };
            if summary["room_id"] != room.as_str() {
                continue;
            }
            let children = answer.room.children_state.iter().take(CHILDREN_MAX);
            let children =
                children.filter_map(|child| serde_json::from_str(child.json().get()).ok()).collect();
            if self.may_know(user, &summary).await {
                return Some(Told { summary, children });
            }
        }
        None
    }

    /// Whether a room that another server tells of is one that the user could get into or read.
    async fn may_know(&self, user: Option<&UserId>, summary: &Value) -> bool {
        if summary["world_readable"] == true
            || matches!(summary["join_rule"].as_str(), None | Some("public" | "knock" | "knock_restricted"))
        {
            return true;
        }
        let Some(user) = user else { return false };
        let user_id = user.to_owned();
        let room = summary["room_id"].as_str().and_then(|room| RoomId::parse(room).ok());
        if let Some(room) = room {
            let invited =
                self.inner.store.read(move |tx| own_membership(tx, &user_id, &room)).await.ok().flatten();
            if matches!(invited, Some(Membership::Invite | Membership::Knock | Membership::Join)) {
                return true;
            }
        }
        for allowed in summary["allowed_room_ids"].as_array().into_iter().flatten().filter_map(Value::as_str)
        {
            if let Ok(allowed) = RoomId::parse(allowed)
                && self.is_joined(user, &allowed).await.unwrap_or(false)
            {
                return true;
            }
        }
        false
    }
}

/// A room as far as it is here.
pub(in crate::room) enum Local {
    /// It may be told.
    Told(Told),
    /// Not to this asker.
    Hidden,
    /// Nobody of ours is in it.
    Elsewhere,
}

/// A local user's own membership, of rooms that are elsewhere too.
fn own_membership(tx: &ReadTx<'_>, user: &UserId, room: &RoomId) -> Result<Option<Membership>, RoomError> {
    let (Some(user), Some(room)) =
        (tx.lookup(Kind::User, user.as_str())?, tx.lookup(Kind::Room, room.as_str())?)
    else {
        return Ok(None);
    };
    Ok(membership::user_room(tx, user, room)?.map(|row| row.membership))
}

/// What is told of a room here.
pub(in crate::room) fn told(tx: &ReadTx<'_>, asker: &Asker<'_>, room: &RoomId) -> Result<Local, RoomError> {
    let Some(nid) = tx.lookup(Kind::Room, room.as_str())? else { return Ok(Local::Elsewhere) };
    let Some(row) = rooms::room(tx, nid)?.filter(|row| row.resident) else { return Ok(Local::Elsewhere) };
    if !open_to(tx, asker, &row)? {
        return Ok(Local::Hidden);
    }
    let mut summary = crate::room::alias::summary(tx, &row)?;
    summary["room_version"] = row.version.as_str().into();
    summary["im.nheko.summary.room_version"] = row.version.as_str().into();
    if let Some(encryption) = &row.encryption {
        summary["im.nheko.summary.encryption"] = encryption.as_str().into();
    }
    if matches!(row.join_rule.as_deref(), Some("restricted" | "knock_restricted")) {
        summary["allowed_room_ids"] = json!(allowed_rooms(tx, nid)?);
    }
    let children = if row.room_type.as_deref() == Some("m.space") { children(tx, nid)? } else { Vec::new() };
    Ok(Local::Told(Told { summary, children }))
}

/// Whether the asker could get into the room, or read it, or is in it.
fn open_to(tx: &ReadTx<'_>, asker: &Asker<'_>, row: &RoomRow) -> Result<bool, StoreError> {
    if row.history.as_deref() == Some("world_readable")
        || matches!(row.join_rule.as_deref(), Some("public" | "knock" | "knock_restricted"))
    {
        return Ok(true);
    }
    match asker {
        Asker::User(None) => Ok(false),
        Asker::User(Some(user)) => {
            if let Some(nid) = tx.lookup(Kind::User, user.as_str())?
                && let Some(own) = membership::user_room(tx, nid, row.room)?
                && matches!(own.membership, Membership::Join | Membership::Invite | Membership::Knock)
            {
                return Ok(true);
            }
            Ok(row.join_rule.as_deref() == Some("restricted") && allowed_by_room(tx, row.room, user)?)
        }
        Asker::Server(server) => {
            let in_room = |room: Nid| -> Result<bool, StoreError> {
                match tx.lookup(Kind::Server, server.as_str())? {
                    Some(server) => membership::server_in(tx, room, server),
                    None => Ok(false),
                }
            };
            if in_room(row.room)? {
                return Ok(true);
            }
            // Somebody of theirs was invited.
            for (user, _) in membership::members_with(tx, row.room, Membership::Invite, INVITED_MAX)? {
                if UserId::parse(&*tx.text(user)?).is_ok_and(|user| user.server_name() == *server) {
                    return Ok(true);
                }
            }
            if row.join_rule.as_deref() == Some("restricted") {
                for allowed in allowed_rooms(tx, row.room)? {
                    if let Some(allowed) = tx.lookup(Kind::Room, allowed.as_str())?
                        && in_room(allowed)?
                    {
                        return Ok(true);
                    }
                }
            }
            Ok(false)
        }
    }
}

/// Invited users looked at for one of a server.
const INVITED_MAX: u32 = 1_000;

/// Rooms whose members a restricted room lets in.
fn allowed_rooms(tx: &ReadTx<'_>, room: Nid) -> Result<Vec<OwnedRoomId>, StoreError> {
    let Some(rule) = state::current_of(tx, room, "m.room.join_rules", "")? else { return Ok(Vec::new()) };
    let Some(rule) = load::pdu(tx, rule)? else { return Ok(Vec::new()) };
    let content: Value = serde_json::from_str(rule.content.get()).unwrap_or_default();
    let allowed = content.get("allow").and_then(Value::as_array).into_iter().flatten();
    let allowed = allowed.filter(|rule| rule["type"] == "m.room_membership");
    Ok(allowed.filter_map(|rule| RoomId::parse(rule["room_id"].as_str()?).ok()).collect())
}

/// A space's children with a way there, in the order that the specification gives them.
fn children(tx: &ReadTx<'_>, room: Nid) -> Result<Vec<Value>, StoreError> {
    let mut list = Vec::new();
    for (skey, nid) in state::current_rest(tx, room)? {
        let text = tx.text(skey)?;
        let ("m.space.child", key) = skey_split(&text) else { continue };
        let Some(event) = events::event(tx, nid)? else { continue };
        let content = content(&event.client);
        if !content.get("via").is_some_and(Value::is_array) {
            continue;
        }
        let order = content.get("order").and_then(Value::as_str).filter(|order| {
            order.chars().count() <= ORDER_CHARS_MAX && order.chars().all(|c| (' '..='~').contains(&c))
        });
        let at = (order.is_none(), order.unwrap_or_default().to_owned(), event.ts, key.to_owned());
        let child = json!({
            "type": "m.space.child", "state_key": key, "content": content,
            "sender": &*tx.text(event.sender)?, "origin_server_ts": event.ts,
        });
        list.push((at, child));
    }
    list.sort_by(|(one, _), (other, _)| one.cmp(other));
    list.truncate(CHILDREN_MAX);
    Ok(list.into_iter().map(|(_, child)| child).collect())
}
