//! What a client of either sync keeps of what it is told, as real ones do, and what it may rely on while it does.

use std::collections::{BTreeMap, BTreeSet};

use http::StatusCode;
use serde_json::{Value, json};

use super::{
    super::part,
    truth::{Count, Room},
};
use crate::api::tests::{Home, User};

const SLIDING: &str = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync";

/// A room as a client knows it.
#[derive(Clone, Debug, Default)]
pub(super) struct View {
    pub(super) membership: String,
    pub(super) state: BTreeMap<(String, String), String>,
    /// Event ids since the last gap, oldest first.
    pub(super) timeline: Vec<String>,
    /// Where to page back from.
    pub(super) prev_batch: String,
    /// Unread events of the main timeline ("main", or of everything if threads are not told apart) and of threads.
    pub(super) unread: BTreeMap<String, Count>,
    /// (user, thread, private) -> event.
    pub(super) receipts: BTreeMap<(String, String, bool), String>,
    pub(super) data: BTreeMap<String, Value>,
    pub(super) joined: u64,
    pub(super) name: Option<String>,
}

/// All that a client knows.
#[derive(Clone, Debug, Default)]
pub(super) struct Client {
    /// v2's `since`, sliding sync's `pos`.
    pub(super) token: Option<String>,
    pub(super) rooms: BTreeMap<String, View>,
    pub(super) data: BTreeMap<String, Value>,
    /// Sliding sync: the lists' counts.
    pub(super) counts: BTreeMap<String, u64>,
}

/// What is true of each room at the moment of the response, for who asks.
pub(super) type Truths = BTreeMap<String, Room>;

impl View {
    /// Takes a piece of timeline in. `whole`: it takes the place of what was known.
    fn extend(&mut self, told: &[Value], limited: bool, whole: bool, (user, truth): (&str, &Room)) {
        let visible = truth.visible(user);
        let events: Vec<String> = told.iter().map(|event| text(event, "event_id")).collect();
        let place = |id: &String| {
            visible
                .iter()
                .position(|other| other == id)
                .unwrap_or_else(|| panic!("{id} is not to be seen: {visible:?}"))
        };
        let places: Vec<usize> = events.iter().map(place).collect();
        assert!(places.windows(2).all(|pair| pair[0] + 1 == pair[1]), "a hole in one piece: {places:?}");
        let last = self.timeline.last().map(place);
        if whole {
            self.timeline.clear();
        } else if let (Some(last), Some(first)) = (last, places.first()) {
            let hidden = truth.hides_state(user, &visible[last], &visible[*first]);
            let gap = *first > last + 1;
            assert!(
                gap == limited || hidden,
                "limited {limited}: from {last} to {first}, {}",
                visible[*first]
            );
            assert!(*first > last, "told twice: from {last} to {first}");
        }
        if limited {
            self.timeline.clear();
        }
        self.timeline.extend(events);
    }

    fn set_state(&mut self, events: &Value) {
        for event in events.as_array().into_iter().flatten() {
            let key = (text(event, "type"), text(event, "state_key"));
            match event["event_id"].as_str() {
                Some(id) => drop(self.state.insert(key, id.to_owned())),
                None => drop(self.state.remove(&key)),
            }
        }
    }

    fn set_receipts(&mut self, content: &Value) {
        for (event, kinds) in content.as_object().into_iter().flatten() {
            for (kind, users) in kinds.as_object().unwrap() {
                for (user, receipt) in users.as_object().unwrap() {
                    let thread = receipt["thread_id"].as_str().unwrap_or_default().to_owned();
                    let key = (user.clone(), thread, kind == "m.read.private");
                    self.receipts.insert(key, event.clone());
                }
            }
        }
    }
}

impl Client {
    /// Asks sync v2; gives the answer unread.
    pub(super) async fn ask_v2(&self, home: &Home, user: &User, filter: &Value) -> Value {
        let mut path = format!("/_matrix/client/v3/sync?timeout=0&filter={}", part(&filter.to_string()));
        if let Some(since) = &self.token {
            path += &format!("&since={since}");
        }
        let (status, answer) = home.get(&path, user).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        answer
    }

    /// Takes an answer of sync v2 in.
    pub(super) fn keep_v2(&mut self, answer: &Value, user: &str, truths: &Truths) {
        let first = self.token.is_none();
        self.token = Some(text(answer, "next_batch"));
        self.keep_data(&answer["account_data"]["events"]);
        let rooms = |part: &str| answer["rooms"][part].as_object().cloned().unwrap_or_default();
        for (part, membership) in [("invite", "invite"), ("knock", "knock")] {
            for (id, told) in rooms(part) {
                assert!(told[format!("{part}_state")]["events"].is_array(), "{told}");
                self.rooms.insert(id, View { membership: membership.to_owned(), ..View::default() });
            }
        }
        for (part, membership) in [("leave", "leave"), ("join", "join")] {
            for (id, told) in rooms(part) {
                let truth = &truths[&id];
                let view = self.rooms.entry(id).or_default();
                let new = first || view.membership != "join";
                if new && membership == "join" {
                    *view = View::default();
                }
                view.membership = membership.to_owned();
                let limited = told["timeline"]["limited"].as_bool().unwrap();
                view.set_state(&told["state"]["events"]);
                let events = told["timeline"]["events"].as_array().unwrap();
                if part == "join" || !view.timeline.is_empty() {
                    view.extend(events, limited, new, (user, truth));
                }
                if limited || new {
                    view.prev_batch = text(&told["timeline"], "prev_batch");
                }
                view.set_state(&Value::Array(
                    events.iter().filter(|event| event["state_key"].is_string()).cloned().collect(),
                ));
                view.keep_rest_v2(&told);
            }
        }
    }

    fn keep_data(&mut self, events: &Value) {
        for event in events.as_array().into_iter().flatten() {
            self.data.insert(text(event, "type"), event["content"].clone());
        }
    }

    /// The body of a request of sliding sync: a list whose window jumps about, small lists with filters, a room.
    pub(super) fn body(lazy: bool, conn: usize, to: u64, limit: u64, room: Option<&str>) -> Value {
        let state = if lazy { json!([["m.room.member", "$LAZY"], ["*", "*"]]) } else { json!([["*", "*"]]) };
        let list = |ranges: Value, filters: Value| json!({"ranges": ranges, "timeline_limit": limit, "required_state": state, "filters": filters});
        let mut body = json!({"conn_id": format!("c{conn}"), "lists": {
            "all": list(json!([[0, to]]), json!({})),
            "direct": list(json!([[0, 0]]), json!({"is_dm": true})),
            "favourite": list(json!([[0, 1]]), json!({"tags": ["m.favourite"]})),
            "invites": list(json!([[0, 1]]), json!({"is_invite": true})),
        }, "extensions": {"account_data": {"enabled": true}, "receipts": {"enabled": true}}});
        if let Some(room) = room {
            body["room_subscriptions"] =
                json!({room: {"timeline_limit": limit + 2, "required_state": state}});
        }
        body
    }

    /// Asks sliding sync; gives the answer unread. A client whose connection is gone begins anew.
    pub(super) async fn ask_sliding(&mut self, home: &Home, user: &User, body: &Value) -> Value {
        loop {
            let path = match &self.token {
                Some(pos) => format!("{SLIDING}?timeout=0&pos={}", part(pos)),
                None => format!("{SLIDING}?timeout=0"),
            };
            let (status, answer) = home.post(&path, user, body.clone()).await;
            if status == StatusCode::OK {
                return answer;
            }
            assert_eq!(
                (status.as_u16(), answer["errcode"].as_str()),
                (400, Some("M_UNKNOWN_POS")),
                "{answer}"
            );
            assert!(self.token.is_some());
            *self = Self::default();
        }
    }

    /// Takes an answer of sliding sync in.
    pub(super) fn keep_sliding(&mut self, answer: &Value, user: &str, truths: &Truths) {
        self.token = Some(text(answer, "pos"));
        for (name, list) in answer["lists"].as_object().unwrap() {
            self.counts.insert(name.clone(), list["count"].as_u64().unwrap());
        }
        for (id, told) in answer["rooms"].as_object().unwrap() {
            let initial = told["initial"] == true;
            assert!(
                initial || self.rooms.contains_key(id),
                "an increment of a room that is not known: {told}"
            );
            let view = self.rooms.entry(id.clone()).or_default();
            if initial {
                *view = View::default();
            }
            view.keep_sliding(told, initial, (user, &truths[id]));
        }
        let extensions = &answer["extensions"];
        self.keep_data(&extensions["account_data"]["global"]);
        for (id, events) in extensions["account_data"]["rooms"].as_object().into_iter().flatten() {
            let view = self.rooms.get_mut(id).expect("data of a room that is not shown");
            for event in events.as_array().unwrap() {
                view.data.insert(text(event, "type"), event["content"].clone());
            }
        }
        for (id, event) in extensions["receipts"]["rooms"].as_object().into_iter().flatten() {
            self.rooms
                .get_mut(id)
                .expect("receipts of a room that is not shown")
                .set_receipts(&event["content"]);
        }
    }
}

impl View {
    fn keep_rest_v2(&mut self, told: &Value) {
        for event in told["ephemeral"]["events"].as_array().into_iter().flatten() {
            if event["type"] == "m.receipt" {
                self.set_receipts(&event["content"]);
            }
        }
        for event in told["account_data"]["events"].as_array().into_iter().flatten() {
            self.data.insert(text(event, "type"), event["content"].clone());
        }
        let count = |told: &Value| Count {
            notify: told["notification_count"].as_i64().unwrap(),
            highlight: told["highlight_count"].as_i64().unwrap(),
        };
        if told["unread_notifications"].is_object() {
            self.unread = BTreeMap::from([("main".to_owned(), count(&told["unread_notifications"]))]);
            for (thread, told) in told["unread_thread_notifications"].as_object().into_iter().flatten() {
                self.unread.insert(thread.clone(), count(told));
            }
        }
        if let Some(joined) = told["summary"]["m.joined_member_count"].as_u64() {
            self.joined = joined;
        }
    }

    fn keep_sliding(&mut self, told: &Value, initial: bool, whom: (&str, &Room)) {
        self.membership = text(told, "membership");
        if initial || told.get("name").is_some() {
            self.name = told["name"].as_str().map(ToOwned::to_owned);
        }
        if let Some(count) = told["joined_count"].as_u64() {
            self.joined = count;
        }
        self.set_state(&told["required_state"]);
        let events = told["timeline"].as_array().cloned().unwrap_or_default();
        let limited = told["limited"] == true;
        let whole = initial || told["unstable_expanded_timeline"] == true;
        if whole || limited || !events.is_empty() {
            self.extend(&events, limited, whole, whom);
        }
        if limited || whole && self.membership == "join" {
            self.prev_batch = text(told, "prev_batch");
        }
        if told["notification_count"].is_i64() {
            let count = |name: &str| told[name].as_i64().unwrap();
            let count = Count { notify: count("notification_count"), highlight: count("highlight_count") };
            self.unread = BTreeMap::from([("main".to_owned(), count)]);
        }
    }
}

/// Rooms that are told, in any part.
pub(super) fn rooms_in(answer: &Value) -> BTreeSet<String> {
    let rooms = answer["rooms"].as_object().into_iter().flatten();
    // v2 has parts of rooms, sliding sync has rooms.
    rooms
        .flat_map(|(key, value)| {
            if key.starts_with('!') {
                vec![key.clone()]
            } else {
                value.as_object().unwrap().keys().cloned().collect()
            }
        })
        .collect()
}

fn text(value: &Value, field: &str) -> String {
    value[field].as_str().unwrap_or_else(|| panic!("{field}: {value}")).to_owned()
}
