//! Changes to header fields, as Kong's transformers make them: remove, rename, replace, add, append, in this order. Which
//! fields no plugin may touch.

use http::{HeaderMap, HeaderName, header};

/// What is done with fields; `V` is made into a value when it is needed.
#[derive(Debug, Clone, PartialEq)]
pub struct Changes<V> {
    pub remove: Vec<HeaderName>,
    /// From, to.
    pub rename: Vec<(HeaderName, HeaderName)>,
    /// Only where the field is there; one value stands for all.
    pub replace: Vec<(HeaderName, V)>,
    /// Only where it is not.
    pub add: Vec<(HeaderName, V)>,
    /// A further value, in any case.
    pub append: Vec<(HeaderName, V)>,
}

impl<V> Default for Changes<V> {
    fn default() -> Self {
        let (remove, rename, replace, add, append) = Default::default();
        Self { remove, rename, replace, add, append }
    }
}

impl<V> Changes<V> {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty()
            && self.rename.is_empty()
            && self.replace.is_empty()
            && self.add.is_empty()
            && self.append.is_empty()
    }

    pub(super) fn apply(&self, headers: &mut HeaderMap, value: impl Fn(&V) -> header::HeaderValue) {
        for name in &self.remove {
            headers.remove(name);
        }
        for (from, to) in &self.rename {
            rename(headers, from, to);
        }
        for (name, given) in &self.replace {
            if headers.contains_key(name) {
                headers.insert(name, value(given));
            }
        }
        for (name, given) in &self.add {
            if let header::Entry::Vacant(entry) = headers.entry(name) {
                entry.insert(value(given));
            }
        }
        for (name, given) in &self.append {
            headers.append(name, value(given));
        }
    }
}

fn rename(headers: &mut HeaderMap, from: &HeaderName, to: &HeaderName) {
    if from == to {
        return;
    }
    match headers.entry(from) {
        header::Entry::Occupied(entry) => {
            let values: Vec<header::HeaderValue> = entry.remove_entry_mult().1.collect();
            headers.remove(to);
            for value in values {
                headers.append(to, value);
            }
        }
        // Who reads the new name trusts it as the old one: a caller may not fill it where we have nothing to say.
        header::Entry::Vacant(_) if tells_who(from.as_str()) => {
            headers.remove(to);
        }
        header::Entry::Vacant(_) => {}
    }
}

/// Why a transformer may not take a field away; `None` where it may.
#[must_use]
pub fn may_not_go(name: &HeaderName) -> Option<&'static str> {
    match name.as_str() {
        "host" => Some("tells whom a request is for"),
        name if frames(name) => Some("frames the message or ends at this hop"),
        name if name.starts_with("x-outrigger-") => Some("is outrigger's own word to other sidecars"),
        _ => None,
    }
}

/// Why a transformer may not write a field of requests; `None` where it may. `host` may be replaced, which is not asked here.
#[must_use]
pub fn may_not_be_told(name: &HeaderName) -> Option<&'static str> {
    may_not_go(name).or_else(|| {
        tells_who(name.as_str()).then_some("is what the app believes of its caller: outrigger alone sets it")
    })
}

/// Why a transformer may not touch a field of answers, which have no `host`; `None` where it may.
#[must_use]
pub fn may_not_be_answered(name: &HeaderName) -> Option<&'static str> {
    may_not_go(name)
}

/// Framing (RFC 9112 §6) and hop-by-hop fields (RFC 9110 §7.6.1).
fn frames(name: &str) -> bool {
    matches!(
        name,
        "connection"
            | "content-length"
            | "expect"
            | "http2-settings"
            | "keep-alive"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "proxy-connection"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
    )
}

/// Hops and users, in every spelling that an app behind CGI, WSGI or PHP reads as one.
fn tells_who(name: &str) -> bool {
    let name = name.replace('_', "-");
    let begins = ["x-forwarded", "x-consumer-", "x-authenticated-", "x-credential-"];
    begins.iter().any(|prefix| name.starts_with(prefix))
        || matches!(name.as_str(), "forwarded" | "x-real-ip" | "x-anonymous-consumer")
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn map(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    fn pairs(pairs: &[(&'static str, &'static str)]) -> Vec<(HeaderName, HeaderValue)> {
        pairs.iter().map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v))).collect()
    }

    fn renames(list: &[(&'static str, &'static str)]) -> Vec<(HeaderName, HeaderName)> {
        list.iter().map(|(a, b)| (HeaderName::from_static(a), HeaderName::from_static(b))).collect()
    }

    #[test]
    fn changes_come_in_kongs_order() {
        let changes = Changes {
            remove: vec![HeaderName::from_static("gone")],
            rename: renames(&[("old", "new"), ("absent", "kept")]),
            replace: pairs(&[("new", "replaced"), ("gone", "no"), ("absent", "no")]),
            add: pairs(&[("gone", "back"), ("kept", "no")]),
            append: pairs(&[("kept", "2"), ("fresh", "1")]),
        };
        let mut headers = map(&[("gone", "1"), ("old", "a"), ("old", "b"), ("new", "client"), ("kept", "1")]);
        changes.apply(&mut headers, HeaderValue::clone);
        assert_eq!(
            headers,
            map(&[("new", "replaced"), ("gone", "back"), ("kept", "1"), ("kept", "2"), ("fresh", "1")])
        );
    }

    #[test]
    fn a_renamed_field_keeps_all_its_values_and_drops_what_stood_there() {
        let changes = Changes::<HeaderValue> { rename: renames(&[("old", "new")]), ..Changes::default() };
        let mut headers = map(&[("old", "a"), ("old", "b"), ("new", "client")]);
        changes.apply(&mut headers, HeaderValue::clone);
        assert_eq!(headers, map(&[("new", "a"), ("new", "b")]));
    }

    #[test]
    fn a_caller_cannot_fill_the_new_name_of_who_it_is() {
        let changes =
            Changes::<HeaderValue> { rename: renames(&[("x-consumer-username", "x-user")]), ..Changes::default() };
        let mut headers = map(&[("x-user", "root")]);
        changes.apply(&mut headers, HeaderValue::clone);
        assert!(headers.is_empty());
    }

    #[test]
    fn framing_and_identity_are_out_of_reach() {
        let name = HeaderName::from_static;
        for field in ["content-length", "transfer-encoding", "connection", "te", "x-outrigger-attempt"] {
            let field = name(field);
            assert!(may_not_go(&field).is_some() && may_not_be_told(&field).is_some(), "{field}");
            assert!(may_not_be_answered(&field).is_some(), "{field}");
        }
        for field in ["x-forwarded-for", "x_consumer_id", "x-forwarded-client-cert", "forwarded", "x-real-ip", "host"] {
            assert!(may_not_be_told(&name(field)).is_some(), "{field}");
        }
        for field in ["x-user", "authorization", "cookie", "x-request-id", "server", "x-consumer"] {
            let field = name(field);
            assert!(may_not_go(&field).is_none() && may_not_be_told(&field).is_none(), "{field}");
        }
        assert!(may_not_go(&name("x-consumer-id")).is_none(), "the app need not be told");
    }
}
