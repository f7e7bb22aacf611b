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
