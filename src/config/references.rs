//! `${NAME}` and `${NAME:-default}` from the environment. Works in plain and quoted scalars, in block and flow style.
//!
//! References are hidden from the YAML parser before it runs and read in its scalars afterwards: in `[${A}, ${B}]` the
//! parser would otherwise see flow mappings. Hiding keeps every character's line and column.

use super::Environment;
use super::problems::Fault;

/// ASCII characters of a reference become private-use characters of plane 16 while YAML is parsed.
const HIDDEN: u32 = 0x10_0000;

/// Replaces each `${…}` (but not `$${`) by as many hidden characters.
pub(super) fn hide(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        let escaped = rest[..at].ends_with('$');
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let Some(length) = reference_length(rest).filter(|_| !escaped) else {
            out.push_str("${");
            rest = &rest[2..];
            continue;
        };
        out.extend(rest[..length].chars().map(hidden));
        rest = &rest[length..];
    }
    out.push_str(rest);
    out
}

/// How many bytes the reference at the start of `text` takes; `None` where it is none. Never looks behind the next
/// `${`: there are no references in defaults, and a file may consist of `${` alone.
fn reference_length(text: &str) -> Option<usize> {
    let name = text[2..].bytes().take_while(|c| c.is_ascii_alphanumeric() || *c == b'_').count();
    let rest = &text[2 + name..];
    let length = match rest.strip_prefix(":-") {
        Some(default) => {
            let bytes = default.as_bytes();
            let stop = |at: usize| matches!(bytes[at], b'}' | b'\n' | b'\r') || bytes[at..].starts_with(b"${");
            2 + (0..bytes.len()).find(|at| stop(*at))?
        }
        None => 0,
    };
    let closed = rest.as_bytes().get(length) == Some(&b'}');
    (closed && is_name(&text[2..2 + name])).then_some(2 + name + length + 1)
}

fn parts(inner: &str) -> (&str, Option<&str>) {
    match inner.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (inner, None),
    }
}

fn is_name(name: &str) -> bool {
    !name.starts_with(|c: char| c.is_ascii_digit())
        && !name.is_empty()
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

fn hidden(c: char) -> char {
    if c.is_ascii() { char::from_u32(HIDDEN + u32::from(c)).unwrap_or(c) } else { c }
}

fn shown(c: char) -> char {
    match u32::from(c).checked_sub(HIDDEN) {
        Some(ascii) if ascii < 0x80 => char::from_u32(ascii).unwrap_or(c),
        Some(_) | None => c,
    }
}

/// The text as it was written in the file.
pub(super) fn show(text: &str) -> String {
    text.chars().map(shown).collect()
}

/// Whether the scalar holds a reference.
pub(super) fn has_reference(text: &str) -> bool {
    text.chars().any(|c| c == hidden('$'))
}

/// Puts the environment's values in the places of the references, and `${` for `$${`.
///
/// # Errors
/// For a variable that is not set and has no default, and for a reference that is none.
pub(super) fn expand(text: &str, environment: &Environment) -> Result<String, Fault> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(hidden('$')) {
        out.push_str(&literal(&rest[..at])?);
        let end = rest[at..].find(hidden('}')).map_or(rest.len(), |end| at + end + hidden('}').len_utf8());
        out.push_str(&value(&show(&rest[at..end]), environment)?);
        rest = &rest[end..];
    }
    out.push_str(&literal(rest)?);
    Ok(out)
}

fn value(reference: &str, environment: &Environment) -> Result<String, Fault> {
    let inner = reference.strip_prefix("${").and_then(|inner| inner.strip_suffix('}')).unwrap_or_default();
    let (name, default) = parts(inner);
    match (environment.get_raw(name), default) {
        (Some(value), _) if !value.is_empty() => Ok(value.to_owned()),
        // As in a shell, `:-` stands in for an empty variable too.
        (_, Some(default)) => Ok(default.to_owned()),
        (Some(_), None) => Ok(String::new()),
        (None, None) => Err(Fault::new(
            format!("the variable {name} is not set"),
            format!("set it, or give a default: ${{{name}:-default}}"),
        )),
    }
}

/// What stands between references: only `$${` is special.
fn literal(text: &str) -> Result<String, Fault> {
    let pieces: Vec<&str> = text.split("$${").collect();
    if pieces.iter().any(|piece| piece.contains("${")) {
        return Err(Fault::new(
            "`${` begins no reference to a variable",
            "write ${NAME} or ${NAME:-default}, or $${ for the characters themselves",
        ));
    }
    Ok(pieces.join("${"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expanded(text: &str) -> Result<String, Fault> {
        let environment = Environment::of([("A", "1"), ("EMPTY", ""), ("B_2", "two")]);
        expand(&hide(text), &environment)
    }

    #[test]
    fn references_become_the_environments_values() {
        for (text, wanted) in [
            ("${A}", "1"),
            ("x${A}y${B_2}z", "x1ytwoz"),
            ("${NONE:-d}", "d"),
            ("${NONE:-}", ""),
            ("${EMPTY}", ""),
            ("${EMPTY:-d}", "d"),
            ("${A:-d}", "1"),
            ("${NONE:-http://h:1/é}", "http://h:1/é"),
            ("$${A}", "${A}"),
            ("$A {} $", "$A {} $"),
        ] {
            assert_eq!(expanded(text).as_deref(), Ok(wanted), "{text}");
        }
    }

    #[test]
    fn what_is_no_reference_is_a_mistake() {
        for text in ["${NONE}", "${", "${A", "${1}", "${}", "${A B}", "${A-d}", "${A:-\n}", "${A:-${B_2}}"] {
            assert!(expanded(text).is_err(), "{text}");
        }
    }

    #[test]
    fn hiding_keeps_every_column() {
        let text = "a: ${A} # ${B:-x}";
        assert_eq!(hide(text).chars().count(), text.chars().count());
        assert_eq!(show(&hide(text)), text);
    }
}
