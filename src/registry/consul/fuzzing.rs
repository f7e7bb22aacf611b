//! What must hold of any JSON as Consul's answer about intentions, for fuzzing.

use http::{HeaderMap, Method};
use serde_json::Value;

use super::intention_rows::intention;
use crate::access::{Ask, DefaultPolicy, Enforced, Gate, Intentions, Request, Standing, Verdict};
use crate::names::SpiffeId;

/// Nobody is let in but by a row that says so, and what is denied for good is denied each request.
pub fn intentions(data: &[u8]) {
    let Ok(answer) = serde_json::from_slice::<Value>(data) else { return };
    let rows = match &answer {
        Value::Array(rows) => &rows[..],
        row => std::slice::from_ref(row),
    };
    let Ok(list) = rows.iter().map(intention).collect::<Result<Vec<_>, _>>() else { return };
    let is_something = |row: &Value, key: &str| {
        row.get(key).is_some_and(|value| match value {
            Value::Null => false,
            Value::Array(list) => !list.is_empty(),
            Value::Object(members) => !members.is_empty(),
            _ => true,
        })
    };
    let allows = |row: &Value| row.get("Action").and_then(Value::as_str) == Some("allow");
    let plainly = |row: &Value| allows(row) && !is_something(row, "Permissions") && !is_something(row, "JWT");
    let somehow = |row: &Value| plainly(row) || row.get("Permissions").is_some_and(Value::is_array);
    let web = SpiffeId::parse("spiffe://mesh.test/ns/default/dc/dc1/svc/web").expect("a SPIFFE id");
    let headers = HeaderMap::from_iter([(http::header::USER_AGENT, http::HeaderValue::from_static("curl/8"))]);
    for default in [None, Some(DefaultPolicy::Deny)] {
        let gate = Gate::new(1, Enforced::On(Intentions::new(list.clone(), default)), Vec::new());
        if !gate.refuses_raw(Some(&web)) {
            assert!(rows.iter().any(plainly), "let in without HTTP, though no row allows it");
        }
        for (method, path) in [(Method::GET, "/"), (Method::POST, "/api/orders"), (Method::DELETE, "/%2Fapi")] {
            let request = Request { method: &method, path, authority: "users", headers: &headers };
            let ask = Ask { caller: Some(&web), request: Some(request) };
            let standing = Standing::default();
            let verdict = gate.judge(ask, &standing);
            assert_eq!(verdict, gate.judge(ask, &standing), "another verdict from memory");
            if verdict == Verdict::Allowed {
                assert!(rows.iter().any(somehow), "let in, though no row allows it");
                assert!(!gate.shuts_out(Some(&web)), "shut out and let in");
            } else if let Verdict::Denied(denial) = verdict {
                assert!(!denial.to_string().is_empty());
            }
        }
    }
}
