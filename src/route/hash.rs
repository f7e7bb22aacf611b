//! What of a request a hashing balancer goes by: the same value always leads to the same endpoint.

use std::net::IpAddr;

use http::{HeaderMap, HeaderName, Uri, header};

/// One property of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HashOn {
    /// The first value of this header.
    Header(HeaderName),
    /// The value of this cookie (RFC 6265 §4.2).
    Cookie(String),
    /// The first value of this query parameter, as it is written.
    Query(String),
    /// The address of the connection that the request came on.
    SourceIp,
    /// The path without the query.
    Path,
}

impl HashOn {
    /// The hash of the property; `None` where the request has none, which leaves the choice to chance. Stable over
    /// processes and versions, so that all sidecars agree.
    pub fn key(&self, headers: &HeaderMap, uri: &Uri, source: IpAddr) -> Option<u64> {
        match self {
            Self::Header(name) => headers.get(name).map(|value| hash(value.as_bytes())),
            Self::Cookie(name) => cookie(headers, name).map(hash),
            Self::Query(name) => query(uri.query()?, name).map(|value| hash(value.as_bytes())),
            Self::SourceIp => Some(match source.to_canonical() {
                IpAddr::V4(address) => hash(&address.octets()),
                IpAddr::V6(address) => hash(&address.octets()),
            }),
            Self::Path => Some(hash(uri.path().as_bytes())),
        }
    }
}

fn hash(bytes: &[u8]) -> u64 {
    rapidhash::v3::rapidhash_v3(bytes)
}

fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a [u8]> {
    let pairs = headers.get_all(header::COOKIE).iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b';'));
    pairs
        .filter_map(|pair| {
            let at = pair.iter().position(|byte| *byte == b'=')?;
            Some((pair[..at].trim_ascii(), pair[at + 1..].trim_ascii()))
        })
        .find(|(found, _)| *found == name.as_bytes())
        .map(|(_, value)| value)
}

fn query<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    query.split('&').find_map(|pair| {
        let (found, value) = pair.split_once('=').unwrap_or((pair, ""));
        (found == name).then_some(value)
    })
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    const HOME: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn key(on: &HashOn, pairs: &[(&'static str, &'static str)], uri: &'static str) -> Option<u64> {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_static(value));
        }
        on.key(&headers, &Uri::from_static(uri), HOME)
    }

    #[test]
    fn the_same_value_gives_the_same_key_wherever_else_the_requests_differ() {
        let alice = Some(hash(b"alice"));
        let header = HashOn::Header(HeaderName::from_static("x-user"));
        assert_eq!(key(&header, &[("x-user", "alice"), ("x-other", "1")], "/a"), alice);
        assert_eq!(key(&header, &[("x-other", "alice")], "/a"), None);
        let cookie = HashOn::Cookie("user".into());
        assert_eq!(key(&cookie, &[("cookie", "a=1; user=alice; b=2")], "/"), alice);
        assert_eq!(key(&cookie, &[("cookie", "a=1"), ("cookie", "user=alice")], "/"), alice);
        assert_eq!(key(&cookie, &[("cookie", "xuser=alice; user2=bob; novalue")], "/"), None);
        let query = HashOn::Query("user".into());
        assert_eq!(key(&query, &[], "/a?b=c&user=alice&user=bob"), alice);
        assert_eq!(key(&query, &[], "/a?users=alice"), None);
        assert_eq!(key(&query, &[], "/a"), None);
        assert_eq!(key(&HashOn::Path, &[], "/a?b"), key(&HashOn::Path, &[], "/a?c"));
        assert_ne!(key(&HashOn::Path, &[], "/a"), key(&HashOn::Path, &[], "/b"));
    }

    #[test]
    fn an_address_is_one_in_either_notation() {
        let mapped = IpAddr::V6(std::net::Ipv4Addr::LOCALHOST.to_ipv6_mapped());
        let key = |address| HashOn::SourceIp.key(&HeaderMap::new(), &Uri::from_static("/"), address);
        assert_eq!(key(mapped), key(HOME));
    }

    #[test]
    fn keys_are_the_same_in_every_version() {
        // All sidecars of a mesh agree on these: another number would move every key.
        assert_eq!((hash(b""), hash(b"alice")), (232_177_599_295_442_350, 8_942_067_485_237_617_356));
    }
}
