//! The chain: order, scopes, shadows, what filters leave for each other. The filters here are those of the tests.

use std::net::Ipv4Addr;
use std::sync::Mutex;

use http::Request;

use super::*;

/// Does what it is told, and says that it ran.
struct Scripted {
    name: &'static str,
    ran: Arc<Mutex<Vec<&'static str>>>,
    decide: Decide,
}

#[derive(Clone)]
struct Consumer(&'static str);

impl Filter for Scripted {
    fn request(&self, call: &mut Call<'_>) -> Decision {
        self.ran.lock().unwrap().push(self.name);
        (self.decide)(call)
    }

    fn response(&self, answer: &mut Answered<'_>) {
        if let Some(Consumer(name)) = answer.stash.get::<Consumer>() {
            answer.headers.append("x-consumer", HeaderValue::from_static(name));
        }
    }
}

type Log = Arc<Mutex<Vec<&'static str>>>;
type Decide = fn(&mut Call<'_>) -> Decision;

fn chain(metrics: &Metrics, filters: &[(&'static str, bool, Decide)]) -> (Chain, Log) {
    let ran = Log::default();
    let link = |(name, shadow, decide): &(&'static str, bool, Decide)| Link {
        name,
        filter: Box::new(Scripted { name, ran: ran.clone(), decide: *decide }),
        shadow: *shadow,
        counts: metrics.plugin(name),
    };
    (Chain { links: Some(filters.iter().map(link).collect()) }, ran)
}

fn run(chain: &Chain, head: &mut request::Parts, stash: &mut Extensions) -> Ran {
    let caller = Caller { address: Ipv4Addr::LOCALHOST.into(), identity: None };
    chain.request(Call { head, caller, stash, now: Instant::now(), wall: SystemTime::now(), entropy: 7 })
}

fn head() -> request::Parts {
    Request::get("/a").body(()).unwrap().into_parts().0
}

#[test]
fn the_first_filter_that_ends_a_request_ends_the_chain() {
    let metrics = Metrics::new();
    let refuse: Decide = |_| Decision::refuse(Reason::Denied, "not you");
    let (chain, ran) = chain(&metrics, &[("a", false, |_| Decision::PASS), ("b", false, refuse), ("c", false, refuse)]);
    let ended = run(&chain, &mut head(), &mut Extensions::new());
    assert!(matches!(ended.end.as_deref(), Some(End::Refuse { reason: Reason::Denied, .. })));
    assert_eq!((ended.detail.as_str(), ran.lock().unwrap().as_slice()), ("b: refuse denied: not you", &["a", "b"][..]));
    let page = String::from_utf8(metrics.render()).unwrap();
    assert!(page.contains("outrigger_plugin_decisions_total{decision=\"refused\",plugin=\"b\"} 1"), "{page}");
    assert!(page.contains("outrigger_plugin_decisions_total{decision=\"passed\",plugin=\"a\"} 1"), "{page}");
}

#[test]
fn a_shadow_changes_nothing_and_is_counted() {
    let metrics = Metrics::new();
    let meddle: Decide = |call| {
        call.head.headers.insert("x-meddled", HeaderValue::from_static("1"));
        call.stash.insert(Consumer("alice"));
        let end = Decision::refuse(Reason::RateLimited, "").end;
        Decision { delay: Duration::from_secs(1), end }
    };
    let (chain, ran) = chain(&metrics, &[("a", true, meddle), ("b", false, |_| Decision::PASS)]);
    let (mut head, mut stash) = (head(), Extensions::new());
    let passed = run(&chain, &mut head, &mut stash);
    assert!(passed.end.is_none() && passed.delay.is_zero() && head.headers.is_empty() && stash.is_empty());
    assert_eq!(passed.detail, "a: would delay 1s; a: would refuse rate_limited");
    assert_eq!(ran.lock().unwrap().as_slice(), ["a", "b"]);
    let page = String::from_utf8(metrics.render()).unwrap();
    for decision in ["would_delay", "would_refuse"] {
        assert!(page.contains(&format!("decisions_total{{decision=\"{decision}\",plugin=\"a\"}} 1")), "{page}");
    }
}

#[test]
fn filters_see_what_earlier_ones_left_and_so_do_answers() {
    let metrics = Metrics::new();
    let (chain, _) = chain(
        &metrics,
        &[
            ("auth", false, |call| {
                call.stash.insert(Consumer("alice"));
                Decision::PASS
            }),
            ("acl", false, |call| match call.stash.get::<Consumer>() {
                Some(Consumer("alice")) => Decision::PASS,
                _ => Decision::refuse(Reason::Denied, ""),
            }),
        ],
    );
    let mut stash = Extensions::new();
    assert!(run(&chain, &mut head(), &mut stash).end.is_none());
    let (mut status, mut headers) = (StatusCode::OK, HeaderMap::new());
    chain.response(&mut status, &mut headers, &mut stash);
    assert_eq!(headers.get_all("x-consumer").iter().count(), 2);
}

#[test]
fn delays_add_up_and_chances_are_apart() {
    let metrics = Metrics::new();
    let slow: Decide = |call| {
        let delay = Duration::from_nanos(call.entropy >> 32);
        Decision { delay, end: None }
    };
    let (two, _) = chain(&metrics, &[("a", false, slow), ("b", false, slow)]);
    let (one, _) = chain(&metrics, &[("a", false, slow)]);
    let (both, first) =
        (run(&two, &mut head(), &mut Extensions::new()), run(&one, &mut head(), &mut Extensions::new()));
    assert!(both.delay > first.delay && both.delay != first.delay * 2);
}

#[test]
fn the_most_specific_scope_wins_and_an_empty_chain_is_none() {
    let metrics = Metrics::new();
    let fault = |delay: u64| Plugin {
        mode: Mode::Enforce,
        settings: Settings::Fault(fault::Settings {
            header: None,
            delay: Some(fault::Delay { share: fault::Share::ALL, duration: Duration::from_secs(delay) }),
            abort: None,
        }),
    };
    let chain = Chain::build(&[fault(1), fault(2)], &metrics);
    assert_eq!(run(&chain, &mut head(), &mut Extensions::new()).delay, Duration::from_secs(2));
    assert!(Chain::build(&[], &metrics).is_empty() && !chain.is_empty());
}
