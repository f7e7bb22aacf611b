//! Drawing by weight: at random, and in turn.

/// Weights of some places, ready for drawing at random.
pub(super) enum Weights {
    Equal,
    /// Running sums, the mean.
    Sums {
        sums: Box<[u64]>,
        mean: f64,
    },
}

impl Weights {
    pub(super) fn new(weights: &[u32]) -> Self {
        if weights.windows(2).all(|w| w[0] == w[1]) {
            return Self::Equal;
        }
        let sums: Box<[u64]> = weights
            .iter()
            .scan(0u64, |sum, w| {
                *sum += u64::from(*w);
                Some(*sum)
            })
            .collect();
        let total = *sums.last().unwrap_or(&1);
        Self::Sums { mean: total as f64 / weights.len() as f64, sums }
    }

    /// A place below `len`, by 32 random bits.
    pub(super) fn one(&self, len: usize, draw: u32) -> usize {
        match self {
            Self::Equal => scale(draw, len),
            Self::Sums { sums, .. } => {
                let total = sums[len - 1];
                sums.partition_point(|sum| *sum <= (u64::from(draw) * total) >> 32)
            }
        }
    }

    /// Two places drawn by weight. Of equal weights two different ones, so that the better is always seen.
    pub(super) fn two(&self, len: usize, entropy: u64) -> (usize, usize) {
        let (low, high) = (entropy as u32, (entropy >> 32) as u32);
        match self {
            Self::Equal => {
                let first = scale(low, len);
                let other = scale(high, len.saturating_sub(1).max(1));
                (first, (first + 1 + other) % len)
            }
            Self::Sums { .. } => (self.one(len, low), self.one(len, high)),
        }
    }

    /// A weight over the mean weight.
    pub(super) fn share(&self, weight: u32) -> f64 {
        match self {
            Self::Equal => 1.0,
            Self::Sums { mean, .. } => f64::from(weight.max(1)) / mean,
        }
    }
}

/// A draw of 32 random bits as a place below `len`, without a division.
pub(super) fn scale(draw: u32, len: usize) -> usize {
    ((u64::from(draw) * len as u64) >> 32) as usize
}

/// Spreads the bits of a value over all of them (splitmix64's finaliser): equal on every machine and in every version.
pub(super) fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// One round of smooth weighted round robin: each place as often as its weight, spread evenly. Weights are scaled down
/// where a round would be longer than `LONGEST_ROUND`.
pub(super) fn spread(weights: &[u32]) -> Box<[u32]> {
    let divisor = weights.iter().fold(0, |a, b| gcd(a, *b)).max(1);
    let total: u64 = weights.iter().map(|w| u64::from(w / divisor)).sum();
    let longest = LONGEST_ROUND.max(weights.len() as u64);
    let scaled: Vec<u64> = weights
        .iter()
        .map(|w| {
            let weight = u64::from(w / divisor);
            if total > longest { (weight * longest / total).max(1) } else { weight }
        })
        .collect();
    if scaled.iter().all(|w| *w == 1) {
        return (0..weights.len() as u32).collect();
    }
    let round: u64 = scaled.iter().sum();
    if round * scaled.len() as u64 <= SMOOTH_WORK { smooth(&scaled, round) } else { staggered(&scaled, round) }
}

/// nginx's algorithm, whose order is the smoothest; its work is the round times the places.
fn smooth(weights: &[u64], round: u64) -> Box<[u32]> {
    let mut credit = vec![0i64; weights.len()];
    (0..round)
        .map(|_| {
            let mut best = 0;
            for (at, weight) in weights.iter().enumerate() {
                credit[at] += *weight as i64;
                if credit[at] > credit[best] {
                    best = at;
                }
            }
            credit[best] -= round as i64;
            best as u32
        })
        .collect()
}

/// For many places: each takes its turns at even distances, from the middle of the first on.
fn staggered(weights: &[u64], round: u64) -> Box<[u32]> {
    let mut turns = Vec::with_capacity(round as usize);
    for (at, weight) in weights.iter().enumerate() {
        // A moment of the round in 32 bits beside the place: sorting numbers is quick.
        turns.extend((0..*weight).map(|turn| ((((2 * turn + 1) << 31) / weight) << 32) | at as u64));
    }
    turns.sort_unstable();
    turns.into_iter().map(|turn| turn as u32).collect()
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

const LONGEST_ROUND: u64 = 1024;
/// Above this the smoothest order would take more than about a millisecond to make.
const SMOOTH_WORK: u64 = 1 << 19;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn many_places_take_their_turns_evenly_too() {
        let weights: Vec<u32> = (0..3_000).map(|at| 1 + at % 3).collect();
        let order = spread(&weights);
        let heaviest: Vec<usize> = order.iter().enumerate().filter(|(_, p)| **p == 2).map(|(at, _)| at).collect();
        let widest = heaviest.windows(2).map(|pair| pair[1] - pair[0]).max();
        assert!(heaviest.len() > 1 || order.len() < 6_000, "{heaviest:?}");
        assert!(widest.is_none_or(|gap| gap < order.len() / heaviest.len() * 3 / 2), "{heaviest:?}");
    }

    proptest! {
        #[test]
        fn both_orders_give_each_place_its_weight(weights in prop::collection::vec(1u64..9, 1..20)) {
            let round = weights.iter().sum();
            for order in [smooth(&weights, round), staggered(&weights, round)] {
                for (at, weight) in weights.iter().enumerate() {
                    prop_assert_eq!(order.iter().filter(|p| **p as usize == at).count() as u64, *weight);
                }
            }
        }
    }
}
