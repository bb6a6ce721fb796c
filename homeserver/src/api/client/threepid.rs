//! E-mail addresses of accounts: proving, adding, listing, removing.

use std::sync::Arc;

use http::Method;
use ruma::{
    OwnedSessionId, SessionId,
    api::{
        client::account::{
            ThirdPartyIdRemovalStatus, add_3pid, bind_3pid, delete_3pid, get_3pids,
            request_3pid_management_token_via_email as manage_email,
            request_3pid_management_token_via_msisdn as manage_phone,
            request_password_change_token_via_email as password_email,
            request_password_change_token_via_msisdn as password_phone,
            request_registration_token_via_email as register_email,
            request_registration_token_via_msisdn as register_phone, unbind_3pid,
        },
        error::ErrorKind,
    },
};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    api::{
        admin::body,
        routes::{Group, Table},
    },
    error::Error,
    http::{
        args::{Args, Head, Incoming},
        auth::{Origin, caller_of},
        limits::Class,
        page,
        reply::Json,
        uia,
    },
    server::Server,
    user::{AskMail, Purpose},
};

pub(super) fn routes(table: &mut Table) {
    table.add(Group::Client, list);
    table.add(Group::Client, add);
    table
        .plain(Group::Client, Method::POST, "/_matrix/client/v3/account/3pid", add_old)
        .also("/_matrix/client/r0/account/3pid");
    table.add(Group::Client, remove);
    table.add(Group::Client, bind);
    table.add(Group::Client, unbind);
    table.add(Group::Client, ask_to_add);
    table.add(Group::Client, ask_to_register);
    table.add(Group::Client, ask_for_password);
    table.add(Group::Client, no_phone_to_add);
    table.add(Group::Client, no_phone_to_register);
    table.add(Group::Client, no_phone_for_password);
}

async fn list(server: Arc<Server>, args: Args<get_3pids::v3::Request>) -> Result<Json<Value>, Error> {
    let addresses = server.users.addresses(&args.caller.user).await?;
    let shown: Vec<Value> = addresses
        .into_iter()
        .map(|known| {
            json!({ "medium": known.medium, "address": known.address, "validated_at": known.validated_ms,
                "added_at": known.added_ms })
        })
        .collect();
    // Written out: ruma leaves the empty list away, which some clients do not expect.
    Ok(Json(json!({ "threepids": shown })))
}

async fn add(
    server: Arc<Server>,
    args: Args<add_3pid::v3::Request>,
) -> Result<add_3pid::v3::Response, Error> {
    uia::password(&server, &args.caller, &args.origin, args.auth.as_ref()).await?;
    let proven = server.users.proven_address(args.sid.as_str(), args.client_secret.as_str()).await?;
    server.users.add_address(&args.caller.user, proven).await?;
    Ok(add_3pid::v3::Response::new())
}

/// The deprecated way, which ruma no longer has.
async fn add_old(server: Arc<Server>, incoming: Incoming) -> Result<Json<Value>, Error> {
    #[derive(Deserialize)]
    struct Creds {
        client_secret: String,
        sid: String,
    }
    #[derive(Deserialize)]
    struct Body {
        #[serde(alias = "threePidCreds")]
        three_pid_creds: Creds,
    }
    let caller = caller_of(&server, &incoming).await?;
    let creds = body::<Body>(&incoming)?.three_pid_creds;
    let proven = server.users.proven_address(&creds.sid, &creds.client_secret).await?;
    server.users.add_address(&caller.user, proven).await?;
    Ok(Json(json!({})))
}

async fn remove(
    server: Arc<Server>,
    args: Args<delete_3pid::v3::Request>,
) -> Result<delete_3pid::v3::Response, Error> {
    server.users.remove_address(&args.caller.user, args.medium.as_str(), &args.address).await?;
    Ok(delete_3pid::v3::Response::new(ThirdPartyIdRemovalStatus::NoSupport))
}

/// Identity servers tell strangers who has which address: this server speaks to none.
async fn bind(_: Arc<Server>, _: Args<bind_3pid::v3::Request>) -> Result<bind_3pid::v3::Response, Error> {
    Err(Error::new(ErrorKind::ServerNotTrusted, "this server uses no identity servers"))
}

async fn unbind(
    _: Arc<Server>,
    _: Args<unbind_3pid::v3::Request>,
) -> Result<unbind_3pid::v3::Response, Error> {
    Ok(unbind_3pid::v3::Response::new(ThirdPartyIdRemovalStatus::NoSupport))
}

async fn ask_to_add(
    server: Arc<Server>,
    args: Args<manage_email::v3::Request>,
) -> Result<manage_email::v3::Response, Error> {
    let wish = (&*args.email, args.client_secret.as_str(), args.send_attempt.into(), args.next_link.clone());
    let sid = ask(&server, Purpose::Add, wish, &args.head, &args.origin).await?;
    Ok(manage_email::v3::Response::new(sid))
}

async fn ask_to_register(
    server: Arc<Server>,
    args: Args<register_email::v3::Request>,
) -> Result<register_email::v3::Response, Error> {
    let wish = (&*args.email, args.client_secret.as_str(), args.send_attempt.into(), args.next_link.clone());
    let sid = ask(&server, Purpose::Register, wish, &args.head, &args.origin).await?;
    Ok(register_email::v3::Response::new(sid))
}

async fn ask_for_password(
    server: Arc<Server>,
    args: Args<password_email::v3::Request>,
) -> Result<password_email::v3::Response, Error> {
    let wish = (&*args.email, args.client_secret.as_str(), args.send_attempt.into(), args.next_link.clone());
    let sid = ask(&server, Purpose::Password, wish, &args.head, &args.origin).await?;
    Ok(password_email::v3::Response::new(sid))
}

/// Sends a mail: at most so many to one address and for one caller.
async fn ask(
    server: &Arc<Server>,
    purpose: Purpose,
    (email, secret, attempt, next_link): (&str, &str, u64, Option<String>),
    head: &Head,
    origin: &Origin,
) -> Result<OwnedSessionId, Error> {
    server.limits.take(Class::Register, &origin.key())?;
    server.limits.take(Class::Mail, &email.to_lowercase())?;
    let ask = AskMail {
        purpose,
        address: email.to_owned(),
        secret: secret.to_owned(),
        attempt,
        next_link,
        base_url: page::base_url(server, head),
    };
    let sid = server.users.ask_mail(ask).await?;
    SessionId::parse(sid).map_err(|_| Error::internal("a session's name is none"))
}

fn no_phones() -> Error {
    Error::new(ErrorKind::ThreepidMediumNotSupported, "this server knows no telephone numbers")
}

async fn no_phone_to_add(
    _: Arc<Server>,
    _: Args<manage_phone::v3::Request>,
) -> Result<manage_phone::v3::Response, Error> {
    Err(no_phones())
}

async fn no_phone_to_register(
    _: Arc<Server>,
    _: Args<register_phone::v3::Request>,
) -> Result<register_phone::v3::Response, Error> {
    Err(no_phones())
}

async fn no_phone_for_password(
    _: Arc<Server>,
    _: Args<password_phone::v3::Request>,
) -> Result<password_phone::v3::Response, Error> {
    Err(no_phones())
}
