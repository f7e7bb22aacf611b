//! One child process: its output kept and shown when the test fails, its end waited for with a limit, reaped on drop.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use super::eventually;

pub struct Process {
    name: String,
    child: Child,
    log: Arc<Mutex<String>>,
    stdout: Receiver<String>,
    readers: Vec<thread::JoinHandle<()>>,
}

impl Process {
    /// Starts `command` without the caller's `OUTRIGGER_*` and `CONSUL_*` variables.
    pub fn start(name: &str, mut command: Command) -> Self {
        for (key, _) in std::env::vars() {
            let ours = key.starts_with("OUTRIGGER_") || key.starts_with("CONSUL_") || key == "NOTIFY_SOCKET";
            // A variable that the test itself set on the command stays.
            if ours && !command.get_envs().any(|(set, _)| set == key.as_str()) {
                command.env_remove(key);
            }
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("starting {name}: {error}"));
        let log = Arc::new(Mutex::new(String::new()));
        let (tell, stdout) = channel();
        let (out, kept) = (child.stdout.take().unwrap(), log.clone());
        let out = thread::spawn(move || {
            each_line(out, |line| {
                keep(&kept, line);
                let _ = tell.send(line.to_owned());
            });
        });
        let (err, kept) = (child.stderr.take().unwrap(), log.clone());
        let err = thread::spawn(move || each_line(err, |line| keep(&kept, line)));
        Self { name: name.to_owned(), child, log, stdout, readers: vec![out, err] }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Resident bytes now.
    pub fn memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib: Option<u64> = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
        kib.expect("a living process has resident memory") * 1024
    }

    /// All output so far, stdout and stderr.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// The next line of stdout.
    #[track_caller]
    pub fn next_line(&self, limit: Duration) -> String {
        self.stdout
            .recv_timeout(limit)
            .unwrap_or_else(|_| panic!("{} printed no line on stdout in {limit:?}:\n{}", self.name, self.log()))
    }

    /// `TERM`, `HUP`, `KILL`, …
    pub fn signal(&self, signal: &str) {
        let sent = Command::new("kill").arg(format!("-{signal}")).arg(self.pid().to_string()).status();
        assert!(sent.is_ok_and(|status| status.success()), "sending SIG{signal} to {}", self.name);
    }

    /// `kill -9`, and reaps.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Still running?
    pub fn alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    #[track_caller]
    pub fn wait(&mut self, limit: Duration) -> ExitStatus {
        let what = format!("{} ends", self.name);
        eventually(limit, &what, || self.child.try_wait().unwrap())
    }

    /// Waits for the end and gives exit code and output.
    #[track_caller]
    pub fn finish(mut self, limit: Duration) -> (Option<i32>, String) {
        let status = self.wait(limit);
        // The readers end with the pipes, which a child of the process may hold a little longer.
        let read = || self.readers.iter().all(thread::JoinHandle::is_finished).then_some(());
        eventually(limit, &format!("all output of {} is read", self.name), read);
        (status.code(), self.log())
    }

    #[track_caller]
    pub fn wait_for_log(&self, limit: Duration, text: &str) {
        eventually(limit, &format!("{} logs `{text}`", self.name), || self.log().contains(text).then_some(()));
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if thread::panicking() {
            let log = self.log();
            let from = log.len().saturating_sub(20_000);
            let from = (from..log.len()).find(|at| log.is_char_boundary(*at)).unwrap_or(0);
            eprintln!("──── {} (pid {}) ────\n{}", self.name, self.pid(), &log[from..]);
        }
    }
}

fn keep(log: &Mutex<String>, line: &str) {
    let mut log = log.lock().unwrap();
    log.push_str(line);
    log.push('\n');
}

fn each_line(source: impl Read, mut act: impl FnMut(&str)) {
    for line in BufReader::new(source).split(b'\n').map_while(Result::ok) {
        act(&String::from_utf8_lossy(&line));
    }
}
