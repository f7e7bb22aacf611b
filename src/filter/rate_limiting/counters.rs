//! Counters of one limiter in this process: exact, in bounded memory, whoever invents how many keys.
//!
//! A table of 64 parts holds a fingerprint and a counter a window for each key that was seen in a window which still runs.
//! Nothing in it is evicted while its window runs. When a part is full of such keys, further *new* keys share counters
//! (a count-min sketch with conservative update): a shared counter never counts less than any of its keys asked, so no
//! key gets more than its limit, and a key that has its own counter keeps it. What new keys share may refuse one of them too
//! early; that is counted, logged, and said in the access log. It ends with the window.

use std::hash::{BuildHasher, Hasher, RandomState};

use parking_lot::Mutex;
use smallvec::SmallVec;

use super::Quota;

/// Counters by key.
pub struct Counters {
    /// By the lowest bits of a key's fingerprint. A part is locked for some ten nanoseconds a request, so that workers
    /// hardly ever meet; while it grows, for some ten microseconds.
    parts: Box<[Mutex<Part>]>,
    /// Its keys are this process's own: nobody outside can aim at one counter or one part.
    hash: RandomState,
}

/// What became of one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    /// One more in every window, or in none.
    pub granted: bool,
    /// What each window has counted, this request included.
    pub used: SmallVec<[u32; 3]>,
    /// By counters that this key shares with others.
    pub shared: bool,
}

struct Part {
    windows: usize,
    /// Per entry the key's fingerprint, 0 where the entry is free, and a counter a window: index above, count below.
    entries: Box<[u64]>,
    used: usize,
    /// Entries that it may grow to.
    most: usize,
    /// The shortest window in which all entries were found to be alive: until the next one, looking again is in vain.
    full_in: Option<u32>,
    /// `ROWS` rows of `CELLS` cells of a counter a window, once they were needed.
    shared: Option<Box<[u64]>>,
}

impl Counters {
    /// For so many windows, 1 to 6, in memory of at most `BUDGET` bytes and 256 KiB a window.
    #[must_use]
    pub fn new(windows: usize) -> Self {
        Self::with_budget(windows, BUDGET)
    }

    fn with_budget(windows: usize, budget: usize) -> Self {
        let most = (budget / PARTS / (8 * (1 + windows))).max(LEAST);
        let part = |_| Part { windows, entries: Box::default(), used: 0, most, full_in: None, shared: None };
        Self { parts: (0..PARTS).map(|at| Mutex::new(part(at))).collect(), hash: RandomState::new() }
    }

    /// Counts one request of a key in every window, unless one of them is used up. The quotas are those of the windows that
    /// the counters were made for, in the same order.
    pub fn take(&self, kind: u8, key: &[u8], now: &[Quota]) -> Taken {
        let mut hasher = self.hash.build_hasher();
        hasher.write_u8(kind);
        hasher.write(key);
        let print = hasher.finish().max(1);
        self.parts[print as usize % PARTS].lock().take(print, now)
    }

    /// Bytes of its tables.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let of = |part: &Mutex<Part>| {
            let part = part.lock();
            8 * (part.entries.len() + part.shared.as_ref().map_or(0, |shared| shared.len()))
        };
        self.parts.iter().map(of).sum()
    }
}

impl Part {
    fn take(&mut self, print: u64, now: &[Quota]) -> Taken {
        let at = match self.find(print) {
            Ok(at) => at,
            Err(free) => {
                let room = (self.used + 1) * 4 <= self.capacity() * 3;
                let Some(at) = free.filter(|_| room).or_else(|| self.make_room(print, now)) else {
                    return self.take_shared(print, now);
                };
                self.used += 1;
                self.entries[at] = print;
                for (window, quota) in now.iter().enumerate() {
                    // What it may have asked while it shared.
                    self.entries[at + 1 + window] = pack(quota.window.index, self.estimate(print, window, quota));
                }
                at
            }
        };
        let counters = &mut self.entries[at + 1..=at + self.windows];
        let mut used: SmallVec<[u32; 3]> =
            counters.iter().zip(now).map(|(counter, quota)| count_in(*counter, quota)).collect();
        let granted = used.iter().zip(now).all(|(used, quota)| *used < quota.limit);
        if granted {
            for ((counter, quota), used) in counters.iter_mut().zip(now).zip(&mut used) {
                *used += 1;
                *counter = pack(newer(*counter, quota), *used);
            }
        }
        Taken { granted, used, shared: false }
    }

    fn capacity(&self) -> usize {
        self.entries.len() / (1 + self.windows)
    }

    /// Where the key is, else where it would be; `None` in a table without a free entry.
    fn find(&self, print: u64) -> Result<usize, Option<usize>> {
        let capacity = self.capacity();
        let home = home(print, capacity);
        for at in (home..capacity).chain(0..home) {
            let at = at * (1 + self.windows);
            match self.entries[at] {
                0 => return Err(Some(at)),
                other if other == print => return Ok(at),
                _ => {}
            }
        }
        Err(None)
    }

    /// Drops what no running window needs, grows if that is not enough, and finds a place for the key.
    fn make_room(&mut self, print: u64, now: &[Quota]) -> Option<usize> {
        let capacity = self.capacity();
        // The windows are ordered, and where a shorter one changes longer ones may.
        let shortest = now.first().map(|quota| quota.window.index);
        if capacity >= self.most && self.full_in == shortest {
            return None;
        }
        let stride = 1 + self.windows;
        let is_alive = |entry: &[u64]| {
            entry[0] != 0 && entry[1..].iter().zip(now).any(|(counter, quota)| count_in(*counter, quota) > 0)
        };
        let alive = self.entries.chunks_exact(stride).filter(|entry| is_alive(entry)).count();
        let next = ((alive + 1) * 2).next_power_of_two().clamp(LEAST, self.most);
        let old = std::mem::replace(&mut self.entries, vec![0; next * stride].into());
        self.used = alive;
        for entry in old.chunks_exact(stride).filter(|entry| is_alive(entry)) {
            if let Err(Some(at)) = self.find(entry[0]) {
                self.entries[at..at + stride].copy_from_slice(entry);
            }
        }
        if (alive + 1) * 4 > next * 3 {
            self.full_in = shortest;
            return None;
        }
        self.find(print).err().flatten()
    }

    fn take_shared(&mut self, print: u64, now: &[Quota]) -> Taken {
        let windows = self.windows;
        self.shared.get_or_insert_with(|| vec![0; ROWS * CELLS * windows].into());
        let mut used: SmallVec<[u32; 3]> =
            now.iter().enumerate().map(|(window, quota)| self.estimate(print, window, quota)).collect();
        let granted = used.iter().zip(now).all(|(used, quota)| *used < quota.limit);
        if granted && let Some(shared) = &mut self.shared {
            for (window, (quota, used)) in now.iter().zip(&mut used).enumerate() {
                *used += 1;
                for cell in cells(print, window, windows) {
                    let counter = &mut shared[cell];
                    // Only up to what this key may have asked: the others' counts grow no more than they must.
                    let count = count_in(*counter, quota).max(*used);
                    *counter = pack(newer(*counter, quota), count);
                }
            }
        }
        Taken { granted, used, shared: true }
    }

    /// At least what the key asked while it shared.
    fn estimate(&self, print: u64, window: usize, quota: &Quota) -> u32 {
        let Some(shared) = &self.shared else { return 0 };
        cells(print, window, self.windows).map(|cell| count_in(shared[cell], quota)).min().unwrap_or(0)
    }
}

fn home(print: u64, capacity: usize) -> usize {
    // The lowest bits chose the part; these are the highest.
    ((u128::from(print) * capacity as u128) >> 64) as usize
}

fn cells(print: u64, window: usize, windows: usize) -> impl Iterator<Item = usize> {
    (0..ROWS).map(move |row| {
        let cell = (print >> (8 + 16 * row)) as usize % CELLS;
        (row * CELLS + cell) * windows + window
    })
}

const fn pack(index: u32, count: u32) -> u64 {
    (index as u64) << 32 | count as u64
}

/// What a counter has counted in the running window. Workers read the clock on their own: one may be in the next window
/// already, and then that is the running one. A clock that was set back further begins anew.
fn count_in(counter: u64, quota: &Quota) -> u32 {
    let index = (counter >> 32) as u32;
    if index == quota.window.index || index == quota.window.index.wrapping_add(1) { counter as u32 } else { 0 }
}

fn newer(counter: u64, quota: &Quota) -> u32 {
    let index = (counter >> 32) as u32;
    if index == quota.window.index.wrapping_add(1) { index } else { quota.window.index }
}

const PARTS: usize = 64;
/// Entries of a part that is in use.
const LEAST: usize = 16;
/// Bytes of entries: 2,300,000 keys with one window and 670,000 with six have counters of their own.
const BUDGET: usize = 48 << 20;
const ROWS: usize = 2;
/// Of a row of one part: 16,384 in all.
const CELLS: usize = 256;

#[cfg(test)]
#[path = "counters_tests.rs"]
mod tests;
