//! How clients find the homeserver.

use std::sync::Arc;

use http::Method;
use ruma::api::{
    client::{
        discovery::{
            discover_homeserver::{self, HomeserverInfo},
            discover_support,
        },
        rtc::RtcTransport,
    },
    federation::discovery::discover_homeserver as discover_homeserver_of_servers,
};

use serde_json::{Value, json};

use crate::{
    api::routes::{Group, Table},
    error::Error,
    http::{
        args::{Args, Incoming},
        reply::Json,
    },
    server::Server,
};

/// Adds the discovery endpoints.
pub(crate) fn routes(table: &mut Table) {
    table.add(Group::WellKnown, client);
    table.add(Group::WellKnown, server);
    table.add(Group::WellKnown, support);
    table.plain(Group::WellKnown, Method::GET, "/.well-known/matrix/policy_server", policy_server);
}

/// Where other servers find this one, if the operator delegates it.
async fn server(
    server: Arc<Server>,
    _: Args<discover_homeserver_of_servers::Request>,
) -> Result<discover_homeserver_of_servers::Response, Error> {
    let settings = server.settings();
    let delegate = settings.federation_well_known.as_deref();
    let delegate = delegate.and_then(|name| name.parse().ok());
    let delegate = delegate.ok_or_else(|| Error::not_found("nothing is delegated"))?;
    Ok(discover_homeserver_of_servers::Response::new(delegate))
}

/// Who helps.
async fn support(server: Arc<Server>, _: Args<discover_support::Request>) -> Result<Json<Value>, Error> {
    let settings = &server.settings().accounts.general;
    let mut told = json!({});
    let mut contact = json!({ "role": "m.role.admin" });
    for (key, value) in [
        ("email_address", settings.support_email.clone()),
        ("matrix_id", settings.support_user.as_ref().map(ToString::to_string)),
    ] {
        if let Some(value) = value {
            contact[key] = value.into();
            told["contacts"] = json!([contact]);
        }
    }
    if let Some(page) = &settings.support_page {
        told["support_page"] = page.as_str().into();
    }
    match told.as_object().is_some_and(|told| !told.is_empty()) {
        true => Ok(Json(told)),
        false => Err(Error::not_found("this server's operator names nobody")),
    }
}

/// Nobody asks this server what may go into rooms.
async fn policy_server(_: Arc<Server>, _: Incoming) -> Result<Json<Value>, Error> {
    Err(Error::not_found("this server is no policy server"))
}

/// The address that was asked, unless the operator names another: a phone that came by `NAME.local` goes on that way.
async fn client(
    server: Arc<Server>,
    args: Args<discover_homeserver::Request>,
) -> Result<discover_homeserver::Response, Error> {
    let url = match &server.settings().public_url {
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
    let mut response = discover_homeserver::Response::new(HomeserverInfo::new(url));
    let calls = crate::api::client::calls::service_url(&server, &args.head);
    response.rtc_foci.extend(calls.map(RtcTransport::livekit));
    Ok(response)
}
