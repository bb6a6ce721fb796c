//! A peer that lies: a bare `Router` over a TCP connection of its own, which seals what no TUN would let through.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv6Addr, TcpStream};
use std::time::{Duration, Instant};

use bytes::Bytes;
use router::crypto::SecretKey;
use router::net::OsEntropy;
use router::{Boot, Channel, Command, Config, Event, LinkId, LinkKind, LinkSpec, NodeId, Role, Router};

/// `MG_SPOOF` is "address key": sends packets from an address that is not the sender's until told to stop.
pub(crate) fn main() {
    let Ok(words) = std::env::var("MG_SPOOF") else { return };
    let (address, key) = words.split_once(' ').unwrap();
    let to: NodeId = key.parse().unwrap();
    let start = Instant::now();
    let now = || router::Instant::from_micros(1_000_000 + start.elapsed().as_micros() as u64);
    let secret = SecretKey::from_seed([66; 32]);
    let boot = Boot::first(2_000_000_000_000);
    let mut router = Router::new(secret, Config::default(), boot, Box::new(OsEntropy), now());
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    let link = LinkId(1);
    router.handle_link(link, LinkSpec::new(LinkKind::Stream, Role::Dialer), now());

    let (mut buffer, mut chunk) = (Vec::new(), [0; 65_536]);
    let (mut sent, mut session) = (0, false);
    while start.elapsed() < Duration::from_secs(5) {
        router.handle_timeout(now());
        let payload = packet(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 7), to.address());
        router.handle_command(Command::Send { to, channel: Channel::Ip, payload }, now());
        sent += 1;
        while let Some(event) = router.poll_event() {
            session |= matches!(event, Event::SessionUp { .. });
            assert!(!matches!(event, Event::LinkClose { .. }), "{event:?}");
        }
        while router.poll_link().is_some() {}
        while let Some(frame) = router.poll_transmit(link, now()) {
            stream.write_all(&(frame.len() as u16).to_be_bytes()).unwrap();
            stream.write_all(&frame).unwrap();
        }
        match stream.read(&mut chunk) {
            Ok(0) => panic!("the other side closed"),
            Ok(read) => buffer.extend_from_slice(&chunk[..read]),
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(e) => panic!("{e}"),
        }
        while let Some((prefix, rest)) = buffer.split_first_chunk::<2>()
            && let Some(frame) = rest.get(..usize::from(u16::from_be_bytes(*prefix)))
        {
            router.handle_frame(link, frame, now());
            buffer.drain(..2 + frame.len());
        }
        if session && sent > 50 {
            return;
        }
    }
    panic!("no session");
}

fn packet(from: Ipv6Addr, to: Ipv6Addr) -> Bytes {
    let mut packet = vec![0x60, 0, 0, 0, 0, 8, 59, 64];
    packet.extend(from.octets());
    packet.extend(to.octets());
    packet.extend([0; 8]);
    packet.into()
}
