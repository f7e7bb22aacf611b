//! A transport that gathers an HTTP/2 connection's small writes and sends them late: at the connection's next poll.
//!
//! h2 hands each DATA frame to the transport by itself and flushes once a request: over TLS a record and a system call
//! each. Put off to the next poll, everything that was ready to run meanwhile has written, and leaves in one piece.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// More than this goes out at once.
const ROOM: usize = 32 * 1024;

pub struct Late<S> {
    stream: S,
    /// `None`: writes pass as they are.
    kept: Option<Vec<u8>>,
    sent: usize,
    /// A flush was asked for since the last poll.
    due: bool,
}

impl<S> Late<S> {
    pub fn new(stream: S, late: bool) -> Self {
        Self { stream, kept: late.then(|| Vec::with_capacity(4096)), sent: 0, due: false }
    }
}

impl<S: AsyncWrite + Unpin> Late<S> {
    fn send(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(kept) = &mut self.kept else { return Poll::Ready(Ok(())) };
        while self.sent < kept.len() {
            match ready!(Pin::new(&mut self.stream).poll_write(context, &kept[self.sent..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.sent += written,
            }
        }
        kept.clear();
        self.sent = 0;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Late<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        // A connection reads first at each poll.
        if std::mem::take(&mut self.due)
            && let Poll::Ready(Err(error)) = self.send(context)
        {
            return Poll::Ready(Err(error));
        }
        Pin::new(&mut self.stream).poll_read(context, into)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Late<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[io::IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let total: usize = pieces.iter().map(|piece| piece.len()).sum();
        if self.kept.as_ref().is_some_and(|kept| kept.len() + total > ROOM) {
            ready!(self.send(context))?;
        }
        match &mut self.kept {
            Some(kept) if total < ROOM => {
                pieces.iter().for_each(|piece| kept.extend_from_slice(piece));
                Poll::Ready(Ok(total))
            }
            _ => Pin::new(&mut self.stream).poll_write_vectored(context, pieces),
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.kept.is_some() || self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.kept.as_ref().is_some_and(|kept| !kept.is_empty()) {
            if !self.due {
                self.due = true;
                context.waker().wake_by_ref();
            }
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.send(context))?;
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
