//! The loop: one thread, one clock, one [`Router`].
//!
//! ```text
//! links, TUN, commands, requests --mark--> ReadySet --take--> turn: handle_*  > poll_event
//!                                                                             > poll_link, poll_transmit > writev
//!                                                              wait: marks | deadline | interfaces changed
//! ```
//!
//! One turn takes from each marked source all it has, up to a bound, and writes what came of it: a busy node makes
//! few system calls, an idle one none. What a link cannot take stays in the router's queues.

use std::collections::{HashMap, VecDeque};
use std::future::{Future, poll_fn};
use std::net::{IpAddr, Ipv6Addr};
use std::path::Path;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{AbortHandle, JoinHandle, coop, spawn_blocking, yield_now};
use tokio::time::{Instant as TokioInstant, sleep_until};

use super::asked::Asked;
use super::dial;
use super::handle::{Mtu, NodeEvent, PeerError, Request, Shared};
use super::interfaces::Interfaces;
use super::kept::{Kept, Saved};
use super::links::{Internal, LinkEnd, LinkMaker, NewLink};
use super::os::Clock;
use super::paths::{Advice, Paths, too_big};
use super::ready::{ReadySet, Source, Token};
use super::tcp::{Flush, Read, SCRATCH_BYTES, TcpLink};
use super::tun::Tun;
use super::uri::PeerUri;
use crate::config::{MTU_MIN, Role};
use crate::error::LinkError;
use crate::id::{LinkId, NodeId};
use crate::router::{Channel, Command, Event, Router};
use crate::time::Instant;

/// Connections that came in and have not proved a key yet; the oldest gives way. A handshake takes two round trips,
/// so this is more than any honest crowd has at once.
const UNPROVEN_MAX: usize = 64;
/// Configured neighbours: each is a task that dials.
const PEERS_MAX: usize = 256;
/// Between two writes of what survives a restart.
const STORE_EVERY: Duration = Duration::from_secs(10);
/// How often it is asked whether a root has got tenure, which is worth a write.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// Waiting for a deadline that is never.
const FOREVER: Duration = Duration::from_secs(24 * 3600);

/// All that the loop owns.
pub(crate) struct Driver {
    pub(crate) router: Router,
    pub(crate) clock: Clock,
    pub(crate) shared: Arc<Shared>,
    pub(crate) ready: Arc<ReadySet>,
    pub(crate) requests: mpsc::Receiver<Request>,
    pub(crate) internal: mpsc::Receiver<Internal>,
    pub(crate) interfaces: watch::Receiver<Interfaces>,
    pub(crate) maker: LinkMaker,
    pub(crate) kept: Kept,
    pub(crate) tun: Option<Tun>,
    pub(crate) state: State,
}

/// What the loop begins without.
pub(crate) struct State {
    links: HashMap<LinkId, Link>,
    /// Links that came in and have not proved a key, oldest first; some may be gone already.
    unproven: VecDeque<LinkId>,
    dialers: Vec<(PeerUri, AbortHandle)>,
    asked: Asked,
    scratch: Box<[u8]>,
    commands: Vec<Command>,
    /// Packets for applications, until the end of the turn.
    received: Vec<(NodeId, Bytes)>,
    /// Destinations of the TUN, and those among them that are to be looked at.
    paths: Paths,
    looks: Vec<Ipv6Addr>,
    tun_source: Arc<Source>,
    requests_source: Arc<Source>,
    storing: Option<(Saved, JoinHandle<std::io::Result<()>>)>,
    store_after: Instant,
    look_after: Instant,
    ended: Option<Option<oneshot::Sender<()>>>,
}

/// One connection.
struct Link {
    tcp: TcpLink,
    source: Arc<Source>,
    waker: Waker,
    /// The kernel took no more: the egress queue waits for the waker.
    blocked: bool,
    node: Option<NodeId>,
    multicast: bool,
    /// The configured neighbour that was dialled.
    peer: Option<PeerUri>,
    interface: Option<String>,
    remote: String,
    local: Option<IpAddr>,
    ended: Option<oneshot::Sender<LinkEnd>>,
}

impl State {
    pub(crate) fn new(ready: &Arc<ReadySet>) -> Self {
        Self {
            links: HashMap::new(),
            unproven: VecDeque::new(),
            dialers: Vec::new(),
            asked: Asked::default(),
            scratch: vec![0; SCRATCH_BYTES].into_boxed_slice(),
            commands: Vec::new(),
            received: Vec::new(),
            paths: Paths::default(),
            looks: Vec::new(),
            tun_source: Source::new(Token::Tun, ready),
            requests_source: Source::new(Token::Requests, ready),
            storing: None,
            store_after: Instant::ZERO,
            look_after: Instant::ZERO,
            ended: None,
        }
    }
}

impl Driver {
    /// Runs until the node is shut down or nobody holds it any more. What is returned wants to be told when all is
    /// closed.
    pub(crate) async fn run(mut self, peers: Vec<PeerUri>) -> Option<oneshot::Sender<()>> {
        for peer in peers {
            // Named twice is dialled once.
            let _ = self.add_peer(peer);
        }
        // Sources that were never looked at have no waker yet.
        self.state.requests_source.mark();
        if self.tun.is_some() {
            self.state.tun_source.mark();
        }
        coop::unconstrained(self.turns()).await;
        self.finish().await
    }

    async fn turns(&mut self) {
        let mut marked = Vec::new();
        let mut armed = None;
        let mut timer = pin!(sleep_until(TokioInstant::now()));
        loop {
            self.ready.take(&mut marked);
            self.turn(&mut marked);
            if self.state.ended.is_some() {
                return;
            }
            self.store();
            let deadline = self.router.poll_timeout();
            if armed != Some(deadline) {
                armed = Some(deadline);
                let wait = deadline.map_or(FOREVER, |d| self.clock.until(d).min(FOREVER));
                timer.as_mut().reset(TokioInstant::now() + wait);
            }
            if self.ready.is_marked() {
                // Others on this thread (dialers, discovery, the runtime's own I/O) run before the next turn.
                yield_now().await;
                continue;
            }
            tokio::select! {
                biased;
                () = poll_fn(|cx| self.ready.poll_marked(cx)) => {}
                () = &mut timer => armed = None,
                changed = self.interfaces.changed() => {
                    if changed.is_ok() {
                        self.interfaces_changed();
                    }
                }
            }
        }
    }

    /// One turn: the deadline, then each marked source, each with all that comes of it.
    fn turn(&mut self, marked: &mut Vec<Token>) {
        let now = self.clock.now();
        if self.router.poll_timeout().is_some_and(|deadline| deadline <= now) {
            self.router.handle_timeout(now);
        }
        self.drain();
        for token in marked.drain(..) {
            match token {
                Token::Link(link) => self.read_link(link),
                Token::Tun => self.read_tun(),
                Token::Commands => self.take_commands(),
                Token::Requests => self.take_requests(),
            }
            self.drain();
        }
        if !self.state.received.is_empty() {
            self.shared.received.push(&mut self.state.received);
        }
    }

    fn read_link(&mut self, id: LinkId) {
        let Some(link) = self.state.links.get_mut(&id) else { return };
        link.source.begin();
        let mut cx = Context::from_waker(&link.waker);
        let (router, now) = (&mut self.router, self.clock.now());
        let read =
            link.tcp.poll_read(&mut cx, &mut self.state.scratch, |frame| router.handle_frame(id, frame, now));
        let blocked = link.blocked;
        match read {
            Ok(Read::More) => link.source.mark(),
            Ok(Read::Empty) => {}
            Err(error) => {
                if error.kind() == std::io::ErrorKind::InvalidData {
                    self.shared.net_stats.links_bad.add(1);
                }
                return self.lost(id, LinkError::Lost);
            }
        }
        if blocked {
            self.flush(id);
        }
    }

    fn read_tun(&mut self) {
        let Some(tun) = &mut self.tun else { return };
        let source = &self.state.tun_source;
        source.begin();
        let waker = source.waker();
        let (router, now) = (&mut self.router, self.clock.now());
        let (paths, looks) = (&mut self.state.paths, &mut self.state.looks);
        let mut refused = Vec::new();
        let read = tun.poll_read(&mut Context::from_waker(&waker), &self.shared.net_stats, |to, packet| {
            match paths.sent(to, packet.len(), now) {
                Err(mtu) => return refused.extend(too_big(&packet, mtu)),
                Ok(look) => looks.extend(look.then_some(to)),
            }
            router.handle_command(Command::SendToAddress { to, payload: packet }, now);
        });
        refused.into_iter().for_each(|answer| tun.refuse(answer, &self.shared.net_stats));
        match read {
            Ok(true) => source.mark(),
            Ok(false) => {}
            Err(error) => {
                tracing::warn!(%error, "the TUN interface is gone: start the node again to have it back");
                self.tun = None;
            }
        }
        while let Some(to) = self.state.looks.pop() {
            if let Some(node) = self.router.by_address(&to) {
                self.look(node);
            }
        }
        for to in self.state.paths.crowd() {
            self.set_path(to, MTU_MIN);
        }
    }

    /// Sees whether packets of the TUN to a node may be larger or must be smaller than so far.
    fn look(&mut self, node: NodeId) {
        let (to, now) = (node.address(), self.clock.now());
        let Advice { set, probe } = self.state.paths.look(to, self.router.mtu(&node), now);
        if let Some(mtu) = set {
            self.set_path(to, mtu);
        }
        if let Some(bytes) = probe
            && let Some(id) = self.state.asked.size()
        {
            self.state.paths.asked(to, id, bytes, now);
            self.router.handle_command(Command::PingSized { id, to: node, bytes }, now);
        }
    }

    fn set_path(&mut self, to: Ipv6Addr, mtu: usize) {
        if let Some(tun) = &mut self.tun {
            tun.set_path(to, mtu);
        }
    }

    fn take_commands(&mut self) {
        let mut commands = std::mem::take(&mut self.state.commands);
        self.shared.commands.take(&mut commands);
        let now = self.clock.now();
        for command in commands.drain(..) {
            self.router.handle_command(command, now);
        }
        self.state.commands = commands;
    }

    fn take_requests(&mut self) {
        self.state.requests_source.begin();
        let waker = self.state.requests_source.waker();
        let mut cx = Context::from_waker(&waker);
        while let Poll::Ready(Some(internal)) = self.internal.poll_recv(&mut cx) {
            match internal {
                Internal::Link(new) => self.open(*new),
                Internal::Query(question) => question(&self.router),
            }
        }
        loop {
            match self.requests.poll_recv(&mut cx) {
                Poll::Ready(Some(request)) => self.request(request),
                Poll::Ready(None) => {
                    // The last handle is gone.
                    self.state.ended.get_or_insert(None);
                    return;
                }
                Poll::Pending => return,
            }
        }
    }

    fn request(&mut self, request: Request) {
        let now = self.clock.now();
        // An answer that nobody waits for any more goes nowhere, here and below.
        match request {
            Request::Query(question) => question(&self.router),
            Request::Lookup(target, answer) => {
                if let Some(id) = self.state.asked.lookup(answer) {
                    self.router.handle_command(Command::Lookup { id, target }, now);
                }
            }
            Request::Ping(to, answer) => {
                if let Some(id) = self.state.asked.ping(answer) {
                    self.router.handle_command(Command::Ping { id, to }, now);
                }
            }
            Request::Trace(to, answer) => {
                if let Some(id) = self.state.asked.trace(answer) {
                    self.router.handle_command(Command::Trace { id, to }, now);
                }
            }
            Request::FindAccount(acct, answer) => {
                if let Some(id) = self.state.asked.account(answer) {
                    self.router.handle_command(Command::FindAccount { id, acct }, now);
                }
            }
            Request::AddPeer(peer, answer) => drop(answer.send(self.add_peer(peer))),
            Request::RemovePeer(peer, answer) => drop(answer.send(self.remove_peer(&peer))),
            Request::ConfiguredPeers(answer) => {
                drop(answer.send(self.state.dialers.iter().map(|(peer, _)| peer.clone()).collect()));
            }
            Request::Shutdown(answer) => drop(self.state.ended.get_or_insert(Some(answer))),
        }
    }

    fn add_peer(&mut self, peer: PeerUri) -> Result<(), PeerError> {
        if self.state.dialers.iter().any(|(known, _)| known.same_place(&peer)) {
            return Err(PeerError::Known);
        }
        if self.state.dialers.len() >= PEERS_MAX {
            return Err(PeerError::TooMany);
        }
        let task = tokio::spawn(dial::keep(peer.clone(), self.maker.clone()));
        self.state.dialers.push((peer, task.abort_handle()));
        Ok(())
    }

    fn remove_peer(&mut self, peer: &PeerUri) -> Result<(), PeerError> {
        let at = self.state.dialers.iter().position(|(known, _)| known.same_place(peer));
        let (_, task) = self.state.dialers.swap_remove(at.ok_or(PeerError::Unknown)?);
        task.abort();
        let now = self.clock.now();
        for (id, link) in &self.state.links {
            if link.peer.as_ref().is_some_and(|p| p.same_place(peer)) {
                self.router.handle_command(Command::CloseLink { link: *id }, now);
            }
        }
        Ok(())
    }

    /// Takes a connection over.
    fn open(&mut self, new: NewLink) {
        let NewLink { link: id, stream, spec, peer, ended } = new;
        let listed = |peer: &PeerUri| self.state.dialers.iter().any(|(known, _)| known.same_place(peer));
        if !peer.as_ref().is_none_or(listed) {
            // The neighbour was removed while it was being dialled.
            return;
        }
        let tcp = match TcpLink::new(stream) {
            Ok(tcp) => tcp,
            Err(error) => {
                // It was closed before it was looked at.
                tracing::debug!(%error, remote = spec.remote, "connection lost");
                let _ = ended.send(LinkEnd { reason: LinkError::Lost, node: None });
                return;
            }
        };
        self.shared.net_stats.links_opened.add(1);
        if spec.role == Role::Acceptor {
            self.make_room();
            self.state.unproven.push_back(id);
        }
        let source = Source::new(Token::Link(id), &self.ready);
        let link = Link {
            local: tcp.local_ip(),
            tcp,
            waker: source.waker(),
            source: Arc::clone(&source),
            blocked: false,
            node: None,
            multicast: spec.multicast,
            peer,
            interface: spec.interface.clone(),
            remote: spec.remote.clone(),
            ended: Some(ended),
        };
        self.state.links.insert(id, link);
        self.router.handle_link(id, spec, self.clock.now());
        source.mark();
    }

    /// Strangers that keep silent must not keep others out.
    fn make_room(&mut self) {
        let links = &self.state.links;
        self.state.unproven.retain(|id| links.get(id).is_some_and(|link| link.node.is_none()));
        while self.state.unproven.len() >= UNPROVEN_MAX {
            let Some(oldest) = self.state.unproven.pop_front() else { return };
            self.shared.net_stats.links_refused.add(1);
            self.lost(oldest, LinkError::TooMany);
        }
    }

    /// Carries out what the router has decided.
    fn drain(&mut self) {
        loop {
            while let Some(event) = self.router.poll_event() {
                self.event(event);
            }
            let Some(link) = self.router.poll_link() else { break };
            self.flush(link);
        }
        if let Some(tun) = &mut self.tun {
            tun.flush(&self.shared.net_stats);
        }
    }

    /// Sends what waits for a link, as far as the kernel takes it.
    fn flush(&mut self, id: LinkId) {
        let Some(link) = self.state.links.get_mut(&id) else {
            // A link that is gone here and not yet there.
            while self.router.poll_transmit(id, self.clock.now()).is_some() {}
            return;
        };
        let mut cx = Context::from_waker(&link.waker);
        let (router, now) = (&mut self.router, self.clock.now());
        match link.tcp.poll_flush(&mut cx, || router.poll_transmit(id, now)) {
            Ok(flush) => link.blocked = flush == Flush::Blocked,
            Err(_) => self.lost(id, LinkError::Lost),
        }
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Received { channel: Channel::Ip, payload, .. } => {
                if let Some(tun) = &mut self.tun {
                    tun.write(payload, &self.shared.net_stats);
                }
            }
            Event::Received { from, channel: Channel::Stream, payload } => {
                self.state.received.push((from, payload));
            }
            Event::PeerUp { link, node } => self.peer_up(link, node),
            Event::PeerDown { link, node } => self.peer_down(link, node),
            Event::LinkClose { link, reason } => {
                // What the router still has to say to the other side.
                self.flush(link);
                self.closed(link, reason);
            }
            Event::SessionUp { node } => {
                self.set_mtu(node);
                self.tell(NodeEvent::SessionUp { node });
            }
            Event::SessionDown { node } => {
                self.shared.set_mtu(node, Mtu::default());
                self.tell(NodeEvent::SessionDown { node });
            }
            Event::MtuChanged { node } => self.set_mtu(node),
            Event::PathChanged { node } => {
                self.set_mtu(node);
                self.shared.path_changed(&node);
                self.tell(NodeEvent::PathChanged { node });
            }
            Event::Unreachable { to } => self.tell(NodeEvent::Unreachable { node: to }),
            Event::Joined => self.tell(NodeEvent::Joined),
            Event::LookupDone { id, result } => self.state.asked.looked_up(id, result),
            Event::Pong { id, result } => {
                if self.state.asked.pong(id, result)
                    && let Some((to, mtu)) = self.state.paths.answered(id, result.is_ok())
                {
                    self.set_path(to, mtu);
                }
            }
            Event::Traced { id, hops } => self.state.asked.traced(id, hops),
            Event::AccountFound { id, records } => self.state.asked.found(id, records),
        }
    }

    fn set_mtu(&mut self, node: NodeId) {
        if self.tun.is_some() && self.state.paths.holds(&node) {
            self.look(node);
        }
        self.shared.set_mtu(node, Mtu { least: self.router.mtu(&node), most: self.router.mtu_max(&node) });
    }

    fn peer_up(&mut self, id: LinkId, node: NodeId) {
        let Some(link) = self.state.links.get_mut(&id) else { return };
        link.node = Some(node);
        let (multicast, interface, remote) = (link.multicast, link.interface.clone(), link.remote.clone());
        tracing::debug!(peer = %node, remote, "link up");
        if multicast {
            self.shared.view().neighbours.insert(id, node);
        }
        self.tell(NodeEvent::PeerUp { node, link: id, multicast, interface, remote });
    }

    fn peer_down(&self, id: LinkId, node: NodeId) {
        let multicast = self.shared.view().neighbours.remove(&id).is_some();
        tracing::debug!(peer = %node, "link down");
        self.tell(NodeEvent::PeerDown { node, link: id, multicast });
    }

    /// A connection is gone: the router hears of it.
    fn lost(&mut self, id: LinkId, reason: LinkError) {
        if self.closed(id, reason) {
            self.router.handle_link_lost(id, self.clock.now());
        }
    }

    /// Closes a connection; whoever made it hears of it. False: it was closed already.
    fn closed(&mut self, id: LinkId, reason: LinkError) -> bool {
        let Some(link) = self.state.links.remove(&id) else { return false };
        self.shared.view().neighbours.remove(&id);
        if link.node.is_none() {
            self.shared.net_stats.links_bad.add(1);
            tracing::debug!(remote = link.remote, %reason, "connection closed");
        }
        if let Some(ended) = link.ended {
            // Nobody waits for the end of a connection that a listener took.
            let _ = ended.send(LinkEnd { reason, node: link.node });
        }
        true
    }

    /// Connections from addresses that the host no longer has are dead, and nothing else says so for a while.
    fn interfaces_changed(&mut self) {
        let now = Arc::clone(&self.interfaces.borrow_and_update());
        let has = |ip: &IpAddr| ip.is_loopback() || now.iter().any(|i| i.addresses.contains(ip));
        let dead = |link: &Link| link.local.is_some_and(|ip| !has(&ip));
        let gone: Vec<LinkId> = self.state.links.iter().filter(|(_, l)| dead(l)).map(|(id, _)| *id).collect();
        for id in gone {
            self.lost(id, LinkError::Lost);
        }
        self.drain();
    }

    fn tell(&self, event: NodeEvent) {
        // No listener is no error.
        let _ = self.shared.events.send(event);
    }

    /// Keeps what survives a restart on disk, the counter ahead of the one in use, without waiting for the disk.
    fn store(&mut self) {
        let now = self.clock.now();
        if let Some((saved, mut task)) = self.state.storing.take() {
            match Pin::new(&mut task).poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Pending => {
                    self.state.storing = Some((saved, task));
                    return;
                }
                Poll::Ready(Ok(Ok(()))) => self.kept.stored(saved),
                // It was reported; the next turn tries again.
                Poll::Ready(_) => {}
            }
        }
        let look = now >= self.state.look_after;
        if look {
            self.state.look_after = now + LOOK_EVERY;
        }
        let Some(saved) = self.kept.due(self.router.persisted(), || self.router.root_times(), look) else {
            return;
        };
        if now < self.state.store_after {
            return;
        }
        self.state.store_after = now + STORE_EVERY;
        let Some(path) = self.kept.path().map(Path::to_owned) else { return };
        let write = {
            let saved = saved.clone();
            move || {
                saved.write(&path).inspect_err(|error| {
                    tracing::warn!(path = %path.display(), %error, "the counter cannot be stored: free some space there");
                })
            }
        };
        self.state.storing = Some((saved, spawn_blocking(write)));
    }

    /// Leaves everything as the next start wants it.
    async fn finish(mut self) -> Option<oneshot::Sender<()>> {
        for (_, task) in &self.state.dialers {
            task.abort();
        }
        if let Some((_, task)) = self.state.storing.take() {
            // Its own result was reported when it came about.
            let _ = task.await;
        }
        if let Some(path) = self.kept.path().map(Path::to_owned) {
            let saved = Saved { counter: self.router.persisted(), roots: self.router.root_times() };
            let written = spawn_blocking(move || saved.write(&path)).await;
            if let Ok(Err(error)) = written {
                // The value that was stored ahead holds as well.
                tracing::debug!(%error, "the counter was not stored at the end");
            }
        }
        self.state.ended.flatten()
    }
}
