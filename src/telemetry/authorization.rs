//! Who was let in, counted.

use prometheus::IntCounter;

use super::Metrics;

/// What was decided of a request, or of a connection without HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Authorization {
    Allowed,
    Denied,
    /// A caller in plain text that a permissive listener takes: let in without being asked who it is.
    Unidentified,
}

/// The label's values, in the order of the variants.
const DECISIONS: [&str; 3] = ["allowed", "denied", "unidentified"];

/// The handles of the inbound side.
#[derive(Clone)]
pub struct AuthorizationCounts([IntCounter; DECISIONS.len()]);

impl AuthorizationCounts {
    fn new(resolve: impl Fn(&str) -> IntCounter) -> Self {
        Self(DECISIONS.map(resolve))
    }

    pub fn count(&self, decision: Authorization) {
        self.0[decision as usize].inc();
    }
}

impl Metrics {
    #[must_use]
    pub fn authorization(&self) -> AuthorizationCounts {
        AuthorizationCounts::new(|decision| self.authorization.with_label_values(&[decision]))
    }
}
