//! `GET /health`: whether the node answers, and its database.

use std::sync::Arc;

use http::{HeaderValue, Method, StatusCode, header};

use crate::{
    api::routes::{Group, Table},
    error::Error,
    http::{
        args::Incoming,
        reply::{Made, json},
    },
    server::Server,
    store::{ReadTx, StoreError},
};

pub(super) fn routes(table: &mut Table) {
    table.plain(Group::WellKnown, Method::GET, "/health", health);
}

async fn health(server: Arc<Server>, _: Incoming) -> Result<Made, Error> {
    server.store.read(|_: &ReadTx<'_>| Ok::<_, StoreError>(())).await?;
    let mut reply = json(StatusCode::OK, "OK");
    reply.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    Ok(Made(reply))
}
