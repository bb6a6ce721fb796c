//! What users have allowed clients and these have not fetched yet: codes of the browser's way, and of the device's.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use ruma::{OwnedDeviceId, OwnedUserId, UserId};

use crate::user::{NewDevice, Session, UserError, Users, token};

/// What a client may do, and as which device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    /// The device that is made.
    pub device: OwnedDeviceId,
    /// The scopes understood, as the client wrote them.
    pub text: String,
}

impl Scope {
    /// Reads the scopes that a client asks for; those that are not known are left out.
    // spec: https://spec.matrix.org/v1.19/client-server-api/#scope
    pub fn parse(text: &str) -> Option<Self> {
        let mut device = None;
        let mut api = false;
        let mut understood = Vec::new();
        for scope in text.split(' ').filter(|scope| !scope.is_empty()).take(SCOPES_MAX) {
            let id = scope
                .strip_prefix("urn:matrix:client:device:")
                .or_else(|| scope.strip_prefix("urn:matrix:org.matrix.msc2967.client:device:"));
            if let Some(id) = id {
                let fits = (1..=255).contains(&id.len())
                    && id
                        .bytes()
                        .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~'));
                if !fits || device.as_ref().is_some_and(|known: &OwnedDeviceId| known.as_str() != id) {
                    return None;
                }
                device = Some(OwnedDeviceId::from(id));
            } else if matches!(
                scope,
                "urn:matrix:client:api:*" | "urn:matrix:org.matrix.msc2967.client:api:*"
            ) {
                api = true;
            } else {
                continue;
            }
            understood.push(scope);
        }
        api.then_some(Self { device: device?, text: understood.join(" ") })
    }
}

/// A user's leave for a client.
#[derive(Clone, Debug)]
pub struct Grant {
    /// The client.
    pub client: String,
    /// What its device is called.
    pub device_name: Option<String>,
    /// Who gave it.
    pub user: OwnedUserId,
    /// For what.
    pub scope: Scope,
    /// Where the code was sent.
    pub redirect: String,
    /// SHA-256 of the client's secret for this log-in (PKCE).
    pub challenge: String,
}

/// A device that waits for its user to allow it elsewhere.
#[derive(Clone, Debug)]
pub struct DeviceAsk {
    /// The client.
    pub client: String,
    /// What its device is called.
    pub device_name: Option<String>,
    /// For what.
    pub scope: Scope,
}

/// Why a client gets no tokens: OAuth's code and a text.
#[derive(Debug, thiserror::Error)]
#[error("{1}")]
pub struct GrantError(pub &'static str, pub &'static str);

#[derive(Default)]
pub(super) struct Grants {
    codes: Mutex<HashMap<[u8; 32], Code>>,
    devices: Mutex<HashMap<[u8; 32], Waiting>>,
}

struct Code {
    grant: Grant,
    until_ms: u64,
    used: bool,
}

struct Waiting {
    ask: DeviceAsk,
    user_code: String,
    until_ms: u64,
    asked_ms: u64,
    decision: Option<Option<OwnedUserId>>,
}

impl Users {
    /// A code that the client's redirect carries: good once, for [`GRANT_MS`].
    pub fn grant(&self, grant: Grant) -> String {
        let (now, code) = (self.clock.now_ms(), token::random());
        let mut codes = self.oauth.grants.codes.lock().unwrap_or_else(PoisonError::into_inner);
        codes.retain(|_, code| code.until_ms > now);
        if codes.len() >= GRANTS_MAX {
            codes.clear();
        }
        codes.insert(token::hash(&code), Code { grant, until_ms: now + GRANT_MS, used: false });
        code
    }

    /// Gives a client its tokens for a code. A code that comes twice was stolen: the device it made ends.
    pub async fn redeem_code(
        &self,
        code: &str,
        client: &str,
        redirect: &str,
        verifier: &str,
    ) -> Result<Result<(Session, String), GrantError>, UserError> {
        let now = self.clock.now_ms();
        let bad = GrantError("invalid_grant", "this code is not valid, was used before, or is too old");
        let found = {
            let mut codes = self.oauth.grants.codes.lock().unwrap_or_else(PoisonError::into_inner);
            match codes.get_mut(&token::hash(code)) {
                Some(known) if known.until_ms > now => {
                    let right = known.grant.client == client
                        && known.grant.redirect == redirect
                        && data_encoding::BASE64URL_NOPAD.encode(&token::hash(verifier))
                            == known.grant.challenge;
                    let twice = std::mem::replace(&mut known.used, true);
                    Some((known.grant.clone(), right, twice))
                }
                _ => None,
            }
        };
        match found {
            Some((grant, _, true)) => {
                self.logout(&grant.user, &grant.scope.device).await?;
                Ok(Err(bad))
            }
            Some((grant, true, false)) => {
                let scope = grant.scope.text.clone();
                let ask =
                    DeviceAsk { client: grant.client, device_name: grant.device_name, scope: grant.scope };
                Ok(Ok((self.open_for_client(&grant.user, ask).await?, scope)))
            }
            _ => Ok(Err(bad)),
        }
    }

    async fn open_for_client(&self, user: &UserId, ask: DeviceAsk) -> Result<Session, UserError> {
        let device = NewDevice {
            id: Some(ask.scope.device),
            name: ask.device_name,
            refresh: true,
            client: Some((ask.client, ask.scope.text)),
        };
        device.check()?;
        self.open(user, device).await
    }

    /// A device asks to be allowed elsewhere: its own code, and the one its user types.
    // spec: https://spec.matrix.org/v1.19/client-server-api/#device-authorization-grant
    pub fn ask_by_device(&self, ask: DeviceAsk) -> Result<(String, String), GrantError> {
        let (now, code, user_code) = (self.clock.now_ms(), token::random(), user_code());
        let mut devices = self.oauth.grants.devices.lock().unwrap_or_else(PoisonError::into_inner);
        devices.retain(|_, waiting| waiting.until_ms > now);
        if devices.len() >= GRANTS_MAX {
            return Err(GrantError(
                "temporarily_unavailable",
                "too many devices wait already; try again later",
            ));
        }
        let waiting = Waiting {
            ask,
            user_code: user_code.clone(),
            until_ms: now + DEVICE_MS,
            asked_ms: 0,
            decision: None,
        };
        devices.insert(token::hash(&code), waiting);
        Ok((code, user_code))
    }

    /// The device that waits with a code that a user typed.
    pub fn waiting_device(&self, typed: &str) -> Option<DeviceAsk> {
        let (typed, now) = (typed_code(typed), self.clock.now_ms());
        let devices = self.oauth.grants.devices.lock().unwrap_or_else(PoisonError::into_inner);
        devices
            .values()
            .find(|waiting| {
                waiting.user_code == typed && waiting.until_ms > now && waiting.decision.is_none()
            })
            .map(|waiting| waiting.ask.clone())
    }

    /// The user's answer to a waiting device; false if none waits with this code.
    pub fn decide_device(&self, typed: &str, user: Option<&UserId>) -> bool {
        let (typed, now) = (typed_code(typed), self.clock.now_ms());
        let mut devices = self.oauth.grants.devices.lock().unwrap_or_else(PoisonError::into_inner);
        match devices.values_mut().find(|waiting| waiting.user_code == typed && waiting.until_ms > now) {
            Some(waiting) if waiting.decision.is_none() => {
                waiting.decision = Some(user.map(ToOwned::to_owned));
                true
            }
            _ => false,
        }
    }

    /// Gives a device its tokens, once its user has allowed it.
    pub async fn redeem_device(
        &self,
        code: &str,
        client: &str,
    ) -> Result<Result<(Session, String), GrantError>, UserError> {
        let (hash, now) = (token::hash(code), self.clock.now_ms());
        let allowed = {
            let mut devices = self.oauth.grants.devices.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(waiting) = devices.get_mut(&hash).filter(|waiting| waiting.ask.client == client) else {
                return Ok(Err(GrantError("invalid_grant", "no device waits with this code")));
            };
            if waiting.until_ms <= now {
                devices.remove(&hash);
                return Ok(Err(GrantError("expired_token", "the code is too old; begin anew")));
            }
            let early = now.saturating_sub(waiting.asked_ms) < DEVICE_POLL_S * 1000;
            waiting.asked_ms = now;
            match waiting.decision.clone() {
                None if early => return Ok(Err(GrantError("slow_down", "ask less often"))),
                None => {
                    return Ok(Err(GrantError("authorization_pending", "the user has not decided yet")));
                }
                Some(decision) => {
                    let ask = waiting.ask.clone();
                    devices.remove(&hash);
                    decision.map(|user| (user, ask))
                }
            }
        };
        match allowed {
            Some((user, ask)) => {
                let scope = ask.scope.text.clone();
                Ok(Ok((self.open_for_client(&user, ask).await?, scope)))
            }
            None => Ok(Err(GrantError("access_denied", "the user said no"))),
        }
    }

    /// Ends what a token of an OAuth client stands for: its device.
    pub async fn revoke(&self, shown: &str) -> Result<(), UserError> {
        if let Ok(Some(access)) = self.by_token(shown).await {
            return self.logout(&access.caller.user, &access.caller.device).await;
        }
        match self.device_of_refresh_token(shown).await? {
            Some((user, device)) => self.logout(&user, &device).await,
            None => Ok(()),
        }
    }
}

/// Eight letters that are told apart on any screen, in two groups.
fn user_code() -> String {
    const LETTERS: &[u8; 20] = b"BCDFGHJKLMNPQRSTVWXZ";
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).expect("the operating system has a random generator");
    let text: String = bytes.iter().map(|byte| char::from(LETTERS[usize::from(byte % 20)])).collect();
    format!("{}-{}", &text[..4], &text[4..])
}

/// A code as people type it: any case, with or without the hyphen.
fn typed_code(typed: &str) -> String {
    let letters: String =
        typed.chars().filter(char::is_ascii_alphanumeric).take(8).collect::<String>().to_ascii_uppercase();
    if letters.len() == 8 { format!("{}-{}", &letters[..4], &letters[4..]) } else { letters }
}

/// How long a code of the browser's way is good: a redirect and one request.
pub const GRANT_MS: u64 = 60_000;
/// How long a device waits for its user.
const DEVICE_MS: u64 = 20 * 60_000;
/// Seconds between two questions of a waiting device.
pub const DEVICE_POLL_S: u64 = 5;
/// Codes kept at once: some 500 bytes each.
const GRANTS_MAX: usize = 10_000;
/// Scopes read of one request.
const SCOPES_MAX: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_name_one_device_and_the_whole_api() {
        let scope = Scope::parse("openid urn:matrix:client:api:* urn:matrix:client:device:ABC").unwrap();
        assert_eq!(
            (scope.device.as_str(), &*scope.text),
            ("ABC", "urn:matrix:client:api:* urn:matrix:client:device:ABC")
        );
        let old =
            "urn:matrix:org.matrix.msc2967.client:api:* urn:matrix:org.matrix.msc2967.client:device:A-b.1";
        assert_eq!(Scope::parse(old).unwrap().device, "A-b.1");
        for bad in [
            "",
            "urn:matrix:client:api:*",
            "urn:matrix:client:device:ABC",
            "urn:matrix:client:api:* urn:matrix:client:device:",
            "urn:matrix:client:api:* urn:matrix:client:device:a/b",
            "urn:matrix:client:api:* urn:matrix:client:device:A urn:matrix:client:device:B",
        ] {
            assert_eq!(Scope::parse(bad), None, "{bad}");
        }
        assert_eq!(typed_code("bcdf ghjk"), "BCDF-GHJK");
        assert_eq!(typed_code(&user_code()).len(), 9);
    }
}
