//! Regular expressions from configurations and intentions: RE2's syntax (no back-references, no look-around), in time linear in
//! what is searched, bounded in memory. Bytes, not Unicode: paths and header values are ASCII with escapes.

use regex::bytes::{Regex, RegexBuilder, RegexSet, RegexSetBuilder};

/// One that must match a text from its beginning to its end.
///
/// # Errors
/// What is wrong with it, or that it takes more than 64 KiB when compiled.
pub fn whole(text: &str, ignore_case: bool) -> Result<Regex, String> {
    let build = |text: &str| {
        let mut builder = RegexBuilder::new(text);
        builder.unicode(false).case_insensitive(ignore_case).nest_limit(NESTED);
        builder.size_limit(64 << 10).dfa_size_limit(256 << 10).build().map_err(|error| explain(&error))
    };
    // By itself first: `a)|(b` is none, though it would become one inside the brackets, and match by half.
    build(text).and_then(|_| build(&anchored(text)))
}

/// Several, of which one may match anywhere in a text, or, where `whole`, from its beginning to its end.
///
/// # Errors
/// As `whole`, of all together: more than 256 KiB.
pub fn any_of(texts: &[impl AsRef<str>], whole: bool) -> Result<RegexSet, String> {
    let build = |texts: Vec<String>| {
        let mut builder = RegexSetBuilder::new(texts);
        builder.unicode(false).nest_limit(NESTED);
        builder.size_limit(256 << 10).dfa_size_limit(256 << 10).build().map_err(|error| explain(&error))
    };
    let plain = build(texts.iter().map(|text| text.as_ref().to_owned()).collect())?;
    if whole { build(texts.iter().map(|text| anchored(text.as_ref())).collect()) } else { Ok(plain) }
}

fn anchored(text: &str) -> String {
    format!("^(?:{text})$")
}

/// The parser's message draws the expression over several lines; its last line says what is wrong.
fn explain(error: &regex::Error) -> String {
    match error {
        regex::Error::CompiledTooBig(limit) => format!("it takes more than {limit} bytes when compiled"),
        error => error.to_string().lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned(),
    }
}

const NESTED: u32 = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_is_whole_whatever_the_text_tries() {
        let either = whole("a|b", false).unwrap();
        assert!(either.is_match(b"a") && either.is_match(b"b") && !either.is_match(b"ab") && !either.is_match(b"A"));
        assert!(whole("a|b", true).unwrap().is_match(b"B"));
        assert!(whole("a)|(b", false).is_err() && any_of(&["a)|(b"], true).is_err());
        assert!(
            any_of(&["x", "a|b"], true).unwrap().is_match(b"b") && !any_of(&["a|b"], true).unwrap().is_match(b"ab")
        );
        assert!(any_of(&["a|b"], false).unwrap().is_match(b"xbx"));
    }

    #[test]
    fn what_is_wrong_is_said_in_a_line() {
        assert_eq!(whole("(a", false).unwrap_err(), "unclosed group");
        assert!(whole("(?:a{300}){300}", false).unwrap_err().contains("more than 65536 bytes"));
    }
}
