//! The demo's clients at the edge, and what became of their requests.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::{Instant, sleep};

use super::http::Caller;
use crate::lifecycle::Lifecycle;

/// Requests that go on until `stop`.
pub(super) struct Traffic {
    sum: Arc<Mutex<Summary>>,
    tasks: Lifecycle,
}

/// What has happened so far.
#[derive(Debug, Clone, Default)]
pub(super) struct Summary {
    pub(super) requests: u64,
    pub(super) lost: u64,
    pub(super) last_failure: String,
    answered_by: BTreeMap<String, u64>,
    /// Of the latest requests, in microseconds; a ring.
    latest: Vec<u32>,
}

impl Traffic {
    pub(super) fn start(web: SocketAddr) -> Self {
        let traffic = Self { sum: Arc::default(), tasks: Lifecycle::new() };
        let caller = Arc::new(Caller::new(web, &traffic.tasks));
        for _ in 0..CLIENTS {
            traffic.tasks.spawn("demo-client", drive(caller.clone(), traffic.sum.clone()));
        }
        traffic
    }

    pub(super) fn summary(&self) -> Summary {
        self.sum.lock().clone()
    }

    pub(super) fn reset(&self) {
        *self.sum.lock() = Summary::default();
    }

    pub(super) fn stop(self) -> Summary {
        self.tasks.kill();
        self.summary()
    }
}

async fn drive(web: Arc<Caller>, sum: Arc<Mutex<Summary>>) {
    loop {
        let start = Instant::now();
        let outcome = web.get("web", "/").await;
        let took = start.elapsed();
        let told = outcome.and_then(|answer| {
            let text = String::from_utf8_lossy(answer.body()).trim().to_owned();
            anyhow::ensure!(answer.status().is_success(), "{} {text}", answer.status());
            Ok(serde_json::from_str::<BTreeMap<String, String>>(&text)?)
        });
        sum.lock().note(told, took);
        sleep(PAUSE).await;
    }
}

impl Summary {
    fn note(&mut self, told: anyhow::Result<BTreeMap<String, String>>, took: Duration) {
        let slot = usize::try_from(self.requests).unwrap_or_default() % LATEST;
        let took = u32::try_from(took.as_micros()).unwrap_or(u32::MAX);
        match self.latest.get_mut(slot) {
            Some(old) => *old = took,
            None => self.latest.push(took),
        }
        self.requests += 1;
        match told {
            Ok(instances) => {
                for instance in instances.into_values() {
                    *self.answered_by.entry(instance).or_default() += 1;
                }
            }
            Err(error) => {
                self.lost += 1;
                self.last_failure = format!("{error:#}");
            }
        }
    }

    /// How many different instances have answered.
    pub(super) fn instances(&self) -> usize {
        self.answered_by.len()
    }

    /// How often that instance has answered.
    pub(super) fn of(&self, instance: &str) -> u64 {
        self.answered_by.get(instance).copied().unwrap_or_default()
    }

    /// One line for people.
    pub(super) fn line(&self) -> String {
        let mut latest = self.latest.clone();
        latest.sort_unstable();
        let (p50, p99) = (quantile(&latest, 50), quantile(&latest, 99));
        let mut line = format!("{:>6} requests  {} lost  p50 {p50}  p99 {p99} ", self.requests, self.lost);
        for (instance, count) in &self.answered_by {
            let _ = write!(line, " {instance} {count}");
        }
        line
    }

    /// The result, at the end.
    pub(super) fn report(&self) -> String {
        let mut report = self.line().trim().to_owned();
        if self.lost > 0 {
            let _ = write!(report, "\nlast failure: {}", self.last_failure);
        }
        report
    }
}

fn quantile(sorted: &[u32], percent: usize) -> String {
    let at = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
    sorted.get(at).map_or_else(|| "-".to_owned(), |micros| format!("{:.1} ms", f64::from(*micros) / 1000.0))
}

const CLIENTS: usize = 4;
/// A demo shows; it does not heat the machine.
const PAUSE: Duration = Duration::from_millis(10);
/// How many of the latest requests the quantiles are taken from.
const LATEST: usize = 2000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_of_the_latest_requests() {
        let mut sum = Summary::default();
        for _ in 0..LATEST {
            sum.note(Ok(BTreeMap::from([("users".into(), "users-1".into())])), Duration::from_secs(9));
        }
        for _ in 0..LATEST {
            sum.note(Ok(BTreeMap::new()), Duration::from_millis(2));
        }
        assert_eq!(sum.latest.len(), LATEST);
        assert!(sum.line().contains("p50 2.0 ms  p99 2.0 ms"), "{}", sum.line());
        assert_eq!((sum.instances(), sum.of("users-1")), (1, 2000));
    }

    #[test]
    fn a_failure_is_lost_and_told() {
        let mut sum = Summary::default();
        sum.note(Err(anyhow::anyhow!("502 connect_failed")), Duration::ZERO);
        assert!(sum.report().contains("1 lost") && sum.report().ends_with("last failure: 502 connect_failed"));
    }

    #[test]
    fn nothing_yet_has_no_quantile() {
        assert!(Summary::default().line().contains("p50 -"));
    }
}
