//! What must hold of any token and any key set, for fuzzing.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use http::header::AUTHORIZATION;
use http::{Extensions, HeaderMap, HeaderName, HeaderValue, Request};

use super::jose::Token;
use super::{Algorithm, Jwt, KeySet, Location, Place, Provider, Required, Settings, Shared, Source, Test};
use crate::filter::{Call, Caller, Decision, End, Filter};
use crate::reason::Reason;

/// An issuer whose private keys are gone: nothing but the tokens of its corpus can be good.
pub struct Issuer {
    filter: Arc<Jwt>,
    _shared: Shared,
}

impl Issuer {
    #[must_use]
    pub fn new() -> Self {
        let source = Source {
            issuer: "https://issuer.test".into(),
            location: Location::Inline(KEYS.into()),
            algorithms: Algorithm::PUBLIC.to_vec(),
            refresh: Duration::from_secs(300),
            stale_for: Duration::from_secs(3600),
        };
        let provider = Provider {
            source,
            audiences: vec!["users".into()],
            places: vec![Place::Header(AUTHORIZATION)],
            hide_credentials: true,
            claims: vec![Required { claim: "scope".into(), test: Test::Contains(vec!["read".into()]) }],
            forward_claims: vec![("sub".into(), USER), ("name".into(), NAME)],
            leeway: Duration::from_secs(30),
        };
        let shared = Shared::default();
        let filter = shared.filter(&Settings { providers: vec![provider], anonymous: false });
        Self { filter, _shared: shared }
    }

    /// Whatever stands in the header, only what the issuer signed lets a request pass, at every try and only in its time;
    /// what a client says in the place of claims never stays.
    pub fn try_token(&self, data: &[u8], now: Instant) {
        if let Ok(text) = std::str::from_utf8(data) {
            let _ = Token::parse(text);
        }
        let Ok(value) = HeaderValue::from_bytes(&[b"Bearer ", data].concat()) else { return };
        let signed = |token: &str| token.trim().rsplit_once('.').map(|(signed, _)| signed.to_owned());
        let told = std::str::from_utf8(data).ok().and_then(signed);
        let genuine = told.is_some() && GOOD.iter().any(|good| signed(good) == told);
        for (second, in_time) in [(NOW, true), (NOW, true), (NOW + 7200, false)] {
            let (decision, headers) = self.ask(&value, now, SystemTime::UNIX_EPOCH + Duration::from_secs(second));
            if let Some(end) = decision.end {
                assert!(headers.get(USER).is_none(), "a claim that nobody made");
                match *end {
                    End::Refuse { reason: Reason::NotIdentified | Reason::Denied, .. } | End::Ask(_) => {}
                    other => panic!("{other:?}"),
                }
            } else {
                assert!(genuine && in_time, "passed at {second}");
                assert_eq!(headers.get(USER), Some(&HeaderValue::from_static("alice")));
            }
            assert!(headers.get(NAME).is_none_or(|name| name != "forged"));
        }
    }

    fn ask(&self, value: &HeaderValue, now: Instant, wall: SystemTime) -> (Decision, HeaderMap) {
        let (mut head, ()) = Request::new(()).into_parts();
        head.headers.insert(AUTHORIZATION, value.clone());
        for name in [USER, NAME] {
            head.headers.insert(name, HeaderValue::from_static("forged"));
        }
        let address = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let caller = Caller::at(address);
        let stash = &mut Extensions::new();
        let decision = self.filter.request(&mut Call { head: &mut head, caller, stash, now, wall, entropy: 0 });
        (decision, head.headers)
    }
}

impl Default for Issuer {
    fn default() -> Self {
        Self::new()
    }
}

/// A key set is taken or refused, and no signature is good by one of its keys that nobody made.
pub fn key_set(data: &[u8]) {
    let Ok(set) = KeySet::parse(data, &Algorithm::PUBLIC) else { return };
    assert!(!set.is_empty() && set.len() <= data.len());
    for algorithm in Algorithm::PUBLIC {
        for signature in [&[][..], &[0; 64], &[0; 96], &[1; 132], &[0xFF; 256]] {
            let judged = set.verify(None, algorithm, b"e30.e30", signature);
            assert!(!matches!(judged, super::keys::Verdict::Good), "{algorithm:?} by nobody");
        }
    }
}

const USER: HeaderName = HeaderName::from_static("x-user-id");
const NAME: HeaderName = HeaderName::from_static("x-user-name");
/// Within the time of the tokens.
const NOW: u64 = 1_800_000_000;
const KEYS: &str = include_str!("../../../tests/fuzz/corpus/jwks/of_the_issuer");
const GOOD: [&str; 3] = [
    include_str!("../../../tests/fuzz/corpus/jwt/good_eddsa"),
    include_str!("../../../tests/fuzz/corpus/jwt/good_es256"),
    include_str!("../../../tests/fuzz/corpus/jwt/good_rs256"),
];
