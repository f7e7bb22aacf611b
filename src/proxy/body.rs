//! Bodies of answers: the service's, streamed with back-pressure and held to an idle limit, or our own. Each carries its
//! exchange and its lease to the last byte.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use hyper::body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep};

use super::exchange::Exchange;
use super::gather::{Begun, Whole};
use crate::reason::Reason;
use crate::service::Lease;
use crate::upstream::{BodyFate, Tethered};

/// The body of an answer. Dropped before its end, its exchange counts as left by the client.
pub struct ResponseBody {
    source: Source,
    /// `None` where the exchange goes on as a tunnel.
    exchange: Option<Exchange>,
}

enum Source {
    /// All of it is here: our own answer, or a short one of the service.
    Whole {
        data: Bytes,
        trailers: Option<HeaderMap>,
    },
    Upstream(Box<Streamed>),
}

struct Streamed {
    /// What was read before.
    ahead: Bytes,
    body: Tethered,
    /// Counts the request in flight at its endpoint.
    _lease: Lease,
    idle: Duration,
    /// Made at the first wait, moved only when it fires: a body that is at hand costs no timer.
    timer: Option<Pin<Box<Sleep>>>,
    last: Instant,
}

impl ResponseBody {
    pub(super) fn own(data: Bytes, exchange: Exchange) -> Self {
        Self { source: Source::Whole { data, trailers: None }, exchange: Some(exchange) }
    }

    /// No body at all, of an exchange that does not end with its answer.
    pub(super) fn none() -> Self {
        Self { source: Source::Whole { data: Bytes::new(), trailers: None }, exchange: None }
    }

    pub(super) fn whole(body: Whole, exchange: Exchange) -> Self {
        Self { source: Source::Whole { data: body.data, trailers: body.trailers }, exchange: Some(exchange) }
    }

    pub(super) fn upstream(body: Begun, lease: Lease, idle: Duration, exchange: Exchange) -> Self {
        let Begun { ahead, rest: body } = body;
        let streamed = Streamed { ahead, body, _lease: lease, idle, timer: None, last: Instant::now() };
        Self { source: Source::Upstream(Box::new(streamed)), exchange: Some(exchange) }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let polled = match &mut this.source {
            Source::Whole { data, .. } if !data.is_empty() => Poll::Ready(Some(Ok(Frame::data(std::mem::take(data))))),
            Source::Whole { trailers, .. } => Poll::Ready(trailers.take().map(|map| Ok(Frame::trailers(map)))),
            Source::Upstream(streamed) => streamed.poll(cx),
        };
        let ended = this.is_end_stream();
        let Some(exchange) = &mut this.exchange else { return polled };
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(data) = frame.data_ref() {
                    exchange.bytes_out += data.len() as u64;
                }
                if ended {
                    exchange.finish();
                }
            }
            // A body that is cut takes the answer with it.
            Poll::Ready(Some(Err(_))) if exchange.upload_fate() == BodyFate::TooLong => {
                exchange.broke(Reason::BodyTooLarge, "");
            }
            Poll::Ready(Some(Err(error))) => exchange.broke(error.reason(), &error.to_string()),
            Poll::Ready(None) => exchange.finish(),
            Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Whole { data, trailers } => data.is_empty() && trailers.is_none(),
            Source::Upstream(streamed) => streamed.ahead.is_empty() && streamed.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            // With trailers the length may not be announced: HTTP/1.1 sends them only after chunks (RFC 9112 §7.1.2).
            Source::Whole { trailers: Some(_), .. } => SizeHint::default(),
            Source::Whole { data, trailers: None } => SizeHint::with_exact(data.len() as u64),
            Source::Upstream(streamed) if streamed.ahead.is_empty() => streamed.body.size_hint(),
            Source::Upstream(_) => SizeHint::default(),
        }
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        // hyper does not poll a body that is at its end, and not the body of an answer to HEAD.
        let ended = self.is_end_stream() || matches!(self.source, Source::Whole { .. });
        if let Some(exchange) = &mut self.exchange
            && ended
        {
            exchange.finish();
        }
    }
}

impl Streamed {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if !self.ahead.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut self.ahead)))));
        }
        match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                if self.timer.is_some() {
                    self.last = Instant::now();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(BodyError::BrokeOff(error)))),
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => self.poll_idle(cx),
        }
    }

    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.timer.is_none() {
            self.last = Instant::now();
        }
        let end = self.last + self.idle;
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(end)));
        while timer.as_mut().poll(cx).is_ready() {
            if Instant::now() >= end {
                return Poll::Ready(Some(Err(BodyError::Idle(self.idle))));
            }
            timer.as_mut().reset(end);
        }
        Poll::Pending
    }
}

/// Why an answer broke off after its head. The caller's connection is then cut, so that a part is not taken for the whole
/// (RFC 9112 §8).
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    #[error("the answer broke off: {0}")]
    BrokeOff(hyper::Error),
    #[error("no byte of the answer for {0:?}")]
    Idle(Duration),
}

impl BodyError {
    fn reason(&self) -> Reason {
        match self {
            Self::BrokeOff(_) => Reason::UpstreamReset,
            Self::Idle(_) => Reason::Deadline,
        }
    }
}
