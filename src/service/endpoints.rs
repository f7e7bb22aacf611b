//! What a registry says of an endpoint, and what is learned of it, which passes from set to set.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::breaker::{Breaker, BreakerView, Ticket};
use super::gate::Gate;
use super::load::Load;
use super::policy::BreakerPolicy;
use super::reach::{Reach, Reachable};
use crate::names::ServiceName;
use crate::published::Published;

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

/// What the endpoints of one service have in common.
pub(super) struct Shared {
    pub epoch: Instant,
    pub breaker: Published<BreakerPolicy>,
    /// Ejected endpoints, and how many may be.
    pub room: Gate,
    /// One more with each change of who can be used: what was prepared for picking is then made anew.
    changes: AtomicU64,
}

impl Shared {
    pub(super) fn new(policy: BreakerPolicy, epoch: Instant) -> Self {
        Self { epoch, breaker: Published::new(policy), room: Gate::new(0), changes: AtomicU64::new(0) }
    }

    pub(super) fn millis(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.epoch).as_millis() as u64
    }

    pub(super) fn changed(&self) {
        self.changes.fetch_add(1, Ordering::Release);
    }

    pub(super) fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }
}

/// An endpoint in use: what is listed, and what we learned of it.
pub struct Endpoint {
    pub listing: Listing,
    /// 0 for the service's own, 1 and up for its failovers.
    pub(super) tier: u32,
    pub(super) state: Arc<EndpointState>,
}

/// What is learned of an endpoint; it passes from set to set.
pub(super) struct EndpointState {
    /// Unique in the process: the key of connection pools.
    number: u64,
    pub load: Load,
    pub reach: Reach,
    pub breaker: Breaker,
    pub shared: Arc<Shared>,
    /// When it joined a set that had others, in milliseconds since the epoch; 0 for those that were there first.
    pub joined: AtomicU64,
    /// False once it left the set or turned critical: idle connections to it are then closed.
    pub wanted: AtomicBool,
}

impl Endpoint {
    pub(super) fn new(listing: Listing, tier: u32, shared: &Arc<Shared>, joined: u64) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let usable = listing.health != Health::Critical;
        let state = EndpointState {
            number: NEXT.fetch_add(1, Ordering::Relaxed),
            load: Load::new(shared.epoch),
            reach: Reach::new(shared.epoch),
            breaker: Breaker::new(),
            shared: shared.clone(),
            joined: AtomicU64::new(joined),
            wanted: AtomicBool::new(usable),
        };
        if !usable {
            state.breaker.suspend(&shared.room);
        }
        Self { listing, tier, state: Arc::new(state) }
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

    pub fn breaker(&self, now: Instant) -> BreakerView {
        let shared = &self.state.shared;
        self.state.breaker.view(&shared.breaker.peek(), shared.millis(now))
    }

    pub fn is_wanted(&self) -> bool {
        self.state.wanted.load(Ordering::Relaxed)
    }

    /// The same in every sidecar and every version: rapidhash v3 of id and address.
    pub(super) fn hash(&self) -> u64 {
        rapidhash::v3::rapidhash_v3(format!("{}\0{}", self.listing.id, self.listing.address).as_bytes())
    }

    /// Makes the caller's request one of this endpoint's, and its probe where a pause is over; `None` where it is left out.
    pub(super) fn take(&self, now: Instant) -> Option<Ticket> {
        let EndpointState { breaker, reach, shared, .. } = &*self.state;
        let ticket = match breaker.ticket() {
            closed @ Ticket::Counted(_) => match reach.state(now) {
                Reachable::Yes => return Some(closed),
                Reachable::Due => reach.claim(now).then_some(closed)?,
                Reachable::No => return None,
            },
            Ticket::Probe(_) | Ticket::Uncounted => {
                let at = shared.millis(now);
                if breaker.due().is_none_or(|due| at < due) || reach.state(now) == Reachable::No {
                    return None;
                }
                let probe = breaker.claim(at)?;
                if reach.state(now) == Reachable::Due && !reach.claim(now) {
                    breaker.abandoned(probe);
                    return None;
                }
                probe
            }
        };
        shared.changed();
        Some(ticket)
    }

    /// Whether `take` would give a ticket.
    pub(super) fn fits(&self, now: Instant) -> bool {
        matches!(self.standing(now), Standing::Ready | Standing::Due)
    }

    pub(super) fn standing(&self, now: Instant) -> Standing {
        let EndpointState { breaker, reach, shared, .. } = &*self.state;
        let reachable = reach.state(now);
        if let Ticket::Counted(_) = breaker.ticket() {
            return match reachable {
                Reachable::Yes => Standing::Ready,
                Reachable::Due => Standing::Due,
                Reachable::No => Standing::Shut,
            };
        }
        match breaker.due() {
            Some(due) if shared.millis(now) >= due && reachable != Reachable::No => Standing::Due,
            _ => Standing::Ejected,
        }
    }

    /// When an endpoint that is left out may be probed, as far as time alone decides.
    pub(super) fn next_due(&self) -> u64 {
        let until = self.state.reach.until();
        match self.state.breaker.ticket() {
            Ticket::Counted(_) => until,
            _ => self.state.breaker.due().map_or(u64::MAX, |due| due.max(until)),
        }
    }

    /// The share of its weight that an endpoint gets which joined lately: from a tenth to the whole within `RAMP`, in
    /// thousandths. `None` where it has been there for longer.
    pub(super) fn ramp(&self, at: u64) -> Option<u32> {
        let joined = self.state.joined.load(Ordering::Relaxed);
        let age = at.saturating_sub(joined);
        (joined != 0 && age < RAMP).then(|| (100 + 900 * age / RAMP) as u32)
    }

    pub(super) fn ramps_until(&self) -> u64 {
        match self.state.joined.load(Ordering::Relaxed) {
            0 => 0,
            joined => joined + RAMP,
        }
    }

    pub(super) fn is_same(&self, listing: &Listing) -> bool {
        self.listing.id == listing.id && self.listing.address == listing.address && self.listing.wire == listing.wire
    }
}

/// What an endpoint can be used for now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    Ready,
    /// A pause is over: one request may try it.
    Due,
    /// Not reached lately, though not ejected: better than nothing.
    Shut,
    Ejected,
}

/// Milliseconds of slow start (Envoy's `slow_start_window`, with its default of a tenth to begin with and linear growth).
pub(super) const RAMP: u64 = Duration::from_secs(10).as_millis() as u64;
