//! The meaning of `plugins`: what each is told.

use http::{HeaderName, StatusCode};

use super::problems::Fault;
use super::section::Section;
use super::tree::{Node, Scalar};
use super::{check, route_shapes, values};
use crate::filter::fault::{Abort, Delay, Settings as FaultSettings, Share};
use crate::filter::{Mode, Plugin, Settings};

/// The plugins of a section: those of its defaults, then its own, which replace them by name.
pub(super) fn of(section: &Section<'_>) -> Vec<Plugin> {
    section.layers("plugins").flat_map(|list| each(section, list)).collect()
}

fn each<'a>(section: &Section<'a>, list: &'a Node) -> Vec<Plugin> {
    let one = |(at, item): (usize, &'a Node)| {
        let keys = route_shapes::keys_of(item)?;
        plugin(&section.below(item, keys, &format!("plugins[{at}]")))
    };
    list.items().iter().enumerate().filter_map(one).collect()
}

fn plugin(section: &Section<'_>) -> Option<Plugin> {
    let shadow = section.take("mode", |scalar| values::choice(scalar, &["enforce", "shadow"], &[]))? == "shadow";
    let mode = if shadow { Mode::Shadow } else { Mode::Enforce };
    let config = section.section("config");
    let settings = match section.take("name", values::text)?.as_str() {
        "fault" => Settings::Fault(fault(section, &config)?),
        _ => return None,
    };
    Some(Plugin { mode, settings })
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
