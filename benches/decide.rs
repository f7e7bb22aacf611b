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

fn pick(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("pick");
    for balance in [Balance::LeastLoaded, Balance::RoundRobin] {
        for endpoints in [3, 100, 10_000] {
            let service = service("orders", balance, endpoints);
            let mut chance = fastrand::Rng::with_seed(7);
            let now = Instant::now();
            group.bench_function(BenchmarkId::new(format!("{balance:?}"), endpoints), |bencher| {
                bencher.iter(|| {
                    black_box(service.lease(&Ask { tried: &[], now, entropy: chance.u64(..), key: None }).is_ok())
                });
            });
        }
    }
    group.finish();
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

criterion_group!(benches, pick, find, rules);
criterion_main!(benches);
