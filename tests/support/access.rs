//! Reads the JSON access log.

use std::path::Path;

use serde_json::Value;

use super::{SOON, eventually};

/// Every whole line so far; a line that is no JSON object fails the test.
#[track_caller]
pub fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    let parse = |line: &str| serde_json::from_str(line).unwrap_or_else(|error| panic!("no JSON ({error}): {line}"));
    whole.lines().map(parse).collect()
}

/// Waits for a line whose `key` is `value`.
#[track_caller]
pub fn line_with(path: &Path, key: &str, value: &str) -> Value {
    let what = format!("an access line with {key} = {value} in {}", path.display());
    eventually(SOON, &what, || lines(path).into_iter().find(|line| line[key] == value))
}
