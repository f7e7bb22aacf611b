//! `request-transformer`: changes the method, the target and the headers of requests, as Kong's plugin does it
//! (`kong/plugins/request-transformer/access.lua`): remove, rename, replace, add, append, and templates read the request as
//! it came. Bodies it leaves alone.

use std::borrow::Cow;

use http::uri::{Authority, PathAndQuery};
use http::{Extensions, HeaderMap, HeaderName, HeaderValue, Method, Uri, header, request};

use super::fields::Changes;
use super::query;
use super::template::{Source, Template};
use super::{Call, Decision, Filter};
use crate::reason::Reason;

#[derive(Debug, Clone, PartialEq, Default)]
pub struct Settings {
    /// Neither CONNECT nor HEAD: the answer's framing would be another than the client waits for.
    pub http_method: Option<Method>,
    /// The path, without a query.
    pub uri: Option<Template>,
    pub host: Option<Authority>,
    pub headers: Changes<Value>,
    pub query: Parameters,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Fixed(HeaderValue),
    Made(Template),
}

/// As `Changes`, for the query.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Parameters {
    pub remove: Vec<String>,
    pub rename: Vec<(String, String)>,
    pub replace: Vec<(String, Template)>,
    pub add: Vec<(String, Template)>,
    pub append: Vec<(String, Template)>,
}

/// The host as the client wrote it, in the stash once another took its place: X-Forwarded-Host is about the client's.
#[derive(Clone)]
pub struct ReplacedHost(pub HeaderValue);

pub(super) struct RequestTransformer {
    settings: Settings,
    /// Whether anything is made of a header, so that the headers have to be kept as they came.
    makes: bool,
}

impl RequestTransformer {
    pub(super) fn new(settings: Settings) -> Self {
        let Settings { headers, query, uri, .. } = &settings;
        let made = |list: &[(HeaderName, Value)]| list.iter().any(|(_, value)| matches!(value, Value::Made(_)));
        let filled = |list: &[(String, Template)]| list.iter().any(|(_, value)| value.fixed().is_none());
        let makes = made(&headers.replace)
            || made(&headers.add)
            || made(&headers.append)
            || [&query.replace, &query.add, &query.append].into_iter().any(|list| filled(list))
            || uri.as_ref().is_some_and(|uri| uri.fixed().is_none());
        Self { settings, makes }
    }

    fn change(&self, head: &mut request::Parts, stash: &mut Extensions) -> Result<(), &'static str> {
        let Settings { http_method, uri, host, headers, query } = &self.settings;
        let source = Source {
            headers: Cow::Owned(if self.makes { head.headers.clone() } else { HeaderMap::new() }),
            query: head.uri.query().unwrap_or_default().to_owned().into(),
        };
        if uri.is_some() || !query.is_empty() {
            let path = uri.as_ref().map(|uri| uri.render_path(&source));
            // What policy judged was a path in its normal form; what is sent is one, too.
            if path.as_deref().is_some_and(|path| path.split('/').any(|segment| matches!(segment, "." | ".."))) {
                return Err("the rewritten path climbs");
            }
            let path = path.unwrap_or_else(|| head.uri.path().to_owned());
            let query = query.apply(&source);
            let target = if query.is_empty() { path } else { format!("{path}?{query}") };
            let target = PathAndQuery::try_from(target).map_err(|_| "the rewritten path is no path")?;
            change_uri(&mut head.uri, |parts| parts.path_and_query = Some(target))?;
        }
        if let Some(method) = http_method {
            head.method = method.clone();
        }
        headers.apply(&mut head.headers, |value| value.make(&source));
        if let Some(host) = host {
            let before = head.uri.authority().map(host_value).or_else(|| head.headers.get(header::HOST).cloned());
            if let Some(before) = before {
                stash.insert(ReplacedHost(before));
            }
            head.headers.insert(header::HOST, host_value(host));
            if head.uri.authority().is_some() {
                change_uri(&mut head.uri, |parts| parts.authority = Some(host.clone()))?;
            }
        }
        Ok(())
    }
}

impl Filter for RequestTransformer {
    fn request(&self, call: &mut Call<'_>) -> Decision {
        match self.change(call.head, call.stash) {
            Ok(()) => Decision::PASS,
            Err(detail) => Decision::refuse(Reason::BadRequest, detail),
        }
    }
}

fn host_value(host: &Authority) -> HeaderValue {
    // An authority is made of visible ASCII.
    HeaderValue::from_str(host.as_str()).unwrap_or(HeaderValue::from_static(""))
}

fn change_uri(uri: &mut Uri, change: impl FnOnce(&mut http::uri::Parts)) -> Result<(), &'static str> {
    let mut parts = uri.clone().into_parts();
    change(&mut parts);
    *uri = Uri::from_parts(parts).map_err(|_| "the rewritten target is none")?;
    Ok(())
}

impl Value {
    /// What cannot stand in a header, a line feed in a query parameter, leaves the value empty.
    fn make(&self, source: &Source<'_>) -> HeaderValue {
        match self {
            Self::Fixed(value) => value.clone(),
            Self::Made(template) => {
                HeaderValue::from_bytes(&template.render(source)).unwrap_or(HeaderValue::from_static(""))
            }
        }
    }
}

impl Parameters {
    fn is_empty(&self) -> bool {
        self.remove.is_empty()
            && self.rename.is_empty()
            && self.replace.is_empty()
            && self.add.is_empty()
            && self.append.is_empty()
    }

    fn apply<'q>(&self, source: &'q Source<'_>) -> String {
        let mut pairs: Vec<Cow<'q, str>> = query::pairs(&source.query).map(Cow::Borrowed).collect();
        let has = |pairs: &[Cow<'_, str>], name: &str| pairs.iter().any(|pair| query::is_named(pair, name));
        for name in &self.remove {
            pairs.retain(|pair| !query::is_named(pair, name));
        }
        for (from, to) in self.rename.iter().filter(|(from, to)| from != to) {
            if has(&pairs, from) {
                pairs.retain(|pair| !query::is_named(pair, to));
                for pair in pairs.iter_mut().filter(|pair| query::is_named(pair, from)) {
                    *pair = query::renamed(pair, to).into();
                }
            }
        }
        for (name, value) in &self.replace {
            if let Some(at) = pairs.iter().position(|pair| query::is_named(pair, name)) {
                pairs.retain(|pair| !query::is_named(pair, name));
                pairs.insert(at, query::pair(name, &value.render(source)).into());
            }
        }
        for (name, value) in &self.add {
            if !has(&pairs, name) {
                pairs.push(query::pair(name, &value.render(source)).into());
            }
        }
        for (name, value) in &self.append {
            pairs.push(query::pair(name, &value.render(source)).into());
        }
        pairs.join("&")
    }
}

#[cfg(test)]
#[path = "request_transformer_tests.rs"]
mod tests;
