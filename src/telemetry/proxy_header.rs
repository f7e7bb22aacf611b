//! What load balancers said of their connections, counted.

use super::Metrics;

/// What became of the beginning of a connection where PROXY headers are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyHeader {
    /// The header names the client.
    Client,
    /// The sender speaks for itself, or cannot say for whom.
    Sender,
    /// A trusted source sent something else.
    Missing,
    Malformed,
    TimedOut,
    /// Another source sent one.
    Untrusted,
    /// Closed before its first byte.
    Closed,
}

impl ProxyHeader {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Sender => "sender",
            Self::Missing => "missing",
            Self::Malformed => "malformed",
            Self::TimedOut => "timed_out",
            Self::Untrusted => "untrusted",
            Self::Closed => "closed",
        }
    }
}

impl Metrics {
    pub fn proxy_header(&self, outcome: ProxyHeader) {
        self.proxy_headers.with_label_values(&[outcome.as_str()]).inc();
    }
}
