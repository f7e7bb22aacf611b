//! All endpoints of a service as of one answer of its registry. Succession: an endpoint that stays keeps its load, its
//! breaker, its reachability and its connections.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::breaker::{BreakerState, Cause, Transition};
use super::endpoints::{Endpoint, Health, Listing, Shared};
use super::hashed::Table;
use super::policy::Policy;
use super::view::{SMALL, View};

/// An endpoint whose breaker changed its state, with what it became.
pub type Changed = (Arc<Endpoint>, Transition);

/// The endpoints of a service, with what is needed to pick one.
pub struct EndpointSet {
    pub(super) members: Arc<Members>,
    /// Who of them can be used now.
    pub(super) view: View,
}

/// What stays the same until the registry or the policy says otherwise.
pub(super) struct Members {
    /// Sorted by id and address: succession merges two lists in one walk.
    all: Box<[Arc<Endpoint>]>,
    /// Those that are not critical: by tier, in a tier those of our zone first.
    pub usable: Box<[Arc<Endpoint>]>,
    pub tiers: Box<[Tier]>,
    pub policy: Arc<Policy>,
}

/// One tier's endpoints, as places in `usable`.
pub(super) struct Tier {
    /// Of our own zone; all of them where no zone is preferred.
    pub near: Part,
    pub far: Part,
    /// Endpoints of our zone as listed, the critical ones included.
    pub near_listed: usize,
}

pub(super) struct Part {
    pub places: Range<usize>,
    pub table: Option<Table>,
}

impl EndpointSet {
    pub(super) fn empty(policy: &Arc<Policy>, shared: &Shared) -> Self {
        Self::of(Vec::new(), policy, shared, shared.epoch)
    }

    /// The set that follows on `self` when registries list `tiers`, and the breakers that closed thereby.
    pub(super) fn succeed(
        &self,
        tiers: &[Vec<Listing>],
        policy: &Arc<Policy>,
        shared: &Arc<Shared>,
        now: Instant,
    ) -> (Self, Vec<Changed>) {
        let at = shared.millis(now);
        let mut listed: Vec<(u32, &Listing)> =
            (0..).zip(tiers).flat_map(|(tier, listed)| listed.iter().map(move |listing| (tier, listing))).collect();
        // Stable: what two tiers list is of the first of them.
        listed.sort_by(|(_, a), (_, b)| (&a.id, a.address).cmp(&(&b.id, b.address)));
        listed.dedup_by(|(_, a), (_, b)| a.id == b.id && a.address == b.address);
        let joined = if self.members.usable.is_empty() { 0 } else { at.max(1) };
        let mut old = self.members.all.iter().peekable();
        let mut closed = Vec::new();
        let mut all = Vec::with_capacity(listed.len());
        for (tier, listing) in listed {
            let key = (&listing.id, listing.address);
            while let Some(gone) = old.next_if(|o| (&o.listing.id, o.listing.address) < key) {
                leave(gone, shared);
            }
            let known = old.next_if(|o| (&o.listing.id, o.listing.address) == key);
            all.push(match known {
                Some(known) if known.listing == *listing && known.tier == tier => known.clone(),
                Some(known) if known.is_same(listing) => {
                    let (endpoint, transition) = renewed(known, listing, tier, joined, at);
                    closed.extend(transition.map(|transition| (endpoint.clone(), transition)));
                    endpoint
                }
                Some(other) => {
                    leave(other, shared);
                    Arc::new(Endpoint::new(listing.clone(), tier, shared, joined))
                }
                None => Arc::new(Endpoint::new(listing.clone(), tier, shared, joined)),
            });
        }
        old.for_each(|gone| leave(gone, shared));
        shared.changed();
        (Self::of(all, policy, shared, now), closed)
    }

    /// The same endpoints under another policy; who can be used is looked up anew at the next pick.
    pub(super) fn under(&self, policy: &Arc<Policy>, shared: &Shared) -> Self {
        let made = shared.epoch + Duration::from_millis(self.view.made);
        let set = Self::of(self.members.all.to_vec(), policy, shared, made);
        shared.changed();
        set
    }

    /// The same endpoints, with who of them can be used now.
    pub(super) fn refreshed(&self, shared: &Shared, now: Instant) -> Self {
        Self { members: self.members.clone(), view: View::of(&self.members, shared, now) }
    }

    fn of(all: Vec<Arc<Endpoint>>, policy: &Arc<Policy>, shared: &Shared, now: Instant) -> Self {
        let is_near = |endpoint: &Endpoint| policy.zone.is_none() || endpoint.listing.zone == policy.zone;
        let mut usable: Vec<Arc<Endpoint>> =
            all.iter().filter(|e| e.listing.health != Health::Critical).cloned().collect();
        // Stable, hence by id in each part.
        usable.sort_by_key(|e| (e.tier, !is_near(e)));
        let last = all.iter().map(|e| e.tier).max().map_or(0, |tier| tier + 1);
        let part = |from: usize, to: usize| {
            let table = Table::new(policy.balance, usable[from..to].iter().map(|e| &**e));
            Part { places: from..to, table }
        };
        let mut near_listed = vec![0; last as usize];
        for endpoint in all.iter().filter(|e| is_near(e)) {
            near_listed[endpoint.tier as usize] += 1;
        }
        let tier = |(tier, near_listed)| {
            let begin = |far: bool| usable.partition_point(|e| (e.tier, !is_near(e)) < (tier, far));
            let end = usable.partition_point(|e| e.tier <= tier);
            Tier { near: part(begin(false), begin(true)), far: part(begin(true), end), near_listed }
        };
        let tiers = (0..last).zip(near_listed).map(tier).collect();
        let members = Members { all: all.into(), tiers, usable: usable.into(), policy: policy.clone() };
        Self { view: View::of(&members, shared, now), members: Arc::new(members) }
    }

    pub(super) fn is_stale(&self, shared: &Shared, at: u64) -> bool {
        self.view.is_stale(self.members.usable.len(), shared, at)
    }

    pub(super) fn is_small(&self) -> bool {
        self.members.usable.len() <= SMALL
    }

    pub fn all(&self) -> &[Arc<Endpoint>] {
        &self.members.all
    }

    pub fn listings(&self) -> impl Iterator<Item = &Listing> {
        self.members.all.iter().map(|e| &e.listing)
    }
}

fn leave(endpoint: &Endpoint, shared: &Shared) {
    endpoint.state.wanted.store(false, Ordering::Relaxed);
    endpoint.state.breaker.suspend(&shared.room);
}

/// The same endpoint as it is listed now.
fn renewed(
    known: &Endpoint,
    listing: &Listing,
    tier: u32,
    joined: u64,
    at: u64,
) -> (Arc<Endpoint>, Option<Transition>) {
    let state = &known.state;
    let mut recovered = false;
    match (known.listing.health == Health::Critical, listing.health == Health::Critical) {
        (true, false) => {
            // The registry has seen it recover: no need to wait for our own pauses to end.
            state.reach.open();
            recovered = state.breaker.resume(at);
            state.joined.store(joined, Ordering::Relaxed);
        }
        (false, true) => state.breaker.suspend(&state.shared.room),
        (true, true) | (false, false) => {}
    }
    state.wanted.store(listing.health != Health::Critical, Ordering::Relaxed);
    let transition = Transition { to: BreakerState::Closed, cause: Cause::Recovered, open_for: Duration::ZERO };
    let endpoint = Arc::new(Endpoint { listing: listing.clone(), tier, state: state.clone() });
    (endpoint, recovered.then_some(transition))
}
