//! Headers at a hop: what ends here, what is set here. Ours are set after stripping what Connection names, so that no
//! client can have them removed.

use std::time::Instant;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Request, Version};

use super::Refusal;
use super::exchange::Start;
use super::upgrade::Wish;
use crate::clock;
use crate::letters::alphanumeric_and;
use crate::listen::Connection;
use crate::reason::Reason;
use crate::route;
use crate::telemetry::trace::{self, TRACEPARENT, TRACESTATE, TraceContext, X_REQUEST_ID};

/// What must hold of a head before anything is done with it. hyper has parsed it; this is what it leaves to us. `connects`:
/// CONNECT is taken here.
pub(super) fn check<B>(request: &Request<B>, connects: bool) -> Result<(), Refusal> {
    let (method, version, headers) = (request.method(), request.version(), request.headers());
    let bad = |detail: &str| Err(Refusal::new(Reason::BadRequest, detail));
    if *method == http::Method::CONNECT && !connects {
        return bad("CONNECT leads only to a declared upstream with protocol: tcp, on the outbound listener");
    }
    let mut hosts = headers.get_all(header::HOST).iter();
    let host = hosts.next();
    if version < Version::HTTP_2 {
        match host {
            None if version == Version::HTTP_11 => return bad("HTTP/1.1 without Host"),
            Some(host) if !is_host(host.as_bytes()) => return bad("Host is no host"),
            _ => {}
        }
        let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
        if let Some(coding) = codings.next() {
            // RFC 9112 §6.1: both at once is how requests are smuggled. Where the length comes second hyper has dropped it,
            // and closes the connection after this request.
            if headers.contains_key(header::CONTENT_LENGTH) {
                return bad("both Content-Length and Transfer-Encoding");
            }
            // RFC 9112 §6.1: HTTP/1.0 has no transfer codings.
            if version == Version::HTTP_10 {
                return bad("Transfer-Encoding in HTTP/1.0");
            }
            // Only chunks are taken off here; the name of another coding would end here, too, and the coding go on.
            if codings.next().is_some() || !coding.as_bytes().eq_ignore_ascii_case(b"chunked") {
                return bad("a Transfer-Encoding other than chunked");
            }
        }
    }
    // RFC 9113 §8.3.1: at most one Host.
    if hosts.next().is_some() {
        return bad("more than one Host");
    }
    if request.uri().authority().is_some_and(|authority| !is_host(authority.as_str().as_bytes())) {
        return bad("the target's authority is no host");
    }
    if route::is_ambiguous(request.uri().path()) {
        return bad("a path that recipients read in several ways: a backslash, %00, or a dot segment in disguise");
    }
    match request.uri().path_and_query() {
        Some(path) if path.as_str().starts_with('/') => Ok(()),
        // `OPTIONS *` (RFC 9110 §9.3.7) has no meaning for one service behind many names.
        _ if *method == http::Method::OPTIONS && request.uri().path() == "*" => Ok(()),
        // RFC 9112 §3.2.2: `http://orders` has an empty path, which is `/`. An authority alone is for CONNECT.
        None if request.uri().scheme().is_some() || *method == http::Method::CONNECT => Ok(()),
        _ => bad("the path does not begin with /"),
    }
}

/// RFC 9113 §8.2.3: HTTP/2 may send the pairs of a Cookie as fields of their own; HTTP/1.1, and apps, know one.
pub(super) fn join_cookies(headers: &mut HeaderMap) {
    let mut cookies = headers.get_all(header::COOKIE).iter();
    if cookies.next().is_none() || cookies.next().is_none() {
        return;
    }
    let pairs: Vec<&[u8]> = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if let Ok(joined) = HeaderValue::from_maybe_shared(bytes::Bytes::from(pairs.join(&b"; "[..]))) {
        headers.insert(header::COOKIE, joined);
    }
}

/// Holds a request of HTTP/2 to the number of header fields that a head of HTTP/1.1 was held to when it was parsed.
pub(super) fn count(headers: &HeaderMap, connection: &Connection) -> Result<(), Refusal> {
    if headers.len() <= connection.most_headers() {
        return Ok(());
    }
    Err(Refusal::new(Reason::HeadTooLarge, format!("{} header fields", headers.len())))
}

/// The wish of a request to leave HTTP, if its head holds. Extended CONNECT is taken everywhere, the plain one where
/// `connects` says so.
pub(super) fn granted<B>(
    wish: Result<Option<Wish>, Refusal>,
    request: &Request<B>,
    connects: bool,
) -> Result<Option<Wish>, Refusal> {
    let wish = wish?;
    let takes = wish.as_ref().is_some_and(|wish| connects || !wish.is_connect());
    check(request, takes).map(|()| wish)
}

/// A host and a port by their letters (RFC 3986 §3.2.2), without a user, which HTTP no longer has (RFC 9110 §4.2.4).
fn is_host(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| HOST_BYTES[usize::from(*byte)])
}

static HOST_BYTES: [bool; 256] = alphanumeric_and(b"-._~:[]%!$&'()*+,;=");

/// Where the target names the authority, Host has no say (RFC 9112 §3.2.2, 9113 §8.3.1): nothing may judge by it.
pub(super) fn drop_second_host(head: &mut http::request::Parts) {
    if head.uri.authority().is_some() {
        head.headers.remove(header::HOST);
    }
}

/// Removes what is meant for this hop alone (RFC 9110 §7.6.1): Connection, all that it names, and the older ones.
pub(super) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    // Most messages have none of these: one look over their names costs less than a look-up for each.
    if !headers.keys().any(|name| is_hop_by_hop(name.as_str())) {
        return;
    }
    if headers.contains_key(header::CONNECTION) {
        let named: Vec<HeaderName> = headers
            .get_all(header::CONNECTION)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .filter_map(|name| name.trim().parse().ok())
            // These frame or address the message itself; a peer that names them does not get them removed.
            .filter(|name| ![header::CONTENT_LENGTH, header::HOST, header::TE].contains(name))
            .collect();
        for name in named {
            headers.remove(name);
        }
        headers.remove(header::CONNECTION);
    }
    for name in [&KEEP_ALIVE, &PROXY_CONNECTION, &header::TRANSFER_ENCODING, &header::UPGRADE, &HTTP2_SETTINGS] {
        headers.remove(name);
    }
}

fn is_hop_by_hop(name: &str) -> bool {
    matches!(
        name,
        "connection" | "keep-alive" | "proxy-connection" | "transfer-encoding" | "upgrade" | "http2-settings"
    )
}

/// As `strip_hop_by_hop`, with what only requests have.
pub(super) fn strip_request(headers: &mut HeaderMap) {
    let ends_here = |name: &str| is_hop_by_hop(name) || matches!(name, "te" | "expect" | "proxy-authorization");
    if !headers.keys().any(|name| ends_here(name.as_str())) {
        return;
    }
    // Said before Connection's names go: whoever wants trailers lists TE there.
    let trailers = headers.contains_key(header::TE) && headers.get_all(header::TE).iter().any(wants_trailers);
    strip_hop_by_hop(headers);
    headers.remove(header::TE);
    if trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    headers.remove(header::PROXY_AUTHORIZATION);
    // This hop answers 100 by itself as soon as the body is wanted (RFC 9110 §10.1.1).
    headers.remove(header::EXPECT);
}

fn wants_trailers(value: &HeaderValue) -> bool {
    value.to_str().is_ok_and(|v| v.split(',').any(|coding| coding.trim().eq_ignore_ascii_case("trailers")))
}

/// Removes what tells of hops before ours: only believed from peers that are trusted to tell the truth.
pub(super) fn strip_forwarded(headers: &mut HeaderMap) {
    strip(headers, tells_of_hops);
}

/// As `strip_forwarded`, with what tells the app who its user is.
pub(super) fn strip_claims(headers: &mut HeaderMap) {
    strip(headers, |name| tells_of_hops(name) || tells_of_user(name));
}

/// Removes other spellings of such names, `x_forwarded_for`: an app behind CGI, WSGI or PHP reads both as one. No proxy
/// writes them, so nobody is trusted with them.
pub(super) fn strip_look_alikes(headers: &mut HeaderMap) {
    strip(headers, |name| name.contains('_') && (tells_of_hops(name) || tells_of_user(name)));
}

/// What may not come after a body: nothing has judged it, and many apps read trailers as headers.
pub(super) fn strip_trailers(trailers: &mut HeaderMap) {
    strip(trailers, |name| {
        let framing = is_hop_by_hop(name) || matches!(name, "host" | "te" | "trailer" | "expect" | "max-forwards");
        let credential = matches!(name, "authorization" | "cookie" | "set-cookie") || begins(name, "proxy-");
        let ours = begins(name, "x-outrigger-") || matches!(name, "x-request-id" | "traceparent" | "tracestate");
        framing || credential || ours || begins(name, "content-") || tells_of_hops(name) || tells_of_user(name)
    });
}

fn strip(headers: &mut HeaderMap, unwanted: impl Fn(&str) -> bool) {
    // Most messages have none of these: one look over their names costs less than a look-up for each.
    if headers.keys().any(|name| unwanted(name.as_str())) {
        let names: Vec<_> = headers.keys().filter(|name| unwanted(name.as_str())).cloned().collect();
        for name in names {
            headers.remove(name);
        }
    }
}

/// All of `X-Forwarded-…`, XFCC included, and its kin.
fn tells_of_hops(name: &str) -> bool {
    match name.as_bytes().first() {
        Some(b'x') => begins(name, "x-forwarded") || same(name, "x-real-ip"),
        Some(b'f') => name == "forwarded",
        _ => false,
    }
}

/// What Kong's plugins, and ours, set for the app.
fn tells_of_user(name: &str) -> bool {
    name.starts_with('x')
        && (["x-consumer-", "x-authenticated-", "x-credential-"].iter().any(|prefix| begins(name, prefix))
            || same(name, "x-anonymous-consumer"))
}

fn begins(name: &str, prefix: &str) -> bool {
    name.len() >= prefix.len() && same(&name[..prefix.len()], prefix)
}

/// `_` counts as `-`.
fn same(name: &str, dashed: &str) -> bool {
    name.len() == dashed.len() && name.bytes().zip(dashed.bytes()).all(|(a, b)| a == b || (a == b'_' && b == b'-'))
}

pub(super) const XFF: HeaderName = HeaderName::from_static("x-forwarded-for");
pub(super) const XFP: HeaderName = HeaderName::from_static("x-forwarded-proto");
pub(super) const XFH: HeaderName = HeaderName::from_static("x-forwarded-host");
pub(super) const XFCC: HeaderName = HeaderName::from_static("x-forwarded-client-cert");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

/// A header's number of seconds; `None` for any other form.
pub(super) fn seconds(value: &HeaderValue) -> Option<std::time::Duration> {
    let text = value.to_str().ok()?.trim();
    let digits = !text.is_empty() && text.len() <= 9 && text.bytes().all(|c| c.is_ascii_digit());
    digits.then(|| text.parse().ok().map(std::time::Duration::from_secs)).flatten()
}

/// Adds `value` to a list header, keeping what earlier hops wrote.
pub(super) fn append(headers: &mut HeaderMap, name: &HeaderName, value: &HeaderValue) {
    if !headers.contains_key(name) {
        headers.insert(name.clone(), value.clone());
        return;
    }
    let mut list = Vec::new();
    for earlier in headers.get_all(name) {
        list.extend_from_slice(earlier.as_bytes());
        list.extend_from_slice(b", ");
    }
    list.extend_from_slice(value.as_bytes());
    if let Ok(joined) = HeaderValue::from_maybe_shared(bytes::Bytes::from(list)) {
        headers.insert(name.clone(), joined);
    }
}

/// The start of an exchange at `at`, under its caller's ids where they are sane, else under new ones. The headers are set for
/// the next hop.
pub(super) fn identify(headers: &mut HeaderMap, at: Instant) -> Start {
    let request_id = if let Some(id) = trace::sane_request_id(headers) {
        id.clone()
    } else {
        let id = trace::new_request_id(clock::wall(at));
        headers.insert(X_REQUEST_ID, id.clone());
        id
    };
    let trace = if let Some(trace) = TraceContext::parse(headers) {
        trace
    } else {
        headers.remove(TRACESTATE);
        TraceContext::new()
    };
    headers.insert(TRACEPARENT, trace.to_header());
    Start { at, request_id, trace }
}

/// Host of a request, wherever it stands: the target's authority wins over the header (RFC 9112 §3.2.2, 9113 §8.3.1).
pub(super) fn host_of(head: &http::request::Parts) -> &str {
    match head.uri.authority() {
        Some(authority) => authority.as_str(),
        None => head.headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_are_stripped_in_every_spelling() {
        let claims = [
            "x-forwarded-for",
            "x-forwarded-proto",
            "x-forwarded-host",
            "x-forwarded-port",
            "x-forwarded-prefix",
            "x-forwarded",
            "x-forwarded-client-cert",
            "forwarded",
            "x-real-ip",
            "x-consumer-id",
            "x-consumer-username",
            "x-consumer-custom-id",
            "x-consumer-groups",
            "x-authenticated-groups",
            "x-authenticated-userid",
            "x-credential-identifier",
            "x-anonymous-consumer",
        ];
        for name in claims {
            for spelling in [name.to_owned(), name.replace('-', "_"), name.replacen('-', "_", 1)] {
                let field = HeaderName::from_bytes(spelling.as_bytes()).unwrap();
                let of = || HeaderMap::from_iter([(field.clone(), HeaderValue::from_static("1"))]);
                let (mut all, mut alike) = (of(), of());
                strip_claims(&mut all);
                strip_look_alikes(&mut alike);
                assert!(all.is_empty(), "{spelling}");
                assert_eq!(alike.is_empty(), spelling.contains('_'), "{spelling}");
            }
        }
        let mut kept = HeaderMap::new();
        for name in ["x-forward", "x-real-ip-2", "x-consumer", "forwarded-by", "authorization", "x_request", "é"] {
            if let Ok(name) = HeaderName::from_bytes(name.as_bytes()) {
                kept.insert(name, HeaderValue::from_static("1"));
            }
        }
        let before = kept.clone();
        strip_claims(&mut kept);
        strip_look_alikes(&mut kept);
        assert_eq!(kept, before);
        let mut outbound = map(&[("x-consumer-id", "7"), ("x-forwarded-for", "1.1.1.1")]);
        strip_forwarded(&mut outbound);
        assert_eq!(outbound, map(&[("x-consumer-id", "7")]));
    }

    fn map(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn trailers_tell_of_nobody() {
        let kept = map(&[("x-checksum", "1"), ("etag", "1"), ("grpc-status", "0"), ("server-timing", "a")]);
        let mut trailers = kept.clone();
        for name in
            ["x-forwarded-for", "x_consumer_id", "authorization", "content-length", "host", "x-outrigger-attempt"]
        {
            trailers.insert(HeaderName::from_static(name), HeaderValue::from_static("1"));
        }
        strip_trailers(&mut trailers);
        assert_eq!(trailers, kept);
    }

    #[test]
    fn what_connection_names_ends_here_and_framing_stays() {
        let mut headers = map(&[
            ("connection", "close, X-Secret, content-length"),
            ("connection", "x-other"),
            ("x-secret", "1"),
            ("x-other", "1"),
            ("x-kept", "1"),
            ("content-length", "5"),
            ("keep-alive", "timeout=5"),
            ("upgrade", "h2c"),
            ("http2-settings", "AAMAAABk"),
        ]);
        strip_hop_by_hop(&mut headers);
        assert_eq!(headers, map(&[("x-kept", "1"), ("content-length", "5")]));
    }

    #[test]
    fn te_survives_only_as_trailers() {
        let mut headers = map(&[("te", "gzip, Trailers"), ("connection", "TE")]);
        strip_request(&mut headers);
        assert_eq!(headers, map(&[("te", "trailers")]));
        let mut headers = map(&[("te", "gzip")]);
        strip_request(&mut headers);
        assert!(headers.is_empty());
    }

    #[test]
    fn lists_grow_at_the_end() {
        let mut headers = map(&[("x-forwarded-for", "1.1.1.1"), ("x-forwarded-for", "2.2.2.2")]);
        append(&mut headers, &XFF, &HeaderValue::from_static("3.3.3.3"));
        assert_eq!(headers, map(&[("x-forwarded-for", "1.1.1.1, 2.2.2.2, 3.3.3.3")]));
    }

    #[test]
    fn a_broken_trace_takes_its_state_with_it() {
        let mut headers = map(&[("traceparent", "nonsense"), ("tracestate", "a=1"), ("x-request-id", "bad id")]);
        let id = identify(&mut headers, Instant::now()).request_id;
        assert!(!headers.contains_key("tracestate"));
        assert_eq!(headers["x-request-id"], id);
        assert_eq!(headers.get_all("x-request-id").iter().count(), 1);
        assert!(headers["traceparent"].to_str().unwrap().starts_with("00-"));
    }

    #[test]
    fn ambiguous_heads_are_refused() {
        let request = |build: http::request::Builder| build.body(()).unwrap();
        for good in ["/", "/a%2Fb;c/.d", "/a/../b//c", "http://[::1]:80/a"] {
            assert!(check(&request(Request::builder().uri(good).header("host", "a")), false).is_ok(), "{good}");
        }
        let ask = |host: &str| request(Request::builder().uri("/").header("host", host));
        for host in ["a@b", "a b", "a/b", "a\\b", "\"a\"", "a#b", "a?b", "<a>", "\u{e9}"] {
            assert!(check(&ask(host), false).is_err(), "{host}");
        }
        for host in ["", "a", "a:80", "[::1]:80", "a_b.c", "a%20"] {
            assert!(check(&ask(host), false).is_ok(), "{host}");
        }
        for coding in ["gzip, chunked", "cow", "chunked;a", ""] {
            let coded = Request::builder().uri("/").header("host", "a").header("transfer-encoding", coding);
            assert!(check(&request(coded), false).is_err(), "{coding}");
        }
        for bad in [
            Request::builder().uri("/"),
            Request::builder().uri("/").header("host", "a").header("host", "b"),
            Request::builder()
                .uri("/")
                .header("host", "a")
                .header("content-length", "1")
                .header("transfer-encoding", "chunked"),
            Request::builder()
                .uri("/")
                .header("host", "a")
                .version(Version::HTTP_10)
                .header("transfer-encoding", "chunked"),
            Request::builder().uri("/..;/a").header("host", "a"),
            Request::builder().uri("http://b@a/").header("host", "a"),
            Request::builder().uri("a:1").method("CONNECT").header("host", "a"),
        ] {
            assert!(check(&request(bad), false).is_err());
        }
    }
}
