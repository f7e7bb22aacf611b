//! The command line: one file a subcommand.

pub mod registry;

use std::process::ExitCode;

/// Reads the command line and runs what it asks for.
#[must_use]
pub fn main() -> ExitCode {
    ExitCode::FAILURE
}
