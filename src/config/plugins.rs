//! The meaning of `plugins`: what each is told.

use std::sync::Arc;

use http::{HeaderName, StatusCode};

use super::problems::Fault;
use super::section::Section;
use super::tree::{Node, Scalar};
use super::{check, gate, http_plugins, jwt, route_shapes, values};
use crate::filter::fault::{Abort, Delay, Settings as FaultSettings, Share};
use crate::filter::{Mode, Plugin, Settings};

/// The plugins of a section: those of its defaults, then its own, which replace them by name.
pub(super) fn of(section: &Section<'_>) -> Vec<Plugin> {
    let scope = scope(section);
    section.layers("plugins").flat_map(|list| each(section, list, &scope)).collect()
}

/// The section's path, with its name in place of its number: rows that move in the file keep what they remember. An
/// upstream's plugins are one whatever way leads there.
pub(super) fn scope(section: &Section<'_>) -> Arc<str> {
    if let Some(service) = section.take("service", values::text) {
        return format!("outbound.upstreams[{service}]").into();
    }
    let path = section.key_path("plugins");
    let path = path.trim_end_matches(".plugins");
    match (path.rsplit_once('['), section.take("name", values::text)) {
        (Some((list, _)), Some(name)) => format!("{list}[{name}]").into(),
        _ => path.into(),
    }
}

/// What means nothing for a service that speaks no HTTP: plugins that look at requests, and routes.
pub(super) fn without_http(inbound: &Section<'_>) {
    for (at, item) in inbound.find("plugins").map(Node::items).unwrap_or_default().iter().enumerate() {
        let plugin = inbound.below(item, route_shapes::keys_of(item).unwrap_or_default(), &format!("plugins[{at}]"));
        let name = plugin.take("name", values::text).unwrap_or_default();
        if name != "ip-restriction" {
            plugin.mistake(
                "name",
                Fault::new(format!("{name} looks at requests, and protocol: tcp has none"), "remove it"),
            );
        }
    }
    if inbound.find("routes").is_some_and(|list| !list.items().is_empty()) {
        inbound.mistake("routes", Fault::new("are about requests, and protocol: tcp has none", "remove them"));
    }
}

fn each<'a>(section: &Section<'a>, list: &'a Node, scope: &Arc<str>) -> Vec<Plugin> {
    let one = |(at, item): (usize, &'a Node)| {
        let keys = route_shapes::keys_of(item)?;
        plugin(&section.below(item, keys, &format!("plugins[{at}]")), scope)
    };
    list.items().iter().enumerate().filter_map(one).collect()
}

fn plugin(section: &Section<'_>, scope: &Arc<str>) -> Option<Plugin> {
    let shadow = section.take("mode", |scalar| values::choice(scalar, &["enforce", "shadow"], &[]))? == "shadow";
    let mode = if shadow { Mode::Shadow } else { Mode::Enforce };
    let config = section.section("config");
    let settings = match section.take("name", values::text)?.as_str() {
        "acl" => Settings::Acl(gate::acl(section, &config)?),
        "basic-auth" => Settings::BasicAuth(gate::basic_auth(&config)?),
        "bot-detection" => Settings::BotDetection(http_plugins::bot_detection(&config)?),
        "correlation-id" => Settings::CorrelationId(http_plugins::correlation_id(&config)?),
        "cors" => Settings::Cors(Box::new(http_plugins::cors(&config)?)),
        "fault" => Settings::Fault(fault(section, &config)?),
        "ip-restriction" => Settings::IpRestriction(http_plugins::ip_restriction(section, &config)?),
        "jwt" => jwt::jwt(&config)?,
        "key-auth" => Settings::KeyAuth(gate::key_auth(&config)?),
        "rate-limiting" => Settings::RateLimiting(Box::new(gate::rate_limiting(section, &config)?)),
        "request-size-limiting" => Settings::RequestSizeLimiting(http_plugins::request_size_limiting(&config)?),
        "request-termination" => Settings::RequestTermination(http_plugins::request_termination(&config)?),
        "request-transformer" => Settings::RequestTransformer(Box::new(http_plugins::request_transformer(&config))),
        "response-transformer" => Settings::ResponseTransformer(Box::new(http_plugins::response_transformer(&config))),
        _ => return None,
    };
    Some(Plugin { mode, settings, scope: scope.clone() })
}

fn fault(plugin: &Section<'_>, config: &Section<'_>) -> Option<FaultSettings> {
    if !config.has("delay") && !config.has("abort") {
        let fault = Fault::new("has neither delay nor abort", "add delay: { duration: 2s } or abort: { status: 503 }");
        plugin.mistake("config", fault);
    }
    let share = |section: &Section<'_>| section.take("percent", values::percent).map(Share::percent);
    let delay = || {
        let delay = config.section("delay");
        Some(Delay { share: share(&delay)?, duration: delay.take("duration", values::duration)? })
    };
    let abort = || {
        let abort = config.section("abort");
        let (status, grpc_status) = (abort.take("status", status), abort.take("grpc_status", grpc_status));
        if !abort.has("status") && !abort.has("grpc_status") {
            config.mistake("abort", Fault::new("has neither status nor grpc_status", "add status: 503"));
        }
        Some(Abort { share: share(&abort)?, status, grpc_status })
    };
    Some(FaultSettings {
        header: config.take("header", header_name),
        delay: if config.has("delay") { Some(delay()?) } else { None },
        abort: if config.has("abort") { Some(abort()?) } else { None },
    })
}

/// A field name (RFC 9110 §5.1), in any case.
pub(super) fn header_name(scalar: &Scalar) -> Result<HeaderName, Fault> {
    let name = values::text(scalar)?;
    HeaderName::from_bytes(name.as_bytes())
        .map_err(|_| Fault::new(format!("{name:?} is no name of a header"), "use letters, digits and `-`"))
}

/// 200 to 599: an interim status is no answer.
pub(super) fn status(scalar: &Scalar) -> Result<StatusCode, Fault> {
    let fault = || Fault::new(format!("{:?} is no status", scalar.text), "write a status from 200 to 599");
    let number = values::integer(scalar, 200, 599)?;
    u16::try_from(number).ok().and_then(|number| StatusCode::from_u16(number).ok()).ok_or_else(fault)
}

fn grpc_status(scalar: &Scalar) -> Result<u8, Fault> {
    check::count(scalar).map(|number| u8::try_from(number).unwrap_or(u8::MAX))
}
