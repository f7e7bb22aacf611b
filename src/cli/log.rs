//! The process's own log: to stderr, as text or JSON lines.

use tracing_subscriber::EnvFilter;

use super::colours_on_stderr;
use crate::config::Environment;

/// What and how to log.
pub(super) struct Settings {
    filter: EnvFilter,
    json: bool,
    colours: bool,
}

impl Settings {
    /// Flags first, then OUTRIGGER_LOG and OUTRIGGER_LOG_FORMAT, then `info` as text.
    ///
    /// # Errors
    /// With the mistakes as `flag --log: …` or `env OUTRIGGER_LOG: …`, one a line.
    pub(super) fn choose(
        filter: Option<String>,
        format: Option<String>,
        environment: &Environment,
    ) -> Result<Self, String> {
        let from = |flag: &str, variable: &str, value: Option<String>| match value {
            Some(value) => Some((format!("flag {flag}"), value)),
            None => environment.get(variable).map(|value| (format!("env {variable}"), value.to_owned())),
        };
        let (filter_from, filter) =
            from("--log", "OUTRIGGER_LOG", filter).unwrap_or_else(|| (String::new(), "info".into()));
        let (format_from, format) =
            from("--log-format", "OUTRIGGER_LOG_FORMAT", format).unwrap_or_else(|| (String::new(), "text".into()));
        let filter = parse(&filter).map_err(|problem| {
            format!("{filter_from}: {filter:?} is no log filter: {problem}; write error, warn, info, debug, trace, or outrigger=debug")
        });
        let json = match format.as_str() {
            "text" => Ok(false),
            "json" => Ok(true),
            _ => Err(format!("{format_from}: {format:?} is no log format; write text or json")),
        };
        match (filter, json) {
            (Ok(filter), Ok(json)) => Ok(Self { filter, json, colours: colours_on_stderr(environment) }),
            (filter, json) => {
                let lines = filter.err().into_iter().chain(json.err());
                Err(lines.collect::<Vec<_>>().join("\n"))
            }
        }
    }

    /// Takes effect once in a process; a second call changes nothing.
    pub(super) fn install(self) {
        let builder = tracing_subscriber::fmt().with_writer(std::io::stderr).with_env_filter(self.filter);
        let _ = if self.json {
            builder.json().flatten_event(true).with_current_span(false).with_span_list(false).try_init()
        } else {
            builder.with_ansi(self.colours).with_target(false).try_init()
        };
    }
}

/// A bare word must be a level: `EnvFilter` takes any other word as a target, and logs nothing.
fn parse(filter: &str) -> Result<EnvFilter, String> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    for part in filter.split(',').map(str::trim) {
        if !part.contains(['=', '[']) && !LEVELS.contains(&part.to_lowercase().as_str()) {
            return Err(format!("{part:?} is no level"));
        }
    }
    EnvFilter::try_new(filter).map_err(|error| error.to_string())
}
