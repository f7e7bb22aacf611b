//! Short answers are waited for before the caller sees their head: then an endpoint that dies half way costs another try
//! and not the answer. Streams are not held back.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode, header};
use hyper::body::Body;
use tokio::time::Sleep;

use crate::route::{OnReset, Route};
use crate::upstream::{AttemptError, Tethered};

/// A body that has come to its end.
pub(super) struct Whole {
    pub data: Bytes,
    pub trailers: Option<HeaderMap>,
}

/// A body of which more may come.
pub(super) struct Begun {
    pub ahead: Bytes,
    pub rest: Tethered,
}

pub(super) enum Gathered {
    Whole(Response<Whole>),
    Begun(Response<Begun>),
}

impl Gathered {
    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::Whole(response) => response.status(),
            Self::Begun(response) => response.status(),
        }
    }
}

/// How long an answer's body is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Patience {
    None,
    /// The length was announced, and is short: without a byte for this long it is broken.
    Announced(Duration),
    /// It may be a short answer or a stream: after this long it is taken for a stream.
    Unknown(Duration),
}

impl Patience {
    pub(super) fn of(response: &Response<Tethered>, route: &Route) -> Self {
        if response.body().is_end_stream() {
            return Self::None;
        }
        match response.body().size_hint().exact() {
            Some(size) if size <= SHORT => Self::Announced(route.idle_timeout),
            Some(_) => Self::None,
            None if route.retry.on_reset != OnReset::Always || is_stream(response.headers()) => Self::None,
            None => Self::Unknown(WINDOW),
        }
    }
}

/// Content that is sent piece by piece on purpose.
fn is_stream(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).map_or(&b""[..], |value| value.as_bytes());
    kind.starts_with(b"text/event-stream") || kind.starts_with(b"application/grpc")
}

/// Reads as much of the body as `patience` allows.
///
/// # Errors
/// `Reset` when the body breaks off meanwhile: nothing of it has reached the caller.
#[expect(clippy::manual_async_fn, reason = "an async fn keeps its arguments twice, in the future of every request")]
pub(super) fn gather(
    response: Response<Tethered>,
    patience: Patience,
) -> impl Future<Output = Result<Gathered, AttemptError>> + Send {
    async move {
        let (head, mut body) = response.into_parts();
        let (limit, announced) = match patience {
            Patience::None => {
                return Ok(Gathered::Begun(Response::from_parts(head, Begun { ahead: Bytes::new(), rest: body })));
            }
            Patience::Announced(limit) => (limit, true),
            Patience::Unknown(limit) => (limit, false),
        };
        let mut whole = Whole { data: Bytes::new(), trailers: None };
        // Made at the first wait: an answer whose body came with its head costs no look at the clock.
        let mut late = pin!(None::<Sleep>);
        loop {
            let frame = poll_fn(|cx| {
                if let Poll::Ready(frame) = Pin::new(&mut body).poll_frame(cx) {
                    return Poll::Ready(Some(frame));
                }
                if late.is_none() {
                    late.set(Some(tokio::time::sleep(limit)));
                }
                late.as_mut().as_pin_mut().map_or(Poll::Pending, |late| late.poll(cx).map(|()| None))
            });
            let Some(frame) = frame.await else {
                if announced {
                    return Err(AttemptError::Reset(format!("no end of the answer for {limit:?}")));
                }
                return Ok(Gathered::Begun(Response::from_parts(head, Begun { ahead: whole.data, rest: body })));
            };
            match frame {
                None => return Ok(Gathered::Whole(Response::from_parts(head, whole))),
                Some(Err(error)) => return Err(AttemptError::Reset(format!("the answer broke off: {error}"))),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) if whole.data.is_empty() => whole.data = data,
                    Ok(data) => whole.data = [whole.data, data].concat().into(),
                    Err(frame) => whole.trailers = frame.into_trailers().ok(),
                },
            }
            if body.is_end_stream() {
                return Ok(Gathered::Whole(Response::from_parts(head, whole)));
            }
            if whole.data.len() as u64 > SHORT {
                return Ok(Gathered::Begun(Response::from_parts(head, Begun { ahead: whole.data, rest: body })));
            }
        }
    }
}

/// Bytes of a body that is waited for: what a connection carries in a round trip or two.
const SHORT: u64 = 16 * 1024;
/// What a stream's first bytes may be late at most.
const WINDOW: Duration = Duration::from_millis(20);
