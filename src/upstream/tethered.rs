//! Bodies of answers, each with the connection that it came on: at its end the connection is free for the next request.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::client::conn::http1;

use super::RequestBody;
use super::pool::Connections;
use super::shared::Shared;

/// The body of an answer; when it has ended well, its connection goes back to the pool.
pub struct Tethered {
    pub(super) incoming: Incoming,
    pub(super) home: Home,
}

pub(super) enum Home {
    Http1 {
        sender: Option<http1::SendRequest<RequestBody>>,
        to: Arc<Connections>,
    },
    /// Held for its count of streams.
    Http2 {
        shared: Shared,
    },
    Gone,
}

impl Tethered {
    /// Its connection ends with it.
    pub(super) fn alone(incoming: Incoming) -> Self {
        Self { incoming, home: Home::Gone }
    }

    pub(super) fn shared(incoming: Incoming, shared: Shared) -> Self {
        Self { incoming, home: Home::Http2 { shared } }
    }

    fn go_home(&mut self) {
        match std::mem::replace(&mut self.home, Home::Gone) {
            Home::Http1 { sender: Some(sender), to } => {
                to.give_back(sender);
            }
            Home::Http2 { shared } => shared.ended(),
            Home::Http1 { sender: None, .. } | Home::Gone => {}
        }
    }
}

impl Body for Tethered {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let polled = Pin::new(&mut self.incoming).poll_frame(cx);
        if matches!(polled, Poll::Ready(None))
            || (matches!(polled, Poll::Ready(Some(Ok(_)))) && self.incoming.is_end_stream())
        {
            self.go_home();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

impl Drop for Tethered {
    fn drop(&mut self) {
        // hyper never polls a body that says it is at its end (HEAD, 204, 304, length 0).
        if self.incoming.is_end_stream() {
            self.go_home();
        }
    }
}
