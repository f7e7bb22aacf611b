//! What ten thousand endpoints of one service cost in memory. A binary and a process of its own: what is measured is the
//! resident size of the process, which nothing else may change meanwhile.

use std::fs;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use outrigger::service::{Ask, Balance, Health, Listing, Policy, Service, Wire};

/// 12 MiB in all, the budget of a whole service: sets, picker, load, breaker, listing.
const MOST_KIB: u64 = 12 * 1024;

fn resident_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("Linux tells the size of a process");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS is told");
    line.trim().trim_end_matches(" kB").parse().expect("a number of kB")
}

/// As Consul lists them: an id and a zone each of its own, mTLS, weights.
fn listing(at: u32) -> Listing {
    Listing {
        id: format!("orders-7f9c5d8b-{at:05}-8080").into(),
        address: SocketAddr::from(((0x0a00_0000 + at).to_be_bytes(), 20_000)),
        weight: 1 + at % 3,
        health: Health::Passing,
        wire: Wire::Mesh { peer: "orders".parse().expect("a name"), ours: true },
        zone: Some(format!("zone-{}", at % 3).into()),
    }
}

#[test]
fn ten_thousand_endpoints_cost_less_than_twelve_mebibytes() {
    let mut kept = Vec::new();
    for balance in [Balance::LeastLoaded, Balance::RoundRobin, Balance::Random, Balance::RingHash, Balance::Maglev] {
        let before = resident_kib();
        let now = Instant::now();
        let policy = Policy { balance, zone: Some("zone-1".into()), ..Policy::default() };
        let service = Service::new("orders".parse().expect("a name"), policy, now);
        service.list((0..10_000).map(listing).collect(), now);
        // A renewed listing and a shut endpoint, so that what is made anew is paid for, too.
        service.list((0..10_000).map(|at| Listing { weight: 2 + at % 3, ..listing(at) }).collect(), now);
        let later = now + Duration::from_secs(1);
        for entropy in 0..100 {
            let lease = service.lease(&Ask { tried: &[], now: later, entropy, key: Some(entropy) }).expect("endpoints");
            lease.unreachable(later);
        }
        let cost = resident_kib() - before;
        println!("{balance:?}: {cost} KiB");
        assert!(cost < MOST_KIB, "{balance:?}: {cost} KiB");
        // Kept, so that the next one cannot live on what this one gave back.
        kept.push(service);
    }
}
