//! Consul's intentions for one destination, in Consul's own order of precedence.

use std::cmp::Reverse;
use std::fmt;

use super::{Denial, Permission, Request, Verdict};
use crate::names::SpiffeId;

/// What Consul says of one source.
#[derive(Debug, Clone, PartialEq)]
pub struct Intention {
    pub source: Source,
    /// `users`, or `*` where the intention is for any destination.
    pub destination: Box<str>,
    /// 9 for an exact source and destination down to 1 for any and any
    /// (developer.hashicorp.com/consul/docs/secure-mesh/intention).
    pub precedence: u32,
    pub action: Action,
}

/// The callers that an intention is of. `*` is any name or namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    pub name: Box<str>,
    pub namespace: Box<str>,
    pub partition: Box<str>,
    /// A peered cluster. Its services have another trust domain, and the handshake refuses them: such an intention is
    /// nobody's here.
    pub peer: Option<Box<str>>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    Allow,
    Deny,
    /// By request; the first one that matches decides, and Consul's default where none does.
    Permissions(Box<[Permission]>),
    /// It asks for what is not understood or cannot be checked here: denied, whatever it says. What that is.
    Barred(Box<str>),
}

/// What holds for a caller that no intention is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DefaultPolicy {
    Allow,
    Deny,
}

/// All intentions that have our service as their destination, with what holds beside them.
#[derive(Debug, Clone, PartialEq)]
pub struct Intentions {
    /// The first one that is of the caller decides.
    list: Box<[Intention]>,
    /// `None` while it could not be learnt: deny.
    default: Option<DefaultPolicy>,
}

impl Intentions {
    /// Any order: they are sorted by precedence, and keep Consul's order within one.
    #[must_use]
    pub fn new(mut list: Vec<Intention>, default: Option<DefaultPolicy>) -> Self {
        list.sort_by_key(|intention| Reverse(intention.precedence));
        Self { list: list.into(), default }
    }

    #[must_use]
    pub fn list(&self) -> &[Intention] {
        &self.list
    }

    #[must_use]
    pub fn default_policy(&self) -> Option<DefaultPolicy> {
        self.default
    }

    /// The place of the one that decides for the caller.
    pub(super) fn find(&self, caller: &SpiffeId) -> Option<usize> {
        self.list.iter().position(|intention| intention.source.is(caller))
    }

    pub(super) fn read_requests(&self) -> bool {
        self.list.iter().any(|intention| matches!(intention.action, Action::Permissions(_)))
    }

    pub(super) fn judge(&self, which: Option<usize>, request: Option<Request<'_>>) -> Verdict<'_> {
        let Some(intention) = which.and_then(|at| self.list.get(at)) else { return self.by_default(None) };
        match (&intention.action, request) {
            (Action::Allow, _) => Verdict::Allowed,
            (Action::Deny | Action::Barred(_), _) => Verdict::Denied(Denial::Intention(intention)),
            (Action::Permissions(_), None) => Verdict::Denied(Denial::NotHttp(intention)),
            (Action::Permissions(permissions), Some(request)) => {
                match permissions.iter().enumerate().find(|(_, permission)| permission.matches(request)) {
                    None => self.by_default(Some(intention)),
                    Some((_, permission)) if permission.allow && permission.barred.is_none() => Verdict::Allowed,
                    Some((at, _)) => Verdict::Denied(Denial::Permission(intention, at)),
                }
            }
        }
    }

    fn by_default<'a>(&'a self, intention: Option<&'a Intention>) -> Verdict<'a> {
        match self.default {
            Some(DefaultPolicy::Allow) => Verdict::Allowed,
            Some(DefaultPolicy::Deny) => Verdict::Denied(Denial::Default(intention)),
            None => Verdict::Denied(Denial::NoDefault(intention)),
        }
    }

    pub(super) fn shuts_out(&self, which: Option<usize>) -> bool {
        match which.and_then(|at| self.list.get(at)).map(|intention| &intention.action) {
            Some(Action::Allow | Action::Permissions(_)) => false,
            Some(Action::Deny | Action::Barred(_)) => true,
            None => self.default != Some(DefaultPolicy::Allow),
        }
    }
}

impl Source {
    /// Partition, namespace and name; the datacenter makes no difference, as with Consul's own proxies.
    fn is(&self, caller: &SpiffeId) -> bool {
        // Consul compares names without case; a caller's is lower case always.
        let is = |wanted: &str, have: &str| wanted == ANY || wanted.eq_ignore_ascii_case(have);
        self.peer.is_none()
            && is(&self.name, caller.service().as_str())
            && is(&self.namespace, caller.namespace())
            && is(&self.partition, caller.partition().unwrap_or(DEFAULT))
    }

    /// Consul's number for a source and destination (`agent/structs`, `Intention.UpdatePrecedence`).
    #[must_use]
    pub fn precedence(&self, destination: &str, destination_namespace: &str) -> u32 {
        let exact = |namespace: &str, name: &str| match (namespace, name) {
            (ANY, _) => 0,
            (_, ANY) => 1,
            _ => 2,
        };
        let (source, destination) = (exact(&self.namespace, &self.name), exact(destination_namespace, destination));
        // Exact destinations are 9 to 7, those of any name 6 to 4, those of any namespace 3 to 1.
        3 * destination + source + 1
    }
}

impl Intention {
    pub(super) fn permission(&self, at: usize) -> Option<&Permission> {
        match &self.action {
            Action::Permissions(permissions) => permissions.get(at),
            Action::Allow | Action::Deny | Action::Barred(_) => None,
        }
    }
}

/// `intention web → users deny (precedence 9)`.
impl fmt::Display for Intention {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "intention {} → {} {} (precedence {})", self.source, self.destination, self.action, self.precedence)?;
        match &self.action {
            Action::Barred(what) => write!(f, ": {what}"),
            Action::Allow | Action::Deny | Action::Permissions(_) => Ok(()),
        }
    }
}

/// `web`, and what of its place is not the default.
impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(peer) = &self.peer {
            write!(f, "{peer}:")?;
        }
        if &*self.partition != DEFAULT {
            write!(f, "{}/", self.partition)?;
        }
        if &*self.namespace != DEFAULT || &*self.partition != DEFAULT {
            write!(f, "{}/", self.namespace)?;
        }
        f.write_str(&self.name)
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::Permissions(_) => "permissions",
            Self::Barred(_) => "barred",
        })
    }
}

pub(super) const ANY: &str = "*";
/// The namespace and partition that Consul's ids name, or leave out, where there is only one.
pub(super) const DEFAULT: &str = "default";
