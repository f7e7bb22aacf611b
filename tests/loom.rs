//! Model checking of the lock-free counters: loom runs every interleaving of the threads of each test, every value that
//! a relaxed load may see included.
//!
//! The sources of the counters are compiled here a second time, beside a module `sync` that holds loom's atomics instead
//! of std's; nothing else of the crate is. So there is no `--cfg loom` for tokio and its kin to stumble over, the tests run
//! with all others, and what is checked is the very text that runs.

#[path = "../src/service/breaker.rs"]
#[allow(dead_code, reason = "the view is for people")]
mod breaker;
#[path = "../src/service/budget.rs"]
#[allow(dead_code, reason = "reloads are not modelled")]
mod budget;
#[path = "../src/service/gate.rs"]
#[allow(dead_code, reason = "reloads are not modelled")]
mod gate;
#[path = "../src/service/policy.rs"]
#[allow(dead_code, reason = "the counters go by parts of it")]
mod policy;
#[path = "../src/service/window.rs"]
mod window;

/// In place of src/service/sync.rs.
mod sync {
    pub(super) use loom::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering};
}

/// What a policy names and no counter looks at.
mod balance {
    pub type Balance = ();
}

use std::sync::Arc;

use breaker::{Breaker, BreakerState, Ticket, Transition};
use budget::RetryBudget;
use gate::Gate;
use loom::thread;
use policy::{BreakerPolicy, BudgetPolicy};

/// One failure opens it.
fn hasty() -> BreakerPolicy {
    BreakerPolicy { consecutive: 1, ..BreakerPolicy::default() }
}

const DUE: u64 = 30_000;

fn ejected(room: &Gate) -> Breaker {
    let breaker = Breaker::new();
    let opened = breaker.failed(breaker.ticket(), &hasty(), room, 0);
    assert_eq!(opened.map(|t| t.to), Some(BreakerState::Open));
    breaker
}

fn to(transition: Option<Transition>) -> Option<BreakerState> {
    transition.map(|transition| transition.to)
}

#[test]
fn of_two_requests_one_probes() {
    loom::model(|| {
        let room = Gate::new(1);
        let breaker = Arc::new(ejected(&room));
        let other = thread::spawn({
            let breaker = breaker.clone();
            move || breaker.claim(DUE)
        });
        let ours = breaker.claim(DUE);
        let theirs = other.join().unwrap();
        assert!(ours.is_some() != theirs.is_some());
    });
}

#[test]
fn a_probe_that_is_dropped_frees_exactly_one_next_probe() {
    loom::model(|| {
        let room = Gate::new(1);
        let breaker = Arc::new(ejected(&room));
        let probe = breaker.claim(DUE).unwrap();
        let other = thread::spawn({
            let breaker = breaker.clone();
            move || breaker.claim(DUE)
        });
        assert!(breaker.abandoned(probe));
        let ours = breaker.claim(DUE);
        let theirs = other.join().unwrap();
        assert!(ours.is_some() != theirs.is_some());
    });
}

#[test]
fn a_late_failure_does_not_undo_what_the_probe_found() {
    loom::model(|| {
        let room = Arc::new(Gate::new(1));
        let breaker = Breaker::new();
        let late = breaker.ticket();
        breaker.failed(breaker.ticket(), &hasty(), &room, 0);
        let breaker = Arc::new(breaker);
        let probe = breaker.claim(DUE).unwrap();
        let other = thread::spawn({
            let (breaker, room) = (breaker.clone(), room.clone());
            move || to(breaker.failed(late, &hasty(), &room, DUE))
        });
        assert_eq!(to(breaker.succeeded(probe, &hasty(), &room, DUE)), Some(BreakerState::Closed));
        assert_eq!(other.join().unwrap(), None);
        assert!(matches!(breaker.ticket(), Ticket::Counted(_)));
        assert_eq!(room.held(), 0);
    });
}

#[test]
fn two_failures_at_once_open_it_once() {
    loom::model(|| {
        let room = Arc::new(Gate::new(9));
        let breaker = Arc::new(Breaker::new());
        let fail = |breaker: &Breaker, room: &Gate| to(breaker.failed(breaker.ticket(), &hasty(), room, 0));
        let other = thread::spawn({
            let (breaker, room) = (breaker.clone(), room.clone());
            move || fail(&breaker, &room)
        });
        let ours = fail(&breaker, &room);
        let theirs = other.join().unwrap();
        assert!(ours.is_some() != theirs.is_some());
        assert_eq!(room.held(), 1);
    });
}

#[test]
fn two_endpoints_do_not_both_take_the_last_place_among_the_ejected() {
    loom::model(|| {
        let room = Arc::new(Gate::new(1));
        let fail = |room: &Gate| {
            let breaker = Breaker::new();
            to(breaker.failed(breaker.ticket(), &hasty(), room, 0))
        };
        let other = thread::spawn({
            let room = room.clone();
            move || fail(&room)
        });
        let ours = fail(&room);
        let theirs = other.join().unwrap();
        assert!(ours.is_some() != theirs.is_some());
        assert_eq!(room.held(), 1);
    });
}

#[test]
fn an_endpoint_that_leaves_while_it_is_ejected_gives_its_place_back_once() {
    loom::model(|| {
        let room = Arc::new(Gate::new(1));
        let breaker = Arc::new(Breaker::new());
        let other = thread::spawn({
            let (breaker, room) = (breaker.clone(), room.clone());
            move || breaker.suspend(&room)
        });
        breaker.failed(breaker.ticket(), &hasty(), &room, 0);
        other.join().unwrap();
        assert_eq!(room.held(), 0);
        assert_eq!(to(breaker.failed(breaker.ticket(), &hasty(), &room, 0)), None);
    });
}

#[test]
fn a_probe_s_answer_and_its_endpoint_s_leaving_give_the_place_back_once() {
    loom::model(|| {
        let room = Arc::new(Gate::new(1));
        let breaker = Arc::new(ejected(&room));
        let probe = breaker.claim(DUE).unwrap();
        let other = thread::spawn({
            let (breaker, room) = (breaker.clone(), room.clone());
            move || breaker.suspend(&room)
        });
        breaker.succeeded(probe, &hasty(), &room, DUE);
        other.join().unwrap();
        assert_eq!(room.held(), 0);
    });
}

#[test]
fn the_request_limit_is_exact_and_refuses_nobody_for_whom_there_is_room() {
    loom::model(|| {
        let gate = Arc::new(Gate::new(2));
        assert!(gate.take());
        let others: Vec<_> = (0..2)
            .map(|_| {
                let gate = gate.clone();
                thread::spawn(move || {
                    let let_in = gate.take();
                    assert!(gate.held() <= 2);
                    let_in
                })
            })
            .collect();
        let let_in = others.into_iter().map(|other| other.join().unwrap()).filter(|let_in| *let_in).count();
        assert_eq!((let_in, gate.held()), (1, 2));
    });
}

#[test]
fn a_place_that_is_given_back_can_be_taken() {
    loom::model(|| {
        let gate = Arc::new(Gate::new(2));
        assert!(gate.take());
        let other = thread::spawn({
            let gate = gate.clone();
            move || {
                gate.put();
                gate.take()
            }
        });
        // At most one other holds a place at any time.
        assert!(gate.take());
        assert!(other.join().unwrap());
        assert_eq!(gate.held(), 2);
    });
}

#[test]
fn nobody_spends_the_same_retry_twice() {
    loom::model(|| {
        let budget = Arc::new(RetryBudget::new(BudgetPolicy { ratio: 1.0, min_per_second: 0 }));
        budget.deposit();
        let other = thread::spawn({
            let budget = budget.clone();
            move || budget.withdraw(0)
        });
        let ours = budget.withdraw(0);
        assert!(ours != other.join().unwrap());
    });
}

#[test]
fn the_floor_of_a_second_is_paid_once() {
    loom::model(|| {
        let budget = Arc::new(RetryBudget::new(BudgetPolicy { ratio: 0.0, min_per_second: 1 }));
        assert!(budget.withdraw(0), "the second that it begins with");
        let other = thread::spawn({
            let budget = budget.clone();
            move || budget.withdraw(1000)
        });
        let ours = budget.withdraw(1000);
        let theirs = other.join().unwrap();
        assert!(!(ours && theirs), "one retry a second is not two");
        assert!(ours || theirs || budget.withdraw(1000), "nor none");
    });
}
