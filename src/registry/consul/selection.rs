//! Which of a service's instances are asked for: a datacenter, and one filter expression that Consul's servers apply.

use std::collections::BTreeMap;
use std::fmt::Write;

/// A subset of a service's instances; all of the agent's own datacenter by default.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Selection {
    filter: Option<String>,
    datacenter: Option<String>,
}

impl Selection {
    /// All instances of one datacenter; `None`: of the agent's own.
    #[must_use]
    pub fn of(datacenter: Option<&str>) -> Self {
        Self { filter: None, datacenter: datacenter.map(str::to_owned) }
    }

    /// Those that have every tag, every Meta entry, and that `filter`, in Consul's expression language, matches.
    ///
    /// Where a sidecar of Consul's own stands before an instance, tags and Meta are the sidecar's, as in the `Filter` of a
    /// service-resolver's subsets; a `sidecar_service` has those of its service.
    #[must_use]
    pub fn with(mut self, tags: &[String], meta: &BTreeMap<String, String>, filter: Option<&str>) -> Self {
        let mut parts: Vec<String> = tags.iter().map(|tag| format!("{} in Service.Tags", quoted(tag))).collect();
        // Only the form in brackets takes a key with `-`.
        parts.extend(meta.iter().map(|(key, value)| format!("Service.Meta[{}] == {}", quoted(key), quoted(value))));
        parts.extend(filter.map(|filter| if parts.is_empty() { filter.to_owned() } else { format!("({filter})") }));
        self.filter = (!parts.is_empty()).then(|| parts.join(" and "));
        self
    }

    pub(super) fn datacenter(&self) -> Option<&str> {
        self.datacenter.as_deref()
    }

    pub(super) fn filter(&self) -> Option<&str> {
        self.filter.as_deref()
    }

    /// The query parameters that say so.
    pub(super) fn query(&self) -> Vec<(&'static str, String)> {
        let part = |key, value: &Option<String>| value.clone().map(|value| (key, value));
        [part("dc", &self.datacenter), part("filter", &self.filter)].into_iter().flatten().collect()
    }

    /// What tells this subset of a service from others, for labels and file names: an expression is told by its hash.
    pub(super) fn suffix(&self) -> String {
        let mut suffix = String::new();
        if let Some(datacenter) = &self.datacenter {
            let _ = write!(suffix, "@{datacenter}");
        }
        if let Some(filter) = &self.filter {
            let _ = write!(suffix, "?{:08x}", rapidhash::v3::rapidhash_v3(filter.as_bytes()) >> 32);
        }
        suffix
    }
}

/// A text of the expression language: in quotes, with Go's escapes (hashicorp/go-bexpr reads it by `strconv.Unquote`). Its
/// grammar ends the text at any `"`, so even an escaped one must not stand in it.
fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for letter in text.chars() {
        match letter {
            '"' => quoted.push_str("\\x22"),
            '\\' => quoted.push_str("\\\\"),
            other => quoted.push(other),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(tags: &[&str], meta: &[(&str, &str)], filter: Option<&str>) -> Option<String> {
        let tags: Vec<String> = tags.iter().map(|tag| (*tag).to_owned()).collect();
        let meta = meta.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Selection::default().with(&tags, &meta, filter).filter
    }

    #[test]
    fn tags_meta_and_filter_become_one_expression() {
        assert_eq!(filter(&[], &[], None), None);
        assert_eq!(filter(&[], &[], Some("a == b or c == d")).as_deref(), Some("a == b or c == d"));
        assert_eq!(
            filter(&["v2", "eu"], &[("a-b", "1.0")], Some("a == b or c == d")).as_deref(),
            Some(
                r#""v2" in Service.Tags and "eu" in Service.Tags and Service.Meta["a-b"] == "1.0" and (a == b or c == d)"#
            )
        );
    }

    #[test]
    fn no_text_ends_its_quotes() {
        assert_eq!(
            filter(&[r#"a" in Service.Tags or "b\"#], &[], None).as_deref(),
            Some(r#""a\x22 in Service.Tags or \x22b\\" in Service.Tags"#)
        );
        assert_eq!(
            filter(&["back`tick", "ä"], &[], None).as_deref(),
            Some(r#""back`tick" in Service.Tags and "ä" in Service.Tags"#)
        );
    }

    #[test]
    fn subsets_of_one_service_have_names_of_their_own() {
        let all = Selection::default();
        let (dc2, dc3) = (Selection::of(Some("dc2")), Selection::of(Some("dc3")));
        let (a, b) =
            (all.clone().with(&[], &BTreeMap::new(), Some("a")), all.clone().with(&[], &BTreeMap::new(), Some("b")));
        let both = dc2.clone().with(&[], &BTreeMap::new(), Some("a"));
        let names: std::collections::BTreeSet<String> =
            [&all, &dc2, &dc3, &a, &b, &both].iter().map(|one| one.suffix()).collect();
        assert_eq!((names.len(), all.suffix().as_str(), dc2.suffix().as_str()), (6, "", "@dc2"));
    }
}
