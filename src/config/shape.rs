//! What a key may hold, and the pass that finds every mistake that one value shows alone: unknown keys, wrong types,
//! bad values, keys whose capability comes later.

use super::problems::{Fault, Place, Problems, nearest};
use super::tree::{Entry, Node, Scalar, Style, Value, join};
use super::{route_shapes, upstream_values, values};

/// One key of the file: the truth for the checker, the defaults, the JSON Schema and `docs/config.md`.
pub(super) struct Key {
    pub(super) name: &'static str,
    pub(super) shape: Shape,
    /// YAML text; `None` where absence means something of its own, which `about` says.
    pub(super) default: Option<&'static str>,
    pub(super) required: bool,
    pub(super) about: &'static str,
}

impl Key {
    pub(super) const fn new(name: &'static str, shape: Shape, default: &'static str, about: &'static str) -> Self {
        Self { name, shape, default: Some(default), required: false, about }
    }

    pub(super) const fn optional(name: &'static str, shape: Shape, about: &'static str) -> Self {
        Self { name, shape, default: None, required: false, about }
    }

    pub(super) const fn required(name: &'static str, shape: Shape, about: &'static str) -> Self {
        Self { name, shape, default: None, required: true, about }
    }

    /// A key of the contract whose capability comes later.
    pub(super) const fn later(name: &'static str, about: &'static str) -> Self {
        Self { name, shape: Shape::Later, default: None, required: false, about }
    }
}

pub(super) enum Shape {
    Leaf(Leaf),
    List(Leaf),
    /// Names and texts of the user's choice.
    Texts,
    Section(&'static [Key]),
    /// A section with exactly one of its keys.
    OneOf(&'static [Key]),
    /// A word, or a section in its place.
    WordOr(Leaf, &'static Self),
    Sections(&'static [Key]),
    /// Names with what must be there under them: a text, `{ regex: … }` or `{ present: … }`.
    Conditions,
    /// Names of header fields and texts.
    Fields,
    /// A list of plugins, each with the `config` that its name asks for.
    Plugins,
    /// Not looked at.
    Any,
    Later,
}

#[derive(Clone, Copy)]
pub(super) enum Leaf {
    Text,
    TextOrEmpty,
    /// Text that may stand in a header.
    Visible,
    /// Text that no mistake repeats.
    Secret,
    /// A duration, or a number of milliseconds.
    Millis,
    Service,
    Host,
    /// `HOST:PORT`; port 0 allowed where told.
    HostPort {
        zero: bool,
    },
    /// A DNS name, with a port or without.
    Endpoint,
    Listen,
    ConsulAddress,
    Path,
    RequestPath,
    Network,
    Bool,
    /// Being there says it all; `true` is what YAML wants behind a key.
    OnlyTrue,
    Integer {
        min: u64,
        max: u64,
    },
    Workers,
    Fraction,
    Percent,
    Duration {
        min_ms: u64,
        off: bool,
    },
    Size {
        min: u64,
        max: u64,
    },
    Choice {
        values: &'static [&'static str],
        later: &'static [&'static str],
    },
    Method,
    RetryOn,
    HeaderName,
    CookieName,
    /// Of Consul's.
    Datacenter,
    /// Consul's expression language, which Consul alone judges.
    Filter,
    HedgeAfter,
}

impl Leaf {
    fn check(self, scalar: &Scalar) -> Result<(), Fault> {
        match self {
            Self::Text => values::text(scalar).map(drop),
            Self::TextOrEmpty => values::text_or_empty(scalar).map(drop),
            Self::Visible => values::visible(scalar).map(drop),
            Self::Secret => values::secret(scalar).map(drop),
            Self::Millis => values::millis(scalar).map(drop),
            Self::Service => values::service(scalar).map(drop),
            Self::Host => values::host(scalar).map(drop),
            Self::HostPort { zero: true } => values::host_port(scalar).map(drop),
            Self::HostPort { zero: false } => values::target(scalar).map(drop),
            Self::Endpoint => {
                values::target(scalar).map(drop).or_else(|fault| values::host(scalar).map(drop).map_err(|_| fault))
            }
            Self::Listen => values::listen(scalar).map(drop),
            Self::ConsulAddress => values::consul_address(scalar).map(drop),
            Self::Path => values::path(scalar).map(drop),
            Self::RequestPath => values::request_path(scalar).map(drop),
            Self::Network => values::network(scalar).map(drop),
            Self::Bool => values::boolean(scalar).map(drop),
            Self::OnlyTrue => upstream_values::only_true(scalar),
            Self::Integer { min, max } => values::integer(scalar, min, max).map(drop),
            Self::Workers => values::workers(scalar).map(drop),
            Self::Fraction => values::fraction(scalar).map(drop),
            Self::Percent => values::percent(scalar).map(drop),
            Self::Duration { min_ms, off } => check_duration(scalar, min_ms, off),
            Self::Size { min, max } => check_size(scalar, min, max),
            Self::Choice { values, later } => values::choice(scalar, values, later).map(drop),
            Self::Method => values::method(scalar).map(drop),
            Self::RetryOn => upstream_values::retry_on(scalar).map(drop),
            Self::HeaderName => upstream_values::header_name(scalar).map(drop),
            Self::CookieName => upstream_values::cookie_name(scalar).map(drop),
            Self::Datacenter => upstream_values::datacenter(scalar).map(drop),
            Self::Filter => upstream_values::filter(scalar).map(drop),
            Self::HedgeAfter => upstream_values::hedge_after(scalar).map(drop),
        }
    }

    /// For `must be …, but is a list`.
    pub(super) fn noun(self) -> &'static str {
        match self {
            Self::Text | Self::TextOrEmpty | Self::Visible | Self::Secret => "text",
            Self::Millis => "a duration, or a number of milliseconds",
            Self::Service => "a service name",
            Self::Host => "a host",
            Self::HostPort { .. } => "HOST:PORT",
            Self::Endpoint => "HOST:PORT or a DNS name",
            Self::Listen => "IP:PORT",
            Self::ConsulAddress => "an address",
            Self::Path => "a path",
            Self::RequestPath => "a path",
            Self::Network => "an IP address or network",
            Self::Bool => "true or false",
            Self::OnlyTrue => "true",
            Self::Integer { .. } | Self::Fraction | Self::Percent => "a number",
            Self::Workers => "a number or auto",
            Self::Duration { off: false, .. } => "a duration",
            Self::Duration { off: true, .. } => "a duration or off",
            Self::Size { .. } => "a size",
            Self::Choice { .. } | Self::RetryOn => "a word",
            Self::Method => "a method",
            Self::HeaderName => "a header's name",
            Self::CookieName => "a cookie's name",
            Self::Datacenter => "a datacenter's name",
            Self::Filter => "an expression",
            Self::HedgeAfter => "a duration or a percentile",
        }
    }
}

fn check_duration(scalar: &Scalar, min_ms: u64, off: bool) -> Result<(), Fault> {
    let time = if off { values::duration_or_off(scalar)? } else { Some(values::duration(scalar)?) };
    match time {
        Some(time) if time.as_millis() < u128::from(min_ms) => {
            let least = spelled(min_ms);
            Err(Fault::new(format!("{:?} is shorter than {least}", scalar.text), format!("write {least} or more")))
        }
        Some(_) | None => Ok(()),
    }
}

/// Milliseconds as a user would write them.
pub(super) fn spelled(millis: u64) -> String {
    match millis {
        _ if millis.is_multiple_of(60_000) => format!("{}m", millis / 60_000),
        _ if millis.is_multiple_of(1000) => format!("{}s", millis / 1000),
        _ => format!("{millis}ms"),
    }
}

fn check_size(scalar: &Scalar, min: u64, max: u64) -> Result<(), Fault> {
    let bytes = values::size(scalar)?;
    if (min..=max).contains(&bytes) {
        return Ok(());
    }
    Err(Fault::new(
        format!("{:?} is not from {min} to {max} bytes", scalar.text),
        format!("write a size from {min} to {max} bytes"),
    ))
}

/// Notes every mistake below `node`, which stands at `path` and should be a section of `keys`. `at` is where its own
/// key stands: the place of what is missing in it.
pub(super) fn check_section(node: &Node, keys: &'static [Key], (path, at): (&str, &Place), problems: &mut Problems) {
    // Null: every key of the section is commented out.
    if !node.is_null() && !matches!(node.value, Value::Map(_)) {
        let mend = if path.is_empty() { "begin with `service:`" } else { "write `key: value` lines below it" };
        let fault = Fault::new(format!("must be a section of keys, but is {}", node.kind()), mend);
        return problems.note(&node.place, path, fault);
    }
    for entry in node.entries() {
        match keys.iter().find(|key| key.name == entry.key) {
            Some(key) => check_key(entry, key, &join(path, key.name), problems),
            // Looking for what was meant takes time, and a hostile file has many keys.
            None if problems.is_full() => return,
            None => problems.note(&entry.place, &join(path, &entry.key), unknown(&entry.key, keys, path)),
        }
    }
    for key in keys.iter().filter(|key| key.required && node.get(key.name).is_none()) {
        let path = join(path, key.name);
        match key.shape {
            Shape::Section(keys) => check_section(&Node::map(at.clone()), keys, (&path, at), problems),
            Shape::Leaf(leaf) => {
                let (place, mend) = missing(&path, at, leaf, problems.file().is_some());
                problems.note(&place, &path, Fault::new("is missing", mend));
            }
            _ => {}
        }
    }
}

/// Without a file, what is missing is a flag.
fn missing(path: &str, at: &Place, leaf: Leaf, has_file: bool) -> (Place, String) {
    let flag = match path {
        "service.name" => Some(("--service", "NAME")),
        "service.port" => Some(("--port", "N")),
        _ => None,
    };
    match flag {
        Some((flag, value)) if !has_file => {
            (Place::Flag(flag), format!("give {flag} {value}, or a config file with -c FILE"))
        }
        Some((flag, value)) => (at.clone(), format!("add the key, or give {flag} {value}")),
        None => (at.clone(), format!("add the key with {}", leaf.noun())),
    }
}

fn unknown(found: &str, keys: &'static [Key], path: &str) -> Fault {
    let names = || keys.iter().map(|key| key.name);
    let mend = match nearest(found, names()) {
        Some(near) => format!("did you mean {near}?"),
        None if found == "<<" => "merge keys are not part of YAML 1.2, write the keys out".into(),
        None if names().next().is_none() => "write {}".into(),
        None => {
            let place = if path.is_empty() { "the file's top" } else { path };
            format!("remove it, the keys of {place} are: {}", names().collect::<Vec<_>>().join(", "))
        }
    };
    Fault::new("unknown key", mend)
}

fn check_key(entry: &Entry, key: &'static Key, path: &str, problems: &mut Problems) {
    match &key.shape {
        Shape::Later => problems.note(&entry.place, path, values::not_yet(key.name, "remove the key")),
        shape => check_shape(entry, shape, path, problems),
    }
}

fn check_shape(entry: &Entry, shape: &'static Shape, path: &str, problems: &mut Problems) {
    let node = &entry.node;
    match shape {
        Shape::Leaf(leaf) => check_leaf(node, *leaf, path, problems),
        Shape::List(leaf) => {
            for (at, item) in list(node, path, problems).iter().enumerate() {
                check_leaf(item, *leaf, &format!("{path}[{at}]"), problems);
            }
        }
        Shape::Texts => check_texts(node, path, problems),
        Shape::Section(keys) => check_section(node, keys, (path, &entry.place), problems),
        Shape::OneOf(keys) => {
            check_section(node, keys, (path, &entry.place), problems);
            let found: Vec<&str> = node.entries().iter().map(|entry| entry.key.as_str()).collect();
            if found.len() != 1 && (node.is_null() || matches!(node.value, Value::Map(_))) {
                let names = keys.iter().map(|key| key.name).collect::<Vec<_>>().join(", ");
                let found = if found.is_empty() { "none".to_owned() } else { found.join(" and ") };
                let fault =
                    Fault::new(format!("must have exactly one of {names}, but has {found}"), "keep one of them");
                problems.note(&entry.place, path, fault);
            }
        }
        Shape::WordOr(leaf, section) => match &node.value {
            Value::Map(_) => check_shape(entry, section, path, problems),
            Value::Scalar(scalar) if needs_settings(scalar, section) => {
                let fault = Fault::new(
                    format!("{} needs settings of its own", scalar.text),
                    format!("write {{ {}: {{ … }} }}", scalar.text),
                );
                problems.note(&node.place, path, fault);
            }
            Value::Scalar(_) | Value::List(_) => check_leaf(node, *leaf, path, problems),
        },
        Shape::Sections(keys) => {
            for (at, item) in list(node, path, problems).iter().enumerate() {
                check_section(item, keys, (&format!("{path}[{at}]"), &item.place), problems);
            }
        }
        Shape::Conditions => route_shapes::check_conditions(node, path, problems),
        Shape::Fields => route_shapes::check_fields(node, path, problems),
        Shape::Plugins => route_shapes::check_plugins(list(node, path, problems), path, problems),
        Shape::Any | Shape::Later => {}
    }
}

/// `balance: ring_hash`: the word of a section, without the section.
fn needs_settings(scalar: &Scalar, section: &Shape) -> bool {
    matches!(section, Shape::OneOf(keys) if keys.iter().any(|key| key.name == scalar.text))
}

fn list<'n>(node: &'n Node, path: &str, problems: &mut Problems) -> &'n [Node] {
    if !matches!(node.value, Value::List(_)) {
        let found = node.kind();
        let mend = if node.is_null() {
            "write [] for none, or remove the key"
        } else {
            "write [a, b], or a line `- a` for each"
        };
        problems.note(&node.place, path, Fault::new(format!("must be a list, but is {found}"), mend));
    }
    node.items()
}

fn check_texts(node: &Node, path: &str, problems: &mut Problems) {
    if !matches!(node.value, Value::Map(_)) && !node.is_null() {
        let fault = Fault::new(format!("must be a section of keys, but is {}", node.kind()), "write { key: \"text\" }");
        problems.note(&node.place, path, fault);
    }
    for entry in node.entries() {
        let path = join(path, &entry.key);
        // Consul refuses other keys and longer ones (agent/structs `validateMetaPair`).
        let good = entry.key.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_'));
        if !good || entry.key.is_empty() || entry.key.len() > 128 {
            let fault = Fault::new("Consul takes no such key", "use letters, digits, `-` and `_`, at most 128");
            problems.note(&entry.place, &path, fault);
        }
        check_leaf(&entry.node, Leaf::TextOrEmpty, &path, problems);
    }
}

pub(super) fn check_leaf(node: &Node, leaf: Leaf, path: &str, problems: &mut Problems) {
    let fault = match (&node.value, leaf) {
        (Value::Scalar(scalar), _) if scalar.is_null() => {
            Some(Fault::new("has no value", format!("write {}, or remove the key", leaf.noun())))
        }
        (Value::Scalar(scalar), _) => leaf.check(scalar).err(),
        // `{ring_hash: {header: x-user}}`: a word of the later ones with settings of its own.
        (Value::Map(entries), Leaf::Choice { values, later })
            if entries.iter().any(|entry| later.contains(&&*entry.key)) =>
        {
            Some(values::not_yet(&entries[0].key, &format!("use one of: {}", values.join(", "))))
        }
        (Value::List(_) | Value::Map(_), _) => Some(Fault::new(
            format!("must be {}, but is {}", leaf.noun(), node.kind()),
            "write one value behind the key",
        )),
    };
    if let Some(fault) = fault {
        problems.note(&node.place, path, fault);
    }
}

/// For the schema's defaults.
pub(super) fn json_of(node: &Node) -> serde_json::Value {
    match &node.value {
        Value::Scalar(scalar) if scalar.style == Style::Plain => {
            serde_json::from_str(&scalar.text).unwrap_or_else(|_| scalar.text.clone().into())
        }
        Value::Scalar(scalar) => scalar.text.clone().into(),
        Value::List(items) => items.iter().map(json_of).collect(),
        Value::Map(entries) => entries.iter().map(|entry| (entry.key.clone(), json_of(&entry.node))).collect(),
    }
}
