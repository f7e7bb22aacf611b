//! Whether a failed try may be made again: only what is safe.

use http::Method;

/// How a try failed, as far as it matters for trying again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// Not a byte of the request can have been acted on: the connection was never made, or the peer refused the stream
    /// (RFC 9113 §8.7). Safe for any method.
    Unsent,
    /// The connection ended before the answer's head came; the request may have been acted on.
    Reset,
    /// Trying again would not help, or is not allowed.
    Final,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Tries beyond the first.
    pub attempts: u32,
    /// Retry after a reset, for the methods below.
    pub on_reset: bool,
    pub methods: Vec<Method>,
}

impl RetryPolicy {
    /// Whether a try may follow, budget aside. `replayable` says that the whole request is still at hand.
    pub fn allows(&self, failure: Failure, method: &Method, tries: u32) -> bool {
        tries <= self.attempts
            && match failure {
                Failure::Unsent => true,
                Failure::Reset => self.on_reset && self.methods.contains(method),
                Failure::Final => false,
            }
    }
}

impl Default for RetryPolicy {
    fn default() -> Self {
        let methods = vec![Method::GET, Method::HEAD, Method::OPTIONS, Method::PUT, Method::DELETE];
        Self { attempts: 2, on_reset: true, methods }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_safe_is_tried_again() {
        let policy = RetryPolicy::default();
        assert!(policy.allows(Failure::Unsent, &Method::POST, 1), "nothing was sent");
        assert!(policy.allows(Failure::Reset, &Method::GET, 2));
        assert!(!policy.allows(Failure::Reset, &Method::POST, 1), "it may have been acted on");
        assert!(!policy.allows(Failure::Reset, &Method::GET, 3), "two beyond the first");
        assert!(!policy.allows(Failure::Final, &Method::GET, 1));
        let off = RetryPolicy { on_reset: false, ..policy };
        assert!(!off.allows(Failure::Reset, &Method::GET, 1));
    }
}
