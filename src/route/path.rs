//! One spelling for each path, so that what policy matched is what is sent: unreserved characters decoded (RFC 3986
//! §6.2.2.2), empty and dot segments resolved. An encoded slash stays encoded and separates nothing.

/// The path in its normal form; `None` where it is so already, which costs one look over its bytes.
pub fn normalised(path: &str) -> Option<String> {
    let bytes = path.as_bytes();
    let plain = |at: usize, byte: u8| match byte {
        b'%' => false,
        b'/' => !matches!(bytes.get(at + 1), Some(b'/' | b'.')),
        _ => true,
    };
    if bytes.iter().enumerate().all(|(at, byte)| plain(at, *byte)) || !path.starts_with('/') {
        return None;
    }
    let decoded = decoded(path);
    let mut segments: Vec<&str> = Vec::new();
    for segment in decoded.split('/') {
        match segment {
            "" | "." => {}
            ".." => drop(segments.pop()),
            segment => segments.push(segment),
        }
    }
    let mut normal = String::with_capacity(decoded.len());
    for segment in &segments {
        normal.push('/');
        normal.push_str(segment);
    }
    // What ends in a slash or a dot segment names a folder (RFC 3986 §5.2.4).
    if decoded.ends_with(['/']) || decoded.ends_with("/.") || decoded.ends_with("/..") || normal.is_empty() {
        normal.push('/');
    }
    (normal != path).then_some(normal)
}

/// Whether recipients disagree on where a path leads: a backslash, which some take for a slash and no URI has (RFC 3986 §3.3),
/// an encoded NUL, which ends a path for some, or a dot segment that shows only once slashes are decoded or a segment's
/// parameters are cut off (`..%2F`, `..;`).
pub fn is_ambiguous(path: &str) -> bool {
    // Most paths have none of these.
    if !path.bytes().any(|c| matches!(c, b'%' | b';' | b'\\')) {
        return false;
    }
    let is_dots = |piece: &[u8]| matches!(piece, b"." | b"..");
    path.split('/').any(|segment| {
        if segment.contains('\\') {
            return true;
        }
        let decoded: Vec<u8> = percent_encoding::percent_decode_str(segment).collect();
        let pieces = || decoded.split(|c| matches!(c, b'/' | b'\\'));
        let cut = |piece: &[u8]| piece.split(|c| *c == b';').next().is_some_and(is_dots);
        decoded.contains(&0) || (!is_dots(&decoded) && pieces().any(cut))
    })
}

/// How the widest reading takes a path in normal form: encoded slashes and backslashes separate, parameters (`;v=1`) are
/// cut off. `None` where that is no other path.
pub fn widest(normal: &str) -> Option<String> {
    if !normal.contains("%2F") && !normal.contains("%5C") && !normal.contains(';') {
        return None;
    }
    let slashed = normal.replace("%2F", "/").replace("%5C", "/");
    let cut: Vec<&str> = slashed.split('/').map(|segment| segment.split(';').next().unwrap_or_default()).collect();
    let cut = cut.join("/");
    Some(normalised(&cut).unwrap_or(cut))
}

/// Unreserved characters decoded, the digits of what stays encoded in capitals.
fn decoded(path: &str) -> String {
    let bytes = path.as_bytes();
    let mut out = String::with_capacity(path.len());
    let mut rest = path;
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        let from = bytes.len() - rest.len() + at;
        let digit = |offset: usize| bytes.get(from + offset).and_then(|digit| char::from(*digit).to_digit(16));
        let Some((high, low)) = digit(1).zip(digit(2)) else {
            // Left bare, it could become an escape with what is decoded behind it.
            out.push_str("%25");
            rest = &rest[at + 1..];
            continue;
        };
        let byte = (high * 16 + low) as u8;
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
        rest = &rest[at + 3..];
    }
    out.push_str(rest);
    out
}

/// What stands behind `prefix` in `path`, if all its segments begin the path: `""` or from a slash on. A prefix has no
/// slash at its end; the empty one begins every path.
pub(super) fn behind<'a>(path: &'a str, prefix: &str) -> Option<&'a str> {
    let rest = path.strip_prefix(prefix)?;
    (rest.is_empty() || rest.starts_with('/')).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_path_has_one_spelling() {
        for (path, wanted) in [
            ("//a", "/a"),
            ("/a//b", "/a/b"),
            ("/a/./b", "/a/b"),
            ("/a/../b", "/b"),
            ("/../../a", "/a"),
            ("/a/..", "/"),
            ("/a/b/.", "/a/b/"),
            ("/a/b/..", "/a/"),
            ("/%61dmin", "/admin"),
            ("/x/%2e%2e/admin", "/admin"),
            ("/x/%2E./admin", "/admin"),
            ("/a%2fb", "/a%2Fb"),
            ("/%252e%252e/a", "/%252e%252e/a"),
            ("/a%zz/../b", "/b"),
            ("/%", "/%25"),
            ("/%%61%61", "/%25aa"),
            ("/é%c3%A9//", "/é%C3%A9/"),
            ("/.a/..b/...", "/.a/..b/..."),
            ("//", "/"),
        ] {
            assert_eq!(normalised(path).as_deref().unwrap_or(path), wanted, "{path}");
        }
        for path in ["/", "/a", "/a/", "/a/b.c/d", "*", "/a%2Fb", "/%252e%252e/a", "/.well-known/x"] {
            assert_eq!(normalised(path), None, "{path}");
        }
    }

    #[test]
    fn what_two_recipients_read_in_two_ways_is_ambiguous() {
        for path in [
            "/a\\b",
            "/\\",
            "/a/..\\b",
            "/..;/a",
            "/a/..;x=1/b",
            "/.;/a",
            "/a/%2e%2e;/b",
            "/a/..%2fb",
            "/a/..%2F",
            "/a%2f..",
            "/a/%2e%2e%2fb",
            "/a/..%5cb",
            "/a%5c..%5cb",
            "/a/.%2f",
            "/a%00",
            "/%00",
            "/a/..%00/b",
            "/a/..%3b/b",
        ] {
            assert!(is_ambiguous(path), "{path}");
        }
        for path in [
            "/",
            "*",
            "/a/../b",
            "/a/%2e%2e/b",
            "//a",
            "/a%2Fb",
            "/a%5Cb",
            "/a;v=1/b",
            "/;/a",
            "/...;/a",
            "/a..%2fb",
            "/%25%30%30",
            "/a%",
            "/%zz",
        ] {
            assert!(!is_ambiguous(path), "{path}");
        }
    }

    #[test]
    fn the_widest_reading_separates_and_cuts() {
        for (path, wanted) in [
            ("/admin%2Fx", Some("/admin/x")),
            ("/admin%5Cx", Some("/admin/x")),
            ("/admin;a=b/x", Some("/admin/x")),
            ("/admin;a%2F", Some("/admin/")),
            ("/%2Fadmin", Some("/admin")),
            ("/a%20b", None),
        ] {
            assert_eq!(widest(path).as_deref(), wanted, "{path}");
        }
    }

    #[test]
    fn a_prefix_begins_by_whole_segments() {
        assert_eq!(behind("/users", "/users"), Some(""));
        assert_eq!(behind("/users/", "/users"), Some("/"));
        assert_eq!(behind("/users/1", "/users"), Some("/1"));
        assert_eq!(behind("/users2", "/users"), None);
        assert_eq!(behind("/a", ""), Some("/a"));
    }

    proptest::proptest! {
        #[test]
        fn the_normal_form_is_its_own(
            path in "(/|\\.|%2e|%2F|%2f|%61|a|b|%|%25|;|~){0,24}"
        ) {
            let path = format!("/{path}");
            let normal = normalised(&path).unwrap_or(path);
            proptest::prop_assert_eq!(normalised(&normal), None);
            proptest::prop_assert!(normal.starts_with('/') && !normal.contains("//"));
            proptest::prop_assert!(!normal.split('/').any(|segment| segment == "." || segment == ".."));
        }
    }
}
