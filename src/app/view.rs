//! The configuration in force as JSON for `/config`: every key with its value, no secret.

use std::time::SystemTime;

use serde_json::{Value, json};

use crate::admin::ConfigView;
use crate::config::{
    AppRouteSettings, Config, EndpointSource, InboundTimeouts, ListenLimits, RouteAction, RouteSettings,
    UpstreamSettings,
};
use crate::filter::Plugin;
use crate::route::{Matcher, Reply};
use crate::telemetry::access_log::timestamp;

pub(super) fn of(config: &Config, refused: Vec<String>) -> ConfigView {
    ConfigView {
        file: config.file.as_ref().map(|file| file.display().to_string()),
        loaded: timestamp(SystemTime::now()),
        config: json(config),
        refused,
    }
}

fn json(config: &Config) -> Value {
    let (service, check, consul) = (&config.service, &config.service.check, &config.consul);
    json!({
        "service": {
            "name": service.name.as_str(), "id": service.id, "address": service.address, "port": service.port,
            "protocol": lower(service.protocol), "tags": service.tags, "meta": service.meta,
            "weights": { "passing": service.weights.passing, "warning": service.weights.warning },
            "check": {
                "probe": lower(&check.probe), "interval": text(check.interval), "timeout": text(check.timeout),
                "healthy_after": check.healthy_after, "unhealthy_after": check.unhealthy_after, "ttl": text(check.ttl),
                "deregister_after": text(check.deregister_after),
            },
        },
        "consul": {
            "address": consul.address, "datacenter": consul.datacenter, "namespace": consul.namespace,
            "partition": consul.partition, "token": consul.token.is_some() || consul.token_file.is_some(),
            "snapshot": config.snapshot,
        },
        "identity": lower(&config.identity),
        "inbound": {
            "listen": config.inbound.listen, "mtls": lower(config.inbound.mtls),
            "timeouts": timeouts(config.inbound.timeouts), "limits": limits(config.inbound.limits),
            "trusted_ips": config.inbound.trusted_ips, "plugins": plugins(&config.inbound.plugins),
            "routes": config.inbound.routes.iter().map(app_route).collect::<Vec<_>>(),
        },
        "outbound": {
            "listen": config.outbound.listen, "timeouts": timeouts(config.outbound.timeouts),
            "limits": limits(config.outbound.limits),
            "upstreams": config.outbound.upstreams.iter().map(upstream).collect::<Vec<_>>(),
            "routes": config.outbound.routes.iter().map(route).collect::<Vec<_>>(),
        },
        "admin": { "listen": config.admin },
        "metrics": { "listen": config.metrics },
        "telemetry": { "access_log": config.access_log.as_ref().map(|log| json!({
            "path": lower(&log.path), "format": "json", "sample": log.sample,
        })) },
        "shutdown": { "grace": text(config.grace) },
        "workers": config.workers,
    })
}

fn upstream(upstream: &UpstreamSettings) -> Value {
    let source = match &upstream.source {
        EndpointSource::Consul => json!("consul"),
        EndpointSource::Fixed(endpoints) => json!({ "endpoints": endpoints }),
        EndpointSource::DnsSrv { names, server } => json!({ "dns": "srv", "names": names, "server": server }),
        EndpointSource::DnsA { names, server } => json!({ "dns": "a", "names": names, "server": server }),
    };
    json!({
        "service": upstream.service.as_str(), "listen": upstream.listen, "protocol": lower(upstream.protocol),
        "mtls": lower(upstream.mtls), "balance": lower(upstream.balance), "source": source,
        "connect_timeout": text(upstream.connect_timeout), "timeout": upstream.timeout.map_or("off".into(), text),
        "idle_timeout": text(upstream.idle_timeout),
        "retry": {
            "attempts": upstream.retry.attempts, "unsent": upstream.retry.on_unsent, "reset": upstream.retry.on_reset,
            "methods": upstream.retry.methods.iter().map(http::Method::as_str).collect::<Vec<_>>(),
        },
        "plugins": plugins(&upstream.plugins),
    })
}

fn route(route: &RouteSettings) -> Value {
    let to = match &route.action {
        RouteAction::Answer(answer, on) => json!({ "answer": reply(answer), "plugins": plugins(on) }),
        RouteAction::Forward(forward) => json!({
            "split": forward.targets.iter().map(|(weight, target)| {
                let mut target = upstream(target);
                target["weight"] = json!(weight);
                target
            }).collect::<Vec<_>>(),
            "sticky": forward.sticky.as_ref().map(lower), "rewrite_host": forward.rewrite_host,
            "rewrite_path": forward.rewrite.as_ref().map(|rewrite| &rewrite.prefix),
            "mirror": forward.mirror.as_ref().map(|(mirror, _)| mirror.service.as_str()),
        }),
    };
    json!({ "name": route.name, "match": matcher(&route.matcher), "to": to })
}

fn app_route(route: &AppRouteSettings) -> Value {
    json!({
        "name": route.name, "match": matcher(&route.matcher), "answer": route.reply.as_ref().map(reply),
        "timeout": route.timeout.map_or("off".into(), text),
        "body_idle": route.body_idle.map(text), "idle_timeout": route.idle_timeout.map(text),
        "limits": { "requests": route.requests }, "plugins": plugins(&route.plugins),
    })
}

/// Of headers and parameters the names: a value that must be there may be a secret.
fn matcher(matcher: &Matcher) -> Value {
    json!({
        "host": matcher.host.as_ref().map(|host| format!("{host:?}")),
        "path": matcher.path.as_ref().map(|path| format!("{path:?}")),
        "methods": matcher.methods.iter().map(http::Method::as_str).collect::<Vec<_>>(),
        "headers": matcher.headers.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(),
        "query": matcher.query.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(),
    })
}

fn reply(reply: &Reply) -> Value {
    match reply {
        Reply::Redirect(redirect) => json!({ "redirect": redirect.to, "status": redirect.status.as_u16() }),
        Reply::Respond(answer) => json!({ "respond": answer.status.as_u16() }),
    }
}

/// Names and modes; what a plugin is told may be a secret.
fn plugins(plugins: &[Plugin]) -> Vec<Value> {
    let one = |plugin: &Plugin| json!({ "name": plugin.settings.name(), "mode": lower(plugin.mode) });
    plugins.iter().map(one).collect()
}

fn timeouts(timeouts: InboundTimeouts) -> Value {
    json!({
        "handshake": text(timeouts.handshake), "head": text(timeouts.head), "body_idle": text(timeouts.body_idle),
        "idle": text(timeouts.idle),
    })
}

fn limits(limits: ListenLimits) -> Value {
    json!({
        "connections": limits.connections, "head": limits.head, "headers": limits.headers, "h2_streams": limits.h2_streams,
    })
}

fn text(duration: std::time::Duration) -> String {
    humantime::format_duration(duration).to_string()
}

/// The variant's name as the file writes it: `LeastLoaded` is `least_loaded`.
fn lower(value: impl std::fmt::Debug) -> String {
    let mut text = String::new();
    for (at, letter) in format!("{value:?}").char_indices() {
        if letter.is_ascii_uppercase() && at > 0 && text.ends_with(|c: char| c.is_ascii_lowercase()) {
            text.push('_');
        }
        text.push(letter.to_ascii_lowercase());
    }
    text
}
