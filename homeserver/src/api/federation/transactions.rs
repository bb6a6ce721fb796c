//! Transactions: what other servers send us, once each.

use std::{collections::BTreeMap, sync::Arc};

use ruma::{
    OwnedServerName,
    api::{
        OutgoingResponseExt as _,
        error::ErrorKind,
        federation::transactions::{edu::Edu, send_transaction_message},
    },
    serde::Raw as RawJson,
};

use super::check_acl;
use crate::{
    api::routes::{Group, Table},
    error::Error,
    http::{args::Args, limits::Class, reply::Raw},
    room::receipt::TheirReceipts,
    server::Server,
    store::{Kind, StoreError, schema::dest},
};

pub(super) fn routes(table: &mut Table) {
    table.add(Group::Federation, send).limit(Class::Federation).body_max(BODY_MAX);
}

/// spec: <https://spec.matrix.org/v1.19/server-server-api/#transactions>
const PDUS_MAX: usize = 50;
/// As [`PDUS_MAX`].
const EDUS_MAX: usize = 100;
/// 50 events of 64 KiB and 100 EDUs, with room for JSON's escapes.
const BODY_MAX: usize = 16 << 20;
/// How long our answers are kept for a sender that repeats itself.
const ANSWERS_MS: u64 = 24 * 3600 * 1000;
/// Longest transaction id that is kept.
const TXN_LEN_MAX: usize = 255;

async fn send(server: Arc<Server>, args: Args<send_transaction_message::v1::Request>) -> Result<Raw, Error> {
    let origin = args.caller.name.clone();
    let request = args.request;
    if request.origin != origin {
        return Err(Error::forbidden("`origin` is not the server that signed the request"));
    }
    if request.pdus.len() > PDUS_MAX || request.edus.len() > EDUS_MAX {
        return Err(Error::new(ErrorKind::BadJson, "a transaction has at most 50 PDUs and 100 EDUs"));
    }
    let txn = request.transaction_id.to_string();
    if txn.len() > TXN_LEN_MAX {
        return Err(Error::invalid_param("the transaction id is too long"));
    }
    // One at a time for each sender: a repetition waits for the answer of the first.
    let _turn = server.remote.turn_of(&origin).await;
    if let Some(answer) = known(&server, &origin, &txn).await? {
        return Ok(Raw(answer.into()));
    }
    // EDUs alone that nobody repeats (typing, a greeting) need no memory.
    let lasting = !request.pdus.is_empty() || request.edus.iter().any(is_lasting);
    let mut results = BTreeMap::new();
    if !request.pdus.is_empty() {
        for received in server.rooms.receive(&origin, request.pdus).await {
            if let Some(id) = received.event_id {
                results.insert(id, received.result.map_err(|error| error.to_string()));
            }
        }
    }
    // After the PDUs: whoever has just joined may be typing already.
    for edu in request.edus {
        take_edu(&server, &origin, &edu).await;
    }
    let answer = send_transaction_message::v1::Response::new(results)
        .try_into_http_response::<Vec<u8>>()
        .map_err(|error| Error::internal(error.to_string()))?
        .into_body();
    if lasting {
        keep(&server, &origin, txn, answer.clone()).await?;
    }
    Ok(Raw(answer.into()))
}

/// Takes one EDU. What is wrong with it concerns nobody but its sender, who is not told.
async fn take_edu(server: &Server, origin: &OwnedServerName, edu: &RawJson<Edu>) {
    let kind = edu.get_field::<String>("edu_type").ok().flatten().unwrap_or_default();
    let taken: Result<(), Error> = match edu.deserialize() {
        _ if kind == "m.receipt" => match edu.get_field::<TheirReceipts>("content") {
            Ok(Some(content)) => take_receipts(server, origin, content).await,
            _ => Ok(()),
        },
        Ok(Edu::Typing(content)) => match check_acl(server, origin, &content.room_id).await {
            Ok(()) => server.typing.receive(origin, &content).await.map_err(Into::into),
            denied => denied,
        },
        Ok(Edu::DeviceListUpdate(content)) => {
            server.e2ee.receive_device_list_update(origin, content).await.map_err(Into::into)
        }
        Ok(Edu::SigningKeyUpdate(content)) => {
            server.e2ee.receive_signing_key_update(origin, content).await.map_err(Into::into)
        }
        Ok(Edu::DirectToDevice(content)) => {
            server.e2ee.receive_to_device(origin, content).await.map_err(Into::into)
        }
        Ok(Edu::Presence(content)) => {
            server.users.receive_presence(origin, content).await.map_err(Into::into)
        }
        // What we do not know is for others.
        Ok(_) => Ok(()),
        Err(error) => Err(Error::new(ErrorKind::BadJson, error.to_string())),
    };
    if let Err(error) = taken {
        tracing::debug!(%origin, kind, %error, "an EDU was not taken");
    }
}

/// Receipts in rooms that do not deny the server.
async fn take_receipts(
    server: &Server,
    origin: &OwnedServerName,
    mut content: TheirReceipts,
) -> Result<(), Error> {
    let mut denied = Vec::new();
    for room in content.0.keys() {
        if check_acl(server, origin, room).await.is_err() {
            denied.push(room.clone());
        }
    }
    content.0.retain(|room, _| !denied.contains(room));
    Ok(server.receipts.receive(origin, content).await?)
}

fn is_lasting(edu: &RawJson<Edu>) -> bool {
    let kind = edu.get_field::<String>("edu_type").ok().flatten();
    !matches!(kind.as_deref(), Some("m.typing" | "m.presence"))
}

async fn known(server: &Server, origin: &OwnedServerName, txn: &str) -> Result<Option<Vec<u8>>, StoreError> {
    let (origin, txn) = (origin.clone(), txn.to_owned());
    server
        .store
        .read(move |tx| match tx.lookup(Kind::Server, origin.as_str())? {
            Some(origin) => dest::answer(tx, origin, &txn),
            None => Ok(None),
        })
        .await
}

async fn keep(
    server: &Server,
    origin: &OwnedServerName,
    txn: String,
    answer: Vec<u8>,
) -> Result<(), StoreError> {
    let origin = origin.clone();
    let now = server.clock.now_ms();
    let time = |ms: u64| i64::try_from(ms).unwrap_or(i64::MAX);
    server
        .store
        .write_soon(move |tx| {
            let origin = tx.intern(Kind::Server, origin.as_str())?;
            dest::put_answer(tx, origin, &txn, &answer, time(now), time(now.saturating_sub(ANSWERS_MS)))
        })
        .await
}
