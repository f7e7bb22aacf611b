//! `outrigger demo`: a whole mesh on this machine. Tells the story; `mesh` holds the processes, `services` the small apps,
//! `traffic` the requests.

mod http;
mod mesh;
mod services;
mod traffic;

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use tokio::time::{Instant, sleep, timeout};

use mesh::Mesh;
use traffic::{Summary, Traffic};

/// Start a whole mesh on this machine: a registry, three services, a sidecar each, mTLS between them.
#[derive(Debug, Clone, clap::Args)]
#[command(
    after_help = "Example:\n  outrigger demo                  kill an instance under traffic, lose no request, end\n  \
    outrigger demo --keep-running   stay, to be tried with curl"
)]
pub struct Args {
    /// Stay until Ctrl-C instead of telling the story of the killed instance.
    #[arg(long)]
    pub keep_running: bool,
}

/// Runs the demo to its end: 0 when no request was lost, 1 otherwise.
#[must_use]
pub fn run(args: &Args) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let outcome = runtime.context("starting the runtime").and_then(|runtime| runtime.block_on(whole(args)));
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("outrigger demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Start, story, end; every process that was started is gone when this returns, whatever happened.
async fn whole(args: &Args) -> anyhow::Result<bool> {
    let mut mesh = Mesh::new()?;
    let told = tokio::select! {
        told = story(args, &mut mesh) => told,
        signal = asked_to_end() => signal.map(|()| {
            eprintln!("\nending");
            true
        }),
    };
    mesh.end().await;
    told
}

async fn story(args: &Args, mesh: &mut Mesh) -> anyhow::Result<bool> {
    let start = Instant::now();
    mesh.start().await?;
    let traffic = Traffic::start(mesh.web_address());
    // Each instance is passing in the registry only after its first good probe.
    wait_until(&traffic, "every instance has answered", |summary| summary.instances() >= INSTANCES).await?;
    // What failed before the mesh stood was no loss.
    traffic.reset();
    eprintln!("the mesh stands after {:.1} s; mTLS between all sidecars\n", start.elapsed().as_secs_f64());
    for line in mesh.to_try() {
        eprintln!("  {line}");
    }
    eprintln!();
    if args.keep_running {
        eprintln!("Ctrl-C ends it");
        return show(&traffic, Duration::MAX).await.map(|()| true);
    }
    show(&traffic, Duration::from_secs(4)).await?;
    note("kill -9 of users-1 and its sidecar, under traffic");
    mesh.kill(VICTIM).await?;
    show(&traffic, Duration::from_secs(4)).await?;
    let lost = traffic.summary().lost;
    note(&format!("{lost} lost so far; starting users-1 again"));
    mesh.restart(VICTIM).await?;
    let before = traffic.summary().of(VICTIM);
    wait_until(&traffic, "users-1 gets traffic again", |summary| summary.of(VICTIM) > before).await?;
    show(&traffic, Duration::from_secs(3)).await?;
    let summary = traffic.stop();
    println!("{}", summary.report());
    Ok(summary.lost == 0)
}

/// Shows the traffic for that long: one line redrawn on a terminal, else a line every two seconds.
async fn show(traffic: &Traffic, span: Duration) -> anyhow::Result<()> {
    let terminal = std::io::stderr().is_terminal();
    let every = Duration::from_millis(if terminal { 500 } else { 2000 });
    let start = Instant::now();
    while start.elapsed() < span {
        sleep(every.min(span.saturating_sub(start.elapsed()))).await;
        let line = traffic.summary().line();
        if terminal {
            eprint!("\r\x1b[K{line}");
        } else {
            eprintln!("{line}");
        }
    }
    if terminal {
        eprintln!();
    }
    Ok(())
}

fn note(what: &str) {
    eprintln!("── {what}");
}

async fn wait_until(traffic: &Traffic, what: &str, seen: impl Fn(&Summary) -> bool) -> anyhow::Result<()> {
    let look = async {
        while !seen(&traffic.summary()) {
            sleep(Duration::from_millis(20)).await;
        }
    };
    let waited = timeout(PATIENCE, look).await;
    waited.with_context(|| format!("not within {PATIENCE:?}: {what}; last failure: {}", traffic.summary().last_failure))
}

async fn asked_to_end() -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut interrupt = signal(SignalKind::interrupt()).context("listening for Ctrl-C")?;
    let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    let mut hangup = signal(SignalKind::hangup()).context("listening for SIGHUP")?;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        _ = hangup.recv() => {}
    }
    Ok(())
}

const VICTIM: &str = "users-1";
/// users ×2, orders ×2, and web.
const INSTANCES: usize = 5;
const PATIENCE: Duration = Duration::from_secs(20);
