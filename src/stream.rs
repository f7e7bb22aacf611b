//! A connection as bytes both ways, whatever is below: a socket, or TLS on one.

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// Bytes both ways, each way closed by itself.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static {
    /// Makes the drop of the stream a reset instead of an orderly close: what was sent is not the whole of it
    /// (RFC 9293 §3.10.7). Where nothing below can say so, it does nothing.
    fn abort(&self) {}
}

impl Stream for TcpStream {
    fn abort(&self) {
        // A socket that is gone already needs no reset.
        let _ = self.set_zero_linger();
    }
}

impl Stream for tokio_rustls::client::TlsStream<TcpStream> {
    fn abort(&self) {
        self.get_ref().0.abort();
    }
}

impl Stream for tokio_rustls::server::TlsStream<TcpStream> {
    fn abort(&self) {
        self.get_ref().0.abort();
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
}
