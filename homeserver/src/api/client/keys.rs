//! Keys of end-to-end encryption: uploaded, asked for, claimed, signed.

use std::{sync::Arc, time::Duration};

use ruma::{
    OneTimeKeyAlgorithm, UInt,
    api::client::keys::{
        claim_keys, get_key_changes, get_keys, upload_keys, upload_signatures, upload_signing_keys,
    },
};
use serde_json::json;

use crate::{
    api::routes::{Group, Table},
    e2ee::{SigningKeys, Upload},
    error::Error,
    http::{args::Args, reply::Json, uia},
    server::Server,
};

/// How long other servers are waited for when the client does not say.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);
/// The longest that other servers are waited for.
const TIMEOUT_MAX: Duration = Duration::from_secs(30);

pub(super) fn routes(table: &mut Table) {
    table.add(Group::Client, upload);
    table.add(Group::Client, query);
    table.add(Group::Client, claim);
    table.add(Group::Client, changes);
    table.add(Group::Client, signing_keys);
    table.add(Group::Client, signatures);
}

async fn upload(
    server: Arc<Server>,
    args: Args<upload_keys::v3::Request>,
) -> Result<upload_keys::v3::Response, Error> {
    let request = args.request;
    let upload = Upload {
        device_keys: request.device_keys,
        one_time_keys: request.one_time_keys,
        fallback_keys: request.fallback_keys,
    };
    let counts = server.e2ee.upload(&args.caller.user, &args.caller.device, upload).await?;
    let counts = counts.into_iter().map(|(algorithm, count)| {
        (OneTimeKeyAlgorithm::from(algorithm), UInt::new_saturating(count.unsigned_abs()))
    });
    Ok(upload_keys::v3::Response::new(counts.collect()))
}

async fn query(
    server: Arc<Server>,
    args: Args<get_keys::v3::Request>,
) -> Result<get_keys::v3::Response, Error> {
    let wait = args.timeout.unwrap_or(TIMEOUT_DEFAULT).min(TIMEOUT_MAX);
    Ok(server.e2ee.query(&args.caller.user, args.request.device_keys, wait).await?)
}

async fn claim(
    server: Arc<Server>,
    args: Args<claim_keys::v3::Request>,
) -> Result<claim_keys::v3::Response, Error> {
    let wait = args.timeout.unwrap_or(TIMEOUT_DEFAULT).min(TIMEOUT_MAX);
    Ok(server.e2ee.claim(args.request.one_time_keys, wait).await?)
}

async fn changes(
    server: Arc<Server>,
    args: Args<get_key_changes::v3::Request>,
) -> Result<get_key_changes::v3::Response, Error> {
    let position = |token: &str| {
        server
            .sync
            .position(token)
            .ok_or_else(|| Error::invalid_param("that is not a sync token of this server; sync anew"))
    };
    let (from, to) = (position(&args.from)?, position(&args.to)?);
    let (changed, left) = server.sync.key_changes(&args.caller.user, from, to).await?;
    Ok(get_key_changes::v3::Response::new(changed, left))
}

async fn signing_keys(
    server: Arc<Server>,
    args: Args<upload_signing_keys::v3::Request>,
) -> Result<upload_signing_keys::v3::Response, Error> {
    let keys = SigningKeys {
        master: args.master_key.clone(),
        self_signing: args.self_signing_key.clone(),
        user_signing: args.user_signing_key.clone(),
    };
    if server.e2ee.signing_keys_need_proof(&args.caller.user, &keys).await? {
        uia::new_identity(&server, &args.caller, &args.origin, args.auth.as_ref()).await?;
    }
    server.e2ee.upload_signing_keys(&args.caller.user, &keys).await?;
    Ok(upload_signing_keys::v3::Response::new())
}

async fn signatures(
    server: Arc<Server>,
    args: Args<upload_signatures::v3::Request>,
) -> Result<Json<serde_json::Value>, Error> {
    let objects = args.request.signed_keys.into_iter().map(|(user, keys)| {
        let keys = keys.iter().map(|(key, object)| (key.to_owned(), object.to_owned()));
        (user, keys.collect())
    });
    let failures = server.e2ee.upload_signatures(&args.caller.user, objects.collect()).await?;
    let mut shown = serde_json::Map::new();
    for (user, keys) in failures {
        let keys = keys.into_iter().map(|(key, (errcode, error))| {
            (key, json!({"status": 400, "errcode": errcode, "error": error, "message": error}))
        });
        shown.insert(user.to_string(), serde_json::Value::Object(keys.collect()));
    }
    Ok(Json(json!({ "failures": shown })))
}
