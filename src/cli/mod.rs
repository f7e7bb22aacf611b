//! The command line: one file a subcommand. Results go to stdout, everything else to stderr.

mod ca;
mod check;
mod completions;
mod demo;
#[cfg(test)]
mod docs_tests;
mod log;
mod man;
mod registry;
mod run;
mod schema;
#[cfg(test)]
mod tests;
mod version;

use std::ffi::OsString;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use clap::{ColorChoice, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::config::Environment;

/// A usage or configuration mistake.
const MISTAKE: u8 = 2;

/// A sidecar proxy whose only control plane is Consul.
#[derive(Debug, Parser)]
#[command(
    name = "outrigger",
    version,
    max_term_width = 100,
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = "Example:\n  outrigger run --service users --port 8080 --upstream orders=127.0.0.1:9101"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::Args),
    Check(check::Args),
    Ca(ca::Args),
    Demo(demo::Args),
    Registry(registry::RegistryArgs),
    Schema(schema::Args),
    Completions(completions::Args),
    Man(man::Args),
    Version(version::Args),
}

/// Reads the command line and runs what it asks for.
#[must_use]
pub fn main() -> ExitCode {
    // Every part passes this provider explicitly or relies on it here; a second install cannot happen before `main`.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let environment = Environment::of_process();
    match parse(std::env::args_os(), &environment) {
        Ok(cli) => dispatch(cli, environment),
        Err(error) => {
            // Help and version are results; mistakes go to stderr.
            let _ = error.print();
            ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(MISTAKE))
        }
    }
}

fn parse(args: impl Iterator<Item = OsString>, environment: &Environment) -> Result<Cli, clap::Error> {
    let matches = Cli::command().color(colour_choice(environment)).try_get_matches_from(args)?;
    Cli::from_arg_matches(&matches)
}

fn dispatch(cli: Cli, environment: Environment) -> ExitCode {
    match cli.command {
        Command::Run(args) => run::run(args, environment),
        Command::Check(args) => check::run(args, environment),
        Command::Ca(args) => ca::run(args),
        Command::Demo(args) => demo::run(&args),
        Command::Registry(args) => registry::run(&args),
        Command::Schema(args) => schema::run(&args),
        Command::Completions(args) => completions::run(&args),
        Command::Man(args) => man::run(&args),
        Command::Version(args) => version::run(&args),
    }
}

/// no-color.org: NO_COLOR, when it is there and not empty, forbids colours.
fn colour_choice(environment: &Environment) -> ColorChoice {
    if environment.get("NO_COLOR").is_some() { ColorChoice::Never } else { ColorChoice::Auto }
}

/// Whether what goes to stderr may be coloured.
fn colours_on_stderr(environment: &Environment) -> bool {
    environment.get("NO_COLOR").is_none() && environment.get("TERM") != Some("dumb") && std::io::stderr().is_terminal()
}

/// Writes a result to stdout. A reader that went away (`outrigger schema | head`) is no failure.
fn result(bytes: &[u8]) -> ExitCode {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => complain(&format!("outrigger: writing to stdout: {error}"), ExitCode::FAILURE),
    }
}

/// Writes a line to stderr. Nobody is left to tell when that fails.
fn complain(line: &str, code: ExitCode) -> ExitCode {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
    code
}
