//! How far a user has read, several markers at once.

use std::sync::Arc;

use ruma::{
    EventId, RoomId, UserId,
    api::client::read_marker::set_read_marker::v3::{Request, Response},
    events::receipt::ReceiptThread,
};
use serde_json::json;

use crate::{
    api::routes::{Group, Table},
    error::Error,
    http::{args::Args, limits::Class},
    server::Server,
    store::schema::receipts::ReceiptKind,
};

pub(super) fn routes(table: &mut Table) {
    table.add(Group::Client, set);
}

async fn set(server: Arc<Server>, args: Args<Request>) -> Result<Response, Error> {
    let (user, room) = (&args.caller.user, &args.room_id);
    server.limits.take(Class::Write, user.as_str())?;
    if let Some(event) = &args.fully_read {
        fully_read(&server, user, room, event).await?;
    }
    let receipts =
        [(ReceiptKind::Read, &args.read_receipt), (ReceiptKind::Private, &args.private_read_receipt)];
    for (kind, event) in receipts {
        if let Some(event) = event {
            server.receipts.set(user, room, kind, &ReceiptThread::Unthreaded, event).await?;
        }
    }
    Ok(Response::new())
}

/// Keeps the marker of how far the user has read, which is account data of the room.
pub(super) async fn fully_read(
    server: &Arc<Server>,
    user: &UserId,
    room: &RoomId,
    event: &EventId,
) -> Result<(), Error> {
    if !server.rooms.is_joined(user, room).await? {
        return Err(Error::forbidden("you are not in that room"));
    }
    let content = json!({ "event_id": event }).to_string();
    Ok(server.users.set_account_data(user, Some(room), "m.fully_read", content).await?)
}
