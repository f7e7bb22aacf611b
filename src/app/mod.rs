//! Builds every part from `Config`; order of start and stop. The only module that knows everybody.

mod access;
mod child;
mod data_path;
mod open_files;
mod ready;
mod reload;
mod plugins;
mod routes;
mod settings;
mod stop;
mod upstreams;
mod view;
mod watches;
mod zone;

use std::process::ExitCode;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::sync::mpsc;

use crate::admin::{self, Command, Phase, Status, View};
use crate::config::{Config, RunOptions};
use crate::consul::{self, Snapshot};
use crate::identity;
use crate::lifecycle::Lifecycle;
use crate::listen::{self, Bound};
use crate::published::Published;
use crate::registry::consul::agent::Agent;
use crate::registry::probe::Probe;
use crate::telemetry::Metrics;
use crate::worker::Workers;
use data_path::DataPath;
use open_files::OpenFiles;

/// Runs a sidecar until it is told to stop. The exit code is contract §1's.
pub fn run(config: Config, options: RunOptions) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error),
    };
    match runtime.block_on(live(config, options)) {
        Ok(code) => ExitCode::from(code),
        Err(error) => fail(&*error),
    }
}

fn fail(error: &(impl std::fmt::Display + ?Sized)) -> ExitCode {
    tracing::error!(%error, "cannot go on");
    ExitCode::FAILURE
}

/// Boxed so that any part's own error can be the one that ends the start.
type Failure = Box<dyn std::error::Error + Send + Sync>;

async fn live(config: Config, options: RunOptions) -> Result<u8, Failure> {
    // Before anything is started: a signal that comes early must not kill what was begun.
    let signals = stop::Signals::listen()?;
    if let Some(file) = &options.ready_file {
        ready::forget(file);
    }
    let open_files = OpenFiles::raise(config.inbound.limits.connections + config.outbound.limits.connections);
    let sockets = Sockets::bind(&config)?;
    let mut sidecar = Sidecar::build(config, &options, sockets)?;
    sidecar.start();
    Box::pin(sidecar.serve(&options, signals, &open_files)).await
}

/// Every listener bound, so that a port that is taken is found before anything is registered.
struct Sockets {
    inbound: Bound,
    outbound: Bound,
    upstreams: Vec<(crate::names::ServiceName, Bound)>,
    admin: TcpListener,
    metrics: TcpListener,
}

impl Sockets {
    fn bind(config: &Config) -> Result<Self, Failure> {
        let upstream = |upstream: &crate::config::UpstreamSettings| {
            let address = upstream.listen?;
            let name = format!("outbound.upstreams[{}].listen", upstream.service);
            Some(listen::bind(name, address).map(|bound| (upstream.service.clone(), bound)))
        };
        Ok(Self {
            inbound: listen::bind("inbound.listen", config.inbound.listen)?,
            outbound: listen::bind("outbound.listen", config.outbound.listen)?,
            upstreams: config.outbound.upstreams.iter().filter_map(upstream).collect::<Result<_, _>>()?,
            admin: listen::bind("admin.listen", config.admin)?.into_tokio()?,
            metrics: listen::bind("metrics.listen", config.metrics)?.into_tokio()?,
        })
    }
}

/// All parts of a running sidecar.
struct Sidecar {
    config: Config,
    status: Arc<Status>,
    view: Arc<View>,
    commands: mpsc::Receiver<Command>,
    metrics: Arc<Metrics>,
    identity: Arc<identity::Current>,
    client: consul::Client,
    snapshot: Option<Snapshot>,
    agent: Arc<Agent>,
    registration: Arc<Published<crate::registry::consul::agent::Registration>>,
    probe: Arc<Probe>,
    probing: Arc<Published<crate::registry::probe::Settings>>,
    data: DataPath,
    access: access::Access,
    /// Control tasks: watches, heartbeats, renewal, admin.
    control: Lifecycle,
    admin: Option<(TcpListener, TcpListener)>,
    addresses: ready::Addresses,
}

impl Sidecar {
    fn build(config: Config, options: &RunOptions, sockets: Sockets) -> Result<Self, Failure> {
        let metrics = Metrics::new();
        let upstreams = config.outbound.upstreams.iter().map(|upstream| watches::waits_for(&upstream.service));
        let intentions = access::enforced(&config).then(|| access::INTENTIONS.into());
        let own = [IDENTITY.into(), REGISTRATION.into()].into_iter().chain(intentions);
        let status = Arc::new(Status::starting(own.chain(upstreams)));
        let identity: Arc<identity::Current> = Arc::default();
        let client = consul::Client::new(config.consul.clone(), metrics.clone())?;
        let snapshot = config.snapshot.as_ref().map(Snapshot::new);
        let addresses =
            ready::Addresses::of(&config, &sockets, sockets.admin.local_addr()?, sockets.metrics.local_addr()?);
        let control = Lifecycle::new();
        let probing = Arc::new(Published::new(settings::probe(&config.service)));
        let probe = Arc::new(Probe::new(probing.clone()));
        let registration = settings::registration(&config, sockets.inbound.address);
        let registration = Arc::new(Published::new(registration));
        let agent = Arc::new(Agent::new(client.clone(), registration.clone(), probe.health(), metrics.clone()));
        let watches: Arc<crate::registry::Watches> = Arc::default();
        let watching = watches::Watching {
            client: client.clone(),
            snapshot: snapshot.clone(),
            metrics: metrics.clone(),
            status: status.clone(),
            watches: watches.clone(),
            control: control.clone(),
        };
        let for_access = watching.clone();
        let workers = Workers::start(config.workers)?;
        let Sockets { inbound, outbound, upstreams, admin, metrics: metrics_socket } = sockets;
        let data = DataPath::build(
            &config,
            workers,
            identity.clone(),
            watching,
            data_path::Sockets { inbound, outbound, upstreams },
        )?;
        let access = access::Access::new(&config, data.inbound.clone(), for_access);
        let (sender, commands) = mpsc::channel(8);
        let view = Arc::new(View {
            service: config.service.name.clone(),
            id: config.service.id.clone(),
            metrics: metrics.clone(),
            status: status.clone(),
            identity: identity.clone(),
            outbound: data.outbound.clone(),
            inbound: data.inbound.clone(),
            watches,
            config: Published::new(view::of(&config, Vec::new())),
            commands: sender,
        });
        let _ = options;
        Ok(Self {
            config,
            status,
            view,
            commands,
            metrics,
            identity,
            client,
            snapshot,
            agent,
            registration,
            probe,
            probing,
            data,
            access,
            control,
            admin: Some((admin, metrics_socket)),
            addresses,
        })
    }

    /// Starts every task. The order of what becomes visible (contract §6) is kept by what waits for what.
    fn start(&mut self) {
        if let Some((admin, metrics)) = self.admin.take() {
            self.control.spawn("admin", admin::serve_admin(admin, self.view.clone(), self.control.clone()));
            self.control.spawn("metrics", admin::serve_metrics(metrics, self.view.clone(), self.control.clone()));
        }
        let keep = identity::keep(
            self.config.identity.clone(),
            self.config.service.name.clone(),
            Some(self.client.clone()),
            self.snapshot.clone(),
            self.identity.clone(),
            self.metrics.clone(),
        );
        self.control.spawn("identity", keep);
        let probe = self.probe.clone();
        self.control.spawn("probe", async move { probe.run().await });
        self.access.start(&self.config, self.data.inbound_open.clone());
        self.data.start();
        self.control.spawn("registration", register(self.agent.clone(), self.identity.clone(), self.status.clone()));
        tracing::info!(
            service = %self.config.service.name, id = self.config.service.id, inbound = self.addresses.inbound,
            outbound = self.addresses.outbound, admin = self.addresses.admin, metrics = self.addresses.metrics,
            "starting"
        );
    }

    async fn serve(
        mut self,
        options: &RunOptions,
        mut signals: stop::Signals,
        open_files: &OpenFiles,
    ) -> Result<u8, Failure> {
        let mut child = child::Child::none();
        let mut phases = self.status.watch();
        let mut reloads = reload::Triggers::new(options.loader.file());
        let mut drained = false;
        let why = loop {
            tokio::select! {
                changed = phases.changed() => {
                    let is_ready = changed.is_ok() && *phases.borrow_and_update() == Phase::Ready;
                    if is_ready {
                        ready::announce(options.ready_file.as_deref(), &self.addresses)?;
                        child = open_files.as_before(|| child::Child::start(&options.command))?;
                    }
                }
                ended = child.ended() => break stop::Why::ChildEnded(ended),
                signal = signals.next() => match signal {
                    stop::Signal::Reload => { let _ = self.reload(options, "SIGHUP"); }
                    stop::Signal::Stop(number) => break stop::Why::Signal(number),
                },
                () = self.data.upstreams.zone_learned() => self.data.upstreams.adopt_zone(),
                () = reloads.file_changed() => { let _ = self.reload(options, "the file changed"); }
                command = self.commands.recv() => match command {
                    Some(Command::Reload(answer)) => {
                        let _ = answer.send(self.reload(options, "POST /reload"));
                    }
                    Some(Command::Drain) if !drained => {
                        drained = true;
                        // A platform asks for a drain and signals right after: the signal is the first one, not a hurry.
                        if let Some(number) = self.leave_mesh(&mut signals).await {
                            break stop::Why::Signal(number);
                        }
                    }
                    Some(Command::Drain) => {}
                    Some(Command::Quit) | None => break stop::Why::Quit,
                },
            }
        };
        Ok(self.stop(why, child, signals, drained).await)
    }
}

/// Registers once there is an identity to answer with, and stays registered.
async fn register(agent: Arc<Agent>, identity: Arc<identity::Current>, status: Arc<Status>) {
    let mut issued = identity.versions();
    while identity.peek().is_none() {
        if issued.changed().await.is_err() {
            return;
        }
    }
    status.arrived(IDENTITY);
    let mut registered = agent.registered();
    let noted = async {
        if registered.wait_for(|registered| *registered).await.is_ok() {
            status.arrived(REGISTRATION);
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = agent.run() => {}
        () = noted => {}
    }
}

const IDENTITY: &str = "identity";
const REGISTRATION: &str = "registration";
