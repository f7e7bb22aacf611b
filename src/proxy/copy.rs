//! Bytes both ways between two streams: each way ends by itself, both are held to one idle limit. A tunnel at rest holds no
//! buffer.

use std::future::Future;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// The two ends of a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Client,
    Endpoint,
}

/// How a tunnel ended.
#[derive(Debug)]
pub(super) enum End {
    /// Both sides have closed.
    Closed,
    /// No byte either way for the idle limit.
    Idle,
    /// A side broke off.
    Broke(Side, io::Error),
}

/// A copy under way. Polled after its end it panics.
pub(super) struct Copy<A, B> {
    client: A,
    endpoint: B,
    /// From the client to the endpoint.
    up: Way,
    /// From the endpoint to the client.
    down: Way,
    idle: Duration,
    timer: Pin<Box<Sleep>>,
    last: Instant,
}

/// One way of a copy.
#[derive(Default)]
struct Way {
    /// Read and not written yet.
    rest: Vec<u8>,
    written: usize,
    bytes: u64,
    state: State,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    #[default]
    Open,
    /// The reader has closed: what is left is written, then the writer is closed.
    Closing,
    Closed,
}

/// Which side of a way failed.
enum Failed {
    Read(io::Error),
    Write(io::Error),
}

impl<A, B> Copy<A, B>
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    pub(super) fn new(client: A, endpoint: B, idle: Duration) -> Self {
        let last = Instant::now();
        let timer = Box::pin(tokio::time::sleep_until(last + idle));
        Self { client, endpoint, up: Way::default(), down: Way::default(), idle, timer, last }
    }

    pub(super) fn bytes_up(&self) -> u64 {
        self.up.bytes
    }

    pub(super) fn bytes_down(&self) -> u64 {
        self.down.bytes
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        let before = self.up.bytes + self.down.bytes;
        let up = self.up.poll(cx, &mut self.client, &mut self.endpoint);
        let down = self.down.poll(cx, &mut self.endpoint, &mut self.client);
        if self.up.bytes + self.down.bytes != before {
            self.last = Instant::now();
        }
        let broke = |failed, reader, writer| match failed {
            Failed::Read(error) => Poll::Ready(End::Broke(reader, error)),
            Failed::Write(error) => Poll::Ready(End::Broke(writer, error)),
        };
        match (up, down) {
            (Poll::Ready(Err(failed)), _) => broke(failed, Side::Client, Side::Endpoint),
            (_, Poll::Ready(Err(failed))) => broke(failed, Side::Endpoint, Side::Client),
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => Poll::Ready(End::Closed),
            (Poll::Pending, _) | (_, Poll::Pending) => self.poll_idle(cx),
        }
    }

    /// The timer is looked at when it fires, not moved with each byte.
    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        let end = self.last + self.idle;
        while self.timer.as_mut().poll(cx).is_ready() {
            if Instant::now() >= end {
                return Poll::Ready(End::Idle);
            }
            self.timer.as_mut().reset(end);
        }
        Poll::Pending
    }

    /// Closes both ways in order, as far as they take it at once; what was read and not written is lost.
    pub(super) async fn close(&mut self) {
        std::future::poll_fn(|cx| {
            let client = Pin::new(&mut self.client).poll_shutdown(cx).is_ready();
            let endpoint = Pin::new(&mut self.endpoint).poll_shutdown(cx).is_ready();
            if client && endpoint { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    pub(super) fn sides(&self) -> (&A, &B) {
        (&self.client, &self.endpoint)
    }
}

impl Way {
    fn poll<R, W>(&mut self, cx: &mut Context<'_>, reader: &mut R, writer: &mut W) -> Poll<Result<(), Failed>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        // A side that is always ready must not keep its worker from everyone else.
        for _ in 0..TURNS {
            if self.written < self.rest.len() {
                ready!(self.write_rest(cx, writer)).map_err(Failed::Write)?;
            }
            match self.state {
                State::Closed => return Poll::Ready(Ok(())),
                State::Closing => {
                    ready!(Pin::new(&mut *writer).poll_shutdown(cx)).map_err(Failed::Write)?;
                    self.state = State::Closed;
                    return Poll::Ready(Ok(()));
                }
                State::Open => {}
            }
            let mut space = [MaybeUninit::uninit(); PIECE];
            let mut piece = ReadBuf::uninit(&mut space);
            match Pin::new(&mut *reader).poll_read(cx, &mut piece) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(Failed::Read(error))),
                Poll::Pending => {
                    // Nothing more to say for now: what is buffered below must go out.
                    let _ = Pin::new(&mut *writer).poll_flush(cx).map_err(Failed::Write)?;
                    return Poll::Pending;
                }
            }
            let piece = piece.filled();
            if piece.is_empty() {
                self.state = State::Closing;
                continue;
            }
            self.bytes += piece.len() as u64;
            let written = match Pin::new(&mut *writer).poll_write(cx, piece) {
                Poll::Ready(written) => written.map_err(Failed::Write)?,
                Poll::Pending => 0,
            };
            if written < piece.len() {
                self.rest.extend_from_slice(&piece[written..]);
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn write_rest<W: AsyncWrite + Unpin>(&mut self, cx: &mut Context<'_>, writer: &mut W) -> Poll<io::Result<()>> {
        while self.written < self.rest.len() {
            match ready!(Pin::new(&mut *writer).poll_write(cx, &self.rest[self.written..])) {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(written) => self.written += written,
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        // Given back: most tunnels are at rest most of the time.
        self.rest = Vec::new();
        self.written = 0;
        Poll::Ready(Ok(()))
    }
}

/// What is read at once: a TLS record.
const PIECE: usize = 16 * 1024;
/// Pieces of one way before everyone else gets a turn.
const TURNS: usize = 16;

#[cfg(test)]
#[path = "copy_tests.rs"]
mod tests;
