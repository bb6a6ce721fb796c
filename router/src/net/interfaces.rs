//! The network interfaces of this host, and the one task that notices when they change.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use nix::ifaddrs::getifaddrs;
use nix::net::if_::{InterfaceFlags, if_nametoindex};
use tokio::sync::watch;

use super::netlink::Changes;

/// A change rarely comes alone (link up, address, address usable): what comes within this time is looked at once.
const SETTLE: Duration = Duration::from_millis(50);
/// Looking without being told, in case the kernel's word was lost or the kernel gives none.
const POLL: Duration = Duration::from_secs(15);
/// The same where there is no netlink at all.
const POLL_BLIND: Duration = Duration::from_secs(1);
/// Interfaces that are looked at: hosts full of containers have hundreds, and each gets a listener.
const INTERFACES_MAX: usize = 256;

/// One interface as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Interface {
    pub(crate) name: String,
    pub(crate) index: u32,
    /// Switched on.
    pub(crate) up: bool,
    /// Up, and known to have a carrier: the kernel tells of that up to a second late.
    pub(crate) running: bool,
    /// Several nodes may be on it: multicast, no loopback, no tunnel.
    pub(crate) shared: bool,
    /// It can do multicast at all.
    pub(crate) multicast: bool,
    pub(crate) addresses: Vec<IpAddr>,
}

/// All interfaces at one moment.
pub(crate) type Interfaces = Arc<Vec<Interface>>;

impl Interface {
    /// The address by which neighbours on the cable reach this interface.
    pub(crate) fn link_local(&self) -> Option<Ipv6Addr> {
        self.addresses.iter().find_map(|ip| match ip {
            IpAddr::V6(ip) if ip.is_unicast_link_local() => Some(*ip),
            _ => None,
        })
    }
}

/// The interfaces as they are now, by name.
pub(crate) fn list() -> io::Result<Vec<Interface>> {
    let mut found: BTreeMap<String, Interface> = BTreeMap::new();
    for entry in getifaddrs()? {
        let flags = entry.flags;
        let has = |flag| flags.contains(flag);
        if !found.contains_key(&entry.interface_name) {
            if found.len() == INTERFACES_MAX {
                continue;
            }
            // An interface that went away between the two calls is not there.
            let Ok(index) = if_nametoindex(entry.interface_name.as_str()) else { continue };
            let tunnel = has(InterfaceFlags::IFF_POINTOPOINT) || has(InterfaceFlags::IFF_LOOPBACK);
            let multicast = has(InterfaceFlags::IFF_MULTICAST) && !has(InterfaceFlags::IFF_LOOPBACK);
            found.insert(
                entry.interface_name.clone(),
                Interface {
                    name: entry.interface_name.clone(),
                    index,
                    up: has(InterfaceFlags::IFF_UP),
                    running: has(InterfaceFlags::IFF_UP) && has(InterfaceFlags::IFF_RUNNING),
                    shared: multicast && !tunnel,
                    multicast,
                    addresses: Vec::new(),
                },
            );
        }
        let (Some(address), Some(interface)) = (entry.address, found.get_mut(&entry.interface_name)) else {
            continue;
        };
        if let Some(v4) = address.as_sockaddr_in() {
            interface.addresses.push(IpAddr::V4(v4.ip()));
        } else if let Some(v6) = address.as_sockaddr_in6() {
            interface.addresses.push(IpAddr::V6(v6.ip()));
        }
    }
    Ok(found.into_values().collect())
}

/// The index of an interface, for `%name` in addresses.
pub(crate) fn index(name: &str) -> Option<u32> {
    if_nametoindex(name).ok()
}

/// Follows the interfaces for as long as somebody looks.
pub(crate) async fn follow(seen: watch::Sender<Interfaces>) {
    let changes = match Changes::open() {
        Ok(changes) => Some(changes),
        Err(error) => {
            tracing::debug!(%error, "no word from the kernel on address changes: polling");
            None
        }
    };
    let mut changes = changes;
    loop {
        let poll = if changes.is_some() { POLL } else { POLL_BLIND };
        let told = async {
            match &changes {
                Some(changes) => changes.next().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = seen.closed() => return,
            () = tokio::time::sleep(poll) => {}
            told = told => match told {
                Ok(()) => tokio::time::sleep(SETTLE).await,
                Err(error) => {
                    tracing::debug!(%error, "netlink failed: polling");
                    changes = None;
                }
            }
        }
        match list() {
            Ok(now) => {
                seen.send_if_modified(|last| {
                    let changed = **last != now;
                    if changed {
                        *last = Arc::new(now);
                    }
                    changed
                });
            }
            // Tried again at the next change or poll.
            Err(error) => tracing::debug!(%error, "the interfaces cannot be listed"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_there_and_not_for_multicast() {
        let all = list().unwrap();
        let lo = all.iter().find(|i| i.name == "lo").expect("every host has a loopback interface");
        assert!(!lo.shared && lo.running);
        assert!(lo.addresses.contains(&IpAddr::V4([127, 0, 0, 1].into())));
        assert_eq!(index("lo"), Some(lo.index));
        assert_eq!(index("no-such-if"), None);
    }
}
