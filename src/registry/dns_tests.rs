//! Tests of `dns` against a scripted DNS server that speaks TCP on a port of its own.

use std::str::FromStr;
use std::sync::Arc;

use hickory_resolver::proto::op::{Message, MessageType, Query, ResponseCode};
use hickory_resolver::proto::rr::Record;
use hickory_resolver::proto::rr::rdata::{A, AAAA, SRV};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::lifecycle::Lifecycle;

type Zone = dyn Fn(&str, RecordType) -> Answer + Send + Sync;

/// What the server says to one question.
#[derive(Default)]
struct Answer {
    code: Option<ResponseCode>,
    answers: Vec<Record>,
    additionals: Vec<Record>,
}

fn nothing() -> Answer {
    Answer { code: Some(ResponseCode::NXDomain), ..Answer::default() }
}

fn fails() -> Answer {
    Answer { code: Some(ResponseCode::ServFail), ..Answer::default() }
}

fn says(answers: Vec<Record>) -> Answer {
    Answer { answers, ..Answer::default() }
}

fn name(text: &str) -> Name {
    Name::from_str(text).unwrap()
}

fn a(owner: &str, ttl: u32, last: u8) -> Record {
    Record::from_rdata(name(owner), ttl, RData::A(A::new(10, 0, 0, last)))
}

fn aaaa(owner: &str, last: u16) -> Record {
    Record::from_rdata(name(owner), 0, RData::AAAA(AAAA::new(0xfd00, 0, 0, 0, 0, 0, 0, last)))
}

fn srv(owner: &str, priority: u16, weight: u16, port: u16, target: &str) -> Record {
    Record::from_rdata(name(owner), 0, RData::SRV(SRV::new(priority, weight, port, name(target))))
}

/// Serves `zone` until the returned group is dropped with the test's runtime.
async fn server(zone: impl Fn(&str, RecordType) -> Answer + Send + Sync + 'static) -> DnsSettings {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let settings = DnsSettings { servers: vec![listener.local_addr().unwrap()] };
    let zone: Arc<Zone> = Arc::new(zone);
    let group = Lifecycle::new();
    let inner = group.clone();
    group.spawn("dns-server", async move {
        while let Ok((stream, _)) = listener.accept().await {
            inner.spawn("dns-connection", serve(stream, zone.clone()));
        }
    });
    settings
}

async fn serve(mut stream: TcpStream, zone: Arc<Zone>) {
    // RFC 1035 §4.2.2: each message has its length before it.
    while let Ok(length) = stream.read_u16().await {
        let mut bytes = vec![0; length.into()];
        stream.read_exact(&mut bytes).await.unwrap();
        let mut message = Message::from_vec(&bytes).unwrap();
        let query: Query = message.queries[0].clone();
        let answer = zone(&query.name().to_ascii(), query.query_type());
        message.metadata.message_type = MessageType::Response;
        message.metadata.response_code = answer.code.unwrap_or(ResponseCode::NoError);
        message.additionals.clear();
        message.answers = answer.answers;
        message.additionals = answer.additionals;
        let bytes = message.to_vec().unwrap();
        stream.write_u16(u16::try_from(bytes.len()).unwrap()).await.unwrap();
        stream.write_all(&bytes).await.unwrap();
    }
}

fn watch(records: Records, settings: DnsSettings) -> DnsWatch {
    DnsWatch::new(&ServiceName::parse("orders").unwrap(), records, settings, Wire::Plain)
}

fn srv_watch(settings: DnsSettings) -> DnsWatch {
    watch(Records::Srv(vec!["orders.service.consul".into()]), settings)
}

async fn first(watch: &DnsWatch) -> Vec<(String, u32)> {
    let (_, listings) = watch.next(Mark::START).await.unwrap();
    listings.iter().map(|one| (one.address.to_string(), one.weight)).collect()
}

const SERVICE: &str = "orders.service.consul.";

#[tokio::test]
async fn srv_records_give_port_and_weight_and_their_addresses_come_along() {
    let settings = server(|_, kind| match kind {
        RecordType::SRV => Answer {
            answers: vec![srv(SERVICE, 1, 10, 81, "a.node.consul."), srv(SERVICE, 1, 0, 82, "b.node.consul.")],
            additionals: vec![a("a.node.consul.", 0, 1), aaaa("b.node.consul.", 2)],
            code: None,
        },
        _ => fails(),
    })
    .await;
    let watch = srv_watch(settings);
    assert_eq!(watch.describe(), "dns/orders");
    assert_eq!(first(&watch).await, [("10.0.0.1:81".into(), 10), ("[fd00::2]:82".into(), 1)]);
}

#[tokio::test]
async fn only_the_lowest_priority_counts_and_the_root_is_no_target() {
    let settings = server(|asked, kind| match (kind, asked) {
        (RecordType::SRV, _) => says(vec![
            srv(SERVICE, 5, 1, 80, "spare.example."),
            srv(SERVICE, 1, 1, 80, "main.example."),
            srv(SERVICE, 0, 1, 80, "."),
        ]),
        (RecordType::A, "main.example.") => says(vec![a("main.example.", 0, 1)]),
        (RecordType::A, "spare.example.") => says(vec![a("spare.example.", 0, 2)]),
        _ => nothing(),
    })
    .await;
    assert_eq!(first(&srv_watch(settings)).await, [("10.0.0.1:80".into(), 1)], "targets are looked up where they must");
}

#[tokio::test]
async fn a_target_without_address_is_left_out() {
    let settings = server(|asked, kind| match (kind, asked) {
        (RecordType::SRV, _) => says(vec![srv(SERVICE, 1, 1, 80, "x.example."), srv(SERVICE, 1, 1, 80, "y.example.")]),
        (RecordType::A, "y.example.") => says(vec![a("y.example.", 0, 1)]),
        _ => nothing(),
    })
    .await;
    assert_eq!(first(&srv_watch(settings)).await, [("10.0.0.1:80".into(), 1)]);
}

#[tokio::test]
async fn a_name_that_does_not_exist_is_an_empty_answer_and_a_failing_server_is_none() {
    let watch = srv_watch(server(|_, _| nothing()).await);
    assert_eq!(first(&watch).await, []);
    let watch = srv_watch(server(|_, _| fails()).await);
    assert!(matches!(watch.next(Mark::START).await, Err(RegistryError::Dns { .. })));
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let watch = srv_watch(DnsSettings { servers: vec![closed] });
    assert!(matches!(watch.next(Mark::START).await, Err(RegistryError::Dns { .. })));
}

#[tokio::test]
async fn both_address_families_are_endpoints_and_failing_aaaa_hides_no_a() {
    let hosts = || Records::Address(vec![("orders.example".into(), 80), ("10.9.9.9".into(), 81)]);
    let both = server(|asked, kind| match kind {
        RecordType::A => says(vec![a(asked, 0, 1), a(asked, 0, 2)]),
        _ => says(vec![aaaa(asked, 3)]),
    });
    let found: Vec<_> = first(&watch(hosts(), both.await)).await.into_iter().map(|(address, _)| address).collect();
    assert_eq!(found, ["10.0.0.1:80", "10.0.0.2:80", "[fd00::3]:80", "10.9.9.9:81"]);
    let only_a = server(|asked, kind| if kind == RecordType::A { says(vec![a(asked, 0, 1)]) } else { fails() });
    assert_eq!(first(&watch(hosts(), only_a.await)).await.len(), 2);
    let only_aaaa = server(|asked, kind| if kind == RecordType::A { fails() } else { says(vec![aaaa(asked, 3)]) });
    let alone = Records::Address(vec![("orders.example".into(), 80)]);
    assert!(watch(alone, only_aaaa.await).next(Mark::START).await.is_err(), "half an answer is none");
}

#[tokio::test]
async fn one_failing_name_of_several_keeps_its_endpoints() {
    let broken = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let switch = broken.clone();
    let settings = server(move |asked, kind| match (kind, asked) {
        (RecordType::A, "b.example.") if switch.load(std::sync::atomic::Ordering::Relaxed) => fails(),
        (RecordType::A, "a.example.") => says(vec![a(asked, 0, 1)]),
        (RecordType::A, _) => says(vec![a(asked, 0, 2)]),
        _ => nothing(),
    })
    .await;
    let watch = watch(Records::Address(vec![("a.example".into(), 80), ("b.example".into(), 80)]), settings);
    let before = first(&watch).await;
    assert_eq!(before.len(), 2);
    broken.store(true, std::sync::atomic::Ordering::Relaxed);
    assert_eq!(first(&watch).await, before);
}

#[test]
fn the_time_until_the_next_question_is_bounded() {
    assert_eq!(ttl([0, 300].into_iter()), Duration::from_secs(1));
    assert_eq!(ttl([300, 7].into_iter()), Duration::from_secs(7));
    assert_eq!(ttl([86_400].into_iter()), Duration::from_mins(1));
    assert_eq!(ttl(std::iter::empty()), Duration::from_secs(1));
}

#[tokio::test]
async fn a_ttl_of_zero_is_asked_again_after_a_second() {
    let settings =
        server(|asked, kind| if kind == RecordType::A { says(vec![a(asked, 0, 1)]) } else { nothing() }).await;
    let watch = watch(Records::Address(vec![("orders.example".into(), 80)]), settings);
    let (mark, _) = watch.next(Mark::START).await.unwrap();
    let before = Instant::now();
    let (next, _) = watch.next(mark).await.unwrap();
    let waited = before.elapsed();
    assert!(waited >= Duration::from_millis(990) && waited < Duration::from_secs(3), "{waited:?}");
    assert!(next > mark);
}

#[test]
fn names_with_a_dot_are_whole_and_single_labels_are_not() {
    assert!(absolute("orders.service.consul").unwrap().is_fqdn());
    assert!(absolute("orders.").unwrap().is_fqdn());
    assert!(!absolute("orders").unwrap().is_fqdn());
    assert!(absolute("two..dots").is_err());
}

#[tokio::test]
async fn literals_and_localhost_need_no_dns() {
    let ips = |found: io::Result<Vec<SocketAddr>>| found.unwrap().iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(ips(resolve("127.0.0.1", 80).await), ["127.0.0.1:80"]);
    assert_eq!(ips(resolve("[::1]", 80).await), ["[::1]:80"]);
    assert_eq!(ips(resolve("::1", 80).await), ["[::1]:80"]);
    assert_eq!(ips(resolve("localhost", 80).await)[0], "127.0.0.1:80");
    assert_eq!(host_addresses("localhost").await.unwrap(), ["127.0.0.1".parse::<IpAddr>().unwrap()]);
    let unknown = resolve("nowhere.invalid", 80).await.unwrap_err();
    assert_eq!(unknown.kind(), io::ErrorKind::NotFound, "{unknown}");
}
