//! `outrigger run`: the sidecar.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use super::{MISTAKE, complain, log};
use crate::app;
use crate::config::{Environment, Flags, Loader, RunOptions};

/// Run the sidecar; with a COMMAND, the app is its child.
///
/// Flags are stronger than their variables, those than the file. Without a file the flags alone are the configuration.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  outrigger run -c outrigger.yaml
  outrigger run --service users --port 8080 --upstream orders=127.0.0.1:9101
  outrigger run --service users --port 8080 -- python3 -m http.server 8080")]
pub(super) struct Args {
    #[command(flatten)]
    settings: Settings,
    /// What to log: a level, or filters such as `outrigger=debug,info` [env: OUTRIGGER_LOG] [default: info]
    #[arg(long, value_name = "LEVEL")]
    log: Option<String>,
    /// How to log: text or json [env: OUTRIGGER_LOG_FORMAT] [default: text]
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,
    /// Write what the sidecar listens on to FILE, once it is ready [env: OUTRIGGER_READY_FILE]
    #[arg(long, value_name = "FILE")]
    ready_file: Option<PathBuf>,
    /// The app with its arguments, started once the sidecar is ready
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// The flags that stand for keys of the config file; `check` takes them too.
#[derive(Debug, Default, clap::Args)]
pub(super) struct Settings {
    /// The config file [env: OUTRIGGER_CONFIG]
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The service that this sidecar stands for [env: OUTRIGGER_SERVICE]
    #[arg(long, value_name = "NAME")]
    service: Option<String>,
    /// Consul's id of this instance [env: OUTRIGGER_ID] [default: NAME-HOSTNAME-PORT]
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    /// The app's port [env: OUTRIGGER_PORT]
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    port: Option<String>,
    /// What the app speaks: http, http2 or grpc [env: OUTRIGGER_PROTOCOL] [default: http]
    #[arg(long, value_name = "P")]
    protocol: Option<String>,
    /// Where the mesh reaches the app [env: OUTRIGGER_INBOUND_LISTEN] [default: 0.0.0.0:20000]
    #[arg(long, value_name = "IP:PORT")]
    inbound_listen: Option<String>,
    /// Where the app reaches the mesh [env: OUTRIGGER_OUTBOUND_LISTEN] [default: 127.0.0.1:15001]
    #[arg(long, value_name = "IP:PORT")]
    outbound_listen: Option<String>,
    /// Where the admin endpoints are [env: OUTRIGGER_ADMIN_LISTEN] [default: 127.0.0.1:19000]
    #[arg(long, value_name = "IP:PORT")]
    admin_listen: Option<String>,
    /// Where metrics and health are [env: OUTRIGGER_METRICS_LISTEN] [default: 0.0.0.0:20200]
    #[arg(long, value_name = "IP:PORT")]
    metrics_listen: Option<String>,
    /// What Consul is told as our address [env: OUTRIGGER_ADVERTISE]
    #[arg(long, value_name = "HOST:PORT")]
    advertise: Option<String>,
    /// What the mesh must show: strict, permissive or off [env: OUTRIGGER_MTLS] [default: strict]
    #[arg(long, value_name = "M")]
    mtls: Option<String>,
    /// A service that the app calls, with an address of its own if wanted; repeat it [env: OUTRIGGER_UPSTREAM]
    #[arg(long, value_name = "NAME[=LISTEN]")]
    upstream: Vec<String>,
    /// Where Consul is [env: OUTRIGGER_CONSUL_ADDRESS, CONSUL_HTTP_ADDR] [default: http://127.0.0.1:8500]
    #[arg(long, value_name = "URL")]
    consul_address: Option<String>,
    /// Data-path threads: a number, or auto for one a core [env: OUTRIGGER_WORKERS] [default: 1]
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    workers: Option<String>,
    /// Longest time of a clean stop [env: OUTRIGGER_GRACE] [default: 30s]
    #[arg(long, value_name = "DURATION")]
    grace: Option<String>,
}

impl Settings {
    pub(super) fn loader(self, environment: Environment) -> Loader {
        let mut flags = Flags::default();
        for (flag, value) in [
            ("--service", self.service),
            ("--id", self.id),
            ("--port", self.port),
            ("--protocol", self.protocol),
            ("--inbound-listen", self.inbound_listen),
            ("--outbound-listen", self.outbound_listen),
            ("--admin-listen", self.admin_listen),
            ("--metrics-listen", self.metrics_listen),
            ("--advertise", self.advertise),
            ("--mtls", self.mtls),
            ("--consul-address", self.consul_address),
            ("--workers", self.workers),
            ("--grace", self.grace),
        ] {
            flags.set(flag, value);
        }
        self.upstream.into_iter().for_each(|upstream| flags.upstream(upstream));
        Loader::new(self.config, flags, environment)
    }
}

pub(super) fn run(args: Args, environment: Environment) -> ExitCode {
    let logging = log::Settings::choose(args.log, args.log_format, &environment);
    let ready_file = args.ready_file.or_else(|| environment.get("OUTRIGGER_READY_FILE").map(PathBuf::from));
    let loader = args.settings.loader(environment);
    let loaded = loader.load();
    // Both are looked at before anything is said: every mistake in one run.
    let (config, logging) = match (loaded, logging) {
        (Ok(config), Ok(logging)) => (config, logging),
        (loaded, logging) => {
            let lines = loaded.err().map(|problems| problems.to_string()).into_iter().chain(logging.err());
            return complain(&lines.collect::<Vec<_>>().join("\n"), ExitCode::from(MISTAKE));
        }
    };
    logging.install();
    app::run(config, RunOptions { ready_file, command: args.command, loader })
}

/// A flag that `Settings` forgot would be silently ignored.
#[cfg(test)]
pub(super) fn flags_of_settings() -> Vec<String> {
    use clap::Args as _;
    let command = Settings::augment_args(clap::Command::new("settings"));
    let long = |argument: &clap::Arg| argument.get_long().map(|name| format!("--{name}"));
    command.get_arguments().filter_map(long).filter(|name| name != "--config" && name != "--upstream").collect()
}
