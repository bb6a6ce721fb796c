//! The account's identity log, for whoever asks: it is public and proves itself.

use std::sync::Arc;

use super::{Answer, IdentityLog};
use crate::{
    account::Entry,
    api::routes::{Group, Table},
    error::Error,
    http::{args::Args, limits::Class},
    server::Server,
};

pub(super) fn routes(table: &mut Table) {
    table.add(Group::Identity, log).limit(Class::Federation);
}

async fn log(server: Arc<Server>, _: Args<IdentityLog>) -> Result<Answer, Error> {
    let entries: Vec<_> = server.remote.identity().log().entries().iter().map(Entry::json).collect();
    Ok(Answer(serde_json::json!({ "entries": entries })))
}
