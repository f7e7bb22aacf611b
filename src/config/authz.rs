//! The meaning of `inbound.authz` and `inbound.intentions`: who may call, and who says so.

use super::problems::Fault;
use super::section::Section;
use super::tree::Scalar;
use super::{InboundMtls, consul, routes, values};
use crate::access::{Caller, Rule};
use crate::names::SpiffeId;

/// Whether Consul's intentions are enforced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IntentionsMode {
    /// Where the identity is Consul's, and callers have one.
    Auto,
    On,
    Off,
}

/// `consul` says which namespace and partition a bare name is of.
pub(super) fn rules(inbound: &Section<'_>, mtls: InboundMtls, consul: &consul::Settings) -> Vec<Rule> {
    inbound.items("authz").iter().filter_map(|section| rule(section, mtls, consul)).collect()
}

fn rule(section: &Section<'_>, mtls: InboundMtls, consul: &consul::Settings) -> Option<Rule> {
    for key in ["from", "methods", "paths", "paths_exact"] {
        let empty = section.find(key).is_some_and(|node| node.items().is_empty());
        if section.has(key) && empty {
            section.mistake(key, Fault::new("is empty, which would be nobody or everybody", "remove the key for all"));
        }
    }
    if mtls == InboundMtls::Off && section.has("from") {
        let fault = Fault::new(
            "names callers, but with inbound.mtls off no caller has an identity",
            "set inbound.mtls to strict or permissive, or remove the key",
        );
        section.mistake("from", fault);
    }
    Some(Rule {
        from: section.list("from", |scalar| caller(scalar, consul)),
        methods: section.list("methods", values::method),
        prefixes: section
            .list("paths", routes::plain_path)
            .into_iter()
            .map(|path| path.trim_end_matches('/').to_owned())
            .collect(),
        exact: section.list("paths_exact", routes::plain_path),
        allow: section.take("action", |scalar| values::choice(scalar, &["allow", "deny"], &[]))? == "allow",
    })
}

fn caller(scalar: &Scalar, consul: &consul::Settings) -> Result<Caller, Fault> {
    let text = values::text(scalar)?;
    if text == "*" {
        return Ok(Caller::Any);
    }
    if text.contains("://") {
        return SpiffeId::parse(&text).map(Caller::Id).map_err(|error| {
            Fault::new(
                format!("{text:?} is no SPIFFE id of a service: {error}"),
                "write spiffe://TRUST-DOMAIN/ns/default/dc/DC/svc/NAME",
            )
        });
    }
    let place = |place: &Option<String>| place.as_deref().unwrap_or("default").into();
    Ok(Caller::Service {
        name: values::service(scalar)?,
        namespace: place(&consul.namespace),
        partition: place(&consul.partition),
    })
}

pub(super) fn intentions(inbound: &Section<'_>, mtls: InboundMtls) -> Option<IntentionsMode> {
    let mode = inbound.take("intentions", |scalar| {
        Ok(match values::choice(scalar, &["auto", "on", "off"], &[])? {
            "on" => IntentionsMode::On,
            "off" => IntentionsMode::Off,
            _ => IntentionsMode::Auto,
        })
    })?;
    if mode == IntentionsMode::On && mtls == InboundMtls::Off {
        let fault = Fault::new(
            "on needs callers with an identity, but inbound.mtls is off",
            "set inbound.mtls to strict or permissive, or intentions to off",
        );
        inbound.mistake("intentions", fault);
    }
    Some(mode)
}
