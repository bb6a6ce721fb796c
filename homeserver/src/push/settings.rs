//! A user's push rules, read and changed.

use ruma::{
    UserId,
    push::{Action, NewPushRule, RuleKind, Ruleset},
};

use super::{Push, PushError, rules::effective};
use crate::store::{Kind, ReadTx, StoreError, Touched, WriteTx, schema::push as table};

/// The longest ruleset: some hundred rules. Each event in a room of the user's is judged by all of them.
pub const RULES_BYTES_MAX: usize = 64 * 1024;

impl Push {
    /// A user's rules.
    pub async fn rules(&self, user: &UserId) -> Result<Ruleset, PushError> {
        let user = user.to_owned();
        Ok(self.store.read(move |tx| read(tx, &user)).await?)
    }

    /// Adds or replaces a rule.
    pub async fn put_rule(
        &self,
        user: &UserId,
        rule: NewPushRule,
        after: Option<String>,
        before: Option<String>,
    ) -> Result<(), PushError> {
        self.change(user, move |rules| Ok(rules.insert(rule, after.as_deref(), before.as_deref())?)).await
    }

    /// Removes a rule of the user's own.
    pub async fn delete_rule(&self, user: &UserId, kind: RuleKind, id: String) -> Result<(), PushError> {
        self.change(user, move |rules| {
            if rules.get(kind.clone(), &id).is_none() {
                return Err(PushError::NoRule);
            }
            Ok(rules.remove(kind, &id)?)
        })
        .await
    }

    /// Switches a rule on or off.
    pub async fn enable_rule(
        &self,
        user: &UserId,
        kind: RuleKind,
        id: String,
        on: bool,
    ) -> Result<(), PushError> {
        self.change(user, move |rules| rules.set_enabled(kind, &id, on).map_err(|_| PushError::NoRule)).await
    }

    /// Changes what a rule does.
    pub async fn set_rule_actions(
        &self,
        user: &UserId,
        kind: RuleKind,
        id: String,
        actions: Vec<Action>,
    ) -> Result<(), PushError> {
        self.change(user, move |rules| rules.set_actions(kind, &id, actions).map_err(|_| PushError::NoRule))
            .await
    }

    async fn change<F>(&self, user: &UserId, change: F) -> Result<(), PushError>
    where
        F: FnOnce(&mut Ruleset) -> Result<(), PushError> + Send + 'static,
    {
        let user = user.to_owned();
        self.store
            .write(move |tx: &mut WriteTx<'_>| {
                let nid = tx.intern(Kind::User, user.as_str())?;
                let mut rules = read(tx, &user)?;
                change(&mut rules)?;
                let json = serde_json::to_string(&rules)
                    .map_err(|_| StoreError::Corrupt("rules that cannot be written"))?;
                if json.len() > RULES_BYTES_MAX {
                    return Err(PushError::TooLarge { max: RULES_BYTES_MAX });
                }
                let seq = tx.next_seq()?;
                table::put_rules(tx, nid, seq, &json)?;
                tx.touch(Touched::User(nid));
                Ok(())
            })
            .await
    }
}

/// A user's rules as they apply now.
pub fn read(tx: &ReadTx<'_>, user: &UserId) -> Result<Ruleset, StoreError> {
    let stored = match tx.lookup(Kind::User, user.as_str())? {
        Some(nid) => table::rules(tx, nid)?,
        None => None,
    };
    Ok(effective(user, stored.as_ref().map(|(_, json)| json.as_str())))
}
