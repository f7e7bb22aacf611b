//! A byte stream whose writes go out together: HTTP/2 asks for a flush after nearly every frame, and each would be a
//! system call, over TLS a record too. Here the flush is put off to the end of the turn of the task that drives the
//! connection: nothing waits longer than the turn in which it was written.

use std::cell::Cell;
use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use hyper::rt::Executor;
use hyper_util::rt::TokioExecutor;
use parking_lot::Mutex;
use pin_project_lite::pin_project;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A stream as HTTP/2 sees it: its flushes do nothing.
pub struct Late<S>(Arc<Mutex<Gathered<S>>>);

/// What flushes it; whoever polls the connection asks it to after each poll.
pub struct Flush<S>(Arc<Mutex<Gathered<S>>>);

impl<S> Clone for Flush<S> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

/// One task uses it: the lock is never contended.
struct Gathered<S> {
    stream: S,
    /// Written from `sent` on yet to be written on. Its memory is the thread's while it is empty.
    held: Vec<u8>,
    sent: usize,
    /// The stream below has been written to since it was flushed.
    dirty: bool,
    /// What a flush met after the poll that asked for it, for the next poll to find.
    broken: Option<io::Error>,
}

impl<S> Late<S> {
    pub fn new(stream: S) -> (Self, Flush<S>) {
        let gathered = Gathered { stream, held: Vec::new(), sent: 0, dirty: false, broken: None };
        let shared = Arc::new(Mutex::new(gathered));
        (Self(shared.clone()), Flush(shared))
    }
}

impl<S: AsyncWrite + Unpin> Flush<S> {
    /// Sends what was gathered. Where the peer takes no more now, the task is woken when it does and has to ask again
    /// after its next poll; an error is told to that poll.
    pub fn after_poll(&self, cx: &mut Context<'_>) {
        let mut gathered = self.0.lock();
        if let Poll::Ready(Err(error)) = gathered.drain(cx) {
            gathered.broken = Some(error);
            cx.waker().wake_by_ref();
        }
    }
}

impl<S: AsyncWrite + Unpin> Gathered<S> {
    fn drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.held.len() {
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.held[self.sent..]))?;
            self.count(written)?;
        }
        self.give_back();
        if self.dirty {
            ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
            self.dirty = false;
        }
        Poll::Ready(Ok(()))
    }

    fn write(&mut self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        if let Some(error) = self.broken.take() {
            return Poll::Ready(Err(error));
        }
        let length: usize = slices.iter().map(|slice| slice.len()).sum();
        loop {
            let waiting = self.held.len() - self.sent;
            if waiting + length <= MOST {
                if self.held.capacity() == 0 {
                    self.held = SPARE.take();
                }
                for slice in slices {
                    self.held.extend_from_slice(slice);
                }
                self.dirty = true;
                return Poll::Ready(Ok(length));
            }
            // Much at once goes out as it is, after what waits, in one call.
            let mut all = [IoSlice::new(&[]); SLICES];
            all[0] = IoSlice::new(&self.held[self.sent..]);
            let more = slices.len().min(SLICES - 1);
            all[1..=more].copy_from_slice(&slices[..more]);
            let from = usize::from(waiting == 0);
            let written = ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, &all[from..=more]))?;
            self.count(written.min(waiting))?;
            self.dirty = true;
            if written > waiting {
                self.give_back();
                return Poll::Ready(Ok(written - waiting));
            }
        }
    }

    fn count(&mut self, written: usize) -> io::Result<()> {
        if written == 0 && self.sent < self.held.len() {
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.sent += written;
        Ok(())
    }

    /// Leaves the empty buffer to the thread's next connection: one at rest holds none.
    fn give_back(&mut self) {
        if self.held.capacity() > 0 {
            self.held.clear();
            SPARE.set(std::mem::take(&mut self.held));
        }
        self.sent = 0;
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Late<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut gathered = self.0.lock();
        match gathered.broken.take() {
            Some(error) => Poll::Ready(Err(error)),
            None => Pin::new(&mut gathered.stream).poll_read(cx, buffer),
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Late<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.0.lock().write(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.0.lock().write(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.0.lock().broken.take().map_or(Ok(()), Err))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut gathered = self.0.lock();
        ready!(gathered.drain(cx))?;
        Pin::new(&mut gathered.stream).poll_shutdown(cx)
    }
}

/// Spawns as `TokioExecutor`, for a client's HTTP/2 connection: hyper hands it the task that drives the connection before
/// anything else, and that task flushes.
pub struct Driver<S> {
    flush: Flush<S>,
    driven: Arc<AtomicBool>,
}

impl<S> Driver<S> {
    pub fn new(flush: Flush<S>) -> Self {
        Self { flush, driven: Arc::default() }
    }
}

impl<S> Clone for Driver<S> {
    fn clone(&self) -> Self {
        Self { flush: self.flush.clone(), driven: self.driven.clone() }
    }
}

impl<S, F> Executor<F> for Driver<S>
where
    S: AsyncWrite + Send + Unpin + 'static,
    F: Future<Output: Send> + Send + 'static,
{
    fn execute(&self, task: F) {
        if self.driven.swap(true, Ordering::Relaxed) {
            TokioExecutor::new().execute(task);
        } else {
            TokioExecutor::new().execute(Flushing { task, flush: self.flush.clone() });
        }
    }
}

pin_project! {
    /// A task that flushes after each of its turns.
    struct Flushing<F, S> {
        #[pin]
        task: F,
        flush: Flush<S>,
    }
}

impl<F: Future, S: AsyncWrite + Unpin> Future for Flushing<F, S> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let polled = this.task.poll(cx);
        this.flush.after_poll(cx);
        polled
    }
}

thread_local! {
    /// One empty buffer for the thread's connections.
    static SPARE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Bytes that are gathered at most: two whole TLS records. More goes out as it comes, which is also the back-pressure.
const MOST: usize = 32 * 1024;
const SLICES: usize = 16;

#[cfg(test)]
mod tests;
