//! One rule of `inbound.authz`: who, which requests, and whether they may.

use http::Method;

use super::Ask;
use super::intention::DEFAULT;
use crate::names::{ServiceName, SpiffeId};

/// The first rule that matches decides; where there are rules and none matches, the request is denied.
#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    /// Any of these; empty for everybody, callers in plain text included.
    pub from: Vec<Caller>,
    /// Any of these; empty for all.
    pub methods: Vec<Method>,
    /// Any of these, by whole segments, without a slash at the end (empty for `/`); empty for all.
    pub prefixes: Vec<String>,
    /// Beside `prefixes`: the whole path.
    pub exact: Vec<String>,
    pub allow: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Caller {
    /// Any verified identity.
    Any,
    /// A service of our own namespace and partition. The trust domain is ours: the handshake takes no other.
    Service {
        name: ServiceName,
        namespace: Box<str>,
        partition: Box<str>,
    },
    Id(SpiffeId),
}

impl Rule {
    /// What the rule says where it matches.
    ///
    /// A connection without HTTP has no method and no path: a rule that asks for one never allows it, and denies it if it
    /// denies at all.
    pub(super) fn decides(&self, ask: Ask<'_>) -> Option<bool> {
        if !self.is_of(ask.caller) {
            return None;
        }
        let matches = match ask.request {
            None => self.is_unconditional() || !self.allow,
            Some(request) => {
                (self.methods.is_empty() || self.methods.contains(request.method)) && self.has_path(request.path)
            }
        };
        matches.then_some(self.allow)
    }

    pub(super) fn is_of(&self, caller: Option<&SpiffeId>) -> bool {
        self.from.is_empty() || caller.is_some_and(|caller| self.from.iter().any(|from| from.is(caller)))
    }

    pub(super) fn is_unconditional(&self) -> bool {
        self.methods.is_empty() && !self.reads_path()
    }

    pub(super) fn reads_path(&self) -> bool {
        !self.prefixes.is_empty() || !self.exact.is_empty()
    }

    fn has_path(&self, path: &str) -> bool {
        let begins = |prefix: &String| {
            path.strip_prefix(prefix.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        !self.reads_path() || self.prefixes.iter().any(begins) || self.exact.iter().any(|exact| exact == path)
    }
}

impl Caller {
    fn is(&self, caller: &SpiffeId) -> bool {
        match self {
            Self::Any => true,
            Self::Service { name, namespace, partition } => {
                name == caller.service()
                    && &**namespace == caller.namespace()
                    && &**partition == caller.partition().unwrap_or(DEFAULT)
            }
            Self::Id(id) => id == caller,
        }
    }
}
