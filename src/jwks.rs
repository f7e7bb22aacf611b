//! Keeps the key sets of token issuers fresh: fetched at start, on schedule, and when a request met an unknown key; files
//! when they change. A failure never takes keys away before `stale_for` is over.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant, SystemTime};

use aws_lc_rs::digest;
use reqwest::dns::{Addrs, Resolve, Resolving};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::AsyncReadExt;
use tokio::time::{sleep, sleep_until};

use crate::file_watch::FileWatch;
use crate::filter::jwt::{KeySet, KeySource, KeySources, Location};
use crate::lifecycle::Lifecycle;
use crate::telemetry::{JwksCounts, JwksOutcome, Metrics};

/// Follows every source that filters name, for as long as one does. Runs until the group drains.
pub async fn follow(sources: Arc<KeySources>, tasks: Lifecycle, metrics: Arc<Metrics>) {
    let mut drained = std::pin::pin!(tasks.drained());
    loop {
        let fresh = tokio::select! {
            fresh = sources.next() => fresh,
            () = &mut drained => return,
        };
        let counts = |source: &Arc<KeySource>| metrics.jwks(&source.settings.issuer);
        if let Some(source) = Weak::upgrade(&fresh) {
            let keeper = Keeper { counts: counts(&source), source, seen: None, trouble: None, backoff: FIRST };
            let (sources, drained) = (sources.clone(), tasks.drained());
            tasks.spawn("jwks", async move {
                tokio::select! {
                    () = keeper.keep(&sources) => {}
                    () = drained => {}
                }
            });
        }
    }
}

/// Keeps one source.
struct Keeper {
    source: Arc<KeySource>,
    counts: JwksCounts,
    /// SHA-256 of the text that the keys were read from.
    seen: Option<[u8; 32]>,
    /// The cause of the last failure, while it lasts.
    trouble: Option<String>,
    backoff: Duration,
}

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{path}: {cause}", path = .path.display())]
    File { path: PathBuf, cause: io::Error },
    #[error("{0}")]
    Tls(String),
    #[error("no answer: {0}")]
    Http(String),
    #[error("answered {0}")]
    Status(reqwest::StatusCode),
    #[error("more than 1 MiB")]
    TooLarge,
    #[error("the answer is no key set: {0}")]
    Malformed(String),
}

impl Keeper {
    /// Returns when no filter names the source any more.
    async fn keep(mut self, sources: &KeySources) {
        match self.source.settings.location.clone() {
            Location::Inline(_) => return,
            Location::File(path) => self.keep_file(&path, sources).await,
            Location::Uri { uri, ca_file } => self.keep_uri(&uri, ca_file.as_deref(), sources).await,
        }
        self.counts.forget();
    }

    async fn keep_file(&mut self, path: &Path, sources: &KeySources) {
        let mut watch = FileWatch::new(vec![path.to_owned()]);
        while !sources.release(&self.source) {
            let read = read_file(path).await;
            let pause = self.take(read).unwrap_or(self.source.settings.refresh);
            watch.changed(pause).await;
        }
    }

    async fn keep_uri(&mut self, uri: &str, ca_file: Option<&Path>, sources: &KeySources) {
        let mut urgent_from = tokio::time::Instant::now();
        while !sources.release(&self.source) {
            let answer = fetch(uri, ca_file).await;
            let jitter = 0.9 + fastrand::f64() / 5.0;
            let pause = self.take(answer).unwrap_or(self.source.settings.refresh.mul_f64(jitter));
            self.source.fetched(urgent_from.into_std());
            let source = self.source.clone();
            tokio::select! {
                () = sleep(pause) => {}
                () = async {
                    source.wanted().await;
                    sleep_until(urgent_from).await;
                } => urgent_from = tokio::time::Instant::now() + URGENT,
            }
        }
    }

    /// Publishes what was read. On a failure, says how long to wait before the next try.
    fn take(&mut self, read: Result<Vec<u8>, Failure>) -> Option<Duration> {
        let settings = &self.source.settings;
        let taken = read.and_then(|text| {
            let digest = digest_of(&text);
            if self.seen == Some(digest) {
                return Ok((None, digest));
            }
            let set = KeySet::parse(&text, &settings.algorithms).map_err(Failure::Malformed)?;
            Ok((Some(set), digest))
        });
        match taken {
            Ok((set, digest)) => {
                let outcome = if set.is_some() { JwksOutcome::Changed } else { JwksOutcome::Unchanged };
                if let Some(set) = &set {
                    tracing::info!(issuer = settings.issuer, keys = set.len(), "key set read");
                } else if self.trouble.is_some() {
                    tracing::info!(issuer = settings.issuer, "the key set can be read again");
                }
                self.source.store(set, Instant::now());
                self.counts.answered(outcome, seconds(SystemTime::now()));
                (self.seen, self.trouble, self.backoff) = (Some(digest), None, FIRST);
                None
            }
            Err(failure) => {
                self.counts.failed();
                let cause = failure.to_string();
                if self.trouble.as_ref() != Some(&cause) {
                    let left = if self.source.has_keys() { "the last one stays" } else { "tokens are answered 503" };
                    tracing::warn!(issuer = settings.issuer, cause, "the key set cannot be read; {left}");
                    self.trouble = Some(cause);
                }
                let pause = self.backoff.mul_f64(0.5 + fastrand::f64() / 2.0);
                self.backoff = (self.backoff * 2).min(LONGEST);
                Some(pause)
            }
        }
    }
}

async fn read_file(path: &Path) -> Result<Vec<u8>, Failure> {
    let fault = |cause| Failure::File { path: path.to_owned(), cause };
    let file = tokio::fs::File::open(path).await.map_err(fault)?;
    let mut text = Vec::new();
    file.take(BODY as u64 + 1).read_to_end(&mut text).await.map_err(fault)?;
    if text.len() > BODY { Err(Failure::TooLarge) } else { Ok(text) }
}

/// One GET, within 10 s. A client of its own each time: roots may have changed, and calls are few.
async fn fetch(uri: &str, ca_file: Option<&Path>) -> Result<Vec<u8>, Failure> {
    let client = reqwest::Client::builder()
        .tls_backend_preconfigured(tls(uri.starts_with("https:"), ca_file)?)
        .dns_resolver(Arc::new(Resolver))
        // HTTP_PROXY may well point at our own outbound listener, for the app's sake.
        .no_proxy()
        // Whoever answers for the issuer does not choose whom we ask.
        .redirect(reqwest::redirect::Policy::none())
        .user_agent(concat!("outrigger/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT)
        .timeout(WHOLE)
        .build()
        .map_err(|error| Failure::Http(root_cause(&error)))?;
    let http = |error: reqwest::Error| {
        Failure::Http(if error.is_timeout() { "the time was up".into() } else { root_cause(&error) })
    };
    let accept = "application/jwk-set+json, application/json";
    let mut response = client.get(uri).header("accept", accept).send().await.map_err(http)?;
    if response.status() != reqwest::StatusCode::OK {
        return Err(Failure::Status(response.status()));
    }
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(http)? {
        if body.len() + chunk.len() > BODY {
            return Err(Failure::TooLarge);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

fn tls(https: bool, ca_file: Option<&Path>) -> Result<ClientConfig, Failure> {
    let roots = if https { roots(ca_file)? } else { RootCertStore::empty() };
    let mut config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| Failure::Tls(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

fn roots(ca_file: Option<&Path>) -> Result<RootCertStore, Failure> {
    let mut roots = RootCertStore::empty();
    if let Some(path) = ca_file {
        let fault = |cause: &dyn std::fmt::Display| Failure::Tls(format!("{}: {cause}", path.display()));
        let found = CertificateDer::pem_file_iter(path).map_err(|error| fault(&error))?;
        for certificate in found {
            roots.add(certificate.map_err(|error| fault(&error))?).map_err(|error| fault(&error))?;
        }
    } else {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    }
    if roots.is_empty() {
        return Err(Failure::Tls("no root certificate to verify the server with; set jwks_ca_file".into()));
    }
    Ok(roots)
}

/// By `/etc/hosts` and DNS: the binary is static, so the C library's resolver cannot be relied on.
struct Resolver;

impl Resolve for Resolver {
    fn resolve(&self, name: reqwest::dns::Name) -> Resolving {
        Box::pin(async move {
            let found = crate::consul::addresses(name.as_str()).await?;
            // Port 0: the URL's port is used.
            let found: Vec<_> = found.into_iter().map(|address| SocketAddr::new(address, 0)).collect();
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

/// The innermost cause: reqwest's own text repeats the URL, with what the query holds.
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut deepest = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    deepest.to_string()
}

fn digest_of(text: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest::digest(&digest::SHA256, text).as_ref());
    out
}

fn seconds(time: SystemTime) -> f64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// Bytes of a key set.
const BODY: usize = 1 << 20;
const CONNECT: Duration = Duration::from_secs(5);
const WHOLE: Duration = Duration::from_secs(10);
/// Between two fetches that requests ask for.
const URGENT: Duration = Duration::from_secs(10);
/// Between tries that fail: doubling from here, each cut by up to half by chance.
const FIRST: Duration = Duration::from_millis(250);
const LONGEST: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::filter::jwt::{Algorithm, Source};

    const SET: &str = r#"{"keys":[{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;

    fn keeper(metrics: &Metrics) -> Keeper {
        let source = Arc::new(KeySource::new(Source {
            issuer: "id.test".into(),
            location: Location::File("keys".into()),
            algorithms: vec![Algorithm::EdDsa],
            refresh: Duration::from_secs(300),
            stale_for: Duration::from_secs(3600),
        }));
        Keeper { counts: metrics.jwks("id.test"), source, seen: None, trouble: None, backoff: FIRST }
    }

    #[test]
    fn failures_wait_longer_each_time_and_take_no_keys_away() {
        let metrics = Metrics::new();
        let mut keeper = keeper(&metrics);
        assert_eq!(keeper.take(Ok(SET.into())), None);
        for at in 0..20_u32 {
            let read = if at.is_multiple_of(2) { Ok(b"<html>".to_vec()) } else { Err(Failure::TooLarge) };
            let pause = keeper.take(read).expect("a pause");
            let full = (FIRST * 2_u32.pow(at.min(10))).min(LONGEST);
            assert!(pause >= full / 2 && pause <= full, "{at}: {pause:?}");
            assert!(keeper.source.has_keys());
        }
        assert_eq!(keeper.take(Ok(SET.into())), None);
        assert!(keeper.take(Ok(Vec::new())).expect("a pause") <= FIRST);
        let page = String::from_utf8(metrics.render()).unwrap();
        for (outcome, count) in [("changed", 1), ("unchanged", 1), ("failed", 21)] {
            let line = format!("outrigger_jwks_fetches_total{{issuer=\"id.test\",outcome=\"{outcome}\"}} {count}\n");
            assert!(page.contains(&line), "{page}");
        }
    }

    #[tokio::test]
    async fn files_are_read_up_to_a_mebibyte() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys");
        std::fs::write(&path, vec![b' '; BODY]).unwrap();
        assert_eq!(read_file(&path).await.unwrap().len(), BODY);
        std::fs::write(&path, vec![b' '; BODY + 1]).unwrap();
        assert!(matches!(read_file(&path).await, Err(Failure::TooLarge)));
        assert!(matches!(read_file(&dir.path().join("none")).await, Err(Failure::File { .. })));
    }

    #[test]
    fn roots_without_a_certificate_are_a_failure() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ca.pem");
        std::fs::write(&path, json!({}).to_string()).unwrap();
        assert!(tls(true, Some(&path)).is_err() && tls(false, Some(&path)).is_ok());
    }
}
