//! Servers that the operator wants nothing to do with: they are neither answered nor asked.
//!
//! Their keys are asked for all the same: rooms are shared with others, and what people there have said is part of them.
//! It is the rooms' access lists that keep it out.

use std::sync::{PoisonError, RwLock};

use ruma::{ServerName, events::room::server_acl::RoomServerAclEventContent};

/// Names, and patterns with `*` and `?`, as in rooms' access lists: the port does not count, nor does the case.
#[derive(Debug, Default)]
pub(super) struct Blocked(RwLock<Option<RoomServerAclEventContent>>);

impl Blocked {
    pub(super) fn set(&self, patterns: &[String]) {
        let list = (!patterns.is_empty())
            .then(|| RoomServerAclEventContent::new(true, vec!["*".to_owned()], patterns.to_vec()));
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = list;
    }

    pub(super) fn has(&self, server: &ServerName) -> bool {
        let list = self.0.read().unwrap_or_else(PoisonError::into_inner);
        list.as_ref().is_some_and(|list| !list.is_allowed(server))
    }
}

#[cfg(test)]
mod tests {
    use ruma::server_name;

    use super::*;

    #[test]
    fn names_and_patterns_are_blocked_whatever_the_port() {
        let blocked = Blocked::default();
        assert!(!blocked.has(server_name!("evil.example")));
        blocked.set(&["evil.example".to_owned(), "*.spam.example".to_owned(), "10.0.0.?".to_owned()]);
        for name in ["evil.example", "evil.example:8448", "a.spam.example", "10.0.0.7", "EVIL.example"] {
            assert!(blocked.has(&ServerName::parse(name).unwrap()), "{name}");
        }
        for name in ["good.example", "notevil.example", "spam.example", "10.0.0.77"] {
            assert!(!blocked.has(&ServerName::parse(name).unwrap()), "{name}");
        }
        blocked.set(&[]);
        assert!(!blocked.has(server_name!("evil.example")));
    }
}
