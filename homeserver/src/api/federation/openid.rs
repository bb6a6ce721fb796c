//! Whose OpenID token that is.

use std::sync::Arc;

use ruma::api::{error::ErrorKind, federation::openid::get_openid_userinfo};

use crate::{
    api::routes::{Group, Table},
    error::Error,
    http::{args::Args, limits::Class},
    server::Server,
};

pub(super) fn routes(table: &mut Table) {
    table.add(Group::Federation, user_info).limit(Class::Federation);
}

async fn user_info(
    server: Arc<Server>,
    args: Args<get_openid_userinfo::v1::Request>,
) -> Result<get_openid_userinfo::v1::Response, Error> {
    match server.users.by_openid_token(&args.access_token).await? {
        Some(user) => Ok(get_openid_userinfo::v1::Response::new(user)),
        None => Err(Error::new(ErrorKind::Unauthorized, "this token is not, or no longer, valid")),
    }
}
