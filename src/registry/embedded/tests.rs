//! The embedded registry over a real socket. What Consul 1.8.7 answered to the same calls was read from its binary.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::Embedded;
use crate::lifecycle::Lifecycle;

struct Registry {
    address: SocketAddr,
    lifecycle: Lifecycle,
}

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    text: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap()
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    fn index(&self) -> u64 {
        self.header("x-consul-index").parse().unwrap()
    }
}

impl Registry {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, lifecycle) = (listener.local_addr().unwrap(), Lifecycle::new());
        lifecycle.spawn("registry", Embedded::new().unwrap().serve(listener, lifecycle.clone()));
        Self { address, lifecycle }
    }

    async fn ask(&self, method: &str, path: &str, body: impl Into<Bytes>) -> Answer {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        let request = Request::builder().method(method).uri(path).header("host", "registry");
        let exchange = async {
            let response = sender.send_request(request.body(Full::new(body.into())).unwrap()).await.unwrap();
            let (head, body) = response.into_parts();
            (head, body.collect().await.unwrap().to_bytes())
        };
        // A connection that ends with the answer has handed it over.
        let connection = async {
            let _ = connection.await;
            std::future::pending::<()>().await;
        };
        tokio::select! {
            (head, body) = exchange => {
                Answer { status: head.status, headers: head.headers, text: String::from_utf8(body.to_vec()).unwrap() }
            }
            () = connection => unreachable!(),
        }
    }

    async fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, "").await
    }

    async fn put(&self, path: &str, body: &Value) -> Answer {
        let answer = self.ask("PUT", path, if body.is_null() { String::new() } else { body.to_string() }).await;
        assert_eq!(answer.status, StatusCode::OK, "{path}: {}", answer.text);
        answer
    }

    async fn register(&self, id: &str, name: &str, ttl: &str) {
        let body = json!({
            "ID": id, "Name": name, "Address": "127.0.0.1", "Port": 20000, "Connect": {"Native": true},
            "Check": {"TTL": ttl, "DeregisterCriticalServiceAfter": "1m"},
        });
        self.put("/v1/agent/service/register?replace-existing-checks=true", &body).await;
    }

    async fn pass(&self, id: &str) {
        self.put(&format!("/v1/agent/check/pass/service:{id}?note=fine"), &Value::Null).await;
    }
}

#[tokio::test]
async fn an_instance_is_listed_as_passing_once_its_check_passes() {
    let registry = Registry::start().await;
    registry.register("web-1", "web", "10s").await;
    assert_eq!(registry.get("/v1/health/service/web?passing").await.json(), json!([]));
    let before = registry.get("/v1/health/connect/web").await;
    assert_eq!(before.json()[0]["Checks"][1]["Status"], "critical", "without Status a check starts critical");
    registry.pass("web-1").await;
    let after = registry.get("/v1/health/connect/web?passing").await;
    assert_eq!(after.json()[0]["Service"]["ID"], "web-1");
    assert_eq!(after.json()[0]["Checks"][1]["Output"], "fine");
    assert!(after.index() > before.index());
    assert_eq!((after.header("x-consul-knownleader"), after.header("x-consul-lastcontact")), ("true", "0"));
}

#[tokio::test]
async fn registering_again_keeps_the_checks_status_and_takes_the_new_fields() {
    let registry = Registry::start().await;
    registry.register("web-1", "web", "10s").await;
    registry.pass("web-1").await;
    let body =
        json!({"ID": "web-1", "Name": "web", "Port": 2, "Tags": ["new"], "Check": {"TTL": "9s", "Status": "critical"}});
    registry.put("/v1/agent/service/register?replace-existing-checks=true", &body).await;
    let listed = registry.get("/v1/health/service/web?passing").await.json();
    assert_eq!((&listed[0]["Service"]["Port"], &listed[0]["Service"]["Tags"]), (&json!(2), &json!(["new"])));
    assert_eq!(listed[0]["Service"]["Meta"], Value::Null, "null here, {{}} on the agent's endpoints");
    assert_eq!(registry.get("/v1/agent/service/web-1").await.json()["Meta"], json!({}));
}

#[tokio::test]
async fn what_is_unknown_or_bad_is_answered_in_consuls_words() {
    let registry = Registry::start().await;
    let update = json!({"Status": "passing"}).to_string();
    for (method, path, body, status, text) in [
        ("PUT", "/v1/agent/check/update/no", update.as_str(), 500, "CheckID \"no\" does not have associated TTL"),
        ("PUT", "/v1/agent/check/update/no", "{\"Status\":\"x\"}", 400, "Invalid check status: 'x'"),
        ("PUT", "/v1/agent/service/deregister/no", "", 200, ""),
        ("PUT", "/v1/agent/service/maintenance/no?enable=1", "", 404, "No service registered with ID \"no\""),
        ("GET", "/v1/agent/service/no", "", 404, "unknown service ID: no"),
        ("GET", "/v1/health/service/web?wait=5", "", 400, "Invalid wait time"),
        ("GET", "/v1/health/service/", "", 400, "Missing service name"),
        ("GET", "/v1/health/service/web?dc=other", "", 500, "No path to datacenter"),
        ("GET", "/v1/agent/service/register", "", 405, "method GET not allowed"),
        ("GET", "/v1/nothing", "", 404, ""),
    ] {
        let answer = registry.ask(method, path, body.to_owned()).await;
        assert_eq!((answer.status.as_u16(), answer.text.as_str()), (status, text), "{method} {path}");
    }
}

#[tokio::test]
async fn a_body_that_announces_too_much_is_refused_before_it_comes() {
    let registry = Registry::start().await;
    let mut stream = TcpStream::connect(registry.address).await.unwrap();
    stream
        .write_all(b"PUT /v1/agent/service/register HTTP/1.1\r\nhost: x\r\ncontent-length: 524289\r\n\r\n")
        .await
        .unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 413");
}

#[tokio::test]
async fn a_blocking_query_wakes_for_its_own_service_only() {
    let registry = Registry::start().await;
    let seen = registry.get("/v1/health/service/web").await.index();
    let path = format!("/v1/health/service/web?index={seen}&wait=30s");
    let others = async {
        registry.register("other-1", "other", "10s").await;
        registry.register("web-1", "web", "10s").await;
    };
    let (woken, ()) = tokio::join!(registry.get(&path), others);
    assert_eq!(woken.json()[0]["Service"]["ID"], "web-1", "not for other-1, or it would be empty");
    // An unchanged one holds for its wait, output alone included, and answers with the same index.
    let began = Instant::now();
    let path = format!("/v1/health/service/web?index={}&wait=200ms", woken.index());
    registry.put("/v1/agent/check/fail/service:web-1?note=again", &Value::Null).await;
    let held = registry.get(&path).await;
    assert!(began.elapsed() >= Duration::from_millis(200));
    assert_eq!(held.index(), woken.index());
}

#[tokio::test]
async fn an_index_from_the_future_waits_even_while_things_change() {
    let registry = Registry::start().await;
    let (late, ()) = tokio::join!(
        registry.get("/v1/health/service/web?index=999999&wait=300ms"),
        registry.register("web-1", "web", "10s")
    );
    assert!(late.index() < 999_999);
    assert_eq!(late.json()[0]["Service"]["ID"], "web-1");
}

#[tokio::test]
async fn a_hash_query_wakes_for_a_change_and_for_the_end_but_not_for_a_check() {
    let registry = Registry::start().await;
    registry.register("web-1", "web", "10s").await;
    let hash = registry.get("/v1/agent/service/web-1").await.header("x-consul-contenthash").to_owned();
    let path = format!("/v1/agent/service/web-1?hash={hash}&wait=30s");
    let change = async {
        registry.pass("web-1").await;
        registry.put("/v1/agent/service/register", &json!({"ID": "web-1", "Name": "web", "Port": 7})).await;
    };
    let (changed, ()) = tokio::join!(registry.get(&path), change);
    assert_eq!(changed.json()["Port"], 7);
    let hash = changed.header("x-consul-contenthash").to_owned();
    assert_eq!(changed.json()["ContentHash"], hash.as_str());
    let path = format!("/v1/agent/service/web-1?hash={hash}&wait=30s");
    let (ended, _) =
        tokio::join!(registry.get(&path), registry.put("/v1/agent/service/deregister/web-1", &Value::Null));
    assert_eq!((ended.status, ended.text.as_str()), (StatusCode::NOT_FOUND, "unknown service ID: web-1"));
}

#[tokio::test]
async fn a_ttl_that_runs_out_turns_the_check_critical_and_wakes_watchers() {
    let registry = Registry::start().await;
    registry.register("web-1", "web", "100ms").await;
    registry.pass("web-1").await;
    let seen = registry.get("/v1/health/service/web").await.index();
    let woken = registry.get(&format!("/v1/health/service/web?index={seen}&wait=30s")).await.json();
    assert_eq!(woken[0]["Checks"][1]["Status"], "critical");
    assert_eq!(woken[0]["Checks"][1]["Output"], "TTL expired (last output before timeout follows): fine");
}

#[test]
fn a_service_that_stays_critical_is_removed() {
    let mut state = super::state::State::new("node");
    let start = tokio::time::Instant::now();
    let body = br#"{"Name":"web","Check":{"TTL":"10s","DeregisterCriticalServiceAfter":"90s"}}"#;
    state.register(super::decode::registration(body).unwrap(), true, start).unwrap();
    assert_eq!(state.expire(start).1, Some(start + Duration::from_secs(10)));
    assert_eq!(state.expire(start + Duration::from_secs(10)).1, Some(start + Duration::from_secs(90)));
    assert!(state.agent_service("web").is_some());
    assert_eq!(state.expire(start + Duration::from_secs(90)), (true, None));
    assert!(state.agent_service("web").is_none());
}

#[tokio::test]
async fn maintenance_takes_an_instance_out_and_back() {
    let registry = Registry::start().await;
    registry.register("web-1", "web", "10s").await;
    registry.pass("web-1").await;
    registry.put("/v1/agent/service/maintenance/web-1?enable=true&reason=draining", &Value::Null).await;
    assert_eq!(registry.get("/v1/health/service/web?passing").await.json(), json!([]));
    let checks = registry.get("/v1/agent/checks").await.json();
    assert_eq!(checks["_service_maintenance:web-1"]["Notes"], "draining");
    registry.put("/v1/agent/service/maintenance/web-1?enable=false", &Value::Null).await;
    assert_eq!(registry.get("/v1/health/service/web?passing").await.json()[0]["Service"]["ID"], "web-1");
}

#[tokio::test]
async fn roots_and_leaves_are_handed_out() {
    let registry = Registry::start().await;
    let roots = registry.get("/v1/agent/connect/ca/roots").await;
    assert_eq!((roots.index(), roots.header("x-consul-knownleader")), (9, "false"));
    let domain = roots.json()["TrustDomain"].as_str().unwrap().to_owned();
    let leaf = registry.get("/v1/agent/connect/ca/leaf/web").await;
    assert_eq!(leaf.json()["ServiceURI"], format!("spiffe://{domain}/ns/default/dc/dc1/svc/web"));
    let again = registry.get(&format!("/v1/agent/connect/ca/leaf/web?index={}&wait=10ms", leaf.index())).await;
    assert_eq!(again.text, leaf.text);
    let none = registry.get("/v1/connect/intentions/match?by=destination&name=web").await;
    assert_eq!((none.json(), none.header("x-consul-index")), (json!({"web": null}), ""));
}

#[tokio::test]
async fn a_drain_answers_what_waits_and_ends() {
    let registry = Registry::start().await;
    let seen = registry.get("/v1/catalog/services").await.index();
    let path = format!("/v1/catalog/services?index={seen}&wait=5m");
    let connections = async |wanted: usize| {
        let count = || registry.lifecycle.running().iter().find(|(name, _)| *name != "registry").map_or(0, |(_, n)| *n);
        while count() != wanted {
            tokio::task::yield_now().await;
        }
    };
    connections(0).await;
    let stop = async {
        connections(1).await;
        // Answered after the query that waits was read: it was sent before.
        registry.get("/v1/status/leader").await;
        registry.lifecycle.stop(Duration::from_secs(5)).await
    };
    let (held, stopped) = tokio::join!(registry.get(&path), stop);
    assert_eq!((held.status, held.index()), (StatusCode::OK, seen));
    assert_eq!(stopped, crate::lifecycle::Stopped::Clean);
}
