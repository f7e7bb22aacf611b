//! One of several targets by weight: by chance for each request, or always the same one for the same key.

use super::hash::HashOn;

/// Targets with weights, of which at least one is above 0.
#[derive(Debug)]
pub struct Split<T> {
    targets: Box<[Weighted<T>]>,
    total: u64,
    pub sticky: Option<HashOn>,
}

#[derive(Debug)]
struct Weighted<T> {
    target: T,
    weight: u32,
    /// Of the target's name: what a key's hash is mixed with.
    seed: u64,
}

impl<T> Split<T> {
    /// `targets` are names, weights and what they stand for; the names are what sticks. At least one of them has to be
    /// there; if all weights are 0, the first target takes everything.
    pub fn new(targets: impl IntoIterator<Item = (String, u32, T)>, sticky: Option<HashOn>) -> Self {
        let weighted = |(name, weight, target): (String, u32, T)| {
            let seed = rapidhash::v3::rapidhash_v3(name.as_bytes());
            Weighted { target, weight, seed }
        };
        let targets: Box<[_]> = targets.into_iter().map(weighted).collect();
        assert!(!targets.is_empty(), "configuration gives every split a target");
        Self { total: targets.iter().map(|one| u64::from(one.weight)).sum(), targets, sticky }
    }

    /// The target for a request: by its key where it has one, else by chance.
    pub fn pick(&self, key: Option<u64>, entropy: u64) -> &T {
        if let [only] = &*self.targets {
            return &only.target;
        }
        match key {
            Some(key) => self.by_key(key),
            None => self.by_chance(entropy),
        }
    }

    fn by_chance(&self, entropy: u64) -> &T {
        // The high half of the product is a fair draw from 0 to total - 1 (Lemire).
        let mut draw = ((u128::from(entropy) * u128::from(self.total)) >> 64) as u64;
        for one in &self.targets {
            if draw < u64::from(one.weight) {
                return &one.target;
            }
            draw -= u64::from(one.weight);
        }
        &self.targets[0].target
    }

    /// Weighted rendezvous hashing: each target scores the key by itself, and the best score wins. When a weight changes,
    /// only the keys move that the target gains or loses.
    fn by_key(&self, key: u64) -> &T {
        let mut best = (f64::NEG_INFINITY, 0);
        for (at, one) in self.targets.iter().enumerate().filter(|(_, one)| one.weight > 0) {
            // In (0, 1): 53 bits, and never 0, whose logarithm is infinite.
            let unit = ((mixed(key ^ one.seed) >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
            let score = -f64::from(one.weight) / unit.ln();
            if score > best.0 {
                best = (score, at);
            }
        }
        &self.targets[best.1].target
    }

    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.targets.iter().map(|one| &one.target)
    }
}

/// splitmix64's finish: every bit of the result depends on every bit of the argument.
fn mixed(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(weights: &[u32]) -> Split<usize> {
        Split::new(weights.iter().enumerate().map(|(at, weight)| (format!("t{at}"), *weight, at)), None)
    }

    fn counts(split: &Split<usize>, pick: impl Fn(&Split<usize>, u64) -> usize) -> Vec<usize> {
        let mut counts = vec![0; split.targets.len()];
        for draw in 0..10_000_u64 {
            counts[pick(split, draw)] += 1;
        }
        counts
    }

    #[test]
    fn chance_follows_the_weights() {
        let counts = counts(&split(&[90, 10, 0]), |split, draw| *split.pick(None, draw * (u64::MAX / 10_000)));
        assert!(
            (8990..=9010).contains(&counts[0]) && (990..=1010).contains(&counts[1]) && counts[2] == 0,
            "{counts:?}"
        );
    }

    #[test]
    fn keys_follow_the_weights_and_stay() {
        let two = split(&[90, 10]);
        let found = counts(&two, |split, key| *split.pick(Some(mixed(key)), key));
        assert!((8800..=9200).contains(&found[0]), "{found:?}");
        for key in 0..1000 {
            assert_eq!(two.pick(Some(key), 1), two.pick(Some(key), u64::MAX));
        }
    }

    proptest::proptest! {
        #[test]
        fn when_a_weight_grows_keys_move_to_it_alone(
            before in proptest::collection::vec(1_u32..100, 2..5), more in 1_u32..100, at in 0_usize..5
        ) {
            let at = at % before.len();
            let mut after = before.clone();
            after[at] += more;
            let (old, new) = (split(&before), split(&after));
            let mut moved = 0;
            for key in (0..2000_u64).map(mixed) {
                let (from, to) = (*old.pick(Some(key), 0), *new.pick(Some(key), 0));
                if from != to {
                    proptest::prop_assert_eq!(to, at, "a key moves only to the target that grew");
                    moved += 1;
                }
            }
            // As many as the share that it gained, give or take five standard deviations of 2000 draws.
            let share = |weights: &[u32]| f64::from(weights[at]) / f64::from(weights.iter().sum::<u32>());
            let gained = (share(&after) - share(&before)) * 2000.0;
            proptest::prop_assert!((f64::from(moved) - gained).abs() < 5.0 * gained.sqrt() + 10.0, "{} {}", moved, gained);
        }
    }
}
