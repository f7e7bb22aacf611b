//! `basic-auth`: name and password of one of `consumers` (RFC 7617), as Kong's plugin does it
//! (`kong/plugins/basic-auth/access.lua`).

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{AUTHORIZATION, PROXY_AUTHORIZATION};
use http::{HeaderMap, HeaderValue, Method};

use super::consumers::{Consumers, Identified, drop_claims};
use super::key_auth::{challenge, pass_or_refuse};
use super::{Call, Decision, Filter};

#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Whether the app sees name and password.
    pub hide_credentials: bool,
    pub realm: String,
    /// Who stands for callers without a good password: id, username or custom id.
    pub anonymous: Option<String>,
    /// Whether OPTIONS needs a password too.
    pub run_on_preflight: bool,
}

pub(super) struct BasicAuth {
    settings: Settings,
    consumers: Arc<Consumers>,
    challenge: HeaderValue,
}

impl BasicAuth {
    pub(super) fn new(settings: &Settings, consumers: &Arc<Consumers>) -> Self {
        let challenge = challenge("Basic", Some(&settings.realm));
        Self { settings: settings.clone(), consumers: consumers.clone(), challenge }
    }

    fn identify(&self, headers: &HeaderMap) -> Result<Identified, Decision> {
        let refuse = |detail, message| Err(Decision::unidentified(&self.challenge, detail, message));
        let mut shown = [PROXY_AUTHORIZATION, AUTHORIZATION].into_iter().filter_map(|name| headers.get(name));
        let Some((name, password)) = shown.find_map(credentials) else {
            return refuse("no password", "No name and password found in request; send them as Basic authorization.");
        };
        match self.consumers.by_password(&name, &password) {
            Some(identified) => Ok(identified),
            None => refuse("unknown name or password", "Name or password is not known; send valid ones."),
        }
    }
}

impl Filter for BasicAuth {
    fn request(&self, call: &mut Call<'_>) -> Decision {
        let proven_before = Identified::is_proven(call.stash);
        if call.head.method == Method::OPTIONS && !self.settings.run_on_preflight {
            if !proven_before {
                drop_claims(&mut call.head.headers);
            }
            return Decision::PASS;
        }
        let identified = self.identify(&call.head.headers);
        if self.settings.hide_credentials {
            for name in [AUTHORIZATION, PROXY_AUTHORIZATION] {
                if call.head.headers.get(&name).is_some_and(|value| encoded(value).is_some()) {
                    call.head.headers.remove(name);
                }
            }
        }
        pass_or_refuse(identified, proven_before, self.settings.anonymous.as_deref(), &self.consumers, call)
    }
}

/// What stands behind `Basic `, in any case.
fn encoded(value: &HeaderValue) -> Option<&[u8]> {
    let (scheme, rest) = value.as_bytes().split_at_checked(6)?;
    scheme.eq_ignore_ascii_case(b"basic ").then(|| rest.trim_ascii())
}

/// Name and password; a password may hold colons, a name cannot.
fn credentials(value: &HeaderValue) -> Option<(Vec<u8>, Vec<u8>)> {
    let mut text = STANDARD.decode(encoded(value)?).ok()?;
    let colon = text.iter().position(|byte| *byte == b':')?;
    let password = text.split_off(colon + 1);
    text.truncate(colon);
    Some((text, password))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::time::{Instant, SystemTime};

    use http::{Extensions, Request, request};

    use super::super::consumers::testing::consumer;
    use super::super::{Caller, End};
    use super::*;
    use crate::reason::Reason;

    fn plugin(hide_credentials: bool, anonymous: Option<&str>) -> BasicAuth {
        let consumers = Arc::new(Consumers::new(&[consumer("alice", &[]), consumer("guest", &[])]));
        let anonymous = anonymous.map(str::to_owned);
        let settings = Settings { hide_credentials, realm: "ser\"vice".into(), anonymous, run_on_preflight: true };
        BasicAuth::new(&settings, &consumers)
    }

    fn run(plugin: &BasicAuth, authorization: Option<&str>) -> (Decision, request::Parts) {
        let mut request = Request::new(());
        if let Some(value) = authorization {
            request.headers_mut().insert(AUTHORIZATION, value.parse().unwrap());
        }
        let (mut head, ()) = request.into_parts();
        let caller = Caller::at(Ipv4Addr::LOCALHOST);
        let (now, wall, mut stash) = (Instant::now(), SystemTime::now(), Extensions::new());
        let decision = plugin.request(&mut Call { head: &mut head, caller, stash: &mut stash, now, wall, entropy: 0 });
        (decision, head)
    }

    fn basic(text: &str) -> String {
        format!("bAsIc  {}", STANDARD.encode(text))
    }

    #[test]
    fn a_good_password_names_the_consumer() {
        for hide in [false, true] {
            let (decision, head) = run(&plugin(hide, None), Some(&basic("alice:PASSWORD-of-alice")));
            assert!(decision.end.is_none());
            assert_eq!(head.headers["x-consumer-username"], "alice");
            assert_eq!(head.headers["x-credential-identifier"], "alice");
            assert_eq!(head.headers.contains_key(AUTHORIZATION), !hide);
        }
    }

    #[test]
    fn all_else_is_refused_with_a_challenge() {
        let bad = [
            None,
            Some("Bearer x".to_owned()),
            Some("Basic".to_owned()),
            Some("Basic !!!".to_owned()),
            Some(basic("alice")),
            Some(basic("alice:")),
            Some(basic("alice:PASSWORD-of-guest")),
            Some(basic("alic:ePASSWORD-of-alice")),
            Some(basic(":")),
        ];
        for authorization in bad {
            let (decision, _) = run(&plugin(true, None), authorization.as_deref());
            let Some(End::Refuse { reason: Reason::NotIdentified, headers, .. }) = decision.end.map(|end| *end) else {
                panic!("{authorization:?} must be refused")
            };
            assert_eq!(headers["www-authenticate"], r#"Basic realm="ser\"vice""#);
        }
    }

    #[test]
    fn anonymous_stands_for_the_unknown_and_another_scheme_stays() {
        let (decision, head) = run(&plugin(true, Some("guest")), Some("Bearer x"));
        assert!(decision.end.is_none());
        assert_eq!(head.headers["x-anonymous-consumer"], "true");
        assert_eq!(head.headers["x-consumer-username"], "guest");
        assert_eq!(head.headers[AUTHORIZATION], "Bearer x");
    }
}
