//! The two calls that need `unsafe`, and nothing else: registering a descriptor, and making a TUN interface.
#![allow(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// The longest name that an interface can have.
pub(crate) const INTERFACE_NAME_MAX: usize = libc::IFNAMSIZ - 1;

/// Tells the runtime to watch a descriptor for input.
pub(crate) fn watch(fd: OwnedFd) -> io::Result<AsyncFd<File>> {
    // SAFETY: a `File` keeps one descriptor open until it is dropped, and tells the same one all that time.
    let registered = unsafe { AsyncFd::register_with_interest(File::from(fd), Interest::READABLE) };
    Ok(registered?)
}

/// Makes a TUN interface that carries IP packets behind a virtio header (see `segments`), or attaches to a persistent one of that name. It is gone when
/// the descriptor is closed. Reads and writes do not block.
#[cfg(target_os = "linux")]
pub(crate) fn open_tun(name: &str) -> io::Result<OwnedFd> {
    nix::ioctl_write_ptr_bad!(tun_set_iff, libc::TUNSETIFF, libc::ifreq);
    nix::ioctl_write_int_bad!(tun_set_offload, libc::TUNSETOFFLOAD);

    if name.is_empty() || name.len() > INTERFACE_NAME_MAX || name.contains(['/', '%', ' ', '\0']) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "an interface's name has 1 to 15 letters, digits, `-`, `_` or `.`",
        ));
    }
    let device =
        OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open("/dev/net/tun")?;
    let mut ifr_name = [0; libc::IFNAMSIZ];
    for (to, from) in ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    let flags = (libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as libc::c_short;
    let request = libc::ifreq { ifr_name, ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_flags: flags } };
    // SAFETY: TUNSETIFF reads an `ifreq` whose name ends in a zero byte and whose flags are set, and keeps no pointer.
    unsafe { tun_set_iff(device.as_raw_fd(), &request) }?;
    let offload = libc::TUN_F_CSUM | libc::TUN_F_TSO6 | libc::TUN_F_TSO_ECN;
    // SAFETY: TUNSETOFFLOAD takes its flags by value. Where it is refused the kernel gives single packets, which do.
    let _ = unsafe { tun_set_offload(device.as_raw_fd(), offload as libc::c_int) };
    Ok(device.into())
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn open_tun(_name: &str) -> io::Result<OwnedFd> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "TUN interfaces are there on Linux only"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_names_are_refused() {
        for name in ["", "sixteen-letters-", "a/b", "a b", "a%d"] {
            assert_eq!(open_tun(name).unwrap_err().kind(), io::ErrorKind::InvalidInput, "{name}");
        }
    }
}
