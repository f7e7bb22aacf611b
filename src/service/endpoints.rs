//! What a registry says of an endpoint, and the immutable set made from it. Succession: an endpoint that stays keeps its
//! load, its reachability and its connections.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::balance::{Balance, Picker};
use super::load::Load;
use super::reach::{Reach, Reachable};
use crate::names::ServiceName;

/// One endpoint as a registry lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    /// Consul's service id, or the address for static and DNS endpoints. With `address` it identifies an endpoint.
    pub id: Arc<str>,
    pub address: SocketAddr,
    /// The weight that belongs to its health now, at least 1.
    pub weight: u32,
    pub health: Health,
    pub wire: Wire,
    /// The zone of its node or service Meta, where told.
    pub zone: Option<Arc<str>>,
}

/// The worst of an endpoint's checks, its node's included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    Passing,
    Warning,
    Critical,
}

/// How an endpoint is spoken to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Wire {
    Plain,
    /// mTLS; the peer must prove to be `peer`.
    Mesh {
        peer: ServiceName,
        /// A sidecar of ours (Meta `outrigger_owner`): HTTP/2 may be offered by ALPN, whatever its app speaks. Others
        /// are offered just the upstream's protocol, since an L4 proxy picks `h2` and then passes bytes to its app.
        ours: bool,
    },
}

/// An endpoint in use: what is listed, and what we learned of it.
pub struct Endpoint {
    pub listing: Listing,
    pub(super) state: Arc<EndpointState>,
}

/// What is learned of an endpoint; it passes from set to set.
pub(super) struct EndpointState {
    /// Unique in the process: the key of connection pools.
    number: u64,
    pub load: Load,
    pub reach: Reach,
    /// False once it left the set or turned critical: idle connections to it are then closed.
    wanted: AtomicBool,
}

impl Endpoint {
    fn new(listing: Listing, epoch: Instant) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let state = EndpointState {
            number: NEXT.fetch_add(1, Ordering::Relaxed),
            load: Load::new(epoch),
            reach: Reach::new(epoch),
            wanted: AtomicBool::new(listing.health != Health::Critical),
        };
        Self { listing, state: Arc::new(state) }
    }

    pub fn number(&self) -> u64 {
        self.state.number
    }

    pub fn load(&self) -> &Load {
        &self.state.load
    }

    pub fn reachable(&self, now: Instant) -> Reachable {
        self.state.reach.state(now)
    }

    pub fn is_wanted(&self) -> bool {
        self.state.wanted.load(Ordering::Relaxed)
    }

    fn is_same(&self, listing: &Listing) -> bool {
        self.listing.id == listing.id && self.listing.address == listing.address && self.listing.wire == listing.wire
    }
}

/// All endpoints of a service as of one answer of its registry, with what is needed to pick one.
pub struct EndpointSet {
    /// Sorted by id and address: succession merges two lists in one walk.
    all: Box<[Arc<Endpoint>]>,
    pub(super) usable: Box<[Arc<Endpoint>]>,
    pub(super) picker: Picker,
}

impl EndpointSet {
    pub(super) fn empty(balance: Balance) -> Self {
        Self { all: Box::new([]), usable: Box::new([]), picker: Picker::new(balance, &[]) }
    }

    /// The set that follows on `self` when a registry lists `listed`.
    pub(super) fn succeed(&self, mut listed: Vec<Listing>, balance: Balance, epoch: Instant) -> Self {
        listed.sort_by(|a, b| (&a.id, a.address).cmp(&(&b.id, b.address)));
        listed.dedup_by(|a, b| a.id == b.id && a.address == b.address);
        let mut old = self.all.iter().peekable();
        let mut all = Vec::with_capacity(listed.len());
        for listing in listed {
            let key = (&listing.id, listing.address);
            while let Some(gone) = old.next_if(|o| (&o.listing.id, o.listing.address) < key) {
                gone.state.wanted.store(false, Ordering::Relaxed);
            }
            let known = old.next_if(|o| (&o.listing.id, o.listing.address) == key);
            all.push(match known {
                Some(known) if known.listing == listing => known.clone(),
                Some(known) if known.is_same(&listing) => Self::renewed(known, listing),
                Some(other) => {
                    other.state.wanted.store(false, Ordering::Relaxed);
                    Arc::new(Endpoint::new(listing, epoch))
                }
                None => Arc::new(Endpoint::new(listing, epoch)),
            });
        }
        for gone in old {
            gone.state.wanted.store(false, Ordering::Relaxed);
        }
        let usable: Box<[_]> = all.iter().filter(|e| e.listing.health != Health::Critical).cloned().collect();
        let picker = Picker::new(balance, &usable);
        Self { all: all.into(), usable, picker }
    }

    fn renewed(known: &Arc<Endpoint>, listing: Listing) -> Arc<Endpoint> {
        let usable = listing.health != Health::Critical;
        if usable && known.listing.health == Health::Critical {
            // The registry has seen it recover: no need to wait for our own pause to end.
            known.state.reach.open();
        }
        known.state.wanted.store(usable, Ordering::Relaxed);
        Arc::new(Endpoint { listing, state: known.state.clone() })
    }

    /// The same endpoints under another balancer.
    pub(super) fn rebalanced(&self, balance: Balance) -> Self {
        Self { all: self.all.clone(), usable: self.usable.clone(), picker: Picker::new(balance, &self.usable) }
    }

    pub fn all(&self) -> &[Arc<Endpoint>] {
        &self.all
    }

    pub fn listings(&self) -> impl Iterator<Item = &Listing> {
        self.all.iter().map(|e| &e.listing)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    pub fn listing(id: &str, weight: u32, health: Health) -> Listing {
        let port = id.bytes().fold(1000u16, |p, b| p.wrapping_mul(31).wrapping_add(u16::from(b))) | 1;
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        Listing { id: id.into(), address, weight, health, wire: Wire::Plain, zone: None }
    }

    #[test]
    fn survivors_keep_their_state_and_leavers_are_unwanted() {
        let epoch = Instant::now();
        let first = EndpointSet::empty(Balance::LeastLoaded).succeed(
            vec![listing("a", 1, Health::Passing), listing("b", 1, Health::Passing)],
            Balance::LeastLoaded,
            epoch,
        );
        let (a, b) = (first.all[0].clone(), first.all[1].clone());
        let second = first.succeed(
            vec![listing("b", 5, Health::Passing), listing("c", 1, Health::Critical)],
            Balance::LeastLoaded,
            epoch,
        );
        assert_eq!(second.all[0].number(), b.number(), "a change of weight is no change of the endpoint");
        assert_eq!(second.all[0].listing.weight, 5);
        assert!(!a.is_wanted() && b.is_wanted());
        assert_eq!(second.usable.len(), 1, "critical ones are known but not used");
        assert!(!second.all[1].is_wanted());
    }

    #[test]
    fn an_endpoint_that_recovers_in_the_registry_is_reachable_at_once() {
        let epoch = Instant::now();
        let set = EndpointSet::empty(Balance::LeastLoaded);
        let well = set.succeed(vec![listing("a", 1, Health::Passing)], Balance::LeastLoaded, epoch);
        well.all[0].state.reach.failed(epoch);
        let ill = well.succeed(vec![listing("a", 1, Health::Critical)], Balance::LeastLoaded, epoch);
        assert_eq!(ill.all[0].reachable(epoch), Reachable::No);
        let well = ill.succeed(vec![listing("a", 1, Health::Passing)], Balance::LeastLoaded, epoch);
        assert_eq!(well.all[0].reachable(epoch), Reachable::Yes);
    }

    proptest! {
        #[test]
        fn succession_lists_what_was_listed_and_keeps_numbers(
            before in prop::collection::btree_set("[a-d]{1,2}", 0..8),
            after in prop::collection::btree_set("[a-d]{1,2}", 0..8),
        ) {
            let epoch = Instant::now();
            let list = |ids: &std::collections::BTreeSet<String>| {
                ids.iter().rev().map(|id| listing(id, 1, Health::Passing)).collect::<Vec<_>>()
            };
            let first = EndpointSet::empty(Balance::RoundRobin).succeed(list(&before), Balance::RoundRobin, epoch);
            let second = first.succeed(list(&after), Balance::RoundRobin, epoch);
            let ids: Vec<String> = second.listings().map(|l| l.id.to_string()).collect();
            prop_assert_eq!(ids, after.iter().cloned().collect::<Vec<_>>());
            for old in first.all() {
                let kept = second.all().iter().find(|e| e.listing.id == old.listing.id);
                prop_assert_eq!(kept.is_some(), old.is_wanted());
                if let Some(kept) = kept {
                    prop_assert_eq!(kept.number(), old.number());
                }
            }
        }
    }
}
