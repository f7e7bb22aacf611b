//! The configuration in force as JSON for `/config`: every key with its value, no secret.

use std::time::SystemTime;

use serde_json::{Value, json};

use crate::admin::ConfigView;
use crate::config::{
    AppRouteSettings, Balance, Config, EndpointSource, HedgeAfter, InboundTimeouts, ListenLimits, RouteAction,
    RouteSettings, UpstreamSettings,
};
use crate::filter::Plugin;
use crate::route::{HashOn, Matcher, Reply};
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
            "overload": overload(config.inbound.adaptive), "trusted_ips": config.inbound.trusted_ips,
            "proxy_protocol": config.inbound.proxy_protocol,
            "plugins": plugins(&config.inbound.plugins),
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
    let (retry, breaker) = (&upstream.retry, &upstream.breaker);
    let statuses = |list: &[http::StatusCode]| list.iter().map(http::StatusCode::as_u16).collect::<Vec<_>>();
    let mut on = vec![];
    on.extend(retry.on_unsent.then(|| json!("unsent")));
    on.extend(retry.on_reset.then(|| json!("reset")));
    on.extend(retry.statuses.iter().map(|status| json!(status.as_u16())));
    json!({
        "service": upstream.service.as_str(), "listen": upstream.listen, "protocol": lower(upstream.protocol),
        "mtls": lower(upstream.mtls), "balance": balance(&upstream.balance), "prefer_zone": upstream.prefer_zone,
        "source": source, "tags": upstream.subset.tags, "meta": upstream.subset.meta, "filter": upstream.subset.filter,
        "datacenter": upstream.datacenter,
        "failover": upstream.failover.iter().map(|target| json!({
            "service": target.service.as_str(), "datacenter": target.datacenter,
        })).collect::<Vec<_>>(),
        "connect_timeout": text(upstream.connect_timeout), "timeout": upstream.timeout.map_or("off".into(), text),
        "idle_timeout": text(upstream.idle_timeout),
        "retry": {
            "attempts": retry.attempts, "on": on,
            "methods": retry.methods.iter().map(http::Method::as_str).collect::<Vec<_>>(),
            "per_try_timeout": retry.per_try_timeout.map_or("off".into(), text),
            "budget": { "ratio": retry.budget.ratio, "min_per_second": retry.budget.min_per_second },
            "backoff": { "base": text(retry.backoff.base), "max": text(retry.backoff.max) },
            "body_limit": retry.body_limit,
        },
        "plugins": plugins(&upstream.plugins),
        "hedge": match upstream.hedge {
            None => json!("off"),
            Some(HedgeAfter::Percentile(percent)) => json!({ "after": format!("p{percent}") }),
            Some(HedgeAfter::Time(time)) => json!({ "after": text(time) }),
        },
        "breaker": {
            "consecutive": breaker.policy.consecutive, "statuses": statuses(&breaker.statuses),
            "error_rate": {
                "threshold": breaker.policy.error_rate.threshold, "window": text(breaker.policy.error_rate.window),
                "min_requests": breaker.policy.error_rate.min_requests,
            },
            "open_for": { "base": text(breaker.policy.open_for), "max": text(breaker.policy.open_max) },
            "max_ejected": breaker.policy.max_ejected, "on_all_open": lower(breaker.policy.on_all_open),
        },
        "limits": {
            "connections": upstream.limits.connections, "pending": upstream.limits.pending,
            "requests": upstream.limits.requests,
        },
        "overload": overload(upstream.adaptive),
    })
}

fn balance(balance: &Balance) -> Value {
    match balance {
        Balance::LeastLoaded | Balance::RoundRobin | Balance::Random => json!(lower(balance)),
        Balance::RingHash(key) => json!({ "ring_hash": hash_on(key) }),
        Balance::Maglev(key) => json!({ "maglev": hash_on(key) }),
    }
}

fn hash_on(on: &HashOn) -> Value {
    match on {
        HashOn::Header(name) => json!({ "header": name.as_str() }),
        HashOn::Cookie(name) => json!({ "cookie": name }),
        HashOn::Query(name) => json!({ "query": name }),
        HashOn::SourceIp => json!({ "source_ip": true }),
        HashOn::Path => json!({ "path": true }),
    }
}

fn overload(adaptive: bool) -> &'static str {
    if adaptive { "adaptive" } else { "off" }
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
            "sticky": forward.sticky.as_ref().map(hash_on), "rewrite_host": forward.rewrite_host,
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
