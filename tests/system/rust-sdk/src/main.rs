//! Two people, each on a node of their own, with the SDK that Element X is built on: its room list over sliding sync,
//! its timelines, encryption, recovery, notifications. Prints what was seen; an error ends it with code 1.
//!
//! Not here: verification by emoji. The SDK sends its answers to in-room verification only with the next poll of
//! its encryption sync, so each step waits for half a minute, with any server; matrix-js-sdk covers it.

#![recursion_limit = "256"] // the SDK's futures are deep

mod person;
mod scenes;

use std::path::Path;

use anyhow::{Result, bail};
use person::Person;

#[tokio::main]
async fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [alice_url, bob_url, password, dir] = &args[..] else {
        bail!(
            "usage: mangrove-rust-sdk-test ALICES_URL BOBS_URL PASSWORD DIRECTORY   (accounts alice and bob)"
        );
    };
    let (alice_dir, bob_dir) = (Path::new(dir).join("alice"), Path::new(dir).join("bob"));
    let alice = Person::log_in(alice_url, &alice_dir, "alice", password).await?;
    let bob = Person::log_in(bob_url, &bob_dir, "bob", password).await?;

    let recovery_key = alice.client.encryption().recovery().enable().await?;
    let room = scenes::alice_invites_bob(&alice, &bob).await?;
    scenes::they_talk(&alice, &bob, &room).await?;
    let desk = scenes::a_second_device_recovers(
        alice_url,
        &Path::new(dir).join("desk"),
        password,
        &recovery_key,
        &room,
    )
    .await?;
    scenes::a_thread_a_pin_a_redaction(&alice, &bob, &room).await?;
    scenes::sixty_rooms_in_the_list(&alice, &desk, &bob).await?;
    scenes::a_notification_while_the_app_sleeps(&alice, &bob, &room).await?;
    scenes::what_bob_sets(&bob, &room).await?;
    scenes::a_public_room(&alice, &bob).await?;
    let bob = scenes::bobs_app_is_closed_and_opened(&alice, bob, bob_url, &bob_dir, &room).await?;
    scenes::a_gap_of_150_messages(&alice, &bob, &room).await?;
    scenes::bob_goes(&bob, &room).await?;
    println!("all seen");
    Ok(())
}
