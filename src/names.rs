//! Names that travel through the whole program. Parsing is the only way to make one.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// A Consul service name, which is also the last part of its SPIFFE id.
///
/// Lower case only: Consul compares names without case but signs them with it, so a second spelling would be a second
/// identity. Letters, digits, `-`, `_` and `.`, at most 128 bytes, beginning and ending with a letter or digit.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceName(Arc<str>);

impl ServiceName {
    /// # Errors
    /// Says which rule the text breaks.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        if text.len() > 128 {
            return Err(NameError::TooLong { max: 128 });
        }
        if let Some(found) = text.chars().find(|c| !matches!(c, 'a'..='z' | '0'..='9' | '-' | '_' | '.')) {
            return Err(NameError::Character { found });
        }
        let edge = |c: Option<u8>| c.is_some_and(|c| c.is_ascii_alphanumeric());
        if !edge(text.bytes().next()) || !edge(text.bytes().next_back()) {
            return Err(NameError::Edge);
        }
        Ok(Self(text.into()))
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Lets maps keyed by `ServiceName` be asked with a `&str` from a request.
impl std::borrow::Borrow<str> for ServiceName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl FromStr for ServiceName {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        Self::parse(text)
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a text is no name. The message is what a user reads behind `FILE:LINE:COL: key:`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("the name is empty")]
    Empty,
    #[error("the name is longer than {max} bytes")]
    TooLong { max: usize },
    #[error("{found:?} is not allowed in a name; use lower-case letters, digits, `-`, `_` and `.`")]
    Character { found: char },
    #[error("a name begins and ends with a letter or digit")]
    Edge,
}

/// A service's SPIFFE id as Consul signs it: `spiffe://TRUST-DOMAIN/ns/NS/dc/DC/svc/NAME`, and with an admin partition
/// `spiffe://TRUST-DOMAIN/ap/AP/ns/NS/dc/DC/svc/NAME`.
///
/// Compared whole, byte by byte: no percent-decoding, no case folding (the trust domain must arrive in lower case), no
/// prefix match. Source: SPIFFE-ID specification §2; Consul `agent/connect/uri_service.go`.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct SpiffeId {
    uri: Arc<str>,
    trust_domain: (u32, u32),
    partition: Option<(u32, u32)>,
    namespace: (u32, u32),
    datacenter: (u32, u32),
    service: ServiceName,
}

impl SpiffeId {
    /// The id of `service` in Consul's open-source naming (no partition).
    ///
    /// # Errors
    /// When a part is empty or holds a character that a SPIFFE id may not have.
    pub fn new(
        trust_domain: &str,
        namespace: &str,
        datacenter: &str,
        service: &ServiceName,
    ) -> Result<Self, SpiffeError> {
        Self::parse(&format!("spiffe://{trust_domain}/ns/{namespace}/dc/{datacenter}/svc/{service}"))
    }

    /// # Errors
    /// When the text is not exactly one of the two forms above.
    pub fn parse(uri: &str) -> Result<Self, SpiffeError> {
        if uri.len() > 2048 {
            return Err(SpiffeError::Form);
        }
        let rest = uri.strip_prefix("spiffe://").ok_or(SpiffeError::Scheme)?;
        let mut parts = rest.split('/');
        let trust = parts.next().unwrap_or_default();
        let trust_ok = |c: u8| matches!(c, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.');
        if trust.is_empty() || !trust.bytes().all(trust_ok) {
            return Err(SpiffeError::TrustDomain);
        }
        let path: Vec<&str> = parts.collect();
        let (partition, namespace, datacenter, service) = match path.as_slice() {
            ["ns", ns, "dc", dc, "svc", svc] => (None, *ns, *dc, *svc),
            ["ap", ap, "ns", ns, "dc", dc, "svc", svc] => (Some(*ap), *ns, *dc, *svc),
            _ => return Err(SpiffeError::Form),
        };
        // SPIFFE-ID §2.2: letters, digits, `-`, `_`, `.`; never `.` or `..`; percent-encoding is not allowed.
        let segment_ok = |s: &str| {
            !s.is_empty()
                && s != "."
                && s != ".."
                && s.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.'))
        };
        if !segment_ok(namespace) || !segment_ok(datacenter) || !partition.is_none_or(segment_ok) {
            return Err(SpiffeError::Form);
        }
        let service = ServiceName::parse(service).map_err(SpiffeError::Service)?;
        let span = |part: &str| {
            let start = part.as_ptr() as usize - uri.as_ptr() as usize;
            (u32::try_from(start).unwrap_or(0), u32::try_from(start + part.len()).unwrap_or(0))
        };
        Ok(Self {
            trust_domain: span(trust),
            partition: partition.map(span),
            namespace: span(namespace),
            datacenter: span(datacenter),
            service,
            uri: uri.into(),
        })
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.uri
    }

    #[must_use]
    pub fn trust_domain(&self) -> &str {
        self.part(self.trust_domain)
    }

    #[must_use]
    pub fn partition(&self) -> Option<&str> {
        self.partition.map(|span| self.part(span))
    }

    #[must_use]
    pub fn namespace(&self) -> &str {
        self.part(self.namespace)
    }

    #[must_use]
    pub fn datacenter(&self) -> &str {
        self.part(self.datacenter)
    }

    #[must_use]
    pub fn service(&self) -> &ServiceName {
        &self.service
    }

    fn part(&self, (start, end): (u32, u32)) -> &str {
        &self.uri[start as usize..end as usize]
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.uri)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.uri)
    }
}

/// Why a URI is no service's SPIFFE id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpiffeError {
    #[error("the URI does not begin with spiffe://")]
    Scheme,
    #[error("the trust domain is empty or not lower-case letters, digits, `-`, `_`, `.`")]
    TrustDomain,
    #[error("the path is not /ns/NS/dc/DC/svc/NAME")]
    Form,
    #[error("the service part: {0}")]
    Service(NameError),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn service_names_are_parsed_strictly() {
        for good in ["a", "users", "users-v2", "a.b_c", "9lives"] {
            assert_eq!(ServiceName::parse(good).unwrap().as_str(), good);
        }
        for bad in ["", "Users", "-a", "a-", "a b", "a/b", "é", "a\n", &"x".repeat(129)] {
            assert!(ServiceName::parse(bad).is_err(), "{bad:?} must be refused");
        }
    }

    #[test]
    fn spiffe_ids_give_their_parts() {
        let id = SpiffeId::parse("spiffe://12fb.consul/ns/default/dc/dc1/svc/web").unwrap();
        assert_eq!((id.trust_domain(), id.namespace(), id.datacenter()), ("12fb.consul", "default", "dc1"));
        assert_eq!((id.service().as_str(), id.partition()), ("web", None));
        let id = SpiffeId::parse("spiffe://t/ap/p1/ns/n/dc/d/svc/s").unwrap();
        assert_eq!(id.partition(), Some("p1"));
        assert_eq!(
            SpiffeId::new("t", "default", "dc1", id.service()).unwrap().as_str(),
            "spiffe://t/ns/default/dc/dc1/svc/s"
        );
    }

    #[test]
    fn look_alikes_of_spiffe_ids_are_refused() {
        let good = "spiffe://t.consul/ns/default/dc/dc1/svc/web";
        assert!(SpiffeId::parse(good).is_ok());
        for bad in [
            "",
            "spiffe://",
            "https://t.consul/ns/default/dc/dc1/svc/web",
            "SPIFFE://t.consul/ns/default/dc/dc1/svc/web",
            "spiffe://T.consul/ns/default/dc/dc1/svc/web",
            "spiffe://t.consul:8443/ns/default/dc/dc1/svc/web",
            "spiffe://u@t.consul/ns/default/dc/dc1/svc/web",
            "spiffe://t.consul/ns/default/dc/dc1/svc/web/",
            "spiffe://t.consul/ns/default/dc/dc1/svc/web?x",
            "spiffe://t.consul/ns/default/dc/dc1/svc/web#x",
            "spiffe://t.consul/ns/default/dc/dc1/svc/%77eb",
            "spiffe://t.consul/ns/default/dc/dc1/svc/web\0",
            "spiffe://t.consul/ns/../dc/dc1/svc/web",
            "spiffe://t.consul/ns//dc/dc1/svc/web",
            "spiffe://t.consul/agent/client/dc/dc1/id/n",
            "spiffe://t.consul/ns/default/dc/dc1/svc/Web",
            " spiffe://t.consul/ns/default/dc/dc1/svc/web",
        ] {
            assert!(SpiffeId::parse(bad).is_err(), "{bad:?} must be refused");
        }
    }
}
