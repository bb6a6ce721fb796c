//! Whose devices changed, and with whom the user no longer shares a room.

use std::collections::BTreeSet;

use ruma::{OwnedUserId, UserId};

use crate::{
    store::{
        Kind, Nid, ReadTx, Seq, StoreError,
        schema::{
            e2ee as table,
            membership::{self, Membership, UserRoom},
        },
    },
    sync::json::Writer,
};

/// Changed lists that are looked at in one response; a client that was away for longer starts with all of its rooms.
const CHANGES_MAX: u32 = 20_000;
/// Members of a room that was left who are looked at.
const LEFT_MEMBERS_MAX: u32 = 20_000;

/// See the module.
#[derive(Debug, Default)]
pub(in crate::sync) struct Lists {
    changed: BTreeSet<Nid>,
    pub(in crate::sync) left: BTreeSet<Nid>,
    /// Users who came into a room of the user's, or whose room the user came into.
    pub(in crate::sync) met: BTreeSet<Nid>,
}

impl Lists {
    pub(in crate::sync) fn is_empty(&self) -> bool {
        self.changed.is_empty() && self.left.is_empty()
    }

    /// Writes the member `device_lists`.
    pub(in crate::sync) fn write(&self, tx: &ReadTx<'_>, writer: &mut Writer) -> Result<(), StoreError> {
        let texts =
            |users: &BTreeSet<Nid>| users.iter().map(|user| tx.text(*user)).collect::<Result<Vec<_>, _>>();
        let (changed, left) = (texts(&self.changed)?, texts(&self.left)?);
        writer.key("device_lists").object(|object| {
            object.key("changed").array(|array| changed.iter().for_each(|user| array.string(user)));
            object.key("left").array(|array| left.iter().for_each(|user| array.string(user)));
        });
        Ok(())
    }
}

/// What changed in (since, until]. `rows` are the user's rooms, `signed` users whose keys the user signed.
pub(in crate::sync) fn changes(
    tx: &ReadTx<'_>,
    user: Nid,
    since: Seq,
    until: Seq,
    rows: &[UserRoom],
    signed: &[Nid],
    initial: bool,
) -> Result<Lists, StoreError> {
    let mut lists = Lists::default();
    if initial || since == until {
        return Ok(lists);
    }
    lists.changed.extend(signed);
    for other in table::lists_changed(tx, since, until, CHANGES_MAX)? {
        if other == user || table::share_a_room(tx, user, other)? {
            lists.changed.insert(other);
        }
    }
    // Who came or went in rooms that the user is in.
    let mut gone = BTreeSet::new();
    for row in rows {
        let changed = row.seq > since && row.seq <= until;
        match row.membership {
            Membership::Join if changed => {
                let members = membership::members_with(tx, row.room, Membership::Join, u32::MAX)?;
                let others = members.into_iter().map(|(member, _)| member).filter(|member| *member != user);
                lists.met.extend(others);
                // The user's other devices have somebody new to talk to.
                lists.changed.insert(user);
            }
            Membership::Join => {
                for (other, joined) in table::sharing(tx, row.room, since, until)? {
                    if other == user {
                        continue;
                    }
                    if joined {
                        lists.met.insert(other);
                    } else {
                        gone.insert(other);
                    }
                }
            }
            Membership::Leave | Membership::Ban if changed && row.left_seq.is_some() => {
                let members = membership::members_with(tx, row.room, Membership::Join, LEFT_MEMBERS_MAX)?;
                gone.extend(members.into_iter().map(|(member, _)| member));
                // Who left while the user was still in it, too.
                let others = table::sharing(tx, row.room, since, until)?;
                gone.extend(others.into_iter().filter(|(_, joined)| !joined).map(|(other, _)| other));
            }
            _ => {}
        }
    }
    gone.remove(&user);
    lists.changed.extend(&lists.met);
    for other in gone {
        if !table::share_a_room(tx, user, other)? {
            lists.changed.remove(&other);
            lists.left.insert(other);
        }
    }
    Ok(lists)
}

/// The same between two positions, for `/keys/changes`.
pub(in crate::sync) fn key_changes(
    tx: &ReadTx<'_>,
    user: &UserId,
    from: Seq,
    to: Seq,
) -> Result<(Vec<OwnedUserId>, Vec<OwnedUserId>), StoreError> {
    let Some(nid) = tx.lookup(Kind::User, user.as_str())? else { return Ok((Vec::new(), Vec::new())) };
    let rows = membership::user_rooms(tx, nid)?;
    let lists = changes(tx, nid, from, to, &rows, &[], false)?;
    let ids = |users: &BTreeSet<Nid>| {
        let texts = users.iter().map(|user| tx.text(*user)).collect::<Result<Vec<_>, _>>()?;
        Ok::<_, StoreError>(texts.iter().filter_map(|text| UserId::parse(&**text).ok()).collect())
    };
    Ok((ids(&lists.changed)?, ids(&lists.left)?))
}
