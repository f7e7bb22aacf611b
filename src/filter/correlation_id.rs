//! `correlation-id`: a request that has no id of its kind gets one, as Kong's plugin does it
//! (`kong/plugins/correlation-id/handler.lua`).

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use http::{HeaderName, HeaderValue};
use uuid::Uuid;

use super::{Answered, Call, Decision, Filter};

#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    pub header_name: HeaderName,
    pub generator: Generator,
    /// Whether the answer carries the id too.
    pub echo_downstream: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Generator {
    Uuid,
    /// One UUID as long as the plugin stands unchanged, `#`, and a number that grows.
    Counter,
    /// `ADDRESS-PORT-PID-PEERPORT-NUMBER-TIME`: where the request was accepted, of which process, from which port of its
    /// peer, its number, and seconds since 1970.
    Tracker,
}

pub(super) struct CorrelationId {
    settings: Settings,
    /// Of `Generator::Counter`.
    own: OnceLock<Uuid>,
    count: AtomicU64,
}

/// The id, for the answer.
#[derive(Clone)]
struct Correlation(HeaderValue);

impl CorrelationId {
    pub(super) fn new(settings: Settings) -> Self {
        Self { settings, own: OnceLock::new(), count: AtomicU64::new(0) }
    }

    fn make(&self, call: &Call<'_>) -> String {
        let number = self.count.fetch_add(1, Ordering::Relaxed) + 1;
        let since = call.wall.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
        // What this process draws, and when it drew: two requests share an id only if they share both.
        let drawn = || uuid(call.entropy, since.as_nanos() as u64 ^ number.rotate_left(40));
        match self.settings.generator {
            Generator::Uuid => drawn().to_string(),
            Generator::Counter => format!("{}#{number}", self.own.get_or_init(drawn)),
            Generator::Tracker => {
                let (local, pid) = (call.caller.local, std::process::id());
                let (address, seconds) = (local.ip().to_canonical(), since.as_secs_f64());
                format!("{address}-{}-{pid}-{}-{number}-{seconds:.3}", local.port(), call.caller.port)
            }
        }
    }
}

impl Filter for CorrelationId {
    fn request(&self, call: &mut Call<'_>) -> Decision {
        let name = &self.settings.header_name;
        let id = if let Some(id) = call.head.headers.get(name).filter(|id| !id.is_empty()) {
            id.clone()
        } else {
            let Ok(id) = HeaderValue::try_from(self.make(call)) else { return Decision::PASS };
            call.head.headers.insert(name, id.clone());
            id
        };
        if self.settings.echo_downstream {
            call.stash.insert(Correlation(id));
        }
        Decision::PASS
    }

    fn response(&self, answer: &mut Answered<'_>) {
        if let Some(Correlation(id)) = answer.stash.get() {
            answer.headers.insert(&self.settings.header_name, id.clone());
        }
    }
}

/// A random UUID (RFC 9562, version 4) of two numbers; the second is spread over all its bits (splitmix64).
fn uuid(first: u64, second: u64) -> Uuid {
    let mut z = second.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    let bits = u128::from(first) << 64 | u128::from(z ^ (z >> 31));
    uuid::Builder::from_random_bytes(bits.to_be_bytes()).into_uuid()
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::time::Instant;

    use http::{Extensions, Request};

    use super::super::Caller;
    use super::*;

    fn id(filter: &CorrelationId, given: Option<&'static str>, entropy: u64) -> (String, bool) {
        let (mut head, ()) = Request::new(()).into_parts();
        if let Some(given) = given {
            head.headers.insert("kong-request-id", HeaderValue::from_static(given));
        }
        let (caller, mut stash) = (Caller::at(Ipv4Addr::LOCALHOST), Extensions::new());
        let wall = SystemTime::UNIX_EPOCH + Duration::from_millis(1_500);
        let mut call = Call { head: &mut head, caller, stash: &mut stash, now: Instant::now(), wall, entropy };
        assert!(filter.request(&mut call).end.is_none());
        (head.headers["kong-request-id"].to_str().unwrap().to_owned(), stash.get::<Correlation>().is_some())
    }

    fn filter(generator: Generator, echo_downstream: bool) -> CorrelationId {
        let header_name = HeaderName::from_static("kong-request-id");
        CorrelationId::new(Settings { header_name, generator, echo_downstream })
    }

    #[test]
    fn an_id_that_is_there_stays() {
        let filter = filter(Generator::Uuid, true);
        assert_eq!(id(&filter, Some("mine"), 1), ("mine".into(), true));
        let (made, _) = id(&filter, Some(""), 1);
        assert_eq!(Uuid::parse_str(&made).unwrap().get_version_num(), 4);
    }

    #[test]
    fn ids_differ_though_chance_repeats() {
        let filter = filter(Generator::Uuid, false);
        let (first, second) = (id(&filter, None, 7), id(&filter, None, 7));
        assert!(first != second && !first.1);
    }

    #[test]
    fn counters_and_trackers_have_kongs_form() {
        let counter = filter(Generator::Counter, false);
        let (first, second) = (id(&counter, None, 1).0, id(&counter, None, 2).0);
        let (own, number) = first.split_once('#').unwrap();
        assert_eq!((number, second), ("1", format!("{own}#2")));
        let tracker = id(&filter(Generator::Tracker, false), None, 1).0;
        assert_eq!(tracker, format!("127.0.0.1-20000-{}-40000-1-1.500", std::process::id()));
    }
}
