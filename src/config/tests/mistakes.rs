//! Tables of mistakes, each with the place where it must be found.

use super::super::{Environment, Flags, Loader};
use super::{GOOD, lines};

#[test]
fn three_mistakes_in_one_file_are_all_reported_each_at_its_place() {
    let text = "\
service:
  name: Users
  port: 8080
  check:
    interval: 5
outbound:
  upstreams:
    - service: orders
      lisen: 127.0.0.1:9101
";
    assert_eq!(
        lines(text),
        [
            "o.yaml:2:9: service.name: \"Users\" is no service name: 'U' is not allowed in a name, use lower-case letters, \
             digits, `-`, `_` and `.`; write a name like users",
            "o.yaml:5:15: service.check.interval: \"5\" is no duration; add a unit: 5s or 5ms",
            "o.yaml:9:7: outbound.upstreams[0].lisen: unknown key; did you mean listen?",
        ]
    );
}

/// What stands below `service: { name: users, port: 8080 }` and the mistakes that it makes, as `LINE:COL: KEY: part`.
const MISTAKES: &[(&str, &[&str])] = &[
    // shape
    ("servce: {}", &["2:1: servce: unknown key; did you mean service?"]),
    ("nonsense: 1", &["2:1: nonsense: unknown key; remove it"]),
    ("<<: {}", &["2:1: <<: unknown key; merge keys"]),
    ("inbound: 5", &["2:10: inbound: must be a section of keys, but is a number"]),
    ("inbound: [a]", &["2:10: inbound: must be a section of keys, but is a list"]),
    ("inbound: { listen: [a] }", &["2:20: inbound.listen: must be IP:PORT, but is a list"]),
    ("inbound: { listen: }", &["2:12: inbound.listen: has no value"]),
    ("inbound: { trusted_ips: 10.0.0.1 }", &["2:25: inbound.trusted_ips: must be a list, but is text"]),
    ("outbound: { upstreams: { a: b } }", &["2:24: outbound.upstreams: must be a list"]),
    ("outbound: { upstreams: }", &["2:13: outbound.upstreams: must be a list, but is nothing; write [] for none"]),
    ("outbound: { upstreams: [orders] }", &["2:25: outbound.upstreams[0]: must be a section of keys, but is text"]),
    ("workers: 1\nworkers: 2", &["3:1: workers: the key stands twice, first on line 2"]),
    ("outbound: { upstreams: [{ listen: 127.0.0.1:1 }] }", &["2:25: outbound.upstreams[0].service: is missing"]),
    // values
    ("workers: many", &["2:10: workers: must be a number from 1 to 256, or auto"]),
    ("workers: 0", &["2:10: workers: must be"]),
    ("shutdown: { grace: 5 s }", &["2:20: shutdown.grace: \"5 s\" is no duration"]),
    ("shutdown: { grace: 0s }", &["2:20: shutdown.grace: the duration is zero"]),
    ("inbound: { limits: { head: 1GiB } }", &["2:28: inbound.limits.head: \"1GiB\" is not from 8192 to 1048576 bytes"]),
    ("inbound: { limits: { head: 64k } }", &["2:28: inbound.limits.head: \"64k\" is no size"]),
    ("inbound: { limits: { connections: 0 } }", &["2:35: inbound.limits.connections: must be a whole number from 1"]),
    ("inbound: { limits: { connections: \"9\" } }", &["2:35: inbound.limits.connections: must be"]),
    ("inbound: { listen: 0.0.0.0:70000 }", &["2:20: inbound.listen: \"0.0.0.0:70000\" is no address"]),
    (
        "inbound: { listen: \":80\" }",
        &["2:20: inbound.listen: \":80\" is no address to listen on; write the address too"],
    ),
    ("inbound: { advertise: 10.0.0.7 }", &["2:23: inbound.advertise: \"10.0.0.7\" has no port"]),
    ("inbound: { mtls: strickt }", &["2:18: inbound.mtls: \"strickt\" is not known here; did you mean strict?"]),
    (
        "inbound: { trusted_ips: [10.0.0.0/8, nowhere] }",
        &["2:38: inbound.trusted_ips[1]: \"nowhere\" is no IP address"],
    ),
    ("consul: { address: \"ftp://a\" }", &["2:20: consul.address: \"ftp://a\" has an unknown scheme"]),
    ("consul: { token: abc }", &["2:11: consul.token: unknown key"]),
    (
        "consul: { datacenter: 1 }",
        &["2:23: consul.datacenter: must be text, but 1 is a number; put it in quotes: \"1\""],
    ),
    (
        "telemetry: { access_log: { sample: 2 } }",
        &["2:36: telemetry.access_log.sample: must be a number from 0.0 to 1.0"],
    ),
    ("telemetry: { access_log: { format: text } }", &["2:36: telemetry.access_log.format: \"text\" is not known"]),
    ("consul: { namespace: \"${NOT_SET}\" }", &["2:22: consul.namespace: the variable NOT_SET is not set; set it, or"]),
    ("consul: { namespace: \"${NOT SET}\" }", &["2:22: consul.namespace: `${` begins no reference"]),
    // several keys together
    ("identity: {}", &["2:1: identity: must have exactly one of consul, files, ca, but has none"]),
    (
        "identity: { consul: {}, ca: { dir: / } }",
        &["2:1: identity: must have exactly one of consul, files, ca, but has consul and ca"],
    ),
    ("identity: { consul: { x: 1 } }", &["2:23: identity.consul.x: unknown key; write {}"]),
    ("identity: { files: { cert: a, key: b } }", &["2:13: identity.files.roots: is missing; add the key with a path"]),
    (
        "identity: { ca: { dir: not/there } }",
        &["2:24: identity.ca.dir: not/there is no folder; run: outrigger ca init not/there"],
    ),
    ("consul: { cert_file: a }", &["2:22: consul.cert_file: has no key_file beside it"]),
    ("consul: { key_file: a }", &["2:21: consul.key_file: has no cert_file beside it"]),
    (
        "admin: { listen: 0.0.0.0:20000 }",
        &["2:18: admin.listen: 0.0.0.0:20000 collides with inbound.listen at 0.0.0.0:20000"],
    ),
    ("admin: { listen: 127.0.0.1:20200 }", &["2:18: admin.listen: 127.0.0.1:20200 collides with metrics.listen"]),
    ("inbound: { listen: 127.0.0.1:8080 }", &["2:20: inbound.listen: 127.0.0.1:8080 is the app's own address"]),
    (
        "outbound:\n  upstreams:\n  - { service: a, listen: 127.0.0.1:1 }\n  - { service: b, listen: 127.0.0.1:1 }\n  - { service: a }",
        &[
            "5:27: outbound.upstreams[1].listen: 127.0.0.1:1 collides with outbound.upstreams[0].listen",
            "6:16: outbound.upstreams[2].service: a is declared already on line 4",
        ],
    ),
    ("outbound: { upstreams: [{ service: a, dns: srv }] }", &["2:44: outbound.upstreams[0].dns: has no endpoints"]),
    (
        "outbound: { upstreams: [{ service: a, dns_server: 127.0.0.1:1 }] }",
        &["2:51: outbound.upstreams[0].dns_server: has no dns"],
    ),
    ("outbound: { upstreams: [{ service: a, endpoints: [] }] }", &["2:50: outbound.upstreams[0].endpoints: is empty"]),
    (
        "outbound: { upstreams: [{ service: a, endpoints: [b] }] }",
        &["2:51: outbound.upstreams[0].endpoints[0]: \"b\" has no port"],
    ),
    (
        "outbound: { upstreams: [{ service: a, dns: srv, endpoints: [\"b:1\"] }] }",
        &["2:61: outbound.upstreams[0].endpoints[0]: \"b:1\" has a port, but SRV records give it; write b without :1"],
    ),
    (
        "outbound: { upstreams: [{ service: a, dns: a, endpoints: [\"10.0.0.1:1\"] }] }",
        &["2:59: outbound.upstreams[0].endpoints[0]: \"10.0.0.1:1\" is an IP address"],
    ),
    // later capabilities
    ("gateway: { listen: 0.0.0.0:8000 }", &["2:1: gateway: not supported yet: gateway"]),
    ("telemetry: { tracing: { otlp: x } }", &["2:14: telemetry.tracing: not supported yet"]),
    ("inbound: { intentions: maybe }", &["2:24: inbound.intentions: \"maybe\" is not known here"]),
    (
        "inbound: { mtls: off, intentions: on }",
        &["2:35: inbound.intentions: on needs callers with an identity, but inbound.mtls is off; set inbound.mtls"],
    ),
    (
        "inbound:\n  authz:\n  - { from: [Web, \"spiffe://t/web\", web, \"*\"], methods: [get], paths: [api], action: log, form: x }",
        &[
            "4:14: inbound.authz[0].from[0]: \"Web\" is no service name",
            "4:19: inbound.authz[0].from[1]: \"spiffe://t/web\" is no SPIFFE id of a service",
            "4:58: inbound.authz[0].methods[0]: \"get\" is no method",
            "4:72: inbound.authz[0].paths[0]: \"api\" is no path",
            "4:86: inbound.authz[0].action: \"log\" is not known here",
            "4:91: inbound.authz[0].form: unknown key; did you mean from",
        ],
    ),
    (
        "inbound: { authz: [{ from: [], paths: [\"/a//b\"] }] }",
        &[
            "2:28: inbound.authz[0].from: is empty, which would be nobody or everybody; remove the key for all",
            "2:40: inbound.authz[0].paths[0]: \"/a//b\" is not in normal form",
        ],
    ),
    (
        "inbound: { mtls: off, authz: [{ from: [web] }] }",
        &["2:39: inbound.authz[0].from: names callers, but with inbound.mtls off no caller has an identity"],
    ),
    (
        "inbound: { proxy_protocol: true }",
        &["2:28: inbound.proxy_protocol: nobody may send a PROXY header: inbound.trusted_ips is empty"],
    ),
    (
        "inbound: { trusted_ips: [], proxy_protocol: true }",
        &["2:45: inbound.proxy_protocol: nobody may send a PROXY header: inbound.trusted_ips is empty"],
    ),
    (
        "inbound: { trusted_ips: [10.0.0.0/33], proxy_protocol: v2 }",
        &[
            "2:26: inbound.trusted_ips[0]: \"10.0.0.0/33\" is no IP address",
            "2:56: inbound.proxy_protocol: must be true or false, but is \"v2\"",
        ],
    ),
    (
        "outbound: { upstreams: [{ service: a, protocol: tcp }] }",
        &["2:25: outbound.upstreams[0].listen: is missing, and with protocol: tcp nothing else names the upstream"],
    ),
    (
        "outbound: { upstreams: [{ service: a, protocol: tcp, listen: 127.0.0.1:0, retry: { methods: [GET] } }] }",
        &["2:93: outbound.upstreams[0].retry.methods: is about requests, and protocol: tcp has none"],
    ),
    (
        "outbound: { upstreams: [{ service: a, protocol: tcp, listen: 127.0.0.1:0, plugins: [{ name: cors }] }] }",
        &["2:84: outbound.upstreams[0].plugins: is about requests, and protocol: tcp has none"],
    ),
    (
        "outbound: { defaults: { protocol: tcp }, upstreams: [{ service: a }] }",
        &["2:54: outbound.upstreams[0].listen: is missing, and with protocol: tcp"],
    ),
    ("outbound: { defaults: { service: a } }", &["2:25: outbound.defaults.service: unknown key"]),
];

#[test]
fn every_kind_of_mistake_is_found_at_its_place() {
    for (text, wanted) in MISTAKES {
        let found = lines(&format!("{GOOD}{text}\n"));
        assert_eq!(found.len(), wanted.len(), "{text}\n{found:#?}");
        for (found, wanted) in found.iter().zip(*wanted) {
            assert!(found.starts_with(&format!("o.yaml:{wanted}")), "{text}\n  found {found}\n  wanted {wanted}");
        }
    }
}

#[test]
fn a_mistake_is_one_line_of_the_promised_form() {
    let form = |line: &str| {
        let rest = line.strip_prefix("o.yaml:")?;
        let (line, rest) = rest.split_once(':')?;
        let (column, rest) = rest.split_once(": ")?;
        let (key, rest) = rest.split_once(": ")?;
        let (problem, mend) = rest.rsplit_once("; ")?;
        let number = |text: &str| text.parse::<usize>().is_ok_and(|number| number > 0);
        let words = !key.is_empty() && !key.contains(' ') && !problem.is_empty() && !mend.is_empty();
        Some(number(line) && number(column) && words)
    };
    for (text, _) in MISTAKES {
        for line in lines(&format!("{GOOD}{text}\n")) {
            assert_eq!(form(&line), Some(true), "{line}");
        }
    }
}

/// The mistakes of an upstream with this key, which stands on line 5.
fn upstream(key: &str) -> Vec<String> {
    lines(&format!("{GOOD}outbound:\n  upstreams:\n  - service: orders\n    {key}\n"))
}

#[test]
fn mistakes_of_an_upstream_are_found() {
    for (key, wanted) in [
        ("balance: rendom", "14: balance: \"rendom\" is not known here; did you mean random?"),
        ("balance: ring_hash", "14: balance: ring_hash needs settings of its own; write { ring_hash: { … } }"),
        ("balance: [random]", "14: balance: must be a word, but is a list"),
        ("balance: {}", "5: balance: must have exactly one of ring_hash, maglev, but has none"),
        ("balance: { random: {} }", "16: balance.random: unknown key"),
        (
            "balance: { maglev: {} }",
            "16: balance.maglev: must have exactly one of header, cookie, query, source_ip, path",
        ),
        (
            "balance: { maglev: { header: a, path: true } }",
            "16: balance.maglev: must have exactly one of header, cookie, query, source_ip, path, but has header and path",
        ),
        ("balance: { maglev: { header: \"a b\" } }", "34: balance.maglev.header: \"a b\" is no header's name"),
        ("balance: { ring_hash: { cookie: \"a;b\" } }", "37: balance.ring_hash.cookie: \"a;b\" is no cookie's name"),
        ("balance: { ring_hash: { path: false } }", "35: balance.ring_hash.path: false says nothing here"),
        ("prefer_zone: yes", "18: prefer_zone: must be true or false, but is \"yes\""),
        ("tags: v2", "11: tags: must be a list"),
        ("meta: { \"a b\": c }", "13: meta.a b: Consul takes no such key"),
        ("filter: 'a == \"b'", "13: filter: the \" at 6 is not closed"),
        ("filter: (a == b", "13: filter: 1 `(` not closed"),
        ("datacenter: dc 2", "17: datacenter: \"dc 2\" is no datacenter's name"),
        ("failover: [orders-backup]", "16: failover[0]: must be a section of keys, but is text"),
        ("failover: [{}]", "16: failover[0]: names neither a service nor a datacenter; add service"),
        ("failover: [{ service: orders }]", "16: failover[0]: is the upstream itself"),
        ("failover: [{ service: b }, { service: b }]", "32: failover[1]: stands in the list already"),
        ("failover: [{ service: B }]", "27: failover[0].service: \"B\" is no service name"),
        ("retry: { on: [reset, 200] }", "26: retry.on[1]: must be a whole number from 400 to 599, but is \"200\""),
        ("retry: { on: [resets] }", "19: retry.on[0]: \"resets\" is not known here; did you mean reset?"),
        ("retry: { per_try_timeout: 20s }", "31: retry.per_try_timeout: 20s is longer than the whole timeout, 15s"),
        ("retry: { budget: { ratio: 20 } }", "31: retry.budget.ratio: must be a number from 0.0 to 1.0"),
        ("retry: { backoff: { base: 1s } }", "31: retry.backoff.base: base, 1s, is longer than max, 250ms; write"),
        ("retry: { backoff: { max: 1ms } }", "30: retry.backoff.max: base, 25ms, is longer than max, 1ms"),
        ("retry: { body_limit: 1GiB }", "26: retry.body_limit: \"1GiB\" is not from 0 to 67108864 bytes"),
        ("hedge: on", "12: hedge: \"on\" is not known here"),
        ("hedge: {}", "5: hedge.after: is missing; add the key with a duration or a percentile"),
        ("hedge: { after: p96 }", "21: hedge.after: \"p96\" is not known here; write p50, p90, p95, p99 or a duration"),
        ("hedge: { after: 1m }", "21: hedge.after: 1m is longer than the whole timeout, 15s"),
        ("breaker: { consecutive: 0 }", "29: breaker.consecutive: must be a whole number from 1"),
        ("breaker: { statuses: [302] }", "27: breaker.statuses[0]: must be a whole number from 400 to 599"),
        ("breaker: { error_rate: { threshold: 0 } }", "41: breaker.error_rate.threshold: 0 would eject every endpoint"),
        ("breaker: { error_rate: { window: 1ms } }", "38: breaker.error_rate.window: \"1ms\" is shorter than 1s"),
        ("breaker: { open_for: { base: 10m } }", "34: breaker.open_for.base: base, 10m, is longer than max, 5m"),
        ("breaker: { max_ejected: 2 }", "29: breaker.max_ejected: must be a number from 0.0 to 1.0"),
        ("breaker: { on_all_open: try }", "29: breaker.on_all_open: \"try\" is not known here"),
        ("limits: { connections: 0 }", "28: limits.connections: must be a whole number from 1"),
        ("overload: on", "15: overload: \"on\" is not known here; write one of: off, adaptive"),
    ] {
        let found = upstream(key);
        assert_eq!(found.len(), 1, "{key}\n{found:#?}");
        let (column, rest) = wanted.split_once(": ").unwrap();
        let wanted = format!("o.yaml:5:{column}: outbound.upstreams[0].{rest}");
        assert!(found[0].starts_with(&wanted), "{key}\n  found {}\n  wanted {wanted}", found[0]);
    }
}

#[test]
fn what_only_consul_knows_is_a_mistake_beside_endpoints() {
    for key in [
        "tags: [a]",
        "meta: { a: b }",
        "filter: a == b",
        "datacenter: dc2",
        "failover: [{ service: b }]",
        "prefer_zone: true",
    ] {
        let found = lines(&format!(
            "{GOOD}outbound:\n  upstreams:\n  - service: orders\n    endpoints: [\"a:1\"]\n    {key}\n"
        ));
        let name = key.split(':').next().unwrap();
        assert_eq!(found.len(), 1, "{found:#?}");
        let wanted = format!("outbound.upstreams[0].{name}: has no effect beside endpoints");
        assert!(found[0].starts_with("o.yaml:6:") && found[0].contains(&wanted), "{}", found[0]);
    }
    let text = "outbound:\n  defaults: { tags: [a], datacenter: dc2, failover: [{ service: b }], prefer_zone: true }\n  \
                upstreams: [{ service: orders, endpoints: [\"a:1\"] }]\n";
    let loaded = super::load(&format!("{GOOD}{text}")).unwrap();
    assert_eq!(loaded.outbound.upstreams[0].failover, []);
}

#[test]
fn a_mistake_of_the_defaults_is_told_once_and_there() {
    let text = "outbound:\n  defaults: { retry: { backoff: { base: 1s } }, failover: [{}] }\n  upstreams: [{ service: a }, { service: b }]\n";
    let found = lines(&format!("{GOOD}{text}"));
    assert_eq!(found.len(), 2, "{found:#?}");
    assert!(
        found[0].starts_with("o.yaml:3:41: outbound.defaults.retry.backoff.base: base, 1s, is longer"),
        "{found:#?}"
    );
    assert!(found[1].starts_with("o.yaml:3:60: outbound.defaults.failover[0]: names neither"), "{found:#?}");
}

#[test]
fn an_upstream_in_a_hurry_may_ignore_the_defaults_longer_times() {
    for (defaults, own, count) in [
        ("retry: { per_try_timeout: 3s }", "timeout: 2s", 0),
        ("retry: { per_try_timeout: 3s }, timeout: 2s", "protocol: http", 1),
        ("timeout: 2s", "retry: { per_try_timeout: 3s }", 1),
        ("timeout: 2s", "protocol: http", 0),
        ("timeout: 2s", "timeout: off, retry: { per_try_timeout: 3s }", 0),
    ] {
        let text = format!("{GOOD}outbound: {{ defaults: {{ {defaults} }}, upstreams: [{{ service: a, {own} }}] }}\n");
        let found = super::load(&text).err().map(|problems| problems.to_string()).unwrap_or_default();
        assert_eq!(found.lines().count(), count, "{text}{found}");
    }
}

#[test]
fn what_a_service_must_have_is_missed() {
    assert_eq!(
        lines("service:\n  nme: users\n"),
        [
            "o.yaml:1:1: service.name: is missing; add the key, or give --service NAME",
            "o.yaml:1:1: service.port: is missing; add the key, or give --port N",
            "o.yaml:2:3: service.nme: unknown key; did you mean name?",
        ]
    );
    assert_eq!(lines("").len(), 2);
    assert_eq!(lines("service:\n  # nothing\nworkers: 1\n").len(), 2);
    let none = Loader::new(None, Flags::default(), Environment::default()).load().unwrap_err().to_string();
    assert!(none.contains("flag --service: is missing; give --service NAME"), "{none}");
}

#[test]
fn mistakes_of_a_service_are_found() {
    for (keys, wanted) in [
        ("name: a, port: 0", "1:27: service.port: must be a whole number from 1 to 65535"),
        ("name: a, port: 70000", "1:27: service.port: must be"),
        ("name: a, port: \"80\"", "1:27: service.port: must be a whole number from 1 to 65535, but \"80\" is text"),
        ("name: a, port: 1, weights: { passing: 0 }", "1:50: service.weights.passing: must be a whole number from 1"),
        ("name: a, port: 1, weights: { warning: 65536 }", "1:50: service.weights.warning: must be"),
        ("name: a, port: 1, tags: v1", "1:36: service.tags: must be a list, but is text"),
        ("name: a, port: 1, meta: { v: 2.0 }", "1:41: service.meta.v: must be text, but 2.0 is a number"),
        ("name: a, port: 1, meta: { \"a b\": x }", "1:38: service.meta.a b: Consul takes no such key"),
        ("name: a, port: 1, protocol: udp", "1:40: service.protocol: \"udp\""),
        ("name: a, port: 1, address: \"http://a\"", "1:39: service.address: \"http://a\" is no host"),
        ("name: a, port: 1, check: { http: healthz }", "1:45: service.check.http: \"healthz\" is no path"),
        ("name: a, port: 1, check: { ttl: 500ms }", "1:44: service.check.ttl: \"500ms\" is shorter than 1s"),
        (
            "name: a, port: 1, check: { deregister_after: 30s }",
            "1:57: service.check.deregister_after: \"30s\" is shorter than 1m",
        ),
        ("name: a, port: 1, check: { unhealthy_after: 0 }", "1:56: service.check.unhealthy_after: must be"),
        ("name: a, port: 1, check: { http: /, tcp: true }", "1:53: service.check.tcp: http is there too"),
        ("name: a, port: 1, check: { grpc: x, tcp: true }", "1:45: service.check.grpc: tcp is there too"),
    ] {
        let found = lines(&format!("service: {{ {keys} }}"));
        assert_eq!(found.len(), 1, "{found:#?}");
        assert!(found[0].starts_with(&format!("o.yaml:{wanted}")), "\n  found {}\n  wanted {wanted}", found[0]);
    }
}
