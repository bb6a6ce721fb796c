//! How often one caller may do one kind of thing.
//!
//! A bucket per (class, caller) fills at the class's rate up to its burst. The table is bounded: when it is full, buckets
//! that are full again go first, since they say nothing that an absent one does not.

use std::{
    collections::HashMap,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
};

use ruma::UserId;

use crate::{clock::Clock, error::RequestError};

/// Kinds of requests that are counted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// Not limited: reads, and what another limit already holds.
    Free,
    /// Log-in attempts and other uses of a password, by (user, Origin).
    Login,
    /// All uses of one user's password, wherever they come from: what a page says of its origin is its own word.
    LoginAnywhere,
    /// New accounts and looks at free names and tokens, by caller.
    Register,
    /// New access tokens by a refresh token, by caller.
    Refresh,
    /// Mails to one address.
    Mail,
    /// Messages and state events, by user.
    Message,
    /// Joins, invites and new rooms, by user.
    Membership,
    /// Writes that are none of these, by user.
    Write,
    /// Requests of other servers from one address, before anybody looks at who they are. Not counted where a reverse proxy
    /// on this machine passes them on: they would all be one.
    Federation,
    /// Requests that one other server has signed, wherever they come from: as often as the operator says.
    Origin,
}

impl Class {
    /// (burst, refill a second). `origin`: what one server may ask a second.
    fn rate(self, origin: u32) -> Option<(f64, f64)> {
        match self {
            Self::Free => None,
            // Guessing at 1 password in 5 s takes decades for anything worth the name.
            Self::Login => Some((10.0, 0.2)),
            // Far above what one person's pages do together, far below what guessing needs.
            Self::LoginAnywhere => Some((100.0, 1.0)),
            // One person makes a handful of accounts; a script thousands.
            Self::Register => Some((20.0, 0.5)),
            // Every client of a household behind one address, once in five minutes each.
            Self::Refresh => Some((100.0, 2.0)),
            // Nobody's mailbox is filled by strangers.
            Self::Mail => Some((3.0, 1.0 / 300.0)),
            // A bridge or a busy bot stays below it, a runaway loop does not.
            Self::Message => Some((100.0, 20.0)),
            Self::Membership => Some((50.0, 2.0)),
            Self::Write => Some((200.0, 40.0)),
            Self::Federation => Some((400.0, 200.0)),
            // A burst is what a server that was away has to ask when it comes back.
            Self::Origin => Some((2.0 * f64::from(origin), f64::from(origin))),
        }
    }
}

/// All buckets.
pub struct Limits {
    on: AtomicBool,
    /// Requests that one other server may sign a second.
    origin: AtomicU32,
    clock: Clock,
    buckets: Mutex<HashMap<(Class, String), Bucket>>,
    exempt: Option<Exempt>,
}

/// Who is held to no rates.
pub type Exempt = Box<dyn Fn(&str) -> bool + Send + Sync>;

#[derive(Clone, Copy, Debug)]
struct Bucket {
    tokens: f64,
    at_ms: u64,
}

impl Limits {
    /// Limits that hold, or (`on` false, for benches) none.
    pub fn new(on: bool, clock: Clock) -> Self {
        Self { on: on.into(), origin: ORIGIN_RATE.into(), clock, buckets: Mutex::default(), exempt: None }
    }

    /// The same, not for keys that `exempt` knows.
    pub fn but_for(self, exempt: Exempt) -> Self {
        Self { exempt: Some(exempt), ..self }
    }

    /// Whether they hold from now on.
    pub fn set_on(&self, on: bool) {
        self.on.store(on, Ordering::Relaxed);
    }

    /// How many requests one other server may sign a second; at least one.
    pub fn set_origin_rate(&self, per_second: u32) {
        self.origin.store(per_second.max(1), Ordering::Relaxed);
    }

    /// Takes one use of a user's password, by the page that sends it and altogether.
    pub fn take_login(&self, user: &UserId, page: Option<&str>) -> Result<(), RequestError> {
        self.take(Class::Login, &format!("{user} {}", page.unwrap_or_default()))?;
        self.take(Class::LoginAnywhere, user.as_str())
    }

    /// Takes one request of `class` off `key`'s bucket, or says when to come again.
    pub fn take(&self, class: Class, key: &str) -> Result<(), RequestError> {
        let origin = self.origin.load(Ordering::Relaxed);
        let (Some((burst, per_second)), true) = (class.rate(origin), self.on.load(Ordering::Relaxed)) else {
            return Ok(());
        };
        if self.exempt.as_ref().is_some_and(|exempt| exempt(key)) {
            return Ok(());
        }
        let now = self.clock.now_ms();
        let mut buckets = self.buckets.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if buckets.len() >= BUCKETS_MAX {
            buckets.retain(|(class, _), bucket| !bucket.full(*class, origin, now));
            if buckets.len() >= BUCKETS_MAX {
                // Only a flood of distinct callers comes here; forgetting them all is kinder than refusing everybody.
                buckets.clear();
            }
        }
        let bucket = buckets.entry((class, key.to_owned())).or_insert(Bucket { tokens: burst, at_ms: now });
        let passed = now.saturating_sub(bucket.at_ms) as f64 / 1000.0;
        bucket.tokens = (bucket.tokens + passed * per_second).min(burst);
        bucket.at_ms = now;
        if bucket.tokens < 1.0 {
            let wait = (1.0 - bucket.tokens) / per_second * 1000.0;
            return Err(RequestError::RateLimited { retry_after_ms: wait.ceil() as u64 });
        }
        bucket.tokens -= 1.0;
        Ok(())
    }
}

impl Bucket {
    fn full(&self, class: Class, origin: u32, now_ms: u64) -> bool {
        class.rate(origin).is_none_or(|(burst, per_second)| {
            let passed = now_ms.saturating_sub(self.at_ms) as f64 / 1000.0;
            self.tokens + passed * per_second >= burst
        })
    }
}

/// Requests that one other server may sign a second if the operator says nothing: a transaction holds 50 events, so no
/// server that behaves comes near it.
pub const ORIGIN_RATE: u32 = 100;
/// Buckets kept at once: some 100 bytes each, so about 1 MB at worst.
const BUCKETS_MAX: usize = 10_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_empties_and_fills() {
        let clock = Clock::manual(0);
        let limits = Limits::new(true, clock.clone());
        for _ in 0..10 {
            assert!(limits.take(Class::Login, "alice").is_ok());
        }
        let Err(RequestError::RateLimited { retry_after_ms }) = limits.take(Class::Login, "alice") else {
            panic!("the eleventh attempt went through");
        };
        assert_eq!(retry_after_ms, 5_000);
        assert!(limits.take(Class::Login, "bob").is_ok(), "others are not held up");
        clock.advance(5_000);
        assert!(limits.take(Class::Login, "alice").is_ok());
        assert!(limits.take(Class::Login, "alice").is_err());
    }

    #[test]
    fn one_server_is_held_to_what_the_operator_says() {
        let clock = Clock::manual(0);
        let limits = Limits::new(true, clock.clone());
        limits.set_origin_rate(5);
        assert_eq!((0..100).filter(|_| limits.take(Class::Origin, "a.org").is_ok()).count(), 10);
        assert!(limits.take(Class::Origin, "b.org").is_ok(), "others are not held up");
        clock.advance(1_000);
        assert_eq!((0..100).filter(|_| limits.take(Class::Origin, "a.org").is_ok()).count(), 5);
        let Err(RequestError::RateLimited { retry_after_ms }) = limits.take(Class::Origin, "a.org") else {
            panic!("one too many went through");
        };
        assert_eq!(retry_after_ms, 200);
    }

    #[test]
    fn changing_the_page_does_not_help_a_guesser() {
        let limits = Limits::new(true, Clock::manual(0));
        let alice = ruma::user_id!("@alice:x.org");
        let guesses = (0..1_000).filter(|page| limits.take_login(alice, Some(&page.to_string())).is_ok());
        assert_eq!(guesses.count(), 100);
    }

    #[test]
    fn the_table_is_bounded_and_can_be_off() {
        let limits = Limits::new(true, Clock::manual(0));
        for caller in 0..BUCKETS_MAX + 10 {
            assert!(limits.take(Class::Write, &caller.to_string()).is_ok());
        }
        assert!(limits.buckets.lock().unwrap().len() <= BUCKETS_MAX);
        let off = Limits::new(false, Clock::manual(0));
        assert!((0..1000).all(|_| off.take(Class::Login, "alice").is_ok()));
    }
}
