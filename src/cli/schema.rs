//! `outrigger schema`: the JSON Schema of the config file.

use std::process::ExitCode;

use super::result;
use crate::config;

/// Print the JSON Schema of the config file.
///
/// For editors: begin a config file with `# yaml-language-server: $schema=outrigger.schema.json`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  outrigger schema > outrigger.schema.json")]
pub(super) struct Args {}

pub(super) fn run(_args: &Args) -> ExitCode {
    result(format!("{:#}\n", config::schema()).as_bytes())
}
