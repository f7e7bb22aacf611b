//! How many connections to a service's endpoints may be open, and how many requests may wait for one: the bounds of all
//! workers' pools together.

use std::sync::Arc;

use tokio::sync::Notify;

use super::gate::Gate;
use super::policy::Limits;

/// Connections of one service, over all workers.
pub struct ConnectionLimit {
    open: Gate,
    pending: Gate,
    changed: Notify,
}

/// An open connection, counted until this is dropped.
pub struct ConnectionSlot {
    limit: Arc<ConnectionLimit>,
}

/// A request that waits for a connection, counted until this is dropped.
pub struct PendingSlot {
    limit: Arc<ConnectionLimit>,
}

impl ConnectionLimit {
    pub(super) fn new(limits: Limits) -> Arc<Self> {
        let limit =
            Self { open: Gate::new(limits.connections), pending: Gate::new(limits.pending), changed: Notify::new() };
        Arc::new(limit)
    }

    /// Takes other bounds. Connections beyond a lower one stay until they close of themselves.
    pub(super) fn follow(&self, limits: Limits) {
        self.open.set_bound(limits.connections);
        self.pending.set_bound(limits.pending);
        self.changed.notify_waiters();
    }

    /// Counts a connection in; `None` where as many as allowed are open, or where others wait for a place already.
    pub fn try_open(self: &Arc<Self>) -> Option<ConnectionSlot> {
        (self.pending.held() == 0).then(|| self.take()).flatten()
    }

    /// Counts a waiting request in; `None` where as many as allowed wait: the request is then refused as overloaded.
    pub fn try_wait(self: &Arc<Self>) -> Option<PendingSlot> {
        self.pending.take().then(|| PendingSlot { limit: self.clone() })
    }

    /// Tells those who wait that a connection may serve one of them: to be called by a pool to which one came back. All
    /// are told, since only requests of the same worker for the same endpoint can use it. One load while nobody waits.
    pub fn note_idle(&self) {
        if self.pending.held() > 0 {
            self.changed.notify_waiters();
        }
    }

    pub fn open(&self) -> u32 {
        self.open.held()
    }

    pub fn pending(&self) -> u32 {
        self.pending.held()
    }

    fn take(self: &Arc<Self>) -> Option<ConnectionSlot> {
        self.open.take().then(|| ConnectionSlot { limit: self.clone() })
    }
}

impl PendingSlot {
    /// Waits for whichever is first: a place for a new connection, or what `at_hand` finds (an idle connection of the
    /// caller's pool, or room on a shared one). It is asked at first and after each `note_idle`. Has no limit in time of
    /// its own. Safe to drop at any point: a place that it was told of goes to the next.
    pub async fn connection<T>(&self, mut at_hand: impl FnMut() -> Option<T>) -> Waited<T> {
        loop {
            let mut told = std::pin::pin!(self.limit.changed.notified());
            // In line before looking: what happens between the look and the wait is not missed.
            let told_already = told.as_mut().enable();
            if let Some(found) = at_hand() {
                if told_already {
                    // It was not needed here.
                    self.limit.changed.notify_one();
                }
                return Waited::AtHand(found);
            }
            if let Some(slot) = self.limit.take() {
                return Waited::Slot(slot);
            }
            if !told_already {
                told.await;
            }
        }
    }
}

/// What a request waited for.
pub enum Waited<T> {
    AtHand(T),
    /// A connection may be opened.
    Slot(ConnectionSlot),
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        self.limit.open.put();
        self.limit.changed.notify_one();
    }
}

impl Drop for PendingSlot {
    fn drop(&mut self) {
        self.limit.pending.put();
    }
}
