//! Flags, their environment twins and Consul's own variables, laid over and under the file's tree.

use super::Environment;
use super::problems::Place;
use super::tree::{Entry, Node, Value};

/// A flag, its twin and the key that both override.
pub struct Override {
    pub flag: &'static str,
    pub variable: &'static str,
    pub key: &'static str,
}

/// Flag > twin > file > Consul's variable > default.
pub const OVERRIDES: &[Override] = &[
    over("--service", "OUTRIGGER_SERVICE", "service.name"),
    over("--id", "OUTRIGGER_ID", "service.id"),
    over("--port", "OUTRIGGER_PORT", "service.port"),
    over("--protocol", "OUTRIGGER_PROTOCOL", "service.protocol"),
    over("--inbound-listen", "OUTRIGGER_INBOUND_LISTEN", "inbound.listen"),
    over("--outbound-listen", "OUTRIGGER_OUTBOUND_LISTEN", "outbound.listen"),
    over("--admin-listen", "OUTRIGGER_ADMIN_LISTEN", "admin.listen"),
    over("--metrics-listen", "OUTRIGGER_METRICS_LISTEN", "metrics.listen"),
    over("--advertise", "OUTRIGGER_ADVERTISE", "inbound.advertise"),
    over("--mtls", "OUTRIGGER_MTLS", "inbound.mtls"),
    over("--consul-address", "OUTRIGGER_CONSUL_ADDRESS", "consul.address"),
    over("--workers", "OUTRIGGER_WORKERS", "workers"),
    over("--grace", "OUTRIGGER_GRACE", "shutdown.grace"),
];

const fn over(flag: &'static str, variable: &'static str, key: &'static str) -> Override {
    Override { flag, variable, key }
}

/// `NAME` or `NAME=LISTEN`, several separated by commas in the variable.
pub const UPSTREAM_FLAG: &str = "--upstream";
pub const UPSTREAM_VARIABLE: &str = "OUTRIGGER_UPSTREAM";

/// Consul's own variables for keys that the file leaves out (Consul's documentation, "Environment variables").
/// The token, CONSUL_HTTP_SSL and CONSUL_HTTP_SSL_VERIFY have no key; `check` reads them.
pub(super) const CONSUL_VARIABLES: &[(&str, &str)] = &[
    ("CONSUL_HTTP_ADDR", "address"),
    ("CONSUL_HTTP_TOKEN_FILE", "token_file"),
    ("CONSUL_CACERT", "ca_file"),
    ("CONSUL_CLIENT_CERT", "cert_file"),
    ("CONSUL_CLIENT_KEY", "key_file"),
    ("CONSUL_TLS_SERVER_NAME", "server_name"),
    ("CONSUL_NAMESPACE", "namespace"),
    ("CONSUL_PARTITION", "partition"),
    ("CONSUL_DATACENTER", "datacenter"),
];

/// What was given on the command line.
#[derive(Debug, Clone, Default)]
pub struct Flags {
    values: Vec<(&'static str, String)>,
    upstreams: Vec<String>,
}

impl Flags {
    /// `flag` as in `OVERRIDES`.
    pub fn set(&mut self, flag: &'static str, value: Option<String>) {
        self.values.extend(value.map(|value| (flag, value)));
    }

    /// `NAME` or `NAME=LISTEN`.
    pub fn upstream(&mut self, upstream: impl Into<String>) {
        self.upstreams.push(upstream.into());
    }

    fn get(&self, flag: &str) -> Option<&str> {
        self.values.iter().rev().find(|(known, _)| *known == flag).map(|(_, value)| value.as_str())
    }
}

/// Lays flags and twins over the tree, and Consul's variables under it.
pub(super) fn apply(root: &mut Node, flags: &Flags, environment: &Environment) {
    for over in OVERRIDES {
        let given = match (flags.get(over.flag), environment.get(over.variable)) {
            (Some(value), _) => Node::given(Place::Flag(over.flag), value),
            (None, Some(value)) => Node::given(Place::Env(over.variable), value),
            (None, None) => continue,
        };
        let keys: Vec<&str> = over.key.split('.').collect();
        put(root, &keys, given);
    }
    let twins = environment.get(UPSTREAM_VARIABLE).unwrap_or_default();
    for twin in twins.split(',').map(str::trim).filter(|twin| !twin.is_empty()) {
        put_upstream(root, twin, &Place::Env(UPSTREAM_VARIABLE));
    }
    for upstream in &flags.upstreams {
        put_upstream(root, upstream, &Place::Flag(UPSTREAM_FLAG));
    }
    for (variable, key) in CONSUL_VARIABLES {
        let present = root.get("consul").is_some_and(|consul| consul.node.get(key).is_some());
        match environment.get(variable) {
            Some(value) if !present => put(root, &["consul", key], Node::given(Place::Env(variable), value)),
            Some(_) | None => {}
        }
    }
}

/// The node at `keys` becomes `node`. Where a section on the way is no section, nothing happens: that is a mistake of
/// its own, and found.
fn put(root: &mut Node, keys: &[&str], node: Node) {
    let Some((first, rest)) = keys.split_first() else {
        *root = node;
        return;
    };
    if root.is_null() {
        root.value = Value::Map(Vec::new());
    }
    let Value::Map(entries) = &mut root.value else { return };
    let at = entries.iter().position(|entry| entry.key == *first).unwrap_or_else(|| {
        let empty = Node::map(node.place.clone());
        entries.push(Entry { key: (*first).to_owned(), place: node.place.clone(), node: empty });
        entries.len() - 1
    });
    put(&mut entries[at].node, rest, node);
}

fn put_upstream(root: &mut Node, given: &str, place: &Place) {
    let (name, listen) = given.split_once('=').map_or((given, None), |(name, listen)| (name, Some(listen)));
    // A bare port is a port of this machine.
    let listen = listen.map(|listen| {
        let port = !listen.is_empty() && listen.bytes().all(|c| c.is_ascii_digit());
        Node::given(place.clone(), if port { format!("127.0.0.1:{listen}") } else { listen.to_owned() })
    });
    if root.get("outbound").is_none_or(|outbound| outbound.node.get("upstreams").is_none_or(|list| list.node.is_null()))
    {
        put(root, &["outbound", "upstreams"], Node { place: place.clone(), value: Value::List(Vec::new()) });
    }
    let Value::Map(sections) = &mut root.value else { return };
    let outbound = sections.iter_mut().find(|entry| entry.key == "outbound");
    let Some(Value::Map(keys)) = outbound.map(|entry| &mut entry.node.value) else { return };
    let upstreams = keys.iter_mut().find(|entry| entry.key == "upstreams");
    let Some(Value::List(items)) = upstreams.map(|entry| &mut entry.node.value) else { return };
    let is_it = |item: &Node| {
        item.get("service").is_some_and(|entry| matches!(&entry.node.value, Value::Scalar(known) if known.text == name))
    };
    let at = items.iter().position(is_it).unwrap_or_else(|| {
        let mut item = Node::map(place.clone());
        put(&mut item, &["service"], Node::given(place.clone(), name));
        items.push(item);
        items.len() - 1
    });
    if let Some(listen) = listen {
        put(&mut items[at], &["listen"], listen);
    }
}
