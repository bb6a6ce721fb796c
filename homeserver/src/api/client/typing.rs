//! Who is typing.

use std::sync::Arc;

use ruma::api::client::typing::create_typing_event::v3::{Request, Response, Typing};

use super::own;
use crate::{
    api::routes::{Group, Table},
    error::Error,
    http::{args::Args, limits::Class},
    server::Server,
};

pub(super) fn routes(table: &mut Table) {
    table.add(Group::Client, set);
}

async fn set(server: Arc<Server>, args: Args<Request>) -> Result<Response, Error> {
    own(&args.caller, &args.user_id)?;
    server.limits.take(Class::Write, args.caller.user.as_str())?;
    let timeout = match args.state {
        Typing::Yes(info) => Some(info.timeout),
        Typing::No => None,
    };
    server.typing.set(&args.caller.user, &args.room_id, timeout).await?;
    Ok(Response::new())
}
