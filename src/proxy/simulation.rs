//! A service under load in a stopped clock: the real tries, pool, breakers and balancers against endpoints in memory, so
//! that minutes pass at once and every run is the same.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, Request, StatusCode};
use parking_lot::Mutex;

use super::exchange::{Exchange, Start};
use super::tries::{self, Answer};
use crate::clock;
use crate::lifecycle::Lifecycle;
use crate::listen::{Connection, Peer};
use crate::names::ServiceName;
use crate::reason::Reason;
use crate::route::{RetryPolicy, Route, StatusSet};
use crate::service::{Balance, BreakerView, Health, Limits, Listing, Policy, Service, Wire};
use crate::telemetry::{Direction, Metrics};
use crate::upstream::testing::{Conduct, Network};
use crate::upstream::{Dialer, Pool, PoolSettings, RequestBody};

const MILLI: Duration = Duration::from_millis(1);
const WELL: Conduct = Conduct::Answers(200, Duration::from_millis(2));

/// One upstream with its endpoints, and what became of its requests.
struct Mesh {
    route: Arc<Route>,
    network: Network,
    pool: Pool,
    life: Lifecycle,
    ended: Arc<Mutex<Vec<Ended>>>,
}

/// A request's end.
#[derive(Debug, Clone, Copy)]
struct Ended {
    /// Since the mesh began.
    at: Duration,
    took: Duration,
    status: u16,
    reason: Option<Reason>,
}

fn address(endpoint: u16) -> SocketAddr {
    ([10, 0, 0, 1], 8000 + endpoint).into()
}

/// Endpoints 0 to `count`, those from `count / 2` on in zone b, the others in zone a.
fn listings(count: u16) -> Vec<Listing> {
    let listing = |endpoint: u16| Listing {
        id: format!("users-{endpoint}").into(),
        address: address(endpoint),
        weight: 1,
        health: Health::Passing,
        wire: Wire::Plain,
        zone: Some(if endpoint < count / 2 { "a" } else { "b" }.into()),
    };
    (0..count).map(listing).collect()
}

impl Mesh {
    fn start(endpoints: u16, policy: Policy, retry: RetryPolicy) -> Self {
        // The generator is the thread's; a test's runtime has one thread.
        fastrand::seed(7);
        let name = ServiceName::parse("users").unwrap();
        let service = Arc::new(Service::new(name, policy, clock::now()));
        service.list(listings(endpoints), clock::now());
        let (network, life) = (Network::default(), Lifecycle::new());
        (0..endpoints).for_each(|endpoint| network.set(address(endpoint), WELL));
        let route = Route {
            service,
            authority: None,
            host: "users".parse().unwrap(),
            flow: Arc::new(Metrics::new().flow(Direction::Outbound, "users")),
            http2: false,
            connect_timeout: Duration::from_secs(1),
            timeout: Some(Duration::from_secs(15)),
            body_idle: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(300),
            retry,
            filters: crate::filter::Chain::default(),
            tcp: false,
            counts_attempts: true,
            hedge: None,
            failures: StatusSet::GATEWAY,
            hash_on: None,
        };
        let settings = PoolSettings { idle: Duration::from_secs(90), keeps_case: false };
        let pool = Pool::new(Dialer::in_memory(network.clone()), settings, life.clone());
        Self { route: Arc::new(route), network, pool, life, ended: Arc::default() }
    }

    /// Requests at a steady pace for `span`, whether or not earlier ones have ended; then all are waited for.
    async fn load(&self, method: &Method, per_second: u32, span: Duration) -> Vec<Ended> {
        self.begin(method, per_second, span).await;
        self.settle().await
    }

    async fn begin(&self, method: &Method, per_second: u32, span: Duration) {
        let began = clock::now();
        let pause = Duration::from_secs(1) / per_second;
        while clock::now() - began < span {
            self.request(method.clone(), began);
            tokio::time::sleep(pause).await;
        }
    }

    async fn settle(&self) -> Vec<Ended> {
        while self.life.running().iter().any(|(task, _)| *task == "request") {
            tokio::time::sleep(MILLI).await;
        }
        std::mem::take(&mut self.ended.lock())
    }

    fn request(&self, method: Method, began: std::time::Instant) {
        let (route, pool, ended) = (self.route.clone(), self.pool.clone(), self.ended.clone());
        self.life.spawn("request", async move {
            let asked = clock::now();
            let peer = Peer { address: address(9), tls: None };
            let connection = Arc::new(Connection::new(peer, address(10)));
            let mut request = Request::new(RequestBody::Empty);
            *request.method_mut() = method;
            let (head, ()) = Request::new(()).into_parts();
            let mut exchange = Exchange::begin(route.flow.clone(), &connection, None, &head, Start::new());
            let (status, reason) = match tries::send(&pool, &route, request, None, &mut exchange).await {
                Ok(Answer::Whole(response)) => (response.status(), None),
                Ok(Answer::Streaming(response, _)) => (response.status(), None),
                Err(refusal) => (refusal.reason.status(), Some(refusal.reason)),
            };
            exchange.finish();
            let (at, took) = (clock::now() - began, clock::now() - asked);
            ended.lock().push(Ended { at, took, status: status.as_u16(), reason });
        });
    }

    fn taken(&self, endpoint: u16) -> u64 {
        self.network.taken(address(endpoint))
    }

    fn breaker(&self, endpoint: u16) -> BreakerView {
        let endpoints = self.route.service.endpoints();
        let found = endpoints.all().iter().find(|found| found.listing.address == address(endpoint));
        found.unwrap().breaker(clock::now())
    }

    /// Nothing is under way at any endpoint, and the service has room for all.
    fn assert_at_rest(&self) {
        assert!(self.route.service.endpoints().all().iter().all(|endpoint| endpoint.load().in_flight() == 0));
        assert_eq!(self.route.service.requests().0, 0);
        assert_eq!(self.route.flow.in_flight.get(), 0);
    }
}

fn failed(ended: &[Ended]) -> usize {
    ended.iter().filter(|ended| ended.status >= 500).count()
}

fn p99(ended: &[Ended]) -> Duration {
    let mut took: Vec<Duration> = ended.iter().map(|ended| ended.took).collect();
    took.sort_unstable();
    took[took.len() * 99 / 100]
}

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn one_endpoint_of_five_that_answers_503_is_hardly_seen() {
    let mesh = Mesh::start(5, Policy::default(), RetryPolicy::default());
    mesh.network.set(address(2), Conduct::Answers(503, MILLI));
    let ended = mesh.load(&Method::GET, 1000, 3 * SECOND).await;
    let later: Vec<Ended> = ended.iter().copied().filter(|ended| ended.at > SECOND).collect();
    assert!(later.len() > 1_500);
    assert!(failed(&later) * 1000 < later.len(), "{} of {} failed", failed(&later), later.len());
    // Without retries too, once the breaker is open: what is left is its one probe.
    let mesh = Mesh::start(5, Policy::default(), RetryPolicy { attempts: 0, ..RetryPolicy::default() });
    mesh.network.set(address(2), Conduct::Answers(503, MILLI));
    let ended = mesh.load(&Method::POST, 1000, 3 * SECOND).await;
    let later: Vec<Ended> = ended.iter().copied().filter(|ended| ended.at > SECOND).collect();
    assert!(failed(&later) * 1000 < later.len(), "{} of {} failed", failed(&later), later.len());
    assert!(mesh.taken(2) < 20, "{}", mesh.taken(2));
    mesh.assert_at_rest();
}

#[tokio::test(start_paused = true)]
async fn one_slow_endpoint_of_five_does_not_show_in_the_tail() {
    let healthy = Mesh::start(5, Policy::default(), RetryPolicy::default());
    let before = p99(&healthy.load(&Method::GET, 250, 4 * SECOND).await);
    let mesh = Mesh::start(5, Policy::default(), RetryPolicy::default());
    mesh.network.set(address(0), Conduct::Answers(200, Duration::from_millis(200)));
    let ended = mesh.load(&Method::GET, 250, 4 * SECOND).await;
    assert_eq!(failed(&ended), 0);
    assert!(p99(&ended) <= 2 * before, "p99 {:?}, healthy {before:?}", p99(&ended));
    mesh.assert_at_rest();
}

#[tokio::test(start_paused = true)]
async fn a_zone_that_is_cut_off_costs_no_request_and_is_used_again() {
    let policy = Policy { zone: Some("a".into()), ..Policy::default() };
    let mesh = Mesh::start(6, policy, RetryPolicy::default());
    let near = |mesh: &Mesh| (0..3).map(|endpoint| mesh.taken(endpoint)).sum::<u64>();
    let far = |mesh: &Mesh| (3..6).map(|endpoint| mesh.taken(endpoint)).sum::<u64>();
    let ended = mesh.load(&Method::GET, 100, 2 * SECOND).await;
    assert_eq!((failed(&ended), far(&mesh)), (0, 0), "all stays in its own zone");
    (0..3).for_each(|endpoint| mesh.network.set(address(endpoint), Conduct::Unreachable));
    let ended = mesh.load(&Method::GET, 50, 20 * SECOND).await;
    assert_eq!(failed(&ended), 0, "{:?}", ended.iter().find(|ended| ended.status >= 500));
    assert!(far(&mesh) > 800, "the other zone takes over: {}", far(&mesh));
    (0..3).for_each(|endpoint| mesh.network.set(address(endpoint), WELL));
    // Ejections end one by one; after them the zone has all of it again.
    mesh.load(&Method::GET, 5, 100 * SECOND).await;
    let (before, elsewhere) = (near(&mesh), far(&mesh));
    let ended = mesh.load(&Method::GET, 100, 2 * SECOND).await;
    assert_eq!((failed(&ended), far(&mesh) - elsewhere), (0, 0));
    assert!(near(&mesh) - before >= 190);
    mesh.assert_at_rest();
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_comes_and_goes_costs_no_request_and_is_trusted_less_each_time() {
    let policy = Policy { balance: Balance::RoundRobin, ..Policy::default() };
    let mesh = Mesh::start(4, policy, RetryPolicy::default());
    let mut open_for = Vec::new();
    for _ in 0..3 {
        mesh.network.set(address(1), Conduct::Breaks(MILLI));
        let mut ended = mesh.load(&Method::GET, 50, 5 * SECOND).await;
        open_for.push(mesh.breaker(1).open_for_remaining.as_secs());
        mesh.network.set(address(1), WELL);
        // Until it is back in use, and not for long: a long good time would be to its credit.
        let calm = mesh.breaker(1).open_for_remaining + 3 * SECOND;
        ended.extend(mesh.load(&Method::GET, 10, calm).await);
        assert_eq!(failed(&ended), 0);
    }
    assert!(
        open_for.is_sorted() && open_for[0] >= 24 && open_for[1] > 30 && open_for[2] > 60,
        "each ejection lasts longer: {open_for:?}"
    );
    mesh.assert_at_rest();
}

#[tokio::test(start_paused = true)]
async fn a_storm_of_failures_is_not_multiplied() {
    let policy = Policy {
        breaker: crate::service::BreakerPolicy { max_ejected: 0.0, ..Policy::default().breaker },
        ..Policy::default()
    };
    let mesh = Mesh::start(5, policy, RetryPolicy::default());
    (0..5).for_each(|endpoint| mesh.network.set(address(endpoint), Conduct::Answers(503, MILLI)));
    let (span, per_second) = (4 * SECOND, 500);
    let ended = mesh.load(&Method::GET, per_second, span).await;
    let attempts: u64 = (0..5).map(|endpoint| mesh.taken(endpoint)).sum();
    let floor = 10.0 * (span.as_secs_f64() + 1.0);
    let requests = ended.len() as f64;
    assert_eq!(failed(&ended), ended.len());
    assert!(attempts as f64 <= 1.2 * requests + floor, "{attempts} attempts for {requests} requests");
    assert!(attempts as f64 >= 1.15 * requests, "what the budget allows is used: {attempts} for {requests}");
    mesh.assert_at_rest();
}

#[tokio::test(start_paused = true)]
async fn when_all_are_ejected_the_reason_says_so_and_one_request_each_probes() {
    let mut policy = Policy { balance: Balance::Random, ..Policy::default() };
    policy.breaker.max_ejected = 1.0;
    let mesh = Mesh::start(3, policy, RetryPolicy { attempts: 0, ..RetryPolicy::default() });
    (0..3).for_each(|endpoint| mesh.network.set(address(endpoint), Conduct::Answers(503, MILLI)));
    let ended = mesh.load(&Method::GET, 200, 2 * SECOND).await;
    assert!(ended.iter().any(|ended| ended.reason == Some(Reason::AllEjected)));
    let taken: Vec<u64> = (0..3).map(|endpoint| mesh.taken(endpoint)).collect();
    assert_eq!(taken, [5, 5, 5], "five in a row each, and not one more");
    // Each takes its time over the probe, while a hundred requests come at once.
    (0..3).for_each(|endpoint| mesh.network.set(address(endpoint), Conduct::Answers(200, SECOND)));
    tokio::time::sleep(30 * SECOND).await;
    let began = clock::now();
    (0..100).for_each(|_| mesh.request(Method::GET, began));
    tokio::time::sleep(SECOND / 2).await;
    let probed: Vec<u64> = (0..3).map(|endpoint| mesh.taken(endpoint) - 5).collect();
    assert!(probed.iter().all(|probed| *probed <= 1) && probed.iter().sum::<u64>() >= 1, "{probed:?}");
    let ended = mesh.settle().await;
    assert_eq!(ended.iter().filter(|ended| ended.status == 200).count() as u64, probed.iter().sum::<u64>());
    assert!(ended.iter().filter(|ended| ended.status != 200).all(|ended| ended.reason == Some(Reason::AllEjected)));
    (0..3).for_each(|endpoint| mesh.network.set(address(endpoint), WELL));
    let ended = mesh.load(&Method::GET, 200, 5 * SECOND).await;
    assert!(failed(&ended) < ended.len(), "closed again");
    mesh.assert_at_rest();
}

#[tokio::test(start_paused = true)]
async fn more_than_the_limits_is_refused_at_once() {
    let limits = Limits { connections: 2, pending: 3, requests: 6 };
    let mesh = Mesh::start(1, Policy { limits, ..Policy::default() }, RetryPolicy::default());
    mesh.network.set(address(0), Conduct::Answers(200, SECOND));
    let began = clock::now();
    (0..10).for_each(|_| mesh.request(Method::GET, began));
    let ended = mesh.settle().await;
    let refused: Vec<&Ended> = ended.iter().filter(|ended| ended.reason == Some(Reason::Overloaded)).collect();
    assert_eq!(refused.len(), 5, "six may be under way; of these two have a connection and three wait");
    assert!(refused.iter().all(|ended| ended.took < 10 * MILLI), "nothing is queued beyond its bound");
    assert_eq!(ended.iter().filter(|ended| ended.status == StatusCode::OK.as_u16()).count(), 5);
    assert!(ended.iter().all(|ended| ended.took < 4 * SECOND));
    mesh.assert_at_rest();
}
