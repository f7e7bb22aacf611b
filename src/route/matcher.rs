//! What a rule looks at in a request: host, path, method, headers, query. Every part that is set must match. Compiled at
//! load; a look costs no allocation but for a query value that is percent-encoded.

use std::borrow::Cow;
use std::fmt;

use http::header::{HeaderMap, HeaderName};
use http::{Method, request};
use regex::bytes::Regex;

use super::path;
use crate::expression;

/// What a matcher looks at.
#[derive(Clone, Copy)]
pub struct Subject<'a> {
    /// As the request names it, port included.
    pub host: &'a str,
    /// In its normal form (`route::normalised`).
    pub path: &'a str,
    pub query: &'a str,
    pub method: &'a Method,
    pub headers: &'a HeaderMap,
}

impl<'a> Subject<'a> {
    /// `host` is the request's, wherever it stands.
    pub fn of(head: &'a request::Parts, host: &'a str) -> Self {
        let (path, query) = (head.uri.path(), head.uri.query().unwrap_or_default());
        Self { host, path, query, method: &head.method, headers: &head.headers }
    }
}

/// The conditions of one rule. Without any it matches every request.
#[derive(Debug, Clone, Default)]
pub struct Matcher {
    pub host: Option<HostMatch>,
    pub path: Option<PathMatch>,
    /// Any of these; empty for all.
    pub methods: Vec<Method>,
    pub headers: Vec<(HeaderName, Condition)>,
    pub query: Vec<(String, Condition)>,
}

/// In lower case, without a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostMatch {
    Exact(String),
    /// `.example.com` of `*.example.com`: one label or more before it.
    Suffix(String),
}

#[derive(Debug, Clone)]
pub enum PathMatch {
    /// Whole segments, in normal form, without a slash at the end; empty for `/`.
    Prefix(String),
    Exact(String),
    /// The whole path.
    Regex(Pattern),
}

#[derive(Debug, Clone)]
pub enum Condition {
    /// One of the values is this one, byte for byte.
    Is(String),
    /// There is a value, or there is none.
    Present(bool),
    /// One of the values matches, as a whole.
    Regex(Pattern),
}

/// A regular expression that must match from beginning to end.
#[derive(Clone)]
pub struct Pattern(Regex);

impl Pattern {
    /// # Errors
    /// What is wrong with the expression, or that it takes more than 64 KiB when compiled.
    pub fn compile(text: &str) -> Result<Self, String> {
        expression::whole(text, false).map(Self)
    }

    fn is_match(&self, text: &[u8]) -> bool {
        self.0.is_match(text)
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.0.as_str();
        f.write_str(text.strip_prefix("^(?:").and_then(|text| text.strip_suffix(")$")).unwrap_or(text))
    }
}

impl Matcher {
    pub fn matches(&self, subject: &Subject<'_>) -> bool {
        (self.methods.is_empty() || self.methods.contains(subject.method))
            && self.path.as_ref().is_none_or(|path| path.matches(subject.path))
            && self.host.as_ref().is_none_or(|host| host.matches(subject.host))
            && self.headers.iter().all(|(name, condition)| {
                condition.holds(subject.headers.get_all(name).iter().map(|value| Cow::Borrowed(value.as_bytes())))
            })
            && self.query.iter().all(|(name, condition)| condition.holds(values_of(subject.query, name)))
    }
}

impl HostMatch {
    /// `api.local` or `*.example.com`, without a port.
    ///
    /// # Errors
    /// Says what is wrong.
    pub fn parse(text: &str) -> Result<Self, String> {
        let lower = text.trim_end_matches('.').to_ascii_lowercase();
        let (name, wild) = match lower.strip_prefix("*.") {
            Some(rest) => (rest, true),
            None => (lower.as_str(), false),
        };
        let label = |label: &str| {
            !label.is_empty() && label.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_'))
        };
        let ip = !wild && name.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok();
        if !ip && name.contains(':') {
            return Err(format!("{text:?} has a port or a scheme, and hosts are compared without"));
        }
        if !ip && !name.split('.').all(label) {
            return Err(format!("{text:?} is no host and no *.SUFFIX"));
        }
        Ok(if wild { Self::Suffix(format!(".{name}")) } else { Self::Exact(name.trim_matches(['[', ']']).to_owned()) })
    }

    fn matches(&self, host: &str) -> bool {
        let host = bare(host);
        match self {
            Self::Exact(name) => host.eq_ignore_ascii_case(name),
            Self::Suffix(suffix) => {
                let at = host.len().checked_sub(suffix.len()).filter(|at| *at > 0);
                at.and_then(|at| host.get(at..)).is_some_and(|end| end.eq_ignore_ascii_case(suffix))
            }
        }
    }
}

/// A host without its port, its brackets or the dot of the root.
fn bare(host: &str) -> &str {
    if let Some(rest) = host.strip_prefix('[') {
        return rest.split(']').next().unwrap_or_default();
    }
    let host = match host.rsplit_once(':') {
        Some((name, port)) if !name.contains(':') && port.bytes().all(|c| c.is_ascii_digit()) => name,
        _ => host,
    };
    host.strip_suffix('.').unwrap_or(host)
}

impl PathMatch {
    fn matches(&self, path: &str) -> bool {
        match self {
            Self::Prefix(prefix) => path::behind(path, prefix).is_some(),
            Self::Exact(exact) => path == exact,
            Self::Regex(pattern) => pattern.is_match(path.as_bytes()),
        }
    }

    /// What stands behind the matched part; nothing where the whole path is matched.
    pub(super) fn rest<'a>(&self, path: &'a str) -> &'a str {
        match self {
            Self::Prefix(prefix) => path::behind(path, prefix).unwrap_or(path),
            Self::Exact(_) | Self::Regex(_) => "",
        }
    }
}

impl Condition {
    fn holds<'a>(&self, mut values: impl Iterator<Item = Cow<'a, [u8]>>) -> bool {
        match self {
            Self::Is(wanted) => values.any(|value| *value == *wanted.as_bytes()),
            Self::Present(wanted) => values.next().is_some() == *wanted,
            Self::Regex(pattern) => values.any(|value| pattern.is_match(&value)),
        }
    }
}

/// The values of a query parameter, decoded (`+` is a space, as forms send it).
pub(super) fn values_of<'a>(query: &'a str, name: &'a str) -> impl Iterator<Item = Cow<'a, [u8]>> {
    query.split('&').filter_map(move |pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (!pair.is_empty() && *decoded(key) == *name.as_bytes()).then(|| decoded(value))
    })
}

fn decoded(text: &str) -> Cow<'_, [u8]> {
    if text.contains('+') {
        let spaced = text.replace('+', " ");
        return Cow::Owned(percent_encoding::percent_decode_str(&spaced).collect());
    }
    percent_encoding::percent_decode_str(text).into()
}

#[cfg(test)]
#[path = "matcher_tests.rs"]
mod tests;
