//! `rate-limiting`: so many requests of a caller in fixed windows, with Kong's fields and headers
//! (`kong/plugins/rate-limiting/handler.lua`). Counted in this process (`local`, `fleet`) or outside it (`redis`).

mod counters;
mod keep;
mod shown;
mod windows;

pub use counters::{Counters, Taken};
pub use keep::{Fleet, Limiters, RedisSettings, SharedCounters, StoreError, Stores};
pub use windows::{Unit, Window};

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use aws_lc_rs::digest;
use http::{HeaderName, StatusCode};
use smallvec::SmallVec;

use super::consumers::Identified;
use super::{Answered, Call, Decision, Filter, Verdict, Wording};
use crate::telemetry::{LimiterCounts, LimiterEvent, Metrics};

#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// From the shortest window to the longest, each at most once.
    pub limits: Vec<(Unit, u32)>,
    pub limit_by: LimitBy,
    pub policy: Policy,
    /// Where the store cannot be asked: let pass, or refuse.
    pub fault_tolerant: bool,
    /// Whether answers say nothing of limits.
    pub hide_client_headers: bool,
    pub error_code: StatusCode,
    /// In place of outrigger's own words.
    pub error_message: Option<String>,
}

/// Whose requests are counted together. Where a request does not have it, its address counts, as in Kong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LimitBy {
    /// Else its credential, else its address.
    Consumer,
    Credential,
    /// IPv6 by its /64: that is one subscriber's.
    Ip,
    /// All requests together.
    Service,
    Header(HeaderName),
    /// Requests of this path together, all others by address.
    Path(String),
    /// The verified SPIFFE id.
    Peer,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Policy {
    Local,
    /// The limit divided by the healthy instances of our service, rounded down, at least 1 each.
    Fleet,
    Redis(RedisSettings),
}

/// A limit in the window that runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    pub unit: Unit,
    pub limit: u32,
    pub window: Window,
}

type Quotas = SmallVec<[Quota; 3]>;

pub(super) struct RateLimiting {
    shared: Arc<Shared>,
}

/// What a verdict needs after a store was asked.
struct Shared {
    settings: Settings,
    place: Place,
    events: LimiterCounts,
    /// The last minute in which something was said in the log.
    warned: AtomicU64,
}

enum Place {
    Here { counters: Arc<Counters>, fleet: Option<Arc<Fleet>> },
    Elsewhere { store: Arc<dyn SharedCounters>, prefix: String },
}

impl RateLimiting {
    pub(super) fn new(settings: &Settings, scope: &str, limiters: &Limiters, metrics: &Metrics) -> Self {
        let here = |fleet| Place::Here { counters: limiters.counters(scope, settings), fleet };
        let place = match &settings.policy {
            Policy::Local => here(None),
            Policy::Fleet => here(Some(limiters.fleet())),
            Policy::Redis(redis) => {
                Place::Elsewhere { store: limiters.store(redis), prefix: format!("{}\n{scope}", limiters.service()) }
            }
        };
        let (settings, events) = (settings.clone(), metrics.limiter());
        Self { shared: Arc::new(Shared { settings, place, events, warned: AtomicU64::new(0) }) }
    }
}

impl Filter for RateLimiting {
    fn request(&self, call: &mut Call<'_>) -> Decision {
        let shared = &self.shared;
        let quotas = shared.quotas(call.wall);
        let (kind, who) = identifier(&shared.settings.limit_by, call);
        match &shared.place {
            Place::Here { counters, .. } => {
                let taken = counters.take(kind, &who, &quotas);
                shared.conclude(&taken, &quotas, call)
            }
            Place::Elsewhere { store, prefix } => {
                let asked = store.take(key_of(prefix, kind, &who), quotas.clone());
                let shared = shared.clone();
                Decision::ask(Box::pin(async move {
                    let answer = asked.await;
                    Box::new(move |call: &mut Call<'_>| match answer {
                        Ok(taken) => shared.conclude(&taken, &quotas, call),
                        Err(error) => shared.failed(&error, call),
                    }) as Verdict
                }))
            }
        }
    }

    fn response(&self, answer: &mut Answered<'_>) {
        if !self.shared.settings.hide_client_headers
            && let Some(shown) = answer.stash.get::<shown::Shown>()
        {
            shown.write(answer.headers);
        }
    }
}

impl Shared {
    fn quotas(&self, wall: SystemTime) -> Quotas {
        let at = windows::seconds(wall);
        let instances = match &self.place {
            Place::Here { fleet: Some(fleet), .. } => fleet.instances(),
            _ => 1,
        };
        let quota =
            |&(unit, limit): &(Unit, u32)| Quota { unit, limit: (limit / instances).max(1), window: unit.window(at) };
        self.settings.limits.iter().map(quota).collect()
    }

    fn conclude(&self, taken: &Taken, quotas: &[Quota], call: &mut Call<'_>) -> Decision {
        if taken.shared {
            self.events.count(LimiterEvent::SharedCounter);
            self.once_a_minute(call.wall, || {
                tracing::warn!(
                    "rate-limiting: more distinct callers than have counters of their own; further new ones share \
                     counters until the window ends, and may be refused too early"
                );
            });
        }
        let shown = shown::Shown::new(taken, quotas, windows::seconds(call.wall));
        let retry_after = shown.reset();
        if !self.settings.hide_client_headers {
            call.stash.insert(shown);
        }
        if taken.granted { Decision::PASS } else { self.refuse(taken, quotas, retry_after) }
    }

    fn refuse(&self, taken: &Taken, quotas: &[Quota], retry_after: u64) -> Decision {
        let mut headers = http::HeaderMap::with_capacity(1);
        headers.insert(http::header::RETRY_AFTER, retry_after.into());
        let full = quotas.iter().zip(&taken.used).filter(|(quota, used)| **used >= quota.limit);
        let full: Vec<String> = full.map(|(quota, _)| format!("{} a {}", quota.limit, quota.unit.as_str())).collect();
        let by = match &self.settings.limit_by {
            LimitBy::Consumer => "consumer",
            LimitBy::Credential => "credential",
            LimitBy::Ip => "ip",
            LimitBy::Service => "service",
            LimitBy::Header(_) => "header",
            LimitBy::Path(_) => "path",
            LimitBy::Peer => "peer",
        };
        let shared = if taken.shared { ", by a counter that several callers share" } else { "" };
        let status = Some(self.settings.error_code).filter(|code| *code != StatusCode::TOO_MANY_REQUESTS);
        let message = self.settings.error_message.clone().map(Cow::Owned);
        let wording = (status.is_some() || message.is_some()).then_some(Wording { status, message });
        let detail = format!("{} by {by}{shared}", full.join(", "));
        let reason = crate::reason::Reason::RateLimited;
        let refuse = super::End::Refuse { reason, detail, headers, wording };
        Decision { delay: std::time::Duration::ZERO, end: Some(Box::new(refuse)) }
    }

    /// Nobody knows how much is used. No header says anything then.
    fn failed(&self, error: &StoreError, call: &Call<'_>) -> Decision {
        let passes = self.settings.fault_tolerant;
        self.once_a_minute(call.wall, || {
            let what = if passes { "requests pass uncounted" } else { "requests are refused" };
            tracing::warn!(%error, "rate-limiting: Redis gives no answer; {what}");
        });
        if passes {
            self.events.count(LimiterEvent::StoreFailedPassed);
            return Decision::PASS;
        }
        self.events.count(LimiterEvent::StoreFailedRefused);
        Decision::refuse(crate::reason::Reason::Overloaded, format!("redis: {error}"))
    }

    fn once_a_minute(&self, wall: SystemTime, say: impl FnOnce()) {
        let minute = windows::seconds(wall) / 60;
        let before = self.warned.load(Ordering::Relaxed);
        if before != minute
            && self.warned.compare_exchange(before, minute, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        {
            say();
        }
    }
}

/// Who a request is counted for; the kind keeps a consumer apart from a header with the same text.
fn identifier<'a>(by: &'a LimitBy, call: &'a Call<'_>) -> (u8, Cow<'a, [u8]>) {
    let identified = || call.stash.get::<Identified>();
    let credential = || identified().and_then(|who| who.credential.as_deref()).map(|id| (CREDENTIAL, id.as_bytes()));
    let consumer = || {
        let known = identified().and_then(|who| who.consumer.as_deref())?;
        Some((CONSUMER, known.consumer.id.as_bytes()))
    };
    let found = match by {
        LimitBy::Consumer => consumer().or_else(credential),
        LimitBy::Credential => credential(),
        LimitBy::Ip => None,
        LimitBy::Service => Some((SERVICE, &b""[..])),
        LimitBy::Header(name) => call.head.headers.get(name).map(|value| (HEADER, value.as_bytes())),
        LimitBy::Path(path) => (call.head.uri.path() == path).then_some((PATH, path.as_bytes())),
        LimitBy::Peer => call.caller.identity.map(|id| (PEER, id.as_str().as_bytes())),
    };
    match (found, call.caller.client) {
        (Some((kind, who)), _) => (kind, who.into()),
        (None, IpAddr::V4(address)) => (ADDRESS, address.octets().to_vec().into()),
        (None, IpAddr::V6(address)) => (ADDRESS, address.octets()[..8].to_vec().into()),
    }
}

/// The name of a caller's counters outside this process: a digest, as who a caller is may be nobody's business there.
fn key_of(prefix: &str, kind: u8, who: &[u8]) -> String {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(prefix.as_bytes());
    context.update(&[b'\n', kind]);
    context.update(who);
    let digest = context.finish();
    digest.as_ref()[..16].iter().fold(String::with_capacity(32), |hex, byte| hex + &format!("{byte:02x}"))
}

const ADDRESS: u8 = 0;
const CONSUMER: u8 = 1;
const CREDENTIAL: u8 = 2;
const SERVICE: u8 = 3;
const HEADER: u8 = 4;
const PATH: u8 = 5;
const PEER: u8 = 6;

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
