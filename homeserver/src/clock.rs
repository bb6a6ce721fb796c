//! The homeserver's one wall clock, movable by hand in tests.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use ruma::{MilliSecondsSinceUnixEpoch, UInt};

/// Tells the time to every area. Cloning shares the clock.
#[derive(Clone, Debug, Default)]
pub struct Clock {
    /// `None`: the operating system's clock.
    manual_ms: Option<Arc<AtomicU64>>,
}

impl Clock {
    /// The operating system's clock.
    pub fn system() -> Self {
        Self::default()
    }

    /// A clock that only [`Clock::advance`] moves.
    pub fn manual(start_ms: u64) -> Self {
        Self { manual_ms: Some(Arc::new(AtomicU64::new(start_ms))) }
    }

    /// Milliseconds since the Unix epoch; 0 if the system's clock stands before it.
    pub fn now_ms(&self) -> u64 {
        match &self.manual_ms {
            Some(ms) => ms.load(Ordering::Relaxed),
            None => SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64),
        }
    }

    /// Now, as events and responses carry it.
    pub fn now(&self) -> MilliSecondsSinceUnixEpoch {
        MilliSecondsSinceUnixEpoch(UInt::new_saturating(self.now_ms()))
    }

    /// Puts a manual clock to a time, also an earlier one; does nothing to the system's.
    #[cfg(test)]
    pub(crate) fn set(&self, to_ms: u64) {
        if let Some(ms) = &self.manual_ms {
            ms.store(to_ms, Ordering::Relaxed);
        }
    }

    /// Moves a manual clock; does nothing to the system's.
    pub fn advance(&self, by_ms: u64) {
        if let Some(ms) = &self.manual_ms {
            ms.fetch_add(by_ms, Ordering::Relaxed);
        }
    }
}
