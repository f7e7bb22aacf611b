//! What must hold of any text as a configuration file, for fuzzing.

use std::path::PathBuf;

use super::problems::Place;
use super::{Environment, Flags, Loader};

/// It is loaded, or every mistake is one line of plain text at a place that the file has.
pub fn text(data: &[u8]) {
    let loader = Loader::new(Some(PathBuf::from("o.yaml")), Flags::default(), Environment::default());
    let Err(problems) = loader.load_bytes(data) else { return };
    assert!(!problems.is_empty(), "refused without a mistake");
    let lines = String::from_utf8_lossy(data).split(['\n', '\r', '\u{85}', '\u{2028}', '\u{2029}']).count();
    for problem in problems.iter() {
        assert!(!problem.key.is_empty() && !problem.what.is_empty() && !problem.mend.is_empty(), "{problem:?}");
        match problem.place {
            Place::File { line, column } => {
                assert!((1..=lines + 1).contains(&line) && column >= 1, "{problem:?} of {lines} lines");
            }
            Place::Flag(_) | Place::Env(_) => panic!("{problem:?}: nothing was given there"),
            Place::Default => panic!("{problem:?}: a default of ours is wrong"),
        }
    }
    let shown = problems.to_string();
    assert!(shown.lines().count() == problems.iter().count() && !shown.chars().any(|c| c.is_control() && c != '\n'));
    assert!(problems.to_json().as_array().is_some_and(|list| list.len() == problems.iter().count()));
}
