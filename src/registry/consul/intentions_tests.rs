//! Tests of the watch against a small HTTP server that answers each request line by a function.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex as Lock;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::*;
use crate::access::{Action, Enforced};
use crate::consul::Settings;
use crate::lifecycle::Lifecycle;

/// An HTTP answer with its head; `None` holds the request for ever.
type Answers = dyn Fn(&str) -> Option<String> + Send + Sync;

struct Watched {
    updates: mpsc::Receiver<IntentionUpdate>,
    asked: Arc<Lock<Vec<String>>>,
    _tasks: Lifecycle,
}

impl Watched {
    async fn new(snapshot: Option<Snapshot>, answers: impl Fn(&str) -> Option<String> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let settings =
            Settings { address: format!("http://{}", listener.local_addr().unwrap()), ..Settings::default() };
        let metrics = Metrics::new();
        let client = Client::new(settings, metrics.clone()).unwrap();
        let (asked, tasks): (Arc<Lock<Vec<String>>>, _) = (Arc::default(), Lifecycle::new());
        let (answers, record, inner): (Arc<Answers>, _, _) = (Arc::new(answers), asked.clone(), tasks.clone());
        tasks.spawn("server", async move {
            while let Ok((stream, _)) = listener.accept().await {
                inner.spawn("connection", serve(stream, answers.clone(), record.clone()));
            }
        });
        let (sender, updates) = mpsc::channel(16);
        tasks.spawn("watch", async move {
            let users = ServiceName::parse("users").unwrap();
            follow_intentions(client, users, &metrics, snapshot, |update| drop(sender.try_send(update))).await;
        });
        Self { updates, asked, _tasks: tasks }
    }

    async fn next(&mut self) -> IntentionUpdate {
        timeout(Duration::from_secs(10), self.updates.recv()).await.expect("an update").unwrap()
    }

    async fn nothing_for(&mut self, span: Duration) {
        assert!(timeout(span, self.updates.recv()).await.is_err(), "no update was due");
    }

    fn asked(&self, part: &str) -> usize {
        self.asked.lock().iter().filter(|target| target.contains(part)).count()
    }
}

async fn serve(mut stream: TcpStream, answers: Arc<Answers>, asked: Arc<Lock<Vec<String>>>) {
    let mut head = Vec::new();
    while let Ok(byte) = stream.read_u8().await {
        head.push(byte);
        if !head.ends_with(b"\r\n\r\n") {
            continue;
        }
        let text = String::from_utf8_lossy(&head).to_lowercase();
        let target = text.split(' ').nth(1).unwrap_or_default().to_owned();
        let length = text.lines().find_map(|line| line.strip_prefix("content-length: ")?.trim().parse().ok());
        let mut body = vec![0; length.unwrap_or(0)];
        stream.read_exact(&mut body).await.unwrap();
        head.clear();
        asked.lock().push(target.clone());
        let Some(answer) = answers(&target) else { return std::future::pending().await };
        stream.write_all(answer.as_bytes()).await.unwrap();
    }
}

#[expect(clippy::unnecessary_wraps, reason = "what `Answers` gives")]
fn ok(index: Option<u64>, body: &str) -> Option<String> {
    let index = index.map_or_else(String::new, |index| format!("X-Consul-Index: {index}\r\n"));
    Some(format!("HTTP/1.1 200 OK\r\n{index}content-length: {}\r\n\r\n{body}", body.len()))
}

#[expect(clippy::unnecessary_wraps, reason = "what `Answers` gives")]
fn denied() -> Option<String> {
    Some("HTTP/1.1 403 Forbidden\r\ncontent-length: 17\r\n\r\nPermission denied".into())
}

fn rows(actions: &[(&str, &str)]) -> String {
    let rows: Vec<_> = actions
        .iter()
        .map(|(source, action)| json!({ "SourceName": source, "DestinationName": "users", "Action": action }))
        .collect();
    json!({ "users": if rows.is_empty() { Value::Null } else { json!(rows) } }).to_string()
}

const OPEN: &str = r#"{"DebugConfig":{"ACLsEnabled":false}}"#;
const SHUT: &str = r#"{"DebugConfig":{"ACLsEnabled":true,"ACLDefaultPolicy":"deny"}}"#;

fn actions(update: &IntentionUpdate) -> Vec<(String, Action)> {
    update.intentions.list().iter().map(|i| (i.source.to_string(), i.action.clone())).collect()
}

#[tokio::test]
async fn the_lists_index_is_waited_past_where_match_has_none() {
    let mut watched = Watched::new(None, |target| match target {
        _ if target.starts_with("/v1/agent/self") => ok(None, SHUT),
        _ if target.contains("index=9") => None,
        // The list and then the rows: a change in between is in the rows already.
        _ if target.starts_with("/v1/connect/intentions?index=7") => ok(Some(9), "[]"),
        _ if target.starts_with("/v1/connect/intentions/match") => ok(None, &rows(&[("web", "allow")])),
        _ => ok(Some(7), "[]"),
    })
    .await;
    let first = watched.next().await;
    assert_eq!(actions(&first), [("web".to_owned(), Action::Allow)]);
    assert_eq!((first.intentions.default_policy(), first.origin), (Some(DefaultPolicy::Deny), Origin::Live));
    watched.nothing_for(Duration::from_millis(200)).await;
    assert_eq!(watched.asked("index=9"), 1, "one call waits, none turns in circles");
}

#[tokio::test]
async fn matchs_own_index_is_waited_past_where_there_is_one() {
    let mut watched = Watched::new(None, |target| match target {
        _ if target.starts_with("/v1/agent/self") => ok(None, OPEN),
        _ if target.contains("index=8") => None,
        _ if target.contains("index=7") => ok(Some(8), &rows(&[("web", "deny")])),
        _ => ok(Some(7), &rows(&[])),
    })
    .await;
    assert_eq!(actions(&watched.next().await), []);
    assert_eq!(actions(&watched.next().await), [("web".to_owned(), Action::Deny)]);
    assert_eq!(watched.asked("/v1/connect/intentions?"), 0);
}

#[tokio::test]
async fn what_may_not_be_read_or_makes_no_sense_changes_nothing() {
    for broken in [
        denied(),
        ok(Some(8), "[]"),
        ok(Some(8), r#"{"users":[{"SourceName":"web"}]}"#),
        ok(Some(8), r#"{"users":{}}"#),
        Some("HTTP/1.1 500 X\r\ncontent-length: 0\r\n\r\n".into()),
        Some(format!(
            "HTTP/1.1 200 OK\r\nX-Consul-Index: 8\r\nX-Consul-Results-Filtered-By-ACLs: true\r\ncontent-length: 14\r\n\r\n{}",
            r#"{"users":null}"#
        )),
    ] {
        let first = Arc::new(std::sync::atomic::AtomicBool::new(true));
        let mut watched = Watched::new(None, move |target| match target {
            _ if target.starts_with("/v1/agent/self") => ok(None, OPEN),
            _ if first.swap(false, std::sync::atomic::Ordering::Relaxed) => ok(Some(7), &rows(&[("web", "deny")])),
            _ => broken.clone(),
        })
        .await;
        assert_eq!(actions(&watched.next().await).len(), 1);
        watched.nothing_for(Duration::from_millis(300)).await;
    }
}

#[tokio::test]
async fn the_default_is_asked_of_the_agent_where_its_settings_may_not_be_read() {
    for (body, wanted) in [
        (r#"{"Authorized":false,"Reason":"Default behavior configured by ACLs"}"#, Some(DefaultPolicy::Deny)),
        (r#"{"Authorized":true,"Reason":"ACLs disabled, access is allowed by default"}"#, Some(DefaultPolicy::Allow)),
        (r#"{"Authorized":true,"Reason":"Matched intention: ALLOW * => users"}"#, None),
    ] {
        let mut watched = Watched::new(None, move |target| match target {
            _ if target.starts_with("/v1/agent/self") => denied(),
            _ if target.starts_with("/v1/agent/connect/authorize") => ok(None, body),
            _ if target.contains("index=") => None,
            _ => ok(Some(7), &rows(&[])),
        })
        .await;
        assert_eq!(watched.next().await.intentions.default_policy(), wanted, "{body}");
    }
}

#[tokio::test]
async fn no_intentions_after_some_are_confirmed_first() {
    let begun = std::time::Instant::now();
    let mut watched = Watched::new(None, |target| match target {
        _ if target.starts_with("/v1/agent/self") => ok(None, OPEN),
        _ if target.contains("index=7") => ok(Some(8), &rows(&[])),
        _ if target.contains("index=8") => None,
        _ => ok(Some(7), &rows(&[("web", "deny")])),
    })
    .await;
    assert_eq!(actions(&watched.next().await).len(), 1);
    // Emptied once and back at the second look: never believed.
    watched.nothing_for(Duration::from_millis(1500)).await;
    assert!(watched.asked("match?by=destination&name=users") >= 2 && begun.elapsed() >= CONFIRM);
    let mut gone = Watched::new(None, {
        let reads = std::sync::atomic::AtomicUsize::new(0);
        move |target| match target {
            _ if target.starts_with("/v1/agent/self") => ok(None, OPEN),
            _ if target.contains("index=8") => None,
            _ => match reads.fetch_add(1, std::sync::atomic::Ordering::Relaxed) {
                0 => ok(Some(7), &rows(&[("web", "deny")])),
                _ => ok(Some(8), &rows(&[])),
            },
        }
    })
    .await;
    assert_eq!(actions(&gone.next().await).len(), 1);
    assert_eq!(actions(&gone.next().await), []);
}

#[tokio::test]
async fn a_snapshot_stands_in_until_consul_answers() {
    let folder = tempfile::tempdir().unwrap();
    let snapshot = || Some(Snapshot::new(folder.path()));
    let good = |target: &str| match target {
        _ if target.starts_with("/v1/agent/self") => ok(None, SHUT),
        _ if target.contains("index=") => None,
        _ => ok(Some(7), &rows(&[("web", "allow"), ("db", "deny")])),
    };
    let live = Watched::new(snapshot(), good).await.next().await;
    let mut down = Watched::new(snapshot(), |_| denied()).await;
    let saved = down.next().await;
    assert_eq!((saved.origin, &saved.intentions), (Origin::Snapshot, &live.intentions));
    assert_eq!(Enforced::On(saved.intentions), Enforced::On(live.intentions));
    std::fs::write(folder.path().join("intentions%2Fusers.json"), r#"{"rows":[{"SourceName":"web"}],"allow":true}"#)
        .unwrap();
    let mut broken = Watched::new(snapshot(), |_| denied()).await;
    broken.nothing_for(Duration::from_millis(300)).await;
}
