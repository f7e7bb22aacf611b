//! Targets, methods and headers that are changed, and what a client cannot make of them.

use http::Request;
use http::request::Builder;

use super::*;

fn template(text: &str) -> Template {
    Template::parse(text).unwrap()
}

fn pairs(list: &[(&str, &str)]) -> Vec<(String, Template)> {
    list.iter().map(|(name, value)| ((*name).to_owned(), template(value))).collect()
}

fn change(settings: Settings, request: Builder) -> Result<request::Parts, &'static str> {
    let (mut head, ()) = request.body(()).unwrap().into_parts();
    RequestTransformer::new(settings).change(&mut head, &mut Extensions::new()).map(|()| head)
}

fn target(settings: Settings, request: Builder) -> Result<String, &'static str> {
    change(settings, request).map(|head| head.uri.to_string())
}

#[test]
fn a_query_is_changed_pair_by_pair_and_else_stays_as_it_was() {
    let parameters = || Parameters {
        remove: vec!["debug".into()],
        rename: vec![("q".into(), "search term".into()), ("none".into(), "x".into())],
        replace: pairs(&[("page", "1"), ("none", "no")]),
        add: pairs(&[("lang", "en"), ("x", "no")]),
        append: pairs(&[("tag", "a&b")]),
    };
    for (query, wanted) in [
        (
            "?q=%20x&q=y&page=9&x=%2f&page=10&d%65bug=1&debug",
            "?search%20term=%20x&search%20term=y&page=1&x=%2f&lang=en&tag=a%26b",
        ),
        ("?lang=de&tag=c", "?lang=de&tag=c&x=no&tag=a%26b"),
        ("", "?lang=en&x=no&tag=a%26b"),
    ] {
        let settings = Settings { query: parameters(), ..Settings::default() };
        assert_eq!(target(settings, Request::get(format!("/p{query}"))), Ok(format!("/p{wanted}")), "{query}");
    }
    let removed = Parameters { remove: vec!["a".into()], ..Parameters::default() };
    let settings = Settings { query: removed, ..Settings::default() };
    assert_eq!(target(settings, Request::get("http://h/p?a=1")), Ok("http://h/p".into()));
}

#[test]
fn a_path_may_be_made_of_a_header_that_stays_in_its_segment() {
    let with = |tenant: &str| {
        let settings = Settings { uri: Some(template("/t/$(headers.tenant)/users")), ..Settings::default() };
        target(settings, Request::get("/users?a=1").header("tenant", tenant))
    };
    assert_eq!(with("acme"), Ok("/t/acme/users?a=1".into()));
    assert_eq!(with("a/../../admin?x#y"), Ok("/t/a%2F..%2F..%2Fadmin%3Fx%23y/users?a=1".into()));
    assert_eq!(with(".."), Err("the rewritten path climbs"));
}

#[test]
fn templates_read_the_request_as_it_came() {
    let name = HeaderName::from_static;
    let headers = Changes {
        remove: vec![name("token")],
        rename: vec![(name("a"), name("b"))],
        add: vec![
            (name("x-token"), Value::Made(template("Bearer $(headers.token)"))),
            (name("x-user"), Value::Made(template("$(query_params.user)"))),
        ],
        append: vec![(name("via"), Value::Fixed(HeaderValue::from_static("edge")))],
        ..Changes::default()
    };
    let query = Parameters { remove: vec!["user".into()], ..Parameters::default() };
    let settings = Settings { headers, query, ..Settings::default() };
    let request = || Request::get("/?user=j%20d").header("token", "t").header("a", "1").header("b", "2");
    let head = change(settings.clone(), request()).unwrap();
    assert!(!head.headers.contains_key("token") && head.uri.query().is_none());
    for (name, wanted) in [("x-token", "Bearer t"), ("x-user", "j d"), ("b", "1"), ("via", "edge")] {
        assert_eq!(head.headers[name], wanted, "{name}");
    }
    // A line feed cannot stand in a header.
    let head = change(settings, Request::get("/?user=a%0d%0ax-admin:1")).unwrap();
    assert_eq!(head.headers["x-user"], "");
}

#[test]
fn method_and_host_are_replaced_wherever_they_stand() {
    let settings = || Settings {
        http_method: Some(Method::PUT),
        host: Some(Authority::from_static("inner.example:81")),
        ..Settings::default()
    };
    let head = change(settings(), Request::post("/a").header("host", "outer")).unwrap();
    assert_eq!((head.method, &head.headers["host"]), (Method::PUT, &HeaderValue::from_static("inner.example:81")));
    let head = change(settings(), Request::post("http://outer/a")).unwrap();
    assert_eq!(head.uri.to_string(), "http://inner.example:81/a");
}
