//! The rules of the house, as tests: who may use whom, how long a file may be, where spawning, clocks and label look-ups
//! live. Reads the sources as text; knows nothing of what they do.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

const LONGEST_FILE: usize = 500;
/// Modules that get time and chance as arguments.
const DECIDE: [&str; 4] = ["filter", "service", "route", "access"];

/// One `layer` of the map, with its modules in order.
#[derive(Debug, PartialEq)]
struct Layer {
    name: String,
    modules: Vec<String>,
}

/// A source file with everything that is not code blanked out, line for line.
struct Source {
    path: PathBuf,
    text: String,
    code: Vec<String>,
    /// Whether each line belongs to an item under `#[cfg(test)]`.
    in_test: Vec<bool>,
}

impl Source {
    /// The module of lib.rs that the file belongs to.
    fn module(&self) -> String {
        let inside = self.path.strip_prefix("src").unwrap_or(&self.path);
        inside.iter().next().map(|first| first.to_string_lossy().trim_end_matches(".rs").to_owned()).unwrap_or_default()
    }

    fn is(&self, path: &str) -> bool {
        self.path == Path::new(path)
    }

    /// `path:line` of each line of code that holds `needle`; test code only where `tests_too`.
    fn places<'a>(&'a self, needle: &'a str, tests_too: bool) -> impl Iterator<Item = String> + 'a {
        let lines = self.code.iter().zip(&self.in_test).enumerate();
        lines
            .filter(move |(_, (line, in_test))| (tests_too || !**in_test) && line.contains(needle))
            .map(move |(at, _)| format!("{}:{}", self.path.display(), at + 1))
    }
}

#[test]
fn a_module_uses_only_those_above_it_in_lib_rs() {
    let order: Vec<String> = map().into_iter().flat_map(|layer| layer.modules).collect();
    let rank: BTreeMap<&str, usize> = order.iter().enumerate().map(|(at, name)| (name.as_str(), at)).collect();
    let mut faults = Vec::new();
    for source in sources("src") {
        let module = source.module();
        let Some(own) = rank.get(module.as_str()) else {
            if !["lib", "main"].contains(&module.as_str()) {
                faults.push(format!("{}: module `{module}` has no `mod` line in src/lib.rs", source.path.display()));
            }
            continue;
        };
        for (line, used) in uses(&source) {
            match rank.get(used.as_str()) {
                Some(theirs) if theirs > own => faults.push(format!(
                    "{}:{line}: `{module}` uses `{used}`, which stands below it in src/lib.rs",
                    source.path.display()
                )),
                Some(_) => {}
                None => faults.push(format!("{}:{line}: `crate::{used}` is no module", source.path.display())),
            }
        }
    }
    none(&faults, "a module uses only the modules above it in src/lib.rs; move the code, or pass what it needs in");
}

#[test]
fn no_file_is_longer_than_500_lines() {
    let faults: Vec<String> = sources("src")
        .chain(sources("tests"))
        .filter(|source| source.text.lines().count() > LONGEST_FILE)
        .map(|source| format!("{}: {} lines", source.path.display(), source.text.lines().count()))
        .collect();
    none(&faults, "at most 500 lines a file; split by noun");
}

#[test]
fn every_file_begins_with_its_contract() {
    let faults: Vec<String> = sources("src")
        .chain(sources("tests"))
        .filter(|source| !source.text.starts_with("//! "))
        .map(|source| format!("{}:1", source.path.display()))
        .collect();
    none(&faults, "the first line of a file is `//! ` and what the file is for");
}

#[test]
fn only_lifecycle_rs_spawns() {
    let mut faults = Vec::new();
    for source in sources("src").filter(|source| !source.is("src/lifecycle.rs")) {
        for call in ["tokio::spawn(", "task::spawn(", "spawn_local(", "JoinSet::new", "thread::spawn("] {
            faults.extend(source.places(call, false).map(|place| format!("{place}: `{call}`")));
        }
        if !source.is("src/worker.rs") && source.module() != "telemetry" {
            faults.extend(bare_spawns(&source));
            faults.extend(source.places("thread::Builder", false).map(|place| format!("{place}: a thread")));
        }
    }
    none(&faults, "tasks start in lifecycle.rs (Lifecycle::spawn), threads in worker.rs or telemetry");
}

#[test]
fn labels_are_looked_up_in_telemetry_only() {
    let faults: Vec<String> = sources("src")
        .filter(|source| source.module() != "telemetry")
        .flat_map(|source| source.places("with_label_values", true).collect::<Vec<_>>())
        .collect();
    none(&faults, "metric handles are resolved in src/telemetry/, outside the request's way");
}

#[test]
fn what_decides_has_no_clock_and_no_chance() {
    let mut faults = Vec::new();
    for source in sources("src").filter(|source| DECIDE.contains(&source.module().as_str())) {
        for call in ["Instant::now", "SystemTime::now", "fastrand::", "tokio::"] {
            faults.extend(source.places(call, false).map(|place| format!("{place}: `{call}`")));
        }
    }
    // Who waits for a connection is woken by the count of them, which needs no clock and no runtime.
    faults.retain(|fault| !fault.starts_with("src/service/connections.rs") || !fault.ends_with("`tokio::`"));
    none(&faults, "time and chance come in as arguments in service, route and filter; nothing waits there");
}

#[test]
fn nothing_unwraps_outside_tests() {
    let faults: Vec<String> =
        sources("src").flat_map(|source| source.places(".unwrap()", false).collect::<Vec<_>>()).collect();
    none(&faults, "no unwrap() outside tests: return an error, or `expect` with the reason that it holds");
}

#[test]
fn architecture_md_shows_the_layers_of_lib_rs() {
    let page = fs::read_to_string("ARCHITECTURE.md").expect("ARCHITECTURE.md is there");
    let picture = page.split("```layers\n").nth(1).and_then(|rest| rest.split("```").next());
    let shown: Vec<Layer> = picture
        .expect("ARCHITECTURE.md has a block that begins with ```layers")
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace().map(str::to_owned);
            Some(Layer { name: words.next()?, modules: words.collect() })
        })
        .collect();
    assert_eq!(shown, map(), "left: ARCHITECTURE.md, right: src/lib.rs; make the picture equal");
}

/// The layers of lib.rs: a comment `// name: …` begins one, `mod` lines fill it.
fn map() -> Vec<Layer> {
    let lib = fs::read_to_string("src/lib.rs").expect("src/lib.rs is there");
    let mut layers: Vec<Layer> = Vec::new();
    for line in lib.lines().map(str::trim) {
        if let Some((name, _)) = line.strip_prefix("// ").and_then(|comment| comment.split_once(':')) {
            layers.push(Layer { name: name.to_owned(), modules: Vec::new() });
        }
        let declared = line.trim_start_matches("pub ").strip_prefix("mod ").and_then(|rest| rest.strip_suffix(';'));
        if let Some(module) = declared {
            let layer = layers.last_mut().expect("a layer's comment stands before its first `mod`");
            layer.modules.push(module.to_owned());
        }
    }
    layers
}

/// Every module named by `crate::module` or `crate::{module, …}`, with its line.
fn uses(source: &Source) -> Vec<(usize, String)> {
    let text = source.code.join("\n");
    let mut found = Vec::new();
    for (at, _) in text.match_indices("crate::") {
        if text[..at].ends_with('$') {
            continue;
        }
        let line = text[..at].matches('\n').count() + 1;
        let rest = &text[at + "crate::".len()..];
        if let Some(group) = rest.strip_prefix('{') {
            found.extend(heads(group).into_iter().map(|head| (line, head)));
        } else {
            found.push((line, identifier(rest)));
        }
    }
    found
}

/// The first identifier of each item of a `{…}` import, `group` beginning after its brace.
fn heads(group: &str) -> Vec<String> {
    let (mut depth, mut expected, mut heads) = (0, true, Vec::new());
    for (at, letter) in group.char_indices() {
        match letter {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => expected = true,
            _ if expected && depth == 0 && !letter.is_whitespace() => {
                heads.push(identifier(&group[at..]));
                expected = false;
            }
            _ => {}
        }
    }
    heads
}

fn identifier(text: &str) -> String {
    text.chars().take_while(|letter| letter.is_alphanumeric() || *letter == '_').collect()
}

/// `.spawn(` on anything that is not a `Lifecycle` (whose first argument is the task's name) or a child process.
fn bare_spawns(source: &Source) -> Vec<String> {
    let mut faults = Vec::new();
    for (at, line) in source.text.lines().enumerate() {
        let code = source.code.get(at).map_or("", String::as_str);
        if source.in_test.get(at) == Some(&true) || !code.contains(".spawn(") {
            continue;
        }
        let argument = line.split(".spawn(").nth(1).unwrap_or_default().trim();
        // A name, as text or variable, or on the next line: Lifecycle. Nothing: `Command::spawn()`.
        let named =
            argument.is_empty() || argument.starts_with('"') || argument.starts_with(&(identifier(argument) + ","));
        if !named && !argument.starts_with(')') {
            faults.push(format!("{}:{}: `.spawn({argument}`", source.path.display(), at + 1));
        }
    }
    faults
}

fn sources(folder: &str) -> impl Iterator<Item = Source> + use<> {
    let mut paths = Vec::new();
    collect(Path::new(folder), &mut paths);
    paths.sort();
    let read: Vec<(PathBuf, String)> = paths
        .into_iter()
        .map(|path| (path.clone(), fs::read_to_string(path).expect("a source file can be read")))
        .collect();
    let for_tests: Vec<PathBuf> = read.iter().flat_map(|(path, text)| test_files(path, text)).collect();
    read.into_iter().map(move |(path, text)| {
        let code: Vec<String> = blank(&text).lines().map(str::to_owned).collect();
        let whole = for_tests.iter().any(|tests| path == *tests || path.starts_with(tests.with_extension("")));
        let in_test = mark_tests(&code, whole);
        Source { path, text, code, in_test }
    })
}

/// The files that `#[cfg(test)] mod name;` declares, by name or by `#[path = "…"]`; `name.rs` stands for `name/` too.
fn test_files(declaring: &Path, text: &str) -> Vec<PathBuf> {
    let folder = declaring.parent().unwrap_or(Path::new(""));
    let stem = declaring.file_stem().unwrap_or_default().to_string_lossy();
    let inner = if ["mod", "lib", "main"].contains(&&*stem) { folder.to_path_buf() } else { folder.join(&*stem) };
    let (mut found, mut lines) = (Vec::new(), text.lines().map(str::trim));
    while let Some(line) = lines.next() {
        if line != "#[cfg(test)]" {
            continue;
        }
        let mut next = lines.next().unwrap_or_default();
        let named = next.strip_prefix("#[path = \"").and_then(|rest| rest.strip_suffix("\"]"));
        if named.is_some() {
            next = lines.next().unwrap_or_default();
        }
        let module = next.trim_start_matches("pub(crate) ").trim_start_matches("pub(super) ").strip_prefix("mod ");
        if let Some(module) = module.and_then(|rest| rest.strip_suffix(';')) {
            found.push(named.map_or_else(|| inner.join(format!("{module}.rs")), |path| folder.join(path)));
        }
    }
    found
}

fn collect(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a source folder can be read") {
        let path = entry.expect("a folder's entry can be read").path();
        if path.is_dir() {
            collect(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push(path);
        }
    }
}

/// Marks every line of a file that is for tests as a `whole`, else the lines of each item that follows `#[cfg(test)]`, up to its closing brace or semicolon.
fn mark_tests(code: &[String], whole: bool) -> Vec<bool> {
    let mut marks = vec![whole; code.len()];
    let mut at = 0;
    while at < code.len() {
        if !code[at].trim_start().starts_with("#[cfg(test)]") {
            at += 1;
            continue;
        }
        let mut depth = 0_i32;
        let mut opened = false;
        while at < code.len() {
            marks[at] = true;
            let line = code[at].replacen("#[cfg(test)]", "", 1);
            for letter in line.chars() {
                match letter {
                    '{' => (depth, opened) = (depth + 1, true),
                    '}' => depth -= 1,
                    ';' if depth == 0 => opened = true,
                    _ => {}
                }
            }
            at += 1;
            if opened && depth <= 0 {
                break;
            }
        }
    }
    marks
}

/// The text with comments, strings and character literals replaced by blanks; lines stay where they are.
fn blank(text: &str) -> String {
    let letters: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < letters.len() {
        let end = skip(&letters, at);
        if end == at {
            out.push(letters[at]);
            at += 1;
        } else {
            out.extend(letters[at..end].iter().map(|letter| if *letter == '\n' { '\n' } else { ' ' }));
            at = end;
        }
    }
    out
}

/// Where the comment or literal that begins at `at` ends; `at` itself where none begins.
fn skip(letters: &[char], at: usize) -> usize {
    let starts = |text: &str| text.chars().enumerate().all(|(offset, c)| letters.get(at + offset) == Some(&c));
    let until = |from: usize, end: &[char]| {
        let found = letters[from.min(letters.len())..].windows(end.len()).position(|window| window == end);
        found.map_or(letters.len(), |offset| from + offset + end.len())
    };
    let after_word = at > 0 && (letters[at - 1].is_alphanumeric() || letters[at - 1] == '_');
    if starts("//") {
        return until(at, &['\n']) - usize::from(letters[at..].contains(&'\n'));
    }
    if starts("/*") {
        return until(at + 2, &['*', '/']);
    }
    if (starts("r\"") || starts("r#") || starts("br\"") || starts("br#")) && !after_word {
        let hashes = letters[at..].iter().skip_while(|c| **c != '#' && **c != '"').take_while(|c| **c == '#').count();
        let Some(quote) = letters[at..].iter().position(|c| *c == '"') else { return at };
        let mut end = vec!['"'];
        end.extend(std::iter::repeat_n('#', hashes));
        return until(at + quote + 1, &end);
    }
    if starts("\"") {
        return quoted(letters, at, '"');
    }
    // A character, not a lifetime: the quote closes within a few letters.
    if starts("'") && (letters.get(at + 1) == Some(&'\\') || letters.get(at + 2) == Some(&'\'')) {
        return quoted(letters, at, '\'');
    }
    at
}

fn quoted(letters: &[char], at: usize, quote: char) -> usize {
    let mut end = at + 1;
    while end < letters.len() && letters[end] != quote {
        end += if letters[end] == '\\' { 2 } else { 1 };
    }
    (end + 1).min(letters.len())
}

fn none(faults: &[String], rule: &str) {
    assert!(faults.is_empty(), "\n{}\n\nThe rule: {rule}.\n", faults.join("\n"));
}

#[test]
fn the_reader_of_sources_is_not_fooled() {
    let text = "use crate::{a, b::{c}};\n// crate::no\nlet s = \"crate::no\"; let r = r#\"crate::\"no\"#; let c = '\"';\n\
                fn f<'a>(x: &'a str) { crate::d::e() }\n#[cfg(test)]\nmod tests {\n x.unwrap();\n}\ny.unwrap();\n";
    let code: Vec<String> = blank(text).lines().map(str::to_owned).collect();
    let in_test = mark_tests(&code, false);
    let source = Source { path: "src/x.rs".into(), text: text.into(), code, in_test };
    let used: Vec<String> = uses(&source).into_iter().map(|(_, name)| name).collect();
    assert_eq!(used, ["a", "b", "d"]);
    assert_eq!(source.places(".unwrap()", false).collect::<Vec<_>>(), ["src/x.rs:9"]);
}
