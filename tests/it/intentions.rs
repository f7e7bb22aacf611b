//! Who may call: Consul's intentions on a real Consul, with ACLs and without, and the file's own rules.

use std::io::Read;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::certs::{Authority, openssl_get};
use crate::support::consul::Agent;
use crate::support::pair::sidecar;
use crate::support::sidecar::Builder;
use crate::support::tcp::{connect, expect, reset, talk};
use crate::support::{Answer, App, Ask, Consul, Embedded, Pair, SOON, Script, Sidecar, TcpApp, eventually, throughout};

/// What a change may take until it holds everywhere.
const CHANGE: Duration = Duration::from_secs(5);

/// `web` and `users` with identities of Consul's CA.
struct Mesh {
    web: Sidecar,
    users: Sidecar,
    app: App,
    consul: Consul,
}

impl Mesh {
    /// Under ACLs that deny by default.
    fn with_acls(change: impl Fn(Builder) -> Builder) -> Self {
        Self::on(Consul::with_acls(), |agent, builder, name| {
            change(builder).consul(agent).env("CONSUL_HTTP_TOKEN", &agent.token_for(name))
        })
    }

    fn without_acls() -> Self {
        Self::on(Consul::start(), |agent, builder, _| builder.consul(agent))
    }

    fn on(consul: Consul, prepare: impl Fn(Agent, Builder, &str) -> Builder) -> Self {
        let (agent, app) = (consul.agent(), App::start("users-1"));
        let users = prepare(agent, Sidecar::of("users"), "users").app(&app).start();
        let web = prepare(agent, Sidecar::of("web"), "web").upstream("users", json!({})).start();
        Self { web, users, app, consul }
    }

    fn agent(&self) -> Agent {
        self.consul.agent()
    }

    #[track_caller]
    fn get(&self, path: &str) -> Answer {
        Ask::get(path).host("users").send(self.web.upstream("users"))
    }

    /// Waits until web is answered so by users; gives how long it took.
    #[track_caller]
    fn wait_for(&self, status: u16) -> Duration {
        let begun = Instant::now();
        eventually(SOON, &format!("web gets {status}"), || (self.get("/").status == status).then_some(()));
        begun.elapsed()
    }

    /// As `wait_for` a change, which must not take longer than promised.
    #[track_caller]
    fn turns(&self, status: u16) {
        let took = self.wait_for(status);
        assert!(took < CHANGE, "{took:?}");
    }

    #[track_caller]
    fn detail(&self, answer: &Answer) -> String {
        self.users.access_of(answer.header("x-request-id"))["detail"].as_str().unwrap().to_owned()
    }
}

fn decided(sidecar: &Sidecar, decision: &str) -> f64 {
    sidecar.metric("outrigger_authorization_decisions_total", &[("decision", decision)])
}

#[test]
fn under_default_deny_an_intention_lets_in_and_its_end_shuts_out() {
    let mesh = Mesh::with_acls(|builder| builder);
    mesh.wait_for(403);
    let answer = mesh.get("/");
    answer.assert_reason(403, "denied");
    assert_eq!(mesh.detail(&answer), "no intention names the caller, and Consul's default is deny");
    let line = mesh.users.access_of(answer.header("x-request-id"));
    assert_eq!((line["reason"].as_str(), line["status"].as_u64()), (Some("denied"), Some(403)));
    assert!(line["peer"].as_str().unwrap().ends_with("/svc/web"), "{line}");
    assert!(decided(&mesh.users, "denied") >= 1.0);
    assert_eq!(mesh.app.seen("/"), 0);

    let grpc = Ask::new("POST", "/users.v1.Users/Get").host("users").header("content-type", "application/grpc");
    let refused = grpc.send(mesh.web.upstream("users"));
    assert_eq!((refused.status, refused.header("grpc-status"), refused.reason()), (200, "7", "denied"));

    let exact = mesh.agent().intend("web", "users", "allow");
    mesh.turns(200);
    assert!(decided(&mesh.users, "allowed") >= 1.0);
    // A weaker one changes nothing, a stronger one does, and the weaker is back when that is gone.
    let any = mesh.agent().intend("*", "users", "deny");
    throughout(Duration::from_millis(500), "the exact intention stays the stronger", || mesh.get("/").status == 200);
    mesh.agent().forget_intention(&exact);
    mesh.turns(403);
    assert_eq!(mesh.detail(&mesh.get("/")), "intention * → users deny (precedence 8)");
    mesh.agent().forget_intention(&any);
    mesh.agent().intend("*", "*", "allow");
    mesh.turns(200);
}

#[test]
fn without_acls_everybody_may_call_but_those_that_are_denied() {
    let mesh = Mesh::without_acls();
    mesh.wait_for(200);
    let intend = |source: &str, action: &str| {
        let body = json!({ "SourceName": source, "DestinationName": "users", "Action": action });
        let answer = Ask::new("POST", "/v1/connect/intentions").host("consul").body(body.to_string());
        let answer = answer.send(mesh.agent().address);
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()["ID"].as_str().unwrap().to_owned()
    };
    let denied = intend("web", "deny");
    mesh.turns(403);
    assert_eq!(mesh.detail(&mesh.get("/")), "intention web → users deny (precedence 9)");
    let shown = Ask::get("/topology").host("localhost").send(mesh.users.admin()).json();
    assert_eq!(shown["intentions"]["default"], "allow");
    assert_eq!(
        shown["intentions"]["list"],
        json!([{ "source": "web", "destination": "users", "action": "deny", "precedence": 9 }])
    );
    let gone = Ask::new("DELETE", &format!("/v1/connect/intentions/{denied}")).host("consul");
    assert_eq!(gone.send(mesh.agent().address).status, 200);
    mesh.turns(200);
}

#[test]
fn what_a_source_has_open_ends_within_five_seconds_of_its_denial() {
    let mesh = Mesh::with_acls(|builder| builder);
    let allowed = mesh.agent().intend("web", "users", "allow");
    mesh.wait_for(200);
    // An answer without end, over a connection that is also kept for others.
    let events = mesh.web.upstream("users");
    let mut stream = connect(events);
    std::io::Write::write_all(&mut stream, b"GET /events HTTP/1.1\r\nHost: users\r\n\r\n").unwrap();
    expect(&mut stream, "HTTP/1.1 200");
    let open = || mesh.users.metric("outrigger_connections", &[("direction", "inbound"), ("state", "active")]);
    assert!(open() >= 1.0);
    mesh.agent().forget_intention(&allowed);
    let begun = Instant::now();
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest);
    assert!(begun.elapsed() < CHANGE, "{:?}", begun.elapsed());
    eventually(SOON, "no connection of web's is left", || (open() < 0.5).then_some(()));
    assert!(begun.elapsed() < CHANGE, "{:?}", begun.elapsed());
    mesh.get("/").assert_reason(403, "denied");
}

#[test]
fn the_last_good_intentions_stay_while_consul_is_away_and_across_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let kept = folder.path().to_owned();
    let mut mesh = Mesh::with_acls(|builder| builder.set("consul.snapshot", json!(kept)));
    mesh.agent().intend("web", "users", "allow");
    mesh.turns(200);
    mesh.consul.kill();
    throughout(Duration::from_secs(1), "web may still call", || mesh.get("/").status == 200);
    // Back, and empty: the token is not known any more, which says nothing about who may call.
    mesh.consul.restart();
    mesh.users.process.wait_for_log(SOON, "the last good intentions stay");
    throughout(Duration::from_secs(2), "web may still call", || mesh.get("/").status == 200);
    let saved = std::fs::read_dir(folder.path()).unwrap().filter_map(Result::ok);
    assert!(saved.map(|file| file.file_name()).any(|name| name.to_string_lossy().starts_with("intentions")));
}

#[test]
fn a_token_that_may_not_read_intentions_leaves_the_door_shut_and_says_so() {
    let consul = Consul::with_acls();
    let agent = consul.agent();
    let app = App::start("users-1");
    let token = agent.token("other", "service \"web\" { policy = \"write\" }");
    let users = Sidecar::of("users").consul(agent).env("CONSUL_HTTP_TOKEN", &token).app(&app).start_unready();
    users.process.wait_for_log(SOON, "Consul does not say who may call; nobody may call until it does");
}

#[test]
fn tcp_is_judged_at_the_handshake_and_cut_when_denied() {
    let (consul, app) = (Consul::with_acls(), TcpApp::start(Script::Echo));
    let agent = consul.agent();
    let of = |name: &str| Sidecar::of(name).consul(agent).env("CONSUL_HTTP_TOKEN", &agent.token_for(name));
    let db = of("db")
        .set("service.port", json!(app.address().port()))
        .set("service.protocol", json!("tcp"))
        .set("service.check", json!({ "tcp": true, "interval": "200ms" }))
        .start();
    let web = of("web").upstream("db", json!({ "protocol": "tcp" })).start();
    assert!(talk(web.upstream("db"), "hello").map_or(true, |said| said.is_empty()));
    let line =
        eventually(SOON, "the denial is logged", || db.access().into_iter().find(|line| line["reason"] == "denied"));
    assert!(line["detail"].as_str().unwrap().contains("default is deny"), "{line}");
    let allowed = agent.intend("web", "db", "allow");
    eventually(CHANGE, "web gets through", || {
        talk(web.upstream("db"), "hello").is_ok_and(|said| said.starts_with("hello")).then_some(())
    });
    let mut open = connect(web.upstream("db"));
    std::io::Write::write_all(&mut open, b"more").unwrap();
    expect(&mut open, "more");
    agent.forget_intention(&allowed);
    let begun = Instant::now();
    let _ = open.read_to_end(&mut Vec::new());
    assert!(begun.elapsed() < CHANGE, "{:?}", begun.elapsed());
    let line = eventually(SOON, "the cut is logged", || {
        db.access().into_iter().find(|line| line["detail"] == "the caller may not call any more")
    });
    assert_eq!(line["reason"], "denied");
    let _ = reset(&open);
}

fn rules() -> Value {
    json!([
        { "paths": ["/admin"], "action": "deny" },
        { "from": ["web"], "methods": ["GET"], "paths": ["/echo", "/status"] },
        { "from": ["*"], "paths_exact": ["/open"] },
    ])
}

#[test]
fn rules_of_the_file_decide_by_caller_method_and_path() {
    let pair = Pair::with(|users| users.set("inbound.authz", rules()), |web| web);
    let status = |method: &str, path: &str| Ask::new(method, path).host("users").send(pair.web.outbound());
    assert_eq!(status("GET", "/echo").status, 200);
    assert_eq!(status("GET", "/open").status, 200);
    for (method, path, detail) in [
        ("POST", "/echo", "no authz rule matches"),
        ("GET", "/echoes", "no authz rule matches"),
        ("GET", "/admin/x", "authz rule 1"),
        ("GET", "/echo/../admin", "authz rule 1"),
        ("GET", "/echo/%2e%2e/%61dmin", "authz rule 1"),
        ("GET", "//admin", "authz rule 1"),
    ] {
        let answer = status(method, path);
        answer.assert_reason(403, "denied");
        let line = pair.users.access_of(answer.header("x-request-id"));
        assert_eq!(line["detail"], detail, "{method} {path}");
    }
    // The app sees the path that was judged.
    assert_eq!(status("GET", "/x/../echo").json()["target"], "/echo");
    let said = openssl_get(pair.users.inbound(), Some(&pair.authority.leaf("batch")), &[]);
    assert!(said.contains("HTTP/1.1 403"), "{said}");
    assert!(decided(&pair.users, "denied") >= 7.0 && decided(&pair.users, "allowed") >= 3.0);
    // A reload changes them for connections that are there already.
    pair.users.rewrite(|config| config["inbound"]["authz"] = json!([{ "from": ["web"], "action": "deny" }]));
    eventually(SOON, "the new rules hold", || (status("GET", "/echo").status == 403).then_some(()));
}

#[test]
fn callers_in_plain_text_pass_a_permissive_door_counted_and_rules_can_shut_them_out() {
    let (registry, authority, app) = (Embedded::start(), Authority::new("mesh.test"), App::start("users-1"));
    let permissive = |more: Value| {
        sidecar("users", registry.agent(), &authority)
            .app(&app)
            .set("inbound.mtls", json!("permissive"))
            .set("inbound.intentions", json!("on"))
            .set("inbound.authz", more)
            .start()
    };
    let open = permissive(json!([]));
    assert_eq!(Ask::get("/").host("users").send(open.inbound()).status, 200);
    assert_eq!(decided(&open, "unidentified").to_bits(), 1.0f64.to_bits());
    let shut = permissive(json!([{ "from": ["*"] }]));
    let answer = Ask::get("/").host("users").send(shut.inbound());
    answer.assert_reason(401, "not_identified");
    assert!(answer.has("www-authenticate"));
}

/// What the app saw of a header when this sidecar was asked directly, without a certificate.
fn told(answer: &Answer, name: &str) -> Vec<String> {
    assert_eq!(answer.status, 200, "{answer:?}");
    let headers = answer.json()["headers"].clone();
    let pairs = headers.as_array().into_iter().flatten().filter(|pair| pair[0] == name);
    pairs.filter_map(|pair| pair[1].as_str().map(str::to_owned)).collect()
}

#[test]
fn what_clients_claim_of_hops_and_users_is_dropped_unless_they_are_trusted() {
    let (registry, authority, app) = (Embedded::start(), Authority::new("mesh.test"), App::start("users-1"));
    let plain = |trusted: Value| {
        let users = sidecar("users", registry.agent(), &authority).app(&app);
        users.set("inbound.mtls", json!("permissive")).set("inbound.trusted_ips", trusted).start()
    };
    let claims = [
        "Forwarded",
        "X-Real-IP",
        "X-Forwarded-Prefix",
        "X-Consumer-Username",
        "X-Consumer-Groups",
        "X-Authenticated-UserId",
        "X-Credential-Identifier",
        "X-Anonymous-Consumer",
    ];
    let alike = ["X_Forwarded_For", "X_Forwarded_Client_Cert", "X-Consumer_Username", "X_Real_IP"];
    let mut ask = Ask::get("/echo").host("users").header("X-Forwarded-For", "203.0.113.9");
    ask = ask.header("X-Forwarded-Client-Cert", "URI=spiffe://mesh.test/ns/default/dc/dc1/svc/admin");
    for name in claims.iter().chain(&alike) {
        ask = ask.header(name, "forged");
    }
    let stranger = plain(json!([]));
    let answer = ask.send(stranger.inbound());
    for name in claims.iter().chain(&alike) {
        assert_eq!(told(&answer, &name.to_lowercase()), [""; 0], "{name}");
    }
    assert_eq!(told(&answer, "x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(told(&answer, "x-forwarded-client-cert"), [""; 0]);
    let trusting = plain(json!(["127.0.0.0/8"]));
    let answer = ask.send(trusting.inbound());
    for name in claims {
        assert_eq!(told(&answer, &name.to_lowercase()), ["forged"], "{name}");
    }
    for name in alike {
        assert_eq!(told(&answer, &name.to_lowercase()), [""; 0], "{name}");
    }
    assert_eq!(told(&answer, "x-forwarded-for"), ["203.0.113.9, 127.0.0.1"]);
    // A mesh peer is believed in whom its user is, and not in who it is itself.
    registry.agent().wait_for("users", trusting.id(), "passing");
    let web = sidecar("web", registry.agent(), &authority).upstream("users", json!({})).start();
    let answer = ask.send(web.outbound());
    assert_eq!(told(&answer, "x-consumer-username"), ["forged"]);
    assert_eq!(told(&answer, "x_forwarded_client_cert"), [""; 0]);
    assert!(told(&answer, "x-forwarded-client-cert")[0].contains("svc/web"));
}
