//! The sections below an upstream in the table of keys: balancing, failover, retries, hedging, breaker, limits.

use super::shape::{Key, Leaf, Shape};

const TIME: Shape = Shape::Leaf(Leaf::Duration { min_ms: 1, off: false });
const COUNT: Shape = Shape::Leaf(Leaf::Integer { min: 1, max: 1_000_000 });
const STATUS: Leaf = Leaf::Integer { min: 400, max: 599 };

pub(super) const BALANCE: Shape = Shape::WordOr(
    Leaf::Choice { values: &["least_loaded", "round_robin", "random"], later: &[] },
    &Shape::OneOf(HASHING),
);

const HASHING: &[Key] = &[
    Key::optional(
        "ring_hash",
        Shape::OneOf(HASH_ON),
        "Requests with the same key go to the same endpoint, by a ring of hashes.",
    ),
    Key::optional(
        "maglev",
        Shape::OneOf(HASH_ON),
        "The same by Maglev's table: evener than a ring, faster to look up.",
    ),
];

pub(super) const HASH_ON: &[Key] = &[
    Key::optional("header", Shape::Leaf(Leaf::HeaderName), "The value of this request header."),
    Key::optional("cookie", Shape::Leaf(Leaf::CookieName), "The value of this cookie."),
    Key::optional("query", Shape::Leaf(Leaf::Text), "The value of this query parameter."),
    Key::optional("source_ip", Shape::Leaf(Leaf::OnlyTrue), "The client's address."),
    Key::optional("path", Shape::Leaf(Leaf::OnlyTrue), "The request's path, without the query."),
];

pub(super) const FAILOVER: &[Key] = &[
    Key::optional(
        "service",
        Shape::Leaf(Leaf::Service),
        "Another service, whose identity it must prove. This one when absent.",
    ),
    Key::optional("datacenter", Shape::Leaf(Leaf::Datacenter), "Its datacenter. The upstream's when absent."),
];

pub(super) const RETRY: &[Key] = &[
    Key::new("attempts", Shape::Leaf(Leaf::Integer { min: 0, max: 10 }), "2", "Tries beyond the first, 0 to 10."),
    Key::new(
        "on",
        Shape::List(Leaf::RetryOn),
        "[unsent, reset, 502, 503, 504]",
        "`unsent`: nothing of the request was sent. `reset`: the connection died before the response. A number: the response has this status.",
    ),
    Key::new(
        "methods",
        Shape::List(Leaf::Method),
        "[GET, HEAD, OPTIONS, PUT, DELETE]",
        "Methods whose requests may be sent again; `unsent` failures are retried for any.",
    ),
    Key::new(
        "per_try_timeout",
        Shape::Leaf(Leaf::Duration { min_ms: 1, off: true }),
        "5s",
        "Of one try up to the response's head, where the request may be tried again; `off` for none. Never longer than `timeout`.",
    ),
    Key::optional("budget", Shape::Section(BUDGET), "How many retries all requests of this upstream may add."),
    Key::optional("backoff", Shape::Section(BACKOFF), "The pause before a retry, with full jitter."),
    Key::new(
        "body_limit",
        Shape::Leaf(Leaf::Size { min: 0, max: 64 << 20 }),
        "64KiB",
        "A larger request body is streamed and not retried once sent.",
    ),
];

const BUDGET: &[Key] = &[
    Key::new("ratio", Shape::Leaf(Leaf::Fraction), "0.2", "Retries over requests."),
    Key::new(
        "min_per_second",
        Shape::Leaf(Leaf::Integer { min: 0, max: 1_000_000 }),
        "10",
        "Retries a second that are allowed however few requests there are.",
    ),
];

const BACKOFF: &[Key] = &[
    Key::new("base", TIME, "25ms", "The longest pause before the first retry; doubled for each further one."),
    Key::new("max", TIME, "250ms", "The longest pause of all."),
];

pub(super) const HEDGE: Shape = Shape::WordOr(Leaf::Choice { values: &["off"], later: &[] }, &Shape::Section(HEDGING));

const HEDGING: &[Key] = &[Key::required(
    "after",
    Shape::Leaf(Leaf::HedgeAfter),
    "How long the first try may take: a duration, or the share of recent requests that were faster: `p50`, `p90`, `p95`, `p99`.",
)];

pub(super) const BREAKER: &[Key] = &[
    Key::new("consecutive", COUNT, "5", "Failures in a row: connect failures, resets, timeouts and `statuses`."),
    Key::new("statuses", Shape::List(STATUS), "[502, 503, 504]", "Statuses that count as failures."),
    Key::optional("error_rate", Shape::Section(ERROR_RATE), "Failures over answers within a window."),
    Key::optional("open_for", Shape::Section(OPEN_FOR), "How long an ejection lasts."),
    Key::new(
        "max_ejected",
        Shape::Leaf(Leaf::Fraction),
        "0.5",
        "Share of the endpoints that may be ejected at once, rounded down; 0 turns the breaker off.",
    ),
    Key::new(
        "on_all_open",
        Shape::Leaf(Leaf::Choice { values: &["fail", "try_anyway"], later: &[] }),
        "fail",
        "When every endpoint is ejected: `fail` (503 `all_ejected`) or `try_anyway`.",
    ),
];

const ERROR_RATE: &[Key] = &[
    Key::new(
        "threshold",
        Shape::Leaf(Leaf::Fraction),
        "0.5",
        "Share of failures at which an endpoint is ejected; 1.0 when all must fail.",
    ),
    Key::new(
        "window",
        Shape::Leaf(Leaf::Duration { min_ms: 1000, off: false }),
        "10s",
        "The time that is looked back on. At least 1s.",
    ),
    Key::new("min_requests", COUNT, "20", "Fewer answers in the window say nothing."),
];

const OPEN_FOR: &[Key] = &[
    Key::new(
        "base",
        TIME,
        "30s",
        "The first ejection; each further one lasts twice as long. Then one real request probes.",
    ),
    Key::new("max", TIME, "5m", "The longest ejection."),
];

pub(super) const LIMITS: &[Key] = &[
    Key::new("connections", COUNT, "1024", "Connections at once to all its endpoints."),
    Key::new(
        "pending",
        Shape::Leaf(Leaf::Integer { min: 0, max: 1_000_000 }),
        "1024",
        "Requests that wait for a connection; more are answered 503 `overloaded`.",
    ),
    Key::new("requests", COUNT, "10000", "Requests under way; more are answered 503 `overloaded`."),
];

pub(super) const OVERLOAD: Shape = Shape::Leaf(Leaf::Choice { values: &["off", "adaptive"], later: &[] });
