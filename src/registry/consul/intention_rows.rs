//! Intentions as Consul's `match` lists them, of any version. What is not understood never widens who may call.

use http::Method;
use serde_json::{Map, Value};

use crate::access::{Action, Condition, DefaultPolicy, HeaderMatch, Intention, Name, PathMatch, Permission, Source};
use crate::expression::whole;

/// One row of `/v1/connect/intentions/match`; new fields that are no conditions are passed over.
///
/// # Errors
/// Where it is no intention at all: then the whole answer is not to be believed.
pub(super) fn intention(row: &Value) -> Result<Intention, String> {
    let row = row.as_object().ok_or("an intention is no object")?;
    let name = text(row, "SourceName").ok_or("an intention has no SourceName")?;
    let destination = text(row, "DestinationName").ok_or("an intention has no DestinationName")?;
    let or_default = |key: &str| text(row, key).unwrap_or(DEFAULT);
    let source = Source {
        name: name.into(),
        namespace: or_default("SourceNS").into(),
        partition: or_default("SourcePartition").into(),
        peer: text(row, "SourcePeer").filter(|peer| *peer != LOCAL).map(Into::into),
    };
    let told = row.get("Precedence").and_then(Value::as_u64).and_then(|told| u32::try_from(told).ok());
    let precedence =
        told.filter(|told| *told > 0).unwrap_or_else(|| source.precedence(destination, or_default("DestinationNS")));
    Ok(Intention { action: action(row), source, destination: destination.into(), precedence })
}

/// An intention that denies denies, whatever else it says.
fn action(row: &Map<String, Value>) -> Action {
    let said = text(row, "Action").unwrap_or_default();
    if said == "deny" {
        return Action::Deny;
    }
    let barred = |what: &str| Action::Barred(what.into());
    if text(row, "SourceType").is_some_and(|kind| kind != "consul") {
        return barred("its SourceType is not known");
    }
    if text(row, "SourceSamenessGroup").is_some() {
        return barred("who is in a sameness group is not known here");
    }
    if has(row, "JWT") {
        return barred("it requires a JWT, which is not checked here");
    }
    match (row.get("Permissions").filter(|value| !is_nothing(value)), said) {
        (Some(Value::Array(permissions)), _) => Action::Permissions(permissions.iter().map(permission).collect()),
        (Some(_), _) => barred("its Permissions are no list"),
        (None, "allow") => Action::Allow,
        (None, _) => barred("its Action is not known"),
    }
}

/// A condition that cannot be read is left out and bars the permission: it then matches more requests, and denies them.
fn permission(value: &Value) -> Permission {
    let mut permission = Permission::default();
    let mut bars = Bars::default();
    let empty = Map::new();
    let Some(row) = value.as_object() else {
        bars.add("is no object");
        permission.barred = bars.first;
        return permission;
    };
    match text(row, "Action") {
        Some("allow") => permission.allow = true,
        Some("deny") => {}
        _ => bars.add("has no Action that is known"),
    }
    if has(row, "JWT") {
        bars.add("requires a JWT, which is not checked here");
    }
    bars.strange(row, &["Action", "HTTP", "JWT"]);
    let http = match row.get("HTTP").filter(|value| !is_nothing(value)) {
        None => &empty,
        Some(value) => value.as_object().unwrap_or_else(|| {
            bars.add("has an HTTP that is no object");
            &empty
        }),
    };
    bars.strange(http, &["PathExact", "PathPrefix", "PathRegex", "Methods", "Header"]);
    permission.path = path(http, &mut bars);
    permission.methods = methods(http, &mut bars);
    permission.headers = list(http, "Header", &mut bars).iter().filter_map(|row| header(row, &mut bars)).collect();
    permission.barred = bars.first;
    permission
}

fn methods(http: &Map<String, Value>, bars: &mut Bars) -> Vec<Method> {
    let parsed = list(http, "Methods", bars).iter().map(|method| Method::from_bytes(method.as_str()?.as_bytes()).ok());
    parsed.collect::<Option<_>>().unwrap_or_else(|| {
        bars.add("has a method that is none");
        Vec::new()
    })
}

fn path(http: &Map<String, Value>, bars: &mut Bars) -> Option<PathMatch> {
    match (text(http, "PathExact"), text(http, "PathPrefix"), text(http, "PathRegex")) {
        (None, None, None) => None,
        (Some(exact), None, None) => Some(PathMatch::Exact(exact.into())),
        (None, Some(prefix), None) => Some(PathMatch::Prefix(prefix.into())),
        (None, None, Some(regex)) => match whole(regex, false) {
            Ok(regex) => Some(PathMatch::Regex(Box::new(regex))),
            Err(cause) => {
                bars.add(&format!(
                    "has a path that is not understood: the expression {regex:?} cannot be used: {cause}"
                ));
                None
            }
        },
        _ => {
            bars.add("has more than one path");
            None
        }
    }
}

fn header(row: &Value, bars: &mut Bars) -> Option<HeaderMatch> {
    let Some(row) = row.as_object() else {
        bars.add("has a header that is no object");
        return None;
    };
    bars.strange(row, &["Name", "Present", "Exact", "Prefix", "Suffix", "Contains", "Regex", "Invert", "IgnoreCase"]);
    let flag = |key: &str| row.get(key).and_then(Value::as_bool).unwrap_or(false);
    let ignore_case = flag("IgnoreCase");
    let kinds: [(&str, Kind); 4] = [
        ("Exact", Condition::Exact),
        ("Prefix", Condition::Prefix),
        ("Suffix", Condition::Suffix),
        ("Contains", Condition::Contains),
    ];
    let mut conditions: Vec<Condition> =
        kinds.into_iter().filter_map(|(key, make)| text(row, key).map(|wanted| make(wanted.into()))).collect();
    if flag("Present") {
        conditions.push(Condition::Present);
    }
    if let Some(regex) = text(row, "Regex") {
        match whole(regex, ignore_case) {
            Ok(regex) => conditions.push(Condition::Regex(Box::new(regex))),
            Err(cause) => {
                bars.add(&format!(
                    "has a header that is not understood: the expression {regex:?} cannot be used: {cause}"
                ));
                return None;
            }
        }
    }
    let name = Name::parse(text(row, "Name").unwrap_or_default());
    match (name, <[Condition; 1]>::try_from(conditions)) {
        (Ok(name), Ok([condition])) => Some(HeaderMatch { name, condition, invert: flag("Invert"), ignore_case }),
        (Err(cause), _) => {
            bars.add(&format!("has a header that is not understood: {cause}"));
            None
        }
        (Ok(_), Err(_)) => {
            bars.add("has a header without exactly one condition");
            None
        }
    }
}

/// Makes a condition of its text.
type Kind = fn(Box<str>) -> Condition;

/// Why a permission cannot be judged; the first cause is kept.
#[derive(Default)]
struct Bars {
    first: Option<Box<str>>,
}

impl Bars {
    fn add(&mut self, what: &str) {
        self.first.get_or_insert_with(|| what.into());
    }

    /// A key that we do not know narrows what it stands in, in a way that we do not know.
    fn strange(&mut self, row: &Map<String, Value>, known: &[&str]) {
        let strange = row.iter().find(|(key, value)| !known.contains(&key.as_str()) && !is_nothing(value));
        if let Some((key, _)) = strange {
            self.add(&format!("has a condition that is not known here: {key:?}"));
        }
    }
}

/// What a member without an intention is judged by, from `/v1/agent/self`. `None` where the agent does not tell.
///
/// Consul 1.18 and newer have a policy for it; before, and where that is not set, it follows the ACLs'. Without ACLs it is
/// allow. The places are those of 1.8 and of 1.9 and newer.
pub(super) fn default_policy(agent: &Value) -> Option<DefaultPolicy> {
    let config = agent.get("DebugConfig")?.as_object()?;
    let resolver = config.get("ACLResolverSettings").and_then(Value::as_object);
    let of = |name: &str| match name {
        "allow" => Some(DefaultPolicy::Allow),
        "deny" => Some(DefaultPolicy::Deny),
        _ => None,
    };
    if let Some(own) = text(config, "DefaultIntentionPolicy") {
        return of(own);
    }
    let flag = |map: &Map<String, Value>| map.get("ACLsEnabled").and_then(Value::as_bool);
    let enabled = flag(config).or_else(|| resolver.and_then(flag))?;
    if !enabled {
        return Some(DefaultPolicy::Allow);
    }
    text(config, "ACLDefaultPolicy").or_else(|| resolver.and_then(|map| text(map, "ACLDefaultPolicy"))).and_then(of)
}

/// A text that is there and not empty: Consul writes `""` for what is not set.
fn text<'a>(row: &'a Map<String, Value>, key: &str) -> Option<&'a str> {
    row.get(key).and_then(Value::as_str).filter(|text| !text.is_empty())
}

fn has(row: &Map<String, Value>, key: &str) -> bool {
    row.get(key).is_some_and(|value| !is_nothing(value))
}

fn list<'a>(row: &'a Map<String, Value>, key: &str, bars: &mut Bars) -> &'a [Value] {
    match row.get(key).filter(|value| !is_nothing(value)) {
        None => &[],
        Some(Value::Array(list)) => list,
        Some(_) => {
            bars.add(&format!("has {key} that are no list"));
            &[]
        }
    }
}

/// Go's zero values, which say nothing.
fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(set) => !set,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
    }
}

/// Consul's name for what has no other.
const DEFAULT: &str = "default";
/// The peer that is none.
const LOCAL: &str = "local";

#[cfg(test)]
#[path = "intention_rows_tests.rs"]
mod tests;
