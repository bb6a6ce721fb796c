//! The server-server API, a file per area, named as in ruma-federation-api.
//!
//! The same handlers answer over the overlay and over TLS: who calls is in
//! `args.caller`, a server whose signature was verified.

mod backfill;
mod device;
mod directory;
mod discovery;
mod event;
mod keys;
mod legacy;
mod media;
mod membership;
mod openid;
mod query;
mod space;
mod transactions;

use ruma::{MilliSecondsSinceUnixEpoch, OwnedServerName, RoomId, ServerName};

use crate::{api::routes::Table, error::Error, server::Server};

/// Adds every endpoint of the server-server API.
pub(crate) fn routes(table: &mut Table) {
    backfill::routes(table);
    device::routes(table);
    directory::routes(table);
    discovery::routes(table);
    event::routes(table);
    keys::routes(table);
    legacy::routes(table);
    media::routes(table);
    membership::routes(table);
    openid::routes(table);
    query::routes(table);
    space::routes(table);
    transactions::routes(table);
}

/// Largest body with one event: 64 KiB of it, its stripped state, and room for JSON's escapes.
const EVENT_BODY_MAX: usize = 4 << 20;

/// Refuses servers that the room's access list denies.
async fn check_acl(server: &Server, origin: &ServerName, room: &RoomId) -> Result<(), Error> {
    if server.rooms.acl_allows(room, origin).await? {
        return Ok(());
    }
    Err(Error::forbidden("the room's server access list denies your server"))
}

/// `origin` and `origin_server_ts` of an answer.
fn stamp(server: &Server) -> (OwnedServerName, MilliSecondsSinceUnixEpoch) {
    (server.name.clone(), server.clock.now())
}

#[cfg(test)]
mod tests;
