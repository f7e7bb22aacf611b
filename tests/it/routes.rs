//! `outbound.routes`, `inbound.routes` and the plugin `fault`: real requests through a sidecar with fixed endpoints.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use http::Request;
use serde_json::{Value, json};

use crate::support::certs::Authority;
use crate::support::endpoint::{Endpoint, Reply, answer};
use crate::support::lone::Lone;
use crate::support::pair::sidecar;
use crate::support::sidecar::{Builder, outrigger};
use crate::support::{Answer, App, Ask, Embedded, Load, SOON, Sidecar, eventually, h2c};

/// `web` with `a` and `b` as upstreams, fixed and plain, and `routes` before them.
struct Mesh {
    web: Sidecar,
    a: App,
    _b: App,
    _authority: Authority,
    _registry: Embedded,
}

impl Mesh {
    fn with(routes: Value) -> Self {
        Self::built(routes, |web| web)
    }

    fn built(routes: Value, more: impl FnOnce(Builder) -> Builder) -> Self {
        let (a, b) = (App::start("a"), App::start("b"));
        let (registry, authority) = (Embedded::start(), Authority::new("mesh.test"));
        let web = sidecar("web", registry.agent(), &authority)
            .upstream("a", to(&a))
            .upstream("b", to(&b))
            .set("outbound.routes", routes);
        Self { web: more(web).start(), a, _b: b, _authority: authority, _registry: registry }
    }

    fn get(&self, host: &str, target: &str) -> Answer {
        Ask::get(target).host(host).send(self.web.outbound())
    }

    /// Target and Host as the app that answered `/echo…` saw them.
    fn echo(&self, host: &str, target: &str) -> (String, String) {
        seen(&self.get(host, target))
    }
}

fn seen(echo: &Answer) -> (String, String) {
    let told = echo.json();
    let host = told["headers"].as_array().unwrap().iter().find(|pair| pair[0] == "host").unwrap()[1].clone();
    (told["target"].as_str().unwrap().to_owned(), host.as_str().unwrap().to_owned())
}

fn to(app: &App) -> Value {
    json!({ "endpoints": [app.address().to_string()], "mtls": "off" })
}

#[test]
fn each_condition_decides_and_the_first_rule_that_matches_wins() {
    let mesh = Mesh::with(json!([
        { "name": "host", "match": { "host": "*.api.local" }, "to": "b" },
        { "name": "exact", "match": { "path_exact": "/one" }, "to": "b" },
        { "name": "prefix", "match": { "path": "/users" }, "to": "b" },
        { "name": "shadowed", "match": { "path": "/users/1" }, "to": "a" },
        { "name": "regex", "match": { "path_regex": "/v[0-9]+/.*" }, "to": "b" },
        { "name": "method", "match": { "methods": ["PUT"] }, "to": "b" },
        { "name": "header", "match": { "headers": { "x-env": { "regex": "can.*" } } }, "to": "b" },
        { "name": "query", "match": { "query": { "beta": { "present": true } } }, "to": "b" },
    ]));
    let ask = |host: &str, target: &str| Ask::get(target).host(host);
    for (asked, app, route) in [
        (ask("x.API.local:80", "/"), "b", "host"),
        (ask("api.local", "/one"), "b", "exact"),
        (ask("a", "/users/1"), "b", "prefix"),
        (ask("a", "/x/%2e%2E/%75sers//"), "b", "prefix"),
        (ask("a", "/v12/x"), "b", "regex"),
        (Ask::new("PUT", "/").host("a"), "b", "method"),
        (ask("a", "/").header("X-Env", "canary"), "b", "header"),
        (ask("a", "/?beta"), "b", "query"),
        (ask("a", "/users2"), "a", ""),
        (ask("a", "/").header("x-env", "prod"), "a", ""),
    ] {
        let answer = asked.send(mesh.web.outbound());
        assert_eq!((answer.status, answer.app()), (200, app), "{asked:?}");
        let line = mesh.web.access_of(&{
            let id = format!("route-{route}-{}", fastrand::u64(..));
            asked.clone().header("x-request-id", &id).send(mesh.web.outbound());
            id
        });
        assert_eq!((&line["route"], &line["service"]), (&json!(route), &json!(app)), "{asked:?}");
    }
    mesh.get("nowhere.example", "/").assert_reason(404, "no_route");
    // A port of its own leads there, whatever the rules say.
    assert_eq!(Ask::get("/users/1").host("x").send(mesh.web.upstream("a")).app(), "a");
}

#[test]
fn a_path_is_sent_as_it_was_matched() {
    let mesh = Mesh::with(json!([
        { "match": { "path": "/admin" }, "respond": { "status": 403, "body": "closed" } },
    ]));
    for target in ["/admin", "/admin/x", "/x/../admin", "/%61dmin", "//admin", "/./admin/", "/x/%2e%2e/admin"] {
        let answer = mesh.get("a", target);
        assert_eq!((answer.status, answer.text().as_str(), answer.reason()), (403, "closed", ""), "{target}");
        assert_eq!(answer.header("content-type"), "text/plain; charset=utf-8");
        assert!(answer.has("x-request-id"));
    }
    assert_eq!(mesh.echo("a", "/admin/../echo/%7ex%2Fy?q=%2e").0, "/echo/~x%2Fy?q=%2e");
    assert_eq!(mesh.a.seen("/admin"), 0);
    let counted = [("service", "-"), ("status_class", "4xx"), ("reason", "")];
    assert!((mesh.web.metric("outrigger_requests_total", &counted) - 7.0).abs() < 0.1);
}

#[test]
fn paths_and_hosts_are_rewritten() {
    let mesh = Mesh::with(json!([
        { "match": { "path": "/strip" }, "to": "a", "strip_path": true },
        { "match": { "path": "/old" }, "to": "a", "rewrite_path": "/echo/new" },
        { "match": { "path": "/keep" }, "to": "a", "strip_path": true, "rewrite_host": false },
    ]));
    for (target, path) in [("/strip/echo?q=1", "/echo?q=1"), ("/old/x?q=1", "/echo/new/x?q=1"), ("/old", "/echo/new")] {
        assert_eq!(mesh.echo("api.local", target), (path.to_owned(), "a".to_owned()), "{target}");
    }
    assert_eq!(mesh.echo("api.local:81", "/keep/echo").1, "api.local:81");
    let absolute = Ask::get("http://api.local/keep/echo").host("other").send(mesh.web.outbound());
    assert_eq!(seen(&absolute).1, "api.local");
}

#[test]
fn redirects_and_responses_are_given_here() {
    let mesh = Mesh::with(json!([
        { "match": { "path": "/moved" }, "redirect": { "to": "https://new.example" } },
        { "match": { "path": "/gone" }, "redirect": { "to": "/new", "status": 301 } },
        { "name": "down", "match": { "path": "/" , "host": "down" },
          "respond": { "status": 503, "body": "back at nine", "headers": { "retry-after": "60" } } },
    ]));
    let moved = mesh.get("a", "/moved/x?q=1");
    assert_eq!((moved.status, moved.header("location")), (308, "https://new.example/moved/x?q=1"));
    let gone = mesh.get("a", "/gone?q=1");
    assert_eq!((gone.status, gone.header("location")), (301, "/new?q=1"));
    let down = mesh.get("down", "/x");
    assert_eq!((down.status, down.text().as_str(), down.header("retry-after")), (503, "back at nine", "60"));
    let line = mesh.web.access_of(down.header("x-request-id"));
    assert_eq!((&line["route"], &line["status"], &line["reason"]), (&json!("down"), &json!(503), &json!("")));
    let call = Request::post("http://down/x").header("content-type", "application/grpc").body(Vec::new()).unwrap();
    let grpc = h2c::send(mesh.web.outbound(), call);
    assert_eq!((grpc.status, grpc.header("grpc-status")), (200, "14"));
}

#[test]
fn a_split_follows_the_weights_and_sticks_by_key() {
    let mesh = Mesh::with(json!([
        { "match": { "host": "drawn" }, "split": [{ "service": "a", "weight": 80 }, { "service": "b", "weight": 20 }] },
        { "match": { "host": "stuck" }, "sticky": { "cookie": "session" },
          "split": [{ "service": "a" }, { "service": "b" }] },
        { "match": { "host": "off" }, "split": [{ "service": "a", "weight": 0 }, { "service": "b", "weight": 1 }] },
    ]));
    let mut drawn: BTreeMap<String, u32> = BTreeMap::new();
    for _ in 0..500 {
        *drawn.entry(mesh.get("drawn", "/").app().to_owned()).or_default() += 1;
    }
    // 100 expected, with a deviation of 9: seven of those each way.
    assert!((37..=163).contains(&drawn["b"]), "{drawn:?}");
    let mut apps = std::collections::BTreeSet::new();
    for session in 0..32 {
        let ask = Ask::get("/").host("stuck").header("cookie", &format!("x=1; session=s{session}"));
        let first = ask.send(mesh.web.outbound()).app().to_owned();
        for _ in 0..4 {
            assert_eq!(ask.send(mesh.web.outbound()).app(), first);
        }
        apps.insert(first);
    }
    assert_eq!(apps.len(), 2, "32 sessions are not all on one side");
    assert!((0..20).all(|_| mesh.get("off", "/").app() == "b"));
}

#[test]
fn a_service_that_only_a_route_names_is_declared_by_it() {
    let c = App::start("c");
    let mesh = Mesh::built(json!([{ "match": { "path": "/c" }, "to": "c", "strip_path": true }]), |web| {
        web.set("outbound.defaults", to(&c))
    });
    assert_eq!(mesh.get("a", "/c/x").app(), "c");
    assert_eq!(mesh.get("c", "/").app(), "c");
    mesh.web.wait_for_metric("outrigger_requests_total", &[("direction", "outbound"), ("service", "c")], 2.0);
}

#[test]
fn a_rules_own_policy_is_over_the_upstreams() {
    let mesh = Mesh::with(json!([
        { "match": { "path": "/delay" }, "to": "a", "timeout": "50ms" },
        { "match": { "path": "/drop" }, "to": "a", "retry": { "attempts": 1 } },
    ]));
    mesh.get("a", "/delay/2000").assert_reason(504, "deadline");
    mesh.get("a", "/drop").assert_reason(502, "upstream_reset");
    assert_eq!(mesh.a.seen("/drop"), 2, "one try and one more");
    assert_eq!(Ask::get("/delay/100").host("x").send(mesh.web.upstream("a")).status, 200);
}

#[test]
fn a_rule_may_have_endpoints_of_its_own() {
    let other = App::start("other");
    let mesh = Mesh::with(json!([
        { "name": "own", "match": { "path": "/own" }, "to": "a", "endpoints": [other.address().to_string()] },
    ]));
    eventually(SOON, "the rule's endpoint is known", || (mesh.get("a", "/own").app() == "other").then_some(()));
    assert_eq!(mesh.get("a", "/").app(), "a");
    let counted = [("direction", "outbound"), ("service", "a"), ("status_class", "2xx")];
    assert!(mesh.web.metric("outrigger_requests_total", &counted) >= 2.0, "both count as the service's");
}

#[test]
fn a_shadow_gets_copies_and_never_holds_the_answer() {
    let mesh = Mesh::with(json!([
        { "match": { "path": "/echo" }, "to": "b", "mirror": { "service": "a" } },
        { "match": { "path": "/none" }, "to": "b", "mirror": { "service": "a", "percent": 0 } },
        { "match": { "path": "/drop" }, "to": "b", "mirror": { "service": "a" } },
    ]));
    let copied = [("service", "a"), ("outcome", "answered")];
    assert_eq!(mesh.get("x", "/echo/1?q").app(), "b");
    eventually(SOON, "the shadow has seen it", || (mesh.a.seen("/echo/1") == 1).then_some(()));
    mesh.web.wait_for_metric("outrigger_upstream_attempts_total", &copied, 1.0);
    mesh.web.wait_for_metric("outrigger_requests_total", &[("service", "a"), ("status_class", "2xx")], 1.0);
    assert_eq!(mesh.get("x", "/none").app(), "b");
    // The shadow ends the connection without an answer; so does the service, whose failure alone is told.
    mesh.get("x", "/drop").assert_reason(502, "upstream_reset");
    eventually(SOON, "the copy was tried once", || (mesh.a.seen("/drop") == 1).then_some(()));
    assert_eq!(mesh.a.seen("/none"), 0);
    eventually(SOON, "nothing is left of the copies", || {
        (mesh.web.metric("outrigger_requests_in_flight", &[("service", "a")]).abs() < 0.1).then_some(())
    });
}

#[test]
fn a_shadow_that_hangs_is_left_behind_and_bounded() {
    // The kernel accepts for it; nobody ever answers.
    let hung = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mesh = Mesh::built(json!([{ "to": "a", "mirror": { "service": "hung" } }]), |web| {
        let endpoints = json!([hung.local_addr().unwrap().to_string()]);
        web.upstream("hung", json!({ "endpoints": endpoints, "mtls": "off", "timeout": "60s" }))
    });
    let began = Instant::now();
    for _ in 0..150 {
        assert_eq!(mesh.get("x", "/").app(), "a");
    }
    assert!(began.elapsed() < Duration::from_secs(15), "no request waited for the shadow");
    let under_way = mesh.web.metric("outrigger_requests_in_flight", &[("service", "hung")]);
    assert!((under_way - 100.0).abs() < 0.1, "{under_way} copies are under way");
}

#[test]
fn a_fault_delays_and_aborts_by_header_and_is_counted() {
    let fault = |config: Value| json!([{ "name": "fault", "config": config }]);
    let mesh = Mesh::with(json!([
        { "name": "aborts", "match": { "path": "/abort" }, "to": "a",
          "plugins": fault(json!({ "header": "x-fault", "abort": { "status": 418 } })) },
        { "name": "delays", "match": { "path": "/slow" }, "to": "a",
          "plugins": fault(json!({ "delay": { "duration": "300ms" } })) },
        { "name": "late", "match": { "path": "/late" }, "to": "a", "timeout": "100ms",
          "plugins": fault(json!({ "delay": { "duration": "1h" } })) },
        { "name": "half", "match": { "path": "/half" }, "to": "a",
          "plugins": fault(json!({ "abort": { "percent": 50, "grpc_status": 14 } })) },
        { "name": "shadow", "match": { "path": "/shadow" }, "to": "a",
          "plugins": [{ "name": "fault", "mode": "shadow", "config": { "delay": { "duration": "1h" }, "abort": { "status": 500 } } }] },
    ]));
    assert_eq!(mesh.get("x", "/abort").app(), "a", "no header, no fault");
    let aborted = Ask::get("/abort").host("x").header("x-fault", "1").send(mesh.web.outbound());
    assert_eq!((aborted.status, aborted.reason(), aborted.text().as_str()), (418, "", "fault filter abort"));
    let line = mesh.web.access_of(aborted.header("x-request-id"));
    assert_eq!(
        (&line["detail"], &line["route"], &line["service"]),
        (&json!("fault: abort 418"), &json!("aborts"), &json!("a"))
    );
    let began = Instant::now();
    assert_eq!(mesh.get("x", "/slow").app(), "a");
    assert!(began.elapsed() >= Duration::from_millis(300));
    mesh.get("x", "/late").assert_reason(504, "deadline");
    let met = (0..200).filter(|_| mesh.get("x", "/half").status == 503).count();
    // 100 expected, with a deviation of 7.
    assert!((50..=150).contains(&met), "{met}");
    let shadowed = Ask::get("/shadow").host("x").header("x-request-id", "shadow-1").send(mesh.web.outbound());
    assert_eq!(shadowed.app(), "a");
    let detail = mesh.web.access_of("shadow-1")["detail"].clone();
    assert_eq!(detail, "fault: would delay 3600s; fault: would abort 500");
    let decisions =
        |decision| mesh.web.metric("outrigger_plugin_decisions_total", &[("plugin", "fault"), ("decision", decision)]);
    assert!((decisions("answered") - 1.0 - met as f64).abs() < 0.1);
    assert!((decisions("delayed") - 2.0).abs() < 0.1 && (decisions("would_delay") - 1.0).abs() < 0.1);
    assert!((decisions("would_answer") - 1.0).abs() < 0.1 && (decisions("passed") - 201.0 + met as f64).abs() < 0.1);
}

#[test]
fn a_routes_plugin_replaces_the_upstreams() {
    let abort = |status: u16| json!([{ "name": "fault", "config": { "abort": { "status": status } } }]);
    let mesh = Mesh::built(json!([{ "match": { "path": "/own" }, "to": "c", "plugins": abort(418) }]), |web| {
        web.upstream("c", json!({ "endpoints": ["127.0.0.1:9"], "mtls": "off", "plugins": abort(501) }))
            .set("outbound.defaults", json!({ "plugins": abort(599) }))
    });
    assert_eq!((mesh.get("c", "/own").status, mesh.get("c", "/").status, mesh.get("a", "/").status), (418, 501, 599));
}

#[test]
fn parts_of_the_app_have_plugins_timeouts_and_limits() {
    let app = App::start("users-1");
    let (registry, authority) = (Embedded::start(), Authority::new("mesh.test"));
    let users = sidecar("users", registry.agent(), &authority)
        .app(&app)
        .set("inbound.mtls", json!("off"))
        .set(
            "inbound.plugins",
            json!([{ "name": "fault", "config": { "header": "x-fault", "abort": { "status": 501 } } }]),
        )
        .set(
            "inbound.routes",
            json!([
                { "name": "closed", "match": { "path": "/closed" }, "respond": { "status": 404 } },
                { "name": "quick", "match": { "path": "/delay" }, "timeout": "50ms" },
                { "name": "few", "match": { "path": "/hold" }, "limits": { "requests": 1 } },
                { "name": "teapot", "match": { "path": "/teapot" },
                  "plugins": [{ "name": "fault", "config": { "header": "x-fault", "abort": { "status": 418 } } }] },
            ]),
        )
        .start();
    let ask =
        |path: &str| Ask::get(path).host("users").header("x-request-id", &format!("id{}", path.replace('/', "-")));
    eventually(SOON, "the app is reached", || (ask("/").try_send(users.inbound()).ok()?.status == 200).then_some(()));
    assert_eq!(ask("/closed/x").send(users.inbound()).status, 404);
    ask("/delay/2000").send(users.inbound()).assert_reason(504, "deadline");
    assert_eq!(users.access_of("id-delay-2000")["route"], "quick");
    assert_eq!(ask("/x").header("x-fault", "1").send(users.inbound()).status, 501);
    assert_eq!(ask("/teapot").header("x-fault", "1").send(users.inbound()).status, 418);
    let (inbound, held) = (users.inbound(), ask("/hold"));
    let first = std::thread::spawn(move || held.send(inbound));
    eventually(SOON, "one is under way", || (app.seen("/hold") == 1).then_some(()));
    ask("/hold").send(users.inbound()).assert_reason(503, "overloaded");
    app.release();
    assert_eq!(first.join().unwrap().status, 200);
    let again = std::thread::spawn(move || Ask::get("/hold").host("users").send(inbound));
    eventually(SOON, "the next one is let in", || (app.seen("/hold") == 2).then_some(()));
    app.release();
    assert_eq!(again.join().unwrap().status, 200);
}

#[test]
fn a_reload_of_the_rules_loses_no_request() {
    let mesh = Mesh::with(json!([{ "match": { "host": "api" }, "to": "a" }]));
    let load = Load::start(4, mesh.web.outbound(), &Ask::get("/").host("api"));
    load.after(200);
    mesh.web.rewrite(|config| config["outbound"]["routes"][0]["to"] = json!("b"));
    eventually(SOON, "the new rule is in force", || (mesh.get("api", "/").app() == "b").then_some(()));
    load.after(200);
    let report = load.stop();
    report.assert_none_lost();
    assert!(report.by_app["a"] > 0 && report.by_app["b"] > 0, "{:?}", report.by_app);
}

#[test]
fn mistakes_of_routes_are_located() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("o.yaml");
    let text = "service: { name: web, port: 80 }\noutbound:\n  routes:\n    - match: { path_regex: \"(a\" }\n      to: a\n    - split: []\n";
    std::fs::write(&file, text).unwrap();
    let (code, said) = outrigger(&["check", "-c", file.to_str().unwrap()]);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("o.yaml:4:28: outbound.routes[0].match.path_regex: \"(a\" is no expression"), "{said}");
    assert!(said.contains("o.yaml:6:14: outbound.routes[1].split: leads nowhere"), "{said}");
}

#[test]
fn a_mirror_gets_the_body_too_and_only_what_is_short() {
    let main = Endpoint::start(|seen| Reply::Bytes(answer(200, "", &seen.body.len().to_string())));
    let shadow = Endpoint::start(|_| Reply::Silence);
    let upstream = |name: &str, endpoint: &Endpoint| json!({ "service": name, "mtls": "off", "endpoints": [endpoint.address().to_string()] });
    let web = Lone::with(&[&main], &json!({}), |web| {
        web.set("outbound.upstreams", json!([upstream("users", &main), upstream("shadow", &shadow)])).set(
            "outbound.routes",
            json!([{ "name": "all", "match": { "path": "/" }, "to": "users", "retry": { "body_limit": "1KiB" },
                "mirror": { "service": "shadow", "percent": 100 } }]),
        )
    });
    for chunked in [false, true] {
        let post = Ask::new("POST", "/a?b=c").host("users").body(vec![b'x'; 1000]);
        let answer = if chunked { post.chunked() } else { post }.send(web.outbound());
        assert_eq!((answer.status, answer.text().as_str()), (200, "1000"));
    }
    eventually(SOON, "both copies arrive", || (shadow.count() == 2).then_some(()));
    assert!(shadow.seen().iter().all(|seen| seen.body == vec![b'x'; 1000] && seen.head.starts_with("POST /a?b=c ")));
    assert_eq!(Ask::new("POST", "/").host("users").body(vec![b'x'; 5000]).send(web.outbound()).text(), "5000");
    assert_eq!(Ask::get("/last").host("users").send(web.outbound()).status, 200);
    eventually(SOON, "the last copy arrives", || (shadow.count() == 3).then_some(()));
    assert!(shadow.seen()[2].head.starts_with("GET /last "), "the long one was not copied");
}
