//! `outrigger man`: one manual page with a section for each command.

use std::io;
use std::process::ExitCode;

use clap::{Command, CommandFactory};
use clap_mangen::Man;

use super::{Cli, complain, result};

/// Print the manual page.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  outrigger man > /usr/local/share/man/man1/outrigger.1")]
pub(super) struct Args {}

pub(super) fn run(_args: &Args) -> ExitCode {
    match page() {
        Ok(page) => result(&page),
        Err(error) => complain(&format!("outrigger: writing the manual page: {error}"), ExitCode::FAILURE),
    }
}

/// roff of the program and of every command, in one page.
pub(super) fn page() -> io::Result<Vec<u8>> {
    let mut command = Cli::command();
    command.build();
    let mut page = Vec::new();
    Man::new(command.clone()).render(&mut page)?;
    // The commands have no pages of their own.
    let mut text = String::from_utf8_lossy(&page).into_owned();
    for command in command.get_subcommands() {
        let name = command.get_name();
        text = text.replace(&format!("outrigger\\-{name}(1)"), &format!("\\fBoutrigger {name}\\fR"));
    }
    let mut page = text.into_bytes();
    commands(&command, &mut page)?;
    Ok(page)
}

fn commands(parent: &Command, page: &mut Vec<u8>) -> io::Result<()> {
    for command in parent.get_subcommands().filter(|command| command.get_name() != "help") {
        let name = command.get_bin_name().unwrap_or_else(|| command.get_name()).to_owned();
        page.extend_from_slice(format!(".SH \"{}\"\n", name.to_uppercase()).as_bytes());
        let man = Man::new(command.clone());
        let mut part = Vec::new();
        man.render_synopsis_section(&mut part)?;
        man.render_description_section(&mut part)?;
        if command.get_arguments().next().is_some() {
            man.render_options_section(&mut part)?;
        }
        if command.get_after_help().is_some() {
            man.render_extra_section(&mut part)?;
        }
        // Sections of a page of its own become subsections of this one.
        page.extend_from_slice(String::from_utf8_lossy(&part).replace(".SH ", ".SS ").as_bytes());
        commands(command, page)?;
    }
    Ok(())
}
