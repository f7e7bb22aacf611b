//! Decides which endpoint serves a request. Knows nothing of HTTP, sockets or time.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use super::endpoints::{Endpoint, EndpointSet};
use super::reach::Reachable;

/// How endpoints are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Balance {
    #[default]
    /// Power of two choices on peak EWMA latency times requests in flight.
    LeastLoaded,
    /// In turn, spread evenly by weight.
    RoundRobin,
}

/// What a pick depends on beside the set itself.
pub struct Ask<'a> {
    /// Numbers of the endpoints that this request tried already.
    pub tried: &'a [u64],
    pub now: Instant,
    /// A random number, different for each pick.
    pub entropy: u64,
    /// Hash of what `ring_hash`, `maglev` and sticky splits go by; `None` where the request has none.
    pub key: Option<u64>,
}

/// What a balancer prepares once for a set.
pub(super) enum Picker {
    LeastLoaded { weights: Weights },
    RoundRobin { order: Box<[u32]> },
}

/// Weights of a set, ready for sampling.
pub(super) enum Weights {
    Equal,
    /// Running sums, the mean.
    Sums {
        sums: Box<[u64]>,
        mean: f64,
    },
}

impl Picker {
    pub(super) fn new(balance: Balance, usable: &[Arc<Endpoint>]) -> Self {
        let weights: Vec<u32> = usable.iter().map(|e| e.listing.weight.max(1)).collect();
        match balance {
            Balance::LeastLoaded => Self::LeastLoaded { weights: Weights::new(&weights) },
            Balance::RoundRobin => Self::RoundRobin { order: spread(&weights) },
        }
    }
}

impl Weights {
    fn new(weights: &[u32]) -> Self {
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

    /// Two places drawn by weight. Of equal weights two different ones, so that the better is always seen.
    fn two(&self, len: usize, entropy: u64) -> (usize, usize) {
        let (low, high) = (entropy as u32, (entropy >> 32) as u32);
        match self {
            Self::Equal => {
                let first = scale(low, len);
                let other = scale(high, len.saturating_sub(1).max(1));
                (first, (first + 1 + other) % len)
            }
            Self::Sums { sums, .. } => {
                let total = sums[len - 1];
                let at = |draw: u32| sums.partition_point(|sum| *sum <= (u64::from(draw) * total) >> 32);
                (at(low), at(high))
            }
        }
    }

    fn share(&self, endpoint: &Endpoint) -> f64 {
        match self {
            Self::Equal => 1.0,
            Self::Sums { mean, .. } => f64::from(endpoint.listing.weight.max(1)) / mean,
        }
    }
}

impl EndpointSet {
    /// The endpoint for a request, with `turn` counting the picks of the service. Prefers endpoints that are reachable
    /// and untried; if none is, the untried before the tried; `None` only if the set has no usable endpoint.
    pub(super) fn pick(&self, turn: &AtomicUsize, ask: &Ask<'_>) -> Option<&Arc<Endpoint>> {
        if self.usable.is_empty() {
            return None;
        }
        let mut chosen = None;
        // A few draws find a good one unless many are shut or tried; then every one is looked at.
        for draw in 0..DRAWS {
            let endpoint = self.draw(turn, ask, draw);
            if Self::fits(endpoint, ask) {
                chosen = Some(endpoint);
                break;
            }
        }
        chosen.or_else(|| self.search(ask))
    }

    fn draw(&self, turn: &AtomicUsize, ask: &Ask<'_>, draw: u32) -> &Arc<Endpoint> {
        match &self.picker {
            Picker::RoundRobin { order } => {
                let at = turn.fetch_add(1, Ordering::Relaxed) % order.len();
                &self.usable[order[at] as usize]
            }
            Picker::LeastLoaded { weights } => {
                let entropy = ask.entropy.rotate_left(draw * 16 + draw);
                let (first, second) = weights.two(self.usable.len(), entropy);
                let (first, second) = (&self.usable[first], &self.usable[second]);
                if Arc::ptr_eq(first, second) {
                    return first;
                }
                match (Self::fits_quietly(first, ask), Self::fits_quietly(second, ask)) {
                    (true, false) => return first,
                    (false, true) => return second,
                    _ => {}
                }
                let (share, other) = (weights.share(second), weights.share(first));
                // The first draw wins a tie, so ties are broken by weight and chance.
                if second.load().is_better(share, first.load(), other, ask.now) { second } else { first }
            }
        }
    }

    fn fits_quietly(endpoint: &Endpoint, ask: &Ask<'_>) -> bool {
        endpoint.reachable(ask.now) != Reachable::No && !ask.tried.contains(&endpoint.number())
    }

    /// As `fits_quietly`, and makes this request the probe of an endpoint whose pause is over.
    fn fits(endpoint: &Endpoint, ask: &Ask<'_>) -> bool {
        if ask.tried.contains(&endpoint.number()) {
            return false;
        }
        match endpoint.reachable(ask.now) {
            Reachable::Yes => true,
            Reachable::Due => endpoint.state.reach.claim(ask.now),
            Reachable::No => false,
        }
    }

    /// Looks at every endpoint, from a random place on: any that fits, else an untried one, else any.
    fn search(&self, ask: &Ask<'_>) -> Option<&Arc<Endpoint>> {
        let start = scale(ask.entropy as u32, self.usable.len());
        let (front, back) = self.usable.split_at(start);
        let from_start = || back.iter().chain(front);
        from_start()
            .find(|e| Self::fits(e, ask))
            .or_else(|| from_start().find(|e| !ask.tried.contains(&e.number())))
            .or_else(|| from_start().next())
    }
}

/// A draw of 32 random bits as a place below `len`, without a division.
fn scale(draw: u32, len: usize) -> usize {
    ((u64::from(draw) * len as u64) >> 32) as usize
}

/// One round of smooth weighted round robin (nginx's algorithm): each place as often as its weight, spread evenly.
/// Weights are scaled down where a round would be longer than `LONGEST_ROUND`.
fn spread(weights: &[u32]) -> Box<[u32]> {
    let divisor = weights.iter().fold(0, |a, b| gcd(a, *b)).max(1);
    let total: u64 = weights.iter().map(|w| u64::from(w / divisor)).sum();
    let longest = LONGEST_ROUND.max(weights.len() as u64);
    let scaled: Vec<i64> = weights
        .iter()
        .map(|w| {
            let weight = u64::from(w / divisor);
            if total > longest { (weight * longest / total).max(1) as i64 } else { weight as i64 }
        })
        .collect();
    if scaled.iter().all(|w| *w == 1) {
        return (0..weights.len() as u32).collect();
    }
    let round: i64 = scaled.iter().sum();
    let mut credit = vec![0i64; scaled.len()];
    (0..round)
        .map(|_| {
            let mut best = 0;
            for (at, weight) in scaled.iter().enumerate() {
                credit[at] += weight;
                if credit[at] > credit[best] {
                    best = at;
                }
            }
            credit[best] -= round;
            best as u32
        })
        .collect()
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

const DRAWS: u32 = 3;
const LONGEST_ROUND: u64 = 1024;

#[cfg(test)]
mod tests {
    use super::super::endpoints::tests::listing;
    use super::super::endpoints::{Health, Listing};
    use super::*;
    use std::collections::HashMap;
    use std::time::Duration;

    fn set(balance: Balance, listed: Vec<Listing>) -> (EndpointSet, Instant) {
        let epoch = Instant::now();
        (EndpointSet::empty(balance).succeed(listed, balance, epoch), epoch)
    }

    fn shares(set: &EndpointSet, now: Instant, picks: u32) -> HashMap<String, u32> {
        let (turn, mut counts) = (AtomicUsize::new(0), HashMap::new());
        let mut rng = fastrand::Rng::with_seed(7);
        for _ in 0..picks {
            let ask = Ask { tried: &[], now, entropy: rng.u64(..), key: None };
            let endpoint = set.pick(&turn, &ask).unwrap();
            *counts.entry(endpoint.listing.id.to_string()).or_default() += 1;
        }
        counts
    }

    #[test]
    fn round_robin_takes_turns_and_spreads_weights_evenly() {
        let passing = |id, weight| listing(id, weight, Health::Passing);
        let (set, now) = set(Balance::RoundRobin, vec![passing("a", 30), passing("b", 10), passing("c", 10)]);
        let turn = AtomicUsize::new(0);
        let ask = Ask { tried: &[], now, entropy: 0, key: None };
        let order: String = (0..10).map(|_| set.pick(&turn, &ask).unwrap().listing.id.to_string()).collect();
        assert_eq!(order, "abacaabaca");
    }

    #[test]
    fn both_balancers_obey_weights() {
        for balance in [Balance::LeastLoaded, Balance::RoundRobin] {
            let listed = vec![listing("a", 10, Health::Passing), listing("b", 1, Health::Warning)];
            let (set, now) = set(balance, listed);
            let counts = shares(&set, now, 11_000);
            assert!((9_700..10_300).contains(&counts["a"]), "{balance:?}: {counts:?}");
        }
    }

    #[test]
    fn equal_endpoints_share_evenly() {
        let listed = ["a", "b", "c", "d", "e"].map(|id| listing(id, 1, Health::Passing)).to_vec();
        let (set, now) = set(Balance::LeastLoaded, listed);
        for (id, count) in shares(&set, now, 10_000) {
            assert!((1_700..2_300).contains(&count), "{id}: {count}");
        }
    }

    #[test]
    fn a_busy_or_slow_endpoint_gets_less() {
        let listed = ["a", "b", "c"].map(|id| listing(id, 1, Health::Passing)).to_vec();
        let (set, now) = set(Balance::LeastLoaded, listed);
        set.usable[0].load().observe(Duration::from_millis(400), now);
        set.usable[1].load().begin();
        let counts = shares(&set, now, 3_000);
        assert_eq!(counts.get("a"), None, "never the worse of two: {counts:?}");
        assert!(counts["c"] > counts["b"]);
    }

    #[test]
    fn shut_and_tried_endpoints_are_passed_over_while_others_are_left() {
        for balance in [Balance::LeastLoaded, Balance::RoundRobin] {
            let listed = ["a", "b", "c"].map(|id| listing(id, 1, Health::Passing)).to_vec();
            let (set, now) = set(balance, listed);
            set.usable[0].state.reach.failed(now);
            let turn = AtomicUsize::new(0);
            let tried = [set.usable[1].number()];
            for entropy in (0..64).map(|n: u64| n.wrapping_mul(0x9e37_79b9_7f4a_7c15)) {
                let ask = Ask { tried: &tried, now, entropy, key: None };
                assert_eq!(&*set.pick(&turn, &ask).unwrap().listing.id, "c");
            }
            // Nothing else is left: the shut one is tried rather than the request refused.
            let tried = [set.usable[1].number(), set.usable[2].number()];
            assert_eq!(&*set.pick(&turn, &Ask { tried: &tried, now, entropy: 1, key: None }).unwrap().listing.id, "a");
        }
    }

    #[test]
    fn an_endpoint_whose_pause_is_over_gets_one_probe() {
        let listed = ["a", "b"].map(|id| listing(id, 1, Health::Passing)).to_vec();
        let (set, now) = set(Balance::LeastLoaded, listed);
        set.usable[0].state.reach.failed(now);
        let counts = shares(&set, now + Duration::from_secs(1), 200);
        assert_eq!(counts.get("a"), Some(&1), "one request probes: {counts:?}");
    }

    #[test]
    fn no_usable_endpoint_is_no_pick() {
        let (set, now) = set(Balance::LeastLoaded, vec![listing("a", 1, Health::Critical)]);
        assert!(set.pick(&AtomicUsize::new(0), &Ask { tried: &[], now, entropy: 3, key: None }).is_none());
    }
}
