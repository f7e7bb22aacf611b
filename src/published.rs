//! `Published<T>`: one writer, many readers, whole values only. The only hot-swap idiom in the code.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::watch;

/// A value that one task replaces whole and that others read without a lock.
pub struct Published<T> {
    value: ArcSwap<T>,
    version: watch::Sender<u64>,
}

impl<T> Published<T> {
    pub fn new(first: T) -> Self {
        Self { value: ArcSwap::from_pointee(first), version: watch::Sender::new(0) }
    }

    /// The value as of now; it may be held across awaits while newer ones are published.
    pub fn snapshot(&self) -> Arc<T> {
        self.value.load_full()
    }

    /// As `snapshot`, without touching the shared reference count: for a look that ends before the next await.
    pub fn peek(&self) -> arc_swap::Guard<Arc<T>> {
        self.value.load()
    }

    /// Replaces the value. A reader sees the old one or the new one, never a mix.
    pub fn store(&self, next: T) {
        self.value.store(Arc::new(next));
        self.version.send_modify(|version| *version += 1);
    }

    /// Resolves at the next `store` after this call, or after `limit`.
    pub fn next_within(&self, limit: Duration) -> impl Future<Output = ()> + Send + use<T> {
        let mut versions = self.version.subscribe();
        async move {
            let _ = tokio::time::timeout(limit, versions.changed()).await;
        }
    }

    /// Wakes at each `store`, for tasks that react to changes; the request path never waits on it.
    pub fn versions(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }
}

impl<T: Default> Default for Published<T> {
    fn default() -> Self {
        Self::new(T::default())
    }
}
