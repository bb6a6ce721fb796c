//! Hashing passwords: argon2id with 19 MiB and two passes, a few at a time.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use argon2::{
    Argon2,
    password_hash::{PasswordHasher as _, PasswordVerifier as _, phc::PasswordHash},
};
use tokio::sync::Semaphore;

use super::UserError;

/// Hashes so many at once: each takes a processor and 19 MiB for some 25 ms.
const AT_ONCE_MAX: usize = 2;
/// Callers that may wait for their turn: about two seconds' worth.
const WAITING_MAX: usize = 64;
/// The shortest password taken, if the operator does not say.
pub(super) const CHARS_MIN: usize = 8;
/// The longest: nobody types more, and hashing is not free.
pub(super) const CHARS_MAX: usize = 512;

/// Where passwords are hashed.
#[derive(Clone)]
pub(super) struct Pool {
    chars_min: Arc<AtomicUsize>,
    places: Arc<Semaphore>,
    waiting: Arc<AtomicUsize>,
}

impl Pool {
    /// `chars_min`: the shortest password taken.
    pub(super) fn new(chars_min: usize) -> Self {
        Self {
            chars_min: Arc::new(chars_min.into()),
            places: Arc::new(Semaphore::new(AT_ONCE_MAX)),
            waiting: Arc::default(),
        }
    }

    /// Another shortest password from now on.
    pub(super) fn set_chars_min(&self, chars: usize) {
        self.chars_min.store(chars, Ordering::Relaxed);
    }

    /// A PHC string to store. Refuses passwords that are too short or too long.
    pub(super) async fn hash(&self, password: &str) -> Result<String, UserError> {
        let chars = password.chars().count();
        let min = self.chars_min.load(Ordering::Relaxed);
        if !(min..=CHARS_MAX).contains(&chars) {
            return Err(UserError::WeakPassword { min, max: CHARS_MAX });
        }
        self.hash_any(password).await
    }

    /// [`Pool::hash`] for a password that another server's rules let through.
    pub(super) async fn hash_any(&self, password: &str) -> Result<String, UserError> {
        let password = password.to_owned();
        self.run(move || {
            Argon2::default()
                .hash_password(password.as_bytes())
                .map(|hash: PasswordHash| hash.to_string())
                .map_err(|_| UserError::Busy)
        })
        .await
    }

    /// Whether `password` is the one behind `stored`. Without a stored one the same work is done in vain, so that the
    /// time tells nobody which names exist.
    pub(super) async fn verify(&self, password: &str, stored: Option<String>) -> Result<(), UserError> {
        if password.len() > CHARS_MAX * 4 {
            return Err(UserError::WrongPassword);
        }
        let password = password.to_owned();
        self.run(move || {
            let known = stored.is_some();
            let stored = stored.unwrap_or_else(|| DECOY.to_owned());
            if is_imported(&stored) {
                let right = bcrypt::verify(password, &stored).unwrap_or(false);
                return if right { Ok(()) } else { Err(UserError::WrongPassword) };
            }
            let hash = PasswordHash::new(&stored).map_err(|_| UserError::WrongPassword)?;
            let right = Argon2::default().verify_password(password.as_bytes(), &hash).is_ok();
            if right && known { Ok(()) } else { Err(UserError::WrongPassword) }
        })
        .await
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, UserError> + Send + 'static,
    ) -> Result<T, UserError> {
        let waiting = Waiting::new(&self.waiting)?;
        let place = Arc::clone(&self.places).acquire_owned().await.map_err(|_| UserError::Busy)?;
        drop(waiting);
        tokio::task::spawn_blocking(move || {
            let _place = place;
            work()
        })
        .await
        .map_err(|_| UserError::Busy)?
    }
}

/// Whether a stored hash is bcrypt's, as Synapse has them.
pub(super) fn is_imported(hash: &str) -> bool {
    hash.starts_with("$2a$") || hash.starts_with("$2b$") || hash.starts_with("$2y$")
}

/// Whether a text is a hash that [`Pool::verify`] can check at a cost it can pay.
pub(super) fn is_hash(hash: &str) -> bool {
    if is_imported(hash) {
        let cost = hash.get(4..6).and_then(|cost| cost.parse::<u32>().ok());
        return hash.len() == 60 && cost.is_some_and(|cost| (4..=BCRYPT_COST_MAX).contains(&cost));
    }
    hash.len() <= 256
        && PasswordHash::new(hash).is_ok_and(|hash| hash.algorithm.as_str().starts_with("argon2"))
}

/// Synapse has 12; each step doubles the time, and 15 takes some two seconds.
const BCRYPT_COST_MAX: u32 = 15;

/// A place in the queue, given back when dropped.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn new(count: &'a AtomicUsize) -> Result<Self, UserError> {
        if count.fetch_add(1, Ordering::Relaxed) >= WAITING_MAX {
            count.fetch_sub(1, Ordering::Relaxed);
            return Err(UserError::Busy);
        }
        Ok(Self(count))
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The hash of a password nobody has, with the same cost as ours.
const DECOY: &str =
    "$argon2id$v=19$m=19456,t=2,p=1$bWFuZ3JvdmVtYW5ncm92ZQ$0T0Hh2fLX6GQ0r0Hq6rQ2m8m0nLrZ9nqk8dP0nQm9fA";

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_right_password_and_no_other() {
        let pool = Pool::new(CHARS_MIN);
        let stored = pool.hash("correct horse").await.unwrap();
        assert!(stored.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"));
        assert!(pool.verify("correct horse", Some(stored.clone())).await.is_ok());
        assert!(pool.verify("battery staple", Some(stored)).await.is_err());
        assert!(pool.verify("battery staple", None).await.is_err());
        assert!(PasswordHash::new(DECOY).is_ok());
        assert!(matches!(pool.hash("short").await, Err(UserError::WeakPassword { .. })));
        let long = "x".repeat(CHARS_MAX + 1);
        assert!(matches!(pool.hash(&long).await, Err(UserError::WeakPassword { .. })));
    }

    #[tokio::test]
    async fn synapse_hashes_are_understood() {
        let pool = Pool::new(CHARS_MIN);
        let stored = bcrypt::hash("correct horse", 4).unwrap();
        assert!(is_hash(&stored) && is_imported(&stored));
        assert!(pool.verify("correct horse", Some(stored.clone())).await.is_ok());
        assert!(pool.verify("battery staple", Some(stored)).await.is_err());
        assert!(is_hash(DECOY) && !is_hash("$2b$31$aaaa") && !is_hash("plain"));
    }

    #[tokio::test]
    async fn only_so_many_wait() {
        let pool = Pool::new(CHARS_MIN);
        pool.waiting.store(WAITING_MAX, Ordering::Relaxed);
        assert!(matches!(pool.hash("correct horse").await, Err(UserError::Busy)));
        assert_eq!(pool.waiting.load(Ordering::Relaxed), WAITING_MAX);
    }
}
