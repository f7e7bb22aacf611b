//! Plugins as filters: what each may see and decide, and the chain that runs them in Kong's order of priority. Synchronous
//! on purpose: keys and quotas are fetched by control tasks and read as snapshots; what must wait, `proxy` awaits.

pub mod fault;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http::{Extensions, HeaderMap, HeaderName, HeaderValue, StatusCode, request};

use crate::names::SpiffeId;
use crate::reason::Reason;
use crate::telemetry::{Metrics, PluginCounts, PluginDecision};

/// One plugin's part in a request's way.
pub trait Filter: Send + Sync {
    /// Decides on a request before its endpoint is chosen. The head may be changed: what stands in it afterwards is sent.
    fn request(&self, call: &mut Call<'_>) -> Decision;

    /// Sees the head of every answer, those that another filter or outrigger itself gave included; this filter's own
    /// `request` may not have run then.
    fn response(&self, _answer: &mut Answered<'_>) {}
}

/// A request as a filter sees it.
pub struct Call<'a> {
    pub head: &'a mut request::Parts,
    pub caller: Caller<'a>,
    /// What the filters of one request leave for each other (who the consumer is) and for `response` (headers to add), by
    /// type. Empty, it costs nothing.
    pub stash: &'a mut Extensions,
    pub now: Instant,
    /// For windows on the wall clock.
    pub wall: SystemTime,
    /// Chance of this request and this filter.
    pub entropy: u64,
}

/// Who sent a request, as far as its connection proves.
#[derive(Debug, Clone, Copy)]
pub struct Caller<'a> {
    pub address: IpAddr,
    /// The verified identity of a mesh peer.
    pub identity: Option<&'a SpiffeId>,
}

/// The head of an answer on its way to the caller.
pub struct Answered<'a> {
    pub status: &'a mut StatusCode,
    pub headers: &'a mut HeaderMap,
    pub stash: &'a mut Extensions,
}

/// What a filter decided: let pass after `delay`, or end the request after it.
#[derive(Debug, Default)]
pub struct Decision {
    pub delay: Duration,
    pub end: Option<Box<End>>,
}

/// How a filter ends a request.
#[derive(Debug)]
pub enum End {
    /// With an answer of its own making, which is no failure.
    Answer(Answer),
    /// With one of outrigger's reasons. `detail` is for the log alone.
    Refuse { reason: Reason, detail: String, headers: HeaderMap },
}

/// A whole answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    pub status: StatusCode,
    /// Status for gRPC callers, who get no body; made of `status` when absent.
    pub grpc: Option<u8>,
    pub headers: Vec<(HeaderName, HeaderValue)>,
    pub body: Bytes,
    /// For the log.
    pub detail: &'static str,
}

impl Decision {
    pub const PASS: Self = Self { delay: Duration::ZERO, end: None };

    #[must_use]
    pub fn answer(answer: Answer) -> Self {
        Self { delay: Duration::ZERO, end: Some(Box::new(End::Answer(answer))) }
    }

    #[must_use]
    pub fn refuse(reason: Reason, detail: impl Into<String>) -> Self {
        let refuse = End::Refuse { reason, detail: detail.into(), headers: HeaderMap::new() };
        Self { delay: Duration::ZERO, end: Some(Box::new(refuse)) }
    }
}

/// A plugin as configured.
#[derive(Debug, Clone, PartialEq)]
pub struct Plugin {
    pub mode: Mode,
    pub settings: Settings,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Enforce,
    /// Counts what it would have done, and lets the request pass as it came.
    Shadow,
}

/// What each plugin is told. One variant a plugin.
#[derive(Debug, Clone, PartialEq)]
pub enum Settings {
    Fault(fault::Settings),
}

impl Settings {
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Fault(_) => "fault",
        }
    }

    /// Higher runs first, for requests and answers alike: Kong's numbers where Kong has the plugin. `fault` has none of
    /// Kong's: it stands behind all that decides who may call, as faults are for those who may.
    const fn priority(&self) -> u32 {
        match self {
            Self::Fault(_) => 5,
        }
    }

    fn build(&self) -> Box<dyn Filter> {
        match self {
            Self::Fault(settings) => Box::new(fault::Fault::new(settings.clone())),
        }
    }
}

/// The filters of one part of the configuration, in order. Empty, running it is one branch.
#[derive(Clone, Default)]
pub struct Chain {
    links: Option<Arc<[Link]>>,
}

struct Link {
    name: &'static str,
    filter: Box<dyn Filter>,
    shadow: bool,
    counts: PluginCounts,
}

/// What a chain made of a request.
#[derive(Default)]
pub struct Ran {
    /// To be awaited before anything else is done with the request.
    pub delay: Duration,
    pub end: Option<Box<End>>,
    /// What plugins decided other than to let pass, for the log.
    pub detail: String,
}

impl Chain {
    /// Of several plugins with one name the last one counts: scopes are listed from the widest to the most specific.
    #[must_use]
    pub fn build(plugins: &[Plugin], metrics: &Metrics) -> Self {
        let is_last = |at: usize| plugins[at + 1..].iter().all(|p| p.settings.name() != plugins[at].settings.name());
        let mut chosen: Vec<&Plugin> = (0..plugins.len()).filter(|at| is_last(*at)).map(|at| &plugins[at]).collect();
        chosen.sort_by_key(|plugin| std::cmp::Reverse(plugin.settings.priority()));
        let links = chosen.into_iter().map(|plugin| Link {
            name: plugin.settings.name(),
            filter: plugin.settings.build(),
            shadow: plugin.mode == Mode::Shadow,
            counts: metrics.plugin(plugin.settings.name()),
        });
        let links: Arc<[Link]> = links.collect();
        Self { links: (!links.is_empty()).then_some(links) }
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.links.is_none()
    }

    /// Runs every filter until one ends the request.
    pub fn request(&self, call: Call<'_>) -> Ran {
        let mut ran = Ran::default();
        let Call { head, caller, stash, now, wall, entropy } = call;
        for (link, chance) in self.links.iter().flat_map(|links| links.iter()).zip(chances(entropy)) {
            let decision = if link.shadow {
                // On a copy: a shadow changes nothing of the request.
                let (mut head, mut stash) = (head.clone(), stash.clone());
                let (head, stash) = (&mut head, &mut stash);
                link.filter.request(&mut Call { head, caller, stash, now, wall, entropy: chance })
            } else {
                link.filter.request(&mut Call { head, caller, stash, now, wall, entropy: chance })
            };
            link.count(&decision, &mut ran.detail);
            if !link.shadow {
                ran.delay += decision.delay;
                ran.end = decision.end;
            }
            if ran.end.is_some() {
                break;
            }
        }
        ran
    }

    pub fn response(&self, status: &mut StatusCode, headers: &mut HeaderMap, stash: &mut Extensions) {
        for link in self.links.iter().flat_map(|links| links.iter()).filter(|link| !link.shadow) {
            link.filter.response(&mut Answered { status, headers, stash });
        }
    }
}

impl Link {
    fn count(&self, decision: &Decision, log: &mut String) {
        let would = if self.shadow { "would " } else { "" };
        let mut note = |enforced, shadowed, text: &str| {
            self.counts.count(if self.shadow { shadowed } else { enforced });
            if !log.is_empty() {
                log.push_str("; ");
            }
            log.push_str(&format!("{}: {would}{text}", self.name));
        };
        if !decision.delay.is_zero() {
            let text = format!("delay {:?}", decision.delay);
            note(PluginDecision::Delayed, PluginDecision::WouldDelay, &text);
        }
        match decision.end.as_deref() {
            Some(End::Answer(answer)) => {
                let text = format!("{} {}", answer.detail, answer.status.as_u16());
                note(PluginDecision::Answered, PluginDecision::WouldAnswer, text.trim_start());
            }
            Some(End::Refuse { reason, detail, .. }) => {
                let text = format!("refuse {}: {detail}", reason.code());
                note(PluginDecision::Refused, PluginDecision::WouldRefuse, text.trim_end_matches([':', ' ']));
            }
            None if decision.delay.is_zero() => self.counts.count(PluginDecision::Passed),
            None => {}
        }
    }
}

/// A number of its own for each filter, so that their chances are independent (splitmix64).
fn chances(entropy: u64) -> impl Iterator<Item = u64> {
    (1_u64..).map(move |at| {
        let mut z = entropy.wrapping_add(at.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    })
}

/// The gRPC status of an HTTP status (gRPC's `http-grpc-status-mapping.md`).
#[must_use]
pub const fn grpc_of(status: StatusCode) -> u8 {
    match status.as_u16() {
        200..300 => 0,
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502..=504 => 14,
        _ => 2,
    }
}

/// The HTTP status of a gRPC status (`google.rpc.Code`).
#[must_use]
pub const fn http_of(grpc: u8) -> StatusCode {
    match grpc {
        0 => StatusCode::OK,
        3 | 9 | 11 => StatusCode::BAD_REQUEST,
        4 => StatusCode::GATEWAY_TIMEOUT,
        5 => StatusCode::NOT_FOUND,
        6 | 10 => StatusCode::CONFLICT,
        7 => StatusCode::FORBIDDEN,
        8 => StatusCode::TOO_MANY_REQUESTS,
        12 => StatusCode::NOT_IMPLEMENTED,
        14 => StatusCode::SERVICE_UNAVAILABLE,
        16 => StatusCode::UNAUTHORIZED,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
