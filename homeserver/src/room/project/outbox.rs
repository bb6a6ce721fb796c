//! Owns whom an event of ours goes to: the servers in the room before or after it, and the target's.

use ruma::{ServerName, UserId};

use crate::store::{
    Kind, Nid, StoreError, WriteTx,
    schema::{membership, outbox, rooms, rooms::RoomRow},
};

/// Queues an event. `before`: the room's servers before it, if they are no longer the same; `target`: the user that a
/// membership event is about; `except`: a server that has it already.
pub(in crate::room) fn push(
    tx: &mut WriteTx<'_>,
    room: &mut RoomRow,
    event: Nid,
    own: &ServerName,
    before: Option<&[Nid]>,
    target: Option<&UserId>,
    except: Option<&ServerName>,
) -> Result<(), StoreError> {
    let own = tx.intern(Kind::Server, own.as_str())?;
    let audience = match (before, target, except) {
        (None, None, None) => match room.audience {
            Some(audience) => Some(audience),
            None => {
                let servers = others(membership::servers(tx, room.room)?, own, None);
                let audience = outbox::audience(tx, &servers)?;
                // Kept until a server comes or goes, so that a message costs no look at the members.
                room.audience = audience;
                rooms::put_audience(tx, room.room, audience)?;
                audience
            }
        },
        _ => {
            let mut servers = membership::servers(tx, room.room)?;
            servers.extend_from_slice(before.unwrap_or_default());
            if let Some(target) = target {
                servers.push(tx.intern(Kind::Server, target.server_name().as_str())?);
            }
            let except = match except {
                Some(except) => Some(tx.intern(Kind::Server, except.as_str())?),
                None => None,
            };
            let servers = others(servers, own, except);
            outbox::audience(tx, &servers)?
        }
    };
    if let Some(audience) = audience {
        outbox::push_event(tx, event, audience)?;
    }
    Ok(())
}

fn others(mut servers: Vec<Nid>, own: Nid, except: Option<Nid>) -> Vec<Nid> {
    servers.retain(|server| *server != own && Some(*server) != except);
    servers.sort_unstable();
    servers.dedup();
    servers
}
