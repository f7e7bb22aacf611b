//! Who may connect: strict mTLS, what is refused and how it is told, and rotation without a lost request.

use std::os::unix::fs::symlink;

use serde_json::json;

use crate::support::certs::{Authority, Leaf, openssl_get};
use crate::support::{App, Ask, Consul, Load, Pair, SOON, Sidecar, eventually, peers};

#[test]
fn a_good_certificate_is_let_in() {
    let pair = Pair::start();
    let said = openssl_get(pair.users.inbound(), Some(&pair.authority.leaf("web")), &[]);
    assert!(said.contains("HTTP/1.1 200") && said.contains("users-1"), "{said}");
    assert!(said.contains("TLSv1.3"), "{said}");
    let old = openssl_get(pair.users.inbound(), Some(&pair.authority.leaf("web")), &["-tls1_2"]);
    assert!(old.contains("HTTP/1.1 200") && old.contains("TLSv1.2"), "{old}");
    pair.users.wait_for_metric("outrigger_handshakes_total", &[("outcome", "accepted")], 2.0);
}

#[test]
fn each_bad_peer_is_refused_counted_by_kind_and_logged_with_its_address() {
    let pair = Pair::start();
    // Its files live as long as it does.
    let stranger = Authority::new("mesh.test");
    let foreign = stranger.leaf("web");
    let expired = pair.authority.expired_leaf("web");
    let cases: [(&str, Option<&Leaf>); 3] =
        [("no_certificate", None), ("expired", Some(&expired)), ("foreign_root", Some(&foreign))];
    let before = pair.app.seen("/");
    for (outcome, leaf) in cases {
        let said = openssl_get(pair.users.inbound(), leaf, &[]);
        assert!(!said.contains("HTTP/1.1 200"), "{outcome}: {said}");
        pair.users.wait_for_metric("outrigger_handshakes_total", &[("outcome", outcome)], 1.0);
        pair.users.process.wait_for_log(SOON, outcome);
    }
    assert!(Ask::get("/").host("users").try_send(pair.users.inbound()).map_or(true, |answer| answer.status != 200));
    pair.users.wait_for_metric("outrigger_handshakes_total", &[("outcome", "plain_text")], 1.0);
    assert!(pair.users.process.log().contains("127.0.0.1:"), "the peer's address is told");
    assert_eq!(pair.app.seen("/"), before);
    assert_eq!(pair.get("/").status, 200);
}

#[test]
fn a_caller_of_another_trust_domain_is_refused_under_the_same_root() {
    let pair = Pair::start();
    for (count, uri) in ["spiffe://other.test/ns/default/dc/dc1/svc/web", "https://mesh.test/web"].iter().enumerate() {
        let said = openssl_get(pair.users.inbound(), Some(&pair.authority.leaf_of(uri)), &[]);
        assert!(!said.contains("HTTP/1.1 200"), "{uri}: {said}");
        let least = f64::from(u32::try_from(count).unwrap()) + 1.0;
        pair.users.wait_for_metric("outrigger_handshakes_total", &[("outcome", "wrong_name")], least);
    }
}

#[test]
fn a_server_that_is_not_the_service_that_was_asked_for_is_wrong_peer() {
    let pair = Pair::start();
    // `orders` in the registry, but the certificate behind it says `users`.
    let mut body = json!({ "ID": "orders-1", "Name": "orders", "Address": "127.0.0.1", "Connect": { "Native": true } });
    body["Port"] = json!(pair.users.inbound().port());
    pair.registry.agent().register(&body);
    let web = crate::support::pair::sidecar("web", pair.registry.agent(), &pair.authority);
    let web = web.upstream("orders", json!({})).start();
    let answer = Ask::get("/").host("orders").send(web.outbound());
    answer.assert_reason(502, "wrong_peer");
    assert!(!answer.text().contains("127.0.0.1"), "no inner address to the client: {}", answer.text());
    let line = web.access_of(answer.header("x-request-id"));
    assert_eq!(line["reason"], "wrong_peer");
    assert!(line["detail"].as_str().is_some_and(|detail| detail.contains("users")), "{line}");
    web.wait_for_metric("outrigger_upstream_attempts_total", &[("outcome", "wrong_peer")], 1.0);
}

#[test]
fn permissive_takes_plain_text_too_and_off_takes_only_that() {
    let permissive = Pair::with(|users| users.set("inbound.mtls", json!("permissive")), |web| web);
    assert_eq!(permissive.get("/").app(), "users-1");
    assert_eq!(Ask::get("/").host("x").send(permissive.users.inbound()).app(), "users-1");
    permissive.users.wait_for_metric("outrigger_handshakes_total", &[("outcome", "plain_text")], 1.0);
    let off = Pair::with(
        |users| users.set("inbound.mtls", json!("off")),
        |web| web.set("outbound.upstreams", json!([{ "service": "users", "mtls": "off" }])),
    );
    assert_eq!(off.get("/").app(), "users-1");
    assert_eq!(Ask::get("/").host("x").send(off.users.inbound()).app(), "users-1");
}

#[test]
fn consuls_root_rotates_under_load_without_a_lost_request() {
    let consul = Consul::start();
    let app = App::start("users-1");
    let users = Sidecar::of("users").consul(consul.agent()).app(&app).start();
    let web = Sidecar::of("web").consul(consul.agent()).upstream("users", json!({})).start();
    consul.agent().wait_for("users", users.id(), "passing");
    peers::wait_for_app(web.upstream("users"), "/", "users-1");
    let before = [web.serial(), users.serial()];
    let load = Load::start(4, web.outbound(), &Ask::get("/").host("users"));
    load.after(200);
    consul.rotate_root();
    // Consul hands out the new leaves within 20 s, at a random moment (consul: CA rotation).
    eventually(std::time::Duration::from_secs(45), "both hold a leaf of the new root", || {
        (web.serial() != before[0] && users.serial() != before[1]).then_some(())
    });
    load.after(500);
    load.stop().assert_none_lost();
    assert!(web.metric("outrigger_certificate_expiry_timestamp_seconds", &[("kind", "leaf")]) > 1.7e9);
}

#[test]
fn files_are_swapped_by_symlink_without_a_lost_request() {
    let first = Authority::new("mesh.test");
    let folder = tempfile::tempdir().unwrap();
    let deliver = |leaf: &Leaf, roots: &str, at: &str| {
        let home = folder.path().join(at);
        std::fs::create_dir(&home).unwrap();
        std::fs::copy(&leaf.cert, home.join("tls.crt")).unwrap();
        std::fs::copy(&leaf.key, home.join("tls.key")).unwrap();
        std::fs::write(home.join("ca.crt"), roots).unwrap();
        // As a kubelet does: a new folder, then `..data` swapped by rename.
        symlink(at, folder.path().join("..data.new")).unwrap();
        std::fs::rename(folder.path().join("..data.new"), folder.path().join("..data")).unwrap();
    };
    deliver(&first.leaf("users"), first.root(), "..first");
    for name in ["tls.crt", "tls.key", "ca.crt"] {
        symlink(format!("..data/{name}"), folder.path().join(name)).unwrap();
    }
    let files = json!({ "files": { "cert": folder.path().join("tls.crt"), "key": folder.path().join("tls.key"),
                                   "roots": folder.path().join("ca.crt") } });
    let registry = crate::support::Embedded::start();
    let app = App::start("users-1");
    let users = Sidecar::of("users").consul(registry.agent()).app(&app).set("identity", files).start();
    registry.agent().wait_for("users", users.id(), "passing");
    let web = crate::support::pair::sidecar("web", registry.agent(), &first).upstream("users", json!({})).start();
    let load = Load::start(4, web.outbound(), &Ask::get("/").host("users"));
    load.after(200);
    let before = users.serial();
    deliver(&first.leaf("users"), first.root(), "..second");
    eventually(SOON, "the new leaf is in use", || (users.serial() != before).then_some(()));
    load.after(200);
    load.stop().assert_none_lost();
    // What is worse than what we have is never installed.
    let good = users.serial();
    deliver(&first.expired_leaf("users"), first.root(), "..expired");
    users.process.wait_for_log(SOON, "what is installed stays");
    assert_eq!(users.serial(), good);
}

#[test]
fn a_development_ca_serves_a_mesh() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("certs");
    let (code, said) = crate::support::sidecar::outrigger(&["ca", "init", dir.to_str().unwrap()]);
    assert_eq!(code, Some(0), "{said}");
    let identity = json!({ "ca": { "dir": dir } });
    let registry = crate::support::Embedded::start();
    let app = App::start("users-1");
    let users = Sidecar::of("users").consul(registry.agent()).app(&app).set("identity", identity.clone()).start();
    registry.agent().wait_for("users", users.id(), "passing");
    let web = Sidecar::of("web").consul(registry.agent()).set("identity", identity).upstream("users", json!({}));
    let web = web.start();
    assert_eq!(Ask::get("/").host("users").send(web.outbound()).app(), "users-1");
    users.wait_for_metric("outrigger_handshakes_total", &[("direction", "inbound"), ("outcome", "accepted")], 1.0);
}
