//! Keeps a link to each configured neighbour: dials, waits until the link ends, dials again.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpStream, lookup_host};
use tokio::time::{Instant, sleep, timeout};

use super::interfaces;
use super::links::LinkMaker;
use super::tcp::canonical;
use super::uri::{Host, PeerUri};
use crate::config::{LinkKind, LinkSpec, Role};
use crate::error::LinkError;

/// A neighbour that was killed and started again should be back at once.
const DELAY_FIRST: Duration = Duration::from_millis(100);
/// For this long after a loss a neighbour is tried about every second: most come back (a restart, a cable).
const QUICK_FOR: Duration = Duration::from_secs(60);
const DELAY_QUICK: Duration = Duration::from_millis(800);
/// The longest pause; a change of this host's addresses ends any pause.
const DELAY_MAX: Duration = Duration::from_secs(60);
/// After an answer that will not change by itself: a wrong key or password, another protocol.
const DELAY_REFUSED: Duration = Duration::from_secs(30);
/// A connection takes one round trip, or a lost packet and one second more.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Addresses of one name that are tried in turn.
const ADDRESSES_MAX: usize = 8;

/// Pauses between attempts: quick while a return is likely, then ever slower.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    attempts: u32,
    since: Option<Instant>,
}

impl Backoff {
    /// The link was up, or the world has changed: quick again.
    pub(crate) fn reset(&mut self) {
        *self = Self::default();
    }

    /// The pause before the next attempt.
    pub(crate) fn next(&mut self, now: Instant) -> Duration {
        let since = *self.since.get_or_insert(now);
        let quick = now - since < QUICK_FOR;
        let delay = DELAY_FIRST.saturating_mul(1 << self.attempts.min(16));
        self.attempts += 1;
        if quick {
            // Counted on from here when the quick time is over: 1.6 s, 3.2 s ..
            self.attempts = self.attempts.min(4);
            return delay.min(DELAY_QUICK);
        }
        delay.min(DELAY_MAX)
    }
}

/// Keeps a link to a neighbour until the task is aborted.
pub(crate) async fn keep(peer: PeerUri, mut maker: LinkMaker) {
    let mut backoff = Backoff::default();
    let mut told: Option<LinkError> = None;
    loop {
        let mut pause = None;
        match connect(&peer).await {
            Ok((stream, address)) => {
                let (_, end) = maker.link(stream, spec(&peer, address), Some(peer.clone())).await;
                let Ok(end) = end.await else { return };
                if end.node.is_some() {
                    backoff.reset();
                    told = None;
                }
                if is_final(end.reason) {
                    pause = Some(DELAY_REFUSED);
                    if told.replace(end.reason) != Some(end.reason) {
                        tracing::warn!(peer = %peer, reason = %end.reason, "a configured peer cannot be linked to");
                    }
                } else {
                    tracing::debug!(peer = %peer, reason = %end.reason, "link ended");
                }
            }
            Err(error) => {
                maker.counters().dials_failed.add(1);
                tracing::debug!(peer = %peer, %error, "cannot connect");
            }
        }
        let pause = pause.unwrap_or_else(|| backoff.next(Instant::now()));
        tokio::select! {
            () = sleep(jitter(pause)) => {}
            changed = maker.interfaces.changed() => {
                if changed.is_err() {
                    return;
                }
                backoff.reset();
            }
        }
    }
}

fn spec(peer: &PeerUri, address: SocketAddr) -> LinkSpec {
    LinkSpec {
        expect: peer.key,
        password: peer.password.clone(),
        cost: peer.cost,
        remote: format!("tcp://{}", canonical(address)),
        interface: match &peer.host {
            Host::V6(_, zone) => zone.clone(),
            _ => None,
        },
        ..LinkSpec::new(LinkKind::Stream, Role::Dialer)
    }
}

/// Whether trying again soon is of no use.
fn is_final(reason: LinkError) -> bool {
    use LinkError as E;
    matches!(
        reason,
        E::NotOurProtocol
            | E::Version { .. }
            | E::BadProof
            | E::WrongKey
            | E::WrongPassword
            | E::NotAllowed
            | E::SelfConnection
    )
}

async fn connect(peer: &PeerUri) -> io::Result<(TcpStream, SocketAddr)> {
    let addresses = match &peer.host {
        Host::Name(name) => {
            let found = timeout(CONNECT_TIMEOUT, lookup_host((name.as_str(), peer.port))).await??;
            found.take(ADDRESSES_MAX).collect()
        }
        literal => vec![literal.literal(peer.port, interfaces::index).ok_or_else(|| {
            io::Error::new(io::ErrorKind::NotFound, format!("no interface as in {literal}"))
        })?],
    };
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in addresses {
        match dial(address).await {
            Ok(stream) => return Ok((stream, address)),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// One attempt at one address.
pub(crate) async fn dial(address: SocketAddr) -> io::Result<TcpStream> {
    timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await?
}

/// Up to a quarter more or less, so that those who lost the same neighbour do not all come back at once.
pub(crate) fn jitter(delay: Duration) -> Duration {
    let mut random = [0; 2];
    // No randomness, no jitter: the delay itself is right as well.
    let _ = getrandom::fill(&mut random);
    delay.mul_f64(0.75 + f64::from(u16::from_be_bytes(random)) / f64::from(u16::MAX) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_only_after_the_quick_time() {
        let start = Instant::now();
        let mut backoff = Backoff::default();
        let mut now = start;
        let mut attempts = 0;
        while now - start < QUICK_FOR {
            let pause = backoff.next(now);
            assert!(pause <= DELAY_QUICK);
            now += pause;
            attempts += 1;
        }
        assert!((70..90).contains(&attempts), "{attempts}");
        let slow: Vec<_> = (0..8).map(|_| backoff.next(now).as_millis()).collect();
        assert_eq!(slow, [1600, 3200, 6400, 12_800, 25_600, 51_200, 60_000, 60_000]);
        backoff.reset();
        assert_eq!(backoff.next(now), DELAY_FIRST);
    }

    #[test]
    fn jitter_is_a_quarter() {
        for _ in 0..100 {
            let delay = jitter(Duration::from_millis(1000)).as_millis();
            assert!((750..=1250).contains(&delay), "{delay}");
        }
    }
}
