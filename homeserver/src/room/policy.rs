//! Rooms with a policy server: its signature is asked for before an event of ours leaves, and what comes without it is
//! shown to nobody. This server is none itself.
//!
//! spec: <https://spec.matrix.org/v1.19/server-server-api/#policy-servers>

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use ruma::{
    OwnedServerName, ServerName, SigningKeyAlgorithm,
    api::federation::policy::sign_event,
    events::room::policy::{POLICY_SERVER_ED25519_SIGNING_KEY_ID as KEY_ID, RoomPolicyEventContent},
    room_version_rules::RoomVersionRules,
    signatures::verify_policy_server_signature,
};
use serde_json::value::RawValue;
use tokio::sync::Semaphore;

use super::{
    core::{
        canonical,
        pdu::{FullEvent, Pdu},
    },
    ingest::load,
};
use crate::{
    remote::{Options, Remote, RemoteError},
    store::{Kind, Nid, ReadTx, StoreError, schema::membership, schema::state},
};

/// The state event that names a room's policy server.
pub(in crate::room) const POLICY: &str = "m.room.policy";
/// How long a policy server may take. A room's own events, or those of one server, wait meanwhile.
const ASK_WITHIN: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 10 });
/// How long one that did not answer is not asked again.
const PAUSE: Duration = Duration::from_secs(30);
/// Questions at once, of all rooms: strangers' unsigned events make us ask.
const ASKED_AT_ONCE: usize = 64;
/// Policy servers that are remembered not to answer; beyond, those whose pause is over are forgotten.
const SILENT_MAX: usize = 1024;
/// Largest answer: a signature.
const ANSWER_LEN_MAX: usize = 16 << 10;

/// A room's policy server, by the room's state.
#[derive(Clone, Debug)]
pub(in crate::room) struct Policy(RoomPolicyEventContent);

impl Policy {
    /// Reads [`POLICY`]'s content. One that misses something names none.
    pub(in crate::room) fn read(content: &RawValue) -> Option<Self> {
        let content: RoomPolicyEventContent = serde_json::from_str(content.get()).ok()?;
        content.public_keys.contains_key(&SigningKeyAlgorithm::Ed25519).then_some(Self(content))
    }

    /// Its name.
    pub(in crate::room) fn server(&self) -> &ServerName {
        &self.0.via
    }

    /// Whether it has signed an event. True for the event that names it, which needs no such signature.
    pub(in crate::room) fn has_signed(&self, event: &FullEvent, rules: &RoomVersionRules) -> bool {
        !concerns(&event.pdu)
            || event
                .object()
                .is_ok_and(|object| verify_policy_server_signature(&self.0, &object, rules).is_ok())
    }
}

/// Whether a policy server has a say in an event: in all but those that name it.
fn concerns(event: &Pdu) -> bool {
    !event.is_state(POLICY, "")
}

/// The policy server that the room's resolved state names, if somebody of it is in the room.
pub(in crate::room) fn of_room(tx: &ReadTx<'_>, room: Nid) -> Result<Option<Policy>, StoreError> {
    let event = match state::current_of(tx, room, POLICY, "")? {
        Some(nid) => load::pdu(tx, nid)?,
        None => None,
    };
    let Some(policy) = event.and_then(|event| Policy::read(&event.content)) else { return Ok(None) };
    Ok(if is_there(tx, room, &policy)? { Some(policy) } else { None })
}

/// Whether somebody of a policy server is in the room: else it has no say.
pub(in crate::room) fn is_there(tx: &ReadTx<'_>, room: Nid, policy: &Policy) -> Result<bool, StoreError> {
    match tx.lookup(Kind::Server, policy.server().as_str())? {
        Some(server) => membership::server_in(tx, room, server),
        None => Ok(false),
    }
}

/// Why there is no signature.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(in crate::room) enum Unsigned {
    /// It said no.
    #[error("the room's policy server {0} does not let this through: {1}")]
    Refused(OwnedServerName, String),
    /// It could not be asked.
    #[error("the room's policy server {0} cannot be asked ({1}); try again later")]
    Silent(OwnedServerName, String),
}

/// Asks policy servers.
pub(in crate::room) struct Policies {
    remote: Remote,
    permits: Semaphore,
    silent: Mutex<HashMap<OwnedServerName, Instant>>,
}

impl Policies {
    pub(in crate::room) fn new(remote: Remote) -> Self {
        Self { remote, permits: Semaphore::new(ASKED_AT_ONCE), silent: Mutex::default() }
    }

    /// The event with the policy server's signature; as it is if it needs none, or has it.
    pub(in crate::room) async fn sign(
        &self,
        policy: &Policy,
        event: FullEvent,
        rules: &RoomVersionRules,
    ) -> Result<FullEvent, Unsigned> {
        let server = policy.server();
        // Nobody can ask us: as if the room had none.
        if server == self.remote.identity().server_name() || policy.has_signed(&event, rules) {
            return Ok(event);
        }
        let refused = |why: &str| Unsigned::Refused(server.to_owned(), why.to_owned());
        let silent = |why: &str| Unsigned::Silent(server.to_owned(), why.to_owned());
        if self.pauses(server) {
            return Err(silent("it did not answer lately"));
        }
        let object = event.object().map_err(|error| refused(&error.0))?;
        let json = canonical::to_json(&object).map_err(|error| refused(&error.0))?;
        let json = RawValue::from_string(json).map_err(|error| refused(&error.to_string()))?;
        let asked = async {
            let _permit = self.permits.acquire().await.map_err(|_| silent("the node is ending"))?;
            self.ask(server, json).await.map_err(|error| match error {
                // From 500 on it is the server that fails, and not the event.
                RemoteError::Refused { status: 400..500, message, .. } => refused(&message),
                RemoteError::NoWay { reason, .. } => refused(&reason),
                RemoteError::BadAnswer { reason, .. } => refused(&reason),
                other => silent(&other.to_string()),
            })
        };
        let answer = match tokio::time::timeout(ASK_WITHIN, asked).await {
            Ok(answer) => answer,
            Err(_) => Err(silent("no answer in time")),
        };
        if let Err(Unsigned::Silent(..)) = &answer {
            self.pause(server);
        }
        let signed = event.with_signature(server, KEY_ID, &answer?).map_err(|error| refused(&error.0))?;
        if policy.has_signed(&signed, rules) {
            Ok(signed)
        } else {
            Err(refused("its signature is not by the key that the room names"))
        }
    }

    /// One question; once more if it asks for a moment's patience.
    async fn ask(&self, server: &ServerName, event: Box<RawValue>) -> Result<String, RemoteError> {
        let options = Options { timeout: ASK_WITHIN, limit: ANSWER_LEN_MAX, ..Options::default() };
        loop {
            let request = sign_event::v1::Request::new(event.clone());
            match self.remote.request_with(server, request, options).await {
                Ok(answer) => {
                    return answer.ed25519_signature(server).map(str::to_owned).ok_or_else(|| {
                        let reason = "it answered without a signature".to_owned();
                        RemoteError::BadAnswer { server: server.to_owned(), reason }
                    });
                }
                Err(RemoteError::Refused { status: 429, retry_after_ms, .. }) => {
                    // The caller's time-out ends it.
                    let wait = Duration::from_millis(retry_after_ms.unwrap_or(1_000)).max(RETRY_AFTER_MIN);
                    tokio::time::sleep(wait).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn pauses(&self, server: &ServerName) -> bool {
        let silent = self.silent.lock().unwrap_or_else(PoisonError::into_inner);
        silent.get(server).is_some_and(|until| Instant::now() < *until)
    }

    fn pause(&self, server: &ServerName) {
        let mut silent = self.silent.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if silent.len() >= SILENT_MAX {
            silent.retain(|_, until| now < *until);
        }
        if silent.len() < SILENT_MAX {
            silent.insert(server.to_owned(), now + PAUSE);
        }
    }
}

/// However soon it wants to be asked again, not sooner than this.
const RETRY_AFTER_MIN: Duration = Duration::from_millis(100);
