//! Values that are made of a request: the safe part of Kong's templates, `$(headers.x)`, `$(headers['x'])` and the same of
//! `query_params`. Kong's are programs; whatever is not of this form is a mistake of the configuration.

use std::borrow::Cow;

use http::{HeaderMap, HeaderName, HeaderValue};

use super::query;

/// Text with holes.
#[derive(Debug, Clone, PartialEq)]
pub struct Template(Vec<Part>);

#[derive(Debug, Clone, PartialEq)]
enum Part {
    Text(String),
    Header(HeaderName),
    Query(String),
}

/// The request that a template reads: as it was before anything changed it.
pub(super) struct Source<'a> {
    pub headers: Cow<'a, HeaderMap>,
    pub query: Cow<'a, str>,
}

impl Template {
    /// # Errors
    /// The expression that is none of ours.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (mut parts, mut rest) = (Vec::new(), text);
        while let Some((before, after)) = rest.split_once("$(") {
            let whole = || format!("$({}", after.split_inclusive(')').next().unwrap_or(after));
            let (inner, after) = after.split_once(')').ok_or_else(whole)?;
            if !before.is_empty() {
                parts.push(Part::Text(before.to_owned()));
            }
            parts.push(hole(inner.trim()).ok_or_else(|| format!("$({inner})"))?);
            rest = after;
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.to_owned()));
        }
        Ok(Self(parts))
    }

    /// The text of a template without holes.
    #[must_use]
    pub fn fixed(&self) -> Option<&str> {
        match self.0.as_slice() {
            [] => Some(""),
            [Part::Text(text)] => Some(text),
            _ => None,
        }
    }

    /// Holes without a value are empty.
    pub(super) fn render(&self, source: &Source<'_>) -> Vec<u8> {
        let mut out = Vec::new();
        self.fill(source, |piece, _| out.extend_from_slice(piece));
        out
    }

    /// As `render`, with what fills the holes percent-encoded: it stays within its segment of a path.
    pub(super) fn render_path(&self, source: &Source<'_>) -> String {
        let mut out = String::new();
        self.fill(source, |piece, is_hole| {
            if is_hole {
                out.extend(percent_encoding::percent_encode(piece, query::RESERVED));
            } else {
                out.push_str(&String::from_utf8_lossy(piece));
            }
        });
        out
    }

    fn fill(&self, source: &Source<'_>, mut put: impl FnMut(&[u8], bool)) {
        for part in &self.0 {
            match part {
                Part::Text(text) => put(text.as_bytes(), false),
                Part::Header(name) => put(source.headers.get(name).map_or(&b""[..], HeaderValue::as_bytes), true),
                Part::Query(name) => put(&query::first(&source.query, name).unwrap_or_default(), true),
            }
        }
    }
}

fn hole(inner: &str) -> Option<Part> {
    let (of, name) = match inner.split_once('.') {
        // A dot inside quotes belongs to the name.
        Some((of, name)) if !of.contains('[') => {
            (of, name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_').then_some(name)?)
        }
        _ => {
            let (of, name) = inner.strip_suffix(']')?.split_once('[')?;
            let quoted = |quote: char| name.strip_prefix(quote)?.strip_suffix(quote);
            (of, quoted('\'').or_else(|| quoted('"'))?)
        }
    };
    match of {
        _ if name.is_empty() || name.contains(['\'', '"']) => None,
        "headers" => HeaderName::from_bytes(name.as_bytes()).ok().map(Part::Header),
        "query_params" => Some(Part::Query(name.to_owned())),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_are_filled_from_headers_and_query() {
        let headers: HeaderMap =
            [(HeaderName::from_static("x-tenant"), HeaderValue::from_static("a/b"))].into_iter().collect();
        let source = Source { headers: Cow::Owned(headers), query: Cow::Borrowed("user=J%20D&e=..") };
        let template = Template::parse("t-$(headers['X-Tenant'])-$(query_params.user)$(headers.none)!").unwrap();
        assert_eq!(template.render(&source), b"t-a/b-J D!");
        assert_eq!(template.render_path(&source), "t-a%2Fb-J%20D!");
        assert_eq!(Template::parse("plain $ ( text").unwrap().fixed(), Some("plain $ ( text"));
        assert_eq!(template.fixed(), None);
    }

    #[test]
    fn programs_are_refused() {
        for (text, told) in [
            ("a $(os.execute('x')) b", "$(os.execute('x')"),
            ("$(headers['x'] or 'y')", "$(headers['x'] or 'y')"),
            ("$(uri_captures['id'])", "$(uri_captures['id'])"),
            ("$(headers[x])", "$(headers[x])"),
            ("$(headers.x-y)", "$(headers.x-y)"),
            ("$()", "$()"),
            ("x $(headers.y", "$(headers.y"),
        ] {
            assert_eq!(Template::parse(text), Err(told.to_owned()), "{text}");
        }
    }
}
