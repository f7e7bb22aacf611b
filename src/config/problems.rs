//! Mistakes of a configuration: where, which key, what is wrong, how to mend it. Gathered, never thrown.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};

/// Where a value was written.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// Line and column in the file, both counted from 1; a column is a character.
    File { line: usize, column: usize },
    /// `--port`.
    Flag(&'static str),
    /// `OUTRIGGER_PORT`.
    Env(&'static str),
    /// Written in the table of keys.
    Default,
}

impl Place {
    pub(super) const START: Self = Self::File { line: 1, column: 1 };
}

/// What is wrong with one value, and how to mend it; the place is added by whoever knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) problem: String,
    pub(super) mend: String,
}

impl Fault {
    pub(super) fn new(problem: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { problem: problem.into(), mend: mend.into() }
    }
}

/// One mistake. Sorted by place, then key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    pub place: Place,
    /// `outbound.upstreams[2].service`; `file` where the whole file is meant.
    pub key: String,
    pub what: String,
    pub mend: String,
}

/// Every mistake of one load, sorted. Printed one line each:
/// `FILE:LINE:COL: key.path: what is wrong; how to mend it`, or `flag --port: …`, `env OUTRIGGER_PORT: …`.
#[derive(Debug, Clone, PartialEq, Eq, Default, thiserror::Error)]
pub struct Problems {
    file: Option<PathBuf>,
    list: BTreeSet<Problem>,
}

impl Problems {
    pub(super) fn of(file: Option<&Path>) -> Self {
        Self { file: file.map(Path::to_owned), list: BTreeSet::new() }
    }

    /// Notes a mistake. The first one at a place and key wins: what follows from it is noise.
    pub(super) fn note(&mut self, place: &Place, key: &str, fault: Fault) {
        let key = if key.is_empty() { "file" } else { key };
        if self.is_full() || self.list.iter().any(|known| known.place == *place && known.key == key) {
            return;
        }
        let Fault { problem, mend } = fault;
        self.list.insert(Problem {
            place: place.clone(),
            key: one_line(key),
            what: one_line(&problem),
            mend: one_line(&mend),
        });
    }

    /// So many mistakes that more are not gathered.
    pub(super) fn is_full(&self) -> bool {
        self.list.len() >= MOST
    }

    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Problem> {
        self.list.iter()
    }

    /// The file as it was named by the user; `None` where flags alone made the configuration.
    pub fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// One line, without a line feed.
    fn line(&self, problem: &Problem) -> String {
        let Problem { place, key, what, mend } = problem;
        match place {
            Place::File { line, column } => {
                let file = self.file.as_deref().unwrap_or(Path::new("-")).display();
                format!("{file}:{line}:{column}: {key}: {what}; {mend}")
            }
            Place::Flag(flag) => format!("flag {flag}: {what}; {mend}"),
            Place::Env(name) => format!("env {name}: {what}; {mend}"),
            Place::Default => format!("default of {key}: {what}; {mend}"),
        }
    }

    /// An array of `{file,line,column,key,problem,mend}`; a flag or variable stands in `source` instead of a file.
    pub fn to_json(&self) -> serde_json::Value {
        let file = self.file.as_deref().map(|file| file.display().to_string());
        let entry = |one: &Problem| {
            let (file, line, column, source) = match &one.place {
                Place::File { line, column } => (file.clone(), Some(*line), Some(*column), None),
                Place::Flag(flag) => (None, None, None, Some(format!("flag {flag}"))),
                Place::Env(name) => (None, None, None, Some(format!("env {name}"))),
                Place::Default => (None, None, None, Some("default".to_owned())),
            };
            let mut entry = serde_json::json!({
                "file": file, "line": line, "column": column,
                "key": one.key, "problem": one.what, "mend": one.mend,
            });
            if let Some(source) = source {
                entry["source"] = source.into();
            }
            entry
        };
        self.list.iter().map(entry).collect()
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, problem) in self.list.iter().enumerate() {
            if at > 0 {
                f.write_str("\n")?;
            }
            f.write_str(&self.line(problem))?;
        }
        Ok(())
    }
}

/// More would help nobody, and a hostile file could hold a million.
const MOST: usize = 1000;

/// A mistake is one line, and no text from a file may steer a terminal. Long texts are cut.
fn one_line(text: &str) -> String {
    const LONGEST: usize = 400;
    let mut line: String = text
        .chars()
        .take(LONGEST)
        .flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] })
        .collect();
    if text.chars().nth(LONGEST).is_some() {
        line.push('…');
    }
    line
}

/// The word among `known` that `word` was probably meant to be.
pub(super) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if word.chars().count() > 64 {
        return None;
    }
    let allowed = (word.chars().count() / 3).max(1);
    known
        .into_iter()
        .map(|candidate| (distance(word, candidate), candidate))
        .filter(|(distance, _)| *distance <= allowed)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Levenshtein's distance, with a swap of neighbours as one step.
fn distance(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.to_lowercase().chars().collect();
    let b: Vec<char> = b.to_lowercase().chars().collect();
    let mut rows: Vec<Vec<usize>> = vec![(0..=b.len()).collect()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let substitute = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = substitute.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word_is_found_and_a_far_one_is_not() {
        let known = ["listen", "limits", "timeouts"];
        assert_eq!(nearest("lisen", known), Some("listen"));
        assert_eq!(nearest("Listen", known), Some("listen"));
        assert_eq!(nearest("limist", known), Some("limits"));
        assert_eq!(nearest("timeout", known), Some("timeouts"));
        assert_eq!(nearest("gateway", known), None);
    }

    #[test]
    fn a_mistake_is_one_line_without_control_characters() {
        let mut problems = Problems::of(Some(Path::new("o.yaml")));
        problems.note(&Place::File { line: 2, column: 3 }, "a.b", Fault::new("bad \x1b[31m\n", "mend"));
        assert_eq!(problems.to_string(), "o.yaml:2:3: a.b: bad \\u{1b}[31m\\n; mend");
    }
}
