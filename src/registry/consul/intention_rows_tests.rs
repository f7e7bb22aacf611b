//! Tests of how rows are read: what 1.8 and what newer Consuls write, and what neither should.

use serde_json::json;

use super::*;

fn read(more: &Value) -> Intention {
    let mut row = json!({
        "ID": "284c", "Description": "", "SourceNS": "default", "SourceName": "web", "DestinationNS": "default",
        "DestinationName": "users", "SourceType": "consul", "Action": "allow", "DefaultAddr": "", "DefaultPort": 0,
        "Meta": {}, "Precedence": 9, "CreatedAt": "2026-11-24T08:53:30Z", "Hash": "x", "CreateIndex": 17,
    });
    for (key, value) in more.as_object().into_iter().flatten() {
        row[key] = value.clone();
    }
    intention(&row).unwrap()
}

#[test]
fn rows_of_1_8_are_read() {
    let web = read(&json!({}));
    assert_eq!(web.to_string(), "intention web → users allow (precedence 9)");
    assert_eq!(read(&json!({ "Action": "deny" })).action, Action::Deny);
    assert_eq!(read(&json!({ "SourceName": "*", "Precedence": 8 })).precedence, 8);
    // Where it is not told, it is computed.
    assert_eq!(read(&json!({ "SourceName": "*", "DestinationName": "*", "Precedence": 0 })).precedence, 5);
    assert_eq!(read(&json!({ "DestinationNS": "*", "DestinationName": "*", "Precedence": null })).precedence, 3);
}

#[test]
fn what_is_no_intention_is_an_error() {
    for row in [json!(null), json!([]), json!({}), json!({ "SourceName": "web" }), json!({ "DestinationName": "u" })] {
        assert!(intention(&row).is_err(), "{row}");
    }
}

#[test]
fn new_fields_are_passed_over_and_places_are_read() {
    let row = read(&json!({ "SomethingNew": { "a": 1 }, "SourcePartition": "p1", "SourcePeer": "", "LegacyMeta": {} }));
    assert_eq!((row.action, &*row.source.partition, row.source.peer), (Action::Allow, "p1", None));
    assert_eq!(read(&json!({ "SourcePeer": "cloud" })).source.peer.as_deref(), Some("cloud"));
    assert_eq!(read(&json!({ "SourcePeer": "local" })).source.peer, None);
}

#[test]
fn what_is_not_understood_is_never_a_plain_allow() {
    let http = json!({ "Action": "allow", "HTTP": { "PathPrefix": "/" } });
    for more in [
        json!({ "JWT": { "Providers": [{ "Name": "okta" }] } }),
        json!({ "JWT": { "Providers": [{ "Name": "okta" }] }, "Action": "", "Permissions": [http] }),
        json!({ "SourceType": "magic" }),
        json!({ "SourceSamenessGroup": "all" }),
        json!({ "Action": "audit" }),
        json!({ "Action": "" }),
        json!({ "Action": null }),
        json!({ "Permissions": "all" }),
        json!({ "Permissions": { "0": http } }),
    ] {
        let read = read(&more);
        assert!(matches!(read.action, Action::Barred(_)), "{more}: {:?}", read.action);
    }
    // Even beside `allow` permissions are what counts.
    assert!(matches!(read(&json!({ "Permissions": [http] })).action, Action::Permissions(_)));
    assert_eq!(read(&json!({ "Permissions": [http], "Action": "deny" })).action, Action::Deny);
    for nothing in [json!(null), json!([]), json!({})] {
        assert_eq!(read(&json!({ "Permissions": nothing, "JWT": nothing })).action, Action::Allow, "{nothing}");
    }
}

fn permissions(list: &Value) -> Vec<Permission> {
    match read(&json!({ "Action": "", "Permissions": list })).action {
        Action::Permissions(permissions) => permissions.into(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn permissions_are_read_whole() {
    let read = permissions(&json!([
        { "Action": "deny", "HTTP": { "PathPrefix": "/admin" } },
        { "Action": "allow", "JWT": null, "HTTP": {
            "PathRegex": "/v[12]/.*", "PathExact": "", "Methods": ["GET", "HEAD"], "Header": [
                { "Name": "X-Team", "Exact": "red", "Invert": true },
                { "Name": "x-a", "Present": true, "Exact": "", "Invert": false },
                { "Name": "x-b", "Prefix": "p" }, { "Name": "x-c", "Suffix": "s", "IgnoreCase": true },
                { "Name": "x-d", "Contains": "c" }, { "Name": "x-e", "Regex": "r+" },
            ] } },
        { "Action": "allow", "HTTP": {} },
        { "Action": "allow" },
    ]));
    assert!(read.iter().all(|permission| permission.barred.is_none()), "{read:?}");
    assert_eq!((read[0].allow, &read[0].path), (false, &Some(PathMatch::Prefix("/admin".into()))));
    assert_eq!(read[1].methods, [Method::GET, Method::HEAD]);
    assert_eq!(read[1].path, Some(PathMatch::Regex(whole("/v[12]/.*", false).unwrap().into())));
    let conditions: Vec<_> = read[1].headers.iter().map(|h| (h.condition.clone(), h.invert, h.ignore_case)).collect();
    assert_eq!(
        conditions,
        [
            (Condition::Exact("red".into()), true, false),
            (Condition::Present, false, false),
            (Condition::Prefix("p".into()), false, false),
            (Condition::Suffix("s".into()), false, true),
            (Condition::Contains("c".into()), false, false),
            (Condition::Regex(whole("r+", false).unwrap().into()), false, false),
        ]
    );
    assert_eq!(read[2], Permission { allow: true, ..Permission::default() });
    assert_eq!(read[3], read[2]);
}

#[test]
fn a_permission_that_is_not_understood_is_barred_and_matches_no_less() {
    for (http, why) in [
        (json!({ "Path": "/x" }), "not known here: \"Path\""),
        (json!({ "PathExact": "/a", "PathPrefix": "/b" }), "more than one path"),
        (json!({ "PathRegex": "(" }), "path that is not understood"),
        (json!({ "PathRegex": "(a{1000}){1000}" }), "path that is not understood"),
        (json!({ "Methods": ["GET", 7] }), "a method that is none"),
        (json!({ "Methods": "GET" }), "Methods that are no list"),
        (json!({ "Header": [{ "Name": "x-a" }] }), "without exactly one condition"),
        (json!({ "Header": [{ "Name": "x-a", "Exact": "a", "Prefix": "b" }] }), "without exactly one condition"),
        (json!({ "Header": [{ "Name": "x a", "Exact": "a" }] }), "no name of a header"),
        (json!({ "Header": [{ "Name": ":path", "Exact": "a" }] }), "no name of a header"),
        (json!({ "Header": [{ "Name": "x-a", "Regex": "[" }] }), "header that is not understood"),
        (json!({ "Header": [{ "Name": "x-a", "Exact": "a", "Weight": 7 }] }), "not known here: \"Weight\""),
        (json!({ "Header": ["x-a"] }), "header that is no object"),
        (json!("all"), "HTTP that is no object"),
    ] {
        let [read] = &permissions(&json!([{ "Action": "allow", "HTTP": http }]))[..] else { panic!() };
        assert!(read.barred.as_deref().is_some_and(|barred| barred.contains(why)), "{http}: {:?}", read.barred);
        assert!(read.path.is_none() && read.methods.is_empty(), "{http}: {read:?}");
    }
    for (permission, why) in [
        (json!({ "Action": "allow", "JWT": { "Providers": [{ "Name": "okta" }] } }), "requires a JWT"),
        (json!({ "Action": "log" }), "no Action that is known"),
        (json!({ "HTTP": {} }), "no Action that is known"),
        (json!({ "Action": "allow", "TCP": { "Ports": [1] } }), "not known here: \"TCP\""),
        (json!("allow"), "is no object"),
    ] {
        let [read] = &permissions(&json!([permission]))[..] else { panic!() };
        assert!(read.barred.as_deref().is_some_and(|barred| barred.contains(why)), "{permission}: {:?}", read.barred);
    }
}

#[test]
fn the_default_is_found_where_each_version_has_it() {
    use DefaultPolicy::{Allow, Deny};
    for (config, wanted) in [
        (json!({ "ACLDefaultPolicy": "deny", "ACLsEnabled": true }), Some(Deny)),
        (json!({ "ACLDefaultPolicy": "allow", "ACLsEnabled": true }), Some(Allow)),
        (json!({ "ACLDefaultPolicy": "deny", "ACLsEnabled": false }), Some(Allow)),
        (json!({ "ACLsEnabled": true, "ACLResolverSettings": { "ACLDefaultPolicy": "deny" } }), Some(Deny)),
        (json!({ "ACLResolverSettings": { "ACLsEnabled": false, "ACLDefaultPolicy": "deny" } }), Some(Allow)),
        (json!({ "ACLsEnabled": false, "DefaultIntentionPolicy": "deny" }), Some(Deny)),
        (json!({ "ACLsEnabled": true, "ACLDefaultPolicy": "deny", "DefaultIntentionPolicy": "allow" }), Some(Allow)),
        (json!({ "ACLsEnabled": true, "ACLDefaultPolicy": "deny", "DefaultIntentionPolicy": "" }), Some(Deny)),
        (json!({ "ACLsEnabled": true, "ACLDefaultPolicy": "maybe" }), None),
        (json!({ "ACLsEnabled": true }), None),
        (json!({}), None),
        (json!(null), None),
    ] {
        assert_eq!(default_policy(&json!({ "DebugConfig": config })), wanted, "{config}");
    }
    assert_eq!(default_policy(&json!({ "Config": {} })), None);
}
