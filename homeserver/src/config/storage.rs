//! `[storage]`: what the database keeps in memory, and for how long rooms keep their messages.

use std::time::Duration;

use clap::Args;
use serde::Deserialize;

use super::ConfigError;

/// The flags of the section; in the file they stand under `[storage]`.
#[derive(Args, Clone, Debug, Default)]
pub struct StorageFlags {
    /// Memory for events that were read lately, in MiB [default: 32]
    #[arg(id = "event_cache", long = "event-cache", value_name = "MIB", env = "MANGROVE_EVENT_CACHE")]
    pub event_cache: Option<u32>,
    /// Delete messages that are older than their room says (m.room.retention)
    #[arg(id = "retention", long = "retention", env = "MANGROVE_RETENTION")]
    pub retention: bool,
    /// With --retention: days that messages live in rooms that do not say [default: for ever]
    #[arg(
        id = "retention_days",
        long = "retention-days",
        value_name = "DAYS",
        env = "MANGROVE_RETENTION_DAYS"
    )]
    pub retention_days: Option<u32>,
}

/// The section of the file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StorageFile {
    event_cache: Option<u32>,
    retention: Option<bool>,
    retention_days: Option<u32>,
}

/// The section in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Storage {
    /// Bytes of events kept in memory.
    pub event_cache: u64,
    /// Whether rooms' retention is kept, and what holds in rooms that do not say.
    pub retention: Option<Option<Duration>>,
}

/// Greatest cache: more is better left to the operating system.
const EVENT_CACHE_MIB_MAX: u32 = 16 * 1024;

impl Storage {
    pub(super) fn load(flags: &StorageFlags, file: &StorageFile) -> Result<Self, ConfigError> {
        let cache = flags.event_cache.or(file.event_cache).unwrap_or(32);
        if cache > EVENT_CACHE_MIB_MAX {
            return Err(ConfigError(format!(
                "event_cache {cache}: in MiB, at most {EVENT_CACHE_MIB_MAX}; e.g. event_cache = 32"
            )));
        }
        let on = flags.retention || file.retention.unwrap_or(false);
        let days = flags.retention_days.or(file.retention_days);
        if days == Some(0) {
            return Err(ConfigError("retention_days 0: at least a day; leave it out for ever".into()));
        }
        if days.is_some() && !on {
            return Err(ConfigError(
                "retention_days: has no meaning without retention = true (--retention)".into(),
            ));
        }
        let lifetime = days.map(|days| Duration::from_secs(u64::from(days) * 24 * 60 * 60));
        Ok(Self { event_cache: u64::from(cache) << 20, retention: on.then_some(lifetime) })
    }
}
