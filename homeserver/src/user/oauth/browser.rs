//! Browsers that are logged in to the node's own pages, by a cookie.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use ring::hmac;
use ruma::{OwnedUserId, UserId};

use crate::user::{Users, token};

/// A browser, by its cookie.
#[derive(Clone, Debug)]
pub struct Browser {
    /// The cookie's value; a secret of that browser.
    pub cookie: String,
    /// Who is logged in there.
    pub user: Option<OwnedUserId>,
}

pub(super) struct Browsers {
    key: hmac::Key,
    known: Mutex<HashMap<[u8; 32], (OwnedUserId, u64)>>,
}

impl Default for Browsers {
    fn default() -> Self {
        let key = hmac::Key::new(hmac::HMAC_SHA256, token::random().as_bytes());
        Self { key, known: Mutex::default() }
    }
}

impl Users {
    /// The browser that shows a cookie; without one (or with one that is none of ours) a new one.
    pub fn browser(&self, cookie: Option<&str>) -> Browser {
        let Some(cookie) = cookie.filter(|cookie| cookie.len() == COOKIE_CHARS) else {
            return Browser { cookie: token::random(), user: None };
        };
        let now = self.clock.now_ms();
        let known = self.oauth.browsers.known.lock().unwrap_or_else(PoisonError::into_inner);
        let user =
            known.get(&token::hash(cookie)).filter(|(_, until)| *until > now).map(|(user, _)| user.clone());
        Browser { cookie: cookie.to_owned(), user }
    }

    /// Notes that a user is logged in in a browser; its cookie changes, so that nobody can have planted it.
    pub fn browser_login(&self, browser: &Browser, user: &UserId) -> Browser {
        let now = self.clock.now_ms();
        let cookie = token::random();
        let mut known = self.oauth.browsers.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.remove(&token::hash(&browser.cookie));
        if known.len() >= BROWSERS_MAX {
            known.retain(|_, (_, until)| *until > now);
            if known.len() >= BROWSERS_MAX {
                // They log in again.
                known.clear();
            }
        }
        known.insert(token::hash(&cookie), (user.to_owned(), now + BROWSER_MS));
        Browser { cookie, user: Some(user.to_owned()) }
    }

    /// Logs a browser out.
    pub fn browser_logout(&self, browser: &Browser) {
        let mut known = self.oauth.browsers.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.remove(&token::hash(&browser.cookie));
    }

    /// Logs a user out of all browsers.
    pub(in crate::user) fn browsers_forget(&self, user: &UserId) {
        let mut known = self.oauth.browsers.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, (known, _)| known != user);
    }

    /// What each form carries: only a page that this browser got from us knows it.
    pub fn form_mark(&self, browser: &Browser) -> String {
        let mark = hmac::sign(&self.oauth.browsers.key, browser.cookie.as_bytes());
        data_encoding::BASE64URL_NOPAD.encode(mark.as_ref())
    }

    /// Whether a form came from a page that this browser got from us.
    pub fn form_is_ours(&self, browser: &Browser, mark: &str) -> bool {
        data_encoding::BASE64URL_NOPAD.decode(mark.as_bytes()).is_ok_and(|mark| {
            hmac::verify(&self.oauth.browsers.key, browser.cookie.as_bytes(), &mark).is_ok()
        })
    }
}

/// How long a browser stays logged in: a log-in of a client or two, not a day.
pub const BROWSER_MS: u64 = 3_600_000;
/// Browsers at once: some 150 bytes each.
const BROWSERS_MAX: usize = 10_000;
/// Characters of [`token::random`].
const COOKIE_CHARS: usize = 32;
