//! Read receipts.

use std::sync::Arc;

use ruma::{
    api::client::receipt::create_receipt::v3::{ReceiptType, Request, Response},
    events::receipt::ReceiptThread,
};

use super::read_marker::fully_read;
use crate::{
    api::routes::{Group, Table},
    error::Error,
    http::{args::Args, limits::Class},
    server::Server,
    store::schema::receipts::ReceiptKind,
};

pub(super) fn routes(table: &mut Table) {
    table.add(Group::Client, create);
}

async fn create(server: Arc<Server>, args: Args<Request>) -> Result<Response, Error> {
    let user = &args.caller.user;
    server.limits.take(Class::Write, user.as_str())?;
    if let ReceiptThread::Thread(_) | ReceiptThread::Main = args.thread
        && args.receipt_type == ReceiptType::FullyRead
    {
        return Err(Error::invalid_param("m.fully_read is of no thread"));
    }
    let kind = match args.receipt_type {
        ReceiptType::Read => ReceiptKind::Read,
        ReceiptType::ReadPrivate => ReceiptKind::Private,
        ReceiptType::FullyRead => {
            fully_read(&server, user, &args.room_id, &args.event_id).await?;
            return Ok(Response::new());
        }
        _ => return Err(Error::invalid_param("a receipt is m.read, m.read.private or m.fully_read")),
    };
    server.receipts.set(user, &args.room_id, kind, &args.thread, &args.event_id).await?;
    Ok(Response::new())
}
