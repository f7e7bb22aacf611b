//! A reason as an answer: JSON for HTTP callers, a trailers-only status for gRPC ones.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use crate::filter::Wording;
use crate::reason::Reason;
use crate::telemetry::trace::X_REQUEST_ID;

/// How the caller reads errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    Json,
    Grpc,
}

impl Dialect {
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let grpc = headers.get(header::CONTENT_TYPE).is_some_and(|v| v.as_bytes().starts_with(b"application/grpc"));
        if grpc { Self::Grpc } else { Self::Json }
    }
}

/// The whole answer for a reason.
pub(super) fn answer(reason: Reason, request_id: &HeaderValue, dialect: Dialect) -> Response<Bytes> {
    let facts = reason.facts();
    let body = match dialect {
        Dialect::Json => body(facts.code, facts.message, request_id),
        Dialect::Grpc => Bytes::new(),
    };
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(REASON, HeaderValue::from_static(facts.code));
    headers.insert(X_REQUEST_ID, request_id.clone());
    if let Some(seconds) = facts.retry_after {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    match dialect {
        Dialect::Json => {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
            if facts.status == StatusCode::UNAUTHORIZED {
                // RFC 9110 §15.5.2: a 401 names a way to authenticate. Here it is the client's certificate.
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("mtls"));
            }
            *response.status_mut() = facts.status;
        }
        Dialect::Grpc => {
            // gRPC over HTTP/2, "Trailers-Only": status 200, the gRPC status among the headers.
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
            headers.insert("grpc-status", HeaderValue::from(u16::from(facts.grpc)));
            headers.insert("grpc-message", HeaderValue::from_static(facts.message));
        }
    }
    response
}

/// `message` needs no escaping.
fn body(code: &str, message: &str, request_id: &HeaderValue) -> Bytes {
    // The id was checked or made by us: it needs none either.
    let id = request_id.to_str().unwrap_or_default();
    format!("{{\"error\":\"{code}\",\"message\":\"{message}\",\"request_id\":\"{id}\"}}\n").into()
}

/// The same in a plugin's words.
pub(super) fn reworded(
    reason: Reason,
    request_id: &HeaderValue,
    dialect: Dialect,
    wording: &Wording,
) -> Response<Bytes> {
    let mut response = answer(reason, request_id, dialect);
    match dialect {
        Dialect::Json => {
            if let Some(status) = wording.status {
                *response.status_mut() = status;
            }
            if let Some(message) = &wording.message {
                let quoted = serde_json::Value::from(message.as_ref()).to_string();
                // Without the quotes around it, which `body` writes.
                *response.body_mut() = body(reason.code(), &quoted[1..quoted.len() - 1], request_id);
            }
        }
        Dialect::Grpc => {
            // gRPC over HTTP/2, "Status-Message": percent-encoded.
            let message =
                wording.message.as_deref().map(|message| utf8_percent_encode(message, GRPC_MESSAGE).to_string());
            if let Some(message) = message.and_then(|message| HeaderValue::from_str(&message).ok()) {
                response.headers_mut().insert("grpc-message", message);
            }
        }
    }
    response
}

/// All but the printable characters, and `%` itself.
const GRPC_MESSAGE: &AsciiSet = &CONTROLS.add(b'%');

/// The same as bytes of HTTP/1.1, for what never became a request.
pub(super) fn answer_bytes(reason: Reason, request_id: &HeaderValue) -> Vec<u8> {
    let response = answer(reason, request_id, Dialect::Json);
    let status = response.status();
    let phrase = status.canonical_reason().unwrap_or("Refused");
    let mut bytes = format!("HTTP/1.1 {} {phrase}\r\n", status.as_u16()).into_bytes();
    for (name, value) in response.headers() {
        bytes.extend_from_slice(name.as_str().as_bytes());
        bytes.extend_from_slice(b": ");
        bytes.extend_from_slice(value.as_bytes());
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(
        format!("content-length: {}\r\nconnection: close\r\n\r\n", response.body().len()).as_bytes(),
    );
    bytes.extend_from_slice(response.body());
    bytes
}

pub(super) const REASON: HeaderName = HeaderName::from_static("x-outrigger-reason");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_an_answer_in_both_dialects() {
        let id = HeaderValue::from_static("0194f3c2-1");
        for reason in Reason::ALL {
            let json = answer(reason, &id, Dialect::Json);
            let body: serde_json::Value = serde_json::from_slice(json.body()).unwrap();
            assert_eq!(body["error"], reason.code());
            assert_eq!(body["request_id"], "0194f3c2-1");
            assert_eq!((json.status(), json.headers()[REASON].to_str().unwrap()), (reason.status(), reason.code()));
            let grpc = answer(reason, &id, Dialect::Grpc);
            assert_eq!(grpc.status(), StatusCode::OK);
            assert_eq!(grpc.headers()["grpc-status"], reason.facts().grpc.to_string());
            assert!(grpc.body().is_empty());
        }
    }

    #[test]
    fn grpc_messages_need_no_percent_encoding() {
        // gRPC over HTTP/2, `Percent-Encoded`: space to tilde, without the percent sign, go as they are.
        for reason in Reason::ALL {
            assert!(
                reason.facts().message.bytes().all(|c| (b' '..=b'~').contains(&c) && c != b'%'),
                "{}",
                reason.code()
            );
        }
    }

    #[test]
    fn an_answer_as_bytes_is_a_whole_message() {
        let bytes = answer_bytes(Reason::HeadTooLarge, &HeaderValue::from_static("0194f3c2-1"));
        let text = String::from_utf8(bytes).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 431 Request Header Fields Too Large\r\n"), "{head}");
        assert!(head.contains(&format!("content-length: {}", body.len())) && head.contains("connection: close"));
    }
}
