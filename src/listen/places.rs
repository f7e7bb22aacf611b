//! The places of a listener: so many connections at once, of which no one address gets all.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use parking_lot::Mutex;

/// Who has how many places now.
#[derive(Default)]
pub(super) struct Places(Mutex<Taken>);

#[derive(Default)]
struct Taken {
    all: usize,
    by_address: HashMap<IpAddr, usize>,
}

/// One connection's, until it is dropped.
pub(super) struct Place {
    places: Arc<Places>,
    address: IpAddr,
}

/// Why there is no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Full {
    #[error("the listener's cap on connections is reached")]
    Cap,
    #[error("the listener's last places are for addresses that have fewer connections")]
    Share,
}

impl Places {
    /// The last quarter of `most` places is for addresses that have fewer than `most / 64`: whoever takes all it can get
    /// leaves room for others. Not so where `fair` is false, because all callers have one address.
    pub(super) fn take(self: &Arc<Self>, address: IpAddr, most: usize, fair: bool) -> Result<Place, Full> {
        let address = holder(address);
        let mut taken = self.0.lock();
        if taken.all >= most {
            return Err(Full::Cap);
        }
        let few = taken.all < most - most / 4;
        let own = taken.by_address.get(&address).copied().unwrap_or_default();
        if fair && !few && own >= (most / 64).max(1) {
            return Err(Full::Share);
        }
        taken.all += 1;
        taken.by_address.insert(address, own + 1);
        drop(taken);
        Ok(Place { places: self.clone(), address })
    }
}

impl Place {
    /// From a load balancer to the client that it speaks for, under the same rule.
    pub(super) fn pass_to(&mut self, client: IpAddr, most: usize) -> Result<(), Full> {
        let client = holder(client);
        let mut taken = self.places.0.lock();
        let few = taken.all <= most - most / 4;
        let own = taken.by_address.get(&client).copied().unwrap_or_default();
        if client != self.address && !few && own >= (most / 64).max(1) {
            return Err(Full::Share);
        }
        taken.release(self.address);
        *taken.by_address.entry(client).or_default() += 1;
        drop(taken);
        self.address = client;
        Ok(())
    }
}

impl Taken {
    fn release(&mut self, address: IpAddr) {
        if let Some(own) = self.by_address.get_mut(&address) {
            *own -= 1;
            if *own == 0 {
                self.by_address.remove(&address);
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.0.lock();
        taken.all -= 1;
        taken.release(self.address);
    }
}

/// Whoever has one IPv6 address has all of its /64.
fn holder(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from(u128::from(address) & !u128::from(u64::MAX)).into(),
        IpAddr::V4(address) => address.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(places: &Arc<Places>, address: &str, most: usize) -> Result<Place, Full> {
        places.take(address.parse().unwrap(), most, true)
    }

    #[test]
    fn one_address_gets_three_quarters_and_others_still_get_in() {
        let places = Arc::new(Places::default());
        let greedy: Vec<_> = (0..100).map_while(|_| take(&places, "10.0.0.1", 100).ok()).collect();
        assert_eq!(greedy.len(), 75);
        assert_eq!(take(&places, "10.0.0.1", 100).err(), Some(Full::Share));
        let others: Vec<_> = (2..27).map(|at| take(&places, &format!("10.0.0.{at}"), 100).unwrap()).collect();
        assert_eq!(others.len(), 25);
        assert_eq!(take(&places, "10.0.0.99", 100).err(), Some(Full::Cap));
        drop(greedy);
        assert!(take(&places, "10.0.0.1", 100).is_ok());
        drop(others);
        assert!(places.0.lock().by_address.is_empty(), "memory does not grow with addresses that were here once");
    }

    #[test]
    fn behind_a_load_balancer_the_clients_share() {
        let places = Arc::new(Places::default());
        let balanced = |client: &str| {
            let mut place = places.take("10.0.0.1".parse().unwrap(), 100, false)?;
            place.pass_to(client.parse().unwrap(), 100).map(|()| place)
        };
        let greedy: Vec<_> = (0..100).map_while(|_| balanced("192.0.2.1").ok()).collect();
        assert_eq!(greedy.len(), 75);
        assert_eq!(balanced("192.0.2.1").err(), Some(Full::Share));
        let others: Vec<_> = (2..27).map(|at| balanced(&format!("192.0.2.{at}")).unwrap()).collect();
        assert_eq!((others.len(), balanced("192.0.2.99").err()), (25, Some(Full::Cap)));
        drop((greedy, others));
        assert!(places.0.lock().by_address.is_empty());
        let mut own = places.take("10.0.0.1".parse().unwrap(), 1, false).unwrap();
        own.pass_to("10.0.0.1".parse().unwrap(), 1).unwrap();
        drop(own);
        assert!(places.0.lock().by_address.is_empty());
    }

    #[test]
    fn the_addresses_of_one_network_count_as_one() {
        let places = Arc::new(Places::default());
        let most = 8;
        let held: Vec<_> = (0..most).map_while(|at| take(&places, &format!("2001:db8::{at}"), most).ok()).collect();
        assert_eq!(held.len(), 6);
        assert!(take(&places, "2001:db8:0:1::1", most).is_ok());
        assert_eq!(take(&places, "::ffff:10.0.0.1", most).map(|place| place.address), Ok("10.0.0.1".parse().unwrap()));
    }

    #[test]
    fn where_all_callers_have_one_address_it_gets_all() {
        let places = Arc::new(Places::default());
        let local = "127.0.0.1".parse().unwrap();
        let held: Vec<_> = (0..100).map_while(|_| places.take(local, 100, false).ok()).collect();
        assert_eq!(held.len(), 100);
        assert_eq!(places.take(local, 100, false).err(), Some(Full::Cap));
    }

    #[test]
    fn a_small_cap_is_nobodys_share() {
        let places = Arc::new(Places::default());
        let held: Vec<_> = (0..3).map(|_| take(&places, "10.0.0.1", 3).unwrap()).collect();
        assert_eq!(take(&places, "10.0.0.1", 3).err(), Some(Full::Cap));
        drop(held);
    }
}
