//! Whether a failed try may be made again: only what is safe.

use http::Method;

/// How a try failed, as far as it matters for trying again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// Not a byte of the request can have been acted on: the connection was never made, or the peer refused the stream
    /// (RFC 9113 §8.7). Safe for any method.
    Unsent,
    /// The connection ended before the answer's head came; the request may have been acted on. A connection that was
    /// used before may just have been closed by its peer for idleness at the same moment.
    Reset { reused: bool },
    /// Trying again would not help, or is not allowed.
    Final,
}

/// Which resets may be tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnReset {
    Never,
    /// Only the keep-alive race: toward our own app, where another try meets the same instance.
    Reused,
    Always,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Tries beyond the first.
    pub attempts: u32,
    /// Retry, for any method, what was not sent.
    pub on_unsent: bool,
    /// Which resets are tried again, for the methods below.
    pub on_reset: OnReset,
    pub methods: Vec<Method>,
}

impl RetryPolicy {
    /// Whether a try may follow, budget aside. `replayable` says that the whole request is still at hand.
    pub fn allows(&self, failure: Failure, method: &Method, tries: u32) -> bool {
        tries <= self.attempts
            && match failure {
                Failure::Unsent => self.on_unsent,
                Failure::Reset { reused } => {
                    let allowed = match self.on_reset {
                        OnReset::Never => false,
                        OnReset::Reused => reused,
                        OnReset::Always => true,
                    };
                    allowed && self.methods.contains(method)
                }
                Failure::Final => false,
            }
    }
}

impl Default for RetryPolicy {
    fn default() -> Self {
        let methods = vec![Method::GET, Method::HEAD, Method::OPTIONS, Method::PUT, Method::DELETE];
        Self { attempts: 2, on_unsent: true, on_reset: OnReset::Always, methods }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_safe_is_tried_again() {
        let policy = RetryPolicy::default();
        assert!(policy.allows(Failure::Unsent, &Method::POST, 1), "nothing was sent");
        let reset = Failure::Reset { reused: false };
        assert!(policy.allows(reset, &Method::GET, 2));
        assert!(!policy.allows(reset, &Method::POST, 1), "it may have been acted on");
        assert!(!policy.allows(reset, &Method::GET, 3), "two beyond the first");
        assert!(!policy.allows(Failure::Final, &Method::GET, 1));
        let race_only = RetryPolicy { on_reset: OnReset::Reused, ..policy };
        assert!(!race_only.allows(reset, &Method::GET, 1));
        assert!(race_only.allows(Failure::Reset { reused: true }, &Method::GET, 1));
    }
}
