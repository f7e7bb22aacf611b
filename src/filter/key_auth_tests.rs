//! Keys in headers and queries: who is known, what is refused, what the app does not see.

use std::net::Ipv4Addr;
use std::time::{Instant, SystemTime};

use http::{Extensions, Request};

use super::super::consumers::testing::consumer;
use super::super::{Caller, End};
use super::*;
use crate::reason::Reason;

fn settings() -> Settings {
    Settings {
        key_names: vec![HeaderName::from_static("apikey"), HeaderName::from_static("x-api-key")],
        key_in_header: true,
        key_in_query: true,
        hide_credentials: true,
        anonymous: None,
        run_on_preflight: true,
        realm: None,
    }
}

fn plugin(settings: Settings) -> KeyAuth {
    KeyAuth::new(settings, &Arc::new(Consumers::new(&[consumer("alice", &[]), consumer("guest", &[])])))
}

type Headers = &'static [(&'static str, &'static str)];

struct Ran {
    refused: Option<String>,
    head: request::Parts,
    stash: Extensions,
}

fn run_with(plugin: &KeyAuth, mut stash: Extensions, target: &str, headers: Headers) -> Ran {
    let mut request = Request::builder().uri(target).body(()).unwrap();
    for (name, value) in headers {
        request.headers_mut().append(*name, value.parse().unwrap());
    }
    let (mut head, ()) = request.into_parts();
    let (caller, now, wall) = (Caller::at(Ipv4Addr::LOCALHOST), Instant::now(), SystemTime::now());
    let decision = plugin.request(&mut Call { head: &mut head, caller, stash: &mut stash, now, wall, entropy: 0 });
    let refused = decision.end.map(|end| match *end {
        End::Refuse { reason: Reason::NotIdentified, detail, headers, .. } => {
            format!("{detail}: {}", headers["www-authenticate"].to_str().unwrap())
        }
        other => panic!("{other:?}"),
    });
    Ran { refused, head, stash }
}

fn run(plugin: &KeyAuth, target: &str, headers: Headers) -> Ran {
    run_with(plugin, Extensions::new(), target, headers)
}

#[test]
fn a_key_is_found_under_each_name_and_hidden() {
    let plugin = plugin(settings());
    let cases: [(&str, Headers, &str); 8] = [
        ("/a?b=c", &[("apikey", "KEY-of-alice")], "/a?b=c"),
        ("/a", &[("x-api-key", "KEY-of-alice")], "/a"),
        ("/a?apikey=KEY-of-alice", &[], "/a"),
        ("/a?b=c&apikey=KEY-of-alice&d", &[], "/a?b=c&d"),
        ("/a?x-api-key=KEY%2dof%2Dalice", &[], "/a"),
        ("/a?%61pikey=KEY-of-alice&e=%20", &[], "/a?e=%20"),
        // A copy under another name is hidden with it.
        ("/a?x-api-key=other&apikey=x", &[("apikey", "KEY-of-alice")], "/a"),
        ("http://h:1/a?apikey=KEY-of-alice", &[], "http://h:1/a"),
    ];
    for (target, headers, sent) in cases {
        let ran = run(&plugin, target, headers);
        assert_eq!(ran.refused, None, "{target} {headers:?}");
        assert_eq!(ran.head.uri.to_string(), sent);
        assert_eq!(ran.head.headers["x-consumer-username"], "alice");
        assert!(!ran.head.headers.contains_key("apikey") && !ran.head.headers.contains_key("x-api-key"));
    }
}

#[test]
fn what_is_no_single_good_key_is_refused() {
    let plugin = plugin(Settings { realm: Some("mesh".into()), ..settings() });
    let cases: [(&str, Headers, &str); 8] = [
        ("/", &[], "no key"),
        ("/?apikey", &[], "no key"),
        ("/?apikey=", &[("apikey", "")], "no key"),
        ("/?APIKEY=KEY-of-alice", &[], "no key"),
        ("/", &[("apikey", "KEY-of-bob")], "unknown key"),
        ("/", &[("apikey", "key-of-alice")], "unknown key"),
        ("/", &[("apikey", "KEY-of-alice"), ("apikey", "KEY-of-alice")], "several keys"),
        ("/?apikey=KEY-of-alice&apikey=KEY-of-alice", &[], "several keys"),
    ];
    for (target, headers, detail) in cases {
        let ran = run(&plugin, target, headers);
        assert_eq!(ran.refused.as_deref(), Some(&*format!("{detail}: Key realm=\"mesh\"")), "{target} {headers:?}");
    }
    let in_header = self::plugin(Settings { key_in_query: false, ..settings() });
    assert!(run(&in_header, "/?apikey=KEY-of-alice", &[]).refused.is_some());
    let in_query = self::plugin(Settings { key_in_header: false, ..settings() });
    assert!(run(&in_query, "/", &[("apikey", "KEY-of-alice")]).refused.is_some());
}

#[test]
fn a_key_stays_where_it_is_told_to() {
    let plugin = plugin(Settings { hide_credentials: false, ..settings() });
    let ran = run(&plugin, "/?x-api-key=1", &[("apikey", "KEY-of-alice")]);
    assert_eq!(ran.head.uri, "/?x-api-key=1");
    assert_eq!(ran.head.headers["apikey"], "KEY-of-alice");
}

#[test]
fn anonymous_stands_for_those_without_a_good_key_but_not_for_the_proven() {
    let plugin = plugin(Settings { anonymous: Some("guest".into()), ..settings() });
    for headers in [&[][..], &[("apikey", "wrong")]] {
        let ran = run(&plugin, "/", headers);
        assert_eq!(ran.refused, None);
        assert_eq!(ran.head.headers["x-anonymous-consumer"], "true");
        assert_eq!(ran.head.headers["x-consumer-username"], "guest");
        assert!(!ran.head.headers.contains_key("x-credential-identifier") && !ran.head.headers.contains_key("apikey"));
    }
    // Another plugin has identified the caller: that stands.
    let consumers = Consumers::new(&[consumer("carol", &[])]);
    let (mut headers, mut stash) = (HeaderMap::new(), Extensions::new());
    consumers.by_key(b"KEY-of-carol").unwrap().tell(&mut headers, &mut stash);
    let ran = run_with(&plugin, stash, "/", &[("apikey", "KEY-of-alice")]);
    assert_eq!(ran.refused, None);
    let who = ran.stash.get::<Identified>().unwrap();
    assert_eq!(who.consumer.as_ref().unwrap().consumer.username.as_deref(), Some("carol"));
    assert!(!ran.head.headers.contains_key("apikey"));
    // Without `anonymous` it is one more thing to prove.
    let strict = self::plugin(settings());
    assert!(run_with(&strict, ran.stash, "/", &[]).refused.is_some());
}

#[test]
fn an_anonymous_consumer_that_is_nobody_lets_nobody_in() {
    let plugin = plugin(Settings { anonymous: Some("nobody".into()), ..settings() });
    assert!(run(&plugin, "/", &[]).refused.is_some());
}

#[test]
fn preflights_pass_where_told_and_prove_nothing() {
    let plugin = plugin(Settings { run_on_preflight: false, ..settings() });
    let (mut head, ()) = Request::options("/").header("x-consumer-username", "root").body(()).unwrap().into_parts();
    let (caller, now, wall) = (Caller::at(Ipv4Addr::LOCALHOST), Instant::now(), SystemTime::now());
    let mut stash = Extensions::new();
    let decision = plugin.request(&mut Call { head: &mut head, caller, stash: &mut stash, now, wall, entropy: 0 });
    assert!(decision.end.is_none() && head.headers.is_empty() && stash.is_empty());
}
