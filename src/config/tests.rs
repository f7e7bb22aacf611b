//! Whole files: every mistake, each at its place; good files, flags and variables.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::problems::Place;
use super::tree::{Node, parse_default};
use super::*;

const GOOD: &str = "service: { name: users, port: 8080 }\n";

fn load_with<const N: usize>(text: &str, flags: Flags, variables: [(&str, &str); N]) -> Result<Config, Problems> {
    Loader::new(Some("o.yaml".into()), flags, Environment::of(variables)).load_bytes(text.as_bytes())
}

fn load(text: &str) -> Result<Config, Problems> {
    load_with(text, Flags::default(), [])
}

fn lines(text: &str) -> Vec<String> {
    let problems = load(text).expect_err("the file has mistakes");
    problems.to_string().lines().map(str::to_owned).collect()
}

fn flags(given: &[(&'static str, &str)]) -> Flags {
    let mut flags = Flags::default();
    for (flag, value) in given {
        match *flag {
            "--upstream" => flags.upstream(*value),
            flag => flags.set(flag, Some((*value).to_owned())),
        }
    }
    flags
}

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
    ("inbound: { listen: }", &["2:20: inbound.listen: has no value"]),
    ("inbound: { trusted_ips: 10.0.0.1 }", &["2:25: inbound.trusted_ips: must be a list, but is text"]),
    ("outbound: { upstreams: { a: b } }", &["2:24: outbound.upstreams: must be a list"]),
    ("outbound: { upstreams: }", &["2:24: outbound.upstreams: must be a list, but is nothing; write [] for none"]),
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
        "outbound: { upstreams: [{ service: a, dns_server: b:1 }] }",
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
    ("gateway: { listen: 0.0.0.0:8000 }", &["2:10: gateway: not supported yet: gateway"]),
    ("consumers: []", &["2:12: consumers: not supported yet"]),
    ("telemetry: { tracing: { otlp: x } }", &["2:23: telemetry.tracing: not supported yet"]),
    ("inbound: { routes: [] }", &["2:20: inbound.routes: not supported yet"]),
    ("inbound: { plugins: [] }", &["2:21: inbound.plugins: not supported yet"]),
    ("inbound: { authz: [] }", &["2:19: inbound.authz: not supported yet"]),
    ("inbound: { intentions: auto }", &["2:24: inbound.intentions: not supported yet: auto; use one of: off"]),
    ("inbound: { intentions: on }", &["2:24: inbound.intentions: not supported yet: on"]),
    ("inbound: { proxy_protocol: true }", &["2:28: inbound.proxy_protocol: not supported yet: true"]),
    ("outbound: { routes: [] }", &["2:21: outbound.routes: not supported yet"]),
    ("outbound: { defaults: { protocol: tcp } }", &["2:35: outbound.defaults.protocol: not supported yet: tcp"]),
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
        "protocol: tcp",
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
    assert!(none.starts_with("flag --service: is missing; give --service NAME"), "{none}");
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
        ("name: a, port: 1, protocol: tcp", "1:40: service.protocol: not supported yet: tcp"),
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

#[test]
fn a_file_that_says_nothing_more_gets_the_defaults() {
    let config = load(GOOD).unwrap();
    assert_eq!(config.inbound.listen.to_string(), "0.0.0.0:20000");
    assert_eq!(config.outbound.listen.to_string(), "127.0.0.1:15001");
    assert_eq!(
        (config.admin.to_string(), config.metrics.to_string()),
        ("127.0.0.1:19000".into(), "0.0.0.0:20200".into())
    );
    assert_eq!((config.workers, config.grace), (1, Duration::from_secs(30)));
    assert_eq!(config.inbound.mtls, InboundMtls::Strict);
    assert_eq!(
        config.inbound.limits,
        ListenLimits { connections: 10_000, head: 65_536, headers: 100, h2_streams: 256 }
    );
    assert_eq!(config.service.check.probe, Probe::None);
    assert_eq!(config.service.check.deregister_after, Duration::from_secs(60));
    assert_eq!(config.service.weights, Weights { passing: 1, warning: 1 });
    assert_eq!(config.identity, identity::Source::Consul);
    assert_eq!(config.consul.address, "http://127.0.0.1:8500");
    assert!(config.access_log.is_none() && config.consul.token.is_none() && config.consul.verify);
    assert!(config.service.id.starts_with("users-") && config.service.id.ends_with("-8080"), "{}", config.service.id);
}

#[test]
fn an_upstream_has_its_own_values_then_the_defaults_then_the_tables() {
    let text = format!(
        "{GOOD}outbound:\n  defaults: {{ timeout: 3s, mtls: preferred, retry: {{ attempts: 5, on: [unsent] }} }}\n  upstreams:\n  \
         - {{ service: a }}\n  - {{ service: b, timeout: off, retry: {{ attempts: 0 }} }}\n"
    );
    let config = load(&text).unwrap();
    let [a, b] = config.outbound.upstreams.as_slice() else { panic!("two upstreams") };
    assert_eq!((a.timeout, b.timeout), (Some(Duration::from_secs(3)), None));
    assert_eq!((a.mtls, b.mtls), (UpstreamMtls::Preferred, UpstreamMtls::Preferred));
    assert_eq!((a.retry.attempts, b.retry.attempts), (5, 0));
    assert!(b.retry.on_unsent && !b.retry.on_reset && b.retry.methods.contains(&http::Method::PUT));
    assert_eq!((a.connect_timeout, a.balance), (Duration::from_secs(1), Balance::LeastLoaded));
    assert_eq!(a.source, EndpointSource::Consul);
}

#[test]
fn endpoints_are_fixed_or_looked_up() {
    let text = format!(
        "{GOOD}outbound:\n  upstreams:\n  - {{ service: a, endpoints: [\"10.0.0.5:80\", \"[::1]:81\"] }}\n  \
         - {{ service: b, endpoints: [b.consul], dns: srv, dns_server: 127.0.0.1:8600 }}\n  - {{ service: c, endpoints: [\"c.x:1\"], dns: a }}\n"
    );
    let sources: Vec<EndpointSource> =
        load(&text).unwrap().outbound.upstreams.into_iter().map(|up| up.source).collect();
    assert_eq!(
        sources,
        [
            EndpointSource::Fixed(vec![("10.0.0.5".into(), 80), ("::1".into(), 81)]),
            EndpointSource::DnsSrv { names: vec!["b.consul".into()], server: Some(("127.0.0.1".into(), 8600)) },
            EndpointSource::DnsA { names: vec![("c.x".into(), 1)], server: None },
        ]
    );
}

#[test]
fn port_zero_never_collides() {
    let text = "inbound: { listen: 127.0.0.1:0 }\nadmin: { listen: 127.0.0.1:0 }\nmetrics: { listen: 127.0.0.1:0 }\n";
    assert!(load(&format!("{GOOD}{text}")).is_ok());
}

#[test]
fn flags_are_stronger_than_variables_and_those_than_the_file() {
    let given = flags(&[("--service", "from-flag"), ("--upstream", "orders=9101"), ("--upstream", "mail")]);
    let text = format!("{GOOD}outbound: {{ upstreams: [{{ service: orders, timeout: 1s }}] }}\n");
    let variables = [("OUTRIGGER_SERVICE", "from-env"), ("OUTRIGGER_PORT", "81"), ("OUTRIGGER_ID", "")];
    let config = load_with(&text, given, variables).unwrap();
    assert_eq!((config.service.name.as_str(), config.service.port), ("from-flag", 81));
    let [orders, mail] = config.outbound.upstreams.as_slice() else { panic!("two upstreams") };
    assert_eq!(orders.listen.unwrap().to_string(), "127.0.0.1:9101");
    assert_eq!((orders.timeout, mail.service.as_str()), (Some(Duration::from_secs(1)), "mail"));
}

#[test]
fn flags_alone_make_a_configuration() {
    let given = flags(&[("--service", "users"), ("--port", "8080")]);
    let config = Loader::new(None, given, Environment::default()).load().unwrap();
    assert_eq!((config.file, config.service.port), (None, 8080));
}

#[test]
fn mistakes_of_flags_and_variables_name_them() {
    let given = flags(&[("--port", "x"), ("--upstream", "Bad"), ("--upstream", "a=b"), ("--mtls", "no")]);
    let problems = load_with("service: { name: a }\n", given, [("OUTRIGGER_GRACE", "5"), ("CONSUL_HTTP_SSL", "maybe")]);
    let found = problems.unwrap_err().to_string();
    for wanted in [
        "flag --port: must be a whole number",
        "flag --upstream: \"Bad\" is no service name",
        "flag --upstream: \"b\" is no address to listen on",
        "flag --mtls: \"no\" is not known here",
        "env OUTRIGGER_GRACE: \"5\" is no duration",
        "env CONSUL_HTTP_SSL: \"maybe\" is neither true nor false",
    ] {
        assert!(found.lines().any(|line| line.starts_with(wanted)), "{wanted}\n{found}");
    }
    assert_eq!(found.lines().count(), 6, "{found}");
}

#[test]
fn consuls_variables_fill_what_the_file_leaves_out() {
    let variables = [
        ("CONSUL_HTTP_ADDR", "consul.internal:8501"),
        ("CONSUL_HTTP_SSL", "true"),
        ("CONSUL_HTTP_SSL_VERIFY", "false"),
        ("CONSUL_HTTP_TOKEN", "secret"),
        ("CONSUL_CACERT", "ca.pem"),
        ("CONSUL_DATACENTER", "from-env"),
        ("CONSUL_NAMESPACE", "ns"),
        ("CONSUL_PARTITION", "ap"),
        ("CONSUL_TLS_SERVER_NAME", "server.dc1.consul"),
    ];
    let text = format!("{GOOD}consul: {{ datacenter: from-file }}\n");
    let consul = load_with(&text, Flags::default(), variables).unwrap().consul;
    assert_eq!(consul.address, "https://consul.internal:8501");
    assert_eq!(consul.datacenter.as_deref(), Some("from-file"));
    assert_eq!((consul.namespace.as_deref(), consul.partition.as_deref()), (Some("ns"), Some("ap")));
    assert_eq!(consul.ca_file, Some(PathBuf::from("ca.pem")), "relative to the working directory");
    assert!(!consul.verify && consul.token.is_some());
    assert_eq!(consul.server_name.as_deref(), Some("server.dc1.consul"));
}

#[test]
fn consuls_address_takes_its_scheme_from_whoever_names_it() {
    for (file, variable, ssl, wanted) in [
        ("", "", "true", "https://127.0.0.1:8500"),
        ("", "http://c:1", "1", "https://c:1"),
        ("", "unix:///run/c.sock", "1", "unix:///run/c.sock"),
        ("consul: { address: \"c:1\" }", "d:1", "0", "http://c:1"),
        ("consul: { address: \"http://c:1\" }", "d:1", "1", "http://c:1"),
    ] {
        let variables = [("CONSUL_HTTP_ADDR", variable), ("CONSUL_HTTP_SSL", ssl)];
        let config = load_with(&format!("{GOOD}{file}\n"), Flags::default(), variables).unwrap();
        assert_eq!(config.consul.address, wanted);
    }
}

#[test]
fn a_token_file_is_stronger_than_a_token() {
    let variables = [("CONSUL_HTTP_TOKEN", "secret"), ("CONSUL_HTTP_TOKEN_FILE", "/t")];
    let config = load_with(GOOD, Flags::default(), variables).unwrap();
    assert!(config.consul.token.is_none());
    assert_eq!(config.consul.token_file.as_deref(), Some(Path::new("/t")));
}

#[test]
fn references_are_whatever_type_the_key_wants() {
    let text = "service: { name: \"${NAME}\", port: ${PORT:-8080}, meta: { v: ${V} } }\nshutdown: { grace: '${G}' }\n";
    let config = load_with(text, Flags::default(), [("NAME", "users"), ("V", "2.0"), ("G", "5s")]).unwrap();
    assert_eq!((config.service.name.as_str(), config.service.port), ("users", 8080));
    assert_eq!((config.service.meta["v"].as_str(), config.grace), ("2.0", Duration::from_secs(5)));
}

#[test]
fn relative_paths_are_relative_to_the_file() {
    let text = format!("{GOOD}identity: {{ files: {{ cert: a, key: /b, roots: ../c }} }}\n");
    let loader = Loader::new(Some("/etc/outrigger/o.yaml".into()), Flags::default(), Environment::default());
    let paths = |path: &str| PathBuf::from(path);
    assert_eq!(
        loader.load_bytes(text.as_bytes()).unwrap().identity,
        identity::Source::Files {
            cert: paths("/etc/outrigger/a"),
            key: paths("/b"),
            roots: paths("/etc/outrigger/../c")
        }
    );
}

#[test]
fn a_json_file_is_a_config_file() {
    let config =
        load("{\"service\": {\"name\": \"users\", \"port\": 8080}, \"inbound\": {\"mtls\": \"off\"}}").unwrap();
    assert_eq!(config.inbound.mtls, InboundMtls::Off);
}

#[test]
fn a_file_that_is_not_there_is_a_mistake() {
    let loader = Loader::new(Some("/not/there.yaml".into()), Flags::default(), Environment::default());
    let problems = loader.load().unwrap_err().to_string();
    assert!(problems.starts_with("/not/there.yaml:1:1: file: cannot be read: "), "{problems}");
}

#[test]
fn mistakes_as_json_have_a_place_each() {
    let json = load_with(&format!("{GOOD}x: 1\n"), flags(&[("--port", "x")]), []).unwrap_err().to_json();
    assert_eq!(json[0]["file"], "o.yaml");
    assert_eq!(
        (json[0]["line"].as_u64(), json[0]["column"].as_u64(), json[0]["key"].as_str()),
        (Some(2), Some(1), Some("x"))
    );
    assert_eq!(json[1]["source"], "flag --port");
    assert!(json[0]["problem"].is_string() && json[0]["mend"].is_string());
}

#[test]
fn every_example_loads_and_the_schema_takes_it() {
    let validator = jsonschema::validator_for(&schema()).unwrap();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let mut seen = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        let loader = Loader::new(Some(path.clone()), Flags::default(), Environment::default());
        loader.load().unwrap_or_else(|problems| panic!("{problems}"));
        let text = std::fs::read_to_string(&path).unwrap();
        let errors: Vec<String> =
            validator.iter_errors(&json(&text)).map(|e| format!("{} {e}", e.instance_path())).collect();
        assert!(errors.is_empty(), "{}: {errors:#?}", path.display());
        seen += 1;
    }
    assert!(seen >= 3);
}

#[test]
fn the_schema_refuses_what_the_checker_refuses_by_shape_and_later_keys() {
    let validator = jsonschema::validator_for(&schema()).unwrap();
    assert!(validator.is_valid(&json(GOOD)));
    for text in [
        "servce: {}",
        "inbound: 5",
        "workers: many",
        "gateway: {}",
        "inbound: { intentions: auto }",
        "identity: {}",
        "inbound: { listen: \":80\" }",
        "shutdown: { grace: 5 }",
        "outbound: { upstreams: [{}] }",
        "consul: { datacenter: 1 }",
    ] {
        let text = format!("{GOOD}{text}\n");
        assert!(load(&text).is_err() && !validator.is_valid(&json(&text)), "{text}");
    }
}

/// The file as an editor's YAML parser would hand it to a schema: references are texts.
fn json(text: &str) -> serde_json::Value {
    let shown = text.replace("${", "$${");
    shape::json_of(&parse_default(&shown).unwrap())
}

#[test]
fn every_default_of_the_table_passes_its_own_check() {
    fn walk(keys: &'static [shape::Key]) {
        for key in keys {
            if let Some(default) = key.default {
                let mut problems = Problems::default();
                let node = parse_default(&format!("{}: {default}", key.name)).unwrap();
                let one = std::slice::from_ref(key);
                shape::check_section(&node, one, ("", &Place::START), &mut problems);
                assert!(problems.is_empty(), "{}: {problems}", key.name);
            }
            match &key.shape {
                shape::Shape::Section(keys) | shape::Shape::OneOf(keys) | shape::Shape::Sections(keys) => walk(keys),
                shape::Shape::Leaf(_) | shape::Shape::List(_) | shape::Shape::Texts | shape::Shape::Later => {}
            }
        }
    }
    walk(keys::ROOT);
}

#[test]
fn every_override_names_a_key_of_the_table() {
    for over in OVERRIDES {
        let mut root = Node::map(Place::START);
        let given = flags(&[(over.flag, "\u{7f}")]);
        overrides::apply(&mut root, &given, &Environment::default());
        let mut problems = Problems::default();
        shape::check_section(&root, keys::ROOT, ("", &Place::START), &mut problems);
        assert!(problems.iter().any(|one| one.place == Place::Flag(over.flag) && one.key == over.key), "{}", over.flag);
    }
}

proptest::proptest! {
    #[test]
    fn no_bytes_make_the_checker_panic(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..400)) {
        let loader = Loader::new(Some("o.yaml".into()), Flags::default(), Environment::default());
        if let Err(problems) = loader.load_bytes(&bytes) {
            proptest::prop_assert!(!problems.is_empty());
        }
    }

    #[test]
    fn no_text_of_yaml_pieces_makes_the_checker_panic(
        pieces in proptest::collection::vec(proptest::sample::select(PIECES.to_vec()), 0..40)
    ) {
        let loader = Loader::new(Some("o.yaml".into()), Flags::default(), Environment::of([("A", "x")]));
        let _ = loader.load_bytes(pieces.concat().as_bytes()).map_err(|problems| problems.to_string());
    }
}

const PIECES: &[&str] = &[
    "service:",
    "name:",
    "port:",
    "outbound:",
    "upstreams:",
    "inbound:",
    "identity:",
    "check:",
    "retry:",
    "on:",
    "listen:",
    "\n",
    "\n  ",
    "\n    ",
    "- ",
    " ",
    "{",
    "}",
    "[",
    "]",
    ", ",
    "${A}",
    "${",
    "$${",
    "users",
    "8080",
    "5s",
    "off",
    "~",
    "&a ",
    "*a",
    "\"",
    "'",
    "#",
    "|\n",
    "? ",
    "!!str ",
    "---\n",
    "127.0.0.1:0",
    "\u{100024}",
    "é",
    "<<:",
    "defaults:",
];
