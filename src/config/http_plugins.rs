//! The meaning of the plugins that look at HTTP alone: bot-detection, correlation-id, cors, ip-restriction, the limit of
//! bodies, request-termination and the transformers.

use http::uri::Authority;
use http::{HeaderName, HeaderValue, Method, StatusCode, header};

use super::problems::Fault;
use super::section::Section;
use super::tree::Scalar;
use super::{plugins, upstream_values, values};
use crate::filter::cors::{Origins, Settings as Cors};
use crate::filter::expression::Expressions;
use crate::filter::fields::{self, Changes};
use crate::filter::request_termination::{Says, Settings as RequestTermination, Trigger};
use crate::filter::request_transformer::{Parameters, Settings as RequestTransformer, Value};
use crate::filter::template::Template;
use crate::filter::{bot_detection, correlation_id, ip_restriction, request_size_limiting, response_transformer};

pub(super) fn ip_restriction(plugin: &Section<'_>, config: &Section<'_>) -> Option<ip_restriction::Settings> {
    if ["allow", "deny"].iter().all(|key| config.find(key).is_none_or(|node| node.items().is_empty())) {
        plugin.mistake("config", Fault::new("has neither allow nor deny", "add allow: [10.0.0.0/8]"));
    }
    let status = config.take("status", |scalar| values::integer(scalar, 400, 599))?;
    Some(ip_restriction::Settings {
        allow: config.list("allow", values::network),
        deny: config.list("deny", values::network),
        status: status_of(status)?,
        message: config.take("message", values::text),
    })
}

pub(super) fn bot_detection(config: &Section<'_>) -> Option<bot_detection::Settings> {
    let of = |key: &str| {
        let texts = config.list(key, expression);
        // Each is good alone.
        let all = |fault: String| {
            config.mistake(key, Fault::new(format!("as a whole: {fault}"), "write fewer, or shorter ones"));
        };
        Expressions::compile(&texts).map_err(all).ok()
    };
    let (allow, deny) = (of("allow"), of("deny"));
    Some(bot_detection::Settings { allow: allow?, deny: deny? })
}

fn expression(scalar: &Scalar) -> Result<String, Fault> {
    let text = values::text(scalar)?;
    match Expressions::compile(&[&text]) {
        Ok(_) => Ok(text),
        Err(fault) => Err(Fault::new(format!("{text:?} is no expression: {fault}"), "use RE2's syntax")),
    }
}

pub(super) fn correlation_id(config: &Section<'_>) -> Option<correlation_id::Settings> {
    let words = ["uuid#counter", "uuid", "tracker"];
    let generator = match config.take("generator", |scalar| values::choice(scalar, &words, &[]))? {
        "uuid" => correlation_id::Generator::Uuid,
        "tracker" => correlation_id::Generator::Tracker,
        _ => correlation_id::Generator::Counter,
    };
    Some(correlation_id::Settings {
        header_name: config.take("header_name", |scalar| allowed(scalar, fields::may_not_be_told))?,
        generator,
        echo_downstream: config.take("echo_downstream", values::boolean)?,
    })
}

pub(super) fn cors(config: &Section<'_>) -> Option<Cors> {
    let entries = config.list("origins", values::visible);
    let origins = Origins::of(&entries).map_err(|(at, fault)| {
        let node = config.find("origins").and_then(|node| node.items().get(at));
        let entry = entries.get(at).map_or("", String::as_str);
        let fault = Fault::new(format!("{entry:?} is no origin: {fault}"), "write https://a.example, or an expression");
        if let Some(node) = node {
            config.note(node, &format!("origins[{at}]"), fault);
        }
    });
    let names = |key: &str| {
        let names = config.list(key, upstream_values::header_name);
        let names: Vec<&str> = names.iter().map(HeaderName::as_str).collect();
        (!names.is_empty()).then(|| HeaderValue::from_str(&names.join(",")).ok()).flatten()
    };
    let methods = config.list("methods", values::method);
    let methods: Vec<&str> = methods.iter().map(Method::as_str).collect();
    Some(Cors {
        origins: origins.ok()?,
        headers: names("headers"),
        methods: HeaderValue::from_str(&methods.join(",")).ok()?,
        exposed_headers: names("exposed_headers"),
        credentials: config.take("credentials", values::boolean)?,
        max_age: config.take("max_age", |scalar| values::integer(scalar, 0, 31_536_000)),
        private_network: config.take("private_network", values::boolean)?,
        preflight_continue: config.take("preflight_continue", values::boolean)?,
        allow_origin_absent: config.take("allow_origin_absent", values::boolean)?,
    })
}

pub(super) fn request_size_limiting(config: &Section<'_>) -> Option<request_size_limiting::Settings> {
    let units = ["megabytes", "kilobytes", "bytes"];
    let unit = match config.take("size_unit", |scalar| values::choice(scalar, &units, &[]))? {
        "megabytes" => 1 << 20,
        "kilobytes" => 1 << 10,
        _ => 1,
    };
    let size = config.take("allowed_payload_size", |scalar| values::integer(scalar, 0, 1 << 40))?;
    let require_content_length = config.take("require_content_length", values::boolean)?;
    Some(request_size_limiting::Settings { most: size.saturating_mul(unit), require_content_length })
}

pub(super) fn request_termination(config: &Section<'_>) -> Option<RequestTermination> {
    let status = config.take("status_code", |scalar| values::integer(scalar, 200, 599))?;
    let (message, body) = (config.take("message", values::text), config.take("body", values::text));
    let echo = config.take("echo", values::boolean)?;
    if config.has("body") {
        for (key, is_there) in [("message", config.has("message")), ("echo", echo)] {
            if is_there {
                config.mistake(key, Fault::new("stands beside body", "keep one of them"));
            }
        }
    } else if config.has("content_type") {
        config.mistake("content_type", Fault::new("is there, but there is no body", "add body, or remove the key"));
    }
    let content_type = config.take("content_type", values::visible);
    let says = match body {
        Some(body) => Says::Body {
            body: body.into(),
            content_type: content_type.and_then(|kind| HeaderValue::from_str(&kind).ok()),
        },
        None if echo => Says::Echo(message),
        None => Says::Message(message),
    };
    let trigger = config
        .take("trigger", |scalar| Ok(Trigger { header: plugins::header_name(scalar)?, query: values::text(scalar)? }));
    Some(RequestTermination { status: status_of(status)?, says, trigger })
}

fn status_of(number: u64) -> Option<StatusCode> {
    u16::try_from(number).ok().and_then(|number| StatusCode::from_u16(number).ok())
}

pub(super) fn request_transformer(config: &Section<'_>) -> RequestTransformer {
    let steps = Steps::of(config);
    let told = fields::may_not_be_told;
    let value = |text: &str| {
        let template = template(text)?;
        match template.fixed() {
            Some(text) => header_value(text).map(Value::Fixed),
            None => Ok(Value::Made(template)),
        }
    };
    let hosts = steps.replace.list("headers", host);
    let parameter = |scalar: &Scalar| {
        let (name, text) = split(scalar, "name:value")?;
        Ok((name, template(&text)?))
    };
    RequestTransformer {
        http_method: config.take("http_method", method),
        uri: steps.replace.take("uri", path),
        host: hosts.into_iter().flatten().next_back(),
        headers: steps.changes((fields::may_not_go, told), value),
        query: Parameters {
            remove: steps.remove.list("querystring", |scalar| Ok(before_colon(&values::text(scalar)?))),
            rename: steps.rename.list("querystring", |scalar| split(scalar, "old:new")),
            replace: steps.replace.list("querystring", parameter),
            add: steps.add.list("querystring", parameter),
            append: steps.append.list("querystring", parameter),
        },
    }
}

pub(super) fn response_transformer(config: &Section<'_>) -> response_transformer::Settings {
    let may = fields::may_not_be_answered;
    let steps = Steps::of(config);
    steps.replace.list("headers", |scalar| if is_host(scalar) { guarded("host", may).map(drop) } else { Ok(()) });
    response_transformer::Settings { headers: steps.changes((may, may), header_value) }
}

/// The sections of a transformer, in their order.
struct Steps<'a> {
    remove: Section<'a>,
    rename: Section<'a>,
    replace: Section<'a>,
    add: Section<'a>,
    append: Section<'a>,
}

/// Why a field is out of reach.
type Guard = fn(&HeaderName) -> Option<&'static str>;

impl<'a> Steps<'a> {
    fn of(config: &Section<'a>) -> Self {
        let of = |name| config.section(name);
        Self {
            remove: of("remove"),
            rename: of("rename"),
            replace: of("replace"),
            add: of("add"),
            append: of("append"),
        }
    }

    /// `go` guards what is taken away, `told` what is written.
    fn changes<V>(&self, (go, told): (Guard, Guard), value: impl Fn(&str) -> Result<V, Fault>) -> Changes<V> {
        let pair = |scalar: &Scalar| {
            let (name, text) = split(scalar, "name:value")?;
            Ok((guarded(&name, told)?, value(&text)?))
        };
        let renamed = |scalar: &Scalar| {
            let (from, to) = split(scalar, "old:new")?;
            Ok((guarded(&from, go)?, guarded(&to, told)?))
        };
        // `host` goes a way of its own.
        let replaced = |scalar: &Scalar| if is_host(scalar) { Ok(None) } else { pair(scalar).map(Some) };
        Changes {
            remove: self.remove.list("headers", |scalar| guarded(&before_colon(&values::text(scalar)?), go)),
            rename: self.rename.list("headers", renamed),
            replace: self.replace.list("headers", replaced).into_iter().flatten().collect(),
            add: self.add.list("headers", pair),
            append: self.append.list("headers", pair),
        }
    }
}

fn is_host(scalar: &Scalar) -> bool {
    before_colon(&scalar.text).eq_ignore_ascii_case(header::HOST.as_str())
}

/// The host of a `host:…` item; `None` for another.
fn host(scalar: &Scalar) -> Result<Option<Authority>, Fault> {
    if !is_host(scalar) {
        return Ok(None);
    }
    let (_, host) = split(scalar, "host:NAME")?;
    let good = host.parse::<Authority>().ok().filter(|_| !host.contains('@'));
    let fault = || Fault::new(format!("{host:?} is no host"), "write a name or an address, with a port or without");
    good.ok_or_else(fault).map(Some)
}

fn guarded(name: &str, guard: Guard) -> Result<HeaderName, Fault> {
    let fault = || Fault::new(format!("{name:?} is no name of a header"), "use letters, digits and `-`");
    let field = HeaderName::from_bytes(name.as_bytes()).map_err(|_| fault())?;
    match guard(&field) {
        None => Ok(field),
        Some(why) => Err(Fault::new(format!("{name} {why}"), "remove this item")),
    }
}

fn allowed(scalar: &Scalar, guard: Guard) -> Result<HeaderName, Fault> {
    guarded(&values::text(scalar)?, guard)
}

fn before_colon(text: &str) -> String {
    text.split(':').next().unwrap_or_default().trim().to_owned()
}

/// Both sides of the first colon.
fn split(scalar: &Scalar, form: &str) -> Result<(String, String), Fault> {
    let text = values::text(scalar)?;
    match text.split_once(':').map(|(name, value)| (name.trim(), value.trim())) {
        Some((name, value)) if !name.is_empty() && !value.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(Fault::new(format!("{text:?} is not of the form {form}"), format!("write {form}"))),
    }
}

fn header_value(text: &str) -> Result<HeaderValue, Fault> {
    let fault = || Fault::new(format!("{text:?} cannot stand in a header"), "use printable ASCII");
    let good = text.bytes().all(|byte| matches!(byte, b' '..=b'~'));
    HeaderValue::from_str(text).ok().filter(|_| good).ok_or_else(fault)
}

fn template(text: &str) -> Result<Template, Fault> {
    let mend = "write $(headers.NAME), $(headers['NAME']) or $(query_params.NAME)";
    Template::parse(text).map_err(|found| Fault::new(format!("{found} is no template that is understood"), mend))
}

fn method(scalar: &Scalar) -> Result<Method, Fault> {
    let method = values::method(scalar)?;
    if [Method::HEAD, Method::CONNECT].contains(&method) {
        let what = format!("{method} would give answers of another length than the client reads");
        return Err(Fault::new(what, "write another method"));
    }
    Ok(method)
}

/// The path of `replace.uri`, its holes apart in the normal form that policy judges.
fn path(scalar: &Scalar) -> Result<Template, Fault> {
    let text = values::text(scalar)?;
    let template = template(&text)?;
    if let Some(fixed) = template.fixed() {
        let path = values::request_path(scalar)?;
        if fixed.contains('?') {
            return Err(Fault::new(format!("{path:?} has a query"), "write the path alone; the query stays"));
        }
        if let Some(normal) = crate::route::normalised(&path) {
            return Err(Fault::new(format!("{path:?} is not in normal form"), format!("write {normal}")));
        }
    } else if !text.starts_with('/') || text.contains(['?', '#']) {
        return Err(Fault::new(format!("{text:?} is no path"), "begin with /, and write neither ? nor #"));
    }
    Ok(template)
}
