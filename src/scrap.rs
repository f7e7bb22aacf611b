//! Short header values that are made for one request, cut from one buffer a thread: an allocation for some twenty requests
//! instead of two for each value. Nobody will see such a value again, so that HTTP/2's tables are not to remember it (RFC 7541
//! §7.1.3): there it would push out what all requests have in common.

use std::cell::RefCell;

use bytes::BytesMut;
use http::HeaderValue;
use http::header::InvalidHeaderValue;

/// A value of those bytes.
///
/// # Errors
/// Where they are none that a header value may have (RFC 9110 §5.5).
pub fn header_value(bytes: &[u8]) -> Result<HeaderValue, InvalidHeaderValue> {
    SCRAP.with_borrow_mut(|scrap| {
        if scrap.capacity() < bytes.len() {
            *scrap = BytesMut::with_capacity(SIZE.max(bytes.len()));
        }
        scrap.extend_from_slice(bytes);
        let mut value = HeaderValue::from_maybe_shared(scrap.split().freeze())?;
        value.set_sensitive(true);
        Ok(value)
    })
}

/// As `header_value`, of a number in decimal.
pub fn number(number: u64) -> HeaderValue {
    let (mut text, mut at, mut left) = ([0; 20], 20, number);
    loop {
        at -= 1;
        text[at] = b'0' + (left % 10) as u8;
        left /= 10;
        if left == 0 {
            break;
        }
    }
    header_value(&text[at..]).expect("digits are a header value")
}

thread_local! {
    static SCRAP: RefCell<BytesMut> = RefCell::default();
}

/// Bytes of a buffer. All of it stays while one value of it is used, so that it may not be large.
const SIZE: usize = 2048;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_what_was_given_and_stay_so() {
        let values: Vec<_> = (0..500u64).map(|at| (at, number(at * at * 7919))).collect();
        for (at, value) in values {
            assert_eq!(value, (at * at * 7919).to_string());
        }
        assert_eq!(number(u64::MAX), u64::MAX.to_string());
        let long = [b'a'; 3 * SIZE];
        assert_eq!(header_value(&long).unwrap(), &long[..]);
        assert!(header_value(b"a\nb").is_err());
        assert_eq!(header_value(b"").unwrap(), "");
        assert!(number(1).is_sensitive());
    }
}
