//! The demo's processes: a registry, and a sidecar beside each app. None outlives the demo.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

use super::http::Caller;
use super::services::Service;
use crate::lifecycle::Lifecycle;

pub(super) struct Mesh {
    tasks: Lifecycle,
    folder: Folder,
    registry: Option<(Child, SocketAddr)>,
    instances: Vec<Instance>,
}

/// One app with its sidecar.
struct Instance {
    id: &'static str,
    app: Service,
    sidecar: Child,
    ready: Ready,
}

/// What a sidecar's ready file tells.
#[derive(serde::Deserialize)]
struct Ready {
    inbound: SocketAddr,
    outbound: SocketAddr,
    admin: SocketAddr,
    metrics: SocketAddr,
}

/// A folder of our own, readable by nobody else (the CA's key is in it), gone when the demo is.
struct Folder(PathBuf);

impl Mesh {
    pub(super) fn new() -> anyhow::Result<Self> {
        Ok(Self { tasks: Lifecycle::new(), folder: Folder::new()?, registry: None, instances: Vec::new() })
    }

    pub(super) async fn start(&mut self) -> anyhow::Result<()> {
        eprintln!("making a certificate authority");
        self.make_ca().await?;
        eprintln!("starting the registry");
        let (child, address) = self.start_registry().await?;
        self.registry = Some((child, address));
        for id in INSTANCES {
            eprintln!("starting {id} and its sidecar");
            let instance = self.start_instance(id, None).await?;
            self.instances.push(instance);
        }
        Ok(())
    }

    /// `kill -9` of an instance, app and sidecar.
    pub(super) async fn kill(&mut self, id: &str) -> anyhow::Result<()> {
        let instance = self.instances.iter_mut().find(|instance| instance.id == id).context("no such instance")?;
        instance.app.kill();
        instance.sidecar.kill().await.with_context(|| format!("killing the sidecar of {id}"))
    }

    /// Starts a killed instance again, on its app's old port.
    pub(super) async fn restart(&mut self, id: &str) -> anyhow::Result<()> {
        let at = self.instances.iter().position(|instance| instance.id == id).context("no such instance")?;
        let address = self.instances[at].app.address;
        self.instances[at] = self.start_instance(self.instances[at].id, Some(address)).await?;
        Ok(())
    }

    /// Where the edge-facing app listens; a port that refuses before `start`.
    pub(super) fn web_address(&self) -> SocketAddr {
        let web = self.instances.iter().find(|instance| instance.id == WEB);
        web.map_or_else(|| SocketAddr::from(([127, 0, 0, 1], 0)), |web| web.app.address)
    }

    /// Lines for the user's shell.
    pub(super) fn to_try(&self) -> Vec<String> {
        let mut lines = Vec::new();
        if let Some(web) = self.instances.iter().find(|instance| instance.id == WEB) {
            lines.push(format!(
                "curl http://{}/                          # the edge: web asks users and orders",
                web.app.address
            ));
            lines.push(format!(
                "curl -H 'Host: users' http://{}/         # as web does, through its sidecar",
                web.ready.outbound
            ));
            lines.push(format!(
                "curl -x http://{} http://orders/         # the same, as an HTTP proxy",
                web.ready.outbound
            ));
            lines.push(format!("curl http://{}/endpoints                 # what web's sidecar knows", web.ready.admin));
            lines.push(format!("curl http://{}/metrics", web.ready.metrics));
        }
        if let Some(users) = self.instances.iter().find(|instance| instance.id == "users-2") {
            lines.push(format!(
                "curl http://{}/                          # refused: no client certificate",
                users.ready.inbound
            ));
        }
        if let Some((_, registry)) = &self.registry {
            lines.push(format!("curl http://{registry}/v1/health/connect/users?passing"));
        }
        lines
    }

    /// Asks every sidecar to stop, waits a little, and kills what is left.
    pub(super) async fn end(&mut self) {
        for instance in &self.instances {
            let admin = Caller::new(instance.ready.admin, &self.tasks);
            // A sidecar that is gone already cannot be asked.
            let _ = timeout(Duration::from_millis(500), admin.ask(http::Method::POST, "localhost", "/quit")).await;
        }
        let all = self.instances.iter_mut().map(|instance| instance.sidecar.wait());
        let _ = timeout(PATIENCE_AT_END, futures_util::future::join_all(all)).await;
        for instance in &mut self.instances {
            let _ = instance.sidecar.kill().await;
            instance.app.kill();
        }
        if let Some((registry, _)) = &mut self.registry {
            let _ = registry.kill().await;
        }
        self.tasks.kill();
    }

    async fn make_ca(&self) -> anyhow::Result<()> {
        let mut command = ourselves()?;
        command.args(["ca", "init"]).arg(self.folder.0.join("ca"));
        let output = command.output().await.context("running `outrigger ca init`")?;
        ensure!(output.status.success(), "`outrigger ca init`: {}", String::from_utf8_lossy(&output.stderr).trim());
        Ok(())
    }

    async fn start_registry(&self) -> anyhow::Result<(Child, SocketAddr)> {
        #[derive(serde::Deserialize)]
        struct Told {
            listen: SocketAddr,
        }
        let mut command = ourselves()?;
        command.args(["registry", "--listen", "127.0.0.1:0"]);
        command.stdout(Stdio::piped()).stderr(self.log_of("registry")?);
        let mut child = command.spawn().context("starting `outrigger registry`")?;
        let stdout = child.stdout.take().context("the registry's stdout is piped")?;
        let mut lines = BufReader::new(stdout).lines();
        let line = timeout(PATIENCE, lines.next_line()).await.context("the registry told no address in time")?;
        let line = line.context("reading what the registry tells")?;
        let told: Told = serde_json::from_str(&line.unwrap_or_default())
            .with_context(|| format!("the registry told no address{}", self.tail_of("registry")))?;
        // Its pipe has to stay open while it runs.
        self.tasks.spawn("demo-registry-output", async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Ok((child, told.listen))
    }

    /// `at`: where its app listened before.
    async fn start_instance(&self, id: &'static str, at: Option<SocketAddr>) -> anyhow::Result<Instance> {
        let at = at.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 0)));
        let listener = TcpListener::bind(at).await.with_context(|| format!("binding the app {id} at {at}"))?;
        let address = listener.local_addr().context("asking for the app's port")?;
        if id == WEB {
            // web needs its sidecar's port, and the sidecar needs web's, which is bound already.
            let (sidecar, ready) = self.start_sidecar(id, address).await?;
            let app = Service::web(id, listener, ready.outbound)?;
            return Ok(Instance { id, app, sidecar, ready });
        }
        let app = Service::leaf(id, listener)?;
        let (sidecar, ready) = self.start_sidecar(id, address).await?;
        Ok(Instance { id, app, sidecar, ready })
    }

    async fn start_sidecar(&self, id: &str, app: SocketAddr) -> anyhow::Result<(Child, Ready)> {
        let (_, registry) = self.registry.as_ref().context("the registry is started first")?;
        let config = self.folder.0.join(format!("{id}.yaml"));
        let ready = self.folder.0.join(format!("{id}.ready"));
        let _ = fs::remove_file(&ready);
        fs::write(&config, config_of(id, app, *registry, &self.folder.0.join("ca"))).context("writing a config")?;
        let mut command = ourselves()?;
        command.args(["run", "-c"]).arg(&config).arg("--ready-file").arg(&ready);
        command.stdout(Stdio::null()).stderr(self.log_of(id)?);
        let mut child = command.spawn().with_context(|| format!("starting the sidecar of {id}"))?;
        let wait = async {
            loop {
                if let Ok(text) = fs::read(&ready) {
                    return serde_json::from_slice(&text).context("reading a ready file");
                }
                if let Some(status) = child.try_wait().context("looking after a sidecar")? {
                    bail!("the sidecar of {id} ended with {status}{}", self.tail_of(id));
                }
                sleep(Duration::from_millis(10)).await;
            }
        };
        let told = timeout(PATIENCE, wait).await;
        let told = told.with_context(|| format!("the sidecar of {id} is not ready in time{}", self.tail_of(id)))??;
        Ok((child, told))
    }

    fn log_of(&self, id: &str) -> anyhow::Result<fs::File> {
        let path = self.folder.0.join(format!("{id}.log"));
        let file = fs::OpenOptions::new().create(true).append(true).open(&path);
        file.with_context(|| format!("opening {}", path.display()))
    }

    /// The last lines of a log, for an error's text.
    fn tail_of(&self, id: &str) -> String {
        let text = fs::read_to_string(self.folder.0.join(format!("{id}.log"))).unwrap_or_default();
        let lines: Vec<&str> = text.lines().rev().take(5).collect();
        lines.iter().rev().fold(String::new(), |all, line| all + "\n  " + line)
    }
}

impl Folder {
    fn new() -> anyhow::Result<Self> {
        let name = format!("outrigger-demo-{}-{:08x}", std::process::id(), fastrand::u32(..));
        let path = std::env::temp_dir().join(name);
        // Fails where it exists: nobody can have laid it out for us.
        fs::DirBuilder::new().mode(0o700).create(&path).with_context(|| format!("making {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Our own binary: killed when dropped, deaf to the terminal's Ctrl-C (which is ours to hear), without our settings.
fn ourselves() -> anyhow::Result<Command> {
    let mut command = Command::new(std::env::current_exe().context("finding our own program")?);
    command.stdin(Stdio::null()).kill_on_drop(true).process_group(0);
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("OUTRIGGER_") || text.starts_with("CONSUL_") || text == "NOTIFY_SOCKET" {
            command.env_remove(&name);
        }
    }
    Ok(command)
}

fn config_of(id: &str, app: SocketAddr, registry: SocketAddr, ca: &Path) -> String {
    let service = id.split('-').next().unwrap_or(id);
    let upstreams = if id == WEB { "[{ service: users }, { service: orders }]" } else { "[]" };
    // web's app starts after its sidecar, whose port it needs; nobody looks web up, so it has no probe.
    let check = if id == WEB { "{ ttl: 5s }" } else { "{ http: /healthz, interval: 500ms, timeout: 1s, ttl: 5s }" };
    format!(
        "service:\n  name: {service}\n  id: {id}\n  port: {port}\n  check: {check}\n\
         consul: {{ address: \"http://{registry}\" }}\n\
         identity: {{ ca: {{ dir: \"{ca}\" }} }}\n\
         inbound: {{ listen: 127.0.0.1:0 }}\n\
         outbound: {{ listen: 127.0.0.1:0, upstreams: {upstreams} }}\n\
         admin: {{ listen: 127.0.0.1:0 }}\n\
         metrics: {{ listen: 127.0.0.1:0 }}\n\
         shutdown: {{ grace: 2s }}\n",
        port = app.port(),
        ca = ca.display(),
    )
}

const WEB: &str = "web-1";
const INSTANCES: [&str; 5] = ["users-1", "users-2", "orders-1", "orders-2", WEB];
const PATIENCE: Duration = Duration::from_secs(15);
const PATIENCE_AT_END: Duration = Duration::from_secs(5);
