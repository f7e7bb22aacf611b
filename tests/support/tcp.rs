//! A scripted app without HTTP, and a bare client: what closes, and how, can be seen at both ends.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use super::SOON;

/// What the app does with each connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Script {
    /// Sends back what comes until the client has closed its side; then says ` bye` and closes.
    Echo,
    /// Speaks first, then as `Echo`.
    Greet,
    /// Resets when the first bytes came.
    Reset,
    /// Reads and never says anything.
    Silent,
    /// Answers anything with these bytes, then as `Echo`.
    Say(&'static str),
}

pub struct TcpApp {
    address: SocketAddr,
    accepted: Arc<AtomicUsize>,
    ended: Arc<AtomicUsize>,
    stopped: Arc<AtomicBool>,
}

impl TcpApp {
    pub fn start(script: Script) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let app = Self {
            address: listener.local_addr().unwrap(),
            accepted: Arc::default(),
            ended: Arc::default(),
            stopped: Arc::default(),
        };
        let (accepted, ended, stopped) = (app.accepted.clone(), app.ended.clone(), app.stopped.clone());
        thread::spawn(move || {
            for socket in listener.incoming().map_while(Result::ok) {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                accepted.fetch_add(1, Ordering::Relaxed);
                let ended = ended.clone();
                thread::spawn(move || {
                    let _ = play(socket, script);
                    ended.fetch_add(1, Ordering::Relaxed);
                });
            }
        });
        app
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Connections so far.
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Connections that have ended.
    pub fn ended(&self) -> usize {
        self.ended.load(Ordering::Relaxed)
    }
}

impl Drop for TcpApp {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.address);
    }
}

fn play(mut socket: TcpStream, script: Script) -> io::Result<()> {
    socket.set_nodelay(true)?;
    match script {
        Script::Reset => {
            // Not before something came: a reset that meets the caller while it connects is another failure.
            let _ = socket.read(&mut [0; 4096])?;
            return reset(&socket);
        }
        Script::Greet => socket.write_all(b"220 ready\r\n")?,
        Script::Say(text) => {
            let mut some = [0; 4096];
            if socket.read(&mut some)? > 0 {
                socket.write_all(text.as_bytes())?;
            }
        }
        Script::Echo | Script::Silent => {}
    }
    let mut piece = vec![0; 64 * 1024];
    loop {
        let read = socket.read(&mut piece)?;
        if read == 0 {
            break;
        }
        if script != Script::Silent {
            socket.write_all(&piece[..read])?;
        }
    }
    if script != Script::Silent {
        socket.write_all(b" bye")?;
    }
    Ok(())
}

/// Makes the drop of the socket a reset.
pub fn reset(socket: &TcpStream) -> io::Result<()> {
    socket2::SockRef::from(socket).set_linger(Some(Duration::ZERO))
}

/// A client's connection with limits on every wait.
#[track_caller]
pub fn connect(to: SocketAddr) -> TcpStream {
    let socket = TcpStream::connect_timeout(&to, SOON).unwrap_or_else(|error| panic!("connecting to {to}: {error}"));
    socket.set_read_timeout(Some(SOON)).unwrap();
    socket.set_write_timeout(Some(SOON)).unwrap();
    socket.set_nodelay(true).unwrap();
    socket
}

/// Sends `text`, closes the sending side, and reads to the end.
pub fn talk(to: SocketAddr, text: &str) -> io::Result<String> {
    let mut socket = connect(to);
    socket.write_all(text.as_bytes())?;
    socket.shutdown(Shutdown::Write)?;
    let mut heard = String::new();
    socket.read_to_string(&mut heard)?;
    Ok(heard)
}

/// Reads exactly `text`.
#[track_caller]
pub fn expect(socket: &mut impl Read, text: &str) {
    let mut heard = vec![0; text.len()];
    socket.read_exact(&mut heard).unwrap_or_else(|error| panic!("waiting for {text:?}: {error}"));
    assert_eq!(String::from_utf8_lossy(&heard), text);
}
