//! How fresh the keys of token issuers are, and how their fetches end.

use prometheus::{GaugeVec, IntCounter};

/// How a fetch of an issuer's keys ended: label values of `outrigger_jwks_fetches_total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JwksOutcome {
    Changed,
    Unchanged,
    Failed,
}

impl JwksOutcome {
    pub const ALL: [Self; 3] = [Self::Changed, Self::Unchanged, Self::Failed];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Changed => "changed",
            Self::Unchanged => "unchanged",
            Self::Failed => "failed",
        }
    }
}

/// The handles of one issuer's keys.
pub struct JwksCounts {
    fetches: [IntCounter; JwksOutcome::ALL.len()],
    last_answer: GaugeVec,
    issuer: Box<str>,
}

impl JwksCounts {
    pub(super) fn new(issuer: &str, last_answer: &GaugeVec, resolve: impl Fn(&str) -> IntCounter) -> Self {
        let fetches = JwksOutcome::ALL.map(|outcome| resolve(outcome.as_str()));
        Self { fetches, last_answer: last_answer.clone(), issuer: issuer.into() }
    }

    /// `seconds` since 1970.
    pub fn answered(&self, outcome: JwksOutcome, seconds: f64) {
        self.fetches[outcome as usize].inc();
        self.last_answer.with_label_values(&[&self.issuer]).set(seconds);
    }

    pub fn failed(&self) {
        self.fetches[JwksOutcome::Failed as usize].inc();
    }

    /// Drops the age of keys that nobody uses any more.
    pub fn forget(&self) {
        let _ = self.last_answer.remove_label_values(&[&self.issuer]);
    }
}
