//! From the tree to a `Config`: meaning, cross references and what only several keys together show.

use std::cell::{OnceCell, RefCell};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use super::problems::{Fault, Place, Problems};
use super::section::{Section, Shared};
use super::tree::{Node, Scalar, Value};
use super::{
    AccessLogPath, AccessLogSettings, CheckSettings, Config, Environment, InboundMtls, InboundSettings,
    InboundTimeouts, ListenLimits, Probe, Protocol, ServiceSettings, Weights, authz, consul, consumers, identity, keys,
    plugins, policy, routes, shape, upstreams, values,
};

/// # Errors
/// With every mistake of the tree, those of `problems` included.
pub(super) fn config(
    root: &Node,
    file: Option<&Path>,
    environment: &Environment,
    mut problems: Problems,
) -> Result<Config, Problems> {
    shape::check_section(root, keys::ROOT, ("", &Place::START), &mut problems);
    let base = file.map(|file| file.parent().unwrap_or(Path::new("")));
    let shared = Shared { problems: RefCell::new(problems), consumers: OnceCell::new(), base };
    let section = Section::root(root, keys::ROOT, &shared);
    let config = meaning(&section, file, environment);
    let listeners = listeners(&section);
    distinct_listeners(&section, &listeners);
    let mut problems = shared.problems.into_inner();
    match config {
        Some(config) if problems.is_empty() => Ok(config),
        Some(_) | None => {
            if problems.is_empty() {
                // The table has a default for all that is not required, so this cannot be reached.
                problems.note(
                    &Place::START,
                    "",
                    Fault::new("the configuration is not complete", "report this as a bug"),
                );
            }
            Err(problems)
        }
    }
}

fn meaning(root: &Section<'_>, file: Option<&Path>, environment: &Environment) -> Option<Config> {
    // Plugins name consumers, so these come first.
    let consumers = root.shared().consumers.get_or_init(|| consumers::of(root)).clone();
    // Each part is read before any is missed, so that every mistake is noted.
    let service = service(&root.section("service"), environment);
    let consul = consul(&root.section("consul"), environment);
    let identity = identity(&root.section("identity"));
    let inbound = inbound(&root.section("inbound"), &consul);
    if service.as_ref().is_some_and(|service| service.protocol == Protocol::Tcp) {
        plugins::without_http(&root.section("inbound"));
    }
    let outbound = upstreams::outbound(&root.section("outbound"));
    let telemetry = root.section("telemetry");
    let access_log = telemetry.has("access_log").then(|| access_log(&telemetry.section("access_log")));
    Some(Config {
        file: file.map(Path::to_owned),
        service: service?,
        consul,
        snapshot: root.section("consul").path("snapshot"),
        identity: identity?,
        inbound: inbound?,
        outbound: outbound?,
        consumers,
        admin: root.section("admin").take("listen", values::listen)?,
        metrics: root.section("metrics").take("listen", values::listen)?,
        access_log: access_log.flatten(),
        grace: root.section("shutdown").take("grace", values::duration)?,
        workers: root.take("workers", values::workers)?,
    })
}

fn service(section: &Section<'_>, environment: &Environment) -> Option<ServiceSettings> {
    let weights = section.section("weights");
    let check = probe_settings(&section.section("check"));
    let (name, number) = (section.take("name", values::service), section.take("port", port));
    let meta = section.find("meta").map(texts).unwrap_or_default();
    if meta.len() > 64 {
        // Consul's limit (agent/structs `metaMaxKeyPairs`); two are the sidecar's own.
        section.mistake("meta", Fault::new(format!("has {} keys, and Consul takes 64", meta.len()), "remove some"));
    }
    let (name, number) = (name?, number?);
    Some(ServiceSettings {
        id: section.take("id", values::text).unwrap_or_else(|| format!("{name}-{}-{number}", environment.hostname())),
        name,
        address: section.take("address", values::host)?,
        port: number,
        protocol: section.take("protocol", protocol)?,
        tags: section.list("tags", values::text),
        meta,
        weights: Weights { passing: weights.take("passing", port)?, warning: weights.take("warning", port)? },
        check: check?,
    })
}

pub(super) fn texts(node: &Node) -> BTreeMap<String, String> {
    let text = |node: &Node| match &node.value {
        Value::Scalar(scalar) => Some(scalar.text.clone()),
        Value::List(_) | Value::Map(_) => None,
    };
    node.entries().iter().filter_map(|entry| Some((entry.key.clone(), text(&entry.node)?))).collect()
}

fn probe_settings(section: &Section<'_>) -> Option<CheckSettings> {
    let http = section.take("http", values::request_path);
    let tcp = section.take("tcp", values::boolean) == Some(true);
    let grpc = section.take("grpc", values::text_or_empty);
    let named: Vec<&str> = [("http", http.is_some()), ("tcp", tcp), ("grpc", grpc.is_some())]
        .into_iter()
        .filter_map(|(name, present)| present.then_some(name))
        .collect();
    if let [first, rest @ ..] = named.as_slice() {
        for other in rest {
            let fault = Fault::new(
                format!("{first} is there too, but the app is probed in one way"),
                "keep one of http, tcp, grpc",
            );
            section.mistake(other, fault);
        }
    }
    let probe = match (http, tcp, grpc) {
        (Some(path), ..) => Probe::Http(path),
        (None, true, _) => Probe::Tcp,
        (None, false, Some(service)) => Probe::Grpc(service),
        (None, false, None) => Probe::None,
    };
    Some(CheckSettings {
        probe,
        interval: section.take("interval", values::duration)?,
        timeout: section.take("timeout", values::duration)?,
        healthy_after: section.take("healthy_after", count)?,
        unhealthy_after: section.take("unhealthy_after", count)?,
        ttl: section.take("ttl", values::duration)?,
        deregister_after: section.take("deregister_after", values::duration)?,
    })
}

fn consul(section: &Section<'_>, environment: &Environment) -> consul::Settings {
    let defaults = consul::Settings::default();
    let (cert_file, key_file) = (section.path("cert_file"), section.path("key_file"));
    match (&cert_file, &key_file) {
        (Some(_), None) => section.mistake("cert_file", Fault::new("has no key_file beside it", "add consul.key_file")),
        (None, Some(_)) => {
            section.mistake("key_file", Fault::new("has no cert_file beside it", "add consul.cert_file"));
        }
        (Some(_), Some(_)) | (None, None) => {}
    }
    let token_file = section.path("token_file");
    // As in Consul's own tools, a token's file is stronger than a token.
    let token = if token_file.is_none() { environment.get("CONSUL_HTTP_TOKEN") } else { None };
    let tls = flag(section, "CONSUL_HTTP_SSL", environment).unwrap_or(false);
    consul::Settings {
        address: consul_address(section, tls).unwrap_or(defaults.address),
        token: token.map(Into::into),
        token_file,
        datacenter: section.take("datacenter", values::text),
        namespace: section.take("namespace", values::text),
        partition: section.take("partition", values::text),
        ca_file: section.path("ca_file"),
        cert_file,
        key_file,
        server_name: section.take("server_name", values::host),
        verify: flag(section, "CONSUL_HTTP_SSL_VERIFY", environment).unwrap_or(true),
        wait: defaults.wait,
    }
}

/// CONSUL_HTTP_SSL turns `http` and no scheme to `https`, as in Consul's `api.NewClient`; a scheme that the file or a
/// flag of ours names stays.
fn consul_address(section: &Section<'_>, tls: bool) -> Option<String> {
    let address = section.take("address", values::consul_address)?;
    let ours = section.find("address").is_some_and(|node| node.place != Place::Env("CONSUL_HTTP_ADDR"));
    Some(match address.split_once("://") {
        None => format!("{}://{address}", if tls { "https" } else { "http" }),
        Some(("http", rest)) if tls && !ours => format!("https://{rest}"),
        Some(_) => address,
    })
}

/// A variable of Consul's that is true or false, in the spellings of Go's `strconv.ParseBool`.
fn flag(section: &Section<'_>, variable: &'static str, environment: &Environment) -> Option<bool> {
    let text = environment.get(variable)?;
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => {
            let node = Node::given(Place::Env(variable), text);
            section.note(
                &node,
                "address",
                Fault::new(format!("{text:?} is neither true nor false"), "set it to true or false"),
            );
            None
        }
    }
}

fn identity(section: &Section<'_>) -> Option<identity::Source> {
    if section.has("files") {
        let files = section.section("files");
        let (cert, key, roots) = (files.path("cert"), files.path("key"), files.path("roots"));
        return Some(identity::Source::Files { cert: cert?, key: key?, roots: roots? });
    }
    if section.has("ca") {
        let ca = section.section("ca");
        let dir = ca.path("dir")?;
        // Nothing but `outrigger ca init` makes it, so unlike certificate files it will not appear later.
        if !dir.is_dir() {
            let fault = Fault::new(
                format!("{} is no folder", dir.display()),
                format!("run: outrigger ca init {}", dir.display()),
            );
            ca.mistake("dir", fault);
        }
        return Some(identity::Source::Ca { dir });
    }
    Some(identity::Source::Consul)
}

fn inbound(section: &Section<'_>, consul: &consul::Settings) -> Option<InboundSettings> {
    let mtls = section.take("mtls", |scalar| {
        Ok(match values::choice(scalar, &["strict", "permissive", "off"], &[])? {
            "permissive" => InboundMtls::Permissive,
            "off" => InboundMtls::Off,
            _ => InboundMtls::Strict,
        })
    })?;
    Some(InboundSettings {
        listen: section.take("listen", values::listen)?,
        advertise: section.take("advertise", values::host_port),
        mtls,
        timeouts: timeouts(&section.section("timeouts"))?,
        limits: limits(&section.section("limits"))?,
        adaptive: policy::adaptive(section)?,
        trusted_ips: section.list("trusted_ips", values::network),
        proxy_protocol: proxy_protocol(section)?,
        authz: authz::rules(section, mtls, consul),
        intentions: authz::intentions(section, mtls)?,
        plugins: plugins::of(section),
        routes: routes::inbound(section),
        keeps_case: section.take("header_case", keeps_case)?,
    })
}

fn proxy_protocol(section: &Section<'_>) -> Option<bool> {
    let wanted = section.take("proxy_protocol", values::boolean)?;
    let trusts_nobody = section.find("trusted_ips").is_none_or(|node| node.items().is_empty());
    if wanted && trusts_nobody {
        let fault = Fault::new(
            "nobody may send a PROXY header: inbound.trusted_ips is empty",
            "list the load balancers' addresses or networks in inbound.trusted_ips",
        );
        section.mistake("proxy_protocol", fault);
    }
    Some(wanted)
}

pub(super) fn timeouts(section: &Section<'_>) -> Option<InboundTimeouts> {
    Some(InboundTimeouts {
        handshake: section.take("handshake", values::duration)?,
        head: section.take("head", values::duration)?,
        body_idle: section.take("body_idle", values::duration)?,
        idle: section.take("idle", values::duration)?,
    })
}

pub(super) fn keeps_case(scalar: &Scalar) -> Result<bool, Fault> {
    Ok(values::choice(scalar, &["lower", "keep"], &[])? == "keep")
}

pub(super) fn limits(section: &Section<'_>) -> Option<ListenLimits> {
    Some(ListenLimits {
        connections: section.take("connections", number)?,
        head: section.take("head", bytes)?,
        headers: section.take("headers", number)?,
        h2_streams: section.take("h2_streams", count)?,
    })
}

fn access_log(section: &Section<'_>) -> Option<AccessLogSettings> {
    let word = section.take("path", values::text)?;
    let path = match word.as_str() {
        "stdout" => AccessLogPath::Stdout,
        "stderr" => AccessLogPath::Stderr,
        _ => AccessLogPath::File(section.path("path")?),
    };
    Some(AccessLogSettings { path, sample: section.take("sample", values::fraction)? })
}

/// An address that will be listened on, with the key that says so.
struct Listener<'a> {
    key: String,
    address: SocketAddr,
    /// `None`: the default.
    node: Option<&'a Node>,
}

fn listeners<'a>(root: &Section<'a>) -> Vec<Listener<'a>> {
    let one = |section: &Section<'a>| {
        let address = section.take("listen", values::listen)?;
        Some(Listener { key: section.key_path("listen"), address, node: section.find("listen") })
    };
    let outbound = root.section("outbound");
    let mut all: Vec<Listener<'a>> =
        ["inbound", "outbound", "admin", "metrics"].iter().filter_map(|name| one(&root.section(name))).collect();
    all.extend(outbound.sections("upstreams", &outbound.section("defaults")).iter().filter_map(one));
    all
}

/// Two listeners on one address, or one on the app's own. A default is never blamed: the key that chose its address is.
fn distinct_listeners(root: &Section<'_>, listeners: &[Listener<'_>]) {
    let service = root.section("service");
    let app = app_address(&service);
    for (at, one) in listeners.iter().enumerate() {
        if let Some(other) = listeners[..at].iter().find(|other| collide(one.address, other.address)) {
            let (blamed, other) = if one.node.is_some() { (one, other) } else { (other, one) };
            let Some(node) = blamed.node else { continue };
            let problem = format!("{} collides with {} at {}", blamed.address, other.key, other.address);
            root.note(node, &blamed.key, Fault::new(problem, "choose another port, or 0 for a free one"));
        } else if let Some(app) = app.filter(|app| collide(one.address, *app)) {
            let mend = "choose another port for the sidecar or the app";
            if let Some(node) = one.node {
                let problem = format!("{} is the app's own address, {app}", one.address);
                root.note(node, &one.key, Fault::new(problem, mend));
            } else {
                let problem = format!("{} collides with {} at {}", app.port(), one.key, one.address);
                service.mistake("port", Fault::new(problem, mend));
            }
        }
    }
}

/// Where the app listens, if it is on this machine.
fn app_address(service: &Section<'_>) -> Option<SocketAddr> {
    let port = service.take("port", port)?;
    let host = service.take("address", values::host)?;
    let ip = if host == "localhost" { IpAddr::from([127, 0, 0, 1]) } else { host.parse().ok()? };
    ip.is_loopback().then(|| SocketAddr::new(ip, port))
}

/// Linux refuses the second of two listeners on a port when the addresses are equal or one of them is all addresses.
fn collide(a: SocketAddr, b: SocketAddr) -> bool {
    a.port() != 0 && a.port() == b.port() && (a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified())
}

pub(super) fn protocol(scalar: &Scalar) -> Result<Protocol, Fault> {
    Ok(match values::choice(scalar, &["http", "http2", "grpc", "tcp"], &[])? {
        "http2" => Protocol::Http2,
        "grpc" => Protocol::Grpc,
        "tcp" => Protocol::Tcp,
        _ => Protocol::Http,
    })
}

fn port(scalar: &Scalar) -> Result<u16, Fault> {
    values::integer(scalar, 1, 65535).map(|number| u16::try_from(number).unwrap_or(u16::MAX))
}

pub(super) fn count(scalar: &Scalar) -> Result<u32, Fault> {
    values::integer(scalar, 0, u64::from(u32::MAX)).map(|number| u32::try_from(number).unwrap_or(u32::MAX))
}

pub(super) fn bytes(scalar: &Scalar) -> Result<usize, Fault> {
    values::size(scalar).map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX))
}

fn number(scalar: &Scalar) -> Result<usize, Fault> {
    count(scalar).map(|number| usize::try_from(number).unwrap_or(usize::MAX))
}
