//! A peer that takes part in everything and passes nothing on: a bare `Router` over TCP connections of its own, which never sees
//! the packets that are for others.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use router::crypto::SecretKey;
use router::net::OsEntropy;
use router::wire::{DataS, DataT, kind};
use router::{Boot, Config, LinkId, LinkKind, LinkSpec, Role, Router, Sid};

/// `MG_DROPPER` is a list of addresses to dial; it runs until it is killed.
pub(crate) fn main() {
    let Ok(words) = std::env::var("MG_DROPPER") else { return };
    let start = Instant::now();
    let now = || router::Instant::from_micros(1_000_000 + start.elapsed().as_micros() as u64);
    let secret = SecretKey::from_seed([67; 32]);
    let me = secret.id().sid();
    let boot = Boot::first(2_000_000_000_000);
    let mut router = Router::new(secret, Config::default(), boot, Box::new(OsEntropy), now());
    let (tell, frames) = channel();
    let mut streams = Vec::new();
    for (number, address) in words.split(' ').enumerate() {
        let mut stream = TcpStream::connect(address).unwrap();
        streams.push(stream.try_clone().unwrap());
        let tell = tell.clone();
        std::thread::spawn(move || {
            let mut prefix = [0; 2];
            while stream.read_exact(&mut prefix).is_ok() {
                let mut frame = vec![0; usize::from(u16::from_be_bytes(prefix))];
                if stream.read_exact(&mut frame).is_err() || tell.send((number, frame)).is_err() {
                    return;
                }
            }
        });
        router.handle_link(link(number), LinkSpec::new(LinkKind::Stream, Role::Dialer), now());
    }
    loop {
        while router.poll_event().is_some() {}
        while let Some(to) = router.poll_link() {
            while let Some(frame) = router.poll_transmit(to, now()) {
                let mut bytes = (frame.len() as u16).to_be_bytes().to_vec();
                bytes.extend_from_slice(&frame);
                // Whoever has closed is silent from then on.
                let _ = streams[to.0 as usize - 1].write_all(&bytes);
            }
        }
        let wait = router.poll_timeout().map_or(Duration::from_secs(1), |at| at - now());
        match frames.recv_timeout(wait.max(Duration::from_millis(1))) {
            Ok((from, frame)) if !is_for_others(&frame, me) => router.handle_frame(link(from), &frame, now()),
            Ok(_) => {}
            Err(RecvTimeoutError::Timeout) => router.handle_timeout(now()),
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

fn link(number: usize) -> LinkId {
    LinkId(number as u64 + 1)
}

fn is_for_others(frame: &[u8], me: Sid) -> bool {
    match frame.first() {
        Some(&kind::DATA_T) => DataT::decode(frame).is_ok_and(|packet| packet.dst != me),
        Some(&kind::DATA_S) => DataS::decode(frame).is_ok_and(|packet| !packet.ports.is_empty()),
        _ => false,
    }
}
