//! The keys of the plugins that let in or keep out: key-auth, basic-auth, acl, rate-limiting. Names and defaults are Kong's,
//! unless said.

use super::shape::{Key, Leaf, Shape};

const BOOL: Shape = Shape::Leaf(Leaf::Bool);
const TEXT: Shape = Shape::Leaf(Leaf::Text);
const VISIBLE: Shape = Shape::Leaf(Leaf::Visible);
const LIMIT: Shape = Shape::Leaf(Leaf::Integer { min: 1, max: 1_000_000_000 });
const ANONYMOUS: &str = "Who of `consumers` stands for callers that show nothing good: id, username or custom id. They pass, and the app is told by X-Anonymous-Consumer. With it several plugins are alternatives; without it each must hold.";
const PREFLIGHT: &str = "Whether OPTIONS requests are asked too.";

pub(super) const KEY_AUTH: &[Key] = &[
    Key::new(
        "key_names",
        Shape::List(Leaf::Text),
        "[apikey]",
        "Names of the header and the query parameter that hold a key.",
    ),
    Key::new("key_in_header", BOOL, "true", "Whether a header may hold it."),
    Key::new("key_in_query", BOOL, "true", "Whether a query parameter may hold it."),
    Key::new("hide_credentials", BOOL, "true", "Whether the app does not see the key. Kong's default is `false`."),
    Key::optional("anonymous", TEXT, ANONYMOUS),
    Key::new("run_on_preflight", BOOL, "true", PREFLIGHT),
    Key::optional("realm", VISIBLE, "For WWW-Authenticate: `Key realm=\"…\"`, or `Key` when absent."),
];

pub(super) const BASIC_AUTH: &[Key] = &[
    Key::new(
        "hide_credentials",
        BOOL,
        "true",
        "Whether the app does not see name and password. Kong's default is `false`.",
    ),
    Key::new("realm", VISIBLE, "service", "For WWW-Authenticate: `Basic realm=\"…\"`."),
    Key::optional("anonymous", TEXT, ANONYMOUS),
    Key::new("run_on_preflight", BOOL, "true", PREFLIGHT),
];

pub(super) const ACL: &[Key] = &[
    Key::optional(
        "allow",
        Shape::List(Leaf::Visible),
        "Only consumers of one of these groups. Exactly one of `allow` and `deny`.",
    ),
    Key::optional("deny", Shape::List(Leaf::Visible), "All consumers but those of these groups."),
    Key::new("hide_groups_header", BOOL, "false", "Whether the app is not told the groups by X-Consumer-Groups."),
];

pub(super) const RATE_LIMITING: &[Key] = &[
    Key::optional(
        "second",
        LIMIT,
        "Requests in each second. At least one limit; a longer window's is not below a shorter one's. Windows begin and end with the clock, in UTC.",
    ),
    Key::optional("minute", LIMIT, "In each minute."),
    Key::optional("hour", LIMIT, "In each hour."),
    Key::optional("day", LIMIT, "In each day."),
    Key::optional("month", LIMIT, "In each month of the calendar."),
    Key::optional("year", LIMIT, "In each year of the calendar."),
    Key::new(
        "limit_by",
        Shape::Leaf(Leaf::Choice {
            values: &["consumer", "credential", "ip", "service", "header", "path", "peer"],
            later: &[],
        }),
        "consumer",
        "Whose requests are counted together: a `consumer`'s (else its credential's), a `credential`'s, an `ip`'s (IPv6 by its /64; from `inbound.trusted_ips`, X-Forwarded-For's), all of the `service`, those with the same value of a `header`, all of one `path`, or a `peer`'s: the caller's SPIFFE id. A request without it is counted by its address.",
    ),
    Key::optional("header_name", TEXT, "The header of `limit_by: header`."),
    Key::optional("path", Shape::Leaf(Leaf::RequestPath), "The path of `limit_by: path`."),
    Key::new(
        "policy",
        Shape::Leaf(Leaf::Choice { values: &["local", "redis", "fleet"], later: &[] }),
        "local",
        "`local`: each sidecar counts alone. `redis`: all sidecars of the service count together. `fleet`: each counts alone up to the limit divided by the healthy instances of the service, rounded down, at least 1; Consul tells their number live, and the last one holds while Consul is down. Local counters are exact for 2,300,000 callers at once with one limit (670,000 with six); beyond that further new callers share counters until the window ends: none gets more than its limit, some may be refused too early, which is counted, logged and said in the access log.",
    ),
    Key::new(
        "fault_tolerant",
        BOOL,
        "true",
        "While Redis gives no answer, requests pass uncounted and without headers; `false`: they are refused as `overloaded`. Both are counted and logged.",
    ),
    Key::new("hide_client_headers", BOOL, "false", "Whether answers say nothing of limits, but for Retry-After."),
    Key::new("error_code", Shape::Leaf(Leaf::Integer { min: 400, max: 599 }), "429", "The status of refusals."),
    Key::optional("error_message", TEXT, "The `message` of refusals, in place of outrigger's own."),
    Key::optional("redis", Shape::Section(REDIS), "The Redis of `policy: redis`."),
];

const REDIS: &[Key] = &[
    Key::required("host", Shape::Leaf(Leaf::Host), "Its IP address or name."),
    Key::new("port", Shape::Leaf(Leaf::Integer { min: 1, max: 65535 }), "6379", "Its port."),
    Key::optional("username", TEXT, "For its ACL (Redis 6 and later)."),
    Key::optional("password", Shape::Leaf(Leaf::Secret), "Better `${VARIABLE}` than the password itself."),
    Key::new("database", Shape::Leaf(Leaf::Integer { min: 0, max: 65535 }), "0", "The number of its database."),
    Key::new(
        "timeout",
        Shape::Leaf(Leaf::Millis),
        "2000",
        "Of a whole question, a new connection included; milliseconds, or a duration. After three questions in a row without an answer it is left alone for a second at a time.",
    ),
    Key::new("ssl", BOOL, "false", "Whether to speak TLS."),
    Key::new("ssl_verify", BOOL, "true", "Whether its certificate must be good. Kong's default is `false`."),
    Key::optional("ca_file", Shape::Leaf(Leaf::Path), "PEM roots for its certificate; the system's when absent."),
];
