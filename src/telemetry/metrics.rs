//! Every metric: its name, its help, its label values as enums, and handles resolved outside the request path. To add
//! one: a field, its declaration in `Metrics::new`, a recording method, a row in `docs/metrics.md` (`just docs`).

use std::sync::{Arc, OnceLock};

use prometheus::core::Collector;
use prometheus::{
    Encoder, Gauge, GaugeVec, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder,
};

use super::flow::Flow;

/// Declares a closed set of label values.
macro_rules! labels {
    ($(#[$doc:meta])* $name:ident { $($variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name { $($variant),+ }
        impl $name {
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }
        }
        impl LabelText for $name {
            fn text(self) -> &'static str {
                self.as_str()
            }
        }
    };
}

labels! {
    /// Toward our app, or from it.
    Direction { Inbound = "inbound", Outbound = "outbound" }
}
labels! {
    /// What the connections of a listener do now.
    ConnectionState { Active = "active", Handshaking = "handshaking" }
}
labels! {
    /// From the side that asked, or to it.
    BytesWay { In = "in", Out = "out" }
}
labels! {
    /// What a known endpoint can be used for now.
    EndpointState { Healthy = "healthy", Ejected = "ejected", Excluded = "excluded" }
}
labels! {
    /// How one try at one endpoint ended.
    TryOutcome {
        Answered = "answered", ConnectFailed = "connect_failed", WrongPeer = "wrong_peer", Unsent = "unsent",
        Reset = "reset", BadResponse = "bad_response", TimedOut = "timed_out", Cancelled = "cancelled",
    }
}
labels! {
    /// What became of a wish to try again.
    RetryOutcome { Done = "done", OverBudget = "over_budget", NotReplayable = "not_replayable" }
}
labels! {
    /// What an endpoint's breaker became.
    BreakerChange { Open = "open", HalfOpen = "half_open", Closed = "closed" }
}
labels! {
    /// How a TLS handshake on a listener ended.
    HandshakeOutcome {
        Accepted = "accepted", PlainText = "plain_text", NoCertificate = "no_certificate", Expired = "expired",
        ForeignRoot = "foreign_root", WrongName = "wrong_name", Malformed = "malformed", TimedOut = "timed_out",
        NoIdentity = "no_identity",
    }
}
labels! {
    /// Which of our certificates ends when.
    CertificateKind { Leaf = "leaf", Root = "root" }
}
labels! {
    ConsulOutcome { Ok = "ok", Denied = "denied", Failed = "failed", Unreachable = "unreachable" }
}
labels! {
    HeartbeatOutcome { Passing = "passing", Critical = "critical", Failed = "failed" }
}
labels! {
    ReloadOutcome { Applied = "applied", Refused = "refused", Unchanged = "unchanged" }
}
/// All metrics of the process.
pub struct Metrics {
    registry: Registry,
    requests: IntCounterVec,
    duration: HistogramVec,
    in_flight: IntGaugeVec,
    connections: IntGaugeVec,
    handshakes: IntCounterVec,
    pub(super) proxy_headers: IntCounterVec,
    pub(super) connections_cut: IntCounterVec,
    bytes: IntCounterVec,
    endpoints: IntGaugeVec,
    attempts: IntCounterVec,
    retries: IntCounterVec,
    pub(super) plugin_decisions: IntCounterVec,
    pub(super) limiters: IntCounterVec,
    pub(super) authorization: IntCounterVec,
    breakers: IntCounterVec,
    pub(super) jwks_fetches: IntCounterVec,
    pub(super) jwks_last_answer: GaugeVec,
    certificate_expiry: GaugeVec,
    consul_requests: IntCounterVec,
    consul_last_answer: GaugeVec,
    heartbeats: IntCounterVec,
    registered: IntGauge,
    reloads: IntCounterVec,
    access_lines_lost: IntCounter,
    exchanges_cut: IntCounter,
}

impl Metrics {
    /// Declares everything, `process_*` and `outrigger_build_info` included.
    #[must_use]
    #[expect(clippy::too_many_lines, reason = "one list: a declaration a metric")]
    pub fn new() -> Arc<Self> {
        let registry = Registry::new();
        let metrics = Self {
            requests: counters(
                &registry,
                "outrigger_requests_total",
                "Finished requests by direction, service, class of status, and reason where outrigger itself answered (else empty). A connection of a service with `protocol: tcp` is one request of class `tcp`; its reason says how it ended early.",
                &["direction", "service", "status_class", "reason"],
            ),
            duration: keep(
                &registry,
                HistogramVec::new(
                    HistogramOpts::new(
                        "outrigger_request_duration_seconds",
                        "Time from a request's head to the last byte of its answer.",
                    )
                    .buckets(DURATIONS.to_vec()),
                    &["direction", "service"],
                ),
            ),
            in_flight: gauges(
                &registry,
                "outrigger_requests_in_flight",
                "Requests under way.",
                &["direction", "service"],
            ),
            connections: gauges(
                &registry,
                "outrigger_connections",
                "Accepted connections by direction and what they do now.",
                &["direction", "state"],
            ),
            handshakes: counters(
                &registry,
                "outrigger_handshakes_total",
                "TLS handshakes of accepted connections by direction and outcome.",
                &["direction", "outcome"],
            ),
            proxy_headers: counters(
                &registry,
                "outrigger_proxy_headers_total",
                "Accepted connections with inbound.proxy_protocol, by what their PROXY header came to; client and sender were taken, others closed.",
                &["outcome"],
            ),
            connections_cut: counters(
                &registry,
                "outrigger_connections_cut_total",
                "Accepted connections that were not taken, or ended against their client's will, by direction and cause.",
                &["direction", "cause"],
            ),
            bytes: counters(
                &registry,
                "outrigger_bytes_total",
                "Body bytes by direction and service: in = from the caller, out = to the caller.",
                &["direction", "service", "way"],
            ),
            endpoints: gauges(
                &registry,
                "outrigger_upstream_endpoints",
                "Known endpoints of an upstream by state.",
                &["service", "state"],
            ),
            attempts: counters(
                &registry,
                "outrigger_upstream_attempts_total",
                "Tries at endpoints of an upstream by outcome; a request has one or more.",
                &["service", "outcome"],
            ),
            retries: counters(
                &registry,
                "outrigger_retries_total",
                "Wishes to try a request again, by what became of them.",
                &["service", "outcome"],
            ),
            breakers: counters(
                &registry,
                "outrigger_breaker_transitions_total",
                "Changes of endpoints' breakers of an upstream, by what they became: open is ejected, half_open is probed by one request.",
                &["service", "to"],
            ),
            plugin_decisions: counters(
                &registry,
                "outrigger_plugin_decisions_total",
                "What plugins decided of requests; would_… is what one in shadow mode would have done.",
                &["plugin", "decision"],
            ),
            authorization: counters(
                &registry,
                "outrigger_authorization_decisions_total",
                "What intentions and authz rules decided of requests, and of connections without HTTP.",
                &["decision"],
            ),
            limiters: counters(
                &registry,
                "outrigger_rate_limit_events_total",
                "Requests that a rate limiter could not count as it should: by a counter that callers share, or not at all as its store failed.",
                &["event"],
            ),
            jwks_fetches: counters(
                &registry,
                "outrigger_jwks_fetches_total",
                "Fetches of token issuers' key sets by outcome.",
                &["issuer", "outcome"],
            ),
            jwks_last_answer: seconds(
                &registry,
                "outrigger_jwks_last_answer_timestamp_seconds",
                "When the key set of each token issuer was last read well, in seconds since 1970.",
                "issuer",
            ),
            certificate_expiry: seconds(
                &registry,
                "outrigger_certificate_expiry_timestamp_seconds",
                "End of our leaf, and of the first root to end, in seconds since 1970.",
                "kind",
            ),
            consul_requests: counters(
                &registry,
                "outrigger_consul_requests_total",
                "Calls to Consul by endpoint and outcome.",
                &["endpoint", "outcome"],
            ),
            consul_last_answer: seconds(
                &registry,
                "outrigger_consul_last_answer_timestamp_seconds",
                "When each watch last had a good answer, in seconds since 1970.",
                "watch",
            ),
            heartbeats: counters(
                &registry,
                "outrigger_heartbeats_total",
                "Heartbeats by what they told Consul, or failed.",
                &["outcome"],
            ),
            registered: keep(
                &registry,
                IntGauge::new("outrigger_registered", "1 while Consul's agent is known to have our registration."),
            ),
            reloads: counters(&registry, "outrigger_config_reloads_total", "Config reloads by outcome.", &["outcome"]),
            access_lines_lost: keep(
                &registry,
                IntCounter::new(
                    "outrigger_access_lines_lost_total",
                    "Access-log lines dropped because the log's reader was too slow.",
                ),
            ),
            exchanges_cut: keep(
                &registry,
                IntCounter::new(
                    "outrigger_exchanges_cut_total",
                    "Exchanges that were still under way when grace ended.",
                ),
            ),
            registry,
        };
        let build = gauges(&metrics.registry, "outrigger_build_info", "1, with the version as a label.", &["version"]);
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        #[cfg(target_os = "linux")]
        metrics
            .registry
            .register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))
            .expect("process metrics are declared once");
        for outcome in HeartbeatOutcome::ALL {
            metrics.heartbeats.with_label_values(&[outcome.as_str()]);
        }
        for outcome in ReloadOutcome::ALL {
            metrics.reloads.with_label_values(&[outcome.as_str()]);
        }
        Arc::new(metrics)
    }

    /// The Prometheus text format, version 0.0.4.
    #[must_use]
    pub fn render(&self) -> Vec<u8> {
        let mut page = Vec::with_capacity(16 * 1024);
        // Writing to a Vec cannot fail, and every family was checked when it was declared.
        let _ = TextEncoder::new().encode(&self.registry.gather(), &mut page);
        page
    }

    /// The handles of one direction of one service; resolve once, keep.
    #[must_use]
    pub fn flow(&self, direction: Direction, service: &str) -> Flow {
        let (way, labels) = (direction.as_str(), [direction.as_str(), service]);
        let class = |class: &str| self.requests.with_label_values(&[way, service, class, ""]);
        Flow {
            classes: [class("1xx"), class("2xx"), class("3xx"), class("4xx"), class("5xx")],
            reasons: std::array::from_fn(|_| OnceLock::new()),
            requests: self.requests.clone(),
            direction,
            service: service.into(),
            duration: self.duration.with_label_values(&labels),
            in_flight: self.in_flight.with_label_values(&labels),
            bytes_in: self.bytes.with_label_values(&[way, service, BytesWay::In.as_str()]),
            bytes_out: self.bytes.with_label_values(&[way, service, BytesWay::Out.as_str()]),
            attempts: per_label(TryOutcome::ALL, |o| self.attempts.with_label_values(&[service, o])),
            retries: per_label(RetryOutcome::ALL, |o| self.retries.with_label_values(&[service, o])),
            breakers: per_label(BreakerChange::ALL, |to| self.breakers.with_label_values(&[service, to])),
        }
    }

    /// Drops the series of an upstream that a reload removed.
    pub fn forget_upstream(&self, service: &str) {
        let way = Direction::Outbound.as_str();
        for state in EndpointState::ALL {
            let _ = self.endpoints.remove_label_values(&[service, state.as_str()]);
        }
        let _ = self.in_flight.remove_label_values(&[way, service]);
    }

    pub fn connections(&self, direction: Direction, state: ConnectionState) -> IntGauge {
        self.connections.with_label_values(&[direction.as_str(), state.as_str()])
    }

    pub fn handshake(&self, direction: Direction, outcome: HandshakeOutcome) {
        self.handshakes.with_label_values(&[direction.as_str(), outcome.as_str()]).inc();
    }

    pub fn endpoints(&self, service: &str, state: EndpointState, count: usize) {
        self.endpoints.with_label_values(&[service, state.as_str()]).set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// `seconds` since 1970.
    pub fn certificate_expiry(&self, kind: CertificateKind, seconds: f64) {
        self.certificate_expiry.with_label_values(&[kind.as_str()]).set(seconds);
    }

    /// `endpoint` is one of `consul::Api`'s names.
    pub fn consul_request(&self, endpoint: &'static str, outcome: ConsulOutcome) {
        self.consul_requests.with_label_values(&[endpoint, outcome.as_str()]).inc();
    }

    /// The gauge of one watch (`health/connect/orders`, `ca/leaf`, …): set it to the time of each good answer.
    pub fn consul_last_answer(&self, watch: &str) -> Gauge {
        self.consul_last_answer.with_label_values(&[watch])
    }

    /// Drops the gauge of a watch that ended. A name that others use, too, must stay.
    pub fn forget_watch(&self, watch: &str) {
        let _ = self.consul_last_answer.remove_label_values(&[watch]);
    }

    pub fn heartbeat(&self, outcome: HeartbeatOutcome) {
        self.heartbeats.with_label_values(&[outcome.as_str()]).inc();
    }

    pub fn registered(&self, yes: bool) {
        self.registered.set(i64::from(yes));
    }

    pub fn reload(&self, outcome: ReloadOutcome) {
        self.reloads.with_label_values(&[outcome.as_str()]).inc();
    }

    pub fn access_lines_lost(&self, lines: u64) {
        self.access_lines_lost.inc_by(lines);
    }

    pub fn exchanges_cut(&self, exchanges: u64) {
        self.exchanges_cut.inc_by(exchanges);
    }

    /// `docs/metrics.md`; a test compares.
    #[must_use]
    pub fn markdown(&self) -> String {
        let page = String::from(
            "# Metrics\n\n`GET /metrics` on the metrics listener (and on admin). Generated from `src/telemetry/metrics.rs` \
             by `just docs`.\nNo label holds a value that an outsider can choose; an upstream has at most 60 series.\n\n\
             | metric | labels | help |\n|---|---|---|\n",
        );
        let vecs: [&dyn Collector; 25] = [
            &self.requests,
            &self.duration,
            &self.in_flight,
            &self.connections,
            &self.handshakes,
            &self.proxy_headers,
            &self.connections_cut,
            &self.bytes,
            &self.endpoints,
            &self.attempts,
            &self.retries,
            &self.plugin_decisions,
            &self.limiters,
            &self.authorization,
            &self.breakers,
            &self.jwks_fetches,
            &self.jwks_last_answer,
            &self.certificate_expiry,
            &self.consul_requests,
            &self.consul_last_answer,
            &self.heartbeats,
            &self.registered,
            &self.reloads,
            &self.access_lines_lost,
            &self.exchanges_cut,
        ];
        let mut rows: Vec<String> = vecs
            .iter()
            .flat_map(|c| c.desc())
            .map(|d| format!("| `{}` | {} | {} |", d.fq_name, d.variable_labels.join(", "), d.help))
            .collect();
        rows.push("| `outrigger_build_info` | version | 1, with the version as a label. |".into());
        rows.push("| `process_*` | | CPU, memory, file descriptors, threads and start time of the process. |".into());
        rows.sort();
        page + &rows.join("\n") + "\n"
    }
}

fn per_label<L: Copy + LabelText>(all: &[L], resolve: impl Fn(&str) -> IntCounter) -> Box<[IntCounter]> {
    all.iter().map(|label| resolve(label.text())).collect()
}

/// Lets `per_label` read any of the label enums.
trait LabelText {
    fn text(self) -> &'static str;
}

fn counters(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    keep(registry, IntCounterVec::new(Opts::new(name, help), labels))
}

fn gauges(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
    keep(registry, IntGaugeVec::new(Opts::new(name, help), labels))
}

/// Times.
fn seconds(registry: &Registry, name: &str, help: &str, label: &str) -> GaugeVec {
    keep(registry, GaugeVec::new(Opts::new(name, help), &[label]))
}

fn keep<C: Collector + Clone + 'static>(registry: &Registry, made: prometheus::Result<C>) -> C {
    let collector = made.expect("metric names and labels are literals of this file");
    registry.register(Box::new(collector.clone())).expect("each metric is declared once");
    collector
}

/// Ten buckets, so that an upstream stays under 60 series.
const DURATIONS: [f64; 10] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.25, 1.0, 5.0, 15.0];
