//! How a sidecar starts, tells of itself and stops; exit codes; what each mistake looks like to its user.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::certs::Authority;
use crate::support::pair::sidecar;
use crate::support::sidecar::outrigger;
use crate::support::{App, Ask, Embedded, Pair, SOON, Sidecar, eventually};

#[test]
fn the_ready_file_tells_the_addresses_as_bound() {
    let pair = Pair::start();
    let ready = pair.web.ready();
    assert_eq!((&ready["service"], &ready["id"]), (&json!("web"), &json!(pair.web.id())));
    assert_eq!(ready["pid"], pair.web.process.pid());
    for address in [pair.web.inbound(), pair.web.outbound(), pair.web.admin(), pair.web.metrics_address()] {
        assert_ne!(address.port(), 0);
        std::net::TcpStream::connect(address).unwrap_or_else(|error| panic!("{address}: {error}"));
    }
    assert_ne!(pair.web.upstream("users").port(), 0);
}

#[test]
fn admin_and_metrics_answer_what_the_contract_names() {
    let pair = Pair::start();
    let ask = |address, path: &str| Ask::get(path).host("localhost").send(address);
    for path in ["/livez", "/readyz", "/config", "/endpoints", "/certs", "/topology", "/metrics"] {
        assert_eq!(ask(pair.web.admin(), path).status, 200, "admin {path}");
    }
    for path in ["/metrics", "/livez", "/readyz"] {
        assert_eq!(ask(pair.web.metrics_address(), path).status, 200, "metrics {path}");
    }
    for path in ["/config", "/quit", "/"] {
        assert_eq!(ask(pair.web.metrics_address(), path).status, 404, "metrics {path}");
    }
    assert!(ask(pair.web.admin(), "/endpoints").text().contains(&pair.users.inbound().to_string()));
    assert_eq!(pair.get("/").status, 200);
    let page = pair.web.metrics();
    for name in [
        "outrigger_requests_total",
        "outrigger_request_duration_seconds_count",
        "outrigger_requests_in_flight",
        "outrigger_connections",
        "outrigger_bytes_total",
        "outrigger_upstream_endpoints",
        "outrigger_upstream_attempts_total",
        "outrigger_certificate_expiry_timestamp_seconds",
        "outrigger_consul_requests_total",
        "outrigger_consul_last_answer_timestamp_seconds",
        "outrigger_heartbeats_total",
        "outrigger_registered",
        "outrigger_config_reloads_total",
        "outrigger_build_info",
        "process_resident_memory_bytes",
    ] {
        assert!(page.has(name), "{name} is missing:\n{}", page.text);
    }
}

#[test]
fn admin_refuses_a_browser_of_another_site() {
    let pair = Pair::start();
    let forged = Ask::new("POST", "/quit").host("evil.example").header("Origin", "http://evil.example");
    let answer = forged.send(pair.web.admin());
    assert!((400..500).contains(&answer.status), "{answer:?}");
    assert_eq!(pair.get("/").status, 200);
}

#[test]
fn a_port_taken_ends_with_1_and_names_listener_and_address() {
    let (registry, authority) = (Embedded::start(), Authority::new("mesh.test"));
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for listener in ["inbound", "outbound", "admin", "metrics"] {
        let web = sidecar("web", registry.agent(), &authority).set(&format!("{listener}.listen"), json!(address));
        let mut web = web.start_unready();
        assert_eq!(web.process.wait(SOON).code(), Some(1), "{listener}");
        eventually(SOON, "the log names listener and address", || {
            (web.process.log().contains(listener) && web.process.log().contains(&address)).then_some(())
        });
        assert!(registry.agent().service(web.id()).is_none(), "nothing was registered");
    }
}

#[test]
fn all_mistakes_of_a_config_are_told_at_once_and_nothing_starts() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bad.yaml");
    let text = "service:\n  name: Users_1\n  port: 99999\ninbound:\n  mtls: maybe\noutbound:\n  upstreams:\n    \
                - servise: orders\nshutdown:\n  grace: soon\nmystery: 1\n";
    std::fs::write(&path, text).unwrap();
    let file = path.to_str().unwrap();
    for command in ["check", "run"] {
        let (code, said) = outrigger(&[command, "-c", file]);
        assert_eq!(code, Some(2), "{command}: {said}");
        for place in [":2:", ":3:", ":5:", ":8:", ":10:", ":11:"] {
            assert!(said.contains(&format!("{file}{place}")), "{command}: no mistake at {place}:\n{said}");
        }
    }
    let (code, said) = outrigger(&["check", "-c", file, "--format", "json"]);
    assert_eq!(code, Some(2), "{said}");
    let (code, _) = outrigger(&["run", "-c", "/nowhere/outrigger.yaml"]);
    assert_eq!(code, Some(2));
    let (code, _) = outrigger(&["run", "--no-such-flag"]);
    assert_eq!(code, Some(2));
}

#[test]
fn every_config_that_we_ship_is_good() {
    let mut checked = 0;
    for folder in ["examples", "deploy/compose"] {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "yaml") {
                let (code, said) = outrigger(&["check", "-c", path.to_str().unwrap()]);
                assert_eq!(code, Some(0), "{}: {said}", path.display());
                checked += 1;
            }
        }
    }
    assert!(checked >= 3, "{checked}");
}

#[test]
fn what_comes_later_is_refused_and_not_ignored() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("later.yaml");
    std::fs::write(&path, "service: { name: users, port: 8080 }\ngateway: { listen: 127.0.0.1:8000 }\n").unwrap();
    let (code, said) = outrigger(&["check", "-c", path.to_str().unwrap()]);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("not supported yet"), "{said}");
}

#[test]
fn a_sidecar_runs_from_flags_and_environment_alone() {
    let registry = Embedded::start();
    let app = App::start("users-1");
    let folder = tempfile::tempdir().unwrap();
    let (code, said) = outrigger(&["ca", "init", folder.path().join("ca").to_str().unwrap()]);
    assert_eq!(code, Some(0), "{said}");
    let builder = Sidecar::of("users").app(&app).consul(registry.agent());
    let users = builder
        .set("identity", json!({ "ca": { "dir": folder.path().join("ca") } }))
        .env("OUTRIGGER_SERVICE", "people")
        .start();
    assert_eq!(users.ready()["service"], "people");
    eventually(SOON, "it is registered under the environment's name", || {
        (!registry.agent().instances("people").is_empty()).then_some(())
    });
}

#[test]
fn a_child_command_starts_after_ready_and_its_exit_code_is_ours() {
    let (registry, authority) = (Embedded::start(), Authority::new("mesh.test"));
    let app = App::start("users-1");
    let script = "test -s ready.json && exit 7; exit 9";
    let mut web = sidecar("web", registry.agent(), &authority).app(&app).command(&["sh", "-c", script]).start_unready();
    assert_eq!(web.process.wait(SOON).code(), Some(7));
    assert!(registry.agent().service(web.id()).is_none(), "it deregistered on its way out");
}

#[test]
fn sigterm_reaches_the_child_after_inbound_has_ended() {
    let (registry, authority) = (Embedded::start(), Authority::new("mesh.test"));
    let script = "trap 'echo child got TERM; exit 3' TERM; echo child runs; while :; do sleep 0.05; done";
    let mut web = sidecar("web", registry.agent(), &authority).command(&["sh", "-c", script]).start();
    web.process.wait_for_log(SOON, "child runs");
    assert_eq!(web.stop(), Some(3));
    web.process.wait_for_log(SOON, "child got TERM");
}

#[test]
fn a_stop_lets_what_is_under_way_finish() {
    let mut pair = Pair::start();
    let (outbound, hold) = (pair.web.outbound(), Ask::get("/hold").host("users"));
    let held = std::thread::spawn(move || hold.send(outbound));
    eventually(SOON, "the request is at the app", || (pair.app.seen("/hold") == 1).then_some(()));
    pair.users.process.signal("TERM");
    eventually(SOON, "the draining instance is no longer passing", || {
        let status = pair.registry.agent().status_of("users", pair.users.id());
        (status.as_deref() != Some("passing")).then_some(())
    });
    let ready = Ask::get("/readyz").host("localhost").try_send(pair.users.admin());
    assert!(ready.is_ok_and(|answer| answer.status == 503), "readiness is red while it drains");
    assert!(pair.users.process.alive());
    pair.app.release();
    let answer = held.join().unwrap();
    assert_eq!((answer.status, answer.text().as_str()), (200, "held"));
    assert_eq!(pair.users.process.wait(SOON).code(), Some(0));
    assert!(pair.registry.agent().service(pair.users.id()).is_none());
}

#[test]
fn what_outlives_grace_is_cut_and_a_second_signal_ends_at_once() {
    let mut pair = Pair::with(|users| users.set("shutdown.grace", json!("1s")), |web| web);
    let (outbound, hold) = (pair.web.outbound(), Ask::get("/hold").host("users"));
    let held = std::thread::spawn({
        let hold = hold.clone();
        move || hold.try_send(outbound)
    });
    eventually(SOON, "the request is at the app", || (pair.app.seen("/hold") == 1).then_some(()));
    let start = Instant::now();
    assert!(pair.users.stop().is_some());
    assert!(start.elapsed() < Duration::from_secs(5), "after {:?}", start.elapsed());
    assert!(held.join().unwrap().is_ok_and(|answer| answer.status >= 500));

    let mut pair = Pair::with(|users| users.set("shutdown.grace", json!("60s")), |web| web);
    let outbound = pair.web.outbound();
    let held = std::thread::spawn(move || hold.try_send(outbound));
    eventually(SOON, "the request is at the app", || (pair.app.seen("/hold") == 1).then_some(()));
    pair.users.process.signal("TERM");
    pair.users.process.wait_for_log(SOON, "drain");
    pair.users.process.signal("TERM");
    pair.users.process.wait(Duration::from_secs(5));
    drop(pair);
    let _ = held.join();
}

#[test]
fn quit_and_drain_are_asked_for_by_post() {
    let mut pair = Pair::start();
    assert_eq!(Ask::get("/quit").host("localhost").send(pair.web.admin()).status, 405);
    let quit = Ask::new("POST", "/quit").host("localhost").body("").send(pair.web.admin());
    assert!((200..300).contains(&quit.status), "{quit:?}");
    assert_eq!(pair.web.process.wait(SOON).code(), Some(0));
}

#[test]
fn a_drained_sidecar_stays_until_it_is_told_to_end() {
    let mut pair = Pair::start();
    let drain = Ask::new("POST", "/drain").host("localhost").body("").send(pair.users.admin());
    assert_eq!(drain.status, 202, "{drain:?}");
    let ready = Ask::get("/readyz").host("localhost").send(pair.users.admin());
    assert_eq!((ready.status, ready.json()["status"].as_str()), (503, Some("draining")));
    // The signal comes while the drain still waits for Consul: it must not be lost.
    assert_eq!(pair.users.stop(), Some(0));
    let drain = Ask::new("POST", "/drain").host("localhost").body("").send(pair.web.admin());
    assert_eq!(drain.status, 202, "{drain:?}");
    pair.web.process.wait_for_log(SOON, "Consul lists us no more");
    assert_eq!(Ask::get("/livez").host("localhost").send(pair.web.admin()).status, 200);
    let quit = Ask::new("POST", "/quit").host("localhost").body("").send(pair.web.admin());
    assert!((200..300).contains(&quit.status), "{quit:?}");
    assert_eq!(pair.web.process.wait(SOON).code(), Some(0));
}

#[test]
fn readiness_goes_out_to_systemd() {
    let folder = tempfile::tempdir().unwrap();
    let socket = std::os::unix::net::UnixDatagram::bind(folder.path().join("notify")).unwrap();
    socket.set_read_timeout(Some(SOON)).unwrap();
    let (registry, authority) = (Embedded::start(), Authority::new("mesh.test"));
    let path = folder.path().join("notify");
    let _web = sidecar("web", registry.agent(), &authority).env("NOTIFY_SOCKET", path.to_str().unwrap()).start();
    let mut told = [0; 512];
    let read = socket.recv(&mut told).expect("a datagram to NOTIFY_SOCKET");
    assert!(String::from_utf8_lossy(&told[..read]).contains("READY=1"));
}

#[test]
fn the_small_commands_print_what_they_promise() {
    for (arguments, holds) in [
        (&["version"][..], "outrigger"),
        (&["version", "--json"], "\"version\""),
        (&["schema"], "\"$schema\""),
        (&["completions", "bash"], "outrigger"),
        (&["man"], ".TH"),
        (&["run", "--help"], "outrigger run"),
        (&["demo", "--help"], "outrigger demo"),
    ] {
        let (code, said) = outrigger(arguments);
        assert_eq!(code, Some(0), "{arguments:?}: {said}");
        assert!(said.contains(holds), "{arguments:?}: {said}");
    }
}
