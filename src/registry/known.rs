//! The last good answer of each name that one registry asks for: a name that fails for a while keeps what it had.

use std::collections::BTreeMap;
use std::fmt;

/// Values by name. `watch` is what the log calls them.
pub(super) struct Known<V> {
    watch: String,
    names: BTreeMap<String, Entry<V>>,
}

struct Entry<V> {
    good: Option<V>,
    failing: bool,
}

impl<V: Clone> Known<V> {
    pub(super) fn new(watch: String) -> Self {
        Self { watch, names: BTreeMap::new() }
    }

    /// Takes the newest outcome for `name` and gives what to use: the newest good value, if there ever was one. Says a
    /// change between good and failing once.
    pub(super) fn settle<E: fmt::Display>(&mut self, name: &str, outcome: Result<V, E>) -> Option<V> {
        let entry = self.names.entry(name.to_owned()).or_insert(Entry { good: None, failing: false });
        match outcome {
            Ok(value) => {
                if entry.failing {
                    tracing::info!(watch = %self.watch, name, "name is resolved again");
                }
                *entry = Entry { good: Some(value), failing: false };
            }
            Err(error) => {
                if !entry.failing {
                    let kept = entry.good.is_some();
                    tracing::warn!(watch = %self.watch, name, %error, kept, "name cannot be resolved");
                }
                entry.failing = true;
            }
        }
        entry.good.clone()
    }

    /// Forgets the names that are not asked for any more.
    pub(super) fn retain(&mut self, asked: impl Fn(&str) -> bool) {
        self.names.retain(|name, _| asked(name));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_name_keeps_what_it_had() {
        let mut known = Known::new("fixed/orders".into());
        assert_eq!(known.settle("a", Err::<u8, _>("timed out")), None);
        assert_eq!(known.settle::<&str>("a", Ok(1)), Some(1));
        assert_eq!(known.settle("a", Err("timed out")), Some(1));
        assert_eq!(known.settle("b", Err("timed out")), None);
        known.retain(|name| name == "b");
        assert_eq!(known.settle("a", Err("timed out")), None);
    }
}
