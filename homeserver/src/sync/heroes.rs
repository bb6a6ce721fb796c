//! By whom a room without a name is called.

use crate::store::{
    Nid, ReadTx, StoreError,
    schema::{
        membership::{self, Membership},
        rooms::RoomRow,
    },
};

/// As many as the specification asks for.
const HEROES: usize = 5;

/// Members other than the user, by whom the room is called if it has no name: joined and invited ones, and if
/// there are none, those who left.
pub(super) fn heroes(tx: &ReadTx<'_>, user: Nid, room: &RoomRow) -> Result<Vec<Nid>, StoreError> {
    if room.name.is_some() || room.alias.is_some() {
        return Ok(Vec::new());
    }
    let mut heroes = Vec::new();
    let mut add = |membership| -> Result<(), StoreError> {
        let limit = HEROES as u32 + 1;
        for (member, _) in membership::members_with(tx, room.room, membership, limit)? {
            if member != user && heroes.len() < HEROES {
                heroes.push(member);
            }
        }
        Ok(())
    };
    add(Membership::Join)?;
    add(Membership::Invite)?;
    if room.joined <= 1 && room.invited == 0 {
        add(Membership::Leave)?;
        add(Membership::Ban)?;
    }
    Ok(heroes)
}
