//! Owns what one caller may hold of a listener: how many connections from one address, and how long one may be silent
//! before it has said what it wants.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, Ipv6Addr},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Sleep,
};

use crate::remote::tls::is_public;

/// Connections from one address (of IPv6, one /64): an eighth of what a listener takes, so that one caller who opens
/// connections and leaves them so does not shut the others out.
pub(super) const FROM_ONE_MAX: usize = 128;
/// From the connection to the first byte of a request. After it HTTP's own limits count.
pub(super) const FIRST_WITHIN: Duration = Duration::from_secs(15);

/// Counts connections by address.
#[derive(Clone, Debug, Default)]
pub(super) struct Callers(Arc<Mutex<HashMap<IpAddr, usize>>>);

/// A connection that is counted until this goes.
#[derive(Debug)]
pub(super) struct Counted {
    callers: Callers,
    from: Option<IpAddr>,
}

impl Callers {
    /// Counts a connection; nothing if its address has as many as it may have. Addresses of one's own networks are not
    /// counted: all that a proxy passes on comes from one of them.
    pub(super) fn enter(&self, address: IpAddr) -> Option<Counted> {
        if !is_public(address) {
            return Some(Counted { callers: self.clone(), from: None });
        }
        let from = network(address);
        let mut map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = map.entry(from).or_default();
        if *count >= FROM_ONE_MAX {
            return None;
        }
        *count += 1;
        Some(Counted { callers: self.clone(), from: Some(from) })
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let Some(from) = self.from else { return };
        let mut map = self.callers.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = map.get_mut(&from) {
            *count -= 1;
            if *count == 0 {
                map.remove(&from);
            }
        }
    }
}

fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        address => address,
    }
}

/// A stream that fails if nothing comes within some time ([`FIRST_WITHIN`]).
pub(super) struct Prompt<S> {
    stream: S,
    /// Until the first byte.
    wait: Option<Pin<Box<Sleep>>>,
}

impl<S> Prompt<S> {
    /// The time runs from now.
    pub(super) fn new(stream: S, within: Duration) -> Self {
        Self { stream, wait: Some(Box::pin(tokio::time::sleep(within))) }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Prompt<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if read.is_ready() {
            self.wait = None;
            return read;
        }
        match self.wait.as_mut().map(|wait| wait.as_mut().poll(cx)) {
            Some(Poll::Ready(())) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            _ => Poll::Pending,
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Prompt<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[test]
    fn one_address_does_not_hold_all_connections() {
        let callers = Callers::default();
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let held: Vec<_> = (0..FROM_ONE_MAX)
            .map(|n| callers.enter(address(&format!("2606:4700::{n:x}"))).unwrap())
            .collect();
        assert!(callers.enter(address("2606:4700::ffff:1")).is_none());
        assert!(callers.enter(address("2606:4700:0:1::1")).is_some());
        assert!(callers.enter(address("8.8.8.8")).is_some());
        drop(held);
        assert!(callers.enter(address("2606:4700::1")).is_some());
        assert!(callers.0.lock().unwrap().is_empty());
        let local: Vec<_> = (0..2 * FROM_ONE_MAX).map(|_| callers.enter(address("10.0.0.1"))).collect();
        assert!(local.iter().all(Option::is_some));
    }

    #[tokio::test]
    async fn a_connection_that_says_nothing_is_closed_and_one_that_began_is_not() {
        let within = Duration::from_millis(20);
        let (stream, mut silent) = tokio::io::duplex(64);
        let mut served = Prompt::new(stream, within);
        assert_eq!(served.read_u8().await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        silent.shutdown().await.unwrap();

        let (stream, mut talks) = tokio::io::duplex(64);
        let mut served = Prompt::new(stream, within);
        talks.write_all(b"G").await.unwrap();
        assert_eq!(served.read_u8().await.unwrap(), b'G');
        // Whoever waits for an answer says nothing for long.
        let more = tokio::time::timeout(5 * within, served.read_u8()).await;
        assert!(more.is_err(), "it is still open");
    }
}
