//! What is known of an accepted connection: who is at the other end, and what it does now.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use futures_util::task::AtomicWaker;

use tokio::sync::Notify;

use super::frames::Excess;
use crate::clock;
use crate::names::SpiffeId;

/// Who is at the other end.
#[derive(Debug, Clone)]
pub struct Peer {
    pub address: SocketAddr,
    /// `None` on plain text.
    pub tls: Option<VerifiedPeer>,
}

/// What a verified client certificate says.
#[derive(Debug, Clone)]
pub struct VerifiedPeer {
    pub id: SpiffeId,
    /// SHA-256 of the certificate, hex: XFCC's `Hash`.
    pub hash: String,
    /// The URI SANs of our own certificate at the time of the handshake: XFCC's `By`.
    pub by: SpiffeId,
}

/// One accepted connection, shared by what reads it, what handles its requests and what watches its time.
pub struct Connection {
    pub peer: Peer,
    pub local: SocketAddr,
    /// The verified id, else the address, as text for records.
    pub peer_text: String,
    began: Instant,
    in_flight: AtomicU32,
    /// Milliseconds since `began`, plus one, when the first bytes of a head came; 0 while none is being read, `JUST_NOW` until
    /// it is known that more has to come.
    head_since: AtomicU64,
    /// The same, for a head of HTTP/2 that is not complete; other requests may be under way beside it.
    block_since: AtomicU64,
    /// Milliseconds since `began` when the last request ended.
    idle_since: AtomicU64,
    /// The last write found that the peer takes no more.
    blocked: AtomicBool,
    /// Answers of which the next piece is the client's to take.
    untaken: AtomicU32,
    /// Grows with each request and each piece of an answer.
    progress: AtomicU32,
    /// `Excess` of frames, as a number; 0 while there is none.
    excess: AtomicU8,
    /// Header fields that a request may have, where the protocol's own parser does not count them.
    most_headers: AtomicUsize,
    closing: AtomicBool,
    cut: AtomicBool,
    /// Tunnels that wait to be cut.
    cutting: Notify,
    /// Its bytes are no longer HTTP.
    tunnel: AtomicBool,
    /// What waits for the last hold to end.
    released: AtomicWaker,
    /// The task that serves it, to be woken when it should close.
    server: AtomicWaker,
    /// See `has_pulse`.
    pulse: AtomicBool,
}

impl Connection {
    pub fn new(peer: Peer, local: SocketAddr) -> Self {
        let peer_text = match &peer.tls {
            Some(verified) => verified.id.to_string(),
            None => peer.address.ip().to_string(),
        };
        Self {
            peer,
            local,
            peer_text,
            began: Instant::now(),
            in_flight: AtomicU32::new(0),
            head_since: AtomicU64::new(0),
            block_since: AtomicU64::new(0),
            idle_since: AtomicU64::new(0),
            blocked: AtomicBool::new(false),
            untaken: AtomicU32::new(0),
            progress: AtomicU32::new(0),
            excess: AtomicU8::new(0),
            most_headers: AtomicUsize::new(usize::MAX),
            closing: AtomicBool::new(false),
            cut: AtomicBool::new(false),
            cutting: Notify::new(),
            tunnel: AtomicBool::new(false),
            released: AtomicWaker::new(),
            server: AtomicWaker::new(),
            pulse: AtomicBool::new(false),
        }
    }

    /// Who is at the other end, without what happens on the connection: for a record that outlives it.
    pub fn snapshot(&self) -> Self {
        Self::new(self.peer.clone(), self.local)
    }

    /// True once the connection should end after the requests that it has: answers then say `connection: close`.
    pub fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Relaxed)
    }

    /// Whether what handles its requests is polled every `PULSE`, woken or not: for a limit of time that is farther away, no
    /// timer is needed before the second poll.
    pub fn has_pulse(&self) -> bool {
        self.pulse.load(Ordering::Relaxed)
    }

    pub(super) fn set_pulse(&self) {
        self.pulse.store(true, Ordering::Relaxed);
    }

    /// Keeps the connection busy for a tunnel that outlives its answer.
    pub fn hold(self: &Arc<Self>) -> Hold {
        self.tunnel.store(true, Ordering::Relaxed);
        self.request_began();
        Hold(self.clone())
    }

    pub(super) fn has_tunnel(&self) -> bool {
        self.tunnel.load(Ordering::Relaxed)
    }

    /// Resolves when no request and no tunnel is left.
    pub(super) async fn released(&self) {
        std::future::poll_fn(|cx| {
            self.released.register(cx.waker());
            if self.is_busy() { Poll::Pending } else { Poll::Ready(()) }
        })
        .await;
    }

    pub(super) fn begin_close(&self) {
        self.closing.store(true, Ordering::Release);
        self.server.wake();
    }

    /// It is to end where it stands: its peer may not be here any more.
    pub(super) fn cut(&self) {
        self.cut.store(true, Ordering::Release);
        self.cutting.notify_waiters();
        self.begin_close();
    }

    pub(super) fn is_cut(&self) -> bool {
        self.cut.load(Ordering::Acquire)
    }

    /// As `is_closing`; where false, the task is woken when it turns true. Cheaper at each poll than a future would be.
    /// `listed`: the task's waker, where that is known already.
    pub(super) fn poll_closing(&self, cx: &Context<'_>, listed: &mut Option<Waker>) -> bool {
        // Only closing takes the waker out of its place, and it is never undone.
        let here = listed.as_ref().is_some_and(|waker| waker.will_wake(cx.waker()));
        if here && !self.closing.load(Ordering::Acquire) {
            return false;
        }
        self.server.register(cx.waker());
        *listed = Some(cx.waker().clone());
        self.closing.load(Ordering::Acquire)
    }

    pub(super) fn is_busy(&self) -> bool {
        self.in_flight.load(Ordering::Relaxed) > 0
    }

    pub(super) fn request_began(&self) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        self.progressed();
        self.head_since.store(0, Ordering::Relaxed);
    }

    pub(super) fn request_ended(&self) {
        let age = clock::recent().saturating_duration_since(self.began).as_millis() as u64;
        self.idle_since.store(age, Ordering::Relaxed);
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }

    /// Bytes came. Outside a request they are the beginning of the next head.
    pub(super) fn bytes_came(&self) {
        if !self.is_busy() && self.head_since.load(Ordering::Relaxed) == 0 {
            self.head_since.store(JUST_NOW, Ordering::Relaxed);
        }
    }

    /// All that came was read. Most heads came whole: only for others the clock is looked at.
    pub(super) fn bytes_read(&self) {
        if self.head_since.load(Ordering::Relaxed) == JUST_NOW {
            self.head_since.store(self.millis() + 1, Ordering::Relaxed);
        }
    }

    pub(super) fn note_blocked(&self, blocked: bool) {
        self.blocked.store(blocked, Ordering::Relaxed);
    }

    /// Since when nothing was asked and nothing is left to be written; `None` while something is.
    pub(super) fn at_rest_since(&self) -> Option<Instant> {
        let rests = !self.is_busy()
            && self.head_since.load(Ordering::Relaxed) == 0
            && !self.blocked.load(Ordering::Relaxed)
            && !self.has_tunnel();
        rests.then(|| self.at(self.idle_since.load(Ordering::Relaxed)))
    }

    /// A head of HTTP/2 began with the bytes just read.
    pub(super) fn block_began(&self) {
        self.block_since.store(self.millis() + 1, Ordering::Relaxed);
    }

    /// No head of HTTP/2 is incomplete now.
    pub(super) fn block_ended(&self) {
        self.block_since.store(0, Ordering::Relaxed);
    }

    pub(super) fn note_excess(&self, excess: Excess) {
        self.excess.store(1 + excess as u8, Ordering::Relaxed);
    }

    pub(super) fn excess(&self) -> Option<Excess> {
        [Excess::Frames, Excess::Resets].into_iter().find(|one| self.excess.load(Ordering::Relaxed) == 1 + *one as u8)
    }

    pub(super) fn set_most_headers(&self, most: usize) {
        self.most_headers.store(most, Ordering::Relaxed);
    }

    /// How many header fields a request may have.
    pub fn most_headers(&self) -> usize {
        self.most_headers.load(Ordering::Relaxed)
    }

    /// The next piece of an answer is the client's to take (`true`), or its service's to give.
    pub(super) fn note_untaken(&self, untaken: bool) {
        if untaken {
            self.untaken.fetch_add(1, Ordering::Relaxed);
        } else {
            self.untaken.fetch_sub(1, Ordering::Relaxed);
        }
    }

    pub(super) fn progressed(&self) {
        self.progress.fetch_add(1, Ordering::Relaxed);
    }

    /// Where every request under way waits for the client to take its answer: a number that changes when anything moves.
    pub(super) fn waits_for_client(&self) -> Option<u32> {
        let busy = self.in_flight.load(Ordering::Relaxed);
        let waits = busy > 0 && self.untaken.load(Ordering::Relaxed) >= busy;
        waits.then(|| self.progress.load(Ordering::Relaxed))
    }

    /// How long it may stay as it is, and which limit that would be; `None` while a request is under way.
    pub(super) fn patience(&self, head: Duration, idle: Duration) -> Option<(Instant, Limit)> {
        let block = self.block_since.load(Ordering::Relaxed);
        if block != 0 {
            return Some((self.at(block - 1) + head, Limit::Head));
        }
        if self.is_busy() {
            return None;
        }
        match self.head_since.load(Ordering::Relaxed) {
            0 => Some((self.at(self.idle_since.load(Ordering::Relaxed)) + idle, Limit::Idle)),
            JUST_NOW => Some((clock::now() + head, Limit::Head)),
            since => Some((self.at(since - 1) + head, Limit::Head)),
        }
    }

    fn at(&self, millis: u64) -> Instant {
        self.began + Duration::from_millis(millis)
    }

    fn millis(&self) -> u64 {
        self.began.elapsed().as_millis() as u64
    }
}

/// See `Connection::head_since`.
const JUST_NOW: u64 = u64::MAX;

/// How often a connection with a pulse is polled, at least.
pub const PULSE: Duration = Duration::from_secs(1);

/// A tunnel on a connection, counted as a request until this is dropped.
pub struct Hold(Arc<Connection>);

impl Hold {
    /// Resolves when the connection is to end where it stands.
    pub fn cut_short(&self) -> impl Future<Output = ()> + Send + 'static {
        let connection = self.0.clone();
        async move {
            let mut told = pin!(connection.cutting.notified());
            // Listed before the look, so that a cut in between is not missed.
            told.as_mut().enable();
            if !connection.is_cut() {
                told.await;
            }
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.0.request_ended();
        self.0.released.wake();
    }
}

/// Which limit of time ended a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Limit {
    Head,
    Idle,
    /// Of a client that does not take its answers.
    Untaken,
}
