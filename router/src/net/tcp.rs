//! Frames over a TCP connection.
//!
//! ```text
//! frame on the wire:  length, 2 bytes, big-endian, never 0 | that many bytes
//! ```
//!
//! Reading takes up to 256 KiB at a time into a buffer that all links share, and hands the frames on where they lie;
//! a link keeps only the beginning of a frame that has not come whole. Writing gathers what waits in the router's
//! egress queue into one `writev`, and takes no more from it than the kernel takes: what cannot be sent yet stays in
//! the queue, where it is ordered and dropped fairly. The kernel may hold a few milliseconds' worth ([`Pace`]).

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::Bytes;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::pace::Pace;

/// Bytes of a length.
const PREFIX: usize = 2;
/// Largest frame, prefix included.
const FRAME_MAX: usize = PREFIX + u16::MAX as usize;
/// Bytes read at a time: more gained nothing where it was measured.
const READ_BYTES: usize = 256 << 10;
/// Size of the buffer that all links read into: the kept beginning of a frame comes first.
pub(crate) const SCRATCH_BYTES: usize = FRAME_MAX + READ_BYTES;
/// Frames in one `writev`; with their prefixes twice as many pieces, of which the kernel takes 1024.
const GATHER_FRAMES: usize = 128;
/// The kernel's send buffer: more would only add delay under load, before the queue that is fair.
const SEND_BUFFER_BYTES: usize = 256 << 10;
/// A kept beginning of a frame that grew beyond this is given back to the system with the next whole frame.
const KEEP_BYTES: usize = 4 << 10;

/// One connection.
#[derive(Debug)]
pub(crate) struct TcpLink {
    stream: TcpStream,
    /// The beginning of a frame.
    partial: Vec<u8>,
    /// What was taken from the egress queue and not yet by the kernel.
    out: VecDeque<Out>,
    out_bytes: usize,
    pace: Pace,
}

/// A frame on its way out.
#[derive(Debug)]
struct Out {
    prefix: [u8; PREFIX],
    frame: Bytes,
    /// Bytes of prefix and frame that the kernel has.
    sent: usize,
}

/// What a read came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Read {
    /// Perhaps there is more.
    More,
    /// There was nothing, or all was taken: the waker will be woken.
    Empty,
}

/// What a flush came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flush {
    /// All that there was is sent.
    Done,
    /// The kernel takes no more now: the waker will be woken.
    Blocked,
}

/// The other side sent a length of zero: that is no frame.
const NO_FRAME: &str = "a frame of no bytes";

impl TcpLink {
    pub(crate) fn new(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        // Without it the kernel buffers megabytes: slower under load, not wrong.
        let _ = SockRef::from(&stream).set_send_buffer_size(SEND_BUFFER_BYTES);
        Ok(Self { stream, partial: Vec::new(), out: VecDeque::new(), out_bytes: 0, pace: Pace::new() })
    }

    /// The local address: when the host loses it, the connection is dead.
    pub(crate) fn local_ip(&self) -> Option<IpAddr> {
        self.stream.local_addr().ok().map(|a| canonical(a).ip())
    }

    /// Reads once and hands each whole frame on. An error ends the link.
    pub(crate) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        scratch: &mut [u8],
        mut frame: impl FnMut(&[u8]),
    ) -> io::Result<Read> {
        let kept = self.partial.len();
        scratch[..kept].copy_from_slice(&self.partial);
        let mut buffer = ReadBuf::new(&mut scratch[kept..kept + READ_BYTES]);
        match Pin::new(&mut self.stream).poll_read(cx, &mut buffer) {
            Poll::Pending => return Ok(Read::Empty),
            Poll::Ready(result) => result?,
        }
        let read = buffer.filled().len();
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut rest = &scratch[..kept + read];
        while let Some((whole, after)) = split(rest)? {
            frame(whole);
            rest = after;
        }
        self.partial.clear();
        if rest.len() < KEEP_BYTES && self.partial.capacity() > KEEP_BYTES {
            self.partial = Vec::new();
        }
        self.partial.extend_from_slice(rest);
        Ok(if read == READ_BYTES { Read::More } else { self.rearm(cx)? })
    }

    /// A read that came back short has emptied the socket; the waker must be registered again all the same.
    fn rearm(&self, cx: &mut Context<'_>) -> io::Result<Read> {
        Ok(match self.stream.poll_read_ready(cx) {
            Poll::Pending => Read::Empty,
            Poll::Ready(result) => result.map(|()| Read::More)?,
        })
    }

    /// Sends what `next` gives until it gives nothing or the kernel takes no more. An error ends the link.
    pub(crate) fn poll_flush(
        &mut self,
        cx: &mut Context<'_>,
        mut next: impl FnMut() -> Option<Bytes>,
    ) -> io::Result<Flush> {
        loop {
            while self.out.len() < GATHER_FRAMES && self.out_bytes < self.pace.bytes() {
                let Some(frame) = next() else { break };
                let Ok(length) = u16::try_from(frame.len()) else {
                    debug_assert!(false, "the router keeps to the link's MTU");
                    continue;
                };
                self.out_bytes += PREFIX + frame.len();
                self.out.push_back(Out { prefix: length.to_be_bytes(), frame, sent: 0 });
            }
            if self.out.is_empty() {
                self.pace.on_done();
                return Ok(Flush::Done);
            }
            match self.poll_write(cx) {
                Poll::Pending => {
                    if self.pace.on_blocked(Instant::now()) {
                        // Where the system does not know the option its buffer is all there is: slower under load, not wrong.
                        let _ = SockRef::from(&self.stream).set_tcp_notsent_lowat(self.pace.bytes() as u32);
                    }
                    return Ok(Flush::Blocked);
                }
                Poll::Ready(result) => result?,
            }
        }
    }

    /// One `writev` of what is gathered.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut slices = [IoSlice::new(&[]); 2 * GATHER_FRAMES];
        let mut count = 0;
        for out in &self.out {
            if out.sent < PREFIX {
                slices[count] = IoSlice::new(&out.prefix[out.sent..]);
                count += 1;
            }
            slices[count] = IoSlice::new(&out.frame[out.sent.saturating_sub(PREFIX)..]);
            count += 1;
        }
        let stream = Pin::new(&mut self.stream);
        let mut written = ready!(stream.poll_write_vectored(cx, &slices[..count]))?;
        if written == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        self.out_bytes -= written;
        self.pace.took(written);
        while written > 0 {
            let front = self.out.front_mut().expect("no more is written than was gathered");
            let left = PREFIX + front.frame.len() - front.sent;
            if written < left {
                front.sent += written;
                break;
            }
            written -= left;
            self.out.pop_front();
        }
        Poll::Ready(Ok(()))
    }
}

/// The first whole frame and what follows it.
fn split(buffer: &[u8]) -> io::Result<Option<(&[u8], &[u8])>> {
    let Some((prefix, rest)) = buffer.split_first_chunk::<PREFIX>() else { return Ok(None) };
    let length = usize::from(u16::from_be_bytes(*prefix));
    if length == 0 {
        return Err(io::Error::new(io::ErrorKind::InvalidData, NO_FRAME));
    }
    Ok(rest.split_at_checked(length))
}

/// An address without the disguise that IPv4 wears on sockets of both families.
pub(crate) fn canonical(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V6(v6) => match v6.ip().to_ipv4_mapped() {
            Some(v4) => SocketAddr::new(v4.into(), v6.port()),
            None => address,
        },
        SocketAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    use super::*;

    async fn connected() -> (TcpLink, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (TcpLink::new(listener.accept().await.unwrap().0).unwrap(), stream)
    }

    async fn read_some(link: &mut TcpLink, frames: &mut Vec<Vec<u8>>) -> io::Result<()> {
        let mut scratch = vec![0; SCRATCH_BYTES];
        let before = frames.len();
        let read = std::future::poll_fn(|cx| {
            loop {
                match link.poll_read(cx, &mut scratch, |f| frames.push(f.to_vec())) {
                    Err(e) => return Poll::Ready(Err(e)),
                    Ok(Read::More) => {}
                    Ok(Read::Empty) if frames.len() > before => return Poll::Ready(Ok(())),
                    Ok(Read::Empty) => return Poll::Pending,
                }
            }
        });
        tokio::time::timeout(Duration::from_secs(10), read).await.expect("in time")
    }

    #[tokio::test]
    async fn frames_of_every_size_pass_in_order() {
        let (mut a, stream) = connected().await;
        let mut b = TcpLink::new(stream).unwrap();
        let sizes: Vec<usize> = (0..400).map(|i| [1, 1300, 65_535, 17][i % 4]).collect();
        let mut waiting: VecDeque<Bytes> = sizes.iter().map(|s| Bytes::from(vec![*s as u8; *s])).collect();
        let (mut frames, mut scratch) = (Vec::new(), vec![0; SCRATCH_BYTES]);
        let pass = std::future::poll_fn(|cx| {
            loop {
                b.poll_flush(cx, || waiting.pop_front()).unwrap();
                let read = a.poll_read(cx, &mut scratch, |f| frames.push(f.to_vec())).unwrap();
                match read {
                    _ if frames.len() == sizes.len() => return Poll::Ready(()),
                    Read::More => {}
                    Read::Empty => return Poll::Pending,
                }
            }
        });
        tokio::time::timeout(Duration::from_secs(10), pass).await.expect("in time");
        assert!(frames.iter().zip(&sizes).all(|(f, s)| f.len() == *s && f[0] == *s as u8));
        assert!(a.partial.capacity() <= KEEP_BYTES, "an idle link keeps no large buffer");
    }

    #[tokio::test]
    async fn a_reader_that_sleeps_stops_the_queue() {
        let (_a, stream) = connected().await;
        let mut b = TcpLink::new(stream).unwrap();
        let mut taken = 0;
        let frame = Bytes::from(vec![7; 60_000]);
        let flush = std::future::poll_fn(|cx| {
            Poll::Ready(b.poll_flush(cx, || {
                taken += 1;
                Some(frame.clone())
            }))
        });
        assert_eq!(flush.await.unwrap(), Flush::Blocked);
        assert!(taken < 400, "{taken} frames were taken that cannot be sent");
    }

    #[tokio::test]
    async fn an_empty_frame_or_the_end_is_an_error() {
        let (mut a, mut stream) = connected().await;
        let mut frames = Vec::new();
        stream.write_all(&[0, 1, 9, 0, 0]).await.unwrap();
        let error = read_some(&mut a, &mut frames).await.unwrap_err();
        assert_eq!((error.kind(), frames), (io::ErrorKind::InvalidData, vec![vec![9]]));
        let (mut a, stream) = connected().await;
        drop(stream);
        let error = read_some(&mut a, &mut Vec::new()).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }

    proptest! {
        #[test]
        fn any_bytes_are_frames_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..4096)) {
            let mut rest = &bytes[..];
            while let Ok(Some((frame, after))) = split(rest) {
                prop_assert!(!frame.is_empty());
                prop_assert_eq!(PREFIX + frame.len() + after.len(), rest.len());
                rest = after;
            }
        }
    }
}
