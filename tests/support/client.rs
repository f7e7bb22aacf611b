//! An HTTP/1.1 client on a bare socket: what it sends is what the test says, and what it reads is what came.

use std::fmt::Write as _;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// One request, not yet sent.
#[derive(Debug, Clone)]
pub struct Ask {
    method: String,
    target: String,
    headers: Vec<(String, String)>,
    body: Option<Vec<u8>>,
    chunked: bool,
}

/// One response, read to its end.
#[derive(Debug, Clone, Default)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub trailers: Vec<(String, String)>,
}

impl Ask {
    pub fn new(method: &str, target: &str) -> Self {
        let (method, target) = (method.to_owned(), target.to_owned());
        Self { method, target, headers: Vec::new(), body: None, chunked: false }
    }

    pub fn get(target: &str) -> Self {
        Self::new("GET", target)
    }

    pub fn host(self, host: &str) -> Self {
        self.header("Host", host)
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = Some(body.into());
        self
    }

    /// Sends the body in chunks rather than with a length.
    pub fn chunked(mut self) -> Self {
        self.chunked = true;
        self
    }

    #[track_caller]
    pub fn send(&self, to: SocketAddr) -> Answer {
        self.try_send(to).unwrap_or_else(|error| panic!("{} {} at {to}: {error}", self.method, self.target))
    }

    /// On a connection of its own.
    pub fn try_send(&self, to: SocketAddr) -> io::Result<Answer> {
        let mut connection = Connection::to(to)?;
        connection.ask(self)
    }

    fn head(&self) -> String {
        let mut head = format!("{} {} HTTP/1.1\r\n", self.method, self.target);
        for (name, value) in &self.headers {
            let _ = write!(head, "{name}: {value}\r\n");
        }
        match &self.body {
            Some(_) if self.chunked => head.push_str("Transfer-Encoding: chunked\r\n"),
            Some(body) => {
                let _ = write!(head, "Content-Length: {}\r\n", body.len());
            }
            None => {}
        }
        head + "\r\n"
    }

    /// The body as it is sent.
    fn framed_body(&self) -> Vec<u8> {
        let body = self.body.clone().unwrap_or_default();
        if self.body.is_none() || !self.chunked {
            return body;
        }
        let mut framed = Vec::new();
        for chunk in body.chunks(16 * 1024) {
            framed.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
            framed.extend_from_slice(chunk);
            framed.extend_from_slice(b"\r\n");
        }
        framed.extend_from_slice(b"0\r\n\r\n");
        framed
    }
}

impl Answer {
    /// The first header of that name, whatever its case; empty where there is none.
    pub fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map_or("", |(_, value)| value)
    }

    pub fn has(&self, name: &str) -> bool {
        self.headers.iter().any(|(n, _)| n.eq_ignore_ascii_case(name))
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("no JSON ({error}): {}", self.text()))
    }

    /// The app that answered.
    pub fn app(&self) -> &str {
        self.header("x-app")
    }

    /// Why outrigger itself answered; empty where it did not.
    pub fn reason(&self) -> &str {
        self.header("x-outrigger-reason")
    }

    /// Asserts an answer of outrigger's own with all that it promises.
    #[track_caller]
    pub fn assert_reason(&self, status: u16, code: &str) {
        assert_eq!((self.status, self.reason()), (status, code), "{self:?}");
        let body = self.json();
        assert_eq!(body["error"], code);
        assert!(body["message"].as_str().is_some_and(|message| message.ends_with('.')), "{body}");
        assert_eq!(body["request_id"], self.header("x-request-id"));
        assert!(!self.header("x-request-id").is_empty());
        assert_eq!(self.header("content-type"), "application/json");
    }
}

/// A kept connection.
pub struct Connection {
    socket: BufReader<TcpStream>,
}

impl Connection {
    pub fn to(address: SocketAddr) -> io::Result<Self> {
        Self::over(TcpStream::connect_timeout(&address, Duration::from_secs(5))?)
    }

    pub fn over(socket: TcpStream) -> io::Result<Self> {
        socket.set_read_timeout(Some(Duration::from_secs(20)))?;
        socket.set_write_timeout(Some(Duration::from_secs(20)))?;
        socket.set_nodelay(true)?;
        Ok(Self { socket: BufReader::new(socket) })
    }

    /// An open one.
    pub fn from(socket: TcpStream) -> Self {
        Self { socket: BufReader::new(socket) }
    }

    pub fn socket(&self) -> &TcpStream {
        self.socket.get_ref()
    }

    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.socket.get_mut().write_all(bytes)
    }

    pub fn ask(&mut self, ask: &Ask) -> io::Result<Answer> {
        let mut head = ask.head().into_bytes();
        let body = ask.framed_body();
        // At once: an app that answers before it read a body that is still on its way costs the connection.
        let (together, rest) = if body.len() <= 16 * 1024 { (&body[..], &[][..]) } else { (&[][..], &body[..]) };
        head.extend_from_slice(together);
        self.write(&head)?;
        match self.write(rest) {
            // Whoever is refused before the end of the body finds out why.
            Err(error) if matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) => {}
            written => written?,
        }
        self.read(&ask.method)
    }

    /// Reads one answer; interim ones (1xx) are passed over.
    pub fn read(&mut self, method: &str) -> io::Result<Answer> {
        let mut answer = self.read_head()?;
        while (100..200).contains(&answer.status) && answer.status != 101 {
            answer = self.read_head()?;
        }
        if method == "HEAD" || matches!(answer.status, 101 | 204 | 304) {
            return Ok(answer);
        }
        if answer.header("transfer-encoding").eq_ignore_ascii_case("chunked") {
            self.read_chunks(&mut answer)?;
        } else if answer.has("content-length") {
            let length = answer.header("content-length").parse().map_err(|_| broken("content-length"))?;
            answer.body = vec![0; length];
            self.socket.read_exact(&mut answer.body)?;
        } else {
            self.socket.read_to_end(&mut answer.body)?;
        }
        Ok(answer)
    }

    /// Reads one interim answer (1xx).
    pub fn read_interim(&mut self) -> io::Result<u16> {
        Ok(self.read_head()?.status)
    }

    fn read_head(&mut self) -> io::Result<Answer> {
        let status_line = self.line()?;
        let mut words = status_line.split(' ');
        if !words.next().is_some_and(|version| version.starts_with("HTTP/1.")) {
            return Err(broken(&format!("status line `{status_line}`")));
        }
        let status = words.next().and_then(|code| code.parse().ok()).ok_or_else(|| broken(&status_line))?;
        Ok(Answer { status, headers: self.fields()?, ..Answer::default() })
    }

    fn read_chunks(&mut self, answer: &mut Answer) -> io::Result<()> {
        loop {
            let line = self.line()?;
            let size = line.split(';').next().unwrap_or_default().trim();
            let size = usize::from_str_radix(size, 16).map_err(|_| broken(&format!("chunk size `{line}`")))?;
            if size == 0 {
                answer.trailers = self.fields()?;
                return Ok(());
            }
            let start = answer.body.len();
            answer.body.resize(start + size, 0);
            self.socket.read_exact(&mut answer.body[start..])?;
            self.line()?;
        }
    }

    fn fields(&mut self) -> io::Result<Vec<(String, String)>> {
        let mut fields = Vec::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                return Ok(fields);
            }
            let (name, value) = line.split_once(':').ok_or_else(|| broken(&format!("field `{line}`")))?;
            fields.push((name.to_owned(), value.trim().to_owned()));
        }
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = Vec::new();
        if self.socket.read_until(b'\n', &mut line)? == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the connection was closed before an answer"));
        }
        Ok(String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']).to_owned())
    }

    /// Whether another byte comes within a moment.
    pub fn has_more(&mut self) -> bool {
        let limit = |socket: &TcpStream, limit: u64| socket.set_read_timeout(Some(Duration::from_millis(limit)));
        let _ = limit(self.socket.get_ref(), 200);
        let more = self.socket.fill_buf().is_ok_and(|bytes| !bytes.is_empty());
        let _ = limit(self.socket.get_ref(), 20_000);
        more
    }

    /// Sends no more; what comes can still be read.
    pub fn end_writing(&self) {
        let _ = self.socket.get_ref().shutdown(std::net::Shutdown::Write);
    }

    /// Waits until the other side closes, reading and dropping what still comes.
    pub fn closed(&mut self) -> bool {
        let mut rest = Vec::new();
        match self.socket.read_to_end(&mut rest) {
            Ok(_) => true,
            Err(error) => error.kind() == io::ErrorKind::ConnectionReset,
        }
    }
}

fn broken(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("not HTTP/1.1: {what}"))
}

/// The values of a header as the app saw them, by its answer to `/echo`.
#[track_caller]
pub fn echoed(answer: &Answer, name: &str) -> Vec<String> {
    assert_eq!(answer.status, 200, "{answer:?}");
    let told = answer.json();
    let pairs = told["headers"].as_array().unwrap().iter();
    pairs.filter(|pair| pair[0] == name).map(|pair| pair[1].as_str().unwrap().to_owned()).collect()
}
