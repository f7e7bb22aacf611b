//! Plugins as filters: what each may see and decide, and the chain that runs them in Kong's order of priority. Synchronous
//! on purpose: keys and quotas are fetched by control tasks and read as snapshots; what must wait, `proxy` awaits (`Ask`).

pub mod acl;
pub mod basic_auth;
pub mod bot_detection;
pub mod consumers;
pub mod correlation_id;
pub mod cors;
pub mod expression;
pub mod fault;
pub mod fields;
pub mod ip_restriction;
pub mod jwt;
pub mod key_auth;
mod query;
pub mod rate_limiting;
pub mod request_size_limiting;
pub mod request_termination;
pub mod request_transformer;
pub mod response_transformer;
mod settings;
pub mod template;

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http::{Extensions, HeaderMap, HeaderName, HeaderValue, StatusCode, request};

use crate::names::SpiffeId;
use crate::reason::Reason;
use crate::telemetry::{Metrics, PluginCounts, PluginDecision};

pub use settings::{Mode, Plugin, Settings};

/// One plugin's part in a request's way.
pub trait Filter: Send + Sync {
    /// Decides on a request before its endpoint is chosen. The head may be changed: what stands in it afterwards is sent.
    fn request(&self, call: &mut Call<'_>) -> Decision;

    /// Sees a request that another filter ended before this one could run: keeps what `response` needs of it.
    fn skipped(&self, _head: &request::Parts, _stash: &mut Extensions) {}

    /// Decides on a connection without HTTP, if it can; the configuration keeps the others away from such services.
    fn connection(&self, _caller: &Caller<'_>) -> Decision {
        Decision::PASS
    }

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
    /// Where the connection comes from.
    pub address: IpAddr,
    pub port: u16,
    /// Where it was accepted.
    pub local: SocketAddr,
    /// Where the request comes from: `address`, or what a peer whose forwarding headers are believed says of it.
    pub client: IpAddr,
    /// The verified identity of a mesh peer.
    pub identity: Option<&'a SpiffeId>,
}

#[cfg(any(test, feature = "fuzzing"))]
impl Caller<'static> {
    /// Somebody without an identity.
    fn at(address: impl Into<IpAddr>) -> Self {
        let address = address.into();
        Self { address, port: 40_000, local: ([127, 0, 0, 1], 20_000).into(), client: address, identity: None }
    }
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
pub enum End {
    /// With an answer of its own making, which is no failure.
    Answer(Answer),
    /// With one of outrigger's reasons. `detail` is for the log alone.
    Refuse { reason: Reason, detail: String, headers: HeaderMap, wording: Option<Wording> },
    /// It has not ended yet: somebody outside this process has to be asked first.
    Ask(Ask),
}

/// A question over the network, for `proxy` to await: what it resolves to decides, with the request at hand again. It
/// bounds its own time.
pub type Ask = Pin<Box<dyn Future<Output = Verdict> + Send>>;

/// What an `Ask` has learned, as a decision.
pub type Verdict = Box<dyn FnOnce(&mut Call<'_>) -> Decision + Send>;

/// What a refusal says in place of its reason's own words.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Wording {
    pub status: Option<StatusCode>,
    pub message: Option<Cow<'static, str>>,
}

impl std::fmt::Debug for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Answer(answer) => f.debug_tuple("Answer").field(answer).finish(),
            Self::Refuse { reason, detail, headers, wording } => {
                let mut refuse = f.debug_struct("Refuse");
                refuse.field("reason", reason).field("detail", detail).field("headers", headers);
                refuse.field("wording", wording).finish()
            }
            Self::Ask(_) => f.write_str("Ask(…)"),
        }
    }
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
        let refuse = End::Refuse { reason, detail: detail.into(), headers: HeaderMap::new(), wording: None };
        Self { delay: Duration::ZERO, end: Some(Box::new(refuse)) }
    }

    /// 401 with the challenge that tells how to be identified (RFC 9110 §15.5.2), and a sentence for the client.
    #[must_use]
    pub fn unidentified(challenge: &HeaderValue, detail: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        let mut headers = HeaderMap::with_capacity(1);
        headers.insert(http::header::WWW_AUTHENTICATE, challenge.clone());
        let wording = Some(Wording { status: None, message: Some(message.into()) });
        let refuse = End::Refuse { reason: Reason::NotIdentified, detail: detail.into(), headers, wording };
        Self { delay: Duration::ZERO, end: Some(Box::new(refuse)) }
    }

    /// A refusal in a plugin's own words.
    #[must_use]
    pub fn refuse_with(reason: Reason, detail: impl Into<String>, wording: Wording) -> Self {
        let refuse = End::Refuse { reason, detail: detail.into(), headers: HeaderMap::new(), wording: Some(wording) };
        Self { delay: Duration::ZERO, end: Some(Box::new(refuse)) }
    }

    #[must_use]
    pub fn ask(ask: Ask) -> Self {
        Self { delay: Duration::ZERO, end: Some(Box::new(End::Ask(ask))) }
    }
}

/// What plugins are built with beside their settings. What must survive a reload lives behind these and is found again by
/// scope and settings.
#[derive(Clone)]
pub struct Context {
    pub metrics: Arc<Metrics>,
    pub consumers: Arc<consumers::Consumers>,
    pub limiters: Arc<rate_limiting::Limiters>,
    pub jwt: Arc<jwt::Shared>,
}

impl Context {
    /// Without consumers, and with nothing kept from before.
    #[must_use]
    pub fn new(metrics: Arc<Metrics>, limiters: Arc<rate_limiting::Limiters>) -> Self {
        Self { metrics, consumers: Arc::default(), limiters, jwt: Arc::default() }
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
    /// Which filter has to ask before anything is decided; the others behind it have not run.
    pub asks: Option<(usize, Ask)>,
}

impl Chain {
    /// Of several plugins with one name the last one counts: scopes are listed from the widest to the most specific.
    #[must_use]
    pub fn build(plugins: &[Plugin], context: &Context) -> Self {
        let is_last = |at: usize| plugins[at + 1..].iter().all(|p| p.settings.name() != plugins[at].settings.name());
        let mut chosen: Vec<&Plugin> = (0..plugins.len()).filter(|at| is_last(*at)).map(|at| &plugins[at]).collect();
        chosen.sort_by_key(|plugin| std::cmp::Reverse(plugin.settings.priority()));
        let links = chosen.into_iter().map(|plugin| Link {
            name: plugin.settings.name(),
            filter: plugin.settings.build(&plugin.scope, context),
            shadow: plugin.mode == Mode::Shadow,
            counts: context.metrics.plugin(plugin.settings.name()),
        });
        let links: Arc<[Link]> = links.collect();
        Self { links: (!links.is_empty()).then_some(links) }
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.links.is_none()
    }

    /// Runs every filter until one ends the request or has to ask.
    pub fn request(&self, call: Call<'_>) -> Ran {
        self.run(0, None, Ran::default(), call)
    }

    /// Goes on where a filter asked, with what it was told. `call` has the entropy of the first run.
    pub fn told(&self, asked: usize, verdict: Verdict, ran: Ran, call: Call<'_>) -> Ran {
        self.run(asked, Some(verdict), ran, call)
    }

    fn run(&self, from: usize, mut verdict: Option<Verdict>, mut ran: Ran, call: Call<'_>) -> Ran {
        let Call { head, caller, stash, now, wall, entropy } = call;
        let links = self.links.as_deref().unwrap_or_default();
        for (at, (link, chance)) in links.iter().zip(chances(entropy)).enumerate().skip(from) {
            let verdict = verdict.take();
            let decide = |call: &mut Call<'_>| match verdict {
                Some(verdict) => verdict(call),
                None => link.filter.request(call),
            };
            let mut decision = if link.shadow {
                // On a copy: a shadow changes nothing of the request.
                let (mut head, mut stash) = (head.clone(), stash.clone());
                let (head, stash) = (&mut head, &mut stash);
                decide(&mut Call { head, caller, stash, now, wall, entropy: chance })
            } else {
                decide(&mut Call { head, caller, stash, now, wall, entropy: chance })
            };
            if let Some(end) = decision.end.take_if(|end| matches!(**end, End::Ask(_)))
                && let End::Ask(ask) = *end
            {
                ran.asks = Some((at, ask));
                break;
            }
            link.count(&decision, &mut ran.detail);
            if !link.shadow {
                ran.delay += decision.delay;
                ran.end = decision.end;
            }
            if ran.end.is_some() {
                for skipped in links[at + 1..].iter().filter(|link| !link.shadow) {
                    skipped.filter.skipped(head, stash);
                }
                break;
            }
        }
        ran
    }

    /// Decides on a connection without HTTP: whether it is let in, and what plugins decided, for the log.
    #[must_use]
    pub fn connection(&self, caller: &Caller<'_>) -> (bool, String) {
        let mut detail = String::new();
        for link in self.links.as_deref().unwrap_or_default() {
            let decision = link.filter.connection(caller);
            link.count(&decision, &mut detail);
            if decision.end.is_some() && !link.shadow {
                return (false, detail);
            }
        }
        (true, detail)
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
            Some(End::Ask(_)) | None => {}
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
