//! Tests of `watch` against a small HTTP server that answers each request line by a function.

use std::sync::Arc;

use parking_lot::Mutex as Lock;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::consul::Settings;
use crate::lifecycle::Lifecycle;
use crate::service::Health;
use crate::telemetry::Metrics;

/// An HTTP answer with its head; `None` holds the request for ever.
type Answers = dyn Fn(&str) -> Option<String> + Send + Sync;

struct Agent {
    watch: HealthWatch,
    /// Targets of the requests in their order.
    asked: Arc<Lock<Vec<String>>>,
    _tasks: Lifecycle,
}

impl Agent {
    async fn new(mode: MeshMode, answers: impl Fn(&str) -> Option<String> + Send + Sync + 'static) -> Self {
        Self::selecting(mode, Selection::default(), answers).await
    }

    async fn selecting(
        mode: MeshMode,
        selection: Selection,
        answers: impl Fn(&str) -> Option<String> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let settings =
            Settings { address: format!("http://{}", listener.local_addr().unwrap()), ..Settings::default() };
        let client = Client::new(settings, Metrics::new()).unwrap();
        let watch = HealthWatch::new(client, ServiceName::parse("orders").unwrap(), mode, selection);
        let (asked, tasks): (Arc<Lock<Vec<String>>>, _) = (Arc::default(), Lifecycle::new());
        let (answers, record, inner): (Arc<Answers>, _, _) = (Arc::new(answers), asked.clone(), tasks.clone());
        tasks.spawn("server", async move {
            while let Ok((stream, _)) = listener.accept().await {
                inner.spawn("connection", serve(stream, answers.clone(), record.clone()));
            }
        });
        Self { watch, asked, _tasks: tasks }
    }

    async fn start(&self) -> Vec<Listing> {
        self.watch.next(Mark::START).await.unwrap().1
    }

    fn asked(&self) -> Vec<String> {
        let mut asked = self.asked.lock().clone();
        asked.sort();
        asked
    }
}

async fn serve(mut stream: TcpStream, answers: Arc<Answers>, asked: Arc<Lock<Vec<String>>>) {
    let mut head = Vec::new();
    while let Ok(byte) = stream.read_u8().await {
        head.push(byte);
        if !head.ends_with(b"\r\n\r\n") {
            continue;
        }
        let text = String::from_utf8_lossy(&head).into_owned();
        head.clear();
        let target = text.split(' ').nth(1).unwrap().to_owned();
        asked.lock().push(target.clone());
        let Some(answer) = answers(&target) else { std::future::pending().await };
        stream.write_all(answer.as_bytes()).await.unwrap();
    }
}

#[expect(clippy::unnecessary_wraps, reason = "what `Answers` gives")]
fn ok(index: u64, body: &str) -> Option<String> {
    let length = body.len();
    Some(format!("HTTP/1.1 200 OK\r\nX-Consul-Index: {index}\r\ncontent-length: {length}\r\n\r\n{body}"))
}

fn native(id: &str, port: u16) -> String {
    format!(
        r#"{{"Node":{{"Node":"n1","Address":"10.0.0.9"}},"Service":{{"ID":"{id}","Service":"orders","Address":"10.0.0.1",
        "Port":{port},"Connect":{{"Native":true}},"Meta":{{"outrigger_owner":"x"}}}},"Checks":[]}}"#
    )
}

fn plain(id: &str, port: u16) -> String {
    format!(
        r#"{{"Node":{{"Node":"n1","Address":"10.0.0.9"}},"Service":{{"ID":"{id}","Service":"orders","Address":"",
        "Port":{port},"Connect":{{}},"Meta":null}},"Checks":null}}"#
    )
}

fn sidecar(id: &str, of: (&str, &str), port: u16) -> String {
    let (name, of) = of;
    format!(
        r#"{{"Node":{{"Node":"n1","Address":"10.0.0.9"}},"Service":{{"ID":"{id}","Service":"{name}-sidecar-proxy",
        "Kind":"connect-proxy","Port":{port},"Proxy":{{"DestinationServiceName":"{name}","DestinationServiceID":"{of}"}}}}}}"#
    )
}

fn list(rows: &[String]) -> String {
    format!("[{}]", rows.join(","))
}

/// Id, address and `ours` (`None`: plain) of each listing.
fn told(listings: &[Listing]) -> Vec<(String, String, Option<bool>)> {
    let told = |one: &Listing| {
        let ours = match &one.wire {
            Wire::Plain => None,
            Wire::Mesh { peer, ours } => {
                assert_eq!(peer.as_str(), "orders");
                Some(*ours)
            }
        };
        (one.id.to_string(), one.address.to_string(), ours)
    };
    listings.iter().map(told).collect()
}

fn entry(id: &str, address: &str, ours: Option<bool>) -> (String, String, Option<bool>) {
    (id.into(), address.into(), ours)
}

#[tokio::test]
async fn a_first_read_goes_to_the_servers_and_a_long_poll_through_the_agents_cache() {
    let agent = Agent::new(MeshMode::Mesh, |target| {
        if target.contains("index=7") { ok(8, "[]") } else { ok(7, &list(&[native("o1", 1)])) }
    })
    .await;
    assert_eq!(agent.watch.describe(), "health/connect/orders");
    let (mark, listings) = agent.watch.next(Mark::START).await.unwrap();
    assert_eq!(told(&listings), [entry("o1", "10.0.0.1:1", Some(true))]);
    let (next, listings) = agent.watch.next(mark).await.unwrap();
    assert!(listings.is_empty() && next > mark);
    let asked = agent.asked();
    assert_eq!(asked[0], "/v1/health/connect/orders");
    assert_eq!(asked[1], "/v1/health/connect/orders?cached=&index=7&wait=55000ms");
}

#[tokio::test]
async fn mesh_lists_native_instances_and_the_sidecars_of_this_service_only() {
    let rows = [native("o1", 1), sidecar("p2", ("orders", "o2"), 2), sidecar("p3", ("users", "u3"), 3)];
    let agent = Agent::new(MeshMode::Mesh, move |_| ok(7, &list(&rows))).await;
    let expected = [entry("o1", "10.0.0.1:1", Some(true)), entry("p2", "10.0.0.9:2", Some(false))];
    assert_eq!(told(&agent.start().await), expected);
}

#[tokio::test]
async fn plain_lists_every_instance_in_plain_text_but_none_without_a_port() {
    let rows = [native("o1", 1), plain("o2", 2), plain("o3", 0)];
    let agent = Agent::new(MeshMode::Plain, move |_| ok(7, &list(&rows))).await;
    assert_eq!(told(&agent.start().await), [entry("o1", "10.0.0.1:1", None), entry("o2", "10.0.0.9:2", None)]);
    assert_eq!(
        (agent.watch.describe().as_str(), agent.asked()[0].as_str()),
        ("health/service/orders", "/v1/health/service/orders")
    );
}

#[tokio::test]
async fn preferred_lists_each_instance_once_by_its_sidecar_where_it_has_one() {
    let agent = Agent::new(MeshMode::Preferred, |target| {
        if target.contains("/connect/") {
            ok(7, &list(&[native("o1", 1), sidecar("p2", ("orders", "o2"), 2)]))
        } else {
            ok(9, &list(&[native("o1", 1), plain("o2", 20), plain("o3", 30)]))
        }
    })
    .await;
    let expected = [
        entry("o1", "10.0.0.1:1", Some(true)),
        entry("p2", "10.0.0.9:2", Some(false)),
        entry("o3", "10.0.0.9:30", None),
    ];
    assert_eq!(told(&agent.start().await), expected);
}

#[tokio::test]
async fn preferred_keeps_one_query_under_way_while_the_other_answers() {
    let agent = Agent::new(MeshMode::Preferred, |target| match target {
        _ if target.contains("/connect/") && target.contains("index=") => None,
        _ if target.contains("/connect/") => ok(7, "[]"),
        _ if target.contains("index=9") => ok(10, &list(&[plain("o1", 1)])),
        _ if target.contains("index=10") => ok(11, "[]"),
        _ => ok(9, "[]"),
    })
    .await;
    let (mark, _) = agent.watch.next(Mark::START).await.unwrap();
    let (mark, listings) = agent.watch.next(mark).await.unwrap();
    assert_eq!(listings.len(), 1);
    let (_, listings) = agent.watch.next(mark).await.unwrap();
    assert_eq!(listings.len(), 0);
    let polls = agent.asked().iter().filter(|target| target.contains("/connect/") && target.contains("index=")).count();
    assert_eq!(polls, 1);
}

#[tokio::test]
async fn a_dropped_wait_is_taken_up_again_not_asked_again() {
    let agent = Agent::new(MeshMode::Mesh, |target| if target.contains("index=") { None } else { ok(7, "[]") }).await;
    let (mark, _) = agent.watch.next(Mark::START).await.unwrap();
    for _ in 0..3 {
        assert!(timeout(Duration::from_millis(50), agent.watch.next(mark)).await.is_err());
    }
    assert_eq!(agent.asked().len(), 2);
    agent.start().await;
    assert_eq!(agent.asked().len(), 3);
}

#[tokio::test]
async fn news_that_a_dropped_wait_had_read_are_told_by_the_next() {
    let agent = Agent::new(MeshMode::Mesh, |target| match target {
        _ if target.contains("index=8") => None,
        _ if target.contains("index=7") => ok(8, &list(&[native("o1", 1)])),
        _ => ok(7, "[]"),
    })
    .await;
    let (mark, _) = agent.watch.next(Mark::START).await.unwrap();
    // What a `next` has done that is dropped while it resolves host names.
    agent.watch.wait(&mut agent.watch.state.lock().await.queries).await.unwrap();
    let (next, listings) = agent.watch.next(mark).await.unwrap();
    assert_eq!(listings.len(), 1);
    assert!(timeout(Duration::from_millis(20), agent.watch.next(next)).await.is_err(), "told once");
}

#[tokio::test]
async fn an_index_that_goes_back_gives_a_lower_mark() {
    let agent = Agent::new(MeshMode::Mesh, |target| ok(if target.contains("index=") { 3 } else { 50 }, "[]")).await;
    let (mark, _) = agent.watch.next(Mark::START).await.unwrap();
    let (lower, _) = agent.watch.next(mark).await.unwrap();
    assert!(lower < mark && lower != Mark::START, "{lower} after {mark}");
}

#[tokio::test]
async fn an_answer_without_an_index_gives_start() {
    let agent = Agent::new(MeshMode::Mesh, |_| Some("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n[]".into())).await;
    assert_eq!(agent.watch.next(Mark::START).await.unwrap().0, Mark::START);
}

#[tokio::test]
async fn what_the_token_may_not_read_is_an_error_and_no_empty_list() {
    let denied = "HTTP/1.1 403 Forbidden\r\ncontent-length: 17\r\n\r\nPermission denied";
    let agent = Agent::new(MeshMode::Mesh, move |_| Some(denied.into())).await;
    assert!(matches!(agent.watch.next(Mark::START).await, Err(RegistryError::Consul(error)) if error.is_denied()));
    let filtered = "HTTP/1.1 200 OK\r\nX-Consul-Index: 7\r\nX-Consul-Results-Filtered-By-ACLs: true\r\ncontent-length: 2\r\n\r\n[]";
    let agent = Agent::new(MeshMode::Mesh, move |_| Some(filtered.into())).await;
    assert!(matches!(agent.watch.next(Mark::START).await, Err(RegistryError::Filtered { .. })));
}

#[tokio::test]
async fn health_and_weight_follow_the_checks_and_host_names_are_resolved() {
    let row = r#"[{"Node":{"Address":"localhost"},"Service":{"ID":"o1","Service":"orders","Port":80,
        "Weights":{"Passing":10,"Warning":2}},"Checks":[{"Status":"warning"}]},
        {"Node":{"Address":"nowhere.invalid"},"Service":{"ID":"o2","Port":80}}]"#;
    let agent = Agent::new(MeshMode::Plain, move |_| ok(7, row)).await;
    let listings = agent.start().await;
    assert_eq!(told(&listings), [entry("o1", "127.0.0.1:80", None)]);
    assert_eq!((listings[0].health, listings[0].weight), (Health::Warning, 2));
}

const SELF_DC1: &str = r#"{"Config":{"Datacenter":"dc1"},"Meta":{}}"#;

#[tokio::test]
async fn a_subset_is_asked_for_at_the_servers_in_every_query() {
    let selection = Selection::default().with(&["v2".into()], &BTreeMap::new(), None);
    let agent = Agent::selecting(MeshMode::Preferred, selection, |target| {
        if target.contains("index=7") { ok(8, "[]") } else { ok(7, "[]") }
    })
    .await;
    assert_eq!(agent.watch.describe(), "health/connect+service/orders?d9d99616");
    let (mark, _) = agent.watch.next(Mark::START).await.unwrap();
    agent.watch.next(mark).await.unwrap();
    let asked = agent.asked();
    assert_eq!(asked.len(), 4, "{asked:#?}");
    assert!(asked.iter().all(|target| target.contains("filter=%22v2%22+in+Service.Tags")), "{asked:#?}");
}

#[tokio::test]
async fn another_datacenters_instances_are_reached_by_their_wan_addresses() {
    let row = r#"[{"Node":{"Node":"n1","Address":"10.0.0.9"},"Service":{"ID":"o1","Service":"orders","Address":"10.0.0.1","Port":1,
        "TaggedAddresses":{"wan":{"Address":"203.0.113.1","Port":2}}}}]"#;
    for (datacenter, address) in [("dc2", "203.0.113.1:2"), ("dc1", "10.0.0.1:1")] {
        let selection = Selection::of(Some(datacenter));
        let agent = Agent::selecting(MeshMode::Plain, selection, move |target| {
            if target == "/v1/agent/self" { ok(1, SELF_DC1) } else { ok(7, row) }
        })
        .await;
        assert_eq!(agent.watch.describe(), format!("health/service/orders@{datacenter}"));
        assert_eq!(told(&agent.start().await), [entry("o1", address, None)]);
        assert_eq!(agent.asked()[1], format!("/v1/health/service/orders?dc={datacenter}"));
    }
}

#[tokio::test]
async fn who_may_not_ask_where_the_agent_is_means_another_datacenter() {
    let selection = Selection::of(Some("dc2"));
    let agent = Agent::selecting(MeshMode::Plain, selection, |target| {
        if target == "/v1/agent/self" { status("403 Forbidden", "Permission denied") } else { ok(7, "[]") }
    })
    .await;
    assert!(agent.start().await.is_empty());
    assert_eq!(agent.watch.state.lock().await.far, Some(true));
}

#[tokio::test]
async fn a_filter_that_consul_refuses_is_said_so() {
    for line in ["500 Internal Server Error", "400 Bad Request"] {
        let selection = Selection::default().with(&[], &BTreeMap::new(), Some("a == b"));
        let agent = Agent::selecting(MeshMode::Plain, selection, move |_| {
            status(line, "Failed to create boolean expression evaluator: Selector \"a\" is not valid")
        })
        .await;
        let error = agent.watch.next(Mark::START).await.unwrap_err().to_string();
        assert_eq!(
            error,
            "Consul refuses the filter a == b: Failed to create boolean expression evaluator: Selector \"a\" is not valid; \
             mend the upstream's filter, tags or meta"
        );
    }
}

#[expect(clippy::unnecessary_wraps, reason = "what `Answers` gives")]
fn status(line: &str, text: &str) -> Option<String> {
    Some(format!("HTTP/1.1 {line}\r\ncontent-length: {}\r\n\r\n{text}", text.len()))
}
