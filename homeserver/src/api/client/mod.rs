//! The client-server API, a file per area, named as in ruma-client-api.

mod account;
mod admin;
mod alias;
mod appservice;
mod backup;
pub(crate) mod calls;
mod config;
mod context;
mod dehydrated_device;
mod delayed_events;
mod device;
mod directory;
mod discovery;
mod filter;
mod keys;
mod legacy;
pub(in crate::api) mod media;
mod membership;
mod message;
mod presence;
mod profile;
mod push;
mod push_rules;
mod read_marker;
mod receipt;
mod relations;
mod rendezvous;
mod room;
mod search;
mod session;
mod space;
mod state;
mod sync;
mod tag;
mod thread_subscriptions;
mod threepid;
mod to_device;
mod typing;
mod user_directory;

use crate::{
    api::routes::Table, error::Error, http::auth::LocalUser, room::read::Token, server::Server, store::Seq,
    sync::token::Token as SyncToken,
};

/// Adds every endpoint of the client-server API.
pub(crate) fn routes(table: &mut Table) {
    account::routes(table);
    admin::routes(table);
    alias::routes(table);
    appservice::routes(table);
    backup::routes(table);
    calls::routes(table);
    config::routes(table);
    context::routes(table);
    dehydrated_device::routes(table);
    delayed_events::routes(table);
    device::routes(table);
    directory::routes(table);
    discovery::routes(table);
    filter::routes(table);
    keys::routes(table);
    legacy::routes(table);
    media::routes(table);
    membership::routes(table);
    message::routes(table);
    presence::routes(table);
    profile::routes(table);
    push::routes(table);
    push_rules::routes(table);
    read_marker::routes(table);
    receipt::routes(table);
    relations::routes(table);
    rendezvous::routes(table);
    room::routes(table);
    search::routes(table);
    session::routes(table);
    space::routes(table);
    state::routes(table);
    sync::routes(table);
    tag::routes(table);
    thread_subscriptions::routes(table);
    threepid::routes(table);
    to_device::routes(table);
    typing::routes(table);
    user_directory::routes(table);
}

/// Endpoints under `/user/{user_id}` and `/profile/{user_id}` are for that user alone.
fn own(caller: &LocalUser, user: &ruma::UserId) -> Result<(), Error> {
    if caller.user == user { Ok(()) } else { Err(Error::forbidden("that belongs to another user")) }
}

/// The position of a sync's token, or of a `pos` of sliding sync, which ends with one.
fn position(server: &Server, text: &str) -> Result<Seq, Error> {
    let text = text.rsplit_once('/').map_or(text, |(_, token)| token);
    server
        .sync
        .position(text)
        .ok_or_else(|| Error::invalid_param("that is not a token of this server; sync anew"))
}

/// A place in a room's timeline, as clients hold it: a token of `/messages` or `/context`, or one of `/sync`.
fn room_token(server: &Server, text: &str) -> Result<Token, Error> {
    if let Ok(token) = text.parse() {
        return Ok(token);
    }
    // A `pos` of sliding sync ends with a sync token.
    let text = text.rsplit_once('/').map_or(text, |(_, token)| token);
    let token: SyncToken =
        text.parse().map_err(|_| Error::invalid_param("that is not a token of this server"))?;
    if token.incarnation != server.store.incarnation() {
        return Err(Error::invalid_param("that token is from before a backup was restored; sync anew"));
    }
    Ok(Token::stream(Seq(token.seq.saturating_add(1))))
}
