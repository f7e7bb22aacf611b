//! `acl`: which groups of consumers may call, as Kong's plugin does it (`kong/plugins/acl/handler.lua`).

use super::consumers::{CONSUMER_GROUPS, Identified, Known};
use super::{Call, Decision, Filter};
use crate::reason::Reason;

#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    pub rule: Rule,
    /// Whether the app is not told the groups.
    pub hide_groups_header: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Rule {
    /// Consumers of at least one of these.
    Allow(Vec<String>),
    /// All consumers but those of any of these.
    Deny(Vec<String>),
}

pub(super) struct Acl {
    settings: Settings,
}

impl Acl {
    pub(super) fn new(settings: Settings) -> Self {
        Self { settings }
    }

    fn admits(&self, consumer: Option<&Known>) -> bool {
        let is_in = |groups: &[String]| {
            consumer.is_some_and(|known| known.consumer.groups.iter().any(|group| groups.contains(group)))
        };
        match &self.settings.rule {
            Rule::Allow(groups) => is_in(groups),
            Rule::Deny(groups) => !is_in(groups),
        }
    }
}

impl Filter for Acl {
    fn request(&self, call: &mut Call<'_>) -> Decision {
        let Some(identified) = call.stash.get::<Identified>() else {
            // How to be identified, the plugins that authenticate would have said.
            return Decision::refuse(Reason::NotIdentified, "nobody was identified");
        };
        let known = identified.consumer.as_deref();
        if !self.admits(known) {
            return Decision::refuse(Reason::Denied, "not in the groups");
        }
        match known.and_then(Known::groups_header).filter(|_| !self.settings.hide_groups_header) {
            Some(groups) => call.head.headers.insert(CONSUMER_GROUPS, groups.clone()),
            // What a client wrote there was dropped by the plugin that identified it.
            None => call.head.headers.remove(CONSUMER_GROUPS),
        };
        Decision::PASS
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::time::{Instant, SystemTime};

    use http::{Extensions, Request};

    use super::super::consumers::testing::consumer;
    use super::super::consumers::{Consumers, Identified};
    use super::super::{Caller, End};
    use super::*;

    /// The reason of a refusal, else the groups that the app is told.
    fn run(rule: Rule, hide_groups_header: bool, caller: Option<Identified>) -> Result<Option<String>, Reason> {
        let acl = Acl::new(Settings { rule, hide_groups_header });
        let (mut head, ()) = Request::new(()).into_parts();
        let (now, wall, mut stash) = (Instant::now(), SystemTime::now(), Extensions::new());
        if let Some(identified) = caller {
            identified.tell(&mut head.headers, &mut stash);
        }
        let caller = Caller::at(Ipv4Addr::LOCALHOST);
        match acl.request(&mut Call { head: &mut head, caller, stash: &mut stash, now, wall, entropy: 0 }).end {
            None => Ok(head.headers.get("x-consumer-groups").map(|value| value.to_str().unwrap().to_owned())),
            Some(end) => match *end {
                End::Refuse { reason, .. } => Err(reason),
                other => panic!("{other:?}"),
            },
        }
    }

    #[test]
    fn groups_decide() {
        let consumers =
            Consumers::new(&[consumer("alice", &["gold", "staff"]), consumer("bob", &["tin"]), consumer("carol", &[])]);
        let who = |name: &str| consumers.by_key(format!("KEY-of-{name}").as_bytes());
        let allow = || Rule::Allow(vec!["gold".into(), "silver".into()]);
        let deny = || Rule::Deny(vec!["tin".into()]);
        assert_eq!(run(allow(), false, who("alice")), Ok(Some("gold, staff".into())));
        assert_eq!(run(allow(), true, who("alice")), Ok(None));
        assert_eq!(run(allow(), false, who("bob")), Err(Reason::Denied));
        assert_eq!(run(allow(), false, who("carol")), Err(Reason::Denied));
        assert_eq!(run(deny(), false, who("bob")), Err(Reason::Denied));
        assert_eq!(run(deny(), false, who("carol")), Ok(None));
        for rule in [allow(), deny()] {
            assert_eq!(run(rule.clone(), false, None), Err(Reason::NotIdentified));
        }
        // A token of an issuer proves somebody who is in no group.
        let token = || Some(Identified { consumer: None, credential: Some("sub".into()), anonymous: false });
        assert_eq!(run(allow(), false, token()), Err(Reason::Denied));
        assert_eq!(run(deny(), false, token()), Ok(None));
    }
}
