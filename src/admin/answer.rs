//! Answers of admin and metrics: JSON, text, errors, and the headers that all of them carry.

use bytes::Bytes;
use http::header::{self, HeaderName};
use http::{HeaderValue, Response, StatusCode};
use http_body_util::Full;
use serde::Serialize;

pub(super) type Answer = Response<Full<Bytes>>;

pub(super) fn json(status: StatusCode, value: &impl Serialize) -> Answer {
    match serde_json::to_vec(value) {
        Ok(body) => with_body(status, "application/json", body),
        Err(error) => {
            tracing::error!(%error, "internal bug; please report this");
            let body =
                r#"{"error":"internal_bug","message":"The answer could not be written as JSON; please report this."}"#;
            with_body(StatusCode::INTERNAL_SERVER_ERROR, "application/json", body)
        }
    }
}

/// `code` is for programs; `message` is one sentence with the next step.
pub(super) fn error(status: StatusCode, code: &'static str, message: &str) -> Answer {
    #[derive(Serialize)]
    struct Said<'a> {
        error: &'static str,
        message: &'a str,
    }
    json(status, &Said { error: code, message })
}

/// 503, worth another try in a second.
pub(super) fn busy(message: &str) -> Answer {
    let mut answer = error(StatusCode::SERVICE_UNAVAILABLE, "busy", message);
    answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    answer
}

pub(super) fn method_not_allowed(allow: &'static str) -> Answer {
    let message = format!("This path takes {allow}.");
    let mut answer = error(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", &message);
    answer.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allow));
    answer
}

pub(super) fn text(content_type: &'static str, body: impl Into<Bytes>) -> Answer {
    with_body(StatusCode::OK, content_type, body)
}

fn with_body(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    for (name, value) in SEALS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    answer
}

/// What keeps a browser from lending these answers to other sites, and from running what they quote.
const SEALS: [(HeaderName, &str); 6] = [
    (header::CACHE_CONTROL, "no-store"),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "no-referrer"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'",
    ),
];
