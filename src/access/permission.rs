//! One L7 permission of an intention, judged as Envoy judges what Consul makes of it.

use std::borrow::Cow;

use http::header::HOST;
use http::{HeaderName, Method};
use regex::bytes::Regex;

use super::Request;

/// Conditions on a request, all of which must hold; without any it matches every request.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Permission {
    pub allow: bool,
    pub path: Option<PathMatch>,
    /// Any of these; empty for all.
    pub methods: Vec<Method>,
    pub headers: Vec<HeaderMatch>,
    /// It has a condition beside these that cannot be checked here: where they match, the request is denied. What that
    /// is, as words that follow `permission 1`.
    pub barred: Option<Box<str>>,
}

#[derive(Debug, Clone)]
pub enum PathMatch {
    Exact(Box<str>),
    /// Of characters, not of segments: `/v1` begins `/v10`, as in Consul.
    Prefix(Box<str>),
    /// The whole path.
    Regex(Box<Regex>),
}

/// A condition on one header. Several values count as one, joined by commas (Envoy `HeaderUtility`).
#[derive(Debug, Clone, PartialEq)]
pub struct HeaderMatch {
    pub name: Name,
    pub condition: Condition,
    pub invert: bool,
    pub ignore_case: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Name {
    Field(HeaderName),
    /// Envoy's names for what is no field in HTTP/1.1.
    Authority,
    Method,
}

#[derive(Debug, Clone)]
pub enum Condition {
    Present,
    Exact(Box<str>),
    Prefix(Box<str>),
    Suffix(Box<str>),
    Contains(Box<str>),
    /// The whole value.
    Regex(Box<Regex>),
}

impl Permission {
    pub(super) fn matches(&self, request: Request<'_>) -> bool {
        (self.methods.is_empty() || self.methods.contains(request.method))
            && self.path.as_ref().is_none_or(|path| path.matches(request.path))
            && self.headers.iter().all(|header| header.matches(request))
    }
}

impl PathMatch {
    fn matches(&self, path: &str) -> bool {
        match self {
            Self::Exact(exact) => path == &**exact,
            Self::Prefix(prefix) => path.starts_with(&**prefix),
            Self::Regex(regex) => regex.is_match(path.as_bytes()),
        }
    }
}

impl HeaderMatch {
    /// A header that is not there matches only an inverted `Present`, not an inverted anything else (Envoy
    /// `HeaderUtility::matchHeaders`, gRFC A41).
    fn matches(&self, request: Request<'_>) -> bool {
        match self.name.value(request) {
            None => self.invert && matches!(self.condition, Condition::Present),
            Some(value) => self.condition.holds(&value, self.ignore_case) != self.invert,
        }
    }
}

impl Name {
    /// # Errors
    /// Where the text is no name of a header.
    pub fn parse(text: &str) -> Result<Self, String> {
        Ok(match text {
            ":authority" => Self::Authority,
            ":method" => Self::Method,
            _ => match HeaderName::from_bytes(text.as_bytes()) {
                // Envoy has one name for both.
                Ok(HOST) => Self::Authority,
                Ok(name) => Self::Field(name),
                Err(_) => return Err(format!("{text:?} is no name of a header")),
            },
        })
    }

    fn value<'a>(&self, request: Request<'a>) -> Option<Cow<'a, [u8]>> {
        let name = match self {
            Self::Field(name) => name,
            Self::Authority => return Some(request.authority.as_bytes().into()),
            Self::Method => return Some(request.method.as_str().as_bytes().into()),
        };
        let mut values = request.headers.get_all(name).iter();
        let first = values.next()?;
        let Some(second) = values.next() else { return Some(first.as_bytes().into()) };
        let mut joined = first.as_bytes().to_vec();
        for more in std::iter::once(second).chain(values) {
            joined.push(b',');
            joined.extend_from_slice(more.as_bytes());
        }
        Some(joined.into())
    }
}

impl Condition {
    fn holds(&self, value: &[u8], ignore_case: bool) -> bool {
        let same = |have: &[u8], wanted: &str| {
            if ignore_case { have.eq_ignore_ascii_case(wanted.as_bytes()) } else { have == wanted.as_bytes() }
        };
        match self {
            Self::Present => true,
            Self::Exact(wanted) => same(value, wanted),
            Self::Prefix(wanted) => value.get(..wanted.len()).is_some_and(|begin| same(begin, wanted)),
            Self::Suffix(wanted) => {
                let from = value.len().checked_sub(wanted.len());
                from.is_some_and(|from| same(&value[from..], wanted))
            }
            Self::Contains(wanted) => wanted.is_empty() || value.windows(wanted.len()).any(|part| same(part, wanted)),
            Self::Regex(regex) => regex.is_match(value),
        }
    }
}

impl PartialEq for PathMatch {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Exact(a), Self::Exact(b)) | (Self::Prefix(a), Self::Prefix(b)) => a == b,
            (Self::Regex(a), Self::Regex(b)) => a.as_str() == b.as_str(),
            _ => false,
        }
    }
}

impl PartialEq for Condition {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Present, Self::Present) => true,
            (Self::Exact(a), Self::Exact(b))
            | (Self::Prefix(a), Self::Prefix(b))
            | (Self::Suffix(a), Self::Suffix(b))
            | (Self::Contains(a), Self::Contains(b)) => a == b,
            (Self::Regex(a), Self::Regex(b)) => a.as_str() == b.as_str(),
            _ => false,
        }
    }
}
