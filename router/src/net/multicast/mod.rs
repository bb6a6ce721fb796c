//! Finds neighbours on the same cable or Wi-Fi: beacons to an IPv6 multicast group on every interface, a listener of
//! its own on each, and links to those who are heard. What is decided is in `cable`, what is said in `beacon`.
//!
//! Beacons go out from a socket of their own, so that answers reach this node and not another one on the same host
//! that shares the group's port.

mod beacon;
mod cable;

use std::collections::HashMap;
use std::io;
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{broadcast, mpsc};
use tokio::task::AbortHandle;
use tokio::time::sleep;

use self::beacon::{BEACON_BYTES, Beacon, BeaconKey, Tag};
use self::cable::{Cable, Standing};
use super::handle::NodeEvent;
use super::interfaces::{Interface, Interfaces};
use super::links::{LinkEnd, LinkMaker};
use super::os::Clock;
use super::{Multicast, MulticastInterfaces, dial, listen};
use crate::config::{LinkKind, LinkSpec, Role};
use crate::id::{LinkId, Sid};
use crate::router::Router;
use crate::time::Instant;

/// Where beacons go: link-local scope, so no router passes them on.
const GROUP: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0x4d47, 0x5256);
/// And on which port.
const PORT: u16 = 19_745;
/// What tasks report at one time; more wait.
const REPORTS_MAX: usize = 64;
/// Datagrams taken in one go before links and timers have their turn.
const DATAGRAMS_TURN: usize = 64;
/// An interface whose address cannot be bound yet: the kernel is still looking whether somebody else has it.
const BIND_RETRY: Duration = Duration::from_millis(200);
/// How old what is known of the router may be for a decision.
const STANDING_AGE: Duration = Duration::from_millis(250);
/// Nothing is due for longer than this.
const IDLE_MAX: Duration = Duration::from_secs(30);

/// Discovery on all its interfaces: one task.
pub(crate) struct Discovery {
    config: Multicast,
    key: BeaconKey,
    /// The interfaces' tags are made from it: two on one cable do not look like one that moves to and fro.
    secret: [u8; 32],
    maker: LinkMaker,
    clock: Clock,
    /// Hears the group.
    group: UdpSocket,
    /// Sends all, hears answers.
    unicast: UdpSocket,
    cables: HashMap<u32, Plugged>,
    /// On which cable a link is.
    links: HashMap<LinkId, u32>,
    reports: mpsc::Sender<Report>,
    inbox: mpsc::Receiver<Report>,
    events: broadcast::Receiver<NodeEvent>,
    standing: Standing,
    root: Option<Sid>,
    standing_at: Option<Instant>,
    /// An interface could not be bound: tried again then.
    bind_again: Option<Instant>,
}

/// A cable with its interface.
struct Plugged {
    cable: Cable,
    tag: Tag,
    name: String,
    ip: Ipv6Addr,
    port: u16,
    running: bool,
    accepting: AbortHandle,
}

/// What tasks of this one have to tell.
enum Report {
    Called { index: u32, stream: TcpStream, from: SocketAddrV6 },
    Dialed { index: u32, tag: Tag, address: SocketAddrV6, result: io::Result<TcpStream> },
    Ended { link: LinkId, end: Option<LinkEnd> },
}

impl Discovery {
    /// Opens the sockets.
    pub(crate) fn open(config: Multicast, maker: LinkMaker) -> io::Result<Self> {
        let mut secret = [0; 32];
        getrandom::fill(&mut secret)?;
        let (reports, inbox) = mpsc::channel(REPORTS_MAX);
        Ok(Self {
            key: BeaconKey::new(config.password.as_ref()),
            config,
            secret,
            events: maker.events(),
            maker,
            clock: Clock::start(),
            group: udp(PORT)?,
            unicast: udp(0)?,
            cables: HashMap::new(),
            links: HashMap::new(),
            reports,
            inbox,
            standing: Standing::default(),
            root: None,
            standing_at: None,
            bind_again: None,
        })
    }

    /// Runs until the node ends.
    pub(crate) async fn run(mut self) {
        self.follow();
        let mut datagram = [0; BEACON_BYTES + 1];
        let mut answer = [0; BEACON_BYTES + 1];
        loop {
            if self.act().await.is_none() {
                return;
            }
            let now = self.clock.now();
            let due = self.cables.values().map(|p| p.cable.poll_timeout(now)).chain(self.bind_again).min();
            let wait = due.map_or(IDLE_MAX, |due| (due - now).min(IDLE_MAX));
            tokio::select! {
                received = self.group.recv_from(&mut datagram) => {
                    self.received(received, &datagram).await;
                    // What else there is, up to a bound: a flood must not keep the timers from their turn.
                    for _ in 0..DATAGRAMS_TURN {
                        match self.group.try_recv_from(&mut datagram) {
                            Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                            received => self.received(received, &datagram).await,
                        }
                    }
                }
                received = self.unicast.recv_from(&mut answer) => self.received(received, &answer).await,
                Some(report) = self.inbox.recv() => self.report(report).await,
                event = self.events.recv() => match event {
                    Ok(event) => self.event(&event),
                    // Missed ones only mean that a second link to a neighbour stays.
                    Err(broadcast::error::RecvError::Lagged(_)) => {}
                    Err(broadcast::error::RecvError::Closed) => return,
                },
                changed = self.maker.interfaces.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    self.follow();
                }
                () = sleep(wait) => {
                    if self.bind_again.is_some_and(|at| at <= self.clock.now()) {
                        self.follow();
                    }
                }
            }
        }
    }

    /// Does what is due. `None`: the node has ended.
    async fn act(&mut self) -> Option<()> {
        let now = self.clock.now();
        if self.cables.is_empty() {
            return Some(());
        }
        if self.standing_at.is_none_or(|at| now >= at + STANDING_AGE) {
            (self.standing, self.root) = self.maker.query(standing).await?;
            self.standing_at = Some(now);
        }
        let mut beacons = Vec::new();
        for (index, plugged) in &mut self.cables {
            plugged.cable.expire(now);
            if let Some(solicit) = plugged.cable.poll_beacon(now, random()) {
                beacons.push((*index, solicit));
            }
            while let Some((tag, address)) = plugged.cable.poll_dial(now, &self.standing) {
                let (reports, index) = (self.reports.clone(), *index);
                tokio::spawn(async move {
                    let result = dial::dial(address.into()).await;
                    // A discovery that has ended wants no connection.
                    let _ = reports.send(Report::Dialed { index, tag, address, result }).await;
                });
            }
            if let Some(link) = plugged.cable.poll_excess(now, &self.standing) {
                self.maker.close(link);
            }
        }
        for (index, solicit) in beacons {
            let to = SocketAddrV6::new(GROUP, PORT, 0, index);
            self.send_beacon(index, to, solicit).await;
        }
        Some(())
    }

    async fn send_beacon(&self, index: u32, to: SocketAddrV6, solicit: bool) {
        let Some(plugged) = self.cables.get(&index) else { return };
        let root_mark = self.root.map_or([0; 8], |root| self.key.root_mark(&plugged.tag, root));
        let links = self.standing.links;
        let beacon = Beacon { solicit, tag: plugged.tag, port: plugged.port, links, root_mark };
        match self.unicast.send_to(&self.key.encode(&beacon), SocketAddr::from(to)).await {
            Ok(_) => self.maker.counters().beacons_sent.add(1),
            // An interface that just went away, or has no address yet: the next beacon is due anyway.
            Err(error) => tracing::debug!(interface = plugged.name, %error, "beacon not sent"),
        }
    }

    async fn received(&mut self, received: io::Result<(usize, SocketAddr)>, datagram: &[u8]) {
        let Ok((bytes, SocketAddr::V6(from))) = received else { return };
        let index = from.scope_id();
        if !self.cables.contains_key(&index) {
            return;
        }
        let beacon = datagram.get(..bytes).and_then(|d| self.key.decode(d));
        let Some(beacon) = beacon.filter(|_| from.ip().is_unicast_link_local()) else {
            self.maker.counters().beacons_bad.add(1);
            return;
        };
        if self.cables.values().any(|own| own.tag == beacon.tag) {
            return;
        }
        self.maker.counters().beacons_received.add(1);
        let mark = self.root.map(|root| self.key.root_mark(&beacon.tag, root));
        let listener = SocketAddrV6::new(*from.ip(), beacon.port, 0, index);
        let same_root = mark == Some(beacon.root_mark);
        let now = self.clock.now();
        let Some(plugged) = self.cables.get_mut(&index) else { return };
        let heard = plugged.cable.on_beacon(now, listener, &beacon, same_root, random());
        heard.dead.into_iter().for_each(|link| self.maker.close(link));
        if heard.answer {
            self.send_beacon(index, from, false).await;
        }
    }

    async fn report(&mut self, report: Report) {
        let now = self.clock.now();
        match report {
            Report::Called { index, stream, from } => {
                let Some(plugged) = self.cables.get(&index) else { return };
                if !plugged.cable.admits(*from.ip()) {
                    self.maker.counters().links_refused.add(1);
                    return;
                }
                self.link(index, stream, from, None).await;
            }
            Report::Dialed { index, tag, address, result } => match result {
                Ok(stream) => self.link(index, stream, address, Some(tag)).await,
                Err(error) => {
                    self.maker.counters().dials_failed.add(1);
                    tracing::debug!(%address, %error, "a neighbour cannot be dialled");
                    if let Some(plugged) = self.cables.get_mut(&index) {
                        plugged.cable.on_dial_failed(&tag, now);
                    }
                }
            },
            Report::Ended { link, end } => {
                let index = self.links.remove(&link);
                if let Some(plugged) = index.and_then(|index| self.cables.get_mut(&index)) {
                    plugged.cable.on_link_ended(link, end.is_some_and(|e| e.node.is_some()), now);
                    self.standing_at = None;
                }
            }
        }
    }

    async fn link(&mut self, index: u32, stream: TcpStream, remote: SocketAddrV6, tag: Option<Tag>) {
        let Some(plugged) = self.cables.get_mut(&index) else { return };
        let role = if tag.is_some() { Role::Dialer } else { Role::Acceptor };
        let spec = LinkSpec {
            password: self.config.password.clone(),
            multicast: true,
            remote: format!("tcp://[{}%{}]:{}", remote.ip(), plugged.name, remote.port()),
            interface: Some(plugged.name.clone()),
            ..LinkSpec::new(LinkKind::Stream, role)
        };
        let (link, end) = self.maker.link(stream, spec, None).await;
        plugged.cable.on_link(link, *remote.ip(), tag, self.clock.now());
        self.links.insert(link, index);
        let reports = self.reports.clone();
        tokio::spawn(async move {
            let end = end.await.ok();
            let _ = reports.send(Report::Ended { link, end }).await;
        });
    }

    fn event(&mut self, event: &NodeEvent) {
        match event {
            NodeEvent::PeerUp { node, link, .. } => {
                self.standing_at = None;
                let index = self.links.get(link);
                let plugged = index.and_then(|index| self.cables.get_mut(index));
                if let Some(twin) = plugged.and_then(|p| p.cable.on_link_up(*link, *node)) {
                    self.maker.close(twin);
                }
            }
            NodeEvent::PeerDown { .. } => self.standing_at = None,
            _ => {}
        }
    }

    /// Takes on interfaces that came, lets go of those that went or have another address.
    fn follow(&mut self) {
        let now = self.clock.now();
        let interfaces: Interfaces = self.maker.interfaces.borrow_and_update().clone();
        self.bind_again = None;
        let gone: Vec<u32> = self
            .cables
            .iter()
            .filter(|(index, p)| {
                let still = interfaces.iter().find(|i| i.index == **index && i.name == p.name);
                still.and_then(Interface::link_local) != Some(p.ip)
            })
            .map(|(index, _)| *index)
            .collect();
        for index in gone {
            self.unplug(index);
        }
        for interface in interfaces.iter() {
            if !self.wanted(interface) {
                continue;
            }
            if let Some(plugged) = self.cables.get_mut(&interface.index) {
                if interface.running && !plugged.running {
                    plugged.cable.restart(now);
                }
                plugged.running = interface.running;
            } else if interface.up
                && let Err(error) = self.plug(interface, now)
            {
                tracing::debug!(interface = interface.name, %error, "not yet on this interface");
                self.bind_again = Some(now + BIND_RETRY);
            }
        }
    }

    fn wanted(&self, interface: &Interface) -> bool {
        match &self.config.interfaces {
            MulticastInterfaces::Off => false,
            MulticastInterfaces::All => interface.shared,
            MulticastInterfaces::Named(names) => interface.multicast && names.contains(&interface.name),
        }
    }

    fn plug(&mut self, interface: &Interface, now: Instant) -> io::Result<()> {
        // Without an address of its own an interface has no IPv6: its address will be a change.
        let Some(ip) = interface.link_local() else { return Ok(()) };
        let (index, name, running) = (interface.index, interface.name.clone(), interface.running);
        let listener = listen::bind_link_local(ip, index)?;
        let port = listener.local_addr()?.port();
        match self.group.join_multicast_v6(&GROUP, index) {
            Err(e) if e.kind() != io::ErrorKind::AddrInUse => return Err(e),
            _ => {}
        }
        let accepting = tokio::spawn(accept(listener, index, self.reports.clone())).abort_handle();
        // The same when the interface gets another address: neighbours then know that it has moved.
        let mut tag = Tag::default();
        let digest = blake3::keyed_hash(&self.secret, &index.to_be_bytes());
        tag.copy_from_slice(&digest.as_bytes()[..16]);
        let cable = Cable::new(tag, now);
        tracing::debug!(interface = name, %ip, port, "looking for neighbours");
        self.cables.insert(index, Plugged { cable, tag, name, ip, port, running, accepting });
        Ok(())
    }

    fn unplug(&mut self, index: u32) {
        let Some(plugged) = self.cables.remove(&index) else { return };
        tracing::debug!(interface = plugged.name, "no longer looking for neighbours");
        plugged.accepting.abort();
        plugged.cable.links().for_each(|link| self.maker.close(link));
        // Gone with the interface, as a rule.
        let _ = self.group.leave_multicast_v6(&GROUP, index);
    }
}

/// Takes calls on one interface's own listener.
async fn accept(listener: TcpListener, index: u32, reports: mpsc::Sender<Report>) {
    loop {
        let (stream, from) = listen::next(&listener).await;
        let SocketAddr::V6(from) = from else { continue };
        // Not from the cable: a listener on a link-local address hears nothing else, unless the host routes oddly.
        if from.ip().is_unicast_link_local()
            && reports.send(Report::Called { index, stream, from }).await.is_err()
        {
            return;
        }
    }
}

/// What decisions and beacons need to know of the router.
fn standing(router: &Router) -> (Standing, Option<Sid>) {
    let trees = router.trees();
    let links = u8::try_from(router.self_info().peers).unwrap_or(u8::MAX);
    let parents = trees.iter().filter_map(|t| t.parent).collect();
    (Standing { links, parents }, trees.first().map(|t| t.root_sid))
}

/// A UDP socket for IPv6; several nodes of one host may share a port.
fn udp(port: u16) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::IPV6, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_only_v6(true)?;
    if port != 0 {
        socket.set_reuse_address(true)?;
    }
    socket.set_nonblocking(true)?;
    // Two nodes on one host find each other too; of one's own beacons one knows the tag.
    socket.set_multicast_loop_v6(true)?;
    socket.bind(&SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, port, 0, 0).into())?;
    UdpSocket::from_std(socket.into())
}

/// From 0 to 1. Without randomness all nodes keep the same time, which is only less good.
fn random() -> f64 {
    let mut bytes = [0; 4];
    let _ = getrandom::fill(&mut bytes);
    f64::from(u32::from_be_bytes(bytes)) / f64::from(u32::MAX)
}
