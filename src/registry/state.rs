//! How each watch of a registry fares, for people: `follow` writes it, `/endpoints` shows it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use parking_lot::Mutex;

use crate::names::ServiceName;
use crate::published::Published;

/// The watches of each upstream: its own first, then those of its failovers in order.
pub type Watches = Published<BTreeMap<ServiceName, Vec<Arc<WatchState>>>>;

/// One watch.
#[derive(Debug)]
pub struct WatchState {
    /// `Registry::describe`.
    pub watch: String,
    trouble: Mutex<Option<Trouble>>,
}

/// Why there is no news.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    pub error: String,
    /// When the first of the errors without an answer between came.
    pub since: SystemTime,
}

impl WatchState {
    #[must_use]
    pub fn new(watch: String) -> Self {
        Self { watch, trouble: Mutex::new(None) }
    }

    /// The last error, where no good answer came after it.
    #[must_use]
    pub fn trouble(&self) -> Option<Trouble> {
        self.trouble.lock().clone()
    }

    pub(super) fn answered(&self) {
        *self.trouble.lock() = None;
    }

    pub(super) fn failed(&self, error: String) {
        let mut trouble = self.trouble.lock();
        let since = trouble.as_ref().map_or_else(SystemTime::now, |trouble| trouble.since);
        *trouble = Some(Trouble { error, since });
    }
}
