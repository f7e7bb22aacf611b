//! Who of a set's endpoints can be used now, prepared for picking in constant time. Made anew when that changes, at most
//! so often that it costs no more than a percent of a core.

use std::sync::Arc;
use std::time::Instant;

use super::balance::Balance;
use super::endpoints::{Endpoint, Shared, Standing};
use super::set::Members;
use super::weights::{Weights, spread};

/// What a pick needs, as of one moment.
pub(super) struct View {
    /// The service's count of changes as of which this was made.
    changes: u64,
    /// Milliseconds since the epoch.
    pub made: u64,
    /// When an endpoint that was left out becomes due.
    stale_at: u64,
    /// Until then some endpoint is in its slow start.
    pub ramps_until: u64,
    /// The first tier with a usable endpoint.
    pub tier: usize,
    pub near: Group,
    pub far: Group,
    /// How much of 2^32 stays in our zone.
    pub near_share: u64,
    /// Those whose pause is over but whom no draw would meet: of other tiers, or of a part that gets nothing.
    pub due: Box<[u32]>,
    /// Not ejected, yet not reached lately: better than nothing.
    pub shut: Box<[u32]>,
}

/// Endpoints to draw from, as places in `Members::usable`.
pub(super) struct Group {
    pub places: Box<[u32]>,
    pub weights: Weights,
    /// One round by turns, for round robin.
    pub order: Box<[u32]>,
}

/// Where the endpoints of one part stand.
#[derive(Default)]
struct Standings {
    /// Ready and due.
    drawn: Vec<u32>,
    ready: usize,
    due: Vec<u32>,
}

impl View {
    pub(super) fn of(members: &Members, shared: &Shared, now: Instant) -> Self {
        // Read before the endpoints are looked at: what changes meanwhile is looked at again.
        let changes = shared.changes();
        let (mut due, mut shut, mut stale_at) = (Vec::new(), Vec::new(), u64::MAX);
        let mut stand = |places: std::ops::Range<usize>| {
            let mut standings = Standings::default();
            for place in places {
                let endpoint = &members.usable[place];
                match endpoint.standing(now) {
                    Standing::Ready => {
                        standings.drawn.push(place as u32);
                        standings.ready += 1;
                    }
                    Standing::Due => {
                        standings.drawn.push(place as u32);
                        standings.due.push(place as u32);
                    }
                    Standing::Shut => {
                        stale_at = stale_at.min(endpoint.next_due());
                        shut.push(place as u32);
                    }
                    Standing::Ejected => stale_at = stale_at.min(endpoint.next_due()),
                }
            }
            standings
        };
        let mut found = None;
        for (at, tier) in members.tiers.iter().enumerate() {
            let (near, far) = (stand(tier.near.places.clone()), stand(tier.far.places.clone()));
            if near.ready + far.ready > 0 {
                found = Some((at, near, far));
                break;
            }
            due.extend(near.due.into_iter().chain(far.due));
        }
        let (tier, near, far, near_share) = match found {
            Some((tier, near, far)) => {
                let share = near_share(near.ready, members.tiers[tier].near_listed, far.ready);
                if share == 0 {
                    due.extend(&near.due);
                } else if share == WHOLE {
                    due.extend(&far.due);
                }
                (tier, near.drawn, far.drawn, share)
            }
            // Nobody is known to be well: whoever is due is asked first.
            None => (0, std::mem::take(&mut due), Vec::new(), WHOLE),
        };
        let group = |places: Vec<u32>| Group::new(places, members);
        let (near, far) = (group(near), group(far));
        let drawn = near.places.iter().chain(&far.places);
        let ramps_until = drawn.map(|place| members.usable[*place as usize].ramps_until()).max().unwrap_or(0);
        Self {
            changes,
            made: shared.millis(now),
            stale_at,
            ramps_until,
            tier,
            near,
            far,
            near_share,
            due: due.into(),
            shut: shut.into(),
        }
    }

    /// Whether it should be made anew. Small sets follow every change at once; a larger one not more often than every
    /// 5 µs an endpoint (50 ms for 10,000), since making it takes up to 50 ns an endpoint.
    pub(super) fn is_stale(&self, endpoints: usize, shared: &Shared, at: u64) -> bool {
        let changed = self.changes != shared.changes() || at >= self.stale_at;
        changed && (endpoints <= SMALL || at.saturating_sub(self.made) >= endpoints as u64 / 200)
    }
}

/// All stays in our zone while seven tenths of its endpoints are usable; below that in proportion, and the rest goes to the
/// others by their weights. (Envoy's overprovisioning factor, 1.4, is nearly ten sevenths.)
fn near_share(ready: usize, listed: usize, elsewhere: usize) -> u64 {
    if elsewhere == 0 {
        return WHOLE;
    }
    (WHOLE * 10 * ready as u64 / (7 * listed.max(1) as u64)).min(WHOLE)
}

impl Group {
    fn new(places: Vec<u32>, members: &Members) -> Self {
        let weight = |place: &u32| members.usable[*place as usize].listing.weight.max(1);
        let weights: Vec<u32> = places.iter().map(weight).collect();
        let order = match members.policy.balance {
            Balance::RoundRobin => spread(&weights),
            Balance::LeastLoaded | Balance::Random | Balance::RingHash | Balance::Maglev => Box::default(),
        };
        Self { weights: Weights::new(&weights), places: places.into(), order }
    }

    pub(super) fn get<'a>(&self, members: &'a Members, at: usize) -> &'a Arc<Endpoint> {
        &members.usable[self.places[at] as usize]
    }
}

pub(super) const WHOLE: u64 = 1 << 32;
/// Up to so many endpoints are looked at as a matter of course.
pub(super) const SMALL: usize = 64;
