//! What limiters have beyond one configuration: counters that survive a reload, stores outside this process, the number of
//! instances of our service.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use secrecy::{ExposeSecret, SecretString};

use super::counters::{Counters, Taken};
use super::{LimitBy, Policy, Quotas, Settings, Unit};

/// Shared by all rate limiters of a process, reloads included.
pub struct Limiters {
    service: Arc<str>,
    stores: Arc<dyn Stores>,
    fleet: Arc<Fleet>,
    /// Counters in use. What no chain uses any more is dropped at the next build.
    counters: Mutex<Vec<Kept>>,
}

/// Counters, by the scope that they belong to and by what is counted in them.
struct Kept {
    scope: Arc<str>,
    counted: Counted,
    counters: Weak<Counters>,
}

/// What two limiters must have in common to go on with each other's counters. A limit may change: what was used stays used.
#[derive(Debug, Clone, PartialEq)]
struct Counted {
    units: Vec<Unit>,
    limit_by: LimitBy,
    fleet: bool,
}

/// Counters outside this process.
pub trait SharedCounters: Send + Sync {
    /// Counts one request in each window, or in none where one of them is used up. Ends within the store's own timeout.
    fn take(&self, key: String, quotas: Quotas) -> BoxFuture<'static, Result<Taken, StoreError>>;
}

/// Opens stores. Equal settings may share a connection.
pub trait Stores: Send + Sync {
    fn redis(&self, settings: &RedisSettings) -> Arc<dyn SharedCounters>;
}

/// Why a store gave no answer. For the log alone.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("no answer within {0:?}")]
    Late(Duration),
    #[error("it failed a moment ago and is left alone for {0:?}")]
    Resting(Duration),
    #[error("{0}")]
    Failed(String),
}

/// Where a Redis is, and how it is spoken to.
#[derive(Debug, Clone)]
pub struct RedisSettings {
    pub host: String,
    pub port: u16,
    pub username: Option<String>,
    pub password: Option<SecretString>,
    pub database: u32,
    /// Of a whole question, a new connection included.
    pub timeout: Duration,
    pub ssl: bool,
    /// Whether its certificate must be good.
    pub ssl_verify: bool,
    /// PEM roots in place of the system's.
    pub ca_file: Option<PathBuf>,
}

impl PartialEq for RedisSettings {
    fn eq(&self, other: &Self) -> bool {
        let secret = |settings: &Self| settings.password.as_ref().map(|password| password.expose_secret().to_owned());
        let rest = |settings: &Self| {
            let Self { host, port, username, database, timeout, ssl, ssl_verify, ca_file, .. } = settings.clone();
            (host, port, username, database, timeout, (ssl, ssl_verify, ca_file))
        };
        rest(self) == rest(other) && secret(self) == secret(other)
    }
}

impl Limiters {
    #[must_use]
    pub fn new(service: &str, stores: Arc<dyn Stores>) -> Self {
        Self { service: service.into(), stores, fleet: Arc::default(), counters: Mutex::default() }
    }

    pub(super) fn service(&self) -> &str {
        &self.service
    }

    /// Told by whoever follows the registry.
    #[must_use]
    pub fn fleet(&self) -> Arc<Fleet> {
        self.fleet.clone()
    }

    pub(super) fn store(&self, redis: &RedisSettings) -> Arc<dyn SharedCounters> {
        self.stores.redis(redis)
    }

    /// Those of the limiter before this one, if it counted the same, else new ones.
    pub(super) fn counters(&self, scope: &str, settings: &Settings) -> Arc<Counters> {
        let counted = Counted {
            units: settings.limits.iter().map(|(unit, _)| *unit).collect(),
            limit_by: settings.limit_by.clone(),
            fleet: settings.policy == Policy::Fleet,
        };
        let mut kept = self.counters.lock();
        kept.retain(|one| one.counters.strong_count() > 0);
        let same = kept.iter().find(|one| *one.scope == *scope && one.counted == counted);
        if let Some(counters) = same.and_then(|one| one.counters.upgrade()) {
            return counters;
        }
        let counters = Arc::new(Counters::new(counted.units.len()));
        kept.push(Kept { scope: scope.into(), counted, counters: Arc::downgrade(&counters) });
        counters
    }
}

/// How many instances of our service are healthy, as last heard.
#[derive(Debug, Default)]
pub struct Fleet {
    instances: AtomicU32,
}

impl Fleet {
    /// At least 1: ourselves.
    #[must_use]
    pub fn instances(&self) -> u32 {
        self.instances.load(Ordering::Relaxed).max(1)
    }

    pub fn heard(&self, instances: usize) {
        self.instances.store(u32::try_from(instances).unwrap_or(u32::MAX), Ordering::Relaxed);
    }
}
