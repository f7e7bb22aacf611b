//! Decides which endpoint serves a request. Knows nothing of HTTP, sockets or time.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use super::breaker::Ticket;
use super::endpoints::Endpoint;
use super::policy::OnAllOpen;
use super::set::{EndpointSet, Members};
use super::view::{Group, SMALL, WHOLE};
use super::weights::{mix, scale};
use crate::reason::Reason;

/// How endpoints are chosen; each goes by weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Balance {
    #[default]
    /// Power of two choices on peak EWMA latency times requests in flight.
    LeastLoaded,
    /// In turn, spread evenly by weight.
    RoundRobin,
    Random,
    /// By the request's key on a ketama-like ring; at random without a key.
    RingHash,
    /// By the request's key in Maglev's table; at random without a key.
    Maglev,
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

/// A chosen endpoint and how the request counts for its breaker.
pub(super) type Picked<'a> = (&'a Arc<Endpoint>, Ticket);

impl EndpointSet {
    /// The endpoint for a request, with `turn` counting the picks of the service, at `at` milliseconds since its epoch.
    /// Prefers endpoints that are in use and untried; then the untried that could not be reached lately, then the tried.
    ///
    /// # Errors
    /// `NoEndpoint` where none is usable, `AllEjected` where all of them are ejected and the policy says to fail.
    pub(super) fn pick(&self, turn: &AtomicUsize, ask: &Ask<'_>, at: u64) -> Result<Picked<'_>, Reason> {
        if self.members.usable.is_empty() {
            return Err(Reason::NoEndpoint);
        }
        self.probe(ask).or_else(|| self.draws(turn, ask, at)).map_or_else(|| self.search(ask), Ok)
    }

    /// Now and then a request tries an endpoint whose pause is over and that no draw would meet: of a tier that is passed
    /// over, say.
    fn probe(&self, ask: &Ask<'_>) -> Option<Picked<'_>> {
        if self.view.due.is_empty() || !ask.tried.is_empty() || !mix(ask.entropy).is_multiple_of(PROBES) {
            return None;
        }
        self.first(&self.view.due, self.start(ask), |endpoint| Self::take(endpoint, ask))
    }

    fn draws(&self, turn: &AtomicUsize, ask: &Ask<'_>, at: u64) -> Option<Picked<'_>> {
        let view = &self.view;
        let start = self.start(ask);
        let near = view.near_share == WHOLE || mix(start) >> 32 < view.near_share;
        let (group, other) = if near { (&view.near, &view.far) } else { (&view.far, &view.near) };
        let keyed = self.key(ask);
        if let Some(picked) = keyed.and_then(|key| self.by_key(key, near, ask)) {
            return Some(picked);
        }
        let mut late = None;
        if keyed.is_none() && !group.places.is_empty() {
            for draw in 0..DRAWS {
                let entropy = if draw == 0 { ask.entropy } else { mix(ask.entropy ^ draw) };
                let endpoint = self.draw(group, turn, entropy, ask);
                if at < view.ramps_until
                    && let Some(thousandths) = endpoint.ramp(at)
                    && scale(mix(entropy) as u32, 1000) >= thousandths as usize
                {
                    late = Some(endpoint);
                } else if let Some(picked) = Self::take(endpoint, ask) {
                    return Some(picked);
                }
            }
        }
        late.and_then(|endpoint| Self::take(endpoint, ask))
            .or_else(|| self.first(&group.places, start, |endpoint| Self::take(endpoint, ask)))
            .or_else(|| self.first(&other.places, start, |endpoint| Self::take(endpoint, ask)))
    }

    /// The key's endpoint, else the next on the ring or the next probe of the table.
    fn by_key(&self, key: u64, near: bool, ask: &Ask<'_>) -> Option<Picked<'_>> {
        let tier = self.members.tiers.get(self.view.tier)?;
        let part = if near { &tier.near } else { &tier.far };
        let places = part.table.as_ref()?.places(key).take(STEPS);
        places.map(|place| &self.members.usable[part.places.start + place]).find_map(|e| Self::take(e, ask))
    }

    fn draw(&self, group: &Group, turn: &AtomicUsize, entropy: u64, ask: &Ask<'_>) -> &Arc<Endpoint> {
        let members: &Members = &self.members;
        match members.policy.balance {
            Balance::RoundRobin => {
                let at = turn.fetch_add(1, Ordering::Relaxed) % group.order.len();
                group.get(members, group.order[at] as usize)
            }
            Balance::Random | Balance::RingHash | Balance::Maglev => {
                group.get(members, group.weights.one(group.places.len(), entropy as u32))
            }
            Balance::LeastLoaded => {
                let (first, second) = group.weights.two(group.places.len(), entropy);
                let (first, second) = (group.get(members, first), group.get(members, second));
                if Arc::ptr_eq(first, second) {
                    return first;
                }
                let fits = |endpoint: &Endpoint| !ask.tried.contains(&endpoint.number()) && endpoint.fits(ask.now);
                match (fits(first), fits(second)) {
                    (true, false) => return first,
                    (false, true) => return second,
                    _ => {}
                }
                let share = |endpoint: &Endpoint| group.weights.share(endpoint.listing.weight);
                // The first draw wins a tie, so ties are broken by weight and chance.
                let better = second.load().is_better(share(second), first.load(), share(first), ask.now);
                if better { second } else { first }
            }
        }
    }

    /// The key, where the balancer goes by it.
    fn key(&self, ask: &Ask<'_>) -> Option<u64> {
        match self.members.policy.balance {
            Balance::RingHash | Balance::Maglev => ask.key,
            Balance::LeastLoaded | Balance::RoundRobin | Balance::Random => None,
        }
    }

    /// 32 bits for what is decided beside the draw, the same for the same key.
    fn start(&self, ask: &Ask<'_>) -> u64 {
        mix(!self.key(ask).unwrap_or(ask.entropy)) >> 32
    }

    fn take<'a>(endpoint: &'a Arc<Endpoint>, ask: &Ask<'_>) -> Option<Picked<'a>> {
        if ask.tried.contains(&endpoint.number()) {
            return None;
        }
        endpoint.take(ask.now).map(|ticket| (endpoint, ticket))
    }

    /// Nobody untried is in use: what is left, down to those who are ejected.
    fn search(&self, ask: &Ask<'_>) -> Result<Picked<'_>, Reason> {
        let (view, start) = (&self.view, self.start(ask));
        let closed = |endpoint: &'_ Arc<Endpoint>| match endpoint.state.breaker.ticket() {
            closed @ Ticket::Counted(_) => Some(closed),
            Ticket::Probe(_) | Ticket::Uncounted => None,
        };
        let untried = |endpoint: &Arc<Endpoint>| !ask.tried.contains(&endpoint.number());
        let of = |places, untried_only: bool| {
            self.first(places, start, |endpoint| {
                (!untried_only || untried(endpoint))
                    .then(|| closed(endpoint))
                    .flatten()
                    .map(|ticket| (endpoint, ticket))
            })
        };
        let left = of(&view.shut, true)
            .or_else(|| of(&view.near.places, false))
            .or_else(|| of(&view.far.places, false))
            .or_else(|| of(&view.shut, false));
        match (left, self.members.policy.breaker.on_all_open) {
            (Some(picked), _) => Ok(picked),
            (None, OnAllOpen::Fail) => Err(Reason::AllEjected),
            (None, OnAllOpen::TryAnyway) => {
                let usable = &self.members.usable;
                let from = (start as usize).wrapping_rem(usable.len());
                let mut some = usable[from..].iter().chain(&usable[..from]).take(SMALL);
                let endpoint = some.find(|e| untried(e)).unwrap_or(&usable[from]);
                Ok((endpoint, endpoint.state.breaker.ticket()))
            }
        }
    }

    /// The first of `places` that gives something, looking at `SMALL` of them from a random one on.
    fn first<'a, T>(
        &'a self,
        places: &[u32],
        start: u64,
        mut give: impl FnMut(&'a Arc<Endpoint>) -> Option<T>,
    ) -> Option<T> {
        let (front, back) = places.split_at(scale(start as u32, places.len()));
        back.iter().chain(front).take(SMALL).find_map(|place| give(&self.members.usable[*place as usize]))
    }
}

const DRAWS: u64 = 3;
/// Steps on the ring or probes of the table before a key goes anywhere: with half of the endpoints out one key in 2^32.
const STEPS: usize = 32;
/// One request in so many probes what no draw would meet.
const PROBES: u64 = 8;
