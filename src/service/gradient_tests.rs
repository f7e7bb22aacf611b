//! The adaptive limit against a simulated service: workers, a queue, time that only the simulation moves.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::Duration;

use super::gradient::Gradient;

/// A service that works on `workers` requests at once, each for `work`, behind the limit. Times in microseconds.
struct Simulation {
    gradient: Gradient,
    limit: u32,
    workers: usize,
    work: u64,
    now: u64,
    /// Ends of the requests that are worked on, with their beginnings.
    busy: BinaryHeap<Reverse<(u64, u64)>>,
    queue: VecDeque<u64>,
    rng: fastrand::Rng,
    refused: u32,
    served: u32,
}

impl Simulation {
    fn new(workers: usize, work: Duration) -> Self {
        let gradient = Gradient::new();
        Self {
            limit: gradient.limit(),
            gradient,
            workers,
            work: work.as_micros() as u64,
            now: 0,
            busy: BinaryHeap::new(),
            queue: VecDeque::new(),
            rng: fastrand::Rng::with_seed(9),
            refused: 0,
            served: 0,
        }
    }

    fn held(&self) -> u32 {
        (self.busy.len() + self.queue.len()) as u32
    }

    /// Requests come at random, `rate` a second, for so long.
    fn run(&mut self, rate: f64, time: Duration) {
        (self.refused, self.served) = (0, 0);
        let end = self.now + time.as_micros() as u64;
        let mut next = self.now;
        while next < end {
            self.work_until(next);
            self.now = next;
            if self.held() < self.limit {
                self.queue.push_back(next);
                self.begin();
            } else {
                self.refused += 1;
            }
            next += (-self.rng.f64().max(1e-9).ln() * 1e6 / rate) as u64 + 1;
        }
        self.now = end;
    }

    fn begin(&mut self) {
        while self.busy.len() < self.workers
            && let Some(arrived) = self.queue.pop_front()
        {
            // Nine to eleven tenths of the usual.
            let work = self.work * self.rng.u64(90..=110) / 100;
            self.busy.push(Reverse((self.now + work, arrived)));
        }
    }

    fn work_until(&mut self, until: u64) {
        while let Some(Reverse((end, arrived))) = self.busy.peek().copied()
            && end <= until
        {
            self.now = end;
            let held = self.held();
            self.busy.pop();
            self.answer(Duration::from_micros(end - arrived), held);
            self.begin();
        }
    }

    fn answer(&mut self, latency: Duration, held: u32) {
        self.served += 1;
        if let Some(limit) = self.gradient.observe(latency, held, self.now / 1000) {
            self.limit = limit;
        }
    }
}

const SECOND: Duration = Duration::from_secs(1);
const WORK: Duration = Duration::from_millis(20);

#[test]
fn a_healthy_service_with_steady_latency_grows_as_far_as_it_is_used() {
    let mut service = Simulation::new(usize::MAX, WORK);
    // 20,000/s at 20 ms are 400 at once.
    service.run(20_000.0, SECOND * 20);
    assert!((400..=1000).contains(&service.limit), "{}", service.limit);
    service.run(20_000.0, SECOND * 60);
    assert_eq!(service.refused, 0, "and then it never pays for being measured: {}", service.limit);
    service.run(60_000.0, SECOND * 60);
    assert_eq!(service.limit, 1000, "the most");
}

#[test]
fn little_traffic_moves_nothing() {
    let mut service = Simulation::new(usize::MAX, WORK);
    service.run(50.0, SECOND * 60);
    assert_eq!((service.limit, service.refused), (100, 0));
}

#[test]
fn an_overloaded_service_is_held_near_its_capacity() {
    let mut service = Simulation::new(10, WORK);
    // It can do 500/s; 1,500/s come.
    service.run(1_500.0, SECOND * 20);
    for _ in 0..20 {
        service.run(1_500.0, SECOND * 5);
        assert!((8..=24).contains(&service.limit), "{}", service.limit);
        assert!(service.served > 2_200, "it is kept busy: {} of 2,500", service.served);
    }
}

#[test]
fn one_slow_outlier_is_no_reason() {
    let mut service = Simulation::new(usize::MAX, WORK);
    service.run(20_000.0, SECOND * 20);
    let before = service.limit;
    for _ in 0..20 {
        let held = service.held();
        service.answer(Duration::from_secs(30), held);
        service.run(20_000.0, SECOND);
        assert!(service.limit >= before * 9 / 10, "{} of {before}", service.limit);
    }
    // Nor where there is so little traffic that it is one of ten answers of its window.
    let mut quiet = Simulation::new(usize::MAX, WORK);
    quiet.run(60.0, SECOND * 5);
    for _ in 0..20 {
        quiet.answer(Duration::from_secs(30), 90);
        quiet.run(60.0, SECOND);
    }
    assert!(quiet.limit >= 90, "{}", quiet.limit);
}

#[test]
fn it_recovers_after_an_outage() {
    let mut service = Simulation::new(usize::MAX, WORK);
    service.run(10_000.0, SECOND * 20);
    let before = service.limit;
    // Nothing is answered within a second for half a minute: each request that was let in times out.
    for _ in 0..30 {
        service.now += 1_000_000;
        let limit = service.limit;
        (0..limit).for_each(|_| service.answer(SECOND, limit));
    }
    assert!(service.limit < before * 9 / 10, "{} of {before}: it shrank", service.limit);
    service.run(10_000.0, SECOND * 20);
    service.run(10_000.0, SECOND * 20);
    assert!(service.limit >= 200, "{}", service.limit);
    assert_eq!(service.refused, 0, "200 at once are again let in: {}", service.limit);
}

#[test]
fn a_service_that_is_slower_for_good_is_not_strangled() {
    let mut service = Simulation::new(usize::MAX, WORK);
    service.run(10_000.0, SECOND * 20);
    service.work *= 5;
    service.run(10_000.0, SECOND * 60);
    service.run(10_000.0, SECOND * 20);
    // 10,000/s at 100 ms are the most that it lets in; without a queue, latency is no sign of load.
    assert!(service.limit >= 900, "{}", service.limit);
}

#[test]
fn never_below_the_least() {
    let mut service = Simulation::new(1, Duration::from_millis(200));
    service.run(100.0, SECOND * 900);
    assert!((4..10).contains(&service.limit), "{}", service.limit);
}
