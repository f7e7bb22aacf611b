//! What must hold of any request head and any path, for fuzzing.

use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, Method, Request, Uri, Version};
use percent_encoding::percent_decode_str;

use super::{headers, outbound, passage};
use crate::clock;
use crate::route;
use crate::telemetry::trace::{self, TraceContext, X_REQUEST_ID};

/// A head, a line each field, as a parser that leaves us everything it may would hand it over. What passes the checks is
/// unambiguous; what ends at this hop is gone however it is spelled; and once more of the same changes nothing.
pub fn head(data: &[u8]) {
    let Some(request) = request(data) else { return };
    let checked = headers::check(&request, false).is_ok();
    let (head, ()) = request.into_parts();
    let map = &head.headers;
    if checked {
        assert_ne!(head.method, Method::CONNECT);
        let path = head.uri.path();
        assert!(path.starts_with('/') || path == "*", "{path:?}");
        assert!(!route::is_ambiguous(path), "{path:?}");
        if head.version < Version::HTTP_2 {
            assert!(map.get_all(header::HOST).iter().count() <= 1, "two Hosts");
            let (te, cl) = (map.contains_key(header::TRANSFER_ENCODING), map.contains_key(header::CONTENT_LENGTH));
            assert!(!te || !(cl || head.version == Version::HTTP_10), "framing");
        }
        let target = outbound::origin_form(head.uri.clone()).expect("a target that was checked");
        assert!(target.authority().is_none() && target.scheme().is_none());
    }
    let host = headers::host_of(&head);
    assert!(host.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ' || byte == b'\t'), "{host:?}");

    let mut stripped = map.clone();
    headers::strip_request(&mut stripped);
    for name in ENDS_HERE {
        assert!(!stripped.contains_key(name), "{name}");
    }
    for named in map.get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok()) {
        for name in named.split(',').filter_map(|name| name.trim().parse::<HeaderName>().ok()) {
            let frames = [header::CONTENT_LENGTH, header::HOST, header::TE].contains(&name);
            assert!(frames || !stripped.contains_key(&name), "Connection names {name}");
        }
    }
    assert!(stripped.get_all(header::TE).iter().all(|value| value == "trailers"));
    unchanged(&stripped, headers::strip_request);

    headers::strip_look_alikes(&mut stripped);
    unchanged(&stripped, headers::strip_look_alikes);
    headers::strip_claims(&mut stripped);
    unchanged(&stripped, headers::strip_claims);
    for name in stripped.keys() {
        let name = name.as_str().replace('_', "-");
        assert!(!CLAIMS.iter().any(|claim| name.starts_with(claim)) && !SOLE.contains(&&*name), "{name} stays");
    }

    let id = headers::identify(&mut stripped, clock::now()).request_id;
    assert_eq!(trace::sane_request_id(&stripped), Some(&id));
    assert_eq!(stripped.get_all(X_REQUEST_ID).iter().count(), 1);
    assert!(TraceContext::parse(&stripped).is_some(), "a trace of our own making");

    headers::join_cookies(&mut stripped);
    assert!(stripped.get_all(header::COOKIE).iter().count() <= 1);
    let mut trailers = map.clone();
    headers::strip_trailers(&mut trailers);
    unchanged(&trailers, headers::strip_trailers);
    assert!(!trailers.contains_key(header::CONTENT_LENGTH) && !trailers.contains_key(header::TRANSFER_ENCODING));

    let earlier: Vec<&[u8]> = map.get_all(&headers::XFF).iter().map(HeaderValue::as_bytes).collect();
    let mut told = map.clone();
    headers::append(&mut told, &headers::XFF, &HeaderValue::from_static("192.0.2.1"));
    let list: Vec<&HeaderValue> = told.get_all(&headers::XFF).iter().collect();
    let wanted = [earlier, vec![b"192.0.2.1"]].concat().join(&b", "[..]);
    assert!(list.len() == 1 && list[0].as_bytes() == wanted, "{list:?}");
}

fn request(data: &[u8]) -> Option<Request<()>> {
    let mut lines = data.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let mut words = lines.next()?.splitn(3, |byte| *byte == b' ');
    let (method, target, version) = (words.next()?, words.next()?, words.next()?);
    let mut request = Request::new(());
    *request.method_mut() = Method::from_bytes(method).ok()?;
    *request.uri_mut() = Uri::try_from(target).ok()?;
    *request.version_mut() = match version {
        b"HTTP/1.0" => Version::HTTP_10,
        b"HTTP/2.0" => Version::HTTP_2,
        _ => Version::HTTP_11,
    };
    for line in lines {
        let mut parts = line.splitn(2, |byte| *byte == b':');
        let (Some(name), Some(value)) = (parts.next(), parts.next()) else { continue };
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value.trim_ascii())) {
            request.headers_mut().append(name, value);
        }
    }
    Some(request)
}

#[track_caller]
fn unchanged(map: &HeaderMap, again: impl Fn(&mut HeaderMap)) {
    let mut twice = map.clone();
    again(&mut twice);
    assert_eq!(&twice, map, "another round changes something");
}

/// A request target. Its path has one spelling, in which nothing is left to resolve, and which names what an app that
/// resolves the client's own spelling would serve; what policy judges is what is sent.
pub fn path(data: &[u8]) {
    let Ok(uri) = Uri::try_from(data) else { return };
    if !uri.path().starts_with('/') {
        return;
    }
    let (mut head, ()) = Request::builder().uri(uri.clone()).body(()).expect("a request").into_parts();
    passage::normalise(&mut head).expect("a path in its normal form is a path");
    let normal = head.uri.path();
    assert_eq!(normal, route::normalised(uri.path()).as_deref().unwrap_or(uri.path()), "as policy reads it");
    assert_eq!(route::normalised(normal), None, "{normal:?} has another form");
    assert!(normal.starts_with('/') && !normal.contains("//"), "{normal:?}");
    assert_eq!(head.uri.query(), uri.query());
    assert_eq!((head.uri.authority(), head.uri.scheme()), (uri.authority(), uri.scheme()));
    assert_eq!(resolved(normal), resolved(uri.path()), "{:?} became {normal:?}", uri.path());
    assert!(normal.split('/').all(|segment| !is_dots(segment)), "{normal:?}");
    if let Some(widest) = route::widest(normal) {
        assert!(widest.starts_with('/') && !widest.contains(';') && !widest.contains("%2F"), "{widest:?}");
        if !route::is_ambiguous(uri.path()) {
            assert_eq!(route::normalised(&widest), None, "{widest:?} has another form");
        }
    }
    let sent = outbound::origin_form(head.uri.clone()).expect("what policy saw can be sent");
    assert_eq!((sent.path(), sent.query()), (normal, uri.query()), "the app sees another path than policy");
}

fn is_dots(segment: &str) -> bool {
    let decoded: Vec<u8> = percent_decode_str(segment).collect();
    decoded == b"." || decoded == b".."
}

/// What an app makes of a path that splits it, decodes each segment and resolves them.
fn resolved(path: &str) -> Vec<Vec<u8>> {
    let mut segments: Vec<Vec<u8>> = Vec::new();
    for segment in path.split('/') {
        let decoded: Vec<u8> = percent_decode_str(segment).collect();
        match &decoded[..] {
            b"" | b"." => {}
            b".." => drop(segments.pop()),
            _ => segments.push(decoded),
        }
    }
    segments
}

const ENDS_HERE: [&str; 8] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "transfer-encoding",
    "upgrade",
    "http2-settings",
    "expect",
    "proxy-authorization",
];
const CLAIMS: [&str; 4] = ["x-forwarded", "x-consumer-", "x-authenticated-", "x-credential-"];
const SOLE: [&str; 3] = ["forwarded", "x-real-ip", "x-anonymous-consumer"];
