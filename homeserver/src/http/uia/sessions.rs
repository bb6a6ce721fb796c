//! What has been proven so far, by session: bounded, and forgotten after a while.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use ring::hmac;
use ruma::api::client::uiaa::AuthType;

use crate::{
    clock::Clock,
    error::Error,
    user::{Address, token},
};

/// All sessions in which something has been proven and something else is still missing.
pub struct Sessions {
    clock: Clock,
    /// Marks the names that we gave out, so that nobody plants one of its own choice on somebody else.
    key: hmac::Key,
    open: Mutex<HashMap<String, Session>>,
}

struct Session {
    operation: String,
    proven: Proven,
    at_ms: u64,
}

/// What somebody has proven.
#[derive(Clone, Debug, Default)]
pub struct Proven {
    stages: Vec<AuthType>,
    /// The registration token shown.
    pub(super) token: Option<String>,
    /// The e-mail address that was proven.
    pub(super) email: Option<Address>,
}

impl Proven {
    pub(super) fn add(&mut self, stage: AuthType) {
        if !self.has(&stage) {
            self.stages.push(stage);
        }
    }

    pub(super) fn has(&self, stage: &AuthType) -> bool {
        self.stages.contains(stage)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.stages.is_empty()
    }

    pub(super) fn stages(&self) -> &[AuthType] {
        &self.stages
    }
}

impl Sessions {
    /// None yet.
    pub fn new(clock: Clock) -> Self {
        let key = hmac::Key::new(hmac::HMAC_SHA256, token::random().as_bytes());
        Self { clock, key, open: Mutex::default() }
    }

    /// The session that a client names, if its name is one of ours; else a new one.
    pub(super) fn session(&self, named: Option<&str>) -> String {
        named
            .filter(|name| name.len() <= NAME_BYTES_MAX && self.ours(name))
            .map_or_else(|| self.name(), ToOwned::to_owned)
    }

    fn name(&self) -> String {
        let random = token::random();
        let mark =
            data_encoding::BASE64URL_NOPAD.encode(&hmac::sign(&self.key, random.as_bytes()).as_ref()[..9]);
        random + &mark
    }

    fn ours(&self, name: &str) -> bool {
        let Some((random, mark)) = name.split_at_checked(RANDOM_CHARS) else { return false };
        let right = hmac::sign(&self.key, random.as_bytes());
        data_encoding::BASE64URL_NOPAD.encode(&right.as_ref()[..9]) == mark
    }

    /// What was proven in a session; it must have been for the same thing.
    pub(super) fn proven(&self, session: &str, operation: &str) -> Result<Proven, Error> {
        let now = self.clock.now_ms();
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        match open.get(session) {
            Some(known) if now.saturating_sub(known.at_ms) > OPEN_MS => Ok(Proven::default()),
            Some(known) if !known.operation.is_empty() && known.operation != operation => {
                Err(Error::forbidden("this session was begun for another request; begin anew"))
            }
            Some(known) => Ok(known.proven.clone()),
            None => Ok(Proven::default()),
        }
    }

    /// Remembers what was proven.
    pub(super) fn keep(&self, session: &str, operation: &str, proven: &Proven) {
        let now = self.clock.now_ms();
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.len() >= SESSIONS_MAX && !open.contains_key(session) {
            open.retain(|_, known| now.saturating_sub(known.at_ms) <= OPEN_MS);
            if open.len() >= SESSIONS_MAX
                && let Some(oldest) =
                    open.iter().min_by_key(|(_, known)| known.at_ms).map(|(name, _)| name.clone())
            {
                open.remove(&oldest);
            }
        }
        let known = Session { operation: operation.to_owned(), proven: proven.clone(), at_ms: now };
        open.insert(session.to_owned(), known);
    }

    pub(super) fn end(&self, session: &str) {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).remove(session);
    }

    /// A page in a browser has proven a stage of a session; false if the session is none of ours.
    pub fn prove_by_page(&self, session: &str, stage: AuthType) -> bool {
        self.prove_here(session, |proven| proven.add(stage))
    }

    /// The same for a registration token.
    pub fn prove_token_by_page(&self, session: &str, token: &str) -> bool {
        self.prove_here(session, |proven| {
            proven.token = Some(token.to_owned());
            proven.add(AuthType::RegistrationToken);
        })
    }

    fn prove_here(&self, session: &str, prove: impl FnOnce(&mut Proven)) -> bool {
        if session.len() > NAME_BYTES_MAX || !self.ours(session) {
            return false;
        }
        let (operation, mut proven) = {
            let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
            open.get(session).map(|known| (known.operation.clone(), known.proven.clone())).unwrap_or_default()
        };
        prove(&mut proven);
        self.keep(session, &operation, &proven);
        true
    }
}

/// Ours have 44.
const NAME_BYTES_MAX: usize = 64;
/// Characters of [`token::random`].
const RANDOM_CHARS: usize = 32;
/// Sessions kept at once: some 300 bytes each, so about 3 MB at worst. When full, the oldest goes.
const SESSIONS_MAX: usize = 10_000;
/// How long one may take over a form: reading terms, waiting for a mail.
const OPEN_MS: u64 = 30 * 60_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_are_ours_bounded_and_end() {
        let clock = Clock::manual(0);
        let sessions = Sessions::new(clock.clone());
        let name = sessions.session(None);
        assert_eq!(sessions.session(Some(&name)), name);
        assert_ne!(sessions.session(Some("chosen")), "chosen");
        assert_ne!(sessions.session(Some(&"x".repeat(44))), "x".repeat(44));
        assert!(!sessions.prove_by_page("chosen", AuthType::Terms));

        let mut proven = Proven::default();
        proven.add(AuthType::Terms);
        sessions.keep(&name, "register", &proven);
        assert!(sessions.proven(&name, "register").unwrap().has(&AuthType::Terms));
        assert!(sessions.proven(&name, "password @a:x").is_err());
        clock.advance(OPEN_MS + 1);
        assert!(sessions.proven(&name, "register").unwrap().is_empty());

        for _ in 0..SESSIONS_MAX + 10 {
            sessions.keep(&sessions.session(None), "register", &proven);
        }
        assert!(sessions.open.lock().unwrap().len() <= SESSIONS_MAX);
    }
}
