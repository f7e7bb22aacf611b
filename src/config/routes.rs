//! The meaning of `outbound.routes` and `inbound.routes`: what matches, where it leads, and by which policy.

use std::collections::HashMap;
use std::time::Duration;

use http::{HeaderName, HeaderValue, header};

use super::keys::{ROUTE, UPSTREAM_DEFAULTS};
use super::problems::{Fault, Place, Problems};
use super::section::{Section, Shared};
use super::shape::{Key, Shape};
use super::tree::{Entry, Node, Scalar, Value, join};
use super::{UpstreamSettings, check, plugins, policy, upstreams, values};
use crate::filter::fault::Share;
use crate::filter::{self, Plugin};
use crate::names::ServiceName;
use crate::route::{Condition, HashOn, HostMatch, Matcher, PathMatch, Pattern, Redirect, Reply, Rewrite, normalised};

/// One rule of `outbound.routes`.
#[derive(Debug, Clone)]
pub struct RouteSettings {
    pub name: String,
    pub matcher: Matcher,
    pub action: RouteAction,
}

#[derive(Debug, Clone)]
pub enum RouteAction {
    Forward(Box<ForwardSettings>),
    Answer(Reply, Vec<Plugin>),
}

#[derive(Debug, Clone)]
pub struct ForwardSettings {
    /// Weights, and each upstream with the route's own keys over its own.
    pub targets: Vec<(u32, UpstreamSettings)>,
    pub sticky: Option<HashOn>,
    pub rewrite: Option<Rewrite>,
    pub rewrite_host: bool,
    pub mirror: Option<(UpstreamSettings, Share)>,
}

/// One rule of `inbound.routes`.
#[derive(Debug, Clone)]
pub struct AppRouteSettings {
    pub name: String,
    pub matcher: Matcher,
    pub reply: Option<Reply>,
    /// `None` for `off`.
    pub timeout: Option<Duration>,
    pub body_idle: Option<Duration>,
    pub idle_timeout: Option<Duration>,
    /// Requests under way at once.
    pub requests: Option<u32>,
    pub plugins: Vec<Plugin>,
}

/// Reads `outbound.routes`. Services that no upstream declares are added to `upstreams`, as the defaults say.
pub(super) fn outbound<'a>(
    outbound: &Section<'a>,
    declared: &[Section<'a>],
    upstreams: &mut Vec<UpstreamSettings>,
) -> Vec<RouteSettings> {
    let routes = outbound.items("routes");
    distinct_names(&routes);
    let mut reader = Reader { outbound, declared, upstreams };
    routes.iter().enumerate().filter_map(|(at, route)| reader.route(at, route)).collect()
}

/// Reads `inbound.routes`.
pub(super) fn inbound(inbound: &Section<'_>) -> Vec<AppRouteSettings> {
    let routes = inbound.items("routes");
    distinct_names(&routes);
    let one = |(at, route): (usize, &Section<'_>)| {
        exactly_one(route, &["redirect", "respond"], false);
        let limits = route.section("limits");
        // No request hangs: an app that does not answer is given up when a connection would be called idle.
        let idle = inbound.section("timeouts").take("idle", values::duration);
        let own = route.find("timeout").is_some();
        Some(AppRouteSettings {
            name: name(at, route),
            matcher: matcher(&route.section("match")),
            reply: reply(route),
            timeout: if own { route.take("timeout", values::duration_or_off)? } else { idle },
            body_idle: route.take("body_idle", values::duration),
            idle_timeout: route.take("idle_timeout", values::duration),
            requests: limits.take("requests", check::count),
            plugins: plugins::of(route),
        })
    };
    routes.iter().enumerate().filter_map(one).collect()
}

struct Reader<'r, 'a> {
    outbound: &'r Section<'a>,
    declared: &'r [Section<'a>],
    upstreams: &'r mut Vec<UpstreamSettings>,
}

impl<'a> Reader<'_, 'a> {
    fn route(&mut self, at: usize, route: &Section<'a>) -> Option<RouteSettings> {
        exactly_one(route, &["to", "split", "redirect", "respond"], true);
        let matcher = matcher(&route.section("match"));
        let action = if route.has("redirect") || route.has("respond") {
            only_of_answers(route);
            let defaults = self.outbound.section("defaults");
            let of_all = if defaults.node().is_some() { plugins::of(&defaults) } else { Vec::new() };
            RouteAction::Answer(reply(route)?, [of_all, plugins::of(route)].concat())
        } else {
            let rewrite = rewrite(route, &matcher);
            RouteAction::Forward(Box::new(self.forward(route, rewrite)?))
        };
        Some(RouteSettings { name: name(at, route), matcher, action })
    }

    fn forward(&mut self, route: &Section<'a>, rewrite: Option<Rewrite>) -> Option<ForwardSettings> {
        let split = route.items("split");
        let mut targets: Vec<(u32, ServiceName)> = Vec::new();
        if let Some(service) = route.take("to", values::service) {
            targets.push((1, service));
        }
        for target in &split {
            let (service, weight) = (target.take("service", values::service), target.take("weight", check::count));
            let Some((service, weight)) = service.zip(weight) else { continue };
            if targets.iter().any(|(_, other)| *other == service) {
                target.mistake(
                    "service",
                    Fault::new(format!("{service} is in this split already"), "add the weights up"),
                );
            }
            targets.push((weight, service));
        }
        if route.has("split") && targets.iter().all(|(weight, _)| *weight == 0) {
            let fault = Fault::new("leads nowhere: no target has a weight above 0", "give one of them a weight");
            route.mistake("split", fault);
        }
        if route.has("sticky") && !route.has("split") {
            route.mistake("sticky", Fault::new("has no split beside it", "add split, or remove the key"));
        }
        let sticky = policy::hash_on(&route.whole("sticky"));
        let upstreams = targets.into_iter().map(|(weight, service)| Some((weight, self.upstream(route, &service)?)));
        let targets: Vec<(u32, UpstreamSettings)> = upstreams.collect::<Option<_>>()?;
        let mirror = route.has("mirror").then(|| route.section("mirror"));
        let mirror = mirror.and_then(|mirror| {
            let service = mirror.take("service", values::service)?;
            let share = Share::percent(mirror.take("percent", values::percent)?);
            Some((self.upstream(route, &service)?, share))
        });
        (!targets.is_empty()).then_some(ForwardSettings {
            targets,
            sticky,
            rewrite,
            rewrite_host: route.take("rewrite_host", values::boolean)?,
            mirror,
        })
    }

    /// The upstream of a name, with the route's keys over its own. One that is not declared is, by this.
    fn upstream(&mut self, route: &Section<'a>, service: &ServiceName) -> Option<UpstreamSettings> {
        let of_name = |one: &&Section<'_>| one.take("service", values::service).as_ref() == Some(service);
        let declared = self.declared.iter().find(of_name).and_then(Section::node);
        let implied;
        let base = if let Some(node) = declared {
            node
        } else {
            implied = named(service, route.node()?.place.clone());
            &implied
        };
        let defaults = self.outbound.section("defaults");
        if declared.is_none() && self.upstreams.iter().all(|known| known.service != *service) {
            self.upstreams.push(read(route, base, defaults.node())?);
        }
        let mut upstream = read(route, &over(route.node()?, base), defaults.node())?;
        // What stands at the route itself comes last.
        let own = route.node()?.get("plugins").map_or(0, |entry| entry.node.items().len());
        for plugin in upstream.plugins.iter_mut().rev().take(own) {
            plugin.scope = plugins::scope(route);
        }
        Some(upstream)
    }
}

/// Reads an upstream whose keys were looked at before, each at its own place: only what is new is noted.
fn read(route: &Section<'_>, node: &Node, defaults: Option<&Node>) -> Option<UpstreamSettings> {
    let known = route.shared();
    let shared = Shared { problems: Problems::of(None).into(), consumers: known.consumers.clone(), base: known.base };
    let upstream = upstreams::upstream(&route.read_as(node, defaults, &shared));
    let mut noted = known.problems.borrow_mut();
    for problem in shared.problems.borrow().iter() {
        if noted.iter().all(|one| one.place != problem.place) {
            noted.note(&problem.place, &problem.key, Fault::new(&*problem.what, &*problem.mend));
        }
    }
    upstream
}

fn named(service: &ServiceName, place: Place) -> Node {
    let entry =
        Entry { key: "service".into(), place: place.clone(), node: Node::given(place.clone(), service.as_str()) };
    Node { place, value: Value::Map(vec![entry]) }
}

/// The keys of a route that are an upstream's, over those of the upstream.
fn over(route: &Node, upstream: &Node) -> Node {
    let policy = |key: &str| UPSTREAM_DEFAULTS.iter().any(|known| known.name == key);
    let own = route.entries().iter().filter(|entry| policy(&entry.key)).cloned().collect();
    let own = Node { place: route.place.clone(), value: Value::Map(own) };
    let mut merged = merged(&own, upstream, UPSTREAM_DEFAULTS);
    if let Value::Map(entries) = &mut merged.value {
        entries.retain(|entry| entry.key != "listen");
    }
    merged
}

fn merged(own: &Node, behind: &Node, keys: &'static [Key]) -> Node {
    let mut entries: Vec<Entry> = own.entries().to_vec();
    for entry in behind.entries() {
        let Some(mine) = entries.iter_mut().find(|mine| mine.key == entry.key) else {
            entries.push(entry.clone());
            continue;
        };
        match keys.iter().find(|key| key.name == entry.key).map(|key| &key.shape) {
            // A section is laid over the other key by key; plugins of both are kept, the route's behind.
            Some(Shape::Section(keys)) => mine.node = merged(&mine.node, &entry.node, keys),
            Some(Shape::Plugins) => {
                let items = entry.node.items().iter().chain(mine.node.items()).cloned().collect();
                mine.node = Node { place: mine.node.place.clone(), value: Value::List(items) };
            }
            _ => {}
        }
    }
    Node { place: own.place.clone(), value: Value::Map(entries) }
}

fn name(at: usize, route: &Section<'_>) -> String {
    route.take("name", values::text).unwrap_or_else(|| format!("route-{}", at + 1))
}

fn distinct_names(routes: &[Section<'_>]) {
    let mut seen: HashMap<String, usize> = HashMap::new();
    for (at, route) in routes.iter().enumerate() {
        let name = name(at, route);
        match seen.get(&name) {
            Some(first) => {
                let fault = Fault::new(format!("{name} is the name of route {} already", first + 1), "choose another");
                route.mistake("name", fault);
            }
            None => drop(seen.insert(name, at)),
        }
    }
}

/// Of a rule that answers by itself: keys that could only mean something of a request that goes on.
fn only_of_answers(route: &Section<'_>) {
    let known = ["name", "match", "to", "split", "redirect", "respond", "plugins"];
    for entry in route.node().map(Node::entries).unwrap_or_default() {
        if !known.contains(&&*entry.key) && ROUTE.iter().any(|key| key.name == entry.key) {
            let fault = Fault::new("has no meaning for an answer that is given here", "remove the key");
            route.note(&entry.node, &entry.key, fault);
        }
    }
}

fn exactly_one(route: &Section<'_>, keys: &[&str], needed: bool) {
    let found: Vec<&str> = keys.iter().copied().filter(|key| route.has(key)).collect();
    match found.as_slice() {
        [] if needed => {
            let fault = Fault::new(format!("has none of {}", keys.join(", ")), "add to: SERVICE");
            route.mistake("to", fault);
        }
        [] | [_] => {}
        [first, rest @ ..] => {
            for other in rest {
                route.mistake(
                    other,
                    Fault::new(format!("{first} is there too"), format!("keep one of {}", keys.join(", "))),
                );
            }
        }
    }
}

pub(super) fn matcher(section: &Section<'_>) -> Matcher {
    let host = |scalar: &Scalar| {
        HostMatch::parse(&values::text(scalar)?)
            .map_err(|problem| Fault::new(problem, "write a host such as api.local, or *.example.com"))
    };
    let prefix = section.take("path", plain_path).map(|path| PathMatch::Prefix(trimmed(&path)));
    let exact = section.take("path_exact", plain_path).map(PathMatch::Exact);
    let regex = section.take("path_regex", pattern).map(PathMatch::Regex);
    exactly_one(section, &["path", "path_exact", "path_regex"], false);
    let header = |(name, condition): (&Entry, Condition)| {
        HeaderName::from_bytes(name.key.as_bytes())
            .map(|name| (name, condition))
            .map_err(|_| {
                let fault = Fault::new(format!("{:?} is no name of a header", name.key), "use letters, digits and `-`");
                section.note(&name.node, &join("headers", &name.key), fault);
            })
            .ok()
    };
    Matcher {
        host: section.take("host", host),
        path: prefix.or(exact).or(regex),
        methods: section.list("methods", values::method),
        headers: conditions(section, "headers").into_iter().filter_map(header).collect(),
        query: conditions(section, "query").into_iter().map(|(entry, is)| (entry.key.clone(), is)).collect(),
    }
}

fn conditions<'a>(section: &Section<'a>, name: &str) -> Vec<(&'a Entry, Condition)> {
    let one = |entry: &'a Entry| {
        let path = join(name, &entry.key);
        let within = |key: &str| match &entry.node.get(key)?.node.value {
            Value::Scalar(scalar) => Some((&entry.node.get(key)?.node, scalar)),
            Value::List(_) | Value::Map(_) => None,
        };
        let condition = match &entry.node.value {
            Value::Scalar(scalar) => Condition::Is(values::text_or_empty(scalar).ok()?),
            _ => match (within("regex"), within("present")) {
                (Some((node, scalar)), _) => {
                    let noted = |fault| section.note(node, &join(&path, "regex"), fault);
                    Condition::Regex(pattern(scalar).map_err(noted).ok()?)
                }
                (None, Some((_, scalar))) => Condition::Present(values::boolean(scalar).ok()?),
                (None, None) => return None,
            },
        };
        Some((entry, condition))
    };
    section.find(name).map(|node| node.entries().iter().filter_map(one).collect()).unwrap_or_default()
}

fn pattern(scalar: &Scalar) -> Result<Pattern, Fault> {
    let text = values::text(scalar)?;
    Pattern::compile(&text).map_err(|problem| {
        Fault::new(format!("{text:?} is no expression: {problem}"), "write one in RE2's syntax, such as /users/[0-9]+")
    })
}

/// A path without a query, in the normal form in which paths are compared.
pub(super) fn plain_path(scalar: &Scalar) -> Result<String, Fault> {
    let path = values::request_path(scalar)?;
    if path.contains('?') {
        return Err(Fault::new(format!("{path:?} has a query"), "match it under query"));
    }
    match normalised(&path) {
        Some(normal) => Err(Fault::new(
            format!("{path:?} is not in normal form, so no path is equal to it"),
            format!("write {normal}"),
        )),
        None => Ok(path),
    }
}

fn trimmed(path: &str) -> String {
    path.trim_end_matches('/').to_owned()
}

fn rewrite(route: &Section<'_>, matcher: &Matcher) -> Option<Rewrite> {
    let strip = route.take("strip_path", values::boolean) == Some(true);
    let prefix = route.take("rewrite_path", plain_path).map(|path| trimmed(&path));
    if strip && prefix.is_some() {
        route.mistake("strip_path", Fault::new("rewrite_path is there too", "keep one of them"));
    }
    if strip && matcher.path.is_none() {
        route.mistake("strip_path", Fault::new("has no match.path to cut off", "add match: { path: … }"));
    }
    if (strip || prefix.is_some()) && matches!(matcher.path, Some(PathMatch::Regex(_))) {
        let key = if strip { "strip_path" } else { "rewrite_path" };
        let fault = Fault::new("path_regex matches the whole path, so nothing would be left of it", "use match.path");
        route.mistake(key, fault);
    }
    if strip { Some(Rewrite { prefix: String::new() }) } else { prefix.map(|prefix| Rewrite { prefix }) }
}

fn reply(route: &Section<'_>) -> Option<Reply> {
    if route.has("redirect") {
        let redirect = route.section("redirect");
        let status = redirect.take("status", |scalar| match scalar.text.as_str() {
            "301" | "302" | "303" | "307" | "308" => plugins::status(scalar),
            _ => Err(Fault::new(format!("{:?} is no redirect", scalar.text), "write 301, 302, 303, 307 or 308")),
        });
        let to = redirect.take("to", location);
        return Some(Reply::Redirect(Redirect { to: to?, status: status? }));
    }
    route.has("respond").then(|| respond(&route.section("respond"))).flatten().map(Reply::Respond)
}

fn location(scalar: &Scalar) -> Result<String, Fault> {
    let to = values::text(scalar)?;
    let local = to.starts_with('/') && !to.starts_with("//");
    let absolute = ["http://", "https://"].iter().any(|scheme| to.starts_with(scheme) && to.len() > scheme.len());
    let good = (local || absolute) && to.parse::<http::Uri>().is_ok() && !to.contains('#');
    if good {
        Ok(to)
    } else {
        Err(Fault::new(format!("{to:?} is no place to go"), "write a path, or https://HOST/PATH"))
    }
}

fn respond(section: &Section<'_>) -> Option<filter::Answer> {
    let status = section.take("status", plugins::status);
    let body = section.take("body", values::text_or_empty).unwrap_or_default();
    if let Some(204 | 205 | 304) = status.map(|status| status.as_u16())
        && !body.is_empty()
    {
        section.mistake("body", Fault::new("an answer of this status has no body", "remove the body"));
    }
    let mut headers = Vec::new();
    for entry in section.find("headers").map(Node::entries).unwrap_or_default() {
        let Value::Scalar(scalar) = &entry.node.value else { continue };
        let Ok(name) = HeaderName::from_bytes(entry.key.as_bytes()) else { continue };
        if [header::CONTENT_LENGTH, header::TRANSFER_ENCODING, header::CONNECTION].contains(&name) {
            let fault = Fault::new(format!("{name} is set by the sidecar"), "remove it");
            section.note(&entry.node, &join("headers", &entry.key), fault);
        }
        if let Ok(value) = HeaderValue::from_str(&scalar.text) {
            headers.push((name, value));
        } else {
            let fault =
                Fault::new(format!("{:?} is no value of a header", scalar.text), "use visible ASCII characters");
            section.note(&entry.node, &join("headers", &entry.key), fault);
        }
    }
    if !body.is_empty() && headers.iter().all(|(name, _)| name != header::CONTENT_TYPE) {
        headers.push((header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8")));
    }
    Some(filter::Answer { status: status?, grpc: None, headers, body: body.into(), detail: "" })
}
