//! The process's environment as a value: read once, handed in, so that tests need no process-wide variables.

use std::collections::BTreeMap;
use std::ffi::OsString;

/// Variables by name. Those that are not UTF-8 are left out.
#[derive(Clone, Default)]
pub struct Environment(BTreeMap<String, String>);

impl Environment {
    /// The environment of this process, for `main`.
    pub fn of_process() -> Self {
        Self::from_os(std::env::vars_os())
    }

    fn from_os(variables: impl Iterator<Item = (OsString, OsString)>) -> Self {
        Self(
            variables.filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?))).collect(),
        )
    }

    #[cfg(test)]
    pub(crate) fn of<const N: usize>(variables: [(&str, &str); N]) -> Self {
        Self(variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
    }

    /// A variable that is set and not empty: an empty one says nothing.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.get_raw(name).filter(|value| !value.is_empty())
    }

    /// Also the empty ones, for `${NAME}`.
    pub(super) fn get_raw(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// The machine's name in characters that a service id may hold.
    pub(super) fn hostname(&self) -> String {
        let kernel = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let name = Some(kernel.trim()).filter(|name| !name.is_empty()).or_else(|| self.get("HOSTNAME"));
        let safe: String = name
            .unwrap_or_default()
            .to_lowercase()
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() || matches!(c, '-' | '.') { c } else { '-' })
            .take(63)
            .collect();
        let safe = safe.trim_matches(['-', '.']);
        if safe.is_empty() { "localhost".into() } else { safe.into() }
    }
}

/// Values may be secrets (CONSUL_HTTP_TOKEN): only names are shown.
impl std::fmt::Debug for Environment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}
