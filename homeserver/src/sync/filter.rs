//! A client's filter, made ready to be asked once per event.

use ruma::api::client::filter::{Filter, FilterDefinition, LazyLoadOptions, RoomEventFilter, UrlFilter};

/// Events of a timeline when the filter does not say.
const TIMELINE_LIMIT_DEFAULT: usize = 10;
/// The most events of one room's timeline in one response; what is beyond is fetched through `/messages`.
pub const TIMELINE_LIMIT_MAX: usize = 100;

/// A whole filter.
#[derive(Clone, Debug, Default)]
pub struct SyncFilter {
    /// Global account data.
    pub account_data: EventFilter,
    /// Presence; we have none to show, but `not_types` and the like still parse.
    pub presence: EventFilter,
    /// Which rooms at all.
    pub rooms: Names,
    /// Show rooms that were left also in an initial sync.
    pub include_leave: bool,
    /// Timelines.
    pub timeline: EventFilter,
    /// State before the timelines.
    pub state: EventFilter,
    /// Typing and receipts.
    pub ephemeral: EventFilter,
    /// Account data of rooms.
    pub room_account_data: EventFilter,
    /// Members of the state part.
    pub members: Members,
    /// Counts apart for each thread.
    pub thread_counts: bool,
}

/// Which members the state part shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Members {
    /// All.
    #[default]
    All,
    /// Those that the timeline's events need, unless this client was shown them before.
    Lazy,
    /// Those that the timeline's events need, each time.
    LazyRedundant,
}

impl SyncFilter {
    /// Makes a definition ready.
    pub fn new(definition: &FilterDefinition) -> Self {
        let room = &definition.room;
        let lazy = |options: LazyLoadOptions| match options {
            LazyLoadOptions::Disabled => Members::All,
            LazyLoadOptions::Enabled { include_redundant_members: false } => Members::Lazy,
            LazyLoadOptions::Enabled { .. } => Members::LazyRedundant,
        };
        Self {
            account_data: EventFilter::of(&definition.account_data),
            presence: EventFilter::of(&definition.presence),
            rooms: Names::new(room.rooms.as_deref(), &room.not_rooms),
            include_leave: room.include_leave,
            timeline: EventFilter::of_room(&room.timeline),
            state: EventFilter::of_room(&room.state),
            ephemeral: EventFilter::of_room(&room.ephemeral),
            room_account_data: EventFilter::of_room(&room.account_data),
            members: lazy(room.state.lazy_load_options),
            thread_counts: room.timeline.unread_thread_notifications,
        }
    }

    /// How many events a timeline shows at most.
    pub fn timeline_limit(&self) -> usize {
        // A limit of 0 is a wish to see none; ruma's clients and Synapse understand it so too.
        self.timeline.limit.unwrap_or(TIMELINE_LIMIT_DEFAULT).min(TIMELINE_LIMIT_MAX)
    }
}

/// Which names pass: all but some, or only some.
#[derive(Clone, Debug, Default)]
pub struct Names {
    only: Option<Vec<String>>,
    not: Vec<String>,
}

impl Names {
    fn new<T: AsRef<str>>(only: Option<&[T]>, not: &[T]) -> Self {
        let texts = |names: &[T]| names.iter().map(|name| name.as_ref().to_owned()).collect();
        Self { only: only.map(texts), not: texts(not) }
    }

    /// Whether this name passes.
    pub fn passes(&self, name: &str) -> bool {
        !self.not.iter().any(|not| not == name)
            && self.only.as_ref().is_none_or(|only| only.iter().any(|only| only == name))
    }

    /// Whether nothing can pass.
    pub fn is_closed(&self) -> bool {
        self.only.as_ref().is_some_and(Vec::is_empty)
    }
}

/// A filter of events of one part of a response.
#[derive(Clone, Debug, Default)]
pub struct EventFilter {
    types: Option<Vec<String>>,
    not_types: Vec<String>,
    senders: Names,
    rooms: Names,
    url: Option<bool>,
    limit: Option<usize>,
}

impl EventFilter {
    fn of(filter: &Filter) -> Self {
        Self {
            types: filter.types.clone(),
            not_types: filter.not_types.clone(),
            senders: Names::new(filter.senders.as_deref(), &filter.not_senders),
            rooms: Names::default(),
            url: None,
            limit: filter.limit.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX)),
        }
    }

    fn of_room(filter: &RoomEventFilter) -> Self {
        Self {
            types: filter.types.clone(),
            not_types: filter.not_types.clone(),
            senders: Names::new(filter.senders.as_deref(), &filter.not_senders),
            rooms: Names::new(filter.rooms.as_deref(), &filter.not_rooms),
            url: filter.url_filter.as_ref().map(|url| matches!(url, UrlFilter::EventsWithUrl)),
            limit: filter.limit.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX)),
        }
    }

    /// Whether it lets everything through, so that nothing has to be asked per event.
    pub fn is_open(&self) -> bool {
        self.types.is_none()
            && self.not_types.is_empty()
            && self.senders.only.is_none()
            && self.senders.not.is_empty()
            && self.url.is_none()
    }

    /// Whether nothing can pass in this room.
    pub fn is_closed_in(&self, room: &str) -> bool {
        self.types.as_ref().is_some_and(Vec::is_empty) || self.senders.is_closed() || !self.rooms.passes(room)
    }

    /// Whether an event of this type passes, whoever sent it.
    pub fn passes_type(&self, event_type: &str) -> bool {
        !self.not_types.iter().any(|pattern| glob(pattern, event_type))
            && self.types.as_ref().is_none_or(|types| types.iter().any(|pattern| glob(pattern, event_type)))
    }

    /// Whether an event passes; `has_url` is asked only by a filter that wants to know.
    pub fn passes(&self, event_type: &str, sender: &str, has_url: impl FnOnce() -> bool) -> bool {
        self.passes_type(event_type)
            && self.senders.passes(sender)
            && self.url.is_none_or(|wanted| has_url() == wanted)
    }
}

/// Matches `*` against any sequence, everything else against itself; linear in both for each star.
fn glob(pattern: &str, text: &str) -> bool {
    let Some((head, rest)) = pattern.split_once('*') else {
        return pattern == text;
    };
    let Some(mut text) = text.strip_prefix(head) else {
        return false;
    };
    let mut rest = rest;
    while let Some((part, after)) = rest.split_once('*') {
        let Some(at) = text.find(part) else {
            return false;
        };
        text = &text[at + part.len()..];
        rest = after;
    }
    text.ends_with(rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn filter(value: serde_json::Value) -> SyncFilter {
        SyncFilter::new(&serde_json::from_value(value).unwrap())
    }

    #[test]
    fn stars_match_any_sequence() {
        for (pattern, text, fits) in [
            ("m.room.*", "m.room.message", true),
            ("m.room.*", "m.roo", false),
            ("*", "", true),
            ("*.message", "m.room.message", true),
            ("m.*.mes*ge", "m.room.message", true),
            ("m.*.x*", "m.room.message", false),
            ("m.room.message", "m.room.message", true),
            ("a*a", "a", false),
        ] {
            assert_eq!(glob(pattern, text), fits, "{pattern} {text}");
        }
    }

    #[test]
    fn exclusion_wins() {
        let filter = filter(json!({"room": {"not_rooms": ["!b:a"], "rooms": ["!a:a", "!b:a"],
            "timeline": {"types": ["m.*"], "not_types": ["m.room.name"], "not_senders": ["@x:a"], "contains_url": true}}}));
        assert!(filter.rooms.passes("!a:a") && !filter.rooms.passes("!b:a") && !filter.rooms.passes("!c:a"));
        let passes = |kind, sender, url| filter.timeline.passes(kind, sender, || url);
        assert!(passes("m.room.message", "@y:a", true));
        assert!(!passes("m.room.message", "@y:a", false));
        assert!(!passes("m.room.name", "@y:a", true));
        assert!(!passes("m.room.message", "@x:a", true));
        assert!(!filter.timeline.is_open() && filter.state.is_open());
    }

    #[test]
    fn limits_are_bounded() {
        assert_eq!(filter(json!({})).timeline_limit(), TIMELINE_LIMIT_DEFAULT);
        let big = filter(json!({"room": {"timeline": {"limit": 100_000}}}));
        assert_eq!(big.timeline_limit(), TIMELINE_LIMIT_MAX);
    }

    #[test]
    fn lazy_members_are_told_apart() {
        let state = |state| filter(json!({"room": {"state": state}})).members;
        assert_eq!(state(json!({})), Members::All);
        assert_eq!(state(json!({"lazy_load_members": true})), Members::Lazy);
        let redundant = json!({"lazy_load_members": true, "include_redundant_members": true});
        assert_eq!(state(redundant), Members::LazyRedundant);
    }
}
