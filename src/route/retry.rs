//! Whether a failed try may be made again, and after which pause: only what is safe, and never in step.

use std::time::Duration;

use http::{Method, StatusCode};

/// How a try failed, as far as it matters for trying again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// Not a byte of the request can have been acted on: the connection was never made, or the peer refused the stream
    /// (RFC 9113 §8.7). Safe for any method.
    Unsent,
    /// The connection ended before the answer's head came; the request may have been acted on. A connection that was
    /// used before may just have been closed by its peer for idleness at the same moment.
    Reset { reused: bool },
    /// The endpoint answered, or did not within the limit of a try, which counts as 504.
    Status(StatusCode),
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
    /// Which statuses are tried again, for the methods below.
    pub on_status: StatusSet,
    pub methods: Vec<Method>,
    /// Limit of one try, from its endpoint's choice to the answer's head; never longer than what is left of the request's.
    pub per_try_timeout: Option<Duration>,
    pub backoff: Backoff,
    /// Bytes of a request body that are kept for another try. A longer body is streamed, and the request is not tried
    /// again once it was sent.
    pub body_limit: usize,
}

impl RetryPolicy {
    /// Whether a try may follow, budget aside. `tries` counts those that were made.
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
                Failure::Status(status) => self.on_status.contains(status) && self.methods.contains(method),
                Failure::Final => false,
            }
    }
}

impl Default for RetryPolicy {
    fn default() -> Self {
        let methods = vec![Method::GET, Method::HEAD, Method::OPTIONS, Method::PUT, Method::DELETE];
        Self {
            attempts: 2,
            on_unsent: true,
            on_reset: OnReset::Always,
            on_status: StatusSet::GATEWAY,
            methods,
            per_try_timeout: Some(Duration::from_secs(5)),
            backoff: Backoff::default(),
            body_limit: 64 * 1024,
        }
    }
}

/// Pauses that double up to a limit, each drawn between nothing and its ceiling ("full jitter": AWS Architecture Blog,
/// "Exponential Backoff And Jitter"), so that callers who failed together do not come back together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// Ceiling before the first retry.
    pub base: Duration,
    /// Ceiling of any.
    pub max: Duration,
}

impl Backoff {
    /// The pause before the next try after `tries` were made; `chance` is a random number from 0.0 to 1.0.
    pub fn pause(&self, tries: u32, chance: f64) -> Duration {
        let ceiling = self.base.saturating_mul(1 << tries.saturating_sub(1).min(16)).min(self.max);
        ceiling.mul_f64(chance.clamp(0.0, 1.0))
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Self { base: Duration::from_millis(25), max: Duration::from_millis(250) }
    }
}

/// A set of statuses from 400 to 599, asked for with each answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StatusSet([u64; 4]);

impl StatusSet {
    pub const EMPTY: Self = Self([0; 4]);
    /// 502, 503 and 504: what says that another instance may do better.
    pub const GATEWAY: Self = Self([0, 0b111 << (502 - 400 - 64), 0, 0]);

    pub fn contains(&self, status: StatusCode) -> bool {
        place(status).is_some_and(|(word, bit)| self.0[word] & bit != 0)
    }
}

impl FromIterator<StatusCode> for StatusSet {
    /// Statuses outside 400 to 599 are no failures and left out.
    fn from_iter<T: IntoIterator<Item = StatusCode>>(statuses: T) -> Self {
        let mut set = Self::EMPTY;
        for (word, bit) in statuses.into_iter().filter_map(place) {
            set.0[word] |= bit;
        }
        set
    }
}

fn place(status: StatusCode) -> Option<(usize, u64)> {
    let at = usize::from(status.as_u16()).checked_sub(400).filter(|at| *at < 200)?;
    Some((at / 64, 1 << (at % 64)))
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

    #[test]
    fn statuses_are_tried_again_by_set_and_method() {
        let policy = RetryPolicy::default();
        let status = |code| Failure::Status(StatusCode::from_u16(code).unwrap());
        for code in [502, 503, 504] {
            assert!(policy.allows(status(code), &Method::GET, 1), "{code}");
            assert!(!policy.allows(status(code), &Method::POST, 1), "{code}");
        }
        for code in [200, 404, 500, 501, 505] {
            assert!(!policy.allows(status(code), &Method::GET, 1), "{code}");
        }
    }

    #[test]
    fn a_set_holds_what_was_put_in() {
        let codes = [400, 429, 463, 464, 502, 527, 528, 599];
        let set: StatusSet = codes.iter().map(|code| StatusCode::from_u16(*code).unwrap()).collect();
        for code in 100..1000 {
            assert_eq!(set.contains(StatusCode::from_u16(code).unwrap()), codes.contains(&code), "{code}");
        }
        assert_eq!(StatusSet::GATEWAY, [502, 503, 504].map(|c| StatusCode::from_u16(c).unwrap()).into_iter().collect());
        assert_eq!([StatusCode::OK].into_iter().collect::<StatusSet>(), StatusSet::EMPTY);
    }

    #[test]
    fn pauses_double_up_to_their_limit_and_are_drawn_from_nothing_on() {
        let backoff = Backoff::default();
        let ceilings: Vec<u128> = (1..=6).map(|tries| backoff.pause(tries, 1.0).as_millis()).collect();
        assert_eq!(ceilings, [25, 50, 100, 200, 250, 250]);
        assert_eq!(backoff.pause(3, 0.0), Duration::ZERO);
        assert_eq!(backoff.pause(2, 0.5), Duration::from_millis(25));
        assert_eq!(backoff.pause(u32::MAX, 1.0), Duration::from_millis(250));
    }
}
