//! A real redis-server of a test's own.

use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{Process, SOON, eventually, fixed_port};

pub struct Redis {
    process: Process,
    port: u16,
    options: Vec<String>,
    folder: TempDir,
}

impl Redis {
    pub fn start() -> Self {
        Self::start_with(|_| Vec::new())
    }

    /// With further options, made in the server's own folder.
    #[track_caller]
    pub fn start_with(options: impl FnOnce(&Path) -> Vec<String>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (port, options) = (fixed_port(), options(folder.path()));
        let process = run(port, &options, folder.path());
        let redis = Self { process, port, options, folder };
        redis.wait();
        redis
    }

    pub fn address(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.port).into()
    }

    /// For the plugin's `redis`.
    pub fn settings(&self) -> Value {
        json!({ "host": "127.0.0.1", "port": self.port, "timeout": "500ms" })
    }

    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// On the same port, empty.
    pub fn restart(&mut self) {
        self.process.kill();
        self.process = run(self.port, &self.options, self.folder.path());
        self.wait();
    }

    /// `STOP` makes it silent, `CONT` lets it answer again.
    pub fn signal(&self, signal: &str) {
        self.process.signal(signal);
    }

    /// What `redis-cli` prints.
    #[track_caller]
    pub fn ask(&self, words: &[&str]) -> String {
        let asked = Command::new("redis-cli").args(["-p", &self.port.to_string()]).args(words).output().unwrap();
        String::from_utf8(asked.stdout).unwrap().trim().to_owned()
    }

    #[track_caller]
    fn wait(&self) {
        eventually(SOON, "redis-server accepts", || TcpStream::connect(self.address()).ok());
    }
}

fn run(port: u16, options: &[String], folder: &Path) -> Process {
    let program = ["/usr/bin/redis-server", "/usr/local/bin/redis-server"].map(PathBuf::from);
    let program = program.into_iter().find(|path| path.exists());
    let program = program.expect("no redis-server: run tests/run, which installs it, or apt-get install redis-server");
    let mut command = Command::new(program);
    command.current_dir(folder).args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]);
    if !options.iter().any(|option| option == "--port") {
        command.args(["--port", &port.to_string()]);
    }
    command.args(options);
    Process::start("redis-server", command)
}
