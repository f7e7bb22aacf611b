//! How fresh the keys of token issuers are, and how their fetches end.

use prometheus::{GaugeVec, IntCounter};

use super::Metrics;

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

impl Metrics {
    /// The handles of one issuer of tokens, as configured; resolve once, keep.
    #[must_use]
    pub fn jwks(&self, issuer: &str) -> JwksCounts {
        let of = |outcome: JwksOutcome| self.jwks_fetches.with_label_values(&[issuer, outcome.as_str()]);
        let last_answer = self.jwks_last_answer.clone();
        JwksCounts { fetches: JwksOutcome::ALL.map(of), last_answer, issuer: issuer.into() }
    }
}

/// The handles of one issuer's keys.
pub struct JwksCounts {
    fetches: [IntCounter; JwksOutcome::ALL.len()],
    last_answer: GaugeVec,
    issuer: Box<str>,
}

impl JwksCounts {
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
