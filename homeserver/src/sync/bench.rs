//! Owns what `benches/` needs of whole syncs: an account with many rooms, asked as clients ask.

use std::{path::Path, sync::Arc};

use axum::{Router, body::Body};
use bytes::Bytes;
use http::{Request, header};
use http_body_util::BodyExt as _;
use router::{AccountRecord, NodeId, SecretKey};
use serde_json::{Value, json};
use tower::ServiceExt as _;

use crate::{
    account::{Acct, Identity, NameChoice},
    clock::Clock,
    http::listen::client_service,
    notify::Notify,
    remote::{
        Remote,
        carrier::{Carried, Carrier, CarrierError, Class},
    },
    server::{Parts, Registration, Server, Settings},
    store::{Options, Store, Synchronous},
};

/// An account on a server of its own.
pub struct Account {
    runtime: tokio::runtime::Runtime,
    server: Arc<Server>,
    client: Router,
    token: String,
    rooms: Vec<String>,
}

/// No other servers.
struct Alone;

impl Carrier for Alone {
    fn find_account(&self, _: Acct) -> Carried<'_, Vec<AccountRecord>> {
        Box::pin(async { Err(CarrierError::NotFound) })
    }

    fn request(&self, _: NodeId, _: Class, _: Request<Bytes>) -> Carried<'_, http::Response<Body>> {
        Box::pin(async { Err(CarrierError::NotFound) })
    }
}

impl Account {
    /// An account in so many rooms with so many messages each.
    pub fn build(dir: &Path, rooms: usize, messages: usize) -> Result<Self, String> {
        let text = |error: &dyn std::fmt::Display| error.to_string();
        let runtime = tokio::runtime::Runtime::new().map_err(|error| text(&error))?;
        let guard = runtime.enter();
        let key = SecretKey::from_seed([7; 32]);
        let identity = Identity::open_or_create(dir, Some(NameChoice::Zone("mesh.alt".into())), &key)
            .map_err(|error| text(&error))?;
        let options = Options { synchronous: Synchronous::Normal, ..Options::default() };
        let store = Store::open(dir, options, Notify::new()).map_err(|error| text(&error))?;
        let clock = Clock::system();
        let remote = Remote::new(store.clone(), Arc::new(identity), Arc::new(Alone), clock.clone());
        let settings =
            Settings { registration: Registration::Open, rate_limits: false, ..Settings::default() };
        let media_dir = dir.join("media");
        let server = Server::start(Parts { settings, clock, store, remote, media_dir, overlay: None })
            .map_err(|error| text(&error))?;
        drop(guard);
        let client = client_service(Arc::clone(&server));
        let mut account = Self { runtime, server, client, token: String::new(), rooms: Vec::new() };
        let body = json!({ "username": "bench", "password": "correct horse battery",
            "auth": { "type": "m.login.dummy" } });
        account.token = field(&account.ask("POST", "/_matrix/client/v3/register", &body)?, "access_token")?;
        for n in 0..rooms {
            let body = json!({ "name": format!("room {n}"), "topic": "what it is about" });
            let made = account.ask("POST", "/_matrix/client/v3/createRoom", &body)?;
            let room = field(&made, "room_id")?;
            for m in 0..messages {
                account.say(&room, &m.to_string())?;
            }
            account.rooms.push(room);
        }
        Ok(account)
    }

    fn say(&self, room: &str, txn: &str) -> Result<(), String> {
        let path = format!("/_matrix/client/v3/rooms/{room}/send/m.room.message/{txn}");
        let body = json!({ "msgtype": "m.text", "body": "a message of about seventy characters, as people write in rooms" });
        self.ask("PUT", &path, &body).map(drop)
    }

    fn ask(&self, method: &str, path: &str, body: &Value) -> Result<Value, String> {
        let bytes = self.bytes(method, path, body)?;
        serde_json::from_slice(&bytes).map_err(|error| error.to_string())
    }

    fn bytes(&self, method: &str, path: &str, body: &Value) -> Result<Bytes, String> {
        let mut request = Request::builder().method(method).uri(path);
        if !self.token.is_empty() {
            request = request.header(header::AUTHORIZATION, format!("Bearer {}", self.token));
        }
        let body = if method == "GET" { Body::empty() } else { Body::from(body.to_string()) };
        let request = request.body(body).map_err(|error| error.to_string())?;
        let client = self.client.clone();
        self.runtime.block_on(async move {
            let reply = client.oneshot(request).await.map_err(|error| error.to_string())?;
            let status = reply.status();
            let bytes = reply.into_body().collect().await.map_err(|error| error.to_string())?.to_bytes();
            if status.is_success() { Ok(bytes) } else { Err(format!("{path}: {status}: {bytes:?}")) }
        })
    }

    /// The first sliding sync of a new connection: a list of the newest twenty rooms. Gives how many rooms came.
    pub fn first_sliding_sync(&self, connection: u64) -> Result<usize, String> {
        let body = json!({
            "conn_id": connection.to_string(),
            "lists": { "all": { "ranges": [[0, 19]], "timeline_limit": 1, "required_state": [
                ["m.room.name", ""], ["m.room.avatar", ""], ["m.room.encryption", ""], ["m.room.member", "$ME"],
                ["m.room.member", "$LAZY"], ["m.room.create", ""], ["m.room.power_levels", ""]] } },
            "extensions": { "e2ee": { "enabled": true }, "to_device": { "enabled": true },
                "account_data": { "enabled": true }, "receipts": { "enabled": true }, "typing": { "enabled": true } },
        });
        let path = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync?timeout=0";
        let told = self.ask("POST", path, &body)?;
        Ok(told["rooms"].as_object().map_or(0, serde_json::Map::len))
    }

    /// The initial sync of v2: twenty events a room, lazy members. Gives its bytes.
    pub fn initial_sync(&self) -> Result<usize, String> {
        let filter = "%7B%22room%22%3A%7B%22timeline%22%3A%7B%22limit%22%3A20%7D%2C%22state%22%3A%7B%22lazy_load_members%22%3Atrue%7D%7D%7D";
        let path = format!("/_matrix/client/v3/sync?timeout=0&filter={filter}");
        Ok(self.bytes("GET", &path, &Value::Null)?.len())
    }

    /// Where the account's syncs stand now.
    pub fn token(&self) -> Result<String, String> {
        let path = "/_matrix/client/v3/sync?timeout=0&filter=%7B%22room%22%3A%7B%22rooms%22%3A%5B%5D%7D%7D";
        field(&self.ask("GET", path, &Value::Null)?, "next_batch")
    }

    /// A message to one room, and the sync since `since` that tells of it. Gives its bytes.
    pub fn say_and_sync(&self, since: &str, txn: u64) -> Result<usize, String> {
        let room = self.rooms.first().ok_or("no rooms")?;
        self.say(room, &format!("bench{txn}"))?;
        self.sync_since(since)
    }

    /// The sync since `since`. Gives its bytes.
    pub fn sync_since(&self, since: &str) -> Result<usize, String> {
        Ok(self
            .bytes("GET", &format!("/_matrix/client/v3/sync?timeout=0&since={since}"), &Value::Null)?
            .len())
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        self.server.stop();
        let server = Arc::clone(&self.server);
        self.runtime.block_on(async move {
            server.finish().await;
            server.store.close().await;
        });
    }
}

fn field(answer: &Value, name: &str) -> Result<String, String> {
    answer[name].as_str().map(str::to_owned).ok_or_else(|| format!("no {name}: {answer}"))
}
