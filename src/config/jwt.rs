//! The meaning of the plugin jwt, in its native form and in Kong's.

use std::time::Duration;

use http::HeaderName;
use serde_json::Value as Json;

use super::jwt_keys::ALGORITHMS;
use super::problems::Fault;
use super::section::Section;
use super::shape::json_of;
use super::tree::{Node, Scalar, Value};
use super::{consumers, plugins, values};
use crate::filter::jwt::{Algorithm, KeySet, Location, Place, Provider, Required, Settings, Source, Test, kong};
use crate::filter::{self};

const NATIVE: [&str; 5] = ["issuer", "jwks_uri", "jwks_file", "jwks", "providers"];
const NATIVE_ONLY: [&str; 16] = [
    "jwks_ca_file",
    "jwks_allow_http",
    "audiences",
    "algorithms",
    "header",
    "cookie",
    "query",
    "hide_credentials",
    "claims",
    "forward_claims",
    "leeway",
    "refresh",
    "stale_for",
    "issuer",
    "jwks_uri",
    "jwks_file",
];
const KONG_ONLY: [&str; 9] = [
    "uri_param_names",
    "cookie_names",
    "header_names",
    "key_claim_name",
    "secret_is_base64",
    "claims_to_verify",
    "maximum_expiration",
    "run_on_preflight",
    "realm",
];

pub(super) fn jwt(config: &Section<'_>) -> Option<filter::Settings> {
    let refuse = |keys: &[&str], what: &str, mend: &str| {
        for key in keys.iter().filter(|key| config.has(key)) {
            config.mistake(key, Fault::new(what, mend));
        }
    };
    if NATIVE.iter().any(|key| config.has(key)) {
        refuse(&KONG_ONLY, "is a key of Kong's form, without issuer", "remove it, or remove the issuer");
        if config.has("providers") {
            refuse(&NATIVE_ONLY, "stands beside providers", "write it in each of the providers");
            refuse(&["jwks"], "stands beside providers", "write it in each of the providers");
        }
        return Some(filter::Settings::Jwt(native(config)?));
    }
    refuse(&NATIVE_ONLY, "is a key of the native form, which has an issuer", "add issuer: …, or remove it");
    Some(filter::Settings::KongJwt(kong(config)?))
}

fn native(config: &Section<'_>) -> Option<Settings> {
    let listed = config.items("providers");
    let providers: Vec<Option<Provider>> =
        if config.has("providers") { listed.iter().map(provider).collect() } else { vec![provider(config)] };
    if providers.is_empty() {
        config.mistake("providers", Fault::new("names no issuer", "add [{ issuer: …, jwks_uri: … }]"));
    }
    let anonymous = if config.has("anonymous") { config.take("anonymous", values::boolean)? } else { false };
    let providers: Vec<Provider> = providers.into_iter().collect::<Option<_>>()?;
    for (at, provider) in providers.iter().enumerate() {
        if providers[..at].iter().any(|other| other.source.issuer == provider.source.issuer) {
            let fault = Fault::new("the same issuer stands twice", "give each issuer one provider");
            listed.get(at)?.mistake("issuer", fault);
        }
    }
    Some(Settings { providers, anonymous })
}

fn provider(section: &Section<'_>) -> Option<Provider> {
    if !section.has("issuer") {
        section.mistake("issuer", Fault::new("is missing", "add the key with what the tokens have as iss"));
    }
    let issuer = section.take("issuer", values::text);
    let algorithms: Vec<Algorithm> = section.list("algorithms", |scalar| {
        let name = values::choice(scalar, &ALGORITHMS, &[])?;
        Algorithm::named(name).ok_or_else(|| Fault::new("is no algorithm", "use one of those that are known"))
    });
    if section.find("algorithms").is_some_and(|node| node.items().is_empty()) {
        section.mistake("algorithms", Fault::new("names no algorithm", "write [ES256], or remove the key"));
    }
    let location = location(section, &algorithms);
    let mut places = vec![Place::Header(section.take("header", plugins::header_name)?)];
    places.extend(section.take("cookie", values::visible).map(Place::Cookie));
    places.extend(section.take("query", values::text).map(Place::Query));
    let leeway = section.take("leeway", leeway)?;
    let refresh = section.take("refresh", values::duration)?;
    let stale_for = section.take("stale_for", values::duration)?;
    if stale_for < refresh {
        let fault = Fault::new("is shorter than refresh: keys would end between two fetches", "make it longer");
        section.mistake("stale_for", fault);
    }
    let (claims, forward_claims) = (claims(section), forward_claims(section));
    Some(Provider {
        source: Source { issuer: issuer?, location: location?, algorithms, refresh, stale_for },
        audiences: section.list("audiences", values::text),
        places,
        hide_credentials: section.take("hide_credentials", values::boolean)?,
        claims,
        forward_claims,
        leeway,
    })
}

fn leeway(scalar: &Scalar) -> Result<Duration, Fault> {
    let leeway = values::duration_or_off(scalar)?.unwrap_or_default();
    if leeway > Duration::from_secs(600) {
        return Err(Fault::new("is longer than 10m: tokens would hardly end", "write at most 10m"));
    }
    Ok(leeway)
}

fn location(section: &Section<'_>, algorithms: &[Algorithm]) -> Option<Location> {
    let given: Vec<&str> = ["jwks_uri", "jwks_file", "jwks"].into_iter().filter(|key| section.has(key)).collect();
    match given[..] {
        ["jwks_uri"] => {
            let allow_http = section.take("jwks_allow_http", values::boolean)?;
            let uri = section.take("jwks_uri", |scalar| uri(scalar, allow_http))?;
            Some(Location::Uri { uri, ca_file: section.path("jwks_ca_file") })
        }
        ["jwks_file"] => {
            let path = section.path("jwks_file")?;
            let read = std::fs::read(&path).map_err(|error| format!("{}: {error}", path.display()));
            if let Err(cause) = read.and_then(|text| KeySet::parse(&text, algorithms)) {
                let fault = Fault::new(format!("gives no keys: {cause}"), "name a file with a JWK set");
                section.mistake("jwks_file", fault);
                return None;
            }
            Some(Location::File(path))
        }
        [_] => {
            let text = match section.find("jwks").map(|node| (&node.value, node))? {
                (Value::Scalar(scalar), _) => scalar.text.clone(),
                (Value::Map(_) | Value::List(_), node) => json_of(node).to_string(),
            };
            if let Err(cause) = KeySet::parse(text.as_bytes(), algorithms) {
                section
                    .mistake("jwks", Fault::new(format!("gives no keys: {cause}"), "write a JWK set: { keys: […] }"));
                return None;
            }
            Some(Location::Inline(text))
        }
        [] => {
            let fault = Fault::new("has no keys", "add jwks_uri: https://…, jwks_file: or jwks: beside it");
            section.mistake("issuer", fault);
            None
        }
        [first, second, ..] => {
            let fault = Fault::new(format!("stands beside {first}"), "keep one of jwks_uri, jwks_file and jwks");
            section.mistake(second, fault);
            None
        }
    }
}

fn uri(scalar: &Scalar, allow_http: bool) -> Result<String, Fault> {
    let text = values::text(scalar)?;
    let fault = |what: &str, mend: &str| Err(Fault::new(format!("{text:?} {what}"), mend));
    let Ok(url) = reqwest::Url::parse(&text) else {
        return fault("is no URL", "write https://id.example/keys");
    };
    let is_loopback = match url.host_str().unwrap_or_default().trim_matches(['[', ']']) {
        "localhost" => true,
        host => host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback()),
    };
    match url.scheme() {
        _ if !url.username().is_empty() || url.password().is_some() => {
            fault("holds a user or a password", "remove what stands before @: key sets are public")
        }
        "https" => Ok(text),
        "http" if is_loopback || allow_http => Ok(text),
        "http" => fault(
            "is http: whoever stands between could replace the keys",
            "write https, or add jwks_allow_http: true beside it",
        ),
        _ => fault("is neither https nor http", "write https://id.example/keys"),
    }
}

fn claims(section: &Section<'_>) -> Vec<Required> {
    let Some(node) = section.find("claims") else { return Vec::new() };
    let fault = |node: &Node, path: &str, what: &str, mend: &str| {
        section.note(node, path, Fault::new(what, mend));
    };
    if !matches!(node.value, Value::Map(_)) {
        fault(node, "claims", "must be a section of claims", "write { scope: { contains: read } }");
    }
    let mut all = Vec::new();
    for entry in node.entries() {
        let path = format!("claims.{}", entry.key);
        let Some((test, [])) = entry.node.entries().split_first() else {
            fault(&entry.node, &path, "is not one test", "write { equals: … }, { contains: … } or { any_of: […] }");
            continue;
        };
        let values: Vec<Json> = match &test.node.value {
            Value::Scalar(_) => vec![json_of(&test.node)],
            Value::List(items) => items.iter().map(json_of).collect(),
            Value::Map(_) => Vec::new(),
        };
        let is_plain = !values.is_empty() && values.iter().all(|value| !value.is_object() && !value.is_array());
        let is_plain = is_plain && values.iter().all(|value| !value.is_null());
        let test = match test.key.as_str() {
            _ if !is_plain => None,
            "equals" if values.len() == 1 => values.into_iter().next().map(Test::Equals),
            "contains" => Some(Test::Contains(values)),
            "any_of" => Some(Test::AnyOf(values)),
            _ => None,
        };
        match test {
            Some(test) => all.push(Required { claim: entry.key.clone(), test }),
            None => fault(
                &entry.node,
                &path,
                "is no test",
                "write { equals: VALUE }, { contains: VALUES } or { any_of: VALUES }, with texts, numbers, true or false",
            ),
        }
    }
    all
}

fn forward_claims(section: &Section<'_>) -> Vec<(String, HeaderName)> {
    let mut all: Vec<(String, HeaderName)> = Vec::new();
    for entry in section.find("forward_claims").map(Node::entries).unwrap_or_default() {
        let Value::Scalar(scalar) = &entry.node.value else { continue };
        let name = plugins::header_name(scalar).and_then(|name| {
            let taken = |what: &str| Err(Fault::new(format!("{name} {what}"), "use a name such as x-user-id"));
            if all.iter().any(|(_, other)| *other == name) {
                return taken("holds another claim already");
            }
            if is_ours(name.as_str()) { taken("has a meaning of its own") } else { Ok(name) }
        });
        match name {
            Ok(name) => all.push((entry.key.clone(), name)),
            Err(fault) => section.note(&entry.node, &format!("forward_claims.{}", entry.key), fault),
        }
    }
    all
}

/// Headers that frame messages, that credentials stand in, or that outrigger sets itself.
fn is_ours(name: &str) -> bool {
    const OURS: [&str; 15] = [
        "authorization",
        "connection",
        "content-length",
        "content-type",
        "cookie",
        "expect",
        "host",
        "keep-alive",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "traceparent",
        "tracestate",
        "x-request-id",
    ];
    const PREFIXES: [&str; 4] = ["proxy-", "x-forwarded-", "x-outrigger-", "x-consumer-"];
    OURS.contains(&name) || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

fn kong(config: &Section<'_>) -> Option<kong::Settings> {
    let mut places: Vec<Place> = Vec::new();
    places.extend(config.list("uri_param_names", values::text).into_iter().map(Place::Query));
    places.extend(config.list("cookie_names", values::visible).into_iter().map(Place::Cookie));
    places.extend(config.list("header_names", plugins::header_name).into_iter().map(Place::Header));
    if places.is_empty() {
        config.mistake("header_names", Fault::new("a token is looked for nowhere", "write [authorization]"));
    }
    let verified = config.list("claims_to_verify", |scalar| values::choice(scalar, &["exp", "nbf"], &[]));
    let verify_exp = verified.contains(&"exp");
    let most = config.take("maximum_expiration", |scalar| values::integer(scalar, 0, 31_536_000))?;
    if most > 0 && !verify_exp {
        let fault = Fault::new("needs exp in claims_to_verify", "add claims_to_verify: [exp]");
        config.mistake("maximum_expiration", fault);
    }
    Some(kong::Settings {
        places,
        key_claim_name: config.take("key_claim_name", values::text)?,
        secret_is_base64: config.take("secret_is_base64", values::boolean)?,
        verify_exp,
        verify_nbf: verified.contains(&"nbf"),
        maximum_expiration: i64::try_from(most).unwrap_or(i64::MAX),
        anonymous: consumers::anonymous(config),
        run_on_preflight: config.take("run_on_preflight", values::boolean)?,
        realm: config.take("realm", values::visible),
    })
}
