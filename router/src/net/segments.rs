//! Owns what the kernel and the TUN hand each other in place of single packets: TCP super-segments of up to 64 KiB, each
//! behind a virtio header of 10 bytes. They are cut into plain packets on the way out and joined again on the way in,
//! so nothing of them is ever seen by another node, and no header of another node by the kernel.
//!
//! ```text
//! 0  1  flags: 1 = the checksum is to be completed     4  2  bytes of each segment's payload
//! 1  1  kind: 0 = one packet, 4 = TCP over IPv6        6  2  where the checksum begins
//! 2  2  bytes of headers                               8  2  where it goes, from there        (all in host order)
//! ```

use std::io::IoSlice;

use bytes::{Bytes, BytesMut};

/// Bytes of the header.
pub(crate) const VNET_BYTES: usize = 10;
/// The header of a packet that is what it is.
const PLAIN: [u8; VNET_BYTES] = [0; VNET_BYTES];
const NEEDS_CHECKSUM: u8 = 1;
const KIND_ONE: u8 = 0;
const KIND_TCP6: u8 = 4;
/// May be set beside the kind: the flow uses ECN.
const KIND_ECN: u8 = 0x80;

const IP_BYTES: usize = 40;
const TCP_BYTES_MIN: usize = 20;
/// IPv6 and TCP with all options that fit.
const HEADERS_MAX: usize = IP_BYTES + 60;
const PROTOCOL_TCP: u8 = 6;
const PROTOCOL_UDP: u8 = 17;
/// Where fields are, from the beginning of the IPv6 header.
const AT_LENGTH: usize = 4;
const AT_SEQ: usize = IP_BYTES + 4;
const AT_OFFSET: usize = IP_BYTES + 12;
const AT_FLAGS: usize = IP_BYTES + 13;
const AT_CHECKSUM: usize = IP_BYTES + 16;
const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
const ACK: u8 = 0x10;
const CWR: u8 = 0x80;

/// Segments that are joined at most: as many pieces as one write hands over.
const JOIN_MAX: usize = 64;
/// Payload of an IPv6 packet.
const JOIN_BYTES_MAX: usize = 65_535;
/// Smaller segments are not worth joining, and super-segments of tiny ones are a burden to kernels.
const SEGMENT_MIN: usize = 500;
/// Flows that are joined at one time; a turn of the loop rarely brings more large ones.
const FLOWS_MAX: usize = 4;

/// Hands on each packet that one read of the TUN holds. False: it holds none that can be told. The packets are made in
/// `room`, which is used again once they are gone.
pub(crate) fn cut(read: &mut [u8], room: &mut BytesMut, packet: impl FnMut(Bytes)) -> bool {
    let Some((head, data)) = read.split_first_chunk_mut::<VNET_BYTES>() else { return false };
    let half = |at: usize| usize::from(u16::from_ne_bytes([head[at], head[at + 1]]));
    match head[1] & !KIND_ECN {
        KIND_ONE => one(data, (head[0] & NEEDS_CHECKSUM != 0).then(|| (half(6), half(8))), packet),
        KIND_TCP6 => tcp(data, half(4), room, packet),
        _ => false,
    }
}

/// A single packet, whose checksum may lack the sum of what it covers.
fn one(data: &mut [u8], checksum: Option<(usize, usize)>, mut packet: impl FnMut(Bytes)) -> bool {
    if let Some((start, offset)) = checksum {
        let at = start + offset;
        let Some(field) = data.get(at..at + 2) else { return false };
        // What is there already is the sum of the pseudo header.
        let begun = Sum::default().add(field);
        data[at..at + 2].fill(0);
        let mut sum = begun.add(&data[start..]).complement();
        if sum == [0; 2] && data.get(6) == Some(&PROTOCOL_UDP) {
            sum = [0xff; 2]; // zero means "none" there
        }
        data[at..at + 2].copy_from_slice(&sum);
    }
    packet(Bytes::copy_from_slice(data));
    true
}

/// A super-segment of TCP, cut into packets with `size` bytes of payload.
fn tcp(data: &[u8], size: usize, room: &mut BytesMut, mut packet: impl FnMut(Bytes)) -> bool {
    let Some(headers) = tcp_headers(data).filter(|headers| size > 0 && *headers < data.len()) else {
        return false;
    };
    let payload = &data[headers..];
    let seq = u32::from_be_bytes(*data[AT_SEQ..].first_chunk().expect("within the headers"));
    let count = payload.len().div_ceil(size);
    room.reserve(count * headers + payload.len());
    for (i, piece) in payload.chunks(size).enumerate() {
        room.extend_from_slice(&data[..headers]);
        room.extend_from_slice(piece);
        let segment = &mut room[..];
        let length = (segment.len() - IP_BYTES) as u16;
        segment[AT_LENGTH..AT_LENGTH + 2].copy_from_slice(&length.to_be_bytes());
        let seq = seq.wrapping_add((i * size) as u32);
        segment[AT_SEQ..AT_SEQ + 4].copy_from_slice(&seq.to_be_bytes());
        if i + 1 < count {
            segment[AT_FLAGS] &= !(FIN | PSH);
        }
        if i > 0 {
            segment[AT_FLAGS] &= !CWR;
        }
        segment[AT_CHECKSUM..AT_CHECKSUM + 2].fill(0);
        let sum = pseudo_header(segment, length).add(&segment[IP_BYTES..]).complement();
        segment[AT_CHECKSUM..AT_CHECKSUM + 2].copy_from_slice(&sum);
        packet(room.split().freeze());
    }
    true
}

/// Bytes of the headers of a packet that is TCP right behind its IPv6 header.
fn tcp_headers(packet: &[u8]) -> Option<usize> {
    let whole = packet.len() >= IP_BYTES + TCP_BYTES_MIN && packet[0] >> 4 == 6 && packet[6] == PROTOCOL_TCP;
    let tcp = whole.then(|| usize::from(packet[AT_OFFSET] >> 4) * 4)?;
    (tcp >= TCP_BYTES_MIN && IP_BYTES + tcp <= packet.len()).then_some(IP_BYTES + tcp)
}

fn pseudo_header(packet: &[u8], length: u16) -> Sum {
    Sum::default().add(&packet[8..IP_BYTES]).add(&length.to_be_bytes()).add(&[0, PROTOCOL_TCP])
}

/// Joins packets that come one behind the other of a flow.
#[derive(Debug, Default)]
pub(crate) struct Joiner {
    flows: Vec<Flow>,
}

/// Segments that belong together.
#[derive(Debug)]
struct Flow {
    headers: usize,
    /// Payload of all segments but the last.
    size: usize,
    next_seq: u32,
    bytes: usize,
    /// Whole packets; the first one's headers are everybody's.
    packets: Vec<Bytes>,
}

impl Joiner {
    /// Takes a packet; what cannot wait is written, virtio header and all, with its number of packets.
    pub(crate) fn push(&mut self, packet: Bytes, mut write: impl FnMut(&[IoSlice<'_>], usize)) {
        let Some(headers) = tcp_headers(&packet) else { return write_one(&packet, &mut write) };
        let at = self.flows.iter().position(|flow| flow.is_of(&packet));
        if let Some(at) = at {
            if self.flows[at].takes(&packet, headers) {
                let whole = self.flows[at].append(packet);
                if whole {
                    self.flows.swap_remove(at).write(&mut write);
                }
                return;
            }
            // Whatever this is, it comes behind what waits.
            self.flows.swap_remove(at).write(&mut write);
        }
        let payload = packet.len() - headers;
        if payload < SEGMENT_MIN || packet[AT_FLAGS] != ACK {
            return write_one(&packet, &mut write);
        }
        if self.flows.len() == FLOWS_MAX {
            self.flows.remove(0).write(&mut write);
        }
        let seq = seq_of(&packet).wrapping_add(payload as u32);
        let flow = Flow { headers, size: payload, next_seq: seq, bytes: packet.len(), packets: vec![packet] };
        self.flows.push(flow);
    }

    /// Writes all that waits.
    pub(crate) fn flush(&mut self, mut write: impl FnMut(&[IoSlice<'_>], usize)) {
        self.flows.drain(..).for_each(|flow| flow.write(&mut write));
    }
}

impl Flow {
    fn first(&self) -> &[u8] {
        &self.packets[0]
    }

    /// Same addresses and ports.
    fn is_of(&self, packet: &[u8]) -> bool {
        self.first()[8..AT_SEQ] == packet[8..AT_SEQ]
    }

    /// Whether the packet is the next segment, and its headers say nothing else.
    fn takes(&self, packet: &[u8], headers: usize) -> bool {
        let first = self.first();
        let same = |from: usize, to: usize| first[from..to] == packet[from..to];
        let payload = packet.len() - headers;
        headers == self.headers
            && payload > 0
            && payload <= self.size
            && self.bytes + payload - IP_BYTES <= JOIN_BYTES_MAX
            && seq_of(packet) == self.next_seq
            && packet[AT_FLAGS] & !PSH == ACK
            && same(0, AT_LENGTH)
            && same(AT_LENGTH + 2, 8)
            && same(AT_SEQ + 4, AT_FLAGS)
            && same(AT_FLAGS + 1, AT_CHECKSUM)
            && same(AT_CHECKSUM + 2, headers)
    }

    /// True: nothing can follow.
    fn append(&mut self, packet: Bytes) -> bool {
        let payload = packet.len() - self.headers;
        let last = payload < self.size || packet[AT_FLAGS] & PSH != 0 || self.packets.len() + 1 == JOIN_MAX;
        self.next_seq = self.next_seq.wrapping_add(payload as u32);
        self.bytes += payload;
        self.packets.push(packet);
        last
    }

    fn write(self, write: &mut impl FnMut(&[IoSlice<'_>], usize)) {
        if self.packets.len() == 1 {
            return write_one(self.first(), write);
        }
        let mut head = [0; VNET_BYTES + HEADERS_MAX];
        let (vnet, headers) = head[..VNET_BYTES + self.headers].split_at_mut(VNET_BYTES);
        (vnet[0], vnet[1]) = (NEEDS_CHECKSUM, KIND_TCP6);
        let fields = [self.headers, self.size, IP_BYTES, AT_CHECKSUM - IP_BYTES];
        for (field, value) in vnet[2..].chunks_exact_mut(2).zip(fields) {
            field.copy_from_slice(&(value as u16).to_ne_bytes());
        }
        headers.copy_from_slice(&self.first()[..self.headers]);
        let length = (self.bytes - IP_BYTES) as u16;
        headers[AT_LENGTH..AT_LENGTH + 2].copy_from_slice(&length.to_be_bytes());
        let last = self.packets.last().expect("a flow has packets");
        headers[AT_FLAGS] |= last[AT_FLAGS] & PSH;
        let sum = pseudo_header(headers, length).fold();
        headers[AT_CHECKSUM..AT_CHECKSUM + 2].copy_from_slice(&sum);
        let mut pieces = [IoSlice::new(&[]); 1 + JOIN_MAX];
        pieces[0] = IoSlice::new(&head[..VNET_BYTES + self.headers]);
        for (piece, packet) in pieces[1..].iter_mut().zip(&self.packets) {
            *piece = IoSlice::new(&packet[self.headers..]);
        }
        write(&pieces[..=self.packets.len()], self.packets.len());
    }
}

fn write_one(packet: &[u8], write: &mut impl FnMut(&[IoSlice<'_>], usize)) {
    write(&[IoSlice::new(&PLAIN), IoSlice::new(packet)], 1);
}

fn seq_of(packet: &[u8]) -> u32 {
    u32::from_be_bytes(*packet[AT_SEQ..].first_chunk().expect("TCP headers are there"))
}

/// The Internet checksum (RFC 1071), in host order until it is stored.
#[derive(Clone, Copy, Debug, Default)]
struct Sum(u64);

impl Sum {
    /// Adds bytes that begin at an even place.
    fn add(self, bytes: &[u8]) -> Self {
        let mut words = bytes.chunks_exact(4);
        let mut sum = self.0;
        for word in &mut words {
            sum += u64::from(u32::from_ne_bytes(*word.first_chunk().expect("four bytes")));
        }
        let rest = words.remainder();
        let mut last = [0; 4];
        last[..rest.len()].copy_from_slice(rest);
        Self(sum + u64::from(u32::from_ne_bytes(last)))
    }

    fn fold(self) -> [u8; 2] {
        let mut sum = self.0;
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        (sum as u16).to_ne_bytes()
    }

    fn complement(self) -> [u8; 2] {
        self.fold().map(|byte| !byte)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What the kernel would give for that payload: headers with 12 bytes of options, flags as said.
    fn super_segment(payload: &[u8], size: u16, flags: u8) -> Vec<u8> {
        let mut read = vec![NEEDS_CHECKSUM, KIND_TCP6];
        for field in [72, size, 40, 16] {
            read.extend(field.to_ne_bytes());
        }
        read.extend([0x60, 1, 2, 3, 0, 0, PROTOCOL_TCP, 64]);
        read.extend([0xfd; 16]);
        read.extend([0xfc; 16]);
        read.extend([0, 80, 1, 2, 0xff, 0xff, 0xff, 0, 9, 9, 9, 9, 8 << 4, flags, 1, 1, 0, 0, 0, 0]);
        read.extend([1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8]);
        read.extend(payload);
        read
    }

    /// Sums up byte by byte, as the RFC says it.
    fn is_valid(packet: &[u8]) -> bool {
        let mut sum = (packet.len() - IP_BYTES) as u32 + u32::from(packet[6]);
        for (i, byte) in packet[8..].iter().enumerate() {
            sum += u32::from(*byte) << if i % 2 == 0 { 8 } else { 0 };
        }
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum == 0xffff && usize::from(u16::from_be_bytes([packet[4], packet[5]])) == packet.len() - IP_BYTES
    }

    fn cut_all(mut read: Vec<u8>) -> Vec<Bytes> {
        let mut packets = Vec::new();
        cut(&mut read, &mut BytesMut::new(), |packet| packets.push(packet));
        packets
    }

    fn join_all(packets: Vec<Bytes>) -> Vec<(Vec<u8>, usize)> {
        let (mut joiner, mut written) = (Joiner::default(), Vec::new());
        let mut write = |pieces: &[IoSlice<'_>], count: usize| {
            written.push((pieces.iter().flat_map(|p| p.iter().copied()).collect(), count));
        };
        packets.into_iter().for_each(|packet| joiner.push(packet, &mut write));
        joiner.flush(&mut write);
        written
    }

    #[test]
    fn a_super_segment_is_cut_into_valid_packets_and_joined_again() {
        let payload: Vec<u8> = (0..20_000u32).map(|i| (i * 7 / 3) as u8).collect();
        let packets = cut_all(super_segment(&payload, 1208, ACK | PSH | CWR));
        assert_eq!(packets.len(), 17);
        assert!(packets.iter().all(|packet| is_valid(packet) && packet.len() <= 1280));
        assert_eq!(packets[0][AT_FLAGS], ACK | CWR);
        assert_eq!(packets[1][AT_FLAGS], ACK);
        assert_eq!(packets[16][AT_FLAGS], ACK | PSH);
        assert_eq!(
            seq_of(&packets[1]),
            0xffff_ff00u32.wrapping_add(1208),
            "over the end of sequence numbers"
        );

        let packets = cut_all(super_segment(&payload, 1208, ACK | PSH));
        let written = join_all(packets);
        assert_eq!(written.len(), 1);
        let (whole, count) = &written[0];
        assert_eq!(*count, 17);
        assert_eq!(&whole[VNET_BYTES + 72..], &payload[..]);
        // What the kernel is given is what it would give: cut again it is the same.
        let again = cut_all(whole.clone());
        assert_eq!(again, cut_all(super_segment(&payload, 1208, ACK | PSH)));
    }

    #[test]
    fn only_what_belongs_together_is_joined() {
        let packets = |n: usize| cut_all(super_segment(&vec![5; 1208 * n], 1208, ACK));
        let counts =
            |packets: Vec<Bytes>| join_all(packets).iter().map(|(_, count)| *count).collect::<Vec<_>>();
        assert_eq!(counts(packets(3)), [3]);
        assert_eq!(counts(packets(70)[..54].to_vec()), [54]);
        assert_eq!(counts(packets(54).into_iter().chain(packets(1)).collect()), [54, 1]);
        let change = |at: usize, with: u8| {
            let mut all = packets(4);
            let mut changed = all[2].to_vec();
            changed[at] ^= with;
            all[2] = changed.into();
            counts(all)
        };
        // Another traffic class, hop limit, acknowledgement, window, option, or sequence number; SYN, RST, URG.
        for (at, with) in [(1, 1), (7, 1), (50, 1), (54, 1), (61, 1), (46, 1), (53, 2), (53, 4), (53, 32)] {
            let counts = change(at, with);
            assert!(counts.len() >= 2 && counts[0] == 2, "{at}: {counts:?}");
        }
        // A gap, a repetition.
        let all = packets(4);
        assert_eq!(counts(vec![all[0].clone(), all[1].clone(), all[3].clone()]), [2, 1]);
        assert_eq!(counts(vec![all[0].clone(), all[0].clone(), all[1].clone()]), [1, 2]);
        // Two flows at once are joined apart, each in its order.
        let other: Vec<Bytes> = packets(4)
            .iter()
            .map(|packet| {
                let mut packet = packet.to_vec();
                packet[41] = 81;
                packet.into()
            })
            .collect();
        let both = packets(4).into_iter().zip(other).flat_map(|(a, b)| [a, b]).collect();
        assert_eq!(counts(both), [4, 4]);
        // What is no TCP passes as it is.
        let ping = Bytes::from_static(&[0x60; 60]);
        assert_eq!(join_all(vec![ping.clone()]), [([&PLAIN, &ping[..]].concat(), 1)]);
    }

    #[test]
    fn a_checksum_is_completed() {
        // A UDP packet as the kernel gives it: the field holds the sum of the pseudo header.
        let mut read = vec![NEEDS_CHECKSUM, KIND_ONE, 0, 0, 0, 0];
        read.extend(40u16.to_ne_bytes());
        read.extend(6u16.to_ne_bytes());
        read.extend([0x60, 0, 0, 0, 0, 13, PROTOCOL_UDP, 64]);
        read.extend([0xfd; 32]);
        let begun = Sum::default().add(&[0xfd; 32]).add(&[0, 13]).add(&[0, PROTOCOL_UDP]).fold();
        read.extend([0, 53, 0, 54, 0, 13, begun[0], begun[1], b'h', b'e', b'l', b'l', b'o']);
        let packets = cut_all(read);
        assert!(is_valid(&packets[0]));
    }

    proptest! {
        #[test]
        fn any_read_is_survived(
            start in proptest::collection::vec(any::<u8>(), 0..12),
            kind in prop_oneof![Just(0u8), Just(4), Just(0x84), any::<u8>()],
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            let mut read = start;
            if read.len() > 1 {
                read[1] = kind;
            }
            read.extend(bytes);
            cut(&mut read, &mut BytesMut::new(), |_| ());
        }

        #[test]
        fn any_packets_are_survived(
            packets in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..120), 0..8),
        ) {
            let total = packets.len();
            let packets = packets.into_iter().map(|mut packet| {
                if packet.len() > 6 {
                    (packet[0], packet[6]) = (0x60, PROTOCOL_TCP);
                }
                packet.into()
            });
            let written: usize = join_all(packets.collect()).iter().map(|(_, count)| count).sum();
            prop_assert_eq!(written, total);
        }

        #[test]
        fn payloads_of_any_length_come_back(length in 1..60_000usize, size in 500..1400u16) {
            let payload: Vec<u8> = (0..length).map(|i| (i * i) as u8).collect();
            let packets = cut_all(super_segment(&payload, size, ACK));
            prop_assert!(packets.iter().all(|packet| is_valid(packet)));
            let joined: Vec<u8> =
                join_all(packets).iter().flat_map(|(packet, _)| packet[VNET_BYTES + 72..].to_vec()).collect();
            prop_assert_eq!(joined, payload);
        }
    }
}
