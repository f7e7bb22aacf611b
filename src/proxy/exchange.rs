//! One exchange from its head to its last byte: what is counted and logged of it, exactly once, however it ends.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use http::{HeaderValue, Method, StatusCode, Uri, Version, request};

use super::Refusal;
use crate::clock;
use crate::filter::request_size_limiting::BodyCap;
use crate::listen::Connection;
use crate::reason::Reason;
use crate::route::Slot;
use crate::service::{Endpoint, Permit, Service};
use crate::telemetry::access_log::{harmless, redacted, timestamp};
use crate::telemetry::trace::{self, TraceContext};
use crate::telemetry::{AccessLine, AccessLog, Flow};
use crate::upstream::{BodyFate, BodyWatch};

/// The record of one exchange. Dropped before it is finished, it counts as left by the client.
pub(super) struct Exchange {
    flow: Arc<Flow>,
    began: Instant,
    /// When it was last waited for something before its first try.
    now: Instant,
    pub(super) request_id: HeaderValue,
    status: StatusCode,
    reason: Option<Reason>,
    pub(super) attempts: u32,
    /// Beside what an upload counts by itself.
    pub(super) bytes_in: u64,
    pub(super) bytes_out: u64,
    upload: Option<Arc<BodyWatch>>,
    /// What a plugin lets its body have.
    cap: Option<BodyCap>,
    /// Held to the last byte.
    permit: Option<Permit>,
    /// Health checks are let in whatever the limits.
    exempt: bool,
    finished: bool,
    /// The rule's limit of requests under way, where it has one.
    slot: Option<Slot>,
    /// What awaits the answer is polled every `PULSE`, woken or not.
    pulse: bool,
    /// A connection without HTTP: it has no method, no path and no status.
    raw: bool,
    /// Only while there is an access log.
    log: Option<Box<Logged>>,
}

/// When an exchange begins, and under which ids.
pub(super) struct Start {
    pub(super) at: Instant,
    pub(super) request_id: HeaderValue,
    pub(super) trace: TraceContext,
}

impl Start {
    /// Now, under new ids.
    pub(super) fn new() -> Self {
        let at = clock::now();
        Self { at, request_id: trace::new_request_id(clock::wall(at)), trace: TraceContext::new() }
    }
}

/// What only the log needs.
struct Logged {
    log: AccessLog,
    wanted: bool,
    connection: Arc<Connection>,
    at: SystemTime,
    trace: TraceContext,
    method: Method,
    uri: Uri,
    host: Option<HeaderValue>,
    version: Version,
    endpoint: Option<Arc<Endpoint>>,
    rule: Option<Arc<str>>,
    upstream: Option<Duration>,
    detail: String,
}

impl Exchange {
    /// Begins the record of a request as it came.
    pub(super) fn begin(
        flow: Arc<Flow>,
        connection: &Arc<Connection>,
        log: Option<&AccessLog>,
        head: &request::Parts,
        start: Start,
    ) -> Self {
        let Start { at: began, request_id, trace } = start;
        flow.in_flight.inc();
        let log = log.map(|log| {
            Box::new(Logged {
                wanted: log.samples(),
                log: log.clone(),
                connection: connection.clone(),
                at: clock::wall(began),
                trace,
                method: head.method.clone(),
                uri: head.uri.clone(),
                host: head.headers.get(http::header::HOST).cloned(),
                version: head.version,
                endpoint: None,
                rule: None,
                upstream: None,
                detail: String::new(),
            })
        });
        Self {
            flow,
            began,
            now: began,
            request_id,
            status: StatusCode::OK,
            reason: None,
            attempts: 0,
            bytes_in: 0,
            bytes_out: 0,
            upload: None,
            cap: None,
            permit: None,
            exempt: false,
            finished: false,
            slot: None,
            pulse: false,
            raw: false,
            log,
        }
    }

    /// Begins the record of a connection that is no HTTP.
    pub(super) fn begin_raw(flow: Arc<Flow>, connection: &Arc<Connection>, log: Option<&AccessLog>) -> Self {
        let (head, ()) = http::Request::new(()).into_parts();
        let mut exchange = Self::begin(flow, connection, log, &head, Start::new());
        exchange.raw = true;
        exchange
    }

    /// The upstream turned out: from here on the exchange counts as its service's.
    pub(super) fn belongs_to(&mut self, flow: &Arc<Flow>) {
        flow.in_flight.inc();
        self.flow.in_flight.dec();
        self.flow = flow.clone();
    }

    /// A rule was found for it.
    pub(super) fn follows(&mut self, rule: &Arc<str>) {
        if let Some(log) = &mut self.log {
            log.rule = Some(rule.clone());
        }
    }

    /// Holds a slot to the exchange's end.
    pub(super) fn holds(&mut self, slot: Slot) {
        self.slot = Some(slot);
    }

    /// A rule or a plugin gave the answer, which is no failure.
    pub(super) fn replied(&mut self, status: StatusCode) {
        self.status = status;
    }

    /// The exchange is handled by the task that serves the connection.
    pub(super) fn rides_on(&mut self, connection: &Connection) {
        self.pulse = connection.has_pulse();
    }

    pub(super) fn has_pulse(&self) -> bool {
        self.pulse
    }

    pub(super) fn began(&self) -> Instant {
        self.began
    }

    /// Something was waited for, before the first try.
    pub(super) fn waited(&mut self) {
        self.now = clock::now();
    }

    /// The time as the first try begins: what comes before it takes none, unless it `waited`.
    pub(super) fn now(&self) -> Instant {
        self.now
    }

    pub(super) fn uploads(&mut self, watch: Arc<BodyWatch>) {
        self.upload = Some(watch);
    }

    pub(super) fn caps_body(&mut self, cap: BodyCap) {
        self.cap = Some(cap);
    }

    pub(super) fn body_cap(&self) -> Option<&BodyCap> {
        self.cap.as_ref()
    }

    pub(super) fn upload_fate(&self) -> BodyFate {
        self.upload.as_ref().map_or(BodyFate::Fine, |watch| watch.fate())
    }

    /// It is a health check: the service's limits are not for it.
    pub(super) fn exempt(&mut self) {
        self.exempt = true;
    }

    /// Asks the service to let the request in.
    ///
    /// # Errors
    /// `Overloaded` where its limits are reached.
    pub(super) fn admit(&mut self, service: &Service) -> Result<(), Reason> {
        if !self.exempt {
            self.permit = Some(service.admit(self.began)?);
        }
        Ok(())
    }

    /// The head of an endpoint's answer came.
    pub(super) fn answered(&mut self, status: StatusCode, now: Instant) {
        self.status = status;
        if let Some(watch) = &self.upload {
            watch.answered();
        }
        if let Some(permit) = &self.permit {
            permit.answered(now.saturating_duration_since(self.began), now);
        }
        if let Some(log) = &mut self.log {
            log.upstream = Some(now.saturating_duration_since(self.began));
        }
    }

    pub(super) fn tries(&mut self, endpoint: &Arc<Endpoint>) {
        self.attempts += 1;
        if let Some(log) = &mut self.log {
            log.endpoint = Some(endpoint.clone());
        }
    }

    /// Adds a cause to the log's `detail`.
    pub(super) fn note(&mut self, detail: &str) {
        if let Some(log) = &mut self.log
            && !detail.is_empty()
        {
            if !log.detail.is_empty() {
                log.detail.push_str("; ");
            }
            log.detail.push_str(detail);
        }
    }

    /// Outrigger itself answers, for this reason.
    pub(super) fn refused(&mut self, refusal: &Refusal) {
        if refusal.reason == Reason::Deadline
            && let Some(permit) = &self.permit
        {
            permit.timed_out(clock::now());
        }
        self.reason = Some(refusal.reason);
        self.status = refusal.reason.status();
        self.note(&refusal.detail);
    }

    /// The answer broke off after its head: the status stays what the client saw.
    pub(super) fn broke(&mut self, reason: Reason, detail: &str) {
        self.reason = Some(reason);
        self.note(detail);
        self.finish();
    }

    /// Time was up before it ended.
    pub(super) fn cut(&mut self) {
        self.reason = Some(Reason::Draining);
        self.note("grace is over");
    }

    /// The last byte is out, or there will be no more.
    pub(super) fn finish(&mut self) {
        if self.finished {
            return;
        }
        self.finished = true;
        self.permit = None;
        if let Some(cap) = self.cap.take()
            && self.upload_fate() == BodyFate::TooLong
        {
            self.note(&cap.cut());
        }
        let duration = clock::now().saturating_duration_since(self.began);
        drop(self.slot.take());
        match self.reason {
            _ if self.raw => self.flow.connection_ended(self.reason),
            Some(reason) => self.flow.refused(reason),
            None => self.flow.answered(self.status),
        }
        self.flow.duration.observe(duration.as_secs_f64());
        self.flow.in_flight.dec();
        self.flow.bytes_out.inc_by(self.bytes_out);
        let bytes_in = self.bytes_in + self.upload.as_ref().map_or(0, |watch| watch.bytes());
        if bytes_in > 0 {
            self.flow.bytes_in.inc_by(bytes_in);
        }
        if let Some(log) = self.log.take()
            && (log.wanted || self.reason.is_some() || self.status.is_server_error())
        {
            self.log_line(&log, duration, bytes_in);
        }
    }

    fn log_line(&self, log: &Logged, duration: Duration, bytes_in: u64) {
        let host = match (log.uri.authority(), &log.host) {
            (Some(authority), _) => authority.as_str().into(),
            (None, Some(host)) => String::from_utf8_lossy(host.as_bytes()),
            (None, None) => "".into(),
        };
        let path = if self.raw { "" } else { log.uri.path_and_query().map_or("", http::uri::PathAndQuery::as_str) };
        let trace_id = format!("{:032x}", u128::from_be_bytes(log.trace.trace_id));
        log.log.write(&AccessLine {
            time: timestamp(log.at),
            request_id: self.request_id.to_str().unwrap_or_default(),
            trace_id: &trace_id,
            direction: self.flow.direction().as_str(),
            peer: &log.connection.peer_text,
            method: if self.raw { "" } else { log.method.as_str() },
            host: &harmless(host),
            path: &harmless(redacted(path)),
            protocol: if self.raw { "TCP" } else { protocol(log.version) },
            status: if self.raw { 0 } else { self.status.as_u16() },
            reason: self.reason.map_or("", Reason::code),
            service: self.flow.service(),
            route: log.rule.as_deref().unwrap_or_default(),
            endpoint: &log.endpoint.as_ref().map(|e| e.listing.address.to_string()).unwrap_or_default(),
            attempts: self.attempts,
            bytes_in,
            bytes_out: self.bytes_out,
            duration_ms: millis(duration),
            upstream_ms: log.upstream.map(millis),
            detail: &log.detail,
        });
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if !self.finished {
            if self.reason.is_none() {
                self.reason = Some(Reason::ClientGone);
                if self.log.as_ref().is_none_or(|log| log.upstream.is_none()) {
                    self.status = Reason::ClientGone.status();
                }
            }
            self.finish();
        }
    }
}

fn millis(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_2 => "HTTP/2",
        Version::HTTP_10 => "HTTP/1.0",
        _ => "HTTP/1.1",
    }
}
