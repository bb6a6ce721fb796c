//! Owns the one table of room versions.

use std::sync::{Arc, LazyLock};

use ruma::{RoomVersionId, room_version_rules::RoomVersionRules};

/// The version of a new room.
pub const DEFAULT: RoomVersionId = RoomVersionId::V12;

/// A version we speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// As in `m.room.create` and the capabilities.
    pub id: &'static str,
    /// `stable` or `unstable`, as the capabilities say it.
    pub stability: &'static str,
}

/// All versions we speak: those with event ids that are hashes in URL-safe base64, canonical JSON enforced, and state
/// resolution 2 or later. 1 to 5 would need state resolution 1 or lenient JSON, which nobody makes rooms with any more.
pub const SUPPORTED: &[Entry] = &[
    Entry { id: "6", stability: "stable" },
    Entry { id: "7", stability: "stable" },
    Entry { id: "8", stability: "stable" },
    Entry { id: "9", stability: "stable" },
    Entry { id: "10", stability: "stable" },
    Entry { id: "11", stability: "stable" },
    Entry { id: "12", stability: "stable" },
];

/// The rules of a version, if we speak it.
pub fn rules(version: &str) -> Option<RoomVersionRules> {
    SUPPORTED.iter().find(|entry| entry.id == version)?;
    RoomVersionId::try_from(version).ok()?.rules()
}

/// [`rules`], made once.
pub fn shared(version: &str) -> Option<Arc<RoomVersionRules>> {
    static SHARED: LazyLock<Vec<(&str, Arc<RoomVersionRules>)>> = LazyLock::new(|| {
        SUPPORTED.iter().filter_map(|entry| Some((entry.id, Arc::new(rules(entry.id)?)))).collect()
    });
    SHARED.iter().find(|(id, _)| *id == version).map(|(_, rules)| rules.clone())
}
