//! Application services: bridges and bots that the operator lets in by registration files.
//!
//! `registration.rs` says what a file allows, `interest.rs` what a service is told, `queue.rs` tells it, in order and over
//! restarts, `ask.rs` asks it (users, aliases, third-party networks, ping). Who calls with a service's token acts as any
//! user of its namespace that it names.
//!
//! spec: <https://spec.matrix.org/v1.19/application-service-api/>

mod ask;
mod interest;
mod queue;
pub mod registration;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, OnceLock, PoisonError, RwLock},
};

use ruma::{OwnedServerName, OwnedUserId, RoomAliasId, UserId};
use tokio::task::JoinHandle;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use self::ask::PingError;
use self::registration::{Registration, RegistrationError};
use crate::{
    clock::Clock,
    remote::outside::Outside,
    room::typing::Typing,
    store::Store,
    user::{NewAccount, Proof, UserError, Users},
};

/// From what [`Appservices`] is built.
pub struct Parts {
    /// The registrations.
    pub registrations: Vec<Arc<Registration>>,
    /// The database.
    pub store: Store,
    /// The clock.
    pub clock: Clock,
    /// Accounts: a service's own user is made if it is not there.
    pub users: Users,
    /// Who is typing.
    pub typing: Typing,
    /// Our name.
    pub name: OwnedServerName,
}

/// All services. Clones share them.
#[derive(Clone)]
pub struct Appservices {
    inner: Arc<Inner>,
}

struct Inner {
    /// Those that are let in now.
    set: RwLock<Arc<Set>>,
    /// Those that are told, by their id.
    told: Mutex<HashMap<String, Told>>,
    /// Where tasks run, and until when; known from [`Appservices::run`] on.
    ground: OnceLock<(CancellationToken, TaskTracker)>,
    store: Store,
    clock: Clock,
    users: Users,
    typing: Typing,
    name: OwnedServerName,
    outside: Outside,
}

/// Some services, found by their tokens.
#[derive(Default)]
struct Set {
    services: Vec<Arc<Registration>>,
    by_token: HashMap<String, Arc<Registration>>,
}

impl Set {
    fn new(services: Vec<Arc<Registration>>) -> Result<Self, RegistrationError> {
        let by_token: HashMap<_, _> =
            services.iter().map(|service| (service.as_token.clone(), service.clone())).collect();
        let ids: std::collections::HashSet<&str> = services.iter().map(|service| &*service.id).collect();
        if by_token.len() != services.len() || ids.len() != services.len() {
            return Err(registration::twice());
        }
        Ok(Self { services, by_token })
    }
}

/// A service that is told what happens.
struct Told {
    service: Arc<Registration>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

/// The device of whoever calls with a service's token and names none.
const NO_DEVICE: &str = "appservice:";

impl Appservices {
    /// The services of some registrations.
    pub fn new(parts: Parts) -> Result<Self, RegistrationError> {
        let Parts { registrations, store, clock, users, typing, name } = parts;
        let set = RwLock::new(Arc::new(Set::new(registrations)?));
        // The operator named these addresses: they may stand in the own network.
        let outside = Outside::new(true);
        let (told, ground) = (Mutex::default(), OnceLock::new());
        Ok(Self { inner: Arc::new(Inner { set, told, ground, store, clock, users, typing, name, outside }) })
    }

    /// Makes the services' own users and tells them what happens, until `stop`.
    pub async fn run(self, stop: CancellationToken, tasks: TaskTracker) {
        if self.inner.ground.set((stop, tasks)).is_ok() {
            self.tell().await;
        }
    }

    /// Other services are let in from now on. Those whose files have not changed go on undisturbed; those that have, from
    /// where they were. On an error nothing has changed.
    pub async fn reload(&self, registrations: Vec<Arc<Registration>>) -> Result<(), RegistrationError> {
        let set = Arc::new(Set::new(registrations)?);
        *self.inner.set.write().unwrap_or_else(PoisonError::into_inner) = set;
        self.tell().await;
        Ok(())
    }

    /// Has a task for each service that is told, and for no other.
    async fn tell(&self) {
        let Some((stop, tasks)) = self.inner.ground.get() else { return };
        let set = self.set();
        for service in &set.services {
            if let Err(error) = self.register(&service.sender_localpart).await {
                tracing::warn!(service = service.id, %error, "the service's own user could not be made");
            }
        }
        let mut told = self.inner.told.lock().unwrap_or_else(PoisonError::into_inner);
        let same = |told: &Told| {
            set.services
                .iter()
                .any(|service| service.id == told.service.id && service.says_the_same(&told.service))
        };
        let mut ended: HashMap<String, JoinHandle<()>> = HashMap::new();
        for (id, gone) in told.extract_if(|_, told| !same(told)) {
            gone.stop.cancel();
            ended.insert(id, gone.task);
        }
        for service in set.services.iter().filter(|service| service.url.is_some()) {
            if told.contains_key(&service.id) {
                continue;
            }
            let (before, own_stop) = (ended.remove(&service.id), stop.child_token());
            let (services, told_to, until) = (self.clone(), service.clone(), own_stop.clone());
            let task = tasks.spawn(async move {
                // One after the other: both would send the same transaction.
                if let Some(before) = before {
                    let _ = before.await;
                }
                queue::run(services, told_to, until).await;
            });
            told.insert(service.id.clone(), Told { service: service.clone(), stop: own_stop, task });
        }
    }

    fn set(&self) -> Arc<Set> {
        self.inner.set.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn register(&self, localpart: &str) -> Result<(), UserError> {
        let account =
            NewAccount { localpart: Some(localpart.to_owned()), ..NewAccount::new(Proof::Operator) };
        match self.inner.users.register(account, None).await {
            Ok(_) | Err(UserError::NameTaken) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.set().services.is_empty()
    }

    /// The service that shows this token.
    pub fn by_token(&self, token: &str) -> Option<Arc<Registration>> {
        self.set().by_token.get(token).cloned()
    }

    /// As whom a service calls: the user it names, or its own; on the device that it names, or on none.
    pub fn masquerade(
        &self,
        service: &Registration,
        user: Option<&str>,
        device: Option<String>,
    ) -> Result<(OwnedUserId, Option<String>), NotYours> {
        let own = format!("@{}:{}", service.sender_localpart, self.inner.name);
        let user = UserId::parse(user.unwrap_or(&own)).map_err(|_| NotYours)?;
        if !service.has_user(&user, &self.inner.name) {
            return Err(NotYours);
        }
        Ok((user, device))
    }

    /// The name of the device of whoever calls without one.
    pub fn no_device(service: &Registration) -> String {
        format!("{NO_DEVICE}{}", service.id)
    }

    /// Whether a device is that of a service's call without one.
    pub fn is_no_device(device: &str) -> bool {
        device.starts_with(NO_DEVICE)
    }

    /// Whether a user may be made by, or act for, nobody but another service than `by`.
    pub fn user_is_taken(&self, user: &UserId, by: Option<&Registration>) -> bool {
        self.set()
            .services
            .iter()
            .any(|service| service.owns_user(user) && by.is_none_or(|by| by.id != service.id))
    }

    /// The same for an alias.
    pub fn alias_is_taken(&self, alias: &RoomAliasId, by: Option<&Registration>) -> bool {
        self.set()
            .services
            .iter()
            .any(|service| service.owns_alias(alias) && by.is_none_or(|by| by.id != service.id))
    }

    /// Whether a user's requests are not held to rates.
    pub fn is_exempt(&self, user: &str) -> bool {
        let Ok(user) = <&UserId>::try_from(user) else { return false };
        let exempt = |service: &Arc<Registration>| {
            service.has_user(user, &self.inner.name)
                && (!service.rate_limited || user.localpart() == service.sender_localpart)
        };
        self.set().services.iter().any(exempt)
    }
}

/// The user that a service names is not in its namespace.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("this user is not in the namespace of the application service")]
pub struct NotYours;

#[cfg(test)]
mod tests;
