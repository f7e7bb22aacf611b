//! WebSocket's opening handshake over HTTP/1.1 (RFC 6455 §4): keys and what they are answered with.

use aws_lc_rs::digest;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderName, HeaderValue};

pub const KEY: HeaderName = http::header::SEC_WEBSOCKET_KEY;
pub const ACCEPT: HeaderName = http::header::SEC_WEBSOCKET_ACCEPT;
/// The token of Upgrade and of `:protocol`.
pub const TOKEN: &str = "websocket";

/// A fresh key: 16 bytes that need not be secret (RFC 6455 §4.1).
pub(super) fn new_key() -> HeaderValue {
    let key = STANDARD.encode(fastrand::u128(..).to_be_bytes());
    HeaderValue::from_str(&key).unwrap_or_else(|_| HeaderValue::from_static("AAAAAAAAAAAAAAAAAAAAAA=="))
}

/// What a server answers to `key` (RFC 6455 §4.2.2). SHA-1 protects nothing here: it shows that the server has
/// understood the protocol.
pub fn accept_of(key: &HeaderValue) -> HeaderValue {
    let mut sha1 = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
    sha1.update(key.as_bytes());
    sha1.update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    let accept = STANDARD.encode(sha1.finish());
    HeaderValue::from_str(&accept).unwrap_or_else(|_| HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_accepted_as_in_rfc_6455() {
        let accept = accept_of(&HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ=="));
        assert_eq!(accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(STANDARD.decode(new_key().as_bytes()).unwrap().len(), 16);
    }
}
