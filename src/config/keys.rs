//! The table of all keys of the file. To add one: a row here, and its meaning in `check` or `upstreams`.

use super::consumers::CONSUMER;
use super::route_keys::{APP_LIMITS, MATCH, MIRROR, REDIRECT, RESPOND, SPLIT};
use super::shape::{Key, Leaf, Shape};
use super::upstream_keys::{BALANCE, BREAKER, FAILOVER, HASH_ON, HEDGE, LIMITS as UPSTREAM_LIMITS, OVERLOAD, RETRY};

const SECOND: u64 = 1000;
const PORT: Leaf = Leaf::Integer { min: 1, max: 65535 };
const WEIGHT: Leaf = Leaf::Integer { min: 1, max: 65535 };
const TIME: Shape = Shape::Leaf(Leaf::Duration { min_ms: 1, off: false });
const COUNT: Leaf = Leaf::Integer { min: 1, max: 1_000_000 };
const PATH: Shape = Shape::Leaf(Leaf::Path);
const TEXT: Shape = Shape::Leaf(Leaf::Text);
const LISTEN: Shape = Shape::Leaf(Leaf::Listen);
const PROTOCOL: Shape = Shape::Leaf(Leaf::Choice { values: &["http", "http2", "grpc", "tcp"], later: &[] });

pub(super) const ROOT: &[Key] = &[
    Key::required(
        "service",
        Shape::Section(SERVICE),
        "The app beside this sidecar: its Consul service and mesh identity.",
    ),
    Key::optional(
        "consul",
        Shape::Section(CONSUL),
        "Where Consul is. The variables CONSUL_* fill what the file leaves out.",
    ),
    Key::optional(
        "identity",
        Shape::OneOf(IDENTITY),
        "Where certificate, key and roots come from: exactly one key. `consul` when absent.",
    ),
    Key::optional("inbound", Shape::Section(INBOUND), "What comes from the mesh to the app."),
    Key::optional("outbound", Shape::Section(OUTBOUND), "What the app sends to other services."),
    Key::later("gateway", "An edge listener for clients outside the mesh."),
    Key::new(
        "consumers",
        Shape::Sections(CONSUMER),
        "[]",
        "Who may call with a key, a password or a token of their own, for the plugins `key-auth`, `basic-auth`, `jwt` and `acl`.",
    ),
    Key::optional("admin", Shape::Section(ADMIN), "The admin endpoints, for this machine alone."),
    Key::optional("metrics", Shape::Section(METRICS), "Prometheus metrics and health."),
    Key::optional("telemetry", Shape::Section(TELEMETRY), "What is written of requests."),
    Key::optional("shutdown", Shape::Section(SHUTDOWN), "How the sidecar stops."),
    Key::new("workers", Shape::Leaf(Leaf::Workers), "1", "Data-path threads, 1 to 256; `auto` is one a core."),
];

const SERVICE: &[Key] = &[
    Key::required(
        "name",
        Shape::Leaf(Leaf::Service),
        "Consul service and mesh identity: lower-case letters, digits, `-`, `_`, `.`. Or `--service`.",
    ),
    Key::optional("id", TEXT, "Consul's id of this instance. NAME-HOSTNAME-PORT when absent."),
    Key::required("port", Shape::Leaf(PORT), "The app's port. Or `--port`."),
    Key::new("address", Shape::Leaf(Leaf::Host), "127.0.0.1", "The app's IP address or name."),
    Key::new(
        "protocol",
        PROTOCOL,
        "http",
        "What the app speaks: `http` (1.1 and 2 by negotiation), `http2`, `grpc`, or `tcp` (bytes as they are).",
    ),
    Key::new("tags", Shape::List(Leaf::Text), "[]", "Consul tags of the instance."),
    Key::new("meta", Shape::Texts, "{}", "Consul meta of the instance."),
    Key::optional("weights", Shape::Section(WEIGHTS), "Consul's weights by health."),
    Key::optional("check", Shape::Section(CHECK), "How the sidecar probes the app; the outcome is the heartbeat."),
];

const WEIGHTS: &[Key] = &[
    Key::new("passing", Shape::Leaf(WEIGHT), "1", "Weight while all checks pass."),
    Key::new("warning", Shape::Leaf(WEIGHT), "1", "Weight while a check warns."),
];

const CHECK: &[Key] = &[
    Key::optional(
        "http",
        Shape::Leaf(Leaf::RequestPath),
        "GET of this path: 2xx is well. At most one of `http`, `tcp`, `grpc`; with none, the sidecar itself is the sign of life.",
    ),
    Key::new("tcp", Shape::Leaf(Leaf::Bool), "false", "A connection to the app's port is well."),
    Key::optional(
        "grpc",
        Shape::Leaf(Leaf::TextOrEmpty),
        "grpc.health.v1 of this service name, which may be \"\": SERVING is well.",
    ),
    Key::new("interval", TIME, "5s", "From one probe to the next."),
    Key::new("timeout", TIME, "2s", "Longest time of a probe."),
    Key::new("healthy_after", Shape::Leaf(COUNT), "1", "Good probes in a row until passing."),
    Key::new("unhealthy_after", Shape::Leaf(COUNT), "2", "Bad probes in a row until critical."),
    Key::new(
        "ttl",
        Shape::Leaf(Leaf::Duration { min_ms: SECOND, off: false }),
        "15s",
        "Consul turns the instance critical after this time without a heartbeat. At least 1s.",
    ),
    Key::new(
        "deregister_after",
        Shape::Leaf(Leaf::Duration { min_ms: 60 * SECOND, off: false }),
        "1m",
        "Consul removes the instance after this time in critical. At least 1m, Consul's own minimum.",
    ),
];

const CONSUL: &[Key] = &[
    Key::new(
        "address",
        Shape::Leaf(Leaf::ConsulAddress),
        "http://127.0.0.1:8500",
        "`http://host:port`, `https://host:port`, `unix:///path` or `host:port`. Else CONSUL_HTTP_ADDR.",
    ),
    Key::optional(
        "token_file",
        PATH,
        "File of the ACL token, read again when it changes. Else CONSUL_HTTP_TOKEN_FILE or CONSUL_HTTP_TOKEN.",
    ),
    Key::optional("datacenter", TEXT, "Else CONSUL_DATACENTER, or the agent's own."),
    Key::optional("namespace", TEXT, "Consul Enterprise. Else CONSUL_NAMESPACE."),
    Key::optional("partition", TEXT, "Consul Enterprise. Else CONSUL_PARTITION."),
    Key::optional("ca_file", PATH, "PEM roots for https, the system's when absent. Else CONSUL_CACERT."),
    Key::optional(
        "cert_file",
        PATH,
        "PEM certificate that we show to Consul; with `key_file`. Else CONSUL_CLIENT_CERT.",
    ),
    Key::optional("key_file", PATH, "PEM key of `cert_file`. Else CONSUL_CLIENT_KEY."),
    Key::optional(
        "server_name",
        Shape::Leaf(Leaf::Host),
        "Name that Consul's certificate must bear. Else CONSUL_TLS_SERVER_NAME.",
    ),
    Key::optional(
        "snapshot",
        PATH,
        "Folder of the last good answers, so that a restart works while Consul is down. Off when absent.",
    ),
];

const IDENTITY: &[Key] = &[
    Key::optional("consul", Shape::Section(&[]), "Leaf and roots from Consul's own CA."),
    Key::optional("files", Shape::Section(FILES), "PEM files, watched and rotated without a restart."),
    Key::optional(
        "ca",
        Shape::Section(CA),
        "A development CA made by `outrigger ca init`: this sidecar signs its own leaf.",
    ),
];

const FILES: &[Key] = &[
    Key::required("cert", PATH, "The leaf, and intermediates behind it."),
    Key::required("key", PATH, "The leaf's key."),
    Key::required("roots", PATH, "The roots that we trust."),
];

const CA: &[Key] = &[Key::required("dir", PATH, "The CA's folder; it must exist.")];

const INBOUND: &[Key] = &[
    Key::new(
        "listen",
        LISTEN,
        "0.0.0.0:20000",
        "The one port of the service that the mesh sees; port 0 takes a free one.",
    ),
    Key::optional(
        "advertise",
        Shape::Leaf(Leaf::HostPort { zero: true }),
        "HOST:PORT that Consul is told; port 0 is the bound port. When absent, the address that routes to Consul and the bound port.",
    ),
    Key::new(
        "mtls",
        Shape::Leaf(Leaf::Choice { values: &["strict", "permissive", "off"], later: &[] }),
        "strict",
        "`strict`, `permissive` (plain text too) or `off`.",
    ),
    Key::optional("timeouts", Shape::Section(TIMEOUTS), "Limits of waiting for a client."),
    Key::optional("limits", Shape::Section(LIMITS), "Bounds of what clients may use."),
    Key::new(
        "overload",
        OVERLOAD,
        "off",
        "`adaptive`: a limit on requests under way to the app that follows its latency, from 4 to 1000; more are answered 503 `overloaded`.",
    ),
    Key::new(
        "trusted_ips",
        Shape::List(Leaf::Network),
        "[]",
        "Addresses and networks whose X-Forwarded-* headers are believed, and PROXY headers with `proxy_protocol`.",
    ),
    Key::new(
        "proxy_protocol",
        Shape::Leaf(Leaf::Bool),
        "false",
        "`true`: every connection from `trusted_ips` must begin with a PROXY header (version 1 or 2), before TLS; its address is the client's. Nobody else may send one. See docs/access.md.",
    ),
    HEADER_CASE,
    Key::new(
        "authz",
        Shape::Sections(AUTHZ),
        "[]",
        "Who may do what, for where Consul has no intentions; the first rule that matches decides, and where there are rules and none matches, the request is denied. See docs/access.md.",
    ),
    Key::new(
        "intentions",
        Shape::Leaf(Leaf::Choice { values: &["auto", "on", "off"], later: &[] }),
        "auto",
        "Whether Consul's intentions are enforced. `auto`: where the identity is Consul's and `mtls` is not `off`. See docs/access.md.",
    ),
    Key::new("plugins", Shape::Plugins, "[]", "Plugins of all that comes in."),
    Key::new(
        "routes",
        Shape::Sections(APP_ROUTE),
        "[]",
        "Plugins, timeouts and limits for parts of the app; the first one that matches decides. See docs/routes.md.",
    ),
];

const AUTHZ: &[Key] = &[
    Key::optional(
        "from",
        Shape::List(Leaf::Text),
        "Any of these callers: a service's name (of our own namespace), a whole SPIFFE id, or `*` for any verified identity. Everybody when absent, callers in plain text included.",
    ),
    Key::optional("methods", Shape::List(Leaf::Method), "Any of these methods; all when absent."),
    Key::optional(
        "paths",
        Shape::List(Leaf::RequestPath),
        "Any of these prefixes by whole segments: `/api` is `/api` and `/api/1`, not `/apis`. All paths when this and `paths_exact` are absent.",
    ),
    Key::optional("paths_exact", Shape::List(Leaf::RequestPath), "Or any of these whole paths."),
    Key::new(
        "action",
        Shape::Leaf(Leaf::Choice { values: &["allow", "deny"], later: &[] }),
        "allow",
        "What becomes of a request that matches.",
    ),
];

const HEADER_CASE: Key = Key::new(
    "header_case",
    Shape::Leaf(Leaf::Choice { values: &["lower", "keep"], later: &[] }),
    "lower",
    "Names of HTTP/1.1 header fields, both ways: `lower`, or `keep` the case in which they came, for peers that heed it. HTTP/2 has lower case only.",
);

const TIMEOUTS: &[Key] = &[
    Key::new("handshake", TIME, "10s", "Until a TLS handshake is done."),
    Key::new(
        "head",
        TIME,
        "10s",
        "From a request's first byte to the end of its head, and for the first byte of a connection.",
    ),
    Key::new("body_idle", TIME, "30s", "Without a byte of the body."),
    Key::new(
        "idle",
        TIME,
        "5m",
        "A keep-alive connection between requests, and a client that takes nothing of its answers.",
    ),
];

const LIMITS: &[Key] = &[
    Key::new(
        "connections",
        Shape::Leaf(COUNT),
        "10000",
        "Connections at once; at `inbound` one address never gets the last quarter. See docs/limits.md.",
    ),
    Key::new(
        "head",
        Shape::Leaf(Leaf::Size { min: 8192, max: 1 << 20 }),
        "64KiB",
        "Bytes of a request's head, 8KiB to 1MiB.",
    ),
    Key::new("headers", Shape::Leaf(Leaf::Integer { min: 1, max: 1000 }), "100", "Header fields of a request."),
    Key::new(
        "h2_streams",
        Shape::Leaf(Leaf::Integer { min: 1, max: 100_000 }),
        "256",
        "HTTP/2 requests at once on one connection.",
    ),
];

const OUTBOUND: &[Key] = &[
    Key::new(
        "listen",
        LISTEN,
        "127.0.0.1:15001",
        "Apps reach any declared upstream here, by Host or as an HTTP proxy; port 0 takes a free one.",
    ),
    Key::optional("timeouts", Shape::Section(TIMEOUTS), "Limits of waiting for the app."),
    Key::optional("limits", Shape::Section(LIMITS), "Bounds of what the app may use."),
    HEADER_CASE,
    Key::optional(
        "defaults",
        Shape::Section(UPSTREAM_DEFAULTS),
        "Any key of an upstream but `service` and `listen`; an upstream's own value wins.",
    ),
    Key::new("upstreams", Shape::Sections(UPSTREAM), "[]", "The services that the app calls. Or `--upstream`."),
    Key::new(
        "routes",
        Shape::Sections(ROUTE),
        "[]",
        "Rules on `listen` that stand before the Host rule; the first one that matches decides. See docs/routes.md.",
    ),
];

/// The shared rows of `UPSTREAM` and `UPSTREAM_DEFAULTS`, as constants cannot be joined otherwise.
macro_rules! upstream_keys {
    ($($first:expr),* $(,)?) => { &[
        $($first,)*
        Key::new("protocol", PROTOCOL, "http", "What its app speaks: `http`, `http2`, `grpc`, or `tcp` (bytes as they are, on the upstream's own `listen` or by CONNECT)."),
        Key::new("mtls", Shape::Leaf(Leaf::Choice { values: &["required", "preferred", "off"], later: &[] }), "required", "`required`, `preferred` (plain endpoints too) or `off`."),
        Key::new("balance", BALANCE, "least_loaded", "`least_loaded` (two choices, peak EWMA), `round_robin`, `random`, or `{ ring_hash: {…} }` or `{ maglev: {…} }` with what is hashed."),
        Key::new("prefer_zone", Shape::Leaf(Leaf::Bool), "false", "Endpoints of our own zone first, spilling over by health. The zone is `service.meta.zone`, else `zone` in the Meta of the agent's node."),
        Key::new("tags", Shape::List(Leaf::Text), "[]", "Only instances with all these Consul tags."),
        Key::new("meta", Shape::Texts, "{}", "Only instances with all this Consul meta."),
        Key::optional("filter", Shape::Leaf(Leaf::Filter), "Only instances that this expression in Consul's language matches, such as `Service.Meta.version != \"1\"`."),
        Key::optional("datacenter", Shape::Leaf(Leaf::Datacenter), "Instances of this datacenter of Consul's. The agent's own when absent."),
        Key::new("failover", Shape::Sections(FAILOVER), "[]", "Where to go when no instance is left, in this order."),
        Key::optional("endpoints", Shape::List(Leaf::Endpoint), "HOST:PORT instead of Consul; with `dns` DNS names. From Consul when absent."),
        Key::optional("dns", Shape::Leaf(Leaf::Choice { values: &["srv", "a"], later: &[] }), "How `endpoints` are looked up: `srv` (NAME) or `a` (NAME:PORT). When absent they are fixed."),
        Key::optional("dns_server", Shape::Leaf(Leaf::HostPort { zero: false }), "IP:PORT of the DNS server to ask, such as Consul's 127.0.0.1:8600. The system's when absent."),
        Key::new("connect_timeout", TIME, "1s", "Until a connection and its TLS handshake are done."),
        Key::new("timeout", Shape::Leaf(Leaf::Duration { min_ms: 1, off: true }), "15s", "The whole exchange up to the response's head, retries included; `off` for none."),
        Key::new("idle_timeout", TIME, "5m", "Of a stream or tunnel without a byte either way."),
        Key::optional("retry", Shape::Section(RETRY), "When a failed try is repeated."),
        Key::optional("hedge", HEDGE, "A second try when the first is slow, for `retry.methods` only. Off when absent; `off` where the defaults turn it on."),
        Key::optional("breaker", Shape::Section(BREAKER), "When an endpoint is left out for a while. On by default."),
        Key::optional("limits", Shape::Section(UPSTREAM_LIMITS), "Bounds of what the upstream may use, over all workers of this sidecar."),
        Key::new("overload", OVERLOAD, "off", "`adaptive`: a limit on requests under way that follows latency, from 4 to 1000 and never above `limits.requests`."),
        Key::new("plugins", Shape::Plugins, "[]", "Plugins of this upstream; one of the same name replaces that of the defaults."),
    ] };
}

pub(super) const UPSTREAM: &[Key] = upstream_keys![
    Key::required("service", Shape::Leaf(Leaf::Service), "Its Consul service."),
    Key::optional(
        "listen",
        LISTEN,
        "A port of its own, so that `http://localhost:9101/` is this service; port 0 takes a free one."
    ),
];

pub(super) const UPSTREAM_DEFAULTS: &[Key] = upstream_keys![];

/// A route's own keys come first; what follows is said over the keys of the upstream that it leads to.
pub(super) const ROUTE: &[Key] = upstream_keys![
    Key::optional("name", TEXT, "For the access log. `route-N` when absent, counted from 1."),
    Key::optional("match", Shape::Section(MATCH), "All that is set must match; every request when absent."),
    Key::optional(
        "to",
        Shape::Leaf(Leaf::Service),
        "The service; declared by this, if it is none of `upstreams`. Exactly one of `to`, `split`, `redirect`, `respond`."
    ),
    Key::optional("split", Shape::Sections(SPLIT), "Several services by weight, drawn for each request."),
    Key::optional(
        "sticky",
        Shape::OneOf(HASH_ON),
        "The same value always goes to the same service of `split`. A request without it is drawn."
    ),
    Key::optional("redirect", Shape::Section(REDIRECT), "The client is sent elsewhere."),
    Key::optional("respond", Shape::Section(RESPOND), "The answer, given here."),
    Key::new("strip_path", Shape::Leaf(Leaf::Bool), "false", "What `match` matched of the path is cut off."),
    Key::optional(
        "rewrite_path",
        Shape::Leaf(Leaf::RequestPath),
        "What `match` matched of the path is replaced by this; put before the path where no path is matched."
    ),
    Key::new(
        "rewrite_host",
        Shape::Leaf(Leaf::Bool),
        "true",
        "Host becomes the service's name; `false` keeps the client's."
    ),
    Key::optional(
        "mirror",
        Shape::Section(MIRROR),
        "Copies of requests to another service; they never affect the answer."
    ),
];

const APP_ROUTE: &[Key] = &[
    Key::optional("name", TEXT, "For the access log. `route-N` when absent, counted from 1."),
    Key::optional("match", Shape::Section(MATCH), "All that is set must match; every request when absent."),
    Key::optional("redirect", Shape::Section(REDIRECT), "The client is sent elsewhere."),
    Key::optional("respond", Shape::Section(RESPOND), "The answer, given here. At most one of `redirect`, `respond`."),
    Key::optional(
        "timeout",
        Shape::Leaf(Leaf::Duration { min_ms: 1, off: true }),
        "The whole exchange up to the response's head; `off` for none. `inbound.timeouts.idle` when absent.",
    ),
    Key::optional("body_idle", TIME, "Without a byte of the body. `inbound.timeouts.body_idle` when absent."),
    Key::optional("idle_timeout", TIME, "Of a stream without a byte either way. `inbound.timeouts.idle` when absent."),
    Key::optional("limits", Shape::Section(APP_LIMITS), "Bounds of what these requests may use."),
    Key::new("plugins", Shape::Plugins, "[]", "Plugins; one of the same name replaces that of `inbound.plugins`."),
];

const ADMIN: &[Key] =
    &[Key::new("listen", LISTEN, "127.0.0.1:19000", "Where the admin endpoints are; port 0 takes a free one.")];

const METRICS: &[Key] = &[Key::new(
    "listen",
    LISTEN,
    "0.0.0.0:20200",
    "Where `/metrics`, `/livez` and `/readyz` are; port 0 takes a free one.",
)];

const TELEMETRY: &[Key] = &[
    Key::optional("access_log", Shape::Section(ACCESS_LOG), "One JSON line a request. Off when absent."),
    Key::later("tracing", "Spans to an OTLP collector."),
];

const ACCESS_LOG: &[Key] = &[
    Key::new("path", PATH, "stdout", "`stdout`, `stderr` or a file."),
    Key::new("format", Shape::Leaf(Leaf::Choice { values: &["json"], later: &[] }), "json", "`json` is the only one."),
    Key::new("sample", Shape::Leaf(Leaf::Fraction), "1.0", "Share of requests that are written; failures always are."),
];

const SHUTDOWN: &[Key] = &[Key::new("grace", TIME, "30s", "Longest time of a clean stop.")];
