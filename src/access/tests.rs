//! Tests of what is decided of whom: precedence, permissions, rules, and what a connection remembers.

use http::HeaderValue;
use proptest::prelude::*;

use super::*;
use crate::expression::whole;
use crate::names::ServiceName;

fn id(text: &str) -> SpiffeId {
    SpiffeId::parse(text).unwrap()
}

fn service(name: &str) -> SpiffeId {
    id(&format!("spiffe://t.consul/ns/default/dc/dc1/svc/{name}"))
}

fn source(name: &str) -> Source {
    Source { name: name.into(), namespace: "default".into(), partition: "default".into(), peer: None }
}

fn intention(from: &str, action: Action) -> Intention {
    let source = source(from);
    Intention { precedence: source.precedence("users", "default"), source, destination: "users".into(), action }
}

fn gate(list: Vec<Intention>, default: DefaultPolicy) -> Gate {
    Gate::new(1, Enforced::On(Intentions::new(list, Some(default))), Vec::new())
}

fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in pairs {
        map.append(*name, HeaderValue::from_static(value));
    }
    map
}

/// What is said of a request of `caller`; `None` where it is allowed.
fn denied(gate: &Gate, caller: Option<&SpiffeId>, request: Option<Request<'_>>) -> Option<String> {
    match gate.judge(Ask { caller, request }, &Standing::default()) {
        Verdict::Allowed => None,
        Verdict::Unidentified => Some("unidentified".into()),
        Verdict::Denied(denial) => Some(denial.to_string()),
    }
}

#[expect(clippy::unnecessary_wraps, reason = "what `denied` takes")]
fn get<'a>(path: &'a str, headers: &'a HeaderMap) -> Option<Request<'a>> {
    Some(Request { method: &Method::GET, path, authority: "users", headers })
}

#[test]
fn the_intention_of_highest_precedence_decides_and_the_default_where_there_is_none() {
    let list = || {
        vec![
            intention("*", Action::Deny),
            intention("web", Action::Allow),
            Intention { destination: "*".into(), precedence: 6, ..intention("db", Action::Allow) },
        ]
    };
    for default in [DefaultPolicy::Allow, DefaultPolicy::Deny] {
        let gate = gate(list(), default);
        assert_eq!(denied(&gate, Some(&service("web")), None), None);
        // An exact destination is stronger than an exact source.
        let said = denied(&gate, Some(&service("db")), None).unwrap();
        assert_eq!(said, "intention * → users deny (precedence 8)");
    }
    let (open, shut) = (gate(vec![], DefaultPolicy::Allow), gate(vec![], DefaultPolicy::Deny));
    assert_eq!(denied(&open, Some(&service("web")), None), None);
    let said = denied(&shut, Some(&service("web")), None).unwrap();
    assert_eq!(said, "no intention names the caller, and Consul's default is deny");
    assert!(shut.shuts_out(Some(&service("web"))) && !open.shuts_out(Some(&service("web"))));
}

#[test]
fn precedence_is_consuls_table() {
    // developer.hashicorp.com/consul/docs/secure-mesh/intention#precedence-and-match-order
    for (ns, name, destination_ns, destination, wanted) in [
        ("n", "a", "n", "b", 9),
        ("n", "*", "n", "b", 8),
        ("*", "*", "n", "b", 7),
        ("n", "a", "n", "*", 6),
        ("n", "*", "n", "*", 5),
        ("*", "*", "n", "*", 4),
        ("n", "a", "*", "*", 3),
        ("n", "*", "*", "*", 2),
        ("*", "*", "*", "*", 1),
    ] {
        let source = Source { namespace: ns.into(), ..source(name) };
        assert_eq!(source.precedence(destination, destination_ns), wanted);
    }
}

#[test]
fn before_the_first_answer_nobody_may_call() {
    let gate = Gate::default();
    assert_eq!(denied(&gate, Some(&service("web")), None).unwrap(), "Consul has not yet said who may call");
    assert!(gate.shuts_out(Some(&service("web"))) && !gate.is_open());
    let unknown = Gate::new(2, Enforced::On(Intentions::new(vec![], None)), vec![]);
    assert!(denied(&unknown, Some(&service("web")), None).unwrap().contains("default is not known"));
    assert!(unknown.shuts_out(Some(&service("web"))));
}

#[test]
fn namespaces_partitions_and_peers_are_compared() {
    let mut elsewhere = intention("web", Action::Allow);
    elsewhere.source.namespace = "team".into();
    let mut apart = intention("web", Action::Allow);
    apart.source.partition = "p1".into();
    let mut peer = intention("web", Action::Allow);
    peer.source.peer = Some("cloud".into());
    let mut any = intention("*", Action::Allow);
    any.source.namespace = "*".into();
    let caller = |ap: &str, ns: &str| id(&format!("spiffe://t.consul{ap}/ns/{ns}/dc/dc1/svc/web"));
    for (rule, allowed) in [
        (&elsewhere, caller("", "team")),
        (&apart, caller("/ap/p1", "default")),
        (&apart, caller("/ap/p1", "default")),
        (&any, caller("", "team")),
    ] {
        assert_eq!(denied(&gate(vec![rule.clone()], DefaultPolicy::Deny), Some(&allowed), None), None, "{allowed}");
    }
    for (rule, refused) in [
        (&elsewhere, caller("", "default")),
        (&apart, caller("", "default")),
        (&any, caller("/ap/p1", "team")),
        (&peer, caller("", "default")),
    ] {
        assert!(denied(&gate(vec![rule.clone()], DefaultPolicy::Deny), Some(&refused), None).is_some(), "{refused}");
    }
}

#[test]
fn a_barred_intention_denies_and_says_why() {
    let gate = gate(vec![intention("web", Action::Barred("it requires a JWT".into()))], DefaultPolicy::Allow);
    let said = denied(&gate, Some(&service("web")), None).unwrap();
    assert_eq!(said, "intention web → users barred (precedence 9): it requires a JWT");
}

fn permission(allow: bool, path: Option<PathMatch>) -> Permission {
    Permission { allow, path, ..Permission::default() }
}

#[test]
fn the_first_permission_that_matches_decides_and_else_the_default() {
    let none = headers(&[]);
    let permissions = vec![
        permission(false, Some(PathMatch::Exact("/admin".into()))),
        Permission { methods: vec![Method::GET], ..permission(true, Some(PathMatch::Prefix("/v1".into()))) },
        permission(true, Some(PathMatch::Regex(whole("/files/[0-9]+", false).unwrap().into()))),
    ];
    let list = || vec![intention("web", Action::Permissions(permissions.clone().into()))];
    let (shut, open) = (gate(list(), DefaultPolicy::Deny), gate(list(), DefaultPolicy::Allow));
    let web = service("web");
    for path in ["/v1", "/v1/x", "/v10", "/files/7"] {
        assert_eq!(denied(&shut, Some(&web), get(path, &none)), None, "{path}");
    }
    for path in ["/", "/files/", "/files/7/x", "/x/files/7", "/V1"] {
        let said = denied(&shut, Some(&web), get(path, &none)).unwrap();
        assert!(said.ends_with("no permission matches, and Consul's default is deny"), "{path}: {said}");
        assert_eq!(denied(&open, Some(&web), get(path, &none)), None, "{path}");
    }
    let said = denied(&open, Some(&web), get("/admin", &none)).unwrap();
    assert_eq!(said, "intention web → users permissions (precedence 9): permission 1 denies");
    let post = Request { method: &Method::POST, path: "/v1", authority: "users", headers: &none };
    assert!(denied(&shut, Some(&web), Some(post)).is_some());
    // Without HTTP there is nothing to match, whatever the default.
    let said = denied(&open, Some(&web), None).unwrap();
    assert!(said.ends_with("they are of HTTP, and this connection is not"), "{said}");
    assert!(!shut.shuts_out(Some(&web)) && shut.reads_paths());
}

#[test]
fn headers_are_matched_as_envoy_does() {
    let of = |condition, invert, ignore_case| HeaderMatch {
        name: Name::parse("X-Team").unwrap(),
        condition,
        invert,
        ignore_case,
    };
    let red = headers(&[("x-team", "red")]);
    let both = headers(&[("x-team", "red"), ("x-team", "blue")]);
    let none = headers(&[]);
    for (condition, yes, no) in [
        (Condition::Exact("red".into()), &red, &both),
        (Condition::Exact("red,blue".into()), &both, &red),
        (Condition::Prefix("re".into()), &both, &none),
        (Condition::Suffix("blue".into()), &both, &red),
        (Condition::Contains("d,b".into()), &both, &red),
        (Condition::Regex(whole("r.d", false).unwrap().into()), &red, &both),
        (Condition::Present, &red, &none),
    ] {
        for (invert, map, wanted) in [(false, yes, true), (false, no, false), (true, yes, false)] {
            let permission =
                Permission { headers: vec![of(condition.clone(), invert, false)], ..permission(true, None) };
            assert_eq!(permission.matches(get("/", map).unwrap()), wanted, "{condition:?} {invert} {map:?}");
        }
        // What is not there is matched by `not present` alone.
        let inverted = Permission { headers: vec![of(condition.clone(), true, false)], ..permission(true, None) };
        let absent = inverted.matches(get("/", &none).unwrap());
        assert_eq!(absent, matches!(condition, Condition::Present), "{condition:?}");
    }
    let upper = of(Condition::Suffix("ED".into()), false, true);
    assert!(Permission { headers: vec![upper], ..permission(true, None) }.matches(get("/", &red).unwrap()));
    let host = HeaderMatch {
        name: Name::parse("host").unwrap(),
        condition: Condition::Exact("users".into()),
        invert: false,
        ignore_case: false,
    };
    assert!(Permission { headers: vec![host], ..permission(true, None) }.matches(get("/", &none).unwrap()));
    assert!(Name::parse("").is_err() && Name::parse(":path").is_err());
}

#[test]
fn a_barred_permission_denies_what_it_matches() {
    let none = headers(&[]);
    let barred = |allow| Permission {
        barred: Some("requires a JWT".into()),
        ..permission(allow, Some(PathMatch::Prefix("/v1".into())))
    };
    for allow in [true, false] {
        let list = vec![intention("web", Action::Permissions([barred(allow)].into()))];
        let gate = gate(list, DefaultPolicy::Allow);
        let said = denied(&gate, Some(&service("web")), get("/v1", &none)).unwrap();
        assert!(said.ends_with("permission 1 requires a JWT"), "{said}");
        assert_eq!(denied(&gate, Some(&service("web")), get("/v2", &none)), None);
    }
}

fn rule(from: Vec<Caller>, allow: bool) -> Rule {
    Rule { from, methods: vec![], prefixes: vec![], exact: vec![], allow }
}

fn named(name: &str) -> Caller {
    Caller::Service {
        name: ServiceName::parse(name).unwrap(),
        namespace: "default".into(),
        partition: "default".into(),
    }
}

#[test]
fn the_first_rule_decides_and_none_is_a_denial() {
    let none = headers(&[]);
    let rules = vec![
        Rule { prefixes: vec!["/admin".into()], ..rule(vec![], false) },
        Rule { methods: vec![Method::GET], prefixes: vec!["/api".into()], ..rule(vec![named("web")], true) },
        rule(vec![Caller::Id(service("batch"))], true),
        Rule { exact: vec!["/ping".into()], ..rule(vec![Caller::Any], true) },
        Rule { exact: vec!["/open".into()], ..rule(vec![], true) },
    ];
    let gate = Gate::new(1, Enforced::Off, rules);
    let (web, batch, other) = (service("web"), service("batch"), service("other"));
    for (caller, path, wanted) in [
        (Some(&web), "/api", None),
        (Some(&web), "/api/x", None),
        (Some(&web), "/apix", Some("no authz rule matches")),
        (Some(&web), "/admin/x", Some("authz rule 1")),
        (Some(&batch), "/anything", None),
        (Some(&batch), "/admin", Some("authz rule 1")),
        (Some(&other), "/api", Some("no authz rule matches")),
        (Some(&other), "/ping", None),
        (Some(&other), "/ping/", Some("no authz rule matches")),
        (None, "/ping", Some("no authz rule matches a caller without a certificate")),
        (None, "/open", None),
    ] {
        assert_eq!(denied(&gate, caller, get(path, &none)).as_deref(), wanted, "{caller:?} {path}");
    }
    let foreign = id("spiffe://t.consul/ns/team/dc/dc1/svc/web");
    assert!(denied(&gate, Some(&foreign), get("/api", &none)).is_some(), "a name is of our own namespace");
    let post = Request { method: &Method::POST, path: "/api", authority: "", headers: &none };
    assert!(denied(&gate, Some(&web), Some(post)).is_some());
    // Without HTTP: the denial of /admin stands first, and cannot be told from others.
    assert_eq!(denied(&gate, Some(&batch), None).as_deref(), Some("authz rule 1"));
    let Verdict::Denied(denial) = gate.judge(Ask { caller: None, request: get("/x", &none) }, &Standing::default())
    else {
        panic!()
    };
    assert!(denial.wants_identity());
}

#[test]
fn intentions_and_rules_must_both_allow() {
    let none = headers(&[]);
    let on = |action| Enforced::On(Intentions::new(vec![intention("web", action)], Some(DefaultPolicy::Deny)));
    let web = service("web");
    let only_get = || vec![Rule { methods: vec![Method::GET], ..rule(vec![named("web")], true) }];
    let both = Gate::new(1, on(Action::Allow), only_get());
    assert_eq!(denied(&both, Some(&web), get("/", &none)), None);
    let post = Request { method: &Method::POST, path: "/", authority: "", headers: &none };
    assert_eq!(denied(&both, Some(&web), Some(post)).as_deref(), Some("no authz rule matches"));
    let closed = Gate::new(1, on(Action::Deny), only_get());
    assert!(denied(&closed, Some(&web), get("/", &none)).unwrap().starts_with("intention web"));
    assert!(closed.shuts_out(Some(&web)) && !both.shuts_out(Some(&web)) && both.shuts_out(Some(&service("x"))));
}

#[test]
fn callers_in_plain_text_have_no_intention() {
    let shut = gate(vec![intention("*", Action::Deny)], DefaultPolicy::Deny);
    assert_eq!(denied(&shut, None, None).as_deref(), Some("unidentified"));
    assert!(!shut.shuts_out(None));
    let ruled = Gate::new(1, shut.enforced().clone(), vec![rule(vec![Caller::Any], true)]);
    assert!(ruled.shuts_out(None));
}

#[test]
fn a_connection_remembers_for_one_snapshot_only() {
    let (web, standing) = (service("web"), Standing::default());
    let ask = Ask { caller: Some(&web), request: None };
    let first = Gate::new(7, gate(vec![intention("web", Action::Allow)], DefaultPolicy::Deny).enforced, vec![]);
    let then = Gate::new(8, gate(vec![intention("web", Action::Deny)], DefaultPolicy::Deny).enforced, vec![]);
    let last = Gate::new(9, gate(vec![], DefaultPolicy::Allow).enforced, vec![]);
    for _ in 0..2 {
        assert_eq!(first.judge(ask, &standing), Verdict::Allowed);
    }
    assert!(matches!(then.judge(ask, &standing), Verdict::Denied(_)));
    for _ in 0..2 {
        assert_eq!(last.judge(ask, &standing), Verdict::Allowed);
    }
}

fn any_intention() -> impl Strategy<Value = Intention> {
    let name = prop_oneof![Just("web"), Just("db"), Just("*")];
    let namespace = prop_oneof![Just("default"), Just("team"), Just("*")];
    let destination = prop_oneof![Just("users"), Just("*")];
    let action = prop_oneof![
        Just(Action::Allow),
        Just(Action::Deny),
        Just(Action::Barred("x".into())),
        Just(Action::Permissions([].into()))
    ];
    (name, namespace, destination, action).prop_map(|(name, namespace, destination, action)| {
        // Consul refuses a name where the namespace is any.
        let name = if namespace == "*" { "*" } else { name };
        let source = Source { namespace: namespace.into(), ..source(name) };
        let precedence = source.precedence(destination, "default");
        Intention { source, destination: destination.into(), precedence, action }
    })
}

proptest! {
    #[test]
    fn the_order_in_which_they_are_listed_makes_no_difference(
        list in proptest::collection::vec(any_intention(), 0..8), rotate in 0_usize..8, deny: bool,
    ) {
        // Consul has one intention for each pair of source and destination.
        let mut seen = std::collections::BTreeSet::new();
        let list: Vec<_> = list
            .into_iter()
            .filter(|i| seen.insert((i.source.to_string(), i.destination.to_string())))
            .collect();
        let mut turned = list.clone();
        turned.rotate_left(rotate % list.len().max(1));
        let default = if deny { DefaultPolicy::Deny } else { DefaultPolicy::Allow };
        let (a, b) = (gate(list.clone(), default), gate(turned, default));
        for caller in [service("web"), service("x"), id("spiffe://t.consul/ns/team/dc/dc2/svc/db")] {
            prop_assert_eq!(denied(&a, Some(&caller), None), denied(&b, Some(&caller), None));
            // Nobody is let in whom every intention of its own denies.
            let own: Vec<_> = list.iter().filter(|i| {
                (&*i.source.name == "*" || *i.source.name == *caller.service().as_str())
                    && (&*i.source.namespace == "*" || *i.source.namespace == *caller.namespace())
            }).collect();
            if !own.is_empty() && own.iter().all(|i| i.action != Action::Allow) {
                prop_assert!(denied(&a, Some(&caller), None).is_some());
            }
        }
    }
}
