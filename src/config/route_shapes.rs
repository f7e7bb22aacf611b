//! The shapes that only routes and plugins have: conditions, header fields, lists of plugins.

use http::HeaderName;

use super::problems::{Fault, Problems};
use super::route_keys::{ANY_PLUGIN, PLUGINS};
use super::shape::{Leaf, check_leaf, check_section};
use super::tree::{Node, Value, join};

pub(super) fn check_conditions(node: &Node, path: &str, problems: &mut Problems) {
    not_a_map(node, path, "write { name: value }", problems);
    for entry in node.entries() {
        let path = join(path, &entry.key);
        match &entry.node.value {
            Value::Map(entries) => match entries.as_slice() {
                [one] if one.key == "regex" => check_leaf(&one.node, Leaf::Text, &join(&path, "regex"), problems),
                [one] if one.key == "present" => check_leaf(&one.node, Leaf::Bool, &join(&path, "present"), problems),
                _ => {
                    let fault = Fault::new("is no condition", "write a text, { regex: … } or { present: true }");
                    problems.note(&entry.node.place, &path, fault);
                }
            },
            Value::Scalar(_) | Value::List(_) => check_leaf(&entry.node, Leaf::TextOrEmpty, &path, problems),
        }
    }
}

pub(super) fn check_fields(node: &Node, path: &str, problems: &mut Problems) {
    not_a_map(node, path, "write { name: \"value\" }", problems);
    for entry in node.entries() {
        let path = join(path, &entry.key);
        if HeaderName::from_bytes(entry.key.as_bytes()).is_err() {
            let fault = Fault::new(format!("{:?} is no name of a header", entry.key), "use letters, digits and `-`");
            problems.note(&entry.place, &path, fault);
        }
        check_leaf(&entry.node, Leaf::TextOrEmpty, &path, problems);
    }
}

fn not_a_map(node: &Node, path: &str, mend: &str, problems: &mut Problems) {
    if !matches!(node.value, Value::Map(_)) && !node.is_null() {
        let fault = Fault::new(format!("must be a section of keys, but is {}", node.kind()), mend);
        problems.note(&node.place, path, fault);
    }
}

pub(super) fn check_plugins(items: &[Node], path: &str, problems: &mut Problems) {
    let mut seen: Vec<&str> = Vec::new();
    for (at, item) in items.iter().enumerate() {
        let path = format!("{path}[{at}]");
        let keys = keys_of(item).unwrap_or(ANY_PLUGIN);
        check_section(item, keys, (&path, &item.place), problems);
        let Some(name) = name_of(item) else { continue };
        if seen.contains(&name) {
            let fault = Fault::new(format!("{name} stands twice in this list"), "remove one of them");
            problems.note(&item.place, &join(&path, "name"), fault);
        }
        seen.push(name);
    }
}

/// The keys of a plugin's entry, if its name is known.
pub(super) fn keys_of(item: &Node) -> Option<&'static [super::shape::Key]> {
    let name = name_of(item)?;
    PLUGINS.iter().find(|(known, _)| *known == name).map(|(_, keys)| *keys)
}

fn name_of(item: &Node) -> Option<&str> {
    match &item.get("name")?.node.value {
        Value::Scalar(scalar) => Some(&scalar.text),
        Value::List(_) | Value::Map(_) => None,
    }
}
