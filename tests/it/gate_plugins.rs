//! The plugins that look at HTTP alone: real requests through sidecars, what the caller and the app see, what is counted and
//! logged.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::{Value, json};

use crate::gate_keys::Gate;
use crate::support::client::echoed;
use crate::support::{Answer, Ask, Pair, SOON, eventually, h2c};

#[expect(clippy::needless_pass_by_value, reason = "`json!(…)` as an argument reads better than `&json!(…)`")]
fn one(name: &str, config: Value) -> Value {
    json!([{ "name": name, "config": config }])
}

fn get(target: &str) -> Ask {
    Ask::get(target).host("users")
}

fn echo() -> Ask {
    get("/echo")
}

#[track_caller]
fn counted(gate: &Gate, plugin: &str, decision: &str, least: f64) {
    let labels = [("plugin", plugin), ("decision", decision)];
    gate.users.wait_for_metric("outrigger_plugin_decisions_total", &labels, least);
}

/// Sends with an id of its own; the answer, and its access line.
fn logged(gate: &Gate, ask: Ask) -> (Answer, Value) {
    let id = format!("plugin-{}", fastrand::u64(..));
    let answer = gate.send(&ask.header("x-request-id", &id));
    (answer, gate.users.access_of(&id))
}

#[test]
fn addresses_are_let_in_by_network_also_behind_a_trusted_proxy() {
    let gate = Gate::built(one("ip-restriction", json!({ "deny": ["127.0.0.0/8"] })), |users| {
        let health = json!([{ "name": "open", "match": { "path": "/echo/open" }, "plugins":
            [{ "name": "ip-restriction", "config": { "allow": ["127.0.0.1"] } }] }]);
        users.set("inbound.routes", health)
    });
    let (refused, line) = logged(&gate, echo());
    refused.assert_reason(403, "denied");
    assert!(refused.json()["message"].as_str().unwrap().starts_with("IP address not allowed: 127.0.0.1"));
    assert_eq!(line["detail"], "ip-restriction: refuse denied: 127.0.0.1 is in deny");
    assert_eq!((gate.app.seen("/echo"), gate.send(&get("/echo/open")).status), (0, 200), "the route's own rule counts");
    counted(&gate, "ip-restriction", "refused", 1.0);
    counted(&gate, "ip-restriction", "passed", 1.0);
    gate.reload(|config| {
        config["inbound"]["trusted_ips"] = json!(["127.0.0.1"]);
        config["inbound"]["plugins"] =
            one("ip-restriction", json!({ "allow": ["192.0.2.0/24"], "status": 404, "message": "Nothing here." }));
    });
    let from = |address: &str| gate.send(&echo().header("x-forwarded-for", address));
    assert_eq!(from("6.6.6.6, 192.0.2.9").status, 200);
    let hidden = from("192.0.2.9, 6.6.6.6");
    assert_eq!((hidden.status, &hidden.json()["message"]), (404, &json!("Nothing here.")));
}

#[test]
fn long_bodies_are_refused_by_their_announcement_or_cut_on_their_way() {
    let gate = Gate::with(one("request-size-limiting", json!({ "allowed_payload_size": 10, "size_unit": "bytes" })));
    let post = |body: &str| Ask::new("POST", "/echo").host("users").body(body);
    for good in [post("0123456789"), post("0123456789").chunked(), echo()] {
        assert_eq!(gate.send(&good).status, 200);
    }
    let (announced, line) = logged(&gate, post("0123456789a"));
    announced.assert_reason(413, "body_too_large");
    assert_eq!(announced.json()["message"], "Request size limit exceeded; send at most 10 bytes.");
    assert_eq!(line["detail"], "request-size-limiting: refuse body_too_large: 11 of 10 bytes announced");
    let seen = gate.app.seen("/echo");
    let (streamed, line) = logged(&gate, post("0123456789a").chunked());
    streamed.assert_reason(413, "body_too_large");
    assert_eq!(streamed.json()["message"], "Request size limit exceeded; send at most 10 bytes.");
    assert_eq!((&line["reason"], &line["status"]), (&json!("body_too_large"), &json!(413)));
    let detail = line["detail"].as_str().unwrap();
    assert!(detail.contains("request-size-limiting: refuse body_too_large: more than 10 bytes came"), "{line}");
    assert!(gate.app.seen("/echo") <= seen + 1, "it is not tried again");
    counted(&gate, "request-size-limiting", "refused", 2.0);
    gate.users.wait_for_metric("outrigger_requests_total", &[("reason", "body_too_large")], 2.0);
    let h2 = http::Request::post("http://users/echo").body(b"0123456789a".to_vec()).unwrap();
    assert_eq!(h2c::send(gate.users.inbound(), h2).status, 413);
    // The caller's fault is not the app's: it is still asked.
    for _ in 0..8 {
        gate.send(&post("0123456789a").chunked()).assert_reason(413, "body_too_large");
    }
    assert_eq!(gate.send(&echo()).status, 200);
    gate.reload(|config| {
        config["inbound"]["plugins"][0]["config"]["require_content_length"] = json!(true);
    });
    let (unannounced, line) = logged(&gate, Ask::new("POST", "/echo").host("users"));
    assert_eq!((unannounced.status, unannounced.reason()), (411, "bad_request"));
    assert_eq!(line["status"], 411);
    assert_eq!(gate.send(&post("a").chunked()).status, 411);
    for good in [post(""), echo()] {
        assert_eq!(gate.send(&good).status, 200);
    }
}

#[test]
fn an_answer_that_has_begun_ends_with_the_body_that_is_cut() {
    let gate = Gate::with(one("request-size-limiting", json!({ "allowed_payload_size": 10, "size_unit": "bytes" })));
    let id = format!("cut-{}", fastrand::u64(..));
    let mut socket = TcpStream::connect(gate.users.inbound()).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let head =
        format!("POST /mirror HTTP/1.1\r\nHost: users\r\nx-request-id: {id}\r\nTransfer-Encoding: chunked\r\n\r\n");
    socket.write_all(format!("{head}5\r\nfirst\r\n").as_bytes()).unwrap();
    let mut got = Vec::new();
    let mut buffer = [0; 4096];
    while !String::from_utf8_lossy(&got).contains("first") {
        let read = socket.read(&mut buffer).unwrap();
        assert!(read > 0, "closed early: {}", String::from_utf8_lossy(&got));
        got.extend_from_slice(&buffer[..read]);
    }
    assert!(got.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&got));
    socket.write_all(b"7\r\nsecond!\r\n0\r\n\r\n").unwrap();
    // What came after the end of a cut answer, or a reset: no last chunk in either case.
    let mut rest = Vec::new();
    let _ = socket.read_to_end(&mut rest);
    assert!(!String::from_utf8_lossy(&rest).contains("0\r\n\r\n"), "{}", String::from_utf8_lossy(&rest));
    let line = gate.users.access_of(&id);
    assert_eq!((&line["status"], &line["reason"]), (&json!(200), &json!("body_too_large")), "{line}");
    counted(&gate, "request-size-limiting", "refused", 1.0);
    gate.users.comes_to_rest();
}

#[test]
fn requests_are_transformed_before_the_app_sees_them() {
    let gate = Gate::with(one(
        "request-transformer",
        json!({
            "http_method": "PUT",
            "remove": { "headers": ["X-Debug"], "querystring": ["debug"] },
            "rename": { "headers": ["X-Old:X-New"], "querystring": ["q:search"] },
            "replace": { "headers": ["User-Agent:mesh", "Host:inner.example"], "uri": "/echo/$(headers.x_tenant)" },
            "add": { "headers": ["X-Tenant:$(query_params.tenant)", "X-Old:again"], "querystring": ["lang:en"] },
            "append": { "headers": ["X-Via:edge"], "querystring": ["tag:a&b"] },
        }),
    ));
    let ask = Ask::new("POST", "/any?debug=1&q=%20x&tenant=ac+me").host("users");
    let ask = ask.header("x-debug", "1").header("x-old", "1").header("x-new", "client").header("user-agent", "curl");
    let (answer, line) = logged(&gate, ask.header("x_tenant", "a/../b").header("x-via", "client").body("body"));
    let told = answer.json();
    assert_eq!(told["target"], "/echo/a%2F..%2Fb?search=%20x&tenant=ac+me&lang=en&tag=a%26b");
    assert_eq!((&told["method"], &told["body"]), (&json!("PUT"), &json!("body")));
    for (name, values) in [
        ("x-debug", &[][..]),
        ("x-new", &["1"]),
        ("x-old", &["again"]),
        ("user-agent", &["mesh"]),
        ("host", &["inner.example"]),
        ("x-forwarded-host", &["users"]),
        ("x-tenant", &["ac me"]),
        ("x-via", &["client", "edge"]),
        ("content-length", &["4"]),
    ] {
        assert_eq!(echoed(&answer, name), values, "{name}");
    }
    assert_eq!((&line["method"], &line["path"]), (&json!("POST"), &json!("/any?debug=1&q=%20x&tenant=ac+me")));
    let climbing = gate.send(&get("/any").header("x_tenant", ".."));
    climbing.assert_reason(400, "bad_request");
    let h2 = http::Request::get("http://users/x").header("x_tenant", "t").body(Vec::new()).unwrap();
    let h2 = h2c::send(gate.users.inbound(), h2);
    assert_eq!(
        (echoed(&h2, "host"), h2.json()["target"].as_str()),
        (vec!["inner.example".into()], Some("/echo/t?lang=en&tag=a%26b"))
    );
    counted(&gate, "request-transformer", "passed", 2.0);
}

#[test]
fn a_transformer_hides_what_a_consumer_is_and_nobody_fills_its_place() {
    let gate = Gate::with(json!([
        { "name": "key-auth", "config": { "anonymous": "guest" } },
        { "name": "request-transformer", "config": { "rename": { "headers": ["X-Credential-Identifier:X-Key"] } } },
    ]));
    let known = gate.send(&echo().header("apikey", "key-of-alice").header("x-key", "root"));
    assert_eq!(echoed(&known, "x-key"), ["alice-1"]);
    assert!(echoed(&gate.send(&echo().header("x-key", "root")), "x-key").is_empty());
}

#[test]
fn answers_lose_what_tells_of_the_app_and_so_do_outriggers_own() {
    let config = json!({
        "remove": { "headers": ["Server", "X-Powered-By"] },
        "rename": { "headers": ["x-app:x-instance"] },
        "replace": { "headers": ["access-control-allow-origin:https://ours", "x-none:1"] },
        "add": { "headers": ["X-Frame-Options:DENY", "content-type:no"] },
        "append": { "headers": ["Cache-Control:no-store"] },
    });
    let gate = Gate::with(json!([
        { "name": "response-transformer", "config": config },
        { "name": "bot-detection", "config": { "deny": ["^evil"] } },
    ]));
    let answer = gate.send(&get("/leaky"));
    assert_eq!(answer.text(), "leaky");
    assert!(!answer.has("server") && !answer.has("x-powered-by") && !answer.has("x-app") && !answer.has("x-none"));
    for (name, value) in [
        ("x-instance", "users-1"),
        ("access-control-allow-origin", "https://ours"),
        ("x-frame-options", "DENY"),
        ("cache-control", "no-store"),
    ] {
        assert_eq!(answer.header(name), value, "{name}");
    }
    let refused = gate.send(&get("/leaky").header("user-agent", "evil/1"));
    refused.assert_reason(403, "denied");
    assert_eq!(refused.header("x-frame-options"), "DENY");
}

#[test]
fn preflights_are_answered_before_anybody_is_asked_who_calls() {
    let cors = json!({
        "origins": ["https://a.example", "https://[a-z]+\\.b\\.example"], "credentials": true, "max_age": 600,
        "exposed_headers": ["X-App", "X-Total"], "private_network": true,
    });
    let gate =
        Gate::with(json!([{ "name": "key-auth" }, { "name": "cors", "config": cors }, { "name": "bot-detection" }]));
    let preflight = |origin: &str| {
        Ask::new("OPTIONS", "/echo")
            .host("users")
            .header("origin", origin)
            .header("access-control-request-method", "PUT")
            .header("access-control-request-headers", "x-a, x-b")
            .header("access-control-request-private-network", "true")
    };
    let (answer, line) = logged(&gate, preflight("https://x.b.example"));
    assert_eq!((answer.status, answer.body.len(), answer.reason()), (200, 0, ""));
    for (name, value) in [
        ("access-control-allow-origin", "https://x.b.example"),
        ("access-control-allow-credentials", "true"),
        ("access-control-allow-methods", "GET,HEAD,PUT,PATCH,POST,DELETE,OPTIONS,TRACE,CONNECT"),
        ("access-control-allow-headers", "x-a, x-b"),
        ("access-control-max-age", "600"),
        ("access-control-allow-private-network", "true"),
        ("vary", "Origin"),
    ] {
        assert_eq!(answer.header(name), value, "{name}");
    }
    assert_eq!((&line["status"], &line["detail"]), (&json!(200), &json!("cors: preflight 200")));
    let stranger = gate.send(&preflight("https://x.b.example.evil"));
    assert!(stranger.status == 200 && !stranger.has("access-control-allow-origin"), "{stranger:?}");
    counted(&gate, "cors", "answered", 2.0);
    // Scripts may read why they were refused, by whichever plugin.
    let with_origin = |ask: Ask| gate.send(&ask.header("origin", "https://a.example"));
    for (ask, status) in [
        (get("/leaky"), 401),
        (get("/leaky").header("apikey", "key-of-alice"), 200),
        (get("/leaky").header("user-agent", "Googlebot/2.1"), 403),
    ] {
        let answer = with_origin(ask);
        assert_eq!(answer.status, status, "{answer:?}");
        assert_eq!(answer.header("access-control-allow-origin"), "https://a.example", "{status}");
        assert_eq!(answer.header("access-control-expose-headers"), "x-app,x-total");
        assert_eq!(answer.header("vary"), "Origin");
    }
    assert_eq!(gate.app.seen("/leaky"), 1);
    gate.reload(|config| config["inbound"]["plugins"] = one("cors", json!({ "preflight_continue": true })));
    let by_app = gate.send(&preflight("https://a.example"));
    assert!(by_app.app() == "users-1" && !by_app.has("access-control-allow-origin"), "{by_app:?}");
    assert_eq!(gate.send(&get("/leaky")).header("access-control-allow-origin"), "*");
}

#[test]
fn every_request_has_an_id_that_the_app_and_the_caller_see() {
    let gate = Gate::with(json!([
        { "name": "correlation-id", "config": { "header_name": "X-Correlation", "echo_downstream": true } },
        { "name": "key-auth" },
    ]));
    let with_key = || echo().header("apikey", "key-of-alice");
    let (first, second) = (gate.send(&with_key()), gate.send(&with_key()));
    let (a, b) = (first.header("x-correlation"), second.header("x-correlation"));
    assert_eq!(echoed(&first, "x-correlation"), [a]);
    let ((own, 1), (same, 2)) = (parted(a), parted(b)) else { panic!("{a} {b}") };
    assert_eq!((own, own.len()), (same, 36));
    let kept = gate.send(&with_key().header("x-correlation", "mine"));
    assert_eq!((echoed(&kept, "x-correlation"), kept.header("x-correlation")), (vec!["mine".into()], "mine"));
    let refused = gate.send(&echo());
    refused.assert_reason(401, "not_identified");
    assert!(refused.has("x-correlation"));
    gate.reload(|config| config["inbound"]["plugins"][0]["config"]["generator"] = json!("tracker"));
    let tracker = gate.send(&with_key());
    let port = gate.users.inbound().port().to_string();
    assert!(tracker.header("x-correlation").starts_with(&format!("127.0.0.1-{port}-")), "{tracker:?}");
}

fn parted(id: &str) -> (&str, u64) {
    let (own, number) = id.split_once('#').unwrap();
    (own, number.parse().unwrap())
}

#[test]
fn a_termination_answers_in_the_apps_place_once_the_caller_is_known() {
    let gate = Gate::with(json!([
        { "name": "key-auth", "config": { "key_names": ["apikey"] } },
        { "name": "request-termination", "config": { "trigger": "x-closed", "message": "Back at noon." } },
    ]));
    let with_key = |target: &str| get(target).header("apikey", "key-of-alice");
    gate.send(&echo().header("x-closed", "1")).assert_reason(401, "not_identified");
    assert_eq!(gate.send(&with_key("/echo")).status, 200);
    let (closed, line) = logged(&gate, with_key("/echo?x-closed"));
    assert_eq!((closed.status, closed.json()), (503, json!({ "message": "Back at noon." })));
    assert_eq!((&line["reason"], &line["detail"]), (&json!(""), &json!("request-termination: terminated 503")));
    counted(&gate, "request-termination", "answered", 1.0);
    assert_eq!(gate.app.seen("/echo"), 1);
    gate.reload(|config| {
        config["inbound"]["plugins"] = one(
            "request-termination",
            json!({ "status_code": 410, "body": "<p>gone</p>", "content_type": "text/html" }),
        );
    });
    let gone = gate.send(&echo());
    assert_eq!((gone.status, gone.text().as_str(), gone.header("content-type")), (410, "<p>gone</p>", "text/html"));
    gate.reload(|config| config["inbound"]["plugins"] = one("request-termination", json!({ "echo": true })));
    let told = gate.send(&get("/a?b=1").header("cookie", "session=s3cret"));
    assert_eq!((told.status, &told.json()["request"]["path"]), (503, &json!("/a")));
    assert!(!told.text().contains("s3cret"));
    let grpc = Ask::new("POST", "/users.v1.Users/Get").host("users").header("content-type", "application/grpc");
    let grpc = gate.send(&grpc.body(""));
    assert_eq!((grpc.status, grpc.header("grpc-status"), grpc.body.len()), (200, "14", 0));
}

#[test]
fn bots_are_kept_out_by_what_they_say() {
    let gate = Gate::with(one("bot-detection", json!({ "allow": ["^Twitterbot"], "deny": ["(?i)harvest"] })));
    let by = |agent: &str| logged(&gate, echo().header("user-agent", agent));
    for (agent, detail) in [("Mozilla/5.0 (compatible; Googlebot/2.1)", "a known bot"), ("HarvestMan", "in deny")] {
        let (answer, line) = by(agent);
        answer.assert_reason(403, "denied");
        assert_eq!(line["detail"], format!("bot-detection: refuse denied: {detail}"));
    }
    for agent in ["Twitterbot/1.0", "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"] {
        assert_eq!(by(agent).0.status, 200, "{agent}");
    }
    let two = gate.send(&echo().header("user-agent", "a").header("user-agent", "b"));
    assert_eq!((two.status, two.reason()), (400, "bad_request"));
    counted(&gate, "bot-detection", "refused", 3.0);
}

#[test]
fn shadows_count_and_change_nothing() {
    let shadow = |name: &str, config: Value| json!({ "name": name, "mode": "shadow", "config": config });
    let gate = Gate::with(json!([
        shadow("ip-restriction", json!({ "deny": ["127.0.0.1"] })),
        shadow("bot-detection", json!({ "deny": ["."] })),
        shadow("request-size-limiting", json!({ "allowed_payload_size": 1, "size_unit": "bytes" })),
        shadow("request-termination", json!({})),
        shadow("cors", json!({})),
        shadow("correlation-id", json!({ "echo_downstream": true })),
        shadow("request-transformer", json!({ "http_method": "PUT", "add": { "headers": ["x-a:1"] } })),
        shadow("response-transformer", json!({ "add": { "headers": ["x-a:1"] } })),
    ]));
    let ask = Ask::new("POST", "/echo").host("users").header("user-agent", "x").body("long");
    let (answer, line) = logged(&gate, ask);
    assert_eq!((answer.status, &answer.json()["method"]), (200, &json!("POST")));
    assert!(echoed(&answer, "x-a").is_empty() && echoed(&answer, "kong-request-id").is_empty());
    assert!(!answer.has("x-a") && !answer.has("kong-request-id") && !answer.has("access-control-allow-origin"));
    for plugin in ["ip-restriction", "bot-detection", "request-size-limiting"] {
        counted(&gate, plugin, "would_refuse", 1.0);
        assert!(line["detail"].as_str().unwrap().contains(&format!("{plugin}: would refuse")), "{line}");
    }
    counted(&gate, "request-termination", "would_answer", 1.0);
}

#[test]
fn plugins_of_an_upstream_and_of_its_routes_work_on_the_way_out() {
    let pair = Pair::with(
        |users| users,
        |web| {
            let part = json!([{ "name": "part", "match": { "host": "users", "path": "/echo/part" }, "to": "users", "plugins": [
                { "name": "request-transformer", "config": { "add": { "headers": ["x-part:1"] } } },
                { "name": "request-size-limiting", "config": { "allowed_payload_size": 3, "size_unit": "bytes" } },
            ] }]);
            let defaults = json!({ "plugins": [
                { "name": "correlation-id", "config": { "header_name": "x-trip", "generator": "uuid", "echo_downstream": true } },
                { "name": "request-transformer", "config": { "add": { "headers": ["x-all:1"] } } },
                { "name": "response-transformer", "config": { "remove": { "headers": ["server"] } } },
            ] });
            web.set("outbound.defaults", defaults).set("outbound.routes", part)
        },
    );
    let send = |ask: &Ask| ask.send(pair.web.outbound());
    let all = send(&echo());
    assert_eq!((echoed(&all, "x-all"), echoed(&all, "x-part").len()), (vec!["1".to_owned()], 0));
    assert_eq!(echoed(&all, "x-trip"), [all.header("x-trip")]);
    let part = send(&get("/echo/part"));
    assert_eq!(
        (echoed(&part, "x-part"), echoed(&part, "x-all").len()),
        (vec!["1".to_owned()], 0),
        "the route's replaces"
    );
    assert!(!send(&get("/leaky")).has("server"));
    let long = Ask::new("POST", "/echo/part").host("users").body("long");
    for long in [long.clone(), long.chunked()] {
        send(&long).assert_reason(413, "body_too_large");
    }
    let labels = [("plugin", "request-size-limiting"), ("decision", "refused")];
    pair.web.wait_for_metric("outrigger_plugin_decisions_total", &labels, 2.0);
}

#[test]
fn a_plugin_that_cannot_be_built_leaves_all_as_it_was() {
    let gate = Gate::with(json!([
        { "name": "ip-restriction", "config": { "deny": ["10.0.0.0/8"] } },
        { "name": "rate-limiting", "config": { "hour": 100_000, "limit_by": "ip" } },
    ]));
    let left = |answer: &Answer| answer.header("ratelimit-remaining").parse::<u64>().unwrap();
    assert_eq!(left(&gate.send(&echo())), 99_999);
    let reload = || Ask::new("POST", "/reload").host("localhost").body("").send(gate.users.admin());
    for (bad, place) in [
        (one("bot-detection", json!({ "deny": ["("] })), "inbound.plugins[0].config.deny[0]"),
        (one("ip-restriction", json!({ "deny": ["10.0.0.0/99"] })), "inbound.plugins[0].config.deny[0]"),
        (one("request-transformer", json!({ "add": { "body": ["a:1"] } })), "inbound.plugins[0].config.add.body"),
        (one("cors", json!({ "origins": ["https://a", "("] })), "inbound.plugins[0].config.origins[1]"),
    ] {
        gate.users.rewrite(|config| {
            config["inbound"]["plugins"] = bad;
            // What else the file changed is not taken either.
            config["inbound"]["trusted_ips"] = json!(["127.0.0.1"]);
        });
        let refused = reload();
        assert!((400..500).contains(&refused.status) && refused.text().contains(place), "{place}: {refused:?}");
    }
    gate.users.wait_for_metric("outrigger_config_reloads_total", &[("outcome", "refused")], 4.0);
    let after = gate.send(&echo().header("x-forwarded-for", "10.0.0.1"));
    assert_eq!((after.status, left(&after)), (200, 99_998), "neither rules nor counters changed");
    eventually(SOON, "the log says why", || gate.users.process.log().contains("the old one stays").then_some(()));
}
