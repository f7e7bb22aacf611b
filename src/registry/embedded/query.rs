//! A request's query string: waiting, consistency, filters, with Consul's words for what is wrong.

use std::time::Duration;

use super::decode::{Refused, duration};
use super::filter::Filter;
use super::state::{DATACENTER, Wanted};

/// What Consul reads from the query of any endpoint.
#[derive(Debug, Default)]
pub(super) struct Query {
    /// Answer once the index is above this; 0 at once.
    pub(super) index: u64,
    /// Answer once the hash is another.
    pub(super) hash: Option<String>,
    pub(super) wait: Duration,
    pub(super) stale: bool,
    pub(super) pairs: Vec<(String, String)>,
}

impl Query {
    pub(super) fn parse(text: &str) -> Result<Self, Refused> {
        let pairs: Vec<(String, String)> = text.split('&').filter(|part| !part.is_empty()).map(pair).collect();
        let mut query = Self { pairs, ..Self::default() };
        query.stale = query.has("stale");
        for key in ["ns", "namespace"] {
            if query.has(key) {
                return Err(Refused::bad(format!(
                    "Bad request: Invalid query parameter: \"{key}\" - Namespaces are a Consul Enterprise feature"
                )));
            }
        }
        if query.stale && query.has("consistent") {
            return Err(Refused::bad("Cannot specify ?stale with ?consistent, conflicting semantics."));
        }
        query.wait = match query.value("wait") {
            None => DEFAULT_WAIT,
            Some(text) => {
                let wait = duration(text).ok_or_else(|| Refused::bad("Invalid wait time"))?;
                if wait.is_zero() { DEFAULT_WAIT } else { wait.min(MAX_WAIT) }
            }
        };
        if let Some(text) = query.value("index") {
            query.index = text.parse().map_err(|_| Refused::bad("Invalid index"))?;
        }
        query.hash = query.value("hash").map(ToOwned::to_owned);
        if query.value("dc").is_some_and(|dc| !dc.eq_ignore_ascii_case(DATACENTER)) {
            return Err(Refused::failed("No path to datacenter"));
        }
        Ok(query)
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.pairs.iter().any(|(found, _)| found == key)
    }

    /// The first value of the key that is not empty.
    pub(super) fn value(&self, key: &str) -> Option<&str> {
        self.pairs.iter().find(|(found, value)| found == key && !value.is_empty()).map(|(_, value)| value.as_str())
    }

    pub(super) fn wanted(&self, native: bool) -> Result<Wanted, Refused> {
        let passing = match self.pairs.iter().find(|(key, _)| key == "passing").map(|(_, value)| value.as_str()) {
            None => false,
            Some("") => true,
            Some(text) => go_bool(text).ok_or_else(|| Refused::bad("Invalid value for ?passing"))?,
        };
        let tags = self.pairs.iter().filter(|(key, _)| key == "tag").map(|(_, tag)| tag.clone()).collect();
        let filter = self.value("filter").map(Filter::parse).transpose().map_err(|cause| {
            // Newer Consul's status; 1.8 says 500.
            Refused::bad(format!("Failed to create boolean expression evaluator: {cause}"))
        })?;
        Ok(Wanted { filter, passing, native, tags })
    }

    /// A row of the catalog has other names, which nobody here asks for.
    pub(super) fn no_filter(&self) -> Result<(), Refused> {
        match self.value("filter") {
            None => Ok(()),
            Some(_) => Err(Refused::bad("The embedded registry has filter expressions for health only")),
        }
    }

    /// `?enable=` of the maintenance endpoint.
    pub(super) fn enable(&self) -> Result<bool, Refused> {
        let Some(text) = self.value("enable") else { return Err(Refused::bad("Missing value for enable")) };
        go_bool(text).ok_or_else(|| Refused::bad(format!("Invalid value for enable: \"{text}\"")))
    }

    /// The wait with Consul's random sixteenth on top, so that watchers do not come back in step.
    pub(super) fn jittered_wait(&self) -> Duration {
        self.wait + (self.wait / 16).mul_f64(fastrand::f64())
    }
}

fn pair(part: &str) -> (String, String) {
    let (key, value) = part.split_once('=').unwrap_or((part, ""));
    let plain =
        |text: &str| percent_encoding::percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned();
    (plain(key), plain(value))
}

/// Go's `strconv.ParseBool`.
fn go_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// Consul: missing, zero or negative means five minutes; more than ten is cut to ten.
const DEFAULT_WAIT: Duration = Duration::from_mins(5);
const MAX_WAIT: Duration = Duration::from_mins(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_and_indexes_follow_consuls_rules() {
        for (text, wait) in [("", 300), ("wait=0", 300), ("wait=-1s", 300), ("wait=1m", 60), ("wait=1h", 600)] {
            assert_eq!(Query::parse(text).unwrap().wait, Duration::from_secs(wait), "{text}");
        }
        assert_eq!(Query::parse("index=16699865471647349443").unwrap().index, 16_699_865_471_647_349_443);
        for (text, cause) in [
            ("wait=5", "Invalid wait time"),
            ("index=-1", "Invalid index"),
            ("index=99999999999999999999", "Invalid index"),
            ("stale&consistent", "Cannot specify ?stale with ?consistent, conflicting semantics."),
        ] {
            assert_eq!(Query::parse(text).unwrap_err(), Refused::bad(cause), "{text}");
        }
        let query = Query::parse("wait=1s").unwrap();
        let jittered = query.jittered_wait();
        assert!(jittered >= query.wait && jittered <= query.wait * 17 / 16);
    }

    #[test]
    fn passing_may_stand_alone_or_be_a_go_bool() {
        for (text, passing) in [("", false), ("passing", true), ("passing=1", true), ("passing=false", false)] {
            assert_eq!(Query::parse(text).unwrap().wanted(false).unwrap().passing, passing, "{text}");
        }
        assert!(Query::parse("passing=x").unwrap().wanted(false).is_err());
    }

    #[test]
    fn a_filter_is_read_or_refused_with_its_cause() {
        let filter = "filter=%22v2%22+in+Service.Tags";
        assert!(Query::parse(filter).unwrap().wanted(false).unwrap().filter.is_some());
        assert!(Query::parse(filter).unwrap().no_filter().is_err());
        let refused = Query::parse("filter=a+%3D%3D+b").unwrap().wanted(false).unwrap_err();
        let cause = "Failed to create boolean expression evaluator: Selector \"a\" is not valid";
        assert_eq!(refused, Refused::bad(cause));
    }
}
