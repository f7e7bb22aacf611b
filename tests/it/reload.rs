//! A changed config: swapped in whole under load; a bad one is refused, told and counted, and the old one stays.

use serde_json::{Value, json};

use crate::support::{Ask, Load, Pair, SOON, eventually};

fn add_orders(config: &mut Value) {
    let upstream = json!({ "service": "orders", "mtls": "off", "endpoints": ["127.0.0.1:9"] });
    config["outbound"]["upstreams"].as_array_mut().unwrap().push(upstream);
}

fn reason_of_orders(pair: &Pair) -> String {
    Ask::get("/").host("orders").send(pair.web.outbound()).reason().to_owned()
}

#[test]
fn a_changed_file_is_swapped_in_without_a_lost_request() {
    let pair = Pair::start();
    assert_eq!(reason_of_orders(&pair), "unknown_service");
    let load = Load::start(4, pair.web.outbound(), &Ask::get("/").host("users"));
    load.after(100);
    pair.web.rewrite(add_orders);
    eventually(SOON, "the new upstream is known", || (reason_of_orders(&pair) == "connect_failed").then_some(()));
    load.after(100);
    load.stop().assert_none_lost();
    pair.web.wait_for_metric("outrigger_config_reloads_total", &[("outcome", "applied")], 1.0);
    let shown = Ask::get("/config").host("localhost").send(pair.web.admin()).text();
    assert!(shown.contains("orders"), "{shown}");
}

#[test]
fn sighup_reloads_and_a_removed_upstream_is_unknown() {
    let pair = Pair::with(|users| users, |web| web.upstream("orders", json!({ "endpoints": ["127.0.0.1:9"] })));
    pair.web.rewrite(|config| {
        config["outbound"]["upstreams"].as_array_mut().unwrap().retain(|upstream| upstream["service"] == "users");
    });
    pair.web.process.signal("HUP");
    eventually(SOON, "the upstream is gone", || (reason_of_orders(&pair) == "unknown_service").then_some(()));
    assert_eq!(pair.get("/").status, 200);
}

#[test]
fn a_bad_file_is_refused_told_and_counted() {
    let pair = Pair::start();
    pair.web.rewrite_text("service: { name: web, port: 9 }\noutbound: { upstreamz: [] }\n");
    pair.web.process.signal("HUP");
    pair.web.wait_for_metric("outrigger_config_reloads_total", &[("outcome", "refused")], 1.0);
    pair.web.process.wait_for_log(SOON, "upstreamz");
    assert_eq!(pair.get("/").status, 200);
    // Mended again, it is taken.
    pair.web.rewrite(add_orders);
    eventually(SOON, "the mended file is taken", || (reason_of_orders(&pair) != "unknown_service").then_some(()));
}

#[test]
fn what_needs_a_restart_is_refused_by_name() {
    let pair = Pair::start();
    let other = format!("127.0.0.1:{}", crate::support::fixed_port());
    pair.web.rewrite(|config| config["outbound"]["listen"] = json!(other));
    pair.web.wait_for_metric("outrigger_config_reloads_total", &[("outcome", "refused")], 1.0);
    pair.web.process.wait_for_log(SOON, "outbound.listen");
    assert_eq!(pair.get("/").status, 200);
}

#[test]
fn reload_can_be_asked_for_at_admin() {
    let pair = Pair::start();
    let reload = || Ask::new("POST", "/reload").host("localhost").body("").send(pair.web.admin());
    assert_eq!(reload().status, 200);
    pair.web.rewrite_text("service: [\n");
    let refused = reload();
    assert!((400..500).contains(&refused.status), "{refused:?}");
}
