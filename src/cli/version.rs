//! `outrigger version`.

use std::process::ExitCode;

use super::result;

/// Print the version.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  outrigger version --json")]
pub(super) struct Args {
    /// As a JSON object with version, commit (where known) and target
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> ExitCode {
    result(text(args.json).as_bytes())
}

fn text(json: bool) -> String {
    let version = env!("CARGO_PKG_VERSION");
    // Set by whoever builds a release; there is no build script.
    let commit = option_env!("OUTRIGGER_COMMIT");
    if !json {
        let commit = commit.map(|commit| format!(" ({commit})")).unwrap_or_default();
        return format!("outrigger {version}{commit}\n");
    }
    let target = format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS);
    let mut object = serde_json::json!({ "version": version, "target": target });
    if let Some(commit) = commit {
        object["commit"] = commit.into();
    }
    format!("{object}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_json_form_is_one_object_with_the_version() {
        let object: serde_json::Value = serde_json::from_str(&text(true)).unwrap();
        assert_eq!(object["version"], env!("CARGO_PKG_VERSION"));
        assert!(text(false).starts_with("outrigger "));
    }
}
