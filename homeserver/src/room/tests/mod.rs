//! Rooms by themselves: a node with its store, its identity and nobody else on the network.

mod chains;
mod crash;
mod ends;
mod federation;
mod local;
mod migration;
mod orders;
mod purge;
mod visibility;

use std::{path::Path, sync::Arc};

use futures_util::future::BoxFuture;
use ruma::{
    OwnedEventId, OwnedRoomId, OwnedServerName, OwnedUserId, RoomVersionId, ServerName, UserId,
    api::client::room::create_room, signatures::PublicKeyMap,
};
use serde_json::{Value, json, value::to_raw_value};

use super::{Draft, Fetch, FetchError, Parts, PduJson, Profile, Profiles, RoomError, Rooms, Signer};
use crate::{
    account::{Identity, NameChoice},
    clock::Clock,
    notify::Notify,
    remote::{Remote, memory::MemoryNet},
    store::{Options, Store},
};

/// A node whose directory outlives it.
pub(super) struct Node {
    pub(super) rooms: Rooms,
    pub(super) store: Store,
}

impl Node {
    pub(super) fn open(dir: &Path, options: Options) -> Self {
        Self::open_with(dir, options, Arc::new(Nobody))
    }

    pub(super) fn open_with(dir: &Path, options: Options, fetch: Arc<dyn Fetch>) -> Self {
        Self::named("here.test", dir, options, fetch)
    }

    pub(super) fn named(name: &str, dir: &Path, options: Options, fetch: Arc<dyn Fetch>) -> Self {
        let notify = Notify::new();
        let store = Store::open(dir, options, notify.clone()).unwrap();
        let secret = router::SecretKey::from_seed([name.len() as u8; 32]);
        let name = OwnedServerName::try_from(name).unwrap();
        let identity =
            Arc::new(Identity::open_or_create(dir, Some(NameChoice::ServerName(name)), &secret).unwrap());
        let clock = Clock::system();
        let remote = Remote::new(
            store.clone(),
            identity.clone(),
            MemoryNet::new().carrier(secret.id()),
            clock.clone(),
        );
        let signer = Signer { name: identity.server_name().to_owned(), key: identity.signing_key() };
        let rooms = Rooms::new(Parts {
            store: store.clone(),
            notify,
            clock,
            signer,
            profiles: Arc::new(Named),
            fetch,
            remote,
        });
        Self { rooms, store }
    }

    pub(super) fn user(&self, name: &str) -> OwnedUserId {
        UserId::parse(format!("@{name}:{}", self.rooms.server_name())).unwrap()
    }

    /// A public room of `creator`.
    pub(super) async fn room(&self, creator: &UserId, version: &str) -> OwnedRoomId {
        let mut request = create_room::v3::Request::new();
        request.room_version = Some(RoomVersionId::try_from(version).unwrap());
        request.preset = Some(create_room::v3::RoomPreset::PublicChat);
        self.rooms.create(creator, request).await.unwrap()
    }

    pub(super) async fn say(
        &self,
        user: &UserId,
        room: &OwnedRoomId,
        body: &str,
    ) -> Result<OwnedEventId, RoomError> {
        self.rooms.send(user, room, message(body), None).await
    }
}

pub(super) fn message(body: &str) -> Draft {
    let content = json!({ "msgtype": "m.text", "body": body });
    Draft::message("m.room.message", to_raw_value(&content).unwrap())
}

pub(super) fn state(kind: &str, key: &str, content: Value) -> Draft {
    Draft::state(kind, key, to_raw_value(&content).unwrap())
}

/// Users are called by their local part.
struct Named;

impl Profiles for Named {
    fn profile<'a>(&'a self, user: &'a UserId) -> BoxFuture<'a, Profile> {
        let displayname = Some(user.localpart().to_owned());
        Box::pin(std::future::ready(Profile { displayname, avatar_url: None }))
    }
}

/// No other server answers.
pub(super) struct Nobody;

fn no<T: Send + 'static>() -> BoxFuture<'static, Result<T, FetchError>> {
    Box::pin(std::future::ready(Err(FetchError("nobody is there".into()))))
}

impl Fetch for Nobody {
    fn keys<'a>(&'a self, _: Vec<(OwnedServerName, Vec<String>)>, _: u64) -> BoxFuture<'a, PublicKeyMap> {
        Box::pin(std::future::ready(PublicKeyMap::new()))
    }

    fn missing_events<'a>(
        &'a self,
        _: &'a ServerName,
        _: &'a ruma::RoomId,
        _: Vec<OwnedEventId>,
        _: Vec<OwnedEventId>,
        _: u32,
        _: u64,
    ) -> BoxFuture<'a, Result<Vec<PduJson>, FetchError>> {
        no()
    }

    fn event<'a>(
        &'a self,
        _: &'a ServerName,
        _: &'a ruma::EventId,
    ) -> BoxFuture<'a, Result<PduJson, FetchError>> {
        no()
    }

    fn state_ids<'a>(
        &'a self,
        _: &'a ServerName,
        _: &'a ruma::RoomId,
        _: &'a ruma::EventId,
    ) -> BoxFuture<'a, Result<(Vec<OwnedEventId>, Vec<OwnedEventId>), FetchError>> {
        no()
    }

    fn state<'a>(
        &'a self,
        _: &'a ServerName,
        _: &'a ruma::RoomId,
        _: &'a ruma::EventId,
    ) -> BoxFuture<'a, Result<(Vec<PduJson>, Vec<PduJson>), FetchError>> {
        no()
    }

    fn event_auth<'a>(
        &'a self,
        _: &'a ServerName,
        _: &'a ruma::RoomId,
        _: &'a ruma::EventId,
    ) -> BoxFuture<'a, Result<Vec<PduJson>, FetchError>> {
        no()
    }

    fn backfill<'a>(
        &'a self,
        _: &'a ServerName,
        _: &'a ruma::RoomId,
        _: Vec<OwnedEventId>,
        _: u32,
    ) -> BoxFuture<'a, Result<Vec<PduJson>, FetchError>> {
        no()
    }
}
