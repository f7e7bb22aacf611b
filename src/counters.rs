//! Counters that several sidecars share, in Redis: one atomic script a question, a bounded wait, no pile of waiting requests
//! while it is silent.

use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::{Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, RedisConnectionInfo, Script, TlsCertificates};
use secrecy::ExposeSecret;
use smallvec::SmallVec;

use crate::filter::rate_limiting::{Quota, RedisSettings, SharedCounters, StoreError, Stores, Taken};

/// One connection for each Redis that is configured, opened by the first question, kept while any limiter uses it.
#[derive(Default)]
pub struct Redises {
    open: Mutex<Vec<(RedisSettings, Weak<Redis>)>>,
}

struct Redis {
    settings: RedisSettings,
    script: Script,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Reconnects by itself after a connection broke.
    manager: Option<ConnectionManager>,
    /// Questions in a row that got no answer in time.
    late: u32,
    /// While it gives no answers, one question at a time finds out whether it does again.
    resting_until: Option<Instant>,
}

impl Stores for Redises {
    fn redis(&self, settings: &RedisSettings) -> Arc<dyn SharedCounters> {
        let mut open = self.open.lock();
        open.retain(|(_, redis)| redis.strong_count() > 0);
        let same = open.iter().find(|(of, _)| of == settings);
        if let Some(redis) = same.and_then(|(_, redis)| redis.upgrade()) {
            return Arc::new(Handle(redis));
        }
        let redis = Arc::new(Redis { settings: settings.clone(), script: Script::new(TAKE), state: Mutex::default() });
        open.push((settings.clone(), Arc::downgrade(&redis)));
        Arc::new(Handle(redis))
    }
}

/// A question outlives its limiter.
struct Handle(Arc<Redis>);

impl SharedCounters for Handle {
    fn take(&self, key: String, quotas: SmallVec<[Quota; 3]>) -> BoxFuture<'static, Result<Taken, StoreError>> {
        let redis = self.0.clone();
        async move {
            redis.wakes(Instant::now())?;
            let limit = redis.settings.timeout;
            let answer = match tokio::time::timeout(limit, redis.ask(&key, &quotas)).await {
                Ok(Ok(answer)) => taken(&answer, quotas.len()),
                Ok(Err(error)) => Err(StoreError::Failed(error.to_string())),
                Err(_) => Err(StoreError::Late(limit)),
            };
            redis.heard(answer.as_ref().err(), Instant::now());
            answer
        }
        .boxed()
    }
}

impl Redis {
    /// Whether it may be asked now.
    fn wakes(&self, now: Instant) -> Result<(), StoreError> {
        let mut state = self.state.lock();
        match state.resting_until {
            Some(until) if now < until => Err(StoreError::Resting(REST)),
            Some(_) => {
                // This question finds out; the others leave it alone meanwhile.
                state.resting_until = Some(now + self.settings.timeout + REST);
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn heard(&self, error: Option<&StoreError>, now: Instant) {
        let mut state = self.state.lock();
        if let Some(StoreError::Late(_)) = error {
            state.late += 1;
            if state.late >= LATE {
                state.resting_until = Some(now + REST);
                // A connection that leads nowhere would be believed until TCP gives it up.
                state.manager = None;
            }
        } else {
            // An error is an answer, and it came at once.
            state.late = 0;
            state.resting_until = None;
        }
    }

    async fn ask(&self, key: &str, quotas: &[Quota]) -> redis::RedisResult<Vec<i64>> {
        let mut manager = self.manager()?;
        let mut question = self.script.prepare_invoke();
        for Quota { unit, limit, window } in quotas {
            // The braces keep all windows of a caller in one slot of a cluster.
            question.key(format!("outrigger:{{{key}}}:{}:{}", unit.as_str(), window.start));
            question.arg(limit).arg(window.end - window.start + SLACK);
        }
        question.invoke_async(&mut manager).await
    }

    fn manager(&self) -> redis::RedisResult<ConnectionManager> {
        let mut state = self.state.lock();
        if let Some(manager) = &state.manager {
            return Ok(manager.clone());
        }
        let config = ConnectionManagerConfig::new()
            // Whoever asks bounds the time; a connection that is still being made then is given up a little later.
            .set_response_timeout(None)
            .set_connection_timeout(Some(self.settings.timeout + REST))
            // Every question that finds no connection tries anew.
            .set_number_of_retries(0);
        let manager = ConnectionManager::new_lazy_with_config(client(&self.settings)?, config)?;
        state.manager = Some(manager.clone());
        Ok(manager)
    }
}

fn client(settings: &RedisSettings) -> redis::RedisResult<Client> {
    let mut login = RedisConnectionInfo::default().set_db(settings.database.into()).set_skip_set_lib_name();
    if let Some(username) = &settings.username {
        login = login.set_username(username);
    }
    if let Some(password) = &settings.password {
        login = login.set_password(password.expose_secret());
    }
    let (host, port) = (settings.host.clone(), settings.port);
    let info = |address: ConnectionAddr| -> redis::RedisResult<ConnectionInfo> {
        Ok(address.into_connection_info()?.set_redis_settings(login))
    };
    if !settings.ssl {
        return Client::open(info(ConnectionAddr::Tcp(host, port))?);
    }
    let address = ConnectionAddr::TcpTls { host, port, insecure: !settings.ssl_verify, tls_params: None };
    let root_cert = settings.ca_file.as_ref().map(read).transpose()?;
    Client::build_with_tls(info(address)?, TlsCertificates { client_tls: None, root_cert })
}

fn read(path: &PathBuf) -> redis::RedisResult<Vec<u8>> {
    fs::read(path).map_err(|error| std::io::Error::new(error.kind(), format!("{}: {error}", path.display())).into())
}

fn taken(answer: &[i64], windows: usize) -> Result<Taken, StoreError> {
    match answer {
        [granted, used @ ..] if used.len() == windows => {
            let used = used.iter().map(|used| u32::try_from(*used).unwrap_or(u32::MAX)).collect();
            Ok(Taken { granted: *granted == 1, used, shared: false })
        }
        _ => Err(StoreError::Failed("an answer of another shape".into())),
    }
}

/// Redis runs a script as a whole. What one window refuses, no other counts.
const TAKE: &str = r"
local answer, granted = {0}, true
for at = 1, #KEYS do
  answer[at + 1] = tonumber(redis.call('GET', KEYS[at]) or 0)
  granted = granted and answer[at + 1] < tonumber(ARGV[2 * at - 1])
end
if granted then
  answer[1] = 1
  for at = 1, #KEYS do
    answer[at + 1] = redis.call('INCR', KEYS[at])
    if answer[at + 1] == 1 then redis.call('EXPIRE', KEYS[at], ARGV[2 * at]) end
  end
end
return answer
";

/// Seconds that a counter outlives its window, as clocks differ.
const SLACK: u64 = 10;
/// After so many questions in a row without an answer in time it is left alone for `REST`.
const LATE: u32 = 3;
const REST: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    fn silent() -> RedisSettings {
        RedisSettings {
            host: "127.0.0.1".into(),
            port: 1,
            username: None,
            password: None,
            database: 0,
            timeout: Duration::from_millis(100),
            ssl: false,
            ssl_verify: true,
            ca_file: None,
        }
    }

    #[test]
    fn a_silent_store_is_left_alone_and_asked_by_one_at_a_time() {
        let redis = Redis { settings: silent(), script: Script::new(TAKE), state: Mutex::default() };
        let start = Instant::now();
        let late = StoreError::Late(Duration::from_millis(100));
        for _ in 0..LATE {
            assert!(redis.wakes(start).is_ok());
            redis.heard(Some(&late), start);
        }
        assert!(matches!(redis.wakes(start), Err(StoreError::Resting(_))));
        let later = start + REST;
        assert!(redis.wakes(later).is_ok(), "one finds out");
        assert!(redis.wakes(later).is_err(), "and only one");
        redis.heard(Some(&late), later);
        assert!(redis.wakes(later).is_err());
        let again = later + REST;
        assert!(redis.wakes(again).is_ok());
        redis.heard(None, again);
        assert!(redis.wakes(again).is_ok() && redis.wakes(again).is_ok());
    }

    #[test]
    fn one_late_answer_is_no_reason_to_rest() {
        let redis = Redis { settings: silent(), script: Script::new(TAKE), state: Mutex::default() };
        let now = Instant::now();
        for _ in 0..10 {
            redis.heard(Some(&StoreError::Late(Duration::ZERO)), now);
            redis.heard(Some(&StoreError::Failed("refused".into())), now);
            assert!(redis.wakes(now).is_ok());
        }
    }

    #[test]
    fn equal_settings_share_a_connection() {
        let redises = Redises::default();
        let (a, b) = (redises.redis(&silent()), redises.redis(&silent()));
        assert_eq!(redises.open.lock().len(), 1);
        let other = RedisSettings { password: Some("s3cret".to_owned().into()), ..silent() };
        let c = redises.redis(&other);
        assert_eq!(redises.open.lock().len(), 2);
        drop((a, b, c));
        let _d = redises.redis(&silent());
        assert_eq!(redises.open.lock().len(), 1);
    }

    #[test]
    fn an_answer_must_have_its_shape() {
        let taken = taken(&[1, 3, 7], 2).unwrap();
        assert_eq!((taken.granted, &taken.used[..]), (true, &[3, 7][..]));
        assert!(super::taken(&[1, 3], 2).is_err() && super::taken(&[], 0).is_err());
    }
}
