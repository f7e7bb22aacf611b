//! `outrigger demo`: the first thing that a newcomer runs.

use std::process::Command;
use std::time::Duration;

use crate::support::{Process, SOON, eventually};

fn demo(arguments: &[&str]) -> Process {
    let mut command = Command::new(env!("CARGO_BIN_EXE_outrigger"));
    command.arg("demo").args(arguments);
    Process::start("outrigger demo", command)
}

/// The processes whose parent is that one.
fn children(pid: u32) -> Vec<String> {
    let output = Command::new("ps").args(["-o", "pid=", "--ppid", &pid.to_string()]).output().expect("ps is installed");
    String::from_utf8_lossy(&output.stdout).split_whitespace().map(str::to_owned).collect()
}

#[test]
fn the_demo_loses_no_request_when_an_instance_is_killed() {
    let (code, said) = demo(&[]).finish(Duration::from_mins(1));
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("0 lost"), "{said}");
    assert!(said.contains("users-1") && said.contains("users-2"), "{said}");
}

#[test]
fn a_kept_demo_prints_what_to_try_and_leaves_nothing_behind() {
    let mut demo = demo(&["--keep-running"]);
    demo.wait_for_log(Duration::from_secs(30), "curl ");
    let started = children(demo.pid());
    assert!(started.len() >= 6, "a registry and a sidecar for each of five instances: {started:?}");
    demo.signal("INT");
    assert!(demo.wait(SOON).success());
    eventually(SOON, "every child is gone", || {
        started.iter().all(|pid| !std::path::Path::new(&format!("/proc/{pid}")).exists()).then_some(())
    });
}
