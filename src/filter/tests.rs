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
    let caller = Caller::at(Ipv4Addr::LOCALHOST);
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
    let limiters = Arc::new(rate_limiting::Limiters::new("users", Arc::new(NoStore)));
    let context = Context::new(metrics.clone(), limiters);
    let fault = |delay: u64| Plugin {
        mode: Mode::Enforce,
        scope: "inbound".into(),
        settings: Settings::Fault(fault::Settings {
            header: None,
            delay: Some(fault::Delay { share: fault::Share::ALL, duration: Duration::from_secs(delay) }),
            abort: None,
        }),
    };
    let chain = Chain::build(&[fault(1), fault(2)], &context);
    assert_eq!(run(&chain, &mut head(), &mut Extensions::new()).delay, Duration::from_secs(2));
    assert!(Chain::build(&[], &context).is_empty() && !chain.is_empty());
}

struct NoStore;

impl rate_limiting::Stores for NoStore {
    fn redis(&self, _settings: &rate_limiting::RedisSettings) -> Arc<dyn rate_limiting::SharedCounters> {
        unreachable!("no plugin of these tests asks a store")
    }
}

#[test]
fn a_chain_goes_on_where_a_filter_asked() {
    let metrics = Metrics::new();
    let ask: fn(&mut Call<'_>) -> Decision = |call| {
        let chance = call.entropy;
        Decision::ask(Box::pin(std::future::ready(Box::new(move |call: &mut Call<'_>| {
            assert_eq!(call.entropy, chance, "it is the same request");
            call.head.headers.insert("x-told", HeaderValue::from_static("1"));
            Decision::PASS
        }) as Verdict)))
    };
    let refuse: fn(&mut Call<'_>) -> Decision = |call| {
        assert!(call.head.headers.contains_key("x-told"));
        Decision::refuse(Reason::Denied, "")
    };
    let (chain, ran) = chain(&metrics, &[("a", false, |_| Decision::PASS), ("b", false, ask), ("c", false, refuse)]);
    let (mut head, mut stash) = (head(), Extensions::new());
    let mut asking = run(&chain, &mut head, &mut stash);
    assert_eq!(ran.lock().unwrap().as_slice(), ["a", "b"]);
    let (at, question) = asking.asks.take().expect("b asks");
    let verdict = futures_util::FutureExt::now_or_never(question).expect("answered at once");
    let caller = Caller::at(Ipv4Addr::LOCALHOST);
    let call =
        Call { head: &mut head, caller, stash: &mut stash, now: Instant::now(), wall: SystemTime::now(), entropy: 7 };
    let told = chain.told(at, verdict, asking, call);
    assert!(matches!(told.end.as_deref(), Some(End::Refuse { reason: Reason::Denied, .. })));
    assert_eq!(ran.lock().unwrap().as_slice(), ["a", "b", "c"], "nobody runs twice");
    let page = String::from_utf8(metrics.render()).unwrap();
    assert!(page.contains("outrigger_plugin_decisions_total{decision=\"passed\",plugin=\"b\"} 1"), "{page}");
}
