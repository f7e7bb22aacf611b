//! What plugins decided, counted.

use prometheus::IntCounter;

/// What a plugin decided of a request; `would_…` in shadow mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PluginDecision {
    Passed,
    Delayed,
    Answered,
    Refused,
    WouldDelay,
    WouldAnswer,
    WouldRefuse,
}

/// The label's values, in the order of the variants.
const DECISIONS: [&str; 7] =
    ["passed", "delayed", "answered", "refused", "would_delay", "would_answer", "would_refuse"];

/// The handles of one plugin.
#[derive(Clone)]
pub struct PluginCounts([IntCounter; DECISIONS.len()]);

impl PluginCounts {
    pub(super) fn new(resolve: impl Fn(&str) -> IntCounter) -> Self {
        Self(DECISIONS.map(resolve))
    }

    pub fn count(&self, decision: PluginDecision) {
        self.0[decision as usize].inc();
    }
}
