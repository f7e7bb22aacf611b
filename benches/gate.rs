//! What the inbound gate costs a request: keys and limits.

use std::hint::black_box;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use criterion::{Criterion, criterion_group, criterion_main};
use http::{Extensions, HeaderName, HeaderValue, Request, StatusCode, request};
use outrigger::filter::consumers::{Consumer, Consumers, Credential};
use outrigger::filter::rate_limiting::{
    Counters, LimitBy, Limiters, Policy, Quota, RedisSettings, Settings as Limit, SharedCounters, Stores, Unit,
};
use outrigger::filter::{Call, Caller, Chain, Context, Mode, Plugin, Settings, key_auth};
use outrigger::fingerprint::Fingerprint;
use outrigger::telemetry::Metrics;

struct NoStore;

impl Stores for NoStore {
    fn redis(&self, _settings: &RedisSettings) -> Arc<dyn SharedCounters> {
        unreachable!("no limiter here has a store")
    }
}

fn consumers(count: u32) -> Arc<Consumers> {
    let consumer = |n: u32| Consumer {
        id: format!("id-{n}").into(),
        username: Some(format!("user-{n}").into()),
        custom_id: None,
        groups: Vec::new(),
        keys: vec![Credential {
            id: format!("user-{n}-1").into(),
            fingerprint: Fingerprint::of(&[format!("a-key-of-thirty-two-characters-{n:04}").as_bytes()]),
        }],
        passwords: Vec::new(),
        jwt_secrets: Vec::new(),
    };
    Arc::new(Consumers::new(&(0..count).map(consumer).collect::<Vec<_>>()))
}

fn context() -> Context {
    let mut context = Context::new(Metrics::new(), Arc::new(Limiters::new("users", Arc::new(NoStore))));
    context.consumers = consumers(1000);
    context
}

fn chain(settings: Settings, context: &Context) -> Chain {
    Chain::build(&[Plugin { mode: Mode::Enforce, settings, scope: "inbound".into() }], context)
}

/// A head as a browser sends it.
fn head() -> request::Parts {
    let mut request = Request::get("/users/1?b=c");
    for name in ["host", "user-agent", "accept", "accept-language", "accept-encoding", "x-request-id", "traceparent"] {
        request = request.header(name, "some value of a usual length");
    }
    request.body(()).expect("a request").into_parts().0
}

fn run(chain: &Chain, head: &mut request::Parts, client: u32, now: Instant, wall: SystemTime) -> bool {
    let (mut stash, client) = (Extensions::new(), Ipv4Addr::from_bits(client).into());
    let caller = Caller { address: client, client, identity: None };
    chain.request(Call { head, caller, stash: &mut stash, now, wall, entropy: 7 }).end.is_none()
}

fn keys(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("keys");
    let (now, wall) = (Instant::now(), SystemTime::now());
    let key_auth = key_auth::Settings {
        key_names: vec![HeaderName::from_static("apikey")],
        key_in_header: true,
        key_in_query: true,
        hide_credentials: true,
        anonymous: None,
        run_on_preflight: true,
        realm: None,
    };
    let chain_of_keys = chain(Settings::KeyAuth(key_auth), &context());
    let key = HeaderValue::from_static("a-key-of-thirty-two-characters-0500");
    let mut request = head();
    group.bench_function("key-auth", |bencher| {
        bencher.iter(|| {
            request.headers.insert("apikey", key.clone());
            assert!(run(&chain_of_keys, &mut request, 1, now, wall));
        });
    });
    group.finish();

    let mut group = criterion.benchmark_group("limits");
    for (name, limits) in [
        ("one window", &[(Unit::Minute, 1_000_000_000)][..]),
        ("two windows", &[(Unit::Minute, 1_000_000_000), (Unit::Hour, 1_000_000_000)]),
    ] {
        let limit = Limit {
            limits: limits.to_vec(),
            limit_by: LimitBy::Ip,
            policy: Policy::Local,
            fault_tolerant: true,
            hide_client_headers: false,
            error_code: StatusCode::TOO_MANY_REQUESTS,
            error_message: None,
        };
        let chain = chain(Settings::RateLimiting(Box::new(limit)), &context());
        let mut client = 0_u32;
        group.bench_function(format!("plugin, {name}, 10000 clients"), |bencher| {
            bencher.iter(|| {
                client = (client + 1) % 10_000;
                assert!(run(&chain, &mut request, client, now, wall));
            });
        });
    }
    let counters = Counters::new(1);
    let at = wall.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
    let quota = [Quota { unit: Unit::Minute, limit: 1_000_000_000, window: Unit::Minute.window(at) }];
    for client in 0..1_000_000_u32 {
        counters.take(0, &client.to_le_bytes(), &quota);
    }
    println!("1,000,000 clients in one limiter: {} KiB", counters.bytes() / 1024);
    let mut client = 0_u32;
    group.bench_function("counter, 1000000 clients", |bencher| {
        bencher.iter(|| {
            client = client.wrapping_add(7919) % 1_000_000;
            black_box(counters.take(0, &client.to_le_bytes(), &quota))
        });
    });
    group.finish();
}

criterion_group!(benches, keys);
criterion_main!(benches);
