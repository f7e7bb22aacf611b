//! A connection as bytes both ways, whatever is below: a socket, or TLS on one.

mod brief;
mod read_ahead;

use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

pub use brief::Brief;
pub use read_ahead::ReadAhead;

/// Bytes both ways, each way closed by itself.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static {
    /// Makes the drop of the stream a reset instead of an orderly close: what was sent is not the whole of it
    /// (RFC 9293 §3.10.7). Where nothing below can say so, it does nothing.
    fn abort(&self) {}

    /// Ready when there may be something to read, which nothing takes away; where nothing below can say so, always.
    fn poll_readable(&self, _: &mut Context<'_>) -> Poll<()> {
        Poll::Ready(())
    }
}

impl Stream for TcpStream {
    fn abort(&self) {
        // A socket that is gone already needs no reset.
        let _ = self.set_zero_linger();
    }

    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        // An error is found by who reads.
        self.poll_read_ready(cx).map(drop)
    }
}

impl Stream for tokio_rustls::client::TlsStream<ReadAhead> {
    fn abort(&self) {
        self.get_ref().0.abort();
    }

    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.get_ref().0.poll_readable(cx)
    }
}

impl Stream for tokio_rustls::server::TlsStream<ReadAhead> {
    fn abort(&self) {
        self.get_ref().0.abort();
    }

    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.get_ref().0.poll_readable(cx)
    }
}

#[cfg(test)]
impl Stream for tokio::io::DuplexStream {}

/// What hyper hands out after an upgrade: there is no way to the socket below.
impl Stream for hyper_util::rt::TokioIo<hyper::upgrade::Upgraded> {}

impl<S: Stream + ?Sized> Stream for Box<S> {
    fn abort(&self) {
        (**self).abort();
    }

    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        (**self).poll_readable(cx)
    }
}
