//! Where a request carries its token: a header, a cookie, a query parameter. Taken from there, and removed from there.

use std::borrow::Cow;
use std::fmt::Write;

use http::header::{AUTHORIZATION, COOKIE};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Uri, request};
use percent_encoding::percent_decode_str;

/// A place for a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// `Bearer TOKEN`, the scheme in any case (RFC 9110 §11.1); another header than `Authorization` may hold the bare
    /// token, too.
    Header(HeaderName),
    Cookie(String),
    Query(String),
}

/// More than one token, or something else where one should be: which one counts is not for us to choose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ambiguous(pub &'static str);

impl Place {
    /// The token at this place; `None` without one.
    pub(super) fn token<'r>(&self, head: &'r request::Parts) -> Result<Option<Cow<'r, str>>, Ambiguous> {
        match self {
            Self::Header(name) => {
                let token = one(head.headers.get_all(name).iter(), "the header stands twice")?;
                Ok(token.map(|value| bearer(value, *name == AUTHORIZATION)).transpose()?.flatten().map(Cow::Borrowed))
            }
            Self::Cookie(name) => {
                let values = cookies(&head.headers).filter(|(key, _)| key == name).map(|(_, value)| value);
                Ok(one(values, "the cookie stands twice")?.filter(|value| !value.is_empty()).map(Cow::Borrowed))
            }
            Self::Query(name) => {
                let pairs = head.uri.query().unwrap_or_default().split('&');
                let values = pairs.map(split).filter(|(key, _)| decoded(key) == *name).map(|(_, value)| value);
                let value = one(values, "the query parameter stands twice")?.filter(|value| !value.is_empty());
                let decode = |value| percent_decode_str(value).decode_utf8().map_err(|_| Ambiguous("no text"));
                value.map(decode).transpose()
            }
        }
    }

    /// Takes the token out of the request that is sent on.
    pub(super) fn remove(&self, head: &mut request::Parts) {
        match self {
            Self::Header(name) => {
                head.headers.remove(name);
            }
            Self::Cookie(name) => {
                let mut kept = String::new();
                for (key, value) in cookies(&head.headers).filter(|(key, _)| key != name) {
                    let gap = if kept.is_empty() { "" } else { "; " };
                    // Without a name a cookie is its value (RFC 6265bis §5.6).
                    let _ =
                        if key.is_empty() { write!(kept, "{gap}{value}") } else { write!(kept, "{gap}{key}={value}") };
                }
                match HeaderValue::from_str(&kept) {
                    Ok(value) if !kept.is_empty() => {
                        head.headers.insert(COOKIE, value);
                    }
                    Ok(_) | Err(_) => {
                        head.headers.remove(COOKIE);
                    }
                }
            }
            Self::Query(name) => {
                let query = head.uri.query().unwrap_or_default();
                let kept: Vec<&str> = query.split('&').filter(|pair| decoded(split(pair).0) != *name).collect();
                let gap = if kept.is_empty() { "" } else { "?" };
                let target = format!("{}{gap}{}", head.uri.path(), kept.join("&"));
                // Made of parts of a good one, it is good.
                if let Ok(target) = PathAndQuery::try_from(target) {
                    let mut parts = head.uri.clone().into_parts();
                    parts.path_and_query = Some(target);
                    if let Ok(uri) = Uri::from_parts(parts) {
                        head.uri = uri;
                    }
                }
            }
        }
    }
}

fn one<T>(mut all: impl Iterator<Item = T>, twice: &'static str) -> Result<Option<T>, Ambiguous> {
    let first = all.next();
    if all.next().is_some() { Err(Ambiguous(twice)) } else { Ok(first) }
}

/// RFC 6750 §2.1. Credentials of another scheme are not for us.
fn bearer(value: &HeaderValue, scheme_needed: bool) -> Result<Option<&str>, Ambiguous> {
    let text = value.to_str().map_err(|_| Ambiguous("the header is no text"))?.trim_matches([' ', '\t']);
    let token = match text.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => token.trim_start_matches(' '),
        Some(_) if scheme_needed => return Ok(None),
        None if text.eq_ignore_ascii_case("bearer") => return Err(Ambiguous("Bearer without a token")),
        None if scheme_needed => return Ok(None),
        Some(_) | None => text,
    };
    if token.contains([' ', '\t', ',']) {
        return Err(Ambiguous("more than a token behind Bearer"));
    }
    Ok(Some(token).filter(|token| !token.is_empty()))
}

/// Names and values of all `Cookie` fields (RFC 6265 §4.2.1). A field that is no text has none.
fn cookies(headers: &HeaderMap) -> impl Iterator<Item = (&str, &str)> {
    let fields = headers.get_all(COOKIE).iter().filter_map(|field| field.to_str().ok());
    let pairs = fields.flat_map(|field| field.split(';')).map(str::trim).filter(|pair| !pair.is_empty());
    pairs.map(|pair| match pair.split_once('=') {
        Some((name, value)) => (name.trim(), unquoted(value.trim())),
        None => ("", pair),
    })
}

fn unquoted(value: &str) -> &str {
    value.strip_prefix('"').and_then(|inner| inner.strip_suffix('"')).unwrap_or(value)
}

fn split(pair: &str) -> (&str, &str) {
    pair.split_once('=').unwrap_or((pair, ""))
}

/// A query parameter's name as an app may read it: two spellings are one name.
fn decoded(key: &str) -> Cow<'_, str> {
    if key.contains(['%', '+']) {
        percent_decode_str(&key.replace('+', " ")).decode_utf8_lossy().into_owned().into()
    } else {
        key.into()
    }
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn head(uri: &str, headers: &[(&str, &str)]) -> request::Parts {
        let builder = headers.iter().fold(Request::get(uri), |builder, (name, value)| builder.header(*name, *value));
        builder.body(()).unwrap().into_parts().0
    }

    fn token(place: &Place, head: &request::Parts) -> Result<Option<String>, Ambiguous> {
        place.token(head).map(|token| token.map(Cow::into_owned))
    }

    #[test]
    fn a_header_holds_one_bearer_token() {
        let place = Place::Header(AUTHORIZATION);
        let of = |value| token(&place, &head("/", &[("authorization", value)]));
        for value in ["Bearer a.b.c", "bearer a.b.c", "BEARER a.b.c", "bEaReR   a.b.c", "Bearer a.b.c "] {
            assert_eq!(of(value), Ok(Some("a.b.c".into())), "{value}");
        }
        for value in ["Basic dTpw", "Bearerx a.b.c", "a.b.c", "DPoP a.b.c", ""] {
            assert_eq!(of(value), Ok(None), "{value}");
        }
        for value in ["Bearer", "Bearer a.b.c, Bearer d.e.f", "Bearer a.b.c d.e.f", "Bearer a\tb"] {
            assert!(of(value).is_err(), "{value}");
        }
        let twice = head("/", &[("authorization", "Bearer a.b.c"), ("authorization", "Bearer a.b.c")]);
        assert!(token(&place, &twice).is_err());
        let mixed = head("/", &[("authorization", "Basic dTpw"), ("authorization", "Bearer a.b.c")]);
        assert!(token(&place, &mixed).is_err());
        let own = Place::Header("x-token".parse().unwrap());
        for value in ["a.b.c", "Bearer a.b.c"] {
            assert_eq!(token(&own, &head("/", &[("x-token", value)])), Ok(Some("a.b.c".into())));
        }
    }

    #[test]
    fn a_cookie_is_found_among_others_and_only_it_is_removed() {
        let place = Place::Cookie("session".into());
        let mut head_of_two = head("/", &[("cookie", "a=1; session=a.b.c; b=\"2\""), ("cookie", "xsession=no; c")]);
        assert_eq!(token(&place, &head_of_two), Ok(Some("a.b.c".into())));
        place.remove(&mut head_of_two);
        assert_eq!(head_of_two.headers["cookie"], "a=1; b=2; xsession=no; c");
        assert_eq!(head_of_two.headers.get_all("cookie").iter().count(), 1);
        let mut alone = head("/", &[("cookie", "session=a.b.c")]);
        place.remove(&mut alone);
        assert!(!alone.headers.contains_key("cookie"));
        assert!(token(&place, &head("/", &[("cookie", "session=a; session=b")])).is_err());
        assert!(token(&place, &head("/", &[("cookie", "session=a"), ("cookie", "session=a")])).is_err());
        assert_eq!(token(&place, &head("/", &[("cookie", "session=")])), Ok(None));
    }

    #[test]
    fn a_query_parameter_is_found_under_every_spelling_and_removed() {
        let place = Place::Query("access_token".into());
        let mut mixed = head("/p?a=1&access%5Ftoken=a.b.c&b", &[]);
        assert_eq!(token(&place, &mixed), Ok(Some("a.b.c".into())));
        place.remove(&mut mixed);
        assert_eq!(mixed.uri, "/p?a=1&b");
        let mut absolute = head("http://h:1/p?access_token=x", &[]);
        place.remove(&mut absolute);
        assert_eq!(absolute.uri, "http://h:1/p");
        assert!(token(&place, &head("/?access_token=a&access%5ftoken=b", &[])).is_err());
        assert_eq!(token(&place, &head("/?access_token=", &[])), Ok(None));
        assert_eq!(token(&place, &head("/?access_tokens=a", &[])), Ok(None));
        assert_eq!(token(&place, &head("/", &[])), Ok(None));
    }
}
