//! `jwt`: tokens of issuers (RFC 7519), each checked with its issuer's own keys. What a client says in the headers that
//! claims are forwarded in is dropped first.

mod cache;
mod claims;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod jose;
mod keys;
pub mod kong;
mod place;
mod refusal;
mod source;
#[cfg(test)]
mod testing;

pub use claims::{Required, Test};
pub use keys::{Algorithm, Key, KeySet};
pub use place::Place;
pub use source::{KeySource, KeySources, Keys, Location, Source};

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderName, HeaderValue};
use parking_lot::Mutex;
use smallvec::SmallVec;

use super::consumers::{Identified, drop_claims};
use super::{Ask, Call, Decision, Filter, Verdict};
use cache::{Cache, digest_of};
use claims::Window;
use jose::Token;
use keys::Verdict as Judged;
use refusal::Refusal;

/// The native form.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// At least one; no issuer twice.
    pub providers: Vec<Provider>,
    /// Requests without any token pass, as nobody's. A bad token is refused all the same.
    pub anonymous: bool,
}

/// One issuer and what is asked of its tokens.
#[derive(Debug, Clone, PartialEq)]
pub struct Provider {
    pub source: Source,
    /// The token must be for one of them; not looked at when empty.
    pub audiences: Vec<String>,
    pub places: Vec<Place>,
    /// The app does not see the token.
    pub hide_credentials: bool,
    pub claims: Vec<Required>,
    /// Claims as request headers.
    pub forward_claims: Vec<(String, HeaderName)>,
    /// How far clocks may be apart.
    pub leeway: Duration,
}

/// What filters of one process share: keys, and verified tokens where the settings are the same.
#[derive(Default)]
pub struct Shared {
    pub sources: Arc<KeySources>,
    filters: Mutex<Vec<Weak<Jwt>>>,
}

impl Shared {
    /// The filter of these settings: the running one where there is one, so that a reload keeps what was verified.
    pub(super) fn filter(&self, settings: &Settings) -> Arc<Jwt> {
        let mut filters = self.filters.lock();
        filters.retain(|filter| filter.strong_count() > 0);
        if let Some(found) = filters.iter().filter_map(Weak::upgrade).find(|filter| filter.settings == *settings) {
            return found;
        }
        let filter = Arc::new(Jwt::new(settings, &self.sources));
        filters.push(Arc::downgrade(&filter));
        filter
    }
}

pub struct Jwt {
    settings: Settings,
    /// One for each provider.
    sources: Vec<Arc<KeySource>>,
    /// Of all providers, each once.
    places: Vec<Place>,
    /// Headers that only we may set.
    reserved: Vec<HeaderName>,
    verified: Cache<Arc<Verified>>,
}

/// A token whose signature, times and audience were good.
struct Verified {
    /// Its position in the settings.
    provider: usize,
    /// Of the keys that it was verified with.
    generation: u64,
    window: Window,
    /// What the app is told; or the position of the required claim that it lacks.
    outcome: Result<Told, usize>,
}

struct Told {
    headers: Vec<(HeaderName, HeaderValue)>,
    identified: Identified,
}

impl Filter for Arc<Jwt> {
    fn request(&self, call: &mut Call<'_>) -> Decision {
        match self.decide(call) {
            Ok(decision) => decision,
            // A key that was added since the last fetch: its bearers should not be turned away until the next.
            Err(Refusal::NewKey { issuer, generation, detail }) => match self.sources[issuer].want_now(call.now) {
                Some(fetched) => Decision::ask(self.clone().after(fetched)),
                // The fetch that this very token asked for has ended since.
                None if self.sources[issuer].generation() != Some(generation) => {
                    self.decide(call).unwrap_or_else(|refusal| refusal.decision())
                }
                None => Refusal::invalid(detail).decision(),
            },
            Err(refusal) => refusal.decision(),
        }
    }
}

impl Jwt {
    /// The decision once `fetched` has ended.
    fn after(self: Arc<Self>, fetched: impl Future<Output = ()> + Send + 'static) -> Ask {
        Box::pin(async move {
            fetched.await;
            let decide: Verdict = Box::new(move |call| self.decide(call).unwrap_or_else(|refusal| refusal.decision()));
            decide
        })
    }

    fn decide(&self, call: &mut Call<'_>) -> Result<Decision, Refusal<'_>> {
        drop_claims(&mut call.head.headers);
        drop_reserved(&mut call.head.headers, &self.reserved);
        let Some((place, verified)) = self.judge(call)? else { return Ok(Decision::PASS) };
        let provider = &self.settings.providers[verified.provider];
        let told = match &verified.outcome {
            Ok(told) => told,
            Err(at) => return Err(Refusal::Lacks(&provider.claims[*at])),
        };
        if provider.hide_credentials {
            self.places[place].remove(call.head);
        }
        for (name, value) in &told.headers {
            call.head.headers.insert(name, value.clone());
        }
        call.stash.insert(told.identified.clone());
        Ok(Decision::PASS)
    }

    fn new(settings: &Settings, sources: &KeySources) -> Self {
        let mut places: Vec<Place> = Vec::new();
        let mut reserved: Vec<HeaderName> = Vec::new();
        for provider in &settings.providers {
            let new = |place: &&Place| !places.contains(place);
            let fresh: Vec<Place> = provider.places.iter().filter(new).cloned().collect();
            places.extend(fresh);
            reserved.extend(provider.forward_claims.iter().map(|(_, header)| header.clone()));
        }
        let sources = settings.providers.iter().map(|provider| sources.of(&provider.source)).collect();
        Self { settings: settings.clone(), sources, places, reserved, verified: Cache::new() }
    }

    /// The request's token, if it is good, and where it was; `None` where it has none and needs none.
    fn judge(&self, call: &Call<'_>) -> Result<Option<(usize, Arc<Verified>)>, Refusal<'_>> {
        let mut found = None;
        for (at, place) in self.places.iter().enumerate() {
            let Some(token) = place.token(call.head).map_err(|fault| Refusal::Ambiguous(fault.0))? else { continue };
            if found.replace((at, token)).is_some() {
                return Err(Refusal::Ambiguous("tokens in two places"));
            }
        }
        let Some((place, token)) = found else {
            return if self.settings.anonymous { Ok(None) } else { Err(Refusal::Missing) };
        };
        if token.len() > jose::LONGEST {
            return Err(Refusal::invalid("the token is longer than 16 KiB"));
        }
        let digest = digest_of(&token);
        let now = claims::seconds(call.wall);
        let remembered = self.verified.find(&digest).filter(|verified| self.is_current(verified, call.now));
        let verified = if let Some(verified) = remembered {
            verified
        } else {
            let verified = Arc::new(self.verify(&token, call.now, now)?);
            self.verified.keep(digest, verified.clone());
            verified
        };
        if let Err(outside) = verified.window.check(now) {
            self.verified.forget(&digest);
            return Err(Refusal::outside(outside));
        }
        if !self.settings.providers[verified.provider].places.contains(&self.places[place]) {
            return Err(Refusal::invalid("the issuer's tokens do not belong there"));
        }
        Ok(Some((place, verified)))
    }

    /// Whether the keys are still those that it was verified with, and still good.
    fn is_current(&self, verified: &Verified, now: Instant) -> bool {
        self.sources[verified.provider].with(now, |keys| keys.generation) == Some(verified.generation)
    }

    fn verify(&self, text: &str, now: Instant, seconds: i64) -> Result<Verified, Refusal<'_>> {
        let token = Token::parse(text).map_err(Refusal::invalid)?;
        let issuer = claims::text(&token.claims, "iss").map_err(Refusal::invalid)?;
        let known = self.settings.providers.iter().position(|provider| Some(&*provider.source.issuer) == issuer);
        let at = known.ok_or(Refusal::invalid("an issuer that is not configured"))?;
        let provider = &self.settings.providers[at];
        let generation = self.check_signature(at, &token, now)?;
        let leeway = i64::try_from(provider.leeway.as_secs()).unwrap_or(i64::MAX);
        let window = Window::of(&token.claims, leeway).map_err(Refusal::invalid)?;
        window.check(seconds).map_err(Refusal::outside)?;
        claims::check_audience(&token.claims, &provider.audiences).map_err(Refusal::invalid)?;
        let subject = claims::text(&token.claims, "sub").map_err(Refusal::invalid)?;
        claims::text(&token.claims, "jti").map_err(Refusal::invalid)?;
        let outcome = match provider.claims.iter().position(|required| !required.holds(&token.claims)) {
            Some(lacking) => Err(lacking),
            None => Ok(provider.tell(&token, subject)),
        };
        Ok(Verified { provider: at, generation, window, outcome })
    }

    /// The generation of the keys that the signature is good by.
    fn check_signature(&self, at: usize, token: &Token<'_>, now: Instant) -> Result<u64, Refusal<'_>> {
        let source = &self.sources[at];
        // The token's word for it is only ever compared with what the settings and the key allow (RFC 8725 §3.1).
        if !source.settings.algorithms.contains(&token.algorithm) {
            return Err(Refusal::invalid("an algorithm that is not accepted"));
        }
        let (signed, kid) = (token.signed.as_bytes(), token.kid.as_deref());
        let judged =
            source.with(now, |keys| (keys.generation, keys.set.verify(kid, token.algorithm, signed, &token.signature)));
        let (generation, verdict) = judged.ok_or(Refusal::NoKeys)?;
        match verdict {
            Judged::Good => Ok(generation),
            Judged::Unknown => {
                source.want();
                Err(Refusal::NewKey { issuer: at, generation, detail: "a key that the issuer does not list" })
            }
            // Without a name, a new key cannot be told from a bad signature.
            Judged::Bad if kid.is_none() => {
                source.want();
                Err(Refusal::NewKey { issuer: at, generation, detail: "a bad signature" })
            }
            Judged::Bad => Err(Refusal::invalid("a bad signature")),
        }
    }
}

impl Provider {
    fn tell(&self, token: &Token<'_>, subject: Option<&str>) -> Told {
        let header = |(claim, name): &(String, HeaderName)| {
            let value = claims::find(&token.claims, claim).and_then(claims::header_value)?;
            Some((name.clone(), value))
        };
        // Subjects are unique to their issuer only (RFC 7519 §4.1.2).
        let credential = subject.map(|subject| format!("{} {subject}", self.source.issuer).into());
        Told {
            headers: self.forward_claims.iter().filter_map(header).collect(),
            identified: Identified { consumer: None, credential, anonymous: false },
        }
    }
}

/// Drops what a client says in our place. `_` counts as `-`, since many apps cannot tell them apart (CGI's rule, RFC 3875
/// §4.1.18).
fn drop_reserved(headers: &mut HeaderMap, reserved: &[HeaderName]) {
    for name in reserved {
        headers.remove(name);
    }
    if reserved.is_empty() || !headers.keys().any(|name| name.as_str().contains('_')) {
        return;
    }
    let same = |name: &HeaderName, reserved: &HeaderName| {
        let dashed = |byte: u8| if byte == b'_' { b'-' } else { byte };
        name.as_str().bytes().map(dashed).eq(reserved.as_str().bytes().map(dashed))
    };
    let claimed: SmallVec<[HeaderName; 4]> =
        headers.keys().filter(|name| reserved.iter().any(|reserved| same(name, reserved))).cloned().collect();
    for name in claimed {
        headers.remove(name);
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
