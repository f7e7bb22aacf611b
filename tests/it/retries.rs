//! Outbound tries again where that is safe, tells the next hop of it, and never multiplies an outage.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::client::Connection;
use crate::support::endpoint::{Endpoint, Reply, Seen, answer};
use crate::support::lone::Lone;
use crate::support::{Answer, Ask, SOON, Sidecar, eventually};

fn ask(method: &str) -> Ask {
    Ask::new(method, "/").host("users")
}

/// Round robin, no breaker to speak of: what is tried is known.
fn steady(more: &Value) -> Value {
    let mut upstream = json!({ "balance": "round_robin", "breaker": { "consecutive": 1_000_000, "error_rate": { "min_requests": 1_000_000 } } });
    for (key, value) in more.as_object().into_iter().flatten() {
        upstream[key] = value.clone();
    }
    upstream
}

fn retries(web: &Sidecar, outcome: &str) -> f64 {
    web.metric("outrigger_retries_total", &[("service", "users"), ("outcome", outcome)])
}

#[test]
fn a_status_is_tried_again_elsewhere_for_methods_that_may_be() {
    let (bad, good) = (Endpoint::always(503, "no"), Endpoint::always(200, "yes"));
    let web = Lone::of(&[&bad, &good], &steady(&json!({})));
    let mut bad_first = 0;
    for at in 0..8 {
        let answer = ask("GET").header("x-request-id", &format!("retried-get-{at}")).send(web.outbound());
        assert_eq!((answer.status, answer.text().as_str()), (200, "yes"));
        let line = web.access_of(&format!("retried-get-{at}"));
        if line["attempts"] == 2 {
            bad_first += 1;
            assert!(line["detail"].as_str().unwrap().contains("503"), "{line}");
        }
    }
    assert!(bad_first > 0 && bad.count() == bad_first, "{bad_first} of {}", bad.count());
    assert!((retries(&web, "done") - bad_first as f64).abs() < 0.1);
    // POST is not tried again: an answer came, so it was acted on.
    let statuses: Vec<u16> = (0..4).map(|_| ask("POST").body("x").send(web.outbound()).status).collect();
    assert!(statuses.contains(&503) && statuses.contains(&200), "{statuses:?}");
    assert!((retries(&web, "done") - bad_first as f64).abs() < 0.1);
}

#[test]
fn the_last_answer_is_passed_on_as_it_is() {
    let (one, two) = (Endpoint::always(503, "first"), Endpoint::always(503, "second"));
    let web = Lone::of(
        &[&one, &two],
        &steady(&json!({ "retry": { "attempts": 1, "backoff": { "base": "1ms", "max": "2ms" } } })),
    );
    let answer = ask("GET").send(web.outbound());
    assert_eq!((answer.status, answer.reason()), (503, ""), "it is the endpoints' answer, not ours");
    assert!(["first", "second"].contains(&answer.text().as_str()));
    assert_eq!((one.count(), two.count()), (1, 1), "another endpoint each time");
}

#[test]
fn a_body_is_sent_again_up_to_its_limit() {
    let (bad, good) = (
        Endpoint::always(503, "no"),
        Endpoint::start(|seen| Reply::Bytes(answer(200, "", &seen.body.len().to_string()))),
    );
    let web = Lone::of(&[&bad, &good], &steady(&json!({ "retry": { "body_limit": "4KiB" } })));
    for chunked in [false, true] {
        for _ in 0..4 {
            let put = ask("PUT").body(vec![b'a'; 4000]);
            let answer = if chunked { put.chunked() } else { put }.send(web.outbound());
            assert_eq!((answer.status, answer.text().as_str()), (200, "4000"), "chunked: {chunked}");
        }
    }
    assert!(bad.seen().iter().all(|seen| seen.body.len() == 4000) && bad.count() >= 4);
    let before = retries(&web, "not_replayable");
    let statuses: Vec<u16> = (0..4).map(|_| ask("PUT").body(vec![b'a'; 100_000]).send(web.outbound()).status).collect();
    assert!(statuses.contains(&503) && statuses.contains(&200), "too long to keep: {statuses:?}");
    assert!(retries(&web, "not_replayable") > before);
}

#[test]
fn a_try_that_takes_too_long_gives_way_to_another() {
    let (silent, good) = (Endpoint::start(|_| Reply::Silence), Endpoint::always(200, "yes"));
    let web =
        Lone::of(&[&silent, &good], &steady(&json!({ "retry": { "per_try_timeout": "100ms" }, "timeout": "10s" })));
    for _ in 0..6 {
        let start = Instant::now();
        assert_eq!(ask("GET").send(web.outbound()).status, 200);
        assert!(start.elapsed() < Duration::from_secs(5));
    }
    assert!(silent.count() >= 1);
    web.wait_for_metric("outrigger_upstream_attempts_total", &[("outcome", "timed_out")], 1.0);
    // A POST may have been acted on: it is not sent twice, so it has all of the time, and says why it failed.
    let post = |_| ask("POST").header("x-outrigger-deadline-ms", "700").body("x").send(web.outbound());
    let start = Instant::now();
    let mut answers: Vec<Answer> = (0..2).map(post).collect();
    answers.sort_by_key(|answer| answer.status);
    assert_eq!(answers[0].status, 200);
    answers[1].assert_reason(504, "deadline");
    assert!(start.elapsed() >= Duration::from_millis(650));
}

#[test]
fn the_attempt_and_the_time_left_travel_with_the_request() {
    let (bad, good) = (Endpoint::always(503, "no"), Endpoint::always(200, "yes"));
    let web = Lone::of(&[&bad, &good], &steady(&json!({ "timeout": "5s" })));
    eventually(SOON, "the bad one is asked first", || {
        assert_eq!(ask("GET").send(web.outbound()).status, 200);
        (bad.count() > 0).then_some(())
    });
    let first = bad.seen().pop().unwrap();
    assert_eq!(first.header("x-outrigger-attempt"), "1");
    let second = good.seen().into_iter().find(|seen| seen.header("x-outrigger-attempt") == "2").expect("a second try");
    let left = |seen: &Seen| seen.header("x-outrigger-deadline-ms").parse::<u64>().unwrap();
    assert!(left(&first) <= 5000 && left(&second) <= left(&first), "{} {}", left(&first), left(&second));
    assert!(left(&second) > 3000);
}

#[test]
fn a_caller_that_tries_again_itself_is_not_multiplied() {
    let (one, two) = (Endpoint::always(503, "no"), Endpoint::always(503, "no"));
    let web = Lone::of(&[&one, &two], &steady(&json!({})));
    let answer = ask("GET").header("x-outrigger-attempt", "2").send(web.outbound());
    assert_eq!(answer.status, 503);
    assert_eq!(one.count() + two.count(), 1);
    let seen = one.seen().into_iter().chain(two.seen()).next().unwrap();
    assert_eq!(seen.header("x-outrigger-attempt"), "2", "the number counts on");
}

#[test]
fn a_callers_deadline_shortens_ours_and_is_not_the_endpoints_fault() {
    let silent = Endpoint::start(|_| Reply::Silence);
    let web = Lone::of(&[&silent], &json!({ "timeout": "30s", "breaker": { "consecutive": 1, "max_ejected": 1.0 } }));
    for _ in 0..3 {
        let start = Instant::now();
        let answer = ask("GET").header("x-outrigger-deadline-ms", "150").send(web.outbound());
        answer.assert_reason(504, "deadline");
        assert!(start.elapsed() < Duration::from_secs(5));
    }
    let left: u64 = silent.seen()[0].header("x-outrigger-deadline-ms").parse().unwrap();
    assert!(left <= 150, "{left}");
    assert!(web.metric("outrigger_breaker_transitions_total", &[("to", "open")]) < 0.5);
    ask("GET").header("x-outrigger-deadline-ms", "0").send(web.outbound()).assert_reason(504, "deadline");
    assert_eq!(silent.count(), 3, "nothing is sent for a caller that has given up");
}

#[test]
fn a_deadline_that_is_seconds_away_is_kept_on_a_quiet_connection() {
    // Its timer is armed by the connection's own, a second later: nothing else looks at the request meanwhile.
    let silent = Endpoint::start(|_| Reply::Silence);
    let web = Lone::of(&[&silent], &steady(&json!({ "timeout": "2500ms", "retry": { "attempts": 0 } })));
    let mut kept = Connection::to(web.outbound()).unwrap();
    for _ in 0..2 {
        let start = Instant::now();
        kept.ask(&ask("GET")).unwrap().assert_reason(504, "deadline");
        let took = start.elapsed();
        assert!((Duration::from_millis(2450)..Duration::from_millis(3400)).contains(&took), "{took:?}");
    }
    assert_eq!(silent.count(), 2);
}

#[test]
fn a_grpc_timeout_shrinks_and_holds() {
    let silent = Endpoint::start(|_| Reply::Silence);
    let web = Lone::of(&[&silent], &json!({ "timeout": "30s" }));
    let start = Instant::now();
    let call =
        ask("POST").header("content-type", "application/grpc").header("te", "trailers").header("grpc-timeout", "200m");
    let answer = call.send(web.outbound());
    assert_eq!((answer.status, answer.header("grpc-status"), answer.reason()), (200, "4", "deadline"));
    assert!(start.elapsed() < Duration::from_secs(5));
    let told = silent.seen()[0].header("grpc-timeout").to_owned();
    let micros: u64 = told.strip_suffix('u').expect("in microseconds").parse().unwrap();
    assert!(micros <= 200_000, "{told}");
}

#[test]
fn retries_stay_within_their_budget_when_everything_fails() {
    let endpoints: Vec<Endpoint> = (0..3).map(|_| Endpoint::always(503, "no")).collect();
    let all: Vec<&Endpoint> = endpoints.iter().collect();
    let policy = steady(&json!({ "retry": {
        "budget": { "ratio": 0.2, "min_per_second": 10 }, "backoff": { "base": "1ms", "max": "1ms" } } }));
    let web = Lone::of(&all, &policy);
    let start = Instant::now();
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let to = web.outbound();
            std::thread::spawn(move || {
                let mut connection = Connection::to(to).unwrap();
                for _ in 0..250 {
                    assert_eq!(connection.ask(&ask("GET")).unwrap().status, 503);
                }
            })
        })
        .collect();
    for client in clients {
        client.join().unwrap();
    }
    let attempts: usize = endpoints.iter().map(Endpoint::count).sum();
    // The floor, and what the bucket held at the start.
    let floor = 10.0 * (start.elapsed().as_secs_f64() + 1.0);
    assert!(attempts as f64 <= 1.2 * 1000.0 + floor, "{attempts} attempts for 1000 requests, floor {floor}");
    assert!(attempts >= 1150, "the budget is used: {attempts}");
    assert!(retries(&web, "over_budget") > 100.0);
}

#[test]
fn a_peer_that_asks_for_rest_is_left_alone() {
    let shed =
        Endpoint::start(|_| Reply::Bytes(answer(503, "x-outrigger-reason: overloaded\r\nretry-after: 60\r\n", "busy")));
    let alone = Lone::of(&[&shed], &json!({ "breaker": { "consecutive": 1, "max_ejected": 1.0 } }));
    let start = Instant::now();
    let answer = ask("GET").send(alone.outbound());
    assert_eq!((answer.status, answer.text().as_str()), (503, "busy"));
    assert!(start.elapsed() < Duration::from_secs(5), "the only endpoint asked for a minute: no try is worth the wait");
    assert_eq!(shed.count(), 1);
    assert_eq!(ask("GET").send(alone.outbound()).status, 503, "it sheds load, it is not ejected");
    assert_eq!(shed.count(), 2);
    let good = Endpoint::always(200, "yes");
    let both = Lone::of(&[&shed, &good], &json!({}));
    for _ in 0..10 {
        assert_eq!(ask("GET").send(both.outbound()).status, 200);
    }
}

#[test]
fn a_slow_try_is_hedged() {
    let slow = Endpoint::start(|_| {
        std::thread::sleep(Duration::from_millis(1500));
        Reply::Bytes(answer(200, "", "slow"))
    });
    let good = Endpoint::always(200, "quick");
    let web = Lone::of(&[&slow, &good], &steady(&json!({ "hedge": { "after": "50ms" } })));
    for at in 0..4 {
        let start = Instant::now();
        let answer = ask("GET").header("x-request-id", &format!("hedged-{at}")).send(web.outbound());
        assert_eq!((answer.status, answer.text().as_str()), (200, "quick"));
        assert!(start.elapsed() < Duration::from_millis(1200), "{:?}", start.elapsed());
    }
    let hedged = (0..4).filter(|at| web.access_of(&format!("hedged-{at}"))["attempts"] == 2).count();
    assert!(hedged >= 1 && slow.count() >= hedged);
    web.wait_for_metric("outrigger_upstream_attempts_total", &[("outcome", "cancelled")], 1.0);
    // A POST is never hedged.
    let start = Instant::now();
    let texts: Vec<String> = (0..2).map(|_| ask("POST").body("x").send(web.outbound()).text()).collect();
    assert!(texts.contains(&"slow".to_owned()) && start.elapsed() >= Duration::from_millis(1400), "{texts:?}");
}
