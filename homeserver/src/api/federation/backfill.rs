//! Events from the past.

use std::sync::Arc;

use ruma::api::federation::backfill::get_backfill;

use super::{check_acl, stamp};
use crate::{
    api::routes::{Group, Table},
    error::Error,
    http::{args::Args, limits::Class},
    server::Server,
};

pub(super) fn routes(table: &mut Table) {
    table.add(Group::Federation, backfill).limit(Class::Federation);
}

async fn backfill(
    server: Arc<Server>,
    args: Args<get_backfill::v1::Request>,
) -> Result<get_backfill::v1::Response, Error> {
    check_acl(&server, &args.caller.name, &args.room_id).await?;
    if args.v.is_empty() || args.v.len() > FROM_MAX {
        return Err(Error::invalid_param("`v` names 1 to 50 events"));
    }
    let limit = u32::try_from(u64::from(args.limit)).unwrap_or(u32::MAX);
    let pdus = server.rooms.backfill_answer(&args.caller.name, &args.room_id, args.v.clone(), limit).await?;
    let (origin, now) = stamp(&server);
    Ok(get_backfill::v1::Response::new(origin, now, pdus))
}

/// Events to walk back from.
const FROM_MAX: usize = 50;
