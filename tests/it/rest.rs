//! Connections on which nothing is asked for a while: they give their buffers back, and work on as before.

use std::time::Duration;

use serde_json::json;

use crate::support::client::Connection;
use crate::support::{Ask, Pair, SOON, eventually, throughout};

/// A little longer than it takes for a connection to be taken for one at rest.
const A_WHILE: Duration = Duration::from_millis(1600);

fn open(pair: &Pair) -> f64 {
    pair.web.metric("outrigger_connections", &[("direction", "outbound"), ("state", "active")])
}

#[test]
fn a_connection_at_rest_stays_open_and_answers_again() {
    let pair = Pair::start();
    let (get, post) = (Ask::get("/bytes/70000").host("users"), Ask::new("POST", "/mirror").host("users"));
    let mut kept = Connection::to(pair.web.outbound()).unwrap();
    for _ in 0..3 {
        let answer = kept.ask(&get).unwrap();
        assert_eq!((answer.status, answer.body.len()), (200, 70_000));
        throughout(A_WHILE, "the connection stays open", || open(&pair) > 0.5);
        // A head in two pieces, a body after it: nothing of what wakes it is lost.
        kept.write(b"GET /bytes/3 HTTP/1.1\r\nHo").unwrap();
        kept.write(b"st: users\r\n\r\n").unwrap();
        assert_eq!(kept.read("GET").unwrap().body.len(), 3);
        throughout(A_WHILE, "the connection stays open", || open(&pair) > 0.5);
        assert_eq!(kept.ask(&post.clone().body(vec![b'x'; 100_000])).unwrap().body.len(), 100_000);
    }
    drop(kept);
    pair.web.comes_to_rest();
}

#[test]
fn a_drain_closes_a_connection_at_rest() {
    let mut pair = Pair::start();
    let mut kept = Connection::to(pair.web.outbound()).unwrap();
    assert_eq!(kept.ask(&Ask::get("/").host("users")).unwrap().status, 200);
    throughout(A_WHILE, "the connection stays open", || open(&pair) > 0.5);
    assert_eq!(pair.web.stop(), Some(0));
    assert!(kept.closed());
}

#[test]
fn a_client_that_takes_its_answer_late_gets_all_of_it() {
    let pair = Pair::with(|users| users, |web| web.set("outbound.timeouts", json!({ "idle": "60s" })));
    let mut slow = Connection::to(pair.web.outbound()).unwrap();
    slow.write(b"GET /bytes/6000000 HTTP/1.1\r\nHost: users\r\n\r\n").unwrap();
    eventually(SOON, "the connection is taken", || (open(&pair) > 0.5).then_some(()));
    throughout(A_WHILE * 2, "the connection stays open", || open(&pair) > 0.5);
    assert_eq!(slow.read("GET").unwrap().body.len(), 6_000_000);
    eventually(SOON, "the answer is counted", || {
        (pair.web.metric("outrigger_requests_in_flight", &[]) < 0.5).then_some(())
    });
}
