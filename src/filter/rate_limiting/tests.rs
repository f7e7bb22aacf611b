//! The plugin: who is counted together, what callers are told, what happens without the store, what a reload keeps.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant, UNIX_EPOCH};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http::{Extensions, HeaderMap, Request};
use parking_lot::Mutex;

use super::super::consumers::Consumers;
use super::super::consumers::testing::consumer;
use super::super::{Caller, End};
use super::*;
use crate::reason::Reason;

/// Answers as it is told, and notes what was asked.
#[derive(Default)]
struct Store {
    broken: Mutex<bool>,
    asked: Mutex<Vec<String>>,
}

impl SharedCounters for Arc<Store> {
    fn take(&self, key: String, quotas: Quotas) -> BoxFuture<'static, Result<Taken, StoreError>> {
        self.asked.lock().push(key);
        let broken = *self.broken.lock();
        async move {
            if broken {
                return Err(StoreError::Failed("connection refused".into()));
            }
            Ok(Taken { granted: true, used: quotas.iter().map(|_| 1).collect(), shared: false })
        }
        .boxed()
    }
}

impl Stores for Arc<Store> {
    fn redis(&self, _settings: &RedisSettings) -> Arc<dyn SharedCounters> {
        Arc::new(self.clone())
    }
}

fn settings(limits: &[(Unit, u32)], limit_by: LimitBy) -> Settings {
    Settings {
        limits: limits.to_vec(),
        limit_by,
        policy: Policy::Local,
        fault_tolerant: true,
        hide_client_headers: false,
        error_code: StatusCode::TOO_MANY_REQUESTS,
        error_message: None,
    }
}

fn redis() -> Policy {
    Policy::Redis(RedisSettings {
        host: "redis".into(),
        port: 6379,
        username: None,
        password: None,
        database: 0,
        timeout: Duration::from_secs(1),
        ssl: false,
        ssl_verify: true,
        ca_file: None,
    })
}

struct Bench {
    limiters: Limiters,
    metrics: Arc<Metrics>,
    store: Arc<Store>,
}

impl Bench {
    fn new() -> Self {
        let store = Arc::new(Store::default());
        Self { limiters: Limiters::new("users", Arc::new(store.clone())), metrics: Metrics::new(), store }
    }

    fn limiter(&self, settings: &Settings) -> RateLimiting {
        RateLimiting::new(settings, "inbound", &self.limiters, &self.metrics)
    }
}

/// A request and where it comes from.
struct Asked<'a> {
    target: &'a str,
    headers: &'a [(&'static str, &'a str)],
    caller: Caller<'a>,
    who: Option<Identified>,
    at: u64,
}

impl Default for Asked<'_> {
    fn default() -> Self {
        Self { target: "/", headers: &[], caller: Caller::at(Ipv4Addr::new(10, 0, 0, 1)), who: None, at: T }
    }
}

/// The headers of the answer, and how it was refused.
fn run(limiter: &RateLimiting, asked: &Asked<'_>) -> (HeaderMap, Option<End>) {
    let mut request = Request::builder().uri(asked.target).body(()).unwrap();
    for (name, value) in asked.headers {
        request.headers_mut().append(*name, value.parse().unwrap());
    }
    let (mut head, ()) = request.into_parts();
    let mut stash = Extensions::new();
    if let Some(who) = asked.who.clone() {
        stash.insert(who);
    }
    let (now, wall, caller) = (Instant::now(), UNIX_EPOCH + Duration::from_secs(asked.at), asked.caller);
    let mut call = Call { head: &mut head, caller, stash: &mut stash, now, wall, entropy: 0 };
    let mut end = limiter.request(&mut call).end.map(|end| *end);
    if let Some(End::Ask(ask)) = end {
        let verdict = ask.now_or_never().expect("the store of this test answers at once");
        end = verdict(&mut call).end.map(|end| *end);
    }
    let (mut status, mut headers) = (StatusCode::OK, HeaderMap::new());
    limiter.response(&mut Answered { status: &mut status, headers: &mut headers, stash: &mut stash });
    (headers, end)
}

fn passes(limiter: &RateLimiting, asked: &Asked<'_>) -> bool {
    run(limiter, asked).1.is_none()
}

fn number(headers: &HeaderMap, name: &str) -> u64 {
    headers[name].to_str().unwrap().parse().unwrap()
}

/// 2023-11-14T22:13:20Z: 20 seconds into a minute.
const T: u64 = 1_700_000_000;

#[test]
fn callers_are_told_their_limits_passed_or_refused() {
    let bench = Bench::new();
    let limiter = bench.limiter(&settings(&[(Unit::Minute, 2), (Unit::Hour, 10)], LimitBy::Ip));
    let (headers, end) = run(&limiter, &Asked::default());
    assert!(end.is_none());
    let told = |headers: &HeaderMap| {
        [
            "x-ratelimit-limit-minute",
            "x-ratelimit-remaining-minute",
            "x-ratelimit-limit-hour",
            "x-ratelimit-remaining-hour",
            "ratelimit-limit",
            "ratelimit-remaining",
            "ratelimit-reset",
        ]
        .map(|name| number(headers, name))
    };
    assert_eq!(told(&headers), [2, 1, 10, 9, 2, 1, 40]);
    run(&limiter, &Asked::default());
    let (headers, end) = run(&limiter, &Asked { at: T + 39, ..Asked::default() });
    assert_eq!(told(&headers), [2, 0, 10, 8, 2, 0, 1]);
    let Some(End::Refuse { reason: Reason::RateLimited, detail, headers, wording: None }) = end else {
        panic!("{end:?}")
    };
    assert_eq!((detail.as_str(), number(&headers, "retry-after")), ("2 a minute by ip", 1));
}

#[test]
fn of_equally_tight_windows_the_longest_counts() {
    let limiter = Bench::new().limiter(&settings(&[(Unit::Minute, 5), (Unit::Hour, 5)], LimitBy::Ip));
    let (headers, _) = run(&limiter, &Asked::default());
    assert_eq!(number(&headers, "ratelimit-reset"), 3600 - T % 3600);
}

#[test]
fn headers_status_and_words_are_the_configurations() {
    let mut settings = settings(&[(Unit::Minute, 1)], LimitBy::Ip);
    settings.hide_client_headers = true;
    settings.error_code = StatusCode::SERVICE_UNAVAILABLE;
    settings.error_message = Some("slow down".into());
    let limiter = Bench::new().limiter(&settings);
    assert!(run(&limiter, &Asked::default()).0.is_empty());
    let (headers, Some(End::Refuse { wording: Some(wording), headers: refusal, .. })) =
        run(&limiter, &Asked::default())
    else {
        panic!("a refusal")
    };
    assert!(headers.is_empty() && refusal.contains_key("retry-after"));
    assert_eq!(wording.status, Some(StatusCode::SERVICE_UNAVAILABLE));
    assert_eq!(wording.message.as_deref(), Some("slow down"));
}

#[test]
fn who_is_counted_together() {
    let consumers = Consumers::new(&[consumer("alice", &[]), consumer("bob", &[])]);
    let who = |name: &str| consumers.by_key(format!("KEY-of-{name}").as_bytes());
    let from = |last: u8| Caller::at(Ipv4Addr::new(10, 0, 0, last));
    let v6 = |prefix: u16, last: u16| Caller::at(Ipv6Addr::new(0x2001, 0xdb8, 0, prefix, 0, 0, 0, last));
    let id = crate::names::SpiffeId::new("t", "default", "dc1", &"web".parse().unwrap()).unwrap();
    let peer = |last: u8| Caller { identity: Some(&id), ..from(last) };
    let token = || Some(Identified { consumer: None, credential: Some("sub-1".into()), anonymous: false });
    let header = || LimitBy::Header(HeaderName::from_static("x-tenant"));
    let path = || LimitBy::Path("/login".into());
    let base = Asked::default;
    // One request each and a limit of 1: the second passes only if it is somebody else's.
    let cases: Vec<(LimitBy, Asked<'_>, Asked<'_>, bool)> = vec![
        (LimitBy::Ip, base(), base(), false),
        (LimitBy::Ip, base(), Asked { caller: from(2), ..base() }, true),
        (LimitBy::Ip, Asked { caller: v6(1, 1), ..base() }, Asked { caller: v6(1, 2), ..base() }, false),
        (LimitBy::Ip, Asked { caller: v6(1, 1), ..base() }, Asked { caller: v6(2, 1), ..base() }, true),
        (LimitBy::Consumer, Asked { who: who("alice"), ..base() }, Asked { who: who("bob"), ..base() }, true),
        (
            LimitBy::Consumer,
            Asked { who: who("alice"), ..base() },
            Asked { who: who("alice"), caller: from(2), ..base() },
            false,
        ),
        (LimitBy::Consumer, Asked { who: token(), ..base() }, Asked { who: token(), caller: from(2), ..base() }, false),
        (LimitBy::Consumer, base(), Asked { caller: from(2), ..base() }, true),
        (LimitBy::Consumer, base(), base(), false),
        (
            LimitBy::Credential,
            Asked { who: who("alice"), ..base() },
            Asked { who: who("alice"), caller: from(2), ..base() },
            false,
        ),
        (LimitBy::Service, base(), Asked { caller: from(2), target: "/b", ..base() }, false),
        (
            header(),
            Asked { headers: &[("x-tenant", "a")], ..base() },
            Asked { headers: &[("x-tenant", "a")], caller: from(2), ..base() },
            false,
        ),
        (
            header(),
            Asked { headers: &[("x-tenant", "a")], ..base() },
            Asked { headers: &[("x-tenant", "b")], ..base() },
            true,
        ),
        (header(), base(), Asked { caller: from(2), ..base() }, true),
        (path(), Asked { target: "/login", ..base() }, Asked { target: "/login?a", caller: from(2), ..base() }, false),
        (path(), Asked { target: "/a", ..base() }, Asked { target: "/b", ..base() }, false),
        (path(), Asked { target: "/a", ..base() }, Asked { target: "/login", ..base() }, true),
        (LimitBy::Peer, Asked { caller: peer(1), ..base() }, Asked { caller: peer(2), ..base() }, false),
        (LimitBy::Peer, Asked { caller: peer(1), ..base() }, base(), true),
    ];
    for (at, (by, first, second, other)) in cases.into_iter().enumerate() {
        let limiter = Bench::new().limiter(&settings(&[(Unit::Minute, 1)], by));
        assert!(passes(&limiter, &first), "case {at}");
        assert_eq!(passes(&limiter, &second), other, "case {at}");
    }
}

#[test]
fn a_client_behind_a_proxy_is_counted_by_its_own_address() {
    let limiter = Bench::new().limiter(&settings(&[(Unit::Minute, 1)], LimitBy::Ip));
    let behind =
        |client: u8| Caller { client: Ipv4Addr::new(192, 0, 2, client).into(), ..Caller::at(Ipv4Addr::LOCALHOST) };
    assert!(passes(&limiter, &Asked { caller: behind(1), ..Asked::default() }));
    assert!(passes(&limiter, &Asked { caller: behind(2), ..Asked::default() }));
    assert!(!passes(&limiter, &Asked { caller: behind(1), ..Asked::default() }));
}

#[test]
fn a_reload_keeps_what_was_used_where_the_same_is_counted() {
    let bench = Bench::new();
    let before = bench.limiter(&settings(&[(Unit::Minute, 1)], LimitBy::Ip));
    assert!(passes(&before, &Asked::default()));
    let same = bench.limiter(&settings(&[(Unit::Minute, 1)], LimitBy::Ip));
    assert!(!passes(&same, &Asked::default()));
    let raised = bench.limiter(&settings(&[(Unit::Minute, 2)], LimitBy::Ip));
    assert!(passes(&raised, &Asked::default()) && !passes(&raised, &Asked::default()));
    for other in [settings(&[(Unit::Hour, 1)], LimitBy::Ip), settings(&[(Unit::Minute, 1)], LimitBy::Consumer)] {
        assert!(passes(&bench.limiter(&other), &Asked::default()));
    }
    let elsewhere = RateLimiting::new(
        &settings(&[(Unit::Minute, 1)], LimitBy::Ip),
        "inbound.routes[a]",
        &bench.limiters,
        &bench.metrics,
    );
    assert!(passes(&elsewhere, &Asked::default()));
    // Nobody uses them any more: the next limiter begins anew.
    drop((before, same, raised));
    assert!(passes(&bench.limiter(&settings(&[(Unit::Minute, 1)], LimitBy::Ip)), &Asked::default()));
}

#[test]
fn a_fleet_shares_a_limit() {
    let bench = Bench::new();
    let mut settings = settings(&[(Unit::Minute, 10)], LimitBy::Ip);
    settings.policy = Policy::Fleet;
    let limiter = bench.limiter(&settings);
    let limit = |at: u64| number(&run(&limiter, &Asked { at, ..Asked::default() }).0, "ratelimit-limit");
    assert_eq!(limit(T), 10);
    for (instances, share) in [(0, 10), (1, 10), (2, 5), (3, 3), (11, 1)] {
        bench.limiters.fleet().heard(instances);
        assert_eq!(limit(T), share, "{instances} instances");
    }
    bench.limiters.fleet().heard(2);
    let granted = (0..20).filter(|_| passes(&limiter, &Asked { at: T + 60, ..Asked::default() })).count();
    assert_eq!(granted, 5);
}

#[test]
fn without_an_answer_of_the_store_it_passes_or_is_refused_as_told() {
    let bench = Bench::new();
    let mut settings = settings(&[(Unit::Minute, 10)], LimitBy::Ip);
    settings.policy = redis();
    let tolerant = bench.limiter(&settings);
    let (headers, end) = run(&tolerant, &Asked::default());
    assert!(end.is_none() && number(&headers, "ratelimit-remaining") == 9);
    *bench.store.broken.lock() = true;
    let (headers, end) = run(&tolerant, &Asked::default());
    assert!(end.is_none() && headers.is_empty());
    settings.fault_tolerant = false;
    let (headers, end) = run(&bench.limiter(&settings), &Asked::default());
    let Some(End::Refuse { reason: Reason::Overloaded, detail, .. }) = end else { panic!("{end:?}") };
    assert!(headers.is_empty() && detail == "redis: connection refused", "{detail}");
    let page = String::from_utf8(bench.metrics.render()).unwrap();
    for event in ["store_failed_passed", "store_failed_refused"] {
        assert!(page.contains(&format!("outrigger_rate_limit_events_total{{event=\"{event}\"}} 1")), "{page}");
    }
}

#[test]
fn a_store_is_told_no_caller_by_name_and_keeps_services_and_scopes_apart() {
    let bench = Bench::new();
    let mut settings = settings(&[(Unit::Minute, 10)], LimitBy::Header(HeaderName::from_static("x-key")));
    settings.policy = redis();
    let asked = Asked { headers: &[("x-key", "s3cret")], ..Asked::default() };
    let others = Limiters::new("orders", Arc::new(bench.store.clone()));
    run(&bench.limiter(&settings), &asked);
    run(&bench.limiter(&settings), &asked);
    run(&RateLimiting::new(&settings, "inbound.routes[a]", &bench.limiters, &bench.metrics), &asked);
    run(&RateLimiting::new(&settings, "inbound", &others, &bench.metrics), &asked);
    let keys = bench.store.asked.lock().clone();
    assert!(keys.iter().all(|key| key.len() == 32 && key.bytes().all(|byte| byte.is_ascii_hexdigit())), "{keys:?}");
    assert_eq!(keys[0], keys[1]);
    assert!(keys[1] != keys[2] && keys[1] != keys[3] && keys[2] != keys[3], "{keys:?}");
}
