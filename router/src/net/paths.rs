//! Owns what is known of the sizes that destinations of the TUN take. Every way takes 1280 bytes; more is said by source routes,
//! and believed once a probe of that size has come back. The kernel learns it as a route of its own for the address, so
//! that programs send larger packets by themselves; where one sends too much all the same it is told (ICMPv6, Packet Too Big).

use std::collections::HashMap;
use std::net::Ipv6Addr;
use std::time::Duration;

use crate::config::MTU_MIN;
use crate::id::NodeId;
use crate::time::Instant;

/// The largest packet of any destination: what source routes take at most, and so the interface's MTU.
pub(crate) const TUN_MTU: usize = 16 * 1024;
/// Destinations that are looked after; the one that was used longest ago gives way and gets packets of 1280 bytes.
const KNOWN_MAX: usize = 512;
/// While packets go to a destination its ways are looked at that often.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A probe that was lost is tried again after that long.
const ASK_AGAIN: Duration = Duration::from_secs(30);
/// A few bytes more are not worth a probe and a route.
const WORTH: usize = 128;

/// All destinations.
#[derive(Debug, Default)]
pub(crate) struct Paths {
    known: HashMap<Ipv6Addr, Path>,
}

#[derive(Debug)]
struct Path {
    proven: usize,
    /// The probe under way: its number, and its size.
    asked: Option<(u64, usize)>,
    ask_after: Instant,
    look_at: Instant,
    used_at: Instant,
}

/// What is to be done about a destination.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Advice {
    /// The kernel shall send packets of that size, or, with 1280, of the size of all others.
    pub(crate) set: Option<usize>,
    /// A packet of that size shall find out whether it arrives.
    pub(crate) probe: Option<usize>,
}

impl Paths {
    /// A packet goes there: `Err` says what it may have at most. With `true` the destination's ways should be looked at.
    pub(crate) fn sent(&mut self, to: Ipv6Addr, bytes: usize, now: Instant) -> Result<bool, usize> {
        let path = self.known.entry(to).or_insert(Path {
            proven: MTU_MIN,
            asked: None,
            ask_after: now,
            look_at: now,
            used_at: now,
        });
        path.used_at = now;
        if bytes > path.proven {
            return Err(path.proven);
        }
        let look = now >= path.look_at;
        if look {
            path.look_at = now + LOOK_EVERY;
        }
        Ok(look)
    }

    /// The ways to a destination take packets of that size.
    pub(crate) fn look(&mut self, to: Ipv6Addr, able: usize, now: Instant) -> Advice {
        let Some(path) = self.known.get_mut(&to) else { return Advice::default() };
        let able = able.min(TUN_MTU);
        if able < path.proven {
            path.proven = able.max(MTU_MIN);
            return Advice { set: Some(path.proven), probe: None };
        }
        let more = able >= path.proven + WORTH && path.asked.is_none() && now >= path.ask_after;
        Advice { set: None, probe: more.then_some(able) }
    }

    /// A probe of that size is on its way.
    pub(crate) fn asked(&mut self, to: Ipv6Addr, id: u64, bytes: usize, now: Instant) {
        if let Some(path) = self.known.get_mut(&to) {
            path.asked = Some((id, bytes));
            path.ask_after = now + ASK_AGAIN;
        }
    }

    /// A probe has come back, or has not. Gives the destination and its new size, if it has one.
    pub(crate) fn answered(&mut self, id: u64, arrived: bool) -> Option<(Ipv6Addr, usize)> {
        let asked = |path: &Path| path.asked.is_some_and(|(number, _)| number == id);
        let (to, path) = self.known.iter_mut().find(|(_, path)| asked(path))?;
        let (_, bytes) = path.asked.take()?;
        if !arrived || bytes <= path.proven {
            return None;
        }
        path.proven = bytes;
        Some((*to, bytes))
    }

    /// Is it a destination of the TUN?
    pub(crate) fn holds(&self, node: &NodeId) -> bool {
        self.known.contains_key(&node.address())
    }

    /// Those that have to give way; the kernel shall send packets of 1280 bytes there.
    pub(crate) fn crowd(&mut self) -> Vec<Ipv6Addr> {
        let mut gone = Vec::new();
        while self.known.len() > KNOWN_MAX {
            let oldest = self.known.iter().min_by_key(|(to, path)| (path.used_at, **to)).map(|(to, _)| *to);
            let Some(to) = oldest else { break };
            if self.known.remove(&to).is_some_and(|path| path.proven > MTU_MIN) {
                gone.push(to);
            }
        }
        gone
    }
}

/// The answer of a router (RFC 4443, 3.2) to a packet that is larger than that, as if the destination had given it.
pub(crate) fn too_big(packet: &[u8], mtu: usize) -> Option<Vec<u8>> {
    let (source, to) = (packet.get(8..24)?, packet.get(24..40)?);
    // Never about an error: ICMPv6 types below 128 are errors.
    if packet[6] == ICMP6 && packet.get(40).is_none_or(|kind| *kind < 128) {
        return None;
    }
    let quoted = &packet[..packet.len().min(MTU_MIN - 48)];
    let length = (8 + quoted.len()) as u16;
    let mut answer = vec![0x60, 0, 0, 0];
    answer.extend(length.to_be_bytes());
    answer.extend([ICMP6, HOPS]);
    answer.extend(to);
    answer.extend(source);
    answer.extend([PACKET_TOO_BIG, 0, 0, 0]);
    answer.extend((mtu as u32).to_be_bytes());
    answer.extend(quoted);
    let sum = checksum(&answer);
    answer[42..44].copy_from_slice(&sum);
    Some(answer)
}

/// Over the pseudo header and all behind the IPv6 header.
fn checksum(packet: &[u8]) -> [u8; 2] {
    let words = |bytes: &[u8]| {
        bytes
            .chunks(2)
            .map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)))
            .sum::<u32>()
    };
    let mut sum = words(&packet[8..]) + (packet.len() - 40) as u32 + u32::from(ICMP6);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!(sum as u16)).to_be_bytes()
}

const ICMP6: u8 = 58;
const PACKET_TOO_BIG: u8 = 2;
const HOPS: u8 = 64;

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Instant = Instant::from_micros(1_000_000);

    fn address(n: u16) -> Ipv6Addr {
        Ipv6Addr::new(0xfd00, n, 0, 0, 0, 0, 0, 1)
    }

    #[test]
    fn more_than_every_way_takes_goes_only_after_a_probe_has_come_back() {
        let mut paths = Paths::default();
        let to = address(1);
        assert_eq!(paths.sent(to, 1280, NOW), Ok(true));
        assert_eq!(paths.sent(to, 1280, NOW), Ok(false), "not at every packet");
        assert_eq!(paths.sent(to, 1281, NOW), Err(1280));
        assert_eq!(paths.look(to, 1300, NOW), Advice::default(), "not worth it");
        assert_eq!(paths.look(to, 60_000, NOW), Advice { set: None, probe: Some(TUN_MTU) });
        paths.asked(to, 7, TUN_MTU, NOW);
        assert_eq!(paths.look(to, 60_000, NOW), Advice::default(), "one at a time");
        assert_eq!(paths.sent(to, 1281, NOW), Err(1280));
        assert_eq!(paths.answered(8, true), None);
        assert_eq!(paths.answered(7, true), Some((to, TUN_MTU)));
        assert_eq!(paths.sent(to, TUN_MTU, NOW), Ok(false));
    }

    #[test]
    fn less_counts_at_once_and_a_lost_probe_is_repeated_after_a_while() {
        let mut paths = Paths::default();
        let to = address(1);
        paths.sent(to, 100, NOW).unwrap();
        paths.asked(to, 1, 9000, NOW);
        assert_eq!(paths.answered(1, false), None);
        assert_eq!(paths.look(to, 9000, NOW), Advice::default());
        assert_eq!(paths.look(to, 9000, NOW + ASK_AGAIN).probe, Some(9000));
        paths.asked(to, 2, 9000, NOW + ASK_AGAIN);
        paths.answered(2, true).unwrap();
        assert_eq!(paths.look(to, 4000, NOW).set, Some(4000));
        assert_eq!(paths.look(to, 100, NOW).set, Some(1280), "never below that");
        assert_eq!(paths.sent(to, 1281, NOW), Err(1280));
    }

    #[test]
    fn destinations_are_bounded() {
        let mut paths = Paths::default();
        for n in 0..2000 {
            let now = NOW + Duration::from_secs(n.into());
            paths.sent(address(n), 100, now).unwrap();
            paths.asked(address(n), n.into(), 5000, now);
            paths.answered(n.into(), true).unwrap();
            let gone = paths.crowd();
            assert_eq!(gone.len(), usize::from(usize::from(n) >= KNOWN_MAX));
        }
        assert_eq!(paths.known.len(), KNOWN_MAX);
    }

    #[test]
    fn the_answer_says_the_size_quotes_the_packet_and_adds_up() {
        let mut packet = vec![0x60, 0, 0, 0, 0x10, 0, 17, 64];
        packet.extend(address(1).octets());
        packet.extend(address(2).octets());
        packet.resize(40 + 4096, 9);
        let answer = too_big(&packet, 1280).unwrap();
        assert_eq!(answer.len(), 1280);
        assert_eq!((&answer[8..24], &answer[24..40]), (&packet[24..40], &packet[8..24]));
        assert_eq!((&answer[40..42], &answer[44..48]), (&[2, 0][..], &1280u32.to_be_bytes()[..]));
        assert_eq!(answer[48..], packet[..1232]);
        assert_eq!(checksum(&answer), [0, 0], "with its own sum in it");
        packet[6] = ICMP6;
        packet[40] = 2;
        assert_eq!(too_big(&packet, 1280), None, "no error about an error");
        assert_eq!(too_big(&packet[..30], 1280), None);
    }
}
