//! Who may call our app: Consul's intentions and the file's own rules, judged from one snapshot. Both must allow. Knows
//! nothing of where intentions come from, and of connections only who is at their other end.

mod intention;
mod permission;
mod rule;

pub use intention::{Action, DefaultPolicy, Intention, Intentions, Source};
pub use permission::{Condition, HeaderMatch, Name, PathMatch, Permission};
pub use rule::{Caller, Rule};

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use http::{HeaderMap, Method};

use crate::names::SpiffeId;

/// What is in force now. Immutable: a change publishes the next one.
#[derive(Debug, Clone)]
pub struct Gate {
    /// Another one for each snapshot, so that a connection knows what its memory is of.
    generation: u32,
    enforced: Enforced,
    rules: Box<[Rule]>,
}

/// What is known of Consul's intentions.
#[derive(Debug, Clone, PartialEq)]
pub enum Enforced {
    /// They are not asked for.
    Off,
    /// No answer yet, in this life or, by the snapshot, an earlier one: nobody may call.
    Unanswered,
    On(Intentions),
}

/// Who asks for what.
#[derive(Clone, Copy)]
pub struct Ask<'a> {
    /// The verified identity; `None` for a caller in plain text.
    pub caller: Option<&'a SpiffeId>,
    /// `None` for a connection without HTTP.
    pub request: Option<Request<'a>>,
}

/// The parts of a request that a policy looks at.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    pub method: &'a Method,
    /// In its one spelling, as the app will see it; without the query.
    pub path: &'a str,
    pub authority: &'a str,
    pub headers: &'a HeaderMap,
}

/// What was decided of a request or connection.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Verdict<'a> {
    Allowed,
    /// A caller in plain text where a permissive listener takes such: no intention can name it, so none was asked.
    Unidentified,
    Denied(Denial<'a>),
}

/// Why not.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Denial<'a> {
    /// Consul never answered.
    Unanswered,
    Intention(&'a Intention),
    /// The permission at this place (from 0) of the intention.
    Permission(&'a Intention, usize),
    /// No intention names the caller, or none of its permissions matches.
    Default(Option<&'a Intention>),
    /// Consul's default is not known.
    NoDefault(Option<&'a Intention>),
    /// Permissions speak of HTTP, and this is none.
    NotHttp(&'a Intention),
    /// The rule at this place (from 1).
    Rule(usize),
    NoRule {
        identified: bool,
    },
}

/// What one connection remembers: which intention is its caller's, for as long as the snapshot is the same.
#[derive(Debug, Default)]
pub struct Standing(AtomicU64);

impl Gate {
    /// `generation` counts from 1 and never comes again.
    #[must_use]
    pub fn new(generation: u32, enforced: Enforced, rules: Vec<Rule>) -> Self {
        Self { generation, enforced, rules: rules.into() }
    }

    /// Nothing to judge: everybody that the listener accepts may call.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.rules.is_empty() && matches!(self.enforced, Enforced::Off)
    }

    #[must_use]
    pub fn enforced(&self) -> &Enforced {
        &self.enforced
    }

    /// Whether a path makes a difference.
    #[must_use]
    pub fn reads_paths(&self) -> bool {
        let by_intention = match &self.enforced {
            Enforced::On(intentions) => intentions.read_requests(),
            Enforced::Off | Enforced::Unanswered => false,
        };
        by_intention || self.rules.iter().any(Rule::reads_path)
    }

    /// Intentions first, then the rules: what either denies is denied.
    #[must_use]
    pub fn judge(&self, ask: Ask<'_>, standing: &Standing) -> Verdict<'_> {
        let verdict = match (&self.enforced, ask.caller) {
            (Enforced::Off, _) => Verdict::Allowed,
            (Enforced::Unanswered | Enforced::On(_), None) => Verdict::Unidentified,
            (Enforced::Unanswered, Some(_)) => Verdict::Denied(Denial::Unanswered),
            (Enforced::On(intentions), Some(caller)) => {
                let which = standing.of(self.generation, || intentions.find(caller));
                intentions.judge(which, ask.request)
            }
        };
        if self.rules.is_empty() || matches!(verdict, Verdict::Denied(_)) {
            return verdict;
        }
        for (at, rule) in self.rules.iter().enumerate() {
            match rule.decides(ask) {
                Some(true) => return Verdict::Allowed,
                Some(false) => return Verdict::Denied(Denial::Rule(at + 1)),
                None => {}
            }
        }
        Verdict::Denied(Denial::NoRule { identified: ask.caller.is_some() })
    }

    /// Whether the caller may have no connection without HTTP.
    #[must_use]
    pub fn refuses_raw(&self, caller: Option<&SpiffeId>) -> bool {
        matches!(self.judge(Ask { caller, request: None }, &Standing::default()), Verdict::Denied(_))
    }

    /// Whether no request of the caller's could be allowed: its connections are of no use.
    #[must_use]
    pub fn shuts_out(&self, caller: Option<&SpiffeId>) -> bool {
        let by_intention = match (&self.enforced, caller) {
            (Enforced::Off, _) | (_, None) => false,
            (Enforced::Unanswered, Some(_)) => true,
            (Enforced::On(intentions), Some(caller)) => intentions.shuts_out(intentions.find(caller)),
        };
        by_intention || (!self.rules.is_empty() && !self.rules_leave_a_way(caller))
    }

    fn rules_leave_a_way(&self, caller: Option<&SpiffeId>) -> bool {
        for rule in self.rules.iter().filter(|rule| rule.is_of(caller)) {
            match (rule.allow, rule.is_unconditional()) {
                (true, _) => return true,
                (false, true) => return false,
                (false, false) => {}
            }
        }
        false
    }
}

/// What holds before anything is known: nobody may call.
impl Default for Gate {
    fn default() -> Self {
        Self::new(1, Enforced::Unanswered, Vec::new())
    }
}

impl Standing {
    /// The remembered intention, or `find`'s, which is remembered. Two requests at once find the same.
    fn of(&self, generation: u32, find: impl FnOnce() -> Option<usize>) -> Option<usize> {
        let known = self.0.load(Ordering::Relaxed);
        if (known >> 32) as u32 == generation {
            return (known as u32).checked_sub(1).map(|at| at as usize);
        }
        let found = find();
        // Consul's limits keep a list far below this; a longer one is only not remembered.
        if let Ok(low) = u32::try_from(found.map_or(0, |at| at + 1)) {
            self.0.store((u64::from(generation) << 32) | u64::from(low), Ordering::Relaxed);
        }
        found
    }
}

impl Denial<'_> {
    /// A certificate could help: 401 instead of 403.
    #[must_use]
    pub fn wants_identity(&self) -> bool {
        matches!(self, Self::NoRule { identified: false })
    }
}

/// The rule by name, for the log.
impl fmt::Display for Denial<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unanswered => f.write_str("Consul has not yet said who may call"),
            Self::Intention(intention) => intention.fmt(f),
            Self::Permission(intention, at) => {
                write!(f, "{intention}: permission {}", at + 1)?;
                match intention.permission(*at).and_then(|permission| permission.barred.as_deref()) {
                    Some(barred) => write!(f, " {barred}"),
                    None => f.write_str(" denies"),
                }
            }
            Self::Default(None) => f.write_str("no intention names the caller, and Consul's default is deny"),
            Self::Default(Some(intention)) => {
                write!(f, "{intention}: no permission matches, and Consul's default is deny")
            }
            Self::NoDefault(None) => f.write_str("no intention names the caller, and Consul's default is not known"),
            Self::NoDefault(Some(intention)) => {
                write!(f, "{intention}: no permission matches, and Consul's default is not known")
            }
            Self::NotHttp(intention) => write!(f, "{intention}: they are of HTTP, and this connection is not"),
            Self::Rule(at) => write!(f, "authz rule {at}"),
            Self::NoRule { identified: true } => f.write_str("no authz rule matches"),
            Self::NoRule { identified: false } => f.write_str("no authz rule matches a caller without a certificate"),
        }
    }
}

#[cfg(test)]
mod tests;
