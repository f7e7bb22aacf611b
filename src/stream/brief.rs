//! Writes few bytes in one piece: for a head and a short body, one copy and `send` cost less than `writev` of the two.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::Stream;

/// A stream whose short vectored writes become plain ones.
pub struct Brief<S = TcpStream>(S);

impl<S> Brief<S> {
    pub fn new(stream: S) -> Self {
        Self(stream)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Brief<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let stream = Pin::new(&mut self.0);
        if let [only] = slices {
            return stream.poll_write(cx, only);
        }
        if slices.iter().map(|slice| slice.len()).sum::<usize>() > FEW {
            return stream.poll_write_vectored(cx, slices);
        }
        JOINED.with_borrow_mut(|joined| {
            joined.clear();
            for slice in slices {
                joined.extend_from_slice(slice);
            }
            stream.poll_write(cx, joined)
        })
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Brief<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl<S: Stream> Stream for Brief<S> {
    fn abort(&self) {
        self.0.abort();
    }

    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.0.poll_readable(cx)
    }
}

thread_local! {
    /// Of at most `FEW` bytes: those of the last write.
    static JOINED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Bytes that cost less to copy than to name in two pieces.
const FEW: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// How often it was written to, and in how many pieces at most.
    struct Counted<S> {
        inner: S,
        writes: usize,
        most: usize,
    }

    impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
        fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            self.writes += 1;
            self.most = self.most.max(1);
            Pin::new(&mut self.inner).poll_write(cx, bytes)
        }

        fn poll_write_vectored(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            slices: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            self.writes += 1;
            self.most = self.most.max(slices.len());
            Pin::new(&mut self.inner).poll_write_vectored(cx, slices)
        }

        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.inner).poll_flush(cx)
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.inner).poll_shutdown(cx)
        }
    }

    /// What arrives of `slices`, in how many writes, and in how many pieces at most.
    async fn sent(slices: &[&[u8]]) -> (Vec<u8>, usize, usize) {
        let (to, mut from) = tokio::io::duplex(1 << 20);
        let mut stream = Brief::new(Counted { inner: to, writes: 0, most: 0 });
        let slices: Vec<_> = slices.iter().map(|slice| IoSlice::new(slice)).collect();
        let whole = slices.iter().map(|slice| slice.len()).sum::<usize>();
        assert_eq!(stream.write_vectored(&slices).await.unwrap(), whole);
        let (writes, most) = (stream.0.writes, stream.0.most);
        drop(stream);
        let mut got = Vec::new();
        from.read_to_end(&mut got).await.unwrap();
        (got, writes, most)
    }

    #[tokio::test]
    async fn few_bytes_leave_in_one_piece_and_many_as_they_are() {
        assert_eq!(sent(&[b"head", b"", b"body"]).await, (b"headbody".to_vec(), 1, 1));
        assert_eq!(sent(&[b"again"]).await, (b"again".to_vec(), 1, 1));
        let long = vec![b'x'; FEW];
        let (got, writes, most) = sent(&[b"head", &long]).await;
        assert_eq!((got.len(), writes, most), (FEW + 4, 1, 2));
    }
}
