//! Crowds and sluggards: whoever is slow is dropped in time, whoever takes all leaves room for others, and accepting goes on
//! whatever happens.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::client::Connection;
use crate::support::front::{Front, connect_from};
use crate::support::pair::sidecar;
use crate::support::tcp::{connect, reset};
use crate::support::{Ask, Consul, SOON, eventually};

const MIB: usize = 1024 * 1024;

#[test]
fn a_crowd_of_slow_heads_is_dropped_in_time_while_others_are_served() {
    let front = Front::with(|users| users.set("inbound.timeouts", json!({ "head": "3s" })));
    let mut crowd: Vec<TcpStream> = (0..500).map(|_| connect(front.address())).collect();
    for slow in &mut crowd {
        slow.write_all(b"GET / HTTP/1.1\r\nHost: us").unwrap();
    }
    let good = front.good_client();
    for slow in &mut crowd {
        // A byte now and then buys no time.
        let _ = slow.write_all(b"e");
    }
    front.assert_grew_less_than(32);
    for slow in &mut crowd {
        let mut answer = String::new();
        let _ = slow.read_to_string(&mut answer);
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408 "), "{answer}");
    }
    good.assert_served();
    front.wait_cut("slow_head", 500.0);
    front.users.wait_for_metric("outrigger_requests_total", &[("reason", "request_timeout")], 500.0);
}

#[test]
fn those_who_connect_and_say_nothing_are_dropped_in_time() {
    let front = Front::with(|users| users.set("inbound.timeouts", json!({ "head": "2s" })));
    let mut crowd: Vec<Connection> = (0..200).map(|_| Connection::to(front.address()).unwrap()).collect();
    let good = front.good_client();
    assert!(crowd.iter_mut().all(Connection::closed));
    good.assert_served();
    front.assert_grew_less_than(16);
}

#[test]
fn a_body_that_stalls_is_given_up() {
    let front = Front::with(|users| users.set("inbound.timeouts", json!({ "body_idle": "300ms" })));
    for head in ["Content-Length: 100\r\n\r\nsome", "Transfer-Encoding: chunked\r\n\r\n5\r\nso"] {
        let mut slow = Connection::to(front.address()).unwrap();
        slow.write(format!("POST /echo HTTP/1.1\r\nHost: users\r\n{head}").as_bytes()).unwrap();
        let answer = slow.read("POST").unwrap();
        assert_eq!((answer.status, answer.reason()), (408, "request_timeout"), "{answer:?}");
        assert!(slow.closed(), "where the next request begins is not known");
    }
    front.comes_to_rest();
}

#[test]
fn a_handshake_that_stalls_is_given_up() {
    let front = Front::with(|users| {
        users.set("inbound.mtls", json!("permissive")).set("inbound.timeouts", json!({ "handshake": "500ms" }))
    });
    // A record's beginning, and the beginning of a ClientHello.
    for bytes in [&[22u8][..], &[22, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3]] {
        let mut slow = Connection::to(front.address()).unwrap();
        slow.write(bytes).unwrap();
        assert!(slow.closed());
    }
    front.users.wait_for_metric("outrigger_handshakes_total", &[("outcome", "timed_out")], 2.0);
}

#[test]
fn a_kept_connection_is_closed_when_it_was_idle_too_long() {
    let front = Front::with(|users| users.set("inbound.timeouts", json!({ "idle": "2s" })));
    let mut kept = Connection::to(front.address()).unwrap();
    for _ in 0..3 {
        assert_eq!(kept.ask(&Ask::get("/").host("users")).unwrap().status, 200);
    }
    let start = Instant::now();
    assert!(kept.closed());
    assert!(start.elapsed() < Duration::from_secs(10), "after {:?}", start.elapsed());
    eventually(SOON, "no connection is left", || {
        (front.users.metric("outrigger_connections", &[("direction", "inbound")]) < 0.5).then_some(())
    });
}

#[test]
fn half_closed_connections_end() {
    let front = Front::start();
    for bytes in [
        &b""[..],
        b"GET",
        b"GET / HTTP/1.1\r\nHost: us",
        b"PRI * HT",
        b"POST /echo HTTP/1.1\r\nHost: users\r\nContent-Length: 9\r\n\r\nab",
    ] {
        let mut half = Connection::to(front.address()).unwrap();
        half.write(bytes).unwrap();
        half.socket().shutdown(Shutdown::Write).unwrap();
        let start = Instant::now();
        assert!(half.closed(), "{}", String::from_utf8_lossy(bytes));
        assert!(start.elapsed() < SOON, "after {:?}", start.elapsed());
    }
    front.comes_to_rest();
    eventually(SOON, "no connection is left", || {
        (front.users.metric("outrigger_connections", &[("direction", "inbound")]) < 0.5).then_some(())
    });
}

#[test]
fn a_reader_that_stalls_stops_the_writer_and_is_given_up() {
    let front = Front::with(|users| users.set("inbound.timeouts", json!({ "idle": "2s", "head": "2s" })));
    let good = front.good_client();
    let mut slow: Vec<TcpStream> = (0..4).map(|_| connect(front.address())).collect();
    for slow in &mut slow {
        slow.write_all(b"GET /bytes/200000000 HTTP/1.1\r\nHost: users\r\n\r\n").unwrap();
    }
    front.wait_cut("slow_reader", 4.0);
    front.assert_grew_less_than(32);
    good.assert_served();
    // Its answer was cut: a part is not taken for the whole.
    for slow in &mut slow {
        let mut taken = Vec::new();
        let _ = slow.read_to_end(&mut taken);
        assert!(taken.len() < 150_000_000, "{}", taken.len());
    }
    front.comes_to_rest();
}

#[test]
fn a_reader_that_goes_on_slowly_is_served_to_the_end() {
    let front = Front::with(|users| users.set("inbound.timeouts", json!({ "idle": "3s", "head": "3s" })));
    let mut slow = connect(front.address());
    slow.write_all(b"GET /bytes/20000000 HTTP/1.1\r\nHost: users\r\nConnection: close\r\n\r\n").unwrap();
    let (mut taken, mut piece) = (0, vec![0; MIB / 8]);
    loop {
        let read = slow.read(&mut piece).unwrap();
        if read == 0 {
            break;
        }
        taken += read;
        // Slower than the limit only in all.
        std::thread::sleep(Duration::from_millis(25));
    }
    assert!(taken > 20_000_000, "{taken}");
    assert!(front.cut("slow_reader") < 0.5);
}

#[test]
fn an_app_that_does_not_read_stops_the_client() {
    // Takes connections, and never a byte.
    let app = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = app.local_addr().unwrap().port();
    let front = Front::start();
    let users = sidecar("users", front.registry.agent(), &front.authority)
        .set("inbound.mtls", json!("off"))
        .set("service.port", json!(port))
        .start();
    let before = users.process.memory();
    for chunked in [false, true] {
        let mut client = connect(users.inbound());
        client.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
        let framing = if chunked { "Transfer-Encoding: chunked" } else { "Content-Length: 1000000000" };
        client.write_all(format!("POST / HTTP/1.1\r\nHost: users\r\n{framing}\r\n\r\n").as_bytes()).unwrap();
        let mut piece = vec![b'x'; MIB];
        if chunked {
            let size = format!("{:x}\r\n", MIB - 9);
            piece.splice(..size.len(), size.bytes());
            let end = piece.len() - 2;
            piece[end..].copy_from_slice(b"\r\n");
        }
        let mut sent = 0;
        while sent < 300 * MIB && client.write_all(&piece).is_ok() {
            sent += MIB;
        }
        // What the kernel's buffers of three sockets hold.
        assert!(sent < 64 * MIB, "{sent} bytes were taken for an app that reads none");
    }
    let grown = users.process.memory().saturating_sub(before) / MIB as u64;
    assert!(grown < 32, "{grown} MiB");
}

#[test]
fn no_address_takes_all_places() {
    let front = Front::with(|users| users.set("inbound.limits", json!({ "connections": 64 })));
    let ask = Ask::get("/").host("users");
    // The probe of the test itself is gone; what it takes afterwards counts.
    let mut greedy = Vec::new();
    let refused = loop {
        let mut one = connect_from([127, 0, 0, 1], front.address()).unwrap();
        let answer = one.ask(&ask).unwrap();
        if answer.status == 503 {
            break answer;
        }
        assert_eq!(answer.status, 200);
        greedy.push(one);
        assert!(greedy.len() <= 64, "one address has all places");
    };
    assert_eq!((greedy.len(), refused.reason()), (48, "overloaded"), "{refused:?}");
    assert!(refused.has("retry-after"), "{refused:?}");
    let mut others = Vec::new();
    for at in 2..18 {
        let mut other = connect_from([127, 0, 0, at], front.address()).unwrap();
        assert_eq!(other.ask(&ask).unwrap().status, 200, "127.0.0.{at}");
        others.push(other);
    }
    let mut last = connect_from([127, 0, 0, 99], front.address()).unwrap();
    assert_eq!(last.ask(&ask).unwrap().status, 503, "the cap itself");
    assert!(front.cut("over_share") >= 1.0 && front.cut("over_cap") >= 1.0);
    // Places that are left are taken again.
    drop((greedy, others));
    eventually(SOON, "there is room again", || {
        let again = connect_from([127, 0, 0, 1], front.address()).and_then(|mut one| one.ask(&ask));
        again.is_ok_and(|answer| answer.status == 200).then_some(())
    });
}

#[test]
fn accepting_goes_on_after_a_crowd_that_connects_and_leaves() {
    let front = Front::start();
    for at in 0..1000 {
        let socket = connect(front.address());
        if at % 2 == 0 {
            reset(&socket).unwrap();
        }
    }
    assert_eq!(Ask::get("/").host("users").send(front.address()).status, 200);
    front.assert_grew_less_than(16);
}

#[test]
fn accepting_goes_on_after_the_last_open_file() {
    let front = Front::with(|users| users.open_files("-n 64"));
    front.users.process.wait_for_log(SOON, "fewer files may be open");
    let crowd: Vec<TcpStream> = (0..200).map(|_| connect(front.address())).collect();
    front.users.process.wait_for_log(SOON, "accepting fails");
    drop(crowd);
    eventually(SOON, "requests are served again", || {
        let answer = Ask::get("/").host("users").try_send(front.address());
        answer.is_ok_and(|answer| answer.status == 200).then_some(())
    });
}

#[test]
fn we_may_open_more_files_than_the_shell_allows_and_the_child_may_not() {
    let front = Front::with(|users| {
        users.open_files("-Sn 300").command(&["sh", "-c", "echo child: $(ulimit -Sn); exec sleep 600"])
    });
    front.users.process.wait_for_log(SOON, "child: 300");
    let crowd: Vec<Connection> = (0..400).map(|_| Connection::to(front.address()).unwrap()).collect();
    assert_eq!(Ask::get("/").host("users").send(front.address()).status, 200);
    drop(crowd);
}

#[test]
fn admin_answers_no_page_of_another_site() {
    let front = Front::start();
    let admin = front.users.admin();
    assert!(admin.ip().is_loopback());
    let port = admin.port();
    let paths =
        ["/", "/livez", "/readyz", "/config", "/endpoints", "/certs", "/topology", "/metrics", "/app.js", "/none"];
    let sights = paths.iter().map(|path| ("GET", *path));
    let wishes = ["/drain", "/reload", "/quit"].iter().flat_map(|path| [("POST", *path), ("GET", *path)]);
    for (method, path) in sights.chain(wishes) {
        // DNS rebinding: a name of the attacker's that leads to us.
        for host in ["evil.example", &format!("evil.example:{port}"), "10.0.0.7", "localhost.evil.example", "0.0.0.0"] {
            let answer = Ask::new(method, path).host(host).send(admin);
            assert_eq!(answer.status, 403, "{method} {path} as {host}: {answer:?}");
        }
        for origin in ["http://evil.example", "null", "http://localhost:1", "https://localhost"] {
            let ask = Ask::new(method, path).host("localhost").header("Origin", origin);
            assert_eq!(ask.send(admin).status, 403, "{method} {path} from {origin}");
        }
        let ask = Ask::new(method, path).host("localhost").header("Sec-Fetch-Site", "cross-site");
        assert_eq!(ask.send(admin).status, 403, "{method} {path} cross-site");
    }
    let mut users = front.users;
    assert!(users.process.alive(), "no forged command was obeyed");
    assert_eq!(Ask::get("/readyz").host("localhost").send(users.admin()).status, 200);
}

#[test]
fn a_killed_sidecar_is_no_zombie() {
    let (consul, front) = (Consul::start(), Front::start());
    let users = sidecar("users", consul.agent(), &front.authority).app(&front.app).start();
    consul.agent().wait_for("users", users.id(), "passing");
    let id = users.id().to_owned();
    let mut users = users;
    users.process.kill();
    eventually(Duration::from_secs(10), "it is no longer passing within its TTL", || {
        (consul.agent().status_of("users", &id).as_deref() != Some("passing")).then_some(())
    });
    let users = users.restart();
    assert_eq!(users.id(), id);
    consul.agent().wait_for("users", &id, "passing");
    assert_eq!(consul.agent().instances("users").len(), 1);
}
