//! A breaker per endpoint: closed, open for a while, half-open with exactly one real request, closed again. One atomic
//! word is the truth; time comes in as milliseconds since the service's epoch.

use std::time::Duration;

use super::gate::Gate;
use super::policy::BreakerPolicy;
use super::sync::{AtomicU32, AtomicU64, Ordering};
use super::window::Window;

/// What became of an endpoint's breaker, for the log and the count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transition {
    pub to: BreakerState,
    pub cause: Cause,
    /// How long an ejection lasts; zero for the other states.
    pub open_for: Duration,
}

/// States of a breaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BreakerState {
    Closed,
    Open,
    HalfOpen,
}

/// Why a breaker changed its state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// Too many failures in a row.
    Consecutive,
    /// Too large a share of failures.
    ErrorRate,
    /// No connection could be made: left out at once for a short while, beside the breaker.
    Unreachable,
    /// The pause is over: one request probes.
    Due,
    /// The probe was answered well.
    ProbeSucceeded,
    ProbeFailed,
    /// The registry has seen it recover.
    Recovered,
}

/// What an operator sees of a breaker.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BreakerView {
    pub state: BreakerState,
    /// Failures in a row since the last good answer.
    pub consecutive: u32,
    /// Failures over answers within the window, 0.0 to 1.0; 0.0 without answers.
    pub error_rate: f64,
    /// Answers and failures within the window.
    pub requests: u64,
    /// Since the endpoint was first listed.
    pub ejections: u32,
    /// Until a request may probe; zero where it is not open, or due.
    pub open_for_remaining: Duration,
}

/// How a request that was sent to an endpoint counts for its breaker. It names the state that it left in, so that a late
/// answer neither closes nor opens a breaker that has moved on since.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ticket {
    /// Left while the breaker was closed.
    Counted(u32),
    /// The one request of a half-open breaker.
    Probe(u32),
    /// Sent to an ejected endpoint as all were ejected: says nothing.
    Uncounted,
}

/// Failures of one endpoint and what follows from them. It outlives changes of the endpoint set.
pub struct Breaker {
    /// State (2 bits), generation (22 bits, one more with each change of state), end of the ejection (40 bits).
    word: AtomicU64,
    consecutive: AtomicU32,
    window: Window,
    /// Ejections ever.
    ejections: AtomicU32,
    /// Ejections that the length of the next one is doubled for.
    streak: AtomicU32,
    /// When it was last closed.
    healthy_since: AtomicU64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Closed,
    Open,
    HalfOpen,
    /// The registry has left the endpoint out; `until` tells whether it was ejected before.
    Suspended,
}

#[derive(Clone, Copy)]
struct Word {
    kind: Kind,
    generation: u32,
    until: u64,
}

impl Breaker {
    pub fn new() -> Self {
        Self {
            word: AtomicU64::new(Word { kind: Kind::Closed, generation: 0, until: 0 }.pack()),
            consecutive: AtomicU32::new(0),
            window: Window::new(),
            ejections: AtomicU32::new(0),
            streak: AtomicU32::new(0),
            healthy_since: AtomicU64::new(0),
        }
    }

    /// How a request that leaves now counts; `Uncounted` while the endpoint is ejected.
    pub fn ticket(&self) -> Ticket {
        let word = self.load();
        if word.kind == Kind::Closed { Ticket::Counted(word.generation) } else { Ticket::Uncounted }
    }

    /// When one request may probe; `None` where it is not open.
    pub fn due(&self) -> Option<u64> {
        let word = self.load();
        (word.kind == Kind::Open).then_some(word.until)
    }

    /// Makes the caller the one request that probes; `None` where another was quicker or the pause is not over.
    pub fn claim(&self, now: u64) -> Option<Ticket> {
        let word = self.load();
        if word.kind != Kind::Open || now < word.until {
            return None;
        }
        let next = self.change(word, Kind::HalfOpen, word.until)?;
        Some(Ticket::Probe(next.generation))
    }

    /// The probe ended without a word on the endpoint (its caller left): the next request may probe. True if so.
    pub fn abandoned(&self, ticket: Ticket) -> bool {
        let Ticket::Probe(generation) = ticket else { return false };
        let word = self.load();
        word.kind == Kind::HalfOpen
            && word.generation == generation
            && self.change(word, Kind::Open, word.until).is_some()
    }

    /// A good answer. `room` counts the service's ejected endpoints.
    pub fn succeeded(&self, ticket: Ticket, policy: &BreakerPolicy, room: &Gate, now: u64) -> Option<Transition> {
        let word = self.load();
        match ticket {
            Ticket::Counted(generation) if word.kind == Kind::Closed && word.generation == generation => {
                self.window.record(now, width(policy), false);
                if self.consecutive.load(Ordering::Relaxed) != 0 {
                    self.consecutive.store(0, Ordering::Relaxed);
                }
                None
            }
            Ticket::Probe(generation) if word.kind == Kind::HalfOpen && word.generation == generation => {
                self.forget(now);
                self.change(word, Kind::Closed, 0)?;
                room.put();
                Some(Transition { to: BreakerState::Closed, cause: Cause::ProbeSucceeded, open_for: Duration::ZERO })
            }
            Ticket::Counted(_) | Ticket::Probe(_) | Ticket::Uncounted => None,
        }
    }

    /// A failure: no connection, a reset, no answer in time, or a status that counts as one. Opens the breaker where the
    /// policy says so and `room` has a place left for one more ejected endpoint.
    pub fn failed(&self, ticket: Ticket, policy: &BreakerPolicy, room: &Gate, now: u64) -> Option<Transition> {
        let word = self.load();
        match ticket {
            Ticket::Counted(generation) if word.kind == Kind::Closed && word.generation == generation => {
                self.window.record(now, width(policy), true);
                let consecutive = self.consecutive.fetch_add(1, Ordering::Relaxed).saturating_add(1);
                let cause = self.judge(consecutive, policy, now)?;
                if !room.take() {
                    return None;
                }
                let healthy = now.saturating_sub(self.healthy_since.load(Ordering::Relaxed));
                let mended = healthy / (policy.open_for.as_millis() as u64).max(1);
                let streak = u64::from(self.streak.load(Ordering::Relaxed)).saturating_sub(mended) as u32;
                let opened = self.open(word, streak, cause, policy, now);
                if opened.is_none() {
                    room.put();
                }
                opened
            }
            // The place in `room` is kept.
            Ticket::Probe(generation) if word.kind == Kind::HalfOpen && word.generation == generation => {
                self.open(word, self.streak.load(Ordering::Relaxed), Cause::ProbeFailed, policy, now)
            }
            Ticket::Counted(_) | Ticket::Probe(_) | Ticket::Uncounted => None,
        }
    }

    /// The registry leaves the endpoint out, as critical or gone: it takes no place among the ejected any more.
    pub fn suspend(&self, room: &Gate) {
        loop {
            let word = self.load();
            let was_ejected = matches!(word.kind, Kind::Open | Kind::HalfOpen);
            if word.kind == Kind::Suspended {
                return;
            }
            if self.change(word, Kind::Suspended, u64::from(was_ejected)).is_some() {
                if was_ejected {
                    room.put();
                }
                return;
            }
        }
    }

    /// The registry has seen the endpoint recover: closed without a probe. True if it was ejected before.
    pub fn resume(&self, now: u64) -> bool {
        let word = self.load();
        if word.kind != Kind::Suspended {
            return false;
        }
        self.forget(now);
        self.change(word, Kind::Closed, 0).is_some() && word.until != 0
    }

    pub fn view(&self, policy: &BreakerPolicy, now: u64) -> BreakerView {
        let word = self.load();
        let (requests, failures) = self.window.sums(now, width(policy));
        let (state, remaining) = match word.kind {
            Kind::Closed | Kind::Suspended => (BreakerState::Closed, 0),
            Kind::Open => (BreakerState::Open, word.until.saturating_sub(now)),
            Kind::HalfOpen => (BreakerState::HalfOpen, 0),
        };
        BreakerView {
            state,
            consecutive: self.consecutive.load(Ordering::Relaxed),
            error_rate: if requests == 0 { 0.0 } else { failures as f64 / requests as f64 },
            requests,
            ejections: self.ejections.load(Ordering::Relaxed),
            open_for_remaining: Duration::from_millis(remaining),
        }
    }

    fn judge(&self, consecutive: u32, policy: &BreakerPolicy, now: u64) -> Option<Cause> {
        if policy.consecutive != 0 && consecutive >= policy.consecutive {
            return Some(Cause::Consecutive);
        }
        let (requests, failures) = self.window.sums(now, width(policy));
        let rate = policy.error_rate;
        let too_many = requests >= u64::from(rate.min_requests.max(1))
            && failures as f64 >= requests as f64 * rate.threshold
            && rate.threshold > 0.0;
        too_many.then_some(Cause::ErrorRate)
    }

    fn open(&self, word: Word, streak: u32, cause: Cause, policy: &BreakerPolicy, now: u64) -> Option<Transition> {
        let longest = policy.open_max.max(policy.open_for);
        let open_for = policy.open_for.saturating_mul(2u32.saturating_pow(streak.min(31))).min(longest);
        self.change(word, Kind::Open, now.saturating_add(open_for.as_millis() as u64))?;
        self.streak.store(streak.saturating_add(1), Ordering::Relaxed);
        self.ejections.fetch_add(1, Ordering::Relaxed);
        Some(Transition { to: BreakerState::Open, cause, open_for })
    }

    /// What was counted before says nothing of what comes now.
    fn forget(&self, now: u64) {
        self.window.clear();
        self.consecutive.store(0, Ordering::Relaxed);
        self.healthy_since.store(now, Ordering::Relaxed);
    }

    fn load(&self) -> Word {
        Word::unpack(self.word.load(Ordering::Acquire))
    }

    /// Moves from the very state that was seen; `None` where another was quicker.
    fn change(&self, seen: Word, kind: Kind, until: u64) -> Option<Word> {
        let next = Word { kind, generation: (seen.generation + 1) & GENERATIONS, until: until.min(LATEST) };
        self.word
            .compare_exchange(seen.pack(), next.pack(), Ordering::AcqRel, Ordering::Relaxed)
            .is_ok()
            .then_some(next)
    }
}

impl Word {
    fn pack(self) -> u64 {
        (self.kind as u64) << 62 | u64::from(self.generation) << 40 | self.until
    }

    fn unpack(word: u64) -> Self {
        let kind = match word >> 62 {
            0 => Kind::Closed,
            1 => Kind::Open,
            2 => Kind::HalfOpen,
            _ => Kind::Suspended,
        };
        Self { kind, generation: (word >> 40) as u32 & GENERATIONS, until: word & LATEST }
    }
}

fn width(policy: &BreakerPolicy) -> u64 {
    policy.error_rate.window.as_millis() as u64
}

const GENERATIONS: u32 = (1 << 22) - 1;
/// 34 years after the service began.
const LATEST: u64 = (1 << 40) - 1;
