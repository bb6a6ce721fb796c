//! What they do, one scene after the other, and what the other one has to see.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use futures_util::StreamExt;
use matrix_sdk::{
    RoomMemberships, RoomState,
    notification_settings::RoomNotificationMode,
    room::edit::EditedContent,
    room_directory_search::RoomDirectorySearch,
    ruma::{
        OwnedRoomId, RoomId,
        api::client::{
            receipt::create_receipt::v3::ReceiptType,
            room::{Visibility, create_room::v3 as create_room},
        },
        events::room::message::{
            MessageType, RoomMessageEventContent, RoomMessageEventContentWithoutRelation as Text,
        },
    },
};
use matrix_sdk_ui::{
    notification_client::{NotificationClient, NotificationProcessSetup, NotificationStatus},
    room_list_service::filters::new_filter_all,
    timeline::{AttachmentConfig, AttachmentSource, RoomExt, TimelineFocus},
};

use crate::person::{Person, event_of, item, shows, texts, until};

const PICTURE: &[u8] = b"any bytes do: the server sees them encrypted";

fn text(text: &str) -> RoomMessageEventContent {
    RoomMessageEventContent::text_plain(text)
}

pub async fn alice_invites_bob(alice: &Person, bob: &Person) -> Result<OwnedRoomId> {
    alice.client.account().set_display_name(Some("Alice Liddell")).await?;
    let bob_id = bob.client.user_id().context("bob's id")?.to_owned();
    let room = alice.client.create_dm(&bob_id).await?;
    let id = room.room_id().to_owned();
    until("bob's list has the invite", || async {
        let invited = bob.client.invited_rooms().into_iter().find(|invited| invited.room_id() == id);
        let Some(invited) = invited else { return Ok(false) };
        // The SDK shows a room a moment before its store has the room's members.
        let inviter = invited.invite_details().await.ok().and_then(|invite| invite.inviter);
        Ok(inviter.is_some_and(|inviter| inviter.display_name() == Some("Alice Liddell")))
    })
    .await?;
    bob.client.join_room_by_id(&id).await?;
    until("alice sees that bob is in", || async {
        Ok(room.members_no_sync(RoomMemberships::JOIN).await?.iter().any(|member| member.user_id() == bob_id))
    })
    .await?;
    ensure!(room.latest_encryption_state().await?.is_encrypted(), "a direct chat is encrypted");
    Ok(id)
}

pub async fn they_talk(alice: &Person, bob: &Person, room: &RoomId) -> Result<()> {
    let (at_alice, at_bob) = (alice.open_room(room).await?, bob.open_room(room).await?);
    at_alice.send(text("hello bob").into()).await?;
    until("bob reads it", || async { Ok(shows(&at_bob, "hello bob").await) }).await?;
    let hello = event_of(&at_bob, "hello bob").await?;
    at_bob.send_reply(Text::text_plain("hello alice"), hello.clone()).await?;
    until("alice reads the reply", || async { Ok(shows(&at_alice, "hello alice").await) }).await?;
    at_alice.edit(&item(hello.clone()), EditedContent::RoomMessage(Text::text_plain("hello Bob!"))).await?;
    until("bob sees the edit", || async { Ok(shows(&at_bob, "hello Bob! (edited)").await) }).await?;
    at_bob.toggle_reaction(&item(hello), "👍").await?;
    until("alice sees the reaction", || async {
        let items = at_alice.items().await;
        let mut reactions = items.iter().filter_map(|item| item.as_event()?.content().reactions());
        Ok(reactions.any(|reactions| reactions.contains_key("👍")))
    })
    .await?;
    let picture = AttachmentSource::Data { bytes: PICTURE.to_vec(), filename: "tree.png".into() };
    at_alice.send_attachment(picture, "image/png".parse()?, AttachmentConfig::default()).await?;
    until("bob sees the picture", || async { Ok(shows(&at_bob, "tree.png").await) }).await?;
    let items = at_bob.items().await;
    let image = items.iter().find_map(|item| match item.as_event()?.content().as_message()?.msgtype() {
        MessageType::Image(image) => Some(image.clone()),
        _ => None,
    });
    let got = bob.client.media().get_file(&image.context("an image")?, false).await?;
    ensure!(got.as_deref() == Some(PICTURE), "the picture arrives as it was");

    at_bob.mark_as_read(ReceiptType::Read).await?;
    let bob_id = bob.client.user_id().context("bob's id")?;
    until("alice sees bob's receipt at the picture", || async {
        let items = at_alice.items().await;
        let last = items.iter().filter_map(|item| item.as_event()).next_back();
        Ok(last.is_some_and(|event| event.read_receipts().contains_key(bob_id)))
    })
    .await?;
    let (_guard, mut typing) =
        alice.client.get_room(room).context("the room")?.subscribe_to_typing_notifications();
    bob.client.get_room(room).context("the room")?.typing_notice(true).await?;
    let who =
        tokio::time::timeout(std::time::Duration::from_secs(10), typing.recv()).await.context("typing")??;
    ensure!(who == [bob_id.to_owned()], "bob types");
    Ok(())
}

pub async fn a_second_device_recovers(
    url: &str,
    dir: &Path,
    password: &str,
    recovery_key: &str,
    room: &RoomId,
) -> Result<Person> {
    let desk = Person::log_in(url, dir, "alice", password).await?;
    until("the second device has the room", || async { Ok(desk.client.get_room(room).is_some()) }).await?;
    desk.client.encryption().recovery().recover(recovery_key).await?;
    let timeline = desk.open_room(room).await?;
    until("the old messages are readable there", || async {
        timeline.paginate_backwards(20).await?;
        let seen = texts(&timeline).await;
        Ok(seen.iter().any(|text| text == "hello Bob! (edited)")
            && !seen.iter().any(|text| text == "UNDECRYPTABLE"))
    })
    .await?;
    until("the second device is verified", || async {
        let own = desk.client.encryption().get_own_device().await?;
        Ok(own.is_some_and(|device| device.is_verified_with_cross_signing()))
    })
    .await?;
    Ok(desk)
}

pub async fn a_thread_a_pin_a_redaction(alice: &Person, bob: &Person, room: &RoomId) -> Result<()> {
    let (at_alice, at_bob) = (alice.open_room(room).await?, bob.open_room(room).await?);
    let shared = alice.client.get_room(room).context("the room")?;
    let root = event_of(&at_alice, "hello Bob!").await?;
    let thread = shared.timeline_builder().with_focus(TimelineFocus::Thread { root_event_id: root.clone() });
    thread.build().await?.send(text("in the thread").into()).await?;
    until("the list of threads has it", || async {
        let threads = shared.list_threads(Default::default()).await?;
        Ok(threads.chunk.iter().any(|event| event.event_id().as_ref() == Some(&root)))
    })
    .await?;
    ensure!(shared.pin_event(&root).await?, "pinned");
    at_alice.redact(&item(root), Some("oops")).await?;
    until("bob sees the redaction", || async { Ok(shows(&at_bob, "REDACTED").await) }).await
}

pub async fn sixty_rooms_in_the_list(alice: &Person, desk: &Person, bob: &Person) -> Result<()> {
    let bob_id = bob.client.user_id().context("bob's id")?.to_owned();
    let mut made = Vec::new();
    for number in 0..60 {
        let mut room = create_room::Request::new();
        room.name = Some(format!("room {number}"));
        if number % 10 == 0 {
            room.invite = vec![bob_id.clone()];
        }
        made.push(alice.client.create_room(room).await?.room_id().to_owned());
    }
    until("the second device lists all sixty by name", || async {
        let rooms = desk.client.joined_rooms();
        Ok(made.iter().all(|id| rooms.iter().any(|room| room.room_id() == id && room.name().is_some())))
    })
    .await?;
    let list = desk.sync.room_list_service().all_rooms().await?;
    let (entries, control) = list.entries_with_dynamic_adapters(100);
    control.set_filter(Box::new(new_filter_all(vec![])));
    let first = std::pin::pin!(entries).next().await;
    ensure!(first.is_some_and(|entries| !entries.is_empty()), "the room list has entries");
    until("bob has the six invites", || async { Ok(bob.client.invited_rooms().len() == 6) }).await
}

pub async fn a_notification_while_the_app_sleeps(alice: &Person, bob: &Person, room: &RoomId) -> Result<()> {
    let setup = NotificationProcessSetup::SingleProcess { sync_service: bob.sync.clone() };
    let notifications = NotificationClient::new(bob.client.clone(), setup).await?;
    bob.sync.stop().await;
    let (at_alice, at_bob) = (alice.open_room(room).await?, bob.open_room(room).await?);
    at_alice.send(text("wake up").into()).await?;
    until("it is sent", || async { Ok(event_of(&at_alice, "wake up").await.is_ok()) }).await?;
    let event = event_of(&at_alice, "wake up").await?;
    until("the notification can be made, and rings", || async {
        match notifications.get_notification(room, &event).await? {
            NotificationStatus::Event(shown) => Ok(shown.is_noisy == Some(true)),
            _ => Ok(false), // it has not come over yet
        }
    })
    .await?;
    bob.sync.start().await;
    until("the app shows it as well", || async { Ok(shows(&at_bob, "wake up").await) }).await
}

pub async fn what_bob_sets(bob: &Person, room: &RoomId) -> Result<()> {
    let room = bob.client.get_room(room).context("the room")?;
    let mute = RoomNotificationMode::Mute;
    bob.client.notification_settings().await.set_room_notification_mode(room.room_id(), mute).await?;
    until("muted", || async { Ok(room.user_defined_notification_mode().await == Some(mute)) }).await?;
    room.set_is_favourite(true, None).await?;
    until("a favourite", || async { Ok(room.is_favourite()) }).await?;
    room.set_unread_flag(true).await?;
    until("marked unread", || async { Ok(room.is_marked_unread()) }).await
}

pub async fn a_public_room(alice: &Person, bob: &Person) -> Result<()> {
    let mut room = create_room::Request::new();
    room.name = Some("Market".into());
    room.visibility = Visibility::Public;
    room.room_alias_name = Some("market".into());
    room.preset = Some(create_room::RoomPreset::PublicChat);
    let room = alice.client.create_room(room).await?;
    let server = alice.client.user_id().context("alice's id")?.server_name().to_owned();
    let mut search = RoomDirectorySearch::new(bob.client.clone());
    search.search(Some("market".into()), 10, Some(server.clone())).await?;
    ensure!(search.results().0.iter().any(|found| found.room_id == room.room_id()), "the directory has it");
    let preview = bob.client.get_room_preview(room.room_id().into(), vec![server.clone()]).await?;
    ensure!(preview.name.as_deref() == Some("Market"), "the preview has its name");
    let joined = bob.client.join_room_by_id_or_alias(room.room_id().into(), &[server]).await?;
    until("bob and alice are in", || async {
        Ok(joined.name().as_deref() == Some("Market")
            && joined.members(RoomMemberships::JOIN).await?.len() == 2)
    })
    .await
}

pub async fn bobs_app_is_closed_and_opened(
    alice: &Person,
    bob: Person,
    url: &str,
    dir: &Path,
    room: &RoomId,
) -> Result<Person> {
    let session = bob.client.session().context("a session")?;
    bob.sync.stop().await;
    drop(bob);
    alice.open_room(room).await?.send(text("while you were away").into()).await?;
    let bob = Person::open_again(url, dir, session).await?;
    let timeline = bob.open_room(room).await?;
    until("bob reads what came meanwhile", || async { Ok(shows(&timeline, "while you were away").await) })
        .await?;
    Ok(bob)
}

pub async fn a_gap_of_150_messages(alice: &Person, bob: &Person, room: &RoomId) -> Result<()> {
    bob.sync.stop().await;
    let (at_alice, timeline) = (alice.client.get_room(room).context("the room")?, bob.open_room(room).await?);
    for number in 0..150 {
        at_alice.send(text(&format!("n{number}"))).await?;
    }
    bob.sync.start().await;
    until("bob has the newest", || async { Ok(shows(&timeline, "n149").await) }).await?;
    until("and all by paging back", || async {
        timeline.paginate_backwards(30).await?;
        Ok(shows(&timeline, "n0").await)
    })
    .await?;
    let seen = texts(&timeline).await;
    let numbers: Vec<u32> = seen.iter().filter_map(|text| text.strip_prefix('n')?.parse().ok()).collect();
    ensure!(numbers == (0..150).collect::<Vec<_>>(), "each once and in order: {numbers:?}");
    ensure!(!seen.iter().any(|text| text == "UNDECRYPTABLE"), "nothing undecryptable");
    Ok(())
}

pub async fn bob_goes(bob: &Person, room: &RoomId) -> Result<()> {
    let left = bob.client.get_room(room).context("the room")?;
    left.leave().await?;
    until("bob has left", || async { Ok(left.state() == RoomState::Left) }).await?;
    left.forget().await?;
    bob.client.logout().await?;
    Ok(())
}
