//! The tests' own tools, held to what they promise.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use http::Request;

use crate::support::client::Connection;
use crate::support::{App, Ask, Consul, Load, h2c, peers};

#[test]
fn the_scripted_app_does_what_its_paths_say() {
    let app = App::start("users-1");
    let echo = Ask::new("POST", "/echo").host("x").header("a", "1").body("hello").chunked().send(app.address());
    assert_eq!((echo.status, echo.app()), (200, "users-1"));
    assert_eq!((&echo.json()["body"], &echo.json()["method"]), (&"hello".into(), &"POST".into()));
    let trailers = Ask::get("/trailers").host("x").header("TE", "trailers").send(app.address());
    assert_eq!(trailers.trailers, [("x-checksum".to_owned(), "5d41".to_owned())]);
    assert_eq!(Ask::get("/bytes/200000").host("x").send(app.address()).body.len(), 200_000);
    assert!(Ask::get("/reset").host("x").try_send(app.address()).is_err());
    assert!(Ask::get("/drop").host("x").try_send(app.address()).is_err());
    let h2 = h2c::send(app.address(), Request::get("http://x/trailers").body(Vec::new()).unwrap());
    assert_eq!((h2.text().as_str(), h2.trailers.len()), ("hello", 1));
    assert_eq!(app.seen("/trailers"), 2);
}

#[test]
fn a_stopped_app_refuses_and_comes_back_on_its_port() {
    let mut app = App::start("users-1");
    let mut kept = Connection::to(app.address()).unwrap();
    assert_eq!(kept.ask(&Ask::get("/").host("x")).unwrap().status, 200);
    app.stop();
    assert!(kept.closed());
    assert!(Ask::get("/").host("x").try_send(app.address()).is_err());
    app.restart();
    assert_eq!(Ask::get("/").host("x").send(app.address()).app(), "users-1");
}

#[test]
fn load_reports_what_failed() {
    let app = App::start("users-1");
    let load = Load::start(2, app.address(), &Ask::get("/status/503").host("x"));
    load.after(20);
    let report = load.stop();
    assert!(report.answered == 0 && report.failures.len() >= 20, "{report:?}");
    let load = Load::start(2, app.address(), &Ask::get("/").host("x"));
    load.after(20);
    load.stop().assert_none_lost();
}

#[test]
fn other_peoples_proxies_reach_each_other_with_consuls_certificates() {
    let consul = Consul::start();
    let app = App::start("users-1");
    let built_in = peers::BuiltIn::before(consul.agent(), "users", app.address());
    let caller = peers::BuiltIn::toward(consul.agent(), "web", "users");
    peers::wait_for_app(caller.listen, "/", "users-1");
    let domain = consul.agent().get("/v1/agent/connect/ca/roots").json()["TrustDomain"].as_str().unwrap().to_owned();
    let id = format!("spiffe://{domain}/ns/default/dc/dc1/svc/users");
    let envoy = peers::Envoy::before(consul.agent(), "users", app.address());
    let through = peers::Envoy::toward(consul.agent(), "web", envoy.listen, &id, true);
    peers::wait_for_app(through.listen, "/", "users-1");
    drop(built_in);
}

#[test]
fn a_restarted_consul_is_empty_and_on_the_same_port() {
    let mut consul = Consul::start();
    let agent = consul.agent();
    agent.register(&serde_json::json!({ "ID": "a", "Name": "a", "Address": "127.0.0.1", "Port": 1 }));
    consul.kill();
    assert!(Ask::get("/v1/status/leader").host("x").try_send(agent.address).is_err());
    consul.restart();
    assert!(agent.service("a").is_none());
    let before = agent.get("/v1/agent/connect/ca/roots").json()["ActiveRootID"].clone();
    consul.rotate_root();
    crate::support::eventually(Duration::from_secs(10), "there is a new root", || {
        (agent.get("/v1/agent/connect/ca/roots").json()["ActiveRootID"] != before).then_some(())
    });
}

/// What cargo builds for release is optimised by the profile in benches/pgo; whatever else it compiles, and what another
/// compiler does, is not touched.
#[test]
fn release_code_alone_is_built_by_the_profile_of_its_compiler() {
    let home = Path::new(env!("CARGO_MANIFEST_DIR"));
    let version = std::fs::read_to_string(home.join("benches/pgo/release.rustc")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (rustc, root) = (folder.path().join("rustc"), folder.path().join("a b"));
    let says = "#!/bin/sh\nif [ \"$1\" = -vV ]; then echo \"release: $VERSION\"; else echo \"$*\"; fi\n";
    std::fs::write(&rustc, says).unwrap();
    std::fs::set_permissions(&rustc, PermissionsExt::from_mode(0o755)).unwrap();
    let compiled = |version: &str, own: bool, args: &[&str], into: &str| {
        let into = root.join(into);
        std::fs::create_dir_all(&into).unwrap();
        let mut command = Command::new(home.join(".cargo/rustc-profiled"));
        if own {
            command.arg(home.join(".cargo/rustc-static"));
        }
        command.arg(&rustc).args(["--crate-name", "http"]).args(args).arg("--out-dir").arg(into).args(["-L", "x"]);
        let output = command.env("VERSION", version).env_remove("PGO").output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let (version, optimised) = (version.trim(), ["-C", "opt-level=3"]);
    for own in [false, true] {
        for into in ["target/release/deps", "target/x86_64-unknown-linux-gnu/release/deps"] {
            let said = compiled(version, own, &optimised, into);
            let (_, profile) = said.split_once("-C profile-use=").unwrap_or_else(|| panic!("no profile: {said}"));
            let profile = profile.split(".profdata").next().unwrap().to_owned() + ".profdata";
            // LLVM's magic number of an indexed profile.
            assert_eq!(std::fs::read(&profile).unwrap()[..8], *b"\xfflprofi\x81", "{said}");
        }
    }
    for (version, args, into) in [
        ("1.0.0", &optimised[..], "target/other/release/deps"),
        (version, &optimised, "target/debug/deps"),
        (version, &optimised, "target/profiling/deps"),
        (version, &optimised, "target/release/build/http-1"),
        (version, &[], "target/release/deps"),
        (version, &["--crate-type", "proc-macro", "-C", "opt-level=3"], "target/release/deps"),
    ] {
        let said = compiled(version, false, args, into);
        assert!(said.starts_with("--crate-name http") && !said.contains("profile"), "{said}");
    }
}

/// No figure of a benchmark is published without its run.
#[test]
fn the_published_figures_are_those_of_their_run() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let told = Command::new("python3")
        .args(["-B", "benches/mesh/mesh.py", "--table", "benches/mesh/results/main.json"])
        .current_dir(here)
        .output()
        .unwrap();
    assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
    let page = std::fs::read_to_string(here.join("docs/performance.md")).unwrap();
    let tables = String::from_utf8(told.stdout).unwrap();
    let rows: Vec<&str> = tables.lines().filter(|line| line.starts_with('|')).collect();
    assert!(rows.len() > 50, "{tables}");
    for row in rows {
        assert!(page.lines().any(|line| line == row), "docs/performance.md lacks {row}");
    }
}
