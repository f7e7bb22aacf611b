//! What of a request is hashed, so that requests that share it are treated alike. The same on every sidecar and in every
//! run: two sidecars send the same user to the same place.

use std::net::IpAddr;

use http::HeaderName;
use http::header::COOKIE;
use rapidhash::v3::rapidhash_v3;

use super::matcher::{Subject, values_of};

/// The part of a request that is hashed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HashOn {
    Header(HeaderName),
    /// Names of cookies are compared as they are (RFC 6265 §4.1.1).
    Cookie(String),
    Query(String),
    /// The address of the connection's other end.
    SourceIp,
    /// Without the query.
    Path,
}

impl HashOn {
    /// The hash; `None` where the request lacks that part.
    pub fn key(&self, subject: &Subject<'_>, source: IpAddr) -> Option<u64> {
        match self {
            Self::Header(name) => subject.headers.get(name).map(|value| rapidhash_v3(value.as_bytes())),
            Self::Cookie(name) => cookie(subject, name).map(|value| rapidhash_v3(value.as_bytes())),
            Self::Query(name) => values_of(subject.query, name).next().map(|value| rapidhash_v3(&value)),
            Self::SourceIp => Some(match source.to_canonical() {
                IpAddr::V4(address) => rapidhash_v3(&address.octets()),
                IpAddr::V6(address) => rapidhash_v3(&address.octets()),
            }),
            Self::Path => Some(rapidhash_v3(subject.path.as_bytes())),
        }
    }
}

fn cookie<'a>(subject: &Subject<'a>, name: &str) -> Option<&'a str> {
    let pairs = subject.headers.get_all(COOKIE).into_iter().filter_map(|value| value.to_str().ok());
    pairs
        .flat_map(|pairs| pairs.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .find_map(|(key, value)| (key == name).then_some(value))
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue, Method};

    use super::*;

    #[test]
    fn each_part_is_found_and_hashed_alike_wherever_it_stands() {
        let key = |on: &HashOn, target: &str, headers: &[(&'static str, &'static str)]| {
            let mut map = HeaderMap::new();
            for (name, value) in headers {
                map.append(*name, HeaderValue::from_static(value));
            }
            let (path, query) = target.split_once('?').unwrap_or((target, ""));
            let subject = Subject { host: "x", path, query, method: &Method::GET, headers: &map };
            on.key(&subject, "::ffff:10.0.0.1".parse().unwrap())
        };
        let user = HashOn::Header(HeaderName::from_static("x-user"));
        assert_eq!(key(&user, "/", &[("x-user", "a")]), key(&user, "/b", &[("x-user", "a"), ("y", "1")]));
        assert_ne!(key(&user, "/", &[("x-user", "a")]), key(&user, "/", &[("x-user", "b")]));
        assert_eq!(key(&user, "/", &[]), None);
        let session = HashOn::Cookie("s".into());
        assert_eq!(
            key(&session, "/", &[("cookie", "a=1; s=x")]),
            key(&session, "/", &[("cookie", "ss=2"), ("cookie", "s=x")])
        );
        assert!(
            key(&session, "/", &[("cookie", "s=x")]).is_some() && key(&session, "/", &[("cookie", "S=x")]).is_none()
        );
        let query = HashOn::Query("q".into());
        assert_eq!(key(&query, "/?q=%61", &[]), key(&query, "/?b=1&q=a", &[]));
        assert_eq!(key(&HashOn::Path, "/a?b", &[]), key(&HashOn::Path, "/a", &[]));
        assert!(key(&HashOn::SourceIp, "/", &[]).is_some());
    }
}
