//! A registry to test against: a real `consul agent -dev`, or our own `outrigger registry`. `Agent` is what both offer.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use serde_json::{Value, json};

use super::client::{Answer, Ask};
use super::{Process, SOON, eventually, fixed_port};

/// Consul's HTTP API at one address.
#[derive(Debug, Clone, Copy)]
pub struct Agent {
    pub address: SocketAddr,
}

impl Agent {
    pub fn url(self) -> String {
        format!("http://{}", self.address)
    }

    #[track_caller]
    pub fn get(self, path: &str) -> Answer {
        Ask::get(path).host("consul").send(self.address)
    }

    #[track_caller]
    pub fn put(self, path: &str, body: &Value) -> Answer {
        Ask::new("PUT", path).host("consul").body(body.to_string()).send(self.address)
    }

    /// Registers a plain instance with no sidecar, passing.
    #[track_caller]
    pub fn register(self, body: &Value) {
        let answer = self.put("/v1/agent/service/register", body);
        assert_eq!(answer.status, 200, "{}", answer.text());
    }

    #[track_caller]
    pub fn deregister(self, id: &str) {
        assert_eq!(self.put(&format!("/v1/agent/service/deregister/{id}"), &Value::Null).status, 200);
    }

    /// The agent's record of one instance, if it has it.
    pub fn service(self, id: &str) -> Option<Value> {
        let answer = Ask::get(&format!("/v1/agent/service/{id}")).host("consul").try_send(self.address).ok()?;
        (answer.status == 200).then(|| answer.json())
    }

    /// The mesh instances of a service: id and the worst of its checks.
    pub fn instances(self, service: &str) -> Vec<(String, String)> {
        let path = format!("/v1/health/connect/{service}");
        let Ok(answer) = Ask::get(&path).host("consul").try_send(self.address) else { return Vec::new() };
        if answer.status != 200 {
            return Vec::new();
        }
        let entries = answer.json();
        let mut found: Vec<_> = entries.as_array().into_iter().flatten().map(instance).collect();
        found.sort();
        found
    }

    pub fn status_of(self, service: &str, id: &str) -> Option<String> {
        self.instances(service).into_iter().find(|(have, _)| have == id).map(|(_, status)| status)
    }

    #[track_caller]
    pub fn wait_for(self, service: &str, id: &str, status: &str) {
        eventually(SOON, &format!("{id} is {status} in {service}"), || {
            (self.status_of(service, id).as_deref() == Some(status)).then_some(())
        });
    }
}

fn instance(entry: &Value) -> (String, String) {
    let id = entry["Service"]["ID"].as_str().unwrap_or_default().to_owned();
    let checks: Vec<&str> =
        entry["Checks"].as_array().into_iter().flatten().filter_map(|c| c["Status"].as_str()).collect();
    let worst = ["critical", "warning"].into_iter().find(|status| checks.contains(status)).unwrap_or("passing");
    (id, worst.to_owned())
}

/// A plain instance's registration body, passing, with no heartbeat.
pub fn plain_instance(service: &str, id: &str, to: SocketAddr) -> Value {
    json!({ "ID": id, "Name": service, "Address": to.ip().to_string(), "Port": to.port() })
}

/// The token of `Consul::with_acls` that may do everything.
pub const MANAGEMENT: &str = "11111111-2222-3333-4444-555555555555";

impl Agent {
    /// As `put` or another method, with the management token.
    #[track_caller]
    pub fn manage(self, method: &str, path: &str, body: &Value) -> Value {
        let ask = Ask::new(method, path).host("consul").header("x-consul-token", MANAGEMENT).body(body.to_string());
        let answer = ask.send(self.address);
        assert_eq!(answer.status, 200, "{method} {path}: {}", answer.text());
        serde_json::from_str(&answer.text()).unwrap_or(Value::Null)
    }

    /// What a sidecar of `service` needs, and nothing more: the secret of a new token.
    #[track_caller]
    pub fn token_for(self, service: &str) -> String {
        self.token(
            service,
            &format!(
                "service \"{service}\" {{ policy = \"write\" }}\nservice_prefix \"\" {{ policy = \"read\" }}\n\
             node_prefix \"\" {{ policy = \"read\" }}"
            ),
        )
    }

    /// The secret of a new token with these rules.
    #[track_caller]
    pub fn token(self, name: &str, rules: &str) -> String {
        self.manage("PUT", "/v1/acl/policy", &json!({ "Name": name, "Rules": rules }));
        let made = self.manage("PUT", "/v1/acl/token", &json!({ "Policies": [{ "Name": name }] }));
        made["SecretID"].as_str().unwrap().to_owned()
    }

    /// Makes an intention; its id.
    #[track_caller]
    pub fn intend(self, source: &str, destination: &str, action: &str) -> String {
        let body = json!({ "SourceName": source, "DestinationName": destination, "Action": action });
        self.manage("POST", "/v1/connect/intentions", &body)["ID"].as_str().unwrap().to_owned()
    }

    #[track_caller]
    pub fn forget_intention(self, id: &str) {
        self.manage("DELETE", &format!("/v1/connect/intentions/{id}"), &Value::Null);
    }
}

/// The path of a Consul binary: `TEST_CONSUL`, or what `tests/support/get-consul` finds or fetches.
pub fn consul_binary() -> PathBuf {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| {
        if let Some(path) = std::env::var_os("TEST_CONSUL") {
            return path.into();
        }
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/get-consul");
        let output = Command::new(script).output().expect("tests/support/get-consul can be run");
        let said = String::from_utf8_lossy(&output.stdout);
        let path = said.lines().last().unwrap_or_default();
        assert!(output.status.success(), "no Consul: {}", String::from_utf8_lossy(&output.stderr));
        path.into()
    })
    .clone()
}

/// A real Consul in memory. `kill` and `restart` keep its ports.
pub struct Consul {
    ports: [u16; 4],
    options: Vec<String>,
    process: Process,
}

impl Consul {
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// `options` are further arguments of `consul agent`.
    pub fn start_with(options: &[&str]) -> Self {
        let options: Vec<String> = options.iter().map(|option| (*option).to_owned()).collect();
        // A port may be taken between the look and the start, by a test beside this one.
        for _ in 0..5 {
            let ports = [fixed_port(), fixed_port(), fixed_port(), fixed_port()];
            let mut process = launch(ports, &options);
            if leads(Agent { address: ([127, 0, 0, 1], ports[0]).into() }, &mut process) {
                return Self { ports, options, process };
            }
        }
        panic!("no Consul came up in five tries");
    }

    /// With ACLs, and deny as their default; `MANAGEMENT` may do everything.
    pub fn with_acls() -> Self {
        let acl = format!("acl {{ enabled = true default_policy = \"deny\" tokens {{ master = \"{MANAGEMENT}\" }} }}");
        let consul = Self::start_with(&["-hcl", &acl]);
        // The master token is there a moment after the leader.
        eventually(SOON, "Consul takes its master token", || {
            let ask = Ask::get("/v1/acl/tokens").host("consul").header("x-consul-token", MANAGEMENT);
            (ask.try_send(consul.agent().address).ok()?.status == 200).then_some(())
        });
        consul
    }

    pub fn agent(&self) -> Agent {
        Agent { address: ([127, 0, 0, 1], self.ports[0]).into() }
    }

    pub fn dns(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.ports[3]).into()
    }

    /// As by `kill -9`: a dev agent forgets everything.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Up again on the same ports, empty.
    pub fn restart(&mut self) {
        self.process.kill();
        let agent = self.agent();
        eventually(SOON, "Consul comes back on its ports", || {
            self.process = launch(self.ports, &self.options);
            leads(agent, &mut self.process).then_some(())
        });
    }

    /// Replaces the CA's root, as an operator would.
    pub fn rotate_root(&self) {
        let key = rcgen::KeyPair::generate().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key.pem");
        std::fs::write(&path, key.serialize_pem()).unwrap();
        // Consul 1.8 reads SEC1 keys only.
        let sec1 = Command::new("openssl").args(["ec", "-in"]).arg(&path).output().expect("openssl is installed");
        let config = json!({ "Provider": "consul", "Config": {
            "LeafCertTTL": "72h", "PrivateKey": String::from_utf8_lossy(&sec1.stdout) } });
        let answer = self.agent().put("/v1/connect/ca/configuration", &config);
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
}

fn launch(ports: [u16; 4], options: &[String]) -> Process {
    let mut command = Command::new(consul_binary());
    command
        .args(["agent", "-dev", "-bind=127.0.0.1", "-client=127.0.0.1", "-log-level=warn"])
        .args([format!("-node=t{}", ports[0]), format!("-http-port={}", ports[0])])
        .args([format!("-serf-lan-port={}", ports[1]), format!("-server-port={}", ports[2])])
        .args([format!("-dns-port={}", ports[3]), "-grpc-port=-1".into(), "-serf-wan-port=-1".into()])
        .args(options);
    Process::start("consul", command)
}

/// Waits until the agent is its own leader and has made its CA; false where it ended instead.
fn leads(agent: Agent, process: &mut Process) -> bool {
    eventually(SOON, "Consul has a leader and a CA", || {
        if !process.alive() {
            return Some(false);
        }
        let ask = |path: &str| Ask::get(path).host("consul").try_send(agent.address).ok();
        let leader = ask("/v1/status/leader")?;
        let roots = ask("/v1/agent/connect/ca/roots")?;
        (leader.status == 200
            && leader.text().trim().len() > 2
            && roots.status == 200
            && roots.text().contains("RootCert"))
        .then_some(true)
    })
}

/// Our own `outrigger registry`.
pub struct Embedded {
    agent: Agent,
    process: Process,
}

impl Embedded {
    pub fn start() -> Self {
        Self::start_at("127.0.0.1:0")
    }

    pub fn start_at(listen: &str) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_outrigger"));
        command.args(["registry", "--listen", listen]);
        let process = Process::start("outrigger registry", command);
        let told: Value = serde_json::from_str(&process.next_line(Duration::from_secs(5))).expect("one JSON line");
        let address = told["listen"].as_str().and_then(|listen| listen.parse().ok());
        Self { agent: Agent { address: address.expect("`listen` is an address") }, process }
    }

    pub fn agent(&self) -> Agent {
        self.agent
    }

    pub fn kill(&mut self) {
        self.process.kill();
    }
}
