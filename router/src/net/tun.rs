//! The TUN: IPv6 packets of any program on this host, to and from keys.
//!
//! The interface carries the node's address (/128) and the route to fd00::/8. A packet out must come from that
//! address: nothing else could be answered. That a packet in comes from the address of the key that sealed it is for
//! the router to see, which drops and counts all others.

use std::fs::File;
use std::io::{self, IoSlice, Read as _, Write as _};
use std::net::Ipv6Addr;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use tokio::io::unix::AsyncFd;

use super::interfaces;
use super::netlink::{Netlink, Sizes};
use super::paths::TUN_MTU;
use super::segments::{Joiner, VNET_BYTES, cut};
use super::stats::Counters;
use super::sys;
use crate::config::MTU_MIN;
use crate::id::NodeId;

/// Packets larger than this do not fit every path: they go only where a probe has shown that they arrive.
const MTU: u32 = MTU_MIN as u32;
/// What may come from a destination that knows that we take it, and go where it has been shown.
const LARGEST: u32 = TUN_MTU as u32;
/// Largest read: a super-segment with its headers.
const READ_MAX: usize = VNET_BYTES + HEADER + (64 << 10);
/// Bytes read in one turn of the loop, before anything is written: more would only make others wait.
const TURN_BYTES: usize = 128 << 10;
const HEADER: usize = 40;
/// Every key's address is in here.
const OVERLAY: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0);
const OVERLAY_PREFIX: u8 = 8;

/// An open TUN interface; closing it removes it.
#[derive(Debug)]
pub(crate) struct Tun {
    fd: AsyncFd<File>,
    own: Ipv6Addr,
    index: u32,
    netlink: Netlink,
    buffer: Box<[u8]>,
    /// Where super-segments are cut.
    room: BytesMut,
    joiner: Joiner,
}

impl Tun {
    /// Makes the interface, with address and route.
    pub(crate) fn open(name: &str, id: NodeId) -> io::Result<Self> {
        let fd = sys::open_tun(name)?;
        let index = interfaces::index(name)
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the new interface is not there"))?;
        // Hosts that switch IPv6 off by default mean their cables; and nobody on a TUN hears link-local chatter.
        // Where these cannot be written the next steps say what does not work.
        for (setting, value) in [("disable_ipv6", "0"), ("addr_gen_mode", "1"), ("router_solicitations", "0")]
        {
            let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/{name}/{setting}"), value);
        }
        let own = id.address();
        let mut netlink = Netlink::open()?;
        netlink.up(index, LARGEST)?;
        netlink.address(index, own, 128)?;
        netlink.route(index, OVERLAY, OVERLAY_PREFIX, own, Sizes { mtu: MTU, largest: LARGEST })?;
        let buffer = vec![0; READ_MAX].into_boxed_slice();
        let (fd, joiner) = (sys::watch(fd)?, Joiner::default());
        Ok(Self { fd, own, index, netlink, buffer, room: BytesMut::new(), joiner })
    }

    /// Has the kernel send packets of that size to an address of the overlay; with 1280, as to all others.
    pub(crate) fn set_path(&mut self, to: Ipv6Addr, mtu: usize) {
        let set = if mtu > MTU_MIN {
            self.netlink.route(self.index, to, 128, self.own, Sizes { mtu: mtu as u32, largest: LARGEST })
        } else {
            self.netlink.remove_route(self.index, to, 128)
        };
        if let Err(error) = set {
            // Without it packets stay small, or are answered with Packet Too Big.
            tracing::debug!(%error, %to, mtu, "the size of packets to that address cannot be set");
        }
    }

    /// Answers a packet of this host that is too large for its way.
    pub(crate) fn refuse(&mut self, answer: Vec<u8>, counters: &Counters) {
        counters.tun_too_big.add(1);
        self.write(answer.into(), counters);
    }

    /// Reads what there is, up to the bytes of a turn, and hands on what is for some key. True: there may be more.
    pub(crate) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        counters: &Counters,
        mut packet: impl FnMut(Ipv6Addr, Bytes),
    ) -> io::Result<bool> {
        let (mut packets, mut bytes, mut foreign) = (0, 0, 0);
        let result = loop {
            if bytes >= TURN_BYTES {
                break Ok(true);
            }
            let mut ready = match self.fd.poll_read_ready(cx) {
                Poll::Pending => break Ok(false),
                Poll::Ready(ready) => ready?,
            };
            // Until it would block: the readiness stays, so this costs one call a packet.
            while bytes < TURN_BYTES {
                match ready.try_io(|fd| fd.get_ref().read(&mut self.buffer)) {
                    Err(_would_block) => break,
                    Ok(Err(e)) if e.kind() == io::ErrorKind::Interrupted => {}
                    Ok(Err(e)) => return Err(e),
                    Ok(Ok(read)) => {
                        bytes += read;
                        let told = cut(&mut self.buffer[..read], &mut self.room, |one| {
                            packets += 1;
                            match outbound(&one, self.own) {
                                Some(to) => packet(to, one),
                                None => foreign += 1,
                            }
                        });
                        foreign += u64::from(!told);
                    }
                }
            }
        };
        counters.tun_packets_in.add(packets);
        counters.tun_bytes_in.add(bytes as u64);
        counters.tun_foreign.add(foreign);
        result
    }

    /// Gives a packet to the kernel if it is one, and for this node; perhaps only with [`Self::flush`].
    pub(crate) fn write(&mut self, packet: Bytes, counters: &Counters) {
        if !is_inbound(&packet, self.own) {
            return counters.tun_malformed.add(1);
        }
        let fd = self.fd.get_ref();
        self.joiner.push(packet, |pieces, packets| write(fd, pieces, packets, counters));
    }

    /// The turn is over: what waits for more of its flow waits no longer.
    pub(crate) fn flush(&mut self, counters: &Counters) {
        let fd = self.fd.get_ref();
        self.joiner.flush(|pieces, packets| write(fd, pieces, packets, counters));
    }
}

fn write(mut fd: &File, pieces: &[IoSlice<'_>], packets: usize, counters: &Counters) {
    match fd.write_vectored(pieces) {
        Ok(written) => {
            counters.tun_packets_out.add(packets as u64);
            counters.tun_bytes_out.add(written as u64);
        }
        Err(_) => counters.tun_refused.add(packets as u64),
    }
}

/// Source and destination of an IPv6 packet.
fn addresses(packet: &[u8]) -> Option<(Ipv6Addr, Ipv6Addr)> {
    let header = packet.first_chunk::<HEADER>()?;
    let address = |at: usize| Ipv6Addr::from(*header[at..].first_chunk::<16>().expect("within the header"));
    (header[0] >> 4 == 6).then(|| (address(8), address(24)))
}

/// Whom a packet of this host is for, if it can be for any key.
fn outbound(packet: &[u8], own: Ipv6Addr) -> Option<Ipv6Addr> {
    let (source, to) = addresses(packet)?;
    (source == own && to != own && to.octets()[0] == OVERLAY.octets()[0]).then_some(to)
}

/// Whether a packet from the overlay is whole and for this node.
fn is_inbound(packet: &[u8], own: Ipv6Addr) -> bool {
    let to_own = addresses(packet).is_some_and(|(_, to)| to == own);
    to_own && HEADER + usize::from(u16::from_be_bytes([packet[4], packet[5]])) == packet.len()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn packet(from: Ipv6Addr, to: Ipv6Addr, payload: usize) -> Vec<u8> {
        let mut packet = vec![0x60, 0, 0, 0, (payload >> 8) as u8, payload as u8, 59, 64];
        packet.extend(from.octets());
        packet.extend(to.octets());
        packet.resize(HEADER + payload, 0);
        packet
    }

    #[test]
    fn only_packets_between_keys_pass() {
        let own = NodeId::from_bytes([1; 32]).address();
        let other = NodeId::from_bytes([2; 32]).address();
        let third = NodeId::from_bytes([3; 32]).address();
        assert_eq!(outbound(&packet(own, other, 100), own), Some(other));
        assert_eq!(outbound(&packet(third, other, 100), own), None);
        assert_eq!(outbound(&packet(own, "2001:db8::1".parse().unwrap(), 100), own), None);
        assert_eq!(outbound(&packet(own, own, 100), own), None);
        assert!(is_inbound(&packet(other, own, 1240), own));
        assert!(!is_inbound(&packet(other, third, 10), own));
        assert!(!is_inbound(&packet(other, own, 10)[..49], own));
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let own = NodeId::from_bytes([1; 32]).address();
            prop_assert_eq!(outbound(&bytes, own), None);
            prop_assert!(!is_inbound(&bytes, own));
        }
    }
}
