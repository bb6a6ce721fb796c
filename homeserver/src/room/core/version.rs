//! Owns the one table of room versions.

use std::sync::{Arc, LazyLock};

use super::owned;
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

/// All versions we speak. What sets 1 to 5 apart: event ids that the event itself says (1, 2) or with other letters (3),
/// lists of events with their hashes (1, 2), state resolution 1 (1), numbers that are not canonical (up to 5).
pub const SUPPORTED: &[Entry] = &[
    Entry { id: "1", stability: "stable" },
    Entry { id: "2", stability: "stable" },
    Entry { id: "3", stability: "stable" },
    Entry { id: "4", stability: "stable" },
    Entry { id: "5", stability: "stable" },
    Entry { id: "6", stability: "stable" },
    Entry { id: "7", stability: "stable" },
    Entry { id: "8", stability: "stable" },
    Entry { id: "9", stability: "stable" },
    Entry { id: "10", stability: "stable" },
    Entry { id: "11", stability: "stable" },
    Entry { id: "12", stability: "stable" },
    Entry { id: "org.matrix.msc3757.10", stability: "unstable" },
    Entry { id: "org.matrix.msc3757.11", stability: "unstable" },
];

/// Versions with state that belongs to users begin so, and go on with the version that they are based on.
const OWNED: &str = "org.matrix.msc3757.";

/// The rules of a version, if we speak it.
pub fn rules(version: &str) -> Option<RoomVersionRules> {
    SUPPORTED.iter().find(|entry| entry.id == version)?;
    if let Some(base) = version.strip_prefix(OWNED) {
        return RoomVersionId::try_from(base).ok()?.rules().map(owned::based_on);
    }
    RoomVersionId::try_from(version).ok()?.rules()
}

/// [`rules`], made once.
pub fn shared(version: &str) -> Option<Arc<RoomVersionRules>> {
    static SHARED: LazyLock<Vec<(&str, Arc<RoomVersionRules>)>> = LazyLock::new(|| {
        SUPPORTED.iter().filter_map(|entry| Some((entry.id, Arc::new(rules(entry.id)?)))).collect()
    });
    SHARED.iter().find(|(id, _)| *id == version).map(|(_, rules)| rules.clone())
}
