//! Who still speaks plain text to a permissive listener: what must be mended before it can turn strict.

use std::collections::BTreeMap;
use std::net::IpAddr;

use parking_lot::Mutex;

/// Connections by peer address, for at most `MOST` addresses; the rest are counted together.
#[derive(Default)]
pub struct PlainPeers {
    counts: Mutex<BTreeMap<IpAddr, u64>>,
    others: Mutex<u64>,
}

impl PlainPeers {
    pub(super) fn note(&self, peer: IpAddr) {
        let mut counts = self.counts.lock();
        let room = counts.len() < MOST;
        match counts.get_mut(&peer) {
            Some(count) => *count += 1,
            None if room => {
                counts.insert(peer, 1);
                tracing::info!(%peer, "a peer speaks plain text; a strict listener would refuse it");
            }
            None => *self.others.lock() += 1,
        }
    }

    /// Connections so far by address; `others` for those beyond the first thousand addresses.
    pub fn counts(&self) -> BTreeMap<String, u64> {
        let mut counts: BTreeMap<_, _> =
            self.counts.lock().iter().map(|(peer, count)| (peer.to_string(), *count)).collect();
        let others = *self.others.lock();
        if others > 0 {
            counts.insert("others".into(), others);
        }
        counts
    }
}

/// An outsider chooses its address: memory must not grow with them.
const MOST: usize = 1000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_are_counted_by_address_in_bounded_memory() {
        let peers = PlainPeers::default();
        for at in 0..1500u32 {
            peers.note(IpAddr::from(at.to_be_bytes()));
            peers.note(IpAddr::from([0, 0, 0, 7]));
        }
        let counts = peers.counts();
        assert_eq!((counts.len(), counts["0.0.0.7"], counts["others"]), (1001, 1501, 500));
    }
}
