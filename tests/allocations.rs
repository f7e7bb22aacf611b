//! What a request costs in allocations: a sidecar or a pair on kept connections, counted in the processes of the sidecars
//! alone, and held to the numbers below. Counts do not depend on the machine's load, so a dearer path fails the suite.
//!
//! The binary is a sidecar itself: started with `COUNTED` set it runs outrigger under a counting allocator, and tells the
//! count on the socket that the variable names. `docs/request-path.md` says how to change a number.
#![allow(clippy::unwrap_used, reason = "a test may")]
#![allow(clippy::disallowed_methods, reason = "the test process has no lifecycle to own its tasks")]

use std::alloc::System;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::json;
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

use support::certs::Authority;
use support::client::Connection;
use support::sidecar::{Builder, Sidecar};
use support::{App, Ask, Embedded};

#[allow(clippy::needless_pass_by_value, reason = "`json!(…)` as an argument reads better than `&json!(…)`")]
#[allow(dead_code, unused_imports, reason = "a kit; not every test uses every tool")]
mod support;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Allocations of a GET with an answer of 1 KiB, by process. The gate fails when one is passed by more than a twentieth,
/// and when it is undercut by more than that, so that what was won stays won.
const HOP: &[(&str, f64)] = &[("web", 7.1)];
const PAIR_HTTP1: &[(&str, f64)] = &[("web", 10.1), ("users", 15.3)];
const PAIR_HTTP2: &[(&str, f64)] = &[("web", 15.1), ("users", 18.4)];
const HOP_POST: &[(&str, f64)] = &[("web", 12.1)];

const TOLERANCE: f64 = 0.05;
const REQUESTS: u64 = 2000;

fn main() -> ExitCode {
    if let Some(socket) = std::env::var_os(COUNTED) {
        tell_counts(Path::new(&socket));
        return outrigger::cli::main();
    }
    // The protocol of test runners: names on request, one by name, else all of them.
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let has = |flag: &str| arguments.iter().any(|argument| argument == flag);
    if has("--list") {
        if !has("--ignored") {
            for (name, _) in TESTS {
                println!("{name}: test");
            }
        }
        return ExitCode::SUCCESS;
    }
    let wanted = |name: &str| {
        let mut filters = arguments.iter().filter(|argument| !argument.starts_with('-')).peekable();
        filters.peek().is_none()
            || filters.any(|filter| if has("--exact") { name == filter } else { name.contains(filter.as_str()) })
    };
    for (name, test) in TESTS.iter().filter(|(name, _)| wanted(name)) {
        test();
        println!("test {name} ... ok");
    }
    ExitCode::SUCCESS
}

type Test = (&'static str, fn());

const TESTS: &[Test] = &[
    ("a_plain_hop_allocates_no_more_than_it_did", hop),
    ("a_post_over_a_plain_hop_allocates_no_more_than_it_did", hop_post),
    ("a_pair_over_http1_allocates_no_more_than_it_did", pair_http1),
    ("a_pair_over_http2_allocates_no_more_than_it_did", pair_http2),
];

fn hop() {
    let (registry, authority, app) = (Embedded::start(), Authority::new("mesh.test"), App::start("users-1"));
    let upstream = json!({ "mtls": "off", "endpoints": [app.address().to_string()] });
    let web = Counting::start(sidecar("web", &registry, &authority).upstream("users", upstream));
    measure("a plain hop, HTTP/1.1", &[&web], &get(), HOP);
}

fn hop_post() {
    let (registry, authority, app) = (Embedded::start(), Authority::new("mesh.test"), App::start("users-1"));
    let upstream = json!({ "mtls": "off", "endpoints": [app.address().to_string()] });
    let web = Counting::start(sidecar("web", &registry, &authority).upstream("users", upstream));
    // The app reads the body: one that answers without it may close its connection, and ours ends with it.
    let ask = Ask::new("POST", "/echo").host("users").body(vec![b'x'; 1024]);
    measure("a plain hop, HTTP/1.1, POST of 1 KiB", &[&web], &ask, HOP_POST);
}

fn pair_http1() {
    pair("http", "a pair with mTLS, HTTP/1.1 between", PAIR_HTTP1);
}

fn pair_http2() {
    pair("http2", "a pair with mTLS, HTTP/2 between", PAIR_HTTP2);
}

/// Endpoints that are listed in the config say nothing of themselves: between the two is what `protocol` says.
fn pair(protocol: &str, what: &str, limits: &[(&str, f64)]) {
    let (registry, authority, app) = (Embedded::start(), Authority::new("mesh.test"), App::start("users-1"));
    let users = Counting::start(sidecar("users", &registry, &authority).app(&app));
    let upstream =
        json!({ "mtls": "required", "protocol": protocol, "endpoints": [users.sidecar.inbound().to_string()] });
    let web = Counting::start(sidecar("web", &registry, &authority).upstream("users", upstream));
    measure(what, &[&web, &users], &get(), limits);
}

fn get() -> Ask {
    Ask::get("/bytes/1024").host("users").header("User-Agent", "count/1").header("Accept", "*/*")
}

/// All defaults: no access log.
fn sidecar(service: &str, registry: &Embedded, authority: &Authority) -> Builder {
    support::pair::sidecar(service, registry.agent(), authority).set("telemetry", json!({}))
}

/// Counts what `REQUESTS` requests on one kept connection cost in each process: the least of three runs, since what the
/// control plane does meanwhile only adds to it.
#[track_caller]
fn measure(what: &str, sidecars: &[&Counting], ask: &Ask, limits: &[(&str, f64)]) {
    let mut client = Connection::to(sidecars[0].sidecar.upstream("users")).unwrap();
    let mut run = |requests: u64| {
        for _ in 0..requests {
            assert_eq!(client.ask(ask).unwrap().status, 200);
        }
    };
    run(200);
    let mut least = vec![[f64::MAX; 2]; sidecars.len()];
    for _ in 0..3 {
        let before: Vec<_> = sidecars.iter().map(|sidecar| sidecar.count()).collect();
        run(REQUESTS);
        for ((sidecar, before), least) in sidecars.iter().zip(before).zip(&mut least) {
            let now = sidecar.count();
            for at in 0..2 {
                least[at] = least[at].min((now[at] - before[at]) as f64 / REQUESTS as f64);
            }
        }
    }
    let mut failed = false;
    for ((name, limit), [allocations, bytes]) in limits.iter().zip(least) {
        println!("{what}: {name} {allocations:.2} allocations, {bytes:.0} bytes a request (gate {limit})");
        failed |= (allocations - limit).abs() > limit * TOLERANCE;
    }
    assert!(!failed, "{what}: not within {TOLERANCE} of the gate; docs/request-path.md says what to do");
}

/// A sidecar whose allocations are counted.
struct Counting {
    sidecar: Sidecar,
    socket: PathBuf,
}

impl Counting {
    fn start(builder: Builder) -> Self {
        let socket = builder.folder().join("counts");
        let program = std::env::current_exe().unwrap();
        let sidecar = builder.program(&program).env(COUNTED, socket.to_str().unwrap()).start();
        Self { sidecar, socket }
    }

    /// Allocations, reallocations included, and bytes so far.
    fn count(&self) -> [u64; 2] {
        let mut told = String::new();
        UnixStream::connect(&self.socket).unwrap().read_to_string(&mut told).unwrap();
        let mut numbers = told.split_whitespace().map(|number| number.parse().unwrap());
        [numbers.next().unwrap(), numbers.next().unwrap()]
    }
}

fn tell_counts(socket: &Path) {
    let listener = UnixListener::bind(socket).unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let stats = ALLOCATOR.stats();
            let _ = write!(stream, "{} {}", stats.allocations + stats.reallocations, stats.bytes_allocated);
        }
    });
}

const COUNTED: &str = "COUNTED_SIDECAR";
