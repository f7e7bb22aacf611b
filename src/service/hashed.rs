//! Which endpoint a key belongs to: a ketama-like ring, or Maglev's table. Both are the same in every sidecar that knows
//! the same endpoints, and when one endpoint leaves, only about its share of the keys moves.

use super::balance::Balance;
use super::endpoints::Endpoint;
use super::weights::mix;

/// Places of a list of endpoints, by key.
pub(super) enum Table {
    /// Points (upper half) with the place that owns the arc up to them (lower half), sorted.
    Ring(Box<[u64]>),
    /// A place for each of `SLOTS` slots.
    Maglev(Box<[u32]>),
}

impl Table {
    /// `None` for balancers that go by no key, and for no endpoints.
    pub(super) fn new<'a>(balance: Balance, endpoints: impl Iterator<Item = &'a Endpoint>) -> Option<Self> {
        let make = match balance {
            Balance::LeastLoaded | Balance::RoundRobin | Balance::Random => return None,
            Balance::RingHash => Self::ring,
            Balance::Maglev => Self::maglev,
        };
        let owners: Vec<(u64, u32)> = endpoints.map(|e| (e.hash(), e.listing.weight.max(1))).collect();
        (!owners.is_empty()).then(|| make(&owners))
    }

    /// A weight of one is worth a power of two of points, so that the points of an endpoint do not depend on who else is
    /// there, but for the moment when the sum crosses a power of two. Up to `POINTS_EACH` points an endpoint and
    /// `MOST_POINTS` in all (1 MiB; Envoy's bounds of 1,024 to 8 M would be up to 64 MiB), yet one for each at least.
    fn ring(owners: &[(u64, u32)]) -> Self {
        let sum: u64 = owners.iter().map(|(_, weight)| u64::from(*weight)).sum();
        let most = (POINTS_EACH * owners.len() as u64).min(MOST_POINTS);
        let (up, down) = if sum <= most { ((most / sum).ilog2(), 0) } else { (0, ((sum - 1) / most).ilog2() + 1) };
        let mut points = Vec::with_capacity(most as usize + owners.len());
        for (place, (hash, weight)) in owners.iter().enumerate() {
            let count = (u64::from(*weight) << up >> down).max(1);
            points.extend((1..=count).map(|nth| {
                let point = mix(hash.wrapping_add(nth.wrapping_mul(GOLDEN)));
                point >> 32 << 32 | place as u64
            }));
        }
        points.sort_unstable();
        Self::Ring(points.into())
    }

    /// Maglev's population of the table (Eisenbud et al. 2016, §3.4), with weights as Envoy has them. The size is always
    /// Envoy's: a smaller one for few endpoints would move every key when their number crosses a bound.
    fn maglev(owners: &[(u64, u32)]) -> Self {
        struct Turn {
            place: u32,
            slot: u32,
            skip: u32,
            weight: f64,
            target: f64,
        }
        let heaviest = owners.iter().map(|(_, weight)| *weight).max().unwrap_or(1);
        let mut turns: Vec<Turn> = owners
            .iter()
            .enumerate()
            .map(|(place, (hash, weight))| Turn {
                place: place as u32,
                slot: (mix(*hash) % u64::from(SLOTS)) as u32,
                skip: (mix(*hash ^ GOLDEN) % u64::from(SLOTS - 1)) as u32 + 1,
                weight: f64::from(*weight) / f64::from(heaviest),
                target: 0.0,
            })
            .collect();
        let mut table = vec![FREE; SLOTS as usize].into_boxed_slice();
        let (mut filled, mut round) = (0, 0.0);
        'rounds: loop {
            round += 1.0;
            for turn in &mut turns {
                // The heaviest takes a slot in each round, one of half its weight in every second.
                if round * turn.weight < turn.target {
                    continue;
                }
                turn.target += 1.0;
                while table[turn.slot as usize] != FREE {
                    turn.slot = (turn.slot + turn.skip) % SLOTS;
                }
                table[turn.slot as usize] = turn.place;
                filled += 1;
                if filled == SLOTS {
                    break 'rounds;
                }
            }
        }
        Self::Maglev(table)
    }

    /// Places for a key in the order in which they are to be tried, without end; the same one may come several times.
    pub(super) fn places(&self, key: u64) -> impl Iterator<Item = usize> + '_ {
        // Whoever made the key may have used some of its bits only.
        let key = mix(key);
        let start = match self {
            // The first point at or after the key's.
            Self::Ring(points) => points.partition_point(|point| point >> 32 < key >> 32),
            Self::Maglev(_) => 0,
        };
        (0u64..).map(move |nth| match self {
            Self::Ring(points) => points[(start + nth as usize) % points.len()] as u32 as usize,
            // Each further probe is another slot at random: the keys of one that is out spread over all others.
            Self::Maglev(table) => {
                let slot = mix(key.wrapping_add(nth.wrapping_mul(GOLDEN))) >> 32;
                table[((slot * u64::from(SLOTS)) >> 32) as usize] as usize
            }
        })
    }
}

const POINTS_EACH: u64 = 256;
const MOST_POINTS: u64 = 1 << 17;
/// A prime, Envoy's default: 256 KiB a service.
const SLOTS: u32 = 65_537;
const FREE: u32 = u32::MAX;
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
