//! Who may talk to admin: programs of this machine and our own page, not a web page of somebody else's in a browser that
//! runs here (DNS rebinding, cross-site requests).

use std::net::IpAddr;

use http::request::Parts;
use http::uri::Authority;
use http::{HeaderMap, HeaderName, Method, Version, header};

/// Why a request is not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Foreign {
    /// RFC 9112 §3.2: none, several or a malformed one is a bad request.
    #[error("A request names exactly one Host.")]
    BadHost,
    #[error("This Host is not allowed here; use localhost or the address that admin listens on.")]
    Host,
    #[error("Pages of another origin may not use admin; open its own page, or use a client that sends no Origin.")]
    Origin,
    #[error("Requests of another site may not reach admin; open its address directly.")]
    Site,
}

/// Lets a request pass if no page of another site can have made it. `bound` is the address that admin listens on.
pub(super) fn check(head: &Parts, bound: IpAddr) -> Result<(), Foreign> {
    let host = host(head)?;
    let target = head.uri.authority();
    // A rebound name is what gives it away: an address in Host was typed, or is the one that was asked for.
    if !host.iter().chain(target).all(|authority| is_ours(authority, bound)) {
        return Err(Foreign::Host);
    }
    let own = target.or(host.as_ref());
    check_origin(&head.headers, own)?;
    check_site(head)
}

/// The one Host; `None` only where HTTP/1.0 left it out.
fn host(head: &Parts) -> Result<Option<Authority>, Foreign> {
    let mut hosts = head.headers.get_all(header::HOST).iter();
    match (hosts.next(), hosts.next()) {
        (None, _) if head.version < Version::HTTP_11 => Ok(None),
        (Some(host), None) => Authority::try_from(host.as_bytes()).map(Some).map_err(|_| Foreign::BadHost),
        (None | Some(_), _) => Err(Foreign::BadHost),
    }
}

fn is_ours(authority: &Authority, bound: IpAddr) -> bool {
    if authority.as_str().contains('@') {
        return false;
    }
    let host = authority.host();
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    match bare.parse::<IpAddr>() {
        // Bound beyond loopback on purpose: any of the machine's addresses may lead here.
        Ok(address) => address.to_canonical().is_loopback() || !bound.to_canonical().is_loopback(),
        Err(_) => host.eq_ignore_ascii_case("localhost"),
    }
}

/// RFC 6454 §7: browsers name the page's origin in requests that may change something, and in those that ask for CORS.
fn check_origin(headers: &HeaderMap, own: Option<&Authority>) -> Result<(), Foreign> {
    let ours = |origin: &[u8]| {
        let authority = origin.strip_prefix(b"http://".as_slice());
        own.zip(authority).is_some_and(|(own, theirs)| own.as_str().as_bytes().eq_ignore_ascii_case(theirs))
    };
    if headers.get_all(header::ORIGIN).iter().all(|origin| ours(origin.as_bytes())) {
        Ok(())
    } else {
        Err(Foreign::Origin)
    }
}

/// Fetch Metadata: where a browser says that another site made the request. `same-site` spans ports, so it may look but not
/// touch.
fn check_site(head: &Parts) -> Result<(), Foreign> {
    let may_pass = |site: &[u8]| match site {
        b"same-origin" | b"none" => true,
        b"same-site" => matches!(head.method, Method::GET | Method::HEAD),
        _ => false,
    };
    let sites = head.headers.get_all(SEC_FETCH_SITE);
    if sites.iter().all(|site| may_pass(site.as_bytes())) { Ok(()) } else { Err(Foreign::Site) }
}

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    const LOOPBACK: &str = "127.0.0.1";

    fn ask(bound: &str, method: Method, headers: &[(&str, &str)]) -> Result<(), Foreign> {
        let mut request = Request::builder().method(method).uri("/quit");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        check(&request.body(()).unwrap().into_parts().0, bound.parse().unwrap())
    }

    #[test]
    fn a_loopback_listener_is_known_by_loopback_names_only() {
        for host in ["localhost", "LOCALHOST:19000", "127.0.0.1", "127.0.0.9:1", "[::1]:19000", "[::ffff:127.0.0.1]"] {
            assert_eq!(ask(LOOPBACK, Method::GET, &[("host", host)]), Ok(()), "{host}");
        }
        for host in [
            "evil.example",
            "evil.example:19000",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "10.0.0.7:19000",
            "0.0.0.0:19000",
            "[::]:19000",
            "localhost@evil.example",
            "evil.example@localhost",
            "2130706433",
            "web",
        ] {
            assert_eq!(ask(LOOPBACK, Method::GET, &[("host", host)]), Err(Foreign::Host), "{host}");
        }
    }

    #[test]
    fn a_listener_beyond_loopback_is_known_by_any_address_but_by_no_name() {
        for bound in ["0.0.0.0", "::", "10.0.0.7"] {
            for host in ["10.0.0.7:19000", "[2001:db8::1]:19000", "127.0.0.1:19000", "localhost"] {
                assert_eq!(ask(bound, Method::GET, &[("host", host)]), Ok(()), "{bound} {host}");
            }
            assert_eq!(ask(bound, Method::GET, &[("host", "evil.example")]), Err(Foreign::Host));
        }
    }

    #[test]
    fn a_request_has_exactly_one_host() {
        for hosts in [vec![], vec![("host", "localhost"), ("host", "evil.example")], vec![("host", "a b")]] {
            assert_eq!(ask(LOOPBACK, Method::GET, &hosts), Err(Foreign::BadHost), "{hosts:?}");
        }
        let request = Request::builder().version(Version::HTTP_10).body(()).unwrap();
        assert_eq!(check(&request.into_parts().0, LOOPBACK.parse().unwrap()), Ok(()), "HTTP/1.0 needs none");
    }

    #[test]
    fn the_target_of_an_absolute_form_is_judged_like_host() {
        let request = Request::builder().uri("http://evil.example/quit").header("host", "localhost");
        let head = request.body(()).unwrap().into_parts().0;
        assert_eq!(check(&head, LOOPBACK.parse().unwrap()), Err(Foreign::Host));
    }

    #[test]
    fn only_our_own_origin_may_be_named() {
        let with = |origin| ask(LOOPBACK, Method::POST, &[("host", "localhost:19000"), ("origin", origin)]);
        assert_eq!(with("http://localhost:19000"), Ok(()));
        for origin in ["http://evil.example", "http://localhost:3000", "https://localhost:19000", "null", ""] {
            assert_eq!(with(origin), Err(Foreign::Origin), "{origin:?}");
        }
        let two = [("host", "localhost"), ("origin", "http://localhost"), ("origin", "http://evil.example")];
        assert_eq!(ask(LOOPBACK, Method::GET, &two), Err(Foreign::Origin));
    }

    #[test]
    fn another_site_may_not_ask_and_another_port_may_not_command() {
        let with = |method, site| ask(LOOPBACK, method, &[("host", "localhost"), ("sec-fetch-site", site)]);
        for site in ["same-origin", "none"] {
            assert_eq!(with(Method::POST, site), Ok(()), "{site}");
        }
        assert_eq!(with(Method::GET, "cross-site"), Err(Foreign::Site));
        assert_eq!(with(Method::GET, "same-site"), Ok(()));
        assert_eq!(with(Method::POST, "same-site"), Err(Foreign::Site));
    }
}
