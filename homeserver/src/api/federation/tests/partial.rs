//! Joining with a part of the state: the room can be used at once, and is whole later, also when a restart or a leave lies
//! between. The rest of the state is held back by hand.

use ruma::{OwnedRoomId, RoomId, UserId, api::federation::membership::prepare_join_event};

use super::{
    harness::{Client, Peer, signed, until},
    rooms::{create, join, say, sees},
};
use crate::{
    remote::memory::MemoryNet,
    room::{Rooms, read::JoinedMember},
    store::schema::membership::Membership,
};

/// A room on `one` with some users there and on `two`.
async fn crowded(one: &Peer, two: &Peer) -> (OwnedRoomId, ruma::OwnedUserId) {
    let alice = one.user("alice").await;
    let room = create(one, &alice, "11", true).await;
    for name in ["ada", "amy"] {
        join(one, &one.user(name).await, &room, one).await.unwrap();
    }
    for name in ["bob", "bea"] {
        join(two, &two.user(name).await, &room, one).await.unwrap();
    }
    until("all are in", || async { (members(one, &alice, &room).await.len() == 5).then_some(()) }).await;
    until("and seen on the other side", || async {
        (members(two, &two.id("bob"), &room).await.len() == 5).then_some(())
    })
    .await;
    (room, alice)
}

async fn members(peer: &Peer, user: &UserId, room: &RoomId) -> Vec<String> {
    let list = peer.server.rooms.joined_members(user, room).await.unwrap_or_default();
    let mut names: Vec<String> =
        list.iter().map(|member: &JoinedMember| member.user_id.to_string()).collect();
    names.sort();
    names
}

async fn is_partial(rooms: &Rooms, room: &RoomId) -> bool {
    rooms.is_partial(room).await.unwrap()
}

async fn whole(peer: &Peer, room: &RoomId) {
    until("the room is whole", || async { (!is_partial(&peer.server.rooms, room).await).then_some(()) })
        .await;
}

#[tokio::test]
async fn a_room_can_be_used_before_its_members_are_known_and_is_whole_after_a_restart() {
    let net = MemoryNet::new();
    let (one, two, three) =
        (Peer::start(&net, 1).await, Peer::start(&net, 2).await, Peer::start(&net, 3).await);
    let (room, alice) = crowded(&one, &two).await;
    let held = three.server.rooms.hold_fetching().await;
    let client = Client::new(&three, "carol").await;
    let carol = client.user.clone();
    join(&three, &carol, &room, &one).await.unwrap();
    assert!(is_partial(&three.server.rooms, &room).await);

    // Both ways; the sender is not among the members that are known.
    say(&three.server.rooms, &carol, &room, "from carol").await;
    sees(&one, &alice, &room, "from carol").await;
    sees(&two, &two.id("bob"), &room, "from carol").await;
    say(&two.server.rooms, &two.id("bob"), &room, "from bob").await;
    sees(&three, &carol, &room, "from bob").await;
    // Another user of ours comes in by the same way, and the first one may go on.
    let chris = three.user("chris").await;
    join(&three, &chris, &room, &one).await.unwrap();
    sees(&one, &alice, &room, "from bob").await;
    // Who wants all members in a sync does not see the room yet; who loads them lazily does.
    let path = |filter: &str| format!("/_matrix/client/v3/sync?filter={filter}");
    let lazy = "%7B%22room%22%3A%7B%22state%22%3A%7B%22lazy_load_members%22%3Atrue%7D%7D%7D";
    assert!(client.get(&path("%7B%7D")).await["rooms"]["join"][room.as_str()].is_null());
    assert!(client.get(&path(lazy)).await["rooms"]["join"][room.as_str()].is_object());
    // Nobody comes in through us, and nobody is told a state that we do not know.
    let mut request = prepare_join_event::v1::Request::new(room.clone(), two.id("ben"));
    request.ver = vec![ruma::RoomVersionId::V11];
    let request = signed(request, two.name(), three.name(), &two.server.rooms.signer().key);
    assert_eq!(three.ask(two.node(), request).await.0, 404);

    drop(held);
    let three = three.restart().await;
    whole(&three, &room).await;
    let all = members(&one, &alice, &room).await;
    assert_eq!(all.len(), 7, "{all:?}");
    until("the members are the same", || async {
        (members(&three, &carol, &room).await == all && members(&two, &two.id("bob"), &room).await == all)
            .then_some(())
    })
    .await;
    say(&three.server.rooms, &carol, &room, "whole").await;
    sees(&two, &two.id("bob"), &room, "whole").await;
    let client = Client::new(&three, "cleo").await;
    drop(client);
}

#[tokio::test]
async fn who_was_banned_unseen_is_out_when_the_room_is_whole() {
    let net = MemoryNet::new();
    let (one, two, three) =
        (Peer::start(&net, 1).await, Peer::start(&net, 2).await, Peer::start(&net, 3).await);
    let (room, alice) = crowded(&one, &two).await;
    let held = three.server.rooms.hold_fetching().await;
    let carol = three.user("carol").await;
    join(&three, &carol, &room, &one).await.unwrap();
    one.server.rooms.ban(&alice, &room, &two.id("bob"), None).await.unwrap();
    say(&one.server.rooms, &alice, &room, "bob is out").await;
    sees(&three, &carol, &room, "bob is out").await;
    drop(held);
    whole(&three, &room).await;
    assert_eq!(members(&three, &carol, &room).await, members(&one, &alice, &room).await);
    let bob = three.server.rooms.membership_for_tests(&two.id("bob"), &room).await;
    assert_eq!(bob, Some(Membership::Ban));
}

#[tokio::test]
async fn a_room_that_is_left_is_not_fetched_and_can_be_joined_again() {
    let net = MemoryNet::new();
    let (one, two, three) =
        (Peer::start(&net, 1).await, Peer::start(&net, 2).await, Peer::start(&net, 3).await);
    let (room, alice) = crowded(&one, &two).await;
    let held = three.server.rooms.hold_fetching().await;
    let carol = three.user("carol").await;
    join(&three, &carol, &room, &one).await.unwrap();
    three.server.rooms.leave(&carol, &room, None).await.unwrap();
    assert!(!is_partial(&three.server.rooms, &room).await);
    until("the leave has come", || async { (members(&one, &alice, &room).await.len() == 5).then_some(()) })
        .await;
    join(&three, &carol, &room, &one).await.unwrap();
    assert!(is_partial(&three.server.rooms, &room).await);
    drop(held);
    whole(&three, &room).await;
    until("the members are the same", || async {
        (members(&three, &carol, &room).await == members(&one, &alice, &room).await).then_some(())
    })
    .await;
}
