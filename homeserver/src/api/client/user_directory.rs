//! Searching for people.

use std::sync::Arc;

use ruma::api::client::user_directory::search_users::{self, v3::User};

use crate::{
    api::routes::{Group, Table},
    error::Error,
    http::{args::Args, limits::Class},
    server::Server,
};

pub(super) fn routes(table: &mut Table) {
    table.add(Group::Client, search);
}

async fn search(
    server: Arc<Server>,
    args: Args<search_users::v3::Request>,
) -> Result<search_users::v3::Response, Error> {
    let caller = &args.caller.user;
    server.limits.take(Class::Write, caller.as_str())?;
    let limit = u64::from(args.limit).min(LIMIT_MAX) as usize;
    // Who does not want to be found by the neighbours is not found by others of the same node either.
    let everyone = server.settings().discoverable;
    let (people, limited) =
        server.users.search(caller, &args.search_term, limit, &*server.neighbours, everyone).await?;
    let results = people
        .into_iter()
        .map(|person| {
            let mut user = User::new(person.user_id);
            user.display_name = person.display_name;
            user.avatar_url = person.avatar_url;
            user
        })
        .collect();
    Ok(search_users::v3::Response::new(results, limited))
}

const LIMIT_MAX: u64 = 100;
