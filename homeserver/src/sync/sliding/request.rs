//! A request, in either spelling, as the rest of sliding sync understands it.
//!
//! spec: MSC4186 <https://github.com/matrix-org/matrix-spec-proposals/pull/4186>

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use serde::Deserialize;

use super::{
    config::{MEMBER, Pattern, StateConfig, Want},
    filter::RoomFilter,
};

/// Lists of one request (the proposal's number).
const LISTS_MAX: usize = 100;
/// Rooms that one request subscribes to; a client shows one, and preloads some.
const SUBSCRIPTIONS_MAX: usize = 1_000;
/// Patterns of one rule's required state; Element X asks for about twenty.
const PATTERNS_MAX: usize = 200;
/// The longest name of a connection or list, and the longest type or state key that is asked for.
const NAME_BYTES_MAX: usize = 255;
/// The most events of one room's timeline in one response; what is beyond is fetched through `/messages`.
const TIMELINE_LIMIT_MAX: u64 = 100;

/// Which spelling the client uses, and is answered in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// `/unstable/org.matrix.simplified_msc3575/sync`.
    Unstable,
    /// `/v4/sync`.
    Stable,
}

/// What a client asks.
#[derive(Clone, Debug)]
pub(super) struct Ask {
    pub(super) dialect: Dialect,
    pub(super) conn: String,
    pub(super) pos: Option<String>,
    pub(super) txn: Option<String>,
    pub(super) timeout: Duration,
    pub(super) lists: Vec<List>,
    pub(super) subscriptions: Vec<(String, RoomConfig)>,
    pub(super) extensions: Extensions,
}

/// A list.
#[derive(Clone, Debug)]
pub(super) struct List {
    pub(super) name: String,
    /// Inclusive; `None`: all.
    pub(super) ranges: Option<Vec<(u64, u64)>>,
    pub(super) config: RoomConfig,
    pub(super) filter: RoomFilter,
}

/// What is shown of a room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RoomConfig {
    pub(super) limit: usize,
    pub(super) state: Arc<StateConfig>,
}

/// For which rooms an extension is asked.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct Scope {
    #[serde(default)]
    pub(super) enabled: Option<bool>,
    #[serde(default)]
    pub(super) lists: Option<Vec<String>>,
    #[serde(default)]
    pub(super) rooms: Option<Vec<String>>,
}

impl Scope {
    pub(super) fn on(&self) -> bool {
        self.enabled == Some(true)
    }

    /// Whether a room is meant that is in these lists, or subscribed to.
    pub(super) fn covers(&self, room: &str, lists: &[&str], subscribed: bool) -> bool {
        let by_list = match &self.lists {
            None => !lists.is_empty(),
            Some(names) => {
                names.iter().any(|name| name == "*" && !lists.is_empty() || lists.contains(&&**name))
            }
        };
        by_list
            || subscribed
                && match &self.rooms {
                    None => true,
                    Some(names) => names.iter().any(|name| name == "*" || name == room),
                }
    }
}

/// Messages to the device.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct ToDevice {
    #[serde(default)]
    pub(super) enabled: Option<bool>,
    #[serde(default)]
    pub(super) limit: Option<u64>,
    #[serde(default)]
    pub(super) since: Option<String>,
}

/// A list of which the newest part is told.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct Limited {
    #[serde(default)]
    pub(super) enabled: Option<bool>,
    #[serde(default)]
    pub(super) limit: Option<u64>,
    /// Of threads: with their roots.
    #[serde(default)]
    pub(super) include_roots: Option<bool>,
}

impl Limited {
    pub(super) fn on(&self) -> bool {
        self.enabled == Some(true)
    }
}

/// Who people are.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct Profiles {
    #[serde(flatten)]
    pub(super) scope: Scope,
    /// Only these fields.
    #[serde(default)]
    pub(super) fields: Option<Vec<String>>,
}

/// What is asked for beside rooms.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct Extensions {
    #[serde(default)]
    pub(super) to_device: ToDevice,
    #[serde(default)]
    pub(super) e2ee: Scope,
    #[serde(default)]
    pub(super) account_data: Scope,
    #[serde(default)]
    pub(super) receipts: Scope,
    #[serde(default)]
    pub(super) typing: Scope,
    #[serde(default, rename = "io.element.msc4308.thread_subscriptions")]
    pub(super) thread_subscriptions: Limited,
    #[serde(default, rename = "io.element.msc4360.threads")]
    pub(super) threads: Limited,
    #[serde(default, rename = "org.matrix.msc4262.profiles")]
    pub(super) profiles: Profiles,
    #[serde(default, rename = "org.matrix.msc4354.sticky_events")]
    pub(super) sticky_events: ToDevice,
}

#[derive(Deserialize)]
struct Body {
    #[serde(default)]
    conn_id: Option<String>,
    #[serde(default)]
    pos: Option<String>,
    #[serde(default)]
    txn_id: Option<String>,
    #[serde(default)]
    timeout: Option<u64>,
    #[serde(default)]
    lists: BTreeMap<String, RawList>,
    #[serde(default)]
    room_subscriptions: BTreeMap<String, RawConfig>,
    #[serde(default)]
    extensions: Extensions,
}

#[derive(Deserialize)]
struct RawList {
    #[serde(default)]
    ranges: Option<Vec<(u64, u64)>>,
    #[serde(default)]
    range: Option<(u64, u64)>,
    #[serde(default)]
    filters: Option<RoomFilter>,
    #[serde(flatten)]
    config: RawConfig,
}

#[derive(Deserialize)]
struct RawConfig {
    #[serde(default)]
    timeline_limit: u64,
    #[serde(default)]
    required_state: RequiredState,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum RequiredState {
    Pairs(Vec<(String, String)>),
    Object {
        #[serde(default)]
        include: Vec<Element>,
        #[serde(default)]
        exclude: Vec<Element>,
        #[serde(default)]
        lazy_members: bool,
    },
}

impl Default for RequiredState {
    fn default() -> Self {
        Self::Pairs(Vec::new())
    }
}

#[derive(Deserialize)]
struct Element {
    #[serde(rename = "type")]
    kind: Option<String>,
    state_key: Option<String>,
}

impl Ask {
    /// Reads a body. `pos` and `timeout` of the query win over those of the body; `user` is who `$ME` means.
    pub(super) fn parse(
        body: &[u8],
        dialect: Dialect,
        pos: Option<String>,
        timeout: Option<u64>,
        user: &str,
    ) -> Result<Self, String> {
        let body: Body = serde_json::from_slice(body).map_err(|error| error.to_string())?;
        let conn = body.conn_id.unwrap_or_default();
        if conn.len() > NAME_BYTES_MAX {
            return Err(format!("a conn_id has at most {NAME_BYTES_MAX} bytes"));
        }
        if body.lists.len() > LISTS_MAX || body.lists.keys().any(|name| name.len() > NAME_BYTES_MAX) {
            return Err(format!("at most {LISTS_MAX} lists, with names of at most {NAME_BYTES_MAX} bytes"));
        }
        if body.room_subscriptions.len() > SUBSCRIPTIONS_MAX {
            return Err(format!("at most {SUBSCRIPTIONS_MAX} room subscriptions"));
        }
        let mut lists = Vec::new();
        for (name, list) in body.lists {
            let ranges = match (list.ranges, list.range) {
                (Some(ranges), _) => Some(ranges),
                (None, Some(range)) => Some(vec![range]),
                (None, None) => None,
            };
            if ranges.iter().flatten().any(|(from, to)| from > to) {
                return Err(format!("list {name:?}: a range is [first, last], both counted"));
            }
            let config = list.config.ready(user)?;
            lists.push(List { name, ranges, config, filter: list.filters.unwrap_or_default() });
        }
        let mut subscriptions = Vec::new();
        for (room, config) in body.room_subscriptions {
            subscriptions.push((room, config.ready(user)?));
        }
        Ok(Self {
            dialect,
            conn,
            pos: pos.or(body.pos),
            txn: body.txn_id.filter(|txn| txn.len() <= NAME_BYTES_MAX),
            timeout: Duration::from_millis(timeout.or(body.timeout).unwrap_or(0)),
            lists,
            subscriptions,
            extensions: body.extensions,
        })
    }
}

impl RawConfig {
    fn ready(self, user: &str) -> Result<RoomConfig, String> {
        let limit = self.timeline_limit.min(TIMELINE_LIMIT_MAX) as usize;
        let state = self.required_state.ready(user)?;
        Ok(RoomConfig { limit, state: Arc::new(state) })
    }
}

impl RequiredState {
    fn ready(self, user: &str) -> Result<StateConfig, String> {
        let mut want = Want::default();
        let mut lazy = false;
        match self {
            Self::Pairs(pairs) => {
                let star = |text: String| (text != "*").then_some(text);
                for (kind, key) in pairs {
                    want.members_apart |= kind == MEMBER;
                    let key = match &*key {
                        "$LAZY" => {
                            lazy |= kind == MEMBER;
                            continue;
                        }
                        "$ME" => user.to_owned(),
                        _ => key,
                    };
                    want.include.push(Pattern { kind: star(kind), key: star(key) });
                }
            }
            Self::Object { include, exclude, lazy_members } => {
                let pattern = |element: Element| Pattern { kind: element.kind, key: element.state_key };
                want.include = include.into_iter().map(pattern).collect();
                want.exclude = exclude.into_iter().map(pattern).collect();
                want.members_apart = lazy_members;
                lazy = lazy_members;
            }
        }
        let patterns = want.include.iter().chain(&want.exclude);
        if patterns.clone().count() > PATTERNS_MAX {
            return Err(format!("at most {PATTERNS_MAX} elements of required_state"));
        }
        if patterns
            .flat_map(|pattern| [&pattern.kind, &pattern.key])
            .flatten()
            .any(|text| text.len() > NAME_BYTES_MAX)
        {
            return Err(format!("types and state keys have at most {NAME_BYTES_MAX} bytes"));
        }
        Ok(StateConfig::new(want, lazy))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parse(body: &serde_json::Value) -> Result<Ask, String> {
        Ask::parse(body.to_string().as_bytes(), Dialect::Unstable, None, None, "@me:a")
    }

    #[test]
    fn both_spellings_are_understood() {
        let ask = parse(&json!({"conn_id": "main", "lists": {"a": {"ranges": [[0, 9]], "timeline_limit": 1,
            "required_state": [["m.room.member", "$LAZY"], ["m.room.member", "$ME"], ["m.room.name", ""]]},
            "b": {"range": [0, 3], "timeline_limit": 5000,
            "required_state": {"include": [{}], "lazy_members": true}}, "c": {}},
            "room_subscriptions": {"!x:a": {"timeline_limit": 20}}}))
        .unwrap();
        let [a, b, c] = &ask.lists[..] else { panic!() };
        assert_eq!((&a.ranges, a.config.limit), (&Some(vec![(0, 9)]), 1));
        assert!(a.config.state.lazy && a.config.state.matches(MEMBER, "@me:a"));
        assert!(!a.config.state.matches(MEMBER, "@you:a"));
        assert_eq!((&b.ranges, b.config.limit), (&Some(vec![(0, 3)]), 100));
        assert!(b.config.state.lazy && b.config.state.matches("any", "thing"));
        assert!(!b.config.state.matches(MEMBER, "@you:a"));
        assert_eq!(c.ranges, None);
        assert_eq!(ask.subscriptions.len(), 1);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for body in [
            json!([]),
            json!({"lists": {"a": {"ranges": [[3, 1]]}}}),
            json!({"lists": {"a": {"ranges": [[-1, 1]]}}}),
            json!({"conn_id": "x".repeat(300)}),
            json!({"lists": {"a": {"required_state": [["a"]]}}}),
        ] {
            // A list where an object is asked for is read by position; it holds nothing then.
            if let Ok(ask) = parse(&body) {
                assert!(body.is_array() && ask.lists.is_empty(), "{body}");
            }
        }
    }

    #[test]
    fn an_extension_covers_what_it_names() {
        let scope: Scope = serde_json::from_value(json!({"enabled": true})).unwrap();
        assert!(
            scope.covers("!a", &["x"], false)
                && scope.covers("!a", &[], true)
                && !scope.covers("!a", &[], false)
        );
        let scope: Scope =
            serde_json::from_value(json!({"enabled": true, "lists": ["y"], "rooms": ["!b"]})).unwrap();
        assert!(
            !scope.covers("!a", &["x"], true)
                && scope.covers("!a", &["y"], false)
                && scope.covers("!b", &[], true)
        );
    }
}
