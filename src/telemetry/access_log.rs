//! The access log: one JSON object a line, written by a thread of its own so that a slow disk never holds a request.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::{Condvar, Mutex};
use serde::Serialize;

use super::Metrics;

/// Where lines go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    Stdout,
    Stderr,
    File(PathBuf),
}

/// One finished exchange, as the line shows it. Empty texts and absent values are left out of no line: each line has the
/// same fields, so that tools can rely on them.
#[derive(Serialize)]
pub struct AccessLine<'a> {
    /// RFC 3339, milliseconds, UTC: when the request's head came.
    pub time: String,
    pub request_id: &'a str,
    pub trace_id: &'a str,
    pub direction: &'static str,
    /// The verified SPIFFE id, else the address.
    pub peer: &'a str,
    pub method: &'a str,
    pub host: &'a str,
    pub path: &'a str,
    pub protocol: &'static str,
    pub status: u16,
    pub reason: &'static str,
    pub service: &'a str,
    pub route: &'a str,
    pub endpoint: &'a str,
    pub attempts: u32,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub duration_ms: f64,
    /// Until the head of the answer came; `null` where none did.
    pub upstream_ms: Option<f64>,
    pub detail: &'a str,
}

/// Takes lines; clones share one writer.
#[derive(Clone)]
pub struct AccessLog {
    shared: Arc<Shared>,
    /// The last clone that goes (a reload replaced the log, its exchanges have ended) ends the writer.
    _last: Arc<EndWriter>,
    sample: f64,
}

struct EndWriter(Arc<Shared>);

impl Drop for EndWriter {
    fn drop(&mut self) {
        self.0.pending.lock().closed = true;
        self.0.wake.notify_all();
    }
}

struct Shared {
    pending: Mutex<Pending>,
    wake: Condvar,
    metrics: Arc<Metrics>,
}

#[derive(Default)]
struct Pending {
    lines: Vec<u8>,
    closed: bool,
    done: bool,
}

impl AccessLog {
    /// Opens the destination (a file is appended to) and starts the writer. `sample` is the share of lines of ordinary
    /// requests that are written, 0.0 to 1.0.
    pub fn open(destination: &Destination, sample: f64, metrics: Arc<Metrics>) -> io::Result<Self> {
        let mut out: Box<dyn Write + Send> = match destination {
            Destination::Stdout => Box::new(io::stdout()),
            Destination::Stderr => Box::new(io::stderr()),
            Destination::File(path) => Box::new(OpenOptions::new().create(true).append(true).open(path)?),
        };
        let shared = Arc::new(Shared { pending: Mutex::default(), wake: Condvar::new(), metrics });
        let writer = shared.clone();
        std::thread::Builder::new().name("access-log".into()).spawn(move || writer.write_all(&mut *out))?;
        Ok(Self { _last: Arc::new(EndWriter(shared.clone())), shared, sample })
    }

    /// Whether an ordinary request's line is wanted; lines of errors always are.
    pub fn samples(&self) -> bool {
        self.sample >= 1.0 || fastrand::f64() < self.sample
    }

    pub fn write(&self, line: &AccessLine<'_>) {
        let mut pending = self.shared.pending.lock();
        if pending.lines.len() > MOST_PENDING {
            self.shared.metrics.access_lines_lost(1);
            return;
        }
        let before = pending.lines.len();
        if serde_json::to_writer(&mut pending.lines, line).is_err() {
            // Nothing in a line can fail to serialize; half a line would spoil the next one.
            pending.lines.truncate(before);
            return;
        }
        pending.lines.push(b'\n');
        if before == 0 {
            self.shared.wake.notify_one();
        }
    }

    /// Writes what is pending, waiting at most `limit`; lines after this are lost.
    pub fn close(&self, limit: Duration) {
        let mut pending = self.shared.pending.lock();
        pending.closed = true;
        self.shared.wake.notify_all();
        let end = std::time::Instant::now() + limit;
        while !pending.done && !self.shared.wake.wait_until(&mut pending, end).timed_out() {}
    }
}

impl Shared {
    fn write_all(&self, out: &mut dyn Write) {
        let mut batch = Vec::new();
        let mut failing = false;
        loop {
            {
                let mut pending = self.pending.lock();
                while pending.lines.is_empty() && !pending.closed {
                    self.wake.wait(&mut pending);
                }
                if pending.lines.is_empty() {
                    pending.done = true;
                    self.wake.notify_all();
                    return;
                }
                std::mem::swap(&mut batch, &mut pending.lines);
            }
            let written = out.write_all(&batch).and_then(|()| out.flush());
            if let Err(error) = &written
                && !failing
            {
                tracing::error!(%error, "the access log cannot be written; lines are lost until it can");
            }
            failing = written.is_err();
            if failing {
                self.metrics.access_lines_lost(batch.split(|byte| *byte == b'\n').count() as u64 - 1);
            }
            batch.clear();
            batch.shrink_to(64 * 1024);
        }
    }
}

/// RFC 3339 in UTC with milliseconds.
pub fn timestamp(at: SystemTime) -> String {
    humantime::format_rfc3339_millis(at).to_string()
}

/// Text that an outsider chose, without what moves a terminal's cursor: JSON escapes those of ASCII alone, and not DEL.
pub fn harmless(text: std::borrow::Cow<'_, str>) -> std::borrow::Cow<'_, str> {
    // All ASCII in nearly every line: one look.
    if text.bytes().all(|byte| byte < 0x7f) || !text.contains(char::is_control) {
        return text;
    }
    let mut out = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if c.is_control() && !c.is_ascii() || c == '\u{7f}' {
            let mut bytes = [0; 4];
            out.extend(c.encode_utf8(&mut bytes).bytes().map(|byte| format!("%{byte:02X}")));
        } else {
            out.push(c);
        }
    }
    out.into()
}

/// Path and query for the log: values of query keys that carry credentials are replaced.
pub fn redacted(path_and_query: &str) -> std::borrow::Cow<'_, str> {
    let Some((path, query)) = path_and_query.split_once('?') else { return path_and_query.into() };
    let secret = |pair: &str| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        // `{"` in base64url: how every JSON token begins, whatever its key is called.
        let is_token = value.starts_with("eyJ");
        is_token || SECRET_KEYS.iter().any(|known| key.eq_ignore_ascii_case(known)) || key.contains('%')
    };
    if !query.split('&').any(secret) {
        return path_and_query.into();
    }
    let kept: Vec<String> = query
        .split('&')
        .map(|pair| match pair.split_once('=') {
            Some((key, _)) if secret(pair) => format!("{key}=REDACTED"),
            _ => pair.to_owned(),
        })
        .collect();
    format!("{path}?{}", kept.join("&")).into()
}

/// A percent-encoded key is treated as one of these too: it may be one in disguise.
const SECRET_KEYS: [&str; 10] =
    ["apikey", "api_key", "access_token", "token", "id_token", "jwt", "password", "secret", "signature", "code"];

/// Bytes of lines that may wait for the writer; past that, lines are lost and counted.
const MOST_PENDING: usize = 8 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_in_queries_are_not_logged() {
        for (given, logged) in [
            ("/a", "/a"),
            ("/a?x=1&y=2", "/a?x=1&y=2"),
            ("/a?apikey=s3cret&x=1", "/a?apikey=REDACTED&x=1"),
            ("/a?t=eyJhbGciOiJFUzI1NiJ9.e30.c2ln&x=1", "/a?t=REDACTED&x=1"),
            ("/a?x=1&Access_Token=s3cret", "/a?x=1&Access_Token=REDACTED"),
            ("/a?api%6bey=s3cret", "/a?api%6bey=REDACTED"),
        ] {
            assert_eq!(redacted(given), logged);
        }
    }

    #[test]
    fn nothing_in_a_line_moves_a_cursor() {
        for (given, logged) in [
            ("/a\u{9b}31m", "/a%C2%9B31m"),
            ("/\u{7f}\u{85}", "/%7F%C2%85"),
            ("/\u{e9}\u{1f600}", "/\u{e9}\u{1f600}"),
            ("/\u{1b}", "/\u{1b}"),
        ] {
            assert_eq!(harmless(given.into()), logged, "{given:?}");
        }
    }

    #[test]
    fn a_log_that_nobody_holds_ends_its_writer() {
        let dir = tempfile::tempdir().unwrap();
        let log = AccessLog::open(&Destination::File(dir.path().join("a.log")), 1.0, Metrics::new()).unwrap();
        let (other, shared) = (log.clone(), Arc::downgrade(&log.shared));
        drop(log);
        assert!(!shared.upgrade().is_some_and(|shared| shared.pending.lock().closed));
        drop(other);
        while shared.strong_count() > 0 {
            std::thread::yield_now();
        }
    }

    #[test]
    fn lines_reach_the_file_before_close_returns() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("access.log");
        let log = AccessLog::open(&Destination::File(path.clone()), 1.0, Metrics::new()).unwrap();
        let line = AccessLine {
            time: timestamp(SystemTime::UNIX_EPOCH),
            request_id: "r",
            trace_id: "t",
            direction: "inbound",
            peer: "p",
            method: "GET",
            host: "h",
            path: "/\u{1b}[31m\n\"",
            protocol: "HTTP/1.1",
            status: 200,
            reason: "",
            service: "s",
            route: "",
            endpoint: "e",
            attempts: 1,
            bytes_in: 0,
            bytes_out: 1,
            duration_ms: 1.5,
            upstream_ms: None,
            detail: "",
        };
        for _ in 0..100 {
            log.write(&line);
        }
        log.close(Duration::from_secs(5));
        let text = std::fs::read_to_string(path).unwrap();
        assert_eq!(text.lines().count(), 100);
        let parsed: serde_json::Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
        assert_eq!((&parsed["time"], &parsed["path"]), (&"1970-01-01T00:00:00.000Z".into(), &"/\u{1b}[31m\n\"".into()));
        assert!(!text.contains('\u{1b}'), "control characters are escaped");
    }
}
