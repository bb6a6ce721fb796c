//! Owns the worker's private, speculative head of a room: the graph's ends and the part of the state that the rules look
//! up, as they will be when everything that is on its way to the writer is committed.
//!
//! Pure: what is missing is named ([`Head::missing`]) and told ([`Head::learn`]) by the worker.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use ruma::{
    CanonicalJsonObject, EventId, OwnedEventId, OwnedRoomId, UserId, events::TimelineEventType,
    room_version_rules::RoomVersionRules,
};

use crate::room::{
    Draft, RoomError,
    core::{
        auth::{self, Action},
        build::{self, Position, Signer},
        pdu::{CREATE, FullEvent, Pdu},
    },
};

/// Ends that a new event of ours builds on: enough to merge a busy room's forks, few enough for `prev_events` (20).
pub(in crate::room) const ENDS_MAX: usize = 10;
/// Events remembered to have the present state after them; past this the list starts anew and placing asks the database.
const RECENT_MAX: usize = 4096;
/// State entries kept when nothing is on its way; past this they are read again.
const STATE_MAX: usize = 1024;

/// (type, state key).
pub(in crate::room) type Key = (String, String);

/// See the module.
pub(in crate::room) struct Head {
    /// The room; for one being made whose id is its create event's hash, unknown at first.
    pub(in crate::room) room: Option<OwnedRoomId>,
    pub(in crate::room) version: Arc<str>,
    pub(in crate::room) rules: Arc<RoomVersionRules>,
    /// The database's number of this head; `None` for a room that is being made.
    pub(in crate::room) number: Option<i64>,
    /// Ends of the graph with their depths.
    pub(in crate::room) ends: Vec<(OwnedEventId, i64)>,
    /// Reference hashes of the ends, in versions that name them.
    hashes: HashMap<OwnedEventId, Arc<str>>,
    state: HashMap<Key, Option<Arc<Pdu>>>,
    /// What is not in `state` does not exist.
    complete: bool,
    recent: HashSet<OwnedEventId>,
    /// Snapshot of the present state, as long as nothing on its way has changed that.
    pub(in crate::room) snapshot: Option<i64>,
    /// Only a part of the room's state is here.
    pub(in crate::room) partial: bool,
}

impl Head {
    /// A room that is being made.
    pub(in crate::room) fn empty(
        room: Option<OwnedRoomId>,
        version: Arc<str>,
        rules: Arc<RoomVersionRules>,
    ) -> Self {
        Self {
            room,
            version,
            rules,
            number: None,
            ends: Vec::new(),
            hashes: HashMap::new(),
            state: HashMap::new(),
            complete: true,
            recent: HashSet::new(),
            snapshot: None,
            partial: false,
        }
    }

    /// The head that is committed. `ends`: with depth, and whether the state after it is the present one.
    pub(in crate::room) fn stored(
        room: OwnedRoomId,
        version: Arc<str>,
        rules: Arc<RoomVersionRules>,
        number: i64,
        ends: Vec<(OwnedEventId, i64, bool)>,
        snapshot: i64,
    ) -> Self {
        let recent = ends.iter().filter(|end| end.2).map(|end| end.0.clone()).collect();
        Self {
            room: Some(room),
            version,
            rules,
            number: Some(number),
            ends: ends.into_iter().map(|(id, depth, _)| (id, depth)).collect(),
            hashes: HashMap::new(),
            state: HashMap::new(),
            complete: false,
            recent,
            snapshot: Some(snapshot),
            partial: false,
        }
    }

    /// This head with the deepest of its ends alone, as many as an event builds on; what the state is there it does not
    /// know.
    pub(in crate::room) fn of_deepest(&self) -> Self {
        let mut ends = self.ends.clone();
        ends.sort_by_key(|(_, depth)| std::cmp::Reverse(*depth));
        ends.truncate(ENDS_MAX);
        Self {
            room: self.room.clone(),
            version: self.version.clone(),
            rules: self.rules.clone(),
            number: self.number,
            ends,
            hashes: self.hashes.clone(),
            state: HashMap::new(),
            complete: false,
            recent: HashSet::new(),
            snapshot: None,
            partial: self.partial,
        }
    }

    /// Reference hashes of ends ([`Pdu::hash`]).
    pub(in crate::room) fn learn_hashes(&mut self, hashes: HashMap<OwnedEventId, Arc<str>>) {
        self.hashes.extend(hashes);
    }

    /// State entries that an event needs and this head has not been told yet.
    pub(in crate::room) fn missing(&self, keys: &[Key]) -> Vec<Key> {
        if self.complete {
            return Vec::new();
        }
        keys.iter().filter(|key| !self.state.contains_key(*key)).cloned().collect()
    }

    /// A committed state entry. What is on its way knows better.
    pub(in crate::room) fn learn(&mut self, key: Key, event: Option<Arc<Pdu>>) {
        self.state.entry(key).or_insert(event);
    }

    /// Forgets what can be read again. Only when nothing is on its way.
    pub(in crate::room) fn shrink(&mut self) {
        if !self.complete && self.state.len() > STATE_MAX {
            self.state.clear();
        }
    }

    /// The state's event of a (type, state key), as far as told.
    pub(in crate::room) fn entry(&self, kind: &str, key: &str) -> Option<Arc<Pdu>> {
        self.state.get(&(kind.to_owned(), key.to_owned())).cloned().flatten()
    }

    /// An event among the state entries that were told.
    pub(in crate::room) fn by_id(&self, id: &EventId) -> Option<Arc<Pdu>> {
        self.state.values().flatten().find(|pdu| pdu.event_id == id).cloned()
    }

    /// Whether the state after this event is known to be the present one.
    pub(in crate::room) fn is_recent(&self, id: &EventId) -> bool {
        self.recent.contains(id)
    }

    /// Notes that the state after this event is the present one.
    pub(in crate::room) fn note_recent(&mut self, id: OwnedEventId) {
        if self.recent.len() >= RECENT_MAX {
            self.recent.clear();
        }
        self.recent.insert(id);
    }

    /// What a draft needs of the state.
    pub(in crate::room) fn needed(&self, sender: &UserId, draft: &Draft) -> Result<Vec<Key>, RoomError> {
        let kind = TimelineEventType::from(draft.event_type.as_str());
        auth::needed(&self.rules, &kind, sender, draft.state_key.as_deref(), &draft.content)
            .map_err(RoomError::Invalid)
    }

    /// The event on this head, without hashes and signatures. Everything it needs has been told.
    pub(in crate::room) fn unsigned(
        &self,
        sender: &UserId,
        draft: &Draft,
        now_ms: u64,
    ) -> Result<CanonicalJsonObject, RoomError> {
        let mut ends: Vec<_> = self.ends.iter().collect();
        ends.sort_by_key(|(_, depth)| std::cmp::Reverse(*depth));
        ends.truncate(ENDS_MAX);
        let needed = self.needed(sender, draft)?;
        let auth: Vec<&Arc<Pdu>> = needed
            .iter()
            .filter(|key| auth::is_named(&self.rules, key))
            .filter_map(|key| self.state.get(key)?.as_ref())
            .collect();
        let mut hashes = self.hashes.clone();
        hashes.extend(auth.iter().filter_map(|pdu| Some((pdu.event_id.clone(), pdu.hash.clone()?))));
        let position = Position {
            hashes,
            depth: ends.iter().map(|(_, depth)| depth.saturating_add(1)).max().unwrap_or(1),
            prev: ends.into_iter().map(|(id, _)| id.clone()).collect(),
            auth: auth.into_iter().map(|pdu| pdu.event_id.clone()).collect(),
        };
        let by_hash = self.rules.authorization.room_create_event_id_as_room_id;
        let room = match draft.event_type.as_str() {
            CREATE if by_hash => None,
            _ => Some(
                self.room.as_deref().ok_or_else(|| RoomError::Invalid("the room has no id yet".into()))?,
            ),
        };
        build::unsigned(room, sender, draft, &position, now_ms, &self.rules)
    }

    /// A whole event of ours on this head, allowed by its state.
    pub(in crate::room) fn build(
        &self,
        sender: &UserId,
        draft: &Draft,
        now_ms: u64,
        signer: &Signer,
    ) -> Result<FullEvent, RoomError> {
        let event = build::finish(self.unsigned(sender, draft, now_ms)?, signer, &self.rules)?;
        self.check(&event.pdu)?;
        Ok(event)
    }

    /// The rules by this head's state.
    pub(in crate::room) fn check(&self, event: &Pdu) -> Result<(), RoomError> {
        let own = auth::check_own(&self.rules, event, |id| self.by_id(id));
        own.and_then(|()| auth::check_state(&self.rules, event, |kind, key| self.entry(kind, key)))
            .map_err(RoomError::Forbidden)
    }

    /// Whether a user may redact others' events, by this head's state.
    pub(in crate::room) fn may_redact(&self, user: &UserId) -> bool {
        self.entry(CREATE, "").is_some_and(|create| {
            let levels = self.entry("m.room.power_levels", "");
            auth::may(&self.rules, &create, levels.as_ref(), user, Action::Redact)
        })
    }

    /// The head after an accepted event whose state before is this head's (`prev`: the ends it builds on).
    pub(in crate::room) fn advance(&mut self, event: &FullEvent) {
        let pdu = &event.pdu;
        let depth =
            match self.ends.iter().filter(|(id, _)| pdu.prev.contains(id)).map(|(_, depth)| *depth).max() {
                Some(depth) => depth.saturating_add(1),
                None => pdu.depth,
            };
        self.ends.retain(|(id, _)| !pdu.prev.contains(id));
        self.ends.push((pdu.event_id.clone(), depth));
        if let Some(hash) = &pdu.hash {
            self.hashes.retain(|id, _| !pdu.prev.contains(id));
            self.hashes.insert(pdu.event_id.clone(), hash.clone());
        }
        if let Some(key) = pdu.key() {
            self.state.insert(key, Some(pdu.clone()));
            self.recent.clear();
            self.snapshot = None;
        }
        self.note_recent(pdu.event_id.clone());
        self.number = Some(self.number.map_or(1, |number| number + 1));
        if self.room.is_none() {
            self.room = Some(pdu.room.clone());
        }
    }

    /// The head after an event that is kept but joins nothing (soft-failed or rejected).
    pub(in crate::room) fn step(&mut self) {
        self.number = self.number.map(|number| number + 1);
    }
}
