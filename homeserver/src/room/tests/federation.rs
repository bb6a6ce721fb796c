//! Several nodes in one process, without a network: they hand each other events and answer each other's questions, and
//! are cut apart as a test wants. What is tested: whoever sees the same events in whatever order has the same state.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use futures_util::future::BoxFuture;
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedEventId, OwnedRoomId, OwnedServerName, OwnedUserId, RoomId,
    ServerName, UserId, serde::Base64, signatures::PublicKeyMap,
};
use serde_json::{Value, json};

use super::{Node, state};
use crate::{
    room::{
        Draft, Fetch, FetchError, PduJson, RoomError, Rooms,
        core::{build, version},
        federation::JoinAnswer,
        read::MessagesQuery,
    },
    store::{
        Kind, Options, Seq, StoreError,
        schema::{events, membership::Membership, outbox, state as table},
    },
};

/// The nodes of a test.
#[derive(Clone, Default)]
pub(super) struct Net {
    nodes: Arc<Mutex<HashMap<OwnedServerName, Rooms>>>,
    sent: Arc<Mutex<HashMap<OwnedServerName, Seq>>>,
}

impl Net {
    pub(super) fn node(&self, name: &str) -> (tempfile::TempDir, Node) {
        let dir = tempfile::tempdir().unwrap();
        let own = OwnedServerName::try_from(name).unwrap();
        let fetch = Arc::new(Asks { net: self.clone(), own: own.clone() });
        let node = Node::named(name, dir.path(), Options::default(), fetch);
        self.nodes.lock().unwrap().insert(own, node.rooms.clone());
        (dir, node)
    }

    /// Nobody reaches it any more.
    pub(super) fn remove(&self, name: &ServerName) {
        self.nodes.lock().unwrap().remove(name);
    }

    fn rooms(&self, name: &ServerName) -> Option<Rooms> {
        self.nodes.lock().unwrap().get(name).cloned()
    }

    /// Events that `from` has put into its outbox since the last time, with their servers.
    pub(super) async fn outbox(&self, from: &Node) -> Vec<(PduJson, Vec<OwnedServerName>)> {
        let own = from.rooms.server_name().to_owned();
        let after = self.sent.lock().unwrap().get(&own).copied().unwrap_or_default();
        let (list, last) = from
            .store
            .read(move |tx| -> Result<_, StoreError> {
                let mut list = Vec::new();
                let mut last = after;
                for row in outbox::after(tx, after, 1000)? {
                    last = row.seq;
                    let Some(event) = row.event else { continue };
                    let event = events::event(tx, event)?.unwrap();
                    let servers = outbox::audience_servers(tx, row.audience)?;
                    let servers = servers
                        .into_iter()
                        .map(|server| OwnedServerName::try_from(&*tx.text(server).unwrap()).unwrap())
                        .collect();
                    list.push((crate::room::read::pdu(tx, &event)?, servers));
                }
                Ok((list, last))
            })
            .await
            .unwrap();
        self.sent.lock().unwrap().insert(own, last);
        list
    }

    /// Brings what is in the outbox of `from` to whom it is for, in order.
    pub(super) async fn deliver(&self, from: &Node) {
        for (pdu, servers) in self.outbox(from).await {
            for server in servers {
                if let Some(to) = self.rooms(&server) {
                    for received in to.receive(from.rooms.server_name(), vec![pdu.clone()]).await {
                        received.result.unwrap();
                    }
                }
            }
        }
    }

    /// `user` of `to` joins through `via`, by the steps of the handshake.
    pub(super) async fn join(
        &self,
        to: &Node,
        user: &UserId,
        via: &Node,
        room: &RoomId,
    ) -> Result<(), RoomError> {
        let draft = state("m.room.member", user.as_str(), json!({"membership": "join"}));
        let template = via.rooms.template(room, user, draft).await?;
        let event = sign(to, &template.version, template.event);
        let raw = serde_json::value::to_raw_value(&event).unwrap();
        let id = via.rooms.receive_handshake(to.rooms.server_name(), room, event).await?;
        let answer = via.rooms.state_answer(to.rooms.server_name(), room, &id).await?;
        to.rooms
            .import_join(JoinAnswer {
                partial: None,
                room_id: room.to_owned(),
                version: template.version,
                event: raw,
                state: answer.state,
                auth_chain: answer.auth_chain,
                origin: via.rooms.server_name().to_owned(),
            })
            .await
    }
}

pub(super) fn sign(node: &Node, version: &str, mut event: CanonicalJsonObject) -> CanonicalJsonObject {
    let rules = version::rules(version).unwrap();
    build::sign(&mut event, node.rooms.signer(), &rules).unwrap();
    event
}

/// What a node of the test asks the others.
pub(super) struct Asks {
    net: Net,
    own: OwnedServerName,
}

impl Asks {
    pub(super) fn new(net: &Net, own: &str) -> Self {
        Self { net: net.clone(), own: OwnedServerName::try_from(own).unwrap() }
    }

    fn other(&self, name: &ServerName) -> Result<Rooms, FetchError> {
        self.net.rooms(name).ok_or_else(|| FetchError("away".into()))
    }
}

fn failed(error: RoomError) -> FetchError {
    FetchError(error.to_string())
}

impl Fetch for Asks {
    fn keys<'a>(
        &'a self,
        wanted: Vec<(OwnedServerName, Vec<String>)>,
        _: u64,
    ) -> BoxFuture<'a, PublicKeyMap> {
        Box::pin(async move {
            let mut keys = PublicKeyMap::new();
            for (server, _) in wanted {
                if let Some(rooms) = self.net.rooms(&server) {
                    let key = &rooms.signer().key;
                    let id = format!("ed25519:{}", key.version());
                    let key = Base64::new(key.public_key().to_vec());
                    keys.entry(server.to_string()).or_default().insert(id, key);
                }
            }
            keys
        })
    }

    fn missing_events<'a>(
        &'a self,
        from: &'a ServerName,
        room: &'a RoomId,
        earliest: Vec<OwnedEventId>,
        latest: Vec<OwnedEventId>,
        limit: u32,
        min_depth: u64,
    ) -> BoxFuture<'a, Result<Vec<PduJson>, FetchError>> {
        Box::pin(async move {
            let other = self.other(from)?;
            other
                .missing_events_answer(&self.own, room, earliest, latest, limit, min_depth)
                .await
                .map_err(failed)
        })
    }

    fn event<'a>(
        &'a self,
        from: &'a ServerName,
        event: &'a ruma::EventId,
    ) -> BoxFuture<'a, Result<PduJson, FetchError>> {
        Box::pin(async move { Ok(self.other(from)?.event_answer(&self.own, event).await.map_err(failed)?.0) })
    }

    fn state_ids<'a>(
        &'a self,
        from: &'a ServerName,
        room: &'a RoomId,
        event: &'a ruma::EventId,
    ) -> BoxFuture<'a, Result<(Vec<OwnedEventId>, Vec<OwnedEventId>), FetchError>> {
        Box::pin(
            async move { self.other(from)?.state_ids_answer(&self.own, room, event).await.map_err(failed) },
        )
    }

    fn state<'a>(
        &'a self,
        from: &'a ServerName,
        room: &'a RoomId,
        event: &'a ruma::EventId,
    ) -> BoxFuture<'a, Result<(Vec<PduJson>, Vec<PduJson>), FetchError>> {
        Box::pin(async move {
            let answer = self.other(from)?.state_answer(&self.own, room, event).await.map_err(failed)?;
            Ok((answer.state, answer.auth_chain))
        })
    }

    fn event_auth<'a>(
        &'a self,
        from: &'a ServerName,
        room: &'a RoomId,
        event: &'a ruma::EventId,
    ) -> BoxFuture<'a, Result<Vec<PduJson>, FetchError>> {
        Box::pin(
            async move { self.other(from)?.event_auth_answer(&self.own, room, event).await.map_err(failed) },
        )
    }

    fn backfill<'a>(
        &'a self,
        from: &'a ServerName,
        room: &'a RoomId,
        from_events: Vec<OwnedEventId>,
        limit: u32,
    ) -> BoxFuture<'a, Result<Vec<PduJson>, FetchError>> {
        Box::pin(async move {
            self.other(from)?.backfill_answer(&self.own, room, from_events, limit).await.map_err(failed)
        })
    }
}

/// A room's resolved state: (type, state key) to event id.
pub(super) async fn resolved(node: &Node, room: &RoomId) -> Vec<(String, OwnedEventId)> {
    let room = room.to_owned();
    node.store
        .read(move |tx| -> Result<_, StoreError> {
            let room = tx.lookup(Kind::Room, room.as_str())?.unwrap();
            let mut list = Vec::new();
            for (skey, nid) in table::current_all(tx, room)? {
                list.push((tx.text(skey)?.to_string(), events::id(tx, nid)?));
            }
            list.sort();
            // The snapshot says the same as the table.
            let sid = crate::store::schema::rooms::room(tx, room)?.unwrap().sid;
            assert_eq!(table::full(tx, sid)?, table::current_all(tx, room)?);
            Ok(list)
        })
        .await
        .unwrap()
}

async fn bodies(node: &Node, user: &UserId, room: &RoomId) -> Vec<String> {
    let query = MessagesQuery {
        from: None,
        to: None,
        backwards: true,
        limit: 500,
        lazy_members: false,
        filter: None,
        relations: Default::default(),
        device: None,
    };
    let page = node.rooms.messages(user, room, query).await.unwrap();
    let body = |event: &PduJson| {
        let event: Value = serde_json::from_str(event.get()).unwrap();
        event["content"]["body"].as_str().map(ToOwned::to_owned)
    };
    let mut list: Vec<String> = page.chunk.iter().filter_map(body).collect();
    list.reverse();
    list
}

async fn member(node: &Node, room: &OwnedRoomId, user: &OwnedUserId) -> Option<Membership> {
    node.rooms.membership(user, room).await.unwrap()
}

#[tokio::test]
async fn two_servers_chat_in_every_version() {
    let net = Net::default();
    let ((_d1, a), (_d2, b)) = (net.node("one.test"), net.node("two.testing"));
    let (alice, bob) = (a.user("alice"), b.user("bob"));
    for version in ["1", "2", "3", "4", "5", "6", "10", "11", "12"] {
        let room = a.room(&alice, version).await;
        a.say(&alice, &room, "before").await.unwrap();
        net.join(&b, &bob, &a, &room).await.unwrap();
        assert_eq!(resolved(&a, &room).await, resolved(&b, &room).await);
        for n in 0..5 {
            a.say(&alice, &room, &format!("a{n}")).await.unwrap();
            net.deliver(&a).await;
            b.say(&bob, &room, &format!("b{n}")).await.unwrap();
            net.deliver(&b).await;
        }
        let said = ["before", "a0", "b0", "a1", "b1", "a2", "b2", "a3", "b3", "a4", "b4"];
        assert_eq!(bodies(&a, &alice, &room).await, said);
        // Bob's server has the past by backfill, and bob may see it.
        assert_eq!(bodies(&b, &bob, &room).await, said, "version {version}");
        a.rooms.kick(&alice, &room, &bob, None).await.unwrap();
        a.say(&alice, &room, "alone").await.unwrap();
        net.deliver(&a).await;
        assert_eq!(member(&b, &room, &bob).await, Some(Membership::Leave));
        assert!(b.say(&bob, &room, "out").await.is_err());
        // And back again.
        net.join(&b, &bob, &a, &room).await.unwrap();
        b.say(&bob, &room, "again").await.unwrap();
        net.deliver(&b).await;
        assert_eq!(bodies(&a, &alice, &room).await.last().unwrap(), "again");
        assert_eq!(resolved(&a, &room).await, resolved(&b, &room).await);
    }
}

#[tokio::test]
async fn forks_resolve_the_same_everywhere_and_projections_follow() {
    for version in ["1", "2", "3", "4", "5", "6", "10", "11", "12"] {
        let net = Net::default();
        let ((_d1, a), (_d2, b), (_d3, c)) =
            (net.node("one.test"), net.node("two.testing"), net.node("three.example"));
        let (alice, bob, carol) = (a.user("alice"), b.user("bob"), c.user("carol"));
        let room = a.room(&alice, version).await;
        net.join(&b, &bob, &a, &room).await.unwrap();
        net.deliver(&a).await;
        net.join(&c, &carol, &a, &room).await.unwrap();
        net.deliver(&a).await;
        // Carol's server stays in the room without her.
        let dave = c.user("dave");
        c.rooms.join(&dave, (&*room).into(), vec![], None).await.unwrap();
        net.deliver(&c).await;
        let mut levels = json!({"users": {bob.as_str(): 60}, "state_default": 50, "ban": 50});
        if version != "12" {
            levels["users"][alice.as_str()] = 100.into();
        }
        a.rooms.send(&alice, &room, state("m.room.power_levels", "", levels), None).await.unwrap();
        net.deliver(&a).await;

        // Apart: both change the topic, alice bans carol, carol (who has not heard of it) talks on; bob changes the name.
        a.rooms
            .send(&alice, &room, state("m.room.topic", "", json!({"topic": "by alice"})), None)
            .await
            .unwrap();
        a.rooms.ban(&alice, &room, &carol, None).await.unwrap();
        b.rooms.send(&bob, &room, state("m.room.topic", "", json!({"topic": "by bob"})), None).await.unwrap();
        b.rooms.send(&bob, &room, state("m.room.name", "", json!({"name": "bob's"})), None).await.unwrap();
        c.say(&carol, &room, "still here").await.unwrap();
        let (from_a, from_b, from_c) = (net.outbox(&a).await, net.outbox(&b).await, net.outbox(&c).await);
        let events = |list: &[(PduJson, Vec<OwnedServerName>)]| -> Vec<PduJson> {
            list.iter().map(|(pdu, _)| pdu.clone()).collect()
        };
        // Each hears of the others in another order.
        let orders = [
            (&a, vec![(&b, events(&from_b)), (&c, events(&from_c))]),
            (&b, vec![(&c, events(&from_c)), (&a, events(&from_a))]),
            (&c, vec![(&a, events(&from_a)), (&b, events(&from_b))]),
        ];
        for (to, heard) in orders {
            for (from, pdus) in heard {
                for received in to.rooms.receive(from.rooms.server_name(), pdus).await {
                    received.result.unwrap();
                }
            }
        }
        let all = [resolved(&a, &room).await, resolved(&b, &room).await, resolved(&c, &room).await];
        assert_eq!(all[0], all[1], "version {version}");
        assert_eq!(all[0], all[2], "version {version}");
        for node in [&a, &b, &c] {
            assert_eq!(member(node, &room, &carol).await, Some(Membership::Ban), "version {version}");
        }
        assert!(c.say(&carol, &room, "banned").await.is_err());
        // Alice's server had decided on the ban before the message came: soft failure there, history elsewhere.
        assert!(!bodies(&a, &alice, &room).await.contains(&"still here".to_owned()));
        assert!(bodies(&b, &bob, &room).await.contains(&"still here".to_owned()));
        // A message merges the forks for all.
        let merge = a.say(&alice, &room, "merged").await.unwrap();
        let event: Value =
            serde_json::from_str(a.rooms.event(&alice, &room, &merge).await.unwrap().get()).unwrap();
        assert_eq!(event["content"]["body"], "merged");
        net.deliver(&a).await;
        assert_eq!(bodies(&b, &bob, &room).await.last().unwrap(), "merged");
        assert_eq!(resolved(&a, &room).await, resolved(&b, &room).await);
    }
}

#[tokio::test]
async fn a_gap_is_filled_and_a_long_one_bridged() {
    let net = Net::default();
    let ((_d1, a), (_d2, b)) = (net.node("one.test"), net.node("two.testing"));
    let (alice, bob) = (a.user("alice"), b.user("bob"));
    let room = a.room(&alice, "12").await;
    net.join(&b, &bob, &a, &room).await.unwrap();
    net.deliver(&a).await;
    for n in 0..10 {
        a.say(&alice, &room, &format!("m{n}")).await.unwrap();
    }
    a.rooms
        .send(&alice, &room, state("m.room.topic", "", json!({"topic": "in the gap"})), None)
        .await
        .unwrap();
    let lost = net.outbox(&a).await;
    assert_eq!(lost.len(), 11);
    a.say(&alice, &room, "last").await.unwrap();
    net.deliver(&a).await;
    let said: Vec<String> = (0..10).map(|n| format!("m{n}")).chain(["last".into()]).collect();
    assert_eq!(bodies(&b, &bob, &room).await, said);
    assert_eq!(resolved(&a, &room).await, resolved(&b, &room).await);

    // Longer than one question may be: it is asked for in several, and no hole is left.
    for n in 0..150 {
        a.say(&alice, &room, &format!("n{n}")).await.unwrap();
    }
    net.outbox(&a).await;
    a.say(&alice, &room, "end").await.unwrap();
    net.deliver(&a).await;
    assert_eq!(bodies(&b, &bob, &room).await.len(), 11 + 151);
    assert_eq!(bodies(&b, &bob, &room).await, bodies(&a, &alice, &room).await);

    // Longer than any gap that is filled: the state comes along, the rest of the past by backfill.
    a.rooms.send(&alice, &room, state("m.room.topic", "", json!({"topic": "later"})), None).await.unwrap();
    for n in 0..540 {
        a.say(&alice, &room, &format!("o{n}")).await.unwrap();
    }
    net.outbox(&a).await;
    a.say(&alice, &room, "the very end").await.unwrap();
    net.deliver(&a).await;
    assert_eq!(resolved(&a, &room).await, resolved(&b, &room).await);
    assert_eq!(bodies(&b, &bob, &room).await.last().unwrap(), "the very end");
}

#[tokio::test]
async fn forged_and_broken_events_are_refused() {
    let net = Net::default();
    let ((_d1, a), (_d2, b)) = (net.node("one.test"), net.node("two.testing"));
    let (alice, bob) = (a.user("alice"), b.user("bob"));
    let room = a.room(&alice, "11").await;
    net.join(&b, &bob, &a, &room).await.unwrap();
    net.deliver(&a).await;
    b.say(&bob, &room, "true").await.unwrap();
    let (pdu, _) = net.outbox(&b).await.remove(0);
    let origin = b.rooms.server_name();
    let object: CanonicalJsonObject = serde_json::from_str(pdu.get()).unwrap();

    let forged = |change: &dyn Fn(&mut CanonicalJsonObject)| {
        let mut event = object.clone();
        change(&mut event);
        serde_json::value::to_raw_value(&event).unwrap()
    };
    let text = |text: &str| CanonicalJsonValue::String(text.into());
    let broken = [
        forged(&|event| drop(event.insert("sender".into(), text("@alice:one.test")))),
        forged(&|event| drop(event.insert("depth".into(), text("deep")))),
        forged(&|event| drop(event.remove("signatures"))),
        forged(&|event| drop(event.insert("room_id".into(), text("!other:one.test")))),
        forged(&|event| drop(event.insert("prev_events".into(), CanonicalJsonValue::Null))),
        forged(&|event| drop(event.insert("type".into(), text("m.room.create")))),
        serde_json::value::to_raw_value(&json!({"room_id": room, "type": 5})).unwrap(),
        serde_json::value::to_raw_value(&json!([1, 2])).unwrap(),
    ];
    for received in a.rooms.receive(origin, broken.to_vec()).await {
        assert!(received.result.is_err());
    }
    // Content changed on the way: the event is taken, pruned, and its id is the same.
    let changed = forged(&|event| {
        let mut content = CanonicalJsonObject::new();
        content.insert("body".into(), text("false"));
        event.insert("content".into(), CanonicalJsonValue::Object(content));
    });
    let received = a.rooms.receive(origin, vec![changed]).await;
    received[0].result.as_ref().unwrap();
    assert!(bodies(&a, &alice, &room).await.is_empty());
    // Who is not allowed: signed and sound, but bob may not set the topic; it is kept as rejected and shown to nobody.
    let draft = state("m.room.topic", "", json!({"topic": "mine"}));
    assert!(matches!(b.rooms.send(&bob, &room, draft, None).await, Err(RoomError::Forbidden(_))));
    let mut event = object.clone();
    event.insert("type".into(), text("m.room.topic"));
    event.insert("state_key".into(), text(""));
    event.remove("hashes");
    event.remove("signatures");
    let event = sign(&b, "11", event);
    let received = a.rooms.receive(origin, vec![serde_json::value::to_raw_value(&event).unwrap()]).await;
    received[0].result.as_ref().unwrap();
    assert!(a.rooms.state_one(&alice, &room, "m.room.topic", "").await.is_err());
    let id = received[0].event_id.clone().unwrap();
    assert!(a.rooms.event(&alice, &room, &id).await.is_err());
    let flags = a
        .store
        .read(move |tx| -> Result<_, StoreError> { Ok(events::event_by_id(tx, &id)?.unwrap().flags) })
        .await
        .unwrap();
    assert_eq!(flags & events::REJECTED, events::REJECTED);
}

#[tokio::test]
async fn a_redaction_that_comes_first_waits() {
    let net = Net::default();
    let ((_d1, a), (_d2, b)) = (net.node("one.test"), net.node("two.testing"));
    let (alice, bob) = (a.user("alice"), b.user("bob"));
    for version in ["10", "12"] {
        let room = a.room(&alice, version).await;
        net.join(&b, &bob, &a, &room).await.unwrap();
        net.deliver(&a).await;
        // Two ends of bob's, so that the redaction does not build on its target here: a fork by hand.
        let target = b.say(&bob, &room, "regretted").await.unwrap();
        let (said, _) = net.outbox(&b).await.remove(0);
        let draft = Draft {
            redacts: Some(target.clone()),
            ..Draft::message("m.room.redaction", serde_json::value::to_raw_value(&json!({})).unwrap())
        };
        let template = a.rooms.template(&room, &bob, draft).await.unwrap();
        let redaction = sign(&b, version, template.event);
        let redaction = serde_json::value::to_raw_value(&redaction).unwrap();
        let origin = b.rooms.server_name();
        let before = a.store.position();
        a.rooms.receive(origin, vec![redaction]).await[0].result.as_ref().unwrap();
        let shown = |after: Seq| {
            let room = room.clone();
            a.store.read(move |tx| -> Result<i64, StoreError> {
                let room = tx.lookup(Kind::Room, room.as_str())?;
                Ok(tx
                    .row("SELECT count(*) FROM stream WHERE room = ?1 AND seq > ?2", (room, after), |row| {
                        row.get(0)
                    })?
                    .unwrap())
            })
        };
        assert_eq!(shown(before).await.unwrap(), 0, "nobody is told of a redaction of nothing");
        a.rooms.receive(origin, vec![said]).await[0].result.as_ref().unwrap();
        assert_eq!(shown(before).await.unwrap(), 2, "the pruned event and its redaction");
        let event = a.rooms.event(&alice, &room, &target).await.unwrap();
        assert!(!event.get().contains("regretted") && event.get().contains("redacted_because"), "{event}");
    }
}

#[tokio::test]
async fn invites_without_the_room_are_shown_declined_and_withdrawn() {
    let net = Net::default();
    let ((_d1, a), (_d2, b)) = (net.node("one.test"), net.node("two.testing"));
    let (alice, bob) = (a.user("alice"), b.user("bob"));
    let room = a.room(&alice, "12").await;
    for round in 0..2 {
        let draft = state("m.room.member", bob.as_str(), json!({"membership": "invite"}));
        let invite = a.rooms.build(&room, &alice, draft).await.unwrap();
        let stripped = a.rooms.state_for_outsider(&room, &alice).await.unwrap();
        assert!(stripped.len() >= 3);
        let rules = version::rules("12").unwrap();
        let stripped = crate::room::stripped::taken(stripped, &room, &rules).unwrap();
        let signed = sign(&b, "12", invite);
        b.rooms.receive_outlier_membership(&room, "12", signed.clone(), stripped).await.unwrap();
        a.rooms.receive_handshake(a.rooms.server_name(), &room, signed).await.unwrap();
        net.outbox(&a).await;
        let row = |node: &Node| {
            let (room, bob, store) = (room.clone(), bob.clone(), node.store.clone());
            async move {
                store
                    .read(move |tx| -> Result<_, StoreError> {
                        let (room, bob) =
                            (tx.lookup(Kind::Room, room.as_str())?, tx.lookup(Kind::User, bob.as_str())?);
                        crate::store::schema::membership::user_room(tx, bob.unwrap(), room.unwrap())
                    })
                    .await
            }
        };
        let invited = row(&b).await.unwrap().unwrap();
        assert_eq!(invited.membership, Membership::Invite);
        let shown: Vec<Value> = serde_json::from_slice(&invited.stripped.unwrap()).unwrap();
        let own = shown.last().unwrap();
        assert_eq!((&own["state_key"], &own["content"]["membership"]), (&json!(bob), &json!("invite")));
        assert_eq!(member(&a, &room, &bob).await, Some(Membership::Invite));
        if round == 0 {
            a.rooms.kick(&alice, &room, &bob, None).await.unwrap();
            net.deliver(&a).await;
            assert_eq!(row(&b).await.unwrap().unwrap().membership, Membership::Leave);
        }
    }
    net.join(&b, &bob, &a, &room).await.unwrap();
    assert_eq!(resolved(&a, &room).await, resolved(&b, &room).await);
    assert_eq!(b.rooms.joined_rooms(&bob).await.unwrap(), [room]);
}
