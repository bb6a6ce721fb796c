//! Owns what the room's row takes from the resolved state: name, topic, rules and the like.

use serde_json::Value;

use super::{StateChange, text};
use crate::store::schema::rooms::RoomRow;

/// Follows the changes that the row shows.
pub(in crate::room) fn apply(room: &mut RoomRow, changes: &[StateChange]) {
    for change in changes.iter().filter(|change| change.key.is_empty()) {
        let content = change.content.as_ref();
        let field =
            |key: &str| content.and_then(|content| text(content, key)).filter(|text| !text.is_empty());
        match change.kind.as_str() {
            "m.room.create" => {
                room.create = change.change.new;
                room.creator = change.sender;
                room.room_type = field("type");
                room.federate = content
                    .and_then(|content| content.get("m.federate"))
                    .and_then(Value::as_bool)
                    .unwrap_or(true);
            }
            "m.room.name" => room.name = field("name"),
            "m.room.topic" => room.topic = field("topic"),
            "m.room.avatar" => room.avatar = field("url"),
            "m.room.canonical_alias" => room.alias = field("alias"),
            "m.room.join_rules" => room.join_rule = field("join_rule"),
            "m.room.history_visibility" => room.history = field("history_visibility"),
            "m.room.guest_access" => room.guest = field("guest_access"),
            // A room that was encrypted once stays so, whatever the state says later.
            "m.room.encryption" => room.encryption = field("algorithm").or_else(|| room.encryption.take()),
            "m.room.tombstone" => room.tombstone = field("replacement_room"),
            _ => {}
        }
    }
}
