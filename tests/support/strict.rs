//! An oracle for HTTP/1.1: requests by the letter of RFC 9112 and 9110, without any leniency that a recipient may have. What
//! it takes, no two recipients can read in two ways.

/// One request.
#[derive(Debug, Clone)]
pub struct Message {
    pub method: String,
    pub target: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub trailers: Vec<(String, String)>,
}

/// Why bytes are no request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// More may come.
    Incomplete,
    Invalid(String),
}

impl Message {
    /// All values of that name, joined by `|`.
    pub fn header(&self, name: &str) -> String {
        joined(&self.headers, name)
    }

    pub fn trailer(&self, name: &str) -> String {
        joined(&self.trailers, name)
    }
}

fn joined(fields: &[(String, String)], name: &str) -> String {
    let values = fields.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str());
    values.collect::<Vec<_>>().join("|")
}

/// The request that the bytes begin with, and how many of them it is.
pub fn request(bytes: &[u8]) -> Result<(Message, usize), Fault> {
    let mut reader = Reader { bytes, at: 0 };
    let line = reader.line()?;
    let words: Vec<&str> = line.split(' ').collect();
    let [method, target, "HTTP/1.1"] = words[..] else { return invalid(format!("request line {line:?}")) };
    if !is_token(method) {
        return invalid(format!("method {method:?}"));
    }
    // Origin form, or the asterisk of OPTIONS (RFC 9112 §3.2). What RFC 3986 wants escaped beside these, browsers send as it
    // is, and it is read in one way.
    let path = target.split('?').next().unwrap_or_default();
    let printable = target.bytes().all(|c| c > b' ' && c != 0x7f && c != b'#') && !path.contains('\\');
    if !printable || !(target.starts_with('/') || (method == "OPTIONS" && target == "*")) {
        return invalid(format!("target {target:?}"));
    }
    let headers = reader.fields()?;
    let all = |name: &str| -> Vec<&str> {
        headers.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str()).collect()
    };
    let [host] = all("host")[..] else { return invalid(format!("Host {:?}", all("host"))) };
    if !host.bytes().all(|c| c.is_ascii_alphanumeric() || b"-._~:[]%!$&'()*+,;=".contains(&c)) {
        return invalid(format!("Host {host:?}"));
    }
    let (mut body, mut trailers) = (Vec::new(), Vec::new());
    match (&all("content-length")[..], &all("transfer-encoding")[..]) {
        ([], []) => {}
        ([length], []) => {
            let digits = !length.is_empty() && length.bytes().all(|c| c.is_ascii_digit());
            let length = digits.then(|| length.parse::<usize>().ok()).flatten();
            let Some(length) = length else { return invalid(format!("Content-Length {length:?}")) };
            body = reader.take(length)?.to_vec();
        }
        ([], ["chunked"]) => loop {
            let line = reader.line()?;
            if line.is_empty() || line.len() > 16 || !line.bytes().all(|c| c.is_ascii_hexdigit()) {
                return invalid(format!("chunk size {line:?}"));
            }
            let size = usize::from_str_radix(line, 16).map_err(|error| Fault::Invalid(error.to_string()))?;
            if size == 0 {
                trailers = reader.fields()?;
                break;
            }
            body.extend_from_slice(reader.take(size)?);
            if reader.take(2)? != b"\r\n" {
                return invalid("a chunk without CR LF".into());
            }
        },
        framing => return invalid(format!("framing {framing:?}")),
    }
    let (method, target) = (method.to_owned(), target.to_owned());
    Ok((Message { method, target, headers, body, trailers }, reader.at))
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn line(&mut self) -> Result<&'a str, Fault> {
        let rest = &self.bytes[self.at..];
        let Some(end) = rest.windows(2).position(|two| two == b"\r\n") else {
            let ends_badly = rest.contains(&b'\n');
            return if ends_badly { invalid("a bare LF".into()) } else { Err(Fault::Incomplete) };
        };
        self.at += end + 2;
        let line = &rest[..end];
        if line.iter().any(|c| matches!(c, b'\r' | b'\n' | 0)) {
            return invalid(format!("CR, LF or NUL in {:?}", String::from_utf8_lossy(line)));
        }
        std::str::from_utf8(line).map_err(|error| Fault::Invalid(error.to_string()))
    }

    fn fields(&mut self) -> Result<Vec<(String, String)>, Fault> {
        let mut fields = Vec::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                return Ok(fields);
            }
            let Some((name, value)) = line.split_once(':') else { return invalid(format!("field {line:?}")) };
            let value = value.trim_matches([' ', '\t']);
            if !is_token(name) || value.bytes().any(|c| (c < b' ' && c != b'\t') || c == 0x7f) {
                return invalid(format!("field {line:?}"));
            }
            fields.push((name.to_owned(), value.to_owned()));
        }
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Fault> {
        let taken = self.bytes[self.at..].get(..length).ok_or(Fault::Incomplete)?;
        self.at += length;
        Ok(taken)
    }
}

fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|c| c.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&c))
}

fn invalid<T>(what: String) -> Result<T, Fault> {
    Err(Fault::Invalid(what))
}

#[test]
fn one_letter_beside_the_standard_is_seen() {
    let good = b"POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nT: 1\r\n\r\nGET";
    let (message, length) = request(good).unwrap();
    assert_eq!((message.body.as_slice(), message.trailer("t").as_str(), length), (&b"hi"[..], "1", good.len() - 3));
    assert_eq!(request(&good[..70]).unwrap_err(), Fault::Incomplete);
    for bad in [
        "GET  / HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET http://x/ HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET / HTTP/1.0\r\nHost: x\r\n\r\n",
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n",
        "GET / HTTP/1.1\nHost: x\n\n",
        "GET / HTTP/1.1\r\nHost: x\r\nA : 1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: x\r\nA: 1\r\n 2\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: x\r\nA: 1\nB: 2\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n1",
        "GET / HTTP/1.1\r\nHost: x\r\nContent-Length: +1\r\n\r\n1",
        "GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1;a\r\nx\r\n0\r\n\r\n",
        "GET /\\a HTTP/1.1\r\nHost: x\r\n\r\n",
    ] {
        assert!(matches!(request(bad.as_bytes()), Err(Fault::Invalid(_))), "{bad:?}");
    }
}
