//! One sidecar: a config built by the test, a real process, and what it tells of itself.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::certs::Authority;
use super::metrics::Scrape;
use super::{Agent, App, Ask, Process, SOON, access, eventually};

/// A sidecar's config, not yet started. What is not set is what a user would get, but for ports at 0 and short times.
pub struct Builder {
    name: String,
    config: Value,
    environment: Vec<(String, String)>,
    command: Vec<String>,
    open_files: Option<String>,
    program: PathBuf,
    folder: TempDir,
}

pub struct Sidecar {
    pub process: Process,
    name: String,
    config: Value,
    program: PathBuf,
    ready: Value,
    folder: TempDir,
}

impl Sidecar {
    pub fn of(service: &str) -> Builder {
        let folder = tempfile::tempdir().unwrap();
        let config = json!({
            "service": { "name": service, "id": format!("{service}-{:08x}", fastrand::u32(..)), "port": 9 },
            "inbound": { "listen": "127.0.0.1:0" },
            "outbound": { "listen": "127.0.0.1:0", "upstreams": [] },
            "admin": { "listen": "127.0.0.1:0" },
            "metrics": { "listen": "127.0.0.1:0" },
            "telemetry": { "access_log": { "path": folder.path().join("access.log"), "format": "json" } },
            "shutdown": { "grace": "10s" },
        });
        Builder {
            name: service.to_owned(),
            config,
            environment: Vec::new(),
            command: Vec::new(),
            program: env!("CARGO_BIN_EXE_outrigger").into(),
            open_files: None,
            folder,
        }
    }

    pub fn id(&self) -> &str {
        self.config["service"]["id"].as_str().unwrap()
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn config_path(&self) -> PathBuf {
        self.folder.path().join("outrigger.yaml")
    }

    pub fn config(&self) -> &Value {
        &self.config
    }

    /// The ready file's content; `Null` before it is written.
    pub fn ready(&self) -> &Value {
        &self.ready
    }

    pub fn inbound(&self) -> SocketAddr {
        self.bound("inbound")
    }

    pub fn outbound(&self) -> SocketAddr {
        self.bound("outbound")
    }

    pub fn admin(&self) -> SocketAddr {
        self.bound("admin")
    }

    pub fn metrics_address(&self) -> SocketAddr {
        self.bound("metrics")
    }

    /// The port of its own of an upstream.
    #[track_caller]
    pub fn upstream(&self, service: &str) -> SocketAddr {
        self.ready["upstreams"][service].as_str().and_then(|a| a.parse().ok()).expect("the upstream has a port")
    }

    #[track_caller]
    fn bound(&self, key: &str) -> SocketAddr {
        let address = self.ready[key].as_str().and_then(|address| address.parse().ok());
        address.unwrap_or_else(|| panic!("`{key}` is no address in the ready file: {}", self.ready))
    }

    #[track_caller]
    pub fn metrics(&self) -> Scrape {
        Scrape::of(self.metrics_address())
    }

    #[track_caller]
    pub fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.metrics().get(name, labels)
    }

    /// Waits until the metric is at least `least`.
    #[track_caller]
    pub fn wait_for_metric(&self, name: &str, labels: &[(&str, &str)], least: f64) {
        let what = format!("{name}{labels:?} of {} reaches {least}", self.name);
        eventually(SOON, &what, || (self.metric(name, labels) >= least).then_some(()));
    }

    /// Waits until nothing is under way: no request, no tunnel, no connection of the app.
    #[track_caller]
    pub fn comes_to_rest(&self) {
        eventually(SOON, "nothing is in flight", || {
            let busy = self.metric("outrigger_requests_in_flight", &[])
                + self.metric("outrigger_connections", &[("direction", "outbound")]);
            (busy < 0.5).then_some(())
        });
    }

    /// The serial number of the leaf in use, as `/certs` shows it.
    #[track_caller]
    pub fn serial(&self) -> String {
        let shown = Ask::get("/certs").host("localhost").send(self.admin());
        let serial = shown.json()["serial"].as_str().map(str::to_owned);
        serial.unwrap_or_else(|| panic!("/certs shows no serial: {}", shown.text()))
    }

    pub fn access(&self) -> Vec<Value> {
        access::lines(&self.folder.path().join("access.log"))
    }

    /// Waits for the access line of that request id.
    #[track_caller]
    pub fn access_of(&self, request_id: &str) -> Value {
        access::line_with(&self.folder.path().join("access.log"), "request_id", request_id)
    }

    /// Reads the ready file once it is there.
    #[track_caller]
    pub fn wait_ready(&mut self) {
        let path = self.folder.path().join("ready.json");
        let (name, process) = (&self.name, &mut self.process);
        self.ready = eventually(SOON, &format!("{name} is ready"), || {
            assert!(process.alive(), "{name} ended before it was ready:\n{}", process.log());
            serde_json::from_str(&std::fs::read_to_string(&path).ok()?).ok()
        });
    }

    /// SIGTERM, then waits for the end and gives the exit code.
    #[track_caller]
    pub fn stop(&mut self) -> Option<i32> {
        self.process.signal("TERM");
        self.process.wait(SOON).code()
    }

    /// Changes the config file (by rename, as an editor does) without any signal.
    pub fn rewrite(&self, change: impl FnOnce(&mut Value)) {
        let mut config = self.config.clone();
        change(&mut config);
        self.rewrite_text(&config.to_string());
    }

    pub fn rewrite_text(&self, text: &str) {
        let next = self.folder.path().join("next.yaml");
        std::fs::write(&next, text).unwrap();
        std::fs::rename(next, self.config_path()).unwrap();
    }

    /// Starts again with the same config and folder, as a supervisor would.
    #[track_caller]
    pub fn restart(self) -> Self {
        let Self { process, name, config, program, folder, .. } = self;
        drop(process);
        let _ = std::fs::remove_file(folder.path().join("ready.json"));
        let (environment, command) = (Vec::new(), Vec::new());
        let builder = Builder { name, config, environment, command, program, open_files: None, folder };
        let mut again = builder.start_unready();
        again.wait_ready();
        again
    }
}

impl Builder {
    /// Sets one key: `set("inbound.mtls", json!("off"))`.
    pub fn set(mut self, key: &str, value: Value) -> Self {
        let pointer = format!("/{}", key.replace('.', "/"));
        let (parent, leaf) = pointer.rsplit_once('/').unwrap();
        let mut place = &mut self.config;
        for part in parent.split('/').filter(|part| !part.is_empty()) {
            place = &mut place[part];
        }
        place[leaf] = value;
        self
    }

    pub fn consul(self, agent: Agent) -> Self {
        self.set("consul.address", json!(agent.url()))
    }

    /// The app, and the probe of its `/healthz`.
    pub fn app(self, app: &App) -> Self {
        self.set("service.port", json!(app.port())).set(
            "service.check",
            json!({ "http": "/healthz", "interval": "200ms", "timeout": "1s", "ttl": "3s", "unhealthy_after": 2 }),
        )
    }

    pub fn id(self, id: &str) -> Self {
        self.set("service.id", json!(id))
    }

    /// An identity of its own authority, by files.
    pub fn authority(self, authority: &Authority) -> Self {
        let leaf = authority.leaf(&self.name);
        self.set("identity", leaf.identity())
    }

    /// Declares an upstream with a port of its own; `more` is merged in.
    pub fn upstream(mut self, service: &str, more: Value) -> Self {
        let mut upstream = json!({ "service": service, "listen": "127.0.0.1:0" });
        for (key, value) in more.as_object().into_iter().flatten() {
            upstream[key] = value.clone();
        }
        self.config["outbound"]["upstreams"].as_array_mut().unwrap().push(upstream);
        self
    }

    pub fn env(mut self, key: &str, value: &str) -> Self {
        self.environment.push((key.to_owned(), value.to_owned()));
        self
    }

    /// The app as a child: `-- COMMAND ARGS…`.
    pub fn command(mut self, command: &[&str]) -> Self {
        self.command = command.iter().map(|word| (*word).to_owned()).collect();
        self
    }

    /// As under `ulimit LIMIT`: `-n 64`, `-Sn 500`.
    pub fn open_files(mut self, limit: &str) -> Self {
        self.open_files = Some(limit.to_owned());
        self
    }

    /// Another program than the product's own binary.
    pub fn program(mut self, program: &Path) -> Self {
        program.clone_into(&mut self.program);
        self
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Starts it and waits until it is ready.
    #[track_caller]
    pub fn start(self) -> Sidecar {
        let mut sidecar = self.start_unready();
        sidecar.wait_ready();
        sidecar
    }

    pub fn start_unready(self) -> Sidecar {
        let Self { name, config, environment, command, program, open_files, folder } = self;
        // JSON is YAML.
        std::fs::write(folder.path().join("outrigger.yaml"), config.to_string()).unwrap();
        let mut run = Command::new("sh");
        if let Some(limit) = open_files {
            run.args(["-c", &format!("ulimit {limit} && exec \"$0\" \"$@\"")]).arg(&program);
        } else {
            run = Command::new(&program);
        }
        run.args(["run", "-c"]).arg(folder.path().join("outrigger.yaml"));
        run.arg("--ready-file").arg(folder.path().join("ready.json")).current_dir(folder.path());
        run.envs(environment);
        if !command.is_empty() {
            run.arg("--").args(command);
        }
        let process = Process::start(&format!("sidecar of {name}"), run);
        Sidecar { process, name, config, program, ready: Value::Null, folder }
    }
}

/// Runs the binary to its end: exit code, stdout and stderr.
pub fn outrigger(arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_outrigger"));
    command.args(arguments);
    Process::start("outrigger", command).finish(Duration::from_secs(20))
}
