//! The meaning of `outbound`: upstreams with their defaults, and what their keys say only together.

use std::collections::HashMap;

use super::problems::{Fault, Place};
use super::section::Section;
use super::tree::Scalar;
use super::{
    EndpointSource, OutboundSettings, Protocol, UpstreamMtls, UpstreamSettings, check, plugins, policy, routes,
    selection, upstream_values, values,
};

pub(super) fn outbound(section: &Section<'_>) -> Option<OutboundSettings> {
    let defaults = section.section("defaults");
    let sections = section.sections("upstreams", &defaults);
    distinct_services(&sections);
    let mut upstreams: Vec<UpstreamSettings> = sections.iter().filter_map(upstream).collect();
    let routes = routes::outbound(section, &sections, &mut upstreams);
    Some(OutboundSettings {
        listen: section.take("listen", values::listen)?,
        keeps_case: section.take("header_case", check::keeps_case)?,
        timeouts: check::timeouts(&section.section("timeouts"))?,
        limits: check::limits(&section.section("limits"))?,
        upstreams,
        routes,
    })
}

fn distinct_services(sections: &[Section<'_>]) {
    let mut seen: HashMap<String, String> = HashMap::new();
    for section in sections {
        let Some(name) = section.take("service", values::service) else { continue };
        let place = match section.find("service").map(|node| &node.place) {
            Some(Place::File { line, .. }) => format!("on line {line}"),
            Some(Place::Flag(flag)) => format!("by {flag}"),
            Some(Place::Env(name)) => format!("by {name}"),
            Some(Place::Default) | None => "before".into(),
        };
        match seen.get(name.as_str()) {
            Some(first) => {
                section.mistake(
                    "service",
                    Fault::new(format!("{name} is declared already {first}"), "remove one of them"),
                );
            }
            None => drop(seen.insert(name.as_str().to_owned(), place)),
        }
    }
}

pub(super) fn upstream(section: &Section<'_>) -> Option<UpstreamSettings> {
    // Each part is read before any is missed, so that every mistake is noted.
    let source = source(section);
    let retry = policy::retry(&section.section("retry"));
    let breaker = policy::breaker(&section.section("breaker"));
    let limits = policy::limits(&section.section("limits"));
    let balance = policy::balance(section);
    let timeout = section.take("timeout", values::duration_or_off);
    policy::within_timeout(section, timeout.flatten());
    selection::only_in_consul(section, &source);
    if section.take("protocol", check::protocol) == Some(Protocol::Tcp) {
        tcp(section);
    }
    let service = section.take("service", values::service)?;
    let datacenter = section.take("datacenter", upstream_values::datacenter);
    let failover = selection::failover(section, &service, datacenter.as_deref());
    let in_consul = source == EndpointSource::Consul;
    Some(UpstreamSettings {
        failover: if in_consul { failover } else { Vec::new() },
        subset: selection::subset(section),
        datacenter,
        service,
        listen: section.take("listen", values::listen),
        protocol: section.take("protocol", check::protocol)?,
        mtls: section.take("mtls", |scalar| {
            Ok(match values::choice(scalar, &["required", "preferred", "off"], &[])? {
                "preferred" => UpstreamMtls::Preferred,
                "off" => UpstreamMtls::Off,
                _ => UpstreamMtls::Required,
            })
        })?,
        balance: balance?,
        prefer_zone: section.take("prefer_zone", values::boolean)?,
        source,
        connect_timeout: section.take("connect_timeout", values::duration)?,
        timeout: timeout?,
        idle_timeout: section.take("idle_timeout", values::duration)?,
        retry: retry?,
        plugins: plugins::of(section),
        hedge: policy::hedge(section),
        breaker: breaker?,
        limits: limits?,
        adaptive: policy::adaptive(section)?,
    })
}

/// What bytes without HTTP need, and what means nothing for them.
fn tcp(section: &Section<'_>) {
    if section.find("listen").is_none() {
        let problem = "is missing, and with protocol: tcp nothing else names the upstream";
        section.mistake("listen", Fault::new(problem, "add a port of its own: listen: 127.0.0.1:PORT"));
    }
    let (retry, breaker) = (section.section("retry"), section.section("breaker"));
    let of_requests = [
        (section, "hedge"),
        (section, "plugins"),
        (&retry, "methods"),
        (&retry, "per_try_timeout"),
        (&retry, "body_limit"),
        (&breaker, "statuses"),
    ];
    for (section, key) in of_requests {
        if section.own(key).is_some() {
            section.mistake(key, Fault::new("is about requests, and protocol: tcp has none", "remove it"));
        }
    }
}

fn source(section: &Section<'_>) -> EndpointSource {
    let server = section.take("dns_server", values::name_server);
    let dns = section.take("dns", |scalar| values::choice(scalar, &["srv", "a"], &[]));
    if section.find("dns").is_none() && server.is_some() {
        section.mistake("dns_server", Fault::new("has no dns beside it", "add dns: srv or dns: a"));
    }
    if section.find("endpoints").is_none() {
        if dns.is_some() {
            section.mistake("dns", Fault::new("has no endpoints beside it", "add endpoints: [NAME] to look up"));
        }
        return EndpointSource::Consul;
    }
    let some = section.find("endpoints").is_some_and(|node| !node.items().is_empty());
    if !some {
        section.mistake("endpoints", Fault::new("is empty", "list HOST:PORT, or remove the key to ask Consul"));
    }
    match dns {
        None => EndpointSource::Fixed(section.list("endpoints", values::target)),
        Some("srv") => EndpointSource::DnsSrv { names: section.list("endpoints", srv_name), server },
        Some(_) => EndpointSource::DnsA { names: section.list("endpoints", a_name), server },
    }
}

/// SRV records give the port, so the name has none.
fn srv_name(scalar: &Scalar) -> Result<String, Fault> {
    if let Ok((name, port)) = values::host_port(scalar) {
        return Err(Fault::new(
            format!("{:?} has a port, but SRV records give it", scalar.text),
            format!("write {name} without :{port}"),
        ));
    }
    dns_name(scalar, values::host(scalar)?)
}

fn a_name(scalar: &Scalar) -> Result<(String, u16), Fault> {
    let (name, port) = values::target(scalar)?;
    Ok((dns_name(scalar, name)?, port))
}

fn dns_name(scalar: &Scalar, name: String) -> Result<String, Fault> {
    if name.parse::<std::net::IpAddr>().is_ok() {
        let fault = Fault::new(
            format!("{:?} is an IP address, which needs no DNS", scalar.text),
            "write a name, or remove dns",
        );
        return Err(fault);
    }
    Ok(name)
}
