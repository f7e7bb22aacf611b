//! An endpoint that misbehaves on purpose: plain HTTP/1.1, where a closure says what becomes of each request.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::{Value, json};

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Seen {
    /// Counted from 0 over all connections.
    pub number: usize,
    /// Counted from 0 on its connection.
    pub on_connection: usize,
    pub head: String,
    pub body: Vec<u8>,
}

/// What becomes of a request.
#[derive(Debug, Clone)]
pub enum Reply {
    /// These bytes; the connection stays.
    Bytes(Vec<u8>),
    /// These bytes, then the connection is closed in order.
    Close(Vec<u8>),
    /// These bytes, then a TCP reset.
    Reset(Vec<u8>),
    /// Nothing, until the client closes.
    Silence,
}

pub struct Endpoint {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    stopped: Arc<AtomicBool>,
}

impl Seen {
    /// The first header of that name; empty where there is none.
    pub fn header(&self, name: &str) -> &str {
        let field = |line: &'_ str| line.split_once(':').is_some_and(|(n, _)| n.eq_ignore_ascii_case(name));
        let line = self.head.lines().find(|line| field(line));
        line.and_then(|line| line.split_once(':')).map_or("", |(_, value)| value.trim())
    }
}

/// A whole answer with that status and body.
pub fn answer(status: u16, headers: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status} X\r\n{headers}content-length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

impl Endpoint {
    pub fn start(reply: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port");
        let address = listener.local_addr().unwrap();
        let (seen, stopped) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let reply = Arc::new(reply);
        let (all, end) = (seen.clone(), stopped.clone());
        thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                if end.load(Ordering::Relaxed) {
                    return;
                }
                let (all, reply) = (all.clone(), reply.clone());
                thread::spawn(move || serve(socket, &all, &*reply));
            }
        });
        Self { address, seen, stopped }
    }

    /// Answers every request with that status.
    pub fn always(status: u16, body: &'static str) -> Self {
        Self::start(move |_| Reply::Bytes(answer(status, "", body)))
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    pub fn count(&self) -> usize {
        self.seen.lock().unwrap().len()
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.address);
    }
}

/// Static plain endpoints, for `Builder::upstream`.
pub fn plain(endpoints: &[&Endpoint]) -> Value {
    let addresses: Vec<String> = endpoints.iter().map(|endpoint| endpoint.address.to_string()).collect();
    json!({ "endpoints": addresses, "mtls": "off" })
}

fn serve(socket: TcpStream, all: &Mutex<Vec<Seen>>, reply: &(dyn Fn(&Seen) -> Reply + Send + Sync)) {
    let _ = socket.set_nodelay(true);
    let mut reader = BufReader::new(socket);
    for on_connection in 0.. {
        let Some((head, body)) = read(&mut reader) else { return };
        let seen = {
            let mut all = all.lock().unwrap();
            let seen = Seen { number: all.len(), on_connection, head, body };
            all.push(seen.clone());
            seen
        };
        let socket = reader.get_mut();
        let sent = match reply(&seen) {
            Reply::Bytes(bytes) => socket.write_all(&bytes).is_ok(),
            Reply::Close(bytes) => {
                let _ = socket.write_all(&bytes);
                false
            }
            Reply::Reset(bytes) => {
                let _ = socket.write_all(&bytes);
                // Closing with a linger of zero is a reset (POSIX SO_LINGER).
                let _ = socket2::SockRef::from(&*socket).set_linger(Some(std::time::Duration::ZERO));
                false
            }
            Reply::Silence => {
                let _ = std::io::copy(socket, &mut std::io::sink());
                false
            }
        };
        if !sent {
            return;
        }
    }
}

/// A head, and a body by its length or in chunks.
fn read(reader: &mut BufReader<TcpStream>) -> Option<(String, Vec<u8>)> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    let lower = head.to_ascii_lowercase();
    let mut body = Vec::new();
    if let Some((_, rest)) = lower.split_once("\r\ncontent-length: ") {
        let length: usize = rest.split("\r\n").next()?.trim().parse().ok()?;
        body.resize(length, 0);
        reader.read_exact(&mut body).ok()?;
    } else if lower.contains("\r\ntransfer-encoding: chunked") {
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).ok()?;
            let size = usize::from_str_radix(line.trim(), 16).ok()?;
            let start = body.len();
            body.resize(start + size + 2, 0);
            reader.read_exact(&mut body[start..]).ok()?;
            body.truncate(start + size);
            if size == 0 {
                break;
            }
        }
    }
    Some((head, body))
}
