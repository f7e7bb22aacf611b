//! What a decision costs: choosing an endpoint among few and among many, and finding an upstream by Host.

use std::hint::black_box;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use outrigger::filter::Chain;
use outrigger::names::ServiceName;
use outrigger::route::{
    Action, HostMatch, Matcher, PathMatch, Redirect, Reply, RetryPolicy, Route, RouteTable, Rule, StatusSet, Subject,
    first, normalised,
};
use outrigger::service::{Ask, Balance, Health, Listing, Policy, Service, Wire};
use outrigger::telemetry::{Direction, Metrics};

fn service(name: &str, balance: Balance, endpoints: u32) -> Arc<Service> {
    let name = ServiceName::parse(name).expect("a name of this file");
    let service = Service::new(name, Policy { balance, ..Policy::default() }, Instant::now());
    let listing = |at: u32| Listing {
        id: format!("e-{at}").into(),
        address: SocketAddr::from((at.to_be_bytes().map(|byte| byte | 1), 80)),
        weight: 1 + at % 3,
        health: Health::Passing,
        wire: Wire::Plain,
        zone: None,
    };
    service.list((0..endpoints).map(listing).collect(), Instant::now());
    Arc::new(service)
}

const BALANCERS: [Balance; 5] =
    [Balance::LeastLoaded, Balance::RoundRobin, Balance::Random, Balance::RingHash, Balance::Maglev];

fn pick(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("pick");
    for balance in BALANCERS {
        for endpoints in [10, 1_000, 10_000] {
            let service = service("orders", balance, endpoints);
            let now = Instant::now();
            let id = BenchmarkId::new(format!("{balance:?}"), endpoints);
            group.bench_function(id, |bencher| picks(bencher, &service, now));
            eject(&service, endpoints / 3, now);
            let later = now + Duration::from_secs(1);
            let id = BenchmarkId::new(format!("{balance:?}, a third ejected"), endpoints);
            group.bench_function(id, |bencher| picks(bencher, &service, later));
        }
    }
    group.finish();
}

fn picks(bencher: &mut criterion::Bencher<'_>, service: &Service, now: Instant) {
    let mut chance = fastrand::Rng::with_seed(7);
    bencher.iter(|| {
        let entropy = chance.u64(..);
        let lease = service.lease(&Ask { tried: &[], now, entropy, key: Some(entropy) });
        black_box(lease.is_ok())
    });
}

/// One request with a good answer: limit, breaker and average included.
fn lease(criterion: &mut Criterion) {
    let service = service("orders", Balance::LeastLoaded, 10);
    let now = Instant::now();
    let mut chance = fastrand::Rng::with_seed(7);
    criterion.bench_function("lease and answer", |bencher| {
        bencher.iter(|| {
            let permit = service.admit(now);
            let lease = service.lease(&Ask { tried: &[], now, entropy: chance.u64(..), key: None }).expect("endpoints");
            let told = lease.answered(now, now, true);
            permit.is_ok_and(|permit| {
                permit.answered(Duration::from_millis(1), now);
                black_box(told.is_none())
            })
        });
    });
}

/// Ejects so many endpoints, each by five failures that it alone has.
fn eject(service: &Service, count: u32, now: Instant) {
    let everyone: Vec<u64> = service.endpoints().all().iter().map(|endpoint| endpoint.number()).collect();
    let mut leases: Vec<Vec<outrigger::service::Lease>> = Vec::new();
    let mut chance = fastrand::Rng::with_seed(3);
    let mut wanted: std::collections::HashMap<u64, usize> =
        everyone.iter().take(count as usize).enumerate().map(|(at, number)| (*number, at)).collect();
    leases.resize_with(count as usize, Vec::new);
    while !wanted.is_empty() {
        let entropy = chance.u64(..);
        let lease = service.lease(&Ask { tried: &[], now, entropy, key: Some(entropy) }).expect("some are left");
        let number = lease.endpoint().number();
        if let Some(at) = wanted.get(&number).copied() {
            leases[at].push(lease);
            if leases[at].len() == 5 {
                wanted.remove(&number);
            }
        }
    }
    let ejected = leases.iter().flatten().filter_map(|lease| lease.answered(now, now, false)).count();
    assert_eq!(ejected, count as usize, "all of them are ejected");
}

fn find(criterion: &mut Criterion) {
    let metrics = Metrics::new();
    let routes = (0..50).map(|at| {
        let service = service(&format!("service-{at}"), Balance::LeastLoaded, 3);
        Arc::new(Route {
            flow: Arc::new(metrics.flow(Direction::Outbound, service.name().as_str())),
            service,
            authority: None,
            host: http::HeaderValue::from_static("x"),
            http2: false,
            tcp: false,
            connect_timeout: Duration::from_secs(1),
            timeout: None,
            body_idle: Duration::from_secs(1),
            idle_timeout: Duration::from_secs(1),
            retry: RetryPolicy::default(),
            counts_attempts: true,
            hedge: None,
            failures: StatusSet::GATEWAY,
            hash_on: None,
            filters: Chain::default(),
        })
    });
    let table = RouteTable::new(routes, Vec::new());
    for host in ["service-7", "Service-7.Mesh:9101", "nowhere"] {
        criterion.bench_function(&format!("find {host}"), |bencher| {
            bencher.iter(|| black_box(table.by_host(black_box(host)).is_ok()));
        });
    }
}

/// The last of fifty rules, and a path that is in normal form.
fn rules(criterion: &mut Criterion) {
    let rule = |at: u32| {
        let path = Some(PathMatch::Prefix(format!("/part-{at}")));
        let host = HostMatch::parse("api.local").ok();
        let redirect = Redirect { to: "/".into(), status: http::StatusCode::FOUND };
        let action = Action::Answer(Reply::Redirect(redirect), Chain::default());
        let matcher = Matcher { host, path, ..Matcher::default() };
        Arc::new(Rule { name: "a-rule".into(), matcher, action })
    };
    let rules: Vec<Arc<Rule>> = (0..50).map(rule).collect();
    let (method, headers) = (http::Method::GET, http::HeaderMap::new());
    let subject = Subject { host: "api.local:80", path: "/part-49/x", query: "", method: &method, headers: &headers };
    criterion.bench_function("match the last of 50 rules", |bencher| {
        bencher.iter(|| black_box(first(&rules, black_box(&subject)).is_some()));
    });
    criterion.bench_function("a path in normal form", |bencher| {
        bencher.iter(|| black_box(normalised(black_box("/users/1234/orders/5678")).is_none()));
    });
}

criterion_group!(benches, pick, lease, find, rules);
criterion_main!(benches);
