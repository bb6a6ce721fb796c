//! A room to which the user is invited, or at whose door they knock.

use super::{Context, Plan};
use crate::{
    store::{
        ReadTx, StoreError,
        schema::{
            events,
            membership::{Membership, UserRoom},
        },
    },
    sync::json::Writer,
    user::invites::{self, Rule},
};

/// Writes the room as a member of `invite` or `knock`. False if the user ignores who invites.
pub(super) fn write(
    tx: &ReadTx<'_>,
    context: &Context,
    plan: &Plan,
    row: &UserRoom,
    id: &str,
    writer: &mut Writer,
) -> Result<bool, StoreError> {
    let key = match row.membership {
        Membership::Invite => "invite_state",
        _ => "knock_state",
    };
    let inviter = events::event(tx, row.nid)?.map(|event| event.sender);
    if inviter.is_some_and(|inviter| inviter != context.user && plan.ignored.contains(&inviter)) {
        return Ok(false);
    }
    if row.membership == Membership::Invite
        && let Some(inviter) = inviter
        && let Ok(inviter) = <&ruma::UserId>::try_from(&*tx.text(inviter)?)
        && invites::rule(tx, context.user, inviter)? == Rule::Ignore
    {
        return Ok(false);
    }
    let stripped = row.stripped.as_deref().filter(|stripped| !stripped.is_empty()).unwrap_or(b"[]");
    writer.key(id).object(|object| {
        object.key(key).object(|object| object.key("events").raw(stripped));
    });
    Ok(true)
}
