//! The frames that an HTTP/2 client sends, followed beside the protocol's own parser: frames that cost us work and bring
//! nothing are bounded, and a head that does not come to its end is seen.

use std::time::Instant;

/// Follows one connection's incoming bytes from behind the preface. Bodies are skipped, not looked at.
pub(super) struct Frames {
    /// The nine bytes before each frame (RFC 9113 §4.1), as far as they came.
    head: [u8; HEAD],
    have: usize,
    /// Bytes of the frame's payload that are still to come.
    left: usize,
    /// The kind of the frame that `left` belongs to.
    kind: u8,
    /// A block of header fields has begun, and its END_HEADERS has not come.
    in_block: bool,
    /// The first frame, which must be SETTINGS (RFC 9113 §3.4), is here whole.
    greeted: bool,
    newest_stream: u32,
    idle: Ledger,
    resets: Ledger,
}

/// Why a client is cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Excess {
    /// PING, SETTINGS, PRIORITY, WINDOW_UPDATE, empty DATA and the like (CVE-2019-9511 to 9518).
    Frames,
    /// Streams that were opened only to be reset (CVE-2023-44487).
    Resets,
}

/// What the bytes so far leave open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// Nothing but, perhaps, a body.
    Whole,
    /// A head that began with the bytes just read.
    Begun,
    /// A head that began earlier.
    Unfinished,
}

impl Frames {
    /// `is_peer`: a verified sidecar, which carries the requests of many clients on this connection.
    pub(super) fn new(is_peer: bool) -> Self {
        let (frames, resets) = if is_peer { (PEER_FRAMES, PEER_RESETS) } else { (FRAMES, RESETS) };
        Self {
            head: [0; HEAD],
            have: 0,
            left: 0,
            kind: 0,
            in_block: false,
            greeted: false,
            newest_stream: 0,
            idle: Ledger::new(frames),
            resets: Ledger::new(resets),
        }
    }

    /// Takes the next bytes.
    ///
    /// # Errors
    /// When the client does too much that brings nothing.
    pub(super) fn read(&mut self, mut bytes: &[u8]) -> Result<Standing, Excess> {
        let mut was_open = !self.is_whole();
        loop {
            let skipped = self.left.min(bytes.len());
            self.left -= skipped;
            bytes = &bytes[skipped..];
            if self.left == 0 && self.have == HEAD {
                self.have = 0;
                self.greeted = true;
            }
            if self.is_whole() {
                was_open = false;
            }
            if bytes.is_empty() {
                break;
            }
            let more = (HEAD - self.have).min(bytes.len());
            self.head[self.have..self.have + more].copy_from_slice(&bytes[..more]);
            self.have += more;
            bytes = &bytes[more..];
            if self.have == HEAD {
                self.begin_frame()?;
            }
        }
        Ok(match (self.is_whole(), was_open) {
            (true, _) => Standing::Whole,
            (false, false) => Standing::Begun,
            (false, true) => Standing::Unfinished,
        })
    }

    /// What we sent may be acknowledged by frames that bring nothing.
    pub(super) fn sent(&mut self, bytes: usize) {
        self.idle.earn(i64::try_from(bytes / BYTES_A_FRAME).unwrap_or(i64::MAX));
    }

    fn is_whole(&self) -> bool {
        self.greeted && !self.in_block && (self.have == 0 || (self.have == HEAD && self.kind == DATA))
    }

    fn begin_frame(&mut self) -> Result<(), Excess> {
        let [_, _, _, kind, flags, ref stream @ ..] = self.head;
        self.left = self.head[..3].iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte));
        self.kind = kind;
        let stream = u32::from_be_bytes(*stream) & 0x7fff_ffff;
        match kind {
            HEADERS => {
                self.in_block = flags & END_HEADERS == 0;
                if stream > self.newest_stream {
                    self.newest_stream = stream;
                    self.idle.earn(1);
                    self.resets.earn(1);
                }
            }
            DATA if self.left > 0 => self.idle.earn(1),
            DATA if flags & END_STREAM != 0 => {}
            RST_STREAM => {
                self.resets.spend(2).map_err(|()| Excess::Resets)?;
                self.idle.spend(1).map_err(|()| Excess::Frames)?;
            }
            // Each of these makes us answer.
            PING | SETTINGS => self.idle.spend(2).map_err(|()| Excess::Frames)?,
            kind => {
                if kind == CONTINUATION && flags & END_HEADERS != 0 {
                    self.in_block = false;
                }
                self.idle.spend(1).map_err(|()| Excess::Frames)?;
            }
        }
        Ok(())
    }
}

/// What may be spent: earned by frames that bring something, and refilled by time when it is used up.
struct Ledger {
    left: i64,
    allowance: Allowance,
    refilled: Instant,
}

#[derive(Clone, Copy)]
struct Allowance {
    most: i64,
    per_second: i64,
}

impl Ledger {
    fn new(allowance: Allowance) -> Self {
        Self { left: allowance.most, allowance, refilled: Instant::now() }
    }

    fn earn(&mut self, count: i64) {
        self.left = self.left.saturating_add(count).min(self.allowance.most);
    }

    /// The clock is looked at only when nothing is left.
    fn spend(&mut self, count: i64) -> Result<(), ()> {
        self.left -= count;
        if self.left >= 0 {
            return Ok(());
        }
        let now = Instant::now();
        let millis = i64::try_from((now - self.refilled).as_millis()).unwrap_or(i64::MAX);
        self.refilled = now;
        self.earn(millis.saturating_mul(self.allowance.per_second) / 1000);
        if self.left >= 0 { Ok(()) } else { Err(()) }
    }
}

const HEAD: usize = 9;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// Beyond one for each request, each DATA frame with content, and each `BYTES_A_FRAME` that we sent.
const FRAMES: Allowance = Allowance { most: 10_000, per_second: 1_000 };
/// Beyond half of the requests.
const RESETS: Allowance = Allowance { most: 1_000, per_second: 50 };
const PEER_FRAMES: Allowance = Allowance { most: 100_000, per_second: 10_000 };
const PEER_RESETS: Allowance = Allowance { most: 10_000, per_second: 500 };
/// Even a client that acknowledges each message, however short, with a WINDOW_UPDATE stays within its means.
const BYTES_A_FRAME: usize = 32;

#[cfg(test)]
#[path = "frames_tests.rs"]
mod tests;
