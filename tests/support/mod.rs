//! What the integration tests stand on: real processes, scripted apps and clients, and waiting for what can be seen.

pub mod access;
pub mod app;
pub mod certs;
pub mod client;
pub mod consul;
pub mod endpoint;
pub mod front;
pub mod exposed;
pub mod goaway;
pub mod h2c;
pub mod h2raw;
pub mod load;
pub mod lone;
pub mod metrics;
pub mod pair;
pub mod peers;
pub mod process;
pub mod python;
pub mod recorder;
pub mod redis;
pub mod sidecar;
pub mod strict;
pub mod tcp;

use std::fs::File;
use std::net::{TcpListener, UdpSocket};
use std::path::Path;
use std::sync::{Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

pub use app::App;
pub use client::{Answer, Ask};
pub use consul::{Agent, Consul, Embedded};
pub use exposed::Exposed;
pub use load::Load;
pub use pair::Pair;
pub use process::Process;
pub use recorder::Recorder;
pub use sidecar::Sidecar;
pub use tcp::{Script, TcpApp};

/// Long enough for a loaded machine; nothing waits this long when all is well.
pub const SOON: Duration = Duration::from_secs(15);

/// Asks `look` again and again until it gives a value; panics with `what` when `limit` is over.
#[track_caller]
pub fn eventually<T>(limit: Duration, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(start.elapsed() < limit, "not within {limit:?}: {what}");
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

/// Asks `look` for all of `span` and panics as soon as it is false: for what must not happen meanwhile.
#[track_caller]
pub fn throughout(span: Duration, what: &str, mut look: impl FnMut() -> bool) {
    let start = Instant::now();
    while start.elapsed() < span {
        assert!(look(), "after {:?} it no longer holds: {what}", start.elapsed());
        thread::sleep(Duration::from_millis(20));
    }
}

/// One background runtime for every scripted app and HTTP/2 client of the test binary.
pub fn runtime() -> tokio::runtime::Handle {
    static RUNTIME: OnceLock<tokio::runtime::Handle> = OnceLock::new();
    let started = RUNTIME.get_or_init(|| {
        let (tell, told) = std::sync::mpsc::channel();
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            tell.send(runtime.handle().clone()).unwrap();
            runtime.block_on(std::future::pending::<()>());
        });
        told.recv().unwrap()
    });
    started.clone()
}

/// A port free for TCP and UDP, below the range that the kernel hands out by itself, so that no client takes it between
/// now and its use by a program that cannot take port 0. It stays this process's until it ends: tests in other processes
/// get others.
pub fn fixed_port() -> u16 {
    static MINE: Mutex<Vec<File>> = Mutex::new(Vec::new());
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("ports");
    std::fs::create_dir_all(&folder).unwrap();
    loop {
        let port = fastrand::u16(12_000..32_000);
        let file = File::create(folder.join(port.to_string())).unwrap();
        if file.try_lock().is_err() {
            continue;
        }
        let tcp = TcpListener::bind(("127.0.0.1", port));
        let udp = UdpSocket::bind(("127.0.0.1", port));
        if tcp.is_ok() && udp.is_ok() {
            MINE.lock().unwrap().push(file);
            return port;
        }
    }
}
