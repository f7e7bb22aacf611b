//! One HTTP client for all calls to Consul. Knows tokens, time limits and Consul's headers; knows no endpoint's meaning.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Method, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::resolve::Resolver;
use super::token::Token;
use super::{Api, Settings, tls};
use crate::telemetry::{ConsulOutcome, Metrics};

/// A shared connection pool to Consul; clones are cheap.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    settings: Settings,
    metrics: Arc<Metrics>,
    http: reqwest::Client,
    /// Scheme and authority, without a final `/`.
    base: String,
    token: Token,
    patience: Patience,
}

/// A 2xx answer.
#[derive(Debug, Clone)]
pub struct Answer<T> {
    /// `X-Consul-Index`, at least 1; `None` where the endpoint sends none.
    pub index: Option<u64>,
    /// Consul left out what our token may not read (1.11 and newer say so): less than all, perhaps nothing.
    pub filtered_by_acls: bool,
    pub value: T,
}

/// Why a call gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum ConsulError {
    /// Nothing listens, the connection broke, or the time was up.
    #[error("Consul at {address} cannot be reached: {cause}")]
    Unreachable { address: String, cause: String },
    /// Any status but 2xx, with the text that Consul sent (its first 200 bytes).
    #[error("Consul answered {status} to {path}: {text}")]
    Status { status: u16, path: String, text: String },
    #[error("Consul's answer to {path} is not what it should be: {cause}")]
    Malformed { path: String, cause: String },
    /// A token or TLS file that cannot be read, or an address that is none.
    #[error("{0}")]
    Local(String),
}

impl ConsulError {
    /// The status of an answer that was not 2xx.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Status { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// Consul is there and refuses our token; only a person can mend it.
    #[must_use]
    pub fn is_denied(&self) -> bool {
        matches!(self.status(), Some(401 | 403))
    }
}

/// How long a blocking query may hold, learnt from how they end. Some Consul 1.22 cut every answer after 30 s
/// (HTTP write timeout), so after two such cuts queries hold for 20 s only.
#[derive(Default)]
struct Patience {
    cuts: AtomicU32,
}

impl Patience {
    fn hold(&self, configured: Duration) -> Duration {
        let longest = if self.cuts.load(Ordering::Relaxed) < 2 { Duration::MAX } else { Duration::from_secs(20) };
        configured.clamp(Duration::from_millis(1), longest)
    }

    fn learn(&self, held: Duration, cut: bool) {
        let near_30s = held.as_secs().abs_diff(30) <= 2;
        if cut && near_30s && self.cuts.fetch_add(1, Ordering::Relaxed) == 1 {
            tracing::warn!("Consul cuts blocking queries after 30 s; they hold for 20 s from now on");
        }
    }
}

/// What is asked.
struct Call<'a> {
    api: Api,
    method: Method,
    path: &'a str,
    query: Vec<(&'a str, &'a str)>,
    body: Option<Vec<u8>>,
    limit: Duration,
}

/// A 2xx answer before its meaning.
struct Raw {
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Client {
    /// # Errors
    /// When a TLS file cannot be read or the address is no address.
    pub fn new(settings: Settings, metrics: Arc<Metrics>) -> Result<Self, ConsulError> {
        let address = Address::parse(&settings)?;
        let token = Token::new(&settings)?;
        let mut builder = reqwest::Client::builder()
            .tls_backend_preconfigured(tls::config(&settings, address.https)?)
            .dns_resolver(Resolver::new(&address.host))
            // HTTP_PROXY may well point at our own outbound listener, for the app's sake.
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("outrigger/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT)
            .http2_keep_alive_interval(Duration::from_secs(20))
            .http2_keep_alive_timeout(Duration::from_secs(10));
        if let Some(path) = &address.socket {
            builder = builder.unix_socket(path.as_str());
        }
        let http =
            builder.build().map_err(|error| ConsulError::Local(format!("HTTP client: {}", root_cause(&error))))?;
        Ok(Self {
            inner: Arc::new(Inner {
                base: address.base,
                settings,
                metrics,
                http,
                token,
                patience: Patience::default(),
            }),
        })
    }

    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.inner.settings
    }

    /// A plain read: answers at once, within 10 s. `path` begins with `/v1/`, its parts encoded (`path_segment`);
    /// `query` is encoded here. `ns` and `partition` are added where configured, and `dc` to reads of health: agent
    /// endpoints are the agent's own. What `query` names itself is not added again.
    pub async fn get<T: DeserializeOwned>(
        &self,
        api: Api,
        path: &str,
        query: &[(&str, &str)],
    ) -> Result<Answer<T>, ConsulError> {
        self.read(api, path, query.to_vec(), PLAIN).await
    }

    /// A blocking query: returns when the index passes `seen`, or when `settings.wait` (and Consul's sixteenth) is over.
    /// `seen` 0 answers at once. Cancel safe. The caller goes back to 0 on any error and on a lower index.
    pub async fn wait_past<T: DeserializeOwned>(
        &self,
        api: Api,
        path: &str,
        query: &[(&str, &str)],
        seen: u64,
    ) -> Result<Answer<T>, ConsulError> {
        if seen == 0 {
            return self.get(api, path, query).await;
        }
        let hold = self.inner.patience.hold(self.inner.settings.wait);
        let (index, wait) = (seen.to_string(), format!("{}ms", hold.as_millis()));
        let mut query = query.to_vec();
        query.extend([("index", index.as_str()), ("wait", wait.as_str())]);
        // Consul adds up to a sixteenth (developer.hashicorp.com/consul/api-docs/features/blocking).
        let begun = Instant::now();
        let answer = self.read(api, path, query, hold + hold / 16 + SLACK).await;
        let cut = matches!(answer, Err(ConsulError::Unreachable { .. }));
        self.inner.patience.learn(begun.elapsed(), cut);
        answer
    }

    /// A write with an optional JSON body; the answer's body is dropped. `limit` bounds the whole call.
    pub async fn put<B: Serialize + Sync>(
        &self,
        api: Api,
        path: &str,
        query: &[(&str, &str)],
        body: Option<&B>,
        limit: Duration,
    ) -> Result<(), ConsulError> {
        let body = body
            .map(serde_json::to_vec)
            .transpose()
            .map_err(|error| ConsulError::Local(format!("body for {path}: {error}")))?;
        self.call(Call { api, method: Method::PUT, path, query: query.to_vec(), body, limit }).await.map(drop)
    }

    /// A question with a JSON body: answers at once, within 10 s, and changes nothing.
    pub async fn ask<B: Serialize + Sync, T: DeserializeOwned>(
        &self,
        api: Api,
        path: &str,
        body: &B,
    ) -> Result<T, ConsulError> {
        let body = serde_json::to_vec(body).map_err(|error| ConsulError::Local(format!("body for {path}: {error}")))?;
        let call = Call { api, method: Method::POST, path, query: Vec::new(), body: Some(body), limit: PLAIN };
        self.understand(api, path, &self.call(call).await?)
    }

    async fn read<T: DeserializeOwned>(
        &self,
        api: Api,
        path: &str,
        query: Vec<(&str, &str)>,
        limit: Duration,
    ) -> Result<Answer<T>, ConsulError> {
        let raw = self.call(Call { api, method: Method::GET, path, query, body: None, limit }).await?;
        let value = self.understand(api, path, &raw)?;
        let header = |name: &str| raw.headers.get(name).and_then(|value| value.to_str().ok());
        Ok(Answer {
            index: header("x-consul-index").and_then(|text| text.parse().ok()).map(|index: u64| index.max(1)),
            filtered_by_acls: header("x-consul-results-filtered-by-acls") == Some("true"),
            value,
        })
    }

    fn understand<T: DeserializeOwned>(&self, api: Api, path: &str, raw: &Raw) -> Result<T, ConsulError> {
        let value = serde_json::from_slice(&raw.body).map_err(|error| {
            self.count(api, ConsulOutcome::Failed);
            ConsulError::Malformed { path: path.into(), cause: error.to_string() }
        })?;
        self.count(api, ConsulOutcome::Ok);
        Ok(value)
    }

    /// One call; a second one at once where Consul refused the token and the token's file holds another by now.
    async fn call(&self, mut call: Call<'_>) -> Result<Raw, ConsulError> {
        self.add_scope(&mut call);
        let token = self.inner.token.current()?;
        let first = self.once(&call, token.as_ref()).await;
        let answer = match &first {
            Err(error) if error.is_denied() => match self.inner.token.other_than(token.as_ref()) {
                Some(fresh) => self.once(&call, Some(&fresh)).await,
                None => first,
            },
            _ => first,
        };
        match &answer {
            // What is read counts once its body made sense.
            Ok(_) if call.method != Method::PUT => {}
            Ok(_) => self.count(call.api, ConsulOutcome::Ok),
            Err(ConsulError::Unreachable { .. }) => self.count(call.api, ConsulOutcome::Unreachable),
            Err(error) if error.is_denied() => self.count(call.api, ConsulOutcome::Denied),
            Err(_) => self.count(call.api, ConsulOutcome::Failed),
        }
        answer
    }

    /// Nothing is sent that is not configured: the open-source Consul refuses `ns`.
    fn add_scope<'a>(&'a self, call: &mut Call<'a>) {
        let settings = &self.inner.settings;
        let health = matches!(call.api, Api::HealthConnect | Api::HealthService);
        let wanted = [
            ("dc", settings.datacenter.as_deref().filter(|_| health)),
            ("ns", settings.namespace.as_deref()),
            ("partition", settings.partition.as_deref()),
        ];
        for (key, value) in wanted {
            if let Some(value) = value
                && !call.query.iter().any(|(named, _)| *named == key)
            {
                call.query.push((key, value));
            }
        }
    }

    async fn once(&self, call: &Call<'_>, token: Option<&HeaderValue>) -> Result<Raw, ConsulError> {
        let url = format!("{}{}", self.inner.base, call.path);
        let mut request = self.inner.http.request(call.method.clone(), url).timeout(call.limit).query(&call.query);
        if let Some(token) = token {
            request = request.header("x-consul-token", token);
        }
        if let Some(body) = &call.body {
            request = request.header(CONTENT_TYPE, "application/json").body(body.clone());
        }
        let response = request.send().await.map_err(|error| self.unreachable(&error))?;
        let (status, headers) = (response.status(), response.headers().clone());
        if !status.is_success() {
            return Err(refusal(call.path, status, response).await);
        }
        Ok(Raw { headers, body: self.body(call.path, response).await? })
    }

    async fn body(&self, path: &str, mut response: reqwest::Response) -> Result<Vec<u8>, ConsulError> {
        let too_large = || ConsulError::Malformed { path: path.into(), cause: format!("more than {BODY} bytes") };
        let announced = response.content_length().map_or(0, |length| usize::try_from(length).unwrap_or(usize::MAX));
        if announced > BODY {
            return Err(too_large());
        }
        let mut body = Vec::with_capacity(announced);
        while let Some(chunk) = response.chunk().await.map_err(|error| self.unreachable(&error))? {
            if body.len() + chunk.len() > BODY {
                return Err(too_large());
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }

    fn unreachable(&self, error: &reqwest::Error) -> ConsulError {
        let cause = if error.is_timeout() { "the time was up".into() } else { root_cause(error) };
        ConsulError::Unreachable { address: self.inner.settings.address.clone(), cause }
    }

    fn count(&self, api: Api, outcome: ConsulOutcome) {
        self.inner.metrics.consul_request(api.as_str(), outcome);
    }
}

/// The first 200 bytes of what Consul says; its error bodies are plain text.
async fn refusal(path: &str, status: StatusCode, mut response: reqwest::Response) -> ConsulError {
    let mut text = Vec::new();
    while text.len() < TEXT
        && let Ok(Some(chunk)) = response.chunk().await
    {
        text.extend_from_slice(&chunk[..chunk.len().min(TEXT)]);
    }
    text.truncate(TEXT);
    let text = String::from_utf8_lossy(&text).trim().replace(char::is_control, " ");
    ConsulError::Status { status: status.as_u16(), path: path.into(), text }
}

/// The innermost cause: reqwest's own text repeats the URL, with what the query holds.
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut deepest = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    deepest.to_string()
}

/// `Settings::address`, taken apart.
struct Address {
    https: bool,
    base: String,
    /// What is resolved to connect.
    host: String,
    socket: Option<String>,
}

impl Address {
    fn parse(settings: &Settings) -> Result<Self, ConsulError> {
        let text = settings.address.as_str();
        let fault = |what: &str| ConsulError::Local(format!("Consul's address {text}: {what}"));
        if let Some(path) = text.strip_prefix("unix://") {
            let socket = Some(path.to_owned());
            return Ok(Self { https: false, base: "http://localhost".into(), host: "localhost".into(), socket });
        }
        let url = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
        let mut url = reqwest::Url::parse(&url).map_err(|error| fault(&error.to_string()))?;
        let https = match url.scheme() {
            "http" => false,
            "https" => true,
            _ => return Err(fault("must begin with http://, https:// or unix://")),
        };
        if url.path() != "/" || url.query().is_some() || url.fragment().is_some() || !url.username().is_empty() {
            return Err(fault("must be a scheme, a host and a port, nothing else"));
        }
        let host = url.host_str().ok_or_else(|| fault("names no host"))?.to_owned();
        if let Some(name) = settings.server_name.as_deref().filter(|name| https && !name.is_empty()) {
            // The URL's host is what is sent as SNI and verified; `Resolver` leads it to `host`.
            url.set_host(Some(name)).map_err(|error| fault(&format!("server_name {name}: {error}")))?;
            if url.domain().is_none() {
                return Err(fault(&format!("server_name {name} must be a DNS name")));
            }
        }
        Ok(Self { https, base: url.as_str().trim_end_matches('/').to_owned(), host, socket: None })
    }
}

const CONNECT: Duration = Duration::from_secs(2);
const PLAIN: Duration = Duration::from_secs(10);
const SLACK: Duration = Duration::from_secs(5);
/// Bytes of an answer.
const BODY: usize = 64 * 1024 * 1024;
/// Bytes of an error's text.
const TEXT: usize = 200;

#[cfg(test)]
#[path = "client_tests.rs"]
mod tests;
