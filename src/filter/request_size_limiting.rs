//! `request-size-limiting`: bodies up to a size, as Kong's plugin has it (`kong/plugins/request-size-limiting/handler.lua`).
//! An announced length is judged at once; a body without one is counted while it passes and cut where it grows too long,
//! so nothing of it is kept.

use std::sync::Arc;

use http::{Method, StatusCode, Version, header, request};

use super::{Call, Decision, Filter, Wording};
use crate::reason::Reason;
use crate::telemetry::{Metrics, PluginCounts, PluginDecision};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Bytes of a request's body.
    pub most: u64,
    /// Whether a request of HTTP/1.1 whose method has content must announce its length; chunks do not.
    pub require_content_length: bool,
}

/// What a body may have; in the stash, for `proxy` to hold it to. A body that is cut is counted here.
#[derive(Clone)]
pub struct BodyCap {
    pub most: u64,
    counts: Arc<PluginCounts>,
}

impl BodyCap {
    /// The body was longer: notes it, and says what the log is told.
    #[must_use]
    pub fn cut(&self) -> String {
        self.counts.count(PluginDecision::Refused);
        format!("{NAME}: refuse {}: more than {} bytes came", Reason::BodyTooLarge.code(), self.most)
    }

    #[must_use]
    pub fn wording(&self) -> Wording {
        let message = format!("Request size limit exceeded; send at most {} bytes.", self.most);
        Wording { status: None, message: Some(message.into()) }
    }
}

pub(super) struct RequestSizeLimiting {
    cap: BodyCap,
    require_content_length: bool,
}

impl RequestSizeLimiting {
    pub(super) fn new(settings: &Settings, metrics: &Metrics) -> Self {
        let counts = Arc::new(metrics.plugin(NAME));
        let cap = BodyCap { most: settings.most, counts };
        Self { cap, require_content_length: settings.require_content_length }
    }
}

impl Filter for RequestSizeLimiting {
    fn request(&self, call: &mut Call<'_>) -> Decision {
        match call.head.headers.get(header::CONTENT_LENGTH) {
            Some(length) => {
                // hyper let digits through alone; what is not even a u64 is too much.
                let length = length.to_str().ok().and_then(|text| text.trim().parse::<u64>().ok());
                if length.is_none_or(|length| length > self.cap.most) {
                    let detail = format!("{} of {} bytes announced", length.unwrap_or(u64::MAX), self.cap.most);
                    return Decision::refuse_with(Reason::BodyTooLarge, detail, self.cap.wording());
                }
            }
            None if self.require_content_length && needs_length(call.head) => {
                let message = Some("A valid Content-Length header is required; send the body's length.".into());
                let wording = Wording { status: Some(StatusCode::LENGTH_REQUIRED), message };
                return Decision::refuse_with(Reason::BadRequest, "no length announced", wording);
            }
            None => {
                call.stash.insert(self.cap.clone());
            }
        }
        Decision::PASS
    }
}

/// Of the other methods content has no meaning (RFC 9110 §9.3), and HTTP/2 frames it.
fn needs_length(head: &request::Parts) -> bool {
    let without = [Method::GET, Method::HEAD, Method::DELETE, Method::OPTIONS, Method::TRACE, Method::CONNECT];
    head.version < Version::HTTP_2 && !without.contains(&head.method)
}

pub(super) const NAME: &str = "request-size-limiting";
