//! Owns one link: its handshake, seals, egress queue, liveness, round-trip time and cost.
use super::arq::Arq;
use super::cost::{Cost, Rtt};
use super::handshake::{Handshake, LinkKeys, Ours};
use super::pieces::{Joiner, cut};
use super::queue::{Queue, Waiting};
use super::replay::Window;
use crate::config::{DATAGRAM_MTU, DATAGRAM_MTU_LEAST, H_MAX, LinkKind, LinkSpec, Role};
use crate::crypto::{Entropy, SecretKey, TAG_LEN};
use crate::error::LinkError;
use crate::id::{LinkId, Port};
use crate::time::{Duration, Instant};
use crate::wire::hello::Proof;
use crate::wire::record::Span;
use crate::wire::{Control, DataS, FrameError, Reader, Writer, body, kind};
use bytes::{Bytes, BytesMut};
use std::collections::VecDeque;

/// One connection to a neighbour.
#[derive(Debug)]
pub struct Link {
    /// Its name.
    pub id: LinkId,
    /// What the driver said about it.
    pub spec: LinkSpec,
    /// My port for the peer, once it is up.
    pub port: Option<Port>,
    /// When it came up, or when it began.
    pub since: Instant,
    /// Measured round-trip time.
    pub rtt: Rtt,
    /// What it costs.
    pub cost: Cost,
    /// Bytes of frames in.
    pub bytes_in: u64,
    /// Bytes of frames out.
    pub bytes_out: u64,
    /// Reported by `poll_link` and not run empty since.
    pub reported: bool,
    /// The instant its timer is set to.
    pub timer: Option<Instant>,
    /// Bytes of packets queued for it, control frames left out.
    pub packet_bytes_out: u64,
    /// The peer owes a frame for too long: others go first.
    pub late: bool,
    /// For so long that nothing hangs on it any more.
    pub silent: bool,
    state: State,
    queue: Queue,
    life: Life,
    frame_max: usize,
}

#[derive(Debug)]
enum State {
    Opening { handshake: Box<Handshake>, repeated: Instant },
    Up(Box<Up>),
}

#[derive(Debug)]
struct Up {
    keys: LinkKeys,
    sent: u64,
    received: u64,
    window: Window,
    arq: Arq,
    repeat: (Bytes, Bytes),
    /// Pieces of a packet that go next, sealed.
    pieces: VecDeque<Bytes>,
    /// Room for frames under counter and MAC: none is allocated for each.
    arena: BytesMut,
    /// Packets that were sent in pieces.
    cut: u32,
    joiner: Joiner,
}

/// When did which side last say something.
#[derive(Debug)]
struct Life {
    last_in: Instant,
    /// We sent something that deserves an answer, and have heard nothing since.
    owed_since: Option<Instant>,
    /// Others seem to have lost the peer, and nothing was heard of it since.
    doubted: bool,
    ping: Option<(u32, Instant)>,
    nonce: u32,
    largest: usize,
    /// A link that is new, or seems to have changed, is measured then.
    probe: Option<Instant>,
    /// We sent the latest ping, not they.
    asked_last: bool,
}

/// What a frame was.
#[derive(Debug)]
pub enum Incoming<'a> {
    /// Nothing for others.
    Nothing,
    /// The link is up.
    Established(Proof),
    /// The link's cost is another one.
    CostChanged,
    /// A control frame, opened.
    Control(Control),
    /// A packet or a notice, kind first.
    Packet(&'a [u8]),
    /// The same, which came in pieces.
    Joined(Vec<u8>),
    /// A kind that we do not know.
    Unknown,
}

/// What the passing of time brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alive {
    /// All is well.
    Yes,
    /// The peer became late or silent, or its cost changed.
    Changed,
    /// Give it up.
    No,
}

impl Link {
    /// A new connection: HELLO waits to be sent.
    pub fn new(
        id: LinkId,
        spec: LinkSpec,
        ours: Ours,
        queue_bytes_max: usize,
        entropy: &mut dyn Entropy,
        now: Instant,
    ) -> Self {
        let handshake = Box::new(Handshake::new(&spec, ours, entropy, now));
        let mut queue = Queue::new(queue_bytes_max);
        queue.push_urgent(Waiting::Plain(handshake.hello()));
        Self {
            id,
            port: None,
            since: now,
            rtt: Rtt::default(),
            cost: Cost::new(spec.cost),
            bytes_in: 0,
            bytes_out: 0,
            reported: false,
            timer: None,
            packet_bytes_out: 0,
            late: false,
            silent: false,
            state: State::Opening { handshake, repeated: now },
            queue,
            life: Life {
                last_in: now,
                owed_since: None,
                doubted: false,
                ping: None,
                nonce: 0,
                largest: 0,
                probe: None,
                asked_last: spec.role == Role::Acceptor,
            },
            frame_max: spec.mtu,
            spec,
        }
    }

    /// Has the peer proved its key?
    pub const fn is_up(&self) -> bool {
        matches!(self.state, State::Up(_))
    }

    /// Largest packet that goes over it, header included.
    pub const fn packet_max(&self) -> usize {
        match self.spec.kind {
            LinkKind::Stream => self.frame_max,
            // What every link must take goes in pieces if need be.
            LinkKind::Datagram => {
                let whole = self.frame_max.saturating_sub(GUARD_LEN);
                if whole < DATAGRAM_MTU { DATAGRAM_MTU } else { whole }
            }
        }
    }

    /// What is said of it in source routes. Larger frames than those of [`PATH_FRAME_MAX`] save little more and make others
    /// wait longer; what is farther than [`PATH_COST_MAX`] is likely to be slow, and takes only what every link does.
    pub fn span(&self) -> Span {
        let cost = self.cost.get();
        let quick = self.spec.kind == LinkKind::Stream && cost <= PATH_COST_MAX;
        let frame_max = if quick { self.packet_max().min(PATH_FRAME_MAX) } else { DATAGRAM_MTU };
        Span::new(cost, frame_max)
    }

    /// Largest control frame that goes over it.
    pub const fn control_max(&self) -> usize {
        self.frame_max.saturating_sub(1 + 8 + 5 + TAG_LEN)
    }

    /// How full its queue is, 0..=255.
    pub fn level(&self) -> u8 {
        self.queue.level()
    }

    /// Packets dropped since this was asked last.
    pub const fn take_dropped(&mut self) -> u64 {
        self.queue.take_dropped()
    }

    /// One frame from the other side.
    pub fn handle_frame<'a>(
        &mut self,
        frame: &'a [u8],
        secret: &SecretKey,
        now: Instant,
    ) -> Result<Incoming<'a>, LinkError> {
        self.bytes_in += frame.len() as u64;
        let &first = frame.first().ok_or(LinkError::Frame(FrameError::Short))?;
        match &self.state {
            State::Opening { .. } => self.on_opening_frame(first, frame, secret, now),
            State::Up(_) => self.on_frame(first, frame, now),
        }
    }

    fn on_opening_frame<'a>(
        &mut self,
        first: u8,
        frame: &[u8],
        secret: &SecretKey,
        now: Instant,
    ) -> Result<Incoming<'a>, LinkError> {
        let State::Opening { handshake, .. } = &mut self.state else { return Ok(Incoming::Nothing) };
        match first {
            kind::HELLO => {
                let ack = handshake.on_hello(frame, &self.spec, secret)?;
                self.queue.push_urgent(Waiting::Plain(ack));
                Ok(Incoming::Nothing)
            }
            kind::LINK_ACK => {
                if self.spec.kind == LinkKind::Datagram && handshake.ack().is_none() {
                    return Ok(Incoming::Nothing); // overtook its HELLO
                }
                let started = handshake.started;
                let done = handshake.on_ack(frame, &self.spec, secret)?;
                self.rtt.sample(now - started, now);
                self.cost.update(&self.rtt, now);
                self.frame_max = self.spec.mtu.min(done.proof.mtu as usize);
                let least = match self.spec.kind {
                    LinkKind::Stream => DATAGRAM_MTU,
                    LinkKind::Datagram => DATAGRAM_MTU_LEAST,
                };
                if self.frame_max < least {
                    return Err(LinkError::TooSmall { mtu: self.frame_max as u32, least: least as u32 });
                }
                self.since = now;
                self.life.last_in = now;
                self.state = State::Up(Box::new(Up {
                    keys: done.keys,
                    sent: 0,
                    received: 0,
                    window: Window::new(),
                    arq: Arq::default(),
                    repeat: done.repeat,
                    pieces: VecDeque::new(),
                    arena: BytesMut::new(),
                    cut: 0,
                    joiner: Joiner::default(),
                }));
                // The handshake's time holds both sides' work: measure before anything is published.
                self.ping(now);
                Ok(Incoming::Established(done.proof))
            }
            // Others may overtake the handshake where frames can, and only there.
            _ if self.spec.kind == LinkKind::Datagram => Ok(Incoming::Nothing),
            _ => Err(LinkError::NotOurProtocol),
        }
    }

    fn on_frame<'a>(&mut self, first: u8, frame: &'a [u8], now: Instant) -> Result<Incoming<'a>, LinkError> {
        let datagram = self.spec.kind == LinkKind::Datagram;
        let State::Up(up) = &mut self.state else { return Ok(Incoming::Nothing) };
        let incoming = match first {
            kind::SEALED => {
                let (aad, counter, sealed) = if datagram {
                    let mut reader = Reader::new(&frame[1..]);
                    let counter = reader.u64()?;
                    (&frame[..9], counter, reader.rest())
                } else {
                    (&frame[..1], up.received, &frame[1..])
                };
                if datagram && !up.window.is_fresh(counter) {
                    return Err(LinkError::Frame(FrameError::Seal));
                }
                let mut sealed = sealed.to_vec();
                let text = up
                    .keys
                    .open
                    .open(counter, aad, &mut sealed)
                    .map_err(|_| LinkError::Frame(FrameError::Seal))?;
                if datagram {
                    up.window.accept(counter);
                } else {
                    up.received += 1;
                }
                Incoming::Control(Control::decode(text)?)
            }
            kind::GUARDED if datagram => {
                let packet = up.unguard(first, frame)?;
                if is_packet(packet) { Incoming::Packet(packet) } else { Incoming::Unknown }
            }
            kind::PIECE if datagram => {
                let piece = up.unguard(first, frame)?;
                match up.joiner.on_piece(piece, now)? {
                    None => Incoming::Nothing,
                    Some(packet) if is_packet(&packet) => Incoming::Joined(packet),
                    Some(_) => Incoming::Unknown,
                }
            }
            kind::DATA_T | kind::DATA_S | kind::NOTICE if !datagram => Incoming::Packet(frame),
            kind::DATA_T | kind::DATA_S | kind::NOTICE => return Err(LinkError::Frame(FrameError::Seal)),
            kind::HELLO | kind::LINK_ACK if datagram => {
                // Our LINK_ACK was lost: the other side still asks.
                if first == kind::HELLO && up.repeat.0 == frame {
                    let ack = up.repeat.1.clone();
                    self.queue.push_urgent(Waiting::Plain(ack));
                }
                return Ok(Incoming::Nothing);
            }
            kind::HELLO | kind::LINK_ACK => return Err(LinkError::Frame(FrameError::State)),
            _ => Incoming::Unknown,
        };
        self.life.last_in = now;
        self.life.owed_since = None;
        self.life.doubted = false;
        (self.late, self.silent) = (false, false);
        match incoming {
            Incoming::Control(control) => self.on_control(control, now),
            other => Ok(other),
        }
    }

    /// Takes what concerns the link alone.
    fn on_control<'a>(&mut self, control: Control, now: Instant) -> Result<Incoming<'a>, LinkError> {
        let State::Up(up) = &mut self.state else { return Ok(Incoming::Nothing) };
        match control {
            Control::Ping { nonce } => {
                // Two that ask each other at the same time would do so for ever.
                let crossing = self.life.ping.is_some() && self.spec.role == Role::Acceptor;
                self.life.asked_last = crossing;
                self.queue.push_urgent(Waiting::Control(Control::Pong { nonce }.encode()));
            }
            Control::Pong { nonce } => {
                if let Some((asked, sent)) = self.life.ping
                    && asked == nonce
                {
                    self.life.ping = None;
                    let counts = self.rtt.sample(now - sent, now);
                    let changed = counts && self.cost.update(&self.rtt, now);
                    let next = self.rtt.next().or_else(|| self.cost.next(&self.rtt, now));
                    self.life.probe = next.map(|next| now + next);
                    if changed {
                        return Ok(Incoming::CostChanged);
                    }
                }
            }
            Control::Reliable { seq, frame } => {
                let first = up.arq.on_frame(seq);
                let (next, more) = up.arq.ack();
                self.queue.push_urgent(Waiting::Control(Control::Ack { next, more }.encode()));
                if first {
                    return Ok(Incoming::Control(Control::decode(&frame)?));
                }
            }
            Control::Ack { next, more } => {
                up.arq.on_ack(next, more);
                self.pump_arq(now);
            }
            Control::Unknown { .. } => return Ok(Incoming::Unknown),
            other => return Ok(Incoming::Control(other)),
        }
        Ok(Incoming::Nothing)
    }

    /// Queues a control frame that must arrive.
    pub fn send_control(&mut self, control: &Control, now: Instant) {
        match (&mut self.state, self.spec.kind) {
            (State::Up(up), LinkKind::Datagram) => {
                up.arq.push(control.encode());
                self.pump_arq(now);
            }
            (State::Up(_), LinkKind::Stream) => self.queue.push_control(control.encode()),
            (State::Opening { .. }, _) => {}
        }
    }

    fn pump_arq(&mut self, now: Instant) {
        let State::Up(up) = &mut self.state else { return };
        while self.queue.control_has_room()
            && let Some((seq, frame)) = up.arq.poll(self.rtt.or_guess(), now)
        {
            self.queue.push_control(Control::Reliable { seq, frame }.encode());
        }
    }

    /// Whether announcements may be made now.
    pub fn control_has_room(&self) -> bool {
        self.queue.control_has_room()
            && match &self.state {
                State::Up(up) => up.arq.has_room(),
                State::Opening { .. } => false,
            }
    }

    /// Queues a packet.
    pub fn send_packet(&mut self, source: Port, packet: Bytes, now: Instant) {
        self.packet_bytes_out += packet.len() as u64;
        self.queue.push_packet(source, packet, now);
    }

    /// Asks for a sign of life now, unless that was just done.
    pub fn ping(&mut self, now: Instant) {
        // Compared as the deadline is made: instants have whole microseconds, durations have not.
        if !self.is_up() || self.life.ping.is_some_and(|(_, sent)| now < sent + self.ping_again()) {
            return;
        }
        self.life.nonce = self.life.nonce.wrapping_add(1);
        self.life.ping = Some((self.life.nonce, now));
        self.life.asked_last = true;
        let ping = Control::Ping { nonce: self.life.nonce };
        self.queue.push_urgent(Waiting::Control(ping.encode()));
    }

    /// Others seem to have lost the peer: is it there? If not, that is soon believed.
    pub fn doubt(&mut self, now: Instant) {
        self.life.doubted = true;
        self.ping(now);
    }

    /// Has it something to send?
    pub fn wants_to_send(&self) -> bool {
        !self.queue.is_empty() || matches!(&self.state, State::Up(up) if !up.pieces.is_empty())
    }

    /// The next frame for the wire, and its kind if it is a control frame (of one that must arrive what it says).
    pub fn poll_transmit(&mut self, now: Instant) -> Option<(Bytes, Option<u8>)> {
        if let State::Up(up) = &mut self.state
            && let Some(piece) = up.pieces.pop_front()
        {
            self.bytes_out += piece.len() as u64;
            return Some((piece, None));
        }
        let waiting = self.queue.pop(now)?;
        let frame_max = self.frame_max;
        let datagram = self.spec.kind == LinkKind::Datagram;
        let (frame, control, answerable) = match (waiting, &mut self.state) {
            (Waiting::Plain(frame), _) => {
                let kind = frame.first().copied();
                (frame, kind, false)
            }
            (Waiting::Control(text), State::Up(up)) => {
                let answerable = !matches!(text[0], kind::PONG | kind::ACK);
                // What must arrive has its kind behind its number.
                let says = if text[0] == kind::RELIABLE { text.get(5) } else { text.first() };
                (up.seal(&text, datagram), says.copied(), answerable)
            }
            (Waiting::Packet(packet), State::Up(up)) => {
                // Looked at only where it makes a difference: not in the midst of traffic.
                let answerable = self.life.owed_since.is_some() || !is_last_word(&packet);
                (if datagram { up.guard_or_cut(&packet, frame_max)? } else { packet }, None, answerable)
            }
            (Waiting::Packet(packet), State::Opening { .. }) => (packet, None, true),
            (Waiting::Control(_), State::Opening { .. }) => return None,
        };
        self.bytes_out += frame.len() as u64;
        self.life.largest = self.life.largest.max(frame.len());
        if answerable && self.life.owed_since.is_none() {
            self.life.owed_since = Some(now);
        }
        Some((frame, control))
    }

    /// When [`Self::handle_timeout`] wants to be called next.
    pub fn deadline(&self) -> Instant {
        match &self.state {
            State::Opening { handshake, repeated } => {
                let end = handshake.started + HANDSHAKE_MAX;
                match self.spec.kind {
                    LinkKind::Stream => end,
                    LinkKind::Datagram => end.min(*repeated + HELLO_AGAIN),
                }
            }
            State::Up(up) => {
                let asked = self.life.ping.map(|(_, sent)| sent + self.ping_again());
                let life = match self.life.owed_since {
                    None => asked.unwrap_or_else(|| self.life.last_in + self.idle_max()),
                    Some(since) => {
                        let late = match (self.late, self.silent) {
                            (false, false) => self.late_after().min(self.silent_after()),
                            (true, false) => self.silent_after(),
                            (_, true) => self.dead_after(),
                        };
                        // A ping from before it owed anything does not count until it owes.
                        (since + late).min(asked.unwrap_or(since).max(since + PING_AFTER))
                    }
                };
                let life = self.life.probe.map_or(life, |probe| probe.min(life));
                // While the queue is full nothing is repeated; what leaves it sets the clock again.
                let arq = up.arq.deadline(self.rtt.or_guess()).filter(|_| self.queue.control_has_room());
                arq.map_or(life, |arq| arq.min(life))
            }
        }
    }

    /// [`Self::deadline`] has come, or not yet.
    pub fn handle_timeout(&mut self, now: Instant) -> Alive {
        match &mut self.state {
            State::Opening { handshake, repeated } => {
                if now >= handshake.started + HANDSHAKE_MAX {
                    return Alive::No;
                }
                if self.spec.kind == LinkKind::Datagram && now >= *repeated + HELLO_AGAIN {
                    *repeated = now;
                    self.queue.push_urgent(Waiting::Plain(handshake.hello()));
                    if let Some(ack) = handshake.ack() {
                        self.queue.push_urgent(Waiting::Plain(ack));
                    }
                }
                Alive::Yes
            }
            State::Up(_) => {
                self.pump_arq(now);
                if self.life.probe.take_if(|probe| now >= *probe).is_some() {
                    self.ping(now);
                }
                let mut changed = false;
                match self.life.owed_since {
                    Some(since) => {
                        if now >= since + self.dead_after() {
                            return Alive::No;
                        }
                        if now >= since + PING_AFTER {
                            self.ping(now);
                        }
                        if !self.late && now >= since + self.late_after() {
                            self.late = true;
                            changed = true;
                        }
                        if !self.silent && now >= since + self.silent_after() {
                            (self.late, self.silent) = (true, true);
                            changed = true;
                        }
                    }
                    None if now >= self.life.last_in + self.idle_max() + STUCK_MAX => return Alive::No,
                    None if now >= self.life.last_in + self.idle_max() => self.ping(now),
                    // Its answer was lost, others came. One that was only just sent is still waited for.
                    None => {
                        let again = self.ping_again();
                        self.life.ping = self.life.ping.filter(|(_, sent)| now < *sent + again);
                    }
                }
                if changed { Alive::Changed } else { Alive::Yes }
            }
        }
    }

    /// Who asked last waits a little longer, so that one of the two asks and not both, and each measures in turn.
    const fn idle_max(&self) -> Duration {
        if self.life.asked_last { IDLE_MAX_AGAIN } else { IDLE_MAX }
    }

    fn ping_again(&self) -> Duration {
        PING_AGAIN.max(2 * self.rtt.or_guess())
    }

    fn late_after(&self) -> Duration {
        LATE_AFTER.max(2 * self.rtt.or_guess())
    }

    fn silent_after(&self) -> Duration {
        let least = if self.life.doubted { SILENT_DOUBTED } else { SILENT_AFTER };
        least.max(3 * self.rtt.or_guess() + self.largest_takes())
    }

    /// The largest frame of ours, on the slowest link.
    fn largest_takes(&self) -> Duration {
        Duration::from_micros(self.life.largest as u64 * 8_000_000 / SLOWEST_BITS_PER_SECOND)
    }

    fn dead_after(&self) -> Duration {
        DEAD_AFTER.max(4 * self.rtt.or_guess() + self.largest_takes())
    }
}

/// Does the packet end an exchange? Who gets an answer of the lookup has nothing to say to it; asking for a sign of life after
/// each would be a fifth of all that an idle network says.
fn is_last_word(packet: &[u8]) -> bool {
    packet.first() == Some(&kind::DATA_S)
        && DataS::decode(packet).is_ok_and(|packet| packet.body.first() == Some(&body::FOUND))
}

impl Up {
    fn seal(&mut self, text: &[u8], datagram: bool) -> Bytes {
        let mut frame = BytesMut::with_capacity(9 + text.len() + TAG_LEN);
        frame.put_byte(kind::SEALED);
        if datagram {
            frame.put_eight(self.sent);
        }
        let head = frame.len();
        frame.put(text);
        let (aad, text) = frame.split_at_mut(head);
        let tag = self.keys.seal.seal(self.sent, aad, text);
        self.sent += 1;
        frame.put(&tag);
        frame.freeze()
    }

    /// A packet under counter and MAC: whole, or the first of its pieces; the others go next. One that no pieces can carry,
    /// which nobody queues, is dropped.
    fn guard_or_cut(&mut self, packet: &[u8], frame_max: usize) -> Option<Bytes> {
        if packet.len() + GUARD_LEN <= frame_max {
            return Some(self.guard(kind::GUARDED, packet));
        }
        self.cut = self.cut.wrapping_add(1);
        for piece in cut(packet, self.cut, frame_max - GUARD_LEN) {
            let piece = self.guard(kind::PIECE, &piece);
            self.pieces.push_back(piece);
        }
        self.pieces.pop_front()
    }

    /// What a frame under counter and MAC carries.
    fn unguard<'a>(&mut self, kind: u8, frame: &'a [u8]) -> Result<&'a [u8], FrameError> {
        let mut reader = Reader::new(&frame[1..]);
        let (counter, mac) = (reader.u64()?, reader.array::<8>()?);
        let expected = guard_mac(&self.keys.check, kind, counter, reader.rest());
        let differs = mac.iter().zip(&expected).fold(0, |acc, (a, b)| acc | (a ^ b)) != 0;
        if !self.window.is_fresh(counter) || differs {
            return Err(FrameError::Seal);
        }
        self.window.accept(counter);
        Ok(reader.rest())
    }

    fn guard(&mut self, kind: u8, packet: &[u8]) -> Bytes {
        let frame = &mut self.arena;
        if frame.capacity() < GUARD_LEN + packet.len() {
            // The same piece again, if all frames in it have gone.
            frame.reserve((GUARD_LEN + packet.len()).max(ARENA_BYTES));
        }
        frame.put_byte(kind);
        frame.put_eight(self.sent);
        frame.put(&guard_mac(&self.keys.guard, kind, self.sent, packet));
        frame.put(packet);
        self.sent += 1;
        frame.split().freeze()
    }
}

fn is_packet(packet: &[u8]) -> bool {
    matches!(packet.first(), Some(&(kind::DATA_T | kind::DATA_S | kind::NOTICE)))
}

/// Covers kind, counter, length and the first [`GUARDED_BYTES`]: the header. The body has its own seal, end to end.
fn guard_mac(key: &[u8; 32], kind: u8, counter: u64, packet: &[u8]) -> [u8; 8] {
    let mut hasher = blake3::Hasher::new_keyed(key);
    hasher.update(&[kind]).update(&counter.to_be_bytes()).update(&(packet.len() as u64).to_be_bytes());
    hasher.update(&packet[..packet.len().min(GUARDED_BYTES)]);
    let mut mac = [0; 8];
    mac.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    mac
}

/// Frames on source routes: 13 ms of a link of 10 Mbit/s.
const PATH_FRAME_MAX: usize = 16 * 1024 + H_MAX;
/// Milliseconds one way.
const PATH_COST_MAX: u8 = 8;
/// Two of the largest common frames: so much stays with each datagram link that has passed packets on.
const ARENA_BYTES: usize = 4096;
/// Kind, counter and MAC before a packet on a datagram link.
const GUARD_LEN: usize = 1 + 8 + 8;
/// Bytes of a packet that the MAC covers: any header but the longest.
const GUARDED_BYTES: usize = 256;
/// A handshake is one round trip; who needs longer is not there.
const HANDSHAKE_MAX: Duration = Duration::from_secs(5);
/// HELLO and LINK_ACK go again that often on a link that loses frames.
const HELLO_AGAIN: Duration = Duration::from_millis(250);
/// An idle link is asked for a sign of life: two exchanges a minute, some 450 bytes with TCP and IPv6 around them.
const IDLE_MAX: Duration = Duration::from_secs(28);
/// See [`Link::idle_max`].
const IDLE_MAX_AGAIN: Duration = Duration::from_secs(32);
/// A ping that the driver cannot even send.
const STUCK_MAX: Duration = Duration::from_secs(10);
/// A peer that owes a frame for that long is asked.
const PING_AFTER: Duration = Duration::from_millis(100);
/// And again.
const PING_AGAIN: Duration = Duration::from_millis(400);
/// A peer that owes a frame for that long is passed over in forwarding.
const LATE_AFTER: Duration = Duration::from_millis(250);
/// For that long (or three round trips), and nothing hangs on it in the trees until it is heard again: two pings were not
/// answered, and a third goes.
const SILENT_AFTER: Duration = Duration::from_millis(900);
/// The same where others have left it already: one ping, and the second just sent.
const SILENT_DOUBTED: Duration = Duration::from_millis(400);
/// And for that long (or four round trips, if they take longer) it is dead.
const DEAD_AFTER: Duration = Duration::from_millis(1500);
/// The slowest link whose largest frame must not pass for death.
const SLOWEST_BITS_PER_SECOND: u64 = 1_000_000;
