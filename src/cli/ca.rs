//! `outrigger ca`: a certificate authority in a folder, for development.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use super::{complain, result};
use crate::identity::ca::{Ca, CaError, DEFAULT_TRUST_DOMAIN};
use crate::identity::describe;
use crate::names::ServiceName;

/// Make and use a certificate authority for development.
///
/// Services of one authority are a mesh without Consul's own. Whoever can read `ca.key` can be any of them.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  outrigger ca init certs\n  outrigger ca issue --ca certs --service users --out certs"
)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Make an authority: DIR/ca.crt and DIR/ca.key. One that is there already is never overwritten.
    #[command(after_help = "Example:\n  outrigger ca init certs --trust-domain dev.example")]
    Init {
        /// The folder, made if need be.
        #[arg(value_name = "DIR")]
        dir: PathBuf,
        /// The mesh's name, the first part of every identity: lower-case letters, digits, `-`, `_` and `.`.
        #[arg(long, value_name = "NAME", default_value = DEFAULT_TRUST_DOMAIN)]
        trust_domain: String,
    },
    /// Sign a certificate for a service: OUT/NAME.crt, OUT/NAME.key and OUT/ca.crt, for `identity: files`.
    #[command(after_help = "Example:\n  outrigger ca issue --ca certs --service users --out certs --ttl 24h")]
    Issue {
        /// The authority's folder.
        #[arg(long, value_name = "DIR")]
        ca: PathBuf,
        /// The service that the certificate speaks for.
        #[arg(long, value_name = "NAME")]
        service: ServiceName,
        /// Where the files go, made if need be; files of an earlier certificate are replaced.
        #[arg(long, value_name = "DIR", default_value = ".")]
        out: PathBuf,
        /// How long the certificate lives, at least a minute: `24h`, `30m`, `7days`.
        #[arg(long, value_name = "TIME", default_value = "24h", value_parser = humantime::parse_duration)]
        ttl: Duration,
    },
    /// Print what the certificates of a PEM file say.
    #[command(after_help = "Example:\n  outrigger ca show certs/users.crt")]
    Show {
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
}

/// Paths of written files, and facts, go to stdout.
pub(super) fn run(args: Args) -> ExitCode {
    match said(args.command) {
        Ok(text) => result(text.as_bytes()),
        Err(cause) => complain(&format!("outrigger ca: {cause}"), ExitCode::FAILURE),
    }
}

fn said(command: Command) -> Result<String, String> {
    let text = |error: CaError| error.to_string();
    match command {
        Command::Init { dir, trust_domain } => {
            Ca::init(&dir, &trust_domain).map_err(text)?;
            Ok(format!("{}\n{}\n", dir.join("ca.crt").display(), dir.join("ca.key").display()))
        }
        Command::Issue { ca, service, out, ttl } => {
            let ca = Ca::open(&ca).map_err(text)?;
            let written = ca.issue(&service, ttl).and_then(|issued| issued.write(&ca, &out)).map_err(text)?;
            Ok(written.map(|path| format!("{}\n", path.display())).concat())
        }
        Command::Show { file } => {
            let found: Vec<String> = describe(&file)?.iter().map(ToString::to_string).collect();
            Ok(found.join("\n"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(clap::Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    fn ca(line: &[&str]) -> Result<String, String> {
        use clap::Parser;
        let args = Cli::try_parse_from(std::iter::once("ca").chain(line.iter().copied()));
        said(args.map_err(|error| error.to_string())?.args.command)
    }

    #[test]
    fn a_ca_is_made_used_and_shown() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).display().to_string();
        let made = ca(&["init", &path("ca")]).unwrap();
        assert_eq!(made, format!("{}\n{}\n", path("ca/ca.crt"), path("ca/ca.key")));
        let issue = ["issue", "--ca", &path("ca"), "--service", "users", "--out", &path("out"), "--ttl", "1h"];
        let written = ca(&issue).unwrap();
        assert_eq!(written, ["out/users.crt\n", "out/users.key\n", "out/ca.crt\n"].map(&path).concat());
        let shown = ca(&["show", &path("out/users.crt")]).unwrap();
        assert!(shown.contains("uri:         spiffe://outrigger.local/ns/default/dc/dc1/svc/users\n"), "{shown}");
        assert!(ca(&["init", &path("ca")]).unwrap_err().contains("never overwritten"));
    }

    #[test]
    fn mistakes_on_the_line_are_found_before_anything_is_done() {
        for line in [
            &["issue", "--ca", "x", "--service", "Users"][..],
            &["issue", "--ca", "x", "--service", "users", "--ttl", "soon"],
            &["issue", "--service", "users"],
            &["init"],
            &[],
        ] {
            let error = ca(line).unwrap_err();
            assert!(error.contains("--help") || error.contains("Usage"), "{error}");
        }
    }
}
