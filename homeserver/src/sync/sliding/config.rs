//! What of a room's state a client asks for: patterns of type and state key, combined by union.
//!
//! Both spellings are understood: the pairs of the unstable endpoint, with `*`, `$ME` and `$LAZY`, and the object with
//! `include`, `exclude` and `lazy_members`. A want that names `m.room.member` (or loads members lazily) takes members by
//! those words alone: a wildcard over all types then means everything else, so that no step grows with the members.

use serde::{Deserialize, Serialize};

/// The type of membership events.
pub(super) const MEMBER: &str = "m.room.member";

/// A type and state key; `None` fits all.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(super) struct Pattern {
    #[serde(rename = "t")]
    pub(super) kind: Option<String>,
    #[serde(rename = "k")]
    pub(super) key: Option<String>,
}

impl Pattern {
    fn fits(&self, kind: &str, key: &str) -> bool {
        self.kind.as_deref().is_none_or(|own| own == kind) && self.key.as_deref().is_none_or(|own| own == key)
    }
}

/// What one rule of the request asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(super) struct Want {
    #[serde(rename = "i")]
    pub(super) include: Vec<Pattern>,
    #[serde(rename = "e")]
    pub(super) exclude: Vec<Pattern>,
    /// Wildcards over all types do not mean members.
    #[serde(rename = "m")]
    pub(super) members_apart: bool,
}

impl Want {
    fn matches(&self, kind: &str, key: &str) -> bool {
        let apart = self.members_apart && kind == MEMBER;
        self.include.iter().any(|pattern| !(apart && pattern.kind.is_none()) && pattern.fits(kind, key))
            && !self.exclude.iter().any(|pattern| pattern.fits(kind, key))
    }
}

/// What all rules that a room matches ask for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) struct StateConfig {
    #[serde(rename = "w")]
    wants: Vec<Want>,
    #[serde(rename = "l")]
    pub(super) lazy: bool,
}

impl StateConfig {
    pub(super) fn new(mut want: Want, lazy: bool) -> Self {
        want.include.sort();
        want.include.dedup();
        want.exclude.sort();
        want.exclude.dedup();
        Self { wants: vec![want], lazy }
    }

    /// Both.
    pub(super) fn union(&self, other: &Self) -> Self {
        let mut wants: Vec<Want> = self.wants.iter().chain(&other.wants).cloned().collect();
        wants.sort();
        wants.dedup();
        Self { wants, lazy: self.lazy || other.lazy }
    }

    /// Whether a state event is asked for (apart from members that are loaded lazily).
    pub(super) fn matches(&self, kind: &str, key: &str) -> bool {
        self.wants.iter().any(|want| want.matches(kind, key))
    }

    /// How to find what is asked for.
    pub(super) fn reach(&self) -> Reach {
        let mut reach = Reach::default();
        for want in &self.wants {
            for pattern in &want.include {
                match (&pattern.kind, &pattern.key) {
                    (Some(kind), Some(key)) => reach.exact.push((kind.clone(), key.clone())),
                    (Some(kind), None) if kind == MEMBER => reach.members = true,
                    (Some(_), None) => reach.rest = true,
                    (None, key) => {
                        reach.rest = true;
                        if !want.members_apart {
                            match key {
                                Some(key) => reach.exact.push((MEMBER.to_owned(), key.clone())),
                                None => reach.members = true,
                            }
                        }
                    }
                }
            }
        }
        reach.exact.sort();
        reach.exact.dedup();
        reach
    }
}

/// Where the state that a [`StateConfig`] asks for is found.
#[derive(Debug, Default)]
pub(super) struct Reach {
    /// Single entries.
    pub(super) exact: Vec<(String, String)>,
    /// Everything but members has to be looked through.
    pub(super) rest: bool,
    /// All members have to be looked through.
    pub(super) members: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(kind: Option<&str>, key: Option<&str>) -> Pattern {
        Pattern { kind: kind.map(ToOwned::to_owned), key: key.map(ToOwned::to_owned) }
    }

    #[test]
    fn exclusion_wins_within_one_rule_only() {
        let all_but = StateConfig::new(
            Want {
                include: vec![Pattern::default()],
                exclude: vec![pattern(Some("m.room.create"), Some(""))],
                members_apart: false,
            },
            false,
        );
        assert!(all_but.matches("m.room.name", "") && !all_but.matches("m.room.create", ""));
        let create = Want { include: vec![pattern(Some("m.room.create"), Some(""))], ..Want::default() };
        let both = all_but.union(&StateConfig::new(create, true));
        assert!(both.matches("m.room.create", "") && both.lazy);
        assert_eq!(both, both.union(&all_but));
    }

    #[test]
    fn members_apart_are_not_meant_by_a_wildcard() {
        let want = Want {
            include: vec![Pattern::default(), pattern(Some(MEMBER), Some("@me:a"))],
            exclude: Vec::new(),
            members_apart: true,
        };
        let config = StateConfig::new(want, false);
        assert!(config.matches(MEMBER, "@me:a") && !config.matches(MEMBER, "@you:a"));
        assert!(config.matches("x", "@you:a"));
        let reach = config.reach();
        assert!(reach.rest && !reach.members && reach.exact.len() == 1);
    }
}
