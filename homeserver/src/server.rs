//! The homeserver put together: every area, each built from those before it. No logic.

use std::{
    path::PathBuf,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use futures_util::future::BoxFuture;
use router::config::Secret;
use ruma::{OwnedServerName, OwnedUserId, RoomVersionId, ServerName, UserId};
use serde_json::Value;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    appservice::{self, Appservices, registration::RegistrationError},
    calls::{CallSettings, watch::Watch},
    clock::Clock,
    e2ee::{E2ee, device_lists},
    error::Error,
    http::{auth::VerifyXMatrix, limits::Limits, uia},
    jobs::Jobs,
    media::{self, Media, MediaError, Previews},
    push::{Push, gateway::Gateway},
    remote::{Remote, web::Web},
    room::{self, Rooms, Signer, core::version, delayed::Delayed, receipt::Receipts, typing::Typing},
    store::Store,
    sync::{self, Filters, Sync},
    user::{
        AccountSettings, DeviceHooks, Mailer, Neighbours, NoNeighbours, Upstreams, Users, next_door::NextDoor,
    },
};

/// How often old messages are looked for.
const RETENTION_EVERY: Duration = Duration::from_secs(60 * 60);

/// How often it is looked who is gone.
const PRESENCE_EVERY: Duration = Duration::from_secs(20);

/// All areas, shared by every handler.
pub struct Server {
    /// Our server name.
    pub name: OwnedServerName,
    /// What the operator chose; [`Server::reload`] puts another in its place.
    settings: RwLock<Arc<Settings>>,
    /// The one wall clock.
    pub clock: Clock,
    /// How often one caller may do one kind of thing.
    pub limits: Limits,
    /// Cancelled when the node ends: long polls answer at once.
    pub shutdown: CancellationToken,
    /// Work that outlives the request that began it; waited for at the end.
    pub tasks: TaskTracker,
    /// The database.
    pub store: Store,
    /// Accounts, tokens, devices, profiles, account data.
    pub users: Users,
    /// Keys, lists of devices, messages to devices.
    pub e2ee: E2ee,
    /// Push rules.
    pub push: Push,
    /// Bridges and bots that the operator lets in.
    pub appservices: Appservices,
    /// Tells pushers.
    pub gateway: Gateway,
    /// The content store.
    pub media: Media,
    /// Previews of links, if the operator wants them.
    pub previews: Option<Previews>,
    /// Rooms and their events.
    pub rooms: Rooms,
    /// Events that are sent later.
    pub delayed: Delayed,
    /// Leaves of calls that clients handed over, if there is a media server.
    pub watch: Option<Watch>,
    /// Who is typing.
    pub typing: Typing,
    /// Read receipts.
    pub receipts: Receipts,
    /// Filters that clients keep here.
    pub filters: Filters,
    /// What is new for each device.
    pub sync: Sync,
    /// What the nodes next door show of themselves.
    pub neighbours: Arc<dyn Neighbours>,
    /// Checks other servers' signatures.
    pub xmatrix: Arc<dyn VerifyXMatrix>,
    /// Speaks to other servers.
    pub remote: Remote,
    /// Our node on the overlay, if there is one.
    pub overlay: Option<router::net::Node>,
    /// Proofs of who somebody is, under way.
    pub uia: uia::Sessions,
    /// Asks services that the operator has configured.
    pub web: Web,
    /// Outside providers that vouch for users.
    pub upstreams: Upstreams,
    /// What administrators have begun and ask after.
    pub jobs: Jobs,
}

/// What a [`Server`] is made of.
pub struct Parts {
    /// What the operator chose.
    pub settings: Settings,
    /// The one wall clock.
    pub clock: Clock,
    /// The database, open.
    pub store: Store,
    /// Speaks to other servers as our account, and checks their signatures.
    pub remote: Remote,
    /// Where media lie.
    pub media_dir: PathBuf,
    /// Our node on the overlay, to know its neighbours; none in tests without one.
    pub overlay: Option<router::net::Node>,
}

/// Why the homeserver could not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The directory of the content store could not be made or read.
    #[error("the media directory cannot be used: {0}")]
    Media(#[from] MediaError),
    /// A registration file of an application service.
    #[error(transparent)]
    Appservice(RegistrationError),
    /// The section `[email]` does not hold.
    #[error("{0}")]
    Mail(String),
}

impl Server {
    /// Builds every area, in order, and starts what runs beside requests. Needs a tokio runtime.
    pub fn start(parts: Parts) -> Result<Arc<Self>, StartError> {
        let Parts { settings, clock, store, remote, media_dir, overlay } = parts;
        let identity = remote.identity();
        let signer = Signer { name: identity.server_name().to_owned(), key: identity.signing_key() };
        let name = signer.name.clone();
        let mailer =
            settings.accounts.email.as_ref().map(Mailer::new).transpose().map_err(StartError::Mail)?;
        let sender = remote.clone();
        let send: crate::user::presence::Send =
            Arc::new(move |servers, key, edu| sender.send_ephemeral(servers, key, edu));
        let users = Users::new(store.clone(), clock.clone(), name.clone(), device_hooks())
            .with_mailer(mailer)
            .with_password_min(settings.accounts.general.password_chars_min)
            .with_presence(settings.presence.then(|| send.clone()));
        let e2ee = E2ee::new(store.clone(), Arc::new(remote.clone()), clock.clone(), name.clone());
        let media = Media::open(
            store.clone(),
            clock.clone(),
            name.clone(),
            &media_dir,
            media::Limits {
                file_bytes_max: settings.upload_bytes_max,
                remote_bytes_max: settings.remote_media_bytes_max,
            },
            Arc::new(remote.clone()),
        )?
        .with_program(settings.picture_program.as_deref());
        let rooms = Rooms::new(room::Parts {
            store: store.clone(),
            notify: store.notify().clone(),
            clock: clock.clone(),
            signer,
            profiles: Arc::new(users.clone()),
            fetch: Arc::new(remote.clone()),
            remote: remote.clone(),
        });
        let typing = Typing::new(store.clone(), clock.clone(), name.clone(), send);
        let node = remote.identity().node_id();
        let sync = Sync::new(sync::Parts {
            store: store.clone(),
            notify: store.notify().clone(),
            clock: clock.clone(),
            typing: typing.clone(),
            e2ee: e2ee.clone(),
            presence: settings.presence.then(|| users.clone()),
            node: u64::from_be_bytes(node.as_bytes()[..8].try_into().unwrap_or_default()),
        });
        let (shutdown, tasks) = (CancellationToken::new(), TaskTracker::new());
        if settings.presence {
            let (users, ended) = (users.clone(), shutdown.clone());
            tasks.spawn(async move {
                let _ = ended.run_until_cancelled(announce_gone(users)).await;
            });
        }
        let (tidied, ended, retention) = (rooms.clone(), shutdown.clone(), settings.retention);
        tasks.spawn(async move {
            let _ = ended.run_until_cancelled(tidy(tidied, retention)).await;
        });
        let delayed = Delayed::new(store.clone(), rooms.clone(), clock.clone());
        tasks.spawn(delayed.clone().run(shutdown.clone()));
        let waiting = rooms.clone();
        tasks.spawn(async move {
            if let Err(error) = waiting.resume_staged().await {
                tracing::error!(%error, "events that wait for what comes before them cannot be read");
            }
            if let Err(error) = waiting.resume_partial().await {
                tracing::error!(%error, "rooms whose state is not whole cannot be read");
            }
        });
        tasks.spawn(remote.clone().run_sender(room::read::pdu, shutdown.clone()));
        let contact = contact(&settings, &name);
        let gateway = Gateway::new(store.clone(), clock.clone(), settings.push_private_addresses, contact);
        tasks.spawn(gateway.clone().run(shutdown.clone(), tasks.clone()));
        let appservices = Appservices::new(appservice::Parts {
            registrations: settings.appservices.clone(),
            store: store.clone(),
            clock: clock.clone(),
            users: users.clone(),
            typing: typing.clone(),
            name: name.clone(),
        })
        .map_err(StartError::Appservice)?;
        tasks.spawn(appservices.clone().run(shutdown.clone(), tasks.clone()));
        let services = appservices.clone();
        let exempt = Box::new(move |key: &str| services.is_exempt(key));
        let neighbours: Arc<dyn Neighbours> = match &overlay {
            Some(node) => {
                tasks.spawn(remote.clone().follow(node.clone(), shutdown.clone()));
                let next_door = NextDoor::new(remote.clone(), node.clone());
                tasks.spawn(Arc::clone(&next_door).run(shutdown.clone()));
                next_door
            }
            None => Arc::new(NoNeighbours),
        };
        remote.block(&settings.federation_blocked);
        let limits = Limits::new(settings.rate_limits, clock.clone()).but_for(exempt);
        limits.set_origin_rate(settings.federation_requests_per_second);
        let web = Web::default();
        let watch = settings.calls.livekit.clone().map(|livekit| {
            let watch = Watch::new(store.clone(), delayed.clone(), livekit, web.clone(), clock.clone());
            tasks.spawn(watch.clone().run(shutdown.clone()));
            watch
        });
        let upstreams = Upstreams::new(settings.accounts.oidc.clone(), web.clone(), clock.clone());
        let previews = settings
            .url_previews
            .then(|| Previews::new(media.clone(), clock.clone(), settings.url_preview_private_addresses));
        Ok(Arc::new(Self {
            limits,
            appservices,
            uia: uia::Sessions::new(clock.clone()),
            web,
            upstreams,
            jobs: Jobs::default(),
            shutdown,
            tasks,
            push: Push::new(store.clone()),
            gateway,
            receipts: Receipts::new(store.clone(), clock.clone(), name.clone()),
            filters: Filters::new(store.clone()),
            name,
            settings: RwLock::new(Arc::new(settings)),
            clock,
            store,
            users,
            e2ee,
            previews,
            media,
            rooms,
            delayed,
            watch,
            typing,
            sync,
            neighbours,
            xmatrix: Arc::new(remote.clone()),
            remote,
            overlay,
        }))
    }

    /// What the operator chose, as of now.
    pub fn settings(&self) -> Arc<Settings> {
        self.settings.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Other settings hold from now on. Of those that areas were built with, the running ones stay whatever `fresh`
    /// says: see [`Settings::keep_built`]. On an error nothing has changed.
    pub async fn reload(&self, mut fresh: Settings) -> Result<(), StartError> {
        fresh.keep_built(&self.settings());
        let mailer = fresh.accounts.email.as_ref().map(Mailer::new).transpose().map_err(StartError::Mail)?;
        self.appservices.reload(fresh.appservices.clone()).await.map_err(StartError::Appservice)?;
        self.users.set_mailer(mailer);
        self.users.set_password_min(fresh.accounts.general.password_chars_min);
        self.limits.set_on(fresh.rate_limits);
        self.limits.set_origin_rate(fresh.federation_requests_per_second);
        self.remote.block(&fresh.federation_blocked);
        self.gateway.set_contact(contact(&fresh, &self.name));
        *self.settings.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(fresh);
        Ok(())
    }

    /// Ends an account: it leaves its rooms, refuses its invites, and is gone. What cannot be left (its servers are away)
    /// stays.
    pub async fn deactivate(&self, user: &UserId, erase: bool) -> Result<(), Error> {
        // Rooms first: a user without an account cannot leave.
        for room in self.rooms.rooms_to_leave(user).await? {
            if let Err(error) = self.rooms.leave(user, &room, None).await {
                tracing::debug!(%room, %error, "a deactivated user could not leave a room");
            }
        }
        Ok(self.users.deactivate(user, erase).await?)
    }

    /// Changes (or takes away) a field of a user's profile; rooms hear of a new name or picture.
    pub async fn set_profile(
        &self,
        user: OwnedUserId,
        field: &str,
        value: Option<Value>,
    ) -> Result<(), Error> {
        if self.users.profile(&user).await?.get(field) == value.as_ref() {
            return Ok(());
        }
        self.users.set_profile_field(&user, field, value).await?;
        if matches!(field, "displayname" | "avatar_url") {
            // Many rooms take a while, and the profile is stored: the answer need not wait for them.
            let rooms = self.rooms.clone();
            self.tasks.spawn(async move {
                if let Err(error) = rooms.refresh_profile(&user).await {
                    tracing::warn!(%user, %error, "a changed profile did not reach all rooms");
                }
            });
        }
        Ok(())
    }

    /// Begins the end: long polls answer, listeners take no more requests.
    pub fn stop(&self) {
        self.shutdown.cancel();
    }

    /// After [`Server::stop`]: waits until what was begun is done. The store is its owner's to close, after this.
    pub async fn finish(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// Where push services reach the people of this server.
fn contact(settings: &Settings, name: &ServerName) -> String {
    settings.public_url.clone().unwrap_or_else(|| format!("https://{name}"))
}

/// Tells who is gone.
async fn announce_gone(users: Users) {
    loop {
        tokio::time::sleep(PRESENCE_EVERY).await;
        if let Err(error) = users.announce_gone().await {
            tracing::debug!(%error, "who is gone could not be told; tried again soon");
        }
    }
}

/// Finishes what was being purged, and takes old messages away as they come of age.
async fn tidy(rooms: Rooms, retention: Option<Option<Duration>>) {
    if let Err(error) = rooms.finish_purges().await {
        tracing::warn!(%error, "a room that is being purged could not be removed; tried again at the next start");
    }
    let Some(default) = retention else { return };
    let mut retention = room::retention::Retention::new(default);
    loop {
        match rooms.expire(&mut retention).await {
            Ok(0) => {}
            Ok(count) => tracing::info!(count, "messages were deleted by their rooms' retention"),
            Err(error) => tracing::warn!(%error, "old messages could not be deleted; tried again in an hour"),
        }
        tokio::time::sleep(RETENTION_EVERY).await;
    }
}

/// Membership events carry their user's profile.
impl room::Profiles for Users {
    fn profile<'a>(&'a self, user: &'a UserId) -> BoxFuture<'a, room::Profile> {
        Box::pin(async move {
            match self.shown(user).await {
                Ok((displayname, avatar_url)) => room::Profile { displayname, avatar_url },
                Err(error) => {
                    tracing::debug!(%user, %error, "a membership goes without its user's profile");
                    room::Profile::default()
                }
            }
        })
    }
}

/// What happens to a device's keys when it comes or goes; [`Users`] calls it in the same write.
pub fn device_hooks() -> DeviceHooks {
    DeviceHooks { changed: device_lists::device_changed, deleted: device_lists::device_deleted }
}

/// The operator's choices that requests feel.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Who may make an account.
    pub registration: Registration,
    /// Whoever knows it makes accounts at Synapse's path for scripts.
    pub registration_shared_secret: Option<Secret>,
    /// The sections about accounts.
    pub accounts: AccountSettings,
    /// Servers for calls.
    pub calls: CallSettings,
    /// Whether `/_synapse/admin` answers beyond loopback listeners.
    pub admin_everywhere: bool,
    /// Off only for benches.
    pub rate_limits: bool,
    /// Whether messages grow old (`m.room.retention`), and how old in rooms that do not say; `None`: they do not.
    pub retention: Option<Option<Duration>>,
    /// Whether profiles, aliases and public rooms are shown without a token. Off: any web page can call a loopback
    /// listener.
    pub open_directory: bool,
    /// Further host names that listeners answer to.
    pub hosts: Vec<String>,
    /// The address clients are told in `/.well-known/matrix/client`; `None`: the one they asked.
    pub public_url: Option<String>,
    /// What `/.well-known/matrix/server` says; `None`: nothing is delegated.
    pub federation_well_known: Option<String>,
    /// Servers with which nothing is exchanged: names, or patterns with `*` and `?`.
    pub federation_blocked: Vec<String>,
    /// Requests that one other server may sign a second.
    pub federation_requests_per_second: u32,
    /// Whether syncs tell who is online to those who share a room on this node.
    pub presence: bool,
    /// Application services that are let in.
    pub appservices: Vec<Arc<appservice::registration::Registration>>,
    /// Whether push gateways may stand in the own network and speak without TLS.
    pub push_private_addresses: bool,
    /// Whether the client API's listener answers other servers too.
    pub federation_with_clients: bool,
    /// The version of new rooms whose maker names none.
    pub default_room_version: RoomVersionId,
    /// Whether neighbours that multicast found may list our people and public rooms.
    pub discoverable: bool,
    /// The largest media upload in bytes.
    pub upload_bytes_max: u64,
    /// What remote media may occupy on disk.
    pub remote_media_bytes_max: u64,
    /// Whether links are fetched for previews.
    pub url_previews: bool,
    /// Whether previews reach into the own network, too.
    pub url_preview_private_addresses: bool,
    /// The program that looks at strangers' pictures in a process of its own; `None`: that is done here, as in tests.
    pub picture_program: Option<PathBuf>,
}

impl Settings {
    /// Takes over from `running` what areas were built with, and what they cannot be told anew: that waits for the next
    /// start.
    fn keep_built(&mut self, running: &Self) {
        self.accounts.oidc.clone_from(&running.accounts.oidc);
        self.calls.livekit.clone_from(&running.calls.livekit);
        self.retention = running.retention;
        self.presence = running.presence;
        self.push_private_addresses = running.push_private_addresses;
        self.federation_with_clients = running.federation_with_clients;
        self.upload_bytes_max = running.upload_bytes_max;
        self.remote_media_bytes_max = running.remote_media_bytes_max;
        self.url_previews = running.url_previews;
        self.url_preview_private_addresses = running.url_preview_private_addresses;
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            registration: Registration::Token,
            registration_shared_secret: None,
            accounts: AccountSettings::default(),
            calls: CallSettings::default(),
            admin_everywhere: false,
            rate_limits: true,
            retention: None,
            open_directory: false,
            hosts: Vec::new(),
            public_url: None,
            federation_well_known: None,
            federation_blocked: Vec::new(),
            federation_requests_per_second: crate::http::limits::ORIGIN_RATE,
            presence: false,
            push_private_addresses: false,
            appservices: Vec::new(),
            federation_with_clients: false,
            default_room_version: version::DEFAULT,
            discoverable: true,
            upload_bytes_max: 50 << 20,
            remote_media_bytes_max: 1 << 30,
            url_previews: false,
            url_preview_private_addresses: false,
            picture_program: None,
        }
    }
}

/// Who may make an account over the client API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Registration {
    /// Whoever has a one-time token.
    Token,
    /// Everybody who reaches the listener.
    Open,
    /// Nobody: accounts are made on the command line.
    Closed,
}
