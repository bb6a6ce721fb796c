//! Someone with the app: a client with its store on disk, syncing as Element X does (room list and encryption apart).

use std::future::Future;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use matrix_sdk::{
    AuthSession, Client,
    encryption::{BackupDownloadStrategy, EncryptionSettings},
    ruma::{OwnedEventId, RoomId},
};
use matrix_sdk_ui::{
    sync_service::SyncService,
    timeline::{RoomExt, Timeline, TimelineEventItemId},
};

/// How long anything that is waited for may take.
const PATIENCE: Duration = Duration::from_secs(30);

pub struct Person {
    pub client: Client,
    pub sync: std::sync::Arc<SyncService>,
}

impl Person {
    /// Logs in on a new device whose store is in `dir`.
    pub async fn log_in(url: &str, dir: &Path, user: &str, password: &str) -> Result<Self> {
        let client = app(url, dir).await?;
        let login = client.matrix_auth().login_username(user, password).initial_device_display_name("test");
        login.request_refresh_token().send().await.context("log in")?;
        Self::begin(client).await
    }

    /// The app is opened again: everything comes from the store in `dir`.
    pub async fn open_again(url: &str, dir: &Path, session: AuthSession) -> Result<Self> {
        let client = app(url, dir).await?;
        client.restore_session(session).await.context("restore the session")?;
        Self::begin(client).await
    }

    async fn begin(client: Client) -> Result<Self> {
        client.event_cache().subscribe()?;
        let sync =
            SyncService::builder(client.clone()).with_offline_mode().with_share_pos(true).build().await?;
        sync.start().await;
        client.encryption().wait_for_e2ee_initialization_tasks().await;
        Ok(Self { client, sync: sync.into() })
    }

    /// Looks at a room: what an open timeline does.
    pub async fn open_room(&self, room: &RoomId) -> Result<Timeline> {
        self.sync.room_list_service().subscribe_to_rooms(&[room]).await;
        Ok(self.client.get_room(room).context("the room is known")?.timeline().await?)
    }
}

async fn app(url: &str, dir: &Path) -> Result<Client> {
    let encryption = EncryptionSettings {
        auto_enable_cross_signing: true,
        backup_download_strategy: BackupDownloadStrategy::AfterDecryptionFailure,
        auto_enable_backups: true,
    };
    let builder =
        Client::builder().homeserver_url(url).sqlite_store(dir, None).with_encryption_settings(encryption);
    Ok(builder.handle_refresh_tokens().build().await?)
}

/// Waits until `seen` says yes, and prints how long that took.
pub async fn until<F: Future<Output = Result<bool>>>(what: &str, mut seen: impl FnMut() -> F) -> Result<()> {
    let begun = Instant::now();
    while !seen().await? {
        if begun.elapsed() > PATIENCE {
            bail!("waited in vain: {what}");
        }
        tokio::time::sleep(Duration::from_millis(40)).await;
    }
    println!("{what} ({} ms)", begun.elapsed().as_millis());
    Ok(())
}

/// The texts that a timeline shows, in order; `(edited)`, `REDACTED` and `UNDECRYPTABLE` stand for what a person sees.
pub async fn texts(timeline: &Timeline) -> Vec<String> {
    let shown = |item: &matrix_sdk_ui::timeline::EventTimelineItem| {
        let content = item.content();
        if let Some(message) = content.as_message() {
            Some(message.body().to_owned() + if message.is_edited() { " (edited)" } else { "" })
        } else if content.is_unable_to_decrypt() {
            Some("UNDECRYPTABLE".to_owned())
        } else {
            content.is_redacted().then(|| "REDACTED".to_owned())
        }
    };
    timeline.items().await.iter().filter_map(|item| shown(item.as_event()?)).collect()
}

pub async fn shows(timeline: &Timeline, text: &str) -> bool {
    texts(timeline).await.iter().any(|shown| shown == text)
}

/// The event that says `text`, once the server has it.
pub async fn event_of(timeline: &Timeline, text: &str) -> Result<OwnedEventId> {
    let items = timeline.items().await;
    let said = items.iter().filter_map(|item| item.as_event());
    let mut said =
        said.filter(|event| event.content().as_message().is_some_and(|message| message.body() == text));
    Ok(said.find_map(|event| event.event_id()).with_context(|| format!("{text:?} has no event"))?.to_owned())
}

pub fn item(event: OwnedEventId) -> TimelineEventItemId {
    TimelineEventItemId::EventId(event)
}
