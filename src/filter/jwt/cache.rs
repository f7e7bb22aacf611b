//! Tokens that were verified, by digest: a token that comes again costs a digest and a look-up. Bounded; sharded, so that
//! workers seldom meet.
//!
//! Tokens with one SHA-256 would have one entry, and only verified tokens have entries: who wants another's entry needs a
//! second preimage, and who wants two tokens with one entry needs an issuer that signs both halves of a collision.

use std::collections::HashMap;

use aws_lc_rs::digest;
use parking_lot::Mutex;

pub(super) type Digest = [u8; 32];

pub(super) fn digest_of(token: &str) -> Digest {
    let mut out = [0; 32];
    out.copy_from_slice(digest::digest(&digest::SHA256, token.as_bytes()).as_ref());
    out
}

pub(super) struct Cache<T> {
    shards: [Mutex<Shard<T>>; SHARDS],
}

const SHARDS: usize = 16;
/// Entries of a shard: 8,192 tokens in all.
const MOST: usize = 512;

struct Shard<T> {
    places: HashMap<Digest, u32, rapidhash::fast::RandomState>,
    /// Grows as needed, up to `MOST`.
    slots: Vec<Slot<T>>,
    /// Where the search for a slot to reuse goes on.
    hand: usize,
}

struct Slot<T> {
    digest: Digest,
    /// Looked up since the hand passed: a second chance.
    used: bool,
    value: T,
}

impl<T: Clone> Cache<T> {
    pub(super) fn new() -> Self {
        let shard = |_| Mutex::new(Shard { places: HashMap::default(), slots: Vec::new(), hand: 0 });
        Self { shards: std::array::from_fn(shard) }
    }

    pub(super) fn find(&self, digest: &Digest) -> Option<T> {
        let mut shard = self.shard(digest).lock();
        let place = *shard.places.get(digest)?;
        let slot = &mut shard.slots[place as usize];
        slot.used = true;
        Some(slot.value.clone())
    }

    /// Keeps `value`, in the place of what was not looked up for longest, about.
    pub(super) fn keep(&self, digest: Digest, value: T) {
        let mut shard = self.shard(&digest).lock();
        let shard = &mut *shard;
        if let Some(place) = shard.places.get(&digest) {
            shard.slots[*place as usize].value = value;
            return;
        }
        let slot = Slot { digest, used: false, value };
        if shard.slots.len() < MOST {
            shard.places.insert(digest, shard.slots.len() as u32);
            shard.slots.push(slot);
            return;
        }
        // Ends after one round at most: a round takes every second chance.
        while std::mem::take(&mut shard.slots[shard.hand].used) {
            shard.hand = (shard.hand + 1) % MOST;
        }
        let gone = std::mem::replace(&mut shard.slots[shard.hand], slot);
        shard.places.remove(&gone.digest);
        shard.places.insert(digest, shard.hand as u32);
        shard.hand = (shard.hand + 1) % MOST;
    }

    pub(super) fn forget(&self, digest: &Digest) {
        let mut shard = self.shard(digest).lock();
        let Some(place) = shard.places.remove(digest) else { return };
        shard.slots.swap_remove(place as usize);
        if let Some(moved) = shard.slots.get(place as usize).map(|slot| slot.digest) {
            shard.places.insert(moved, place);
        }
        if shard.hand >= shard.slots.len() {
            shard.hand = 0;
        }
    }

    fn shard(&self, digest: &Digest) -> &Mutex<Shard<T>> {
        &self.shards[usize::from(digest[31]) % SHARDS]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All of them in one shard.
    fn digest(number: u32) -> Digest {
        let mut digest = [0; 32];
        digest[..4].copy_from_slice(&number.to_be_bytes());
        digest
    }

    #[test]
    fn the_cache_is_bounded_and_what_is_used_stays() {
        let cache = Cache::new();
        let most = u32::try_from(MOST).unwrap();
        for number in 0..most * 10 {
            cache.keep(digest(number), number);
            assert_eq!(cache.find(&digest(0)), Some(0), "after {number}");
        }
        assert_eq!(cache.find(&digest(most * 10 - 1)), Some(most * 10 - 1));
        assert_eq!(cache.shards[0].lock().slots.len(), MOST);
        assert_eq!(cache.shards[0].lock().places.len(), MOST);
        assert_eq!(cache.find(&digest(1)), None);
    }

    #[test]
    fn a_forgotten_token_leaves_the_others_where_they_are_found() {
        let cache = Cache::new();
        (0..10).for_each(|number| cache.keep(digest(number), number));
        cache.forget(&digest(3));
        cache.forget(&digest(9));
        cache.forget(&digest(77));
        for number in 0..10 {
            assert_eq!(cache.find(&digest(number)), (number != 3 && number != 9).then_some(number));
        }
        cache.keep(digest(4), 44);
        assert_eq!(cache.find(&digest(4)), Some(44));
    }
}
