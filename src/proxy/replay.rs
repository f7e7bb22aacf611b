//! What is kept of a request to send it again: its head, and its body where that is short.

use std::cell::RefCell;
use std::sync::Arc;

use http::{Extensions, HeaderMap, HeaderName, HeaderValue, Method, Request, Uri};

use crate::route::Route;
use crate::upstream::{Recording, RequestBody};

/// A request's copy.
pub(super) struct Replay {
    method: Method,
    uri: Uri,
    headers: Fields,
    extensions: Extensions,
    /// `None`: it has no body.
    body: Option<Arc<Recording>>,
}

impl Replay {
    /// Keeps what another try would need; `None` where there can be none or the body is too long for one.
    pub(super) fn of(request: &mut Request<RequestBody>, route: &Route) -> Option<Self> {
        if route.retry.attempts == 0 {
            return None;
        }
        let body = match request.body_mut() {
            RequestBody::Empty => None,
            body => Some(body.record(route.retry.body_limit)?),
        };
        Some(Self {
            method: request.method().clone(),
            uri: request.uri().clone(),
            headers: Fields::of(request.headers()),
            extensions: request.extensions().clone(),
            body,
        })
    }

    /// Whether `request` would give one.
    pub(super) fn is_at_hand(&self) -> bool {
        self.body.as_ref().is_none_or(|body| body.is_replayable())
    }

    /// Whether all of the request has come, so that two tries may read it at once.
    pub(super) fn is_complete(&self) -> bool {
        self.body.as_ref().is_none_or(|body| body.is_complete())
    }

    /// The request for the next try; the one before may no longer read its body.
    pub(super) fn request(&self) -> Option<Request<RequestBody>> {
        let body = match &self.body {
            None => RequestBody::Empty,
            Some(recording) => RequestBody::Replayed(recording.replay()?),
        };
        Some(self.with(body))
    }

    /// The request once more, beside the try that is under way.
    pub(super) fn copy(&self) -> Option<Request<RequestBody>> {
        let body = match &self.body {
            None => RequestBody::Empty,
            Some(recording) => RequestBody::Replayed(recording.copy()?),
        };
        Some(self.with(body))
    }

    fn with(&self, body: RequestBody) -> Request<RequestBody> {
        let mut request = Request::new(body);
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = self.headers.map();
        *request.extensions_mut() = self.extensions.clone();
        request
    }
}

/// Header fields as bytes, one after the other: a clone of a map takes two allocations, and one more for each name that hyper
/// does not know; few requests are sent again.
struct Fields(Vec<u8>);

impl Fields {
    fn of(headers: &HeaderMap) -> Self {
        let mut bytes = SPARE.with_borrow_mut(Vec::pop).unwrap_or_default();
        for (name, value) in headers {
            let (name, text) = (name.as_str().as_bytes(), value.as_bytes());
            // Names have less than 64 KiB (the crate's own bound), values what memory has.
            let lengths = (text.len() as u64) << 17 | (name.len() as u64) << 1 | u64::from(value.is_sensitive());
            bytes.reserve(8 + name.len() + text.len());
            bytes.extend_from_slice(&lengths.to_ne_bytes());
            bytes.extend_from_slice(name);
            bytes.extend_from_slice(text);
        }
        Self(bytes)
    }

    fn map(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let mut left = &self.0[..];
        while let Some((lengths, rest)) = left.split_first_chunk() {
            let lengths = u64::from_ne_bytes(*lengths);
            let (name, rest) = rest.split_at((lengths >> 1 & 0xffff) as usize);
            let (text, rest) = rest.split_at((lengths >> 17) as usize);
            let name = HeaderName::from_bytes(name).expect("it was one");
            let mut text = HeaderValue::from_bytes(text).expect("it was one");
            text.set_sensitive(lengths & 1 == 1);
            headers.append(name, text);
            left = rest;
        }
        headers
    }
}

impl Drop for Fields {
    fn drop(&mut self) {
        let mut bytes = std::mem::take(&mut self.0);
        if bytes.capacity() > MOST_SPARE {
            return;
        }
        bytes.clear();
        // A thread that ends has no use for it.
        let _ = SPARE.try_with(|spare| {
            let mut spare = spare.borrow_mut();
            if spare.len() < SPARES {
                spare.push(bytes);
            }
        });
    }
}

thread_local! {
    /// Buffers that are free, the last used one on top.
    static SPARE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

const SPARES: usize = 64;
/// Bytes of a buffer that is kept; longer heads are rare.
const MOST_SPARE: usize = 4096;

/// The number of the try that a request is, counted over all hops that retried it: a chain of sidecars does not multiply
/// retries.
pub(super) const ATTEMPT: HeaderName = HeaderName::from_static("x-outrigger-attempt");

/// The number that the caller gave; 1 where it gave none.
pub(super) fn attempt_of(headers: &HeaderMap) -> u32 {
    let told = headers.get(&ATTEMPT).and_then(|value| value.to_str().ok()?.parse().ok());
    told.unwrap_or(1).clamp(1, MOST_ATTEMPTS)
}

pub(super) fn attempt_value(attempt: u32) -> HeaderValue {
    // Nearly every request: no number has to be formatted.
    match attempt {
        1 => HeaderValue::from_static("1"),
        2 => HeaderValue::from_static("2"),
        more => HeaderValue::from(more.min(MOST_ATTEMPTS)),
    }
}

/// What a header may claim.
const MOST_ATTEMPTS: u32 = 1000;

#[cfg(test)]
mod tests {
    use http::header;

    use super::*;

    #[test]
    fn fields_come_back_as_they_were() {
        let mut headers = HeaderMap::new();
        assert!(Fields::of(&headers).map().is_empty());
        headers.append("host", HeaderValue::from_static("orders"));
        headers.append("x-a", HeaderValue::from_static("1"));
        headers.append("accept", HeaderValue::from_static(""));
        headers.append("x-a", HeaderValue::from_bytes(b"two \xff\t").unwrap());
        headers.append("x-long", HeaderValue::from_bytes(&vec![b'a'; 70_000]).unwrap());
        let mut secret = HeaderValue::from_static("Bearer x");
        secret.set_sensitive(true);
        headers.append("authorization", secret);
        for _ in 0..3 {
            let fields = Fields::of(&headers);
            for again in [fields.map(), fields.map()] {
                assert_eq!(again, headers);
                let order = |map: &HeaderMap| map.get_all("x-a").iter().cloned().collect::<Vec<_>>();
                assert_eq!(order(&again), order(&headers));
                assert!(again["authorization"].is_sensitive() && !again["host"].is_sensitive());
            }
        }
        let short = HeaderMap::from_iter([(header::HOST, HeaderValue::from_static("a"))]);
        drop(Fields::of(&short));
        let kept = SPARE.with_borrow(|spare| spare.last().map(|bytes| (bytes.len(), bytes.capacity() > 0)));
        assert_eq!(kept, Some((0, true)));
        assert_eq!(Fields::of(&short).map(), short, "in a buffer that was used before");
    }

    #[test]
    fn attempts_are_read_with_care() {
        for (text, wanted) in [("1", 1), ("3", 3), ("0", 1), ("-1", 1), ("x", 1), ("4000000000", 1000), ("1e3", 1)] {
            let headers: HeaderMap = [(ATTEMPT, HeaderValue::from_static(text))].into_iter().collect();
            assert_eq!(attempt_of(&headers), wanted, "{text}");
        }
        assert_eq!(attempt_of(&HeaderMap::new()), 1);
        assert_eq!(
            (attempt_value(1), attempt_value(12)),
            (HeaderValue::from_static("1"), HeaderValue::from_static("12"))
        );
    }
}
