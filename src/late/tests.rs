//! Late flushes: what is gathered, back-pressure, errors, and HTTP/2 over them from end to end.

use std::convert::Infallible;
use std::task::Waker;

use bytes::Bytes;
use futures_util::future::join_all;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

/// A peer that takes as much as it is told to.
#[derive(Clone, Default)]
struct Peer(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    came: Vec<u8>,
    calls: usize,
    flushes: usize,
    /// What it takes yet, and at most at once.
    room: usize,
    gulp: usize,
    broken: bool,
    closed_after: Option<usize>,
    waker: Option<Waker>,
}

impl Peer {
    fn with_room(room: usize) -> Self {
        let peer = Self::default();
        (peer.0.lock().room, peer.0.lock().gulp) = (room, usize::MAX);
        peer
    }

    fn make_room(&self, room: usize) {
        let mut inner = self.0.lock();
        inner.room += room;
        if let Some(waker) = inner.waker.take() {
            waker.wake();
        }
    }

    fn calls(&self) -> usize {
        self.0.lock().calls
    }

    fn came(&self) -> Vec<u8> {
        self.0.lock().came.clone()
    }
}

impl AsyncWrite for Peer {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut inner = self.0.lock();
        if inner.broken {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        if inner.room == 0 {
            inner.waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        inner.calls += 1;
        let mut taken = 0;
        for slice in slices {
            let part = slice.len().min(inner.room).min(inner.gulp - taken);
            inner.came.extend_from_slice(&slice[..part]);
            inner.room -= part;
            taken += part;
        }
        Poll::Ready(Ok(taken))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.lock().flushes += 1;
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.0.lock();
        inner.closed_after = Some(inner.came.len());
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Peer {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Poll::Pending
    }
}

fn context() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

fn write(late: &mut Late<Peer>, bytes: &[u8]) -> Poll<io::Result<usize>> {
    Pin::new(late).poll_write(&mut context(), bytes)
}

#[test]
fn what_a_turn_writes_goes_out_in_one_call_at_its_end() {
    let peer = Peer::with_room(usize::MAX);
    let (mut late, flush) = Late::new(peer.clone());
    for part in [&b"one "[..], b"two ", b"three"] {
        assert!(matches!(write(&mut late, part), Poll::Ready(Ok(length)) if length == part.len()));
        assert!(Pin::new(&mut late).poll_flush(&mut context()).is_ready());
    }
    assert_eq!(peer.calls(), 0);
    flush.after_poll(&mut context());
    assert_eq!((peer.came(), peer.calls(), peer.0.lock().flushes), (b"one two three".to_vec(), 1, 1));
    flush.after_poll(&mut context());
    assert_eq!((peer.calls(), peer.0.lock().flushes), (1, 1), "a turn that wrote nothing costs no call");
}

#[test]
fn a_peer_that_takes_nothing_holds_the_writer_up() {
    let peer = Peer::with_room(0);
    let (mut late, flush) = Late::new(peer.clone());
    let chunk = [7; 1000];
    let mut taken = 0;
    while let Poll::Ready(written) = write(&mut late, &chunk) {
        taken += written.unwrap();
        flush.after_poll(&mut context());
        assert!(taken <= MOST, "no more is kept than that");
    }
    assert!(taken > MOST - chunk.len());
    assert!(peer.0.lock().waker.is_some(), "the writer is woken when the peer takes more");
    peer.make_room(usize::MAX);
    flush.after_poll(&mut context());
    assert_eq!(peer.came().len(), taken);
    assert!(write(&mut late, &chunk).is_ready());
}

#[test]
fn much_at_once_goes_out_with_what_waits_and_is_not_kept() {
    let peer = Peer::with_room(usize::MAX);
    let (mut late, _flush) = Late::new(peer.clone());
    let large = vec![2; MOST];
    assert!(write(&mut late, &[1; 10]).is_ready());
    assert!(matches!(write(&mut late, &large), Poll::Ready(Ok(MOST))));
    assert_eq!((peer.calls(), peer.came().len()), (1, MOST + 10));
    assert_eq!(late.0.lock().held.capacity(), 0);
}

proptest::proptest! {
    #[test]
    fn no_byte_is_lost_or_moved(
        writes in proptest::collection::vec(1..80_000usize, 1..12),
        (gulp, room) in (1..50_000usize, 1..30_000usize),
        turns in proptest::collection::vec(proptest::bool::ANY, 12),
    ) {
        let peer = Peer::with_room(room);
        peer.0.lock().gulp = gulp;
        let (mut late, flush) = Late::new(peer.clone());
        let mut wanted = Vec::new();
        for (at, length) in writes.into_iter().enumerate() {
            let bytes: Vec<u8> = (0..length).map(|byte| (byte * 31 + at) as u8).collect();
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                let (first, second) = rest.split_at(rest.len() / 3);
                let slices = [IoSlice::new(first), IoSlice::new(second)];
                match Pin::new(&mut late).poll_write_vectored(&mut context(), &slices) {
                    Poll::Ready(written) => rest = &rest[written.unwrap()..],
                    Poll::Pending => peer.make_room(room),
                }
            }
            if turns[at] {
                flush.after_poll(&mut context());
            }
            wanted.extend_from_slice(&bytes);
        }
        while Pin::new(&mut late).poll_shutdown(&mut context()).is_pending() {
            peer.make_room(room);
        }
        proptest::prop_assert!(peer.came() == wanted);
        proptest::prop_assert_eq!(peer.0.lock().closed_after, Some(wanted.len()));
    }
}

#[test]
fn what_a_flush_meets_is_told_to_the_next_poll() {
    let peer = Peer::with_room(usize::MAX);
    let (mut late, flush) = Late::new(peer.clone());
    assert!(write(&mut late, b"lost").is_ready());
    peer.0.lock().broken = true;
    flush.after_poll(&mut context());
    let mut buffer = [0; 8];
    let read = Pin::new(&mut late).poll_read(&mut context(), &mut ReadBuf::new(&mut buffer));
    assert!(matches!(read, Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::ConnectionReset));
}

#[test]
fn a_connection_at_rest_holds_no_buffer() {
    let (mut first, flush_first) = Late::new(Peer::with_room(usize::MAX));
    let (mut second, flush_second) = Late::new(Peer::with_room(usize::MAX));
    for _ in 0..3 {
        assert!(write(&mut first, &[1; 5000]).is_ready());
        flush_first.after_poll(&mut context());
        assert!(write(&mut second, &[1; 5000]).is_ready());
        flush_second.after_poll(&mut context());
    }
    assert_eq!((first.0.lock().held.capacity(), second.0.lock().held.capacity()), (0, 0));
}

/// Both ends over a pipe that holds `pipe` bytes; the server echoes. Gives the client and the server's writes.
async fn connected(pipe: usize) -> (hyper::client::conn::http2::SendRequest<Full<Bytes>>, Arc<Mutex<usize>>) {
    let (ours, theirs) = tokio::io::duplex(pipe);
    let writes = Arc::new(Mutex::new(0));
    let (server, flush) = Late::new(Counted(theirs, writes.clone()));
    let echo = hyper::service::service_fn(|request: Request<Incoming>| async move {
        let body = request.into_body().collect().await.unwrap().to_bytes();
        Ok::<_, Infallible>(Response::new(Full::new(body)))
    });
    let task = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .max_concurrent_streams(1000)
        .serve_connection(TokioIo::new(server), echo);
    TokioExecutor::new().execute(Flushing { task, flush });
    let (client, flush) = Late::new(ours);
    let handshake = hyper::client::conn::http2::Builder::new(Driver::new(flush)).handshake(TokioIo::new(client));
    let (sender, connection) = handshake.await.unwrap();
    TokioExecutor::new().execute(async { drop(connection.await) });
    (sender, writes)
}

struct Counted<S>(S, Arc<Mutex<usize>>);

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        *self.1.lock() += 1;
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

fn post(length: usize) -> (Request<Full<Bytes>>, Bytes) {
    let body: Bytes = (0..length).map(|at| (at % 251) as u8).collect::<Vec<_>>().into();
    (Request::post("http://late.test/").body(Full::new(body.clone())).unwrap(), body)
}

#[tokio::test]
async fn answers_that_are_ready_together_share_a_write() {
    let (sender, writes) = connected(1 << 20).await;
    let ask = |length| {
        let mut sender = sender.clone();
        async move {
            let (request, body) = post(length);
            let answer = sender.send_request(request).await.unwrap();
            assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), body);
        }
    };
    ask(1).await;
    let before = *writes.lock();
    join_all((0..64).map(|_| ask(1024))).await;
    let took = *writes.lock() - before;
    assert!(took <= 16, "64 answers of 1 KiB took {took} writes");
}

#[tokio::test]
async fn a_single_answer_does_not_wait_for_company() {
    let (mut sender, writes) = connected(1 << 20).await;
    for _ in 0..3 {
        let before = *writes.lock();
        let (request, _) = post(1024);
        // Time does not pass here: nothing but the turn itself can have sent the answer.
        let answer = tokio::time::timeout(std::time::Duration::from_secs(5), sender.send_request(request));
        answer.await.unwrap().unwrap().into_body().collect().await.unwrap();
        assert!(*writes.lock() > before);
    }
}

#[tokio::test]
async fn large_bodies_pass_a_narrow_pipe_whole() {
    let (sender, _) = connected(4096).await;
    let ask = |length| {
        let mut sender = sender.clone();
        async move {
            let (request, body) = post(length);
            let answer = sender.send_request(request).await.unwrap();
            assert!(answer.into_body().collect().await.unwrap().to_bytes() == body);
        }
    };
    let work = join_all([3_000_000, 100, 1_500_000, 70_000, 1].map(ask));
    tokio::time::timeout(std::time::Duration::from_secs(30), work).await.expect("no stall");
}

#[tokio::test]
async fn what_is_written_before_the_end_still_goes_out() {
    let (ours, mut theirs) = tokio::io::duplex(1 << 16);
    let (mut late, flush) = Late::new(ours);
    let task = async move { late.write_all(b"last words").await };
    Flushing { task: Box::pin(task), flush }.await.unwrap();
    let mut said = Vec::new();
    theirs.read_to_end(&mut said).await.unwrap();
    assert_eq!(said, b"last words");
}
