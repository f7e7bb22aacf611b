//! The byte stream under an HTTP server, watched: what was sniffed comes first, arriving bytes are noted, and hyper's own
//! bare answers to malformed heads are held back, so that the reason can be said instead.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};

use super::connection::Connection;
use super::frames::{Frames, Standing};
use super::sniff::Prefix;
use crate::stream::Stream;

/// A stream with its connection's clock.
pub(super) struct Guarded<S> {
    stream: S,
    prefix: Prefix,
    connection: Arc<Connection>,
    held: Option<&'static [u8]>,
    /// Where it is HTTP/2.
    frames: Option<Frames>,
}

impl<S> Guarded<S> {
    pub(super) fn new(stream: S, prefix: Prefix, connection: Arc<Connection>) -> Self {
        if !prefix.is_empty() {
            connection.bytes_came();
        }
        Self { stream, prefix, connection, held: None, frames: None }
    }

    /// The same for HTTP/2, whose preface is `prefix`.
    pub(super) fn framed(stream: S, prefix: Prefix, connection: Arc<Connection>) -> Self {
        // Until the first frame is here, a head is being waited for.
        connection.block_began();
        let frames = Some(Frames::new(connection.peer.tls.is_some()));
        Self { stream, prefix, connection, held: None, frames }
    }

    /// Looks at bytes that came.
    fn came(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Some(frames) = &mut self.frames else {
            self.connection.bytes_came();
            return Ok(());
        };
        match frames.read(bytes) {
            Ok(Standing::Whole) => self.connection.block_ended(),
            Ok(Standing::Begun) => self.connection.block_began(),
            Ok(Standing::Unfinished) => {}
            Err(excess) => {
                self.connection.note_excess(excess);
                return Err(io::Error::other("too many frames that bring nothing"));
            }
        }
        Ok(())
    }

    fn went(&mut self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let (Some(frames), Poll::Ready(Ok(bytes))) = (&mut self.frames, &written) {
            frames.sent(*bytes);
        }
        written
    }

    /// The stream, with what was held back.
    pub(super) fn into_parts(self) -> (S, Option<&'static [u8]>) {
        (self.stream, self.held)
    }

    /// What was read and not used comes first again.
    pub(super) fn unread(&mut self, bytes: &[u8]) {
        self.prefix.insert_from_slice(0, bytes);
    }

    /// True where the bytes are one of hyper's own answers, whole; they are kept and not written.
    ///
    /// An app may answer in just these bytes; so they are held only until the connection's end tells which it was.
    fn hold(&mut self, first: &[u8], rest: &[IoSlice<'_>]) -> Option<usize> {
        if !first.starts_with(b"HTTP/1.1 4") || !rest.iter().all(|slice| slice.is_empty()) {
            return None;
        }
        let bare = BARE_ANSWERS.into_iter().find(|bare| *bare == first && !self.connection.has_tunnel())?;
        self.held = Some(bare);
        Some(bare.len())
    }
}

impl<S: Stream> Guarded<S> {
    /// Ready when there may be something to read.
    pub(super) fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.prefix.is_empty() { self.stream.poll_readable(cx) } else { Poll::Ready(()) }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.prefix.is_empty() {
            let now = self.prefix.len().min(buffer.remaining());
            buffer.put_slice(&self.prefix[..now]);
            self.prefix.drain(..now);
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        if buffer.filled().len() > before {
            self.came(&buffer.filled()[before..])?;
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if let Some(held) = self.hold(bytes, &[]) {
            return Poll::Ready(Ok(held));
        }
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.connection.note_blocked(written.is_pending());
        self.went(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if let Some((first, rest)) = slices.split_first()
            && let Some(held) = self.hold(first, rest)
        {
            return Poll::Ready(Ok(held));
        }
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.connection.note_blocked(written.is_pending());
        self.went(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        if flushed.is_pending() {
            self.connection.note_blocked(true);
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // What is held has yet to be written, or replaced.
        if self.held.is_some() {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Writes a last answer and closes, reading a little of what still comes: a close over unread bytes would reset the
/// connection and take the answer with it (RFC 9112 §9.6). Takes at most a second or so.
pub(super) async fn tell_and_close<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, answer: &[u8]) {
    let told = async {
        stream.write_all(answer).await?;
        stream.shutdown().await
    };
    if !matches!(tokio::time::timeout(Duration::from_secs(1), told).await, Ok(Ok(()))) {
        return;
    }
    let linger = async {
        // On the heap: the future is part of every connection's task, and few come here.
        let mut sink = vec![0u8; 4096];
        let mut left = 256 * 1024usize;
        while left > 0 {
            match stream.read(&mut sink).await {
                Ok(read) if read > 0 => left = left.saturating_sub(read),
                _ => return,
            }
        }
    };
    let _ = tokio::time::timeout(Duration::from_millis(500), linger).await;
}

/// What hyper's HTTP/1 server writes by itself for a head that it cannot take.
const BARE_ANSWERS: [&[u8]; 3] = [
    b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
    b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
    b"HTTP/1.1 414 URI Too Long\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
];
