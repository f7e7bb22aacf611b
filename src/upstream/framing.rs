//! Whether an HTTP/1.1 answer ends where it says. hyper has parsed it; this is what it leaves to us.

use http::{HeaderMap, Response, StatusCode, header};
use hyper::body::Body;

/// Makes sure that an answer's end is told in one way, and drops a length that has no meaning.
///
/// # Errors
/// Where two recipients could find two ends (RFC 9112 §6.3): the next answer on the connection would be in doubt.
pub(super) fn settle<B: Body>(response: &mut Response<B>) -> Result<(), String> {
    let open_end = response.body().size_hint().exact().is_none();
    let status = response.status();
    let headers = response.headers_mut();
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    let (first, second) = (lengths.next(), lengths.next());
    if second.is_some() || first.is_some_and(|length| !length.as_bytes().iter().all(u8::is_ascii_digit)) {
        return Err("several lengths".into());
    }
    let has_length = first.is_some();
    if open_end {
        coding(headers, has_length)
    } else {
        // RFC 9110 §8.6: no length in an answer that cannot have a body.
        if has_length && status == StatusCode::NO_CONTENT {
            headers.remove(header::CONTENT_LENGTH);
        }
        Ok(())
    }
}

/// The body of an answer ends by its chunks or with the connection.
fn coding(headers: &HeaderMap, has_length: bool) -> Result<(), String> {
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    let Some(coding) = codings.next() else { return Ok(()) };
    if has_length {
        return Err("both Content-Length and Transfer-Encoding".into());
    }
    // Only chunks are taken off here; the name of another coding would end here, too, and the coding go on.
    if codings.next().is_some() || !coding.as_bytes().eq_ignore_ascii_case(b"chunked") {
        return Err(format!("Transfer-Encoding {coding:?}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http_body_util::{BodyExt, Full, StreamBody};

    use super::*;

    fn settled(
        status: u16,
        fields: &[(&'static str, &'static str)],
        body: Option<&'static str>,
    ) -> Result<HeaderMap, String> {
        let frames = futures_util::stream::empty::<Result<http_body::Frame<Bytes>, std::convert::Infallible>>();
        let body = match body {
            Some(body) => Full::from(body).boxed(),
            None => BodyExt::boxed(StreamBody::new(frames)),
        };
        let mut response = Response::builder().status(status).body(body).unwrap();
        for (name, value) in fields {
            response.headers_mut().append(*name, (*value).parse().unwrap());
        }
        settle(&mut response).map(|()| response.headers().clone())
    }

    #[test]
    fn an_answer_has_one_end() {
        let (length, coding) = ("content-length", "transfer-encoding");
        assert!(settled(200, &[(length, "2")], Some("hi")).is_ok());
        assert!(settled(200, &[(coding, "Chunked")], None).is_ok());
        assert!(settled(200, &[], None).is_ok(), "it ends with the connection");
        for fields in [
            &[(length, "2"), (length, "2")][..],
            &[(length, "2, 2")],
            &[(length, "2"), (coding, "chunked")],
            &[(coding, "gzip, chunked")],
            &[(coding, "chunked"), (coding, "chunked")],
            &[(coding, "identity")],
        ] {
            let body = fields.iter().all(|(name, _)| *name == length).then_some("hi");
            assert!(settled(200, fields, body).is_err(), "{fields:?}");
        }
    }

    #[test]
    fn an_answer_without_a_body_has_no_length() {
        assert!(settled(204, &[("content-length", "5")], Some("")).unwrap().is_empty());
        assert_eq!(settled(304, &[("content-length", "5")], Some("")).unwrap().len(), 1);
    }
}
