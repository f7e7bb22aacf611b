//! Routes and plugins: what they come to mean, and each mistake at its place.

use http::Method;

use super::super::problems::Problems;
use super::super::*;
use super::{GOOD, lines, load};
use crate::filter::fault::{Abort, Share};
use crate::filter::{Mode, Settings};
use crate::route::{Condition, HashOn, HostMatch, PathMatch, Reply};

fn routes(text: &str) -> Result<Config, Problems> {
    load(&format!("{GOOD}outbound:\n  routes:\n{text}"))
}

fn forward(route: &RouteSettings) -> &ForwardSettings {
    match &route.action {
        RouteAction::Forward(forward) => forward,
        RouteAction::Answer(..) => panic!("{} answers", route.name),
    }
}

#[test]
fn a_route_is_what_its_keys_say() {
    let config = routes(
        "    - name: api\n      match: { host: \"*.x.local\", path: /users/, methods: [GET], headers: { X-Env: \"1\", a: { present: false } }, query: { q: { regex: \"a+\" } } }\n      \
         split: [{ service: a, weight: 9 }, { service: b }]\n      sticky: { cookie: session }\n      rewrite_path: /v2/\n      rewrite_host: false\n",
    )
    .unwrap();
    let [route] = config.outbound.routes.as_slice() else { panic!("one route") };
    let matcher = &route.matcher;
    assert_eq!(matcher.host, Some(HostMatch::Suffix(".x.local".into())));
    assert!(matches!(&matcher.path, Some(PathMatch::Prefix(path)) if path == "/users"));
    assert_eq!((matcher.methods.as_slice(), matcher.headers[0].0.as_str()), (&[Method::GET][..], "x-env"));
    assert!(matches!(&matcher.headers[0].1, Condition::Is(value) if value == "1"));
    assert!(
        matches!(matcher.headers[1].1, Condition::Present(false)) && matches!(matcher.query[0].1, Condition::Regex(_))
    );
    let forward = forward(route);
    let targets: Vec<_> = forward.targets.iter().map(|(weight, up)| (*weight, up.service.as_str())).collect();
    assert_eq!(targets, [(9, "a"), (1, "b")]);
    assert_eq!(forward.sticky, Some(HashOn::Cookie("session".into())));
    assert_eq!((forward.rewrite.as_ref().unwrap().prefix.as_str(), forward.rewrite_host), ("/v2", false));
    let declared: Vec<_> = config.outbound.upstreams.iter().map(|up| up.service.as_str()).collect();
    assert_eq!(declared, ["a", "b"], "what routes name is declared by it");
}

#[test]
fn a_routes_keys_lie_over_the_upstreams_over_the_defaults() {
    let text = format!(
        "{GOOD}outbound:\n  defaults: {{ timeout: 3s, connect_timeout: 7s, retry: {{ attempts: 5 }} }}\n  upstreams:\n  \
         - {{ service: a, timeout: 2s, listen: 127.0.0.1:9, retry: {{ methods: [GET] }} }}\n  routes:\n  \
         - {{ to: a, retry: {{ attempts: 1 }}, idle_timeout: 9s }}\n  - {{ to: b, timeout: off }}\n"
    );
    let config = load(&text).unwrap();
    let [over_a, over_b] = config.outbound.routes.as_slice() else { panic!("two routes") };
    let (a, b) = (&forward(over_a).targets[0].1, &forward(over_b).targets[0].1);
    assert_eq!((a.timeout, a.connect_timeout), (Some(Duration::from_secs(2)), Duration::from_secs(7)));
    assert_eq!((a.retry.attempts, a.retry.methods.as_slice(), a.listen), (1, &[Method::GET][..], None));
    assert_eq!((a.idle_timeout, b.timeout, b.retry.attempts), (Duration::from_secs(9), None, 5));
    let declared = &config.outbound.upstreams[0];
    assert_eq!((declared.retry.attempts, declared.listen.is_some()), (5, true), "the upstream's own stay");
    assert_eq!((over_a.name.as_str(), over_b.name.as_str()), ("route-1", "route-2"));
}

#[test]
fn plugins_are_read_from_the_widest_scope_to_the_narrowest() {
    let fault =
        |status: u16| format!("plugins: [{{ name: fault, config: {{ abort: {{ status: {status}, percent: 50 }} }} }}]");
    let text = format!(
        "{GOOD}inbound: {{ {} }}\noutbound:\n  defaults: {{ {} }}\n  upstreams:\n  - {{ service: a, {} }}\n  routes:\n  - {{ to: a, {} }}\n  \
         - {{ respond: {{ body: x }}, plugins: [{{ name: fault, mode: shadow, config: {{ header: X-F, delay: {{ duration: 1s }} }} }}] }}\n",
        fault(500),
        fault(501),
        fault(502),
        fault(503)
    );
    let config = load(&text).unwrap();
    let statuses = |plugins: &[Plugin]| -> Vec<u16> {
        let abort = |plugin: &Plugin| match &plugin.settings {
            Settings::Fault(fault) => fault.abort.map_or(0, |abort| abort.status.unwrap().as_u16()),
            other => panic!("{other:?}"),
        };
        plugins.iter().map(abort).collect()
    };
    assert_eq!(statuses(&config.inbound.plugins), [500]);
    assert_eq!(statuses(&config.outbound.upstreams[0].plugins), [501, 502]);
    assert_eq!(statuses(&forward(&config.outbound.routes[0]).targets[0].1.plugins), [501, 502, 503]);
    let RouteAction::Answer(Reply::Respond(answer), plugins) = &config.outbound.routes[1].action else {
        panic!("it answers")
    };
    assert_eq!((answer.status.as_u16(), statuses(plugins)), (200, vec![501, 0]));
    let Settings::Fault(last) = &plugins[1].settings else { panic!("a fault") };
    assert_eq!((plugins[1].mode, last.header.as_ref().unwrap().as_str()), (Mode::Shadow, "x-f"));
    let Settings::Fault(first) = &plugins[0].settings else { panic!("a fault") };
    let status = http::StatusCode::from_u16(501).ok();
    assert_eq!(first.abort, Some(Abort { share: Share::percent(50.0), status, grpc_status: None }));
}

/// What stands behind `    - ` of `outbound.routes`, and its mistakes from column and key on.
const MISTAKES: &[(&str, &[&str])] = &[
    ("{}", &["4:7: outbound.routes[0].to: has none of to, split, redirect, respond"]),
    ("{ to: a, respond: {} }", &["4:25: outbound.routes[0].respond: to is there too"]),
    ("{ to: A }", &["4:13: outbound.routes[0].to: \"A\" is no service name"]),
    ("{ to: a, timout: 1s }", &["4:16: outbound.routes[0].timout: unknown key; did you mean timeout?"]),
    ("{ to: a, timeout: 1 }", &["4:25: outbound.routes[0].timeout: \"1\" is no duration"]),
    ("{ to: a, service: b }", &["4:16: outbound.routes[0].service: unknown key"]),
    ("{ to: a, listen: 127.0.0.1:1 }", &["4:16: outbound.routes[0].listen: unknown key"]),
    ("{ to: a, match: { host: \"a:80\" } }", &["4:31: outbound.routes[0].match.host: \"a:80\" has a port"]),
    ("{ to: a, match: { host: \"*\" } }", &["4:31: outbound.routes[0].match.host: \"*\" is no host"]),
    ("{ to: a, match: { path: users } }", &["4:31: outbound.routes[0].match.path: \"users\" is no path"]),
    ("{ to: a, match: { path: /a?b } }", &["4:31: outbound.routes[0].match.path: \"/a?b\" has a query"]),
    ("{ to: a, match: { path: /a//b } }", &["4:31: outbound.routes[0].match.path: \"/a//b\" is not in normal form"]),
    (
        "{ to: a, match: { path: /a, path_exact: /b } }",
        &["4:47: outbound.routes[0].match.path_exact: path is there too"],
    ),
    (
        "{ to: a, match: { path_regex: \"(a\" } }",
        &["4:37: outbound.routes[0].match.path_regex: \"(a\" is no expression"],
    ),
    ("{ to: a, match: { methods: [get] } }", &["4:35: outbound.routes[0].match.methods[0]: \"get\" is no method"]),
    (
        "{ to: a, match: { headers: { \"a b\": c } } }",
        &["4:43: outbound.routes[0].match.headers.a b: \"a b\" is no name"],
    ),
    ("{ to: a, match: { headers: { a: { is: b } } } }", &["4:39: outbound.routes[0].match.headers.a: is no condition"]),
    (
        "{ to: a, match: { headers: { a: { regex: \"(\" } } } }",
        &["4:48: outbound.routes[0].match.headers.a.regex: \"(\" is no expression"],
    ),
    (
        "{ to: a, match: { query: { a: { present: maybe } } } }",
        &["4:48: outbound.routes[0].match.query.a.present: must be true or false"],
    ),
    ("{ split: [] }", &["4:16: outbound.routes[0].split: leads nowhere"]),
    ("{ split: [{ service: a, weight: 0 }] }", &["4:16: outbound.routes[0].split: leads nowhere"]),
    (
        "{ split: [{ weight: 1 }] }",
        &["4:16: outbound.routes[0].split: leads", "4:17: outbound.routes[0].split[0].service: is missing"],
    ),
    (
        "{ split: [{ service: a }, { service: a }] }",
        &["4:44: outbound.routes[0].split[1].service: a is in this split already"],
    ),
    ("{ to: a, sticky: { path: true } }", &["4:24: outbound.routes[0].sticky: has no split beside it"]),
    ("{ to: a, strip_path: true }", &["4:28: outbound.routes[0].strip_path: has no match.path to cut off"]),
    (
        "{ to: a, strip_path: true, match: { path_regex: /a } }",
        &["4:28: outbound.routes[0].strip_path: path_regex matches the whole path"],
    ),
    (
        "{ to: a, strip_path: true, rewrite_path: /b, match: { path: /a } }",
        &["4:28: outbound.routes[0].strip_path: rewrite_path is there too"],
    ),
    ("{ redirect: { to: elsewhere } }", &["4:25: outbound.routes[0].redirect.to: \"elsewhere\" is no place to go"]),
    ("{ redirect: { to: /a, status: 304 } }", &["4:37: outbound.routes[0].redirect.status: \"304\" is no redirect"]),
    ("{ respond: { status: 100 } }", &["4:28: outbound.routes[0].respond.status: must be a whole number from 200"]),
    (
        "{ respond: { status: 204, body: x } }",
        &["4:39: outbound.routes[0].respond.body: an answer of this status has no body"],
    ),
    (
        "{ respond: { headers: { content-length: \"5\" } } }",
        &["4:47: outbound.routes[0].respond.headers.content-length: content-length is set by the sidecar"],
    ),
    ("{ respond: {}, strip_path: true }", &["4:34: outbound.routes[0].strip_path: has no meaning"]),
    ("{ redirect: { to: /a }, timeout: 1s }", &["4:40: outbound.routes[0].timeout: has no meaning"]),
    ("{ to: a, mirror: { percent: 5 } }", &["4:16: outbound.routes[0].mirror.service: is missing"]),
    (
        "{ to: a, mirror: { service: b, percent: 101 } }",
        &["4:47: outbound.routes[0].mirror.percent: must be a number from 0 to 100"],
    ),
    ("{ to: a, plugins: [fault] }", &["4:26: outbound.routes[0].plugins[0]: must be a section of keys"]),
    ("{ to: a, plugins: [{}] }", &["4:26: outbound.routes[0].plugins[0].name: is missing"]),
    (
        "{ to: a, plugins: [{ name: falt }] }",
        &["4:34: outbound.routes[0].plugins[0].name: \"falt\" is not known here; did you mean fault?"],
    ),
    (
        "{ to: a, plugins: [{ name: cors, config: { x: 1 } }] }",
        &["4:50: outbound.routes[0].plugins[0].config.x: unknown key"],
    ),
    (
        "{ to: a, plugins: [{ name: fault, config: { dely: {}, abort: { status: 5 } }, mode: dry }] }",
        &[
            "4:51: outbound.routes[0].plugins[0].config.dely: unknown key; did you mean delay?",
            "4:78: outbound.routes[0].plugins[0].config.abort.status: must be",
            "4:91: outbound.routes[0].plugins[0].mode: \"dry\" is not known here",
        ],
    ),
    (
        "{ to: a, plugins: [{ name: fault, config: { delay: { duration: 1s } } }, { name: fault, config: { delay: { duration: 1s } } }] }",
        &["4:80: outbound.routes[0].plugins[1].name: fault stands twice in this list"],
    ),
    (
        "{ to: a, plugins: [{ name: fault }] }",
        &["4:26: outbound.routes[0].plugins[0].config: has neither delay nor abort"],
    ),
    (
        "{ to: a, plugins: [{ name: fault, config: { abort: {} } }] }",
        &["4:58: outbound.routes[0].plugins[0].config.abort: has neither status nor grpc_status"],
    ),
    (
        "{ name: x, to: a }\n    - { name: x, to: a }",
        &["5:15: outbound.routes[1].name: x is the name of route 1 already"],
    ),
];

#[test]
fn every_mistake_of_a_route_is_found_once_at_its_place() {
    for (text, wanted) in MISTAKES {
        let found = lines(&format!("{GOOD}outbound:\n  routes:\n    - {text}\n"));
        assert_eq!(found.len(), wanted.len(), "{text}\n{found:#?}");
        for (found, wanted) in found.iter().zip(*wanted) {
            assert!(found.starts_with(&format!("o.yaml:{wanted}")), "{text}\n  found {found}\n  wanted {wanted}");
        }
    }
}

#[test]
fn a_mistake_of_an_upstream_is_told_once_though_routes_read_it_again() {
    let text = format!(
        "{GOOD}outbound:\n  upstreams:\n  - {{ service: a, timeout: 5, endpoints: [] }}\n  routes:\n  - {{ to: a }}\n  - {{ to: a }}\n"
    );
    assert_eq!(lines(&text).len(), 2, "{:#?}", lines(&text));
}

#[test]
fn mistakes_of_the_apps_routes_are_found() {
    for (text, wanted) in [
        ("{ to: a }", "3:15: inbound.routes[0].to: unknown key"),
        ("{ redirect: { to: /a }, respond: {} }", "3:46: inbound.routes[0].respond: redirect is there too"),
        ("{ limits: { requests: 0 } }", "3:35: inbound.routes[0].limits.requests: must be a whole number"),
        ("{ timeout: soon }", "3:24: inbound.routes[0].timeout: \"soon\" is no duration"),
    ] {
        let found = lines(&format!("{GOOD}inbound:\n  routes: [ {text} ]\n"));
        assert_eq!(found.len(), 1, "{found:#?}");
        assert!(found[0].starts_with(&format!("o.yaml:{wanted}")), "\n  found {}\n  wanted {wanted}", found[0]);
    }
}
