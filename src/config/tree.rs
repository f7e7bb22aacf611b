//! YAML text to a tree whose every node knows its place. Bounded in size, depth and what aliases multiply.

use std::borrow::Cow;
use std::collections::HashMap;

use granit_parser::{Event, Parser, ScalarStyle, ScanError, Span, Tag};

use super::Environment;
use super::problems::{Fault, Place, Problems};
use super::references;

/// A value and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) place: Place,
    pub(super) value: Value,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    Scalar(Scalar),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// A key of a mapping with its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) place: Place,
    pub(super) node: Node,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Scalar {
    pub(super) text: String,
    pub(super) style: Style,
}

/// How a scalar was written, which decides what types it may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    /// `8080`, `true`, `~`: typed as YAML 1.2's core schema says.
    Plain,
    /// Always text.
    Quoted,
    /// From a flag or the environment, where everything is text: whatever type is wanted.
    Given,
}

impl Node {
    pub(super) fn given(place: Place, text: impl Into<String>) -> Self {
        Self { place, value: Value::Scalar(Scalar { text: text.into(), style: Style::Given }) }
    }

    pub(super) fn map(place: Place) -> Self {
        Self { place, value: Value::Map(Vec::new()) }
    }

    pub(super) fn entries(&self) -> &[Entry] {
        match &self.value {
            Value::Map(entries) => entries,
            Value::Scalar(_) | Value::List(_) => &[],
        }
    }

    pub(super) fn items(&self) -> &[Self] {
        match &self.value {
            Value::List(items) => items,
            Value::Scalar(_) | Value::Map(_) => &[],
        }
    }

    pub(super) fn get(&self, key: &str) -> Option<&Entry> {
        self.entries().iter().find(|entry| entry.key == key)
    }

    /// `key:` with nothing behind it, `~` or `null`.
    pub(super) fn is_null(&self) -> bool {
        matches!(&self.value, Value::Scalar(scalar) if scalar.is_null())
    }

    /// What a user would call it.
    pub(super) fn kind(&self) -> &'static str {
        match &self.value {
            Value::Scalar(scalar) => scalar.kind(),
            Value::List(_) => "a list",
            Value::Map(_) => "a section of keys",
        }
    }
}

impl Scalar {
    pub(super) fn is_null(&self) -> bool {
        self.style == Style::Plain && matches!(self.text.as_str(), "" | "~" | "null" | "Null" | "NULL")
    }

    pub(super) fn kind(&self) -> &'static str {
        if self.style != Style::Plain {
            "text"
        } else if self.is_null() {
            "nothing"
        } else if matches!(self.text.as_str(), "true" | "false") {
            "true or false"
        } else if self.is_number() {
            "a number"
        } else {
            "text"
        }
    }

    pub(super) fn is_number(&self) -> bool {
        let digits = self.text.trim_start_matches(['-', '+']);
        digits.starts_with(|c: char| c.is_ascii_digit() || c == '.') && digits.parse::<f64>().is_ok()
    }
}

/// Largest file, bytes. Also bounds all text of the tree, with what aliases and variables add.
pub(super) const LARGEST: usize = 1 << 20;
/// Most nodes of a tree, aliased ones counted each time.
const MOST_NODES: usize = 50_000;
/// Deepest nesting. The file's own keys need 7.
const DEEPEST: usize = 32;
const LONGEST_KEY: usize = 200;

/// Parses one file. A syntax mistake ends it, as nothing behind it can be trusted; references that cannot be
/// expanded are noted and their scalars left as they are.
pub(super) fn parse(bytes: &[u8], environment: &Environment, problems: &mut Problems) -> Option<Node> {
    let (place, path, fault) = match text(bytes) {
        Err((place, fault)) => (place, String::new(), fault),
        Ok(text) => {
            let hidden = references::hide(text);
            let mut builder = Builder { environment, problems, nodes: 0, bytes: 0, anchors: HashMap::new() };
            match builder.document(&hidden) {
                Ok(root) => return Some(root),
                Err(stop) => (stop.place, stop.path, stop.fault),
            }
        }
    };
    problems.note(&place, &path, fault);
    None
}

/// The tree of a text that is part of the program.
pub(super) fn parse_default(text: &str) -> Option<Node> {
    let mut problems = Problems::of(None);
    let mut node = parse(text.as_bytes(), &Environment::default(), &mut problems)?;
    node.place = Place::Default;
    if let Value::List(items) = &mut node.value {
        for item in items {
            item.place = Place::Default;
        }
    }
    Some(node)
}

fn text(bytes: &[u8]) -> Result<&str, (Place, Fault)> {
    if bytes.len() > LARGEST {
        let fault = Fault::new(
            format!("the file has more than {LARGEST} bytes"),
            "make it smaller; a config file of 1 MiB is a mistake",
        );
        return Err((Place::START, fault));
    }
    std::str::from_utf8(bytes).map_err(|error| {
        let good = String::from_utf8_lossy(&bytes[..error.valid_up_to()]);
        let line = good.matches('\n').count() + 1;
        let column = good.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        (Place::File { line, column }, Fault::new("the text is not UTF-8", "save the file as UTF-8"))
    })
}

/// Why parsing ended early.
struct Stop {
    place: Place,
    path: String,
    fault: Fault,
}

struct Builder<'a> {
    environment: &'a Environment,
    problems: &'a mut Problems,
    nodes: usize,
    bytes: usize,
    /// Finished anchored nodes with their count of nodes and bytes.
    anchors: HashMap<usize, (Node, usize, usize)>,
}

type Events<'t> = dyn Iterator<Item = Result<(Event<'t>, Span), ScanError>> + 't;

impl Builder<'_> {
    fn document<'t>(&mut self, hidden: &'t str) -> Result<Node, Stop> {
        let events: &mut Events<'t> = &mut Parser::new_from_str(hidden);
        let mut root = None;
        while let Some(next) = events.next() {
            let (event, span) = next.map_err(|error| syntax(&error, ""))?;
            match event {
                Event::StreamStart | Event::DocumentStart(..) | Event::DocumentEnd => {}
                Event::StreamEnd => break,
                _ if root.is_some() => {
                    return Err(stop(&span, "", "a second document begins", "keep one document in the file"));
                }
                event => root = Some(self.node(event, span, events, "", 0)?),
            }
        }
        Ok(root.filter(|root| !root.is_null()).unwrap_or_else(|| Node::map(Place::START)))
    }

    fn node<'t>(
        &mut self,
        event: Event<'t>,
        span: Span,
        events: &mut Events<'t>,
        path: &str,
        depth: usize,
    ) -> Result<Node, Stop> {
        if depth > DEEPEST {
            return Err(stop(&span, path, &format!("nested deeper than {DEEPEST}"), "make it flatter"));
        }
        let (nodes, bytes) = (self.nodes, self.bytes);
        self.count(1, 0, &span, path)?;
        let (value, anchor) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                self.count(0, text.len(), &span, path)?;
                check_tag(tag.as_deref(), &["str", "int", "float", "bool", "null"], &span, path)?;
                (Value::Scalar(self.scalar(text, style, tag.is_some(), (&span, path))?), anchor)
            }
            Event::SequenceStart(_, anchor, tag) => {
                check_tag(tag.as_deref(), &["seq"], &span, path)?;
                (Value::List(self.list(events, path, depth)?), anchor)
            }
            Event::MappingStart(_, anchor, tag) => {
                check_tag(tag.as_deref(), &["map"], &span, path)?;
                (Value::Map(self.map(events, path, depth)?), anchor)
            }
            Event::Alias(anchor) => return self.alias(anchor, &span, path),
            _ => return Err(stop(&span, path, "this is no value", "write a value here")),
        };
        let node = Node { place: place(&span), value };
        if anchor != 0 {
            self.anchors.insert(anchor, (node.clone(), self.nodes - nodes, self.bytes - bytes));
        }
        Ok(node)
    }

    fn alias(&mut self, anchor: usize, span: &Span, path: &str) -> Result<Node, Stop> {
        let Some((_, nodes, bytes)) = self.anchors.get(&anchor) else {
            return Err(stop(span, path, "the alias stands inside what it names", "write the value out"));
        };
        // Counted before it is copied: a few lines of aliases of aliases can stand for gigabytes.
        self.count(*nodes, *bytes, span, path)?;
        let mut node = self.anchors[&anchor].0.clone();
        node.place = place(span);
        Ok(node)
    }

    fn list(&mut self, events: &mut Events<'_>, path: &str, depth: usize) -> Result<Vec<Node>, Stop> {
        let mut items = Vec::new();
        loop {
            let path = format!("{path}[{}]", items.len());
            match advance(events, &path)? {
                (Event::SequenceEnd, _) => return Ok(items),
                (event, span) => items.push(self.node(event, span, events, &path, depth + 1)?),
            }
        }
    }

    fn map(&mut self, events: &mut Events<'_>, path: &str, depth: usize) -> Result<Vec<Entry>, Stop> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut lines: HashMap<String, usize> = HashMap::new();
        loop {
            let (key, span) = match advance(events, path)? {
                (Event::MappingEnd, _) => return Ok(entries),
                (Event::Scalar(text, ..), span) => (references::show(&text), span),
                (_, span) => return Err(stop(&span, path, "a key must be text", "write `key: value`")),
            };
            self.count(0, key.len(), &span, path)?;
            // Paths are made of keys, for every node below.
            if key.len() > LONGEST_KEY {
                return Err(stop(
                    &span,
                    path,
                    "a key is longer than 200 bytes",
                    "check the quotes and the indentation",
                ));
            }
            let inner = join(path, &key);
            let (event, value_span) = advance(events, &inner)?;
            let mut node = self.node(event, value_span, events, &inner, depth + 1)?;
            let place = place(&span);
            if node.is_null() {
                // Nothing has no place that a reader would find.
                node.place = place.clone();
            }
            if let Some(line) = lines.get(&key) {
                let fault = Fault::new(format!("the key stands twice, first on line {line}"), "remove one of them");
                self.problems.note(&place, &inner, fault);
            } else {
                lines.insert(key.clone(), span.start.line());
                entries.push(Entry { key, place, node });
            }
        }
    }

    fn scalar(
        &mut self,
        text: Cow<'_, str>,
        style: ScalarStyle,
        tagged: bool,
        (span, path): (&Span, &str),
    ) -> Result<Scalar, Stop> {
        let plain = matches!(style, ScalarStyle::Plain) && !tagged;
        if !references::has_reference(&text) && !text.contains("${") {
            let style = if plain { Style::Plain } else { Style::Quoted };
            return Ok(Scalar { text: text.into_owned(), style });
        }
        let text = match references::expand(&text, self.environment) {
            Ok(expanded) => expanded,
            Err(fault) => {
                self.problems.note(&place(span), path, fault);
                references::show(&text)
            }
        };
        self.count(0, text.len(), span, path)?;
        Ok(Scalar { text, style: Style::Given })
    }

    fn count(&mut self, nodes: usize, bytes: usize, span: &Span, path: &str) -> Result<(), Stop> {
        self.nodes += nodes;
        self.bytes += bytes;
        if self.nodes > MOST_NODES || self.bytes > 2 * LARGEST {
            let problem = "the file is too large, what its aliases and variables stand for included";
            return Err(stop(span, path, problem, "use fewer aliases, or a smaller file"));
        }
        Ok(())
    }
}

fn advance<'t>(events: &mut Events<'t>, path: &str) -> Result<(Event<'t>, Span), Stop> {
    match events.next() {
        Some(Ok(next)) => Ok(next),
        Some(Err(error)) => Err(syntax(&error, path)),
        None => Err(Stop {
            place: Place::START,
            path: path.to_owned(),
            fault: Fault::new("the file ends too early", "complete it"),
        }),
    }
}

fn check_tag(tag: Option<&Tag>, known: &[&str], span: &Span, path: &str) -> Result<(), Stop> {
    match tag {
        None => Ok(()),
        Some(tag) if tag.core_suffix().is_some_and(|suffix| known.contains(&suffix)) => Ok(()),
        Some(_) => Err(stop(span, path, "the tag means nothing here", "remove the tag that begins with `!`")),
    }
}

fn syntax(error: &ScanError, path: &str) -> Stop {
    let mark = error.marker();
    Stop {
        place: Place::File { line: mark.line().max(1), column: mark.col() + 1 },
        path: path.to_owned(),
        fault: Fault::new(
            format!("not valid YAML: {}", error.info()),
            "check the indentation, quotes and brackets here and on the line above",
        ),
    }
}

fn stop(span: &Span, path: &str, problem: &str, mend: &str) -> Stop {
    Stop { place: place(span), path: path.to_owned(), fault: Fault::new(problem, mend) }
}

fn place(span: &Span) -> Place {
    Place::File { line: span.start.line().max(1), column: span.start.col() + 1 }
}

/// `outbound` and `listen` to `outbound.listen`.
pub(super) fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> (Option<Node>, String) {
        let mut problems = Problems::of(None);
        let environment = Environment::of([("A", "1")]);
        let node = parse(text.as_bytes(), &environment, &mut problems);
        (node, problems.to_string())
    }

    #[test]
    fn every_node_knows_its_place() {
        let (node, problems) = parsed("a:\n  b: [x, ${A}]\n");
        assert_eq!(problems, "");
        let node = node.unwrap();
        let b = node.get("a").unwrap().node.get("b").unwrap();
        assert_eq!(b.place, Place::File { line: 2, column: 3 });
        assert_eq!(b.node.items()[1].place, Place::File { line: 2, column: 10 });
        assert_eq!(b.node.items()[1].value, Value::Scalar(Scalar { text: "1".into(), style: Style::Given }));
    }

    #[test]
    fn syntax_mistakes_are_located_with_the_key_they_stand_in() {
        let (node, problems) = parsed("a:\n  b: [x\nc: d\n");
        assert!(node.is_none());
        assert!(problems.starts_with("-:3:"), "{problems}");
        assert!(problems.contains(" a.b"), "{problems}");
    }

    #[test]
    fn duplicate_keys_and_second_documents_are_mistakes() {
        let (_, problems) = parsed("a: 1\nb: 2\na: 3\n");
        assert_eq!(problems, "-:3:1: a: the key stands twice, first on line 1; remove one of them");
        let (_, problems) = parsed("a: 1\n---\nb: 2\n");
        assert!(problems.contains("second document"), "{problems}");
    }

    #[test]
    fn hostile_files_end_in_a_mistake_and_not_in_trouble() {
        let mut bomb = String::from("a: &a [x, x, x, x, x, x, x, x, x, x]\n");
        for (next, last) in "bcdefghij".chars().zip("abcdefghi".chars()) {
            let refs = vec![format!("*{last}"); 10].join(", ");
            bomb += &format!("{next}: &{next} [{refs}]\n");
        }
        let long = format!("a: &a {}\nb: [{}]\n", "x".repeat(100_000), vec!["*a"; 1000].join(","));
        for (text, wanted) in [
            (bomb, "too large"),
            (long, "too large"),
            ("[".repeat(10_000), "-:1:"),
            ("a: ".repeat(10_000), "-:1:"),
            ("- ".repeat(40), "nested deeper"),
            ("x".repeat(LARGEST + 1), "more than"),
            ("a: &a [*a]\n".into(), "inside what it names"),
            ("? [a]\n: b\n".into(), "must be text"),
            ("a: !x y\n".into(), "tag"),
        ] {
            let (node, problems) = parsed(&text);
            assert!(node.is_none(), "{:?}", &text[..text.len().min(60)]);
            assert!(problems.contains(wanted), "{problems}");
        }
    }

    #[test]
    fn a_file_that_is_not_utf8_is_located() {
        let mut problems = Problems::of(None);
        assert!(parse(b"a: 1\nb: \xff\n", &Environment::default(), &mut problems).is_none());
        assert!(problems.to_string().starts_with("-:2:4: file: the text is not UTF-8"), "{problems}");
    }
}
