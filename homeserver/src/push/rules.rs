//! What the push rules of one user make of one event: pure, over ruma's rulesets.
//!
//! Most local members keep the rules that the server gives everybody, so an event is judged once for all of them
//! ([`Judge::by_default_rules`]) and again only for those whose outcome can differ: who is named in it, and who
//! changed their rules.

use futures_util::FutureExt as _;
use ruma::{
    OwnedUserId, RoomId, UInt, UserId,
    push::{
        Action, ConditionalPushRule, ConditionalPushRuleInit, EventMatchConditionData, FlattenedJson,
        PushCondition, PushConditionPowerLevelsCtx, PushConditionRoomCtx, RoomMemberCountConditionData,
        RoomMemberCountIs, Ruleset, SoundTweakValue, Tweak,
    },
    serde::Raw,
};
use serde::Deserialize;
use serde_json::value::RawValue;

/// No event names more users than this and has them all looked up (an event of 64 KiB could name some thousands).
pub const MENTIONS_MAX: usize = 100;

/// Words of a message that are looked up as names of users of ours, for clients that do not say whom they mention.
const WORDS_MAX: usize = 40;

/// What an event does to a user's counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Counted in `notification_count` (and pushed).
    pub notify: bool,
    /// Counted in `highlight_count`.
    pub highlight: bool,
}

/// One event in its room, flattened once, to be judged by the rules of many users.
#[derive(Debug)]
pub struct Judge {
    event: FlattenedJson,
    context: PushConditionRoomCtx,
    /// The context without a word about subscriptions, while [`Judge::with_subscription`] has said one.
    plain: Option<PushConditionRoomCtx>,
    mentions: Vec<OwnedUserId>,
    says_mentions: bool,
}

impl Judge {
    /// Takes an event in client format, the room's number of joined members, and who may notify everybody.
    pub fn new(
        room: &RoomId,
        event: &RawValue,
        member_count: u64,
        power_levels: Option<PushConditionPowerLevelsCtx>,
    ) -> Self {
        let raw: Raw<serde_json::Value> = Raw::from_json(event.to_owned());
        let mut context = PushConditionRoomCtx::new(
            room.to_owned(),
            UInt::new_saturating(member_count),
            nobody(),
            String::new(),
        );
        context.power_levels = power_levels;
        let says_mentions = event.get().contains("\"m.mentions\"");
        let event_json = FlattenedJson::from_raw(&raw);
        Self { event: event_json, context, plain: None, mentions: mentions(event), says_mentions }
    }

    /// From now on rules are asked for a user who follows the event's thread, or does not; `None`: for one whose clients
    /// know nothing of following, so that no rule about it applies.
    // spec: MSC4306
    pub fn with_subscription(&mut self, follows: Option<bool>) {
        if let Some(plain) = self.plain.take() {
            self.context = plain;
        }
        if let Some(follows) = follows {
            let said = self
                .context
                .clone()
                .with_has_thread_subscription_fn(move |_| Box::pin(std::future::ready(follows)));
            self.plain = Some(std::mem::replace(&mut self.context, said));
        }
    }

    /// What the unchanged rules make of it for a member whom it does not name.
    pub fn by_default_rules(&mut self) -> Verdict {
        thread_local! {
            static DEFAULT: Ruleset = server_default(&nobody());
        }
        self.context.user_id = nobody();
        self.context.user_display_name = String::new();
        DEFAULT.with(|rules| self.verdict(rules))
    }

    /// What `rules` make of it for their owner.
    pub fn by_rules_of(&mut self, user: &UserId, display_name: &str, rules: &Ruleset) -> Verdict {
        self.context.user_id = user.to_owned();
        display_name.clone_into(&mut self.context.user_display_name);
        let mut verdict = self.verdict(rules);
        verdict.highlight |= verdict.notify && self.words().iter().any(|word| word == user.localpart());
        verdict
    }

    /// The same, with the actions of the rule that decided.
    pub fn actions(&mut self, user: &UserId, display_name: &str, rules: &Ruleset) -> (Verdict, Vec<Action>) {
        let verdict = self.by_rules_of(user, display_name, rules);
        let decides = rules
            .iter()
            .find(|rule| rule.applies(&self.event, &self.context).now_or_never().unwrap_or(false));
        (verdict, decides.map(|rule| rule.actions().to_vec()).unwrap_or_default())
    }

    /// Whom the unchanged rules treat differently from everybody else: who is mentioned and, in a membership event,
    /// who it is about. At most [`MENTIONS_MAX`] and one.
    pub fn named(&self) -> impl Iterator<Item = OwnedUserId> + '_ {
        let about = (self.event.get_str("type") == Some("m.room.member"))
            .then(|| self.event.get_str("state_key"))
            .flatten()
            .and_then(|text| UserId::parse(text).ok());
        self.mentions.iter().cloned().chain(about)
    }

    /// Words of the message that may be local parts of user ids, if it does not say whom it mentions.
    ///
    /// Such mentions are no longer in the specification (MSC4210), but older clients and bots know no others. They
    /// only make an event that notifies anyway a highlight.
    pub fn words(&self) -> Vec<String> {
        let Some(body) = self.plain_body() else { return Vec::new() };
        let within = |char: char| char.is_ascii_alphanumeric() || "._=-/+".contains(char);
        let words = body
            .split(|char| !within(char))
            .map(|word| word.trim_matches(|char: char| ".=-/+".contains(char)));
        let mut words: Vec<String> =
            words.filter(|word| !word.is_empty()).take(WORDS_MAX).map(str::to_ascii_lowercase).collect();
        words.sort();
        words.dedup();
        words
    }

    /// The text of a message that does not say whom it mentions.
    fn plain_body(&self) -> Option<&str> {
        let message = self.event.get_str("type") == Some("m.room.message") && !self.says_mentions;
        self.event.get_str("content.body").filter(|_| message)
    }

    fn verdict(&self, rules: &Ruleset) -> Verdict {
        for rule in rules.iter() {
            // The conditions of the rules we know never wait; one that did would count as not met.
            if rule.applies(&self.event, &self.context).now_or_never().unwrap_or(false) {
                let actions = rule.actions();
                let notify = actions.iter().any(Action::should_notify);
                return Verdict { notify, highlight: notify && actions.iter().any(Action::is_highlight) };
            }
        }
        Verdict::default()
    }
}

/// The user in whose name the default rules are judged; no server can have this name.
fn nobody() -> OwnedUserId {
    UserId::parse("@_:nobody.invalid").expect("a well-formed user id")
}

fn mentions(event: &RawValue) -> Vec<OwnedUserId> {
    #[derive(Deserialize)]
    struct Event<'a> {
        #[serde(borrow)]
        content: Content<'a>,
    }
    #[derive(Deserialize)]
    struct Content<'a> {
        #[serde(rename = "m.mentions", borrow, default)]
        mentions: Option<&'a RawValue>,
    }
    #[derive(Deserialize)]
    struct Mentions {
        #[serde(default)]
        user_ids: Vec<String>,
    }
    let Ok(event) = serde_json::from_str::<Event<'_>>(event.get()) else {
        return Vec::new();
    };
    let Some(mentions) = event.content.mentions else {
        return Vec::new();
    };
    serde_json::from_str::<Mentions>(mentions.get()).map_or_else(
        |_| Vec::new(),
        |mentions| {
            let mut users: Vec<_> = mentions
                .user_ids
                .into_iter()
                .take(MENTIONS_MAX)
                .filter_map(|text| UserId::parse(text).ok())
                .collect();
            users.sort();
            users.dedup();
            users
        },
    )
}

/// The rules that every user begins with: the specification's, and those for polls.
// spec: https://spec.matrix.org/v1.19/client-server-api/#predefined-rules, MSC3930
pub fn server_default(user: &UserId) -> Ruleset {
    let mut rules = Ruleset::server_default(user);
    rules.override_.insert(poll("poll_response", "poll.response", false, Vec::new()));
    let sound = || vec![Action::Notify, Action::SetTweak(Tweak::Sound(SoundTweakValue::Default))];
    for (alone, all, kind) in [
        ("poll_start_one_to_one", "poll_start", "poll.start"),
        ("poll_end_one_to_one", "poll_end", "poll.end"),
    ] {
        rules.underride.insert(poll(alone, kind, true, sound()));
        rules.underride.insert(poll(all, kind, false, vec![Action::Notify]));
    }
    rules
}

/// A rule about one type of polls' events, in any room or in those of two people.
fn poll(name: &str, kind: &str, one_to_one: bool, actions: Vec<Action>) -> ConditionalPushRule {
    let mut conditions = Vec::new();
    if one_to_one {
        conditions.push(PushCondition::RoomMemberCount(RoomMemberCountConditionData::new(
            RoomMemberCountIs::from(UInt::from(2_u32)),
        )));
    }
    conditions.push(PushCondition::EventMatch(EventMatchConditionData::new(
        "type".to_owned(),
        format!("org.matrix.msc3381.{kind}"),
    )));
    let rule_id = format!(".org.matrix.msc3930.rule.{name}");
    ConditionalPushRuleInit { actions, default: true, enabled: true, rule_id, conditions }.into()
}

/// The rules that `stored` (a user's changed ruleset, if there is one) amounts to, brought up to today's defaults.
pub fn effective(user: &UserId, stored: Option<&str>) -> Ruleset {
    let default = server_default(user);
    match stored.and_then(|json| serde_json::from_str::<Ruleset>(json).ok()) {
        Some(mut rules) => {
            rules.update_with_server_default(default);
            rules
        }
        None => default,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ruma::{
        power_levels::NotificationPowerLevels,
        push::{NewPatternedPushRule, NewPushRule, RuleKind},
        room_id,
        room_version_rules::AuthorizationRules,
        user_id,
    };
    use serde_json::json;

    fn judge(event: &serde_json::Value, members: u64) -> Judge {
        let raw = serde_json::value::to_raw_value(event).unwrap();
        let levels = PushConditionPowerLevelsCtx::new(
            [(user_id!("@mod:a").to_owned(), 100.into())].into(),
            0.into(),
            NotificationPowerLevels::new(),
            ruma::room_version_rules::RoomPowerLevelsRules::new(&AuthorizationRules::V11, []),
        );
        Judge::new(room_id!("!r:a"), &raw, members, Some(levels))
    }

    fn message(content: serde_json::Value) -> serde_json::Value {
        json!({"type": "m.room.message", "sender": "@bob:a", "room_id": "!r:a", "content": content})
    }

    #[test]
    fn a_plain_message_notifies_without_highlight() {
        let mut judge = judge(&message(json!({"msgtype": "m.text", "body": "hello"})), 5);
        let verdict = judge.by_default_rules();
        assert!(verdict.notify && !verdict.highlight);
        assert_eq!(judge.named().count(), 0);
    }

    #[test]
    fn notices_and_edits_are_quiet() {
        let notice = message(json!({"msgtype": "m.notice", "body": "beep"}));
        assert_eq!(judge(&notice, 5).by_default_rules(), Verdict::default());
        let edit = message(json!({"msgtype": "m.text", "body": "* x",
            "m.relates_to": {"rel_type": "m.replace", "event_id": "$x"}}));
        assert_eq!(judge(&edit, 5).by_default_rules(), Verdict::default());
    }

    #[test]
    fn a_mention_highlights_for_who_is_mentioned_only() {
        let event = message(json!({"msgtype": "m.text", "body": "a",
            "m.mentions": {"user_ids": ["@alice:a", "@alice:a", "nonsense"]}}));
        let mut judge = judge(&event, 5);
        assert_eq!(judge.named().collect::<Vec<_>>(), [user_id!("@alice:a")]);
        assert!(!judge.by_default_rules().highlight);
        let alice = user_id!("@alice:a");
        let rules = Ruleset::server_default(alice);
        assert!(judge.by_rules_of(alice, "Alice", &rules).highlight);
        // One's own message never notifies.
        let bob = user_id!("@bob:a");
        let rules = Ruleset::server_default(bob);
        assert_eq!(judge.by_rules_of(bob, "Bob", &rules), Verdict::default());
    }

    #[test]
    fn a_name_in_the_text_highlights_if_nobody_is_said_to_be_mentioned() {
        let alice = user_id!("@alice-2:a");
        let rules = Ruleset::server_default(alice);
        let plain = message(json!({"msgtype": "m.text", "body": "Hello, Alice-2!"}));
        let mut judged = judge(&plain, 5);
        assert!(judged.words().contains(&"alice-2".to_owned()));
        assert!(judged.by_rules_of(alice, "", &rules).highlight);
        let said = message(json!({"msgtype": "m.text", "body": "Hello, alice-2!", "m.mentions": {}}));
        let mut judged = judge(&said, 5);
        assert!(judged.words().is_empty() && !judged.by_rules_of(alice, "", &rules).highlight);
        let notice = message(json!({"msgtype": "m.notice", "body": "alice-2"}));
        assert!(!judge(&notice, 5).by_rules_of(alice, "", &rules).highlight);
    }

    #[test]
    fn only_who_may_notify_the_room_does() {
        let content = json!({"msgtype": "m.text", "body": "a", "m.mentions": {"room": true}});
        let mut event = message(content);
        assert!(!judge(&event, 5).by_default_rules().highlight);
        event["sender"] = "@mod:a".into();
        assert!(judge(&event, 5).by_default_rules().highlight);
    }

    #[test]
    fn an_invite_is_about_whom_it_invites() {
        let event = json!({"type": "m.room.member", "state_key": "@alice:a", "sender": "@bob:a",
            "content": {"membership": "invite"}});
        let mut judge = judge(&event, 2);
        let alice = user_id!("@alice:a");
        assert_eq!(judge.named().collect::<Vec<_>>(), [alice]);
        assert!(!judge.by_default_rules().notify);
        assert!(judge.by_rules_of(alice, "", &Ruleset::server_default(alice)).notify);
    }

    #[test]
    fn stored_changes_survive_new_defaults() {
        let alice = user_id!("@alice:a");
        let mut rules = Ruleset::server_default(alice);
        rules.set_enabled(RuleKind::Override, ".m.rule.master", true).unwrap();
        let new = NewPatternedPushRule::new("cake".into(), "cake".into(), vec![]);
        rules.insert(NewPushRule::Content(new), None, None).unwrap();
        let stored = serde_json::to_string(&rules).unwrap();
        let back = effective(alice, Some(&stored));
        assert!(back.get(RuleKind::Override, ".m.rule.master").unwrap().enabled());
        assert!(back.get(RuleKind::Content, "cake").is_some());
        // What cannot be read counts as unchanged.
        assert!(effective(alice, Some("[]")).get(RuleKind::Content, "cake").is_none());
    }

    proptest::proptest! {
        #[test]
        fn no_event_panics(body in "\\PC{0,40}", key in "\\PC{0,10}") {
            let event = json!({"type": key, "sender": body, "state_key": key,
                "content": {"body": body, "m.mentions": {"user_ids": [key], "room": body}, key: {"a.b": [1, null]}}});
            let mut judge = judge(&event, 3);
            judge.by_default_rules();
            let _ = judge.named().count();
        }
    }
}
