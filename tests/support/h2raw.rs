//! HTTP/2 on a bare socket, frame by frame: what is sent is what the test says, however wrong it is.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread::JoinHandle;

use super::SOON;
use super::tcp::connect;

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 1;
pub const ACK: u8 = 1;
pub const END_HEADERS: u8 = 4;
pub const PADDED: u8 = 8;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A client's side.
pub struct Raw {
    socket: TcpStream,
}

#[derive(Debug, Clone)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

/// What became of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Answered(u16),
    Reset,
    /// GOAWAY, or an end without.
    Ended,
}

/// RFC 9113 §4.1.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// Field lines as literals without indexing (RFC 7541 §6.2.2), with whatever bytes they are.
pub fn block(fields: &[(&[u8], &[u8])]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in fields {
        bytes.push(0);
        string(&mut bytes, name);
        string(&mut bytes, value);
    }
    bytes
}

pub fn string(bytes: &mut Vec<u8>, text: &[u8]) {
    // RFC 7541 §5.1: an integer with a prefix of seven bits.
    let mut left = text.len();
    if left < 127 {
        bytes.push(u8::try_from(left).unwrap());
    } else {
        bytes.push(127);
        left -= 127;
        while left >= 128 {
            bytes.push(u8::try_from(left % 128 + 128).unwrap());
            left /= 128;
        }
        bytes.push(u8::try_from(left).unwrap());
    }
    bytes.extend_from_slice(text);
}

/// The pseudo headers of an ordinary request, then `more`.
pub fn request(method: &str, path: &str, more: &[(&str, &str)]) -> Vec<u8> {
    let fields = [(":method", method), (":scheme", "http"), (":authority", "users"), (":path", path)];
    let all: Vec<_> = fields.iter().chain(more).map(|(name, value)| (name.as_bytes(), value.as_bytes())).collect();
    block(&all)
}

/// HEADERS of a request in one frame.
pub fn headers(stream: u32, block: &[u8], ends: bool) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | if ends { END_STREAM } else { 0 }, stream, block)
}

impl Raw {
    /// Sends the preface and empty SETTINGS.
    #[track_caller]
    pub fn to(address: SocketAddr) -> Self {
        Self::with_settings(address, &[])
    }

    #[track_caller]
    pub fn with_settings(address: SocketAddr, settings: &[(u16, u32)]) -> Self {
        let mut raw = Self::silent(address);
        let mut payload = Vec::new();
        for (id, value) in settings {
            payload.extend_from_slice(&id.to_be_bytes());
            payload.extend_from_slice(&value.to_be_bytes());
        }
        raw.send(&frame(SETTINGS, 0, 0, &payload)).unwrap();
        raw
    }

    /// Sends the preface alone.
    #[track_caller]
    pub fn silent(address: SocketAddr) -> Self {
        let mut socket = connect(address);
        socket.write_all(PREFACE).unwrap();
        Self { socket }
    }

    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.socket.write_all(bytes)
    }

    /// Sends the same again and again, `size` bytes in all or until the other side has had enough; how many bytes went.
    pub fn flood(&mut self, bytes: &[u8], size: usize) -> usize {
        let many = bytes.repeat(1 + 16 * 1024 / bytes.len());
        let mut sent = 0;
        while sent < size && self.send(&many).is_ok() {
            sent += many.len();
        }
        sent
    }

    pub fn read(&mut self) -> io::Result<Frame> {
        let mut head = [0; 9];
        self.socket.read_exact(&mut head)?;
        let [a, b, c, kind, flags, w, x, y, z] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        self.socket.read_exact(&mut payload)?;
        Ok(Frame { kind, flags, stream: u32::from_be_bytes([w, x, y, z]), payload })
    }

    /// Reads, acknowledging SETTINGS and answering PING, until that stream is answered, reset, or the connection ends.
    pub fn fate(&mut self, stream: u32) -> Fate {
        loop {
            let Ok(frame) = self.read() else { return Fate::Ended };
            match frame.kind {
                SETTINGS if frame.flags & ACK == 0 => drop(self.send(&self::frame(SETTINGS, ACK, 0, &[]))),
                PING if frame.flags & ACK == 0 => drop(self.send(&self::frame(PING, ACK, 0, &frame.payload))),
                HEADERS if frame.stream == stream => return Fate::Answered(status(&frame.payload)),
                RST_STREAM if frame.stream == stream => return Fate::Reset,
                GOAWAY => return Fate::Ended,
                _ => {}
            }
        }
    }

    /// Reads to the end; all frames that came. Panics where the other side keeps the connection.
    #[track_caller]
    pub fn until_closed(&mut self) -> Vec<Frame> {
        let mut frames = Vec::new();
        loop {
            match self.read() {
                Ok(frame) => frames.push(frame),
                Err(error) if is_timeout(&error) => panic!("still open after {SOON:?}, after {} frames", frames.len()),
                Err(_) => return frames,
            }
        }
    }

    /// Reads and drops what comes, beside the test, until the other side closes: whether it did.
    pub fn drain(&self) -> JoinHandle<bool> {
        let mut socket = self.socket.try_clone().unwrap();
        std::thread::spawn(move || match io::copy(&mut socket, &mut io::sink()) {
            Ok(_) => true,
            Err(error) => !is_timeout(&error),
        })
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

/// The status, which is the first field of an answer: indexed (RFC 7541 appendix A), or three digits with Huffman's code
/// (appendix B) or without.
fn status(block: &[u8]) -> u16 {
    match block {
        [first @ 0x88..=0x8e, ..] => [200, 204, 206, 304, 400, 404, 500][usize::from(first - 0x88)],
        [_, length, rest @ ..] if length & 0x80 != 0 => huffman_digits(&rest[..usize::from(length & 0x7f)]),
        [_, 3, digits @ ..] => String::from_utf8_lossy(&digits[..3]).parse().unwrap(),
        other => panic!("no status: {other:x?}"),
    }
}

fn huffman_digits(bytes: &[u8]) -> u16 {
    let bits: Vec<u8> = bytes.iter().flat_map(|byte| (0..8).rev().map(move |at| byte >> at & 1)).collect();
    let (mut at, mut number) = (0, 0);
    for _ in 0..3 {
        let value = |width: usize| bits[at..at + width].iter().fold(0u16, |sum, bit| sum * 2 + u16::from(*bit));
        let (digit, width) = if value(5) < 3 { (value(5), 5) } else { (value(6) - 25 + 3, 6) };
        number = number * 10 + digit;
        at += width;
    }
    number
}

#[test]
fn statuses_are_read() {
    assert_eq!(status(&[0x88]), 200);
    assert_eq!(status(&[0x08, 3, b'4', b'3', b'1']), 431);
    // 4 = 011010, 3 = 011001, 1 = 00001, padded with ones.
    assert_eq!(status(&[0x48, 0x83, 0b0110_1001, 0b1001_0000, 0b1111_1111]), 431);
}
