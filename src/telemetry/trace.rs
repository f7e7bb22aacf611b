//! Request ids and W3C trace context: what is kept, what is made anew.

use std::time::SystemTime;

use http::header::{HeaderMap, HeaderName, HeaderValue};

use crate::letters::{HEX_VALUES, alphanumeric_and};
use crate::scrap;

/// Where an exchange belongs: the `traceparent` that came, or a new trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceContext {
    pub trace_id: [u8; 16],
    /// The sampled and random flags (W3C Trace Context level 2 §4.2); other bits are not passed on.
    pub flags: u8,
}

impl TraceContext {
    /// Reads a single `traceparent`; anything but a valid one is `None`, and then `tracestate` must be dropped too.
    ///
    /// W3C Trace Context §3.2: lower-case hex, no all-zero ids, version `ff` forbidden, higher versions read as 00 when
    /// the 55 characters are followed by the end or `-`.
    pub fn parse(headers: &HeaderMap) -> Option<Self> {
        let mut values = headers.get_all(TRACEPARENT).iter();
        let text = values.next()?.as_bytes();
        if values.next().is_some() || text.len() < 55 {
            return None;
        }
        let (head, rest) = text.split_at(55);
        let version = hex::<1>(&head[0..2])?[0];
        if version == 0xff || (version == 0 && !rest.is_empty()) || !(rest.is_empty() || rest[0] == b'-') {
            return None;
        }
        if head[2] != b'-' || head[35] != b'-' || head[52] != b'-' {
            return None;
        }
        let trace_id = hex::<16>(&head[3..35])?;
        let parent = hex::<8>(&head[36..52])?;
        let flags = hex::<1>(&head[53..55])?[0] & 0b11;
        (trace_id != [0; 16] && parent != [0; 8]).then_some(Self { trace_id, flags })
    }

    /// A new trace that nobody samples yet; its id is random, which flag 02 says.
    pub fn new() -> Self {
        Self { trace_id: fastrand::u128(1..).to_be_bytes(), flags: 0b10 }
    }

    /// The `traceparent` for the next hop, with a parent id of this hop.
    pub fn to_header(self) -> HeaderValue {
        let mut text = *b"00-................................-................-..";
        write_hex(&mut text[3..35], &self.trace_id);
        write_hex(&mut text[36..52], &fastrand::u64(1..).to_be_bytes());
        write_hex(&mut text[53..55], &[self.flags]);
        scrap::header_value(&text).expect("hex and dashes are a header value")
    }
}

impl Default for TraceContext {
    fn default() -> Self {
        Self::new()
    }
}

/// The caller's request id, if it is sane: 8 to 128 visible characters of a set that is safe in logs and headers.
pub fn sane_request_id(headers: &HeaderMap) -> Option<&HeaderValue> {
    let mut values = headers.get_all(X_REQUEST_ID).iter();
    let value = values.next()?;
    let text = value.as_bytes();
    let safe = |byte: &u8| ID_BYTES[usize::from(*byte)];
    (values.next().is_none() && (8..=128).contains(&text.len()) && text.iter().all(safe)).then_some(value)
}

/// A new request id: UUIDv7 of `wall`, so that ids sort by time.
pub fn new_request_id(wall: SystemTime) -> HeaderValue {
    let since_1970 = wall.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let mut chance = [0; 10];
    fastrand::fill(&mut chance);
    let millis = since_1970.as_millis() as u64;
    let id = uuid::Builder::from_unix_timestamp_millis(millis, &chance).into_uuid();
    let mut text = [0u8; 36];
    id.hyphenated().encode_lower(&mut text);
    scrap::header_value(&text).expect("a UUID is a header value")
}

fn write_hex(out: &mut [u8], bytes: &[u8]) {
    for (pair, byte) in out.chunks_exact_mut(2).zip(bytes) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 15)];
    }
}

const DIGITS: &[u8; 16] = b"0123456789abcdef";

fn hex<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    let (mut out, mut all) = ([0; N], 0);
    for (byte, pair) in out.iter_mut().zip(text.chunks_exact(2)) {
        let (high, low) = (HEX_VALUES[usize::from(pair[0])], HEX_VALUES[usize::from(pair[1])]);
        all |= high | low;
        *byte = high << 4 | low & 15;
    }
    (all < 16).then_some(out)
}

/// What a caller's request id may be made of.
static ID_BYTES: [bool; 256] = alphanumeric_and(b"-_.:+/=@");

pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
pub const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Option<TraceContext> {
        let mut headers = HeaderMap::new();
        headers.insert(TRACEPARENT, HeaderValue::from_str(text).unwrap());
        TraceContext::parse(&headers)
    }

    #[test]
    fn a_valid_parent_keeps_its_trace_and_gets_a_new_parent_id() {
        let text = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let context = parse(text).unwrap();
        let next = context.to_header();
        let next = next.to_str().unwrap();
        assert_eq!((&next[..36], &next[52..]), (&text[..36], "-01"));
        assert_ne!(&next[36..52], &text[36..52]);
        assert_eq!(parse(next), Some(context));
        assert!(parse("cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-what").is_some());
        assert_eq!(parse(&text.replace("-01", "-ff")).unwrap().flags, 0b11, "unknown flags end here");
    }

    #[test]
    fn broken_parents_start_a_new_trace() {
        for bad in [
            "",
            "00",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-extra",
            "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01extra",
            "00_4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn request_ids_are_kept_only_if_sane() {
        let with = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(X_REQUEST_ID, HeaderValue::from_bytes(text.as_bytes()).unwrap());
            sane_request_id(&headers).is_some()
        };
        assert!(with("0194f3c2-aaaa-7bbb-8ccc-123456789abc") && with("trace:1/abc=="));
        for bad in ["short", "with space in it", "quote\"quote", "ünïcödé-id", &"x".repeat(129)] {
            assert!(!with(bad), "{bad:?}");
        }
        let made = new_request_id(SystemTime::now());
        assert_eq!(uuid::Uuid::parse_str(made.to_str().unwrap()).unwrap().get_version_num(), 7);
    }
}
