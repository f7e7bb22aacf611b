//! `cors`: what scripts of other origins may do (Fetch standard, "CORS protocol"), as Kong's plugin answers it
//! (`kong/plugins/cors/handler.lua`). The app's own words on it are replaced. It says what browsers may, and keeps nobody
//! else out.

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Extensions, Method, StatusCode, request};

use super::expression::Expressions;
use super::{Answer, Answered, Call, Decision, Filter};

#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    pub origins: Origins,
    /// For preflights: as one field; what the browser asks for when absent.
    pub headers: Option<HeaderValue>,
    pub methods: HeaderValue,
    pub exposed_headers: Option<HeaderValue>,
    pub credentials: bool,
    /// Seconds that a preflight holds.
    pub max_age: Option<u64>,
    /// Whether sites may reach a private network through the browser.
    pub private_network: bool,
    /// Whether the app answers preflights.
    pub preflight_continue: bool,
    /// Whether answers to requests without an Origin say something, too.
    pub allow_origin_absent: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Origins {
    Any,
    /// A single one without an expression: said whoever asks.
    One(HeaderValue),
    Several(Listed),
}

#[derive(Debug, Clone, PartialEq)]
pub struct Listed {
    /// In their normal form.
    exact: Vec<String>,
    /// For a whole origin.
    origins: Expressions,
    /// Without a colon: for a host alone.
    hosts: Expressions,
}

impl Origins {
    /// # Errors
    /// The number of the entry that is no expression or no header value, and what is wrong with it.
    pub fn of(entries: &[String]) -> Result<Self, (usize, String)> {
        if entries.is_empty() || entries.iter().any(|entry| entry == "*") {
            return Ok(Self::Any);
        }
        if let [one] = entries
            && is_plain(one)
        {
            return HeaderValue::from_str(one).map(Self::One).map_err(|error| (0, error.to_string()));
        }
        let (mut exact, mut origins, mut hosts) = (Vec::new(), Vec::new(), Vec::new());
        for (at, entry) in entries.iter().enumerate() {
            if is_plain(entry) {
                exact.push(normal(entry).origin);
                continue;
            }
            let inner = entry.strip_prefix('^').unwrap_or(entry);
            let inner = if inner.ends_with("\\$") { inner } else { inner.strip_suffix('$').unwrap_or(inner) };
            Expressions::anchored(&[inner]).map_err(|error| (at, error))?;
            if entry.contains(':') { &mut origins } else { &mut hosts }.push(inner);
        }
        let compile = |texts: &[&str]| Expressions::anchored(texts).map_err(|error| (0, error));
        Ok(Self::Several(Listed { exact, origins: compile(&origins)?, hosts: compile(&hosts)? }))
    }
}

fn is_plain(entry: &str) -> bool {
    entry.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b':' | b'/' | b'-'))
}

struct Normal {
    origin: String,
    host: String,
}

/// An origin without a path, and without the port that its scheme implies; what is none stays as it is.
fn normal(text: &str) -> Normal {
    let Some((scheme, rest)) = text.split_once("://") else {
        return Normal { origin: text.to_owned(), host: text.to_owned() };
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let authority = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (authority, None),
    };
    let port = port.filter(|port| !matches!((scheme, *port), ("http", "80") | ("https", "443")));
    let origin = port.map_or_else(|| format!("{scheme}://{host}"), |port| format!("{scheme}://{host}:{port}"));
    Normal { origin, host: host.to_owned() }
}

pub(super) struct Cors {
    settings: Settings,
    max_age: Option<HeaderValue>,
}

/// What the answer needs to know of the request.
#[derive(Clone)]
enum Asked {
    /// The answer to a preflight is the app's own, or made here already.
    Preflight,
    From(Option<HeaderValue>),
}

impl Cors {
    pub(super) fn new(settings: &Settings) -> Self {
        if settings.credentials && settings.origins == Origins::Any {
            tracing::warn!("cors: credentials and any origin: every site may act as its visitor; name the origins");
        }
        Self { max_age: settings.max_age.map(HeaderValue::from), settings: settings.clone() }
    }

    fn asked(head: &request::Parts) -> Asked {
        let origin = head.headers.get(header::ORIGIN);
        let preflight = head.method == Method::OPTIONS
            && origin.is_some()
            && head.headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
        if preflight { Asked::Preflight } else { Asked::From(origin.cloned()) }
    }

    fn preflight(&self, head: &request::Parts) -> Answer {
        let Settings { headers, methods, private_network, .. } = &self.settings;
        let mut answer = HeaderMap::new();
        self.allow(head.headers.get(header::ORIGIN), &mut answer);
        if let Some(allowed) = headers.as_ref().or(head.headers.get(header::ACCESS_CONTROL_REQUEST_HEADERS)) {
            answer.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, allowed.clone());
        }
        answer.insert(header::ACCESS_CONTROL_ALLOW_METHODS, methods.clone());
        if let Some(max_age) = &self.max_age {
            answer.insert(header::ACCESS_CONTROL_MAX_AGE, max_age.clone());
        }
        if *private_network && head.headers.get(REQUEST_PRIVATE_NETWORK).is_some_and(|asked| asked == "true") {
            answer.insert(ALLOW_PRIVATE_NETWORK, HeaderValue::from_static("true"));
        }
        let headers = answer.into_iter().filter_map(|(name, value)| Some((name?, value))).collect();
        Answer { status: StatusCode::OK, grpc: None, headers, body: Bytes::new(), detail: "preflight" }
    }

    /// Says whose scripts may read the answer.
    fn allow(&self, origin: Option<&HeaderValue>, answer: &mut HeaderMap) {
        let credentials = self.settings.credentials;
        let allowed = match &self.settings.origins {
            Origins::Any if credentials && origin.is_some() => {
                // `*` is not for requests with credentials (Fetch, "CORS check").
                vary(answer);
                origin.cloned()
            }
            Origins::Any => Some(HeaderValue::from_static("*")),
            Origins::One(one) => {
                vary(answer);
                Some(one.clone())
            }
            Origins::Several(listed) => {
                vary(answer);
                origin.and_then(|origin| listed.find(origin))
            }
        };
        let any = self.settings.origins == Origins::Any;
        match allowed {
            Some(allowed) => answer.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, allowed),
            None => answer.remove(header::ACCESS_CONTROL_ALLOW_ORIGIN),
        };
        if credentials && (!any || origin.is_some()) {
            answer.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        }
    }
}

impl Listed {
    fn find(&self, origin: &HeaderValue) -> Option<HeaderValue> {
        let normal = normal(origin.to_str().ok()?);
        let found = self.exact.contains(&normal.origin)
            || self.origins.is_match(normal.origin.as_bytes())
            || self.hosts.is_match(normal.host.as_bytes());
        if found { HeaderValue::from_str(&normal.origin).ok() } else { None }
    }
}

/// Caches are told that the answer is another for another origin.
fn vary(answer: &mut HeaderMap) {
    answer.append(header::VARY, HeaderValue::from_static("Origin"));
}

impl Filter for Cors {
    fn request(&self, call: &mut Call<'_>) -> Decision {
        let asked = Self::asked(call.head);
        let answers = matches!(asked, Asked::Preflight) && !self.settings.preflight_continue;
        call.stash.insert(asked);
        if answers { Decision::answer(self.preflight(call.head)) } else { Decision::PASS }
    }

    fn skipped(&self, head: &request::Parts, stash: &mut Extensions) {
        stash.insert(Self::asked(head));
    }

    fn response(&self, answer: &mut Answered<'_>) {
        let Some(Asked::From(origin)) = answer.stash.get::<Asked>() else { return };
        if origin.is_none() && !self.settings.allow_origin_absent {
            return;
        }
        self.allow(origin.as_ref(), answer.headers);
        if let Some(exposed) = &self.settings.exposed_headers {
            answer.headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, exposed.clone());
        }
    }
}

const REQUEST_PRIVATE_NETWORK: HeaderName = HeaderName::from_static("access-control-request-private-network");
const ALLOW_PRIVATE_NETWORK: HeaderName = HeaderName::from_static("access-control-allow-private-network");

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn settings(origins: &[&str]) -> Settings {
        let entries: Vec<String> = origins.iter().map(|&origin| origin.to_owned()).collect();
        Settings {
            origins: Origins::of(&entries).unwrap(),
            headers: None,
            methods: HeaderValue::from_static("GET,POST"),
            exposed_headers: None,
            credentials: false,
            max_age: None,
            private_network: false,
            preflight_continue: false,
            allow_origin_absent: true,
        }
    }

    /// ACAO, whether Vary says Origin, ACAC.
    fn told(settings: &Settings, origin: Option<&'static str>) -> (String, bool, bool) {
        let origin = origin.map(HeaderValue::from_static);
        let mut answer = HeaderMap::new();
        answer.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("https://app.said"));
        Cors::new(settings).allow(origin.as_ref(), &mut answer);
        let text = answer.get(header::ACCESS_CONTROL_ALLOW_ORIGIN).map_or("", |value| value.to_str().unwrap());
        (
            text.to_owned(),
            answer.contains_key(header::VARY),
            answer.contains_key(header::ACCESS_CONTROL_ALLOW_CREDENTIALS),
        )
    }

    #[test]
    fn origins_are_told_as_kong_tells_them() {
        let several =
            &["https://a.example", "http://b.example:80", "null", "https://.*\\.c\\.example", "(x|y)\\.d"][..];
        for (origins, origin, wanted, vary) in [
            (&[][..], Some("https://a.example"), "*", false),
            (&["*"], None, "*", false),
            (&["https://a.example"], Some("https://evil.example"), "https://a.example", true),
            (several, Some("https://a.example"), "https://a.example", true),
            (several, Some("https://a.example:443"), "https://a.example", true),
            (several, Some("http://b.example"), "http://b.example", true),
            (several, Some("https://b.example"), "", true),
            (several, Some("null"), "null", true),
            (several, Some("https://w.c.example"), "https://w.c.example", true),
            (several, Some("https://w.c.example.evil"), "", true),
            (several, Some("http://x.d:8080"), "http://x.d:8080", true),
            (several, Some("http://ax.d"), "", true),
            (several, None, "", true),
        ] {
            let wanted = (wanted.to_owned(), vary, false);
            assert_eq!(told(&settings(origins), origin), wanted, "{origins:?} {origin:?}");
        }
        let (at, _) = Origins::of(&["https://a.example".into(), "(".into()]).unwrap_err();
        assert_eq!(at, 1);
    }

    #[test]
    fn credentials_never_go_with_a_star() {
        let with = |origins: &[&str]| Settings { credentials: true, ..settings(origins) };
        assert_eq!(told(&with(&["*"]), Some("https://a.b")), ("https://a.b".into(), true, true));
        assert_eq!(told(&with(&["*"]), None), ("*".into(), false, false));
        assert_eq!(told(&with(&["https://a.b"]), None), ("https://a.b".into(), true, true));
    }

    #[test]
    fn only_a_preflight_is_taken_for_one() {
        let head = |method: &str, pairs: &[(&str, &str)]| {
            let request = Request::builder().method(method).uri("/");
            let request = pairs.iter().fold(request, |request, (name, value)| request.header(*name, *value));
            request.body(()).unwrap().into_parts().0
        };
        let (origin, method) = (("origin", "https://a.b"), ("access-control-request-method", "PUT"));
        let is_preflight = |head| matches!(Cors::asked(&head), Asked::Preflight);
        assert!(is_preflight(head("OPTIONS", &[origin, method])));
        for (name, pairs) in [("OPTIONS", &[origin][..]), ("OPTIONS", &[method]), ("GET", &[origin, method])] {
            assert!(!is_preflight(head(name, pairs)));
        }
        let cors = Cors::new(&Settings { private_network: true, max_age: Some(60), ..settings(&["*"]) });
        let asked = ("access-control-request-headers", "x-a,x-b");
        let local = ("access-control-request-private-network", "true");
        let answer = cors.preflight(&head("OPTIONS", &[origin, method, asked, local]));
        let headers: HeaderMap = answer.headers.into_iter().collect();
        for (name, wanted) in [
            ("access-control-allow-origin", "*"),
            ("access-control-allow-headers", "x-a,x-b"),
            ("access-control-allow-methods", "GET,POST"),
            ("access-control-max-age", "60"),
            ("access-control-allow-private-network", "true"),
        ] {
            assert_eq!(headers[name], wanted, "{name}");
        }
        assert_eq!((headers.len(), answer.status), (5, StatusCode::OK));
    }
}
