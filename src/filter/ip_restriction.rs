//! `ip-restriction`: which addresses may call, as Kong's plugin decides it (`kong/plugins/ip-restriction/handler.lua`). The
//! address is the client's, also behind peers that are trusted to tell it.

use std::net::IpAddr;

use http::StatusCode;
use ipnet::IpNet;

use super::{Call, Caller, Decision, Filter, Wording};
use crate::reason::Reason;

/// At least one of the lists has an entry.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Only these; all when empty.
    pub allow: Vec<IpNet>,
    /// None of these, whatever `allow` says.
    pub deny: Vec<IpNet>,
    pub status: StatusCode,
    /// What a refused caller is told; with its address when absent.
    pub message: Option<String>,
}

pub(super) struct IpRestriction {
    settings: Settings,
}

impl IpRestriction {
    pub(super) fn new(settings: Settings) -> Self {
        Self { settings }
    }
}

impl Settings {
    fn refuses(&self, address: IpAddr) -> Option<&'static str> {
        let is_in = |nets: &[IpNet]| nets.iter().any(|net| net.contains(&address));
        if is_in(&self.deny) {
            return Some("in deny");
        }
        (!self.allow.is_empty() && !is_in(&self.allow)).then_some("not in allow")
    }
}

impl Filter for IpRestriction {
    fn request(&self, call: &mut Call<'_>) -> Decision {
        self.connection(&call.caller)
    }

    fn connection(&self, caller: &Caller<'_>) -> Decision {
        let client = caller.client.to_canonical();
        let Some(why) = self.settings.refuses(client) else { return Decision::PASS };
        let message = match &self.settings.message {
            Some(message) => message.clone(),
            None => format!("IP address not allowed: {client}; call from another, or ask the service's owner."),
        };
        let wording = Wording { status: Some(self.settings.status), message: Some(message.into()) };
        Decision::refuse_with(Reason::Denied, format!("{client} is {why}"), wording)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deny_comes_first_and_allow_must_hold_where_there_is_one() {
        let nets = |list: &[&str]| list.iter().map(|net| net.parse().unwrap()).collect();
        let settings = |allow: &[&str], deny: &[&str]| Settings {
            allow: nets(allow),
            deny: nets(deny),
            status: StatusCode::FORBIDDEN,
            message: None,
        };
        let both = settings(&["10.0.0.0/8", "fd00::/8"], &["10.1.0.0/16"]);
        for (address, wanted) in [
            ("10.2.0.1", None),
            ("10.1.0.1", Some("in deny")),
            ("11.0.0.1", Some("not in allow")),
            ("fd00::1", None),
            ("::1", Some("not in allow")),
        ] {
            assert_eq!(both.refuses(address.parse().unwrap()), wanted, "{address}");
        }
        let deny = settings(&[], &["10.1.0.0/16"]);
        assert_eq!(deny.refuses("11.0.0.1".parse().unwrap()), None);
    }
}
