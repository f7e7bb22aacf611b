//! An app that keeps every byte that it is sent, connection by connection, and answers only what the strict oracle takes
//! for a request.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use super::strict::{self, Fault, Message};

/// What came on one connection.
#[derive(Debug, Clone, Default)]
pub struct Taken {
    pub bytes: Vec<u8>,
    pub messages: Vec<Message>,
    /// What is no request; nothing was read after it.
    pub invalid: Option<String>,
    pub closed: bool,
}

pub struct Recorder {
    address: SocketAddr,
    taken: Arc<Mutex<Vec<Taken>>>,
    stopped: Arc<AtomicBool>,
}

impl Recorder {
    /// Answers every request with 200 and its target.
    pub fn start() -> Self {
        Self::answering(|message| {
            let target = &message.target;
            let body = if message.method == "HEAD" { "" } else { target };
            format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", target.len()).into_bytes()
        })
    }

    /// `answer` gives the bytes for each request.
    pub fn answering(answer: impl Fn(&Message) -> Vec<u8> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port");
        let address = listener.local_addr().unwrap();
        let (taken, stopped) = (Arc::<Mutex<Vec<Taken>>>::default(), Arc::new(AtomicBool::new(false)));
        let (all, end, answer) = (taken.clone(), stopped.clone(), Arc::new(answer));
        thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                if end.load(Ordering::Relaxed) {
                    return;
                }
                let at = {
                    let mut all = all.lock().unwrap();
                    all.push(Taken::default());
                    all.len() - 1
                };
                let (all, answer) = (all.clone(), answer.clone());
                thread::spawn(move || record(socket, &all, at, &*answer));
            }
        });
        Self { address, taken, stopped }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn taken(&self) -> Vec<Taken> {
        self.taken.lock().unwrap().clone()
    }

    /// All requests, in the order of connections.
    pub fn messages(&self) -> Vec<Message> {
        self.taken().into_iter().flat_map(|taken| taken.messages).collect()
    }

    pub fn count(&self) -> usize {
        self.taken.lock().unwrap().iter().map(|taken| taken.messages.len()).sum()
    }

    /// Whether any connection was sent these bytes.
    pub fn was_sent(&self, needle: &str) -> bool {
        let found = |taken: &Taken| taken.bytes.windows(needle.len()).any(|some| some == needle.as_bytes());
        self.taken.lock().unwrap().iter().any(found)
    }

    /// Asserts that everything that ever came was a request by the letter, or the beginning of one.
    #[track_caller]
    pub fn assert_strict(&self, what: &str) {
        for taken in self.taken() {
            if let Some(why) = taken.invalid {
                panic!("{what}: the app was sent what is no request: {why}\n{}", String::from_utf8_lossy(&taken.bytes));
            }
        }
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.address);
    }
}

fn record(
    mut socket: TcpStream,
    all: &Mutex<Vec<Taken>>,
    at: usize,
    answer: &(dyn Fn(&Message) -> Vec<u8> + Send + Sync),
) {
    let _ = socket.set_nodelay(true);
    let (mut rest, mut piece) = (Vec::new(), vec![0; 64 * 1024]);
    loop {
        let read = socket.read(&mut piece).unwrap_or_default();
        {
            let mut all = all.lock().unwrap();
            all[at].bytes.extend_from_slice(&piece[..read]);
            all[at].closed = read == 0;
        }
        if read == 0 {
            return;
        }
        rest.extend_from_slice(&piece[..read]);
        loop {
            match strict::request(&rest) {
                Ok((message, length)) => {
                    rest.drain(..length);
                    let bytes = answer(&message);
                    all.lock().unwrap()[at].messages.push(message);
                    if socket.write_all(&bytes).is_err() {
                        return;
                    }
                }
                Err(Fault::Incomplete) => break,
                Err(Fault::Invalid(why)) => {
                    all.lock().unwrap()[at].invalid = Some(why);
                    return;
                }
            }
        }
    }
}
