//! What the handshakes of both sides share: events on their way between two servers, before they are anybody's history.

use futures_util::{StreamExt as _, stream};
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedEventId, OwnedServerName, RoomId, ServerName, UserId,
    canonical_json::redact, room_version_rules::RoomVersionRules, signatures::Verified,
};
use serde_json::value::RawValue;

use super::{
    PduJson, RoomError, Rooms,
    core::{build, canonical, check as checks, version},
};
use crate::{
    account::{find_mixture, may_share_room, mixture_text},
    remote::{RemoteError, keyring::EventKeys},
};

/// Events checked in one go on one thread.
const CHECK_CHUNK: usize = 256;
/// Threads that check the events of one answer.
const CHECK_PARALLEL: usize = 4;
/// A PDU has at most 65,535 bytes of canonical JSON; with white space and escapes it may be longer.
const PDU_LEN_MAX: usize = 256 * 1024;

/// An event with its id, signatures and hash checked; its content pruned if the hash does not hold.
#[derive(Clone, Debug)]
pub(super) struct Checked {
    pub(super) id: OwnedEventId,
    pub(super) event: CanonicalJsonObject,
}

impl Checked {
    pub(super) fn to_json(&self) -> PduJson {
        raw(&self.event)
    }
}

impl Rooms {
    /// Refuses if this server and another cannot be in one room.
    pub(super) fn check_pair(&self, other: &ServerName) -> Result<(), RoomError> {
        if may_share_room(self.server_name(), other) {
            return Ok(());
        }
        Err(mixture(self.server_name(), other))
    }

    /// Refuses if `newcomer` and a server of the room cannot be in one room.
    pub(super) async fn check_newcomer(&self, room: &RoomId, newcomer: &ServerName) -> Result<(), RoomError> {
        let servers = self.room_servers(room).await?;
        match find_mixture(newcomer, servers.iter().map(|server| &**server)) {
            None => Ok(()),
            Some((overlay, ordinary)) => Err(RoomError::Mixture(mixture_text(overlay, ordinary))),
        }
    }

    /// Hashes and signs an event of ours.
    pub(super) fn sign_event(
        &self,
        event: &mut CanonicalJsonObject,
        rules: &RoomVersionRules,
    ) -> Result<OwnedEventId, RoomError> {
        build::sign(event, self.signer(), rules)
    }

    /// Checks hash, signatures and room of many events from another server. Those that do not hold are left out, as the
    /// specification wants; what then misses them fails by itself.
    pub(super) async fn check_events(
        &self,
        room: &RoomId,
        pdus: Vec<PduJson>,
        rules: &RoomVersionRules,
    ) -> Vec<Checked> {
        let events: Vec<_> = pdus.iter().filter_map(|pdu| parse(pdu).ok()).collect();
        drop(pdus);
        let keys = self.inner.remote.keyring().for_events(&events, rules).await;
        let chunks: Vec<Vec<_>> = split(events, CHECK_CHUNK);
        stream::iter(chunks)
            .map(|chunk| {
                let (keys, rules, room) = (keys.clone(), rules.clone(), room.to_owned());
                let check = move || {
                    let checked = chunk.into_iter().map(|event| check(event, &room, &keys, &rules));
                    checked.filter_map(Result::ok).collect::<Vec<_>>()
                };
                // A thread that ends without an answer has nothing to give.
                async move { tokio::task::spawn_blocking(check).await.unwrap_or_default() }
            })
            .buffered(CHECK_PARALLEL)
            .concat()
            .await
    }

    /// Checks one event from another server.
    pub(super) async fn check_event(
        &self,
        room: &RoomId,
        event: CanonicalJsonObject,
        rules: &RoomVersionRules,
    ) -> Result<Checked, RoomError> {
        let keys = self.inner.remote.keyring().for_events([&event], rules).await;
        check(event, room, &keys, rules)
    }
}

/// Signatures, hash and room of one event.
fn check(
    event: CanonicalJsonObject,
    room: &RoomId,
    keys: &EventKeys,
    rules: &RoomVersionRules,
) -> Result<Checked, RoomError> {
    let id = event_id(&event, rules)?;
    let says = event.get("room_id").and_then(CanonicalJsonValue::as_str);
    // In versions whose room id is the create event's hash, that event says none.
    let made = says.is_none() && id.as_str().strip_prefix('$') == room.as_str().strip_prefix('!');
    if says != Some(room.as_str()) && !made {
        return Err(RoomError::Rejected("the event belongs to another room".to_owned()));
    }
    let map = keys.to_verify(&event, rules).map_err(|error| RoomError::Rejected(error.to_string()))?;
    let verified = canonical::verify_event(&map, &event, rules)
        .map_err(|error| RoomError::Rejected(error.to_string()))?;
    let event = match verified {
        Verified::All => event,
        Verified::Signatures => {
            redact(event, &rules.redaction, None).map_err(|error| RoomError::Rejected(error.to_string()))?
        }
    };
    Ok(Checked { id, event })
}

/// Whether an event is the membership of `user` that a handshake is about.
pub(super) fn expect_membership(
    event: &CanonicalJsonObject,
    room: &RoomId,
    user: &UserId,
    membership: &str,
) -> Result<(), RoomError> {
    let text = |key: &str| event.get(key).and_then(CanonicalJsonValue::as_str);
    let found = event.get("content").and_then(CanonicalJsonValue::as_object);
    let found = found.and_then(|content| content.get("membership")).and_then(CanonicalJsonValue::as_str);
    let wrong = |what: &str| Err(RoomError::Invalid(format!("the event is not the one asked for: {what}")));
    if text("type") != Some("m.room.member") {
        return wrong("its type");
    }
    if text("room_id") != Some(room.as_str()) {
        return wrong("its room");
    }
    if text("state_key") != Some(user.as_str()) {
        return wrong("its state key");
    }
    if found != Some(membership) {
        return wrong("its membership");
    }
    Ok(())
}

/// The rules of a version, or an error that names it.
pub(super) fn rules_of(version: &str) -> Result<RoomVersionRules, RoomError> {
    version::rules(version).ok_or_else(|| RoomError::UnsupportedVersion(version.to_owned()))
}

/// Reads a PDU.
pub(super) fn parse(pdu: &RawValue) -> Result<CanonicalJsonObject, RoomError> {
    if pdu.get().len() > PDU_LEN_MAX {
        return Err(RoomError::TooLarge);
    }
    canonical::parse(pdu.get()).map_err(|error| RoomError::BadJson(error.to_string()))
}

/// An event's id.
pub(super) fn event_id(
    event: &CanonicalJsonObject,
    rules: &RoomVersionRules,
) -> Result<OwnedEventId, RoomError> {
    checks::event_id(event, rules).map_err(|error| RoomError::BadJson(error.to_string()))
}

/// Writes an event.
pub(super) fn raw(event: &CanonicalJsonObject) -> PduJson {
    let json = canonical::to_json(event).expect("canonical JSON can be written");
    RawValue::from_string(json).expect("canonical JSON can be written")
}

/// The error that our client sees when another server did not do its part.
pub(super) fn remote_error(error: RemoteError) -> RoomError {
    let text = error.to_string();
    if matches!(error, RemoteError::Blocked(_)) {
        return RoomError::Forbidden(text);
    }
    match (error.status(), error.errcode()) {
        (_, Some("M_UNSUPPORTED_ROOM_VERSION" | "M_INCOMPATIBLE_ROOM_VERSION")) => {
            RoomError::UnsupportedVersion(text)
        }
        (_, Some("M_UNABLE_TO_AUTHORISE_JOIN" | "M_UNABLE_TO_GRANT_JOIN")) => {
            RoomError::UnableToAuthorise(text)
        }
        (_, Some("M_NOT_FOUND")) | (Some(404), _) => RoomError::NotFound(text),
        (_, Some("M_FORBIDDEN")) | (Some(403), _) => RoomError::Forbidden(text),
        _ => RoomError::Unreachable(text),
    }
}

fn mixture(a: &ServerName, b: &ServerName) -> RoomError {
    match find_mixture(a, [b]) {
        Some((overlay, ordinary)) => RoomError::Mixture(mixture_text(overlay, ordinary)),
        None => RoomError::Invalid("these servers can share a room".to_owned()),
    }
}

/// Candidates in the order they are asked: as given, each once, never ourselves.
pub(super) fn candidates(ours: &ServerName, via: &[OwnedServerName], room: &RoomId) -> Vec<OwnedServerName> {
    let mut servers: Vec<OwnedServerName> = Vec::new();
    // Rooms of older versions name the server that made them: a last resort where nobody else is named.
    let made_by = room.server_name().map(ToOwned::to_owned).filter(|_| via.is_empty());
    for server in via.iter().cloned().chain(made_by) {
        if server != ours && !servers.contains(&server) && servers.len() < CANDIDATES_MAX {
            servers.push(server);
        }
    }
    servers
}

/// Servers asked in one handshake. Each may take its whole time-out.
const CANDIDATES_MAX: usize = 10;

fn split<T>(items: Vec<T>, size: usize) -> Vec<Vec<T>> {
    let mut items = items.into_iter();
    let mut chunks = Vec::new();
    loop {
        let chunk: Vec<T> = items.by_ref().take(size).collect();
        if chunk.is_empty() {
            return chunks;
        }
        chunks.push(chunk);
    }
}
