//! Reads below TLS in large pieces while much comes: rustls asks for 4 KiB at a time, which would be four system calls for
//! each full record.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_util::io::poll_read_buf;

use super::Stream;

/// A stream that is read ahead of what is asked for, as soon as a read has filled all the space that it was given.
/// Messages that fit into what is asked for pass as they are, and a stream at rest holds no memory.
pub struct ReadAhead<S = TcpStream> {
    stream: S,
    /// Read and not asked for yet.
    ahead: BytesMut,
    /// The last read left something behind, or may have.
    more: bool,
}

impl<S> ReadAhead<S> {
    pub fn new(stream: S) -> Self {
        Self { stream, ahead: BytesMut::new(), more: false }
    }

    fn give(&mut self, buffer: &mut ReadBuf<'_>) {
        let now = self.ahead.len().min(buffer.remaining());
        buffer.put_slice(&self.ahead[..now]);
        self.ahead.advance(now);
    }

    fn rest(&mut self) {
        self.more = false;
        self.ahead = BytesMut::new();
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for ReadAhead<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.ahead.is_empty() {
            this.give(buffer);
            return Poll::Ready(Ok(()));
        }
        let asked = buffer.remaining();
        if !this.more || asked >= PIECE {
            let before = buffer.filled().len();
            ready!(Pin::new(&mut this.stream).poll_read(cx, buffer))?;
            this.more = asked > 0 && buffer.filled().len() - before == asked;
            return Poll::Ready(Ok(()));
        }
        this.ahead.reserve(PIECE);
        match poll_read_buf(Pin::new(&mut this.stream), cx, &mut this.ahead) {
            Poll::Ready(Ok(read)) if read > 0 => this.give(buffer),
            polled => {
                this.rest();
                return polled.map_ok(drop);
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for ReadAhead<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let stream = Pin::new(&mut self.stream);
        // A record, as a rule: `send` costs less than `writev`.
        if let [only] = slices { stream.poll_write(cx, only) } else { stream.poll_write_vectored(cx, slices) }
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl<S: Stream> Stream for ReadAhead<S> {
    fn abort(&self) {
        self.stream.abort();
    }

    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.ahead.is_empty() { self.stream.poll_readable(cx) } else { Poll::Ready(()) }
    }
}

/// Four full records with their overhead (RFC 8446 §5.2).
const PIECE: usize = 64 * 1024 + 512;

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// Counts how often it is read.
    struct Counted<S>(S, usize);

    impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
        fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            self.1 += 1;
            Pin::new(&mut self.0).poll_read(cx, buffer)
        }
    }

    #[tokio::test]
    async fn every_byte_comes_once_and_in_order_whatever_is_asked_for() {
        for asked in [1, 5, 4096, 100_000] {
            let sent: Vec<u8> = (0..150_000u32).map(|at| (at % 251) as u8).collect();
            let (mut to, from) = tokio::io::duplex(40_000);
            let copy = sent.clone();
            let writer = async move {
                for piece in copy.chunks(7_001) {
                    to.write_all(piece).await.unwrap();
                }
            };
            let reader = async {
                let (mut stream, mut got) = (ReadAhead::new(from), Vec::new());
                let mut buffer = vec![0; asked];
                loop {
                    match stream.read(&mut buffer).await.unwrap() {
                        0 => break,
                        read => got.extend_from_slice(&buffer[..read]),
                    }
                }
                assert_eq!(stream.ahead.capacity(), 0, "memory at the end");
                got
            };
            let ((), got) = tokio::join!(writer, reader);
            assert!(got == sent, "asked for {asked}");
        }
    }

    #[tokio::test]
    async fn much_is_read_in_few_reads_and_little_without_memory() {
        let (mut to, from) = tokio::io::duplex(1 << 20);
        to.write_all(&vec![1; 300_000]).await.unwrap();
        let mut stream = ReadAhead::new(Counted(from, 0));
        let mut buffer = [0; 4096];
        let mut left = 300_000;
        while left > 0 {
            left -= stream.read(&mut buffer).await.unwrap();
        }
        assert!(stream.stream.1 <= 6, "{} reads", stream.stream.1);
        to.write_all(b"short").await.unwrap();
        assert_eq!(stream.read(&mut buffer).await.unwrap(), 5);
        // Nothing more is there: whoever asks lets go of the memory.
        assert!(futures_util::poll!(Box::pin(stream.read(&mut buffer))).is_pending());
        assert_eq!((stream.ahead.capacity(), stream.more), (0, false));
        to.write_all(b"short").await.unwrap();
        assert_eq!(stream.read(&mut buffer).await.unwrap(), 5);
        assert_eq!(stream.ahead.capacity(), 0);
    }

    #[tokio::test]
    async fn an_error_is_told_after_what_came_before_it() {
        let mut script = broken_off();
        let mut buffer = [0; 4];
        assert_eq!(script.read(&mut buffer).await.unwrap(), 4);
        assert_eq!(script.read(&mut buffer).await.unwrap(), 2);
        assert_eq!(script.read(&mut buffer).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    }

    /// Six bytes, then a reset.
    fn broken_off() -> ReadAhead<impl AsyncRead + Unpin> {
        struct Script(&'static [u8]);
        impl AsyncRead for Script {
            fn poll_read(
                mut self: Pin<&mut Self>,
                _: &mut Context<'_>,
                buffer: &mut ReadBuf<'_>,
            ) -> Poll<io::Result<()>> {
                if self.0.is_empty() {
                    return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
                }
                let now = self.0.len().min(buffer.remaining());
                buffer.put_slice(&self.0[..now]);
                self.0 = &self.0[now..];
                Poll::Ready(Ok(()))
            }
        }
        ReadAhead::new(Script(b"abcdef"))
    }
}
