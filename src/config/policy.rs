//! What an upstream's keys say of balancing, retries, hedging, breaker and limits.

use std::time::Duration;

use http::{Method, StatusCode};

use super::problems::Fault;
use super::section::Section;
use super::tree::Value;
use super::{check, upstream_values, values};
use crate::route::{Backoff, HashOn};
use crate::service::{BreakerPolicy, BudgetPolicy, ErrorRate, Limits, OnAllOpen};

/// How an endpoint is chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Balance {
    LeastLoaded,
    RoundRobin,
    Random,
    RingHash(HashOn),
    Maglev(HashOn),
}

#[derive(Debug, Clone, PartialEq)]
pub struct RetrySettings {
    /// Beyond the first try.
    pub attempts: u32,
    /// Methods whose requests may be sent again; `unsent` failures are retried for any.
    pub methods: Vec<Method>,
    /// Retry, for any method, what failed before a byte of the request was sent.
    pub on_unsent: bool,
    /// Retry after a reset at all.
    pub on_reset: bool,
    /// Retry after an answer with one of these, 400 to 599.
    pub statuses: Vec<StatusCode>,
    /// Of one try up to the response's head; `None` for `off`.
    pub per_try_timeout: Option<Duration>,
    pub budget: BudgetPolicy,
    pub backoff: Backoff,
    /// Bytes of a request's body that are kept for a retry, at most 64 MiB.
    pub body_limit: usize,
}

/// When a second try is sent beside a first one that is slow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HedgeAfter {
    /// Once so many percent of recent requests were answered in less time: 50, 90, 95 or 99.
    Percentile(u8),
    Time(Duration),
}

#[derive(Debug, Clone, PartialEq)]
pub struct BreakerSettings {
    pub policy: BreakerPolicy,
    /// Answers with one of these count as failures, 400 to 599.
    pub statuses: Vec<StatusCode>,
}

/// One item of `retry.on`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RetryOn {
    Unsent,
    Reset,
    Status(StatusCode),
}

pub(super) fn balance(section: &Section<'_>) -> Option<Balance> {
    if section.find("balance").is_some_and(|node| matches!(node.value, Value::Map(_))) {
        let balance = section.whole("balance");
        return match balance.find("ring_hash") {
            Some(_) => hash_on(&balance.whole("ring_hash")).map(Balance::RingHash),
            None => hash_on(&balance.whole("maglev")).map(Balance::Maglev),
        };
    }
    section.take("balance", |scalar| {
        Ok(match values::choice(scalar, &["least_loaded", "round_robin", "random"], &[])? {
            "round_robin" => Balance::RoundRobin,
            "random" => Balance::Random,
            _ => Balance::LeastLoaded,
        })
    })
}

/// The one key of a section that says what is hashed; `None` where it was refused.
pub(super) fn hash_on(section: &Section<'_>) -> Option<HashOn> {
    let named = |name| section.find(name).is_some();
    section
        .take("header", upstream_values::header_name)
        .map(HashOn::Header)
        .or_else(|| section.take("cookie", upstream_values::cookie_name).map(HashOn::Cookie))
        .or_else(|| section.take("query", values::text).map(HashOn::Query))
        .or_else(|| named("source_ip").then_some(HashOn::SourceIp))
        .or_else(|| named("path").then_some(HashOn::Path))
}

pub(super) fn retry(section: &Section<'_>) -> Option<RetrySettings> {
    let on = section.list("on", upstream_values::retry_on);
    let budget = section.section("budget");
    let backoff = section.section("backoff");
    let (base, max) = growing(&backoff)?;
    Some(RetrySettings {
        attempts: section.take("attempts", check::count)?,
        on_unsent: on.contains(&RetryOn::Unsent),
        on_reset: on.contains(&RetryOn::Reset),
        statuses: on.iter().copied().filter_map(RetryOn::status).collect(),
        methods: section.list("methods", values::method),
        per_try_timeout: section.take("per_try_timeout", values::duration_or_off)?,
        budget: BudgetPolicy {
            ratio: budget.take("ratio", values::fraction)?,
            min_per_second: budget.take("min_per_second", check::count)?,
        },
        backoff: Backoff { base, max },
        body_limit: section.take("body_limit", check::bytes)?,
    })
}

impl RetryOn {
    fn status(self) -> Option<StatusCode> {
        match self {
            Self::Status(status) => Some(status),
            Self::Unsent | Self::Reset => None,
        }
    }
}

pub(super) fn hedge(section: &Section<'_>) -> Option<HedgeAfter> {
    // The word `off` has no section behind it.
    section.whole("hedge").take("after", upstream_values::hedge_after)
}

pub(super) fn breaker(section: &Section<'_>) -> Option<BreakerSettings> {
    let rate = section.section("error_rate");
    let threshold = rate.take("threshold", values::fraction)?;
    if threshold <= 0.0 {
        let fault = Fault::new("0 would eject every endpoint that answers", "write a share above 0");
        rate.mistake("threshold", fault);
    }
    let (base, max) = growing(&section.section("open_for"))?;
    Some(BreakerSettings {
        policy: BreakerPolicy {
            consecutive: section.take("consecutive", check::count)?,
            error_rate: ErrorRate {
                threshold,
                window: rate.take("window", values::duration)?,
                min_requests: rate.take("min_requests", check::count)?,
            },
            open_for: base,
            open_max: max,
            max_ejected: section.take("max_ejected", values::fraction)?,
            on_all_open: section.take("on_all_open", |scalar| {
                Ok(match values::choice(scalar, &["fail", "try_anyway"], &[])? {
                    "try_anyway" => OnAllOpen::TryAnyway,
                    _ => OnAllOpen::Fail,
                })
            })?,
        },
        statuses: section.list("statuses", upstream_values::status),
    })
}

/// `base` and `max` of what doubles from one to the other.
fn growing(section: &Section<'_>) -> Option<(Duration, Duration)> {
    let (base, max) = (section.take("base", values::duration)?, section.take("max", values::duration)?);
    if base > max {
        let written = if section.find("base").is_some() { "base" } else { "max" };
        let fault = Fault::new(
            format!("base, {}, is longer than max, {}", text(base), text(max)),
            "write a longer max, or a shorter base",
        );
        section.mistake(written, fault);
    }
    Some((base, max))
}

pub(super) fn limits(section: &Section<'_>) -> Option<Limits> {
    Some(Limits {
        connections: section.take("connections", check::count)?,
        pending: section.take("pending", check::count)?,
        requests: section.take("requests", check::count)?,
    })
}

/// Whether the limit on requests under way follows latency.
pub(super) fn adaptive(section: &Section<'_>) -> Option<bool> {
    section.take("overload", |scalar| Ok(values::choice(scalar, &["off", "adaptive"], &[])? == "adaptive"))
}

/// What is never reached because the whole exchange is over before. A general wish for all upstreams (`defaults`) is no
/// mistake where one of them is in a hurry.
pub(super) fn within_timeout(section: &Section<'_>, timeout: Option<Duration>) {
    let Some(timeout) = timeout else { return };
    let hurried = section.own("timeout").is_some();
    let parts = [("retry", "per_try_timeout"), ("hedge", "after")];
    for (part, key) in parts {
        let inner = section.section(part);
        let inherited = inner.own(key).is_none();
        if inner.find(key).is_none() || (inherited && hurried) {
            continue;
        }
        // `p95` is no time.
        let time = inner.find(key).and_then(|node| match &node.value {
            Value::Scalar(scalar) => values::duration(scalar).ok(),
            Value::List(_) | Value::Map(_) => None,
        });
        if let Some(time) = time.filter(|time| *time > timeout) {
            let fault = Fault::new(
                format!("{} is longer than the whole timeout, {}", text(time), text(timeout)),
                "write a shorter time, or a longer timeout",
            );
            inner.mistake(key, fault);
        }
    }
}

fn text(time: Duration) -> String {
    super::shape::spelled(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}
