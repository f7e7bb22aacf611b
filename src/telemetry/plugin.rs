//! What plugins decided, counted.

use prometheus::IntCounter;

use super::Metrics;

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
    pub fn count(&self, decision: PluginDecision) {
        self.0[decision as usize].inc();
    }
}

impl Metrics {
    /// The handles of one plugin; resolve once, keep. `plugin` is one of `filter::Settings`' names.
    #[must_use]
    pub fn plugin(&self, plugin: &'static str) -> PluginCounts {
        PluginCounts(DECISIONS.map(|decision| self.plugin_decisions.with_label_values(&[plugin, decision])))
    }
}
