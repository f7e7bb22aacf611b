//! The command line as a whole.

use clap::CommandFactory;

use super::{Cli, Command, Environment, man, parse, run};
use crate::config::OVERRIDES;

fn parsed(args: &[&str]) -> Result<Cli, clap::Error> {
    parse(args.iter().map(Into::into), &Environment::default())
}

#[test]
fn the_command_line_holds_together() {
    Cli::command().debug_assert();
}

#[test]
fn every_command_shows_an_example() {
    for command in Cli::command().get_subcommands() {
        let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        assert!(help.contains("outrigger "), "{} has no example", command.get_name());
    }
}

#[test]
fn every_flag_of_run_stands_for_a_key() {
    let mut known: Vec<&str> = OVERRIDES.iter().map(|over| over.flag).collect();
    let mut flags = run::flags_of_settings();
    known.sort_unstable();
    flags.sort_unstable();
    assert_eq!(flags, known);
}

#[test]
fn usage_mistakes_are_two_and_help_is_zero() {
    for (args, code) in [
        (&["outrigger"] as &[&str], 2),
        (&["outrigger", "rnu"], 2),
        (&["outrigger", "run", "--nope"], 2),
        (&["outrigger", "--help"], 0),
        (&["outrigger", "--version"], 0),
        (&["outrigger", "run", "--help"], 0),
    ] {
        assert_eq!(parsed(args).unwrap_err().exit_code(), code, "{args:?}");
    }
}

#[test]
fn what_follows_two_dashes_is_the_apps() {
    let cli = parsed(&["outrigger", "run", "--service", "a", "--port", "1", "--", "app", "--port", "2"]).unwrap();
    let Command::Run(args) = cli.command else { panic!("run") };
    assert!(format!("{args:?}").contains(r#"command: ["app", "--port", "2"]"#), "{args:?}");
}

#[test]
fn the_manual_has_a_section_for_each_command() {
    let page = String::from_utf8(man::page().unwrap()).unwrap();
    for name in ["RUN", "CHECK", "SCHEMA", "COMPLETIONS", "MAN", "VERSION"] {
        assert!(page.contains(&format!("OUTRIGGER {name}")), "{name}");
    }
}
