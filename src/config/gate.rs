//! The meaning of the plugins that let in or keep out: key-auth, basic-auth, acl, rate-limiting.

use http::{HeaderName, StatusCode};

use super::problems::Fault;
use super::section::Section;
use super::{consumers, plugins, values};
use crate::filter::rate_limiting::{LimitBy, Policy, RedisSettings, Settings as RateLimiting, Unit};
use crate::filter::{acl, basic_auth, key_auth};

pub(super) fn key_auth(config: &Section<'_>) -> Option<key_auth::Settings> {
    let key_names = config.list("key_names", plugins::header_name);
    if key_names.is_empty() && config.find("key_names").is_some_and(|node| node.items().is_empty()) {
        config.mistake("key_names", Fault::new("names no header", "write [apikey], or remove the key"));
    }
    let settings = key_auth::Settings {
        key_names,
        key_in_header: config.take("key_in_header", values::boolean)?,
        key_in_query: config.take("key_in_query", values::boolean)?,
        hide_credentials: config.take("hide_credentials", values::boolean)?,
        anonymous: consumers::anonymous(config),
        run_on_preflight: config.take("run_on_preflight", values::boolean)?,
        realm: config.take("realm", values::visible),
    };
    if !settings.key_in_header && !settings.key_in_query {
        let fault = Fault::new("a key is looked for nowhere", "let key_in_header or key_in_query be true");
        config.mistake("key_in_query", fault);
    }
    Some(settings)
}

pub(super) fn basic_auth(config: &Section<'_>) -> Option<basic_auth::Settings> {
    Some(basic_auth::Settings {
        hide_credentials: config.take("hide_credentials", values::boolean)?,
        realm: config.take("realm", values::visible)?,
        anonymous: consumers::anonymous(config),
        run_on_preflight: config.take("run_on_preflight", values::boolean)?,
    })
}

pub(super) fn acl(plugin: &Section<'_>, config: &Section<'_>) -> Option<acl::Settings> {
    let (allow, deny) = (config.list("allow", values::visible), config.list("deny", values::visible));
    let rule = match (config.has("allow"), config.has("deny")) {
        (true, true) => {
            config.mistake("deny", Fault::new("stands beside allow", "keep one of allow and deny"));
            return None;
        }
        (false, false) => {
            plugin.mistake("config", Fault::new("has neither allow nor deny", "add allow: [a-group]"));
            return None;
        }
        (true, false) => acl::Rule::Allow(allow),
        (false, true) => acl::Rule::Deny(deny),
    };
    for key in ["allow", "deny"] {
        if config.find(key).is_some_and(|node| node.items().is_empty()) {
            config.mistake(key, Fault::new("names no group", "name at least one group"));
        }
    }
    Some(acl::Settings { rule, hide_groups_header: config.take("hide_groups_header", values::boolean)? })
}

pub(super) fn rate_limiting(plugin: &Section<'_>, config: &Section<'_>) -> Option<RateLimiting> {
    let limit = |unit: Unit| {
        let limit = config.take(unit.as_str(), |scalar| values::integer(scalar, 1, 1_000_000_000))?;
        Some((unit, u32::try_from(limit).unwrap_or(u32::MAX)))
    };
    let limits: Vec<(Unit, u32)> = Unit::ALL.into_iter().filter_map(limit).collect();
    if !Unit::ALL.iter().any(|unit| config.has(unit.as_str())) {
        plugin.mistake("config", Fault::new("has no limit", "add minute: 100"));
    }
    for pair in limits.windows(2) {
        if let [(short, less), (long, more)] = pair
            && more < less
        {
            let what = format!("{more} is below the {less} of a {}, which could never be reached", short.as_str());
            config.mistake(long.as_str(), Fault::new(what, format!("write {less} or more")));
        }
    }
    let (limit_by, policy) = (limit_by(config), policy(config));
    let error_code = config.take("error_code", |scalar| values::integer(scalar, 400, 599))?;
    Some(RateLimiting {
        limits,
        limit_by: limit_by?,
        policy: policy?,
        fault_tolerant: config.take("fault_tolerant", values::boolean)?,
        hide_client_headers: config.take("hide_client_headers", values::boolean)?,
        error_code: u16::try_from(error_code).ok().and_then(|code| StatusCode::from_u16(code).ok())?,
        error_message: config.take("error_message", values::text),
    })
}

fn limit_by(config: &Section<'_>) -> Option<LimitBy> {
    const WORDS: [&str; 7] = ["consumer", "credential", "ip", "service", "header", "path", "peer"];
    let by = config.take("limit_by", |scalar| values::choice(scalar, &WORDS, &[]))?;
    let header: Option<HeaderName> = config.take("header_name", plugins::header_name);
    let path = config.take("path", values::request_path);
    for (key, of) in [("header_name", "header"), ("path", "path")] {
        if config.has(key) && by != of {
            config.mistake(key, Fault::new(format!("is there, but limit_by is {by}"), format!("write limit_by: {of}")));
        } else if !config.has(key) && by == of {
            config.mistake("limit_by", Fault::new(format!("{by} needs {key}"), format!("add {key} beside it")));
        }
    }
    Some(match by {
        "credential" => LimitBy::Credential,
        "ip" => LimitBy::Ip,
        "service" => LimitBy::Service,
        "header" => LimitBy::Header(header?),
        "path" => LimitBy::Path(path?),
        "peer" => LimitBy::Peer,
        _ => LimitBy::Consumer,
    })
}

fn policy(config: &Section<'_>) -> Option<Policy> {
    let policy = config.take("policy", |scalar| values::choice(scalar, &["local", "redis", "fleet"], &[]))?;
    if policy != "redis" {
        if config.has("redis") {
            let fault = Fault::new(format!("is there, but policy is {policy}"), "write policy: redis");
            config.mistake("redis", fault);
        }
        return Some(if policy == "fleet" { Policy::Fleet } else { Policy::Local });
    }
    if !config.has("redis") {
        config.mistake("policy", Fault::new("redis needs to be told where it is", "add redis: { host: … } beside it"));
        return None;
    }
    let redis = config.section("redis");
    let number = |key: &str, max: u64| redis.take(key, |scalar| values::integer(scalar, 0, max));
    let ssl = redis.take("ssl", values::boolean)?;
    for key in ["ssl_verify", "ca_file"] {
        if redis.has(key) && !ssl {
            redis.mistake(key, Fault::new("is there, but ssl is false", "write ssl: true"));
        }
    }
    Some(Policy::Redis(RedisSettings {
        host: redis.take("host", values::host)?,
        port: u16::try_from(number("port", 65535)?).ok()?,
        username: redis.take("username", values::text),
        password: redis.take("password", values::secret).map(Into::into),
        database: u32::try_from(number("database", 65535)?).ok()?,
        timeout: redis.take("timeout", values::millis)?,
        ssl,
        ssl_verify: redis.take("ssl_verify", values::boolean)?,
        ca_file: redis.path("ca_file"),
    }))
}
