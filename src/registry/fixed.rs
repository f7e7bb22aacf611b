//! Endpoints that the config file lists. Addresses are answered at once; names are looked up, and again every minute.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, join_all, pending};
use parking_lot::Mutex;
use tokio::time::{Instant, sleep_until};

use super::known::Known;
use super::{Mark, Registry, RegistryError, dns};
use crate::names::ServiceName;
use crate::service::{Health, Listing, Wire};

/// Between two look-ups of the same names.
const REFRESH: Duration = Duration::from_mins(1);
/// The same while a name has never been found.
const RETRY: Duration = Duration::from_secs(5);

/// A registry of a fixed list.
pub struct FixedWatch {
    endpoints: Vec<(String, u16)>,
    wire: Wire,
    watch: String,
    state: Mutex<State>,
}

struct State {
    mark: u64,
    /// `None`: addresses only, nothing can change.
    ask_at: Option<Instant>,
    known: Known<Vec<IpAddr>>,
}

impl FixedWatch {
    /// `endpoints` are hosts (IP addresses or names) with ports; `wire` is how all of them are spoken to.
    #[must_use]
    pub fn new(service: &ServiceName, endpoints: Vec<(String, u16)>, wire: Wire) -> Self {
        let watch = format!("fixed/{service}");
        let state = State { mark: 0, ask_at: None, known: Known::new(watch.clone()) };
        Self { endpoints, wire, watch, state: Mutex::new(state) }
    }

    async fn read(&self, seen: Mark) -> Result<(Mark, Vec<Listing>), RegistryError> {
        if seen != Mark::START {
            let ask_at = self.state.lock().ask_at;
            match ask_at {
                Some(at) => sleep_until(at).await,
                None => pending().await,
            }
        }
        let outcomes = join_all(self.endpoints.iter().map(|(host, _)| dns::host_addresses(host))).await;
        let mut state = self.state.lock();
        let mut listings = Vec::new();
        let mut unknown = None;
        for ((host, port), outcome) in self.endpoints.iter().zip(outcomes) {
            let cause = outcome.as_ref().err().map(ToString::to_string);
            match state.known.settle(host, outcome) {
                Some(addresses) => {
                    listings.extend(addresses.iter().map(|ip| self.listing(SocketAddr::new(*ip, *port))));
                }
                None => unknown = cause.map(|cause| RegistryError::Dns { name: host.clone(), cause }),
            }
        }
        let names = self.endpoints.iter().any(|(host, _)| dns::literal(host).is_none());
        let refresh = if unknown.is_some() { RETRY } else { REFRESH };
        state.ask_at = names.then(|| Instant::now() + refresh);
        if let Some(error) = unknown.filter(|_| listings.is_empty()) {
            return Err(error);
        }
        state.mark += 1;
        Ok((Mark(state.mark), listings))
    }

    fn listing(&self, address: SocketAddr) -> Listing {
        Listing {
            id: address.to_string().into(),
            address,
            weight: 1,
            health: Health::Passing,
            wire: self.wire.clone(),
            zone: None,
        }
    }
}

impl Registry for FixedWatch {
    fn next(&self, seen: Mark) -> BoxFuture<'_, Result<(Mark, Vec<Listing>), RegistryError>> {
        self.read(seen).boxed()
    }

    fn describe(&self) -> String {
        self.watch.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fixed(endpoints: &[(&str, u16)]) -> FixedWatch {
        let service = ServiceName::parse("orders").unwrap();
        let endpoints = endpoints.iter().map(|(host, port)| ((*host).to_owned(), *port)).collect();
        FixedWatch::new(&service, endpoints, Wire::Plain)
    }

    #[tokio::test(start_paused = true)]
    async fn addresses_are_listed_at_once_and_never_asked_for_again() {
        let watch = fixed(&[("10.0.0.5", 80), ("::1", 81), ("[fd00::1]", 82)]);
        assert_eq!(watch.describe(), "fixed/orders");
        let (mark, listings) = watch.next(Mark::START).await.unwrap();
        let ids: Vec<_> = listings.iter().map(|listing| listing.id.to_string()).collect();
        assert_eq!(ids, ["10.0.0.5:80", "[::1]:81", "[fd00::1]:82"]);
        let more = tokio::time::timeout(Duration::from_secs(1_000_000), watch.next(mark)).await;
        assert!(more.is_err(), "nothing can change");
    }

    #[tokio::test(start_paused = true)]
    async fn names_are_looked_up_again_after_a_minute() {
        let watch = fixed(&[("localhost", 80)]);
        let (mark, listings) = watch.next(Mark::START).await.unwrap();
        assert_eq!(listings.iter().map(|one| one.address.to_string()).collect::<Vec<_>>(), ["127.0.0.1:80"]);
        let before = Instant::now();
        let (next, again) = watch.next(mark).await.unwrap();
        assert_eq!(before.elapsed().as_secs(), 60);
        assert_eq!(again, listings);
        assert!(next > mark);
    }

    #[tokio::test]
    async fn a_name_that_cannot_be_found_hides_no_other_endpoint() {
        let watch = fixed(&[("10.0.0.5", 80), ("nowhere.invalid", 80)]);
        let (_, listings) = watch.next(Mark::START).await.unwrap();
        assert_eq!(listings.len(), 1);
        let alone = fixed(&[("nowhere.invalid", 80)]);
        assert!(matches!(alone.next(Mark::START).await, Err(RegistryError::Dns { .. })));
    }
}
