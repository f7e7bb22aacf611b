//! `outrigger completions`: what a shell needs to complete our commands and flags.

use std::process::ExitCode;

use clap::CommandFactory;

use super::{Cli, result};

/// Print the completion script of a shell.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  outrigger completions bash > /etc/bash_completion.d/outrigger")]
pub(super) struct Args {
    /// The shell
    #[arg(value_enum)]
    shell: clap_complete::Shell,
}

pub(super) fn run(args: &Args) -> ExitCode {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "outrigger", &mut script);
    result(&script)
}
