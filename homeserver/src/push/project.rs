//! What an event changes in the counts of unread ones, in the transaction that stores the event.

use ruma::{
    Int, OwnedUserId, RoomId, RoomVersionId, ServerName, UserId, power_levels::NotificationPowerLevels,
    push::PushConditionPowerLevelsCtx, room_version_rules::RoomPowerLevelsRules,
};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::collections::BTreeMap;

use super::rules::{Judge, Verdict, effective};
use crate::store::{
    Kind, Nid, ReadTx, Seq, StoreError, WriteTx,
    schema::{
        events,
        membership::{self, Membership},
        push::{self as table, ALL, MAIN, Own},
        rooms, state, thread_subs,
    },
};

/// An event that has just got its place in the stream.
#[derive(Clone, Copy, Debug)]
pub struct Appended<'a> {
    /// Its room.
    pub room: Nid,
    /// Its room's id.
    pub room_id: &'a RoomId,
    /// Its position.
    pub seq: Seq,
    /// Its sender.
    pub sender: Nid,
    /// Its sender's id.
    pub sender_id: &'a UserId,
    /// Whether the sender is a user of ours.
    pub local: bool,
    /// The root of the thread that it is in.
    pub thread: Option<Nid>,
    /// The event as clients see it (at least `type`, `sender`, `content`, `state_key`).
    pub event: &'a RawValue,
    /// Our server's name.
    pub own: &'a ServerName,
    /// Joined members of the room.
    pub member_count: u64,
}

/// Counts the event for whom it notifies. To be called once for each event that local users see as new: not for
/// backfilled, soft-failed or rejected ones and outliers.
///
/// The cost grows with the local members who are mentioned or have changed rules, not with the members.
pub fn on_event(tx: &mut WriteTx<'_>, appended: &Appended<'_>) -> Result<(), StoreError> {
    let Appended { room, seq, sender, .. } = *appended;
    let thread = appended.thread.unwrap_or(ALL);
    if appended.local {
        // Who writes has read what stands before.
        table::put_read_position(tx, sender, room, appended.thread.unwrap_or(MAIN), seq)?;
    }
    let levels = if may_notify_all(appended.event) { power_levels(tx, room)? } else { None };
    let mut judge = Judge::new(appended.room_id, appended.event, appended.member_count, levels);
    let usual = judge.by_default_rules();
    if usual.notify {
        table::add_notify(tx, room, thread, seq)?;
    }
    let mut done = vec![sender];
    let rules = table::members_with_rules(tx, room)?;
    if let Some(root) = appended.thread {
        // Whoever follows threads is told of those alone.
        for (user, follows) in thread_subs::members(tx, room, root)? {
            if !done.contains(&user) {
                done.push(user);
                let own = rules.iter().find(|(of, _)| *of == user).map(|(_, rules)| rules.as_str());
                judge.with_subscription(Some(follows));
                one(tx, appended, &mut judge, usual, user, own)?;
            }
        }
        judge.with_subscription(None);
    }
    for (user, rules) in rules {
        if !done.contains(&user) {
            done.push(user);
            one(tx, appended, &mut judge, usual, user, Some(&rules))?;
        }
    }
    if usual.highlight {
        // Everybody is called: each local member has a row of their own.
        for user in membership::local_members(tx, room, Membership::Join)? {
            if !done.contains(&user) {
                done.push(user);
                one(tx, appended, &mut judge, usual, user, None)?;
            }
        }
        return Ok(());
    }
    let mut named: Vec<OwnedUserId> = judge.named().collect();
    let ours = |word: String| UserId::parse(format!("@{word}:{}", appended.own)).ok();
    named.extend(judge.words().into_iter().filter_map(ours));
    for user in named {
        let Some(user) = tx.lookup(Kind::User, user.as_str())? else { continue };
        let joined =
            membership::user_room(tx, user, room)?.is_some_and(|row| row.membership == Membership::Join);
        if joined && !done.contains(&user) {
            done.push(user);
            one(tx, appended, &mut judge, usual, user, None)?;
        }
    }
    Ok(())
}

/// An event was redacted: who has not read it has nothing to read. `thread`: the root of the thread that it was in.
pub fn on_redacted(tx: &mut WriteTx<'_>, room: Nid, thread: Option<Nid>, seq: Seq) -> Result<(), StoreError> {
    table::uncount(tx, room, thread.unwrap_or(ALL), seq)
}

/// Judges the event by the rules of one user and notes by what the outcome differs from everybody's.
fn one(
    tx: &mut WriteTx<'_>,
    appended: &Appended<'_>,
    judge: &mut Judge,
    usual: Verdict,
    user: Nid,
    rules: Option<&str>,
) -> Result<(), StoreError> {
    let Ok(id) = UserId::parse(&*tx.text(user)?) else { return Ok(()) };
    let name = match rules {
        // Only rules of the user's own ask for the name.
        Some(_) => display_name(tx, appended.room, user)?,
        None => String::new(),
    };
    let verdict = judge.by_rules_of(&id, &name, &effective(&id, rules));
    if verdict.notify == usual.notify && !verdict.highlight {
        return Ok(());
    }
    let own = Own {
        seq: appended.seq,
        thread: appended.thread.unwrap_or(ALL),
        delta: i64::from(verdict.notify) - i64::from(usual.notify),
        highlight: verdict.highlight,
    };
    table::put_own(tx, user, appended.room, &own)
}

pub(crate) fn display_name(tx: &ReadTx<'_>, room: Nid, user: Nid) -> Result<String, StoreError> {
    #[derive(Deserialize)]
    struct Member {
        content: Content,
    }
    #[derive(Deserialize)]
    struct Content {
        displayname: Option<String>,
    }
    let Some((_, event)) = membership::member(tx, room, user)? else {
        return Ok(String::new());
    };
    let row = events::event(tx, event)?;
    let member = row.and_then(|row| serde_json::from_slice::<Member>(&row.client).ok());
    Ok(member.and_then(|member| member.content.displayname).unwrap_or_default())
}

/// Whether who may notify everybody matters for this event: it says "@room" or mentions the room.
fn may_notify_all(event: &RawValue) -> bool {
    let text = event.get();
    text.contains("@room") || (text.contains("m.mentions") && text.contains("\"room\""))
}

/// Who may notify everybody in the room, by its present state.
pub(crate) fn power_levels(
    tx: &ReadTx<'_>,
    room: Nid,
) -> Result<Option<PushConditionPowerLevelsCtx>, StoreError> {
    #[derive(Deserialize)]
    struct Event<T> {
        content: T,
    }
    #[derive(Deserialize, Default)]
    #[serde(default)]
    struct Levels {
        users: BTreeMap<OwnedUserId, Int>,
        users_default: Int,
        notifications: NotificationPowerLevels,
    }
    #[derive(Deserialize, Default)]
    #[serde(default)]
    struct Create {
        additional_creators: Vec<OwnedUserId>,
    }
    let Some(row) = rooms::room(tx, room)? else { return Ok(None) };
    // Versions with owned state (MSC3757) are those that they name, but for who may write what.
    let version = row.version.strip_prefix("org.matrix.msc3757.").unwrap_or(&row.version);
    let version = RoomVersionId::try_from(version).ok();
    let Some(rules) = version.and_then(|version| version.rules()) else { return Ok(None) };
    let mut creators: Vec<OwnedUserId> = Vec::new();
    if let Some(creator) = row.creator {
        creators.extend(UserId::parse(&*tx.text(creator)?).ok());
    }
    if let Some(create) = row.create {
        let create = events::event(tx, create)?;
        let create = create.and_then(|row| serde_json::from_slice::<Event<Create>>(&row.client).ok());
        creators.extend(create.into_iter().flat_map(|create| create.content.additional_creators));
    }
    let levels = match state::current_of(tx, room, "m.room.power_levels", "")? {
        Some(event) => events::event(tx, event)?,
        None => None,
    };
    let levels = levels
        .and_then(|row| serde_json::from_slice::<Event<Levels>>(&row.client).ok())
        .map_or_else(Levels::default, |event| event.content);
    Ok(Some(PushConditionPowerLevelsCtx::new(
        levels.users,
        levels.users_default,
        levels.notifications,
        RoomPowerLevelsRules::new(&rules.authorization, creators),
    )))
}
