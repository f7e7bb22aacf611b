//! Tests of `client` against a small HTTP server that answers from a script.

use std::io;

use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener};

use super::*;
use crate::lifecycle::Lifecycle;

/// Heads of the requests that came in, lower case.
type Seen = Arc<Mutex<Vec<String>>>;

async fn serve(
    mut io: impl AsyncRead + AsyncWrite + Unpin,
    answers: Arc<Mutex<Vec<String>>>,
    seen: Seen,
) -> io::Result<()> {
    let mut head = Vec::new();
    loop {
        head.clear();
        while !head.ends_with(b"\r\n\r\n") {
            match io.read_u8().await {
                Ok(byte) => head.push(byte),
                Err(_) => return Ok(()),
            }
        }
        let head = String::from_utf8_lossy(&head).to_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.trim().parse().ok());
        io.read_exact(&mut vec![0; length.unwrap_or(0)]).await?;
        seen.lock().push(head);
        let answer = answers.lock().pop();
        io.write_all(answer.unwrap_or_else(|| ok("", "null")).as_bytes()).await?;
    }
}

fn answer(status: &str, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\n{headers}content-length: {}\r\n\r\n{body}", body.len())
}

fn ok(headers: &str, body: &str) -> String {
    answer("200 OK", headers, body)
}

struct World {
    seen: Seen,
    metrics: Arc<Metrics>,
    client: Client,
    _tasks: Lifecycle,
}

impl World {
    /// The first of `answers` is given first; `null` after the last.
    async fn new(answers: Vec<String>, change: impl FnOnce(&mut Settings)) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut settings =
            Settings { address: format!("http://{}", listener.local_addr().unwrap()), ..Settings::default() };
        change(&mut settings);
        let (seen, tasks, metrics) = (Seen::default(), Lifecycle::new(), Metrics::new());
        let answers = Arc::new(Mutex::new(answers.into_iter().rev().collect()));
        let (inner, record) = (tasks.clone(), seen.clone());
        tasks.spawn("server", async move {
            while let Ok((stream, _)) = listener.accept().await {
                let work = serve(stream, Arc::clone(&answers), record.clone());
                inner.spawn("connection", async move { drop(work.await) });
            }
        });
        let client = Client::new(settings, metrics.clone()).unwrap();
        Self { seen, metrics, client, _tasks: tasks }
    }

    fn counted(&self, endpoint: &str, outcome: &str) -> bool {
        let page = String::from_utf8(self.metrics.render()).unwrap();
        let line = format!("outrigger_consul_requests_total{{endpoint=\"{endpoint}\",outcome=\"{outcome}\"}} 1");
        page.lines().any(|found| found == line)
    }
}

#[tokio::test]
async fn a_read_gives_value_index_and_whether_rights_were_missing() {
    let answers = vec![
        ok("X-Consul-Index: 16699865471647349443\r\n", "[1]"),
        ok("x-consul-index: 0\r\nX-Consul-Results-Filtered-By-ACLs: true\r\n", "[]"),
        ok("", "[]"),
    ];
    let world = World::new(answers, |_| ()).await;
    let get = || world.client.get::<Vec<u8>>(Api::HealthConnect, "/v1/health/connect/web", &[("a b", "c&d")]);
    let first = get().await.unwrap();
    assert_eq!((first.index, first.filtered_by_acls, first.value), (Some(16_699_865_471_647_349_443), false, vec![1]));
    let second = get().await.unwrap();
    assert_eq!((second.index, second.filtered_by_acls), (Some(1), true));
    assert_eq!(get().await.unwrap().index, None);
    assert!(world.seen.lock()[0].starts_with("get /v1/health/connect/web?a+b=c%26d http/1.1\r\n"));
}

#[tokio::test]
async fn only_what_is_configured_is_asked_and_dc_only_of_health() {
    let world = World::new(vec![], |_| ()).await;
    world.client.get::<Value>(Api::HealthService, "/v1/health/service/web", &[]).await.unwrap();
    assert!(world.seen.lock()[0].starts_with("get /v1/health/service/web http"));
    assert!(!world.seen.lock()[0].contains("token"));

    let world = World::new(vec![], |s| {
        (s.datacenter, s.namespace, s.partition) = (Some("dc1".into()), Some("n".into()), Some("p".into()));
    })
    .await;
    world.client.get::<Value>(Api::HealthService, "/v1/h", &[]).await.unwrap();
    world.client.get::<Value>(Api::HealthService, "/v1/h", &[("dc", "dc2")]).await.unwrap();
    world.client.get::<Value>(Api::CaLeaf, "/v1/l", &[]).await.unwrap();
    let seen = world.seen.lock();
    assert!(seen[0].starts_with("get /v1/h?dc=dc1&ns=n&partition=p http"), "{}", seen[0]);
    assert!(seen[1].starts_with("get /v1/h?dc=dc2&ns=n&partition=p http"), "{}", seen[1]);
    assert!(seen[2].starts_with("get /v1/l?ns=n&partition=p http"), "{}", seen[2]);
}

#[tokio::test]
async fn a_blocking_query_carries_index_and_wait() {
    let world = World::new(vec![], |s| s.wait = Duration::from_millis(1500)).await;
    world.client.wait_past::<Value>(Api::CaRoots, "/v1/r", &[], 0).await.unwrap();
    world.client.wait_past::<Value>(Api::CaRoots, "/v1/r", &[], u64::MAX).await.unwrap();
    let seen = world.seen.lock();
    assert!(seen[0].starts_with("get /v1/r http"));
    assert!(seen[1].starts_with("get /v1/r?index=18446744073709551615&wait=1500ms http"));
}

#[tokio::test]
async fn a_write_sends_json_and_drops_the_answer() {
    let world = World::new(vec![ok("", "")], |s| s.token = Some("secret-token".into())).await;
    let body = json!({"Name": "web"});
    world.client.put(Api::Register, "/v1/x", &[], Some(&body), Duration::from_secs(5)).await.unwrap();
    let head = &world.seen.lock()[0];
    assert!(head.starts_with("put /v1/x http"));
    for line in ["content-type: application/json", "content-length: 14", "x-consul-token: secret-token"] {
        assert!(head.contains(line), "{head}");
    }
    assert!(world.counted("agent_service_register", "ok"));
}

#[tokio::test]
async fn a_refusal_carries_the_status_and_the_start_of_the_text() {
    let world = World::new(
        vec![answer("500 Oops", "X-Consul-Index: 1\r\n", &format!("No\nservers{}", "x".repeat(300)))],
        |_| (),
    )
    .await;
    let error = world.client.get::<Value>(Api::AgentServices, "/v1/agent/self", &[]).await.unwrap_err();
    let ConsulError::Status { status, path, text } = &error else { panic!("{error}") };
    assert_eq!((*status, path.as_str(), text.len()), (500, "/v1/agent/self", 200));
    assert!(text.starts_with("No serversxxx"));
    assert!(world.counted("agent_services", "failed"));
}

#[tokio::test]
async fn a_refused_token_is_read_again_and_tried_once_more() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("token");
    std::fs::write(&path, "old").unwrap();
    let denied = || answer("403 Forbidden", "", "ACL not found");
    let world =
        World::new(vec![ok("", "1"), denied(), ok("", "2"), denied()], |s| s.token_file = Some(path.clone())).await;
    let get = || world.client.get::<u8>(Api::CaLeaf, "/v1/l", &[]);
    assert_eq!(get().await.unwrap().value, 1);
    let written = std::fs::metadata(&path).unwrap().modified().unwrap();
    std::fs::write(&path, "new").unwrap();
    std::fs::File::options().write(true).open(&path).unwrap().set_modified(written).unwrap();
    assert_eq!(get().await.unwrap().value, 2, "the second try carries the new token");
    assert!(get().await.unwrap_err().is_denied(), "the same token is not tried twice");
    assert!(world.counted("connect_ca_leaf", "denied"));
    let seen = world.seen.lock();
    let tokens: Vec<_> =
        seen.iter().filter_map(|head| head.lines().find_map(|l| l.strip_prefix("x-consul-token: "))).collect();
    assert_eq!(tokens, ["old", "old", "new", "new"]);
}

#[tokio::test]
async fn an_answer_that_is_not_what_was_asked_for_is_malformed() {
    let huge = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", BODY + 1);
    let world = World::new(vec![ok("", "{half"), huge], |_| ()).await;
    for _ in 0..2 {
        let error = world.client.get::<Value>(Api::CaRoots, "/v1/r", &[]).await.unwrap_err();
        assert!(matches!(error, ConsulError::Malformed { .. }), "{error}");
    }
}

#[tokio::test]
async fn an_agent_that_is_away_is_unreachable_and_the_text_hides_the_query() {
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let world = World::new(vec![], |s| s.address = format!("http://{gone}")).await;
    let error = world.client.get::<Value>(Api::CaRoots, "/v1/r", &[("q", "private")]).await.unwrap_err();
    assert!(matches!(error, ConsulError::Unreachable { .. }));
    assert!(!error.to_string().contains("private"), "{error}");
    assert!(world.counted("connect_ca_roots", "unreachable"));
}

#[tokio::test]
async fn a_unix_socket_serves_as_well() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("consul.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let (tasks, seen) = (Lifecycle::new(), Seen::default());
    let record = seen.clone();
    tasks.spawn("server", async move {
        let (stream, _) = listener.accept().await.unwrap();
        serve(stream, Arc::default(), record).await.unwrap();
    });
    let settings = Settings { address: format!("unix://{}", path.display()), ..Settings::default() };
    let client = Client::new(settings, Metrics::new()).unwrap();
    client.get::<Value>(Api::CaRoots, "/v1/r", &[]).await.unwrap();
    assert!(seen.lock()[0].starts_with("get /v1/r http"));
}

#[tokio::test]
async fn localhost_is_found_without_the_c_library() {
    let world = World::new(vec![], |s| s.address = s.address.replace("127.0.0.1", "localhost")).await;
    world.client.get::<Value>(Api::CaRoots, "/v1/r", &[]).await.unwrap();
}

/// An https server with a certificate for `name`; returns its settings and what ALPN it saw.
async fn tls_server(dir: &std::path::Path, name: &str, tasks: &Lifecycle) -> (Settings, Arc<Mutex<Option<Vec<u8>>>>) {
    let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap();
    let ca_file = dir.join("ca.crt");
    std::fs::write(&ca_file, made.cert.pem()).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("https://{}", listener.local_addr().unwrap());
    let alpn: Arc<Mutex<Option<Vec<u8>>>> = Arc::default();
    let seen = alpn.clone();
    let group = tasks.clone();
    tasks.spawn("server", async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(stream) = acceptor.accept(stream).await else { continue };
            *seen.lock() = stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
            let answer = hyper::service::service_fn(|_| async {
                Ok::<_, std::convert::Infallible>(http::Response::new(String::from("7")))
            });
            let io = hyper_util::rt::TokioIo::new(stream);
            let served = hyper::server::conn::http2::Builder::new(Tasks(group.clone())).serve_connection(io, answer);
            group.spawn("connection", async move { drop(served.await) });
        }
    });
    (Settings { address, ca_file: Some(ca_file), ..Settings::default() }, alpn)
}

#[derive(Clone)]
struct Tasks(Lifecycle);

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for Tasks {
    fn execute(&self, task: F) {
        self.0.spawn("h2", task);
    }
}

#[tokio::test]
async fn https_verifies_the_name_that_is_configured_and_speaks_http2() {
    let (dir, tasks) = (tempfile::tempdir().unwrap(), Lifecycle::new());
    let (settings, alpn) = tls_server(dir.path(), "server.dc1.consul", &tasks).await;
    let get = |settings: Settings| async move {
        Client::new(settings, Metrics::new()).unwrap().get::<u8>(Api::CaRoots, "/v1/r", &[]).await
    };
    assert!(matches!(get(settings.clone()).await, Err(ConsulError::Unreachable { .. })), "127.0.0.1 is not its name");
    let named = Settings { server_name: Some("server.dc1.consul".into()), ..settings.clone() };
    assert_eq!(get(named.clone()).await.unwrap().value, 7);
    assert_eq!(alpn.lock().as_deref(), Some(&b"h2"[..]));
    let other = tempfile::tempdir().unwrap();
    let (foreign, _) = tls_server(other.path(), "server.dc1.consul", &tasks).await;
    assert!(get(Settings { ca_file: foreign.ca_file, ..named }).await.is_err(), "a foreign root is refused");
    assert_eq!(get(Settings { verify: false, ca_file: None, ..settings }).await.unwrap().value, 7);
}

#[test]
fn addresses_that_cannot_be_meant_are_refused_at_once() {
    let address = |text: &str| Address::parse(&Settings { address: text.into(), ..Settings::default() });
    assert_eq!(address("http://consul:8500/").unwrap().base, "http://consul:8500");
    assert_eq!(address("consul:8500").unwrap().base, "http://consul:8500");
    assert_eq!(address("http://[::1]:8500").unwrap().host, "[::1]");
    for bad in ["", "ftp://x", "http://", "http://u:p@x:1", "http://x/path", "http://x:1?q"] {
        assert!(matches!(address(bad), Err(ConsulError::Local(_))), "{bad:?} must be refused");
    }
    let settings =
        Settings { ca_file: Some("/nonexistent".into()), address: "https://x".into(), ..Settings::default() };
    assert!(matches!(Client::new(settings, Metrics::new()), Err(ConsulError::Local(_))));
}

#[test]
fn two_cuts_after_half_a_minute_make_queries_shorter_for_good() {
    let patience = Patience::default();
    let configured = Duration::from_secs(55);
    for (held, cut) in [(30, false), (3, true), (55, true), (30, true)] {
        patience.learn(Duration::from_secs(held), cut);
        assert_eq!(patience.hold(configured), configured);
    }
    patience.learn(Duration::from_secs(31), true);
    patience.learn(Duration::from_secs(20), false);
    assert_eq!(patience.hold(configured), Duration::from_secs(20));
    assert_eq!(patience.hold(Duration::from_secs(5)), Duration::from_secs(5));
}

#[tokio::test]
async fn a_call_that_gets_no_answer_ends_at_its_limit() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let world = World::new(vec![], |s| s.address = format!("http://{}", silent.local_addr().unwrap())).await;
    let begun = Instant::now();
    let limit = Duration::from_millis(300);
    let error = world.client.put::<Value>(Api::CheckUpdate, "/v1/x", &[], None, limit).await.unwrap_err();
    assert!(error.to_string().ends_with("the time was up"), "{error}");
    assert!(begun.elapsed() >= limit);
}

#[tokio::test]
async fn an_endless_answer_is_given_up_at_the_limit_of_its_size() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let world = World::new(vec![], |s| s.address = format!("http://{}", listener.local_addr().unwrap())).await;
    let flood = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        assert!(stream.read(&mut [0; 4096]).await.unwrap() > 0);
        stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await.unwrap();
        let chunk = [b"100000\r\n".to_vec(), vec![b' '; 1 << 20], b"\r\n".to_vec()].concat();
        while stream.write_all(&chunk).await.is_ok() {}
    };
    let get = world.client.get::<Value>(Api::CaRoots, "/v1/r", &[]);
    let (error, ()) = tokio::join!(async { get.await.unwrap_err() }, flood);
    assert!(matches!(error, ConsulError::Malformed { .. }), "{error}");
}
