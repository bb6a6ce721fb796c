//! Credentials for calls: a TURN server's for a while (shared secret), and a LiveKit server's for one call (MSC4195).
//!
//! Nothing is stored of that: both servers check a signature that is made here. Leaves that clients hand over are
//! [`watch`]'s.
//!
//! spec: <https://github.com/matrix-org/matrix-spec-proposals/pull/4195>,
//! <https://datatracker.ietf.org/doc/html/draft-uberti-behave-turn-rest-00>

pub mod watch;

use base64::{Engine as _, engine::general_purpose};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use ring::hmac;
use router::config::Secret;
use ruma::{RoomId, UserId};
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// What the operator has for calls.
#[derive(Clone, Debug, Default)]
pub struct CallSettings {
    /// `[turn]`.
    pub turn: Option<Turn>,
    /// `[livekit]`.
    pub livekit: Option<LiveKit>,
}

/// `[turn]`: a server that relays calls between clients that cannot reach each other.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Turn {
    /// Its addresses: `turn:host:3478?transport=udp`.
    pub uris: Vec<String>,
    /// The secret that it shares with us (coturn's `static-auth-secret`).
    #[serde(deserialize_with = "secret")]
    pub shared_secret: Secret,
    /// How many seconds a credential is good.
    #[serde(default = "one_day")]
    pub lifetime: u64,
    /// Whether guests get credentials, too.
    #[serde(default)]
    pub guests: bool,
}

/// `[livekit]`: a media server for calls of many (MatrixRTC).
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LiveKit {
    /// Where clients reach it: `wss://livekit.example.org`.
    pub url: String,
    /// The name of the key that we sign with.
    pub api_key: String,
    /// The key.
    #[serde(deserialize_with = "secret")]
    pub api_secret: Secret,
    /// Where we reach it, if that is another place than `url`: `http://127.0.0.1:7880`.
    pub api_url: Option<String>,
}

fn secret<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Secret, D::Error> {
    String::deserialize(deserializer).map(Secret::new)
}

fn one_day() -> u64 {
    86_400
}

impl Turn {
    /// What `/voip/turnServer` answers: a name that ends with its own time, and its HMAC as the password.
    pub fn credentials(&self, user: &UserId, now_ms: u64) -> Value {
        let name = format!("{}:{user}", now_ms / 1000 + self.lifetime);
        let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, self.shared_secret.expose());
        let password = general_purpose::STANDARD.encode(hmac::sign(&key, name.as_bytes()));
        json!({ "username": name, "password": password, "uris": self.uris, "ttl": self.lifetime })
    }
}

/// Somebody's place in a call.
#[derive(Clone, Copy, Debug)]
pub struct Seat<'a> {
    /// The room that the call is in.
    pub room: &'a RoomId,
    /// Which call of the room.
    pub slot: &'a str,
    /// Who.
    pub user: &'a UserId,
    /// On which device.
    pub device: &'a str,
    /// What the client calls its membership; `None`: a client from before it had a name.
    pub member: Option<&'a str>,
}

/// The call of clients that know of one for each room.
pub const ROOM_SLOT: &str = "m.call#ROOM";

impl Seat<'_> {
    /// What the media server calls the call. All who are in it have to come to the same name.
    pub fn call(&self) -> String {
        digest(&[self.room.as_str(), self.slot])
    }

    /// What the media server calls the participant; other clients find the member by it.
    pub fn identity(&self) -> String {
        match self.member {
            Some(member) => digest(&[self.user.as_str(), self.device, member]),
            None => format!("{}:{}", self.user, self.device),
        }
    }
}

/// The SHA-256 of a list of texts as JSON, which no choice of texts can make ambiguous.
fn digest(parts: &[&str]) -> String {
    let json = Value::from(parts.to_vec()).to_string();
    general_purpose::STANDARD_NO_PAD.encode(Sha256::digest(json.as_bytes()))
}

impl LiveKit {
    /// A token that lets its holder into one call, as one participant.
    pub fn token(&self, seat: &Seat<'_>, now_ms: u64) -> Result<String, String> {
        let grant = json!({
            "room": seat.call(), "roomJoin": true, "roomCreate": false, "canPublish": true, "canSubscribe": true,
        });
        self.sign(&seat.identity(), &grant, TOKEN_S, now_ms)
    }

    /// A token for ourselves, to make the call's room with.
    pub fn maker_token(&self, call: &str, now_ms: u64) -> Result<String, String> {
        self.sign("mangrove", &json!({ "room": call, "roomCreate": true }), MAKER_TOKEN_S, now_ms)
    }

    /// A token for ourselves, to ask with who is in a call.
    pub fn watcher_token(&self, call: &str, now_ms: u64) -> Result<String, String> {
        self.sign("mangrove", &json!({ "room": call, "roomAdmin": true }), MAKER_TOKEN_S, now_ms)
    }

    fn sign(&self, subject: &str, grant: &Value, for_s: u64, now_ms: u64) -> Result<String, String> {
        let now = now_ms / 1000;
        let claims = json!({
            "iss": self.api_key, "sub": subject, "nbf": now, "iat": now, "exp": now + for_s, "video": grant,
        });
        let key = EncodingKey::from_secret(self.api_secret.expose());
        jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &key).map_err(|error| error.to_string())
    }

    /// Where rooms are made.
    pub fn create_room_url(&self) -> String {
        self.service_url("CreateRoom")
    }

    /// Where it says who is in a call.
    pub fn participants_url(&self) -> String {
        self.service_url("ListParticipants")
    }

    fn service_url(&self, method: &str) -> String {
        let base = self.api_url.clone().unwrap_or_else(|| {
            // The same server speaks HTTP there.
            self.url.replacen("wss://", "https://", 1).replacen("ws://", "http://", 1)
        });
        format!("{}/twirp/livekit.RoomService/{method}", base.trim_end_matches('/'))
    }

    /// What makes a call's room there: it goes when nobody has come for five minutes, or all have left.
    pub fn create_room_body(call: &str) -> Value {
        json!({ "name": call, "empty_timeout": 300, "departure_timeout": 20, "max_participants": 0 })
    }
}

/// How long a participant may take to connect with a token; once in, it renews it by itself.
const TOKEN_S: u64 = 3_600;
const MAKER_TOKEN_S: u64 = 60;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_credential_is_what_coturn_checks() {
        let turn = Turn {
            uris: vec!["turn:t.example.org".into()],
            shared_secret: Secret::new("north"),
            lifetime: 600,
            guests: false,
        };
        let told = turn.credentials(ruma::user_id!("@alice:x.org"), 1_000_000);
        assert_eq!(told["username"], "1600:@alice:x.org");
        // printf '1600:@alice:x.org' | openssl dgst -sha1 -hmac north -binary | base64
        assert_eq!(told["password"], "oMnd6JoYrt2hdMvlJQkZ7HFhdfA=");
        assert_eq!(told["ttl"], 600);
    }

    #[test]
    fn seats_in_one_call_have_one_room_and_different_names() {
        let room = ruma::room_id!("!r:x.org");
        let seat = |user, member| Seat { room, slot: ROOM_SLOT, user, device: "D", member };
        let alice = seat(ruma::user_id!("@a:x.org"), Some("m1"));
        let bob = seat(ruma::user_id!("@b:x.org"), None);
        assert_eq!(alice.call(), bob.call());
        assert_eq!(bob.identity(), "@b:x.org:D");
        assert_ne!(alice.identity(), seat(ruma::user_id!("@a:x.org"), Some("m2")).identity());
        let other = Seat { slot: "another", ..alice };
        assert_ne!(other.call(), alice.call());
    }

    #[test]
    fn tokens_say_who_may_do_what_until_when() {
        let livekit = LiveKit {
            url: "wss://sfu.example.org".into(),
            api_key: "key".into(),
            api_secret: Secret::new("a secret of at least thirty-two bytes"),
            api_url: None,
        };
        assert_eq!(livekit.create_room_url(), "https://sfu.example.org/twirp/livekit.RoomService/CreateRoom");
        let seat = Seat {
            room: ruma::room_id!("!r:x.org"),
            slot: ROOM_SLOT,
            user: ruma::user_id!("@a:x.org"),
            device: "D",
            member: Some("m"),
        };
        let token = livekit.token(&seat, 5_000_000).unwrap();
        let parts: Vec<&str> = token.split('.').collect();
        let claims = general_purpose::URL_SAFE_NO_PAD.decode(parts[1]).unwrap();
        let claims: Value = serde_json::from_slice(&claims).unwrap();
        assert_eq!(claims["sub"], seat.identity());
        assert_eq!(claims["video"]["room"], seat.call());
        assert_eq!(claims["video"]["roomCreate"], false);
        assert_eq!(claims["exp"], 5_000 + TOKEN_S);
        let key = hmac::Key::new(hmac::HMAC_SHA256, b"a secret of at least thirty-two bytes");
        let signed = format!("{}.{}", parts[0], parts[1]);
        let mac = general_purpose::URL_SAFE_NO_PAD.decode(parts[2]).unwrap();
        hmac::verify(&key, signed.as_bytes(), &mac).unwrap();
    }
}
