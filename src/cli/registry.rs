//! `outrigger registry`: the embedded registry as a process of its own, for development.

use std::io::Write;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::lifecycle::Lifecycle;
use crate::registry::embedded::Embedded;

/// Run a registry for development: the part of Consul's HTTP API that a sidecar uses, in memory.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  outrigger registry --listen 127.0.0.1:8500\n  CONSUL_HTTP_ADDR=127.0.0.1:8500 outrigger run --service users --port 8080"
)]
pub struct RegistryArgs {
    /// Where to answer; port 0 takes a free one. Whoever reaches it can have any service's certificate.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8500")]
    pub listen: SocketAddr,
}

/// Serves until SIGINT or SIGTERM. Prints one line of JSON with the bound address to stdout.
#[must_use]
pub fn run(args: &RegistryArgs) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&format!("starting the runtime: {error}")),
    };
    match runtime.block_on(serve(args.listen)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(cause) => fail(&cause),
    }
}

fn fail(cause: &str) -> ExitCode {
    eprintln!("outrigger registry: {cause}");
    ExitCode::FAILURE
}

async fn serve(listen: SocketAddr) -> Result<(), String> {
    let mut stop = Stop::new().map_err(|error| format!("listening for signals: {error}"))?;
    let listener = tokio::net::TcpListener::bind(listen)
        .await
        .map_err(|error| format!("cannot listen on {listen}: {error}; choose another with --listen"))?;
    let bound = listener.local_addr().map_err(|error| format!("the bound address: {error}"))?;
    let embedded = Embedded::new().map_err(|error| format!("the certificate authority: {error}"))?;
    let lifecycle = Lifecycle::new();
    lifecycle.spawn("registry", embedded.serve(listener, lifecycle.clone()));
    announce(bound);
    stop.asked().await;
    tokio::select! {
        _ = lifecycle.stop(Duration::from_secs(1)) => {}
        // A second signal ends at once.
        () = stop.asked() => {}
    }
    Ok(())
}

fn announce(bound: SocketAddr) {
    eprintln!("registry for development on http://{bound} (in memory; certificates for everyone who can reach it)");
    // Whoever closed stdout does not want the line.
    let _ = writeln!(std::io::stdout(), "{}", serde_json::json!({"listen": bound.to_string()}));
}

struct Stop {
    interrupt: Signal,
    terminate: Signal,
}

impl Stop {
    fn new() -> std::io::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    async fn asked(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
