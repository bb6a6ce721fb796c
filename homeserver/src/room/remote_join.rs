//! Joining and knocking through another server: its template, our signature, its answer.
//!
//! spec: <https://spec.matrix.org/v1.19/server-server-api/#joining-rooms>

use std::collections::HashSet;

use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedServerName, RoomId, RoomVersionId, ServerName, UserId,
    api::federation::membership::{
        create_join_event, create_knock_event, prepare_join_event, prepare_knock_event,
    },
    room_version_rules::RoomVersionRules,
};

use super::{
    Draft, RoomError, Rooms,
    core::{pdu::named, version},
    federation::JoinAnswer,
    handshake::{Checked, candidates, event_id, expect_membership, parse, raw, remote_error, rules_of},
    stripped,
};
use crate::remote::Options;

impl Rooms {
    /// Joins `user` through one of `via`. `draft` is the member event's content as we want it.
    pub(in crate::room) async fn remote_join(
        &self,
        user: &UserId,
        room: &RoomId,
        via: &[OwnedServerName],
        draft: Draft,
    ) -> Result<(), RoomError> {
        let mut via = via.to_vec();
        if self.is_resident(room).await? {
            // Nobody here may let the user in: somebody of the room's other servers may.
            via.extend(self.room_servers(room).await?);
        }
        let mut last = None;
        for server in self.join_candidates(&via, room) {
            match self.join_through(user, room, &server, &draft).await {
                Ok(()) => return Ok(()),
                Err(error) => last = Some(first_or(last, error)),
            }
        }
        Err(last.unwrap_or_else(|| nobody(room)))
    }

    async fn join_through(
        &self,
        user: &UserId,
        room: &RoomId,
        server: &OwnedServerName,
        draft: &Draft,
    ) -> Result<(), RoomError> {
        self.check_pair(server)?;
        let remote = &self.inner.remote;
        let mut request = prepare_join_event::v1::Request::new(room.to_owned(), user.to_owned());
        request.ver = versions();
        let template = remote.request(server, request).await.map_err(remote_error)?;
        let version = template.room_version.map_or_else(|| "1".to_owned(), |version| version.to_string());
        let rules = rules_of(&version)?;
        let mut event = complete(parse(&template.event)?, room, user, "join", draft, self.now_ms())?;
        let id = self.sign_event(&mut event, &rules)?;
        let mut request = create_join_event::v2::Request::new(room.to_owned(), id.clone(), raw(&event));
        // The room can be used at once; its members follow.
        request.omit_members = true;
        let answer = remote.request_with(server, request, Options::state()).await.map_err(remote_error)?;
        let answer = answer.room_state;
        let event = match answer.event {
            // A restricted join comes back with the resident server's signature added.
            Some(signed) if content_has(&event, "join_authorised_via_users_server") => {
                let signed = parse(&signed)?;
                if event_id(&signed, &rules)? != id {
                    return Err(RoomError::Rejected(format!("{server} answered with another join event")));
                }
                let signed = self.check_event(room, signed, &rules).await?;
                signed.event
            }
            _ => event,
        };
        let mut state = self.check_events(room, answer.state, &rules).await;
        let mut auth_chain = self.check_events(room, answer.auth_chain, &rules).await;
        drop_unsupported(&mut state, &mut auth_chain);
        check_answer(&state, &version, room, &rules)?;
        self.import_join(JoinAnswer {
            room_id: room.to_owned(),
            version,
            event: raw(&event),
            state: state.iter().map(Checked::to_json).collect(),
            auth_chain: auth_chain.iter().map(Checked::to_json).collect(),
            origin: server.clone(),
            partial: answer.members_omitted.then(|| servers_named(answer.servers_in_room)),
        })
        .await
    }

    /// Knocks for `user` through one of `via`.
    pub(in crate::room) async fn remote_knock(
        &self,
        user: &UserId,
        room: &RoomId,
        via: &[OwnedServerName],
        draft: Draft,
    ) -> Result<(), RoomError> {
        let mut last = None;
        for server in self.join_candidates(via, room) {
            match self.knock_through(user, room, &server, &draft).await {
                Ok(()) => return Ok(()),
                Err(error) => last = Some(first_or(last, error)),
            }
        }
        Err(last.unwrap_or_else(|| nobody(room)))
    }

    async fn knock_through(
        &self,
        user: &UserId,
        room: &RoomId,
        server: &OwnedServerName,
        draft: &Draft,
    ) -> Result<(), RoomError> {
        self.check_pair(server)?;
        let remote = &self.inner.remote;
        let mut request = prepare_knock_event::v1::Request::new(room.to_owned(), user.to_owned());
        request.ver = versions();
        let template = remote.request(server, request).await.map_err(remote_error)?;
        let version = template.room_version.to_string();
        let rules = rules_of(&version)?;
        let mut event = complete(parse(&template.event)?, room, user, "knock", draft, self.now_ms())?;
        let id = self.sign_event(&mut event, &rules)?;
        let request = create_knock_event::v1::Request::new(room.to_owned(), id, raw(&event));
        let answer = remote.request(server, request).await.map_err(remote_error)?;
        let stripped = stripped::taken(answer.knock_room_state, room, &rules)?;
        self.receive_outlier_membership(room, &version, event, stripped).await?;
        // Taking the knock back goes the same way.
        remote.note_room(room.to_owned(), server.clone());
        Ok(())
    }

    /// Those named, then who lists the room.
    pub(super) fn join_candidates(&self, via: &[OwnedServerName], room: &RoomId) -> Vec<OwnedServerName> {
        let listed = self.inner.remote.lister_of(room);
        let via: Vec<_> = via.iter().cloned().chain(listed).collect();
        candidates(self.server_name(), &via, room)
    }

    pub(super) fn now_ms(&self) -> u64 {
        self.inner.clock.now_ms()
    }
}

/// The versions we speak.
pub(super) fn versions() -> Vec<RoomVersionId> {
    version::SUPPORTED.iter().filter_map(|entry| RoomVersionId::try_from(entry.id).ok()).collect()
}

/// Makes an event of ours out of another server's template: the graph is theirs, the rest is what we asked for.
pub(super) fn complete(
    template: CanonicalJsonObject,
    room: &RoomId,
    user: &UserId,
    membership: &str,
    draft: &Draft,
    now_ms: u64,
) -> Result<CanonicalJsonObject, RoomError> {
    expect_membership(&template, room, user, membership)?;
    let mut content: CanonicalJsonObject = serde_json::from_str(draft.content.get())
        .map_err(|error| RoomError::BadJson(format!("content: {error}")))?;
    content.insert("membership".to_owned(), membership.into());
    // Whose signature lets a restricted join in is for the resident server to say.
    let theirs = template.get("content").and_then(CanonicalJsonValue::as_object);
    if let Some(by) = theirs.and_then(|content| content.get("join_authorised_via_users_server")) {
        content.insert("join_authorised_via_users_server".to_owned(), by.clone());
    }
    let mut event = CanonicalJsonObject::new();
    for key in ["auth_events", "prev_events", "depth"] {
        let value =
            template.get(key).ok_or_else(|| RoomError::Rejected(format!("the template has no {key}")))?;
        event.insert(key.to_owned(), value.clone());
    }
    let now = ruma::Int::new_saturating(i64::try_from(draft.ts_ms.unwrap_or(now_ms)).unwrap_or(i64::MAX));
    event.insert("content".to_owned(), content.into());
    event.insert("origin_server_ts".to_owned(), CanonicalJsonValue::Integer(now));
    event.insert("room_id".to_owned(), room.as_str().into());
    event.insert("sender".to_owned(), user.as_str().into());
    event.insert("state_key".to_owned(), user.as_str().into());
    event.insert("type".to_owned(), "m.room.member".into());
    Ok(event)
}

/// Servers of a room, as another server names them.
fn servers_named(named: Option<Vec<String>>) -> Vec<OwnedServerName> {
    let named = named.unwrap_or_default();
    named.iter().take(SERVERS_MAX).filter_map(|name| ServerName::parse(name).ok()).collect()
}

/// Servers taken from one answer; the largest public rooms have some ten thousand.
const SERVERS_MAX: usize = 50_000;

/// What can be said of an answer before the rules are applied to it: it has a create event of the version that was
/// promised.
fn check_answer(
    state: &[Checked],
    version: &str,
    room: &RoomId,
    rules: &RoomVersionRules,
) -> Result<(), RoomError> {
    let wrong =
        |what: &str| Err(RoomError::Rejected(format!("the answer to the join does not hold: {what}")));
    let is_create = |checked: &&Checked| {
        let text = |key: &str| checked.event.get(key).and_then(CanonicalJsonValue::as_str);
        text("type") == Some("m.room.create") && text("state_key") == Some("")
    };
    let mut creates = state.iter().filter(is_create);
    let Some(create) = creates.next() else { return wrong("its state has no create event") };
    if creates.any(|other| other.id != create.id) {
        return wrong("its state has several create events");
    }
    let content = create.event.get("content").and_then(CanonicalJsonValue::as_object);
    let made = content.and_then(|content| content.get("room_version")).and_then(CanonicalJsonValue::as_str);
    if made.unwrap_or("1") != version {
        return wrong("its create event is of another version");
    }
    let named = format!("!{}", create.id.as_str().trim_start_matches('$'));
    if rules.authorization.room_create_event_id_as_room_id && named != room.as_str() {
        return wrong("its create event makes another room");
    }
    Ok(())
}

/// Drops what hangs in the air: events that are allowed by one that did not hold, and those that build on them. They would
/// be rejected; the room is none the worse for it.
fn drop_unsupported(state: &mut Vec<Checked>, auth_chain: &mut Vec<Checked>) {
    loop {
        let known: HashSet<String> =
            state.iter().chain(auth_chain.iter()).map(|checked| checked.id.to_string()).collect();
        let supported = |checked: &Checked| {
            let auth = checked.event.get("auth_events").and_then(CanonicalJsonValue::as_array);
            auth.into_iter().flatten().all(|item| named(item).is_some_and(|id| known.contains(id)))
        };
        let before = known.len();
        state.retain(supported);
        auth_chain.retain(supported);
        let left: HashSet<&str> =
            state.iter().chain(auth_chain.iter()).map(|checked| checked.id.as_str()).collect();
        if left.len() == before {
            return;
        }
    }
}

fn content_has(event: &CanonicalJsonObject, key: &str) -> bool {
    event
        .get("content")
        .and_then(CanonicalJsonValue::as_object)
        .is_some_and(|content| content.contains_key(key))
}

/// The error worth telling: one that says no over one that says nothing.
pub(super) fn first_or(before: Option<RoomError>, error: RoomError) -> RoomError {
    match before {
        Some(before) if !matches!(before, RoomError::Unreachable(_) | RoomError::UnableToAuthorise(_)) => {
            before
        }
        _ => error,
    }
}

pub(super) fn nobody(room: &RoomId) -> RoomError {
    RoomError::NotFound(format!(
        "no server is known that is in {room}; ask for an invite, or for a link that names one"
    ))
}
