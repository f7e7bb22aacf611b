//! Whole files: every mistake, each at its place; good files, flags and variables.

use super::problems::Problems;
use crate::route::HashOn;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::problems::Place;
use super::tree::{Node, parse_default};
use super::*;

mod gate;
mod http_plugins;
mod jwt;
mod mistakes;
mod routes;

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
    assert_eq!(config.service.check.deregister_after, Duration::from_mins(1));
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
    assert_eq!((a.connect_timeout, &a.balance), (Duration::from_secs(1), &Balance::LeastLoaded));
    assert_eq!(a.source, EndpointSource::Consul);
}

#[test]
fn an_upstream_that_says_nothing_more_gets_the_contracts_policy() {
    let config = load(&format!("{GOOD}outbound: {{ upstreams: [{{ service: a }}] }}\n")).unwrap();
    let a = &config.outbound.upstreams[0];
    assert_eq!(a.breaker.policy, service::BreakerPolicy::default());
    assert_eq!(a.breaker.statuses, [502, 503, 504].map(|code| http::StatusCode::from_u16(code).unwrap()));
    assert_eq!((a.limits, a.retry.budget), (service::Limits::default(), service::BudgetPolicy::default()));
    assert_eq!((a.adaptive, config.inbound.adaptive, a.hedge, a.prefer_zone), (false, false, None, false));
    assert_eq!((&a.subset, &a.datacenter, a.failover.len()), (&Subset::default(), &None, 0));
    let retry = &a.retry;
    assert!(retry.on_unsent && retry.on_reset);
    assert_eq!((&retry.statuses, retry.body_limit), (&a.breaker.statuses, 65_536));
    assert_eq!(retry.per_try_timeout, Some(Duration::from_secs(5)));
    assert_eq!((retry.backoff.base, retry.backoff.max), (Duration::from_millis(25), Duration::from_millis(250)));
}

#[test]
fn the_policy_of_an_upstream_is_read() {
    let text = format!(
        "{GOOD}outbound:\n  defaults:\n    balance: {{ maglev: {{ cookie: sid }} }}\n    hedge: {{ after: p95 }}\n    \
         breaker: {{ error_rate: {{ window: 5s }}, statuses: [500] }}\n    retry: {{ on: [503], budget: {{ ratio: 0.1 }} }}\n    \
         failover: [{{ datacenter: DC3 }}]\n  upstreams:\n  - service: a\n  - service: b\n    balance: {{ ring_hash: {{ header: X-User }} }}\n    \
         hedge: off\n    breaker: {{ error_rate: {{ threshold: 0.25 }}, on_all_open: try_anyway, open_for: {{ base: 1s }} }}\n    \
         retry: {{ per_try_timeout: off, budget: {{ min_per_second: 0 }}, body_limit: 0 }}\n    tags: [v2]\n    meta: {{ k: \"\" }}\n    \
         filter: Node.Meta.x == y\n    datacenter: dc2\n    prefer_zone: true\n    overload: adaptive\n    limits: {{ pending: 0 }}\n    \
         failover: [{{ service: c }}, {{ datacenter: dc1 }}, {{ service: c, datacenter: dc1 }}]\n  - {{ service: c, balance: random, hedge: {{ after: 20ms }} }}\n"
    );
    assert!(jsonschema::validator_for(&schema()).unwrap().is_valid(&json(&text)), "the schema takes it too");
    let config = load(&text).unwrap();
    let [a, b, c] = config.outbound.upstreams.as_slice() else { panic!("three upstreams") };
    assert_eq!(a.balance, Balance::Maglev(HashOn::Cookie("sid".into())));
    assert_eq!(b.balance, Balance::RingHash(HashOn::Header("x-user".parse().unwrap())));
    assert_eq!(c.balance, Balance::Random);
    assert_eq!((a.hedge, b.hedge), (Some(HedgeAfter::Percentile(95)), None));
    assert_eq!(c.hedge, Some(HedgeAfter::Time(Duration::from_millis(20))));
    let rate = b.breaker.policy.error_rate;
    assert_eq!((rate.window, rate.min_requests), (Duration::from_secs(5), 20));
    assert!((rate.threshold - 0.25).abs() < f64::EPSILON && (b.retry.budget.ratio - 0.1).abs() < f64::EPSILON);
    assert_eq!(b.breaker.statuses, [http::StatusCode::INTERNAL_SERVER_ERROR]);
    assert_eq!(b.breaker.policy.on_all_open, service::OnAllOpen::TryAnyway);
    assert_eq!(
        (b.breaker.policy.open_for, b.breaker.policy.open_max),
        (Duration::from_secs(1), Duration::from_mins(5))
    );
    assert_eq!((b.retry.per_try_timeout, b.retry.budget.min_per_second, b.retry.body_limit), (None, 0, 0));
    assert!(!b.retry.on_reset && b.retry.statuses == [http::StatusCode::SERVICE_UNAVAILABLE]);
    assert_eq!((b.subset.tags.as_slice(), b.subset.meta["k"].as_str()), (["v2".to_owned()].as_slice(), ""));
    assert_eq!((b.subset.filter.as_deref(), b.datacenter.as_deref()), (Some("Node.Meta.x == y"), Some("dc2")));
    assert!(b.prefer_zone && b.adaptive && b.limits.pending == 0);
    let to = |service: &str, datacenter: &str| Failover {
        service: ServiceName::parse(service).unwrap(),
        datacenter: Some(datacenter.to_owned()),
    };
    assert_eq!(b.failover, [to("c", "dc2"), to("b", "dc1"), to("c", "dc1")]);
    assert_eq!(a.failover, [to("a", "dc3")], "datacenters have no case");
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
            EndpointSource::DnsSrv { names: vec!["b.consul".into()], server: "127.0.0.1:8600".parse().ok() },
            EndpointSource::DnsA { names: vec![("c.x".into(), 1)], server: None },
        ]
    );
}

#[test]
fn an_access_log_section_turns_it_on() {
    for section in ["access_log:", "access_log: {}"] {
        let config = load(&format!("{GOOD}telemetry:\n  {section}\n")).unwrap();
        assert_eq!(config.access_log, Some(AccessLogSettings { path: AccessLogPath::Stdout, sample: 1.0 }));
    }
    let config = load(&format!("{GOOD}telemetry: {{ access_log: {{ path: log/a.json, sample: 0.1 }} }}\n")).unwrap();
    let path = AccessLogPath::File("log/a.json".into());
    assert_eq!(config.access_log, Some(AccessLogSettings { path, sample: 0.1 }));
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
        "inbound: { intentions: maybe }",
        "inbound: { authz: [{ action: log }] }",
        "identity: {}",
        "inbound: { listen: \":80\" }",
        "shutdown: { grace: 5 }",
        "outbound: { upstreams: [{}] }",
        "consul: { datacenter: 1 }",
        "outbound: { upstreams: [{ service: a, balance: maglev }] }",
        "outbound: { upstreams: [{ service: a, balance: { maglev: { path: true, cookie: a } } }] }",
        "outbound: { upstreams: [{ service: a, retry: { on: [200] } }] }",
        "outbound: { upstreams: [{ service: a, hedge: { after: p96 } }] }",
        "outbound: { upstreams: [{ service: a, hedge: {} }] }",
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
            let inner = if let shape::Shape::WordOr(_, section) = &key.shape { *section } else { &key.shape };
            match inner {
                shape::Shape::Section(keys) | shape::Shape::OneOf(keys) | shape::Shape::Sections(keys) => walk(keys),
                _ => {}
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
