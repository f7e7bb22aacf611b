//! Lists of regular expressions that plugins look for.

use regex::bytes::RegexSet;

use crate::expression::any_of;

/// Several expressions, of which one may match anywhere in a text.
#[derive(Debug, Clone)]
pub struct Expressions(RegexSet);

impl PartialEq for Expressions {
    fn eq(&self, other: &Self) -> bool {
        self.0.patterns() == other.0.patterns()
    }
}

impl Expressions {
    /// Found anywhere in a text.
    ///
    /// # Errors
    /// What is wrong with one of them, or that they take more than 256 KiB when compiled.
    pub fn compile(texts: &[impl AsRef<str>]) -> Result<Self, String> {
        any_of(texts, false).map(Self)
    }

    /// As `compile`, each to match a text from its beginning to its end.
    ///
    /// # Errors
    /// As `compile`.
    pub fn anchored(texts: &[impl AsRef<str>]) -> Result<Self, String> {
        any_of(texts, true).map(Self)
    }

    #[must_use]
    pub fn is_match(&self, text: &[u8]) -> bool {
        !self.0.is_empty() && self.0.is_match(text)
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Default for Expressions {
    fn default() -> Self {
        Self(RegexSet::empty())
    }
}
