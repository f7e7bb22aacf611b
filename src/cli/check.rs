//! `outrigger check`: every mistake of a configuration at once, and nothing started.

use std::process::ExitCode;

use super::{MISTAKE, result, run};
use crate::config::Environment;

/// Find every mistake of a config file; 0 good, 2 mistakes.
///
/// Looks at what `outrigger run` with the same flags and variables would use. Starts nothing and asks no network.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  outrigger check -c outrigger.yaml
  outrigger check -c outrigger.yaml --format json")]
pub(super) struct Args {
    #[command(flatten)]
    settings: run::Settings,
    /// How to print mistakes: one a line, or a JSON array of {file,line,column,key,problem,mend}
    #[arg(long, value_name = "FORMAT", value_enum, default_value = "text")]
    format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    Text,
    Json,
}

pub(super) fn run(args: Args, environment: Environment) -> ExitCode {
    let loader = args.settings.loader(environment);
    let name = loader.file().map_or_else(|| "flags".to_owned(), |file| file.display().to_string());
    let (text, json, code) = match loader.load() {
        Ok(_) => (format!("{name}: good\n"), serde_json::json!([]), ExitCode::SUCCESS),
        Err(problems) => (format!("{problems}\n"), problems.to_json(), ExitCode::from(MISTAKE)),
    };
    let written = match args.format {
        Format::Text => result(text.as_bytes()),
        Format::Json => result(format!("{json:#}\n").as_bytes()),
    };
    if written == ExitCode::SUCCESS { code } else { written }
}
