//! How clients find the homeserver.

use std::sync::Arc;

use ruma::api::client::discovery::discover_homeserver::{self, HomeserverInfo};

use crate::{
    api::routes::{Group, Table},
    error::Error,
    http::args::Args,
    server::Server,
};

/// Adds the discovery endpoints.
pub(crate) fn routes(table: &mut Table) {
    table.add(Group::WellKnown, client);
}

/// The address that was asked, unless the operator names another: a phone that came by `NAME.local` goes on that way.
async fn client(
    server: Arc<Server>,
    args: Args<discover_homeserver::Request>,
) -> Result<discover_homeserver::Response, Error> {
    let url = match &server.settings.public_url {
        Some(url) => url.clone(),
        None => {
            let host = args
                .head
                .header(http::header::HOST)
                .or_else(|| args.head.uri.authority().map(http::uri::Authority::as_str))
                .ok_or_else(|| Error::not_found("no address is known to send clients to"))?;
            format!("http://{host}")
        }
    };
    Ok(discover_homeserver::Response::new(HomeserverInfo::new(url)))
}
