//! Regular expressions of plugins: searched in linear time (RE2's syntax: no back-references, no look-around), over bytes.

use regex::bytes::{RegexSet, RegexSetBuilder};

/// Several expressions, of which one may match anywhere in a text.
#[derive(Debug, Clone)]
pub struct Expressions(RegexSet);

impl PartialEq for Expressions {
    fn eq(&self, other: &Self) -> bool {
        self.0.patterns() == other.0.patterns()
    }
}

impl Expressions {
    /// # Errors
    /// What is wrong with one of them, or that they take more than 256 KiB when compiled.
    pub fn compile<T: AsRef<str>>(texts: impl IntoIterator<Item = T>) -> Result<Self, String> {
        let built = RegexSetBuilder::new(texts)
            .unicode(false)
            .size_limit(256 << 10)
            .dfa_size_limit(256 << 10)
            .nest_limit(64)
            .build();
        // The parser's message draws the expression over several lines; its last line says what is wrong.
        built.map(Self).map_err(|error| match error {
            regex::Error::CompiledTooBig(limit) => format!("it takes more than {limit} bytes when compiled"),
            error => error.to_string().lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned(),
        })
    }

    /// As `compile`, each to match a text from its beginning to its end.
    ///
    /// # Errors
    /// As `compile`.
    pub fn anchored<T: AsRef<str>>(texts: impl IntoIterator<Item = T>) -> Result<Self, String> {
        Self::compile(texts.into_iter().map(|text| format!("^(?:{})$", text.as_ref())))
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
