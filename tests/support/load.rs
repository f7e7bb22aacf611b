//! Load on kept connections: every request that is not answered 2xx is reported with its reason.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use super::client::{Ask, Connection};
use super::{SOON, eventually};

/// Requests that go on until `stop`.
pub struct Load {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    clients: Vec<JoinHandle<Report>>,
}

#[derive(Debug, Default)]
pub struct Report {
    pub answered: u64,
    /// By the app that answered.
    pub by_app: BTreeMap<String, u64>,
    pub failures: Vec<String>,
}

impl Load {
    pub fn start(connections: usize, to: SocketAddr, ask: &Ask) -> Self {
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let clients = (0..connections)
            .map(|_| {
                let (stop, done, ask) = (stop.clone(), done.clone(), ask.clone());
                std::thread::spawn(move || drive(to, &ask, &stop, &done))
            })
            .collect();
        Self { stop, done, clients }
    }

    /// Waits until that many further requests have ended: a measure of load instead of a time.
    #[track_caller]
    pub fn after(&self, further: u64) {
        let from = self.done.load(Ordering::Relaxed);
        let what = format!("{further} further requests under load");
        eventually(SOON, &what, || (self.done.load(Ordering::Relaxed) >= from + further).then_some(()));
    }

    pub fn stop(self) -> Report {
        self.stop.store(true, Ordering::Relaxed);
        let mut sum = Report::default();
        for client in self.clients {
            let report = client.join().expect("a load client does not panic");
            sum.answered += report.answered;
            sum.failures.extend(report.failures);
            for (app, count) in report.by_app {
                *sum.by_app.entry(app).or_default() += count;
            }
        }
        sum
    }
}

impl Report {
    #[track_caller]
    pub fn assert_none_lost(&self) {
        let shown: Vec<&String> = self.failures.iter().take(10).collect();
        assert!(self.failures.is_empty(), "{} of {} failed: {shown:#?}", self.failures.len(), self.answered);
        assert!(self.answered > 0);
    }
}

fn drive(to: SocketAddr, ask: &Ask, stop: &AtomicBool, done: &AtomicU64) -> Report {
    let mut report = Report::default();
    let mut kept: Option<Connection> = None;
    while !stop.load(Ordering::Relaxed) {
        let connection = match kept.take() {
            Some(connection) => Ok(connection),
            None => Connection::to(to),
        };
        let outcome = connection.and_then(|mut connection| Ok((connection.ask(ask)?, connection)));
        done.fetch_add(1, Ordering::Relaxed);
        match outcome {
            Ok((answer, connection)) => {
                if !answer.header("connection").eq_ignore_ascii_case("close") {
                    kept = Some(connection);
                }
                if (200..300).contains(&answer.status) {
                    report.answered += 1;
                    *report.by_app.entry(answer.app().to_owned()).or_default() += 1;
                } else {
                    report.failures.push(format!("{} {} {}", answer.status, answer.reason(), answer.text()));
                }
            }
            Err(error) => report.failures.push(error.to_string()),
        }
    }
    report
}
