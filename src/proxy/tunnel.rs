//! A tunnel from its opening to its end: bytes both ways, what is counted and logged of it, and its part in a drain.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use super::copy::{Copy, End, Side};
use super::exchange::Exchange;
use super::verdict::{PENALTY, note_transition};
use crate::clock;
use crate::lifecycle::Lifecycle;
use crate::listen::Hold;
use crate::reason::Reason;
use crate::route::Route;
use crate::service::Lease;
use crate::stream::Stream;
use crate::upstream::Held;

/// An open tunnel with all that it holds until its end.
pub(super) struct Tunnel {
    pub exchange: Exchange,
    pub route: Arc<Route>,
    pub lease: Lease,
    /// Its place among the connections to the service.
    pub _held: Held,
    /// Keeps the client's connection counted and open.
    pub hold: Hold,
    /// How long the endpoint took to take it: its latency, told with its first byte.
    pub took: Duration,
    /// Whether the endpoint has proven by more than a connection that it is well.
    pub proven: bool,
}

impl Tunnel {
    /// Copies until both sides have closed, one broke off, nothing came for too long, or time is up.
    pub(super) async fn run<A: Stream, B: Stream>(mut self, client: A, endpoint: B, lifecycle: Lifecycle) {
        let mut copy = Copy::new(client, endpoint, self.route.idle_timeout);
        let mut cut = pin!(lifecycle.cut_short());
        let mut shut_out = pin!(self.hold.cut_short());
        let mut is_shut_out = false;
        let end = std::future::poll_fn(|cx| {
            let polled = copy.poll(cx).map(Some);
            self.exchange.bytes_in = copy.bytes_up();
            self.exchange.bytes_out = copy.bytes_down();
            if !self.proven && copy.bytes_down() > 0 {
                self.prove();
            }
            if polled.is_ready() {
                return polled;
            }
            is_shut_out = shut_out.as_mut().poll(cx).is_ready();
            if is_shut_out { Poll::Ready(None) } else { cut.as_mut().poll(cx).map(|()| None) }
        })
        .await;
        if is_shut_out {
            let (client, endpoint) = copy.sides();
            client.abort();
            endpoint.abort();
            return self.exchange.broke(Reason::Denied, "the caller may not call any more");
        }
        let Some(end) = end else {
            // Dropped on the way, it counts as cut all the same.
            self.exchange.cut();
            let _ = tokio::time::timeout(CLOSING, copy.close()).await;
            return self.exchange.finish();
        };
        self.settle(end, &mut copy).await;
    }

    async fn settle<A: Stream, B: Stream>(mut self, end: End, copy: &mut Copy<A, B>) {
        match end {
            End::Closed => {
                if !self.proven {
                    self.prove();
                }
                self.exchange.finish();
            }
            End::Idle => {
                let detail = format!("no byte either way for {:?}", self.route.idle_timeout);
                let _ = tokio::time::timeout(CLOSING, copy.close()).await;
                self.exchange.broke(Reason::Deadline, &detail);
            }
            End::Broke(Side::Client, error) => {
                // What the client sent is not all that it had to say: a reset passes that on.
                copy.sides().1.abort();
                self.exchange.broke(Reason::ClientGone, &cause("the client", &error));
            }
            End::Broke(Side::Endpoint, error) => {
                copy.sides().0.abort();
                if !self.proven {
                    let transition = self.lease.broke(PENALTY, clock::now());
                    note_transition(&self.route, &self.lease, transition, &error);
                }
                self.exchange.broke(Reason::UpstreamReset, &cause("the endpoint", &error));
            }
        }
    }

    fn prove(&mut self) {
        self.proven = true;
        let now = clock::now();
        let transition = self.lease.answered(now.checked_sub(self.took).unwrap_or(now), now, true);
        note_transition(&self.route, &self.lease, transition, &"");
    }
}

fn cause(side: &str, error: &io::Error) -> String {
    format!("{side} broke off: {error}")
}

/// What an orderly close may take.
const CLOSING: Duration = Duration::from_millis(100);
