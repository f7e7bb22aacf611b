//! An HTTP/2 connection that requests share, and what they need for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, Request, Uri, Version, header};
use hyper::client::conn::http2;
use parking_lot::Mutex;

use super::RequestBody;
use super::switch::PeerSettings;
use crate::clock;
use crate::service::ConnectionLimit;
use crate::telemetry::trace::{TRACEPARENT, X_REQUEST_ID};

#[derive(Clone)]
pub(super) struct Shared {
    pub(super) sender: http2::SendRequest<RequestBody>,
    /// One reference for the pool's list, one for each stream.
    streams: Arc<Streams>,
    /// When it was made.
    pub(super) since: Instant,
    pub(super) settings: Arc<PeerSettings>,
}

struct Streams {
    /// When the last one began or ended.
    last: Mutex<Instant>,
    limit: Arc<ConnectionLimit>,
    /// A request has been sent: see `teach_names`.
    taught: AtomicBool,
}

impl Shared {
    pub(super) fn new(
        sender: http2::SendRequest<RequestBody>,
        limit: Arc<ConnectionLimit>,
        since: Instant,
        settings: Arc<PeerSettings>,
    ) -> Self {
        let streams = Streams { last: Mutex::new(since), limit, taught: AtomicBool::new(false) };
        Self { sender, streams: Arc::new(streams), since, settings }
    }

    /// A stream begins.
    pub(super) fn began(&self) {
        *self.streams.last.lock() = clock::recent();
    }

    /// When the last stream began or ended.
    pub(super) fn last(&self) -> Instant {
        *self.streams.last.lock()
    }

    /// One of its streams has ended.
    pub(super) fn ended(&self) {
        *self.streams.last.lock() = clock::recent();
        self.streams.limit.note_idle();
    }

    /// Makes a request ready for the connection.
    pub(super) fn prepare(
        &self,
        request: &mut Request<RequestBody>,
        authority: Option<&Authority>,
    ) -> Result<(), String> {
        *request.version_mut() = Version::HTTP_2;
        let headers = request.headers_mut();
        if !self.streams.taught.load(Ordering::Relaxed) {
            self.streams.taught.store(true, Ordering::Relaxed);
            teach_names(headers);
        } else if let Some(id) = headers.get_mut(&X_REQUEST_ID) {
            // One that the caller gave.
            id.set_sensitive(true);
        }
        to_absolute_form(request, authority)
    }

    pub(super) fn streams(&self) -> usize {
        Arc::strong_count(&self.streams) - 1
    }

    pub(super) fn has_room(&self) -> bool {
        !self.sender.is_closed() && self.streams() < MOST_STREAMS
    }
}

/// Lets a connection's first request enter its own ids into the peer's table: later ones refer to the names, and their values
/// are not entered (`scrap`).
fn teach_names(headers: &mut HeaderMap) {
    for (name, value) in headers.iter_mut() {
        if *name == X_REQUEST_ID || *name == TRACEPARENT || name.as_str().starts_with("x-outrigger-") {
            value.set_sensitive(false);
        }
    }
}

/// HTTP/2 wants scheme and authority beside the path (RFC 9113 §8.3.1); Host then says nothing new.
pub(super) fn to_absolute_form(
    request: &mut Request<RequestBody>,
    authority: Option<&Authority>,
) -> Result<(), String> {
    let host = request.headers_mut().remove(header::HOST);
    let authority = match (authority, host) {
        (Some(authority), _) => authority.clone(),
        (None, Some(host)) => host.as_bytes().try_into().map_err(|error: http::uri::InvalidUri| error.to_string())?,
        (None, None) => return Err("no Host".into()),
    };
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    parts.scheme = Some(Scheme::HTTP);
    parts.authority = Some(authority);
    parts.path_and_query.get_or_insert(PathAndQuery::from_static("/"));
    *request.uri_mut() = Uri::from_parts(parts).map_err(|error| error.to_string())?;
    Ok(())
}

/// Streams on one connection before another is opened: what RFC 9113 §6.5.2 asks every peer to allow.
const MOST_STREAMS: usize = 100;

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn the_first_request_teaches_our_names_and_no_secret() {
        let secret = |text| {
            let mut value = HeaderValue::from_static(text);
            value.set_sensitive(true);
            value
        };
        let mut headers = HeaderMap::new();
        for name in ["x-request-id", "traceparent", "x-outrigger-deadline-ms", "authorization", "cookie"] {
            headers.insert(name, secret("a"));
        }
        teach_names(&mut headers);
        let hidden: Vec<_> = headers.iter().filter(|(_, value)| value.is_sensitive()).map(|(name, _)| name).collect();
        assert_eq!(hidden, ["authorization", "cookie"]);
    }
}
