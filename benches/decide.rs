//! What a decision costs: choosing an endpoint among few and among many, and finding an upstream by Host.

use std::hint::black_box;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use outrigger::names::ServiceName;
use outrigger::route::{RetryPolicy, Route, RouteTable, StatusSet};
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
    let table = RouteTable::new((0..50).map(|at| {
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
        })
    }));
    for host in ["service-7", "Service-7.Mesh:9101", "nowhere"] {
        criterion.bench_function(&format!("find {host}"), |bencher| {
            bencher.iter(|| black_box(table.by_host(black_box(host)).is_ok()));
        });
    }
}

criterion_group!(benches, pick, find);
criterion_main!(benches);
