//! `request-termination`: answers in the app's place, as Kong's plugin does it (`kong/plugins/request-termination/handler.lua`).
//! It runs last: who may not call is told so.

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::{StatusCode, request};
use serde_json::{Map, Value, json};

use super::{Answer, Call, Decision, Filter, query};

#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    pub status: StatusCode,
    pub says: Says,
    /// Only requests with this header or this query parameter; all when absent.
    pub trigger: Option<Trigger>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Says {
    /// `{"message": …}`; what fits the status when absent.
    Message(Option<String>),
    /// The message, and the request as it stands behind all other plugins.
    Echo(Option<String>),
    Body {
        body: Bytes,
        content_type: Option<HeaderValue>,
    },
}

#[derive(Debug, Clone, PartialEq)]
pub struct Trigger {
    pub header: HeaderName,
    pub query: String,
}

pub(super) struct RequestTermination {
    settings: Settings,
}

impl RequestTermination {
    pub(super) fn new(settings: Settings) -> Self {
        Self { settings }
    }

    fn answer(&self, head: &request::Parts) -> Answer {
        let Settings { status, says, .. } = &self.settings;
        let message = |message: &Option<String>| message.clone().or_else(|| usual(*status).map(str::to_owned));
        let json = || Some(HeaderValue::from_static("application/json; charset=utf-8"));
        let (body, content_type) = match says {
            Says::Body { body, content_type } => (body.clone(), content_type.clone()),
            Says::Message(text) => match message(text) {
                Some(message) => (json!({ "message": message }).to_string().into(), json()),
                None => (Bytes::new(), None),
            },
            Says::Echo(text) => (json!({ "message": message(text), "request": echo(head) }).to_string().into(), json()),
        };
        let headers = content_type.map(|kind| (header::CONTENT_TYPE, kind)).into_iter().collect();
        Answer { status: *status, grpc: None, headers, body, detail: "terminated" }
    }
}

impl Filter for RequestTermination {
    fn request(&self, call: &mut Call<'_>) -> Decision {
        let is_meant = |trigger: &Trigger| {
            let query = call.head.uri.query().unwrap_or_default();
            call.head.headers.contains_key(&trigger.header) || query::first(query, &trigger.query).is_some()
        };
        if self.settings.trigger.as_ref().is_some_and(|trigger| !is_meant(trigger)) {
            return Decision::PASS;
        }
        Decision::answer(self.answer(call.head))
    }
}

/// Kong's words for statuses.
fn usual(status: StatusCode) -> Option<&'static str> {
    Some(match status.as_u16() {
        401 => "Unauthorized",
        404 => "Not found",
        405 => "Method not allowed",
        500 => "An unexpected error occurred",
        502 => "Bad Gateway",
        503 => "Service unavailable",
        _ => return None,
    })
}

/// What came, but for credentials: a script in a browser may not read its own cookies through us.
fn echo(head: &request::Parts) -> Value {
    let mut headers: Map<String, Value> = Map::new();
    for name in head.headers.keys() {
        let secret = [header::AUTHORIZATION, header::COOKIE, header::PROXY_AUTHORIZATION].contains(name);
        let text = |value: &HeaderValue| Value::from(String::from_utf8_lossy(value.as_bytes()).into_owned());
        let mut values: Vec<Value> = head.headers.get_all(name).iter().map(text).collect();
        let value = match (secret, values.len()) {
            (true, _) => "REDACTED".into(),
            (false, 1) => values.remove(0),
            (false, _) => values.into(),
        };
        headers.insert(name.to_string(), value);
    }
    let host = head.uri.authority().map(|authority| authority.as_str().to_owned());
    let host = host.or_else(|| Some(head.headers.get(header::HOST)?.to_str().ok()?.to_owned()));
    let (method, path) = (head.method.as_str(), head.uri.path());
    json!({ "method": method, "host": host, "path": path, "query": head.uri.query(), "headers": headers })
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn answer(status: StatusCode, says: Says) -> (String, Vec<(HeaderName, HeaderValue)>) {
        let filter = RequestTermination::new(Settings { status, says, trigger: None });
        let request = Request::post("/a?b=1").header("host", "users").header("cookie", "s=1").header("x", "1");
        let (head, ()) = request.header("x", "2").body(()).unwrap().into_parts();
        let answer = filter.answer(&head);
        assert_eq!(answer.status, status);
        (String::from_utf8(answer.body.to_vec()).unwrap(), answer.headers)
    }

    #[test]
    fn it_says_what_it_is_told_or_what_fits() {
        assert_eq!(
            answer(StatusCode::SERVICE_UNAVAILABLE, Says::Message(None)).0,
            r#"{"message":"Service unavailable"}"#
        );
        assert_eq!(answer(StatusCode::GONE, Says::Message(Some("\"moved\"".into()))).0, r#"{"message":"\"moved\""}"#);
        assert_eq!(answer(StatusCode::NO_CONTENT, Says::Message(None)), (String::new(), Vec::new()));
        let body = Says::Body { body: "<p>".into(), content_type: Some(HeaderValue::from_static("text/html")) };
        let kind = (header::CONTENT_TYPE, HeaderValue::from_static("text/html"));
        assert_eq!(answer(StatusCode::OK, body), ("<p>".into(), vec![kind]));
    }

    #[test]
    fn an_echo_holds_no_credential() {
        let (text, _) = answer(StatusCode::OK, Says::Echo(Some("hi".into())));
        let told: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(told["message"], "hi");
        let request = &told["request"];
        assert_eq!(
            (&request["method"], &request["path"], &request["query"]),
            (&"POST".into(), &"/a".into(), &"b=1".into())
        );
        assert_eq!((&request["host"], &request["headers"]["x"]), (&"users".into(), &json!(["1", "2"])));
        assert_eq!(request["headers"]["cookie"], "REDACTED");
    }
}
