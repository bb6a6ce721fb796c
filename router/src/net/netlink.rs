//! The little of Linux' rtnetlink that a node needs: give an interface an address, an MTU and a route, and hear of changes.
//!
//! Every message is built from and parsed as plain bytes over a safe socket, so there is no unsafe code here.

use std::fs::File;
use std::io;
use std::net::Ipv6Addr;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send, socket,
};
use tokio::io::unix::AsyncFd;

const HEADER_BYTES: usize = 16;
/// rtnetlink multicast groups: links, IPv4 addresses, IPv6 addresses.
const GROUPS: u32 = (libc::RTMGRP_LINK | libc::RTMGRP_IPV4_IFADDR | libc::RTMGRP_IPV6_IFADDR) as u32;
/// No duplicate address detection: the address is a hash of a key, and nobody else is on a TUN.
const IFA_F_NODAD: u8 = 0x02;

/// A socket for requests, each answered before the next.
#[derive(Debug)]
pub(crate) struct Netlink {
    fd: OwnedFd,
    seq: u32,
}

impl Netlink {
    pub(crate) fn open() -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC;
        let fd = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkRoute)?;
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        Ok(Self { fd, seq: 0 })
    }

    /// Sets an interface's MTU and brings it up.
    pub(crate) fn up(&mut self, index: u32, mtu: u32) -> io::Result<()> {
        let up = libc::IFF_UP as u32;
        let mut body = vec![libc::AF_UNSPEC as u8, 0, 0, 0];
        body.extend(index.to_ne_bytes());
        body.extend(up.to_ne_bytes());
        body.extend(up.to_ne_bytes());
        attribute(&mut body, libc::IFLA_MTU, &mtu.to_ne_bytes());
        self.request(libc::RTM_NEWLINK, 0, &body)
    }

    /// Gives an interface an IPv6 address; one that is there already is fine.
    pub(crate) fn address(&mut self, index: u32, ip: Ipv6Addr, prefix: u8) -> io::Result<()> {
        let mut body = vec![libc::AF_INET6 as u8, prefix, IFA_F_NODAD, libc::RT_SCOPE_UNIVERSE];
        body.extend(index.to_ne_bytes());
        attribute(&mut body, libc::IFA_LOCAL, &ip.octets());
        attribute(&mut body, libc::IFA_ADDRESS, &ip.octets());
        self.request(libc::RTM_NEWADDR, libc::NLM_F_CREATE | libc::NLM_F_REPLACE, &body)
    }

    /// Sends a prefix out through an interface, with a source address of our own, in packets of at most `sizes.mtu` bytes;
    /// TCP peers are told that they may send segments for packets of `sizes.largest`.
    pub(crate) fn route(
        &mut self,
        index: u32,
        to: Ipv6Addr,
        prefix: u8,
        source: Ipv6Addr,
        sizes: Sizes,
    ) -> io::Result<()> {
        let mut body = route_to(index, to, prefix);
        attribute(&mut body, libc::RTA_PREFSRC, &source.octets());
        let mut metrics = Vec::new();
        attribute(&mut metrics, RTAX_MTU, &sizes.mtu.to_ne_bytes());
        attribute(&mut metrics, RTAX_ADVMSS, &sizes.largest.saturating_sub(TCP_HEADERS).to_ne_bytes());
        attribute(&mut body, libc::RTA_METRICS, &metrics);
        self.request(libc::RTM_NEWROUTE, libc::NLM_F_CREATE | libc::NLM_F_REPLACE, &body)
    }

    /// Takes a route away again.
    pub(crate) fn remove_route(&mut self, index: u32, to: Ipv6Addr, prefix: u8) -> io::Result<()> {
        self.request(libc::RTM_DELROUTE, 0, &route_to(index, to, prefix))
    }

    fn request(&mut self, kind: u16, flags: i32, body: &[u8]) -> io::Result<()> {
        self.seq += 1;
        let flags = (libc::NLM_F_REQUEST | libc::NLM_F_ACK | flags) as u16;
        let mut message = Vec::with_capacity(HEADER_BYTES + body.len());
        message.extend(((HEADER_BYTES + body.len()) as u32).to_ne_bytes());
        message.extend(kind.to_ne_bytes());
        message.extend(flags.to_ne_bytes());
        message.extend(self.seq.to_ne_bytes());
        message.extend(0u32.to_ne_bytes());
        message.extend(body);
        send(self.fd.as_raw_fd(), &message, MsgFlags::empty())?;
        let mut answer = [0; 4096];
        loop {
            let read = recv(self.fd.as_raw_fd(), &mut answer, MsgFlags::empty())?;
            if let Some(code) = acknowledged(&answer[..read], self.seq) {
                return if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(-code)) };
            }
        }
    }
}

/// How large packets on a route are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    /// What is sent at most.
    pub(crate) mtu: u32,
    /// What may come.
    pub(crate) largest: u32,
}

/// Route metrics of rtnetlink.h that `libc` does not name.
const RTAX_MTU: u16 = 2;
const RTAX_ADVMSS: u16 = 8;
/// IPv6 and TCP without options.
const TCP_HEADERS: u32 = 60;

fn route_to(index: u32, to: Ipv6Addr, prefix: u8) -> Vec<u8> {
    let mut body = vec![libc::AF_INET6 as u8, prefix, 0, 0];
    body.extend([libc::RT_TABLE_MAIN, libc::RTPROT_STATIC, libc::RT_SCOPE_UNIVERSE, libc::RTN_UNICAST]);
    body.extend(0u32.to_ne_bytes());
    attribute(&mut body, libc::RTA_DST, &to.octets());
    attribute(&mut body, libc::RTA_OIF, &index.to_ne_bytes());
    body
}

/// Tells when links or addresses of this host change.
pub(crate) struct Changes {
    fd: AsyncFd<File>,
}

impl Changes {
    pub(crate) fn open() -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let fd = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkRoute)?;
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, GROUPS))?;
        Ok(Self { fd: super::sys::watch(fd)? })
    }

    /// Waits for the next change, and takes in all that came with it.
    pub(crate) async fn next(&self) -> io::Result<()> {
        loop {
            let mut ready = self.fd.readable().await?;
            let drained = ready.try_io(|fd| drain(fd.get_ref()));
            match drained {
                // What was lost when the kernel's queue overflowed (ENOBUFS) was a change too.
                Ok(Err(e)) if e.raw_os_error() != Some(libc::ENOBUFS) => return Err(e),
                Ok(_) => return Ok(()),
                Err(_) => continue,
            }
        }
    }
}

/// Reads until there is nothing left. An error says "would block" only where nothing at all was there.
fn drain(fd: &File) -> io::Result<()> {
    let mut buffer = [0; 8192];
    let mut any = false;
    loop {
        match recv(fd.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
            Ok(_) => any = true,
            Err(nix::errno::Errno::EAGAIN) if any => return Ok(()),
            Err(e) => return Err(e.into()),
        }
    }
}

/// An attribute: length, kind, value, padded to four bytes.
fn attribute(out: &mut Vec<u8>, kind: u16, value: &[u8]) {
    out.extend((4 + value.len() as u16).to_ne_bytes());
    out.extend(kind.to_ne_bytes());
    out.extend(value);
    out.resize(out.len().next_multiple_of(4), 0);
}

/// The result code in an answer to the request `seq`.
fn acknowledged(mut answer: &[u8], seq: u32) -> Option<i32> {
    let word = |b: &[u8], at: usize| b.get(at..at + 4).map(|w| u32::from_ne_bytes([w[0], w[1], w[2], w[3]]));
    while let (Some(length), Some(of)) = (word(answer, 0), word(answer, 8)) {
        let kind = u16::from_ne_bytes([answer[4], answer[5]]);
        if kind == libc::NLMSG_ERROR as u16 && of == seq {
            return word(answer, HEADER_BYTES).map(|code| code as i32);
        }
        let next = (length as usize).next_multiple_of(4).max(HEADER_BYTES);
        answer = answer.get(next..)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_padded() {
        let mut out = Vec::new();
        attribute(&mut out, 1, &[7; 5]);
        assert_eq!(out.len(), 12);
        assert_eq!(&out[..2], 9u16.to_ne_bytes());
    }

    #[test]
    fn answers_of_any_kind_are_survived() {
        assert_eq!(acknowledged(&[], 1), None);
        assert_eq!(acknowledged(&[0; 64], 1), None);
        assert_eq!(acknowledged(&[255; 19], 1), None);
        let mut answer = Vec::new();
        for word in [36u32, libc::NLMSG_ERROR as u32, 3, 0, (-17i32) as u32] {
            answer.extend(word.to_ne_bytes());
        }
        if cfg!(target_endian = "little") {
            assert_eq!(acknowledged(&answer, 3), Some(-17));
            assert_eq!(acknowledged(&answer, 4), None);
        }
    }

    #[test]
    fn the_kernel_answers() {
        // Interface 2^31-1 does not exist: the kernel says so, with or without the right to change anything.
        let error = Netlink::open().unwrap().up(i32::MAX as u32, 1280).unwrap_err();
        assert!(matches!(error.raw_os_error(), Some(libc::ENODEV | libc::EPERM)), "{error}");
    }
}
