//! What guests, suspended, shadow-banned and locked accounts may do, endpoint by endpoint: one table, so that no handler
//! can forget it.

use std::sync::Arc;

use http::Method;
use ruma::{EventId, OwnedUserId, RoomId, UserId, api::error::ErrorKind};
use serde_json::json;

use crate::{
    api::TERMS_PATH,
    error::Error,
    http::{args::Head, page::base_url},
    remote::web::encode_form,
    server::Server,
    user::{Access, Standing, UserError, token},
};

/// What one endpoint asks of its caller's standing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Guests may call it.
    guests: bool,
    /// Locked accounts may call it.
    locked: bool,
    suspended: Suspended,
    shadow: Shadow,
}

/// What a suspended account may do here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Suspended {
    #[default]
    May,
    MayNot,
    /// Only to its own events: redactions.
    OwnEvents,
}

/// What a shadow-banned account is told here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Shadow {
    #[default]
    Truth,
    /// That it is done.
    Done,
    /// That an event was sent.
    Sent,
}

impl Policy {
    /// For requests whose endpoint is not known: all that is asked is that the account is not locked.
    pub const ANY: Self =
        Self { guests: true, locked: false, suspended: Suspended::May, shadow: Shadow::Truth };

    /// The policy of an endpoint by its path template.
    pub fn of(method: &Method, path: &str) -> Self {
        let key = key(method, path);
        let listed = |list: &[&str]| list.contains(&&*key);
        Self {
            guests: listed(GUESTS),
            locked: listed(LOCKED),
            suspended: if key == REDACT {
                Suspended::OwnEvents
            } else if listed(NOT_SUSPENDED) {
                Suspended::MayNot
            } else {
                Suspended::May
            },
            shadow: if listed(SHADOW_SENT) {
                Shadow::Sent
            } else if listed(SHADOW_DONE) {
                Shadow::Done
            } else {
                Shadow::Truth
            },
        }
    }

    /// Whether guests may call it.
    #[cfg(test)]
    pub(crate) fn lets_guests_in(self) -> bool {
        self.guests
    }

    /// Whether suspended accounts may call it, whatever it is about.
    #[cfg(test)]
    pub(crate) fn lets_suspended_in(self) -> bool {
        self.suspended == Suspended::May
    }

    /// Refuses whoever has to agree to the terms first: where a suspended account may not either.
    pub async fn check_terms(self, server: &Arc<Server>, user: &UserId, head: &Head) -> Result<(), Error> {
        let settings = server.settings();
        let Some(terms) = settings.accounts.terms.as_ref().filter(|terms| terms.enforce) else {
            return Ok(());
        };
        if self.suspended == Suspended::May || server.users.has_agreed(user, &terms.version).await? {
            return Ok(());
        }
        let query = encode_form(&[
            ("user", user.as_str()),
            ("version", &terms.version),
            ("mark", &server.users.terms_mark(user, &terms.version)),
        ]);
        Err(Error::Terms(format!("{}{TERMS_PATH}?{query}", base_url(server, head))))
    }

    /// Refuses (or answers in pretence) what an account of this standing must not do.
    pub async fn check(self, server: &Arc<Server>, access: &Access, path: &[String]) -> Result<(), Error> {
        let standing = access.standing;
        if standing == Standing::default() {
            return Ok(());
        }
        if standing.locked && !self.locked {
            return Err(UserError::Locked.into());
        }
        if standing.guest && !self.guests {
            return Err(Error::new(
                ErrorKind::GuestAccessForbidden,
                "guests may not do this; make an account first",
            ));
        }
        if standing.suspended {
            let may = match self.suspended {
                Suspended::May => true,
                Suspended::MayNot => false,
                Suspended::OwnEvents => sent_by(server, access, path).await,
            };
            if !may {
                return Err(Error::new(
                    ErrorKind::UserSuspended,
                    "this account is suspended: it can read, but not take part; ask whoever runs this server",
                ));
            }
        }
        match self.shadow {
            Shadow::Done if standing.shadow_banned => Err(Error::Pretend(json!({}))),
            Shadow::Sent if standing.shadow_banned => {
                let hash = data_encoding::BASE64URL_NOPAD.encode(&token::hash(&token::random()));
                Err(Error::Pretend(json!({ "event_id": format!("${hash}") })))
            }
            _ => Ok(()),
        }
    }
}

/// Whether the event of a redaction's path is the caller's own.
async fn sent_by(server: &Arc<Server>, access: &Access, path: &[String]) -> bool {
    #[derive(serde::Deserialize)]
    struct Sent {
        sender: OwnedUserId,
    }
    let [room, event, ..] = path else { return false };
    let (Ok(room), Ok(event)) = (RoomId::parse(room), EventId::parse(event)) else { return false };
    // What cannot be seen is not the caller's to redact.
    let Ok(shown) = server.rooms.event(&access.caller.user, &room, &event).await else { return false };
    serde_json::from_str::<Sent>(shown.get()).is_ok_and(|sent| sent.sender == access.caller.user)
}

/// `PUT rooms/{}/send/{}/{}` for every version of that path.
fn key(method: &Method, path: &str) -> String {
    let rest = path.strip_prefix("/_matrix/").unwrap_or(path).trim_end_matches('/');
    let mut parts: Vec<&str> =
        rest.split('/').map(|part| if part.starts_with('{') { "{}" } else { part }).collect();
    // client/v3/.., client/unstable/org.example/.., media/v3/..
    let version = parts.get(1).copied().unwrap_or_default();
    let skip = if version == "unstable" { 2 } else { 1 };
    if parts.len() > skip && !parts[0].is_empty() {
        parts.drain(1..=skip);
    }
    if parts.first() == Some(&"client") {
        parts.remove(0);
    }
    format!("{method} {}", parts.join("/"))
}

const REDACT: &str = "PUT rooms/{}/redact/{}/{}";

// spec: https://spec.matrix.org/v1.19/client-server-api/#account-locking
const LOCKED: &[&str] = &["POST logout", "POST logout/all"];

// spec: https://spec.matrix.org/v1.19/client-server-api/#client-behaviour-19 (guest access), and what clients cannot
// start without
const GUESTS: &[&str] = &[
    "GET account/whoami",
    "GET capabilities",
    "GET delayed_events",
    "GET delayed_events/{}",
    "GET devices",
    "GET devices/{}",
    "GET directory/room/{}",
    "GET events",
    "GET joined_rooms",
    "GET keys/changes",
    "GET media/config",
    "GET media/download/{}/{}",
    "GET media/download/{}/{}/{}",
    "GET media/thumbnail/{}/{}",
    "GET profile/{}",
    "GET profile/{}/avatar_url",
    "GET profile/{}/displayname",
    "GET profile/{}/{}",
    "GET publicRooms",
    "GET pushrules",
    "GET pushrules/global",
    "GET room_summary/{}",
    "GET rooms/{}/aliases",
    "GET rooms/{}/context/{}",
    "GET rooms/{}/event/{}",
    "GET rooms/{}/hierarchy",
    "GET rooms/{}/initialSync",
    "GET rooms/{}/joined_members",
    "GET rooms/{}/members",
    "GET rooms/{}/messages",
    "GET rooms/{}/relations/{}",
    "GET rooms/{}/relations/{}/{}",
    "GET rooms/{}/relations/{}/{}/{}",
    "GET rooms/{}/state",
    "GET rooms/{}/state/{}",
    "GET rooms/{}/state/{}/{}",
    "GET rooms/{}/threads",
    "GET sync",
    "GET thirdparty/protocols",
    "GET user/{}/account_data/{}",
    "GET user/{}/filter/{}",
    "GET user/{}/rooms/{}/account_data/{}",
    "GET user/{}/rooms/{}/tags",
    "GET voip/turnServer",
    "POST join/{}",
    "POST keys/claim",
    "POST keys/query",
    "POST keys/upload",
    "POST logout",
    "POST logout/all",
    "POST publicRooms",
    "POST rooms/{}/forget",
    "POST rooms/{}/join",
    "POST rooms/{}/leave",
    "POST rooms/{}/read_markers",
    "POST rooms/{}/receipt/{}/{}",
    "POST sync",
    "POST user/{}/filter",
    "PUT devices/{}",
    "PUT presence/{}/status",
    "PUT profile/{}/displayname",
    "PUT profile/{}/{}",
    "PUT rooms/{}/delayed_event/{}/{}",
    "PUT rooms/{}/redact/{}/{}",
    "PUT rooms/{}/send/{}/{}",
    "PUT rooms/{}/state/{}",
    "PUT rooms/{}/state/{}/{}",
    "PUT rooms/{}/typing/{}",
    "PUT sendToDevice/{}/{}",
    "PUT user/{}/account_data/{}",
    "PUT user/{}/rooms/{}/account_data/{}",
];

// spec: https://spec.matrix.org/v1.19/client-server-api/#account-suspension
const NOT_SUSPENDED: &[&str] = &[
    "DELETE profile/{}/{}",
    "POST createRoom",
    "POST join/{}",
    "POST knock/{}",
    "POST rooms/{}/ban",
    "POST rooms/{}/invite",
    "POST rooms/{}/join",
    "POST rooms/{}/kick",
    "POST rooms/{}/unban",
    "POST rooms/{}/upgrade",
    "PUT directory/room/{}",
    "PUT profile/{}/avatar_url",
    "PUT profile/{}/displayname",
    "PUT profile/{}/{}",
    "PUT rooms/{}/delayed_event/{}/{}",
    "PUT rooms/{}/send/{}/{}",
    "PUT rooms/{}/state/{}",
    "PUT rooms/{}/state/{}/{}",
    "PUT rooms/{}/typing/{}",
];

const SHADOW_SENT: &[&str] =
    &[REDACT, "PUT rooms/{}/send/{}/{}", "PUT rooms/{}/state/{}", "PUT rooms/{}/state/{}/{}"];

const SHADOW_DONE: &[&str] = &[
    "POST rooms/{}/ban",
    "POST rooms/{}/invite",
    "POST rooms/{}/kick",
    "POST rooms/{}/unban",
    "PUT rooms/{}/delayed_event/{}/{}",
    "PUT rooms/{}/typing/{}",
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::routes::Table;

    /// Lists with a name that no endpoint has would be lists with a hole.
    #[test]
    fn every_listed_endpoint_exists() {
        let known: Vec<String> =
            Table::whole().endpoints().iter().map(|(_, method, path)| key(method, path)).collect();
        let lists = [GUESTS, LOCKED, NOT_SUSPENDED, SHADOW_SENT, SHADOW_DONE];
        let missing: Vec<&str> = lists
            .into_iter()
            .flatten()
            .copied()
            .filter(|listed| !LATER.contains(listed) && !known.iter().any(|known| known == listed))
            .collect();
        assert!(missing.is_empty(), "{missing:#?}");
    }

    /// Spelled like this by other versions of the specification, or not built yet.
    const LATER: &[&str] = &[
        "GET profile/{}/avatar_url",
        "GET profile/{}/displayname",
        "POST sync",
        "PUT profile/{}/avatar_url",
        "PUT profile/{}/displayname",
    ];

    #[test]
    fn versions_of_a_path_are_one_endpoint() {
        for path in [
            "/_matrix/client/r0/rooms/{room_id}/send/{event_type}/{txn_id}",
            "/_matrix/client/v3/rooms/{room_id}/send/{event_type}/{txn_id}",
            "/_matrix/client/unstable/org.example/rooms/{a}/send/{b}/{c}",
        ] {
            assert_eq!(key(&Method::PUT, path), "PUT rooms/{}/send/{}/{}");
        }
        assert_eq!(key(&Method::GET, "/_matrix/media/v3/config"), "GET media/config");
    }
}
