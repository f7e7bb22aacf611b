//! HTTP/2 as attackers speak it: floods, bombs, stalls and requests that would be others behind us. Each is cut or refused;
//! meanwhile others are served, memory is bounded, and the app sees nothing of it.

use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::front::Front;
use crate::support::h2raw::{
    CONTINUATION, DATA, END_HEADERS, Fate, GOAWAY, HEADERS, PADDED, PING, PRIORITY, RST_STREAM, Raw, SETTINGS,
    WINDOW_UPDATE, block, frame, headers, request, string,
};
use crate::support::{SOON, eventually, throughout};

const MIB: usize = 1024 * 1024;

fn odd_streams(count: u32) -> impl Iterator<Item = u32> {
    (0..count).map(|at| 2 * at + 1)
}

/// RST_STREAM with CANCEL.
fn reset(stream: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &8u32.to_be_bytes())
}

#[test]
fn requests_that_are_reset_at_once_are_cut_off() {
    let front = Front::start();
    let good = front.good_client();
    let mut attacker = Raw::to(front.address());
    let drained = attacker.drain();
    let hold = request("GET", "/hold", &[]);
    for stream in odd_streams(30_000) {
        if attacker.send(&[headers(stream, &hold, true), reset(stream)].concat()).is_err() {
            break;
        }
    }
    assert!(drained.join().unwrap(), "the connection is cut");
    good.assert_served();
    assert!(front.app.most_at_once() <= 256, "{} at once", front.app.most_at_once());
    assert!(front.app.seen("/hold") < 3_000, "{} reached the app", front.app.seen("/hold"));
    front.assert_grew_less_than(32);
    front.comes_to_rest();
}

#[test]
fn requests_that_are_reset_once_they_are_at_the_app_are_cut_off() {
    let front = Front::with(|users| users.set("inbound.limits", json!({ "h2_streams": 50 })));
    let good = front.good_client();
    let mut attacker = Raw::to(front.address());
    let drained = attacker.drain();
    let hold = request("GET", "/hold", &[]);
    let mut streams = odd_streams(30_000);
    let mut opened = 0;
    while opened < 30_000 {
        let some: Vec<u32> = streams.by_ref().take(50).collect();
        let before = front.app.seen("/hold");
        if attacker.send(&some.iter().flat_map(|stream| headers(*stream, &hold, true)).collect::<Vec<_>>()).is_err() {
            break;
        }
        opened += some.len();
        eventually(SOON, "they are at the app, or the connection is cut", || {
            (front.app.seen("/hold") >= before + some.len() || drained.is_finished()).then_some(())
        });
        if drained.is_finished()
            || attacker.send(&some.iter().flat_map(|stream| reset(*stream)).collect::<Vec<_>>()).is_err()
        {
            break;
        }
    }
    assert!(drained.join().unwrap(), "the connection is cut");
    assert!(opened < 10_000, "{opened}");
    front.wait_cut("reset_flood", 1.0);
    good.assert_served();
    front.comes_to_rest();
}

#[test]
fn a_client_that_gives_up_every_third_request_is_never_cut() {
    let front = Front::start();
    let mut client = Raw::to(front.address());
    let drained = client.drain();
    // Every third request is given up by its client.
    let (quick, hold) = (request("GET", "/", &[]), request("GET", "/hold", &[]));
    for (at, stream) in odd_streams(900).enumerate() {
        if at % 3 == 0 {
            let before = front.app.seen("/hold");
            client.send(&headers(stream, &hold, true)).unwrap();
            eventually(SOON, "it is at the app", || (front.app.seen("/hold") > before).then_some(()));
            client.send(&reset(stream)).unwrap();
        } else {
            client.send(&headers(stream, &quick, true)).unwrap();
        }
    }
    eventually(SOON, "all are answered", || (front.app.seen("/") > 600).then_some(()));
    assert!(!drained.is_finished());
    assert!(front.cut("reset_flood") < 0.5);
}

#[test]
fn streams_that_make_us_reset_them_are_cut_off() {
    type Fault = fn(u32) -> Vec<u8>;
    let faults: [(&str, Fault); 4] = [
        ("window +0", |stream| frame(WINDOW_UPDATE, 0, stream, &0u32.to_be_bytes())),
        ("window overflow", |stream| frame(WINDOW_UPDATE, 0, stream, &0x7fff_ffff_u32.to_be_bytes())),
        ("depends on itself", |stream| frame(PRIORITY, 0, stream, &[stream.to_be_bytes().as_slice(), &[0]].concat())),
        ("DATA after its end", |stream| frame(DATA, 0, stream, b"more")),
    ];
    for (what, fault) in faults {
        let front = Front::start();
        let good = front.good_client();
        let mut attacker = Raw::to(front.address());
        let drained = attacker.drain();
        let hold = request("GET", "/hold", &[]);
        let mut opened = 0;
        for stream in odd_streams(10_000) {
            opened += 1;
            if drained.is_finished() || attacker.send(&[headers(stream, &hold, true), fault(stream)].concat()).is_err()
            {
                break;
            }
        }
        good.assert_served();
        front.assert_grew_less_than(32);
        assert!(front.app.most_at_once() <= 300, "{what}: {} at once", front.app.most_at_once());
        assert!(front.app.seen("/hold") < 3_000, "{what}: {} of {opened} at the app", front.app.seen("/hold"));
        drop(attacker);
        let _ = drained.join();
        front.comes_to_rest();
    }
}

#[test]
fn endless_continuations_are_cut_off() {
    let front = Front::start();
    let good = front.good_client();
    for piece in [1024, 0] {
        let mut attacker = Raw::to(front.address());
        let drained = attacker.drain();
        let padding = block(&[(b"x-fill", &vec![b'x'; piece])]);
        attacker.send(&frame(HEADERS, 0, 1, &request("GET", "/hold", &[]))).unwrap();
        let filler = if piece == 0 { Vec::new() } else { padding };
        let sent = attacker.flood(&frame(CONTINUATION, 0, 1, &filler), 64 * MIB);
        assert!(drained.join().unwrap(), "the connection is cut");
        assert!(sent < 8 * MIB, "{sent} bytes of CONTINUATION were taken");
    }
    good.assert_served();
    front.assert_grew_less_than(16);
    assert_eq!(front.app.seen("/hold"), 0);
}

#[test]
fn frames_that_bring_nothing_are_cut_off() {
    let floods = [
        ("ping", frame(PING, 0, 0, &[7; 8])),
        ("settings", frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 100])),
        ("empty settings", frame(SETTINGS, 0, 0, &[])),
        ("priority", frame(PRIORITY, 0, 5, &[0, 0, 0, 3, 7])),
        ("window", frame(WINDOW_UPDATE, 0, 1, &1u32.to_be_bytes())),
        ("unknown", frame(0xee, 0, 0, b"grease")),
        ("empty data", frame(DATA, 0, 1, &[])),
    ];
    let front = Front::start();
    for (at, (what, bytes)) in floods.into_iter().enumerate() {
        let good = front.good_client();
        let mut attacker = Raw::to(front.address());
        let drained = attacker.drain();
        attacker.send(&headers(1, &request("POST", "/hold", &[]), false)).unwrap();
        let sent = attacker.flood(&bytes, 64 * MIB);
        assert!(drained.join().unwrap(), "{what}: the connection is cut");
        assert!(sent < 8 * MIB, "{what}: {sent} bytes were taken");
        good.assert_served();
        // Empty DATA may be too much for the protocol's own parser first.
        if what != "empty data" {
            front.wait_cut("frame_flood", at as f64 + 1.0);
        }
    }
    front.assert_grew_less_than(32);
    front.comes_to_rest();
}

#[test]
fn a_flood_whose_answers_are_not_read_is_bounded_too() {
    let front = Front::start();
    let good = front.good_client();
    let mut attackers = Vec::new();
    for bytes in [frame(PING, 0, 0, &[7; 8]), frame(SETTINGS, 0, 0, &[])] {
        let mut attacker = Raw::to(front.address());
        attackers.push(thread::spawn(move || {
            let sent = attacker.flood(&bytes, 16 * MIB);
            drop(attacker);
            sent
        }));
    }
    good.assert_served();
    front.assert_grew_less_than(16);
    for attacker in attackers {
        assert!(attacker.join().unwrap() < 16 * MIB);
    }
}

#[test]
fn padding_is_no_content() {
    let front = Front::start();
    let good = front.good_client();
    let mut attacker = Raw::to(front.address());
    let drained = attacker.drain();
    attacker.send(&headers(1, &request("POST", "/hold", &[]), false)).unwrap();
    eventually(SOON, "it is at the app", || (front.app.seen("/hold") == 1).then_some(()));
    let padded = frame(DATA, PADDED, 1, &[&[255u8][..], &[0; 255]].concat());
    for _ in 0..30_000 {
        if attacker.send(&padded).is_err() {
            break;
        }
    }
    good.assert_served();
    front.assert_grew_less_than(16);
    drop(attacker);
    let _ = drained.join();
    front.app.release();
    front.comes_to_rest();
}

#[test]
fn a_header_bomb_is_refused() {
    let front = Front::start();
    let good = front.good_client();
    let mut attacker = Raw::to(front.address());
    // Enters 4,000 bytes into the table (RFC 7541 §6.2.1), then names them 15,000 times (§6.1, index 62).
    let mut bomb = request("GET", "/bomb", &[]);
    bomb.push(0x40);
    string(&mut bomb, b"x-bomb");
    string(&mut bomb, &[b'x'; 4000]);
    bomb.extend_from_slice(&[0xbe; 10_000]);
    attacker.send(&headers(1, &bomb, true)).unwrap();
    let fate = attacker.fate(1);
    assert!(matches!(fate, Fate::Answered(431) | Fate::Reset | Fate::Ended), "{fate:?}");
    good.assert_served();
    front.assert_grew_less_than(16);
    assert_eq!(front.app.seen("/bomb"), 0);
}

#[test]
fn header_fields_are_counted_in_http2_too() {
    let front = Front::with(|users| users.set("inbound.limits", json!({ "headers": 50 })));
    let fields: Vec<(String, &str)> = (0..100).map(|at| (format!("x-{at}"), "1")).collect();
    let more: Vec<(&str, &str)> = fields.iter().map(|(name, value)| (name.as_str(), *value)).collect();
    let mut client = Raw::to(front.address());
    client.send(&headers(1, &request("GET", "/many", &more), true)).unwrap();
    assert_eq!(client.fate(1), Fate::Answered(431));
    client.send(&headers(3, &request("GET", "/many", &more[..30]), true)).unwrap();
    assert_eq!(client.fate(3), Fate::Answered(200));
    assert_eq!(front.app.seen("/many"), 1);
    front.users.wait_for_metric("outrigger_requests_total", &[("reason", "head_too_large")], 1.0);
}

#[test]
fn a_client_without_a_window_is_bounded_and_given_up() {
    let front = Front::start();
    let good = front.good_client();
    // SETTINGS_INITIAL_WINDOW_SIZE 0: no byte of an answer may be sent.
    let mut attacker = Raw::with_settings(front.address(), &[(4, 0)]);
    for stream in odd_streams(100) {
        attacker.send(&headers(stream, &request("GET", "/bytes/1048576", &[]), true)).unwrap();
    }
    eventually(SOON, "all are at the app", || (front.app.seen("/bytes/1048576") == 100).then_some(()));
    good.assert_served();
    front.assert_grew_less_than(64);
    drop(attacker);
    front.comes_to_rest();

    let front = Front::with(|users| users.set("inbound.timeouts", json!({ "idle": "2s", "head": "2s" })));
    let mut attacker = Raw::with_settings(front.address(), &[(4, 0)]);
    for stream in odd_streams(20) {
        attacker.send(&headers(stream, &request("GET", "/bytes/1048576", &[]), true)).unwrap();
    }
    attacker.until_closed();
    front.wait_cut("slow_reader", 1.0);
    front.comes_to_rest();
}

#[test]
fn a_head_that_does_not_end_is_given_up() {
    let front = Front::with(|users| users.set("inbound.timeouts", json!({ "head": "2s" })));
    let good = front.good_client();
    let unfinished = frame(HEADERS, 0, 3, &request("GET", "/never", &[]));
    let pieces: [(&str, Vec<u8>); 4] = [
        ("no END_HEADERS", unfinished.clone()),
        ("half a frame", headers(3, &request("GET", "/never", &[]), true)[..20].to_vec()),
        ("one byte", vec![0]),
        ("behind a request under way", [headers(1, &request("GET", "/hold", &[]), true), unfinished].concat()),
    ];
    let slow = pieces.map(|(what, bytes)| {
        let mut slow = Raw::to(front.address());
        slow.send(&bytes).unwrap();
        (what, slow)
    });
    for (what, mut slow) in slow {
        slow.until_closed();
        assert_eq!(front.app.seen("/never"), 0, "{what}");
    }
    front.wait_cut("slow_head", 4.0);
    good.assert_served();
    front.comes_to_rest();
}

#[test]
fn silence_before_or_after_the_preface_is_given_up() {
    let front = Front::with(|users| users.set("inbound.timeouts", json!({ "head": "2s" })));
    let mut nothing = crate::support::client::Connection::to(front.address()).unwrap();
    assert!(nothing.closed());
    let mut half = crate::support::client::Connection::to(front.address()).unwrap();
    half.write(b"PRI * HTTP/2.0\r\n").unwrap();
    assert!(half.closed());
    Raw::silent(front.address()).until_closed();
    front.wait_cut("slow_head", 3.0);
    // A client that has said what it must may be idle for longer.
    let mut idle = Raw::to(front.address());
    throughout(Duration::from_millis(2500), "it is not cut", || front.cut("slow_head") < 3.5);
    idle.send(&headers(1, &request("GET", "/", &[]), true)).unwrap();
    assert_eq!(idle.fate(1), Fate::Answered(200));
}

#[test]
fn a_frame_that_breaks_the_rules_ends_the_connection_and_nothing_else() {
    let front = Front::start();
    let good = front.good_client();
    let hold = request("GET", "/x", &[]);
    let faults: Vec<(&str, Vec<u8>)> = vec![
        ("stream 0", headers(0, &hold, true)),
        ("an even stream", headers(2, &hold, true)),
        ("backwards", [headers(5, &hold, true), headers(3, &hold, true)].concat()),
        ("DATA without a head", frame(DATA, 0, 1, b"x")),
        ("CONTINUATION without a head", frame(CONTINUATION, END_HEADERS, 1, b"x")),
        ("PING of 7 bytes", frame(PING, 0, 0, &[0; 7])),
        ("SETTINGS of 5 bytes", frame(SETTINGS, 0, 0, &[0; 5])),
        ("an acknowledgement with content", frame(SETTINGS, 1, 0, &[0; 6])),
        ("a window of 2^31", frame(SETTINGS, 0, 0, &[0, 4, 0x80, 0, 0, 0])),
        ("PUSH_PROMISE", frame(5, END_HEADERS, 1, &[0, 0, 0, 2])),
        ("too large a frame", frame(DATA, 0, 1, &vec![0; 20_000])),
        ("padding longer than its frame", frame(HEADERS, END_HEADERS | PADDED, 1, &[200, 1, 2])),
        ("no HPACK", headers(1, &[0xff; 40], true)),
        ("a frame amid a head", [frame(HEADERS, 0, 1, &hold), frame(PING, 0, 0, &[0; 8])].concat()),
    ];
    for (what, bytes) in faults {
        let mut attacker = Raw::to(front.address());
        attacker.send(&bytes).unwrap();
        let frames = attacker.until_closed();
        assert!(frames.iter().any(|frame| frame.kind == GOAWAY), "{what}: {frames:?}");
    }
    good.assert_served();
    front.comes_to_rest();
}

#[test]
fn more_requests_at_once_than_allowed_are_refused() {
    let front = Front::with(|users| users.set("inbound.limits", json!({ "h2_streams": 10 })));
    let mut attacker = Raw::to(front.address());
    for stream in odd_streams(100) {
        if attacker.send(&headers(stream, &request("GET", "/hold", &[]), true)).is_err() {
            break;
        }
    }
    eventually(SOON, "ten are at the app", || (front.app.seen("/hold") >= 10).then_some(()));
    assert_eq!(attacker.fate(199), Fate::Reset);
    assert_eq!(front.app.most_at_once(), 10);
    let log: Vec<Value> = front.users.access();
    assert!(log.len() <= 11, "{log:?}");
    front.app.release();
    front.comes_to_rest();
}
