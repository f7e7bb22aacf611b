//! Tests of `agent` against the embedded registry on a real socket.

use std::net::SocketAddr;

use super::*;
use crate::consul;
use crate::lifecycle::Lifecycle;
use crate::registry::consul::record::sample;
use crate::registry::embedded::Embedded;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// One agent of ours, and the registry that it talks to.
struct Scene {
    address: SocketAddr,
    registry: Lifecycle,
    tasks: Lifecycle,
    agent: Arc<Agent>,
    wanted: Arc<Published<Registration>>,
    health: watch::Sender<AppHealth>,
    client: Client,
    metrics: Arc<Metrics>,
}

impl Scene {
    /// With a registry, and our agent not yet running.
    async fn new(registration: Registration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut scene = Self::without_registry(registration, &listener);
        scene.start_registry(listener);
        scene
    }

    fn without_registry(registration: Registration, listener: &TcpListener) -> Self {
        let address = listener.local_addr().unwrap();
        let metrics = Metrics::new();
        let settings = consul::Settings { address: format!("http://{address}"), ..consul::Settings::default() };
        let client = Client::new(settings, metrics.clone()).unwrap();
        let wanted = Arc::new(Published::new(registration));
        let health = watch::Sender::new(AppHealth::Unknown);
        let agent = Agent::new(client.clone(), wanted.clone(), health.subscribe(), metrics.clone());
        Self {
            address,
            registry: Lifecycle::new(),
            tasks: Lifecycle::new(),
            agent: Arc::new(agent),
            wanted,
            health,
            client,
            metrics,
        }
    }

    /// As `new`, registered and with a well app.
    async fn passing(registration: Registration) -> Self {
        let scene = Self::new(registration).await;
        scene.health.send_replace(AppHealth::Well);
        scene.run();
        scene.until_registered(true).await;
        scene
    }

    fn start_registry(&mut self, listener: TcpListener) {
        self.registry = Lifecycle::new();
        self.registry.spawn("registry", Embedded::new().unwrap().serve(listener, self.registry.clone()));
    }

    fn run(&self) {
        let agent = self.agent.clone();
        self.tasks.spawn("agent", async move { agent.run().await });
    }

    async fn until_registered(&self, wanted: bool) {
        let mut registered = self.agent.registered();
        let seen = tokio::time::timeout(LONG, registered.wait_for(|known| *known == wanted)).await;
        seen.unwrap_or_else(|_| panic!("registered did not become {wanted}")).unwrap();
    }

    async fn services(&self) -> Value {
        self.client.get::<Value>(Api::AgentServices, "/v1/agent/services", &[]).await.unwrap().value
    }

    /// Status and output of our check; waits until `good` likes both.
    async fn check(&self, good: impl Fn(&str, &str) -> bool) {
        let id = self.wanted.peek().check_id();
        eventually("the check's state", async || {
            let path = "/v1/agent/checks";
            let all = self.client.get::<Value>(Api::AgentServices, path, &[]).await.unwrap().value;
            let text = |key: &str| all[id.as_str()][key].as_str().unwrap_or_default().to_owned();
            good(&text("Status"), &text("Output"))
        })
        .await;
    }

    async fn put(&self, path: &str, body: Option<&Value>) {
        self.client.put(Api::Register, path, &[], body, LONG).await.unwrap();
    }

    async fn register_other(&self, id: &str, owner: &str, port: u16) {
        let body = json!({"ID": id, "Name": "users", "Address": "127.0.0.1", "Port": port, "Meta": {OWNER: owner}});
        self.put("/v1/agent/service/register", Some(&body)).await;
    }

    fn metric(&self, line: &str) -> u64 {
        let page = String::from_utf8(self.metrics.render()).unwrap();
        let value = page.lines().find_map(|found| found.strip_prefix(line)).unwrap_or_else(|| panic!("no {line}"));
        value.trim().parse().unwrap()
    }
}

async fn eventually(what: &str, seen: impl AsyncFn() -> bool) {
    let until = Instant::now() + LONG;
    while !seen().await {
        assert!(Instant::now() < until, "not seen: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

const LONG: Duration = Duration::from_secs(10);

/// Head and body: what is left unread when a connection closes may cost the other side the answer.
fn is_whole(request: &[u8]) -> bool {
    let text = String::from_utf8_lossy(request).to_lowercase();
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap_or("0");
    body.len() >= length.parse().unwrap()
}

/// An agent that answers each kind of call as told; it notes what was asked. The watch is refused, so that only heartbeats
/// can notice anything.
async fn scripted(listener: TcpListener, asked: watch::Sender<Vec<String>>, beats: &[(u16, &str)]) {
    let mut beats = beats.iter();
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = Vec::new();
        while !is_whole(&request) && stream.read_buf(&mut request).await.is_ok_and(|read| read > 0) {}
        if !is_whole(&request) {
            // A call that was given up before it was sent.
            continue;
        }
        let head = String::from_utf8(request).unwrap();
        let path = head.split([' ', '?']).nth(1).unwrap();
        let (status, text) = match path {
            "/v1/agent/service/register" => (200, ""),
            path if path.starts_with("/v1/agent/check/update/") => beats.next().copied().unwrap_or((200, "")),
            _ => (403, "Permission denied"),
        };
        let call = path.split('/').nth(4).unwrap_or_default().to_owned();
        if status != 403 {
            asked.send_modify(|asked| asked.push(format!("{call} {status}")));
        }
        let answer =
            format!("HTTP/1.1 {status} X\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{text}", text.len());
        let _ = stream.write_all(answer.as_bytes()).await;
    }
}

#[tokio::test]
async fn every_refusal_of_a_heartbeat_but_429_leads_to_a_new_registration() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let scene = Scene::without_registry(Registration { ttl: Duration::from_millis(150), ..sample() }, &listener);
    let asked = watch::Sender::new(Vec::new());
    let mut seen = asked.subscribe();
    let beats = [
        (200, ""),
        (429, ""),
        (200, ""),
        (500, "CheckID \"service:users-1\" does not have associated TTL"),
        (200, ""),
        (404, "Unknown check ID \"service:users-1\". Ensure that the check ID is passed, not the check name."),
        (200, ""),
        (500, "Unknown check \"service:users-1\""),
    ];
    let wanted = [
        "register 200",
        "update 200",
        "update 429",
        "update 200",
        "update 500",
        "register 200",
        "update 200",
        "update 404",
        "register 200",
        "update 200",
        "update 500",
        "register 200",
        "update 200",
    ];
    scene.run();
    tokio::select! {
        told = tokio::time::timeout(LONG, seen.wait_for(|asked| asked.len() >= wanted.len())) => {
            assert_eq!(told.unwrap().unwrap()[..wanted.len()], wanted);
        }
        () = scripted(listener, asked, &beats) => unreachable!(),
    }
}

#[tokio::test]
async fn an_instance_is_critical_until_its_app_is_well_and_again_when_it_is_not() {
    let scene = Scene::new(sample()).await;
    scene.run();
    scene.until_registered(true).await;
    scene.check(|status, output| status == "critical" && output == "the app has not answered its probe yet").await;
    assert!(!scene.agent.still_listed().await.unwrap());
    scene.health.send_replace(AppHealth::Well);
    scene.check(|status, _| status == "passing").await;
    assert!(scene.agent.still_listed().await.unwrap());
    scene.health.send_replace(AppHealth::Ill { why: "connection refused".into() });
    scene.check(|status, output| status == "critical" && output == "connection refused").await;
    let held = &scene.services().await["users-1"];
    assert_eq!((&held["Port"], &held["Connect"]), (&json!(20000), &json!({"Native": true})));
    assert_eq!(held["Meta"][OWNER], "users@host-1:127.0.0.1:8080");
    assert_eq!(scene.metric("outrigger_registered"), 1);
}

#[tokio::test]
async fn heartbeats_outlive_the_ttl() {
    let scene = Scene::passing(Registration { ttl: Duration::from_millis(300), ..sample() }).await;
    let beats = "outrigger_heartbeats_total{outcome=\"passing\"}";
    // Seven thirds of the TTL: without heartbeats it would have run out twice.
    eventually("seven beats", async || scene.metric(beats) >= 8).await;
    let path = "/v1/agent/checks";
    let checks = scene.client.get::<Value>(Api::AgentServices, path, &[]).await.unwrap().value;
    assert_eq!(checks["service:users-1"]["Status"], "passing");
    assert_eq!(scene.metric("outrigger_heartbeats_total{outcome=\"failed\"}"), 0);
}

#[tokio::test]
async fn who_is_deregistered_by_others_is_back_within_a_second_and_passing() {
    let scene = Scene::passing(sample()).await;
    for _ in 0..2 {
        let began = Instant::now();
        scene.put("/v1/agent/service/deregister/users-1", None).await;
        eventually("being back", async || scene.agent.still_listed().await.unwrap()).await;
        assert!(began.elapsed() < Duration::from_secs(1), "took {:?}", began.elapsed());
    }
}

#[tokio::test]
async fn a_restarted_agent_has_us_back_within_a_second() {
    let mut scene = Scene::passing(sample()).await;
    scene.registry.stop(Duration::ZERO).await;
    scene.until_registered(false).await;
    assert_eq!(scene.metric("outrigger_registered"), 0);
    let listener = TcpListener::bind(scene.address).await.unwrap();
    scene.start_registry(listener);
    let began = Instant::now();
    scene.until_registered(true).await;
    assert!(began.elapsed() < Duration::from_secs(1), "took {:?}", began.elapsed());
    assert!(scene.agent.still_listed().await.unwrap(), "passing from the first moment on");
}

#[tokio::test]
async fn a_lost_check_is_registered_again_at_the_next_heartbeat() {
    let scene = Scene::passing(Registration { ttl: Duration::from_millis(600), ..sample() }).await;
    // The service stays, so only the heartbeat can notice.
    let body = json!({"ID": "users-1", "Name": "users", "Port": 1, "Check": {"CheckID": "x", "TTL": "1h"}});
    let query = [("replace-existing-checks", "true")];
    scene.client.put(Api::Register, "/v1/agent/service/register", &query, Some(&body), LONG).await.unwrap();
    scene.check(|status, _| status == "passing").await;
}

#[tokio::test]
async fn a_new_config_and_a_foreign_change_are_both_put_right() {
    let scene = Scene::passing(sample()).await;
    scene.wanted.store(Registration { tags: vec!["v3".into()], ..sample() });
    eventually("the new tags", async || scene.services().await["users-1"]["Tags"] == json!(["v3"])).await;
    let body = json!({"ID": "users-1", "Name": "users", "Port": 1, "Tags": ["stolen"]});
    scene.put("/v1/agent/service/register", Some(&body)).await;
    eventually("our tags again", async || scene.services().await["users-1"]["Tags"] == json!(["v3"])).await;
    assert_eq!(scene.services().await["users-1"]["Port"], 20000);
    assert!(scene.agent.still_listed().await.unwrap(), "passing all along");
}

#[tokio::test]
async fn only_what_an_earlier_life_of_ours_left_behind_is_removed() {
    let scene = Scene::new(sample()).await;
    let (ours, other) = (sample().owner, "users@host-1:127.0.0.1:8081");
    let alive = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dead = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap().port()
    };
    scene.register_other("dead", &ours, dead).await;
    scene.register_other("alive", &ours, alive.local_addr().unwrap().port()).await;
    scene.register_other("renamed", &ours, 20000).await;
    scene.register_other("foreign", other, dead).await;
    scene.run();
    eventually("both stale ones gone", async || {
        let services = scene.services().await;
        services.get("dead").is_none() && services.get("renamed").is_none()
    })
    .await;
    let services = scene.services().await;
    let left: Vec<&String> = services.as_object().unwrap().keys().collect();
    assert_eq!(left, ["alive", "foreign", "users-1"]);
}

#[tokio::test]
async fn draining_is_told_at_once_and_leaving_is_final() {
    let scene = Scene::passing(sample()).await;
    scene.agent.begin_drain();
    scene.check(|status, output| status == "critical" && output == "draining").await;
    assert!(!scene.agent.still_listed().await.unwrap());
    scene.health.send_replace(AppHealth::Ill { why: "stopping".into() });
    scene.health.send_replace(AppHealth::Well);
    scene.agent.deregister().await.unwrap();
    assert_eq!(scene.tasks.stop(LONG).await, crate::lifecycle::Stopped::Clean, "run ends by itself");
    assert_eq!(scene.services().await, json!({}));
    assert_eq!(scene.metric("outrigger_registered"), 0);
    // Removing what is not there is no failure.
    scene.agent.deregister().await.unwrap();
}

#[tokio::test]
async fn leaving_while_consul_is_away_fails_within_its_limit() {
    let scene = Scene::passing(sample()).await;
    scene.registry.stop(Duration::ZERO).await;
    let began = Instant::now();
    assert!(matches!(scene.agent.deregister().await, Err(ConsulError::Unreachable { .. })));
    assert!(began.elapsed() < Duration::from_secs(3));
}

#[test]
fn tries_are_never_further_apart_than_half_a_second_and_a_half_of_that() {
    let mut pause = Pause::default();
    for _ in 0..100 {
        assert!(pause.next(false) <= Duration::from_millis(750));
    }
    assert!(pause.next(true) > Duration::from_secs(2), "a refused token is not hammered with");
}
