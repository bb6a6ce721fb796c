//! Pieces that both kinds of sync put into their responses.

use std::collections::{BTreeMap, HashSet};

use super::json::Writer;
use crate::{
    push,
    store::{
        Kind, Nid, ReadTx, Seq, StoreError,
        schema::{account_data, push as table},
    },
};

/// The type under which clients get their push rules.
pub(super) const PUSH_RULES: &str = "m.push_rules";

/// The user's push rules as an account data event, if they changed in (since, until] or all is asked for.
pub(super) fn push_rules(
    tx: &ReadTx<'_>,
    user: Nid,
    since: Option<Seq>,
    until: Seq,
) -> Result<Option<Vec<u8>>, StoreError> {
    let stored = table::rules(tx, user)?;
    if let Some(since) = since
        && !stored.as_ref().is_some_and(|(seq, _)| *seq > since && *seq <= until)
    {
        return Ok(None);
    }
    let user = tx.text(user)?;
    let Ok(user) = <&ruma::UserId>::try_from(&*user) else { return Ok(None) };
    let rules = push::rules::effective(user, stored.as_ref().map(|(_, json)| json.as_str()));
    let rules =
        serde_json::to_string(&rules).map_err(|_| StoreError::Corrupt("rules that cannot be written"))?;
    Ok(Some(account_data_event(PUSH_RULES, &format!("{{\"global\":{rules}}}"))))
}

/// An entry of account data as an event.
pub(super) fn account_data_event(kind: &str, content: &str) -> Vec<u8> {
    let mut writer = Writer::default();
    writer.object(|object| {
        object.key("content").raw(content.as_bytes());
        object.key("type").string(kind);
    });
    writer.finish();
    writer.into_bytes()
}

/// Whom the user ignores.
pub(super) fn ignored(tx: &ReadTx<'_>, user: Nid) -> Result<HashSet<Nid>, StoreError> {
    #[derive(serde::Deserialize)]
    struct Content {
        ignored_users: BTreeMap<String, serde::de::IgnoredAny>,
    }
    let content = account_data::get(tx, user, account_data::GLOBAL, "m.ignored_user_list")?;
    let content = content.and_then(|content| serde_json::from_str::<Content>(&content).ok());
    let mut ignored = HashSet::new();
    for user in content.iter().flat_map(|content| content.ignored_users.keys()) {
        ignored.extend(tx.lookup(Kind::User, user)?);
    }
    Ok(ignored)
}
