//! Tests of `follow`: one story per rule, against a scripted registry in paused time.

use std::collections::VecDeque;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, pending};
use parking_lot::Mutex;
use tokio::time::timeout;

use super::*;
use crate::service::{Health, Wire};

type Answer = Result<(Mark, Vec<Listing>), RegistryError>;

/// Gives one step per call, each after its delay; pends when the script is over. Notes when each call began and with
/// which mark.
struct Script {
    steps: Mutex<VecDeque<(Duration, Answer)>>,
    /// What follows the script, again and again.
    then: Option<fn() -> (Duration, Answer)>,
    calls: Mutex<Vec<(Duration, u64)>>,
    start: Instant,
}

impl Registry for Script {
    fn next(&self, seen: Mark) -> BoxFuture<'_, Answer> {
        self.calls.lock().push((self.start.elapsed(), seen.0));
        let step = self.steps.lock().pop_front().or_else(|| self.then.map(|then| then()));
        async move {
            let Some((delay, answer)) = step else { return pending().await };
            sleep(delay).await;
            answer
        }
        .boxed()
    }

    fn describe(&self) -> String {
        "health/connect/orders".into()
    }
}

/// What a run of `follow` did, with times since its start.
struct Run {
    calls: Vec<(Duration, u64)>,
    updates: Vec<(Duration, Update)>,
    metrics: Arc<Metrics>,
    /// The error in the way at the end.
    trouble: Option<String>,
}

impl Run {
    fn ids(&self) -> Vec<(u64, Vec<&str>)> {
        self.updates
            .iter()
            .map(|(at, update)| (millis(*at), update.listings.iter().map(|one| &*one.id).collect()))
            .collect()
    }

    fn marks(&self) -> Vec<u64> {
        self.calls.iter().map(|(_, mark)| *mark).collect()
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap()
}

struct Setup {
    steps: Vec<(Duration, Answer)>,
    then: Option<fn() -> (Duration, Answer)>,
    snapshot: Option<Snapshot>,
}

fn script(steps: Vec<(Duration, Answer)>) -> Setup {
    Setup { steps, then: None, snapshot: None }
}

impl Setup {
    async fn run(self, lasting: Duration) -> Run {
        let start = Instant::now();
        let script =
            Arc::new(Script { steps: Mutex::new(self.steps.into()), then: self.then, calls: Mutex::default(), start });
        let metrics = Metrics::new();
        let updates = Mutex::new(Vec::new());
        let sink = |update| updates.lock().push((start.elapsed(), update));
        let state = Arc::new(WatchState::new(script.describe()));
        let following = follow(script.clone(), metrics.clone(), self.snapshot, state.clone(), sink);
        assert!(timeout(lasting, following).await.is_err(), "follow never ends by itself");
        Run {
            calls: std::mem::take(&mut script.calls.lock()),
            updates: updates.into_inner(),
            metrics,
            trouble: state.trouble().map(|trouble| trouble.error),
        }
    }
}

fn listing(id: &str, health: Health) -> Listing {
    let address = ([10, 0, 0, 1], 20000).into();
    Listing { id: id.into(), address, weight: 1, health, wire: Wire::Plain, zone: None }
}

fn good(delay: u64, mark: u64, ids: &[&str]) -> (Duration, Answer) {
    let listings = ids.iter().map(|id| listing(id, Health::Passing)).collect();
    (Duration::from_millis(delay), Ok((Mark(mark), listings)))
}

fn bad(delay: u64) -> (Duration, Answer) {
    let error = RegistryError::Dns { name: "orders".into(), cause: "no leader".into() };
    (Duration::from_millis(delay), Err(error))
}

const MINUTE: Duration = Duration::from_mins(1);

#[tokio::test(start_paused = true)]
async fn the_first_listing_is_passed_on_even_when_it_is_empty() {
    let run = script(vec![good(3, 7, &[])]).run(MINUTE).await;
    assert_eq!(run.ids(), [(3, vec![])]);
    assert_eq!(run.updates[0].1.origin, Origin::Live);
    assert_eq!(run.marks(), [0, 7]);
    assert!(run.metrics.consul_last_answer("health/connect/orders").get() > 1_700_000_000.0);
}

#[tokio::test(start_paused = true)]
async fn a_change_after_a_quiet_time_is_passed_on_at_once_and_so_is_the_next() {
    let quiet = (0..20).map(|_| good(55_000, 7, &["a"]));
    let steps = [good(1, 7, &["a"])].into_iter().chain(quiet);
    let steps = steps.chain([good(30_000, 8, &["a", "b"]), good(1, 9, &["a", "b", "c"])]).collect();
    let run = script(steps).run(MINUTE * 30).await;
    assert_eq!(run.ids()[1..], [(1_130_001, vec!["a", "b"]), (1_130_002, vec!["a", "b", "c"])]);
}

#[tokio::test(start_paused = true)]
async fn a_burst_of_registrations_never_waits_a_tenth_of_a_second() {
    let ids = ["a", "b", "c", "d", "e", "f", "g", "h"];
    let steps = (1..=8).map(|n| good(0, n as u64, &ids[..n])).collect();
    let run = script(steps).run(MINUTE).await;
    let times: Vec<u64> = run.ids().iter().map(|(at, _)| *at).collect();
    assert_eq!(times.len(), 8);
    assert!(times.windows(2).all(|pair| pair[1] - pair[0] <= 51), "{times:?}");
}

#[tokio::test(start_paused = true)]
async fn a_wake_up_without_change_and_another_order_do_not_reach_the_sink() {
    let steps = vec![good(0, 7, &["a", "b"]), good(900, 8, &["a", "b"]), good(900, 9, &["b", "a"])];
    let run = script(steps).run(MINUTE).await;
    assert_eq!(run.ids(), [(0, vec!["a", "b"])]);
    assert_eq!(run.marks(), [0, 7, 8, 9]);
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_never_blocks_is_asked_every_fifteen_seconds_in_the_end() {
    let mut setup = script(vec![]);
    setup.then = Some(|| good(0, 7, &["a"]));
    let run = setup.run(MINUTE * 10).await;
    assert!(run.calls.len() < 50, "{} calls in ten minutes", run.calls.len());
    let last = &run.calls[run.calls.len() - 2..];
    assert_eq!(last[1].0.saturating_sub(last[0].0).as_secs(), 15);
}

#[tokio::test(start_paused = true)]
async fn an_answer_without_an_index_is_no_hot_loop() {
    let mut setup = script(vec![]);
    setup.then = Some(|| good(0, 0, &["a"]));
    let run = setup.run(MINUTE * 10).await;
    assert!(run.calls.len() < 50, "{} calls in ten minutes", run.calls.len());
    assert!(run.marks().iter().all(|mark| *mark == 0));
}

#[tokio::test(start_paused = true)]
async fn a_lower_index_leads_back_to_the_start() {
    let steps = vec![good(0, 50, &["a"]), good(9_000, 3, &["a"]), good(0, 3, &["a"])];
    let run = script(steps).run(MINUTE).await;
    assert_eq!(run.marks(), [0, 50, 0, 3]);
}

#[tokio::test(start_paused = true)]
async fn an_error_leads_back_to_the_start_with_growing_waits_and_never_to_the_sink() {
    let mut steps = vec![good(0, 50, &["a"])];
    steps.extend((0..12).map(|_| bad(0)));
    steps.push(good(0, 51, &["a"]));
    let run = script(steps).run(MINUTE * 10).await;
    assert_eq!(run.ids(), [(0, vec!["a"])]);
    assert_eq!(run.marks()[..3], [0, 50, 0]);
    assert!(run.marks()[2..14].iter().all(|mark| *mark == 0));
    let waits: Vec<u64> = run.calls[1..14].windows(2).map(|pair| millis(pair[1].0.saturating_sub(pair[0].0))).collect();
    assert!((125..=251).contains(&waits[0]), "{waits:?}");
    assert!(waits.iter().all(|wait| *wait <= 30_001) && waits[11] >= 15_000, "{waits:?}");
}

#[tokio::test(start_paused = true)]
async fn back_off_begins_anew_after_an_answer() {
    let mut steps: Vec<_> = (0..8).map(|_| bad(0)).collect();
    steps.extend([good(0, 1, &["a"]), bad(20_000), good(0, 2, &["a"])]);
    let run = script(steps).run(MINUTE * 10).await;
    let last = &run.calls[run.calls.len() - 3..];
    assert!(millis(last[1].0.saturating_sub(last[0].0)) <= 20_251, "{last:?}");
}

#[tokio::test(start_paused = true)]
async fn a_service_scaled_to_zero_is_believed_within_two_seconds() {
    let steps = vec![good(0, 7, &["a"]), good(30_000, 8, &[]), (MINUTE, Ok((Mark(8), vec![]))), good(2, 8, &[])];
    let run = script(steps).run(MINUTE).await;
    assert_eq!(run.ids(), [(0, vec!["a"]), (31_002, vec![])]);
    assert_eq!(run.marks(), [0, 7, 8, 0, 8], "confirmed by a read at START");
}

#[tokio::test(start_paused = true)]
async fn a_service_whose_endpoints_all_turn_critical_is_doubted_too() {
    let critical = || Ok((Mark(8), vec![listing("a", Health::Critical)]));
    let steps = vec![good(0, 7, &["a"]), (Duration::from_secs(9), critical()), good(MINUTE.as_secs() * 1000, 8, &[])];
    let steps = steps.into_iter().chain([(Duration::ZERO, critical())]).collect();
    let run = script(steps).run(MINUTE).await;
    assert_eq!(run.ids(), [(0, vec!["a"]), (10_000, vec!["a"])]);
    assert_eq!(run.updates[1].1.listings[0].health, Health::Critical);
}

#[tokio::test(start_paused = true)]
async fn a_glitch_of_one_empty_answer_is_never_seen() {
    let steps = vec![good(0, 7, &["a"]), good(9_000, 8, &[]), good(100, 9, &["a"])];
    let run = script(steps).run(MINUTE).await;
    assert_eq!(run.ids(), [(0, vec!["a"])]);
    assert_eq!(run.marks(), [0, 7, 8, 9]);
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_registers_during_the_hold_is_passed_on_at_once() {
    let steps = vec![good(0, 7, &["a"]), good(9_000, 8, &[]), good(100, 9, &["b"])];
    let run = script(steps).run(MINUTE).await;
    assert_eq!(run.ids(), [(0, vec!["a"]), (9_100, vec!["b"])]);
}

#[tokio::test(start_paused = true)]
async fn a_restarted_agent_that_knows_nobody_yet_takes_no_endpoint_away() {
    // Killed at 9 s; back and empty; the sidecars register again, one by one, within seconds.
    let steps = vec![
        good(0, 900, &["a", "b"]),
        bad(9_000),
        bad(0),
        good(0, 5, &[]),
        good(3_000, 6, &["a"]),
        good(1_000, 7, &["a", "b"]),
    ];
    let run = script(steps).run(MINUTE).await;
    assert_eq!(run.ids(), [(0, vec!["a", "b"])]);
    assert_eq!(run.marks()[..4], [0, 900, 0, 0]);
}

#[tokio::test(start_paused = true)]
async fn what_a_restarted_agent_still_lacks_after_ten_seconds_is_gone() {
    let mut setup = script(vec![good(0, 900, &["a", "b"]), bad(9_000)]);
    setup.then = Some(|| good(4_000, 5, &["a", "c"]));
    let run = setup.run(MINUTE).await;
    let ids = run.ids();
    assert_eq!(ids[1].1, ["a", "b", "c"], "a newcomer is there at once");
    assert_eq!(ids[2].1, ["a", "c"]);
    let settled = ids[2].0 - ids[1].0;
    assert!((10_000..=14_000).contains(&settled), "{ids:?}");
    assert_eq!(ids.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn the_snapshot_serves_while_the_registry_fails_at_start() {
    let dir = tempfile::tempdir().unwrap();
    let mut first = script(vec![good(0, 7, &["a"]), good(0, 8, &["a", "b"])]);
    first.snapshot = Some(Snapshot::new(dir.path()));
    first.run(MINUTE).await;

    let mut second = script(vec![bad(100), bad(0), bad(0), good(0, 3, &["a", "b"])]);
    second.snapshot = Some(Snapshot::new(dir.path()));
    let run = second.run(MINUTE).await;
    let origins: Vec<_> = run.updates.iter().map(|(_, update)| update.origin).collect();
    assert_eq!(run.ids()[0], (100, vec!["a", "b"]));
    assert_eq!(origins, [Origin::Snapshot, Origin::Live], "the first live answer is told, though it is the same");
}

#[tokio::test(start_paused = true)]
async fn the_first_listing_is_saved_at_once_and_a_burst_of_changes_together() {
    let dir = tempfile::tempdir().unwrap();
    let saved = || Saved::new(Snapshot::new(dir.path()), "health/connect/orders").load().map(|listings| listings.len());
    let mut cut_short = script(vec![good(0, 1, &["a"])]);
    cut_short.snapshot = Some(Snapshot::new(dir.path()));
    cut_short.run(Duration::from_millis(60)).await;
    assert_eq!(saved(), Some(1));
    let burst = || script(vec![good(0, 1, &["a"]), good(500, 2, &["a", "b"]), good(300, 3, &["a", "b", "c"])]);
    for (millis, expected) in [(1400, 1), (1600, 3)] {
        let mut setup = burst();
        setup.snapshot = Some(Snapshot::new(dir.path()));
        setup.run(Duration::from_millis(millis)).await;
        assert_eq!(saved(), Some(expected), "after {millis} ms");
    }
}

#[tokio::test(start_paused = true)]
async fn the_snapshot_serves_when_the_first_answer_takes_too_long() {
    let dir = tempfile::tempdir().unwrap();
    Saved::new(Snapshot::new(dir.path()), "health/connect/orders").save(&[listing("a", Health::Passing)]);
    let mut setup = script(vec![good(60_000, 7, &["b"]), good(100, 8, &[])]);
    setup.snapshot = Some(Snapshot::new(dir.path()));
    let run = setup.run(Duration::from_secs(9)).await;
    assert_eq!(run.ids(), [(2_000, vec!["a"]), (2_100, vec!["a"])], "an empty first answer is doubted");
    assert_eq!(run.updates[1].1.origin, Origin::Live);
}

#[tokio::test(start_paused = true)]
async fn the_snapshot_is_not_touched_when_the_registry_answers() {
    let dir = tempfile::tempdir().unwrap();
    Saved::new(Snapshot::new(dir.path()), "health/connect/orders").save(&[listing("old", Health::Passing)]);
    let mut setup = script(vec![good(10, 7, &["a"])]);
    setup.snapshot = Some(Snapshot::new(dir.path()));
    let run = setup.run(MINUTE).await;
    assert_eq!(run.ids(), [(10, vec!["a"])]);
}

#[tokio::test(start_paused = true)]
async fn without_a_snapshot_nothing_is_said_until_the_first_answer() {
    let run = script(vec![bad(0), bad(0), good(0, 1, &["a"])]).run(MINUTE).await;
    assert_eq!(run.updates.len(), 1);
    assert_eq!(run.updates[0].1.origin, Origin::Live);
}

#[tokio::test(start_paused = true)]
async fn the_error_in_the_way_of_news_is_shown_until_there_are_some() {
    let refused = || {
        let error = RegistryError::Filter { filter: "a".into(), cause: "no match found".into() };
        (Duration::ZERO, Err(error))
    };
    let run = script(vec![good(0, 7, &["a"]), bad(0), good(0, 8, &["a"])]).run(MINUTE).await;
    assert_eq!(run.trouble, None);
    let mut setup = script(vec![good(0, 7, &["a"]), bad(0)]);
    setup.then = Some(refused);
    let run = setup.run(MINUTE * 10).await;
    assert!(run.trouble.as_ref().is_some_and(|error| error.starts_with("Consul refuses the filter a: no match found")));
    assert_eq!(run.ids(), [(0, vec!["a"])], "the last good listing stays");
    assert!(run.calls.len() < 50, "{} calls in ten minutes", run.calls.len());
}
