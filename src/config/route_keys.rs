//! The sections below a route in the table of keys, and the keys of each plugin.

use super::gate_keys::{ACL, BASIC_AUTH, KEY_AUTH, RATE_LIMITING};
use super::http_keys::{
    BOT_DETECTION, CORRELATION_ID, CORS, IP_RESTRICTION, REQUEST_SIZE_LIMITING, REQUEST_TERMINATION,
    REQUEST_TRANSFORMER, RESPONSE_TRANSFORMER,
};
use super::jwt_keys::JWT;
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

/// The entry of a plugin in a list.
macro_rules! plugin {
    ($name:literal, $config:expr, $about:literal) => {
        &[
            Key::required("name", Shape::Leaf(Leaf::Choice { values: &[$name], later: &[] }), "The plugin's name."),
            Key::new("mode", MODE, "enforce", MODE_IS),
            Key::optional("config", Shape::Section($config), $about),
        ]
    };
}

/// Plugins by name, each with the keys of its entry in a list of plugins.
pub(super) const PLUGINS: &[(&str, &[Key])] = &[
    ("acl", plugin!("acl", ACL, "Which groups of `consumers` may call; behind a plugin that identifies them.")),
    ("basic-auth", plugin!("basic-auth", BASIC_AUTH, "Name and password of one of `consumers`.")),
    (
        "bot-detection",
        plugin!("bot-detection", BOT_DETECTION, "Keeps out programs whose User-Agent says that they are bots."),
    ),
    ("correlation-id", plugin!("correlation-id", CORRELATION_ID, "Gives an id to each request that has none.")),
    ("cors", plugin!("cors", CORS, "What scripts of other origins may do; browsers heed it.")),
    ("fault", FAULT),
    ("ip-restriction", plugin!("ip-restriction", IP_RESTRICTION, "Which addresses may call. At least one list.")),
    (
        "jwt",
        plugin!(
            "jwt",
            JWT,
            "Tokens of issuers, each checked with its issuer's keys; or, without `issuer` and `providers`, Kong's form: tokens of `consumers` by their `jwt_secrets`."
        ),
    ),
    ("key-auth", plugin!("key-auth", KEY_AUTH, "A key of one of `consumers`.")),
    ("rate-limiting", plugin!("rate-limiting", RATE_LIMITING, "So many requests of a caller in a time.")),
    (
        "request-size-limiting",
        plugin!(
            "request-size-limiting",
            REQUEST_SIZE_LIMITING,
            "Request bodies up to a size; else 413 `body_too_large`."
        ),
    ),
    (
        "request-termination",
        plugin!("request-termination", REQUEST_TERMINATION, "Answers in the app's place, behind all other plugins."),
    ),
    (
        "request-transformer",
        plugin!(
            "request-transformer",
            REQUEST_TRANSFORMER,
            "Changes method, target and headers of requests. Each item is `name:value`; the order is remove, rename, replace, add, append."
        ),
    ),
    (
        "response-transformer",
        plugin!(
            "response-transformer",
            RESPONSE_TRANSFORMER,
            "Changes headers of answers, outrigger's own too, in the same order. `remove: { headers: [Server, X-Powered-By] }` hides what an app is made of."
        ),
    ),
];

/// Entries whose name is not known: their `config` cannot be judged.
pub(super) const ANY_PLUGIN: &[Key] = &[
    Key::required("name", Shape::Leaf(NAME), "The plugin's name."),
    Key::new("mode", MODE, "enforce", ""),
    Key::optional("config", Shape::Any, ""),
];

const NAME: Leaf = Leaf::Choice {
    values: &[
        "acl",
        "basic-auth",
        "bot-detection",
        "correlation-id",
        "cors",
        "fault",
        "ip-restriction",
        "jwt",
        "key-auth",
        "rate-limiting",
        "request-size-limiting",
        "request-termination",
        "request-transformer",
        "response-transformer",
    ],
    later: &[],
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
