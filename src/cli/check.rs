//! `outrigger check`: every mistake of a configuration at once, and nothing started.

use std::process::ExitCode;

use super::{MISTAKE, result, run};
use crate::config::{Environment, Loader};

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
    let (report, code) = report(&args.settings.loader(environment), args.format);
    let written = result(report.as_bytes());
    if written == ExitCode::SUCCESS { ExitCode::from(code) } else { written }
}

/// What is printed, with the exit code.
fn report(loader: &Loader, format: Format) -> (String, u8) {
    let name = loader.file().map_or_else(|| "flags".to_owned(), |file| file.display().to_string());
    match (loader.load(), format) {
        (Ok(_), Format::Text) => (format!("{name}: good\n"), 0),
        (Ok(_), Format::Json) => ("[]\n".into(), 0),
        (Err(problems), Format::Text) => (format!("{problems}\n"), MISTAKE),
        (Err(problems), Format::Json) => (format!("{:#}\n", problems.to_json()), MISTAKE),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Flags;

    fn reported(text: &str, format: Format) -> (String, u8) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("o.yaml");
        std::fs::write(&file, text).unwrap();
        let (report, code) = report(&Loader::new(Some(file), Flags::default(), Environment::default()), format);
        (report.replace(folder.path().to_str().unwrap(), "DIR"), code)
    }

    #[test]
    fn a_good_file_is_called_good() {
        let good = "service: { name: users, port: 8080 }\n";
        assert_eq!(reported(good, Format::Text), ("DIR/o.yaml: good\n".into(), 0));
        assert_eq!(reported(good, Format::Json), ("[]\n".into(), 0));
    }

    #[test]
    fn mistakes_are_lines_or_objects_and_end_in_two() {
        let bad = "service: { name: users, port: 0 }\nworker: 1\n";
        let (text, code) = reported(bad, Format::Text);
        assert_eq!((text.lines().count(), code), (2, 2));
        assert!(text.starts_with("DIR/o.yaml:1:31: service.port: "), "{text}");
        let (json, code) = reported(bad, Format::Json);
        let list: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!((list.as_array().map(Vec::len), code), (Some(2), 2));
        assert_eq!(list[1]["mend"], "did you mean workers?");
    }
}
