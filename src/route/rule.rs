//! One rule of `routes`: which requests it is for, and what becomes of them.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use http::uri::{PathAndQuery, Uri};

use super::Route;
use super::matcher::Matcher;
use super::slots::Slots;
use super::split::Split;
use crate::filter::{self, Chain, fault::Share};

/// The first rule that matches decides.
pub struct Rule {
    /// For the access log.
    pub name: Arc<str>,
    pub matcher: Matcher,
    pub action: Action,
}

pub enum Action {
    Forward(Forward),
    /// An answer of our own, after the plugins.
    Answer(Reply, Chain),
}

/// Where a rule's requests go, and how they are changed on their way.
pub struct Forward {
    /// Each with the plugins of its scopes and the rule's.
    pub targets: Split<Arc<Route>>,
    pub rewrite: Option<Rewrite>,
    pub mirror: Option<Mirror>,
    /// Bounds the rule's requests under way.
    pub slots: Option<Arc<Slots>>,
}

/// A copy of some requests for another service, whose answers are dropped.
pub struct Mirror {
    /// Without retries: a copy is worth no second try.
    pub route: Arc<Route>,
    pub share: Share,
    /// Bounds the copies under way; beyond it none is made.
    pub slots: Arc<Slots>,
    /// Of the whole copy, its answer's body included.
    pub limit: Duration,
}

/// Most copies under way for one rule.
pub const MOST_MIRRORED: u32 = 100;

/// An answer without an endpoint.
#[derive(Debug, Clone, PartialEq)]
pub enum Reply {
    Redirect(Redirect),
    Respond(filter::Answer),
}

/// Where to, as a reference (RFC 9110 §10.2.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redirect {
    pub to: String,
    pub status: StatusCode,
}

/// Another beginning of the path: of the matched part, or of the whole path where no path is matched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rewrite {
    /// Without a slash at its end; empty to strip.
    pub prefix: String,
}

impl Rule {
    /// `None` for a rule that answers by itself.
    pub fn forward(&self) -> Option<&Forward> {
        match &self.action {
            Action::Forward(forward) => Some(forward),
            Action::Answer(..) => None,
        }
    }
}

impl Redirect {
    /// `to`, with the request's path where `to` is an origin alone, and the request's query where `to` has none.
    pub fn location(&self, request: &Uri) -> String {
        let mut location = self.to.clone();
        let has_query = self.to.contains('?');
        let origin_alone = self.to.split_once("://").is_some_and(|(_, rest)| !rest.contains(['/', '?', '#']));
        if origin_alone {
            location.push_str(request.path());
        }
        if let Some(query) = request.query().filter(|_| !has_query) {
            location.push('?');
            location.push_str(query);
        }
        location
    }
}

impl Rewrite {
    /// The path and query that are sent instead of `request`'s; `None` where they would be no target of a request.
    pub fn apply(&self, matcher: &Matcher, request: &Uri) -> Option<PathAndQuery> {
        let path = request.path();
        let rest = matcher.path.as_ref().map_or(path, |matched| matched.rest(path));
        let mut target = String::with_capacity(self.prefix.len() + rest.len() + 16);
        target.push_str(&self.prefix);
        target.push_str(rest);
        if target.is_empty() {
            target.push('/');
        }
        if let Some(query) = request.query() {
            target.push('?');
            target.push_str(query);
        }
        PathAndQuery::from_maybe_shared(bytes::Bytes::from(target)).ok()
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, Method};

    use super::super::matcher::{PathMatch, Subject};
    use super::*;

    fn rule(at: usize, path: &str) -> Arc<Rule> {
        let path = Some(PathMatch::Prefix(path.into()));
        let redirect = Redirect { to: "/".into(), status: StatusCode::FOUND };
        let action = Action::Answer(Reply::Redirect(redirect), Chain::default());
        Arc::new(Rule { name: at.to_string().into(), matcher: Matcher { path, ..Matcher::default() }, action })
    }

    proptest::proptest! {
        #[test]
        fn the_first_rule_that_matches_decides(
            rules in proptest::collection::vec("(/[ab]){0,3}", 0..6), path in "(/[ab]){1,4}"
        ) {
            let made: Vec<Arc<Rule>> = rules.iter().enumerate().map(|(at, path)| rule(at, path)).collect();
            let headers = HeaderMap::new();
            let subject = Subject { host: "", path: &path, query: "", method: &Method::GET, headers: &headers };
            let found = super::super::first(&made, &subject).map(|rule| rule.name.to_string());
            let wanted = rules.iter().position(|rule| format!("{path}/").starts_with(&format!("{rule}/")));
            proptest::prop_assert_eq!(found, wanted.map(|at| at.to_string()));
        }
    }

    #[test]
    fn the_matched_part_of_the_path_is_replaced() {
        let prefix = |text: &str| Some(PathMatch::Prefix(text.into()));
        for (matched, new, request, wanted) in [
            (prefix("/users"), "", "/users", "/"),
            (prefix("/users"), "", "/users?a=b", "/?a=b"),
            (prefix("/users"), "", "/users/", "/"),
            (prefix("/users"), "", "/users/1?a", "/1?a"),
            (prefix("/users"), "/v2/people", "/users/1", "/v2/people/1"),
            (prefix("/users"), "/v2", "/users/", "/v2/"),
            (prefix(""), "/v2", "/", "/v2/"),
            (prefix(""), "/v2", "/a", "/v2/a"),
            (Some(PathMatch::Exact("/a".into())), "", "/a?q", "/?q"),
            (Some(PathMatch::Exact("/a".into())), "/b", "/a", "/b"),
            (None, "/v2", "/a", "/v2/a"),
        ] {
            let matcher = Matcher { path: matched, ..Matcher::default() };
            let rewrite = Rewrite { prefix: new.into() };
            assert_eq!(rewrite.apply(&matcher, &request.parse().unwrap()).unwrap(), wanted, "{request}");
        }
    }

    #[test]
    fn a_redirect_keeps_what_it_does_not_say() {
        for (to, request, wanted) in [
            ("https://new.example", "/a?b=c", "https://new.example/a?b=c"),
            ("https://new.example/", "/a?b=c", "https://new.example/?b=c"),
            ("https://new.example/x?y", "/a?b=c", "https://new.example/x?y"),
            ("/new", "/a?b=c", "/new?b=c"),
            ("/new?z", "/a", "/new?z"),
        ] {
            let redirect = Redirect { to: to.into(), status: StatusCode::PERMANENT_REDIRECT };
            assert_eq!(redirect.location(&request.parse().unwrap()), wanted);
        }
    }
}
