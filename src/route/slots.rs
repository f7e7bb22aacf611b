//! A bound on what may be under way at once, shared by all workers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

pub struct Slots {
    most: u32,
    taken: AtomicU32,
}

/// One taken slot; free again when this is dropped.
pub struct Slot(Arc<Slots>);

impl Slots {
    pub fn new(most: u32) -> Self {
        Self { most, taken: AtomicU32::new(0) }
    }

    /// `None` while as many as may be are under way.
    pub fn take(self: &Arc<Self>) -> Option<Slot> {
        // Counted first and given back if too many: a look and a count apart could both pass.
        if self.taken.fetch_add(1, Ordering::Relaxed) < self.most {
            return Some(Slot(self.clone()));
        }
        self.taken.fetch_sub(1, Ordering::Relaxed);
        None
    }

    pub fn most(&self) -> u32 {
        self.most
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_are_taken_than_there_are_and_dropping_frees() {
        let slots = Arc::new(Slots::new(2));
        let (one, two) = (slots.take(), slots.take());
        assert!(one.is_some() && two.is_some() && slots.take().is_none());
        drop(one);
        assert!(slots.take().is_some());
        assert_eq!(slots.taken.load(Ordering::Relaxed), 1);
    }
}
