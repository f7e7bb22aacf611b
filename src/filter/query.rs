//! Query strings as lists of pairs: read decoded, written encoded, and what nobody touches stays as the client wrote it.

use std::borrow::Cow;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

/// All but the unreserved characters (RFC 3986 §2.3).
pub(super) const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The pairs of a query as they stand.
pub(super) fn pairs(query: &str) -> impl Iterator<Item = &str> {
    query.split('&').filter(|pair| !pair.is_empty())
}

/// Whether a pair has this name, decoded as every server reads it.
pub(super) fn is_named(pair: &str, name: &str) -> bool {
    let raw = pair.split_once('=').map_or(pair, |(name, _)| name);
    raw == name || (raw.contains(['%', '+']) && decoded(raw) == name.as_bytes())
}

/// The first value of a name, decoded; empty where there is a name without a value.
pub(super) fn first<'q>(query: &'q str, name: &str) -> Option<Cow<'q, [u8]>> {
    let pair = pairs(query).find(|pair| is_named(pair, name))?;
    Some(decoded(pair.split_once('=').map_or("", |(_, value)| value)))
}

/// A pair of text that may hold anything.
pub(super) fn pair(name: &str, value: &[u8]) -> String {
    format!("{}={}", utf8_percent_encode(name, RESERVED), percent_encoding::percent_encode(value, RESERVED))
}

/// The pair under another name.
pub(super) fn renamed(pair: &str, name: &str) -> String {
    let value = pair.split_once('=').map_or("", |(_, value)| value);
    format!("{}={value}", utf8_percent_encode(name, RESERVED))
}

/// `application/x-www-form-urlencoded`, as forms and most clients write queries.
pub(super) fn decoded(text: &str) -> Cow<'_, [u8]> {
    if text.contains('+') {
        return percent_decode_str(&text.replace('+', " ")).collect::<Vec<u8>>().into();
    }
    percent_decode_str(text).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_compared_decoded() {
        let query = "a=1&&%61b=2&c+d=3&flag&x=%26+%3d";
        assert!(is_named("%61b=2", "ab") && is_named("c+d=3", "c d") && is_named("flag", "flag"));
        assert_eq!(first(query, "x").as_deref(), Some(&b"& ="[..]));
        assert_eq!((first(query, "flag").as_deref(), first(query, "b")), (Some(&b""[..]), None));
        assert_eq!(pairs(query).count(), 5);
        assert_eq!((pair("a b", b"&=\xff"), renamed("old=%20x", "n")), ("a%20b=%26%3D%FF".into(), "n=%20x".into()));
    }
}
