//! A user's own rule for who may invite it, kept in its account data.
//!
//! spec: <https://spec.matrix.org/v1.19/client-server-api/#invite-permission>, and MSC4155's lists of users and servers.

use ruma::UserId;
use serde_json::Value;

use crate::store::{
    Nid, ReadTx, StoreError,
    schema::account_data::{self, GLOBAL},
};

/// What becomes of an invite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// The user sees it.
    Allow,
    /// It seems to arrive; the user does not see it.
    Ignore,
    /// It is refused (`M_INVITE_BLOCKED`).
    Block,
}

/// The types that clients write the rule under: MSC4155's, the specification's, and that one's unstable name.
const LISTS: &str = "org.matrix.msc4155.invite_permission_config";
const STABLE: &str = "m.invite_permission_config";
const UNSTABLE: &str = "org.matrix.msc4380.invite_permission_config";
/// Entries of one list that are looked at.
const ENTRIES_MAX: usize = 10_000;

/// The rule of a user of ours for invites by `sender`.
pub fn rule(tx: &ReadTx<'_>, user: Nid, sender: &UserId) -> Result<Rule, StoreError> {
    let read = |kind| -> Result<Value, StoreError> {
        let stored = account_data::get(tx, user, GLOBAL, kind)?;
        Ok(stored.and_then(|json| serde_json::from_str(&json).ok()).unwrap_or_default())
    };
    if let Some(rule) = listed(&read(LISTS)?, sender) {
        return Ok(rule);
    }
    let blocks = read(STABLE)?["default_action"] == "block" || read(UNSTABLE)?["block_all"] == true;
    Ok(if blocks { Rule::Block } else { Rule::Allow })
}

/// What the lists say: users before servers, and in each what allows before what hides before what refuses.
fn listed(config: &Value, sender: &UserId) -> Option<Rule> {
    let names = [("users", sender.as_str()), ("servers", sender.server_name().as_str())];
    for (kind, name) in names {
        for (key, rule) in [("allowed", Rule::Allow), ("ignored", Rule::Ignore), ("blocked", Rule::Block)] {
            let list = config[format!("{key}_{kind}")].as_array();
            let mut patterns = list.into_iter().flatten().filter_map(Value::as_str).take(ENTRIES_MAX);
            if patterns.any(|pattern| matches(pattern, name)) {
                return Some(rule);
            }
        }
    }
    None
}

/// Whether a pattern with `*` and `?` fits the whole text. Linear in both but for the last `*`.
fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut at, mut read) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while read < text.len() {
        match pattern.get(at) {
            Some(b'*') => {
                star = Some((at + 1, read));
                at += 1;
            }
            Some(&byte) if byte == b'?' || byte == text[read] => {
                at += 1;
                read += 1;
            }
            _ => match star {
                Some((after, from)) => {
                    star = Some((after, from + 1));
                    (at, read) = (after, from + 1);
                }
                None => return false,
            },
        }
    }
    pattern[at..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use ruma::user_id;
    use serde_json::json;

    use super::*;

    #[test]
    fn users_count_before_servers_and_what_allows_before_what_refuses() {
        let config = json!({
            "allowed_users": ["@good:bad.example"], "ignored_users": ["@spam*:*"],
            "blocked_servers": ["bad.example", "*.evil"], "allowed_servers": ["ok.evil"],
        });
        let says = |user: &UserId| listed(&config, user);
        assert_eq!(says(user_id!("@good:bad.example")), Some(Rule::Allow));
        assert_eq!(says(user_id!("@other:bad.example")), Some(Rule::Block));
        assert_eq!(says(user_id!("@spammer:bad.example")), Some(Rule::Ignore));
        assert_eq!(says(user_id!("@a:ok.evil")), Some(Rule::Allow));
        assert_eq!(says(user_id!("@a:x.evil")), Some(Rule::Block));
        assert_eq!(says(user_id!("@a:example")), None);
        assert_eq!(listed(&json!([1]), user_id!("@a:b")), None);
    }

    #[test]
    fn patterns_fit_whole_names() {
        for (pattern, text, fits) in [
            ("*", "", true),
            ("a*b?", "axxbc", true),
            ("a*b", "ab ", false),
            ("", "a", false),
            ("*a*a", "aab", false),
        ] {
            assert_eq!(matches(pattern, text), fits, "{pattern} {text}");
        }
    }
}
