//! Outages in simulated time: what requests see while one endpoint fails, is slow, or a zone is cut off.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

use super::set_tests::{in_zone, passing, service};
use super::*;

/// Requests at a steady rate, each tried again on another endpoint where the budget allows.
struct Traffic<'a> {
    service: &'a Service,
    now: Instant,
    every: Duration,
    retries: usize,
    rng: fastrand::Rng,
    /// What endpoints are at work on: when it ends, in order of beginning.
    working: BinaryHeap<Reverse<(Instant, usize)>>,
    leases: Vec<Option<(Lease, Instant, bool)>>,
    transitions: Vec<(String, BreakerState)>,
}

/// What one request met.
struct Outcome {
    good: bool,
    latency: Duration,
    tried: Vec<String>,
}

impl<'a> Traffic<'a> {
    fn new(service: &'a Service, now: Instant, per_second: u32, retries: usize) -> Self {
        Self {
            service,
            now,
            every: Duration::from_secs(1) / per_second,
            retries,
            rng: fastrand::Rng::with_seed(17),
            working: BinaryHeap::new(),
            leases: Vec::new(),
            transitions: Vec::new(),
        }
    }

    /// Runs for `time`; `act` says how an endpoint answers: after how long, and whether well.
    fn run(&mut self, time: Duration, act: impl Fn(&str) -> (Duration, bool)) -> Vec<Outcome> {
        let end = self.now + time;
        let mut outcomes = Vec::new();
        while self.now < end {
            self.answer_until(self.now);
            outcomes.push(self.request(&act));
            self.now += self.every;
        }
        outcomes
    }

    /// Tries follow each other at once: what a try will have come to is known to the simulation, and told to the service
    /// when it is due.
    fn request(&mut self, act: &impl Fn(&str) -> (Duration, bool)) -> Outcome {
        self.service.note_request();
        let mut outcome = Outcome { good: false, latency: Duration::ZERO, tried: Vec::new() };
        let mut tried = Vec::new();
        loop {
            let ask = Ask { tried: &tried, now: self.now, entropy: self.rng.u64(..), key: None };
            let Ok(lease) = self.service.lease(&ask) else { return outcome };
            let id = lease.endpoint().listing.id.to_string();
            tried.push(lease.endpoint().number());
            let (takes, good) = act(&id);
            outcome.tried.push(id);
            outcome.latency += takes;
            outcome.good = good;
            if takes.is_zero() {
                self.tell(&lease, self.now, self.now, good);
            } else {
                self.working.push(Reverse((self.now + takes, self.leases.len())));
                self.leases.push(Some((lease, self.now, good)));
            }
            if good || tried.len() > self.retries || !self.service.may_retry(self.now) {
                return outcome;
            }
        }
    }

    fn answer_until(&mut self, now: Instant) {
        while let Some(Reverse((at, which))) = self.working.peek().copied()
            && at <= now
        {
            self.working.pop();
            let (lease, sent, good) = self.leases[which].take().unwrap();
            self.tell(&lease, sent, at, good);
        }
    }

    fn tell(&mut self, lease: &Lease, sent: Instant, at: Instant, good: bool) {
        let id = lease.endpoint().listing.id.to_string();
        self.transitions.extend(lease.answered(sent, at, good).map(|transition| (id, transition.to)));
    }
}

const SECOND: Duration = Duration::from_secs(1);
const QUICK: Duration = Duration::from_millis(5);

#[test]
fn one_of_five_that_answers_503_to_everything_is_hardly_seen() {
    for (balance, retries) in [(Balance::LeastLoaded, 0), (Balance::LeastLoaded, 2), (Balance::RoundRobin, 2)] {
        let policy = Policy { balance, ..Policy::default() };
        let (service, now) = service(policy, passing(["a", "b", "c", "d", "e"]));
        let mut traffic = Traffic::new(&service, now, 1_000, retries);
        let ill = |id: &str| (QUICK, id != "c");
        traffic.run(SECOND, ill);
        let after = traffic.run(SECOND * 60, ill);
        let errors = after.iter().filter(|outcome| !outcome.good).count();
        assert!(errors * 1_000 < after.len(), "{balance:?}, {retries} retries: {errors} of {}", after.len());
        if retries > 0 {
            assert_eq!(errors, 0, "what meets it is tried again elsewhere");
        }
        assert_eq!(traffic.transitions.first(), Some(&("c".into(), BreakerState::Open)));
    }
}

#[test]
fn one_of_five_that_is_a_hundred_times_slower_leaves_the_p99_as_it_is() {
    let (service, now) = service(Policy::default(), passing(["a", "b", "c", "d", "e"]));
    let mut traffic = Traffic::new(&service, now, 1_000, 0);
    traffic.run(SECOND * 5, |_| (QUICK, true));
    let slow = |id: &str| (if id == "c" { QUICK * 100 } else { QUICK }, true);
    let mut latencies: Vec<_> = traffic.run(SECOND * 30, slow).iter().map(|outcome| outcome.latency).collect();
    latencies.sort_unstable();
    assert!(latencies[latencies.len() * 99 / 100] <= QUICK * 2);
    let met = latencies.iter().filter(|latency| **latency > QUICK).count();
    assert!((5..100).contains(&met), "it is tried again now and then: {met}");
    // And once it is well it gets its share again.
    let well = traffic.run(SECOND * 60, |_| (QUICK, true));
    let share = well[50_000..].iter().filter(|outcome| outcome.tried[0] == "c").count();
    assert!((1_500..2_500).contains(&share), "{share} of 10,000");
}

#[test]
fn a_zone_that_is_cut_off_costs_no_request_once_it_is_known() {
    let policy = Policy { zone: Some("a".into()), ..Policy::default() };
    let listed = [in_zone("a", &["a1", "a2", "a3"]), in_zone("b", &["b1", "b2", "b3"])].concat();
    let (service, start) = service(policy, listed);
    let mut rng = fastrand::Rng::with_seed(23);
    let mut unsent = 0;
    for tick in 0..60_000u64 {
        let now = start + Duration::from_millis(tick);
        let cut_off = (10_000..30_000).contains(&tick);
        let ask = Ask { tried: &[], now, entropy: rng.u64(..), key: None };
        let lease = service.lease(&ask).unwrap();
        let near = lease.endpoint().listing.id.starts_with('a');
        if near && cut_off {
            lease.unreachable(now);
            unsent += 1;
        } else {
            lease.answered(now, now, true);
            // Twenty seconds after it came back the zone has everything again.
            assert!(near || (10_000..50_000).contains(&tick), "{tick}");
        }
    }
    // Three to find out, then a probe each after 0.5, 1, 2, 4, 8 s.
    assert!((3..=24).contains(&unsent), "{unsent} of 20,000 requests met it");
}

#[test]
fn with_every_endpoint_failing_attempts_stay_within_the_budget() {
    for on_all_open in [OnAllOpen::Fail, OnAllOpen::TryAnyway] {
        let breaker = BreakerPolicy { max_ejected: 1.0, on_all_open, ..BreakerPolicy::default() };
        let (service, now) = service(Policy { breaker, ..Policy::default() }, passing(["a", "b", "c"]));
        let mut traffic = Traffic::new(&service, now, 1_000, 2);
        let requests = traffic.run(SECOND * 20, |_| (Duration::ZERO, false));
        let attempts: usize = requests.iter().map(|outcome| outcome.tried.len()).sum();
        assert!(attempts <= requests.len() * 12 / 10 + 10 * 21, "{on_all_open:?}: {attempts} of {}", requests.len());
        if on_all_open == OnAllOpen::Fail {
            assert!(attempts <= 30, "and once all are ejected nothing is sent at all: {attempts}");
        }
    }
}
