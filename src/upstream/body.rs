//! Request bodies on their way to an endpoint: counted, and given up when the caller stalls.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep};

use super::record::{Recording, Replayed};

/// What became of a request body, seen by the exchange while hyper owns the body.
#[derive(Default)]
pub struct BodyWatch {
    bytes: AtomicU64,
    fate: AtomicU8,
    answered: AtomicBool,
}

/// Why a body ended before its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyFate {
    Fine,
    /// The caller sent nothing for longer than allowed.
    Stalled,
    /// The caller's connection broke.
    Broken,
    /// What the caller sent is no body by the rules of its protocol.
    Malformed,
    /// More came than may.
    TooLong,
}

impl BodyWatch {
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// The answer's head came: from now on a quiet body is a stream at rest, not a stalled upload.
    pub fn answered(&self) {
        self.answered.store(true, Ordering::Relaxed);
    }

    pub fn fate(&self) -> BodyFate {
        match self.fate.load(Ordering::Relaxed) {
            STALLED => BodyFate::Stalled,
            BROKEN => BodyFate::Broken,
            MALFORMED => BodyFate::Malformed,
            TOO_LONG => BodyFate::TooLong,
            _ => BodyFate::Fine,
        }
    }
}

const STALLED: u8 = 1;
const BROKEN: u8 = 2;
const MALFORMED: u8 = 3;
const TOO_LONG: u8 = 4;

/// The body of a request to an endpoint.
pub enum RequestBody {
    /// None at all: the request can be sent again.
    Empty,
    Streaming(Box<Streaming>),
    /// Kept while it passes, so that the request can be sent again.
    Replayed(Replayed),
}

pub struct Streaming {
    incoming: Incoming,
    watch: Arc<BodyWatch>,
    limits: BodyLimits,
    trailers: TrailerRule,
    /// Made at the first wait, moved only when it fires: a body that is at hand costs no timer.
    timer: Option<Pin<Box<Sleep>>>,
    last: Instant,
}

/// Takes away what may not pass of trailers.
pub type TrailerRule = fn(&mut HeaderMap);

/// How long a body may go without a byte, and how many it may have.
#[derive(Debug, Clone, Copy)]
pub struct BodyLimits {
    pub before_answer: Duration,
    pub after_answer: Duration,
    pub most: Option<u64>,
}

impl RequestBody {
    pub fn streaming(incoming: Incoming, limits: BodyLimits, trailers: TrailerRule, watch: Arc<BodyWatch>) -> Self {
        Self::Streaming(Box::new(Streaming { incoming, watch, limits, trailers, timer: None, last: Instant::now() }))
    }

    /// Makes a streamed body of at most `limit` bytes repeatable; a longer one stays as it is where its length is
    /// announced, else it turns out to be unrepeatable when the limit is passed.
    pub fn record(&mut self, limit: usize) -> Option<Arc<Recording>> {
        let streaming = match self {
            Self::Streaming(streaming) => streaming,
            Self::Replayed(body) => return Some(body.recording()),
            Self::Empty => return None,
        };
        if streaming.size_hint().lower() > limit as u64 {
            return None;
        }
        let Self::Streaming(streaming) = std::mem::replace(self, Self::Empty) else { return None };
        let recording = Recording::new(streaming, limit);
        if let Some(body) = recording.replay() {
            *self = Self::Replayed(body);
        }
        Some(recording)
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = StalledBody;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, StalledBody>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Streaming(body) => Pin::new(&mut **body).poll_frame(cx),
            Self::Replayed(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Streaming(body) => body.is_end_stream(),
            Self::Replayed(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Streaming(body) => body.size_hint(),
            Self::Replayed(body) => body.size_hint(),
        }
    }
}

impl Body for Streaming {
    type Data = Bytes;
    type Error = StalledBody;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, StalledBody>>> {
        let this = self.get_mut();
        match Pin::new(&mut this.incoming).poll_frame(cx) {
            Poll::Ready(Some(Ok(mut frame))) => {
                if let Some(trailers) = frame.trailers_mut() {
                    (this.trailers)(trailers);
                } else if let Some(data) = frame.data_ref() {
                    let more = data.len() as u64;
                    let before = this.watch.bytes.fetch_add(more, Ordering::Relaxed);
                    if let Some(most) = this.limits.most
                        && before + more > most
                    {
                        this.watch.fate.store(TOO_LONG, Ordering::Relaxed);
                        return Poll::Ready(Some(Err(StalledBody::TooLong(most))));
                    }
                }
                if this.timer.is_some() {
                    this.last = Instant::now();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => {
                this.watch.fate.store(if is_malformed(&error) { MALFORMED } else { BROKEN }, Ordering::Relaxed);
                Poll::Ready(Some(Err(StalledBody::Broken(error))))
            }
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => this.poll_stall(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

impl Streaming {
    fn poll_stall(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, StalledBody>>> {
        if self.timer.is_none() {
            self.last = Instant::now();
        }
        let end = self.last + self.limit();
        let mut timer = self.timer.take().unwrap_or_else(|| Box::pin(tokio::time::sleep_until(end)));
        while timer.as_mut().poll(cx).is_ready() {
            let limit = self.limit();
            let end = self.last + limit;
            if Instant::now() >= end {
                self.watch.fate.store(STALLED, Ordering::Relaxed);
                return Poll::Ready(Some(Err(StalledBody::Stalled(limit))));
            }
            timer.as_mut().reset(end);
        }
        self.timer = Some(timer);
        Poll::Pending
    }

    fn limit(&self) -> Duration {
        if self.watch.answered.load(Ordering::Relaxed) { self.limits.after_answer } else { self.limits.before_answer }
    }
}

/// Whether bytes came that are no chunk, rather than none.
fn is_malformed(error: &hyper::Error) -> bool {
    let mut next = std::error::Error::source(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput);
        }
        next = error.source();
    }
    false
}

/// Why a request body ended early.
#[derive(Debug, thiserror::Error)]
pub enum StalledBody {
    #[error("no byte of the request body for {0:?}")]
    Stalled(Duration),
    #[error("the caller's body broke off: {0}")]
    Broken(hyper::Error),
    #[error("more than {0} bytes came")]
    TooLong(u64),
    /// Read by a try that was given up.
    #[error("another try reads the body now")]
    Superseded,
}
