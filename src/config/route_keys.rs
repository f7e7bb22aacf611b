//! The sections below a route in the table of keys, and the keys of each plugin.

use super::shape::{Key, Leaf, Shape};

const TEXT: Shape = Shape::Leaf(Leaf::Text);
const STATUS: Leaf = Leaf::Integer { min: 200, max: 599 };
const PERCENT: Shape = Shape::Leaf(Leaf::Percent);

pub(super) const MATCH: &[Key] = &[
    Key::optional("host", TEXT, "A host, or `*.SUFFIX`; in any case, without a port."),
    Key::optional(
        "path",
        Shape::Leaf(Leaf::RequestPath),
        "A prefix by whole segments: `/users` is `/users` and `/users/1`, not `/users2`. At most one of `path`, `path_exact`, `path_regex`.",
    ),
    Key::optional("path_exact", Shape::Leaf(Leaf::RequestPath), "The whole path."),
    Key::optional(
        "path_regex",
        TEXT,
        "An expression for the whole path, in RE2's syntax: no back-references, no look-around.",
    ),
    Key::new("methods", Shape::List(Leaf::Method), "[]", "Any of these methods; all when empty."),
    Key::new(
        "headers",
        Shape::Conditions,
        "{}",
        "By name: a value, `{ regex: … }` or `{ present: true }`. One of several values of a header is enough.",
    ),
    Key::new(
        "query",
        Shape::Conditions,
        "{}",
        "By name of a query parameter, as `headers`; values are compared decoded.",
    ),
];

pub(super) const SPLIT: &[Key] = &[
    Key::required("service", Shape::Leaf(Leaf::Service), "Its Consul service."),
    Key::new(
        "weight",
        Shape::Leaf(Leaf::Integer { min: 0, max: 1_000_000 }),
        "1",
        "Its share of the sum of all weights.",
    ),
];

pub(super) const REDIRECT: &[Key] = &[
    Key::required(
        "to",
        TEXT,
        "A path, or an absolute URL. The request's path is kept where the URL has none, its query where `to` has none.",
    ),
    Key::new(
        "status",
        Shape::Leaf(Leaf::Integer { min: 301, max: 308 }),
        "308",
        "301, 302, 303, 307 or 308; the last two keep method and body.",
    ),
];

pub(super) const RESPOND: &[Key] = &[
    Key::new("status", Shape::Leaf(STATUS), "200", "The status; gRPC callers get the gRPC status that it maps to."),
    Key::new("body", Shape::Leaf(Leaf::TextOrEmpty), "\"\"", "The body, `text/plain` unless a header says otherwise."),
    Key::new("headers", Shape::Fields, "{}", "Response headers."),
];

pub(super) const MIRROR: &[Key] = &[
    Key::required("service", Shape::Leaf(Leaf::Service), "Who gets the copies; its answers are dropped."),
    Key::new("percent", PERCENT, "100", "Share of the requests that are copied."),
];

pub(super) const APP_LIMITS: &[Key] = &[Key::optional(
    "requests",
    Shape::Leaf(Leaf::Integer { min: 1, max: 1_000_000 }),
    "Requests of this route under way at once; more are answered 503 `overloaded`.",
)];

/// Plugins by name, each with the keys of its entry in a list of plugins.
pub(super) const PLUGINS: &[(&str, &[Key])] = &[("fault", FAULT)];

/// Entries whose name is not known: their `config` cannot be judged.
pub(super) const ANY_PLUGIN: &[Key] = &[
    Key::required("name", Shape::Leaf(NAME), "The plugin's name."),
    Key::new("mode", MODE, "enforce", ""),
    Key::optional("config", Shape::Any, ""),
];

const NAME: Leaf = Leaf::Choice {
    values: &["fault"],
    later: &[
        "acl",
        "basic-auth",
        "bot-detection",
        "correlation-id",
        "cors",
        "ip-restriction",
        "jwt",
        "key-auth",
        "rate-limiting",
        "request-size-limiting",
        "request-termination",
        "request-transformer",
        "response-transformer",
    ],
};

const MODE: Shape = Shape::Leaf(Leaf::Choice { values: &["enforce", "shadow"], later: &[] });
const MODE_IS: &str = "`enforce`, or `shadow`: what it would have done is counted and logged, and the request passes.";

const FAULT: &[Key] = &[
    Key::required("name", Shape::Leaf(Leaf::Choice { values: &["fault"], later: &[] }), "The plugin's name."),
    Key::new("mode", MODE, "enforce", MODE_IS),
    Key::optional("config", Shape::Section(FAULT_CONFIG), "At least one of `delay` and `abort`."),
];

const FAULT_CONFIG: &[Key] = &[
    Key::optional("header", TEXT, "Only requests that carry this header, whatever its value. All when absent."),
    Key::optional("delay", Shape::Section(DELAY), "Requests wait before they are sent on."),
    Key::optional("abort", Shape::Section(ABORT), "Requests are answered here; a delay, if drawn too, comes first."),
];

const DELAY: &[Key] = &[
    Key::new("percent", PERCENT, "100", "Share of the requests."),
    Key::required(
        "duration",
        Shape::Leaf(Leaf::Duration { min_ms: 1, off: false }),
        "How long; it counts toward the upstream's `timeout`.",
    ),
];

const ABORT: &[Key] = &[
    Key::new("percent", PERCENT, "100", "Share of the requests."),
    Key::optional("status", Shape::Leaf(STATUS), "The answer's status; made of `grpc_status` when absent."),
    Key::optional(
        "grpc_status",
        Shape::Leaf(Leaf::Integer { min: 0, max: 16 }),
        "The status for gRPC callers; made of `status` when absent.",
    ),
];
