//! Owns what a user takes along from a room into the one that replaces it: tags, the mark of a direct chat, push rules.
//!
//! Done when a local user joins a room whose create event names a predecessor that the user has to do with, in the
//! transaction of the join: however the upgrade was made, and wherever.

use ruma::{UserId, push::Ruleset};
use serde_json::Value;

use crate::{
    push::{rules::effective, settings::RULES_BYTES_MAX},
    store::{
        Kind, Nid, ReadTx, StoreError, Touched, WriteTx,
        schema::{account_data, events, membership, push, rooms::RoomRow},
    },
};

/// A local user has joined `room`.
pub(in crate::room) fn follow(tx: &mut WriteTx<'_>, room: &RoomRow, user: Nid) -> Result<(), StoreError> {
    let Some(old) = predecessor(tx, room)? else { return Ok(()) };
    if membership::user_room(tx, user, old)?.is_none_or(|row| row.forgotten) {
        return Ok(());
    }
    let (old_id, new_id) = (tx.text(old)?, tx.text(room.room)?);
    if account_data::get(tx, user, room.room, "m.tag")?.is_none()
        && let Some(tags) = account_data::get(tx, user, old, "m.tag")?
    {
        account_data::set(tx, user, room.room, "m.tag", &tags)?;
    }
    if let Some(direct) = account_data::get(tx, user, account_data::GLOBAL, "m.direct")?
        && let Some(direct) = with_direct(&direct, &old_id, &new_id)
    {
        account_data::set(tx, user, account_data::GLOBAL, "m.direct", &direct)?;
    }
    copy_rules(tx, user, &old_id, &new_id)
}

/// The room that the create event names, if it was ever heard of here.
fn predecessor(tx: &ReadTx<'_>, room: &RoomRow) -> Result<Option<Nid>, StoreError> {
    let Some(create) = room.create else { return Ok(None) };
    let Some(create) = events::event(tx, create)? else { return Ok(None) };
    let content = super::content(&create.client);
    match content.get("predecessor").and_then(|old| old.get("room_id")).and_then(Value::as_str) {
        Some(old) => Ok(tx.lookup(Kind::Room, old)?.filter(|old| *old != room.room)),
        None => Ok(None),
    }
}

/// `m.direct` with the new room wherever the old one is; none if that changes nothing.
fn with_direct(json: &str, old: &str, new: &str) -> Option<String> {
    let mut direct: Value = serde_json::from_str(json).ok()?;
    let mut changed = false;
    for rooms in direct.as_object_mut()?.values_mut().filter_map(Value::as_array_mut) {
        let has = |id: &str| rooms.iter().any(|room| room.as_str() == Some(id));
        if has(old) && !has(new) {
            rooms.push(new.into());
            changed = true;
        }
    }
    changed.then(|| direct.to_string())
}

/// Rules about the old room are made for the new one, too.
fn copy_rules(tx: &mut WriteTx<'_>, user: Nid, old: &str, new: &str) -> Result<(), StoreError> {
    let Some((_, stored)) = push::rules(tx, user)? else { return Ok(()) };
    let name = tx.text(user)?;
    let Ok(name) = <&UserId>::try_from(&*name) else { return Ok(()) };
    let rules = serde_json::to_value(effective(name, Some(&stored)))
        .map_err(|_| StoreError::Corrupt("rules that cannot be written"))?;
    let Some(rules) = with_rules(rules, old, new) else { return Ok(()) };
    let json = rules.to_string();
    // Rules that nobody could set are not made; a user with so many keeps those there are.
    if json.len() > RULES_BYTES_MAX || serde_json::from_str::<Ruleset>(&json).is_err() {
        return Ok(());
    }
    let seq = tx.next_seq()?;
    push::put_rules(tx, user, seq, &json)?;
    tx.touch(Touched::User(user));
    Ok(())
}

/// The ruleset with a copy of each rule about the old room; none if there is no such rule.
fn with_rules(mut rules: Value, old: &str, new: &str) -> Option<Value> {
    let mut changed = false;
    for kind in ["override", "room", "underride"] {
        let Some(list) = rules.get_mut(kind).and_then(Value::as_array_mut) else { continue };
        let mut copies = Vec::new();
        for rule in list.iter() {
            if let Some(copy) = about(rule, old, new)
                && !list.iter().any(|known| known["rule_id"] == copy["rule_id"])
            {
                copies.push(copy);
            }
        }
        changed |= !copies.is_empty();
        // Before the others, as a new rule of the user's would be.
        list.splice(0..0, copies);
    }
    changed.then_some(rules)
}

/// The rule for the new room, if it is about the old one.
fn about(rule: &Value, old: &str, new: &str) -> Option<Value> {
    let id = rule.get("rule_id")?.as_str()?;
    if rule.get("default").and_then(Value::as_bool) == Some(true) {
        return None;
    }
    let mut copy = rule.clone();
    let mut names = id == old;
    for condition in copy.get_mut("conditions").and_then(Value::as_array_mut).into_iter().flatten() {
        if condition["key"] == "room_id" && condition["pattern"] == old {
            condition["pattern"] = new.into();
            names = true;
        }
    }
    let id = if id.contains(old) { id.replace(old, new) } else { format!("{id}.{new}") };
    copy["rule_id"] = id.into();
    names.then_some(copy)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn rules_and_direct_chats_are_copied_once() {
        let rules = json!({
            "override": [
                { "rule_id": "!a:x", "default": false, "enabled": true, "actions": [],
                  "conditions": [{ "kind": "event_match", "key": "room_id", "pattern": "!a:x" }] },
                { "rule_id": ".m.rule.master", "default": true, "enabled": false, "actions": [], "conditions": [] },
            ],
            "room": [{ "rule_id": "!a:x", "default": false, "enabled": true, "actions": [] }],
        });
        let copied = with_rules(rules, "!a:x", "!b").unwrap();
        assert_eq!(copied["override"][0]["conditions"][0]["pattern"], "!b");
        assert_eq!(copied["room"][0]["rule_id"], "!b");
        assert_eq!(copied["override"].as_array().unwrap().len(), 3);
        assert!(with_rules(copied, "!a:x", "!b").is_none());
        let direct = with_direct(r#"{"@u:x":["!a:x"],"@v:x":7}"#, "!a:x", "!b").unwrap();
        assert!(with_direct(&direct, "!a:x", "!b").is_none());
        assert!(with_direct("[1]", "!a:x", "!b").is_none());
    }
}
