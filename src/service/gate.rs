//! A count with an upper bound that holds exactly, however many threads count: requests, connections, ejections.

use super::sync::{AtomicU32, Ordering};

/// Places of which at most `bound` are held at once.
pub struct Gate {
    held: AtomicU32,
    bound: AtomicU32,
}

impl Gate {
    pub fn new(bound: u32) -> Self {
        Self { held: AtomicU32::new(0), bound: AtomicU32::new(bound) }
    }

    /// Takes a place; false where none is free. Never refuses while fewer than the bound are held: adding first and backing
    /// off would let two late ones refuse a third for whom there was room.
    pub fn take(&self) -> bool {
        let mut held = self.held.load(Ordering::Relaxed);
        while held < self.bound.load(Ordering::Relaxed) {
            match self.held.compare_exchange_weak(held, held + 1, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return true,
                Err(current) => held = current,
            }
        }
        false
    }

    /// Gives back a place that was taken.
    pub fn put(&self) {
        self.held.fetch_sub(1, Ordering::Relaxed);
    }

    pub fn held(&self) -> u32 {
        self.held.load(Ordering::Relaxed)
    }

    pub fn bound(&self) -> u32 {
        self.bound.load(Ordering::Relaxed)
    }

    /// Those who hold a place beyond a lower bound keep it.
    pub fn set_bound(&self, bound: u32) {
        self.bound.store(bound, Ordering::Relaxed);
    }
}
