//! A registration's JSON as Go's decoder in Consul reads it: keys in any case, unknown ones refused, errors in its words.

use std::collections::BTreeMap;
use std::time::Duration;

use http::StatusCode;
use serde_json::{Map, Value};

/// What Consul answers instead of doing what was asked: a status and a plain text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) status: StatusCode,
    pub(super) text: String,
}

impl Refused {
    pub(super) fn bad(text: impl Into<String>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, text: text.into() }
    }

    pub(super) fn failed(text: impl Into<String>) -> Self {
        Self { status: StatusCode::INTERNAL_SERVER_ERROR, text: text.into() }
    }

    pub(super) fn missing(text: impl Into<String>) -> Self {
        Self { status: StatusCode::NOT_FOUND, text: text.into() }
    }

    fn decode(cause: impl std::fmt::Display) -> Self {
        Self::bad(format!("Request decode failed: {cause}"))
    }
}

/// A check's state; the worst one of an instance is the instance's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Status {
    Passing,
    Warning,
    Critical,
}

impl Status {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Passing => "passing",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [Self::Passing, Self::Warning, Self::Critical].into_iter().find(|status| status.as_str() == text)
    }
}

/// A registration that passed Consul's own checks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Registration {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) tags: Vec<String>,
    pub(super) address: String,
    pub(super) port: i64,
    pub(super) meta: BTreeMap<String, String>,
    pub(super) weights: (i64, i64),
    pub(super) enable_tag_override: bool,
    pub(super) native: bool,
    pub(super) checks: Vec<CheckSpec>,
}

/// A TTL check as it is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CheckSpec {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) notes: String,
    pub(super) status: Status,
    pub(super) ttl: Duration,
    pub(super) deregister_after: Option<Duration>,
}

/// Body of `PUT /v1/agent/service/register`.
pub(super) fn registration(body: &[u8]) -> Result<Registration, Refused> {
    let mut fields = Fields::read(body)?;
    let name = fields.string("Name")?;
    let id = Some(fields.string("ID")?).filter(|id| !id.is_empty()).unwrap_or_else(|| name.clone());
    let kind = fields.string("Kind")?;
    let mut specs: Vec<Fields> = fields.objects("Checks")?;
    specs.extend(fields.object("Check")?);
    let weights = match fields.object("Weights")? {
        None => (1, 1),
        Some(mut weights) => {
            let both = (weights.integer("Passing")?, weights.integer("Warning")?);
            weights.end()?;
            both
        }
    };
    let registration = Registration {
        tags: fields.strings("Tags")?,
        address: fields.string("Address")?,
        port: fields.integer("Port")?,
        meta: fields.string_map("Meta")?,
        enable_tag_override: fields.boolean("EnableTagOverride")?,
        native: native(fields.object("Connect")?)?,
        checks: specs_of(specs, &id, &name)?,
        weights,
        id,
        name,
    };
    fields.forget(&["Token", "TaggedAddresses"]);
    let proxy = fields.object("Proxy")?;
    fields.end()?;
    if !kind.is_empty() || proxy.is_some() {
        return Err(Refused::bad("The embedded registry knows no proxy services; use Connect.Native"));
    }
    validate(&registration)?;
    Ok(registration)
}

/// Body of `PUT /v1/agent/check/update/ID`: the status, and the output that goes with it.
pub(super) fn check_update(body: &[u8]) -> Result<(Status, String), Refused> {
    let mut fields = Fields::read(body)?;
    let (text, output) = (fields.string("Status")?, fields.string("Output")?);
    fields.end()?;
    let status = Status::parse(&text).ok_or_else(|| Refused::bad(format!("Invalid check status: '{text}'")))?;
    Ok((status, output))
}

/// Consul ignores unknown keys here, unlike everywhere else in a registration.
fn native(connect: Option<Fields>) -> Result<bool, Refused> {
    let Some(mut connect) = connect else { return Ok(false) };
    if connect.take("SidecarService").is_some_and(|value| !value.is_null()) {
        return Err(Refused::bad("The embedded registry knows no sidecar services; use Connect.Native"));
    }
    connect.boolean("Native")
}

fn specs_of(fields: Vec<Fields>, id: &str, name: &str) -> Result<Vec<CheckSpec>, Refused> {
    let fields: Vec<Fields> = fields.into_iter().filter(|check| !check.is_zero()).collect();
    let many = fields.len() > 1;
    let mut specs = Vec::with_capacity(fields.len());
    for (at, mut check) in fields.into_iter().enumerate() {
        let given = check.string("CheckID")?;
        let default = if many { format!("service:{id}:{}", at + 1) } else { format!("service:{id}") };
        let label = check.string("Name")?;
        let text = check.string("Status")?;
        let status = match text.as_str() {
            "" => Status::Critical,
            _ => Status::parse(&text)
                .ok_or_else(|| Refused::bad("Status for checks must 'passing', 'warning', 'critical'"))?,
        };
        let deregister_after = check.duration("DeregisterCriticalServiceAfter")?;
        let spec = CheckSpec {
            id: if given.is_empty() { default } else { given },
            name: if label.is_empty() { format!("Service '{name}' check") } else { label },
            notes: check.string("Notes")?,
            status,
            ttl: check.duration("TTL")?,
            // Consul's minimum: `check_deregister_interval_min`, one minute.
            deregister_after: (!deregister_after.is_zero()).then(|| deregister_after.max(Duration::from_mins(1))),
        };
        if ["HTTP", "TCP", "GRPC", "ScriptArgs", "AliasService", "AliasNode", "DockerContainerID"]
            .into_iter()
            .any(|kind| check.take(kind).is_some_and(|value| !value.is_null()))
        {
            return Err(Refused::bad("Invalid check: the embedded registry runs TTL checks only"));
        }
        check.forget(&["Interval", "Timeout", "SuccessBeforePassing", "FailuresBeforeCritical", "OutputMaxSize"]);
        check.end()?;
        if spec.ttl.is_zero() {
            return Err(Refused::bad("Invalid check: TTL must be > 0 for TTL checks"));
        }
        specs.push(spec);
    }
    Ok(specs)
}

fn validate(registration: &Registration) -> Result<(), Refused> {
    if registration.name.is_empty() {
        return Err(Refused::bad("Missing service name"));
    }
    if matches!(registration.address.as_str(), "0.0.0.0" | "::" | "[::]") {
        return Err(Refused::bad("Invalid service address"));
    }
    if let Some(cause) = wrong_meta(&registration.meta) {
        return Err(Refused::bad(format!("Invalid Service Meta: {cause}")));
    }
    let (passing, warning) = registration.weights;
    let cause = match () {
        () if passing < 1 => "Passing must be greater than 0",
        () if warning < 0 => "Warning must be greater or equal than 0",
        () if passing > 65535 || warning > 65535 => "DNS Weight must be between 0 and 65535",
        () => return Ok(()),
    };
    Err(Refused::bad(format!("Invalid Weights: {cause}")))
}

fn wrong_meta(meta: &BTreeMap<String, String>) -> Option<String> {
    if meta.len() > 64 {
        return Some("Node metadata cannot contain more than 64 key/value pairs".into());
    }
    let odd = |c: char| !(c.is_ascii_alphanumeric() || c == '-' || c == '_');
    meta.iter().find_map(|(key, value)| {
        let cause = match () {
            () if key.is_empty() => "Key cannot be blank",
            () if key.chars().any(odd) => "Key contains invalid characters",
            () if key.len() > 128 => "Key is too long (limit: 128 characters)",
            () if key.starts_with("consul-") => "Key prefix 'consul-' is reserved for internal use",
            () if value.len() > 512 => "Value is too long (limit: 512 characters)",
            () => return None,
        };
        Some(format!("Couldn't load metadata pair ('{key}', '{value}'): {cause}"))
    })
}

/// The fields of one JSON object that nobody has taken yet.
struct Fields(Map<String, Value>);

impl Fields {
    fn read(body: &[u8]) -> Result<Self, Refused> {
        if body.iter().all(u8::is_ascii_whitespace) {
            return Err(Refused::decode("EOF"));
        }
        match serde_json::from_slice(body).map_err(Refused::decode)? {
            Value::Object(fields) => Ok(Self(fields)),
            other => {
                Err(Refused::decode(format!("json: cannot unmarshal {} into Go value of type struct", kind(&other))))
            }
        }
    }

    /// Go matches keys without case, and Consul takes `snake_case` as well.
    fn take(&mut self, name: &str) -> Option<Value> {
        let same = |key: &str| {
            let mut letters = key.chars().filter(|c| *c != '_').map(|c| c.to_ascii_lowercase());
            name.chars().all(|c| letters.next() == Some(c.to_ascii_lowercase())) && letters.next().is_none()
        };
        let key = self.0.keys().find(|key| same(key))?.clone();
        self.0.remove(&key)
    }

    fn forget(&mut self, names: &[&str]) {
        for name in names {
            self.take(name);
        }
    }

    /// A key that nobody asked for.
    fn end(self) -> Result<(), Refused> {
        match self.0.keys().next() {
            None => Ok(()),
            Some(key) => Err(Refused::decode(format!("json: unknown field \"{key}\""))),
        }
    }

    /// Whether Go would see the zero value of the struct: Consul drops such checks in silence.
    fn is_zero(&self) -> bool {
        self.0.values().all(|value| match value {
            Value::Null => true,
            Value::String(text) => text.is_empty() || duration(text) == Some(Duration::ZERO),
            Value::Number(number) => number.as_f64() == Some(0.0),
            Value::Bool(yes) => !yes,
            Value::Array(list) => list.is_empty(),
            Value::Object(map) => map.is_empty(),
        })
    }

    fn string(&mut self, name: &str) -> Result<String, Refused> {
        match self.take(name) {
            None | Some(Value::Null) => Ok(String::new()),
            Some(Value::String(text)) => Ok(text),
            Some(other) => Err(wrong_type(&other, name, "string")),
        }
    }

    fn boolean(&mut self, name: &str) -> Result<bool, Refused> {
        match self.take(name) {
            None | Some(Value::Null) => Ok(false),
            Some(Value::Bool(yes)) => Ok(yes),
            Some(other) => Err(wrong_type(&other, name, "bool")),
        }
    }

    fn integer(&mut self, name: &str) -> Result<i64, Refused> {
        match self.take(name) {
            None | Some(Value::Null) => Ok(0),
            Some(Value::Number(number)) => number.as_i64().ok_or_else(|| {
                Refused::decode(format!(
                    "json: cannot unmarshal number {number} into Go struct field .{name} of type int"
                ))
            }),
            Some(other) => Err(wrong_type(&other, name, "int")),
        }
    }

    fn strings(&mut self, name: &str) -> Result<Vec<String>, Refused> {
        match self.take(name) {
            None | Some(Value::Null) => Ok(Vec::new()),
            Some(Value::Array(items)) => items
                .into_iter()
                .map(|item| match item {
                    Value::String(text) => Ok(text),
                    other => Err(wrong_type(&other, name, "string")),
                })
                .collect(),
            Some(other) => Err(wrong_type(&other, name, "[]string")),
        }
    }

    fn string_map(&mut self, name: &str) -> Result<BTreeMap<String, String>, Refused> {
        match self.take(name) {
            None | Some(Value::Null) => Ok(BTreeMap::new()),
            Some(Value::Object(items)) => items
                .into_iter()
                .map(|(key, item)| match item {
                    Value::String(text) => Ok((key, text)),
                    other => Err(wrong_type(&other, name, "string")),
                })
                .collect(),
            Some(other) => Err(wrong_type(&other, name, "map[string]string")),
        }
    }

    fn object(&mut self, name: &str) -> Result<Option<Self>, Refused> {
        match self.take(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Object(fields)) => Ok(Some(Self(fields))),
            Some(other) => Err(wrong_type(&other, name, "struct")),
        }
    }

    fn objects(&mut self, name: &str) -> Result<Vec<Self>, Refused> {
        match self.take(name) {
            None | Some(Value::Null) => Ok(Vec::new()),
            Some(Value::Array(items)) => items
                .into_iter()
                .map(|item| match item {
                    Value::Object(fields) => Ok(Self(fields)),
                    other => Err(wrong_type(&other, name, "struct")),
                })
                .collect(),
            Some(other) => Err(wrong_type(&other, name, "[]struct")),
        }
    }

    /// A Go duration as text, or nanoseconds as a number.
    fn duration(&mut self, name: &str) -> Result<Duration, Refused> {
        match self.take(name) {
            None | Some(Value::Null) => Ok(Duration::ZERO),
            Some(Value::String(text)) if text.is_empty() => Ok(Duration::ZERO),
            Some(Value::String(text)) => {
                duration(&text).ok_or_else(|| Refused::decode(format!("time: invalid duration \"{text}\"")))
            }
            Some(Value::Number(number)) => Ok(number.as_u64().map_or(Duration::ZERO, Duration::from_nanos)),
            Some(other) => Err(wrong_type(&other, name, "time.Duration")),
        }
    }
}

fn wrong_type(found: &Value, name: &str, wanted: &str) -> Refused {
    let found = kind(found);
    Refused::decode(format!("json: cannot unmarshal {found} into Go struct field .{name} of type {wanted}"))
}

const fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// Go's `time.ParseDuration`: `300ms`, `1.5h`, `2h45m`. Negative ones become zero, as all of Consul's uses treat them.
pub(super) fn duration(text: &str) -> Option<Duration> {
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    let mut seconds = 0.0_f64;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, tail) = rest.split_at(digits);
        let unit = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit);
        let scale = match unit {
            "ns" => 1e-9,
            "us" | "µs" | "μs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        seconds += number.parse::<f64>().ok()? * scale;
        rest = tail;
    }
    if negative {
        return Some(Duration::ZERO);
    }
    Duration::try_from_secs_f64(seconds).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text_of(body: &str) -> String {
        registration(body.as_bytes()).unwrap_err().text
    }

    #[test]
    fn durations_are_read_as_go_reads_them() {
        for (text, seconds) in
            [("300ms", 0.3), ("1m", 60.0), ("1h0m1s", 3601.0), ("1.5s", 1.5), ("0", 0.0), ("-1s", 0.0)]
        {
            assert_eq!(duration(text), Some(Duration::from_secs_f64(seconds)), "{text}");
        }
        for bad in ["", "5", "s", "1x", "1s2", ".s", "1 s", "99999999999999999999h"] {
            assert_eq!(duration(bad), None, "{bad}");
        }
    }

    /// The texts were read from Consul 1.8.7.
    #[test]
    fn a_bad_registration_is_refused_in_consuls_words() {
        for (body, text) in [
            ("", "Request decode failed: EOF"),
            (r#"{"ID":"x"}"#, "Missing service name"),
            (
                r#"{"Name":5}"#,
                "Request decode failed: json: cannot unmarshal number into Go struct field .Name of type string",
            ),
            (r#"{"Name":"a","Bogus":1}"#, "Request decode failed: json: unknown field \"Bogus\""),
            (r#"{"Name":"a","Check":{"Bogus":1}}"#, "Request decode failed: json: unknown field \"Bogus\""),
            (r#"{"Name":"a","Check":{"TTL":"x"}}"#, "Request decode failed: time: invalid duration \"x\""),
            (r#"{"Name":"a","Check":{"Name":"n"}}"#, "Invalid check: TTL must be > 0 for TTL checks"),
            (r#"{"Name":"a","Weights":{"Passing":0}}"#, "Invalid Weights: Passing must be greater than 0"),
            (r#"{"Name":"a","Address":"0.0.0.0"}"#, "Invalid service address"),
            (
                r#"{"Name":"a","Meta":{"a b":"x"}}"#,
                "Invalid Service Meta: Couldn't load metadata pair ('a b', 'x'): Key contains invalid characters",
            ),
        ] {
            assert_eq!(text_of(body), text, "{body}");
        }
    }

    #[test]
    fn defaults_and_spellings_are_consuls() {
        let body = br#"{"name":"web","check":{"ttl":"10s","deregister_critical_service_after":"5s"}}"#;
        let got = registration(body).unwrap();
        assert_eq!((got.id.as_str(), got.weights, got.native), ("web", (1, 1), false));
        let check = &got.checks[0];
        assert_eq!(
            (check.id.as_str(), check.name.as_str(), check.status),
            ("service:web", "Service 'web' check", Status::Critical)
        );
        assert_eq!(check.deregister_after, Some(Duration::from_mins(1)), "never below a minute");
        let two = registration(br#"{"Name":"w","Checks":[{"TTL":"1s"},{"TTL":"2s"}]}"#).unwrap();
        assert_eq!(two.checks.iter().map(|c| c.id.as_str()).collect::<Vec<_>>(), ["service:w:1", "service:w:2"]);
    }
}
