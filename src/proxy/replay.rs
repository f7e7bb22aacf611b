//! What is kept of a request to send it again: its head, and its body where that is short.

use std::sync::Arc;

use http::{Extensions, HeaderMap, HeaderName, HeaderValue, Method, Request, Uri};

use crate::route::Route;
use crate::upstream::{Recording, RequestBody};

/// A request's copy.
pub(super) struct Replay {
    method: Method,
    uri: Uri,
    headers: HeaderMap,
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
            headers: request.headers().clone(),
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
        *request.headers_mut() = self.headers.clone();
        *request.extensions_mut() = self.extensions.clone();
        request
    }
}

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
    use super::*;

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
