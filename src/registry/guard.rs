//! What of a registry's answer is believed. An answer that takes endpoints away at a suspicious moment waits for a
//! second one. Time comes in as an argument.

use std::time::Duration;

use tokio::time::Instant;

use crate::service::{Health, Listing};

/// How long "nothing usable" waits for its confirmation while the registry is healthy.
const HOLD: Duration = Duration::from_secs(1);
/// How long after a reconnect an answer may only add and improve. A restarted dev agent answers `200 []` until each
/// sidecar's heartbeat (5 s at the default TTL of 15 s) has found out and registered again, at first as critical.
const SETTLE: Duration = Duration::from_secs(10);

/// The believed listing and the doubts about the newest answer.
#[derive(Debug, Default)]
pub(super) struct Guard {
    /// Sorted by `key`, no key twice.
    believed: Option<Vec<Listing>>,
    settling_until: Option<Instant>,
    /// When the unbroken run of answers with nothing usable began.
    unusable_since: Option<Instant>,
    recheck_at: Option<Instant>,
}

/// How an answer came about.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked {
    pub(super) at: Instant,
    /// Asked at START: read anew, no version compared.
    pub(super) fresh: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The first listing, or another than before.
    Changed,
    Same,
    /// Not believed yet; ask again at `recheck_at`.
    Held,
}

impl Guard {
    pub(super) fn believed(&self) -> Option<&[Listing]> {
        self.believed.as_deref()
    }

    /// When to ask once more at START, whatever else happens.
    pub(super) fn recheck_at(&self) -> Option<Instant> {
        self.recheck_at
    }

    /// Takes what an earlier life of this process believed.
    pub(super) fn restore(&mut self, listings: Vec<Listing>) {
        self.believed = Some(in_order(listings));
    }

    /// An error breaks the run of answers: a later confirmation must be of answers after it.
    pub(super) fn failed(&mut self) {
        self.unusable_since = None;
        self.recheck_at = None;
    }

    /// The registry answers again after errors, or began anew (its index went back).
    pub(super) fn reconnected(&mut self, now: Instant) {
        if self.believed().is_some_and(usable) {
            self.settling_until = Some(now + SETTLE);
        }
    }

    pub(super) fn judge(&mut self, answer: Vec<Listing>, asked: Asked, now: Instant) -> Verdict {
        let answer = in_order(answer);
        if self.recheck_at.is_some_and(|at| asked.fresh && asked.at >= at) {
            self.recheck_at = None;
        }
        let Some(believed) = self.believed.as_deref() else {
            return self.believe(answer);
        };
        if usable(&answer) {
            self.unusable_since = None;
        } else {
            self.unusable_since = self.unusable_since.or(Some(now));
        }
        if let Some(until) = self.settling_until.filter(|until| now < *until) {
            let merged = only_better(believed, &answer);
            let verdict = if merged == answer { Verdict::Same } else { Verdict::Held };
            self.recheck_at = (verdict == Verdict::Held).then_some(until);
            return match self.believe(merged) {
                Verdict::Same => verdict,
                other => other,
            };
        }
        self.settling_until = None;
        if usable(believed)
            && let Some(since) = self.unusable_since
            && !(asked.fresh && asked.at >= since + HOLD)
        {
            self.recheck_at = Some((since + HOLD).max(now));
            return Verdict::Held;
        }
        self.recheck_at = None;
        self.believe(answer)
    }

    fn believe(&mut self, listings: Vec<Listing>) -> Verdict {
        if self.believed.as_ref() == Some(&listings) {
            return Verdict::Same;
        }
        self.believed = Some(listings);
        Verdict::Changed
    }
}

/// Whether at least one endpoint may be given traffic.
pub(super) fn usable(listings: &[Listing]) -> bool {
    listings.iter().any(|one| one.health != Health::Critical)
}

/// The answer, with what it lacks kept, and with what it calls critical kept as it was.
fn only_better(believed: &[Listing], answer: &[Listing]) -> Vec<Listing> {
    let mut merged = answer.to_vec();
    for old in believed {
        match merged.iter_mut().find(|new| key(new) == key(old)) {
            Some(new) if new.health == Health::Critical => *new = old.clone(),
            Some(_) => {}
            None => merged.push(old.clone()),
        }
    }
    in_order(merged)
}

/// What identifies an endpoint.
fn key(listing: &Listing) -> (&str, std::net::SocketAddr) {
    (&listing.id, listing.address)
}

/// Registries promise no order (Consul's DNS shuffles): content is compared in one of our own.
fn in_order(mut listings: Vec<Listing>) -> Vec<Listing> {
    listings.sort_by(|a, b| key(a).cmp(&key(b)));
    listings.dedup_by(|a, b| key(a) == key(b));
    listings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::Wire;

    fn listing(id: &str, health: Health) -> Listing {
        let port = id.bytes().map(u16::from).sum();
        let address = ([127, 0, 0, 1], port).into();
        Listing { id: id.into(), address, weight: 1, health, wire: Wire::Plain, zone: None }
    }

    fn passing(ids: &[&str]) -> Vec<Listing> {
        ids.iter().map(|id| listing(id, Health::Passing)).collect()
    }

    fn ids(guard: &Guard) -> Vec<&str> {
        guard.believed().unwrap().iter().map(|one| &*one.id).collect()
    }

    fn blocking(at: Instant) -> Asked {
        Asked { at, fresh: false }
    }

    fn fresh(at: Instant) -> Asked {
        Asked { at, fresh: true }
    }

    #[test]
    fn a_first_empty_answer_is_an_answer() {
        let now = Instant::now();
        let mut guard = Guard::default();
        assert_eq!(guard.judge(vec![], fresh(now), now), Verdict::Changed);
        assert_eq!(guard.believed(), Some(&[][..]));
        assert_eq!(guard.judge(vec![], blocking(now), now), Verdict::Same);
    }

    #[test]
    fn another_order_is_no_change() {
        let now = Instant::now();
        let mut guard = Guard::default();
        guard.judge(passing(&["a", "b", "c"]), fresh(now), now);
        assert_eq!(guard.judge(passing(&["c", "a", "b"]), blocking(now), now), Verdict::Same);
        assert_eq!(guard.judge(passing(&["c", "a"]), blocking(now), now), Verdict::Changed);
    }

    #[test]
    fn an_empty_answer_is_believed_when_a_fresh_one_confirms_it_a_second_later() {
        let now = Instant::now();
        let mut guard = Guard::default();
        guard.judge(passing(&["a"]), fresh(now), now);
        assert_eq!(guard.judge(vec![], blocking(now), now), Verdict::Held);
        assert_eq!(guard.recheck_at(), Some(now + HOLD));
        let early = now + HOLD / 2;
        assert_eq!(guard.judge(vec![], fresh(early), early), Verdict::Held, "too early to confirm");
        let later = now + HOLD;
        assert_eq!(guard.judge(vec![], blocking(now), later), Verdict::Held, "asked before the hold was over");
        assert_eq!(guard.judge(vec![], fresh(later), later), Verdict::Changed);
        assert_eq!((ids(&guard), guard.recheck_at()), (vec![], None));
    }

    #[test]
    fn all_critical_is_doubted_like_empty() {
        let now = Instant::now();
        let mut guard = Guard::default();
        guard.judge(passing(&["a"]), fresh(now), now);
        assert_eq!(guard.judge(vec![listing("a", Health::Critical)], blocking(now), now), Verdict::Held);
        assert_eq!(guard.believed().unwrap()[0].health, Health::Passing);
        let later = now + HOLD;
        assert_eq!(guard.judge(vec![listing("a", Health::Critical)], fresh(later), later), Verdict::Changed);
        assert_eq!(guard.judge(vec![], blocking(later), later), Verdict::Changed, "nothing usable is lost by it");
    }

    #[test]
    fn a_usable_answer_ends_the_doubt_at_once() {
        let now = Instant::now();
        let mut guard = Guard::default();
        guard.judge(passing(&["a"]), fresh(now), now);
        guard.judge(vec![], blocking(now), now);
        assert_eq!(guard.judge(passing(&["b"]), blocking(now), now), Verdict::Changed);
        assert_eq!((ids(&guard), guard.recheck_at()), (vec!["b"], None));
        let later = now + HOLD * 2;
        assert_eq!(guard.judge(vec![], fresh(later), later), Verdict::Held, "a new doubt has a hold of its own");
    }

    #[test]
    fn an_error_between_two_empty_answers_is_no_confirmation() {
        let now = Instant::now();
        let mut guard = Guard::default();
        guard.judge(passing(&["a"]), fresh(now), now);
        guard.judge(vec![], blocking(now), now);
        guard.failed();
        let later = now + HOLD * 2;
        assert_eq!(guard.judge(vec![], fresh(later), later), Verdict::Held);
    }

    #[test]
    fn after_a_reconnect_an_answer_only_adds_until_things_have_settled() {
        let now = Instant::now();
        let mut guard = Guard::default();
        guard.judge(passing(&["a", "b"]), fresh(now), now);
        guard.failed();
        guard.reconnected(now);
        assert_eq!(guard.judge(vec![], fresh(now), now), Verdict::Held);
        let later = now + HOLD * 3;
        assert_eq!(guard.judge(vec![], fresh(later), later), Verdict::Held, "longer than an ordinary hold");
        let half = vec![listing("a", Health::Critical), listing("c", Health::Passing)];
        assert_eq!(guard.judge(half.clone(), blocking(later), later), Verdict::Changed);
        assert_eq!(ids(&guard), ["a", "b", "c"]);
        assert_eq!(guard.believed().unwrap()[0].health, Health::Passing, "registered again, not yet probed");
        assert_eq!(guard.recheck_at(), Some(now + SETTLE));
        let settled = now + SETTLE;
        assert_eq!(guard.judge(half, fresh(settled), settled), Verdict::Changed);
        assert_eq!((ids(&guard), guard.recheck_at()), (vec!["a", "c"], None));
    }

    #[test]
    fn still_empty_when_settled_is_believed() {
        let now = Instant::now();
        let mut guard = Guard::default();
        guard.restore(passing(&["a"]));
        guard.reconnected(now);
        assert_eq!(guard.judge(vec![], fresh(now), now), Verdict::Held);
        let settled = now + SETTLE;
        assert_eq!(guard.judge(vec![], fresh(settled), settled), Verdict::Changed);
        assert_eq!(ids(&guard), Vec::<&str>::new());
    }
}
