//! Verbs that put an event into a room.

use ruma::{EventId, OwnedEventId, OwnedUserId, RoomAliasId, RoomId, UserId};
use serde_json::{json, value::to_raw_value};
use tokio::sync::oneshot;

use super::{
    Draft, RoomError, Rooms, Txn,
    core::{
        auth::{self, Action},
        owned,
        pdu::{MEMBER, REDACTION},
        version,
    },
    ingest::{
        append::TxnKey,
        load,
        worker::{DraftJob, Job},
    },
};
use crate::store::{
    Kind, ReadTx, StoreError,
    schema::{
        events,
        membership::{self, Membership},
        rooms::{self, RoomRow},
        state,
    },
};

/// Who vouches for a join into a restricted room is the server's to say, not a client's.
fn unvouched(draft: Draft) -> Result<Draft, RoomError> {
    const KEY: &str = "join_authorised_via_users_server";
    if !draft.content.get().contains(KEY) {
        return Ok(draft);
    }
    let bad = |error: serde_json::Error| RoomError::BadJson(error.to_string());
    let mut content: serde_json::Map<String, serde_json::Value> =
        serde_json::from_str(draft.content.get()).map_err(bad)?;
    content.remove(KEY);
    Ok(Draft { content: to_raw_value(&content).map_err(bad)?, ..draft })
}

impl Rooms {
    /// Sends a message or state event. With a transaction the same one again gives the same event.
    pub async fn send(
        &self,
        sender: &UserId,
        room: &RoomId,
        draft: Draft,
        txn: Option<Txn>,
    ) -> Result<OwnedEventId, RoomError> {
        if draft.event_type == "m.room.create" {
            return Err(RoomError::BadJson("a room is created once".into()));
        }
        if draft.event_type == REDACTION {
            let target = draft.redacts.clone().or_else(|| inner_target(&draft));
            let target =
                target.ok_or_else(|| RoomError::Invalid("a redaction names what it `redacts`".into()))?;
            self.check_redaction(sender, room, &target).await?;
            return self.submit(sender, room, Draft { redacts: Some(target), ..draft }, txn).await;
        }
        if draft.event_type == MEMBER
            && let Some(target) = draft.state_key.clone()
            && membership_in(&draft).as_deref() == Some("invite")
        {
            return self.invite_by_state(sender, room, &target, draft).await;
        }
        let draft = if draft.event_type == MEMBER { unvouched(draft)? } else { draft };
        if draft.event_type == "m.room.power_levels" {
            self.check_levels(room, &draft).await?;
        }
        if draft.event_type == "m.room.canonical_alias" {
            self.check_aliases(room, &draft).await?;
        }
        self.check_owner(room, &draft).await?;
        if let Some(same) = self.same_state(sender, room, &draft).await? {
            return Ok(same);
        }
        self.submit(sender, room, draft, txn).await
    }

    /// Redacts an event.
    pub async fn redact(
        &self,
        sender: &UserId,
        room: &RoomId,
        target: &EventId,
        reason: Option<String>,
        txn: Option<Txn>,
    ) -> Result<OwnedEventId, RoomError> {
        self.check_redaction(sender, room, target).await?;
        let content = match reason {
            Some(reason) => json!({ "reason": reason }),
            None => json!({}),
        };
        let content = to_raw_value(&content).map_err(|error| RoomError::BadJson(error.to_string()))?;
        let draft = Draft { redacts: Some(target.to_owned()), ..Draft::message(REDACTION, content) };
        // Transactions of another endpoint are others, whatever their ids.
        let txn = txn.map(|txn| Txn { id: format!("{REDACT_TXN}{}", txn.id).into(), ..txn });
        self.submit(sender, room, draft, txn).await
    }

    /// Writes the user's present profile into its membership of every room it is joined to. Gives the number of rooms.
    pub async fn refresh_profile(&self, user: &UserId) -> Result<usize, RoomError> {
        let profile = self.inner.profiles.profile(user).await;
        let mut count = 0;
        for room in self.joined_rooms(user).await? {
            let draft = Draft::state(
                "m.room.member",
                user.as_str(),
                to_raw_value(&profile.content("join", None))
                    .map_err(|error| RoomError::BadJson(error.to_string()))?,
            );
            match self.send(user, &room, draft, None).await {
                Ok(_) => count += 1,
                // The room does not let this user change its entry; the other rooms get it all the same.
                Err(error) => {
                    tracing::debug!(%room, %user, %error, "a profile change was not taken by a room")
                }
            }
        }
        Ok(count)
    }

    /// An invite that comes as a state event goes the way of invites.
    async fn invite_by_state(
        &self,
        sender: &UserId,
        room: &RoomId,
        target: &str,
        draft: Draft,
    ) -> Result<OwnedEventId, RoomError> {
        let target =
            UserId::parse(target).map_err(|_| RoomError::Invalid("the state key is no user id".into()))?;
        self.check_newcomer(room, target.server_name()).await?;
        if self.is_local(&target) {
            self.check_invited(&target, sender).await?;
            return self.submit(sender, room, draft, None).await;
        }
        self.remote_invite(sender, room, &target, draft).await?;
        let room = room.to_owned();
        self.inner
            .store
            .read(move |tx| {
                let unknown = || RoomError::NotFound("the invite is gone again".into());
                let room = tx.lookup(Kind::Room, room.as_str())?.ok_or_else(unknown)?;
                let nid = state::current_of(tx, room, MEMBER, target.as_str())?.ok_or_else(unknown)?;
                Ok(events::id(tx, nid)?)
            })
            .await
    }

    /// Aliases of ours that a canonical alias names have to be the room's.
    async fn check_aliases(&self, room: &RoomId, draft: &Draft) -> Result<(), RoomError> {
        let content: serde_json::Value = serde_json::from_str(draft.content.get()).unwrap_or_default();
        let alt = content.get("alt_aliases").and_then(serde_json::Value::as_array);
        let aliases = content.get("alias").into_iter().chain(alt.into_iter().flatten());
        let own = format!(":{}", self.server_name());
        let aliases: Vec<&serde_json::Value> = aliases.filter(|alias| !alias.is_null()).collect();
        if let Some(bad) = aliases.iter().find(|alias| {
            // An empty alias says that there is none.
            alias.as_str().is_none_or(|alias| !alias.is_empty() && RoomAliasId::parse(alias).is_err())
        }) {
            return Err(RoomError::Invalid(format!("{bad} is no alias; one looks like #name:example.org")));
        }
        let ours: Vec<String> = aliases
            .into_iter()
            .filter_map(|alias| alias.as_str())
            .filter(|alias| alias.ends_with(&own))
            .map(ToOwned::to_owned)
            .collect();
        let room = room.to_owned();
        self.inner
            .store
            .read(move |tx| {
                let room = tx.lookup(Kind::Room, room.as_str())?;
                for alias in ours {
                    if rooms::alias(tx, &alias)?.map(|(of, _)| of) != room {
                        return Err(RoomError::BadAlias(format!(
                            "{alias} is no alias of this room; make it first"
                        )));
                    }
                }
                Ok(())
            })
            .await
    }

    /// Our users redact their own events, and others' if their power is enough. (Between servers the rule is weaker: who
    /// is of the same server as the target's sender may.)
    async fn check_redaction(
        &self,
        sender: &UserId,
        room: &RoomId,
        target: &EventId,
    ) -> Result<(), RoomError> {
        let (sender, room, target) = (sender.to_owned(), room.to_owned(), target.to_owned());
        self.inner
            .store
            .read(move |tx| -> Result<(), RoomError> {
                let unknown = || RoomError::NotFound("there is no such event in this room".into());
                let room = tx.lookup(Kind::Room, room.as_str())?.ok_or_else(unknown)?;
                let row = rooms::room(tx, room)?.ok_or_else(unknown)?;
                // An event that is not here may be elsewhere, and come with the redaction already known.
                let Some(event) = events::event_by_id(tx, &target)? else { return Ok(()) };
                if event.room != room {
                    return Err(unknown());
                }
                if tx.lookup(Kind::User, sender.as_str())? == Some(event.sender)
                    || may(tx, &row, &sender, Action::Redact)?
                {
                    return Ok(());
                }
                Err(RoomError::Forbidden("you do not have the power to redact others' events".into()))
            })
            .await
    }

    /// Power levels do not name those who have all power.
    async fn check_levels(&self, room: &RoomId, draft: &Draft) -> Result<(), RoomError> {
        let room = room.to_owned();
        let creators = self
            .inner
            .store
            .read(move |tx| -> Result<_, StoreError> {
                let Some(room) = tx.lookup(Kind::Room, room.as_str())? else { return Ok(Vec::new()) };
                let Some(row) = rooms::room(tx, room)? else { return Ok(Vec::new()) };
                let (Some(rules), Some(create)) = (version::rules(&row.version), row.create) else {
                    return Ok(Vec::new());
                };
                let create = load::pdu(tx, create)?;
                Ok(create.map(|create| auth::privileged(&rules, &create)).unwrap_or_default())
            })
            .await?;
        refuse_creators(draft.content.get(), &creators)
    }

    /// A state key that says whose it is says so in the right form, where that matters.
    async fn check_owner(&self, room: &RoomId, draft: &Draft) -> Result<(), RoomError> {
        let Some(key) = draft.state_key.as_deref().filter(|key| owned::concerns(&draft.event_type, key))
        else {
            return Ok(());
        };
        if owned::owner(key).is_some() {
            return Ok(());
        }
        let room = room.to_owned();
        let version = self
            .inner
            .store
            .read(move |tx| -> Result<_, StoreError> {
                let Some(room) = tx.lookup(Kind::Room, room.as_str())? else { return Ok(None) };
                Ok(rooms::room(tx, room)?.map(|row| row.version))
            })
            .await?;
        match version.and_then(|version| version::shared(&version)) {
            Some(rules) if owned::is_in(&rules) => Err(RoomError::BadJson(format!(
                "the state key {key:?} is neither a user id, nor one with `_` and more after it"
            ))),
            _ => Ok(()),
        }
    }

    /// Hands a draft to the room's worker and waits for its commit.
    pub(in crate::room) async fn submit(
        &self,
        sender: &UserId,
        room: &RoomId,
        draft: Draft,
        txn: Option<Txn>,
    ) -> Result<OwnedEventId, RoomError> {
        let (answer, result) = oneshot::channel();
        let txn = txn.map(|txn| TxnKey {
            user: sender.to_owned(),
            device: txn.device,
            txn: txn.id.to_string(),
            ts: i64::try_from(self.inner.clock.now_ms()).unwrap_or(i64::MAX),
        });
        let again = (draft.clone(), txn.clone());
        let job = DraftJob { sender: sender.to_owned(), draft, txn, answer, tries: 0 };
        self.inner.workers.submit(&self.inner.tools(), room, Job::Draft(job)).await?;
        let sent = result.await.map_err(|_| RoomError::Busy)?;
        if !matches!(sent, Err(RoomError::Forbidden(_))) || !self.is_partial(room).await? {
            return sent;
        }
        // What a part of the state does not allow, the whole may.
        self.await_members(sender, room).await?;
        let ((draft, txn), (answer, result)) = (again, oneshot::channel());
        let job = DraftJob { sender: sender.to_owned(), draft, txn, answer, tries: 0 };
        self.inner.workers.submit(&self.inner.tools(), room, Job::Draft(job)).await?;
        result.await.map_err(|_| RoomError::Busy)?
    }

    /// The present state event, if it is the sender's and the draft would say just the same.
    async fn same_state(
        &self,
        sender: &UserId,
        room: &RoomId,
        draft: &Draft,
    ) -> Result<Option<OwnedEventId>, RoomError> {
        let Some(key) = draft.state_key.clone() else { return Ok(None) };
        let (sender, room, kind) = (sender.to_owned(), room.to_owned(), draft.event_type.clone());
        let Ok(content) = serde_json::from_str::<ruma::CanonicalJsonObject>(draft.content.get()) else {
            return Ok(None);
        };
        self.inner
            .store
            .read(move |tx| -> Result<_, RoomError> {
                let Some(room) = tx.lookup(Kind::Room, room.as_str())? else { return Ok(None) };
                let Some(nid) = state::current_of(tx, room, &kind, &key)? else { return Ok(None) };
                let Some(event) = events::event(tx, nid)? else { return Ok(None) };
                // What another has said is not known to be the sender's to say.
                if tx.lookup(Kind::User, sender.as_str())? != Some(event.sender) {
                    return Ok(None);
                }
                #[derive(serde::Deserialize)]
                struct Client {
                    content: ruma::CanonicalJsonObject,
                }
                let same =
                    serde_json::from_slice::<Client>(&event.client).is_ok_and(|old| old.content == content);
                Ok(if same { Some(events::id(tx, nid)?) } else { None })
            })
            .await
    }
}

/// Transactions of redactions begin so, followed by the client's id.
pub(in crate::room) const REDACT_TXN: &str = "\u{1}redact/";

/// Refuses power levels that name one of those who have all power.
pub(super) fn refuse_creators(content: &str, creators: &[OwnedUserId]) -> Result<(), RoomError> {
    #[derive(serde::Deserialize)]
    struct Levels {
        #[serde(default)]
        users: std::collections::BTreeMap<String, serde_json::Value>,
    }
    // Content of another shape is for the rules to refuse.
    let Ok(levels) = serde_json::from_str::<Levels>(content) else { return Ok(()) };
    match creators.iter().find(|creator| levels.users.contains_key(creator.as_str())) {
        Some(creator) => Err(RoomError::Invalid(format!(
            "{creator} made the room and has all power in it: power levels do not name its creators"
        ))),
        None => Ok(()),
    }
}

/// `membership` in the content of a membership event.
fn membership_in(draft: &Draft) -> Option<String> {
    let content: serde_json::Value = serde_json::from_str(draft.content.get()).ok()?;
    Some(content.get("membership")?.as_str()?.to_owned())
}

/// `redacts` in the content of a redaction.
fn inner_target(draft: &Draft) -> Option<OwnedEventId> {
    let content: serde_json::Value = serde_json::from_str(draft.content.get()).ok()?;
    EventId::parse(content.get("redacts")?.as_str()?).ok()
}

/// Whether a user's power is enough for an action by the room's resolved state.
pub(in crate::room) fn may(
    tx: &ReadTx<'_>,
    row: &RoomRow,
    user: &UserId,
    action: Action,
) -> Result<bool, StoreError> {
    let (Some(rules), Some(create)) = (version::rules(&row.version), row.create) else { return Ok(false) };
    let Some(create) = load::pdu(tx, create)? else { return Ok(false) };
    let levels = match state::current_of(tx, row.room, "m.room.power_levels", "")? {
        Some(nid) => load::pdu(tx, nid)?,
        None => None,
    };
    Ok(auth::may(&rules, &create, levels.as_ref(), user, action))
}

/// Membership of a user in the resolved state of a room that is here.
pub(in crate::room) fn membership_of(
    tx: &ReadTx<'_>,
    user: &UserId,
    room: &RoomId,
) -> Result<Option<Membership>, RoomError> {
    let (Some(user), Some(room)) =
        (tx.lookup(Kind::User, user.as_str())?, tx.lookup(Kind::Room, room.as_str())?)
    else {
        return Ok(None);
    };
    Ok(membership::member(tx, room, user)?.map(|(membership, _)| membership))
}
