//! Other people's clients and servers that come as Python packages: each a script of `tests/support/python`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Process, SOON};

/// Starts `tests/support/python/SCRIPT.py ARGUMENTS…`.
pub fn start(script: &str, arguments: &[&str]) -> Process {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/support/python/{script}.py"));
    let mut command = Command::new(interpreter());
    command.arg("-u").arg(path).args(arguments);
    Process::start(&format!("{script} {}", arguments.join(" ")), command)
}

/// A script's `server`, with the port that it prints first.
pub fn server(script: &str) -> (Process, SocketAddr) {
    let process = start(script, &["server"]);
    let port: u16 = process.next_line(SOON).trim().parse().expect("the server prints its port");
    (process, ([127, 0, 0, 1], port).into())
}

/// Runs a script's `client` against `address` and asserts that all its scenarios end well; their names.
#[track_caller]
pub fn client(script: &str, address: SocketAddr) -> Vec<String> {
    let (code, said) = start(script, &["client", &address.to_string()]).finish(3 * SOON);
    assert_eq!(code, Some(0), "{said}");
    said.lines().filter_map(|line| line.strip_prefix("ok ")).map(str::to_owned).collect()
}

fn interpreter() -> PathBuf {
    let path = std::env::var_os("TEST_PYTHON")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("target/test-venv/bin/python"), PathBuf::from);
    assert!(path.exists(), "no Python at {}: run tests/run once, it makes it", path.display());
    path
}
