//! Tests of `probe`: the verdicts as a pure function, the questions over real sockets.

use super::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

fn settings(method: Method, port: u16) -> Settings {
    Settings {
        method,
        address: "127.0.0.1".into(),
        port,
        interval: Duration::from_secs(5),
        timeout: Duration::from_secs(2),
        healthy_after: 1,
        unhealthy_after: 2,
    }
}

fn http(path: &str) -> Method {
    Method::Http { path: path.into(), prior_knowledge: false }
}

fn ill() -> Result<(), String> {
    Err("refused".into())
}

#[test]
fn it_takes_failures_in_a_row_to_turn_ill_and_answers_in_a_row_to_turn_well() {
    let settings = Settings { healthy_after: 2, unhealthy_after: 3, ..settings(Method::Tcp, 1) };
    let mut judge = Judge::default();
    let mut hear = |seen| judge.hear(seen, &settings);
    assert_eq!(hear(Ok(())), None);
    assert_eq!(hear(Ok(())), Some(AppHealth::Well));
    assert_eq!(hear(Ok(())), None, "said once");
    assert_eq!((hear(ill()), hear(ill()), hear(Ok(()))), (None, None, None), "not in a row");
    assert_eq!((hear(ill()), hear(ill())), (None, None));
    assert_eq!(hear(ill()), Some(AppHealth::Ill { why: "refused".into() }));
    assert_eq!(hear(ill()), None);
    assert_eq!((hear(Ok(())), hear(ill()), hear(Ok(()))), (None, None, None));
    assert_eq!(hear(Ok(())), Some(AppHealth::Well));
}

#[test]
fn an_app_that_never_answered_is_ill_in_the_end_and_asked_often() {
    let settings = settings(Method::Tcp, 1);
    let mut judge = Judge::default();
    assert_eq!(judge.pause(&settings), Duration::from_millis(250));
    assert_eq!(judge.hear(ill(), &settings), None);
    assert!(matches!(judge.hear(ill(), &settings), Some(AppHealth::Ill { .. })));
    for _ in 0..40 {
        judge.hear(ill(), &settings);
    }
    assert_eq!(judge.pause(&settings), Duration::from_secs(1), "not hammered with for ever");
    judge.hear(Ok(()), &settings);
    assert_eq!(judge.pause(&settings), settings.interval);
}

/// The contract's bound: critical within interval × unhealthy_after + 1 s, for a refused and for a hung app alike.
#[test]
fn the_verdict_comes_in_time_however_the_app_dies() {
    for (interval, timeout) in [(5.0, 2.0), (5.0, 5.0), (1.0, 2.0), (0.2, 0.1), (10.0, 1.0), (30.0, 10.0)] {
        for unhealthy_after in 1..6 {
            for hung in [false, true] {
                let settings = Settings {
                    interval: Duration::from_secs_f64(interval),
                    timeout: Duration::from_secs_f64(timeout),
                    unhealthy_after,
                    ..settings(Method::Tcp, 1)
                };
                let mut judge = Judge::default();
                judge.hear(Ok(()), &settings);
                // It dies right after a good answer.
                let cost = if hung { time_limit(&settings) } else { Duration::ZERO };
                let mut now = judge.pause(&settings);
                loop {
                    let (started, ended) = (now, now + cost);
                    if judge.hear(ill(), &settings).is_some() {
                        let bound = settings.interval * unhealthy_after + Duration::from_secs(1);
                        assert!(ended <= bound, "{ended:?} > {bound:?}: {settings:?}");
                        break;
                    }
                    now = ended.max(started + judge.pause(&settings));
                }
            }
        }
    }
}

/// An app that answers each connection with the same bytes.
async fn app(answer: &'static str) -> (u16, impl Future<Output = ()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let serve = async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = vec![0; 1024];
            let _ = stream.read(&mut head).await;
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    };
    (port, serve)
}

async fn seen_of(answer: &'static str, method: Method) -> Result<(), String> {
    let (port, serve) = app(answer).await;
    tokio::select! {
        seen = async { ask(&settings(method, port)).await } => seen,
        () = serve => unreachable!(),
    }
}

#[tokio::test]
async fn an_http_probe_takes_any_2xx_and_nothing_else() {
    assert_eq!(seen_of("HTTP/1.1 204 No Content\r\n\r\n", http("/healthz")).await, Ok(()));
    assert_eq!(seen_of("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", http("/")).await, Ok(()));
    let why = seen_of("HTTP/1.1 503 Busy\r\n\r\n", http("/healthz")).await.unwrap_err();
    assert_eq!(why, "GET /healthz was answered 503");
    assert!(seen_of("HTTP/1.1 302 Found\r\nlocation: /\r\n\r\n", http("/")).await.is_err());
    assert!(seen_of("garbage\r\n\r\n", http("/")).await.is_err());
    assert!(seen_of("", http("/")).await.is_err(), "closed without an answer");
}

#[tokio::test]
async fn a_refused_connection_is_ill_and_none_is_always_well() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    assert_eq!(ask(&settings(Method::Tcp, port)).await, Ok(()));
    drop(listener);
    assert!(ask(&settings(Method::Tcp, port)).await.unwrap_err().contains("refused"));
    assert_eq!(ask(&settings(Method::None, port)).await, Ok(()));
}

#[tokio::test]
async fn a_silent_app_is_given_up_at_the_time_limit() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let settings = Settings { timeout: Duration::from_millis(50), ..settings(http("/"), port) };
    assert_eq!(ask(&settings).await.unwrap_err(), "no answer within 50ms");
}

/// One HTTP/2 connection: answers one request with this status, body and gRPC status.
async fn grpc_app(listener: TcpListener, body: &'static [u8], grpc_status: &'static str) -> Vec<u8> {
    let (stream, _) = listener.accept().await.unwrap();
    let mut connection = h2::server::handshake(stream).await.unwrap();
    let (request, mut respond) = connection.accept().await.unwrap().unwrap();
    assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
    assert_eq!(
        (&request.headers()["content-type"], &request.headers()["te"]),
        (&"application/grpc".parse().unwrap(), &"trailers".parse().unwrap())
    );
    let mut asked = request.into_body();
    let exchange = async {
        let mut sent = Vec::new();
        while let Some(chunk) = asked.data().await {
            sent.extend_from_slice(&chunk.unwrap());
        }
        let mut stream = respond.send_response(Response::new(()), false).unwrap();
        stream.send_data(Bytes::from_static(body), false).unwrap();
        let mut trailers = http::HeaderMap::new();
        trailers.insert("grpc-status", grpc_status.parse().unwrap());
        stream.send_trailers(trailers).unwrap();
        sent
    };
    let mut sent = None;
    let mut exchange = std::pin::pin!(exchange);
    loop {
        tokio::select! {
            done = &mut exchange, if sent.is_none() => sent = Some(done),
            next = connection.accept() => if next.is_none_or(|next| next.is_err()) { return sent.unwrap_or_default() },
        }
    }
}

#[tokio::test]
async fn a_grpc_probe_asks_for_its_service_and_takes_serving_only() {
    for (body, status, wanted) in [
        (&b"\0\0\0\0\x02\x08\x01"[..], "0", Ok(())),
        (b"\0\0\0\0\x02\x08\x02", "0", Err("NOT_SERVING")),
        (b"\0\0\0\0\x00", "0", Err("serving status 0")),
        (b"\0\0\0\0\x02\x08\x01", "14", Err("the health check ended with gRPC status 14")),
        (b"", "5", Err("the health check ended with gRPC status 5")),
        (b"\x01\0\0\0\x02\x08\x01", "0", Err("the health check's answer is no HealthCheckResponse")),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let settings = settings(Method::Grpc("users.v1.Users".into()), listener.local_addr().unwrap().port());
        let (seen, sent) = tokio::join!(ask(&settings), grpc_app(listener, body, status));
        assert_eq!(seen, wanted.map_err(ToOwned::to_owned), "{body:?} {status}");
        assert_eq!(sent, b"\0\0\0\0\x10\x0a\x0eusers.v1.Users");
    }
}

#[test]
fn health_answers_are_read_to_the_letter() {
    let read = |bytes: &'static [u8]| serving_status(Bytes::from_static(bytes));
    assert_eq!(read(b"\0\0\0\0\x06\x12\x02hi\x08\x01"), Some(1), "unknown fields are skipped");
    for bad in [
        &b""[..],
        b"\0\0\0\0",
        b"\0\0\0\0\x03\x08\x01",
        b"\0\0\0\0\x02\x08\x81",
        b"\0\0\0\0\x02\x12\x7f",
        b"\0\0\0\0\x01\x0d",
    ] {
        assert_eq!(read(bad), None, "{bad:?}");
    }
    let long = grpc_request(&"x".repeat(300));
    assert_eq!(&long[..8], b"\0\0\0\x01\x2f\x0a\xac\x02");
}

#[tokio::test]
async fn changes_of_the_app_and_of_the_settings_are_followed() {
    let (port, serve) = app("HTTP/1.1 200 OK\r\n\r\n").await;
    let quick = Settings { interval: Duration::from_millis(20), ..settings(http("/"), port) };
    let published = Arc::new(Published::new(quick.clone()));
    let probe = Probe::new(published.clone());
    let mut health = probe.health();
    assert_eq!(*health.borrow(), AppHealth::Unknown);
    let story = async {
        health.wait_for(AppHealth::is_well).await.unwrap();
        // A reload points it at a port where nobody is.
        let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
        published.store(Settings { port: nobody, ..quick.clone() });
        health.wait_for(|health| matches!(health, AppHealth::Ill { .. })).await.unwrap();
        published.store(quick.clone());
        health.wait_for(AppHealth::is_well).await.unwrap();
    };
    tokio::select! {
        ended = tokio::time::timeout(Duration::from_secs(10), story) => ended.unwrap(),
        () = probe.run() => unreachable!(),
        () = serve => unreachable!(),
    }
}
