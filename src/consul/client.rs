//! One HTTP client for all calls to Consul. Knows tokens, time limits and Consul's headers; knows no endpoint's meaning.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Api, Settings};
use crate::telemetry::Metrics;

/// A shared connection pool to Consul; clones are cheap.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    settings: Settings,
    metrics: Arc<Metrics>,
}

/// A 2xx answer.
#[derive(Debug, Clone)]
pub struct Answer<T> {
    /// `X-Consul-Index`, at least 1; `None` where the endpoint sends none.
    pub index: Option<u64>,
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
    /// A token or TLS file that cannot be read.
    #[error("{0}")]
    Local(String),
}

impl Client {
    /// # Errors
    /// When a TLS file cannot be read or the address is no address.
    pub fn new(settings: Settings, metrics: Arc<Metrics>) -> Result<Self, ConsulError> {
        Ok(Self { inner: Arc::new(Inner { settings, metrics }) })
    }

    pub fn settings(&self) -> &Settings {
        &self.inner.settings
    }

    /// A plain read: answers at once. `path` begins with `/v1/`; `query` is encoded here. `dc`, `ns` and `partition` are
    /// added where configured.
    pub async fn get<T: DeserializeOwned>(
        &self,
        api: Api,
        path: &str,
        query: &[(&str, &str)],
    ) -> Result<Answer<T>, ConsulError> {
        let _ = (api, path, query, &self.inner.metrics);
        todo!()
    }

    /// A blocking query: returns when the index passes `seen`, or when `settings.wait` (and Consul's sixteenth) is over.
    /// `seen` 0 answers at once. Cancel safe.
    pub async fn wait_past<T: DeserializeOwned>(
        &self,
        api: Api,
        path: &str,
        query: &[(&str, &str)],
        seen: u64,
    ) -> Result<Answer<T>, ConsulError> {
        let _ = (api, path, query, seen);
        todo!()
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
        let _ = (api, path, query, body, limit);
        todo!()
    }
}
