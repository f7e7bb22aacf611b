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
    ("consumers: []", &["2:1: consumers: not supported yet"]),
    ("telemetry: { tracing: { otlp: x } }", &["2:14: telemetry.tracing: not supported yet"]),
    ("inbound: { routes: [] }", &["2:12: inbound.routes: not supported yet"]),
    ("inbound: { plugins: [] }", &["2:12: inbound.plugins: not supported yet"]),
    ("inbound: { authz: [] }", &["2:12: inbound.authz: not supported yet"]),
    ("inbound: { intentions: auto }", &["2:24: inbound.intentions: not supported yet: auto; use one of: off"]),
    ("inbound: { intentions: on }", &["2:24: inbound.intentions: not supported yet: on"]),
    ("inbound: { proxy_protocol: true }", &["2:28: inbound.proxy_protocol: not supported yet: true"]),
    ("outbound: { routes: [] }", &["2:13: outbound.routes: not supported yet"]),
    (
        "outbound: { upstreams: [{ service: a, protocol: tcp }] }",
        &["2:49: outbound.upstreams[0].protocol: tcp has no Host that could name the upstream; add a port"],
    ),
    (
        "outbound: { upstreams: [{ service: a, protocol: tcp, listen: 127.0.0.1:0, retry: { methods: [GET] } }] }",
        &["2:93: outbound.upstreams[0].retry.methods: is about requests, and protocol: tcp has none"],
    ),
    (
        "outbound: { defaults: { protocol: tcp }, upstreams: [{ service: a }] }",
        &["2:35: outbound.upstreams[0].protocol: tcp has no Host"],
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

#[test]
fn every_later_key_of_an_upstream_is_refused_and_located() {
    for key in [
        "tags: [v2]",
        "meta: {}",
        "filter: x",
        "datacenter: dc2",
        "failover: []",
        "hedge: { after: p95 }",
        "breaker: {}",
        "limits: {}",
        "plugins: []",
        "prefer_zone: true",
        "balance: random",
        "balance: { ring_hash: { header: x-user } }",
        "balance: { maglev: {} }",
        "retry: { per_try_timeout: 5s }",
        "retry: { budget: {} }",
        "retry: { backoff: {} }",
        "retry: { body_limit: 1KiB }",
        "retry: { on: [reset, 503] }",
    ] {
        let found = lines(&format!("{GOOD}outbound:\n  upstreams:\n  - service: orders\n    {key}\n"));
        assert_eq!(found.len(), 1, "{found:#?}");
        assert!(found[0].starts_with("o.yaml:5:") && found[0].contains(": not supported yet: "), "{}", found[0]);
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
