//! The plugins that look at HTTP alone: their defaults are Kong's, and mistakes are found at their place.

use super::GOOD;
use super::gate::{assert_mistakes, plugin};
use crate::filter::Settings;
use crate::filter::correlation_id::Generator;
use crate::filter::cors::Origins;
use crate::filter::request_size_limiting::Settings as SizeLimit;
use crate::filter::request_termination::Says;

#[test]
fn defaults_are_kongs() {
    let Settings::Cors(cors) = plugin("cors", "") else { panic!("cors") };
    assert!(cors.origins == Origins::Any && cors.allow_origin_absent && !cors.credentials && !cors.preflight_continue);
    assert_eq!(cors.methods, "GET,HEAD,PUT,PATCH,POST,DELETE,OPTIONS,TRACE,CONNECT");
    assert_eq!((&cors.headers, &cors.exposed_headers, cors.max_age), (&None, &None, None));
    let Settings::CorrelationId(id) = plugin("correlation-id", "") else { panic!("correlation-id") };
    assert_eq!(
        (id.header_name.as_str(), id.generator, id.echo_downstream),
        ("kong-request-id", Generator::Counter, false)
    );
    let size = |config| plugin("request-size-limiting", config);
    let limit = |most| Settings::RequestSizeLimiting(SizeLimit { most, require_content_length: false });
    assert_eq!(size(""), limit(128 << 20));
    assert_eq!(size(", config: { allowed_payload_size: 3, size_unit: kilobytes }"), limit(3072));
    assert_eq!(size(", config: { allowed_payload_size: 3, size_unit: bytes }"), limit(3));
    let Settings::IpRestriction(ip) = plugin("ip-restriction", ", config: { deny: [10.0.0.1, \"fd00::/8\"] }") else {
        panic!("ip-restriction")
    };
    assert_eq!((ip.status.as_u16(), ip.deny[0].to_string(), ip.message), (403, "10.0.0.1/32".into(), None));
    let Settings::RequestTermination(end) = plugin("request-termination", "") else { panic!("termination") };
    assert_eq!((end.status.as_u16(), end.says, end.trigger), (503, Says::Message(None), None));
    let Settings::BotDetection(bots) = plugin("bot-detection", "") else { panic!("bot-detection") };
    assert!(bots.allow.is_empty() && bots.deny.is_empty());
}

#[test]
fn transformers_take_kongs_items() {
    let config = ", config: { http_method: PUT, remove: { headers: [X-A, \"x-b:ignored\"], querystring: [a] }, \
                  rename: { headers: [\"X-Old:X-New\"] }, \
                  replace: { headers: [\"Host: inner:81\", \"x-c:http://$(headers.x)/\"], uri: /v2/users }, \
                  add: { querystring: [\"b:1\"] }, append: { headers: [\"x-d:1\"] } }";
    let Settings::RequestTransformer(request) = plugin("request-transformer", config) else { panic!("request") };
    assert_eq!(request.http_method, Some(http::Method::PUT));
    assert_eq!(request.headers.remove, ["x-a", "x-b"]);
    assert_eq!((request.host.unwrap().as_str(), request.headers.replace.len()), ("inner:81", 1));
    assert_eq!(request.uri.unwrap().fixed(), Some("/v2/users"));
    assert_eq!((request.query.remove[0].as_str(), request.query.add[0].0.as_str()), ("a", "b"));
    let config =
        ", config: { remove: { headers: [Server, X-Powered-By] }, add: { headers: [\"x-frame-options:DENY\"] } }";
    let Settings::ResponseTransformer(response) = plugin("response-transformer", config) else { panic!("response") };
    assert_eq!(response.headers.remove, ["server", "x-powered-by"]);
    assert_eq!(response.headers.add[0].1, "DENY");
}

#[test]
fn without_http_only_addresses_can_be_judged() {
    let text = "service: { name: db, port: 1, protocol: tcp }\ninbound: { plugins: [{ name: ip-restriction, config: { deny: \
                [10.0.0.1] } }, { name: bot-detection }], routes: [{ name: a, match: { path: /x } }] }\n";
    let found = crate::config::tests::lines(text);
    let wanted = [
        "inbound.plugins[1].name: bot-detection looks at requests, and protocol: tcp has none; remove it",
        "inbound.routes: are about requests, and protocol: tcp has none; remove them",
    ];
    assert!(found.len() == 2 && found.iter().zip(wanted).all(|(found, wanted)| found.ends_with(wanted)), "{found:#?}");
}

/// A plugin's name and `config`, and its mistakes, from the key below `inbound.plugins[0]` on.
const MISTAKES: &[(&str, &str, &[&str])] = &[
    ("ip-restriction", "{}", &["config: has neither allow nor deny; add allow: [10.0.0.0/8]"]),
    ("ip-restriction", "{ allow: [10.0.0.0/33] }", &["config.allow[0]: \"10.0.0.0/33\" is no IP address or network"]),
    ("ip-restriction", "{ deny: [10.0.0.1], status: 200 }", &["config.status: must be a whole number from 400 to 599"]),
    (
        "bot-detection",
        "{ deny: [\"(\", ok, \"(?=x)\"] }",
        &["config.deny[0]: \"(\" is no expression", "config.deny[2]: \"(?=x)\" is no expression: look-around"],
    ),
    ("correlation-id", "{ header_name: \"a b\" }", &["config.header_name: \"a b\" is no name of a header"]),
    ("correlation-id", "{ header_name: X-Forwarded-For }", &["config.header_name: X-Forwarded-For is what the app"]),
    ("correlation-id", "{ generator: ulid }", &["config.generator: \"ulid\" is not known here"]),
    ("cors", "{ origins: [\"https://a.example\", \"https://(\"] }", &["config.origins[1]: \"https://(\" is no origin"]),
    (
        "cors",
        "{ methods: [get], max_age: -1 }",
        &["config.methods[0]: \"get\" is no method", "config.max_age: must be a whole number from 0"],
    ),
    (
        "request-size-limiting",
        "{ allowed_payload_size: 1.5, size_unit: gigabytes }",
        &["config.allowed_payload_size: must be a whole number", "config.size_unit: \"gigabytes\" is not known here"],
    ),
    (
        "request-termination",
        "{ body: x, message: y, echo: true }",
        &["config.message: stands beside body; keep one", "config.echo: stands beside body; keep one"],
    ),
    ("request-termination", "{ content_type: text/html }", &["config.content_type: is there, but there is no body"]),
    ("request-termination", "{ status_code: 100 }", &["config.status_code: must be a whole number from 200 to 599"]),
    (
        "request-transformer",
        "{ add: { body: [\"a:1\"] }, remove: { headers: [content-length] } }",
        &[
            "config.add.body: not supported yet: body; remove the key",
            "config.remove.headers[0]: content-length frames the message or ends at this hop",
        ],
    ),
    (
        "request-transformer",
        "{ add: { headers: [\"x-consumer-username:root\", \"host:x\", nocolon] }, rename: { headers: [\"x-a:X-Forwarded-For\"] }, replace: { headers: [\"host:a b\"], uri: /a/../b } }",
        &[
            "config.add.headers[0]: x-consumer-username is what the app believes of its caller",
            "config.add.headers[1]: host tells whom a request is for",
            "config.add.headers[2]: \"nocolon\" is not of the form name:value",
            "config.rename.headers[0]: X-Forwarded-For is what the app believes",
            "config.replace.headers[0]: \"a b\" is no host",
            "config.replace.uri: \"/a/../b\" is not in normal form; write /b",
        ],
    ),
    (
        "request-transformer",
        "{ http_method: HEAD, add: { querystring: [\"a:$(os.exit())\"] } }",
        &[
            "config.http_method: HEAD would give answers of another length",
            "config.add.querystring[0]: $(os.exit() is no template that is understood",
        ],
    ),
    (
        "response-transformer",
        "{ remove: { json: [a], headers: [x-outrigger-reason, Transfer-Encoding] }, replace: { headers: [\"host:x\"] } }",
        &[
            "config.remove.json: not supported yet: json; remove the key",
            "config.remove.headers[0]: x-outrigger-reason is outrigger's own word",
            "config.remove.headers[1]: Transfer-Encoding frames the message",
            "config.replace.headers[0]: host tells whom",
        ],
    ),
];

#[test]
fn mistakes_are_found() {
    for (name, config, wanted) in MISTAKES {
        let text = format!("{GOOD}inbound: {{ plugins: [{{ name: {name}, config: {config} }}] }}\n");
        assert_mistakes(&text, "inbound.plugins[0].", wanted);
    }
}
