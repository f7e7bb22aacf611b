//! Each condition by itself, then all of them together in random rules and requests.

use http::HeaderValue;
use proptest::prelude::*;

use super::*;

fn matches(matcher: &Matcher, host: &str, target: &str, method: &Method, headers: &[(&'static str, &str)]) -> bool {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.append(*name, HeaderValue::from_str(value).unwrap());
    }
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    matcher.matches(&Subject { host, path, query, method, headers: &map })
}

fn get(matcher: &Matcher, host: &str, target: &str) -> bool {
    matches(matcher, host, target, &Method::GET, &[])
}

fn regex(text: &str) -> Pattern {
    Pattern::compile(text).unwrap()
}

#[test]
fn hosts_match_exactly_or_by_suffix_in_any_case_without_port() {
    let host = |text: &str| Matcher { host: Some(HostMatch::parse(text).unwrap()), ..Matcher::default() };
    for (pattern, good, bad) in [
        ("api.local", vec!["api.local", "API.Local:8080", "api.local."], vec!["api.local.x", "x.api.local", ""]),
        (
            "*.Example.com",
            vec!["a.example.com", "A.B.EXAMPLE.COM:1"],
            vec!["example.com", ".example.com", "aexample.com"],
        ),
        ("[::1]", vec!["[::1]", "[::1]:80"], vec!["::2"]),
        ("10.0.0.1", vec!["10.0.0.1:80"], vec!["10.0.0.2"]),
    ] {
        for name in good {
            assert!(get(&host(pattern), name, "/"), "{pattern} {name}");
        }
        for name in bad {
            assert!(!get(&host(pattern), name, "/"), "{pattern} {name}");
        }
    }
    for text in ["", "*", "*.", "a.*", "http://a", "a:80", "a b", "a..b", "*.a:1"] {
        assert!(HostMatch::parse(text).is_err(), "{text}");
    }
}

#[test]
fn paths_match_by_segment_exactly_or_by_an_expression_for_the_whole() {
    let path = |path| Matcher { path: Some(path), ..Matcher::default() };
    let prefix = path(PathMatch::Prefix("/users".into()));
    for (target, wanted) in
        [("/users", true), ("/users/", true), ("/users/1?a", true), ("/users2", false), ("/", false)]
    {
        assert_eq!(get(&prefix, "x", target), wanted, "{target}");
    }
    let exact = path(PathMatch::Exact("/users".into()));
    assert!(get(&exact, "x", "/users?a=b") && !get(&exact, "x", "/users/"));
    let pattern = path(PathMatch::Regex(regex("/users/[0-9]+|/v[12]")));
    assert!(get(&pattern, "x", "/users/12") && get(&pattern, "x", "/v2"));
    assert!(!get(&pattern, "x", "/users/12/x") && !get(&pattern, "x", "/x/users/12") && !get(&pattern, "x", "/v2\n"));
    assert!(get(&path(PathMatch::Prefix(String::new())), "x", "/anything"));
}

#[test]
fn methods_headers_and_query_match() {
    let methods = Matcher { methods: vec![Method::GET, Method::POST], ..Matcher::default() };
    assert!(matches(&methods, "x", "/", &Method::POST, &[]) && !matches(&methods, "x", "/", &Method::HEAD, &[]));
    let header =
        |condition| Matcher { headers: vec![(HeaderName::from_static("x-env"), condition)], ..Matcher::default() };
    let with = |matcher: &Matcher, headers: &[(&'static str, &str)]| matches(matcher, "x", "/", &Method::GET, headers);
    let canary = header(Condition::Is("canary".into()));
    assert!(with(&canary, &[("x-env", "canary")]) && with(&canary, &[("x-env", "a"), ("x-env", "canary")]));
    assert!(!with(&canary, &[("x-env", "Canary")]) && !with(&canary, &[]));
    assert!(with(&header(Condition::Present(true)), &[("x-env", "")]) && !with(&header(Condition::Present(true)), &[]));
    assert!(
        with(&header(Condition::Present(false)), &[]) && !with(&header(Condition::Present(false)), &[("x-env", "")])
    );
    let version = header(Condition::Regex(regex("v[0-9]+")));
    assert!(with(&version, &[("x-env", "v12")]) && !with(&version, &[("x-env", "av12")]));
    let query = |condition| Matcher { query: vec![("q".into(), condition)], ..Matcher::default() };
    let spaced = query(Condition::Is("a b".into()));
    for (target, wanted) in [
        ("/?q=a%20b", true),
        ("/?x=1&q=a+b", true),
        ("/?%71=a%20b", true),
        ("/?q=a", false),
        ("/?qq=a+b", false),
        ("/", false),
    ] {
        assert_eq!(get(&spaced, "x", target), wanted, "{target}");
    }
    assert!(get(&query(Condition::Present(true)), "x", "/?q") && !get(&query(Condition::Present(true)), "x", "/?"));
}

#[test]
fn expressions_are_bounded_and_say_what_is_wrong() {
    assert!(Pattern::compile("(a").unwrap_err().contains("unclosed group"));
    assert!(Pattern::compile("(a)\\1").unwrap_err().contains("backreferences"));
    assert!(Pattern::compile("a(?=b)").unwrap_err().contains("look-around"));
    assert!(Pattern::compile("(a{1000}){1000}").unwrap_err().contains("65536 bytes"));
    assert_eq!(format!("{:?}", regex("a|b")), "a|b");
    // Exponential for engines that backtrack; here it ends at once.
    assert!(!regex("(a+)+b").is_match("a".repeat(50_000).as_bytes()));
}

prop_compose! {
    fn segment_path()(segments in proptest::collection::vec("[ab]{1,2}", 0..4), slash in any::<bool>()) -> String {
        let mut path: String = segments.iter().flat_map(|segment| ["/", segment]).collect();
        if slash || path.is_empty() {
            path.push('/');
        }
        path
    }
}

proptest! {
    #[test]
    fn a_prefix_matches_if_and_only_if_its_segments_begin_the_path(prefix in segment_path(), path in segment_path()) {
        fn segments(path: &str) -> Vec<&str> { path.split('/').filter(|segment| !segment.is_empty()).collect() }
        let wanted = segments(&path).starts_with(&segments(&prefix));
        let matcher = PathMatch::Prefix(prefix.trim_end_matches('/').to_owned());
        prop_assert_eq!(matcher.matches(&path), wanted, "{} {}", prefix, path);
        if wanted {
            prop_assert_eq!(format!("{}{}", prefix.trim_end_matches('/'), matcher.rest(&path)), path);
        }
    }

    #[test]
    fn every_part_that_is_set_must_match(
        method in any::<bool>(), path in any::<bool>(), host in any::<bool>(), header in any::<bool>(), query in any::<bool>()
    ) {
        let matcher = Matcher {
            host: Some(HostMatch::Exact("a".into())),
            path: Some(PathMatch::Prefix("/p".into())),
            methods: vec![Method::GET],
            headers: vec![(HeaderName::from_static("h"), Condition::Is("1".into()))],
            query: vec![("q".into(), Condition::Is("1".into()))],
        };
        let target = format!("{}{}", if path { "/p" } else { "/x" }, if query { "?q=1" } else { "" });
        let headers: &[(&'static str, &str)] = if header { &[("h", "1")] } else { &[] };
        let method_sent = if method { Method::GET } else { Method::PUT };
        let found = matches(&matcher, if host { "a:1" } else { "b" }, &target, &method_sent, headers);
        prop_assert_eq!(found, method && path && host && header && query);
    }
}
