//! `Body`: the streamed body of a request or an answer, with its limit.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::{BodyExt, Full, Limited};

use crate::{error::Error, stats::Counters};

/// Any error, as tower and axum have it.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A body as it arrives. Dropping it resets the stream.
#[derive(Debug)]
pub struct Body {
    source: Source,
    left: u64,
    limit: u64,
    counters: Option<Arc<Counters>>,
    /// Counts the request as under way for as long as its answer is being read.
    _guard: Option<Guard>,
}

#[derive(Debug)]
enum Source {
    Network(hyper::body::Incoming),
    Memory(Full<Bytes>),
}

/// Something that is released when the body ends or is dropped.
pub(crate) type Guard = Box<dyn Held>;

pub(crate) trait Held: std::fmt::Debug + Send + Sync {}
impl<T: std::fmt::Debug + Send + Sync> Held for T {}

impl Body {
    /// A body without bytes.
    pub fn empty() -> Self {
        Bytes::new().into()
    }

    pub(crate) fn network(incoming: hyper::body::Incoming, limit: u64, counters: Arc<Counters>) -> Self {
        Self { source: Source::Network(incoming), left: limit, limit, counters: Some(counters), _guard: None }
    }

    pub(crate) fn guarded(mut self, guard: Guard) -> Self {
        self._guard = Some(guard);
        self
    }

    /// Reads the whole body, at most `max` bytes of it.
    pub async fn bytes(self, max: usize) -> Result<Bytes, Error> {
        let limit = (max as u64).min(self.limit);
        match Limited::new(self, max).collect().await {
            Ok(collected) => Ok(collected.to_bytes()),
            Err(error) => match error.downcast::<Error>() {
                Ok(error) => Err(*error),
                Err(_) => Err(Error::BodyTooLarge { limit }),
            },
        }
    }

    fn too_large(&self) -> Error {
        if let Some(counters) = &self.counters {
            counters.oversized.add();
        }
        Error::BodyTooLarge { limit: self.limit }
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let incoming = match &mut self.source {
            Source::Network(incoming) => incoming,
            Source::Memory(full) => {
                return Pin::new(full).poll_frame(cx).map_err(|never| match never {});
            }
        };
        match ready!(Pin::new(incoming).poll_frame(cx)) {
            Some(Ok(frame)) => {
                let length = frame.data_ref().map_or(0, Bytes::len) as u64;
                match self.left.checked_sub(length) {
                    Some(left) => self.left = left,
                    None => return Poll::Ready(Some(Err(self.too_large()))),
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(error)) => Poll::Ready(Some(Err(Error::from_hyper(&error)))),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Network(incoming) => incoming.is_end_stream(),
            Source::Memory(full) => full.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Network(incoming) => incoming.size_hint(),
            Source::Memory(full) => full.size_hint(),
        }
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        let limit = bytes.len() as u64;
        Self { source: Source::Memory(Full::new(bytes)), left: limit, limit, counters: None, _guard: None }
    }
}

impl Default for Body {
    fn default() -> Self {
        Self::empty()
    }
}
